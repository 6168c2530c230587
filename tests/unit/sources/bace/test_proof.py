"""When a session is complete, and when it is looked at again."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sync.sources.bace.decode import decode_data
from sync.sources.bace.proof import (
    WIDTHS,
    Bucket,
    Buckets,
    Verdict,
    buckets_of,
    differences,
    is_as_fine_as,
    judge,
    still_open,
    unproven,
)
from sync.sources.bace.spans import DAY, HOUR, MINUTE, SECOND, Span, duration

# A busy machine is no fault of the program's.
calm = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

NOW = datetime(2022, 3, 30, 12, tzinfo=UTC)
MIDNIGHT = 1_648_598_400
"""Unix seconds: 2022-03-30 00:00 UTC."""
SERIES = [UUID(int=number) for number in range(1, 4)]
MOMENT = timedelta(microseconds=1)

rows = st.lists(
    st.tuples(
        st.integers(-90_000, 200_000), st.sampled_from(SERIES), st.integers(-50, 50), st.integers(1, 5)
    ),
    max_size=30,
)
"""Seconds since midnight, dataset, value, count."""
cells = st.dictionaries(
    st.tuples(st.sampled_from(SERIES), st.integers(-3, 3).map(lambda place: place * HOUR)),
    st.builds(
        Bucket,
        count=st.integers(1, 3),
        least=st.floats(-10, 0),
        most=st.floats(0, 10),
        total=st.floats(-30, 30),
    ),
    max_size=6,
)


def item(second: float, series: UUID = SERIES[0], value: Any = 1.0, count: int = 1) -> dict[str, Any]:
    """A row of an answer, so many seconds after midnight."""
    return {
        "id_container_data_latest": str(series),
        "timestamp_seconds": MIDNIGHT + second,
        "min_val": value,
        "max_val": value,
        "avg_val": value,
        "count_val": count,
    }


def read(*items: dict[str, Any]) -> Any:
    """The readings of an answer."""
    return decode_data(items, MIDNIGHT * SECOND)


def judged(**changes: Any) -> Verdict:
    """The verdict on a session of ten datapoints that ended long ago."""
    facts = {"expected": 10, "loaded": 10, "rejected": 0, "attempts": 0, "ended_at": NOW - timedelta(days=14)}
    return judge(**{**facts, "now": NOW, **changes})


# --- buckets ---------------------------------------------------------------------------------------


@calm
@given(rows, st.sampled_from(WIDTHS))
def test_buckets_hold_every_sample_once(told: list[tuple[int, UUID, int, int]], width: int):
    """Each in the bucket in which it lies, with number, least, most and total."""
    expected: dict[tuple[UUID, int], list[tuple[int, int]]] = {}
    for second, series, value, count in told:
        start = (MIDNIGHT + second) * SECOND // width * width
        expected.setdefault((series, start), []).append((value, count))
    found = buckets_of(read(*(item(*row) for row in told)), width)
    assert found == {
        key: Bucket(
            sum(count for _, count in inside),
            min(value for value, _ in inside),
            max(value for value, _ in inside),
            sum(value * count for value, count in inside),
        )
        for key, inside in expected.items()
    }


@calm
@given(rows, rows, st.sampled_from(WIDTHS))
def test_buckets_of_a_whole_add_up_from_those_of_its_parts(
    one: list[tuple[int, UUID, int, int]], other: list[tuple[int, UUID, int, int]], width: int
):
    """Pages can be read one by one, and bucketed together."""
    first, second = (buckets_of(read(*(item(*row) for row in part)), width) for part in (one, other))
    both = buckets_of(read(*(item(*row) for row in (*one, *other))), width)
    assert both.keys() == first.keys() | second.keys()
    for key, bucket in both.items():
        parts = [part[key] for part in (first, second) if key in part]
        assert bucket == (parts[0] + parts[1] if len(parts) > 1 else parts[0])


def test_bad_items_are_in_no_bucket():
    """They are not stored either, so that both sides leave them out."""
    found = buckets_of(read(item(0), item(1, value=None, count=5)), DAY)
    assert found == {(SERIES[0], MIDNIGHT * SECOND): Bucket(1, 1.0, 1.0, 1.0)}


def test_least_and_most_of_a_row_are_its_own():
    """An aggregate's extremes are not its average."""
    row = {**item(0, count=4), "min_val": -2.0, "max_val": 8.0, "avg_val": 3.0}
    assert buckets_of(read(row), DAY) == {(SERIES[0], MIDNIGHT * SECOND): Bucket(4, -2.0, 8.0, 12.0)}


# --- differences -----------------------------------------------------------------------------------


@calm
@given(cells, cells)
def test_differences_are_symmetric_and_none_where_nothing_differs(one: Buckets, other: Buckets):
    """It does not matter on which side a sample is missing."""
    assert differences(one, one, HOUR) == ()
    found = differences(one, other, HOUR)
    assert found == differences(other, one, HOUR)
    starts = [span.start for span in found]
    assert starts == sorted(set(starts))
    assert duration(found) == len(found) * HOUR


@calm
@given(cells.filter(bool), st.data())
def test_whatever_changes_in_one_bucket_is_found_there(held: Buckets, data: st.DataObject):
    """A sample gone, or another number, least, most or total."""
    key = data.draw(st.sampled_from(sorted(held)))
    old = held[key]
    changed: list[Bucket | None] = [
        None,
        Bucket(old.count + 1, old.least, old.most, old.total),
        Bucket(old.count, old.least - 1, old.most, old.total),
        Bucket(old.count, old.least, old.most + 1, old.total),
        Bucket(old.count, old.least, old.most, old.total + 1),
    ]
    for new in changed:
        other = {place: bucket for place, bucket in {**held, key: new}.items() if bucket is not None}
        assert differences(held, other, HOUR) == (Span(key[1], key[1] + HOUR),)


def test_datasets_that_differ_in_one_bucket_are_one_stretch():
    """It is read again once."""
    held = {(series, 0): Bucket(1, 0.0, 0.0, 0.0) for series in SERIES}
    assert differences(held, {}, MINUTE) == (Span(0, MINUTE),)


def test_rounding_errors_are_no_difference():
    """Neither of a rounded average nor of values that cancel each other out."""
    assert Bucket(1_000, 0.0, 20.0, 10_000.0).equals(Bucket(1_000, 0.0, 20.0, 10_000.009))
    assert not Bucket(1_000, 0.0, 20.0, 10_000.0).equals(Bucket(1_000, 0.0, 20.0, 10_000.02))
    assert Bucket(10**5, -1e3, 1e3, 0.0).equals(Bucket(10**5, -1e3, 1e3, 9e-5))
    assert not Bucket(10**5, -1e3, 1e3, 0.0).equals(Bucket(10**5, -1e3, 1e3, 2e-4))
    assert Bucket(10**5, -1e3, 1.0, 0.0).equals(Bucket(10**5, -1e3, 1.0, 9e-5))


def test_small_values_are_compared_as_closely_as_large_ones():
    """A current in nanoamperes is not nothing."""
    assert not Bucket(3, 1e-9, 9e-9, 12e-9).equals(Bucket(3, 1e-9, 9e-9, 16e-9))


# --- how fine an answer is -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "fine"),
    [
        ([], {DAY, HOUR, MINUTE}),
        ([0], {DAY}),
        ([0, 86_400], {DAY}),
        ([0, 7_200], {DAY, HOUR}),
        ([3_600], {DAY, HOUR}),
        ([0, 60], {DAY, HOUR, MINUTE}),
        ([0.995], {DAY, HOUR, MINUTE}),
    ],
)
def test_rows_that_all_lie_on_wider_edges_may_be_wider_buckets(seconds: list[float], fine: set[int]):
    """They are taken for fine ones only where some row lies between the wider edges."""
    readings = read(*(item(second) for second in seconds))
    assert {width for width in WIDTHS if is_as_fine_as(readings, width)} == fine


# --- the verdict -----------------------------------------------------------------------------------


@calm
@given(st.integers(0, 20), st.integers(0, 20), st.one_of(st.none(), st.integers(0, 40)), st.integers(0, 6))
def test_complete_means_that_stored_and_rejected_add_up(
    loaded: int, rejected: int, expected: int | None, attempts: int
):
    """To exactly what the source says; anything else is incomplete and gives its numbers."""
    verdict = judged(expected=expected, loaded=loaded, rejected=rejected, attempts=attempts)
    assert verdict.attempts == attempts + 1
    if expected == loaded + rejected:
        assert (verdict.status, verdict.reason) == ("complete", None)
        return
    assert verdict.status == "incomplete"
    assert verdict.reason is not None
    assert f"{loaded} are stored and {rejected} were rejected" in verdict.reason
    assert expected is None or f"the source says {expected} datapoints" in verdict.reason


def test_the_reason_says_which_side_has_more():
    """Too few and too many are different troubles, and so is an unknown number."""
    assert "serves fewer" in str(judged(loaded=9).reason)
    assert "once served, more" in str(judged(loaded=11).reason)
    assert "does not say how many" in str(judged(expected=None).reason)


@pytest.mark.parametrize("make", [judged, lambda attempts: unproven("refused", attempts, NOW)])
def test_an_incomplete_session_is_tried_after_one_seven_and_thirty_days_then_never(make: Any):
    """Each wait is longer, and it does not cost for ever."""
    facts = {"loaded": 9} if make is judged else {}
    found = [make(attempts=attempts, **facts) for attempts in range(6)]
    waits = [verdict.next_check_at and (verdict.next_check_at - NOW).days for verdict in found]
    assert waits == [1, 7, 30, None, None, None]
    assert {verdict.status for verdict in found} == {"incomplete"}
    assert [verdict.attempts for verdict in found] == [1, 2, 3, 4, 5, 6]


def test_a_complete_session_with_open_rejects_is_tried_as_an_incomplete_one():
    """The vendor may mend what was rejected without a word; nobody asks for ever."""
    found = [judged(loaded=9, rejected=1, hopeful=True, attempts=attempts) for attempts in range(5)]
    assert {verdict.status for verdict in found} == {"complete"}
    waits = [verdict.next_check_at and (verdict.next_check_at - NOW).days for verdict in found]
    assert waits == [1, 7, 30, None, None]


def test_a_session_that_cannot_be_read_says_why():
    """In the words of whoever noticed."""
    assert unproven("the vendor refused", 0, NOW).reason == "the vendor refused"


@pytest.mark.parametrize(
    ("ended", "attempts", "again"),
    [
        (timedelta(hours=1), 0, NOW + timedelta(days=1)),
        (timedelta(hours=1), 1, None),
        (timedelta(days=7) - MOMENT, 0, NOW + timedelta(days=1)),
        (timedelta(days=7), 0, None),
        (-timedelta(hours=1), 0, NOW + timedelta(days=1)),
        (None, 0, None),
    ],
)
def test_a_complete_session_that_ended_recently_is_looked_at_once_more(
    ended: timedelta | None, attempts: int, again: datetime | None
):
    """Late data need not change its row; an old session, or a second look, gets none."""
    ended_at = None if ended is None else NOW - ended
    verdict = judged(ended_at=ended_at, attempts=attempts)
    assert (verdict.status, verdict.next_check_at) == ("complete", again)


@pytest.mark.parametrize(
    ("silent", "wait"),
    [
        (timedelta(hours=-1), timedelta()),
        (timedelta(), timedelta()),
        (timedelta(days=1) - MOMENT, timedelta()),
        (timedelta(days=1), timedelta(hours=1)),
        (timedelta(days=7) - MOMENT, timedelta(hours=1)),
        (timedelta(days=7), timedelta(days=1)),
        (timedelta(days=30) - MOMENT, timedelta(days=1)),
        (timedelta(days=30), timedelta(days=7)),
        (timedelta(days=3_000), timedelta(days=7)),
    ],
)
def test_an_open_session_is_asked_for_the_rarer_the_longer_it_is_silent(silent: timedelta, wait: timedelta):
    """Each cycle for a day, then hourly, daily, weekly: one that never ends does not cost for ever."""
    assert still_open(NOW - silent, NOW) == Verdict("open", None, 0, NOW + wait)
