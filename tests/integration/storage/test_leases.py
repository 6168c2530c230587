"""Which process works on which account: one at a time, and once a cycle."""

from __future__ import annotations

import asyncio
import os
import re
import socket
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta

import pytest

from sync.errors import StorageUnavailable
from sync.model import Task
from sync.storage.database import open_pool
from sync.storage.leases import PostgresLeases
from sync.storage.ledger import PostgresLedger
from sync.storage.workers import PostgresWorker

LEASE = timedelta(minutes=10)
FIRST = datetime(2024, 1, 1, tzinfo=UTC)
SECOND = FIRST + timedelta(minutes=15)
BOTH = ("alice", "bob")

Join = Callable[[], Awaitable[PostgresLeases]]


@pytest.fixture
async def join(database: str) -> AsyncIterator[Join]:
    """Return a function that lets another process join; it returns its leases."""
    async with AsyncExitStack() as stack:

        async def one() -> PostgresLeases:
            worker = PostgresWorker(database, LEASE)
            stack.push_async_callback(worker.aclose)
            await worker.enrol("run", "1.2.3")
            pool = await stack.enter_async_context(open_pool(database, size=2, name=worker.name))
            return PostgresLeases(pool, worker.number)

        yield one


async def claimed(leases, *accounts, work="once", cycle=FIRST, **options):
    """Ask what is due and claim it."""
    due = await leases.due("beddit", accounts, work, cycle, **options)
    return await leases.claim("beddit", due, work, cycle, **options)


async def test_everybody_is_due_at_first(join):
    """Accounts that were never seen are due, in the order given; sources do not know each other's."""
    leases = await join()
    assert await leases.due("beddit", ["carl", "alice", "bob"], "once", FIRST) == ["carl", "alice", "bob"]
    assert await leases.due("beddit", [], "once", FIRST) == []
    assert await leases.claim("beddit", ["bob", "carl"], "once", FIRST) == {"bob", "carl"}
    assert await leases.due("bace", ["bob"], "once", FIRST) == ["bob"]


async def test_an_account_is_held_by_one(join):
    """What one process claimed is neither due for another nor claimed by it, whatever work or cycle."""
    first, second = await join(), await join()
    assert await claimed(first, "alice") == {"alice"}
    for work, cycle in (("once", FIRST), ("once", SECOND), ("retry", FIRST)):
        assert await second.due("beddit", BOTH, work, cycle) == ["bob"]
        assert await second.claim("beddit", ["alice"], work, cycle) == set()
    assert await second.claim("beddit", BOTH, "command") == {"bob"}
    assert await second.claim("beddit", BOTH, "command", retry_failed=True) == set()


async def test_an_account_is_not_claimed_twice_by_its_holder(join):
    """A process that works on an account does not get it again, for no kind of work."""
    leases = await join()
    assert await claimed(leases, "alice") == {"alice"}
    assert await claimed(leases, "alice", work="retry") == set()
    assert await leases.claim("beddit", ["alice"], "command") == set()


async def test_once_a_cycle(join):
    """What was done is due again only in the next cycle; a cycle that has passed by is not made up for."""
    leases = await join()
    await claimed(leases, "alice", cycle=SECOND)
    await leases.release("beddit", "alice", done=True)
    assert await claimed(leases, "alice", cycle=SECOND) == set()
    assert await claimed(leases, "alice", cycle=FIRST) == set()
    assert await claimed(leases, "alice", cycle=SECOND + timedelta(microseconds=1)) == {"alice"}


async def test_each_kind_of_work_has_its_own_cycles(join):
    """One kind's being done says nothing of the other."""
    leases = await join()
    await claimed(leases, "alice", work="once")
    await leases.release("beddit", "alice", done=True)
    assert await claimed(leases, "alice", work="retry") == {"alice"}
    await leases.release("beddit", "alice", done=False)
    assert await leases.due("beddit", ["alice"], "once", FIRST) == []
    assert await leases.due("beddit", ["alice"], "retry", FIRST) == ["alice"]


async def test_what_is_not_done_is_due_at_once(join):
    """Work that was given back before its end goes on in the same cycle, here or elsewhere."""
    first, second = await join(), await join()
    await claimed(first, "alice")
    await first.release("beddit", "alice", done=False)
    assert await claimed(second, "alice") == {"alice"}


async def test_what_failed_is_due_again_if_asked_for(join):
    """In the same cycle, with ``retry_failed`` alone, and until it succeeds; not knowing changes nothing."""
    leases = await join()
    await claimed(leases, *BOTH)
    await leases.release("beddit", "alice", done=True, failed=True)
    await leases.release("beddit", "bob", done=True, failed=False)
    assert await claimed(leases, *BOTH) == set()
    for end in (None, True, None, False):
        assert await claimed(leases, *BOTH, retry_failed=True) == {"alice"}
        await leases.release("beddit", "alice", done=True, failed=end)
    assert await claimed(leases, *BOTH, retry_failed=True) == set()


async def test_without_a_cycle_all_that_is_free_is_due(join):
    """A command takes an account that was done already, or never seen; its cycles stay as they were."""
    leases = await join()
    await claimed(leases, "alice")
    await leases.release("beddit", "alice", done=True)
    assert await leases.claim("beddit", BOTH, "command") == {"alice", "bob"}
    for account in BOTH:
        await leases.release("beddit", account, done=True)
    assert await leases.due("beddit", BOTH, "once", FIRST) == ["bob"]


async def test_giving_back_what_another_holds_changes_nothing(join, store):
    """Only the holder frees an account, and ends its run."""
    first, second = await join(), await join()
    await claimed(first, "alice")
    run = await PostgresLedger(store.pool, first._worker).begin("beddit", "alice", Task("once"))
    before = await store.everything()
    await second.release("beddit", "alice", done=False, failed=True)
    await second.release("beddit", "never seen", done=True)
    assert await store.everything() == before
    assert run


async def test_a_run_whose_end_was_not_written_down_ends_with_its_lease(join, store):
    """No run is ``running`` for ever because the warehouse was away when it ended; other accounts' go on."""
    leases = await join()
    ledger = PostgresLedger(store.pool, leases._worker)
    await claimed(leases, *BOTH)
    runs = [await ledger.begin("beddit", account, Task("once")) for account in BOTH]
    await leases.release("beddit", "alice", done=True)
    rows = await store.fetch("SELECT * FROM sync.runs WHERE run_id = ANY ($1) ORDER BY run_id", runs)
    assert [(row["outcome"], row["error"]) for row in rows] == [
        ("failed", "the warehouse was away"),
        ("running", None),
    ]
    assert rows[0]["finished_at"] is not None


async def test_the_holder_is_named_for_a_person(join):
    """What it does, where, and since when; nobody where nobody holds it."""
    leases = await join()
    assert await leases.holder("beddit", "alice") is None
    await claimed(leases, "alice")
    holder = await leases.holder("beddit", "alice")
    host, pid = re.escape(socket.gethostname()), os.getpid()
    assert re.fullmatch(
        rf"`nightshift run` on {host} \(process {pid}\) since \d{{4}}-\d\d-\d\d \d\d:\d\d UTC", holder
    )
    await leases.release("beddit", "alice", done=True)
    assert await leases.holder("beddit", "alice") is None


async def test_who_is_no_worker_claims_nothing(join, store):
    """A number that is not among the living gets no account."""
    await join()
    nobody = PostgresLeases(store.pool, 999)
    assert await claimed(nobody, *BOTH) == set()
    assert await nobody.claim("beddit", BOTH, "command") == set()


async def test_when_an_account_was_claimed_is_told_by_the_database(join, store):
    """The instant is the database's, however the client's cycle stands to it."""
    leases = await join()
    await claimed(leases, "alice", cycle=datetime(1999, 1, 1, tzinfo=UTC))
    assert await store.values(
        "SELECT now() - claimed_at < '5 min' AND claimed_at <= now() FROM sync.leases"
    ) == [True]


async def work_off(leases, accounts, cycle, won, holding):
    """Claim a few accounts at a time and give them back, until none is due."""
    while due := await leases.due("beddit", accounts, "once", cycle):
        mine = await leases.claim("beddit", due[:7], "once", cycle)
        assert not mine & holding, "an account was held by two"
        holding |= mine
        won.update(mine)
        for account in mine:
            holding.discard(account)
            await leases.release("beddit", account, done=True, failed=False)


async def test_eight_processes_share_three_hundred_accounts(join):
    """Side by side over three cycles, each account is claimed exactly once a cycle, and none is left."""
    accounts = [f"a{n:03}" for n in range(300)]
    members = await asyncio.gather(*(join() for _ in range(8)))
    for cycle in (FIRST, SECOND, SECOND + timedelta(minutes=15)):
        won: Counter[str] = Counter()
        holding: set[str] = set()
        await asyncio.gather(*(work_off(leases, accounts, cycle, won, holding) for leases in members))
        assert won == Counter(accounts)


async def test_a_warehouse_that_is_away(join):
    """It is told as such, by every call."""
    leases = await join()
    await leases._pool.close()
    for call in (
        leases.due("beddit", BOTH, "once", FIRST),
        leases.claim("beddit", BOTH, "once", FIRST),
        leases.release("beddit", "alice", done=True),
        leases.holder("beddit", "alice"),
    ):
        with pytest.raises(StorageUnavailable):
            await call


async def test_a_clock_that_was_ahead_spoils_nothing(join):
    """A cycle of the far future was no cycle: the account is due for everybody."""
    ahead, right = await join(), await join()
    assert await claimed(ahead, "alice", cycle=datetime(2038, 1, 1, tzinfo=UTC)) == {"alice"}
    await ahead.release("beddit", "alice", done=True, failed=False)
    assert await claimed(right, "alice", cycle=datetime(2027, 1, 1, tzinfo=UTC)) == {"alice"}


async def test_processes_that_meet_new_accounts_do_not_lock_each_other_out(join):
    """However each orders them, nobody deadlocks."""
    accounts = [f"a{number:04}" for number in range(1000)]
    members = [await join() for _ in range(6)]
    orders = [accounts[place:] + accounts[:place] for place in range(0, 600, 100)]
    found = await asyncio.gather(
        *(member.due("beddit", order, "once", FIRST) for member, order in zip(members, orders, strict=True))
    )
    assert found == orders


async def test_what_failed_by_what_may_pass_is_due_again_soon(join, store):
    """In a minute at first, then in twice that time, an hour at most; its cycle stays done until then."""
    member = await join()
    for minutes in (1, 2, 4, 8, 16, 32, 60, 60):
        assert await claimed(member, "alice") == {"alice"}
        await member.release("beddit", "alice", done=True, failed=True, retry=True)
        assert await claimed(member, "alice") == set()
        (row,) = await store.fetch(
            "SELECT round(extract(epoch FROM (retries ->> 'once')::timestamptz - now()) / 60) AS minutes "
            "FROM sync.leases"
        )
        assert row["minutes"] == minutes
        await store.pool.execute("UPDATE sync.leases SET retries = jsonb_build_object('once', now())")
    assert await claimed(member, "alice") == {"alice"}
    await member.release("beddit", "alice", done=True, failed=False)
    assert await claimed(member, "alice") == set()
