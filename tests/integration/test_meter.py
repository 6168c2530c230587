"""What a meter is told of requests: each one once, whatever became of it, whoever sent it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web

from sync.emulators.bace import BaceCloud, Behaviour, Fleet
from sync.emulators.beddit import BedditCloud, Study
from sync.errors import AddressRefused, AnswerTooLarge, ConnectionEnded, SourceUnavailable, SyncError
from sync.observe.metrics import Metrics
from sync.sources.bace.settings import Account as BaceAccount
from sync.sources.bace.settings import BaceSettings
from sync.sources.bace.source import BaceSource
from sync.sources.beddit.settings import Account, BedditSettings
from sync.sources.beddit.source import BedditSource
from sync.transport import AddressPolicy, HostGates, HttpClient, Limits, Request

QUICK = Limits(backoff_initial_s=0, backoff_max_s=0, attempts=3, requests_per_second=10_000)
SHORT = Limits(attempts=1, read_timeout_s=0.05)


@dataclass
class Told:
    """Remembers what a meter is told, without the seconds; these have to be possible ones."""

    events: list[tuple[Any, ...]] = field(default_factory=list)

    def answered(self, status: int, seconds: float) -> None:
        """An answer."""
        assert 0 <= seconds < 60
        self.events.append((status,))

    def unanswered(self, error: str, seconds: float) -> None:
        """None."""
        assert 0 <= seconds < 60
        self.events.append(("unanswered", error))

    def retried(self, reason: str) -> None:
        """Again."""
        self.events.append(("again", reason))

    def received(self, count: int) -> None:
        """Bytes."""
        self.events.append(("bytes", count))


@asynccontextmanager
async def host(*answers: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]) -> AsyncIterator[str]:
    """Give one answer after the other."""
    left = iter(answers)

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        return await next(left)(request)

    runner = web.ServerRunner(web.Server(answer, access_log=None), shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def says(status: int, body: bytes = b"", **headers: str) -> Callable[..., Awaitable[web.StreamResponse]]:
    """Answer with a status."""

    async def answer(_: web.BaseRequest) -> web.StreamResponse:
        return web.Response(status=status, body=body, headers=headers)

    return answer


async def hangs_up(request: web.BaseRequest) -> web.StreamResponse:
    """End the connection without a word."""
    assert request.transport
    request.transport.close()
    return web.Response()


async def is_silent(_: web.BaseRequest) -> web.StreamResponse:
    """Say nothing for a minute."""
    await asyncio.sleep(60)
    return web.Response()


async def get(client: HttpClient, url: str = "/") -> bytes:
    """Ask and read."""
    async with client.open(Request(url)) as response:
        return await response.read(1_000_000)


async def test_an_answer_and_its_bytes():
    """A request that is answered is told once, and every byte of the body that is read."""
    told = Told()
    async with host(says(200, b"12345")) as url, HttpClient(base_url=url, meter=told) as client:
        await get(client)
    assert told.events == [(200,), ("bytes", 5)]


async def test_each_attempt_is_told():
    """A retried request is two answers and the reason between them."""
    told = Told()
    async with (
        host(says(503), says(429), says(200, b"x")) as url,
        HttpClient(base_url=url, limits=QUICK, meter=told) as client,
    ):
        await get(client)
    again = [("again", "SourceUnavailable"), ("again", "RateLimited")]
    assert told.events == [(503,), again[0], (429,), again[1], (200,), ("bytes", 1)]


async def test_the_last_failure_is_no_retry():
    """When the attempts are used up, nothing is sent again, and nothing says so."""
    told = Told()
    async with (
        host(says(503), says(503)) as url,
        HttpClient(base_url=url, limits=Limits(attempts=2, backoff_initial_s=0), meter=told) as client,
    ):
        with pytest.raises(SourceUnavailable):
            await get(client)
    assert told.events == [(503,), ("again", "SourceUnavailable"), (503,)]


@pytest.mark.parametrize(
    ("trouble", "error"), [(hangs_up, ConnectionEnded), (is_silent, AnswerTooLarge)], ids=["ends", "silent"]
)
async def test_no_answer_is_told_with_its_kind(trouble, error):
    """A request without an answer is told by what it stands for."""
    told = Told()
    async with host(trouble) as url, HttpClient(base_url=url, limits=SHORT, meter=told) as client:
        with pytest.raises(error):
            await get(client)
    assert told.events == [("unanswered", error.__name__)]


async def test_an_unreachable_host_is_told():
    """A connection that was never made is a request without an answer."""
    told = Told()
    async with host() as url:
        pass
    async with HttpClient(base_url=url, limits=SHORT, meter=told) as client:
        with pytest.raises(SourceUnavailable):
            await get(client)
    assert told.events == [("unanswered", "SourceUnavailable")]


async def test_each_redirect_is_a_request():
    """What a redirect leads to is told as well."""
    told = Told()
    async with host(says(302, Location="/there"), says(200)) as url:
        policy = AddressPolicy(allow_private=True)
        async with HttpClient(base_url=None, policy=policy, meter=told) as client:
            await get(client, f"{url}/here")
    assert [event for event in told.events if event[0] != "bytes"] == [(302,), (200,)]


async def test_what_is_never_sent_is_not_told():
    """An address that our own policy refuses is no request."""
    told = Told()
    async with HttpClient(base_url=None, policy=AddressPolicy(allow_private=False), meter=told) as client:
        with pytest.raises(AddressRefused):
            await get(client, "https://127.0.0.1:9/x")
    assert told.events == []


def metered(metrics: Metrics, source: str) -> tuple[float, float]:
    """Return requests and bytes that were counted."""
    values = {
        name: sum(
            sample.value
            for sample in metric.collect()[0].samples
            if sample.labels["source"] == source and sample.name.endswith("_total")
        )
        for name, metric in (("requests", metrics._requests), ("bytes", metrics._bytes))
    }
    return values["requests"], values["bytes"]


async def test_beddits_requests_are_metered(tmp_path):
    """Those to the cloud and those to the hosts of raw signals count as what the account costs."""
    metrics = Metrics("1", ("beddit",))
    async with BedditCloud(Study(users=(1001,), nights=1)) as cloud, host(says(404)) as elsewhere:
        account = Account(1001, cloud.token(1001))
        settings = BedditSettings(cloud.base_url, {"alice": account}, tmp_path, allow_private_blob_hosts=True)
        source = BedditSource(settings, None, HostGates(), QUICK, meter=metrics.meter("beddit"))
        try:
            await source.probe("alice")
            with suppress(SyncError):
                await get(source._blob_http["alice"], f"{elsewhere}/blob")
            traffic = source.traffic("alice")
        finally:
            await source.aclose()
    assert traffic.requests == 2
    assert metered(metrics, "beddit") == (traffic.requests, traffic.received_bytes)


async def test_baces_requests_are_metered(tmp_path):
    """Those for tokens count, too."""
    metrics = Metrics("1", ("bace",))
    fleet = Fleet(sessions=2, first_start=1_696_118_400, hours=(0.1, 0.2))
    async with BaceCloud(fleet, behaviour=Behaviour()) as cloud:
        given = cloud.account()
        account = BaceAccount(given.client_id, given.client_secret, given.username, given.password)
        settings = BaceSettings(cloud.base_url, {"lab": account}, tmp_path / "tokens")
        source = BaceSource(settings, None, HostGates(), QUICK, meter=metrics.meter("bace"))
        try:
            await source.probe("lab")
            traffic = source.traffic("lab")
        finally:
            await source.aclose()
    assert traffic.requests >= 2
    assert traffic.received_bytes > 0
    assert metered(metrics, "bace") == (traffic.requests, traffic.received_bytes)
