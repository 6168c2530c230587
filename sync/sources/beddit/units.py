"""The pieces of Beddit work that list sessions. Each can run again at any time."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, aclosing, suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta

from sync.errors import AnswerBroken, AnswerTooLarge, RequestRefused, SourceContractError
from sync.model import Batch, Interval, Progress
from sync.sources.beddit.client import Answer
from sync.sources.beddit.cursor import Course, Cursor, as_time, bisected
from sync.sources.beddit.lengths import Lengths, adds
from sync.sources.beddit.paging import Ask, Done, GiveUp, Paging, Seen, proven_order
from sync.sources.beddit.reading import AccountUnit, Reading, seen_in

THE_END = as_time(2**32 - 1)
"""How far a clock that errs may have put a night: 32 bits of seconds are all that some servers take."""

BEGINNING = as_time(0)
"""Where a walk over all history begins: clocks that lost their time count from here."""

WRONG_BY = 3_600.0
"""Seconds by which a server's clock may fall behind the cursor and still be taken for the same clock."""

ASK_FOR_LESS = (AnswerTooLarge, AnswerBroken)
"""What a smaller question may mend: too much for the server, or a fault somewhere in the answer."""

ORDER = "sessions.order"
"""Name of the hint that says how the server sorts."""

WIDTH = "sessions.width"
"""Name of the hint that says how many seconds of history the server could answer for."""


@dataclass(slots=True)
class Begin(AccountUnit):
    """Sets the cursor of an account that was never read, before any of its history is.

    The cursor is the server's own time, so that whatever is put while history is being read comes with the
    incremental pass that follows.
    """

    reads_history: bool
    label: str = "first contact"

    async def batches(self) -> AsyncGenerator[Batch, None]:
        """One batch: the cursor."""
        context = self.context
        now = context.seconds(await context.client.server_time())
        begins = now - context.settings.overlap.total_seconds()
        cursor = Cursor(
            updated_after=begins,
            swept_at=context.clock(),
            reads_history=self.reads_history,
            ahead_from=begins,
        )
        yield Batch(self.stream, progress=Progress(cursor=cursor.dump()))


@dataclass(slots=True)
class Note(AccountUnit):
    """Writes something down about the stream that no answer is needed for."""

    label: str
    progress: Progress

    async def batches(self) -> AsyncGenerator[Batch, None]:
        """One batch: the note."""
        yield Batch(self.stream, progress=self.progress)


@dataclass(slots=True)
class Complain(AccountUnit):
    """Ends a run with an error that did not keep the rest of it from being done."""

    message: str
    label: str = "what could not be read"

    async def batches(self) -> AsyncGenerator[Batch, None]:
        """Nothing more to store; then the error."""
        yield Batch(self.stream)
        raise SourceContractError(self.message)


@dataclass(slots=True)
class Incremental(AccountUnit):
    """One pass over what was put since the last one.

    The question goes without ``limit``, whose effect nobody documented. If its answer cannot be had, pages
    are tried where they can be trusted; otherwise the cursor is told to be walked to (``Cursor.walk_to``).
    """

    cursor: Cursor
    lengths: Lengths
    sorted_by_updated: bool

    @property
    def label(self) -> str:
        """For a person."""
        return f"changes since {as_time(self.cursor.updated_after):%Y-%m-%d %H:%M}"

    async def batches(self) -> AsyncGenerator[Batch, None]:
        """The changes, then the cursor."""
        bound, sweeps = self.cursor.lookback(self.context.clock(), self.context.settings)
        # Once more as it was, in case that the server was only down for a moment; then, if this is the
        # daily look far back, without it.
        for ask in (bound, bound, *([self._nearest] if sweeps else ())):
            reading = Reading(self.context)
            try:
                async with reading.of(self.context.client.updated_after(ask)) as batches:
                    async for batch in batches:
                        yield batch
            except ASK_FOR_LESS:
                now = await self._server_now()
                continue
            now = reading.answered_at
            if now < self.cursor.updated_after - WRONG_BY:
                yield self._walk(now, "the vendor's clock was wrong: it is behind what it said before")
                return
            async with aclosing(self._compared(reading)) as compared:
                async for batch in compared:
                    yield batch
            if self.lengths.is_cut(len(reading.seen)):
                break
            yield self._proof(reading.seen, now, swept=sweeps)
            return
        async with aclosing(self._paged(now)) as batches:
            async for batch in batches:
                yield batch

    @property
    def _nearest(self) -> float:
        return self.cursor.updated_after - self.context.settings.overlap.total_seconds()

    async def _server_now(self) -> float:
        """The server's clock, when it is well: it has to answer the smallest question, or this raises."""
        return self.context.seconds(await self.context.client.server_time())

    async def _compared(self, whole: Reading) -> AsyncGenerator[Batch, None]:
        """If the answer may have been cut, ask for its newer half, which shows what was cut off."""
        count = len(whole.seen)
        stamps = sorted(row.updated for row in whole.seen if row.updated is not None)
        if self.lengths.is_cut(count) or not self.lengths.doubts(count) or not stamps:
            return
        half = Reading(self.context)
        with suppress(*ASK_FOR_LESS):
            async with half.of(self.context.client.updated_after(stamps[len(stamps) // 2])) as batches:
                async for batch in batches:
                    yield batch
        if adds(half.seen, whole.seen, whole.answered_at):
            self.lengths.settle(count, cut=True)
            yield Batch(self.stream, learned=self.lengths.learned)

    async def _paged(self, now: float) -> AsyncGenerator[Batch, None]:
        """Read in pages. ``now`` was before any of them: what is put later belongs to the next pass."""
        overlap = self.context.settings.overlap.total_seconds()
        paging = Paging.begin(self._nearest, overlap, sorted_by_updated=self.sorted_by_updated)
        seen: list[Seen] = []
        step: Ask | Done | GiveUp = paging.ask
        while isinstance(step, Ask):
            reading = Reading(self.context)
            question = self.context.client.updated_after(step.updated_after, step.limit)
            try:
                async with reading.of(question) as batches:
                    async for batch in batches:
                        yield batch
                if len(reading.seen) > step.limit:  # the limit is ignored: it is an answer like any other
                    self.lengths.check(len(reading.seen))
            except (*ASK_FOR_LESS, RequestRefused) as error:
                paging, step = paging.refused(str(error), smaller=isinstance(error, ASK_FOR_LESS))
            else:
                seen += reading.seen
                paging, step = paging.after(reading.seen)
        if isinstance(step, Done):
            yield self._proof(seen, now, swept=False)
        else:
            await self._server_now()  # a server that is down now is no reason to read all history again
            yield self._walk(now, step.reason)

    def _proof(self, seen: list[Seen], now: float, *, swept: bool) -> Batch:
        """All changes were read: move the cursor, but never past the server's own clock."""
        newest = max((row.updated for row in seen if row.updated is not None), default=-float("inf"))
        after = max(self.cursor.updated_after, min(newest, now))
        swept_at = self.context.clock() if swept else self.cursor.swept_at
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
                owing=bool(self.cursor.owed),
            ),
            learned={} if order is None else {ORDER: order},
        )

    def _walk(self, now: float, reason: str) -> Batch:
        """Changes cannot be had in one piece: all history shall be read again, window by window.

        When that is done the cursor becomes ``now``, so that nothing put during the walk is missed.
        """
        until = now - self.context.settings.overlap.total_seconds()
        if now >= self.cursor.updated_after - WRONG_BY:
            until = max(self.cursor.updated_after, until)
        return Batch(
            self.stream,
            progress=Progress(
                cursor=replace(self.cursor, walk_to=until, ahead_from=until).dump(),
                cursor_was=self.cursor.dump(),
                uncovered=(Interval(BEGINNING, max(THE_END, as_time(until))),),
            ),
            learned={"sessions.walked": reason},
        )


@dataclass(slots=True)
class Window(AccountUnit):
    """Reads the sessions that started in a stretch of time, in ever smaller parts if need be.

    What is learned on the way goes into the course: a part that is as small as can be and has no answer is
    given up there, if the server answers other questions. What precedes a fault is stored, nothing is proved.

    Attributes:
        seen: Sessions of all answers.
    """

    window: Interval
    course: Course
    seen: list[Seen] = field(default_factory=list)

    @property
    def label(self) -> str:
        """For a person."""
        return f"{self.window.start:%Y-%m-%d} to {self.window.end:%Y-%m-%d}"

    @property
    def found(self) -> int:
        """Sessions that began in the window, so far as ids are starts."""
        start, end = self.window.start.timestamp(), self.window.end.timestamp()
        ids = {row.session_id for row in self.seen if row.session_id is not None}
        return sum(start <= session_id < end for session_id in ids)

    async def batches(self) -> AsyncGenerator[Batch, None]:
        """The window's sessions, newest part first, each part's coverage after its sessions."""
        pending = [self.window]
        while pending:
            part = pending.pop()
            reading = Reading(self.context)
            try:
                async with reading.of(self._question(part)) as batches:
                    async for batch in batches:
                        yield batch
                self.course.lengths.check(len(reading.seen))
                if self.course.lengths.doubts(len(reading.seen)):
                    yield await self._compared(part, reading)
                    self.course.lengths.check(len(reading.seen))
            except ASK_FOR_LESS as error:
                if smaller := self.course.smaller(part):
                    self.course.refused(smaller[0])
                    pending += smaller
                    yield Batch(self.stream, learned={WIDTH: self.course.width.total_seconds()})
                else:
                    if isinstance(error, AnswerTooLarge):
                        await self.context.client.server_time()  # a server that is away is no reason
                    async with aclosing(self._given_up(part)) as batches:
                        async for batch in batches:
                            yield batch
            else:
                self.course.in_vain = 0
                yield Batch(self.stream, progress=Progress(covered=(part,)))
            self.seen += reading.seen

    def _question(self, part: Interval) -> AbstractAsyncContextManager[Answer]:
        return self.context.client.started_in(part, self.context.settings.longest_session)

    async def _compared(self, part: Interval, whole: Reading) -> Batch:
        """Ask for a part again in two pieces, which show whether its answer was cut; what was learned by it.

        Nothing of them is stored: where they hold more than the whole did, it is read again in parts.
        """
        client, lengths, count = self.context.client, self.course.lengths, len(whole.seen)
        asked = Interval(part.start, part.end + self.context.settings.longest_session)
        pieces = bisected(asked, [row.session_id for row in whole.seen])
        longest = 0
        for piece in pieces:
            seen = await seen_in(self.context, client.started_in(piece, timedelta()), whole.seen)
            longest = max(longest, len(seen))
            if adds(seen, whole.seen, whole.answered_at):
                lengths.settle(count, cut=True)
                break
        else:
            if longest < count:  # a piece as long as the whole may have been cut as well
                lengths.settle(count, cut=False)
        return Batch(self.stream, learned=lengths.learned)

    async def _given_up(self, part: Interval) -> AsyncGenerator[Batch, None]:
        """Note it, and take its sessions without the days after it, in which the fault may lie."""
        course = self.course
        course.given_up.append(part)
        if course.in_vain >= course.patience:
            return
        course.in_vain += 1
        with suppress(*ASK_FOR_LESS):
            async with Reading(self.context).of(self.context.client.started_in(part, timedelta())) as batches:
                async for batch in batches:
                    yield batch
            course.in_vain = 0


@dataclass(slots=True)
class Again(AccountUnit):
    """Lists a session again that could not be understood."""

    start: int

    @property
    def label(self) -> str:
        """For a person."""
        return f"session {self.start} once more"

    async def batches(self) -> AsyncGenerator[Batch, None]:
        """What is listed there now."""
        context = self.context
        begins = as_time(self.start)
        window = Interval(begins, begins + timedelta(seconds=1))
        try:
            async with Reading(context).of(
                context.client.started_in(window, context.settings.longest_session)
            ) as batches:
                async for batch in batches:
                    yield batch
        except ASK_FOR_LESS:
            context.rejected.add(self.start)


@dataclass(slots=True)
class Ahead(AccountUnit):
    """Reads the nights that clocks which err have put into the future; once is enough.

    What is put later comes with the incremental passes, whatever its clock said. Nothing else waits for it.

    Attributes:
        fault: Why they could not be had. A refusal is an answer: the next run does not ask again.
    """

    cursor: Cursor
    label: str = "nights from the future"
    fault: str | None = None

    async def batches(self) -> AsyncGenerator[Batch, None]:
        """Those nights, then the note."""
        try:
            async with Reading(self.context).of(self._question()) as batches:
                async for batch in batches:
                    yield batch
        except (AnswerTooLarge, SourceContractError, RequestRefused) as error:
            self.fault = str(error)
            if not isinstance(error, RequestRefused):
                return
        cursor = replace(self.cursor, ahead_from=None)
        yield Batch(self.stream, progress=Progress(cursor=cursor.dump(), cursor_was=self.cursor.dump()))

    def _question(self) -> AbstractAsyncContextManager[Answer]:
        start = as_time(self.cursor.ahead_from or 0.0)
        ahead = Interval(start, max(THE_END, start + timedelta(seconds=1)))
        return self.context.client.started_in(ahead, timedelta())
