"""Signing in to the emulated cloud: expiry in mid-work, refusals, permissions, and several processes."""

from __future__ import annotations

import asyncio
import hashlib
import json
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from sync.emulators.bace import BaceCloud, Behaviour, Fault, Fleet, Refresh
from sync.errors import AuthenticationError, SourceUnavailable
from sync.sources.bace import oauth
from sync.sources.bace.client import BaceClient, open_client
from sync.sources.bace.oauth import PasswordGrant, TokenStore
from sync.sources.bace.query import Query
from sync.sources.bace.settings import Account, BaceSettings
from sync.transport import Clock, HostGates, HttpClient, Limits

QUICK = Limits(backoff_initial_s=0, backoff_max_s=0, attempts=3, requests_per_second=10_000)
DAY = 86_400


@dataclass
class Time:
    """The vendor's clock."""

    now: float = 1_700_000_000.0

    def __call__(self) -> float:
        """Unix seconds."""
        return self.now


@pytest.fixture
def time() -> Time:
    """The vendor's clock."""
    return Time()


@pytest.fixture
async def cloud(time) -> AsyncIterator[BaceCloud]:
    """A small account."""
    fleet = Fleet(sessions=5, first_start=1_696_118_400, hours=(0.1, 0.2))
    async with BaceCloud(fleet, behaviour=Behaviour(), clock=time) as cloud:
        yield cloud


@pytest.fixture
def account(cloud) -> Account:
    """The account as it is configured."""
    given = cloud.account()
    return Account(given.client_id, given.client_secret, given.username, given.password)


@pytest.fixture
async def sign_in(cloud, account, tmp_path) -> AsyncIterator[Callable[..., BaceClient]]:
    """Give a function that makes the client of a new process."""
    clients = []

    def start(account: Account = account, tokens: Path = tmp_path / "tokens") -> BaceClient:
        settings = BaceSettings(cloud.base_url, {"lab": account}, tokens)
        clients.append(open_client(settings, "lab", gates=HostGates(), limits=QUICK, user_agent="test"))
        return clients[-1]

    yield start
    for client in clients:
        await client.aclose()


def asked(cloud: BaceCloud) -> tuple[int, int, int]:
    """Password grants, refreshes, and requests to the API."""
    password, refresh = len(cloud.grants("password")), len(cloud.grants("refresh_token"))
    return password, refresh, len(cloud.requests) - password - refresh


async def test_a_token_that_ends_in_mid_work_is_exchanged(sign_in, cloud, time):
    """Twenty requests at once meet an expired token: each is answered, and the token is refreshed once."""
    client = sign_in()
    await client.sessions(Query())
    time.now += DAY
    pages = await asyncio.gather(*(client.sessions(Query()) for _ in range(20)))
    assert {page.total for page in pages} == {5}
    password, refresh, api = asked(cloud)
    assert (password, refresh) == (1, 1)
    assert api <= 1 + 2 * 20


@pytest.mark.parametrize("how", list(Refresh))
async def test_every_manner_of_refresh_is_lived_with(sign_in, cloud, time, how):
    """Whatever the vendor does to refresh tokens, four days cost at most two exchanges each."""
    cloud.behaviour = replace(cloud.behaviour, refresh=how)
    client = sign_in()
    for _ in range(4):
        assert (await client.sessions(Query())).total == 5
        time.now += DAY
        time.now += 1
    password, refresh, _ = asked(cloud)
    assert password + refresh <= 1 + 3 * 2
    assert password == {"rotated": 1, "same": 1, "kept": 1}.get(how, password)


@pytest.mark.parametrize("oauth_errors", [False, True])
async def test_a_refused_refresh_token_costs_a_password_grant(sign_in, cloud, oauth_errors):
    """Both shapes of error bodies mean the same: sign in again, and nobody notices."""
    cloud.behaviour = replace(cloud.behaviour, oauth_errors=oauth_errors)
    client = sign_in()
    await client.sessions(Query())
    cloud.revoke_tokens()
    assert (await client.sessions(Query())).total == 5
    assert asked(cloud) == (2, 1, 3)


@pytest.mark.parametrize("oauth_errors", [False, True])
@pytest.mark.parametrize("wrong", ["client_id", "client_secret", "username", "password"])
async def test_wrong_credentials_cost_one_request(sign_in, cloud, account, wrong, oauth_errors):
    """Ten requests and ten more with something wrong: one request, and a message that says what to check."""
    cloud.behaviour = replace(cloud.behaviour, oauth_errors=oauth_errors)
    client = sign_in(replace(account, **{wrong: "wr0ng"}))
    for _ in range(2):
        outcomes = await asyncio.gather(
            *(client.sessions(Query()) for _ in range(10)), return_exceptions=True
        )
        assert {type(outcome) for outcome in outcomes} == {AuthenticationError}
    assert asked(cloud) == (1, 0, 0)
    message = str(outcomes[0])
    assert "client_id, client_secret, username and password" in message
    assert "wr0ng" not in message
    assert account.client_secret not in message


async def test_a_password_that_was_changed_meanwhile_is_offered_once(sign_in, cloud, account, time):
    """When neither refresh token nor password works any more, that is found out once."""
    client = sign_in()
    await client.sessions(Query())
    cloud.add_account(replace(cloud.account(), password="new"))
    cloud.revoke_tokens()
    for _ in range(5):
        with pytest.raises(AuthenticationError):
            await client.sessions(Query())
    password, refresh, _ = asked(cloud)
    assert (password, refresh) == (2, 1)


async def test_a_refused_password_is_offered_again_after_six_hours(cloud, account, time, tmp_path):
    """Until then nothing is asked; a vendor that was wrong is believed again without a new start."""
    clock = Clock(lambda: time.now, lambda: datetime.fromtimestamp(time.now, UTC), _no_sleep)
    store = TokenStore(tmp_path / "tokens", "lab", cloud.base_url, account)
    cloud.add_account(replace(cloud.account(), password="another"))
    began = time.now
    async with HttpClient(base_url=cloud.base_url, limits=QUICK) as http:
        grant = PasswordGrant(http, account, store, clock=clock)
        for hours, offers in [(0, 1), (1, 1), (5.999, 1), (6, 2), (6.001, 2), (11.999, 2)]:
            time.now = began + hours * 3600
            with pytest.raises(AuthenticationError, match="asked again in 6 hours"):
                await grant.authorization()
            assert asked(cloud) == (offers, 0, 0)
        cloud.add_account(cloud.account())
        time.now = began + 12 * 3600
        assert (await grant.authorization()).startswith("Bearer ")
    assert asked(cloud) == (3, 0, 0)


async def _no_sleep(seconds: float) -> None:
    raise AssertionError(f"nothing here waits, let alone for {seconds} s")


@pytest.mark.parametrize("text", [None, "You are not allowed to perform this action."])
async def test_a_missing_permission_costs_little_and_spoils_nothing(sign_in, cloud, text):
    """One endpoint says 401 for ever: it is named, others go on, and the token endpoint is left alone."""
    forbidden = frozenset({"data-downsampled"})
    cloud.behaviour = replace(cloud.behaviour, forbidden=forbidden, permission_text=text)
    client = sign_in()
    for _ in range(10):
        with pytest.raises(AuthenticationError) as caught:
            await client.data(Query())
        assert (await client.sessions(Query())).total == 5
    message = str(caught.value)
    assert "/api/v2/data-downsampled was answered with 401" in message
    assert "the account lacks the permission" in message
    password, refresh, api = asked(cloud)
    assert (password, refresh) == (1, 3)
    assert api == 10 + 10 + 3


@pytest.mark.parametrize("refresh", ["good", "revoked"])
async def test_a_rejected_token_that_is_given_anew_is_tried_once_more(sign_in, cloud, tmp_path, refresh):
    """A vendor that starts anew may give the very token that it had just forgotten: nobody notices."""
    client = sign_in()
    await client.sessions(Query())
    cloud.faults.add(Fault(status=401), path="/api/v2/data-session")
    if refresh == "revoked":
        cloud.faults.add(Fault(status=400), path="/oauth2/token")
    cloud.faults.add(Fault(status=200, body=_the_same_again(tmp_path)), path="/oauth2/token")
    assert (await client.sessions(Query())).total == 5
    assert len(cloud.faults) == 0
    assert asked(cloud) == (1 + (refresh == "revoked"), 1, 3)


async def test_the_same_token_for_ever_costs_little(sign_in, cloud, tmp_path):
    """Where every renewal gives the token that is rejected, the token endpoint is left alone after three."""
    cloud.behaviour = replace(cloud.behaviour, forbidden=frozenset({"data-downsampled"}))
    client = sign_in()
    await client.sessions(Query())
    cloud.faults.add(Fault(status=200, body=_the_same_again(tmp_path)), times=1000, path="/oauth2/token")
    for _ in range(10):
        with pytest.raises(AuthenticationError, match="data-downsampled was answered with 401"):
            await client.data(Query())
        assert (await client.sessions(Query())).total == 5
    password, refresh, api = asked(cloud)
    assert password + refresh == 1 + 3
    assert api == 1 + 10 + 10 + 3


def _the_same_again(tmp_path: Path) -> bytes:
    """What a token endpoint answers that gives the stored token anew."""
    stored = json.loads((tmp_path / "tokens" / "bace-lab.json").read_text())["token"]
    return json.dumps({"access_token": stored["access"], "expires_in": DAY}).encode()


async def test_trouble_at_the_token_endpoint_is_bounded(sign_in, cloud):
    """While no token can be had, ten requests cost as many exchanges as one of them has attempts, each."""
    cloud.faults.add(Fault(status=503), times=1000, path="/oauth2/token")
    client = sign_in()
    outcomes = await asyncio.gather(*(client.sessions(Query()) for _ in range(10)), return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {SourceUnavailable}
    assert len(cloud.requests) <= 10 * QUICK.attempts
    cloud.faults.clear()
    assert (await client.sessions(Query())).total == 5


async def test_an_answer_that_was_lost_costs_a_password_grant(sign_in, cloud, time):
    """The vendor used the refresh token up, and its answer never came: the next attempt signs in."""
    client = sign_in()
    await client.sessions(Query())
    cloud.faults.add(Fault(cut_after=10), path="/oauth2/token")
    time.now += DAY
    assert (await client.sessions(Query())).total == 5
    assert asked(cloud)[:2] == (2, 1)


@pytest.mark.parametrize(
    "fault",
    [Fault(status=500), Fault(status=503), Fault(status=200, body=b"{}"), Fault(status=200, body=b"<html>")],
    ids=["500", "503", "no token", "garbage"],
)
async def test_a_refresh_that_fails_for_ever_costs_a_password_grant(sign_in, cloud, time, fault):
    """However the vendor says that a refresh token is no good: each need costs one refresh, one password."""
    client = sign_in()
    await client.sessions(Query())
    for need in range(1, 4):
        time.now += DAY
        cloud.faults.add(fault, path="/oauth2/token")
        assert (await client.sessions(Query())).total == 5
        assert len(cloud.faults) == 0
        assert asked(cloud)[:2] == (1 + need, need)


async def test_a_restart_asks_for_no_token(sign_in, cloud, time):
    """The stored token goes on; the documents ask not to create new ones while the old one is usable."""
    await sign_in().sessions(Query())
    time.now += 3600
    await sign_in().sessions(Query())
    assert asked(cloud) == (1, 0, 2)


# --- what a stored token was got with -------------------------------------------------------------


@pytest.mark.parametrize("wrong", ["client_id", "client_secret", "username", "password"])
async def test_a_stored_token_does_not_hide_a_wrong_secret(sign_in, cloud, account, wrong):
    """What is mistyped is refused at once; the token stays there for whoever has it right."""
    await sign_in().sessions(Query())
    with capture_logs() as logs:
        mistyped = sign_in(replace(account, **{wrong: "m1styped"}))
        with pytest.raises(AuthenticationError, match="The vendor gives no token") as caught:
            await mistyped.server_time()
    assert asked(cloud) == (2, 0, 1)
    assert [entry["event"] for entry in logs] == ["token.ignored"]
    values = {"m1styped", account.client_secret, account.password}
    assert not any(value in f"{logs!r} {caught.value!r}" for value in values)
    await sign_in().sessions(Query())
    assert asked(cloud) == (2, 0, 2)


async def test_a_new_password_signs_in_at_once(sign_in, cloud, account):
    """After a rotation the old password's token is not used, though it would serve; the new one's is kept."""
    await sign_in().sessions(Query())
    cloud.add_account(replace(cloud.account(), password="rotated"))
    for _ in range(2):
        await sign_in(replace(account, password="rotated")).sessions(Query())
    assert asked(cloud) == (2, 0, 3)


async def test_a_part_of_one_secret_is_not_a_part_of_the_next(cloud, account, tmp_path):
    """Secrets that read alike one after the other are different secrets."""
    between = account.username
    pairs = [("a", f"b{between}c"), (f"a{between}b", "c")]
    accounts = [replace(account, client_secret=secret, password=password) for secret, password in pairs]
    stores = [TokenStore(tmp_path / "tokens", "lab", cloud.base_url, each) for each in accounts]
    token = oauth.Token("access", "refresh", 0.0, DAY)
    stores[0].save(token)
    assert [store.load() for store in stores] == [token, None]


@pytest.mark.parametrize(
    "fingerprint",
    ["absent", None, 5, [], {}, "", "zz", "\ud800", "00", "00" * 16, "00" * 80, "cut", "longer"],
    ids=repr,
)
async def test_a_file_without_a_good_fingerprint_costs_one_password_grant(
    sign_in, cloud, tmp_path, fingerprint
):
    """A file of an older nightshift, or one that was spoilt, is replaced: a warning, and no error."""
    await sign_in().sessions(Query())
    file = tmp_path / "tokens" / "bace-lab.json"
    content = json.loads(file.read_text())
    good = content.pop("got_with")
    if fingerprint != "absent":
        content["got_with"] = {"cut": good[:-2], "longer": f"{good}00"}.get(str(fingerprint), fingerprint)
    file.write_text(json.dumps(content))
    with capture_logs() as logs:
        for _ in range(2):
            assert (await sign_in().sessions(Query())).total == 5
    assert [(entry["event"], entry["log_level"]) for entry in logs] == [("token.ignored", "warning")]
    assert asked(cloud) == (2, 0, 3)


async def test_a_fingerprint_gives_nothing_away(sign_in, cloud, time, tmp_path, monkeypatch):
    """It is salted afresh for each token, takes 16 MiB and 2**14 rounds, and never holds up other work."""
    calls = []

    def watched(secret, **options):
        calls.append((threading.current_thread() is threading.main_thread(), options))
        return hashlib.scrypt(secret, **options)

    monkeypatch.setattr(oauth, "scrypt", watched)
    client, fingerprints = sign_in(), set()
    for _ in range(3):
        await client.sessions(Query())
        time.now += DAY
        fingerprints.add(json.loads((tmp_path / "tokens" / "bace-lab.json").read_text())["got_with"])
    assert len({fingerprint[:32] for fingerprint in fingerprints}) == 3
    assert len({fingerprint[32:] for fingerprint in fingerprints}) == 3
    assert len(calls) >= 3
    assert not any(in_main_thread for in_main_thread, _ in calls)
    assert all(options["n"] >= 2**14 and options["r"] >= 8 for _, options in calls)
    assert asked(cloud)[:2] == (1, 2)


async def test_no_log_and_no_error_has_a_secret(sign_in, cloud, account, time, tmp_path):
    """Through expiry, refusal and loss, nothing that is written names a token or a password."""
    client = sign_in()
    with capture_logs() as logs:
        await client.sessions(Query())
        cloud.revoke_tokens()
        await client.sessions(Query())
        cloud.add_account(replace(cloud.account(), password="new"))
        cloud.revoke_tokens()
        with pytest.raises(AuthenticationError) as caught:
            await client.sessions(Query())
    sent = {request.headers.get("authorization", "Bearer -").split()[1] for request in cloud.requests}
    stored = (tmp_path / "tokens" / "bace-lab.json").read_text()
    secrets = {account.password, account.client_secret, *(sent - {"-"})}
    assert len(secrets) == 4
    assert any(token in stored for token in sent)
    assert account.password not in stored
    assert account.client_secret not in stored
    assert logs
    assert not any(secret in f"{logs!r} {caught.value!r} {client!r}" for secret in secrets)


# --- processes ------------------------------------------------------------------------------------

WORKER = """
import asyncio, os, sys
from pathlib import Path
from sync.sources.bace.client import open_client
from sync.sources.bace.oauth import TokenStore
from sync.sources.bace.query import Query
from sync.sources.bace.settings import Account, BaceSettings
from sync.transport import HostGates, Limits

base_url, tokens, dies, *account = sys.argv[1:]
if dies == "dies":
    TokenStore.save = lambda *_: os._exit(9)

async def work():
    settings = BaceSettings(base_url, {"lab": Account(*account)}, Path(tokens))
    client = open_client(settings, "lab", gates=HostGates(), limits=Limits(), user_agent="worker")
    print((await client.sessions(Query())).total)
    await client.aclose()

asyncio.run(work())
"""


@pytest.fixture
def worker(cloud, account, tmp_path) -> Callable[..., Awaitable[tuple[int, list[bytes]]]]:
    """Give a function that runs a process of its own, which asks for sessions."""
    given = (account.client_id, account.client_secret, account.username, account.password)

    async def run(dies: str = "lives") -> tuple[int, list[bytes]]:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            WORKER,
            cloud.base_url,
            str(tmp_path / "tokens"),
            dies,
            *given,
            cwd=Path(__file__).parents[3],
            stdout=asyncio.subprocess.PIPE,
        )
        out, _ = await process.communicate()
        return process.returncode, out.splitlines()[-1:]

    return run


async def test_processes_share_one_token(worker, sign_in, cloud, time):
    """Four processes at once sign in once; when the token has ended, they refresh it once."""
    assert await asyncio.gather(*(worker() for _ in range(4))) == [(0, [b"5"])] * 4
    assert asked(cloud) == (1, 0, 4)
    cloud.revoke_tokens(refresh=False)
    assert await asyncio.gather(*(worker() for _ in range(4))) == [(0, [b"5"])] * 4
    assert asked(cloud)[:2] == (1, 1)


async def test_a_token_that_another_process_refreshed_is_known_by_its_credentials(
    worker, sign_in, cloud, account
):
    """Whoever has the same credentials goes on with it, and a mistyped password is still refused."""
    client = sign_in()
    await client.sessions(Query())
    cloud.revoke_tokens(refresh=False)
    assert await worker() == (0, [b"5"])
    assert asked(cloud)[:2] == (1, 1)
    for each in (client, sign_in()):
        assert (await each.sessions(Query())).total == 5
    assert asked(cloud)[:2] == (1, 1)
    with pytest.raises(AuthenticationError, match="The vendor gives no token"):
        await sign_in(replace(account, password="m1styped")).sessions(Query())
    assert asked(cloud)[:2] == (2, 1)
    assert await worker() == (0, [b"5"])
    assert asked(cloud)[:2] == (2, 1)


async def test_a_process_that_is_killed_between_use_and_save_costs_a_password_grant(worker, cloud):
    """The refresh token is used up and the new one lost: the next process signs in, and goes on."""
    assert await worker() == (0, [b"5"])
    cloud.revoke_tokens(refresh=False)
    assert await worker("dies") == (9, [])
    assert asked(cloud)[:2] == (1, 1)
    assert await worker() == (0, [b"5"])
    assert asked(cloud)[:2] == (2, 2)
    assert await worker() == (0, [b"5"])
    assert asked(cloud)[:2] == (2, 2)
