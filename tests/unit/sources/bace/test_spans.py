"""Arithmetic on stretches of time, against plain sets of instants."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sync.sources.bace.spans import (
    DAY,
    HOUR,
    MINUTE,
    SECOND,
    Span,
    ceil,
    difference,
    duration,
    floor,
    intersection,
    span,
    union,
)

# A busy machine is no fault of the program's.
calm = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

spans = st.tuples(st.integers(-20, 20), st.integers(1, 12)).map(lambda s: Span(s[0], s[0] + s[1]))
heaps = st.lists(spans, max_size=8)
sets = heaps.map(union)
grains = st.sampled_from([1, 7, 1_000, SECOND, MINUTE, HOUR, DAY])


def instants(parts: list[Span] | tuple[Span, ...]) -> set[int]:
    """The microseconds that lie in some stretches."""
    return {instant for part in parts for instant in range(part.start, part.end)}


def is_sorted_and_disjoint(parts: tuple[Span, ...]) -> bool:
    """Whether each stretch begins no earlier than the one before it ends."""
    return all(one.end <= other.start for one, other in pairwise(parts))


@calm
@given(heaps)
def test_a_union_holds_the_same_time_in_as_few_stretches_as_possible(heap: list[Span]):
    """No instant is lost or won, and stretches that touch are one."""
    joined = union(heap)
    assert instants(joined) == instants(heap)
    assert all(one.end < other.start for one, other in pairwise(joined))


@calm
@given(sets, sets)
def test_an_intersection_is_what_both_hold(left: tuple[Span, ...], right: tuple[Span, ...]):
    """Exactly the instants that lie in both, in order, whichever comes first."""
    shared = intersection(left, right)
    assert instants(shared) == instants(left) & instants(right)
    assert is_sorted_and_disjoint(shared)
    assert shared == intersection(right, left)


@calm
@given(sets, sets)
def test_a_difference_is_what_only_the_first_holds(left: tuple[Span, ...], right: tuple[Span, ...]):
    """Exactly the instants that the other one does not have, in order."""
    rest = difference(left, right)
    assert instants(rest) == instants(left) - instants(right)
    assert is_sorted_and_disjoint(rest)


@calm
@given(sets, st.lists(st.integers(-20, 32), max_size=6))
def test_stretches_that_touch_count_like_one(whole: tuple[Span, ...], cuts: list[int]):
    """Sets that were cut into touching pieces have the same intersection and difference."""
    pieces = list(whole)
    for cut in cuts:
        pieces = [
            piece
            for part in pieces
            for piece in (*span(part.start, min(part.end, cut)), *span(max(part.start, cut), part.end))
        ]
    frame = (Span(-10, 0), Span(3, 15))
    assert instants(intersection(frame, pieces)) == instants(frame) & instants(whole)
    assert instants(difference(frame, pieces)) == instants(frame) - instants(whole)
    assert instants(difference(pieces, frame)) == instants(whole) - instants(frame)


@calm
@given(sets)
def test_the_duration_is_the_number_of_instants(parts: tuple[Span, ...]):
    """Microseconds, stretch by stretch."""
    assert duration(parts) == len(instants(parts))


@calm
@given(st.integers(-(10**18), 10**18), grains)
def test_edges_lie_next_to_an_instant_on_either_side(instant: int, grain: int):
    """Before 1970 as after it: a multiple of the grain, less than one grain away, itself on the grid."""
    below, above = floor(instant, grain), ceil(instant, grain)
    assert below % grain == above % grain == 0
    assert instant - grain < below <= instant <= above < instant + grain


@calm
@given(st.integers(-5, 5), st.integers(-5, 5))
def test_a_stretch_is_there_only_between_instants_in_order(start: int, end: int):
    """Nothing lies between an instant and itself, or an earlier one."""
    assert instants(span(start, end)) == set(range(start, end))


@pytest.mark.parametrize(("start", "end"), [(5, 5), (5, 4)])
def test_an_empty_span_cannot_be_made(start: int, end: int):
    """It would be a question about nothing."""
    with pytest.raises(ValueError, match="start < end"):
        Span(start, end)


def test_units_of_time_are_whole_microseconds():
    """A day has 86,400 seconds, wherever it is counted."""
    assert (SECOND, MINUTE, HOUR, DAY) == (10**6, 60 * 10**6, 3_600 * 10**6, 86_400 * 10**6)
    assert Span(MINUTE, HOUR).length == 59 * MINUTE
