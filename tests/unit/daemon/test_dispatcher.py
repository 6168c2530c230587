"""Who is worked on when: everybody once a cycle, nobody twice at once, nobody for ever."""

# ruff: noqa: ARG002 - the doubles take what the protocols give
from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest
import structlog.testing

from sync.daemon import dispatcher as module
from sync.daemon.dispatcher import Dispatcher, Work
from sync.engine.troubles import Troubles
from sync.errors import AccountForgotten, ConfigurationError, SourceUnavailable, StorageUnavailable
from sync.model import RunOutcome, Tally, Task, Traffic
from sync.schedule import Schedule

HANG_S = 30
GONE = StorageUnavailable("PostgreSQL: gone")
DAILY = Schedule("1d")
ONCE = Work(Task("once"), DAILY)
RETRY = Work(Task("retry"), DAILY)
VERIFY = Work(Task("verify"), DAILY)


class Leases:
    """The leases of a warehouse that holds them in memory.

    Attributes:
        held: Who works on an account.
        done: The cycles that an account's kinds of work were done for.
        errors: What the next calls of a method fail with.
    """

    def __init__(self):
        self.held = {}
        self.done = {}
        self.failed = set()
        self.errors = {"due": [], "claim": [], "release": []}
        self.cycle = 1
        self.claims = []
        self.released = []

    def _is_due(self, account, work, retry_failed):
        is_done = self.done.get((account, work)) == self.cycle
        return account not in self.held and (not is_done or (retry_failed and account in self.failed))

    def _perhaps_fail(self, method):
        if self.errors[method]:
            raise self.errors[method].pop(0)

    async def due(self, source, accounts, work, cycle, *, retry_failed=False):
        """Return who is free and due."""
        await asyncio.sleep(0)
        self._perhaps_fail("due")
        return [account for account in accounts if self._is_due(account, work, retry_failed)]

    async def claim(self, source, accounts, work, cycle=None, *, retry_failed=False):
        """Take who is free and due."""
        await asyncio.sleep(0)
        self._perhaps_fail("claim")
        won = {account for account in accounts if self._is_due(account, work, retry_failed)}
        self.held |= dict.fromkeys(won, "us")
        self.done |= {(account, work): self.cycle for account in won}
        self.claims.append((work, tuple(accounts)))
        return won

    async def release(self, source, account, *, done, failed=None, retry=False):
        """Give back."""
        await asyncio.sleep(0)
        self._perhaps_fail("release")
        if self.held.get(account) != "us":
            return
        del self.held[account]
        self.released.append((account, done, failed))
        if not done:
            self.done = {key: cycle for key, cycle in self.done.items() if key[0] != account}
        (self.failed.add if failed else self.failed.discard)(account)


class Engine:
    """Works on accounts for as long as it is told; fails where one account is asked of it twice at once.

    Attributes:
        gates: What the runs of an account wait for.
        outcomes: How the next runs of an account end, beside well.
    """

    def __init__(self):
        self.troubles = Troubles()
        self.running = set()
        self.most = 0
        self.runs = []
        self.gates = {}
        self.outcomes = {}
        self.enough = {}

    async def run_account(self, source, account, task, *, is_enough):
        """Do a task for an account."""
        assert account not in self.running, f"{account} is worked on twice at once"
        self.running.add(account)
        self.most = max(self.most, len(self.running))
        self.runs.append((account, task.kind))
        self.enough[account] = is_enough
        try:
            if account in self.gates:
                await self.gates[account].wait()
            await asyncio.sleep(0)
        finally:
            self.running.discard(account)
        planned = self.outcomes.get(account)
        options = planned.pop(0) if planned else {}
        tally = Tally(read=3, stored=2, rejected=1)
        return RunOutcome("beddit", account, tally, Traffic(5, 50), **options)


class Scene:
    """A dispatcher at work, and what it works with."""

    def __init__(self, accounts, places):
        self.leases, self.engine = Leases(), Engine()
        self.source = SimpleNamespace(name="beddit", accounts=tuple(accounts))
        self.dispatcher = Dispatcher(self.source, self.engine, self.leases, places)

    def runs(self, kind="once"):
        """Return the accounts that a kind of work was done for, in order."""
        return [account for account, of in self.engine.runs if of == kind]

    async def until(self, is_so):
        """Wait until something is so."""
        async with asyncio.timeout(HANG_S):
            while not is_so():  # noqa: ASYNC110 - whatever it is comes without a signal of its own
                await asyncio.sleep(0)

    async def quiet(self):
        """Wait until nothing waits and nothing is worked on, however often one looks."""
        calm = 0
        async with asyncio.timeout(HANG_S):
            while calm < 20:
                busy = any(self.dispatcher.load) or self.dispatcher._changed.is_set()
                calm = 0 if busy or self.dispatcher._wanted else calm + 1
                await asyncio.sleep(0)


@asynccontextmanager
async def at_work(*accounts, places=2):
    """Let a dispatcher work meanwhile; its own errors come out at the end."""
    scene = Scene(accounts, places)
    task = asyncio.create_task(scene.dispatcher.run())
    try:
        yield scene
        assert not task.done() or task.exception() is None
    finally:
        task.cancel()
        await asyncio.wait([task])
    assert task.cancelled(), task.exception()


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    """Ask a warehouse that is away again at once."""
    monkeypatch.setattr(module, "AGAIN_S", 0)


@pytest.fixture
def clock(monkeypatch):
    """Return a clock that stands still until it is set."""
    now = SimpleNamespace(time=0.0)
    monkeypatch.setattr(module, "monotonic", lambda: now.time)
    return now


MANY = [f"a{n}" for n in range(20)]


async def test_each_due_account_once_a_cycle():
    """Whoever looks, and however often: one run an account and cycle, in the order of the configuration."""
    async with at_work(*MANY) as scene:
        for cycle in (1, 2, 3):
            scene.leases.cycle = cycle
            for _ in range(3):
                scene.dispatcher.look([ONCE])
                await scene.quiet()
            assert scene.runs() == MANY * cycle


async def test_nothing_is_done_before_somebody_asks():
    """Without a look no account is due."""
    async with at_work("alice") as scene:
        for _ in range(20):
            await asyncio.sleep(0)
        assert scene.engine.runs == []
        assert scene.dispatcher.load == (0, 0)


async def test_places_are_bounded():
    """No more accounts than there are places are worked on or claimed; the others wait their turn."""
    async with at_work(*MANY, places=3) as scene:
        scene.engine.gates = {account: asyncio.Event() for account in MANY}
        scene.dispatcher.look([ONCE])
        await scene.until(lambda: scene.engine.running == {"a0", "a1", "a2"})
        assert scene.dispatcher.load == (17, 3)
        assert set(scene.leases.held) == scene.engine.running
        scene.engine.gates["a1"].set()
        await scene.until(lambda: scene.engine.running == {"a0", "a2", "a3"})
        for gate in scene.engine.gates.values():
            gate.set()
        await scene.quiet()
        assert scene.engine.most == 3
        assert Counter(scene.runs()) == Counter(MANY)


async def test_leases_are_given_back_as_the_run_ended():
    """Done after a run to the end, with or without an error; not done after a pause."""
    async with at_work("alice", "bob", "carl") as scene:
        scene.engine.outcomes = {
            "bob": [{"error": SourceUnavailable("away")}],
            "carl": [{"paused": True}],
        }
        scene.dispatcher.look([ONCE])
        await scene.quiet()
        assert sorted(scene.leases.released) == [
            ("alice", True, False),
            ("bob", True, True),
            ("carl", False, False),
            ("carl", True, False),
        ]
        assert scene.leases.held == {}


async def test_failed_accounts_are_done_again_only_if_asked_for():
    """A look at failed accounts repeats those alone; any other look leaves them for the next cycle."""
    async with at_work("alice", "bob") as scene:
        scene.engine.outcomes = {"bob": [{"error": SourceUnavailable("away")}]}
        scene.dispatcher.look([ONCE])
        await scene.quiet()
        scene.dispatcher.look([ONCE])
        await scene.quiet()
        assert scene.runs() == ["alice", "bob"]
        scene.dispatcher.look([ONCE], retry_failed=True)
        await scene.quiet()
        assert scene.runs() == ["alice", "bob", "bob"]


async def test_an_account_is_never_worked_on_twice_at_once():
    """Not by two kinds of work that are due together either; both get their turn."""
    async with at_work(*MANY[:6], places=2) as scene:
        scene.dispatcher.look([ONCE, RETRY])
        await scene.quiet()
        assert scene.runs("once") == MANY[:6]
        assert sorted(scene.runs("retry")) == MANY[:6]


async def test_claims_that_others_won_are_dropped():
    """An account that another process took in between is not worked on here, and blocks nobody."""
    async with at_work(*MANY[:4], places=1) as scene:
        scene.engine.gates["a0"] = asyncio.Event()
        scene.dispatcher.look([ONCE])
        await scene.until(lambda: scene.dispatcher.load == (3, 1))
        scene.leases.held["a1"] = "another"
        scene.leases.done["a2", "once"] = scene.leases.cycle
        scene.engine.gates["a0"].set()
        await scene.quiet()
        assert scene.runs() == ["a0", "a3"]
        assert [account for account, *_ in scene.leases.released] == ["a0", "a3"]


async def test_who_exceeds_its_turn_makes_room_only_when_others_wait(clock):
    """A run may go on for as long as nobody waits; then it may after its turn, and never before."""
    async with at_work("alice", "bob", "carl", places=2) as scene:
        scene.engine.gates = {name: asyncio.Event() for name in ("alice", "bob", "carl")}
        scene.dispatcher.look([ONCE])
        await scene.until(lambda: len(scene.engine.running) == 2)
        assert scene.dispatcher.load == (1, 2)
        is_enough = scene.engine.enough["alice"]
        clock.time = module.TURN_S
        assert not is_enough()
        clock.time = module.TURN_S + 1
        assert is_enough()
        scene.engine.gates["bob"].set()
        await scene.until(lambda: scene.engine.running == {"alice", "carl"})
        assert scene.dispatcher.load == (0, 2)
        assert not is_enough()
        assert not scene.engine.enough["carl"]()


async def test_other_work_of_the_same_account_waits_no_longer_than_a_turn(clock):
    """A verification makes room for what is new as soon as a cycle of that has begun, not before."""
    async with at_work("alice", places=2) as scene:
        scene.engine.gates = {"alice": asyncio.Event()}
        scene.dispatcher.look([VERIFY])
        await scene.until(lambda: scene.runs("verify") == ["alice"])
        is_enough = scene.engine.enough["alice"]
        scene.dispatcher.look([ONCE])
        await scene.until(lambda: scene.dispatcher.load == (1, 1))
        clock.time = module.TURN_S + 1
        assert not is_enough()
        scene.dispatcher.look([Work(Task("retry"), Schedule("1s"))])
        await scene.until(lambda: scene.dispatcher.load == (2, 1))
        await scene.until(is_enough)
        clock.time = module.TURN_S
        assert not is_enough()


async def test_who_paused_goes_to_the_end_of_the_queue():
    """With one place, all others have their turn before a paused account goes on; the cycle is told once."""
    async with at_work(*MANY[:4], places=1) as scene:
        scene.engine.outcomes = {"a0": [{"paused": True}, {"paused": True}]}
        with structlog.testing.capture_logs() as logs:
            scene.dispatcher.look([ONCE])
            await scene.quiet()
        assert scene.runs() == ["a0", "a1", "a2", "a3", "a0", "a0"]
    (finished,) = (entry for entry in logs if entry["event"] == "cycle.finished")
    assert (finished["accounts"], finished["failed"], finished["stored"]) == (4, 0, 12)


async def test_a_finished_cycle_is_told_once(clock):
    """When its last account is done: how many, how many failed, what was stored, how long it took."""
    async with at_work(*MANY[:5], places=2) as scene:
        scene.engine.gates["a4"] = asyncio.Event()
        scene.engine.outcomes = {"a1": [{"error": SourceUnavailable("away")}]}
        with structlog.testing.capture_logs() as logs:
            scene.dispatcher.look([ONCE])
            await scene.until(lambda: scene.dispatcher.load == (0, 1))
            assert logs == []
            clock.time = 12.34
            scene.engine.gates["a4"].set()
            await scene.quiet()
            scene.dispatcher.look([ONCE])
            await scene.quiet()
    assert logs == [
        {
            "event": "cycle.finished",
            "log_level": "info",
            "source": "beddit",
            "task": "once",
            "accounts": 5,
            "failed": 1,
            "stored": 10,
            "rejected": 5,
            "requests": 25,
            "seconds": 12.3,
        }
    ]


async def test_each_kind_of_work_has_its_own_cycles():
    """Two kinds that are due together are told of one by one."""
    async with at_work(*MANY[:4], places=2) as scene:
        with structlog.testing.capture_logs() as logs:
            scene.dispatcher.look([ONCE, RETRY])
            await scene.quiet()
    assert sorted((entry["task"], entry["accounts"]) for entry in logs) == [("once", 4), ("retry", 4)]


async def test_a_cycle_in_which_nobody_gets_anywhere_is_no_news():
    """An outage was told when it began; its cycles are for those who debug."""
    async with at_work("alice", "bob") as scene:
        failure = {"error": SourceUnavailable("away")}
        scene.engine.outcomes = {"alice": [failure], "bob": [failure]}
        with structlog.testing.capture_logs() as logs:
            scene.dispatcher.look([ONCE])
            await scene.quiet()
    assert [(entry["event"], entry["log_level"]) for entry in logs] == [("cycle.finished", "debug")]


async def test_a_cycle_that_others_worked_on_is_not_told():
    """Where every account went to another process there is nothing to say here."""
    async with at_work("alice", "bob") as scene:
        due = scene.leases.due

        async def due_until_now(*args, **options):
            found = await due(*args, **options)
            scene.leases.held = dict.fromkeys(found, "another")
            return found

        scene.leases.due = due_until_now
        with structlog.testing.capture_logs() as logs:
            scene.dispatcher.look([ONCE])
            await scene.quiet()
    assert logs == []
    assert scene.engine.runs == []


@pytest.mark.parametrize("method", ["due", "claim", "release"])
@pytest.mark.parametrize("error", [GONE, ConfigurationError("locked out")], ids=["away", "refuses"])
async def test_a_warehouse_that_is_away_loses_no_work(method, error):
    """It is asked again until it answers; every account is done once, and the outage is known."""
    async with at_work(*MANY[:5], places=2) as scene:
        scene.leases.errors[method] = [error] * 7
        scene.dispatcher.look([ONCE])
        await scene.until(lambda: len(scene.leases.released) == 5)
        await scene.quiet()
        assert sorted(scene.runs()) == MANY[:5]
        assert scene.leases.held == {}
        assert scene.engine.troubles.open == frozenset()


async def test_what_was_claimed_before_the_warehouse_went_away_is_done():
    """An answer that came counts, whatever becomes of the next question."""
    async with at_work("a0", "a1", places=3) as scene:
        claim, asked = scene.leases.claim, []

        async def second_fails(*args, **options):
            asked.append(args)
            if len(asked) == 2:
                raise GONE
            return await claim(*args, **options)

        scene.leases.claim = second_fails
        scene.dispatcher.look([ONCE, RETRY])
        await scene.until(lambda: len(scene.engine.runs) == 4)
        await scene.quiet()
        assert sorted(scene.runs("once")) == sorted(scene.runs("retry")) == ["a0", "a1"]
        assert scene.leases.held == {}


async def test_a_claim_whose_answer_was_lost_is_given_back():
    """What may be ours without our knowing is released, and claimed anew: nobody holds it for ever."""
    async with at_work("a0", "a1", "a2", places=2) as scene:
        claim, asked = scene.leases.claim, []

        async def first_answer_is_lost(*args, **options):
            asked.append(args)
            won = await claim(*args, **options)
            if len(asked) == 1:
                raise GONE
            return won

        scene.leases.claim = first_answer_is_lost
        scene.dispatcher.look([ONCE])
        await scene.until(lambda: len(scene.engine.runs) == 3)
        await scene.quiet()
        assert scene.runs() == ["a0", "a1", "a2"]
        assert scene.leases.held == {}


async def test_two_kinds_of_work_for_one_account_follow_each_other():
    """With places to spare the second kind waits for the first, and is not lost."""
    async with at_work("alice", places=4) as scene:
        scene.dispatcher.look([ONCE, RETRY])
        await scene.quiet()
        assert scene.engine.runs == [("alice", "once"), ("alice", "retry")]


async def test_a_look_during_an_outage_is_not_forgotten():
    """What is asked for while the warehouse is away is done when it is back."""
    async with at_work("alice") as scene:
        scene.leases.errors["due"] = [GONE] * 50
        scene.dispatcher.look([ONCE])
        await scene.until(lambda: len(scene.leases.errors["due"]) < 50)
        scene.dispatcher.look([RETRY])
        await scene.until(lambda: len(scene.leases.released) == 1)
        assert scene.runs("once") == ["alice"]
        assert not scene.leases.errors["due"]


async def test_a_defect_ends_it():
    """An error that nobody expected is not swallowed: whoever runs the dispatcher hears of it."""
    scene = Scene(["alice"], 1)
    scene.leases.errors["release"] = [ZeroDivisionError("defect")]
    scene.dispatcher.look([ONCE])
    with pytest.raises(ExceptionGroup) as caught:
        async with asyncio.timeout(HANG_S):
            await scene.dispatcher.run()
    assert caught.group_contains(ZeroDivisionError)


async def test_cancelling_ends_all():
    """Every run is cancelled, and none begins any more; whoever cancels gives the leases back as a whole."""
    scene = Scene(MANY, 3)
    scene.engine.gates = {account: asyncio.Event() for account in MANY}
    task = asyncio.create_task(scene.dispatcher.run())
    scene.dispatcher.look([ONCE])
    await scene.until(lambda: len(scene.engine.running) == 3)
    task.cancel()
    await asyncio.wait([task], timeout=HANG_S)
    assert task.cancelled()
    assert scene.engine.running == set()
    assert len(scene.runs()) == 3
    assert scene.leases.released == []


async def test_the_cycle_is_the_schedule_s():
    """Leases are asked for the cycle that now is in, which is the same for every process."""
    asked = []
    async with at_work("alice") as scene:
        for name in ("due", "claim"):
            method = getattr(scene.leases, name)

            async def noting(source, accounts, work, cycle, *, method=method, **options):
                asked.append(cycle)
                return await method(source, accounts, work, cycle, **options)

            setattr(scene.leases, name, noting)
        before = datetime.now(UTC)
        scene.dispatcher.look([ONCE])
        await scene.quiet()
        after = datetime.now(UTC)
    assert len(asked) == 2
    assert set(asked) <= {DAILY.last(before), DAILY.last(after)}


async def test_what_comes_due_while_an_account_is_read_is_done_afterwards():
    """Another kind of work, and the next cycle of the same: neither is lost because the account was busy."""
    async with at_work("alice", places=2) as scene:
        gate = scene.engine.gates["alice"] = asyncio.Event()
        scene.dispatcher.look([ONCE])
        await scene.until(lambda: scene.engine.running == {"alice"})
        scene.leases.cycle = 2
        scene.dispatcher.look([ONCE, RETRY])
        await scene.until(lambda: not scene.dispatcher._wanted)
        gate.set()
        await scene.quiet()
        assert sorted(scene.engine.runs) == [("alice", "once"), ("alice", "once"), ("alice", "retry")]


async def test_failed_accounts_are_tried_again_whoever_looks_first():
    """A tick that comes while the first look is still waiting for the warehouse does not replace it."""
    async with at_work("alice", places=2) as scene:
        scene.leases.failed.add("alice")
        scene.leases.done["alice", "once"] = 1
        scene.leases.errors["due"] = [GONE] * 5
        scene.dispatcher.look([ONCE], retry_failed=True)
        await scene.until(lambda: len(scene.leases.errors["due"]) == 3)
        scene.dispatcher.look([ONCE])
        await scene.until(lambda: not scene.leases.errors["due"])
        await scene.quiet()
        assert scene.runs() == ["alice"]


async def test_an_account_that_is_refused_is_in_trouble_and_costs_the_others_nothing():
    """It is told once, never worked on, and worked on again when it is refused no longer."""
    scene = Scene(("alice", "bob"), 2)
    refused = {"alice": AccountForgotten("alice was forgotten")}

    async def refusing(source):
        assert source == "beddit"
        return refused

    scene.dispatcher.refused = refusing
    with structlog.testing.capture_logs() as logs:
        for _ in range(3):
            await scene.dispatcher._readable()
    assert [line["error"] for line in logs if line["event"] == "outage.began"] == ["alice was forgotten"]
    assert scene.engine.troubles.open == {"beddit/alice"}
    assert await scene.dispatcher._readable() == ["bob"]
    refused.clear()
    assert await scene.dispatcher._readable() == ["alice", "bob"]
