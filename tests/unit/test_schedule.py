"""When work is due: the same for every process, and never early."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sync.schedule import Schedule

NOTHING = timedelta()
INSTANT = timedelta(microseconds=1)

NOW = st.datetimes(datetime(2000, 1, 1), datetime(2090, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001
INTERVALS = st.builds("{}{}".format, st.integers(min_value=1, max_value=52), st.sampled_from("smhdw")).map(
    Schedule
)
LINES = st.sampled_from(
    [
        "* * * * *",
        "*/15 * * * *",
        "7,37 */6 * * *",
        "30 3 * * *",
        "0 0 1 * *",
        "0 12 31 * *",
        "15 9-17 * * mon-fri",
        "59 23 * * sun",
        "0 4 * jan,jul *",
        "0 0 29 2 *",
    ]
).map(Schedule)
SCHEDULES = INTERVALS | LINES


def following(schedule: Schedule, now: datetime) -> datetime:
    """Return the first time that is due at an instant or after it."""
    found = schedule.trigger().get_next_fire_time(None, now)
    assert found is not None
    return found


@given(SCHEDULES, NOW)
def test_the_last_time_is_the_latest_one_that_has_come(schedule, now):
    """It is a time of the trigger, not after now, and the next one after it lies ahead."""
    last = schedule.last(now)
    assert last <= now
    assert following(schedule, last) == last
    assert following(schedule, last + INSTANT) > now


@given(SCHEDULES, NOW)
def test_a_cycle_begins_at_its_very_instant(schedule, now):
    """At a time of the trigger that time is the last one; an instant earlier it is the one before."""
    begins = following(schedule, now)
    assert schedule.last(begins) == begins
    assert schedule.last(begins - INSTANT) == schedule.last(begins, cycles=2) < begins


@given(SCHEDULES, NOW, st.integers(min_value=1, max_value=5))
def test_cycles_are_stepped_back_one_by_one(schedule, now, cycles):
    """So many cycles ago is as often the time before the last one."""
    time = schedule.last(now)
    for _ in range(cycles - 1):
        time = schedule.last(time - INSTANT)
    assert schedule.last(now, cycles=cycles) == time


@given(SCHEDULES, NOW, st.floats(min_value=0, max_value=0.999))
def test_all_processes_agree(schedule, now, share):
    """Whenever in a cycle a process is started, whatever its time zone, it finds the same cycle."""
    last = schedule.last(now)
    later = last + (following(schedule, last + INSTANT) - last) * share
    for instant in (later, min(later, now).astimezone()):
        assert Schedule(schedule.text).last(instant) == last


@given(
    SCHEDULES,
    NOW,
    st.timedeltas(min_value=NOTHING, max_value=timedelta(hours=1)),
)
def test_a_spread_time_is_never_early_and_never_later_than_allowed(schedule, now, jitter):
    """It lies within the jitter after a time that is due; for intervals, within a tenth of one."""
    due = following(schedule, now)
    spread = schedule.trigger(jitter).get_next_fire_time(None, now)
    most = jitter if schedule.interval is None else min(jitter, schedule.interval / 10)
    assert due <= spread <= due + most


@given(INTERVALS, NOW)
def test_spread_times_do_not_drift(schedule, now):
    """Asked at the spread time itself, the next one belongs to the cycle after it: none is left out."""
    trigger, jitter = schedule.trigger(timedelta(hours=1)), schedule.interval / 10
    spread = trigger.get_next_fire_time(None, now)
    cycle = schedule.last(spread)
    for _ in range(5):
        spread = trigger.get_next_fire_time(spread, spread + INSTANT)
        cycle += schedule.interval
        assert cycle <= spread <= cycle + jitter


def test_jitter_is_random():
    """Two processes do not ask at the same moment."""
    now = datetime(2024, 1, 1, 0, 1, tzinfo=UTC)
    trigger = Schedule("15m").trigger(timedelta(seconds=60))
    assert len({trigger.get_next_fire_time(None, now) for _ in range(20)}) > 1


@pytest.mark.parametrize(
    ("text", "interval"),
    [
        ("30s", timedelta(seconds=30)),
        ("15m", timedelta(minutes=15)),
        (" 6 h ", timedelta(hours=6)),
        ("1d", timedelta(days=1)),
        ("2w", timedelta(weeks=2)),
        ("*/15 * * * *", None),
    ],
)
def test_an_interval_is_read(text, interval):
    """Numbers and units are read as a person means them; a crontab line has no interval."""
    assert Schedule(text).interval == interval


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "an interval such as 30s, 15m, 6h or 1d, or a crontab line of five fields"),
        ("15", "an interval such as"),
        ("15 minutes", "an interval such as"),
        ("-5m", "an interval such as"),
        ("1.5h", "an interval such as"),
        ("1234567s", "an interval such as"),
        ("* * * * * *", "an interval such as"),
        ("0m", "longer than nothing"),
        ("61 * * * *", "is no crontab line"),
        ("0 0 * smarch *", "is no crontab line"),
        ("0 0 * * 1", "name the days of the week"),
        ("0 0 * * 1-5", "name the days of the week"),
        ("0 0 * * mon,0", "name the days of the week"),
        ("0 0 1 * mon", "either the day of the month or the day of the week"),
    ],
)
def test_what_is_no_schedule_is_refused(text, expected):
    """The error names what is expected; weekdays have no numbers, which mean different days to people."""
    with pytest.raises(ValueError, match=expected):
        Schedule(text)


def test_a_step_over_weekdays_is_no_number_of_one():
    """Every second day of the week is a crontab line."""
    assert Schedule("0 0 * * */2").interval is None


@pytest.mark.parametrize(
    ("now", "last"),
    [
        (datetime(2024, 2, 29, tzinfo=UTC), datetime(2024, 2, 29, tzinfo=UTC)),
        (datetime(2024, 2, 28, 23, 59, tzinfo=UTC), datetime(2020, 2, 29, tzinfo=UTC)),
        (datetime(2023, 7, 1, tzinfo=UTC), datetime(2020, 2, 29, tzinfo=UTC)),
        (datetime(2103, 12, 31, tzinfo=UTC), datetime(2096, 2, 29, tzinfo=UTC)),
    ],
)
def test_the_29th_of_february(now, last):
    """A day that is not in every year was last in a year that had it, 2100 not being one."""
    assert Schedule("0 0 29 2 *").last(now) == last


def test_schedules_are_what_their_texts_are():
    """Equal texts make equal schedules: a configuration read again is the same."""
    assert Schedule("15m") == Schedule("15m") != Schedule("900s")


def test_a_time_is_not_named_twice():
    """Asked in the very microsecond of a time that has been kept, the next one is named."""
    now = datetime(2026, 11, 21, 12, tzinfo=UTC)
    assert Schedule("15m").trigger().get_next_fire_time(now, now) == now + timedelta(minutes=15)


@pytest.mark.parametrize("text", ["0 0 31 2 *", "54w", "999999d"])
def test_what_never_or_hardly_ever_comes_is_refused(text):
    """A day that no calendar has, and intervals beyond a year, are mistakes."""
    with pytest.raises(ValueError, match="should"):
        Schedule(text)


def test_a_leap_day_after_eight_years():
    """The last 29th of February may be eight years ago."""
    assert Schedule("0 0 29 2 *").last(datetime(2104, 2, 28, tzinfo=UTC)).year == 2096
