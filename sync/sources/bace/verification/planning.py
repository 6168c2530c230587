"""What has to be compared for an account, in which order."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

from sync.model import Batch, Extent, Interval, Pass, Progress, StreamKey, StreamState, Task, Verified
from sync.ports import Unit
from sync.sources.bace.comparison import ALL_TIME
from sync.sources.bace.context import AccountContext
from sync.sources.bace.data import DueSession, SessionData
from sync.sources.bace.knowledge import Known
from sync.sources.bace.passes import load_cursor
from sync.sources.bace.proof import Rounding
from sync.sources.bace.spans import DAY, Span, ceil, difference, floor, union
from sync.sources.bace.tables import SESSIONS_OWNED, SESSIONS_TO_COMPARE, VANISHED
from sync.sources.bace.verification.comparing import ComparedSession
from sync.sources.bace.verification.listing import ComparedList, Owned, stream_of
from sync.sources.bace.verification.screening import SLACK, Screening, Suspects
from sync.sources.bace.walk import interval, microseconds
from sync.units import Complaint, Note

WIDTH: Final = 90 * DAY
"""Time that is screened with one question: long enough to be answered in days, short enough for few pages."""

GROUP: Final = 16
"""Sessions that are looked at side by side, at most."""

HOPELESS: Final = 5
"""So many sessions that cannot be looked at, where no other could, are not the sessions' fault."""

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
    _pass: Pass = field(init=False)
    _failures: list[str] = field(default_factory=list)
    _failed_before: int = 0
    _has_compared: bool = False

    async def units(self, task: Task) -> AsyncGenerator[Sequence[Unit], None]:
        """The list of sessions, then their data, newest first.

        What could not be looked at stops nothing else: the pass goes on, and says so in the end.
        """
        cursor = await load_cursor(self.context)
        if cursor is None:  # nothing was read yet: nothing is claimed
            return
        yield [await self._begun(task)]
        if not self._pass.listed:
            owned = {session.id: session for session in await self._owned()}
            unit = ComparedList(self.context, self._pass, cursor, owned)
            yield [unit]
            async for units in self._read_anew(unit.mended):
                yield units
            yield [self._changed("the list was compared", listed=True, extent=await self._extent())]
        async for units in self._data():
            yield units
        yield [await self._end()]
        if self._pass.failures:
            yield [Complaint(stream_of(self.context), self._complaint())]

    async def _data(self) -> AsyncGenerator[Sequence[Unit], None]:
        owned = await self._looked_at()
        rounding = Rounding()
        screening = Screening(self.context, self.known, rounding, owned)
        while owned and (window := await self._next(owned)) is not None:
            screened = Screened(self.context, screening, window)
            yield [screened]
            before = len(self._failures)
            async for units in self._sessions(screened.suspects, rounding):
                yield units
            time = interval(window)
            if len(self._failures) == before:
                yield [self._note(f"verified {screened.label}", Progress(covered=(time,)))]
            else:
                left_out = self._pass.without([time]).left_out
                yield [self._changed(f"left out {screened.label}", left_out=left_out)]

    async def _sessions(self, suspects: Suspects, rounding: Rounding) -> AsyncGenerator[Sequence[Unit], None]:
        """Suspects; where none at all can be looked at, the rest is left: older ones may be."""
        rows = await self._due(tuple(suspects))
        before = len(self._failures)
        for first in range(0, len(rows), GROUP):
            units = [
                ComparedSession(
                    self.context,
                    self.known,
                    due,
                    rounding=rounding,
                    days=suspects[due.id_data_session],
                    archived=archived,
                    repair=self._pass.repair,
                )
                for due, archived in rows[first : first + GROUP]
            ]
            yield units
            self._note_failures(units)
            if not self._has_compared and len(self._failures) - before >= HOPELESS:
                return

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

    async def _looked_at(self) -> list[Owned]:
        return [one for one in await self._owned() if self._pass.looks_at(one.began)]

    async def _fetch(self, query: str, *args: Any) -> Sequence[Mapping[str, Any]]:
        """Ask about the sessions that the account reads."""
        context = self.context
        return await context.warehouse.fetch(query, context.account, list(context.settings.accounts), *args)

    def _note_failures(self, units: Sequence[SessionData]) -> None:
        failed = [unit for unit in units if unit.failure is not None]
        self._has_compared |= len(failed) < len(units)
        self._failures += [f"{unit.label}: {unit.failure.reason}" for unit in failed if unit.failure]

    # -- how far it is -------------------------------------------------------------------------

    async def _begun(self, task: Task) -> Unit:
        """The verification that a run goes on with, or a new one."""
        state = await self._state()
        (row,) = await self.context.warehouse.fetch("SELECT now() AS now")
        verification = Pass.load(state.cursor)
        if verification is not None and verification.does(task, row["now"]):
            self._pass, self._failed_before = verification, verification.failures
            return self._note("going on", Progress())
        self._pass = Pass(began_at=row["now"], since=task.since, until=task.until, repair=task.repair)
        progress = Progress(cursor=self._pass.dump(), cursor_was=state.cursor, uncovered=state.coverage)
        return self._note("beginning", progress)

    async def _extent(self) -> Extent:
        """What is compared, by the list."""
        rows = await self.context.warehouse.fetch(
            VANISHED, self.context.account, self._pass.since, self._pass.until
        )
        extent = Extent(vanished=rows[0]["count"])
        return extent.with_sessions([one.began for one in await self._looked_at()])

    async def _next(self, owned: Sequence[Owned]) -> Span | None:
        """The newest stretch that was not looked at yet: around the sessions in parts, the rest at once."""
        sessions = self._around(owned)
        bounded = self._pass.since is not None or self._pass.until is not None
        parts = (*(await self._state()).coverage, *self._pass.left_out)
        done = union(Span(microseconds(part.start), microseconds(part.end)) for part in parts)
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
        return Note(label, Batch(stream_of(self.context), progress=progress, verified=verified))

    def _changed(self, label: str, **changes: Any) -> Unit:
        """Write down how the pass goes, with what could not be looked at since."""
        before = self._pass
        self._pass = replace(before, **changes, failures=self._failed_before + len(self._failures))
        return self._note(label, Progress(cursor=self._pass.dump(), cursor_was=before.dump()))

    async def _end(self) -> Unit:
        before = self._pass
        self._pass = replace(before, ended=True)
        progress = Progress(cursor=self._pass.dump(), cursor_was=before.dump(), checked=not before.failures)
        left_out = _began_in(before.left_out, await self._looked_at())
        verified = Verified(before.began_at, before.since, before.until, left_out)
        return self._note("end of the verification", progress, verified)

    def _complaint(self) -> str:
        parts = self._pass.left_out
        why = (self._failures or ["some sessions could not be looked at"])[0].rstrip(".")
        more = f" (and {self._pass.failures - 1} more)" if self._pass.failures > 1 else ""
        stretches = f" and {len(parts) - 1} stretches more" if len(parts) > 1 else ""
        where = f", in the days from {parts[0].start:%Y-%m-%d} to {parts[0].end:%Y-%m-%d}{stretches}"
        return (
            f"{why}{more}, so that not everything could be verified{where if parts else ''}. The rest "
            "was, and the next verification looks at everything again"
        )


def _began_in(parts: Sequence[Interval], owned: Sequence[Owned]) -> tuple[Interval, ...]:
    """Time that was left out, from where the sessions that reach into it began."""
    slack = timedelta(microseconds=SLACK)
    found = []
    for part in parts:
        reaching = (one for one in owned if one.ended is None or one.ended + slack > part.start)
        start = min((one.began for one in reaching), default=part.start)
        found.append(Interval(min(start, part.start), part.end))
    return tuple(found)
