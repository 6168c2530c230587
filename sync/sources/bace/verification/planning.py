"""What has to be compared for an account, in which order."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

from sync.errors import SourceContractError
from sync.model import Batch, Pass, Progress, StreamKey, StreamState, Task, Verified
from sync.ports import Unit
from sync.sources.bace.comparison import ALL_TIME
from sync.sources.bace.context import AccountContext
from sync.sources.bace.data import DueSession, SessionData
from sync.sources.bace.knowledge import Known
from sync.sources.bace.passes import load_cursor
from sync.sources.bace.proof import Rounding
from sync.sources.bace.spans import DAY, Span, ceil, difference, floor, union
from sync.sources.bace.tables import SESSIONS_OWNED, SESSIONS_TO_COMPARE
from sync.sources.bace.verification.comparing import ComparedSession
from sync.sources.bace.verification.listing import ComparedList, Owned, stream_of
from sync.sources.bace.verification.screening import Screening, Suspects
from sync.sources.bace.walk import interval, microseconds

WIDTH: Final = 90 * DAY
"""Time that is screened with one question: long enough to be answered in days, short enough for few pages."""

GROUP: Final = 16
"""Sessions that are looked at side by side, at most."""

HOPELESS: Final = 5
"""So many sessions in a row that cannot be looked at are not the sessions' fault."""

_DUE: Final = tuple(one.name for one in fields(DueSession))


@dataclass(slots=True)
class Screened:
    """A stretch of time in which many sessions are compared at once.

    Attributes:
        screening: Compares.
        window: The time.
        suspects: After the unit: what has to be looked at.
    """

    context: AccountContext
    screening: Screening
    window: Span
    suspects: Suspects = field(default_factory=dict)

    @property
    def stream(self) -> StreamKey:
        """The verification's."""
        return stream_of(self.context)

    @property
    def label(self) -> str:
        """For a person."""
        time = interval(self.window)
        return f"days from {time.start:%Y-%m-%d} to {time.end:%Y-%m-%d}"

    async def batches(self) -> AsyncGenerator[Batch, None]:
        """Nothing to store yet."""
        self.suspects = await self.screening.suspects(self.window)
        yield Batch(self.stream)


@dataclass(slots=True)
class Verification:
    """Plans the verification of one account.

    Attributes:
        context: The account.
        known: What is known of the server.
    """

    context: AccountContext
    known: Known
    _failures: list[str] = field(default_factory=list)
    _in_a_row: int = 0
    _left_out: list[Span] = field(default_factory=list)

    async def units(self, task: Task) -> AsyncGenerator[Sequence[Unit], None]:
        """The list of sessions, then their data, newest first.

        What could not be looked at is left to the next run, and the run says so in the end.
        """
        cursor = await load_cursor(self.context)
        if cursor is None:  # nothing was read yet: nothing is claimed
            return
        verification, begin = await self._begun(task)
        yield [begin]
        if not verification.listed:
            owned = {session.id: session for session in await self._owned()}
            unit = ComparedList(self.context, verification, cursor, owned)
            yield [unit]
            async for units in self._read_anew(unit.mended):
                yield units
            listed = replace(verification, listed=True)
            yield [self._noted("the list was compared", verification, listed)]
            verification = listed
        async for units in self._data(verification):
            yield units
        if self._failures:
            yield [_Complain(stream_of(self.context), self._complaint())]
        else:
            yield [self._end(verification)]

    async def _data(self, verification: Pass) -> AsyncGenerator[Sequence[Unit], None]:
        owned = [one for one in await self._owned() if verification.looks_at(one.began)]
        rounding = Rounding()
        screening = Screening(self.context, self.known, rounding, owned)
        while owned and (window := await self._next(verification, owned)) is not None:
            screened = Screened(self.context, screening, window)
            yield [screened]
            before = len(self._failures)
            async for units in self._sessions(screened.suspects, rounding, verification):
                yield units
            if self._in_a_row >= HOPELESS:
                return
            if len(self._failures) == before:
                yield [self._note(f"verified {screened.label}", Progress(covered=(interval(window),)))]
            else:
                self._left_out.append(window)

    async def _sessions(
        self, suspects: Suspects, rounding: Rounding, verification: Pass
    ) -> AsyncGenerator[Sequence[Unit], None]:
        rows = await self._due(tuple(suspects))
        for first in range(0, len(rows), GROUP):
            units = [
                ComparedSession(
                    self.context,
                    self.known,
                    due,
                    rounding=rounding,
                    days=suspects[due.id_data_session],
                    archived=archived,
                    repair=verification.repair,
                )
                for due, archived in rows[first : first + GROUP]
            ]
            yield units
            self._note_failures(units)

    async def _read_anew(self, ids: Sequence[UUID]) -> AsyncGenerator[Sequence[Unit], None]:
        """The data of sessions whose rows were mended, where the rows say that it may have changed."""
        rows = [due for due, _ in await self._due(ids) if not due.is_as_checked]
        for first in range(0, len(rows), GROUP):
            units = [SessionData(self.context, self.known, due) for due in rows[first : first + GROUP]]
            yield units
            self._note_failures(units)

    async def _due(self, ids: Sequence[UUID]) -> list[tuple[DueSession, bool]]:
        """Sessions as the warehouse has them, and whether each is archived."""
        if not ids:
            return []
        rows = await self._fetch(SESSIONS_TO_COMPARE, list(ids))
        return [
            (DueSession(**{name: row[name] for name in _DUE}), row["archived"]) for row in map(dict, rows)
        ]

    async def _owned(self) -> list[Owned]:
        return [
            Owned(
                row["id_data_session"],
                row["started_at"],
                row["ended_at"],
                row["final"],
                frozenset(row["datasets"]),
            )
            for row in await self._fetch(SESSIONS_OWNED)
        ]

    async def _fetch(self, query: str, *args: Any) -> Sequence[Mapping[str, Any]]:
        """Ask about the sessions that the account reads."""
        context = self.context
        return await context.warehouse.fetch(query, context.account, list(context.settings.accounts), *args)

    def _note_failures(self, units: Sequence[SessionData]) -> None:
        for unit in units:
            self._in_a_row = 0 if unit.failure is None else self._in_a_row + 1
            if unit.failure is not None:
                self._failures.append(f"{unit.label}: {unit.failure.reason}")

    # -- how far it is -------------------------------------------------------------------------

    async def _begun(self, task: Task) -> tuple[Pass, Unit]:
        """The verification that a run goes on with, or a new one."""
        state = await self._state()
        verification = Pass.load(state.cursor)
        if verification is not None and verification.does(task):
            return verification, self._note("going on", Progress())
        (row,) = await self.context.warehouse.fetch("SELECT now() AS now")
        verification = Pass(began_at=row["now"], since=task.since, until=task.until, repair=task.repair)
        progress = Progress(cursor=verification.dump(), cursor_was=state.cursor, uncovered=state.coverage)
        return verification, self._note("beginning", progress)

    async def _next(self, verification: Pass, owned: Sequence[Owned]) -> Span | None:
        """The newest stretch that was not verified yet: around the sessions in parts, the rest at once."""
        sessions = self._around(owned)
        bounded = verification.since is not None or verification.until is not None
        covered = (
            Span(microseconds(part.start), microseconds(part.end)) for part in (await self._state()).coverage
        )
        done = union((*covered, *self._left_out))
        missing = difference((sessions if bounded else ALL_TIME,), done)
        if not missing:
            return None
        newest = missing[-1]
        if newest.end > sessions.end:
            return Span(max(newest.start, sessions.end), newest.end)
        if newest.end > sessions.start:
            return Span(max(newest.start, sessions.start, newest.end - WIDTH), newest.end)
        return newest

    def _around(self, owned: Sequence[Owned]) -> Span:
        """Whole days from a day before the first session to a day after the last."""
        now = microseconds(datetime.fromtimestamp(self.context.clock(), UTC))
        ends = [now if one.ended is None else microseconds(one.ended) for one in owned]
        begins = [microseconds(one.began) for one in owned]
        start = max(0, floor(min(begins), DAY) - DAY)
        return Span(start, max(start, ceil(max((*begins, *ends)), DAY)) + DAY)

    async def _state(self) -> StreamState:
        return await self.context.warehouse.stream(stream_of(self.context))

    def _note(self, label: str, progress: Progress, verified: Verified | None = None) -> Unit:
        return _Note(label, Batch(stream_of(self.context), progress=progress, verified=verified))

    def _noted(self, label: str, before: Pass, after: Pass) -> Unit:
        return self._note(label, Progress(cursor=after.dump(), cursor_was=before.dump()))

    def _end(self, verification: Pass) -> Unit:
        ended = replace(verification, ended=True)
        progress = Progress(cursor=ended.dump(), cursor_was=verification.dump(), checked=True)
        verified = Verified(verification.began_at, verification.since, verification.until)
        return self._note("end of the verification", progress, verified)

    def _complaint(self) -> str:
        more = f" (and {len(self._failures) - 1} more)" if len(self._failures) > 1 else ""
        rest = "The rest" if self._in_a_row >= HOPELESS else "Everything else was verified; this"
        return (
            f"{self._failures[0].rstrip('.')}{more}, so that it could not be verified. {rest} is left to the "
            "next verification"
        )


@dataclass(frozen=True, slots=True)
class _Note:
    """Writes something down that no answer is needed for."""

    label: str
    batch: Batch

    @property
    def stream(self) -> StreamKey:
        return self.batch.stream

    async def batches(self) -> AsyncGenerator[Batch, None]:
        yield self.batch


@dataclass(frozen=True, slots=True)
class _Complain:
    """Ends a run with an error that did not keep the rest of it from being done."""

    stream: StreamKey
    message: str
    label: str = "what could not be verified"

    async def batches(self) -> AsyncGenerator[Batch, None]:
        yield Batch(self.stream)
        raise SourceContractError(self.message)
