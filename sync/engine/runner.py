"""Runs the accounts of a source side by side, each account's units in the order of its plan."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, nullcontext, suppress
from dataclasses import dataclass, field, replace
from typing import Final

import structlog

from sync.engine.troubles import Troubles
from sync.errors import LeaseLost, SyncError
from sync.model import Batch, Difference, Reject, RunOutcome, Tally, Task, Traffic, storable
from sync.ports import Ledger, Observer, Sink, Source, Unit

log = structlog.get_logger(__name__)

CLOSE_TIMEOUT_S = 5.0
"""How long an interrupted run tries to say so in the ledger."""

RAGGED_END: Final = 256
"""Characters at the end of a shortened payload that are not kept: more than secrets commonly have."""

Permit = Callable[[str, str], AbstractAsyncContextManager[None]]
"""What is held while an account of a source is worked on."""


def _free(source: str, account: str) -> AbstractAsyncContextManager[None]:  # noqa: ARG001
    return nullcontext()


def _never() -> bool:
    return False


NOTHING: Final = Traffic()


@dataclass(frozen=True, slots=True)
class Engine:
    """Everything that a run needs beside its source.

    Attributes:
        sink: Where batches go.
        ledger: Where runs are written down.
        observer: Who is told.
        redact: Takes secrets out of texts that are kept.
        permit: What ``run`` holds while it works on an account; refuses with ``AccountBusy``.
        troubles: What is wrong, over all runs.
        parallel_accounts: Accounts of one source that are worked on at once.
        parallel_units: Units of one account that are worked on at once, where they are independent.
    """

    sink: Sink
    ledger: Ledger
    observer: Observer
    redact: Callable[[str], str] = str
    permit: Permit = _free
    troubles: Troubles = field(default_factory=Troubles)
    parallel_accounts: int = 4
    parallel_units: int = 4

    async def run(self, source: Source, task: Task, accounts: Sequence[str]) -> list[RunOutcome]:
        """Do a task for some accounts of a source.

        An account that fails stops alone; its outcome carries the error. Cancelling ends every unit after
        at most the batch that is being committed, which is stored or not, whole.
        """
        places = asyncio.Semaphore(self.parallel_accounts)

        async def one(account: str) -> RunOutcome:
            try:
                async with places, self.permit(source.name, account):
                    return await self.run_account(source, account, task)
            except SyncError as error:  # of the permit
                return RunOutcome(source.name, account, Tally(), NOTHING, error)

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(account), name=f"{source.name}/{account}") for account in accounts]
        return [task.result() for task in tasks]

    async def run_account(
        self, source: Source, account: str, task: Task, *, is_enough: Callable[[], bool] = _never
    ) -> RunOutcome:
        """Do a task for one account, which nobody else works on meanwhile.

        Args:
            source: The account's source.
            account: The account.
            task: What to do.
            is_enough: Asked between groups of units: whether the rest shall wait for another run.
        """
        with structlog.contextvars.bound_contextvars(source=source.name, account=account):
            return await _Run(self, source, account, task, is_enough).execute()


class _Run:
    """One account's run, from its ledger row's opening to its closing."""

    def __init__(
        self, engine: Engine, source: Source, account: str, task: Task, is_enough: Callable[[], bool]
    ) -> None:
        self._engine, self._source, self._account, self._task = engine, source, account, task
        self._is_enough = is_enough
        self._paused = False
        self._begun_at = engine.troubles.now()
        self._tally = Tally()
        self._differences = 0
        self._first_difference = ""
        self._traffic_before = source.traffic(account)
        self._run = 0

    async def execute(self) -> RunOutcome:
        try:
            self._run = await self._engine.ledger.begin(self._source.name, self._account, self._task)
        except SyncError as error:
            return self._concluded(self._outcome(error))
        except Exception as error:
            log.exception("ledger.defect")
            return self._concluded(self._outcome(error))
        with structlog.contextvars.bound_contextvars(run=self._run):
            return await self._watched()

    async def _watched(self) -> RunOutcome:
        log.debug("run.started", task=self._task.kind)
        try:
            outcome = self._outcome(await self._work())
        except asyncio.CancelledError:
            with suppress(TimeoutError):  # whoever interrupts does not wait for a database that hangs
                await asyncio.wait_for(self._close(self._outcome(None), "interrupted"), CLOSE_TIMEOUT_S)
            raise
        await self._close(outcome, "failed" if outcome.error else "paused" if outcome.paused else "done")
        return self._concluded(outcome)

    def _concluded(self, outcome: RunOutcome) -> RunOutcome:
        """Tell everybody; trouble is told when it begins and when it ends, not run by run."""
        message = self._message(outcome.error) if outcome.error else ""
        self._engine.troubles.run_ended(outcome, message, self._begun_at)
        self._engine.observer.finished(outcome)
        return outcome

    async def _work(self) -> Exception | None:
        """Run the plan to its end or to its first failure."""
        try:
            async with aclosing(self._source.plan(self._account, self._task)) as plan:
                async for units in plan:
                    self._engine.observer.planned(self._source.name, self._account, units)
                    if error := await self._run_group(units):
                        return error
                    if self._is_enough():
                        self._paused = True
                        return None
        except SyncError as error:
            return error
        except Exception as error:  # a defect in one account must not stop the others
            log.exception("run.defect")
            return error
        return None

    async def _run_group(self, units: Sequence[Unit]) -> Exception | None:
        places = asyncio.Semaphore(self._engine.parallel_units)
        errors: list[Exception] = []

        async def one(unit: Unit) -> None:
            async with places:
                if not errors:  # after a failure nothing new is begun
                    await self._run_unit(unit, errors)

        async with asyncio.TaskGroup() as group:
            for unit in units:
                group.create_task(one(unit), name=unit.label)
        return errors[0] if errors else None

    async def _run_unit(self, unit: Unit, errors: list[Exception]) -> None:
        with structlog.contextvars.bound_contextvars(unit=unit.label):
            try:
                async with aclosing(unit.batches()) as batches:
                    async for batch in batches:
                        await self._commit(unit, batch)
            except SyncError as error:
                await self._note_failure(unit, error)
                errors.append(error)
            except Exception as error:
                log.exception("unit.defect")
                await self._note_failure(unit, error)
                errors.append(error)

    async def _commit(self, unit: Unit, batch: Batch) -> None:
        batch = self._redacted(batch)
        tally = await self._engine.sink.commit(self._run, batch)
        self._tally += tally
        if tally.read != tally.accounted_for:
            raise AssertionError(f"a batch of {unit.label} does not add up: {tally}")
        self._count(batch.differences)
        log.debug("batch.committed", read=tally.read, stored=tally.stored, rejected=tally.rejected)
        self._engine.observer.committed(self._source.name, self._account, unit, batch, tally)

    def _count(self, differences: Sequence[Difference]) -> None:
        if differences and not self._differences:
            self._first_difference = f"{differences[0].item_key}: {differences[0].text}"
        self._differences += len(differences)

    def _redacted(self, batch: Batch) -> Batch:
        """Rejects and differences have texts from outside: no secret may travel in them."""
        fit = self._fit

        def clean(rejects: Sequence[Reject]) -> tuple[Reject, ...]:
            return tuple(
                replace(
                    reject,
                    item_key=fit(reject.item_key),
                    reason=fit(reject.reason),
                    payload=_without_ragged_end(_map_text(reject.payload, fit)),
                )
                for reject in rejects
            )

        differences = tuple(
            replace(one, item_key=fit(one.item_key), text=fit(one.text)) for one in batch.differences
        )
        # Of rows only the texts that are ours: what a vendor calls a thing is data, whatever it reads like.
        updates = tuple(
            replace(one, row={**one.row, "reason": fit(one.row["reason"])}) if one.row.get("reason") else one
            for one in batch.updates
        )
        records = tuple(replace(r, rejects=clean(r.rejects)) if r.rejects else r for r in batch.records)
        stretches = tuple(replace(s, rejects=clean(s.rejects)) if s.rejects else s for s in batch.stretches)
        return replace(
            batch,
            records=records,
            stretches=stretches,
            rejects=clean(batch.rejects),
            updates=updates,
            differences=differences,
        )

    async def _note_failure(self, unit: Unit, error: Exception) -> None:
        message = self._message(error)
        log.debug("unit.failed", error=message, kind=type(error).__name__)
        if not isinstance(error, LeaseLost):  # then another process is the one to say how it goes
            await self._tell(self._engine.ledger.failed(self._run, unit.stream, message))

    async def _close(self, outcome: RunOutcome, verdict: str) -> None:
        error = self._message(outcome.error) if outcome.error else None
        tally, traffic = outcome.tally, outcome.traffic
        is_news = tally.stored or tally.rejected
        log.log(
            logging.INFO if is_news else logging.DEBUG,
            "run.finished",
            task=self._task.kind,
            outcome=verdict,
            read=tally.read,
            stored=tally.stored,
            rejected=tally.rejected,
            requests=traffic.requests,
        )
        if self._differences:
            first, repair = self._first_difference, self._task.repair
            log.warning("differences.found", count=self._differences, first=first, repair=repair)
        await self._tell(self._engine.ledger.finish(self._run, outcome, verdict=verdict, error=error))

    async def _tell(self, report: Awaitable[None]) -> None:
        """Tell the ledger. Where it fails, what was read is stored all the same and other accounts go on."""
        try:
            await report
        except SyncError as error:
            log.debug("ledger.unavailable", error=self._message(error))
        except Exception:
            log.exception("ledger.defect")

    def _outcome(self, error: Exception | None) -> RunOutcome:
        traffic: Traffic = self._source.traffic(self._account) - self._traffic_before
        return RunOutcome(self._source.name, self._account, self._tally, traffic, error, self._paused)

    def _message(self, error: Exception) -> str:
        return self._fit(str(error) or type(error).__name__)

    def _fit(self, text: str) -> str:
        """Text from outside as it may be kept: without secrets, and without what a database cannot hold."""
        return storable(self._engine.redact(text))


def _without_ragged_end(payload: object) -> object:
    """What was shortened may end in the beginning of a secret, which nobody would recognise."""
    match payload:
        case {"shortened": str(text)} if len(text) > RAGGED_END:
            return {"shortened": text[:-RAGGED_END]}
    return payload


def _map_text(value: object, change: Callable[[str], str]) -> object:
    match value:
        case str():
            return change(value)
        case list():
            return [_map_text(part, change) for part in value]
        case dict():
            return {change(key): _map_text(part, change) for key, part in value.items()}
    return value
