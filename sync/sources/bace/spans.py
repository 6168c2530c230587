"""Arithmetic on stretches of a session's time, in whole microseconds of Unix time. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

SECOND: Final = 1_000_000
MINUTE: Final = 60 * SECOND
HOUR: Final = 60 * MINUTE
DAY: Final = 24 * HOUR


@dataclass(frozen=True, slots=True, order=True)
class Span:
    """A half-open stretch, ``[start, end)``, in microseconds since 1970."""

    start: int
    end: int

    def __post_init__(self) -> None:
        if self.start >= self.end:
            raise ValueError(f"a span needs start < end, got {self.start} and {self.end}")

    @property
    def length(self) -> int:
        """Microseconds."""
        return self.end - self.start


def floor(instant: int, grain: int) -> int:
    """The last edge of a grid at or before an instant."""
    return instant // grain * grain


def ceil(instant: int, grain: int) -> int:
    """The first edge of a grid at or after an instant."""
    return -(-instant // grain) * grain


def span(start: int, end: int) -> tuple[Span, ...]:
    """The stretch between two instants; none where they are not in order."""
    return (Span(start, end),) if start < end else ()


def union(spans: Iterable[Span]) -> tuple[Span, ...]:
    """The same time as disjoint stretches in order, as few as possible."""
    joined: list[Span] = []
    for part in sorted(spans):
        if joined and part.start <= joined[-1].end:
            joined[-1] = Span(joined[-1].start, max(joined[-1].end, part.end))
        else:
            joined.append(part)
    return tuple(joined)


def intersection(left: Iterable[Span], right: Iterable[Span]) -> tuple[Span, ...]:
    """What two sorted, disjoint sets of stretches share."""
    return tuple(_shared(tuple(left), tuple(right)))


def difference(left: Iterable[Span], right: Iterable[Span]) -> tuple[Span, ...]:
    """What of one sorted, disjoint set of stretches the other one leaves over."""
    return tuple(_left_over(tuple(left), tuple(right)))


def duration(spans: Iterable[Span]) -> int:
    """How long disjoint stretches are together, in microseconds."""
    return sum(part.length for part in spans)


def _shared(left: tuple[Span, ...], right: tuple[Span, ...]) -> Iterator[Span]:
    mine = theirs = 0
    while mine < len(left) and theirs < len(right):
        one, other = left[mine], right[theirs]
        yield from span(max(one.start, other.start), min(one.end, other.end))
        if one.end <= other.end:
            mine += 1
        else:
            theirs += 1


def _left_over(left: tuple[Span, ...], right: tuple[Span, ...]) -> Iterator[Span]:
    theirs = 0
    for part in left:
        reached = part.start
        while theirs < len(right) and right[theirs].end <= reached:
            theirs += 1
        cut = theirs
        while cut < len(right) and right[cut].start < part.end:
            yield from span(reached, right[cut].start)
            reached = max(reached, right[cut].end)
            cut += 1
        yield from span(reached, part.end)
