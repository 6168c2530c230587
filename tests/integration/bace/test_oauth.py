"""Signing in to the emulated cloud: expiry in mid-work, refusals, permissions, and several processes."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from sync.emulators.bace import BaceCloud, Behaviour, Fault, Fleet, Refresh
from sync.errors import AuthenticationError, SourceUnavailable
from sync.sources.bace.client import BaceClient, open_client
from sync.sources.bace.query import Query
from sync.sources.bace.settings import Account, BaceSettings
from sync.transport import HostGates, Limits

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
