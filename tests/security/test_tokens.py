"""Tokens go to the host that they belong to, whatever an answer says."""

from __future__ import annotations

from typing import Any

from sync.emulators.beddit import BedditCloud, Fault
from tests.integration.test_transport import answer, vendor

USER = 1001
SAMPLED = {"normal": {"samples_per_frame": 1, "data_type": "uint16"}}


async def test_links_of_another_host_are_not_followed(open_bace: Any, session: Any) -> None:
    """Where `_links` of every page name another host, all is read and that host is never asked."""
    sessions = [session(1_699_000_000 + 5_000 * n) for n in range(7)]
    async with vendor(answer()) as other:
        pipeline = await open_bace(sessions)
        pipeline.change(links_base=other.url, session_pages=2, session_pages_to=2)
        await pipeline.once()
        await pipeline.assert_sessions()
        await pipeline.assert_exact()
        assert other.connections == 0


async def test_a_redirect_of_the_token_endpoint_takes_no_secret_along(open_bace: Any, session: Any) -> None:
    """A token endpoint that redirects elsewhere gets an error; password and secret are not sent on."""
    async with vendor(answer()) as other:
        pipeline = await open_bace([session(1_699_000_000)])
        pipeline.cloud.fail_next(Fault(status=307, location=f"{other.url}/oauth2/token"), times=20)
        (outcome,) = await pipeline.run()
        assert outcome.error is not None
        assert other.connections == 0


async def test_a_signal_on_another_host_gets_no_token(open_beddit: Any, night: Any) -> None:
    """A `data_url` on a third host, and a redirect to a fourth, are fetched without any credential."""
    samples = bytes(200)
    async with vendor(answer(200, samples)) as last, vendor(answer(302, Location=f"{last.url}/b")) as first:
        pipeline = await open_beddit(None, tokens={USER: "sEcReTtOkEn"})
        described = {"normal": SAMPLED["normal"] | {"data_url": f"{first.url}/a?Signature=x"}}
        pipeline.cloud.put(USER, night(1_700_000_000.25, length=20.0, sampled_tracks=described))
        await pipeline.once()
        assert await pipeline.value("SELECT status FROM beddit.sampled_tracks") == "complete"
        sent = "".join([*first.seen, *last.seen])
        assert sent.count("GET ") == 2
        assert "sEcReTtOkEn" not in sent
        assert "authorization" not in sent.lower()
        assert "cookie" not in sent.lower()


async def test_a_signal_that_points_at_the_api_gets_no_token(open_beddit: Any, night: Any) -> None:
    """Even an address on the API's own host is asked bare: the blob's client has no token."""
    pipeline = await open_beddit(None, tokens={USER: "sEcReTtOkEn"})
    cloud: BedditCloud = pipeline.cloud
    described = {"normal": SAMPLED["normal"] | {"data_url": f"{cloud.base_url}/api/v1/user/{USER}/session"}}
    cloud.put(USER, night(1_700_000_000.25, length=20.0, sampled_tracks=described))
    await pipeline.once()
    assert await pipeline.value("SELECT status FROM beddit.sampled_tracks") == "unavailable"
    bare = [request for request in cloud.requests if "authorization" not in request.headers]
    assert bare
    assert all(request.status == 403 for request in bare)
