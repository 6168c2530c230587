"""Tokens of BACE: when one is asked for, how it is kept, and how little a failure costs."""

from __future__ import annotations

import asyncio
import json
import os
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from sync.errors import (
    AuthenticationError,
    RateLimited,
    RequestRefused,
    SourceContractError,
    SourceUnavailable,
)
from sync.sources.bace.oauth import PasswordGrant, Token, TokenStore
from sync.sources.bace.settings import Account
from sync.transport import Clock

ACCOUNT = Account("lab-client", "c1ient-5ecret", "lab@example.org", "pa55word")
HOST = "https://dashboard.example"
DAY = 86_400
SECRETS = ("c1ient-5ecret", "pa55word", "access-", "refresh-")


@dataclass
class Time:
    """A clock that stands still until it is told otherwise; its two hands can be moved apart."""

    wall: datetime = datetime(2026, 3, 1, tzinfo=UTC)
    passed: float = 1000.0

    @property
    def clock(self) -> Clock:
        """As the code under test wants it."""
        return Clock(lambda: self.passed, lambda: self.wall, self.sleep)

    async def sleep(self, seconds: float) -> None:
        """Let time pass at once."""
        self.go(seconds)
        await asyncio.sleep(0)

    def go(self, seconds: float) -> None:
        """Let time pass."""
        self.passed += seconds
        self.wall += timedelta(seconds=seconds)


@dataclass
class Vendor:
    """A token endpoint with single-use refresh tokens, in place of an HttpClient."""

    forms: list[dict[str, str]] = field(default_factory=list)
    retried: list[bool] = field(default_factory=list)
    good: set[str] = field(default_factory=set)
    lifetime: object = DAY
    failures: dict[str, Exception] = field(default_factory=dict)
    body: bytes | None = None
    waits: asyncio.Event | None = None

    @property
    def kinds(self) -> list[str]:
        """What was asked for, in order."""
        return [form["grant_type"] for form in self.forms]

    @asynccontextmanager
    async def open(self, request):
        """Answer a request for a token."""
        assert (request.method, request.url) == ("POST", "/oauth2/token")
        self.forms.append(dict(request.form))
        self.retried.append(request.retry)
        await (self.waits.wait() if self.waits else asyncio.sleep(0))
        kind, used = request.form["grant_type"], request.form.get("refresh_token")
        if kind in self.failures:
            raise self.failures[kind]
        if kind == "refresh_token" and used not in self.good:
            raise RequestRefused("POST host/oauth2/token was answered with 400.", status=400)
        self.good.discard(used)
        yield self

    async def read(self, limit: int) -> bytes:
        """The answer's body."""
        assert limit < 1_000_000
        number = len(self.forms)
        self.good.add(f"refresh-{number}")
        answer = {
            "access_token": f"access-{number}",
            "expires_in": self.lifetime,
            "token_type": "Bearer",
            "scope": None,
            "refresh_token": f"refresh-{number}",
        }
        return json.dumps(answer).encode() if self.body is None else self.body


@pytest.fixture
def time():
    """A clock of the test's own."""
    return Time()


@pytest.fixture
def vendor():
    """A token endpoint."""
    return Vendor()


@pytest.fixture
def folder(tmp_path):
    """Where the tokens are; it does not exist yet."""
    return tmp_path / "state" / "tokens"


@pytest.fixture
def store(folder):
    """The account's file."""
    return TokenStore(folder, "lab", HOST, ACCOUNT)


@pytest.fixture
def sign_in(vendor, store, time):
    """Give a function that makes what a process makes when it starts."""
    return lambda account=ACCOUNT, store=store: PasswordGrant(vendor, account, store, clock=time.clock)


REFUSED = AuthenticationError("POST host/oauth2/token was answered with 401 Unauthorized.")
TROUBLE = SourceUnavailable("POST host/oauth2/token was answered with 503.")

# --- asking ---------------------------------------------------------------------------------------


async def test_a_token_is_asked_for_once_as_documented(sign_in, vendor):
    """The first request signs in with the five documented fields; the next ones use what came."""
    grant = sign_in()
    assert [await grant.authorization() for _ in range(3)] == ["Bearer access-1"] * 3
    assert vendor.forms == [
        {
            "client_id": "lab-client",
            "client_secret": "c1ient-5ecret",
            "grant_type": "password",
            "username": "lab@example.org",
            "password": "pa55word",
        }
    ]
    assert vendor.retried == [False]


async def test_a_token_is_refreshed_before_it_ends(sign_in, vendor, time):
    """A minute before its end it is exchanged, with the refresh token and without the password."""
    grant = sign_in()
    await grant.authorization()
    time.go(DAY - 61)
    assert await grant.authorization() == "Bearer access-1"
    time.go(1)
    assert await grant.authorization() == "Bearer access-2"
    assert vendor.forms[1] == {
        "client_id": "lab-client",
        "client_secret": "c1ient-5ecret",
        "grant_type": "refresh_token",
        "refresh_token": "refresh-1",
    }
    assert vendor.retried == [False, False]


async def test_one_exchange_serves_all_who_wait(sign_in, vendor, time):
    """However many requests find the token expired, or rejected, it is exchanged once."""
    grant = sign_in()
    assert set(await asyncio.gather(*(grant.authorization() for _ in range(50)))) == {"Bearer access-1"}
    time.go(DAY)
    await asyncio.gather(*(grant.authorization() for _ in range(50)))
    assert all(await asyncio.gather(*(grant.renewed("Bearer access-2") for _ in range(50))))
    assert vendor.kinds == ["password", "refresh_token", "refresh_token"]


@pytest.mark.parametrize(
    "error", [REFUSED, RequestRefused("no", status=400), RequestRefused("no", status=404)]
)
async def test_a_refused_refresh_costs_one_password_grant(sign_in, vendor, time, error):
    """Any refusal of a refresh falls back to the password, once."""
    grant = sign_in()
    await grant.authorization()
    vendor.failures["refresh_token"] = error
    time.go(DAY)
    assert await grant.authorization() == "Bearer access-3"
    assert vendor.kinds == ["password", "refresh_token", "password"]


@pytest.mark.parametrize("left_out", [None, 5, "", "absent"])
async def test_without_a_new_refresh_token_the_old_one_is_kept(sign_in, vendor, time, left_out):
    """An answer to a refresh need not name a refresh token; the one that was used is tried again."""
    grant = sign_in()
    await grant.authorization()
    answer = {"access_token": "access-x", "expires_in": DAY, "refresh_token": left_out}
    if left_out == "absent":
        del answer["refresh_token"]
    vendor.body = json.dumps(answer).encode()
    time.go(DAY)
    await grant.authorization()
    time.go(DAY)
    await grant.authorization()
    assert [form.get("refresh_token") for form in vendor.forms[1:3]] == ["refresh-1", "refresh-1"]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"[]",
        b"null",
        b'{"access_token": 5}',
        b'{"access_token": ""}',
        b'{"access_token": "a\\nb"}',
        b"[" * 10_000,
        b"\xff",
    ],
)
async def test_what_is_no_token_is_a_broken_contract(sign_in, vendor, body):
    """An answer without a usable token is an error that does not quote it."""
    vendor.body = body
    with pytest.raises(SourceContractError, match="without an access_token"):
        await sign_in().authorization()


@pytest.mark.parametrize(
    ("said", "lifetime"), [("86400", DAY), (100, 100), (None, 3600), (-5, 3600), ("x", 3600), ([], 3600)]
)
async def test_the_lifetime_is_the_vendors(sign_in, vendor, time, said, lifetime):
    """Numbers and numeric text count; without one, an hour is assumed."""
    vendor.lifetime = said
    grant = sign_in()
    await grant.authorization()
    time.go(lifetime - min(60, lifetime / 2) - 1)
    assert await grant.authorization() == "Bearer access-1"
    time.go(1)
    assert await grant.authorization() == "Bearer access-2"


# --- failures and their price ---------------------------------------------------------------------


@pytest.mark.parametrize("error", [REFUSED, RequestRefused("POST ... 400 (client).", status=400)])
async def test_a_wrong_password_is_offered_once(sign_in, vendor, error):
    """All who wait get the refusal of one request, and so does everybody after them."""
    vendor.failures["password"] = error
    grant = sign_in()
    outcomes = await asyncio.gather(*(grant.authorization() for _ in range(20)), return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {AuthenticationError}
    for _ in range(3):
        with pytest.raises(AuthenticationError, match=r"client_secret, username and password") as caught:
            await grant.authorization()
    assert vendor.kinds == ["password"]
    assert str(error) in str(caught.value)
    assert not any(secret in str(caught.value) for secret in SECRETS)


async def test_a_refresh_and_a_password_that_are_both_refused_are_not_offered_again(sign_in, vendor, time):
    """When neither works any more, that costs two requests and then none."""
    grant = sign_in()
    await grant.authorization()
    vendor.failures = {"refresh_token": REFUSED, "password": REFUSED}
    time.go(DAY)
    for _ in range(5):
        with pytest.raises(AuthenticationError):
            await grant.authorization()
    assert vendor.kinds == ["password", "refresh_token", "password"]


async def test_trouble_is_no_refusal(sign_in, vendor):
    """While the vendor is in trouble, those who wait fail together, and the next one asks again."""
    vendor.failures["password"] = TROUBLE
    grant = sign_in()
    outcomes = await asyncio.gather(*(grant.authorization() for _ in range(20)), return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {SourceUnavailable}
    assert len(vendor.forms) == 1
    vendor.failures.clear()
    assert await grant.authorization() == "Bearer access-2"


@pytest.mark.parametrize("trouble", [TROUBLE, SourceContractError("a web page")])
async def test_a_token_serves_to_its_end(sign_in, vendor, time, trouble):
    """If an early refresh fails by trouble, the token is used on, and tried to be renewed now and then."""
    grant = sign_in()
    await grant.authorization()
    vendor.failures = {"refresh_token": trouble, "password": trouble}
    time.go(DAY - 60)
    for _ in range(20):
        assert await grant.authorization() == "Bearer access-1"
        time.go(2.5)
    assert len(vendor.forms) <= 1 + 6
    time.go(10)
    with pytest.raises(type(trouble)):
        await grant.authorization()
    assert vendor.kinds[-2:] == ["refresh_token", "password"]
    assert "password" not in vendor.kinds[1:-1]
    vendor.failures.pop("password")
    assert await grant.authorization() == f"Bearer access-{len(vendor.forms)}"


async def test_a_refresh_token_outlives_an_outage(sign_in, vendor, time):
    """While nobody answers, each need costs one refresh and one password; then the refresh token is used."""
    grant = sign_in()
    await grant.authorization()
    vendor.failures = {"refresh_token": TROUBLE, "password": TROUBLE}
    time.go(DAY)
    for _ in range(2):
        with pytest.raises(SourceUnavailable):
            await grant.authorization()
    vendor.failures.clear()
    await grant.authorization()
    assert vendor.kinds == ["password", *["refresh_token", "password"] * 2, "refresh_token"]
    assert {form["refresh_token"] for form in vendor.forms if "refresh_token" in form} == {"refresh-1"}


async def test_a_pause_that_the_vendor_wants_is_no_reason_to_sign_in(sign_in, vendor, time):
    """Asked for fewer requests, a grant does not make one more of them; the refresh token stays."""
    grant = sign_in()
    await grant.authorization()
    vendor.failures["refresh_token"] = RateLimited("429")
    time.go(DAY)
    with pytest.raises(RateLimited):
        await grant.authorization()
    vendor.failures.clear()
    await grant.authorization()
    assert vendor.kinds == ["password", "refresh_token", "refresh_token"]


async def test_who_is_cancelled_leaves_the_exchange_to_the_next(sign_in, vendor):
    """If the request that asks for a token is given up, another one that waits for it asks."""
    grant = sign_in()
    vendor.waits = asyncio.Event()
    first, second = (asyncio.create_task(grant.authorization()) for _ in range(2))
    while not vendor.forms:  # noqa: ASYNC110  (the file's lock is taken by a thread)
        await asyncio.sleep(0.001)
    first.cancel()
    vendor.waits.set()
    assert await second == "Bearer access-2"
    assert first.cancelled()


# --- 401 ------------------------------------------------------------------------------------------


async def test_a_rejected_token_is_renewed_once(sign_in, vendor):
    """After a 401 there is another token; whoever comes late with the old one asks for none."""
    grant = sign_in()
    old = await grant.authorization()
    assert await grant.renewed(old)
    assert await grant.renewed(old)
    assert await grant.authorization() == "Bearer access-2"
    assert vendor.kinds == ["password", "refresh_token"]


async def test_a_missing_permission_does_not_wear_out_the_token_endpoint(sign_in, vendor, time):
    """An endpoint that rejects every token leads to three renewals in ten minutes, not to more."""
    grant = sign_in()
    renewed = [await grant.renewed(await grant.authorization()) for _ in range(50)]
    assert renewed == [True] * 3 + [False] * 47
    assert len(vendor.forms) == 4
    time.go(600)
    assert await grant.renewed(await grant.authorization())


async def test_the_same_token_given_anew_is_tried_again_within_bounds(sign_in, vendor):
    """A rejected token that is given anew is worth another attempt, but not one for every request."""
    vendor.body = b'{"access_token": "the-same", "expires_in": 86400}'
    grant = sign_in()
    assert await grant.renewed(await grant.authorization())
    for _ in range(5):
        assert await grant.authorization() == "Bearer the-same"
    assert len(vendor.forms) == 2
    assert [await grant.renewed("Bearer the-same") for _ in range(20)] == [True] * 2 + [False] * 18
    assert len(vendor.forms) == 4


# --- time -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("jump", [-10 * DAY, -3600, 3600, 10 * DAY])
async def test_a_clock_that_jumps_moves_nothing(sign_in, vendor, time, jump):
    """The token's end is counted in passed time: the wall clock may be set meanwhile."""
    grant = sign_in()
    await grant.authorization()
    time.wall += timedelta(seconds=jump)
    assert await grant.authorization() == "Bearer access-1"
    time.go(DAY)
    assert await grant.authorization() == "Bearer access-2"
    assert await grant.authorization() == "Bearer access-2"
    assert len(vendor.forms) == 2


# --- the file -------------------------------------------------------------------------------------


async def test_a_restart_uses_the_token_there_is(sign_in, vendor, time):
    """A new process goes on with the stored token, and with its refresh token after that."""
    await sign_in().authorization()
    time.go(3600)
    time.passed = 5.0  # the machine was started again
    again = sign_in()
    assert await again.authorization() == "Bearer access-1"
    time.go(DAY - 3600 - 60)
    assert await again.authorization() == "Bearer access-2"
    assert vendor.kinds == ["password", "refresh_token"]


async def test_a_token_from_the_future_is_refreshed(sign_in, vendor, time):
    """If the clock was set back while no process ran, the token may be of any age: it is exchanged."""
    await sign_in().authorization()
    time.wall -= timedelta(days=3)
    assert await sign_in().authorization() == "Bearer access-2"
    assert vendor.kinds == ["password", "refresh_token"]


async def test_a_crash_between_use_and_save_costs_a_password_grant(sign_in, vendor, folder, time):
    """A stored refresh token that was used up already is refused, and the password is used instead."""
    grant = sign_in()
    await grant.authorization()
    before = (folder / "lab.json").read_bytes()
    time.go(DAY)
    await grant.authorization()
    (folder / "lab.json").write_bytes(before)
    assert await sign_in().authorization() == "Bearer access-4"
    assert vendor.kinds == ["password", "refresh_token", "refresh_token", "password"]


async def test_processes_share_a_token(sign_in, vendor, time):
    """Of several processes one signs in, one refreshes, and a rejected token is renewed by one."""
    processes = [sign_in() for _ in range(5)]

    async def all_of_them():
        return {await process.authorization() for process in processes}

    assert await all_of_them() == {"Bearer access-1"}
    time.go(DAY)
    assert await all_of_them() == {"Bearer access-2"}
    assert all([await process.renewed("Bearer access-2") for process in processes])
    assert await all_of_them() == {"Bearer access-3"}
    assert vendor.kinds == ["password", "refresh_token", "refresh_token"]


async def test_a_process_that_stands_still_does_not_stop_the_others(sign_in, store, time, vendor):
    """The lock is waited for, and then done without: it is worth a password grant, not a halt."""
    async with store.alone(time.clock):
        with capture_logs() as logs:
            assert await sign_in().authorization() == "Bearer access-1"
    assert time.passed >= 1000 + 100
    assert [entry["event"] for entry in logs] == ["token.not_locked"]
    assert vendor.kinds == ["password"]


async def test_nobody_else_can_read_it(sign_in, folder):
    """The folder is the owner's alone, and so is the file; nothing else is left in it."""
    old = os.umask(0)
    try:
        await sign_in().authorization()
    finally:
        os.umask(old)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()} == {
        "lab.json": 0o600,
        "lab.lock": 0o600,
    }


async def test_a_folder_that_is_too_open_is_closed(sign_in, folder):
    """A folder that others could enter is the owner's alone after the first token."""
    folder.mkdir(parents=True)
    folder.chmod(0o755)
    await sign_in().authorization()
    assert folder.stat().st_mode & 0o777 == 0o700


def _world_readable(path):
    path.chmod(0o644)


def _link(path):
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def _pipe(path):
    path.unlink()
    os.mkfifo(path, 0o600)


def _folder(path):
    path.unlink()
    path.mkdir(0o700)


def _writes(content):
    return lambda path: path.write_bytes(content)


@pytest.mark.parametrize(
    "spoil",
    [
        _world_readable,
        _link,
        _pipe,
        _writes(b""),
        _writes(b'{"owner": "x", "token"'),
        _writes(b"\xff\x00"),
        _writes(b"[1]"),
        _writes(b'{"token": {"access": 1}}'),
        _writes(b"[" * 50_000),
    ],
)
async def test_a_file_that_cannot_be_trusted_is_replaced(sign_in, vendor, folder, spoil):
    """Whatever became of the file: a warning, one password grant, and a good file again."""
    await sign_in().authorization()
    spoil(folder / "lab.json")
    with capture_logs() as logs:
        assert await sign_in().authorization() == "Bearer access-2"
    assert [(entry["event"], entry["log_level"]) for entry in logs] == [("token.ignored", "warning")]
    assert vendor.kinds == ["password", "password"]
    assert await sign_in().authorization() == "Bearer access-2"


async def test_anothers_file_is_not_trusted(sign_in, store, monkeypatch):
    """A token that another user of the machine put there is not used."""
    await sign_in().authorization()
    assert store.load() is not None
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with capture_logs() as logs:
        assert store.load() is None
    assert "another user" in logs[0]["reason"]


async def test_a_file_that_cannot_be_written_is_no_error(sign_in, folder):
    """Without a place for the file the token serves this process."""
    (folder / "lab.json").mkdir(parents=True)
    grant = sign_in()
    with capture_logs() as logs:
        assert await grant.authorization() == "Bearer access-1"
        assert await grant.authorization() == "Bearer access-1"
    assert {entry["event"] for entry in logs} == {"token.ignored", "token.not_saved"}
    assert [path.name for path in folder.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize(
    ("host", "account"),
    [
        ("https://other.example", ACCOUNT),
        (HOST, Account("other-client", "c1ient-5ecret", "lab@example.org", "pa55word")),
        (HOST, Account("lab-client", "c1ient-5ecret", "other@example.org", "pa55word")),
    ],
)
async def test_a_changed_account_does_not_use_anothers_token(sign_in, vendor, folder, host, account):
    """A token belongs to host, client and user: after a change of one of them it is not sent."""
    await sign_in().authorization()
    changed = sign_in(account, TokenStore(folder, "lab", host, account))
    assert await changed.authorization() == "Bearer access-2"
    assert vendor.kinds == ["password", "password"]


async def test_no_secret_is_shown(sign_in, store, time, vendor):
    """Neither a repr nor a log line nor a file name has a token or a password."""
    grant = sign_in()
    with capture_logs() as logs:
        await grant.authorization()
        vendor.failures["refresh_token"] = TROUBLE
        time.go(DAY - 30)
        await grant.authorization()
        vendor.failures["refresh_token"] = REFUSED
        time.go(30)
        await grant.authorization()
    assert len(logs) == 2
    shown = f"{logs!r} {grant!r} {store!r} {store.load()!r} {ACCOUNT!r}"
    assert not any(secret in shown for secret in SECRETS)


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(
    st.fixed_dictionaries(
        {}, optional={"access": JSON, "refresh": JSON, "obtained_at": JSON, "lifetime": JSON}
    )
)
def test_any_content_is_a_token_or_none(plain):
    """A file may hold anything: it never is an error, and a token's times are numbers."""
    token = Token.read(plain)
    assert token is None or token.remaining(0.0) <= max(token.lifetime, 0.0)
