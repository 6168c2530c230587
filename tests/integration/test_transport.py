"""The transport room against real sockets: small scripted servers on loopback."""

import asyncio
import gzip
import json
import re
import ssl
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest
import stamina
from structlog.testing import capture_logs

from sync.errors import (
    AddressRefused,
    AnswerTooLarge,
    AuthenticationError,
    ConfigurationError,
    ConnectionEnded,
    RateLimited,
    RequestRefused,
    SourceContractError,
    SourceUnavailable,
)
from sync.model import Traffic
from sync.transport import AddressPolicy, Clock, FixedToken, HostGates, HttpClient, Limits, Request

# --- a vendor that follows a script ---------------------------------------------------------------

Answer = bytes | Callable[[asyncio.StreamWriter], Awaitable[None]]

DATE = "Sun, 01 Mar 2026 12:00:00 GMT"


@dataclass
class Vendor:
    """A server on loopback and what it was asked."""

    port: int
    scheme: str = "http"
    seen: list[str] = field(default_factory=list)
    connections: int = 0

    @property
    def url(self) -> str:
        """Its address."""
        return f"{self.scheme}://127.0.0.1:{self.port}"


@asynccontextmanager
async def vendor(*answers: Answer, tls: ssl.SSLContext | None = None) -> AsyncIterator[Vendor]:
    """Give one answer after the other, the last one again and again."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        this.connections += 1
        try:
            while True:
                this.seen.append(await one_request(reader))
                answer = answers[min(len(this.seen), len(answers)) - 1]
                if isinstance(answer, bytes):
                    writer.write(answer)
                    await writer.drain()
                else:
                    await answer(writer)
        except (asyncio.IncompleteReadError, OSError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    this = Vendor(server.sockets[0].getsockname()[1], "https" if tls else "http")
    try:
        yield this
    finally:
        server.close()


async def one_request(reader: asyncio.StreamReader) -> str:
    """Read a whole request, body included."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    length = re.search(r"content-length: (\d+)", head, re.IGNORECASE)
    return head + (await reader.readexactly(int(length[1]) if length else 0)).decode()


def answer(status: int = 200, body: bytes = b"", **headers: str) -> bytes:
    """Spell an answer."""
    lines = [f"HTTP/1.1 {status} Whatever", f"Content-Length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {text}" for name, text in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def problem(status: int, **payload: str) -> bytes:
    """Spell an error with a JSON body."""
    return answer(status, json.dumps(payload).encode(), Content_Type="application/json")


def cut(data: bytes) -> Answer:
    """Send that much, then end the connection."""

    async def script(writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        await writer.drain()
        writer.close()

    return script


def stall(data: bytes) -> Answer:
    """Send that much, then nothing more."""

    async def script(writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        await writer.drain()
        await asyncio.sleep(60)

    return script


async def drip(writer: asyncio.StreamWriter) -> None:
    """Send a byte now and then, for ever."""
    writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        writer.write(b"1\r\nx\r\n")
        await writer.drain()
        await asyncio.sleep(0.01)


QUICK = Limits(backoff_initial_s=0, backoff_max_s=0, attempts=3, requests_per_second=10_000)


def client(to: Vendor, limits: Limits = QUICK, **more) -> HttpClient:
    """Make an account's client."""
    return HttpClient(base_url=to.url, limits=limits, **more)


def blobs(allow_private: bool = True, limits: Limits = QUICK, **more) -> HttpClient:
    """Make a client for addresses that a vendor handed out."""
    policy = AddressPolicy(allow_private=allow_private, setting="beddit.allow_private_blob_hosts")
    return HttpClient(base_url=None, policy=policy, limits=limits, **more)


async def get(through: HttpClient, url: str = "/things", **more) -> bytes:
    """Ask and read."""
    async with through.open(Request(url, **more)) as response:
        return await response.read(10_000_000)


# --- asking and answering -------------------------------------------------------------------------


async def test_an_answer_arrives_with_its_facts():
    """Status, headers, media type, the vendor's clock and lengths are there before the body is read."""
    body = b'{"a": 1}'
    given = answer(200, body, Content_Type="Application/JSON; charset=utf-8", Date=DATE, X_Total="7")
    async with vendor(given) as v, client(v) as c, c.open(Request("/things")) as response:
        assert (response.status, response.content_type) == (200, "application/json")
        assert response.server_time == datetime(2026, 3, 1, 12, tzinfo=UTC)
        assert (response.content_length, response.headers["x-total"]) == (len(body), "7")
        assert await response.read(100) == body
        assert response.received_bytes == len(body)


async def test_a_request_says_what_it_was_told_to_say():
    """Parameters, headers, token and introduction are sent; gzip is asked for."""
    token = FixedToken("UserToken", "geheim")
    async with vendor(answer()) as v, client(v, credentials=token, user_agent="nightshift/1") as c:
        await get(c, params={"limit": "5", "filter[x]": "a b"}, headers={"X-Mine": "1"})
    head = v.seen[0]
    assert head.startswith("GET /things?limit=5&filter%5Bx%5D=a+b HTTP/1.1\r\n")
    for line in ("Authorization: UserToken geheim", "User-Agent: nightshift/1", "X-Mine: 1"):
        assert line in head
    assert "Accept-Encoding: gzip\r\n" in head


async def test_forms_and_json_are_sent():
    """A form goes out url-encoded, a JSON body as JSON, with the method that was asked for."""
    async with vendor(answer()) as v, client(v) as c:
        await get(c, method="POST", form={"grant_type": "password", "username": "a&b"})
        await get(c, method="GET", json={"filter": {"x": 1}})
    assert v.seen[0].startswith("POST ")
    assert v.seen[0].endswith("grant_type=password&username=a%26b")
    assert v.seen[1].endswith('{"filter": {"x": 1}}')


async def test_a_head_request_has_no_body_to_wait_for():
    """HEAD gives headers, and an announced length is no promise of bytes."""
    reply = b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\nContent-Encoding: gzip\r\nX-Total: 7\r\n\r\n"
    async with vendor(reply) as v, client(v) as c, c.open(Request("/x", method="HEAD")) as response:
        assert response.headers["X-Total"] == "7"
        assert await response.read(1000) == b""


async def test_connections_are_reused_and_cookies_are_not_kept():
    """A second request travels on the first one's connection and returns no cookie."""
    async with vendor(answer(200, b"x", Set_Cookie="id=1")) as v, client(v) as c:
        await get(c)
        await get(c)
    assert v.connections == 1
    assert not any("cookie" in head.lower() for head in v.seen)


async def test_the_environment_is_not_asked(monkeypatch, tmp_path):
    """Proxies and .netrc have no say in where requests go and what they carry."""
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login alice password geheim")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    async with vendor(answer(200, b"direct")) as v, client(v) as c:
        assert await get(c) == b"direct"
    assert "authorization" not in v.seen[0].lower()


# --- trouble and patience -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "trouble",
    [
        answer(500),
        answer(503),
        answer(429),
        answer(502),
        answer(408),
        cut(b""),
        cut(b"HTTP/1.1 20"),
        b"no HTTP\r\n\r\n",
    ],
    ids=["500", "503", "429", "502", "408", "closed", "cut", "garbage"],
)
async def test_passing_trouble_is_waited_out(trouble):
    """A server error, a limit or a broken connection is tried again, and each attempt is counted."""
    async with vendor(trouble, trouble, answer(200, b"done")) as v, client(v) as c:
        assert await get(c) == b"done"
        assert c.traffic.requests == len(v.seen) == 3


@pytest.mark.parametrize(
    ("trouble", "error"),
    [
        (answer(500), SourceUnavailable),
        (answer(429), RateLimited),
        (answer(504), AnswerTooLarge),
        (cut(b""), ConnectionEnded),
    ],
)
async def test_patience_ends(trouble, error):
    """After the configured attempts the error is raised, and nothing was sent behind our back."""
    async with vendor(trouble) as v, client(v) as c:
        with pytest.raises(error) as caught:
            await get(c)
        assert type(caught.value) is error
        assert len(v.seen) == c.traffic.requests == QUICK.attempts


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, RequestRefused),
        (401, AuthenticationError),
        (403, AuthenticationError),
        (404, RequestRefused),
        (410, RequestRefused),
        (422, RequestRefused),
        (206, SourceContractError),
    ],
)
async def test_a_clear_no_is_taken_at_once(status, error):
    """What asking again cannot change is asked once."""
    async with vendor(answer(status)) as v, client(v) as c:
        with pytest.raises(error):
            await get(c)
        assert len(v.seen) == 1


@pytest.mark.parametrize(
    "trouble", [answer(502), answer(504), answer(408), stall(b"")], ids=["502", "504", "408", "stall"]
)
async def test_who_can_ask_for_less_is_told_at_once(trouble):
    """With retry_timeouts off, a time-out is raised after one attempt."""
    impatient = Limits(read_timeout_s=0.05, attempts=3, backoff_initial_s=0)
    async with vendor(trouble) as v, client(v, impatient) as c:
        with pytest.raises(AnswerTooLarge):
            await get(c, retry_timeouts=False)
        assert len(v.seen) == 1


async def test_an_unreachable_host_is_no_reason_to_ask_for_less():
    """A refused connection is tried again even when time-outs are not, and says so."""
    async with vendor(answer()) as v:
        pass
    async with client(v) as c:
        with pytest.raises(SourceUnavailable) as caught:
            await get(c, retry_timeouts=False)
        assert type(caught.value) is SourceUnavailable
        assert "GET 127.0.0.1" in str(caught.value)


@dataclass
class FakeTime:
    """Time that passes only by sleeping."""

    seconds: float = 0.0
    slept: list[float] = field(default_factory=list)

    async def sleep(self, seconds: float) -> None:
        """Let time pass."""
        self.slept.append(round(seconds, 3))
        self.seconds += seconds

    @property
    def clock(self) -> Clock:
        """The clock that shows it."""
        return Clock(
            monotonic=lambda: self.seconds,
            now=lambda: datetime(2000, 1, 1, tzinfo=UTC),
            sleep=self.sleep,
        )


LATER = format_datetime(datetime(2026, 3, 1, 12, tzinfo=UTC) + timedelta(seconds=42), usegmt=True)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry_After": "42"}, 42.0),
        ({"Retry_After": LATER, "Date": DATE}, 42.0),
        ({"Retry_After": "99999"}, 300.0),
        ({"X_Rate_Limit_Reset": "42"}, 42.0),
    ],
)
@pytest.mark.parametrize("status", [429, 503])
async def test_the_vendors_wish_for_a_pause_is_kept(status, headers, seconds):
    """Retry-After in all its forms is waited for, capped, on the vendor's clock."""
    time = FakeTime()
    async with vendor(answer(status, **headers), answer(200, b"x")) as v, client(v, clock=time.clock) as c:
        await get(c)
    assert time.slept == [seconds]


async def test_a_pause_holds_for_the_clients_next_requests():
    """When patience has ended with a wish for a pause, the error has it and the next request keeps it."""
    time, once = FakeTime(), Limits(attempts=1)
    refused = answer(429, Retry_After="42")
    async with vendor(refused, answer(200, b"x")) as v, client(v, once, clock=time.clock) as c:
        with pytest.raises(RateLimited) as caught:
            await get(c)
        assert caught.value.retry_after == 42.0
        assert time.slept == []
        await get(c)
        assert time.slept == [42.0]


async def test_one_accounts_pause_does_not_stop_another():
    """Accounts that share a host's gate do not share a vendor's wish for a pause."""
    time = FakeTime()
    gates = HostGates(time.clock)
    once = Limits(attempts=1)
    async with vendor(answer(429, Retry_After="42"), answer(200, b"x")) as v:
        async with client(v, once, clock=time.clock, gates=gates) as alice:
            with pytest.raises(RateLimited):
                await get(alice)
        async with client(v, once, clock=time.clock, gates=gates) as bob:
            await get(bob)
    assert time.slept == []


async def test_a_retry_is_an_event():
    """Each retry is logged once, with its reason and without the query."""
    async with vendor(answer(503, Retry_After="0"), answer(200, b"x")) as v, client(v) as c:
        with capture_logs() as events:
            await get(c, "/things?signature=geheim")
    (event,) = [event for event in events if event["event"] == "request.retried"]
    assert (event["path"], event["error"], event["attempt"]) == ("/things", "SourceUnavailable", 1)
    assert "503" in event["reason"]
    assert "geheim" not in str(event)


async def test_waits_are_spread():
    """Of several that meet the same trouble at the same time no two ask again after the same wait."""
    waits: list[float] = []
    hooks = stamina.instrumentation.get_on_retry_hooks()
    stamina.instrumentation.set_on_retry_hooks([lambda details: waits.append(details.wait_for)])
    try:
        for _ in range(5):
            async with vendor(answer(503), answer()) as v, client(v, Limits(backoff_initial_s=0.001)) as c:
                await get(c)
    finally:
        stamina.instrumentation.set_on_retry_hooks(hooks)
    assert len(waits) == len(set(waits)) == 5


async def test_a_slot_is_held_while_the_body_is_read():
    """Requests of two clients to one host share its slots, bodies included."""
    gates, one = HostGates(), Limits(concurrency=1)
    async with (
        vendor(answer(200, b"x")) as v,
        client(v, one, gates=gates) as a,
        client(v, one, gates=gates) as b,
    ):
        async with a.open(Request("/first")):
            second = asyncio.create_task(get(b, "/second"))
            await asyncio.sleep(0.05)
            assert len(v.seen) == 1
        assert await second == b"x"


async def test_credentials_may_need_the_host_themselves():
    """Fetching a token takes its own slot, so that a single slot is enough for both."""
    gates, one = HostGates(), Limits(concurrency=1)

    class Fetched:
        async def authorization(self) -> str:
            return f"Bearer {(await get(tokens, '/token', method='POST')).decode()}"

        async def renewed(self, rejected: str) -> bool:  # noqa: ARG002
            return False

    async with (
        vendor(answer(200, b"fresh"), answer(200, b"data")) as v,
        client(v, one, gates=gates) as tokens,
        client(v, one, gates=gates, credentials=Fetched()) as c,
    ):
        assert await get(c) == b"data"
    assert "Authorization: Bearer fresh" in v.seen[1]


@dataclass
class Renewable:
    """Credentials that have so many better ones."""

    better: int
    rejected: list[str] = field(default_factory=list)

    async def authorization(self) -> str:
        """The newest."""
        return f"Bearer token{len(self.rejected)}"

    async def renewed(self, rejected: str) -> bool:
        """Whether there is another one."""
        if len(self.rejected) == self.better:
            return False
        self.rejected.append(rejected)
        return True


async def test_a_rejected_token_is_renewed_and_the_request_sent_once_more():
    """A 401 is answered with better credentials, on the same slot, and both requests are counted."""
    renewable, one = Renewable(1), Limits(concurrency=1)
    async with vendor(answer(401), answer(200, b"x")) as v, client(v, one, credentials=renewable) as c:
        assert await get(c, params={"page": "2"}) == b"x"
        assert c.traffic.requests == 2
    assert renewable.rejected == ["Bearer token0"]
    assert [f"Authorization: Bearer token{n}" in head for n, head in enumerate(v.seen)] == [True, True]
    assert all(head.startswith("GET /things?page=2 ") for head in v.seen)


@pytest.mark.parametrize(("better", "requests"), [(0, 1), (1, 2), (99, 2)])
async def test_a_second_401_asks_for_a_person(better, requests):
    """However many better credentials there are, a request is rejected twice at most."""
    async with vendor(answer(401)) as v, client(v, credentials=Renewable(better)) as c:
        with pytest.raises(AuthenticationError, match="token is wrong or has expired, or the account lacks"):
            await get(c)
        assert len(v.seen) == requests


async def test_a_403_is_no_reason_to_renew():
    """Beddit's 403 means a person, whatever the credentials could do."""
    async with vendor(answer(403)) as v, client(v, credentials=Renewable(99)) as c:
        with pytest.raises(AuthenticationError):
            await get(c)
        assert len(v.seen) == 1


async def test_trouble_after_a_renewal_is_retried_with_the_new_token():
    """The attempts of a request go on where the renewal left them."""
    replies = answer(401), answer(503), answer(200, b"x")
    async with vendor(*replies) as v, client(v, credentials=Renewable(1)) as c:
        assert await get(c) == b"x"
    assert ["token1" in head for head in v.seen] == [False, True, True]


@pytest.mark.parametrize("trouble", [answer(503), answer(429), answer(504), cut(b"")])
async def test_what_must_not_be_repeated_is_sent_once(trouble):
    """A request that is worth one try only is never sent again, whatever goes wrong."""
    async with vendor(trouble) as v, client(v) as c:
        with pytest.raises(SourceUnavailable if trouble != answer(429) else RateLimited):
            await get(c, method="POST", form={"refresh_token": "once"}, retry=False)
        assert len(v.seen) == 1


async def test_an_answer_may_quote_a_long_address():
    """Yii2 repeats the address in its Link header, which grows beyond the usual 8 KiB."""
    long = answer(200, b"x", Link="<https://h/>; rel=self, " * 2000)
    async with vendor(long) as v, client(v) as c:
        assert await get(c) == b"x"


async def test_an_error_of_the_reader_is_the_readers():
    """What the code inside the context raises comes out unchanged and causes no retry."""
    error = ConnectionResetError("mine")
    async with vendor(answer(200, b"x")) as v, client(v) as c:
        with pytest.raises(ConnectionResetError) as caught:
            async with c.open(Request("/x")):
                raise error
        assert caught.value is error
        assert len(v.seen) == 1


@pytest.mark.parametrize(
    "reply", [stall(b""), stall(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx"), answer(503)]
)
async def test_cancelling_ends_at_once(reply):
    """Before the answer, inside it, or between two attempts: cancellation is not waited for."""
    slow = Limits(backoff_initial_s=60)
    async with vendor(reply) as v, client(v, slow) as c:
        task = asyncio.create_task(get(c))
        while not v.seen:  # noqa: ASYNC110  (the script has no event to wait for)
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.02)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(task, 1)


# --- bodies ---------------------------------------------------------------------------------------

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
LENGTH_9 = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"


@pytest.mark.parametrize(
    "reply",
    [cut(LENGTH_9 + b"half"), cut(CHUNKED + b"4\r\nhalf\r\n"), cut(CHUNKED + b"9\r\nhalf"), cut(CHUNKED)],
    ids=["length", "between chunks", "inside a chunk", "before chunks"],
)
async def test_a_short_body_is_an_error(reply):
    """A body that ends before its framing says so is never handed out as whole."""
    async with vendor(reply) as v, client(v) as c:
        with pytest.raises(AnswerTooLarge, match="ask for less"):
            await get(c)
        assert len(v.seen) == 1


async def test_a_gzip_stream_without_its_end_is_an_error():
    """A compressed body that was framed well but compressed half is not whole."""
    body = gzip.compress(b"all of it" * 1000)[:-12]
    async with vendor(answer(200, body, Content_Encoding="gzip")) as v, client(v) as c:
        with pytest.raises(AnswerTooLarge):
            await get(c)


@pytest.mark.parametrize("reply", [stall(LENGTH_9 + b"half"), drip], ids=["stall", "drip"])
async def test_a_body_that_takes_for_ever_is_ended(reply):
    """Silence ends by the read time-out, a drip by the total one; both ask for less."""
    impatient = Limits(read_timeout_s=0.2, total_timeout_s=0.4)
    async with vendor(reply) as v, client(v, impatient) as c:
        with pytest.raises(AnswerTooLarge):
            await get(c)


async def test_compressed_bodies_are_unpacked_and_counted_as_they_came():
    """The reader gets the content; the traffic is what went over the wire."""
    content = b"night " * 10_000
    body = gzip.compress(content)
    async with vendor(answer(200, body, Content_Encoding="gzip")) as v, client(v) as c:
        assert await get(c) == content
        assert c.traffic == Traffic(requests=1, received_bytes=len(body))


async def test_a_bomb_is_stopped_at_the_limit():
    """The limit counts decompressed bytes, and no more than about the limit is ever unpacked."""
    bomb = gzip.compress(bytes(50_000_000))
    sizes = []

    async def unpack(through: HttpClient) -> None:
        async with through.open(Request("/x", max_body_bytes=1_000_000)) as response:
            async for chunk in response.chunks():
                sizes.append(len(chunk))  # noqa: PERF401  (the sizes before the error count)

    async with vendor(answer(200, bomb, Content_Encoding="gzip")) as v, client(v) as c:
        with pytest.raises(SourceContractError, match="1,000,000 bytes"):
            await unpack(c)
    assert sum(sizes) <= 1_000_000


async def test_an_announced_excess_is_not_read():
    """A body whose Content-Length is over the limit is refused before its first byte."""
    request = Request("/x", max_body_bytes=99_999)
    async with vendor(answer(200, bytes(100_000))) as v, client(v) as c, c.open(request) as response:
        with pytest.raises(SourceContractError):
            await response.read(10**9)
        assert response.received_bytes == 0


async def test_reading_has_its_own_limit():
    """A caller's smaller limit holds too."""
    async with vendor(answer(200, bytes(1000))) as v, client(v) as c, c.open(Request("/x")) as response:
        with pytest.raises(SourceContractError, match="999 bytes"):
            await response.read(999)


@pytest.mark.parametrize("encoding", ["gzip", "br", "deflate"])
async def test_a_false_encoding_is_a_broken_contract(encoding):
    """Content that is not encoded as it says, or as nobody asked, is refused."""
    body = zlib.compress(b"x" * 100)
    async with vendor(answer(200, body, Content_Encoding=encoding)) as v, client(v) as c:
        with pytest.raises(SourceContractError):
            await get(c)


# --- secrets --------------------------------------------------------------------------------------


async def test_the_vendors_words_are_quoted_without_our_secrets():
    """An error says what the vendor said; token, password and query are never in it."""
    reply = problem(400, error="bad", description="token t0k3n, password pa55, secret s3cr3t, user alice")
    token = FixedToken("UserToken", "t0k3n")
    async with vendor(reply) as v, client(v, credentials=token, secrets=["s3cr3t"]) as c:
        with pytest.raises(RequestRefused) as caught:
            await get(c, "/t?q=geheim", method="POST", form={"username": "alice", "password": "pa55"})
    message = str(caught.value)
    assert f"POST 127.0.0.1:{v.port}/t was answered with 400" in message
    assert "(bad: token ***, password ***, secret ***, user alice)" in message
    assert "geheim" not in message
    assert caught.value.status == 400


@pytest.mark.parametrize(
    "body", [b"{" * 100_000, b"\x1f\x8b broken", b"<html>" * 10], ids=["long", "broken", "foreign"]
)
async def test_an_unreadable_error_body_changes_nothing(body):
    """A long, broken or foreign error body leaves the status to speak for itself."""
    async with vendor(answer(404, body, Content_Encoding="gzip")) as v, client(v) as c:
        with pytest.raises(RequestRefused, match="404"):
            await get(c)


def test_nothing_prints_a_secret():
    """The repr of requests, credentials and clients shows no address, form or token."""
    request = Request("https://h/?sig=geheim", form={"password": "geheim"}, headers={"X": "geheim"})
    token = FixedToken("UserToken", "geheim")
    shown = (
        f"{request!r} {token!r} {HttpClient(base_url='https://h', credentials=token, secrets=['geheim'])!r}"
    )
    assert "geheim" not in shown


@pytest.mark.parametrize("token", ["new\nline", "uml\u00e4ut", "nul\0"])
async def test_a_token_that_no_header_can_carry_asks_for_a_person(token):
    """A damaged token is an authentication error that does not quote it; nothing is sent."""
    async with vendor(answer()) as v, client(v, credentials=FixedToken("UserToken", token)) as c:
        with pytest.raises(AuthenticationError) as caught:
            await get(c)
        assert token not in str(caught.value)
        assert v.seen == []


async def test_a_token_stays_at_home():
    """A whole address of the own origin is asked; any other is refused before anything is sent."""
    token = FixedToken("UserToken", "geheim")
    async with vendor(answer(200, b"x")) as v, vendor(answer()) as other, client(v, credentials=token) as c:
        assert await get(c, f"{v.url}/next?page=2") == b"x"
        with pytest.raises(AddressRefused):
            await get(c, f"{other.url}/next")
        assert other.connections == 0


async def test_a_token_does_not_follow_redirects():
    """A redirect of the account's own host is an error, not a way to another host."""
    token = FixedToken("UserToken", "geheim")
    async with (
        vendor(answer()) as other,
        vendor(answer(302, Location=f"{other.url}/x")) as v,
        client(v, credentials=token) as c,
    ):
        with pytest.raises(RequestRefused, match="redirect") as caught:
            await get(c)
        assert caught.value.status == 302
        assert other.connections == 0


# --- addresses that a vendor handed out -----------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]"])
async def test_no_connection_is_made_to_a_private_address(host):
    """Numbers and names that lead inside are refused at the socket, once, with host, reason and setting."""
    async with vendor(answer()) as v, blobs(allow_private=False) as c:
        with pytest.raises(AddressRefused) as caught:
            await get(c, f"https://{host}:{v.port}/night?signature=geheim")
        assert v.connections == 0
    message = str(caught.value)
    assert "loopback" in message
    assert host in message
    assert "beddit.allow_private_blob_hosts" in message
    assert "geheim" not in message


async def test_a_name_with_several_private_addresses_is_refused_all_the_same(monkeypatch):
    """When a name leads to several addresses, the refusal surfaces and is no failed connection."""
    inside = [(2, 1, 6, "", ("127.0.0.1", 443)), (2, 1, 6, "", ("10.0.0.1", 443))]
    monkeypatch.setattr("socket.getaddrinfo", lambda *_, **__: inside)
    async with blobs(allow_private=False) as c:
        with pytest.raises(AddressRefused, match=r"blobs\.example.*loopback"):
            await get(c, "https://blobs.example/night")


async def test_blobs_are_fetched_bare():
    """A blob's request carries no token, and its address goes out as it was signed."""
    async with vendor(answer(200, b"blob")) as v, blobs() as c:
        assert await get(c, f"{v.url}/a%2fb?sig=x%2By%2F") == b"blob"
    assert v.seen[0].startswith("GET /a%2fb?sig=x%2By%2F HTTP/1.1\r\n")
    assert "authorization" not in v.seen[0].lower()
    assert "Accept-Encoding: identity" in v.seen[0]


async def test_blob_redirects_are_followed():
    """A few redirects lead to the blob; each counts as a request."""
    hops = [answer(302, Location=f"/hop{n}") for n in range(5)]
    async with vendor(*hops, answer(200, b"blob")) as v, blobs() as c:
        assert await get(c, f"{v.url}/a") == b"blob"
        assert c.traffic.requests == 6


async def test_redirects_end():
    """A sixth redirect is one too many."""
    async with vendor(answer(302, Location="/again")) as v, blobs() as c:
        with pytest.raises(RequestRefused, match="5 redirects"):
            await get(c, f"{v.url}/a")
        assert len(v.seen) == 6


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://h/x", "https://u:p@h/x"])
async def test_every_redirect_is_judged(target):
    """A redirect to an address that would be refused is refused."""
    async with vendor(answer(302, Location=target)) as v, blobs() as c:
        with pytest.raises(AddressRefused):
            await get(c, f"{v.url}/a")


async def test_an_expired_signature_is_not_the_accounts_fault():
    """403 from a blob's host refuses the blob, not the account, and the host is not quoted."""
    async with vendor(problem(403, error="AccessDenied")) as v, blobs() as c:
        with pytest.raises(RequestRefused) as caught:
            await get(c, f"{v.url}/a?sig=geheim")
    assert caught.value.status == 403
    assert "AccessDenied" not in str(caught.value)


def test_a_client_for_foreign_addresses_needs_a_policy_and_no_token():
    """A blob client without policy, or with credentials, cannot be built."""
    with pytest.raises(ValueError, match="policy"):
        HttpClient(base_url=None)
    with pytest.raises(ValueError, match="credentials"):
        HttpClient(base_url=None, policy=AddressPolicy(), credentials=FixedToken("X", "y"))


# --- TLS ------------------------------------------------------------------------------------------

# For localhost and 127.0.0.1, from 2020 to 2120; it protects nothing.
CERTIFICATE = """\
-----BEGIN CERTIFICATE-----
MIIBZjCCAQ2gAwIBAgIBATAKBggqhkjOPQQDAjAUMRIwEAYDVQQDDAlsb2NhbGhv
c3QwIBcNMjAwMTAxMDAwMDAwWhgPMjEyMDAxMDEwMDAwMDBaMBQxEjAQBgNVBAMM
CWxvY2FsaG9zdDBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABGHbecm4X/835FPF
ypUfdbT+AqvKYR4108R9s7MsBihBLrhtSBpoORJE0UEF00ySujd1ZEslrWNY+8BD
NEVumWGjTjBMMBoGA1UdEQQTMBGCCWxvY2FsaG9zdIcEfwAAATAPBgNVHRMBAf8E
BTADAQH/MB0GA1UdDgQWBBTftG61p4uJphiJC2XREnpspC8bhjAKBggqhkjOPQQD
AgNHADBEAiA6gmmNj2QsKh6+ba9DfV8vqZ+PLabgjknp3pj5FdbsfAIgYmmLAA5e
xQHyPhxPqbHpuweHTdZVJTuubWsrh+40DA4=
-----END CERTIFICATE-----
"""
KEY = """\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgzNEMK0rkZsMAu65c
psHkbBvOAI+8dHx9u/vfqp+MIbehRANCAARh23nJuF//N+RTxcqVH3W0/gKrymEe
NdPEfbOzLAYoQS64bUgaaDkSRNFBBdNMkro3dWRLJa1jWPvAQzRFbplh
-----END PRIVATE KEY-----
"""


@pytest.fixture
def ca_file(tmp_path: Path) -> Path:
    """Give the certificate as a file; its key lies beside it."""
    (tmp_path / "key.pem").write_text(KEY)
    (tmp_path / "ca.pem").write_text(CERTIFICATE)
    return tmp_path / "ca.pem"


@pytest.fixture
def tls(ca_file: Path) -> ssl.SSLContext:
    """Give a server's side of TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(ca_file, ca_file.with_name("key.pem"))
    return context


@pytest.mark.parametrize("target", ["http://127.0.0.1:{port}/x", "https://127.0.0.2:{port}/x"])
async def test_a_redirect_is_as_suspect_as_an_address(monkeypatch, tls, ca_file, target):
    """A host of the open internet can neither redirect to plain http nor to a private address."""
    allowed = {"127.0.0.1": None}
    monkeypatch.setattr("sync.transport.policy.not_public", lambda ip: allowed.get(ip, "a private address"))

    async def redirect(writer: asyncio.StreamWriter) -> None:
        writer.write(answer(302, Location=target.format(port=v.port)))

    async with vendor(redirect, tls=tls) as v, blobs(allow_private=False, ca_file=ca_file) as c:
        with pytest.raises(AddressRefused):
            await get(c, f"{v.url}/a")
        assert len(v.seen) == 1


async def test_an_untrusted_certificate_is_refused(tls):
    """Without trust there is no request, and the message says that it is about the certificate."""
    async with vendor(answer(), tls=tls) as v, client(v) as c:
        with pytest.raises(SourceUnavailable, match=r"TLS.*self-signed"):
            await get(c)
        assert v.seen == []


async def test_an_untrusted_certificate_of_a_blob_host_is_refused(tls):
    """Where a vendor's address leads is verified no less than the vendor."""
    async with vendor(answer(), tls=tls) as v, blobs() as c:
        with pytest.raises(SourceUnavailable, match=r"TLS.*self-signed"):
            await get(c, f"{v.url}/night")
        assert v.seen == []


async def test_further_authorities_can_be_trusted(tls, ca_file):
    """With ca_file, its certificates are trusted as well."""
    async with vendor(answer(200, b"x"), tls=tls) as v, client(v, ca_file=ca_file) as c:
        assert await get(c) == b"x"


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_an_unreadable_authority_is_a_configuration_error(tmp_path, content):
    """A missing or broken ca_file stops at start-up and is named."""
    if content:
        (tmp_path / "ca.pem").write_text(content)
    with pytest.raises(ConfigurationError, match=r"ca\.pem"):
        HttpClient(base_url="https://h", ca_file=tmp_path / "ca.pem")
