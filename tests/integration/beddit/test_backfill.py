"""History: whole whatever happens meanwhile, cheap where there is nothing, and what was read is known."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import count

import pytest

from sync.emulators.beddit import Behaviour
from sync.model import Interval, Task, gaps
from sync.sources.beddit.cursor import as_time

NOW = 1_711_000_000.0
DAY = 86_400.0
STARTS = [NOW - days * DAY for days in (1, 20, 29, 31, 62, 200, 700, 2000)]
"""Nights in the first windows and around their edges, then with gaps that make windows wider."""


async def opened(open_pipeline, manual_clock, night, user=1001, behaviour=None):
    """A pipeline for one user with some nights in the last years; the server's clock stands still."""
    pipeline = await open_pipeline(
        None, tokens={user: f"token-of-{user}"}, behaviour=behaviour, clock=manual_clock(NOW)
    )
    for number, start in enumerate(STARTS):
        pipeline.cloud.put(user, night(start, level=50.0 + number), updated=start + 602.5)
    return pipeline


async def coverage_of(pipeline):
    """The covered stretches of the only account."""
    (row,) = await pipeline.fetch("SELECT coverage FROM sync.streams")
    return [Interval(part.lower, part.upper) for part in row["coverage"]]


# --- what is put meanwhile ---------------------------------------------------------------------------


@pytest.mark.parametrize("inclusive", [False, True], ids=["strict", "inclusive"])
@pytest.mark.parametrize("task", ["once", "backfill"])
async def test_what_is_put_at_any_moment_is_never_missed(open_pipeline, manual_clock, night, task, inclusive):
    """A session put again and a new one, before any request of a first run, are there after one more pass.

    The server's clock stands still, so that each stamp equals the second that the cursor was set from.
    """
    for moment in count():
        user = 2000 + moment
        behaviour = Behaviour(inclusive_updated_after=inclusive)
        pipeline = await opened(open_pipeline, manual_clock, night, user, behaviour)

        async def put_meanwhile(_request, cloud=pipeline.cloud, user=user, moment=moment):
            if len(cloud.requests) == moment + 1:
                cloud.put(user, night(STARTS[moment % len(STARTS)], level=90.0))
                cloud.put(user, night(STARTS[-1 - moment % len(STARTS)], level=91.0))
                cloud.put(user, night(NOW - 45.5 * DAY, level=92.0))
                cloud.put(user, night(NOW - 3 * DAY, level=93.0))

        pipeline.cloud.on_request = put_meanwhile
        (outcome,) = await pipeline.run(Task(task))
        assert outcome.error is None
        pipeline.cloud.on_request = None
        happened = len(pipeline.cloud.requests) > moment
        if not happened:
            await put_nothing(pipeline)
            break
        await pipeline.once()
        await pipeline.assert_truth()
    assert moment >= 8


async def test_what_is_put_meanwhile_comes_with_the_same_run(open_pipeline, manual_clock, night):
    """A first run that takes hours ends with a look at what was put during those hours."""
    pipeline = await opened(open_pipeline, manual_clock, night)

    async def put_meanwhile(_request):
        if len(pipeline.cloud.requests) == 4:
            pipeline.cloud.put(1001, night(STARTS[0], level=90.0))

    pipeline.cloud.on_request = put_meanwhile
    await pipeline.once()
    await pipeline.assert_truth()


async def put_nothing(pipeline):
    """The run that nothing interfered with is the proof that the moments were all of them."""
    assert len(pipeline.cloud.truth(pipeline.users[0])) == len(STARTS)
    await pipeline.assert_truth()


async def test_what_is_put_at_any_moment_of_a_walk(open_pipeline, manual_clock, night):
    """Also while changes are read by walking over all history."""
    for moment in count():
        user = 2000 + moment
        pipeline = await opened(open_pipeline, manual_clock, night, user)
        await pipeline.once()
        pipeline.cloud._clock.now = NOW + 500
        for start in STARTS:
            pipeline.cloud.put(user, night(start, level=70.0), updated=NOW + 300)
        pipeline.cloud.behaviour = Behaviour(overload_above=5, overload_seconds=0, limit="refused")
        pipeline.cloud.forget_requests()

        async def put_meanwhile(_request, cloud=pipeline.cloud, user=user, moment=moment):
            if len(cloud.requests) == moment + 1:
                cloud.put(user, night(STARTS[moment % len(STARTS)], level=90.0))
                cloud.put(user, night(NOW - 45.5 * DAY, level=92.0))

        pipeline.cloud.on_request = put_meanwhile
        (outcome,) = await pipeline.run(Task("once"))
        assert outcome.error is None
        pipeline.cloud.on_request = None
        happened = len(pipeline.cloud.requests) > moment
        await pipeline.once()
        await pipeline.assert_truth()
        if not happened:
            break
    assert moment >= 8


# --- spans -------------------------------------------------------------------------------------------


async def test_from_and_to(open_pipeline, manual_clock, night):
    """A backfill of a span covers exactly that span, and holds at least its nights."""
    pipeline = await opened(open_pipeline, manual_clock, night)
    since, until = as_time(NOW - 100 * DAY), as_time(NOW - 25 * DAY)
    await pipeline.backfill(since=since, until=until)
    rows = await pipeline.fetch("SELECT session_id FROM beddit.sessions")
    found = {row["session_id"] for row in rows}
    assert found >= {int(start) for start in STARTS if since <= as_time(start) < until}
    assert int(STARTS[-1]) not in found
    covered = [part for part in await coverage_of(pipeline) if part.start < as_time(NOW - DAY)]
    assert covered == [Interval(since, until)]


async def test_gaps_are_visible_and_filled(open_pipeline, manual_clock, night):
    """Two spans leave a gap in sync.streams; a plain backfill fills it and reads nothing twice."""
    pipeline = await opened(open_pipeline, manual_clock, night)
    edges = [as_time(NOW - days * DAY) for days in (800, 400, 100, 50)]
    await pipeline.backfill(since=edges[0], until=edges[1])
    await pipeline.backfill(since=edges[2], until=edges[3])
    covered = await coverage_of(pipeline)
    assert list(gaps(Interval(edges[0], edges[3]), covered)) == [Interval(edges[1], edges[2])]
    pipeline.cloud.forget_requests()
    await pipeline.backfill()
    for window in windows(pipeline):
        assert not (edges[0] <= window.start and window.end <= edges[1])
        assert not (edges[2] <= window.start and window.end <= edges[3])
    (whole,) = await coverage_of(pipeline)
    assert whole.start == datetime(2012, 1, 1, tzinfo=UTC)
    await pipeline.assert_truth()


async def test_what_is_covered_is_not_asked_for_again(open_pipeline, manual_clock, night):
    """A second backfill asks for no window; with reload it asks for all and stores nothing anew."""
    pipeline = await opened(open_pipeline, manual_clock, night)
    await pipeline.backfill()
    pipeline.cloud.forget_requests()
    await pipeline.backfill()
    assert windows(pipeline) == []
    (outcome,) = await pipeline.backfill(reload=True)
    assert len(windows(pipeline)) > 5
    assert outcome.tally.stored == 0
    assert outcome.tally.unchanged > 0
    await pipeline.assert_truth()


async def test_reload_finds_what_changed_without_a_stamp(open_pipeline, manual_clock, night):
    """Reload of a span reads that span again: a session changed behind the stamps' back is replaced."""
    pipeline = await opened(open_pipeline, manual_clock, night)
    await pipeline.backfill()
    pipeline.cloud.put(1001, night(STARTS[5], level=99.0), updated=STARTS[5] + 602.5)
    await pipeline.backfill(since=as_time(NOW - 300 * DAY), until=as_time(NOW - 100 * DAY), reload=True)
    await pipeline.assert_truth()


async def test_empty_years_cost_few_requests(open_pipeline, manual_clock, night):
    """Fourteen years without a night are proved empty by 25 requests at most."""
    fourteen_years = datetime(2012, 1, 1, tzinfo=UTC) + timedelta(days=14 * 365.25)
    clock = manual_clock(fourteen_years.timestamp())
    pipeline = await open_pipeline(None, tokens={1001: "token-of-1001"}, clock=clock)
    await pipeline.once()
    assert len(pipeline.cloud.requests) <= 25
    (covered,) = await coverage_of(pipeline)
    assert covered.start == datetime(2012, 1, 1, tzinfo=UTC)
    assert covered.end >= fourteen_years - timedelta(seconds=2)


async def test_many_nights_cost_few_requests(open_pipeline, manual_clock, night):
    """A full year is read with a few requests more than an empty one, not with one a night."""
    pipeline = await open_pipeline(None, tokens={1001: "token-of-1001"}, clock=manual_clock(NOW))
    for number in range(1, 366):
        pipeline.cloud.put(1001, night(NOW - number * DAY), updated=NOW - number * DAY + 601)
    await pipeline.once()
    assert len(pipeline.cloud.requests) <= 25 + 12
    await pipeline.assert_truth()


async def test_a_start_in_the_future(open_pipeline, manual_clock, night):
    """A phone whose clock is days ahead puts nights that lie in the server's future: they arrive too."""
    pipeline = await opened(open_pipeline, manual_clock, night)
    pipeline.cloud.put(1001, night(NOW + 10 * DAY), updated=NOW - 100)
    await pipeline.once()
    await pipeline.assert_truth()


@pytest.mark.parametrize("session_id", [0, -5, 2**62, 99_999_999_999_999])
async def test_an_id_that_is_no_time(open_pipeline, manual_clock, night, session_id):
    """An id that cannot be a date stops neither its session nor anything else."""
    pipeline = await opened(open_pipeline, manual_clock, night)
    pipeline.cloud.put(1001, night(NOW - 5 * DAY, id=session_id), updated=NOW - 100)
    await pipeline.once()
    await pipeline.assert_truth()


def windows(pipeline):
    """The windows that were asked for, without the margins of each question."""
    asked = [r.query for r in pipeline.cloud.requests_to("api") if "start_timestamp" in r.query]
    return [
        Interval(
            as_time(float(query["start_timestamp"])) + timedelta(seconds=1),
            as_time(float(query["end_timestamp"])) - pipeline.settings.longest_session,
        )
        for query in asked
        if query["start_timestamp"] != "0"
    ]
