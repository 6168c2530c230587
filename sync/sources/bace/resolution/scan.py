"""Where a walk is: what is left to read, and what its answers so far have shown. Frozen values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from sync.sources.bace.lengths import FLOOR, RAW, Lengths
from sync.sources.bace.spans import (
    DAY,
    MINUTE,
    SECOND,
    Span,
    difference,
    duration,
    floor,
    intersection,
    union,
)

MILLISECOND: Final = 1000
"""The finest instants that the server has."""

USUAL_PAGE: Final = 500
"""Rows in a page until one has said so (BACE docs, data sessions)."""

UNKNOWN: Final = DAY + 1
"""The grain of a stretch that no coarse answer has described."""

Stamps = npt.NDArray[np.int64]
NONE: Final = np.empty(0, np.int64)


@dataclass(frozen=True, slots=True)
class Ask:
    """The next question: a half-open stretch, and which page of its answer.

    Attributes:
        span: The stretch.
        hoped: ``RAW``, or the width of the buckets that shall say where there is nothing.
        page: From 1.
    """

    span: Span
    hoped: int = RAW
    page: int = 1


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back, as far as the plan is concerned.

    Attributes:
        stamps: The rows' instants in microseconds, in the order received.
        counts: Samples behind each row.
        whole: No page follows.
        total: Rows of all pages; None where the server does not say.
        page_size: Rows that one page holds.
        mixed: The rows of different datasets take turns.
    """

    stamps: Stamps
    counts: Stamps
    whole: bool
    total: int | None
    page_size: int | None = None
    mixed: bool = False


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer beside its question: only what lies within the stretch that was asked for.

    Attributes:
        ask: The question.
        stamps: As in ``Answer``; likewise the others.
    """

    ask: Ask
    stamps: Stamps
    counts: Stamps
    whole: bool
    total: int | None
    mixed: bool

    @classmethod
    def to(cls, ask: Ask, answer: Answer) -> Reply:
        """The part of an answer that its question was about."""
        inside = (answer.stamps >= ask.span.start) & (answer.stamps < ask.span.end)
        return cls(
            ask, answer.stamps[inside], answer.counts[inside], answer.whole, answer.total, answer.mixed
        )

    @property
    def span(self) -> Span:
        """The stretch that was asked for."""
        return self.ask.span

    @property
    def shares(self) -> bool:
        """Whether some row stands for several samples."""
        return bool((self.counts > 1).any())


@dataclass(frozen=True, slots=True)
class Step:
    """What an answer means.

    Attributes:
        scan: The walk as it goes on.
        lengths: What is now known of the server.
        accepted: Stretches that are proven. Their rows, in this answer and in those held, are raw.
        doubted: Stretches that were accepted before and have to be read again.
        hold: More pages of this answer follow: keep its rows until they are accepted.
        proves: The answer proves by itself that its length is raw, whatever is known.
    """

    scan: Scan
    lengths: Lengths
    accepted: tuple[Span, ...] = ()
    doubted: tuple[Span, ...] = ()
    hold: bool = False
    proves: bool = False


@dataclass(frozen=True, slots=True)
class Promise:
    """A cut answer said how many rows follow in its stretch; they have to come."""

    span: Span
    rows: int

    def less(self, stamps: Stamps) -> Promise:
        """After these rows came."""
        return replace(self, rows=self.rows - int((stamps < self.span.end).sum()))


@dataclass(frozen=True, slots=True)
class Pages:
    """Pages of one answer that can only be used together."""

    span: Span
    total: int
    stamps: Stamps
    counts: Stamps
    page: int


@dataclass(frozen=True, slots=True)
class Tied:
    """Rows at instants that no bucket has, some with several samples: raw, if a shorter answer agrees."""

    length: int
    counts: Mapping[int, int]

    def agrees(self, reply: Reply) -> bool:
        """Whether a proven answer has such a row just as it was."""
        return any(
            stamp % MINUTE and self.counts.get(stamp) == count
            for stamp, count in zip(reply.stamps.tolist(), reply.counts.tolist(), strict=True)
        )


@dataclass(frozen=True, slots=True)
class Doubt:
    """A row on a whole minute, in an answer that nothing but older proof says is raw: asked for alone."""

    length: int
    stamp: int
    count: int

    @property
    def span(self) -> Span:
        """Where a raw sample would be, and most of its bucket's would not."""
        return Span(self.stamp, self.stamp + SECOND)

    def is_dispelled_by(self, reply: Reply) -> bool:
        """Whether the row is there, just as it was."""
        here = reply.stamps == self.stamp
        return reply.whole and bool((reply.counts[here] == self.count).any())


@dataclass(frozen=True, slots=True)
class Stretch:
    """Time that was not read yet.

    Attributes:
        span: Which.
        grain: The width of the buckets that a coarse answer has told of it.
        holds: The samples that they say are in it; None where they do not say.
        hopes: Coarse questions that told nothing new of it.
    """

    span: Span
    grain: int = UNKNOWN
    holds: int | None = None
    hopes: int = 0


@dataclass(frozen=True, slots=True)
class Deferred:
    """A stretch that came empty, in an answer to an interval of some length."""

    span: Span
    length: int


@dataclass(frozen=True, slots=True)
class Waste:
    """How much of the time asked for so far was a wait for the next sample: what a coarse answer saves.

    Attributes:
        scanned: Microseconds that raw answers covered.
        wasted: Of these, how many lay between the end of an answer and the next sample.
        since: The end of the last answer, while no sample has come after it.
        sample: The last sample before it.
    """

    scanned: int = 0
    wasted: int = 0
    since: int | None = None
    sample: int | None = None

    def after(self, covered: Span, stamps: Stamps, *, cut: bool) -> Waste:
        """A raw answer covered a stretch; ``cut`` when its rows, not its length, were its limit."""
        first = int(stamps.min()) if stamps.size else covered.end
        waited = first - max(covered.start, self.since or covered.start) if self.since is not None else 0
        return Waste(
            scanned=self.scanned + covered.length,
            wasted=self.wasted + waited,
            since=None if cut else covered.end,
            sample=int(stamps.max()) if stamps.size else self.sample,
        )

    @property
    def present(self) -> int:
        """The wait that goes on, if it lasts as long again as it has lasted."""
        return 0 if self.since is None or self.sample is None else self.since - self.sample


@dataclass(frozen=True, slots=True, kw_only=True)
class Scan:
    """A walk through what was not read yet of one session, or of one group of its datasets.

    Attributes:
        todo: Time not read yet, oldest first.
        left: Samples that are still expected; None where nothing is known.
        series: How many datasets there are, about.
        page_size: Rows that one page holds.
        longest: The longest interval that is worth asking for here, whatever is known in general.
        deferred: Time for which an answer was empty that proves nothing yet: it will, once its length is
            proven raw by another one.
        in_doubt: Nothing but deferred time is left: ask along bucket edges, then second by second if need be.
        last_resort: That has been done.
        seen: Instants of the samples found while no raw length was proven, as often as they came.
        hollow: Time that is known to hold no samples: a question may reach across it.
        waste: What coarse answers could save.
        density: Rows in a microsecond of the last raw answer.
        promise: What a cut answer said is still to come.
        pages: An answer that is being read page by page.
        suspect: What was asked when rows came that may have been buckets, each with a single sample.
        doubt: A row that has to be confirmed before answers like its own are believed.
        vouched: Such a row was confirmed.
        tied: Rows that wait for a shorter answer to agree with them.
        wary: The last interval that was longer than a proven one showed nothing: none is tried for now.
        habit: Which part of their time sessions before this one spent without samples, at length.
        wanted: Everything that was to be read.
    """

    todo: tuple[Stretch, ...]
    left: int | None = None
    series: int = 1
    page_size: int = USUAL_PAGE
    longest: int | None = None
    deferred: tuple[Deferred, ...] = ()
    in_doubt: bool = False
    last_resort: bool = False
    seen: tuple[int, ...] = ()
    hollow: tuple[Span, ...] = ()
    waste: Waste = Waste()
    density: float = 0.0
    promise: Promise | None = None
    pages: Pages | None = None
    suspect: Span | None = None
    doubt: Doubt | None = None
    vouched: bool = False
    tied: Tied | None = None
    wary: bool = False
    habit: float = 0.0
    wanted: tuple[Span, ...] = ()

    def idle_share(self, reach: int) -> float:
        """Which part of the time had no samples for longer than a raw interval reaches."""
        pauses = sum(max(0, part.length - reach) for part in intersection(self.hollow, self.wanted))
        return min(1.0, (pauses + self.waste.wasted) / max(duration(self.wanted), 1))

    @property
    def remaining(self) -> tuple[Span, ...]:
        """Time not read yet."""
        return tuple(stretch.span for stretch in self.todo)


def begin(
    wanted: Sequence[Span],
    *,
    hollow: Sequence[Span] = (),
    expected: int | None = None,
    series: int = 1,
    newest: int | None = None,
    page_size: int | None = None,
    habit: float = 0.0,
) -> Scan:
    """Start a walk.

    Args:
        wanted: Time to read.
        hollow: Time between that is known to hold no samples.
        expected: Samples that the source says are there and that the warehouse does not hold.
        series: How many datasets there are, about.
        newest: The newest sample known before ``wanted`` begins, in microseconds.
        page_size: Rows of a page, where that is known.
        habit: ``idle_share`` of sessions read before.
    """
    parts = union(wanted)
    waste = Waste()
    if newest is not None and parts:
        waste = Waste(since=max(newest, parts[0].start), sample=newest)
    return Scan(
        todo=tuple(Stretch(part) for part in parts),
        hollow=union(hollow),
        left=expected,
        series=max(1, series),
        page_size=page_size or USUAL_PAGE,
        habit=habit,
        wanted=parts,
        waste=waste,
    )


# --- small steps ---------------------------------------------------------------------------------


def shorter(scan: Scan, lengths: Lengths, length: int) -> Scan:
    """The walk after nothing raw came at a length: a proven one is next, or half of it."""
    proven = lengths.raw.reached
    next_one = proven if 0 < proven < length else max(FLOOR, even(length // 2))
    return replace(scan, longest=next_one if scan.longest is None else min(next_one, scan.longest))


def without(todo: Sequence[Stretch], spans: Sequence[Span]) -> tuple[Stretch, ...]:
    """What is left to read after some time was."""
    return tuple(
        replace(stretch, span=part) for stretch in todo for part in difference((stretch.span,), spans)
    )


def in_vain(todo: Sequence[Stretch], asked: Span) -> tuple[Stretch, ...]:
    """What is left to read after a coarse question about some of it told nothing new."""
    return tuple(
        replace(stretch, hopes=stretch.hopes + 1) if intersection((stretch.span,), (asked,)) else stretch
        for stretch in todo
    )


def even(length: int) -> int:
    """A length in whole seconds, or in whole milliseconds where it is less than one."""
    grain = SECOND if length >= SECOND else MILLISECOND
    return max(MILLISECOND, floor(length, grain))
