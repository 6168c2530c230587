"""The pieces of Beddit work that list sessions. Each can run again at any time."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from sync.errors import AnswerBroken, AnswerTooLarge, RequestRefused, SourceContractError
from sync.model import Batch, Interval, Progress, StreamKey
from sync.sources.beddit.cursor import Cursor, as_time, halves
from sync.sources.beddit.paging import Ask, Done, GiveUp, Paging, Seen, proven_order
from sync.sources.beddit.reading import AccountContext, Reading

THE_FUTURE = timedelta(days=36_525)
"""How far a clock that errs may have put a night ahead of the server's."""

BEGINNING = as_time(0)
"""Where a walk over all history begins: clocks that lost their time count from here."""

ASK_FOR_LESS = (AnswerTooLarge, AnswerBroken)
"""What a smaller question may mend: too much for the server, or a fault somewhere in the answer."""

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
    """Replaces the cursor, by a decision of the planner."""

    context: AccountContext
    label: str
    was: Cursor
    cursor: Cursor

    @property
    def stream(self) -> StreamKey:
        """The stream whose cursor is moved."""
        return self.context.stream

    async def batches(self) -> AsyncGenerator[Batch, None]:
        """One batch: the cursor."""
        yield Batch(self.stream, progress=Progress(cursor=self.cursor.dump(), cursor_was=self.was.dump()))


@dataclass(frozen=True, slots=True)
class Note:
    """Writes something down about the stream that no answer is needed for."""

    context: AccountContext
    label: str
    progress: Progress

    @property
    def stream(self) -> StreamKey:
        """The stream that it is about."""
        return self.context.stream

    async def batches(self) -> AsyncGenerator[Batch, None]:
        """One batch: the note."""
        yield Batch(self.stream, progress=self.progress)


@dataclass(frozen=True, slots=True)
class Complain:
    """Ends a run with an error that did not keep the rest of it from being done."""

    context: AccountContext
    message: str
    label: str = "what could not be read"

    @property
    def stream(self) -> StreamKey:
        """The stream that it is about."""
        return self.context.stream

    async def batches(self) -> AsyncGenerator[Batch, None]:
        """Nothing more to store; then the error."""
        yield Batch(self.stream)
        raise SourceContractError(self.message)


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
        # Once more as it was, in case that the server was only down for a moment; then, if this is the
        # daily look far back, without it.
        for ask, far in ((bound, sweeps), (bound, sweeps), *([(self._nearest, False)] if sweeps else ())):
            reading = Reading(self.context)
            try:
                async with self.context.client.updated_after(ask) as answer:
                    async with aclosing(reading.batches(answer)) as batches:
                        async for batch in batches:
                            yield batch
                    yield self._proof(reading.seen, _seconds(answer.server_time, self.context.clock), far)
                    return
            except ASK_FOR_LESS:
                now = await self._server_now()
        async with aclosing(self._paged(now)) as batches:
            async for batch in batches:
                yield batch

    @property
    def _nearest(self) -> float:
        return self.cursor.updated_after - self.context.settings.overlap.total_seconds()

    async def _server_now(self) -> float:
        """The server's clock, when it is well: it has to answer the smallest question, or this raises."""
        return _seconds(await self.context.client.server_time(), self.context.clock)

    async def _paged(self, now: float) -> AsyncGenerator[Batch, None]:
        """Read in pages. ``now`` was before any of them: what is put later belongs to the next pass."""
        overlap = self.context.settings.overlap.total_seconds()
        paging = Paging.begin(self._nearest, overlap, sorted_by_updated=self.sorted_by_updated)
        seen: list[Seen] = []
        step: Ask | Done | GiveUp = paging.ask
        while isinstance(step, Ask):
            reading = Reading(self.context)
            try:
                async with (
                    self.context.client.updated_after(step.updated_after, step.limit) as answer,
                    aclosing(reading.batches(answer)) as batches,
                ):
                    async for batch in batches:
                        yield batch
            except (*ASK_FOR_LESS, RequestRefused) as error:
                paging, step = paging.refused(str(error), smaller=isinstance(error, ASK_FOR_LESS))
            else:
                seen += reading.seen
                paging, step = paging.after(reading.seen)
        if isinstance(step, Done):
            yield self._proof(seen, now, far=False)
        else:
            await self._server_now()  # a server that is down now is no reason to read all history again
            yield self._walk(now, step.reason)

    def _proof(self, seen: list[Seen], now: float, far: bool) -> Batch:
        """All changes were read: move the cursor, but never past the server's own clock."""
        newest = max((row.updated for row in seen if row.updated is not None), default=-float("inf"))
        after = max(self.cursor.updated_after, min(newest, now))
        swept_at = self.context.clock() if far else self.cursor.swept_at
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
                cursor=replace(self.cursor, walk_to=until, asked_ahead=False).dump(),
                cursor_was=self.cursor.dump(),
                uncovered=(Interval(BEGINNING, as_time(until)),),
            ),
            learned={"sessions.walked": reason},
        )


@dataclass(slots=True)
class Window:
    """Reads the sessions that started in a stretch of time, in ever smaller parts if need be.

    Attributes:
        found: Sessions seen so far.
        narrowest: The length of the smallest part that had to be asked for.
        given_up: Smallest parts whose answer is broken: what precedes the fault is stored, nothing is proved.
    """

    context: AccountContext
    window: Interval
    found: int = 0
    narrowest: timedelta = timedelta.max
    given_up: list[Interval] = field(default_factory=list)

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
            reading = Reading(self.context)
            try:
                async with aclosing(self._read(part, reading)) as batches:
                    async for batch in batches:
                        yield batch
            except ASK_FOR_LESS as error:
                if smaller := halves(part):
                    self.narrowest = smaller[0].end - smaller[0].start
                    pending += smaller
                    continue
                if not isinstance(error, AnswerBroken):
                    raise
                self.given_up.append(part)
                async with aclosing(self._salvage(part)) as batches:
                    async for batch in batches:
                        yield batch
            else:
                yield Batch(self.stream, progress=Progress(covered=(part,)))
            self._count(part, reading)

    async def _read(
        self, part: Interval, reading: Reading, overlap: timedelta | None = None
    ) -> AsyncGenerator[Batch, None]:
        widened = self.context.settings.longest_session if overlap is None else overlap
        async with (
            self.context.client.started_in(part, widened) as answer,
            aclosing(reading.batches(answer)) as batches,
        ):
            async for batch in batches:
                yield batch

    async def _salvage(self, part: Interval) -> AsyncGenerator[Batch, None]:
        """The part's sessions without the days after it, in which the fault may lie."""
        with suppress(*ASK_FOR_LESS):
            async with aclosing(self._read(part, Reading(self.context), timedelta())) as batches:
                async for batch in batches:
                    yield batch

    def _count(self, part: Interval, reading: Reading) -> None:
        start, end = part.start.timestamp(), part.end.timestamp()
        self.found += sum(start <= row.session_id < end for row in reading.seen)  # an id may be no time


@dataclass(frozen=True, slots=True)
class Ahead:
    """Reads the nights that clocks which err have put into the future; once is enough.

    What is put later comes with the incremental passes, whatever its clock said.
    """

    context: AccountContext
    cursor: Cursor

    @property
    def stream(self) -> StreamKey:
        """The stream whose cursor notes that this was done."""
        return self.context.stream

    @property
    def label(self) -> str:
        """For a person."""
        return "nights from the future"

    async def batches(self) -> AsyncGenerator[Batch, None]:
        """Those nights, then the note."""
        reading = Reading(self.context)
        start = self.cursor.known_until
        async with (
            self.context.client.started_in(Interval(start, start + THE_FUTURE), timedelta()) as answer,
            aclosing(reading.batches(answer)) as batches,
        ):
            async for batch in batches:
                yield batch
        cursor = replace(self.cursor, asked_ahead=True)
        yield Batch(self.stream, progress=Progress(cursor=cursor.dump(), cursor_was=self.cursor.dump()))


def _seconds(server_time: datetime | None, clock: Callable[[], float]) -> float:
    """The vendor's time, which its stamps are made of; ours where it does not say."""
    return clock() if server_time is None else server_time.astimezone(UTC).timestamp()
