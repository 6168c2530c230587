"""What the server has no answer for: it costs itself and nothing else, and is never forgotten."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from sync.emulators.answers import whole
from sync.emulators.beddit import BedditCloud, Behaviour, Fault, Limit, Order, Record
from sync.errors import SourceContractError
from sync.model import Task
from sync.sources.beddit.cursor import as_time
from sync.sources.beddit.lengths import SMALL

NOW = 1_711_000_000.5
HOUR, DAY = 3_600.0, 86_400.0
USER = 1001
TOKENS = {USER: "token-of-the-only-user"}
BROKEN = b'{"id": 5, "hardware": "ends twice"}}'
UNFINISHED = b'{"id": 5, "hardware": "never ends'
GAPS = "SELECT count(*) FROM sync.streams, unnest(range_merge(coverage)::tstzmultirange - coverage)"


async def opened(open_pipeline, manual_clock, **options):
    """A pipeline for one user whose clock and whose cloud's clock stand still."""
    pipeline = await open_pipeline(None, tokens=TOKENS, clock=manual_clock(NOW), **options)
    pipeline.clock = pipeline.cloud._clock
    return pipeline


def spoil(cloud, how, start, updated):
    """Let a session that begins at ``start`` spoil every answer that it is part of, in some way."""
    text = how if isinstance(how, bytes) else b'{"id": %d}' % start
    cloud._records.setdefault(USER, {})["held"] = Record(
        USER, None, start, start + 600, updated, None, lambda: (text, b"")
    )
    if isinstance(how, bytes):
        return

    async def answer(request, user_id):
        if any(record.start == start for record in cloud._selected(user_id, request.query)):
            return whole(b"{}", status=how)
        return await BedditCloud._sessions(cloud, request, user_id)

    cloud._sessions = answer


def mend(cloud, session, updated):
    """Put a session in the place of what spoilt the answers, with the stamp that that had."""
    cloud.remove(USER, "held")
    cloud.put(USER, session, updated=updated)
    vars(cloud).pop("_sessions", None)


async def sessions(pipeline):
    """The ids that are stored."""
    return {row["session_id"] for row in await pipeline.fetch("SELECT session_id FROM beddit.sessions")}


async def last_error(pipeline):
    """What the stream says."""
    return await pipeline.value("SELECT last_error FROM sync.streams")


# --- one bad night ------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [BROKEN, UNFINISHED, 500, 503, 504], ids=str)
async def test_a_bad_night_in_history(open_pipeline, manual_clock, night, how):
    """Whatever it looks like, all others are read, the gap shows, new nights arrive, and it heals."""
    pipeline = await opened(open_pipeline, manual_clock)
    good = [NOW - number * 10 * DAY for number in range(1, 20)]
    for start in good:
        pipeline.cloud.put(USER, night(start), updated=start + 700)
    bad = NOW - 55 * DAY
    spoil(pipeline.cloud, how, bad, bad + 700)
    for _ in range(2):
        (outcome,) = await pipeline.run(Task("once"))
        assert isinstance(outcome.error, SourceContractError)
        assert "cannot all be read" in str(outcome.error)
        assert await sessions(pipeline) == {int(start) for start in good}
        assert "cannot all be read" in await last_error(pipeline)
        assert await pipeline.value(GAPS) == 1

    pipeline.cloud._clock.now += HOUR
    pipeline.cloud.put(USER, night(NOW))
    await pipeline.run(Task("once"))
    assert int(NOW) in await sessions(pipeline)

    mend(pipeline.cloud, night(bad), bad + 700)
    await pipeline.once()
    assert int(bad) in await sessions(pipeline)
    assert await pipeline.value(GAPS) == 0
    assert await last_error(pipeline) is None


@pytest.mark.parametrize("how", [BROKEN, UNFINISHED, 500, 504], ids=str)
@pytest.mark.parametrize("begun_by", ["once", "backfill"])
async def test_a_bad_night_among_the_changes(open_pipeline, manual_clock, night, how, begun_by):
    """What is new arrives every day, and the bad night stays owed until it can be read."""
    pipeline = await opened(open_pipeline, manual_clock)
    pipeline.cloud.put(USER, night(NOW - 10 * DAY), updated=NOW - 9 * DAY)
    await pipeline.run(Task(begun_by))
    pipeline.cloud._clock.now += 10
    bad, stamp = float(int(NOW - 5 * DAY)), pipeline.cloud._clock.now
    spoil(pipeline.cloud, how, bad, stamp)
    for _ in range(4):
        pipeline.cloud._clock.now += DAY
        start = float(int(pipeline.cloud._clock.now - 3000))
        pipeline.cloud.put(USER, night(start))
        (outcome,) = await pipeline.run(Task("once"))
        assert isinstance(outcome.error, SourceContractError)
        assert int(start) in await sessions(pipeline)
        assert "cannot all be read" in await last_error(pipeline)
    mend(pipeline.cloud, night(bad), stamp)
    await pipeline.once()
    await pipeline.assert_truth()
    assert await last_error(pipeline) is None


async def test_a_bad_night_of_a_clock_without_time(open_pipeline, manual_clock, night):
    """What a walk gave up is owed also where history is not asked for, years before its beginning."""
    pipeline = await opened(open_pipeline, manual_clock)
    pipeline.cloud.put(USER, night(NOW - DAY))
    await pipeline.once()
    pipeline.cloud._clock.now += 60
    spoil(pipeline.cloud, BROKEN, 500_000.0, pipeline.cloud._clock.now)
    pipeline.cloud._clock.now += 60
    (outcome,) = await pipeline.run(Task("once"))
    assert "1970-01-0" in str(outcome.error)
    mend(pipeline.cloud, night(500_000.0), pipeline.cloud._clock.now - 60)
    pipeline.cloud._clock.now += 60
    await pipeline.once()
    await pipeline.assert_truth()


async def test_a_server_that_answers_small_questions_alone_is_not_worn_out(
    open_pipeline, manual_clock, night
):
    """Where nothing of history can be had, a run ends soon, all of it is owed, and changes go on arriving."""
    pipeline = await opened(open_pipeline, manual_clock)
    cloud = pipeline.cloud

    async def refuse(request, user_id):
        if float(request.query.get("start_timestamp", "0")) > 0:
            return whole(b"{}", status=504)
        return await BedditCloud._sessions(cloud, request, user_id)

    cloud._sessions = refuse
    cloud.put(USER, night(NOW - 50 * DAY), updated=NOW - 49 * DAY)
    await pipeline.run(Task("once"))
    assert len(cloud.requests) < 150
    cloud._clock.now += 60
    cloud.put(USER, night(NOW))
    cloud.forget_requests()
    await pipeline.run(Task("once"))
    assert len(cloud.requests) < 10
    assert await sessions(pipeline) == {int(NOW)}
    del cloud._sessions
    await pipeline.once()
    await pipeline.assert_truth()


async def test_what_an_archive_has_no_answer_for_is_complained_about(open_pipeline, manual_clock, night):
    """A part of a folder that cannot be read is no success, and the rest of it is read."""
    pipeline = await opened(open_pipeline, manual_clock)
    pipeline.cloud.put(USER, night(NOW - 30 * DAY))
    spoil(pipeline.cloud, BROKEN, NOW - 5 * DAY, NOW)
    task = Task("archive", since=as_time(NOW - 40 * DAY), until=as_time(NOW))
    (outcome,) = await pipeline.run(task)
    assert "cannot all be read" in str(outcome.error)
    assert await sessions(pipeline) == {int(NOW - 30 * DAY)}


# --- answers that are cut to a number -----------------------------------------------------------------


@pytest.mark.parametrize("order", Order)
@pytest.mark.parametrize("limit", [Limit.HONOURED, Limit.IGNORED])
@pytest.mark.parametrize("ceiling", [5, 8])
async def test_an_answer_that_is_cut_without_a_word(  # noqa: PLR0917 - three of them are the case
    open_pipeline, manual_clock, night, order, limit, ceiling
):
    """A server that silently sends so many sessions at most is found out, in history and among changes."""
    behaviour = Behaviour(answer_ceiling=ceiling, order=order, range_order=order, limit=limit)
    pipeline = await opened(open_pipeline, manual_clock, behaviour=behaviour)
    for number in range(1, 41):
        pipeline.cloud.put(USER, night(NOW - number * 2 * DAY), updated=NOW - number * 2 * DAY + 700)
    await pipeline.once()
    await pipeline.assert_truth()
    for number in range(1, 13):
        pipeline.cloud._clock.now += 1
        pipeline.cloud.put(USER, night(NOW - number * 2 * DAY - DAY))
    for _ in range(2):
        pipeline.cloud._clock.now += 60
        await pipeline.once()
    await pipeline.assert_truth()
    caps = await pipeline.fetch("SELECT value::int FROM sync.knowledge WHERE name = 'sessions.cap'")
    assert caps == [{"value": ceiling}]


@pytest.mark.parametrize("order", Order)
async def test_nights_that_lie_close_together_do_not_hide_a_cut(open_pipeline, manual_clock, night, order):
    """A night a day, of which the server sends five: both pieces of a question hold fewer than all of it."""
    behaviour = Behaviour(answer_ceiling=5, order=order, range_order=order)
    pipeline = await opened(open_pipeline, manual_clock, behaviour=behaviour)
    for number in range(1, 8):
        pipeline.cloud.put(USER, night(NOW - number * DAY), updated=NOW - (20 - number) * DAY)
    await pipeline.once()
    await pipeline.assert_truth()


async def test_a_month_as_long_as_the_cap_by_chance(open_pipeline, manual_clock, night):
    """One answer that is whole does not prove that longer ones would be: two more have to be as well."""
    pipeline = await opened(open_pipeline, manual_clock, behaviour=Behaviour(answer_ceiling=8))
    starts = [NOW - (number + 1) * DAY for number in range(8)]
    starts += [NOW - (60 + number) * DAY for number in range(20)]
    for start in starts:
        pipeline.cloud.put(USER, night(start), updated=start + 700)
    await pipeline.once()
    await pipeline.assert_truth()


@pytest.mark.parametrize("apart", [DAY, HOUR], ids=["days", "hours"])
async def test_a_week_of_nights_costs_two_questions_more(open_pipeline, manual_clock, night, apart):
    """Compared with fewer nights, which are believed, however close they lie; none is stored again."""
    few, week = USER, USER + 1
    tokens = {user: f"token-of-{user}" for user in (few, week)}
    pipeline = await open_pipeline(None, tokens=tokens, clock=manual_clock(NOW))
    pipeline.clock = pipeline.cloud._clock
    for user, count in ((few, SMALL - 1), (week, 7)):
        for number in range(1, count + 1):
            start = NOW - 20 * DAY - number * apart
            pipeline.cloud.put(user, night(start), updated=start + 700)
    await pipeline.once()
    await pipeline.assert_truth()
    runs = await pipeline.fetch("SELECT requests::int, unchanged::int FROM sync.runs ORDER BY requests")
    assert [run["unchanged"] for run in runs] == [0, 0]
    assert runs[1]["requests"] - runs[0]["requests"] == 2


async def test_the_lengths_of_answers_are_doubted_a_few_times_only(open_pipeline, manual_clock, night):
    """Three years of a night a day cost a few questions more than there are windows, and later runs none."""
    pipeline = await opened(open_pipeline, manual_clock)
    for number in range(1, 1000):
        pipeline.cloud.put(USER, night(NOW - number * DAY), updated=NOW - number * DAY + 601)
    await pipeline.once()
    windows = 1000 / 30 + 10
    assert len(pipeline.cloud.requests) < windows + 20
    pipeline.cloud.forget_requests()
    await pipeline.once()
    assert len(pipeline.cloud.requests) == 1


# --- what is too much for the server ------------------------------------------------------------------


async def test_a_run_remembers_what_was_too_much(open_pipeline, manual_clock, night):
    """A year that can only be read in small windows runs into the server's limits a few times."""
    behaviour = Behaviour(overload_above=9, overload_seconds=0)
    pipeline = await opened(open_pipeline, manual_clock, behaviour=behaviour)
    for number in range(1, 366):
        pipeline.cloud.put(USER, night(NOW - number * DAY), updated=NOW - number * DAY + 700)
    await pipeline.once()
    assert sum(request.status == 504 for request in pipeline.cloud.requests) <= 8
    await pipeline.assert_truth()


# --- nights from the future ---------------------------------------------------------------------------


async def test_nights_from_the_future_are_a_wish(open_pipeline, manual_clock, night):
    """A server that refuses the question costs nobody a night: one complaint, and it is not asked again."""
    pipeline = await opened(open_pipeline, manual_clock)
    pipeline.cloud.put(USER, night(NOW - 10 * DAY), updated=NOW - 9 * DAY)
    cloud, asked = pipeline.cloud, []

    async def refuse(request, user_id):
        end = float(request.query.get("end_timestamp", "0"))
        asked.append(end)
        if end > NOW + 100 * DAY:
            return whole(b'{"error": "bad_request", "description": "end_timestamp"}', status=400)
        return await BedditCloud._sessions(cloud, request, user_id)

    cloud._sessions = refuse
    (outcome,) = await pipeline.run(Task("once"))
    assert "Nights from the future" in str(outcome.error)
    assert max(asked) == 2**32 - 1
    await pipeline.assert_truth()
    assert await pipeline.value(GAPS) == 0
    await pipeline.once()


async def test_nights_from_the_future_are_asked_for_from_the_first_day_on(open_pipeline, manual_clock, night):
    """If the question fails at first, days that have come since are still part of it."""
    pipeline = await opened(open_pipeline, manual_clock)
    pipeline.cloud.put(USER, night(NOW + 2 * DAY), updated=NOW - DAY)
    spoil(pipeline.cloud, BROKEN, NOW + 50 * DAY, NOW - DAY)
    (outcome,) = await pipeline.run(Task("once"))
    assert "Nights from the future" in str(outcome.error)
    mend(pipeline.cloud, night(NOW + 50 * DAY), NOW - DAY)
    pipeline.cloud._clock.now += 20 * DAY
    pipeline.cloud.put(USER, night(NOW))
    await pipeline.once()
    await pipeline.assert_truth()


# --- clocks -------------------------------------------------------------------------------------------


async def test_a_cursor_from_the_future_is_set_back(open_pipeline, manual_clock, night):
    """When the server's clock was a month ahead at first contact, what is put in that month arrives."""
    pipeline = await opened(open_pipeline, manual_clock)
    pipeline.cloud.put(USER, night(NOW - 10 * DAY), updated=NOW - 9 * DAY)
    pipeline.cloud.fail_next(Fault(clock_skew=30 * DAY), times=100)
    await pipeline.once()
    pipeline.cloud.faults.clear()
    for _ in range(3):
        pipeline.cloud._clock.now += HOUR
        pipeline.cloud.put(USER, night(float(int(pipeline.cloud._clock.now))))
        await pipeline.once()
        await pipeline.assert_truth()
    cursor = json.loads(await pipeline.value("SELECT cursor FROM sync.streams"))
    assert cursor["updated_after"] <= pipeline.cloud._clock.now
    coverage = await pipeline.value("SELECT max(upper(r)) FROM sync.streams, unnest(coverage) r")
    assert coverage <= datetime.fromtimestamp(pipeline.cloud._clock.now, UTC)


# --- sessions that cannot be understood ---------------------------------------------------------------


@pytest.mark.parametrize(
    "text", [b'{"id": %d, "start_timestamp": null}', b'{"id": %d, "hardware": }'], ids=["no-start", "no-json"]
)
async def test_a_session_that_was_mended_without_a_stamp(open_pipeline, manual_clock, night, text):
    """A rejected session is listed again after an hour, a day, a week and a month, and then no more."""
    pipeline = await opened(open_pipeline, manual_clock)
    start = float(int(NOW - 20 * DAY))
    stamp = NOW - 19 * DAY
    hold = Record(USER, None, start, start + 600, stamp, None, lambda: (text % int(start), b""))
    pipeline.cloud._records[USER] = {"held": hold}
    await pipeline.once()
    asked = []
    for wait in (HOUR, DAY, 7 * DAY, 30 * DAY, 60 * DAY, 60 * DAY):
        for moment in (wait - 60, 120):
            pipeline.cloud._clock.now += moment
            pipeline.cloud.forget_requests()
            await pipeline.once()
            queries = [r.query for r in pipeline.cloud.requests]
            asked.append(any(q.get("start_timestamp") == f"{start - 1:.6f}" for q in queries))
    assert asked == [False, True] * 4 + [False, False] * 2

    await pipeline.backfill(reload=True)
    mend(pipeline.cloud, night(start), stamp)
    pipeline.cloud._clock.now += 2 * HOUR
    await pipeline.once()
    await pipeline.assert_truth()
    assert await pipeline.value("SELECT count(*) FROM sync.rejects WHERE resolved_at IS NULL") == 0


async def test_a_page_of_sessions_that_cannot_be_understood(open_pipeline, manual_clock, night):
    """A page without any good session is not taken for the end of the changes."""
    pipeline = await opened(open_pipeline, manual_clock)
    pipeline.cloud.put(USER, night(NOW - 100 * DAY), updated=NOW - 90 * DAY)
    await pipeline.once()
    await pipeline.pool.execute(
        "INSERT INTO sync.knowledge (source, name, value) VALUES ('beddit', 'sessions.order', '\"updated\"')"
    )
    for number in range(40):
        pipeline.cloud._clock.now += 1
        if number < 12:
            pipeline.cloud.put_raw(USER, b'{"id": %d, "start_timestamp": "x"}' % number)
        else:
            pipeline.cloud.put(USER, night(NOW - (number + 1) * DAY))
    pipeline.cloud.behaviour = Behaviour(overload_above=25, overload_seconds=0)
    good = {USER: {key: one for key, one in pipeline.cloud.truth(USER).items() if key > 1000}}
    await pipeline.once()
    await pipeline.assert_truth(good)
