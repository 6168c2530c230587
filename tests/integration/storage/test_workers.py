"""Processes that share a warehouse: who lives, who takes over, and what the one may do that was deposed."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import asyncpg
import pytest
import structlog.testing

from sync.errors import LeaseLost, StorageUnavailable
from sync.model import Batch, Progress, Reject, RunOutcome, StreamKey, Tally, Task, Traffic
from sync.storage import workers
from sync.storage.database import open_pool
from sync.storage.leases import PostgresLeases
from sync.storage.ledger import PostgresLedger
from sync.storage.sink import PostgresSink
from sync.storage.workers import PostgresWorker, Silent

HANG_S = 60
LEASE = timedelta(minutes=10)
CYCLE = datetime(2024, 1, 1, tzinfo=UTC)
ALICE = StreamKey("beddit", "alice", "sessions")
ALIVE = "SELECT count(*) FROM pg_stat_activity WHERE pid = ANY ($1::int[])"
OUTCOME = RunOutcome("beddit", "alice", Tally(), Traffic(7, 700))

Found = TypeVar("Found")


@dataclass(slots=True)
class Member:
    """A process: its row, its connections, and what it works with."""

    worker: PostgresWorker
    pool: Any
    leases: PostgresLeases
    ledger: PostgresLedger
    sink: PostgresSink

    async def begin(self, account: str = "alice") -> int:
        """Claim an account and begin a run."""
        await self.leases.due("beddit", [account], "once", CYCLE)
        assert await self.leases.claim("beddit", [account], "once", CYCLE) == {account}
        return await self.ledger.begin("beddit", account, Task("once"))

    async def still(self, call: Callable[[], Awaitable[Found]]) -> Found:
        """Try again what meets a connection that was ended behind our back."""
        async with asyncio.timeout(HANG_S):
            while True:
                try:
                    return await call()
                except StorageUnavailable:
                    await asyncio.sleep(0)


Join = Callable[..., Awaitable[Member]]


@pytest.fixture
async def join(database: str) -> AsyncIterator[Join]:
    """Return a function that lets another process join."""
    async with AsyncExitStack() as stack:

        async def one(lease: timedelta = LEASE) -> Member:
            worker = PostgresWorker(database, lease)
            stack.push_async_callback(worker.aclose)
            await worker.enrol("run", "1.2.3")
            pool = await stack.enter_async_context(open_pool(database, name=worker.name))
            return Member(
                worker,
                pool,
                PostgresLeases(pool, worker.number),
                PostgresLedger(pool, worker.number),
                PostgresSink(pool),
            )

        yield one
    if left := asyncio.all_tasks() - {asyncio.current_task()}:  # asyncpg tells servers what it gives up
        await asyncio.wait(left, timeout=HANG_S)


@pytest.fixture
def silence(other: asyncpg.Connection) -> Callable[..., Awaitable[None]]:
    """Return a function that makes a process have been silent for so long."""

    async def make(member: Member, length: timedelta = LEASE + timedelta(seconds=1)) -> None:
        await other.execute(
            "UPDATE sync.workers SET heartbeat_at = now() - $2::interval WHERE worker_id = $1",
            member.worker.number,
            length,
        )

    return make


async def connections(other: asyncpg.Connection, name: str) -> set[int]:
    """Return the back-ends that call themselves so."""
    rows = await other.fetch(
        "SELECT pid FROM pg_stat_activity WHERE application_name = $1 AND datname = current_database()", name
    )
    return {row["pid"] for row in rows}


async def ended(other: asyncpg.Connection, pids: set[int]) -> None:
    """Wait for back-ends that were told to end: a heartbeat does not, and it may take them a moment."""
    async with asyncio.timeout(HANG_S):
        while await other.fetchval(ALIVE, pids):  # noqa: ASYNC110 - only the server knows
            await asyncio.sleep(0.01)


# --- the living ------------------------------------------------------------------------------------


async def test_a_process_has_a_row_of_its_own(join, other):
    """It says what it does, where, and which nightshift it is; its connections carry its number."""
    first, second = await join(), await join()
    rows = await other.fetch("SELECT * FROM sync.workers ORDER BY worker_id")
    assert [row["worker_id"] for row in rows] == [first.worker.number, second.worker.number]
    facts = ("run", socket.gethostname(), os.getpid(), "1.2.3", LEASE)
    assert [tuple(rows[0][name] for name in ("command", "host", "pid", "version", "lease"))] == [facts]
    assert first.worker.name == f"nightshift:{first.worker.number}" != second.worker.name
    assert len(await connections(other, first.worker.name)) == 2


async def test_a_heartbeat_is_told_by_the_database(join, other, silence):
    """It is the database's time of just now, and finds nobody silent among the living."""
    first, _ = await join(), await join()
    await silence(first, timedelta(minutes=5))
    async with other.transaction():
        assert await first.worker.beat() == []
    age = "SELECT now() - heartbeat_at FROM sync.workers WHERE worker_id = $1"
    assert await other.fetchval(age, first.worker.number) < timedelta(minutes=1)


async def test_each_is_silent_by_its_own_lease(join, silence):
    """How long a process may be silent is what it said itself, whoever looks at it."""
    patient, hasty = await join(timedelta(hours=1)), await join(timedelta(seconds=3))
    await silence(patient, timedelta(minutes=30))
    assert await hasty.worker.beat() == []
    await silence(hasty, timedelta(seconds=10))
    assert [found.worker for found in await patient.worker.beat()] == [hasty.worker.number]


async def test_a_lost_connection_is_replaced(join, other):
    """After a cut the next heartbeats go on under the same name and number."""
    member = await join()
    number, before = member.worker.number, await connections(other, member.worker.name)
    for pid in before:
        assert await other.fetchval("SELECT pg_terminate_backend($1, 60000)", pid)
    assert await member.still(member.worker.beat) == []
    pid = await member.worker._connection.fetchval("SELECT pg_backend_pid()")
    assert pid in await connections(other, f"nightshift:{number}") - before


async def test_a_warehouse_that_is_away():
    """It is told as such, by every call."""
    worker = PostgresWorker("postgresql://u:p@127.0.0.1:1/x", LEASE)
    for call in (lambda: worker.enrol("run", "1"), worker.beat, worker.leave):
        with pytest.raises(StorageUnavailable):
            await call()


async def test_leaving_gives_everything_back(join, other):
    """The row and the leases are gone at once, and what still ran was interrupted; the others stay."""
    member, rest = await join(), await join()
    run, others = await member.begin("alice"), await rest.begin("bob")
    await member.worker.leave()
    rows = await other.fetch("SELECT worker_id FROM sync.workers")
    assert [row["worker_id"] for row in rows] == [rest.worker.number]
    outcomes = await other.fetch("SELECT run_id, outcome, error FROM sync.runs ORDER BY 1")
    assert [tuple(row) for row in outcomes] == [
        (run, "interrupted", "its process ended"),
        (others, "running", None),
    ]
    assert await rest.leases.due("beddit", ["alice", "bob"], "once", CYCLE) == ["alice"]
    assert await rest.worker.beat() == []


# --- taking over -----------------------------------------------------------------------------------


async def test_who_falls_silent_is_taken_over(join, silence, other):
    """Its row is gone, its run is lost, its accounts are free and due again at once; one warning says so."""
    frozen, heir = await join(), await join()
    run = await frozen.begin()
    await silence(frozen)
    before = await connections(other, frozen.worker.name)
    with structlog.testing.capture_logs() as logs:
        found = await heir.worker.beat()
    who = Silent(frozen.worker.number, "run", socket.gethostname(), os.getpid())
    assert found == [who]
    (row,) = await other.fetch("SELECT * FROM sync.runs")
    assert (row["run_id"], row["outcome"], row["error"]) == (run, "lost", "its process fell silent")
    assert row["finished_at"] is not None
    assert len(before) == 2
    await ended(other, before)
    assert await heir.leases.due("beddit", ["alice"], "once", CYCLE) == ["alice"]
    assert await heir.leases.claim("beddit", ["alice"], "once", CYCLE) == {"alice"}
    assert [(entry["event"], entry["worker"]) for entry in logs] == [("worker.lost", who.worker)]
    assert await heir.worker.beat() == []


async def test_what_was_finished_is_not_done_again(join, silence):
    """An account that was given back as done stays done, also when its process falls silent later."""
    frozen, heir = await join(), await join()
    await frozen.begin("alice")
    await frozen.leases.release("beddit", "alice", done=True)
    await frozen.begin("bob")
    await silence(frozen)
    await heir.worker.beat()
    assert await heir.leases.due("beddit", ["alice", "bob"], "once", CYCLE) == ["bob"]


async def test_locks_of_the_frozen_block_nobody(join, silence, other, store, night):
    """A process frozen in the middle of a commit is cut off first: its rows, its run's row too, are free."""
    frozen, heir = await join(), await join()
    await store.commit(night(1))
    run = await frozen.begin()
    async with frozen.pool.acquire() as connection:
        transaction = connection.transaction()
        await transaction.start()
        await connection.execute("UPDATE beddit.session_records SET hardware = 'frozen'")
        await connection.execute("UPDATE sync.run_log SET stored = 99 WHERE run_id = $1", run)
        await silence(frozen)
        assert len(await heir.worker.beat()) == 1
        assert await other.fetchval("SELECT outcome FROM sync.run_log WHERE run_id = $1", run) == "lost"
        async with asyncio.timeout(HANG_S):
            assert await store.commit(night(1, 2.0, "b")) == Tally(read=1, stored=1)
    assert await other.fetchval("SELECT hardware FROM beddit.session_records") == "b"
    assert await other.fetchval("SELECT stored FROM sync.run_log WHERE run_id = $1", run) == 0


async def test_a_copy_of_the_frozen_is_cut_off(join, silence, other):
    """A process frozen in the middle of a COPY leaves no row and no lock behind."""
    frozen, heir = await join(), await join()
    await frozen.begin()
    under_way, thaw = asyncio.Event(), asyncio.Event()

    async def rows() -> AsyncIterator[bytes]:
        yield b"beddit,a\n" * 100_000
        under_way.set()
        await thaw.wait()
        yield b"beddit,b\n"

    async def copy() -> None:
        async with frozen.pool.acquire() as connection:
            await connection.copy_to_table(
                "stream_state", schema_name="sync", columns=["source", "account"], source=rows(), format="csv"
            )

    copying = asyncio.create_task(copy())
    async with asyncio.timeout(HANG_S):
        await under_way.wait()
        await silence(frozen)
        before = await connections(other, frozen.worker.name)
        assert len(await heir.worker.beat()) == 1
        await ended(other, before)
        async with other.transaction():
            await other.execute("LOCK TABLE sync.stream_state IN ACCESS EXCLUSIVE MODE NOWAIT")
        thaw.set()
        with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
            await copying
    assert await other.fetchval("SELECT count(*) FROM sync.stream_state") == 0


async def test_who_wakes_up_may_write_nothing(join, silence, store, night):
    """The one that was taken for dead hears of it, claims nothing, and changes not one row of any table."""
    frozen, heir = await join(), await join()
    run = await frozen.begin()
    batch = Batch(
        ALICE,
        records=(night(1, tracks={"heart_rate": [1.0, 2.0]}), night(2)),
        rejects=(Reject("1001/3", "1001/3", "no number"),),
        progress=Progress(cursor={"after": 9}, checked=True),
        learned={"order": "updated"},
        read=5,
    )
    await silence(frozen)
    await heir.worker.beat()
    before = await store.everything()

    with pytest.raises(LeaseLost):
        await frozen.still(frozen.worker.beat)
    with pytest.raises(LeaseLost, match="another process took over this account"):
        await frozen.still(lambda: frozen.sink.commit(run, batch))
    with pytest.raises(LeaseLost, match="another process works on account alice of beddit now"):
        await frozen.still(lambda: frozen.ledger.begin("beddit", "alice", Task("once")))
    await frozen.still(lambda: frozen.ledger.failed(run, ALICE, "too late"))
    await frozen.still(lambda: frozen.ledger.finish(run, OUTCOME, verdict="done", error=None))
    assert await frozen.still(lambda: frozen.leases.claim("beddit", ["alice"], "once", CYCLE)) == set()
    assert await frozen.still(lambda: frozen.leases.claim("beddit", ["alice"], "command")) == set()
    await frozen.still(lambda: frozen.leases.release("beddit", "alice", done=True, failed=True))
    await frozen.still(frozen.worker.leave)
    assert await store.everything() == before


async def test_who_wakes_up_does_not_touch_the_heir_s_work(join, silence, store, night):
    """Giving back late what another holds by now neither frees it nor ends the other's run."""
    frozen, heir = await join(), await join()
    run = await frozen.begin()
    await silence(frozen)
    await heir.worker.beat()
    second = await heir.begin()
    await heir.sink.commit(second, Batch(ALICE, records=(night(1),), read=1))
    before = await store.everything()
    await frozen.still(lambda: frozen.leases.release("beddit", "alice", done=False))
    await frozen.still(lambda: frozen.ledger.finish(run, OUTCOME, verdict="failed", error="late"))
    await frozen.still(frozen.worker.leave)
    with pytest.raises(LeaseLost):
        await frozen.still(lambda: frozen.ledger.begin("beddit", "alice", Task("once")))
    assert await store.everything() == before
    await heir.ledger.finish(second, OUTCOME, verdict="done", error=None)


async def test_two_heirs_take_over_once(join, silence):
    """Of many that find others silent at the same time, exactly one says so of each."""
    heirs = [await join() for _ in range(4)]
    frozen = [await join() for _ in range(3)]
    for number, member in enumerate(frozen):
        await member.begin(f"a{number}")
        await silence(member)
    found = await asyncio.gather(*(heir.worker.beat() for heir in heirs))
    assert sorted(one.worker for of in found for one in of) == [member.worker.number for member in frozen]


async def test_two_that_find_each_other_silent(join, silence):
    """After a common pause the first to speak takes over; the other hears that it did, and is done for."""
    first, second = await join(), await join()
    await silence(first)
    await silence(second)
    assert [found.worker for found in await first.worker.beat()] == [second.worker.number]
    with pytest.raises(LeaseLost):
        await second.still(second.worker.beat)


async def test_who_speaks_in_time_is_not_deposed(join, silence, other):
    """A heartbeat between the finding and the taking over saves a process, its connections too."""
    slow, heir = await join(), await join()
    await silence(slow)
    suspect = Silent(slow.worker.number, "run", "host", 1)
    await slow.worker.beat()
    before = await connections(other, slow.worker.name)
    assert not await workers._take_over(other, suspect)
    assert await heir.worker.beat() == []
    assert await connections(other, slow.worker.name) == before
    assert await slow.begin()


async def test_connections_of_a_role_that_must_not_be_ended(join, silence, other):
    """Without the right to end them the accounts are taken over all the same; a warning says what to do."""
    frozen, heir = await join(), await join()
    run = await frozen.begin()
    await silence(frozen)
    role = f"nightshift_test_role_{os.getpid()}"
    await other.execute(f"CREATE ROLE {role}")
    try:
        await other.execute(f"GRANT USAGE ON SCHEMA sync TO {role}")
        await other.execute(f"GRANT ALL ON ALL TABLES IN SCHEMA sync TO {role}")
        await heir.worker._connection.execute(f"SET ROLE {role}")
        with structlog.testing.capture_logs() as logs:
            assert len(await heir.worker.beat()) == 1
    finally:
        await heir.worker.aclose()
        await other.execute(f"DROP OWNED BY {role}")
        await other.execute(f"DROP ROLE {role}")
    assert {entry["event"] for entry in logs} == {"worker.not_terminated", "worker.lost"}
    with pytest.raises(LeaseLost):
        await frozen.sink.commit(run, Batch(ALICE))


# --- strays ----------------------------------------------------------------------------------------


async def test_strays_are_ended(join, database, other):
    """A connection with a number that nobody has is ended; one without a number is somebody else's."""
    member = await join()
    stray = await asyncpg.connect(database, server_settings={"application_name": "nightshift:999"})
    plain = await asyncpg.connect(database, server_settings={"application_name": "nightshift"})
    strays = await connections(other, "nightshift:999")
    await member.worker.beat()
    await ended(other, strays)
    assert len(await connections(other, member.worker.name)) == 2
    assert await plain.fetchval("SELECT 1") == 1
    stray.terminate()
    await plain.close()


async def test_the_neighbour_s_connections_are_left_alone(join, empty_database):
    """Another database on the same server has workers of its own."""
    member = await join()
    theirs = await asyncpg.connect(empty_database, server_settings={"application_name": "nightshift:999"})
    await member.worker.beat()
    assert await theirs.fetchval("SELECT 1") == 1
    await theirs.close()


async def test_who_enrols_while_strays_are_looked_for_is_none(join, database, other, monkeypatch):
    """Between two looks a number may get its row: then its connection stays."""
    member = await join()
    newcomer = await asyncpg.connect(database, server_settings={"application_name": "nightshift:999"})
    pids, looks = workers._pids, []

    async def enrolling(connection, query, *args):
        found = await pids(connection, query, *args)
        if query == workers._STRAYS:
            looks.append(found)
        if len(looks) == 1:
            await other.execute(
                """
                INSERT INTO sync.workers (worker_id, command, host, pid, version, lease)
                OVERRIDING SYSTEM VALUE VALUES (999, 'run', 'host', 1, '1', '1 min')
                """
            )
        return found

    monkeypatch.setattr(workers, "_pids", enrolling)
    await member.worker.beat()
    assert [len(found) for found in looks] == [1, 0]
    assert await newcomer.fetchval("SELECT 1") == 1
    await newcomer.close()


async def test_many_enrol_beside_heartbeats(join):
    """However many come while others look for strays: every one of them keeps its connections."""
    member = await join()
    ended = asyncio.Event()

    async def look() -> None:
        while not ended.is_set():
            assert await member.worker.beat() == []

    looking = asyncio.create_task(look())
    members = await asyncio.gather(*(join() for _ in range(10)))
    ended.set()
    await looking
    for newcomer in members:
        assert await newcomer.worker.beat() == []
        assert await newcomer.leases.claim("beddit", [newcomer.worker.name], "command")
