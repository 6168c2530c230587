"""Where the data of one session differs: from buckets to the rows themselves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from sync.errors import AnswerBroken, AnswerTooLarge
from sync.sources.bace.comparison import read_part, stored_buckets
from sync.sources.bace.context import AccountContext
from sync.sources.bace.decode import Readings
from sync.sources.bace.knowledge import Known
from sync.sources.bace.lengths import FLOOR, RAW, Lengths, grain_of
from sync.sources.bace.proof import Buckets, Rounding, buckets_of, unequal
from sync.sources.bace.spans import HOUR, MINUTE, SECOND, Span, floor, intersection
from sync.sources.bace.walk import Part

INSTANT: Final = 1
"""The width, in microseconds, of buckets that tell all instants apart."""


@dataclass(frozen=True, slots=True)
class Mismatch:
    """Time in which a session's rows are not those of the source.

    Attributes:
        span: The time.
        theirs: Samples that the source has in it.
        ours: Samples that are stored.
        instants: At how many instants they differ; None where only buckets were compared.
        lost: The source has nothing of the datasets concerned there: nothing can be read again.
    """

    span: Span
    theirs: int
    ours: int
    instants: int | None
    lost: bool


@dataclass(slots=True)
class Narrowing:
    """Looks for mismatches in a session, or in one group of its datasets.

    Buckets only lead the way: that rows differ is believed when they were compared themselves. Once some
    were, the other buckets that differ count as they are, for they would be read again anyway.

    Attributes:
        context: The account.
        known: What is known of the server.
        rounding: How it rounds; learns.
        part: The session.
        claims: The time that is thought to be stored as the source has it.
        found: Mismatches so far.
    """

    context: AccountContext
    known: Known
    rounding: Rounding
    part: Part
    claims: tuple[Span, ...]
    found: list[Mismatch] = field(default_factory=list)

    async def look(self, span: Span) -> None:
        """Look at a stretch, and in ever smaller parts at what differs."""
        try:
            readings = await read_part(self.context, self.known, self.part, span)
        except (AnswerTooLarge, AnswerBroken):
            if span.length <= FLOOR:
                raise
            await self._look_at_halves(span)
            return
        self.rounding.note(readings)
        width = self._width(readings, span)
        if width is None:
            await self._look_at_halves(span)
            return
        theirs = buckets_of(readings, width)
        ours = await stored_buckets(self.context, self.part, span, width)
        error = self.rounding.error
        starts = sorted({start for _, start in unequal(theirs, ours, error)})
        wrong = [one for one in (Span(s, s + width) for s in starts) if intersection((one,), self.claims)]
        if width == INSTANT or (wrong and self.found):
            self.found += _mismatches(theirs, ours, wrong, span, error, exact=width == INSTANT)
            return
        for stretch in _joined(wrong, self._reach):
            if stretch.start <= span.start and stretch.end >= span.end:
                await self._look_at_halves(span)
            else:
                await self.look(stretch)

    async def _look_at_halves(self, span: Span) -> None:
        grid = next(one for one in (HOUR, MINUTE, SECOND, INSTANT) if span.length > one)
        middle = max(floor((span.start + span.end) // 2, grid), span.start + grid)
        await self.look(Span(span.start, middle))
        await self.look(Span(middle, span.end))

    def _width(self, readings: Readings, span: Span) -> int | None:
        """In buckets of which width an answer can be compared; None where it says too little."""
        lengths = self._lengths
        if lengths.is_raw(span.length) and not readings.stamps.size:
            return INSTANT
        if not readings.stamps.size:  # buckets answer by their start: only whole ones can be empty
            widest = lengths.widest(span.length)
            return None if span.start % widest or span.end % widest else INSTANT
        grain = grain_of(readings.stamps, readings.counts, span.length, lengths)
        if grain == RAW:
            return INSTANT
        return grain if grain is not None and not span.start % grain else None

    @property
    def _reach(self) -> int:
        """So long a stretch is likely answered with raw samples."""
        return max(self._lengths.raw.reached, self._lengths.hint, FLOOR)

    @property
    def _lengths(self) -> Lengths:
        return self.known.current(self.context.clock())


def _mismatches(
    theirs: Buckets,
    ours: Buckets,
    wrong: Sequence[Span],
    asked: Span,
    rounding: float | None,
    *,
    exact: bool,
) -> Iterator[Mismatch]:
    """What differs, in one stretch where rows were compared, and in one for each bucket otherwise."""
    if not wrong:
        return
    stretches = [_widened(wrong, asked)] if exact else wrong
    for stretch in stretches:
        mine = {place: one for place, one in ours.items() if stretch.start <= place[1] < stretch.end}
        others = {place: one for place, one in theirs.items() if stretch.start <= place[1] < stretch.end}
        concerned = {dataset for dataset, _ in unequal(others, mine, rounding)}
        yield Mismatch(
            span=stretch,
            theirs=sum(one.count for one in others.values()),
            ours=sum(one.count for one in mine.values()),
            instants=len(wrong) if exact else None,
            lost=concerned.isdisjoint(dataset for dataset, _ in others),
        )


def _widened(wrong: Sequence[Span], asked: Span) -> Span:
    """A stretch of whole seconds around instants, as far as was asked."""
    start = max(asked.start, floor(wrong[0].start, SECOND))
    return Span(start, min(asked.end, floor(wrong[-1].end, SECOND) + SECOND))


def _joined(wrong: Sequence[Span], reach: int) -> list[Span]:
    """Stretches that cover buckets, none longer than what is answered raw or than one bucket."""
    stretches: list[Span] = []
    for one in wrong:
        if stretches and one.end - stretches[-1].start <= reach:
            stretches[-1] = Span(stretches[-1].start, one.end)
        else:
            stretches.append(one)
    return stretches
