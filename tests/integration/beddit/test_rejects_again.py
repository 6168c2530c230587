"""Rejected items of nights are asked for again: ever more rarely, and at once on a person's word."""

from __future__ import annotations

from sync.model import Reject, Task
from sync.observe.logging import Redactor

NOW = 1_711_000_000.0
HOUR, DAY = 3_600.0, 86_400.0
USER = 1001
TOKENS = {USER: "token-of-the-only-user"}
START = int(NOW - 100 * DAY)
"""A night far behind whatever a pass looks back at."""
OPEN = "SELECT item_key, attempts FROM sync.rejects WHERE resolved_at IS NULL ORDER BY item_key"


def tracks(value):
    """One track, with one item that may be none."""
    return {"heart_rate": {"value_data_type": "float32", "items": [[30, 50.0], [60, value]]}}


async def with_a_bad_item(open_pipeline, manual_clock, night, **fields):
    """A pipeline that has read a night of which one item is no pair of numbers."""
    pipeline = await open_pipeline(None, tokens=TOKENS, clock=manual_clock(NOW))
    pipeline.clock = pipeline.cloud._clock
    bad = night(START, time_value_tracks=tracks("n/a"), **fields)
    pipeline.cloud.put(USER, bad, updated=START + 700)
    pipeline.cloud.put(USER, night(NOW - DAY), updated=NOW - DAY + 700)
    await pipeline.once()
    assert [row["item_key"] for row in await pipeline.fetch(OPEN)] == [f"1001/{START}/heart_rate[1]"]
    return pipeline


def questions(cloud, start):
    """How often a session was asked for by its own second."""
    return sum(float(request.query.get("start_timestamp", 0)) == start - 1 for request in cloud.requests)


async def rejects(pipeline):
    """The open rejects, as a person's word is about them."""
    rows = await pipeline.fetch("SELECT * FROM sync.reject_log WHERE resolved_at IS NULL ORDER BY item_key")
    return tuple(Reject(row["record_key"], row["item_key"], row["reason"]) for row in rows)


async def test_a_mended_item_is_fetched_without_a_new_stamp(open_pipeline, manual_clock, night):
    """An hour after the reject the night is listed again; what the vendor has mended resolves it."""
    pipeline = await with_a_bad_item(open_pipeline, manual_clock, night)
    mended = night(START, time_value_tracks=tracks(51.0))
    pipeline.cloud.put(USER, mended, updated=START + 700)
    await pipeline.run(Task("retry"))
    assert len(await pipeline.fetch(OPEN)) == 1, "it is not due yet"
    pipeline.clock.now += HOUR
    (outcome,) = await pipeline.run(Task("retry"))
    assert outcome.error is None
    assert await pipeline.fetch(OPEN) == []
    await pipeline.assert_truth()


async def test_it_is_asked_for_ever_more_rarely_and_not_for_ever(open_pipeline, manual_clock, night):
    """After an hour, a day, a week and a month; then the vendor is left in peace."""
    pipeline = await with_a_bad_item(open_pipeline, manual_clock, night)
    asked = []
    for day in (0, HOUR / DAY, 0.5, 1.1, 5, 9, 20, 40, 80, 160):
        pipeline.clock.now = NOW + day * DAY
        before = questions(pipeline.cloud, START)
        await pipeline.run(Task("retry"))
        asked.append(questions(pipeline.cloud, START) - before)
    assert asked == [0, 1, 0, 1, 0, 1, 0, 1, 0, 0]
    assert len(await pipeline.fetch(OPEN)) == 1


async def test_a_note_about_what_was_stored_is_no_reason_to_ask(open_pipeline, manual_clock, night):
    """An unknown time zone costs the vendor nothing: the night is there."""
    pipeline = await open_pipeline(None, tokens=TOKENS, clock=manual_clock(NOW))
    pipeline.clock = pipeline.cloud._clock
    pipeline.cloud.put(USER, night(START, timezone="Mars/Olympus"), updated=START + 700)
    await pipeline.once()
    assert len(await pipeline.fetch(OPEN)) == 1
    assert (await pipeline.value("SELECT cursor::jsonb -> 'spoilt' FROM sync.streams")) == "[]"


async def test_a_persons_word_is_followed_at_once(open_pipeline, manual_clock, night):
    """Due or not, and nothing else is asked for: one question."""
    pipeline = await with_a_bad_item(open_pipeline, manual_clock, night)
    pipeline.cloud.put(USER, night(START, time_value_tracks=tracks(51.0)), updated=START + 700)
    before = len(pipeline.cloud.requests)
    (outcome,) = await pipeline.run(Task("retry", rejects=await rejects(pipeline)))
    assert outcome.error is None
    assert len(pipeline.cloud.requests) == before + 1
    assert await pipeline.fetch(OPEN) == []
    pipeline.clock.now += DAY
    await pipeline.run(Task("retry"))
    assert questions(pipeline.cloud, START) == 1, "it is not due any more"
    await pipeline.assert_truth()


async def test_what_is_still_bad_stays_open_and_due(open_pipeline, manual_clock, night):
    """A person's word in vain changes nothing, and the next try comes by itself."""
    pipeline = await with_a_bad_item(open_pipeline, manual_clock, night)
    (outcome,) = await pipeline.run(Task("retry", rejects=await rejects(pipeline)))
    assert outcome.error is None
    assert len(await pipeline.fetch(OPEN)) == 1
    pipeline.clock.now += DAY
    await pipeline.run(Task("retry"))
    assert questions(pipeline.cloud, START) == 2


async def test_after_the_last_try_a_person_may_begin_anew(open_pipeline, manual_clock, night):
    """A night that is listed again no more is listed on a person's word, and then again by itself."""
    pipeline = await with_a_bad_item(open_pipeline, manual_clock, night)
    for day in (1, 10, 30, 100):
        pipeline.clock.now = NOW + day * DAY
        await pipeline.run(Task("retry"))
    assert questions(pipeline.cloud, START) == 4
    await pipeline.run(Task("retry", rejects=await rejects(pipeline)))
    pipeline.clock.now += HOUR
    await pipeline.run(Task("retry"))
    assert questions(pipeline.cloud, START) == 6


async def test_what_names_no_session_is_complained_about(open_pipeline, manual_clock, night):
    """What cannot be asked for is said, and the others are asked for all the same."""
    pipeline = await with_a_bad_item(open_pipeline, manual_clock, night)
    strange = ["1001/#0123456789abcdef", "1002/17", f"1001/{2**62}", "1001"]
    chosen = (*await rejects(pipeline), *(Reject(key, key, "odd") for key in strange))
    (outcome,) = await pipeline.run(Task("retry", rejects=chosen))
    assert "nightshift backfill --reload" in str(outcome.error)
    assert questions(pipeline.cloud, START) == 1


async def test_a_secret_that_the_cut_goes_through_is_not_kept(open_pipeline, manual_clock):
    """Wherever in a long text a secret stands, not even its beginning is in the reject."""
    secret = "".join(chr(ord("A") + n % 26) + str(n) for n in range(30))
    pipeline = await open_pipeline(None, tokens=TOKENS, clock=manual_clock(NOW))
    pipeline.clock = pipeline.cloud._clock
    pipeline.redact = Redactor([secret]).redact
    for number in range(60):
        padding = b"x" * (1900 + 2 * number)
        text = b'{"id": %d, "hardware": "%b%b tail"' % (START + number, padding, secret.encode())
        pipeline.cloud.put_raw(USER, text + b', "start_timestamp": "odd"}', updated=float(START))
    await pipeline.once()
    rows = await pipeline.fetch("SELECT payload::text AS payload FROM sync.rejects")
    assert len(rows) == 60
    assert [row for row in rows if secret[:8] in row["payload"]] == []
    assert all("xxxxxxxx" in row["payload"] for row in rows)


async def test_an_id_that_is_no_time_is_not_asked_for(open_pipeline, manual_clock, night):
    """A session of the year 146 billion is a reject, and breaks nothing when others are due."""
    pipeline = await open_pipeline(None, tokens=TOKENS, clock=manual_clock(NOW))
    pipeline.clock = pipeline.cloud._clock
    pipeline.cloud.put_raw(USER, b'{"id": %d, "start_timestamp": "odd"}' % (2**62), updated=float(START))
    await pipeline.once()
    pipeline.clock.now += DAY
    await pipeline.once()
    assert [row["item_key"] for row in await pipeline.fetch(OPEN)] == [f"1001/{2**62}"]
