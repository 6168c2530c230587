"""What all machines have in common: two processes on one warehouse, and everything that befalls them."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from sync.errors import AccountBusy
from sync.model import RunOutcome, Task
from sync.ports import Source
from sync.storage.progress import PostgresWarehouse
from sync.storage.workers import PostgresWorker
from tests.model.house import (
    DISTURBED,
    LEASE,
    House,
    Process,
    assert_nothing_runs,
    assert_runs_add_up,
)

DAY = 86_400.0
BOTH = st.integers(0, 1)
STOPS = st.integers(1, 160)
"""A quiet cycle has some seventy steps."""


class Clock:
    """Unix seconds that pass only when a machine says so."""

    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        """Tell the time."""
        return self.now


class PipelineMachine(RuleBasedStateMachine):
    """Two processes; vendors that change are added below.

    Attributes:
        step: How often anything has happened.
    """

    now: ClassVar[float]
    tasks: ClassVar[tuple[Task, ...]]

    def __init__(self, house: House) -> None:
        super().__init__()
        self.house = house
        self.clock = Clock(self.now)
        self.step = 0
        self._processes: list[Process] = []
        self._dead: list[Process] = []
        self._excused: set[int] = set()
        house.do(self._open())

    # --- what a machine has to say ----------------------------------------------------------------

    accounts: Mapping[str, Sequence[str]]

    async def open_clouds(self) -> None:
        """Start the vendors."""
        raise NotImplementedError

    async def close_clouds(self) -> None:
        """End them."""
        raise NotImplementedError

    def sources(self, warehouse: PostgresWarehouse, folder: Path) -> Mapping[str, Source]:
        """The sources of one process."""
        raise NotImplementedError

    async def check(self, since: int) -> None:
        """What holds after every step.

        Args:
            since: The step in which the oldest work that was under way in this one was begun.
        """
        raise NotImplementedError

    async def check_end(self) -> None:
        """What holds when everything has calmed down, and after everything was read again."""
        raise NotImplementedError

    # --- processes --------------------------------------------------------------------------------

    async def _open(self) -> None:
        self.house.happened["examples"] += 1
        await self.house.empty()
        await self.open_clouds()
        self._keeper = PostgresWorker(self.house.dsn, LEASE)
        await self._keeper.enrol("run", "model")
        self._processes = [await self._new() for _ in range(2)]

    async def _new(self) -> Process:
        process = Process(self.house, self.sources)
        await process.open()
        return process

    def _is_idle(self, who: int) -> bool:
        return not self._processes[who].puppet.is_frozen

    @precondition(lambda self: self._is_idle(0) or self._is_idle(1))
    @rule(who=BOTH, task=st.integers(0, 99))
    def work(self, who: int, task: int) -> None:
        """A process does a task."""
        self.step += 1
        who = who if self._is_idle(who) else 1 - who
        self.house.do(self._work(who, self.tasks[task % len(self.tasks)], None))

    @precondition(lambda self: self._is_idle(0) or self._is_idle(1))
    @rule(who=BOTH, task=st.integers(0, 99), stop_at=STOPS)
    def work_and_freeze(self, who: int, task: int, stop_at: int) -> None:
        """A process does a task, and is frozen in the middle if it has so many steps."""
        self.step += 1
        self.house.happened["to be frozen"] += 1
        who = who if self._is_idle(who) else 1 - who
        self.house.do(self._work(who, self.tasks[task % len(self.tasks)], stop_at))

    @precondition(lambda self: self._is_idle(0) or self._is_idle(1))
    @rule(who=BOTH, task=st.integers(0, 99), nth=st.integers(1, 8), after=st.booleans())
    def work_with_a_failing_commit(self, who: int, task: int, nth: int, after: bool) -> None:
        """A commit fails, or its answer is lost."""
        self.step += 1
        who = who if self._is_idle(who) else 1 - who
        sink = self._processes[who].sink
        sink.fails_in, sink.after = nth, after
        self._excused.add(who)
        self.house.do(self._work(who, self.tasks[task % len(self.tasks)], None))

    @precondition(lambda self: not (self._is_idle(0) and self._is_idle(1)))
    @rule(who=BOTH, how=st.sampled_from(["go", "cancel", "kill", "disconnect", "take over"]))
    def wake(self, who: int, how: str) -> None:
        """Something happens to a frozen process."""
        self.step += 1
        self.house.do(self._wake(1 - who if self._is_idle(who) else who, how))

    @rule(who=BOTH)
    def restart(self, who: int) -> None:
        """A process that rests is ended, and another one begun: its memory is gone."""
        self.step += 1
        if self._is_idle(who):
            self.house.do(self._replace(who))

    @precondition(lambda self: self._dead)
    @rule()
    def bury(self) -> None:
        """Others find out that a process is dead."""
        self.step += 1
        self.house.do(self._bury())

    async def _work(self, who: int, task: Task, stop_at: int | None) -> None:
        process = self._processes[who]
        outcomes = await process.start(task, self.accounts, stop_at=stop_at, begun=self.step)
        self.house.happened["frozen" if outcomes is None else "worked"] += 1
        await self._concluded(who, outcomes)

    async def _wake(self, who: int, how: str) -> None:
        self.house.happened[how] += 1
        process = self._processes[who]
        if how == "take over":
            await process.fall_silent()
            await self._keeper.beat()
            process.is_lost = True
        elif how == "kill":
            await process.kill()
            self._dead.append(process)
            self._excused.discard(who)
            self._processes[who] = await self._new()
        elif how == "cancel":
            await self._concluded(who, await process.cancel())
            await self._replace(who)  # what is cancelled ends
        else:
            if how == "disconnect":
                await process.disconnect()
                self._excused.add(who)
            process.puppet.thaw()
            await self._concluded(who, await process.rest(), was_frozen=True)

    async def _concluded(
        self, who: int, outcomes: Sequence[RunOutcome] | None, *, was_frozen: bool = False
    ) -> None:
        """A run ends well, unless it was interfered with; who was frozen may have found accounts busy."""
        if outcomes is None:
            return
        process = self._processes[who]
        allowed: tuple[type[Exception], ...] = ()
        if process.is_lost or who in self._excused:
            allowed = DISTURBED
        elif was_frozen or self._dead or any(other.puppet.is_frozen for other in self._processes):
            allowed = (AccountBusy,)
        for outcome in outcomes:
            self.house.happened[type(outcome.error).__name__] += outcome.error is not None
            if outcome.error is not None and not isinstance(outcome.error, allowed):
                raise AssertionError(f"{outcome.source}/{outcome.account} failed") from outcome.error
            self.house.happened["items"] += outcome.tally.read
        self._excused.discard(who)
        if process.is_lost:
            await self._replace(who)  # it goes on as a new worker

    async def _replace(self, who: int) -> None:
        await self._processes[who].close()
        self._processes[who] = await self._new()

    async def _bury(self) -> None:
        for process in self._dead:
            await process.fall_silent()
        self._dead.clear()
        await self._keeper.beat()

    # --- checks -----------------------------------------------------------------------------------

    @invariant()
    def holds(self) -> None:
        """Everything that holds at any time."""
        self.house.do(self._check())

    async def _check(self) -> None:
        begun = [process.begun for process in self._processes if process.begun is not None]
        await assert_runs_add_up(self.house)
        await self.check(min([self.step, *begun]))

    def teardown(self) -> None:
        """Calm down, check once more, and leave; after a failure only leave."""
        try:
            if sys.exc_info()[0] is None:
                self.step += 1
                self.house.do(self._calm())
                self.house.do(self.check_end())
        finally:
            self.house.do(self._close())

    async def _calm(self) -> None:
        for who, process in enumerate(self._processes):
            if process.puppet.is_frozen:
                self._excused.add(who)
                process.puppet.thaw()
                await self._concluded(who, await process.rest())
        await self._bury()
        await assert_nothing_runs(self.house)
        await self._check()

    async def quiet(self, task: Task, *, after: float) -> None:
        """Some time passes, and then one process does a task, undisturbed."""
        self.step += 1
        self.clock.now += after
        await self._work(self.step % 2, task, None)
        await self._check()

    async def _close(self) -> None:
        for process in self._processes:
            if process.puppet.is_frozen:
                await process.kill()
            else:
                await process.close()
        await self._keeper.leave()
        await self.close_clouds()
