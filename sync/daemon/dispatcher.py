"""Hands accounts to the engine: each that is due, one process at a time, a bounded number side by side."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from time import monotonic
from typing import Final, NoReturn

import structlog

from sync.engine.runner import Engine
from sync.errors import ConfigurationError, RetryableError, StorageUnavailable, SyncError
from sync.model import RunOutcome, Tally, Task, Traffic
from sync.ports import Leases, Source
from sync.schedule import Schedule

log = structlog.get_logger(__name__)

TURN_S: Final = 300.0
"""How long work may keep other work waiting; then it goes to the end of the queue."""

AGAIN_S: Final = 2.0
"""How soon a warehouse that is away is asked again; the keeper watches it, and says so."""


@dataclass(frozen=True, slots=True)
class Work:
    """One kind of work for the accounts of a source.

    Attributes:
        task: What is done.
        schedule: When a new cycle of it begins.
    """

    task: Task
    schedule: Schedule

    @property
    def kind(self) -> str:
        """What its cycles are counted under."""
        return self.task.kind


@dataclass(slots=True)
class _Cycle:
    """How a cycle goes, for one line in the log."""

    begun: float
    waiting: set[str]
    failed: int = 0
    stored: int = 0
    rejected: int = 0
    requests: int = 0
    accounts: int = 0

    def add(self, account: str, outcome: RunOutcome) -> None:
        """An account's run has ended."""
        self.stored += outcome.tally.stored
        self.rejected += outcome.tally.rejected
        self.requests += outcome.traffic.requests
        if not outcome.paused:
            self.failed += outcome.error is not None
            self.accounts += 1
            self.waiting.discard(account)


async def _nobody(source: str) -> Mapping[str, SyncError]:  # noqa: ARG001
    return {}


@dataclass(slots=True)
class Dispatcher:
    """The queue of one source, and those who work on it.

    Attributes:
        source: Whose accounts.
        engine: Does the work.
        leases: Which of it is ours.
        places: Accounts that are worked on side by side.
        refused: Says which accounts are not to be read, and why.
    """

    source: Source
    engine: Engine
    leases: Leases
    places: int
    refused: Callable[[str], Awaitable[Mapping[str, SyncError]]] = _nobody
    _wanted: dict[str, tuple[Work, bool]] = field(default_factory=dict)
    _queue: dict[tuple[str, str], tuple[Work, bool]] = field(default_factory=dict)
    _running: set[str] = field(default_factory=set)
    _doubtful: set[str] = field(default_factory=set)
    """Accounts whose claim was not answered: they may be ours."""
    _cycles: dict[str, _Cycle] = field(default_factory=dict)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def load(self) -> tuple[int, int]:
        """Accounts that wait, and accounts that are worked on."""
        return len(self._queue), len(self._running)

    def look(self, works: Iterable[Work], *, retry_failed: bool = False) -> None:
        """Have it found out soon which accounts are due; returns at once.

        Args:
            works: Which work.
            retry_failed: Accounts that failed are due as well: somebody may have mended what was wrong.
        """
        for work in works:
            _, retry = self._wanted.get(work.kind, (work, False))
            self._wanted[work.kind] = (work, retry or retry_failed)
        self._changed.set()

    async def run(self) -> NoReturn:
        """Work for ever. Cancelled, it ends after the batches in hand were stored or not, whole."""
        async with asyncio.TaskGroup() as group:
            while True:
                await self._changed.wait()
                self._changed.clear()
                try:
                    await self._fill()
                    await self._start(group)
                except (StorageUnavailable, ConfigurationError) as error:
                    self.engine.troubles.warehouse_failed(str(error), self.source.name)
                    await asyncio.sleep(AGAIN_S)
                    self._changed.set()
                else:
                    self.engine.troubles.warehouse_answered(self.source.name)
        raise AssertionError("work ends only by being cancelled")

    async def _fill(self) -> None:
        """Queue what is due of the works that somebody asked for."""
        while self._wanted:
            kind, (work, retry_failed) = next(iter(self._wanted.items()))
            due = await self.leases.due(
                self.source.name, await self._readable(), kind, _cycle(work), retry_failed=retry_failed
            )
            if self._wanted[kind] == (work, retry_failed):
                del self._wanted[kind]
            for account in (*due, *self._running):  # whose claim will tell whether they are due by then
                self._queue.setdefault((account, kind), (work, retry_failed))
            if due:
                cycle = self._cycles.setdefault(kind, _Cycle(monotonic(), set()))
                cycle.waiting |= set(due)

    async def _readable(self) -> Sequence[str]:
        """The accounts without those that are refused, who count as in trouble."""
        refused, troubles = await self.refused(self.source.name), self.engine.troubles
        for account, error in refused.items():
            outcome = RunOutcome(self.source.name, account, Tally(), Traffic(), error)
            troubles.run_ended(outcome, str(error), troubles.now())
        return [account for account in self.source.accounts if account not in refused]

    async def _start(self, group: asyncio.TaskGroup) -> None:
        """Work on the first in the queue, as many as there are places for."""
        for account in tuple(self._doubtful):
            await self.leases.release(self.source.name, account, done=False)
            self._doubtful.discard(account)
        while batch := self._next_batch(self.places - len(self._running)):
            (_, kind), (work, retry_failed) = batch[0]
            accounts = [account for (account, _), _ in batch]
            self._doubtful.update(accounts)
            won = await self.leases.claim(
                self.source.name, accounts, kind, _cycle(work), retry_failed=retry_failed
            )
            self._doubtful.clear()
            for account in accounts:
                self._queue.pop((account, kind), None)
                if account in won:
                    self._running.add(account)
                    group.create_task(self._work_on(account, work), name=f"{self.source.name}/{account}")
                else:
                    self._leave(kind, account)

    def _next_batch(self, most: int) -> list[tuple[tuple[str, str], tuple[Work, bool]]]:
        """The first accounts in the queue that nobody here works on, all for the same kind of work."""
        free = self._waiting() if most > 0 else []
        return [item for item in free if item[0][1] == free[0][0][1]][:most]

    def _waiting(self) -> list[tuple[tuple[str, str], tuple[Work, bool]]]:
        """What in the queue only waits for a place."""
        return [item for item in self._queue.items() if item[0][0] not in self._running]

    def _is_due_for_more(self, account: str, kind: str, since: datetime) -> bool:
        """Whether a cycle of another kind has begun since then: what is new waits for no verification."""
        return any(
            name == account and other != kind and _cycle(work) > since
            for (name, other), (work, _) in self._queue.items()
        )

    async def _work_on(self, account: str, work: Work) -> None:
        begun, begun_at = monotonic(), datetime.now(UTC)

        def is_enough() -> bool:
            if monotonic() - begun <= TURN_S:
                return False
            return bool(self._waiting()) or self._is_due_for_more(account, work.kind, begun_at)

        outcome = await self.engine.run_account(self.source, account, work.task, is_enough=is_enough)
        await self._give_back(account, outcome)
        self._running.discard(account)
        if outcome.paused:
            self._queue[account, work.kind] = (work, False)
        if work.kind in self._cycles:
            self._cycles[work.kind].add(account, outcome)
            self._conclude(work.kind)
        self._changed.set()

    async def _give_back(self, account: str, outcome: RunOutcome) -> None:
        """Release the lease, as soon as the warehouse is there for it. Who is cancelled leaves as a whole."""
        error, proves_something = outcome.error, outcome.error or outcome.traffic.requests
        while True:
            try:
                await self.leases.release(
                    self.source.name,
                    account,
                    done=not outcome.paused,
                    failed=error is not None if proves_something else None,
                    retry=isinstance(error, RetryableError),
                )
            except (StorageUnavailable, ConfigurationError) as away:
                self.engine.troubles.warehouse_failed(str(away), f"{self.source.name}/{account}")
                await asyncio.sleep(AGAIN_S)
            else:
                self.engine.troubles.warehouse_answered(f"{self.source.name}/{account}")
                return

    def _leave(self, kind: str, account: str) -> None:
        """Another process was quicker, or it is done already."""
        if kind in self._cycles:
            self._cycles[kind].waiting.discard(account)
            self._conclude(kind)

    def _conclude(self, kind: str) -> None:
        """Say how a cycle went when the last of its accounts is done."""
        cycle = self._cycles.get(kind)
        if cycle is None or cycle.waiting:
            return
        del self._cycles[kind]
        if cycle.accounts:
            # An outage was told when it began: cycles in which nobody gets anywhere are no news.
            level = logging.INFO if cycle.failed < cycle.accounts else logging.DEBUG
            log.log(
                level,
                "cycle.finished",
                source=self.source.name,
                task=kind,
                accounts=cycle.accounts,
                failed=cycle.failed,
                stored=cycle.stored,
                rejected=cycle.rejected,
                requests=cycle.requests,
                seconds=round(monotonic() - cycle.begun, 1),
            )


def _cycle(work: Work) -> datetime:
    return work.schedule.last(datetime.now(UTC))
