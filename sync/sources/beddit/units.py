"""The pieces of Beddit work that list sessions. Each can run again at any time."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from sync.errors import AnswerTooLarge, RequestRefused
from sync.model import Batch, Interval, Progress, StreamKey
from sync.sources.beddit.cursor import Cursor, as_time, halves
from sync.sources.beddit.paging import Ask, Done, GiveUp, Paging, Seen, proven_order
from sync.sources.beddit.reading import AccountContext, Reading

THE_FUTURE = timedelta(days=36_525)
"""How far a clock that errs may have put a night ahead of the server's."""

ORDER = "sessions.order"
"""Name of the hint that says how the server sorts."""


@dataclass(frozen=True, slots=True)
class Begin:
    """Sets the cursor of an account that was never read, before any of its history is.

    The cursor is the server's own time, so that whatever is put while history is being read comes with the
    incremental pass that follows.
    """

    context: AccountContext
    reads_history: bool

    @property
    def stream(self) -> StreamKey:
        """The stream whose cursor is set."""
        return self.context.stream

    @property
    def label(self) -> str:
        """For a person."""
        return "first contact"

    async def batches(self) -> AsyncGenerator[Batch, None]:
        """One batch: the cursor."""
        now = _seconds(await self.context.client.server_time(), self.context.clock)
        cursor = Cursor(
            updated_after=now - self.context.settings.overlap.total_seconds(),
            swept_at=self.context.clock(),
            reads_history=self.reads_history,
        )
        yield Batch(self.stream, progress=Progress(cursor=cursor.dump()))


@dataclass(frozen=True, slots=True)
class MoveCursor:
    """Replaces the cursor by a decision of the planner, or takes coverage back."""

    context: AccountContext
    label: str
    was: Cursor
    cursor: Cursor
    uncovered: tuple[Interval, ...] = ()

    @property
    def stream(self) -> StreamKey:
        """The stream whose cursor is moved."""
        return self.context.stream

    async def batches(self) -> AsyncGenerator[Batch, None]:
        """One batch: the cursor."""
        moved = self.cursor != self.was
        yield Batch(
            self.stream,
            progress=Progress(
                cursor=self.cursor.dump() if moved else None,
                cursor_was=self.was.dump(),
                uncovered=self.uncovered,
            ),
        )


@dataclass(slots=True)
class Incremental:
    """One pass over what was put since the last one.

    The question goes without ``limit``, whose effect nobody documented. If its answer cannot be had, pages
    are tried where they can be trusted; otherwise the cursor is told to be walked to (``Cursor.walk_to``).
    """

    context: AccountContext
    cursor: Cursor
    sorted_by_updated: bool

    @property
    def stream(self) -> StreamKey:
        """The stream whose cursor is moved."""
        return self.context.stream

    @property
    def label(self) -> str:
        """For a person."""
        return f"changes since {as_time(self.cursor.updated_after):%Y-%m-%d %H:%M}"

    async def batches(self) -> AsyncGenerator[Batch, None]:
        """The changes, then the cursor."""
        bound, sweeps = self.cursor.lookback(self.context.clock(), self.context.settings)
        reading = Reading(self.context)
        try:
            async with self.context.client.updated_after(bound) as answer:
                async for batch in reading.batches(answer):
                    yield batch
                yield self._proof(reading.seen, _seconds(answer.server_time, self.context.clock), sweeps)
        except AnswerTooLarge:
            async for batch in self._paged(bound, sweeps):
                yield batch

    async def _paged(self, bound: float, sweeps: bool) -> AsyncGenerator[Batch, None]:
        # Asked for before any page: whatever is put later belongs to the next pass.
        now = _seconds(await self.context.client.server_time(), self.context.clock)
        overlap = self.context.settings.overlap.total_seconds()
        paging = Paging.begin(bound, overlap, sorted_by_updated=self.sorted_by_updated)
        seen: list[Seen] = []
        step: Ask | Done | GiveUp = paging.ask
        while isinstance(step, Ask):
            reading = Reading(self.context)
            try:
                async with self.context.client.updated_after(step.updated_after, step.limit) as answer:
                    async for batch in reading.batches(answer):
                        yield batch
            except (AnswerTooLarge, RequestRefused) as error:
                paging, step = paging.refused(str(error), smaller=isinstance(error, AnswerTooLarge))
            else:
                seen += reading.seen
                paging, step = paging.after(reading.seen)
        yield self._proof(seen, now, sweeps) if isinstance(step, Done) else self._walk(now, step.reason)

    def _proof(self, seen: list[Seen], now: float, sweeps: bool) -> Batch:
        """All changes were read: move the cursor, but never past the server's own clock."""
        newest = max((row.updated for row in seen if row.updated is not None), default=-float("inf"))
        after = max(self.cursor.updated_after, min(newest, now))
        swept_at = self.context.clock() if sweeps else self.cursor.swept_at
        cursor = replace(self.cursor, updated_after=after, swept_at=swept_at)
        known_from, known_to = as_time(self.cursor.updated_after), as_time(now)
        order = proven_order(seen)
        return Batch(
            self.stream,
            progress=Progress(
                cursor=None if cursor == self.cursor else cursor.dump(),
                cursor_was=self.cursor.dump(),
                covered=(Interval(known_from, known_to),) if known_from < known_to else (),
                checked=True,
            ),
            learned={} if order is None else {ORDER: order},
        )

    def _walk(self, now: float, reason: str) -> Batch:
        """Changes cannot be had in one piece: all history shall be read again, window by window.

        When that is done the cursor becomes ``now``, so that nothing put during the walk is missed.
        """
        settings = self.context.settings
        until = max(self.cursor.updated_after, now - settings.overlap.total_seconds())
        return Batch(
            self.stream,
            progress=Progress(
                cursor=replace(self.cursor, walk_to=until).dump(),
                cursor_was=self.cursor.dump(),
                uncovered=(Interval(settings.history_start, as_time(until)),),
            ),
            learned={"sessions.walked": reason},
        )


@dataclass(slots=True)
class Window:
    """Reads the sessions that started in a stretch of time, in ever smaller parts if need be.

    Attributes:
        is_newest: Nothing but the future follows. Its nights belong to this window: phones' clocks err.
        found: Sessions seen so far.
        narrowest: The length of the smallest part that had to be asked for.
    """

    context: AccountContext
    window: Interval
    is_newest: bool = False
    found: int = 0
    narrowest: timedelta = timedelta.max

    @property
    def stream(self) -> StreamKey:
        """The stream whose coverage grows."""
        return self.context.stream

    @property
    def label(self) -> str:
        """For a person."""
        return f"{self.window.start:%Y-%m-%d} to {self.window.end:%Y-%m-%d}"

    async def batches(self) -> AsyncGenerator[Batch, None]:
        """The window's sessions, newest part first, each part's coverage after its sessions."""
        pending = [self.window]
        while pending:
            part = pending.pop()
            try:
                async for batch in self._read(part):
                    yield batch
            except AnswerTooLarge:
                smaller = halves(part)
                if smaller is None:
                    raise
                self.narrowest = smaller[0].end - smaller[0].start
                pending += smaller
            else:
                yield Batch(self.stream, progress=Progress(covered=(part,)))

    async def _read(self, part: Interval) -> AsyncGenerator[Batch, None]:
        reading = Reading(self.context)
        last = self.is_newest and part.end == self.window.end
        overlap = THE_FUTURE if last else self.context.settings.longest_session
        async with self.context.client.started_in(part, overlap) as answer:
            async for batch in reading.batches(answer):
                yield batch
        start, end = part.start.timestamp(), part.end.timestamp()
        self.found += sum(start <= row.session_id < end for row in reading.seen)  # an id may be no time


def _seconds(server_time: datetime | None, clock: Callable[[], float]) -> float:
    """The vendor's time, which its stamps are made of; ours where it does not say."""
    return clock() if server_time is None else server_time.astimezone(UTC).timestamp()
