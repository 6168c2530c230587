"""Heartbeats that never stop by themselves, and accounts that one process at a time may touch."""

# ruff: noqa: ARG002, ARG005 - the doubles take what the protocols give
from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
import structlog.testing

from sync.engine import keeper
from sync.engine.keeper import Permits, keep
from sync.engine.troubles import WAREHOUSE, Troubles
from sync.errors import AccountBusy, ConfigurationError, LeaseLost, StorageUnavailable

HANG_S = 30
LEASE = timedelta(seconds=60)
GONE = StorageUnavailable("PostgreSQL: gone")


class Worker:
    """Beats as it is told; the last answer is that it is dead."""

    def __init__(self, *answers):
        self.answers = list(answers)

    async def beat(self):
        """Return or raise the next answer."""
        answer = self.answers.pop(0) if self.answers else LeaseLost("taken for dead")
        if isinstance(answer, Exception):
            raise answer
        return answer


class Leases:
    """Accounts that are held by others, and calls about them."""

    def __init__(self, *busy, error=None):
        self.busy = set(busy)
        self.error = error
        self.claimed = []
        self.released = []

    async def claim(self, source, accounts, work, cycle=None, *, retry_failed=False):
        """Take what is not busy."""
        self.claimed.append((source, tuple(accounts), work, cycle, retry_failed))
        return set(accounts) - self.busy

    async def release(self, source, account, *, done, failed=None):
        """Note what is given back."""
        self.released.append((source, account, done, failed))
        if self.error:
            raise self.error

    async def holder(self, source, account):
        """Name whoever holds what is busy."""
        return "`nightshift run` on host7 (process 12)" if account in self.busy else None


@pytest.fixture
def slept(monkeypatch):
    """Return the list of what the keeper slept, which takes no time here; jitter is at its most."""
    lengths = []
    sleep = asyncio.sleep

    async def note(seconds):
        lengths.append(seconds)
        await sleep(0)

    monkeypatch.setattr(keeper.asyncio, "sleep", note)
    monkeypatch.setattr(keeper.random, "uniform", lambda low, high: high)
    return lengths


async def kept(*answers, troubles=None, freed=lambda: None, lease=LEASE):
    """Keep a worker until its answers are used up and others have taken over."""
    with pytest.raises(LeaseLost, match="taken for dead"):
        await keep(Worker(*answers), lease, troubles or Troubles(), freed=freed)


async def test_four_heartbeats_a_lease(slept):
    """Between two of them a quarter of the lease passes."""
    await kept([], [], [])
    assert slept == [15.0] * 3


async def test_to_be_taken_for_dead_is_an_error(slept):
    """Who is told that others have taken over does not go on."""
    await kept()
    assert slept == []


async def test_what_became_free_is_told(slept):
    """Whenever others left accounts behind, and only then, somebody is told."""
    calls = []
    await kept([], ["silent one"], [], ["one", "two"], freed=lambda: calls.append(len(slept)))
    assert calls == [1, 3]


@pytest.mark.parametrize("refusal", [GONE, ConfigurationError("locked out")], ids=["away", "refuses"])
async def test_a_warehouse_that_is_away_is_asked_again(slept, refusal):
    """Sooner than a heartbeat at first, then twice as late each time up to a heartbeat; then as before."""
    troubles = Troubles()
    with structlog.testing.capture_logs() as logs:
        await kept([], *[refusal] * 6, [], refusal, [], troubles=troubles)
    assert slept == [15.0, 1.0, 2.0, 4.0, 8.0, 15.0, 15.0, 15.0, 1.0, 15.0]
    assert [(entry["event"], entry["subject"]) for entry in logs] == [
        ("outage.began", WAREHOUSE),
        ("outage.ended", WAREHOUSE),
        ("outage.began", WAREHOUSE),
        ("outage.ended", WAREHOUSE),
    ]
    assert not troubles.open


async def test_waits_are_spread(monkeypatch):
    """Processes that lost the same warehouse do not all come back at the same moment."""
    lengths = []
    sleep = asyncio.sleep

    async def note(seconds):
        lengths.append(seconds)
        await sleep(0)

    monkeypatch.setattr(keeper.asyncio, "sleep", note)
    await kept(*[GONE] * 50)
    assert 0.5 <= lengths[0] <= 1.0
    assert all(7.5 <= length <= 15.0 for length in lengths[10:])
    assert len(set(lengths)) > 25


async def test_a_short_lease_is_never_outwaited(slept):
    """A heartbeat that failed is repeated no later than the next one would have come."""
    await kept(GONE, GONE, [], lease=timedelta(seconds=2))
    assert slept == [0.5, 0.5, 0.5]


async def test_a_defect_surfaces(slept):
    """What nobody expected is not taken for an outage."""
    with pytest.raises(ZeroDivisionError):
        await keep(Worker(ZeroDivisionError()), LEASE, Troubles())


# --- permits ---------------------------------------------------------------------------------------


async def test_a_permit_is_held_meanwhile():
    """The account's lease is taken before, whatever was done when, and given back after."""
    leases = Leases()
    async with Permits(leases, LEASE).hold("beddit", "alice"):
        assert leases.claimed == [("beddit", ("alice",), "command", None, False)]
        assert leases.released == []
    assert leases.released == [("beddit", "alice", True, None)]


async def test_a_busy_account_is_waited_for(slept):
    """It is asked for again until it is free; the first time it is said who holds it."""
    leases = Leases("alice")
    claim = leases.claim

    async def third_time_free(*args, **options):
        if len(leases.claimed) == 2:
            leases.busy.clear()
        return await claim(*args, **options)

    leases.claim = third_time_free
    with structlog.testing.capture_logs() as logs:
        async with Permits(leases, LEASE).hold("beddit", "alice"):
            assert slept == [1.0, 1.0]
    assert logs == [
        {
            "event": "account.waiting",
            "log_level": "info",
            "source": "beddit",
            "account": "alice",
            "holder": "`nightshift run` on host7 (process 12)",
        }
    ]


async def test_an_account_that_stays_busy_is_left_alone():
    """When patience ends the error says who works on it, and nothing is given back that was never held."""
    leases = Leases("alice")
    with pytest.raises(
        AccountBusy, match=r"`nightshift run` on host7 .process 12. works on account alice of beddit"
    ):
        async with Permits(leases, timedelta()).hold("beddit", "alice"):
            pytest.fail("it was held by two")
    assert leases.released == []


async def test_a_holder_that_left_just_then_has_no_name():
    """Where nobody holds it any more when it is asked who did, it is still busy for this time."""
    leases = Leases("alice")

    async def nobody(source, account):
        return None

    leases.holder = nobody
    with pytest.raises(AccountBusy, match=r"^another process works on account alice"):
        async with Permits(leases, timedelta()).hold("beddit", "alice"):
            pytest.fail("it was held by two")


@pytest.mark.parametrize(
    "error", [ValueError("defect"), asyncio.CancelledError()], ids=["error", "cancelled"]
)
async def test_a_permit_is_given_back_after_errors(error):
    """Whatever ends the work, the account is free again."""
    leases = Leases()
    with pytest.raises(type(error)):
        async with Permits(leases, LEASE).hold("beddit", "alice"):
            raise error
    assert leases.released == [("beddit", "alice", True, None)]


async def test_what_cannot_be_given_back_is_no_error():
    """The work is done; a warehouse that went away in between learns later that the account is free."""
    async with Permits(Leases(error=GONE), LEASE).hold("beddit", "alice"):
        pass
