"""The cursor, and the windows in which history is read."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sync.model import Interval, length
from sync.sources.beddit.cursor import (
    MOST_SPOILT,
    RETRY_AFTER,
    Course,
    Cursor,
    Spoilt,
    as_time,
    bisected,
    halves,
    next_width,
    next_window,
    still_owed,
    still_spoilt,
)
from sync.sources.beddit.lengths import Lengths
from sync.sources.beddit.settings import BedditSettings

# A busy machine is no fault of the program's.
calm = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

DAY = 86_400.0
NOW = 1_471_305_600.0
SETTINGS = BedditSettings("https://cloudapi.beddit.com", {}, Path("spool"))
HISTORY = datetime(2012, 1, 1, tzinfo=UTC)


def days(start: float, end: float) -> Interval:
    """From one day of the test's history to another."""
    return Interval(HISTORY + timedelta(days=start), HISTORY + timedelta(days=end))


SPANS = st.tuples(st.integers(0, 300), st.integers(1, 400)).map(lambda s: days(s[0], sum(s)))
WIDTHS = st.integers(80, 24 * 200).map(lambda hours: timedelta(hours=hours))


# --- windows ---------------------------------------------------------------------------------------


@calm
@given(SPANS, st.lists(SPANS, max_size=4), st.lists(WIDTHS, min_size=1, max_size=5))
def test_windows_read_all_history_once_newest_first(
    span: Interval, covered: list[Interval], widths: list[timedelta]
):
    """Taking the next window until there is none ends, covers every gap, and reads no time twice."""
    narrowest = min(widths)
    most = (span.end - span.start) // narrowest + len(covered) + 2
    coverage, taken = list(covered), []
    for turn in range(most + 1):
        window = next_window([span], coverage, widths[turn % len(widths)])
        if window is None:
            break
        assert timedelta() < window.end - window.start <= widths[turn % len(widths)]
        taken.append(window)
        coverage.append(window)
    else:
        pytest.fail("windows do not come to an end")
    assert all(newer.start >= older.end for newer, older in pairwise(taken))
    for window in taken:
        assert span.start <= window.start
        assert window.end <= span.end
        assert all(window.end <= part.start or part.end <= window.start for part in covered)
    edges = sorted({span.start, span.end, *(e for p in coverage for e in (p.start, p.end))})
    for start, end in pairwise(edges):
        if span.start <= start and end <= span.end:
            assert any(part.start <= start and end <= part.end for part in coverage)


def test_the_next_window_is_the_newest_part_of_the_newest_gap():
    """What a person looks at first is read first."""
    covered = [days(90, 100), days(40, 60)]
    assert next_window([days(0, 100)], covered, timedelta(days=10)) == days(80, 90)
    assert next_window([days(0, 100)], covered, timedelta(days=50)) == days(60, 90)
    assert next_window([days(0, 100)], [days(0, 100)], timedelta(days=10)) is None


@calm
@given(SPANS)
def test_halves_are_the_whole(window: Interval):
    """An older and a newer half touch, overlap nowhere and leave nothing out."""
    parts = halves(window)
    assert parts is not None
    older, newer = parts
    assert (older.start, older.end, newer.end) == (window.start, newer.start, window.end)
    assert abs(length([older]) - length([newer])) <= timedelta(microseconds=1)


@calm
@given(SPANS)
def test_halving_ends(window: Interval):
    """A server that cannot even answer for hours is not asked for ever."""
    turns = 0
    while (parts := halves(window)) is not None:
        assert parts[0].end - parts[0].start < window.end - window.start
        window = parts[turns % 2]
        turns += 1
        assert turns < 20
    assert window.end - window.start <= timedelta(hours=6)


@pytest.mark.parametrize(
    ("width", "found", "narrowest", "expected"),
    [
        (30, 0, None, 60),  # empty windows widen, at most to twice their length
        (480, 0, None, 730),  # but not beyond two years
        (730, 0, None, 730),
        (30, 28, None, 30),  # a window that holds nights keeps its width
        (120, 28, None, 120),
        (120, 61, None, 120),  # nor is it widened when it holds plenty
        (7, 61, None, 7),
        (7, 5, None, 14),  # after a refusal it recovers
        (20, 5, None, 30),
        (7, 5, 7, 7),  # but what the server refused in this run is not asked for again
        (7, 5, 10, 10),
        (7, 0, 7, 14),  # as long as there is anything
    ],
)
def test_the_next_window_is_as_wide_as_the_last_one_allows(
    width: float, found: int, narrowest: float | None, expected: float
):
    """Width follows what was found and what the server could answer."""
    smallest = timedelta.max if narrowest is None else timedelta(days=narrowest)
    assert next_width(timedelta(days=width), found, smallest) == timedelta(days=expected)


@calm
@given(WIDTHS, st.lists(st.tuples(st.integers(0, 200), st.one_of(st.none(), WIDTHS)), max_size=12))
def test_the_width_stays_within_bounds(width: timedelta, history: list[tuple[int, timedelta | None]]):
    """Whatever is found and refused, a window is never empty and never wider than two years."""
    for found, narrowest in history:
        width = next_width(width, found, timedelta.max if narrowest is None else narrowest)
        assert timedelta(0) < width <= timedelta(days=730)


# --- the cursor ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("since_sweep", "back", "sweeps"),
    [(0.0, 1.0, False), (DAY - 1, 1.0, False), (DAY, 7 * DAY, True), (30 * DAY, 7 * DAY, True)],
)
def test_a_pass_looks_back_a_second_and_once_a_day_a_week(since_sweep: float, back: float, sweeps: bool):
    """The overlap is against ties and rounding, the daily one against whatever nobody thought of."""
    cursor = Cursor(updated_after=NOW - 100, swept_at=NOW - since_sweep)
    assert cursor.lookback(NOW, SETTINGS) == (NOW - 100 - back, sweeps)


@pytest.mark.parametrize(
    "cursor",
    [
        Cursor(1471303494.4412341, 1471303494.5),
        Cursor(0.1, 0.2, reads_history=True, walk_to=1471303494.4412341),
        Cursor(0.1, 0.2, ahead_from=1.1, owed=((1.5, 2.0), (3.0, 4.25)), spoilt=(Spoilt(5, 1, 6.5),)),
    ],
)
def test_the_cursor_survives_the_warehouse(cursor: Cursor):
    """Stored as JSON and loaded again it is the same, to the last bit."""
    assert Cursor.load(json.loads(json.dumps(cursor.dump()))) == cursor


def test_a_stream_never_seen_has_no_cursor():
    """None means that nothing was ever read, which a cursor of zero would not."""
    assert Cursor.load(None) is None


def test_history_ends_where_the_changes_begin():
    """While a walk is under way, history reaches to where the walk ends."""
    cursor = Cursor(updated_after=NOW, swept_at=NOW)
    assert cursor.known_until == as_time(NOW) == datetime(2016, 8, 16, tzinfo=UTC)
    assert Cursor(NOW, NOW, walk_to=NOW + DAY).known_until == datetime(2016, 8, 17, tzinfo=UTC)


# --- what is left to do ----------------------------------------------------------------------------


def test_what_is_owed_is_what_was_not_read_since():
    """Parts that touch are one stretch; what a later answer covered is owed no more."""
    owed = still_owed([days(10, 12), days(12, 14), days(20, 21)], [days(0, 11), days(20, 30)])
    assert owed == ((days(11, 14).start.timestamp(), days(11, 14).end.timestamp()),)
    assert still_owed([days(10, 12)], [days(0, 100)]) == ()


def test_a_spoilt_session_is_listed_again_ever_later_and_then_no_more():
    """An hour, a day, a week and a month after it was met; then it is left as it is."""
    spoilt, now, waits = still_spoilt((), (), {7}, NOW), NOW, []
    while spoilt:
        waits.append(spoilt[0].due_at - now)
        now = spoilt[0].due_at
        spoilt = still_spoilt(spoilt, {7}, {7}, now)
    assert tuple(waits) == RETRY_AFTER


def test_only_what_is_still_spoilt_is_listed_again():
    """One that came right is forgotten, one that was merely met again keeps its time, and there is an end."""
    known = (Spoilt(9, 1, NOW + 5), Spoilt(8, 2, NOW))
    assert still_spoilt(known, {8}, {9}, NOW) == (Spoilt(9, 1, NOW + 5),)
    many = still_spoilt((), (), range(1000), NOW)
    assert [one.start for one in many] == list(range(999, 999 - MOST_SPOILT, -1))


def test_windows_are_not_divided_for_ever_in_vain():
    """After some parts in a row without an answer, the next ones are asked for as they are."""
    course = Course(Lengths(), patience=2)
    assert course.smaller(days(0, 30)) is not None
    course.in_vain = 2
    assert course.smaller(days(0, 30)) is None


def test_what_was_refused_once_is_not_asked_for_again_while_there_are_nights():
    """A run remembers the shortest window that it had to ask for."""
    course = Course(Lengths())
    course.refused(days(0, 4))
    assert course.width == timedelta(days=4)
    course.widen(10)
    assert course.width == timedelta(days=4)
    course.widen(0)
    assert course.width == timedelta(days=8)


# --- answers in two pieces ----------------------------------------------------------------------------


@calm
@given(st.sets(st.integers(0, 10**6), min_size=5, max_size=40))
def test_sessions_are_cut_in_two_however_close_they_lie(starts: set[int]):
    """No piece of a wide question holds all sessions of its answer, its bounds included."""
    asked = Interval(as_time(-1), as_time(10**8))
    older, newer = bisected(asked, list(starts))
    assert (older.start, older.end, newer.end) == (asked.start, newer.start, asked.end)
    for piece in (older, newer):
        inside = sum(piece.start.timestamp() - 1 <= start <= piece.end.timestamp() for start in starts)
        assert 0 < inside < len(starts)


@pytest.mark.parametrize("starts", [[], [None, None], [500, 500], [-(10**12), 10**12, 1_000, 0]])
def test_where_starts_tell_nothing_the_time_is_cut_in_the_middle(starts: list[int | None]):
    """Sessions without a start, of one start, or that began outside do not move the cut."""
    middle = as_time(500)
    asked = Interval(as_time(0), as_time(1_000))
    assert bisected(asked, starts) == (Interval(asked.start, middle), Interval(middle, asked.end))


def test_who_was_listed_without_being_due_is_known_from_then_on():
    """A session that a person asked for begins with the shortest wait if it is still bad."""
    (found,) = still_spoilt((), {7}, {7}, NOW)
    assert (found.start, found.tried) == (7, 0)
    assert still_spoilt((), {7}, (), NOW) == ()
