"""The emulated cloud keeps every documented rule, and breaks each one exactly when it is told to."""

import asyncio
import gzip
import json
import math
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from urllib.parse import parse_qs, urlsplit

import aiohttp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sync.emulators.beddit import (
    HTML_PAGE,
    MALFORMED_JSON,
    BedditCloud,
    Behaviour,
    BlobForm,
    Fault,
    Limit,
    Order,
    Overload,
    RangeBy,
    Study,
)

USER = 1001
STUDY = Study(seed=1, users=(USER, 1002), nights=2, hours=0.1)


class Clock:
    """A clock that a test moves."""

    def __init__(self):
        self.now = 1_700_000_000.5

    def __call__(self):
        """Tell the time."""
        return self.now


class Visitor:
    """A plain HTTP client that knows a cloud and a token."""

    def __init__(self, http, cloud):
        self.http, self.cloud = http, cloud

    async def get(self, path="session", *, user=USER, token=None, headers=None, **query):
        """Ask the API; the status, the decoded body and the headers come back."""
        if headers is None:
            headers = {"Authorization": f"UserToken {token or self.cloud.token(user)}"}
        url = (
            f"{self.cloud.base_url}/api/v1/user/{user}/{path}"
            if "/" not in path
            else self.cloud.base_url + path
        )
        async with self.http.get(url, params=query, headers=headers, allow_redirects=False) as response:
            body = await response.read()
            return response.status, body, response.headers

    async def sessions(self, **query):
        """The decoded sessions of a successful answer."""
        status, body, _ = await self.get(**query)
        assert status == 200, body
        return json.loads(body)

    async def ids(self, **query):
        """The ids in an answer, in its order."""
        return [session["id"] for session in await self.sessions(**query)]

    async def blob(self, url, headers=None):
        """Ask the object store, without decoding anything."""
        async with self.http.get(aiohttp.client.URL(url, encoded=True), headers=headers) as response:
            return response.status, await response.read(), response.headers


@pytest.fixture
def clock():
    """A clock that stands still."""
    return Clock()


@pytest.fixture
async def cloud(clock):
    """A running cloud with two short nights of two users."""
    async with BedditCloud(STUDY, clock=clock) as running:
        yield running


@pytest.fixture
async def visitor(cloud):
    """A client of that cloud."""
    async with aiohttp.ClientSession(auto_decompress=False) as http:
        yield Visitor(http, cloud)


def plain(session_id, *, length=100.0):
    """The smallest session."""
    return {
        "id": session_id,
        "start_timestamp": float(session_id),
        "end_timestamp": session_id + length,
        "time_value_tracks": {"heart_rate": {"value_data_type": "float32", "items": [[30, 60.5], [60, 61]]}},
    }


def only(cloud, *ids, length=100.0):
    """Let a user have exactly these sessions, put one second apart."""
    for record in cloud.records(USER):
        cloud.remove(USER, record.session_id)
    for position, session_id in enumerate(ids):
        cloud.put(USER, plain(session_id, length=length), updated=5000.0 + position)


# --- credentials ----------------------------------------------------------------------------------


async def test_a_token_opens_its_own_user(visitor, cloud):
    """The documented header gives the sessions, a bare array with a Date header from the server's clock."""
    status, body, headers = await visitor.get(updated_after="0")
    assert status == 200
    assert json.loads(body) == list(cloud_truth_with_addresses(json.loads(body), cloud))
    assert parsedate_to_datetime(headers["Date"]) == datetime.fromtimestamp(1_700_000_000, UTC)
    assert headers["Content-Type"] == "application/json"
    assert headers["Transfer-Encoding"] == "chunked"


def cloud_truth_with_addresses(answered, cloud):
    """What should have been answered: the truth, with the addresses that were given."""
    truth = cloud.truth(USER)
    for session in answered:
        expected = truth[session["id"]]
        for name, track in expected["sampled_tracks"].items():
            track["data_url"] = session["sampled_tracks"][name]["data_url"]
        yield expected


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "UserToken wrong"},
        {"Authorization": "Bearer {token}"},
        {"Authorization": "user {token}"},
    ],
)
async def test_missing_wrong_or_misnamed_credentials_are_forbidden(visitor, cloud, headers):
    """There is no 401: whatever is wrong with a credential is 403 forbidden."""
    headers = {name: value.format(token=cloud.token(USER)) for name, value in headers.items()}
    status, body, _ = await visitor.get(headers=headers, updated_after="0")
    assert (status, json.loads(body)["error"]) == (403, "forbidden")
    assert set(json.loads(body)) == {"error", "description"}


async def test_tokens_expire_by_the_servers_clock(visitor, cloud, clock):
    """A token works until its instant and not from then on."""
    cloud.set_token(USER, "short", expires_at=clock.now + 10)
    assert (await visitor.get(token="short", updated_after="0"))[0] == 200
    clock.now += 10
    assert (await visitor.get(token="short", updated_after="0"))[0] == 403


async def test_a_replaced_or_revoked_token_is_forbidden(visitor, cloud):
    """A user has one token; a new one ends the old one, and revoking ends all."""
    old = cloud.token(USER)
    cloud.set_token(USER, "fresh")
    assert (await visitor.get(token=old, updated_after="0"))[0] == 403
    assert (await visitor.get(token="fresh", updated_after="0"))[0] == 200
    cloud.revoke(USER)
    assert (await visitor.get(token="fresh", updated_after="0"))[0] == 403


async def test_another_users_sessions_are_forbidden_unless_in_a_group(visitor, cloud):
    """A token of one user does not read another one, except where group access is switched on."""
    assert (await visitor.get(token=cloud.token(1002), updated_after="0"))[0] == 403
    cloud.behaviour = Behaviour(group_access=True)
    assert (await visitor.get(token=cloud.token(1002), updated_after="0"))[0] == 200


async def test_token_info_names_the_user(visitor, cloud):
    """A token alone is enough to learn whose it is."""
    status, body, _ = await visitor.get("/api/v1/auth/token_info")
    assert (status, json.loads(body)) == (200, {"user": USER, "token_type": "user"})
    assert (await visitor.get("/api/v1/auth/token_info", headers={}))[0] == 403


async def test_a_password_buys_a_token(visitor, cloud):
    """The password grant answers user, token and the type ``user``; wrong passwords are a 400."""
    cloud.set_password(USER, "a@example.org", "secret")
    url = f"{cloud.base_url}/api/v1/auth/authorize"
    form = {"grant_type": "password", "username": "a@example.org", "password": "secret"}
    async with visitor.http.post(url, data=form) as response:
        granted = await response.json()
    assert (granted["user"], granted["token_type"]) == (USER, "user")
    assert granted["access_token"].isalnum()
    assert len(granted["access_token"]) <= 32
    assert (await visitor.get(token=granted["access_token"], updated_after="0"))[0] == 200
    async with visitor.http.post(url, data={**form, "password": "guess"}) as response:
        assert (response.status, (await response.json())["error"]) == (400, "invalid_credentials")
    async with visitor.http.post(url, data={**form, "grant_type": "refresh_token"}) as response:
        assert (response.status, (await response.json())["error"]) == (400, "bad_request")


@pytest.mark.parametrize(
    "path", ["/api/v1/user/abc/session", "/api/v2/user/1001/session", "/", "/api/v1/user/1001/session/"]
)
async def test_other_paths_are_not_found(visitor, path):
    """What is not documented does not exist, in the documented error form."""
    status, body, _ = await visitor.get(path)
    assert (status, json.loads(body)["error"]) == (404, "not_found")


# --- queries --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "query",
    [
        {},
        {"limit": "5"},
        {"start_timestamp": "1"},
        {"end_timestamp": "1"},
        {"updated_after": "0", "start_timestamp": "1", "end_timestamp": "2"},
        {"updated_after": "yesterday"},
        {"updated_after": "nan"},
        {"updated_after": "1e999"},
        {"updated_after": "0", "limit": "0"},
        {"updated_after": "0", "limit": "many"},
    ],
)
async def test_a_query_has_one_of_two_forms(visitor, query):
    """Neither or half of the two documented forms, or nonsense in them, is a 400 bad_request."""
    status, body, _ = await visitor.get(**query)
    assert (status, json.loads(body)["error"]) == (400, "bad_request")


@pytest.mark.parametrize("literal", ["5000.5", "5.0005E3", "50005e-1", "+5000.50", "5000.500000"])
async def test_any_float_literal_is_a_time(visitor, cloud, literal):
    """Scientific notation, as a Java double prints it, is a number too."""
    only(cloud, 100, 200)
    assert await visitor.ids(updated_after=literal) == [200]


async def test_updated_after_is_strict_unless_switched(visitor, cloud):
    """A session put exactly at the bound is left out, or included by the switch."""
    only(cloud, 100, 200)
    assert await visitor.ids(updated_after="5000") == [200]
    cloud.behaviour = Behaviour(inclusive_updated_after=True)
    assert await visitor.ids(updated_after="5000") == [100, 200]


async def test_orders(visitor, cloud):
    """Answers are in the order of puts, of starts, or in none."""
    only(cloud, *range(900, 880, -1))
    by_put = list(range(900, 880, -1))
    assert await visitor.ids(updated_after="0") == by_put
    assert await visitor.ids(start_timestamp="0", end_timestamp="1000") == by_put[::-1]
    cloud.behaviour = Behaviour(order=Order.START, range_order=Order.UPDATED)
    assert await visitor.ids(updated_after="0") == by_put[::-1]
    assert await visitor.ids(start_timestamp="0", end_timestamp="1000") == by_put
    cloud.behaviour = Behaviour(order=Order.SHUFFLED)
    shuffled = await visitor.ids(updated_after="0")
    assert shuffled not in (by_put, by_put[::-1])
    assert sorted(shuffled) == sorted(by_put)


@pytest.mark.parametrize(
    ("behaviour", "query", "count"),
    [
        (Behaviour(), {"limit": "2"}, 2),
        (Behaviour(limit=Limit.IGNORED), {"limit": "2"}, 5),
        (Behaviour(limit_ceiling=3), {"limit": "4"}, 3),
        (Behaviour(limit_ceiling=3), {}, 5),
        (Behaviour(answer_ceiling=1), {"limit": "4"}, 1),
        (Behaviour(answer_ceiling=1), {}, 1),
        (Behaviour(answer_ceiling=1, limit=Limit.IGNORED), {"limit": "4"}, 1),
    ],
)
async def test_limit_does_what_its_switches_say(visitor, cloud, behaviour, query, count):
    """``limit`` is honoured, ignored, or lowered without a word."""
    only(cloud, 1, 2, 3, 4, 5)
    cloud.behaviour = behaviour
    assert await visitor.ids(updated_after="0", **query) == [1, 2, 3, 4, 5][:count]


async def test_limit_may_be_refused(visitor, cloud):
    """A service that does not know ``limit`` answers 400."""
    cloud.behaviour = Behaviour(limit=Limit.REFUSED)
    assert (await visitor.get(updated_after="0", limit="1"))[0] == 400
    assert (await visitor.get(updated_after="0"))[0] == 200


@pytest.mark.parametrize(
    ("range_by", "expected"),
    [
        (RangeBy.START, [1000, 1050, 1100]),
        (RangeBy.END, [900, 950, 1000]),
        (RangeBy.OVERLAP, [900, 950, 1000, 1050, 1100]),
        (RangeBy.CONTAINMENT, [1000]),
    ],
)
async def test_what_a_range_means(visitor, cloud, range_by, expected):
    """Sessions of 100 s belong to [1000, 1100] by start, by end, by touching it, or by lying in it."""
    only(cloud, *range(850, 1200, 50))
    cloud.behaviour = Behaviour(range_by=range_by)
    assert await visitor.ids(start_timestamp="1000", end_timestamp="1100") == expected


async def test_ends_of_a_range_may_be_open(visitor, cloud):
    """Each end of a range is closed unless it is switched."""
    only(cloud, 1000, 1050, 1100)
    query = {"start_timestamp": "1000", "end_timestamp": "1.1e3"}
    assert await visitor.ids(**query) == [1000, 1050, 1100]
    cloud.behaviour = Behaviour(range_includes_start=False)
    assert await visitor.ids(**query) == [1050, 1100]
    cloud.behaviour = Behaviour(range_includes_end=False)
    assert await visitor.ids(**query) == [1000, 1050]


instants = st.integers(0, 20).map(float)


@given(st.tuples(instants, instants, instants, instants), st.booleans(), st.booleans())
def test_ranges_nest(times, closed_start, closed_end):
    """What is contained in a range also starts and ends in it, and what starts or ends in it touches it."""
    start, length, first, width = times
    end, last = start + length, first + width

    def accepted(range_by):
        behaviour = Behaviour(
            range_by=range_by, range_includes_start=closed_start, range_includes_end=closed_end
        )
        return behaviour.accepts_range(start, end, first, last)

    contained = accepted(RangeBy.CONTAINMENT)
    if contained and width:
        assert accepted(RangeBy.OVERLAP)
    assert not accepted(RangeBy.START) or accepted(RangeBy.OVERLAP) or end == first
    if contained and closed_start and closed_end:
        assert accepted(RangeBy.START)
        assert accepted(RangeBy.END)


async def test_parameters_may_be_left_out_if_switched(visitor, cloud):
    """Like the sleep resource, the service may answer everything to a request without parameters."""
    cloud.behaviour = Behaviour(parameters_required=False)
    assert len(await visitor.ids()) == 2
    assert (await visitor.get(start_timestamp="1"))[0] == 400


# --- changes while it runs ------------------------------------------------------------------------


async def test_a_put_is_stamped_and_replaces(visitor, cloud, clock):
    """The server stamps a put from its clock, whatever the app says; the same id replaces."""
    only(cloud)
    assert cloud.put(USER, {**plain(100), "updated": 1.0}) == clock.now
    clock.now += 1
    cloud.put(USER, {**plain(100), "error_code": 7})
    (session,) = await visitor.sessions(updated_after="0")
    assert (session["updated"], session["error_code"]) == (clock.now, 7)
    cloud.remove(USER, 100)
    assert await visitor.ids(updated_after="0") == []
    assert cloud.truth(USER) == {}


async def test_many_sessions_may_share_one_stamp(visitor, cloud):
    """A bulk put gives a page of one identical ``updated``."""
    only(cloud)
    for session_id in range(10):
        cloud.put(USER, plain(session_id), updated=77.0)
    assert len(await visitor.ids(updated_after="76.9")) == 10
    assert await visitor.ids(updated_after="77") == []


async def test_a_listener_changes_the_cloud_between_requests(visitor, cloud):
    """The hook runs before the answer is chosen, so a put in it is part of the answer."""
    only(cloud, 1)

    async def put_again(request):
        cloud.put(USER, plain(len(cloud.requests) + 1), updated=9000.0)

    cloud.on_request = put_again
    assert await visitor.ids(updated_after="0") == [1, 2]
    assert await visitor.ids(updated_after="0") == [1, 2, 3]


async def test_raw_text_is_answered_byte_for_byte(visitor, cloud):
    """Any text goes into the array as it is; what cannot be read of it hides it from no range."""
    only(cloud, 100)
    odd = b'{"id":  "x", "time_value_tracks": {"heart_rate": null}, "v": 1.0000000000000000001}'
    cloud.put_raw(USER, odd, updated=6000.0)
    _, body, _ = await visitor.get(start_timestamp="0", end_timestamp="1")
    assert body == b"[" + odd + b"]"
    _, body, _ = await visitor.get(updated_after="5999")
    assert body == b"[" + odd + b"]"
    cloud.put_raw(USER, b'{"id": 100, "start_timestamp": 100, "updated": 7000}')
    assert await visitor.ids(updated_after="6000") == [100]
    assert cloud.truth(USER) == {100: {"id": 100, "start_timestamp": 100, "updated": 7000}}


@pytest.mark.parametrize(
    "sampled", [None, [], "gone", {}, {"normal": None}, {"normal": {"data_url": "http://x/"}}]
)
async def test_a_session_is_served_as_it_was_put(visitor, cloud, sampled):
    """Odd sampled tracks, and addresses that were put, are not touched."""
    only(cloud)
    session = {**plain(100), "sampled_tracks": sampled}
    stamp = cloud.put(USER, session)
    assert await visitor.sessions(updated_after="0") == [{**session, "updated": stamp}]


async def test_requests_are_recorded(visitor, cloud):
    """Every request is kept with what was asked, how, and what was answered."""
    await visitor.get(updated_after="1.5")
    await visitor.get(headers={}, updated_after="2")
    first, second = cloud.requests_to("api")
    assert (first.method, first.path, first.status) == ("GET", f"/api/v1/user/{USER}/session", 200)
    assert first.query == {"updated_after": "1.5"}
    assert first.headers["authorization"] == f"UserToken {cloud.token(USER)}"
    assert (second.status, "authorization" in second.headers) == (403, False)
    cloud.forget_requests()
    assert cloud.requests == ()


# --- switches -------------------------------------------------------------------------------------


async def test_absolute_times(visitor, cloud):
    """Track times may be Unix seconds, as the document's words say; the truth stays relative."""
    only(cloud, 1_500_000_000)
    cloud.behaviour = Behaviour(absolute_times=True)
    (session,) = await visitor.sessions(updated_after="0")
    assert session["time_value_tracks"]["heart_rate"]["items"] == [[1_500_000_030, 60.5], [1_500_000_060, 61]]
    assert cloud.truth(USER)[1_500_000_000]["time_value_tracks"]["heart_rate"]["items"][0][0] == 30


async def test_non_finite_values(visitor, cloud):
    """A Python encoder's NaN, Infinity and -Infinity appear in the tracks."""
    cloud.behaviour = Behaviour(non_finite=True)
    only(cloud)
    items = [[float(second), 1.5] for second in range(300)]
    cloud.put(USER, {**plain(1), "time_value_tracks": {"x": {"items": items}}})
    _, body, _ = await visitor.get(updated_after="0")
    assert all(word in body for word in (b" NaN]", b" Infinity]", b" -Infinity]"))
    answered = json.loads(body)[0]["time_value_tracks"]["x"]["items"]
    assert sum(not math.isfinite(value) for _, value in answered) == 3


async def test_gzip_is_given_to_those_who_ask(visitor, cloud):
    """With the switch, an answer is compressed if the request accepts it, and only then."""
    cloud.behaviour = Behaviour(gzip=True, data_urls=False)
    token = {"Authorization": f"UserToken {cloud.token(USER)}"}
    _, packed, headers = await visitor.get(headers={**token, "Accept-Encoding": "gzip"}, updated_after="0")
    _, unpacked, bare = await visitor.get(headers={**token, "Accept-Encoding": "identity"}, updated_after="0")
    assert (headers["Content-Encoding"], bare.get("Content-Encoding")) == ("gzip", None)
    assert gzip.decompress(packed) == unpacked


async def test_a_withdrawn_version(visitor, cloud):
    """A withdrawn API answers 410 unsupported_api_version to everything."""
    cloud.behaviour = Behaviour(withdrawn=True)
    status, body, _ = await visitor.get(updated_after="0")
    assert (status, json.loads(body)["error"]) == (410, "unsupported_api_version")


@pytest.mark.parametrize(
    ("overload", "status"), [(Overload.GATEWAY_TIMEOUT, 504), (Overload.BAD_GATEWAY, 502)]
)
async def test_an_answer_that_is_too_big_is_given_up(visitor, cloud, overload, status):
    """Above its size the service fails; a smaller question succeeds."""
    only(cloud, 1, 2, 3)
    cloud.behaviour = Behaviour(overload_above=2, overload_seconds=0, overload=overload)
    assert (await visitor.get(updated_after="0"))[0] == status
    assert await visitor.ids(updated_after="0", limit="2") == [1, 2]


async def test_an_answer_that_is_too_big_may_cut_the_connection(visitor, cloud):
    """The service may also hang up instead of answering."""
    cloud.behaviour = Behaviour(overload_above=1, overload_seconds=0, overload=Overload.CUT)
    with pytest.raises(aiohttp.ServerDisconnectedError):
        await visitor.get(updated_after="0")
    assert cloud.requests[-1].status is None


# --- the object store -----------------------------------------------------------------------------


async def addresses(visitor):
    """The addresses of the first session's tracks."""
    session = (await visitor.sessions(updated_after="0"))[0]
    return session["id"], {name: track["data_url"] for name, track in session["sampled_tracks"].items()}


async def test_a_signed_address_gives_the_samples_without_a_token(visitor, cloud):
    """The samples live on another host, which needs no token and announces their length."""
    session_id, urls = await addresses(visitor)
    status, body, headers = await visitor.blob(urls["normal"])
    night = STUDY.night(USER, 0)
    assert (status, session_id) == (200, night.session_id)
    assert body == night.blob("normal") == cloud.blob(USER, session_id, "normal")
    assert int(headers["Content-Length"]) == night.frames * 28 * 2
    assert urlsplit(urls["normal"]).netloc != urlsplit(cloud.base_url).netloc
    assert [("authorization" in r.headers, r.status) for r in cloud.requests_to("blob")] == [(False, 200)]
    assert np.frombuffer((await visitor.blob(urls["noise"]))[1], "<f4").size == night.frames * 2


async def test_an_address_expires(visitor, cloud, clock):
    """After its life an address answers 403 in XML; a fresh listing gives a good one."""
    cloud.behaviour = Behaviour(url_lifetime=60)
    _, urls = await addresses(visitor)
    clock.now += 61
    status, body, headers = await visitor.blob(urls["noise"])
    assert (status, headers["Content-Type"]) == (403, "application/xml")
    assert b"<Code>AccessDenied</Code>" in body
    _, fresh = await addresses(visitor)
    assert (await visitor.blob(fresh["noise"]))[0] == 200


async def test_a_changed_address_is_refused(visitor):
    """Neither another expiry, nor another track, nor another signature passes."""
    _, urls = await addresses(visitor)
    parts = parse_qs(urlsplit(urls["noise"]).query)
    for changed in (
        urls["noise"].replace(parts["Expires"][0], "9999999999"),
        urls["noise"].replace("/noise?", "/normal?"),
        urls["noise"].replace("Signature=", "Signature=A"),
        urls["noise"].split("?")[0],
    ):
        status, body, _ = await visitor.blob(changed)
        assert (status, b"SignatureDoesNotMatch" in body) == (403, True)


async def test_a_token_sent_to_the_object_store_is_seen_and_refused(visitor, cloud):
    """Two ways to be authorised at once are a 400, and the log shows what leaked."""
    _, urls = await addresses(visitor)
    status, _, _ = await visitor.blob(urls["noise"], {"Authorization": "UserToken leaked"})
    assert status == 400
    assert cloud.requests_to("blob")[-1].headers["authorization"] == "UserToken leaked"
    cloud.behaviour = Behaviour(one_authorization=False)
    assert (await visitor.blob(urls["noise"], {"Authorization": "UserToken leaked"}))[0] == 200


async def test_samples_come_and_go(visitor, cloud):
    """Samples can be given to a track, and taken away under an address that is still good."""
    session_id, urls = await addresses(visitor)
    cloud.set_blob(USER, session_id, "noise", b"\x00\x00\x80\x3f")
    assert (await visitor.blob(urls["noise"]))[1] == b"\x00\x00\x80\x3f"
    cloud.remove_blob(USER, session_id, "noise")
    status, body, _ = await visitor.blob(urls["noise"])
    assert (status, b"NoSuchKey" in body) == (404, True)
    assert "noise" in (await addresses(visitor))[1]


async def test_tracks_may_come_without_addresses(visitor, cloud):
    """``data_url`` is optional, and so are samples of a declared track."""
    cloud.behaviour = Behaviour(data_urls=False)
    session = (await visitor.sessions(updated_after="0"))[0]
    assert session["sampled_tracks"]["normal"] == {"samples_per_frame": 28, "data_type": "uint16"}
    cloud.behaviour = Behaviour()
    only(cloud)
    cloud.put(USER, {**plain(7), "sampled_tracks": {"normal": {"samples_per_frame": 28}}})
    assert (await visitor.sessions(updated_after="0"))[0]["sampled_tracks"] == {
        "normal": {"samples_per_frame": 28}
    }


@pytest.mark.parametrize(
    ("form", "check"),
    [
        (BlobForm.HALF, lambda sent, true: sent == true[: len(sent)] and len(sent) == len(true) // 4 * 2),
        (BlobForm.DOUBLED, lambda sent, true: sent == true * 2),
        (BlobForm.ODD, lambda sent, true: sent == true[:-1]),
        (BlobForm.EMPTY, lambda sent, _: sent == b""),
        (BlobForm.GZIP, lambda sent, true: gzip.decompress(sent) == true),
        (BlobForm.GZIP_UNLABELLED, lambda sent, true: gzip.decompress(sent) == true),
    ],
)
async def test_blobs_may_be_wrong(visitor, cloud, form, check: Callable[[bytes, bytes], bool]):
    """Each wrong form of a blob is a complete HTTP answer."""
    cloud.behaviour = Behaviour(blob_form=form)
    session_id, urls = await addresses(visitor)
    status, body, headers = await visitor.blob(urls["noise"])
    assert status == 200
    assert check(body, cloud.blob(USER, session_id, "noise"))
    assert headers.get("Content-Encoding") == ("gzip" if form is BlobForm.GZIP else None)


# --- faults ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("retry_after", "header"),
    [
        (None, None),
        (7, "7"),
        (0.5, "0.5"),
        ("soon", "soon"),
        (datetime(2024, 1, 1, tzinfo=UTC), "Mon, 01 Jan 2024 00:00:00 GMT"),
    ],
)
async def test_scripted_statuses_end_by_themselves(visitor, cloud, retry_after, header):
    """The next answers fail as scripted, with or without Retry-After, and then the truth is back."""
    cloud.fail_next(Fault(status=503, retry_after=retry_after), times=2)
    for _ in range(2):
        status, body, headers = await visitor.get(updated_after="0")
        assert (status, headers.get("Retry-After")) == (503, header)
        assert json.loads(body)["error"] == "service_unavailable"
    assert (await visitor.get(updated_after="0"))[0] == 200
    assert [request.status for request in cloud.requests] == [503, 503, 200]


async def test_faults_wait_for_the_answers_that_they_concern(visitor, cloud):
    """A fault for one host or path leaves all others alone."""
    cloud.fail_next(Fault(status=500), host="blob", path="/normal")
    cloud.fail_next(Fault(status=502), path="token_info")
    _, urls = await addresses(visitor)
    assert (await visitor.blob(urls["noise"]))[0] == 200
    assert (await visitor.blob(urls["normal"]))[0] == 500
    assert (await visitor.blob(urls["normal"]))[0] == 200
    assert len(cloud.faults) == 1
    cloud.faults.clear()
    assert (await visitor.get("/api/v1/auth/token_info"))[0] == 200


async def test_a_body_may_be_cut(visitor, cloud):
    """After so many bytes the connection closes, on both hosts, and the client can tell."""
    _, urls = await addresses(visitor)
    for host, ask in (("api", visitor.get(updated_after="0")), ("blob", visitor.blob(urls["noise"]))):
        cloud.fail_next(Fault(cut_after=1000), host=host)
        with pytest.raises(aiohttp.ClientPayloadError):
            await ask


async def test_a_cut_body_arrives_up_to_the_cut(visitor, cloud):
    """Exactly the bytes before the cut are sent."""
    cloud.behaviour = Behaviour(data_urls=False)
    _, whole, _ = await visitor.get(updated_after="0")
    cloud.fail_next(Fault(cut_after=777))
    head = {"Authorization": f"UserToken {cloud.token(USER)}"}
    url = f"{cloud.base_url}/api/v1/user/{USER}/session?updated_after=0"
    received = b""
    async with visitor.http.get(url, headers=head) as response:
        try:
            async for piece in response.content.iter_any():
                received += piece
        except aiohttp.ClientPayloadError:
            received += b"|"
    assert received == whole[:777] + b"|"


async def test_a_connection_may_be_reset(visitor, cloud):
    """The client sees a reset instead of an answer."""
    cloud.fail_next(Fault(reset=True), times=2)  # aiohttp asks a second time by itself
    with pytest.raises((aiohttp.ServerDisconnectedError, aiohttp.ClientOSError)):
        await visitor.get(updated_after="0")
    assert cloud.requests[-1].status is None


async def test_bodies_that_are_no_sessions(visitor, cloud):
    """Malformed JSON and somebody's login page arrive as complete, successful answers."""
    cloud.fail_next(MALFORMED_JSON)
    status, body, headers = await visitor.get(updated_after="0")
    assert (status, headers["Content-Type"]) == (200, "application/json")
    with pytest.raises(json.JSONDecodeError):
        json.loads(body)
    cloud.fail_next(HTML_PAGE)
    status, body, headers = await visitor.get(updated_after="0")
    assert (status, headers["Content-Type"], body[:9]) == (200, "text/html", b"<!DOCTYPE")


async def test_a_wrong_content_type_spoils_nothing_else(visitor, cloud):
    """The true body may be called something else."""
    cloud.behaviour = Behaviour(data_urls=False)
    _, true, _ = await visitor.get(updated_after="0")
    cloud.fail_next(Fault(content_type="text/plain"))
    _, body, headers = await visitor.get(updated_after="0")
    assert (headers["Content-Type"], body) == ("text/plain", true)


async def test_a_redirect(visitor, cloud):
    """An answer may point somewhere else, with any redirecting status."""
    cloud.fail_next(Fault(location="http://169.254.169.254/"))
    cloud.fail_next(Fault(location="http://[::1]/", status=307))
    status, _, headers = await visitor.get(updated_after="0")
    assert (status, headers["Location"]) == (302, "http://169.254.169.254/")
    assert (await visitor.get(updated_after="0"))[0] == 307


async def test_a_skewed_date(visitor, cloud):
    """The Date header may disagree with the service's clock."""
    cloud.fail_next(Fault(clock_skew=-86_400))
    _, _, skewed = await visitor.get(updated_after="0")
    _, _, right = await visitor.get(updated_after="0")
    difference = parsedate_to_datetime(right["Date"]) - parsedate_to_datetime(skewed["Date"])
    assert difference.total_seconds() == 86_400


async def test_a_slow_drip_is_still_the_whole_truth(visitor, cloud):
    """A dripping answer arrives in small pieces and complete."""
    cloud.behaviour = Behaviour(data_urls=False)
    _, true, _ = await visitor.get(updated_after="0")
    cloud.fail_next(Fault(drip=0.0, drip_bytes=100))
    assert (await visitor.get(updated_after="0"))[1] == true


async def arrived_now(event):
    """Tell a test that its request arrived."""
    event.set()


async def test_a_stalled_answer_does_not_hold_up_the_end(clock):
    """A cloud can be closed while an answer is stalled, and the client that waits is told so."""
    async with aiohttp.ClientSession() as http:
        async with BedditCloud(STUDY, clock=clock) as cloud:
            arrived = asyncio.Event()
            cloud.on_request = lambda _: arrived_now(arrived)
            cloud.fail_next(Fault(stall=3600))
            waiting = asyncio.create_task(Visitor(http, cloud).get(updated_after="0"))
            await arrived.wait()
        with pytest.raises(aiohttp.ClientError):
            await waiting


def test_behaviour_is_a_value():
    """A behaviour is frozen and made from another one by replacing switches."""
    behaviour = replace(Behaviour(), absolute_times=True)
    with pytest.raises(AttributeError):
        behaviour.absolute_times = False
