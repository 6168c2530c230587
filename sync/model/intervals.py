"""Arithmetic on stretches of time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import timedelta

from sync.model.batch import Interval


def gaps(span: Interval, covered: Iterable[Interval]) -> Iterator[Interval]:
    """The parts of ``span`` that are not covered, oldest first.

    Args:
        span: The time that is wanted.
        covered: Intervals in any order; they may overlap.
    """
    reached = span.start
    for part in sorted(covered, key=lambda interval: interval.start):
        if part.start >= span.end:
            break
        if part.start > reached:
            yield Interval(reached, part.start)
        reached = max(reached, part.end)
    if reached < span.end:
        yield Interval(reached, span.end)


def union(intervals: Iterable[Interval]) -> tuple[Interval, ...]:
    """The same time as disjoint intervals that do not touch, oldest first."""
    merged: list[Interval] = []
    for part in sorted(intervals, key=lambda interval: interval.start):
        if merged and part.start <= merged[-1].end:
            merged[-1] = Interval(merged[-1].start, max(merged[-1].end, part.end))
        else:
            merged.append(part)
    return tuple(merged)


def difference(intervals: Iterable[Interval], covered: Sequence[Interval]) -> tuple[Interval, ...]:
    """What of some intervals others leave over."""
    return tuple(part for interval in intervals for part in gaps(interval, covered))


def length(intervals: Iterable[Interval]) -> timedelta:
    """How long disjoint intervals are together."""
    return sum((part.end - part.start for part in intervals), timedelta())
