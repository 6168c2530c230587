"""Arithmetic on stretches of time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sync.model import Interval, gaps, length, union

# A busy machine is no fault of the program's.
calm = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

ZERO = datetime(2016, 1, 1, tzinfo=UTC)


def at(hour: int) -> datetime:
    """So many hours into the test's time."""
    return ZERO + timedelta(hours=hour)


def span(start: int, end: int) -> Interval:
    """From one hour to another."""
    return Interval(at(start), at(end))


def hours(part: Interval) -> set[int]:
    """The hours that a part consists of."""
    first, last = ((moment - ZERO) // timedelta(hours=1) for moment in (part.start, part.end))
    return set(range(first, last))


PARTS = st.tuples(st.integers(-5, 30), st.integers(1, 12)).map(lambda part: span(part[0], sum(part)))


@calm
@given(PARTS, st.lists(PARTS, max_size=8))
def test_gaps_are_exactly_what_is_not_covered(wanted: Interval, covered: list[Interval]):
    """Hour by hour: an hour is in a gap if it is wanted and no interval covers it."""
    expected = hours(wanted) - {hour for part in covered for hour in hours(part)}
    found = list(gaps(wanted, covered))
    assert {hour for gap in found for hour in hours(gap)} == expected
    assert length(found) == timedelta(hours=len(expected))


@calm
@given(PARTS, st.lists(PARTS, max_size=8))
def test_gaps_come_in_order_and_never_touch(wanted: Interval, covered: list[Interval]):
    """Oldest first, and as few as possible."""
    found = list(gaps(wanted, covered))
    assert all(earlier.end < later.start for earlier, later in pairwise(found))


def test_a_gap_can_be_all_or_nothing():
    """Nothing covered leaves the whole, everything covered leaves none, a neighbour does not count."""
    assert list(gaps(span(2, 8), [])) == [span(2, 8)]
    assert list(gaps(span(2, 8), [span(0, 10)])) == []
    assert list(gaps(span(2, 8), [span(0, 2), span(8, 9)])) == [span(2, 8)]
    assert list(gaps(span(2, 8), [span(6, 7), span(3, 4)])) == [span(2, 3), span(4, 6), span(7, 8)]


def test_an_interval_has_a_length():
    """Half-open stretches without time in them do not exist."""
    for start, end in ((3, 3), (4, 3)):
        with pytest.raises(ValueError, match="start < end"):
            span(start, end)


def test_length_of_nothing_is_nothing():
    """No intervals take no time; disjoint ones add up."""
    assert length([]) == timedelta()
    assert length([span(0, 2), span(5, 6)]) == timedelta(hours=3)


@calm
@given(st.lists(PARTS, max_size=8))
def test_a_union_is_the_same_time_in_as_few_pieces_as_possible(parts: list[Interval]):
    """Every hour of the parts and no other, in order, with a gap between any two."""
    merged = union(parts)
    assert {hour for part in merged for hour in hours(part)} == {
        hour for part in parts for hour in hours(part)
    }
    assert all(earlier.end < later.start for earlier, later in pairwise(merged))
