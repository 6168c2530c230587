"""Where the data of one session differs: from buckets to the rows themselves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
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
        lost: Nothing differs but that the source has fewer of the samples there, or none.
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
    were, the other buckets that differ count as they are, for they would be read again anyway; not where the
    source may have lost samples, which would hide that others are missing here.

    Attributes:
        context: The account.
        known: What is known of the server.
        rounding: How it rounds; learns.
        part: The session.
        claims: The time that is thought to be stored as the source has it.
        thorough: Whether it is known, or to be expected, that the source serves less than is stored.
        found: Mismatches so far.
    """

    context: AccountContext
    known: Known
    rounding: Rounding
    part: Part
    claims: tuple[Span, ...]
    thorough: bool = False
    found: list[Mismatch] = field(default_factory=list)

    async def look(self, span: Span) -> None:
        """Look at a stretch, and in ever smaller parts at what differs."""
        await self._is_equal(span)

    async def _is_equal(self, span: Span) -> bool:
        """Look at a stretch; whether its rows themselves were compared, and are equal."""
        try:
            readings = await read_part(self.context, self.known, self.part, span)
        except (AnswerTooLarge, AnswerBroken):
            if span.length <= FLOOR:
                raise
            return await self._are_halves_equal(span)
        width = self._width(readings, span)
        if width is None:
            return await self._are_halves_equal(span)
        theirs = buckets_of(readings, width)
        ours = await stored_buckets(self.context, self.part, span, width)
        if width == INSTANT:
            if wrong := self._wrong(theirs, ours, width):
                exact = _mismatch(theirs, ours, _widened(wrong, span), 0.0)
                self.found.append(replace(exact, instants=len(wrong)))
            return not unequal(theirs, ours, 0.0)
        await self._descend(theirs, ours, width, span)
        return False

    async def _descend(self, theirs: Buckets, ours: Buckets, width: int, span: Span) -> None:
        """Look at the buckets of a stretch that differ, unless they count as they are."""
        wrong = self._wrong(theirs, ours, width)
        if self.found:
            plain = [one for one in wrong if not self.thorough or not _within(theirs, one)]
            self.found += [_mismatch(theirs, ours, one, self.rounding.error) for one in plain]
            wrong = [one for one in wrong if self.thorough and _within(theirs, one)]
        for stretch in _joined(wrong, self._reach):
            mine, others = _within(ours, stretch), _within(theirs, stretch)
            if not unequal(others, mine, self.rounding.error):
                continue  # how the source rounds was not known at first
            if stretch.start <= span.start and stretch.end >= span.end:
                is_equal = await self._are_halves_equal(span)
            else:
                is_equal = await self._is_equal(stretch)
            if is_equal:
                self.rounding.learn(others, mine)

    async def _are_halves_equal(self, span: Span) -> bool:
        grid = next(one for one in (HOUR, MINUTE, SECOND, INSTANT) if span.length > one)
        middle = max(floor((span.start + span.end) // 2, grid), span.start + grid)
        first = await self._is_equal(Span(span.start, middle))
        return await self._is_equal(Span(middle, span.end)) and first

    def _wrong(self, theirs: Buckets, ours: Buckets, width: int) -> list[Span]:
        """Buckets that differ; instants in every bit, for a sample that stands alone is no average."""
        error = 0.0 if width == INSTANT else self.rounding.error
        starts = sorted({start for _, start in unequal(theirs, ours, error)})
        buckets = (Span(start, start + width) for start in starts)
        return [one for one in buckets if intersection((one,), self.claims)]

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


def _mismatch(theirs: Buckets, ours: Buckets, stretch: Span, rounding: float) -> Mismatch:
    """What differs in a stretch."""
    mine, others = _within(ours, stretch), _within(theirs, stretch)
    return Mismatch(
        span=stretch,
        theirs=sum(one.count for one in others.values()),
        ours=sum(one.count for one in mine.values()),
        instants=None,
        lost=all(
            place in mine and mine[place].holds(others.get(place))
            for place in unequal(others, mine, rounding)
        ),
    )


def _within(buckets: Buckets, stretch: Span) -> Buckets:
    return {place: one for place, one in buckets.items() if stretch.start <= place[1] < stretch.end}


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
