"""Jobs are called when they are due; what becomes of each call is told."""

# ruff: noqa: ARG005 - the doubles take what the protocols give
from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest
import structlog.testing
from apscheduler.events import EVENT_JOB_MAX_INSTANCES, EVENT_JOB_MISSED, JobEvent

from sync.daemon.timetable import Job, Timetable
from sync.schedule import Schedule

HANG_S = 30
LATE = timedelta(days=2)
SECONDLY, YEARLY = Schedule("1s"), Schedule("0 0 1 1 *")


@pytest.fixture
def ended():
    """Return the endings that were told."""
    return []


@pytest.fixture
async def timetable(ended):
    """Return a timetable that has not begun; closed in the end."""
    told = Timetable(timedelta(), lambda name, ending: ended.append((name, ending)))
    yield told
    told.close()
    await asyncio.sleep(0)


async def until(is_so):
    """Wait until something is so; a job's time comes by itself."""
    async with asyncio.timeout(HANG_S):
        while not is_so():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_a_job_is_called_again_and_again(timetable, ended):
    """Each time that is due it is awaited, and told as done."""
    calls = []

    async def due():
        calls.append(datetime.now(UTC))

    timetable.add(Job("beddit.once", SECONDLY, due))
    timetable.start()
    await until(lambda: len(calls) == 2)
    assert SECONDLY.last(calls[0]) < SECONDLY.last(calls[1])
    await until(lambda: len(ended) == 2)
    assert ended == [("beddit.once", "done")] * 2


async def test_at_once(timetable, ended):
    """A job that is asked for right away does not wait for its schedule; the others do."""
    calls = []

    async def due(name):
        calls.append(name)

    timetable.add(Job("later", YEARLY, partial(due, "later")))
    timetable.add(Job("housekeeping", YEARLY, partial(due, "now")), at_once=True)
    timetable.start()
    await until(lambda: ended)
    assert calls == ["now"]
    assert ended == [("housekeeping", "done")]


async def test_a_job_that_fails_is_an_event_and_comes_again(timetable, ended):
    """Its error is logged with the job's name; the job and the others go on."""
    calls = []

    async def due():
        calls.append(len(calls))
        if len(calls) == 1:
            raise ZeroDivisionError("defect")

    timetable.add(Job("beddit.once", SECONDLY, due))
    with structlog.testing.capture_logs() as logs:
        timetable.start()
        await until(lambda: len(ended) == 2)
    assert ended == [("beddit.once", "failed"), ("beddit.once", "done")]
    (entry,) = logs
    assert (entry["event"], entry["job"]) == ("job.failed", "beddit.once")
    assert isinstance(entry["exc_info"], ZeroDivisionError)


@pytest.mark.parametrize("code", [EVENT_JOB_MISSED, EVENT_JOB_MAX_INSTANCES], ids=["too late", "still busy"])
async def test_a_job_that_is_missed_is_an_event(timetable, ended, code):
    """A call that came too late, or while the last one had not ended, is told as missed."""
    with structlog.testing.capture_logs() as logs:
        timetable._scheduler._dispatch_event(JobEvent(code, "beddit.once", "default"))
    assert ended == [("beddit.once", "missed")]
    assert logs == [{"event": "job.missed", "log_level": "warning", "job": "beddit.once"}]


async def test_a_job_never_runs_beside_itself(timetable, ended):
    """While a call lasts the next one is missed, not begun."""
    busy, most = 0, []
    go_on = asyncio.Event()

    async def due():
        nonlocal busy
        busy += 1
        most.append(busy)
        await go_on.wait()
        busy -= 1

    timetable.add(Job("beddit.once", SECONDLY, due))
    timetable.start()
    await until(lambda: ("beddit.once", "missed") in ended)
    go_on.set()
    await until(lambda: ("beddit.once", "done") in ended)
    assert set(most) == {1}


async def test_late_is_better_than_never(timetable):
    """A job whose process slept for less than the grace is called, once, when it wakes up."""
    calls = []

    async def due():
        calls.append(1)

    timetable.add(Job("beddit.once", YEARLY, due))
    (job,) = timetable._scheduler.get_jobs()
    job.modify(next_run_time=datetime.now(UTC) - LATE)
    timetable.start()
    await until(lambda: calls)
    assert calls == [1]


async def test_what_was_slept_through_is_made_up_for_once(timetable, ended):
    """However many times went by, one call stands for them all."""

    async def due():
        pass

    timetable.add(Job("beddit.once", Schedule("5m"), due))
    (job,) = timetable._scheduler.get_jobs()
    job.modify(next_run_time=datetime.now(UTC) - LATE)
    timetable.start()
    await until(lambda: ended)
    assert ended == [("beddit.once", "done")]


async def test_after_closing_nothing_is_called(ended):
    """Closing takes effect at once, also before the beginning, and may be done twice."""
    never = Timetable(timedelta(), lambda *_: None)
    never.close()
    timetable = Timetable(timedelta(), lambda name, ending: ended.append(ending))
    calls = []

    async def due():
        calls.append(1)

    timetable.add(Job("beddit.once", YEARLY, due), at_once=True)
    timetable.start()
    timetable.close()
    timetable.close()
    for _ in range(20):
        await asyncio.sleep(0)
    assert (calls, ended) == ([], [])
