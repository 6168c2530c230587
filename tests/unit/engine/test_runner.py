"""Who runs when, what a failure stops and what it does not, and what is written down of it."""

# ruff: noqa: ARG002, ARG005 - the doubles take what the protocols give
from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from uuid import UUID

import pytest

from sync.engine.runner import Engine
from sync.engine.troubles import Troubles
from sync.errors import (
    AccountBusy,
    AuthenticationError,
    ConfigurationError,
    LeaseLost,
    SourceUnavailable,
    StorageUnavailable,
)
from sync.model import (
    Batch,
    PgType,
    Reject,
    Rows,
    Series,
    StreamKey,
    Stretch,
    Table,
    Tally,
    Task,
    Traffic,
)

ONCE = Task("once")
HANG_S = 30


@dataclass
class Piece:
    """A unit that yields batches, perhaps after waiting, and perhaps fails at the end."""

    label: str
    account: str = "alice"
    batches_read: tuple = (1,)
    error: Exception | None = None
    wait: asyncio.Event | None = None
    rejects: tuple = ()
    stretches: tuple = ()
    began: asyncio.Event = field(default_factory=asyncio.Event)
    closed: bool = False

    @property
    def stream(self):
        """Return the account's stream."""
        return StreamKey("vendor", self.account, "sessions")

    async def batches(self):
        """Yield batches of so many items; note when the generator is closed."""
        self.began.set()
        try:
            for read in self.batches_read:
                yield Batch(self.stream, read=read, rejects=self.rejects, stretches=self.stretches)
            if self.wait is not None:
                await self.wait.wait()
            if self.error is not None:
                raise self.error
        finally:
            self.closed = True


class Vendor:
    """A source whose plan is written down."""

    name = "vendor"

    def __init__(self, **plans):
        self.plans = plans
        self.accounts = tuple(plans)
        self.requests = 10
        self.closed = []

    def traffic(self, account):
        """Return ever more traffic."""
        self.requests += 5
        return Traffic(self.requests, self.requests * 100)

    async def plan(self, account, task):
        """Yield the groups of an account's plan; an exception in their place is raised."""
        try:
            for group in self.plans[account]:
                if isinstance(group, Exception):
                    raise group
                yield group
        finally:
            self.closed.append(account)

    async def probe(self, account):
        """Prove nothing."""

    async def aclose(self):
        """Close nothing."""


class Memory:
    """Sink, ledger and observer in one: all that happens, in order."""

    def __init__(self):
        self.events = []
        self.batches = []
        self.closings = {}
        self.failures = []
        self.runs = {}
        self.outcomes = []
        self.tally = lambda batch: Tally(read=batch.read, stored=batch.read)
        self.ledger_error = None

    async def commit(self, run, batch):
        """Store a batch."""
        await asyncio.sleep(0)
        self.batches.append((run, batch))
        return self.tally(batch)

    async def begin(self, source, account, task):
        """Open a run."""
        self.runs[len(self.runs) + 1] = account
        return len(self.runs)

    async def finish(self, run, outcome, *, verdict, error):
        """Close a run."""
        if self.ledger_error:
            raise self.ledger_error
        self.closings[self.runs[run]] = (verdict, error, outcome)

    async def failed(self, run, stream, error):
        """Note a failure."""
        if self.ledger_error:
            raise self.ledger_error
        self.failures.append((stream.account, error))

    def planned(self, source, account, units):
        """Note a plan."""
        self.events.append(("planned", [unit.label for unit in units]))

    def committed(self, source, account, unit, batch, tally):
        """Note a commit."""
        self.events.append(("committed", unit.label))

    def finished(self, outcome):
        """Note an end."""
        self.outcomes.append(outcome)


@pytest.fixture
def memory():
    """Return an empty memory."""
    return Memory()


@pytest.fixture
def run(memory):
    """Return a function that runs a vendor's accounts in the engine."""

    async def go(vendor, **options):
        engine = Engine(memory, memory, memory, **options)
        async with asyncio.timeout(HANG_S):
            outcomes = await engine.run(vendor, ONCE, vendor.accounts)
        return {outcome.account: outcome for outcome in outcomes}

    return go


def committed(memory):
    """Return the labels of what was committed, in order."""
    return [label for kind, label in memory.events if kind == "committed"]


async def test_a_plan_runs_to_its_end(run, memory):
    """All batches are committed under the run's number, summed up, and the run is closed as done."""
    vendor = Vendor(alice=[[Piece("a", batches_read=(3, 4))], [Piece("b")]])
    outcomes = await run(vendor)
    assert [(run, batch.read) for run, batch in memory.batches] == [(1, 3), (1, 4), (1, 1)]
    assert outcomes["alice"].tally == Tally(read=8, stored=8)
    assert outcomes["alice"].traffic == Traffic(5, 500)
    assert memory.closings == {"alice": ("done", None, outcomes["alice"])}
    assert memory.outcomes == [outcomes["alice"]]
    assert memory.failures == []


@pytest.mark.parametrize(
    "error", [AuthenticationError("token refused"), SourceUnavailable("away"), ValueError("defect")]
)
@pytest.mark.parametrize("where", ["unit", "plan"])
async def test_a_failing_account_leaves_the_others_alone(run, memory, error, where):
    """One account's failure, expected or a defect, is its own outcome; the others end as done."""
    bad = [error] if where == "plan" else [[Piece("bad", error=error)], [Piece("never")]]
    vendor = Vendor(alice=bad, bob=[[Piece("good", "bob")], [Piece("more", "bob")]])
    outcomes = await run(vendor)
    assert outcomes["alice"].error is error
    assert outcomes["bob"].error is None
    assert memory.closings["alice"][:2] == ("failed", str(error))
    assert memory.closings["bob"][0] == "done"
    assert committed(memory).count("never") == 0
    assert {"good", "more"} <= set(committed(memory))
    assert memory.failures == ([("alice", str(error))] if where == "unit" else [])


async def test_what_was_committed_before_a_failure_counts(run, memory):
    """A unit that fails after two batches has stored two, and its outcome says so."""
    outcomes = await run(Vendor(alice=[[Piece("a", batches_read=(2, 3), error=SourceUnavailable("away"))]]))
    assert outcomes["alice"].tally == Tally(read=5, stored=5)


async def test_units_of_a_group_run_side_by_side_up_to_the_limit(run):
    """As many units as allowed are under way at once, and not one more."""
    gate, running, most = asyncio.Event(), set(), []

    class Counted(Piece):
        async def batches(self):
            running.add(self.label)
            most.append(len(running))
            if len(running) == 3:
                gate.set()
            await gate.wait()
            yield Batch(self.stream)
            running.discard(self.label)

    await run(Vendor(alice=[[Counted(str(n)) for n in range(9)]]), parallel_units=3)
    assert (max(most), len(most)) == (3, 9)


async def test_accounts_run_side_by_side_up_to_the_limit(run):
    """As many accounts as allowed are under way at once, and not one more."""
    gate, running, most = asyncio.Event(), set(), []

    class Counted(Piece):
        async def batches(self):
            running.add(self.account)
            most.append(len(running))
            if len(running) == 2:
                gate.set()
            await gate.wait()
            yield Batch(self.stream)
            running.discard(self.account)

    await run(Vendor(**{f"a{n}": [[Counted("x", f"a{n}")]] for n in range(6)}), parallel_accounts=2)
    assert (max(most), len(most)) == (2, 6)


async def test_groups_run_in_order(run, memory):
    """A group is planned only when the one before it is committed."""
    await run(Vendor(alice=[[Piece("a"), Piece("b")], [Piece("c")], [Piece("d"), Piece("e")]]))
    kinds = [(kind, what if kind == "planned" else None) for kind, what in memory.events]
    done = ("committed", None)
    assert kinds == [
        ("planned", ["a", "b"]),
        *(done, done),
        ("planned", ["c"]),
        done,
        ("planned", ["d", "e"]),
        *(done, done),
    ]


async def test_after_a_failure_nothing_new_begins(run, memory):
    """Units that are under way end their work; those that wait for a place and later groups do not begin."""
    gate = asyncio.Event()
    under_way = Piece("under way", wait=gate)

    class Failing(Piece):
        async def batches(self):
            await under_way.began.wait()
            yield Batch(self.stream)
            gate.set()
            raise SourceUnavailable("away")

    waiting, later = Piece("waiting"), Piece("later")
    vendor = Vendor(alice=[[Failing("failing"), under_way, waiting], [later]])
    outcomes = await run(vendor, parallel_units=2)
    assert isinstance(outcomes["alice"].error, SourceUnavailable)
    assert not waiting.began.is_set()
    assert not later.began.is_set()
    assert under_way.closed
    assert set(committed(memory)) == {"failing", "under way"}


async def test_generators_are_closed_when_a_commit_fails(run, memory):
    """A unit's and the plan's generators are closed at once, so that no connection stays open."""
    unit = Piece("a", batches_read=(1, 2, 3))
    memory.tally = lambda batch: (_ for _ in ()).throw(StorageUnavailable("PostgreSQL: gone"))
    closed = []

    async def failed(run, stream, error):
        closed.append(unit.closed)

    memory.failed = failed
    vendor = Vendor(alice=[[unit]])
    outcomes = await run(vendor)
    assert isinstance(outcomes["alice"].error, StorageUnavailable)
    assert len(memory.batches) == 1
    assert closed == [True]
    assert vendor.closed == ["alice"]


async def test_cancelling_closes_the_runs_as_interrupted(memory):
    """A stop closes generators and ledger rows of all accounts, and is passed on."""
    units = [Piece("a", wait=asyncio.Event()), Piece("b", "bob", wait=asyncio.Event())]
    vendor = Vendor(alice=[[units[0]]], bob=[[units[1]]])
    task = asyncio.create_task(Engine(memory, memory, memory).run(vendor, ONCE, vendor.accounts))
    async with asyncio.timeout(HANG_S):
        for unit in units:
            await unit.began.wait()
        while len(memory.batches) < 2:  # noqa: ASYNC110 - both have committed and wait for ever
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert [unit.closed for unit in units] == [True, True]
    assert sorted(vendor.closed) == ["alice", "bob"]
    assert {account: closing[:2] for account, closing in memory.closings.items()} == {
        "alice": ("interrupted", None),
        "bob": ("interrupted", None),
    }


async def test_secrets_are_taken_out_of_rejects_and_errors(run, memory):
    """Neither a reject's reason or payload nor a stored error holds a secret, however deep it is."""
    reject = Reject(
        "1/2",
        "1/2/x",
        "bad SECRET",
        {"SECRET": ["SECRET", {"a": "xSECRETx", "n": 5, "none": None}], "b": True},
    )
    bad = SourceUnavailable("answered SECRET")
    memory.tally = lambda batch: Tally(read=batch.read, rejected=batch.read)
    vendor = Vendor(alice=[[Piece("a", rejects=(reject,), error=bad)]], bob=[AuthenticationError("SECRET")])
    await run(vendor, redact=lambda text: text.replace("SECRET", "***"))
    ((_, batch),) = memory.batches
    assert batch.rejects == (
        Reject("1/2", "1/2/x", "bad ***", {"***": ["***", {"a": "x***x", "n": 5, "none": None}], "b": True}),
    )
    assert memory.failures == [("alice", "answered ***")]
    assert memory.closings["alice"][1] == "answered ***"
    assert memory.closings["bob"][1] == "***"


async def test_rejects_of_stretches_are_cleaned(run, memory):
    """What a stretch of time could not store loses its secrets like any other."""
    table = Table("v.rows", (("time", PgType.TIMESTAMPTZ),))
    series = Series(
        noun="row", table=table, key="id", part_of="set", time="time", weight="count", loads="v.loads"
    )
    reject = Reject("1", "1/x", "bad SECRET", "SECRET", instant=datetime(2024, 1, 1, tzinfo=UTC), items=3)
    stretch = Stretch(series, UUID(int=1), 0, None, replaced=(), rows=Rows(table, ([],)), rejects=(reject,))
    memory.tally = lambda batch: Tally(read=batch.read, rejected=batch.read)
    await run(
        Vendor(alice=[[Piece("a", stretches=(stretch,))]]),
        redact=lambda text: text.replace("SECRET", "***"),
    )
    ((_, batch),) = memory.batches
    assert batch.stretches == (replace(stretch, rejects=(replace(reject, reason="bad ***", payload="***"),)),)


async def test_what_a_database_cannot_hold_is_taken_out_of_texts(run, memory):
    """NUL and lone surrogates in an error or a reject do not keep it from being written down."""
    reject = Reject("1/2", "1/2/x", "bad \0", {"a\ud800": ["\0"]})
    memory.tally = lambda batch: Tally(read=batch.read, rejected=batch.read)
    await run(Vendor(alice=[[Piece("a", rejects=(reject,), error=SourceUnavailable("said \0\udfff"))]]))
    ((_, batch),) = memory.batches
    assert batch.rejects == (Reject("1/2", "1/2/x", "bad \ufffd", {"a\ufffd": ["\ufffd"]}),)
    assert memory.failures == [("alice", "said \ufffd\ufffd")]
    assert memory.closings["alice"][1] == "said \ufffd\ufffd"


@pytest.mark.parametrize("field_", ["stored", "unchanged", "superseded", "duplicate", "rejected"])
async def test_a_batch_that_does_not_add_up_is_a_defect(run, memory, field_):
    """An item whose fate is unknown, or that has two, ends the account's run as failed."""
    for count in (1, 3):
        memory.tally = lambda batch, count=count: Tally(read=2, **{field_: count})
        outcomes = await run(Vendor(alice=[[Piece("a", batches_read=(2,)), Piece("b")], [Piece("later")]]))
        assert isinstance(outcomes["alice"].error, AssertionError)
        assert "does not add up" in str(outcomes["alice"].error)
        assert memory.closings["alice"][0] == "failed"
        assert "later" not in committed(memory)


@pytest.mark.parametrize(
    "error", [StorageUnavailable("gone"), ConfigurationError("no right to write"), ValueError("a defect")]
)
async def test_a_ledger_that_fails_costs_no_other_account_its_run(run, memory, error):
    """When a run cannot be closed or its failure noted, every account still has its own outcome."""
    memory.ledger_error = error
    failure = SourceUnavailable("away")
    outcomes = await run(Vendor(alice=[[Piece("a", error=failure)]], bob=[[Piece("b", "bob")]]))
    assert outcomes["alice"].error is failure
    assert outcomes["bob"].tally == Tally(read=1, stored=1)


@pytest.mark.parametrize("refusal", [StorageUnavailable("gone"), ValueError("a defect")])
async def test_a_run_that_cannot_be_opened_is_that_account_s_failure(run, memory, refusal):
    """Where the ledger refuses one account's row nothing of it is begun, and the others go on."""
    begin = memory.begin

    async def refuses_alice(source, account, task):
        if account == "alice":
            raise refusal
        return await begin(source, account, task)

    memory.begin = refuses_alice
    never = Piece("a")
    outcomes = await run(Vendor(alice=[[never]], bob=[[Piece("b", "bob")]]))
    assert outcomes["alice"].error is refusal
    assert not never.began.is_set()
    assert memory.closings.keys() == {"bob"}


# --- pauses ----------------------------------------------------------------------------------------


async def test_a_run_pauses_between_groups(memory):
    """Asked after each group; the rest is not begun, and outcome and ledger say that it waits."""
    vendor = Vendor(alice=[[Piece("a"), Piece("b")], [Piece("c")], [Piece("later")]])
    answers = iter([False, True])
    engine = Engine(memory, memory, memory)
    outcome = await engine.run_account(vendor, "alice", ONCE, is_enough=lambda: next(answers))
    assert (outcome.paused, outcome.error, outcome.tally.stored) == (True, None, 3)
    assert sorted(committed(memory)) == ["a", "b", "c"]
    assert memory.closings["alice"][:2] == ("paused", None)
    assert vendor.closed == ["alice"]


async def test_a_run_that_nobody_waits_for_does_not_pause(run, memory):
    """Without being asked to, every run goes on to its end."""
    outcomes = await run(Vendor(alice=[[Piece("a")], [Piece("b")]]))
    assert not outcomes["alice"].paused
    assert memory.closings["alice"][0] == "done"


async def test_a_failure_is_no_pause(memory):
    """A run that failed ends as failed, however many wait."""
    vendor = Vendor(alice=[[Piece("a", error=SourceUnavailable("away"))], [Piece("later")]])
    outcome = await Engine(memory, memory, memory).run_account(vendor, "alice", ONCE, is_enough=lambda: True)
    assert not outcome.paused
    assert memory.closings["alice"][0] == "failed"


# --- permits ---------------------------------------------------------------------------------------


class Permits:
    """Lets nobody work on busy accounts; notes who was let in and who has left."""

    def __init__(self, *busy):
        self.busy = busy
        self.held = set()
        self.left = []

    @asynccontextmanager
    async def hold(self, source, account):
        """Hold an account, or refuse."""
        if account in self.busy:
            raise AccountBusy("host7 works on it")
        self.held.add((source, account))
        try:
            yield
        finally:
            self.held.discard((source, account))
            self.left.append(account)


async def test_an_account_is_worked_on_under_its_permit(run, memory):
    """It is held from before the run is opened until after it is closed, also by one that fails."""
    permits = Permits()
    held = []
    begin, finish = memory.begin, memory.finish

    async def watched_begin(source, account, task):
        held.append((source, account) in permits.held)
        return await begin(source, account, task)

    async def watched_finish(number, outcome, **rest):
        held.append((outcome.source, outcome.account) in permits.held)
        await finish(number, outcome, **rest)

    memory.begin, memory.finish = watched_begin, watched_finish
    bad = Piece("bad", "bob", error=ValueError("defect"))
    await run(Vendor(alice=[[Piece("a")]], bob=[[bad]]), permit=permits.hold)
    assert held == [True] * 4
    assert sorted(permits.left) == ["alice", "bob"]


async def test_a_busy_account_is_left_alone(run, memory):
    """Nothing of it is begun or written down; its outcome says who has it, and the others go on."""
    never = Piece("never")
    troubles = Troubles()
    outcomes = await run(
        Vendor(alice=[[never]], bob=[[Piece("b", "bob")]]), permit=Permits("alice").hold, troubles=troubles
    )
    assert isinstance(outcomes["alice"].error, AccountBusy)
    assert outcomes["alice"].traffic == Traffic()
    assert not never.began.is_set()
    assert memory.closings.keys() == {"bob"}
    assert not troubles.open


# --- troubles --------------------------------------------------------------------------------------


class Watched:
    """Troubles that note what they are told."""

    def __init__(self):
        self.told = []

    def now(self):
        """Return how much was told before."""
        return len(self.told)

    def run_ended(self, outcome, message, begun_at):
        """Note the end of a run."""
        self.told.append((outcome.source, outcome.account, outcome.error, message, begun_at))


async def test_troubles_are_told_how_each_run_ended(run):
    """Once a run, with the error and its text free of secrets, or without; and when the run began."""
    troubles, error = Watched(), SourceUnavailable("away, SECRET")
    await run(
        Vendor(alice=[[Piece("a", error=error)]], bob=[[Piece("b", "bob")]]),
        troubles=troubles,
        redact=lambda text: text.replace("SECRET", "***"),
        parallel_accounts=1,
    )
    assert troubles.told == [("vendor", "alice", error, "away, ***", 0), ("vendor", "bob", None, "", 1)]


async def test_a_run_that_cannot_be_opened_is_a_trouble_too(run, memory):
    """Where the ledger is away that is told like any other end, and so is it to the observer."""
    troubles, gone = Watched(), StorageUnavailable("gone")

    async def refuses(source, account, task):
        raise gone

    memory.begin = refuses
    await run(Vendor(alice=[[Piece("a")]]), troubles=troubles)
    assert troubles.told == [("vendor", "alice", gone, "gone", 0)]
    assert [outcome.error for outcome in memory.outcomes] == [gone]


async def test_an_interrupted_run_is_nobody_s_trouble(memory):
    """Whoever stops a run learns nothing about the vendor from it."""
    troubles, unit = Watched(), Piece("a", wait=asyncio.Event())
    engine = Engine(memory, memory, memory, troubles=troubles)
    task = asyncio.create_task(engine.run_account(Vendor(alice=[[unit]]), "alice", ONCE))
    async with asyncio.timeout(HANG_S):
        await unit.began.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert troubles.told == []


# --- leases ----------------------------------------------------------------------------------------


async def test_a_run_that_was_taken_over_stops(run, memory):
    """After a commit that was refused nothing new is begun, and no failure of the stream is noted."""
    lost = LeaseLost("taken over")
    memory.tally = lambda batch: (_ for _ in ()).throw(lost)
    later = Piece("later")
    troubles = Troubles()
    outcomes = await run(Vendor(alice=[[Piece("a", batches_read=(1, 2))], [later]]), troubles=troubles)
    assert outcomes["alice"].error is lost
    assert outcomes["alice"].tally == Tally()
    assert len(memory.batches) == 1
    assert not later.began.is_set()
    assert memory.failures == []
    assert not troubles.open


async def test_a_run_under_no_lease_is_not_begun(run, memory):
    """Where the ledger says that another process has the account by now, nobody is asked anything."""

    async def refuses(source, account, task):
        raise LeaseLost("another process works on it now")

    memory.begin = refuses
    never, troubles = Piece("a"), Troubles()
    outcomes = await run(Vendor(alice=[[never]]), troubles=troubles)
    assert isinstance(outcomes["alice"].error, LeaseLost)
    assert not never.began.is_set()
    assert not troubles.open


async def test_a_permit_that_cannot_be_had_stops_nobody_else(memory):
    """Where the warehouse fails while one account is asked for, that account fails and the others go on."""

    @asynccontextmanager
    async def hold(_, account):
        if account == "alice":
            raise StorageUnavailable("gone")
        yield

    vendor = Vendor(alice=[[Piece("a")]], bob=[[Piece("b", "bob")]])
    alice, bob = await Engine(memory, memory, memory, permit=hold).run(vendor, ONCE, ("alice", "bob"))
    assert isinstance(alice.error, StorageUnavailable)
    assert bob.error is None
