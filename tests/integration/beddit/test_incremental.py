"""Changes: new versions replace old ones, the cursor never passes what was read, accounts do not mix."""

from __future__ import annotations

import copy
import json
from dataclasses import replace

import pytest

from sync.emulators.beddit import Fault, answers
from sync.errors import AuthenticationError
from sync.model import Task
from sync.sources.beddit.cursor import as_time

NOW = 1_711_000_000.5
HOUR, DAY = 3_600.0, 86_400.0
USER = 1001
TOKENS = {USER: "token-of-the-only-user"}


async def opened(open_pipeline, manual_clock, **options):
    """A pipeline for one user; the cloud's clock and the client's stand still until told."""
    pipeline = await open_pipeline(None, tokens=TOKENS, clock=manual_clock(NOW), **options)
    pipeline.clock = manual_clock(NOW)
    return pipeline


async def cursor_of(pipeline, account="user1001"):
    """The cursor as the warehouse has it."""
    query = "SELECT cursor FROM sync.streams WHERE account = $1"
    return json.loads(await pipeline.value(query, account))


# --- versions --------------------------------------------------------------------------------------


async def test_a_smaller_version_leaves_nothing_stale(open_pipeline, manual_clock, night):
    """A newer version with fewer items and fewer tracks is all that remains."""
    pipeline = await opened(open_pipeline, manual_clock)
    tracks = {
        "heart_rate": {"value_data_type": "float32", "items": [[n, 50.0 + n] for n in range(100)]},
        "snoring_events": {"value_data_type": "float32", "items": [[30, 30], [60, 30]]},
    }
    pipeline.cloud.put(USER, night(NOW - DAY, time_value_tracks=tracks))
    await pipeline.once()
    pipeline.cloud._clock.now += 60
    fewer = {"heart_rate": {"value_data_type": "float32", "items": [[0, 51.0]]}}
    pipeline.cloud.put(USER, night(NOW - DAY, time_value_tracks=fewer))
    await pipeline.once()
    await pipeline.assert_truth()
    assert await pipeline.value("SELECT count(*) FROM beddit.track_arrays") == 1


async def test_an_older_version_changes_nothing(open_pipeline, manual_clock, night):
    """A server that gives an old version again (a stale replica) takes nothing back."""
    pipeline = await opened(open_pipeline, manual_clock)
    old = night(NOW - DAY, level=40.0, hardware="old")
    new = night(NOW - DAY, level=60.0)
    pipeline.cloud.put(USER, new, updated=NOW - 10)
    await pipeline.once()
    truth = {USER: pipeline.cloud.truth(USER)}
    pipeline.cloud.put(USER, old, updated=NOW - 1000)
    (outcome,) = await pipeline.backfill(reload=True)
    assert outcome.tally.superseded > 0
    assert outcome.tally.stored == 0
    await pipeline.assert_truth(truth)


async def test_an_equal_stamp_with_other_content_replaces(open_pipeline, manual_clock, night):
    """The stamp alone is not trusted: other content under the same stamp is stored."""
    pipeline = await opened(open_pipeline, manual_clock)
    pipeline.cloud.put(USER, night(NOW - DAY, level=40.0), updated=NOW - 10)
    await pipeline.once()
    pipeline.cloud.put(USER, night(NOW - DAY, level=41.0), updated=NOW - 10)
    await pipeline.backfill(reload=True)
    await pipeline.assert_truth()


async def test_a_session_that_is_listed_twice_is_a_duplicate(open_pipeline, manual_clock, night):
    """One answer that holds a session twice stores it once, and the ledger says so."""
    pipeline = await opened(open_pipeline, manual_clock)
    session = night(NOW - DAY)
    text = json.dumps({**session, "updated": NOW - 10}).encode()
    pipeline.cloud.put_raw(USER, b"%b, %b" % (text, text), updated=NOW - 10)
    (outcome,) = await pipeline.once()
    assert outcome.tally.duplicate > 0
    assert await pipeline.value("SELECT count(*) FROM beddit.sessions") == 1
    assert await pipeline.value("SELECT count(*) FROM beddit.track_values") == 4
    await pipeline.assert_ledger()


async def test_a_new_stamp_alone_moves_only_the_stamp(open_pipeline, manual_clock, night):
    """The same content put again writes no track; the session has the new stamp."""
    pipeline = await opened(open_pipeline, manual_clock)
    pipeline.cloud.put(USER, night(NOW - DAY), updated=NOW - 10)
    await pipeline.once()
    places = "SELECT ctid::text, xmin::text FROM beddit.track_arrays ORDER BY 1"
    before = await pipeline.fetch(places)
    pipeline.cloud.put(USER, night(NOW - DAY), updated=NOW)
    await pipeline.once()
    assert await pipeline.fetch(places) == before
    await pipeline.assert_truth()


# --- the cursor ------------------------------------------------------------------------------------


async def test_a_backfill_never_moves_the_cursor(open_pipeline, manual_clock, night):
    """A session with a late stamp, met in a window, is no reason to skip changes that were not read."""
    pipeline = await opened(open_pipeline, manual_clock)
    pipeline.cloud.put(USER, night(NOW - DAY))
    await pipeline.once()
    before = await cursor_of(pipeline)
    pipeline.cloud._clock.now += 10 * DAY
    pipeline.cloud.put(USER, night(NOW - 400 * DAY))
    pipeline.cloud.put(USER, night(NOW + 5 * DAY), updated=NOW + 5 * DAY + 600)

    async def only_windows(request):
        if "updated_after" in request.query:
            pipeline.cloud.fail_next(Fault(status=403))

    pipeline.cloud.on_request = only_windows
    await pipeline.run(Task("backfill", until=as_time(NOW - DAY / 2), reload=True))
    assert await pipeline.value("SELECT count(*) FROM beddit.sessions") == 2
    assert await cursor_of(pipeline) == before
    pipeline.cloud.on_request = None
    await pipeline.once()
    await pipeline.assert_truth()


async def test_the_cursor_never_passes_the_servers_clock(open_pipeline, manual_clock, night):
    """A session stamped far in the future does not hide what is put after it."""
    pipeline = await opened(open_pipeline, manual_clock)
    pipeline.cloud.put(USER, night(NOW - DAY))
    await pipeline.once()
    pipeline.cloud.put(USER, night(NOW - 2 * DAY), updated=NOW + 300 * DAY)
    await pipeline.once()
    assert (await cursor_of(pipeline))["updated_after"] <= NOW
    for number in range(3, 6):
        pipeline.cloud._clock.now += 1
        pipeline.cloud.put(USER, night(NOW - number * DAY))
        await pipeline.once()
        await pipeline.assert_truth()


async def test_a_failed_pass_moves_nothing(open_pipeline, manual_clock, night):
    """After a pass that failed, the cursor and the last success are what they were."""
    pipeline = await opened(open_pipeline, manual_clock)
    pipeline.cloud.put(USER, night(NOW - DAY))
    await pipeline.once()
    query = "SELECT cursor, coverage, last_success_at FROM sync.streams"
    before = await pipeline.fetch(query)
    pipeline.cloud._clock.now += 60
    pipeline.cloud.put(USER, night(NOW - 2 * DAY))
    pipeline.cloud.fail_next(Fault(status=500), times=1000)
    (outcome,) = await pipeline.run(Task("once"))
    assert outcome.error is not None
    pipeline.cloud.faults.clear()
    assert await pipeline.fetch(query) == before
    assert await pipeline.value("SELECT outcome FROM sync.run_log ORDER BY run_id DESC LIMIT 1") == "failed"
    await pipeline.once()
    await pipeline.assert_truth()
    assert await pipeline.value("SELECT last_error FROM sync.streams") is None


@pytest.mark.parametrize(
    "skew", [0.0, 30 * HOUR, -30 * HOUR, -3000 * DAY], ids=["right", "ahead", "behind", "far"]
)
async def test_once_a_day_a_pass_looks_seven_days_back(open_pipeline, manual_clock, night, skew):
    """The daily sweep finds a session that got an old stamp, by our clock, however wrong the server's is."""
    pipeline = await opened(open_pipeline, manual_clock)
    pipeline.cloud._clock.now = server = NOW + skew
    pipeline.cloud.put(USER, night(server - 20 * DAY))
    await pipeline.once()
    pipeline.cloud.put(USER, night(server - 10 * DAY), updated=server - 6 * DAY)
    looked_back = []
    for _ in range(9):
        pipeline.clock.now += 3 * HOUR
        pipeline.cloud._clock.now += 3 * HOUR
        pipeline.cloud.forget_requests()
        await pipeline.once()
        (request,) = pipeline.cloud.requests
        looked_back.append(float(request.query["updated_after"]) < server - 6 * DAY)
    assert looked_back == [False] * 7 + [True] + [False]
    await pipeline.assert_truth()


@pytest.mark.parametrize("hours", [-14, -3, 3, 14])
async def test_a_server_whose_clock_is_wrong(open_pipeline, manual_clock, night, hours):
    """Changes are found by the server's stamps, whatever our own clock says."""
    pipeline = await opened(open_pipeline, manual_clock)
    pipeline.cloud._clock.now = NOW + hours * HOUR
    for number in range(1, 5):
        pipeline.cloud.put(USER, night(NOW - number * DAY))
        await pipeline.once()
        await pipeline.assert_truth()
        pipeline.cloud._clock.now += 60
        pipeline.clock.now += 60


@pytest.mark.parametrize("date", ["", "yesterday", "Thu, 32 Jan 2024 00:00:00 GMT"])
async def test_a_server_that_does_not_say_the_time(open_pipeline, manual_clock, night, monkeypatch, date):
    """Without a usable Date header our own clock serves, and nothing is missed."""
    monkeypatch.setattr(answers, "formatdate", lambda *_, **__: date)
    pipeline = await opened(open_pipeline, manual_clock)
    for number in range(1, 5):
        pipeline.cloud.put(USER, night(NOW - number * DAY))
        await pipeline.once()
        await pipeline.assert_truth()
        pipeline.cloud._clock.now += 60
        pipeline.clock.now += 60


# --- accounts --------------------------------------------------------------------------------------


async def test_a_revoked_token_stops_one_account_alone(open_pipeline, manual_clock, night):
    """The others complete; the error says what to do, stays in the warehouse, and a new token goes on."""
    tokens = {user: f"token-of-user-{user}" for user in (1, 2, 3)}
    pipeline = await open_pipeline(None, tokens=tokens, clock=manual_clock(NOW))
    for user in tokens:
        pipeline.cloud.put(user, night(NOW - DAY, level=40.0 + user))
    await pipeline.once()
    kept = {2: copy.deepcopy(pipeline.cloud.truth(2))}
    pipeline.cloud._clock.now += 60
    for user in tokens:
        pipeline.cloud.put(user, night(NOW - 2 * DAY, level=40.0 + user))
    pipeline.cloud.revoke(2)
    pipeline.cloud.forget_requests()
    first, second, third = await pipeline.run(Task("once"))
    assert (first.error, third.error) == (None, None)
    assert isinstance(second.error, AuthenticationError)
    assert len([r for r in pipeline.cloud.requests if "/user/2/" in r.path]) == 1
    truth = {1: pipeline.cloud.truth(1), 2: kept[2], 3: pipeline.cloud.truth(3)}
    await pipeline.assert_truth(truth)

    errors = await pipeline.fetch("SELECT account, last_error FROM sync.streams ORDER BY account")
    assert [row["account"] for row in errors if row["last_error"]] == ["user2"]
    for words in ("403", "expired", "correct beddit.accounts."):
        assert words in errors[1]["last_error"]
    assert tokens[2] not in errors[1]["last_error"]

    pipeline.cloud.set_token(2, "a-new-token-of-user-2")
    accounts = dict(pipeline.settings.accounts)
    accounts["user2"] = replace(accounts["user2"], token="a-new-token-of-user-2")
    pipeline.change(accounts=accounts)
    await pipeline.once()
    await pipeline.assert_truth()
    assert await pipeline.value("SELECT count(last_error) FROM sync.streams") == 0


async def test_a_token_that_expires_in_the_middle_of_history(open_pipeline, manual_clock, night):
    """What was read before is kept and the new token goes on behind it."""
    pipeline = await opened(open_pipeline, manual_clock)
    for number in range(1, 6):
        pipeline.cloud.put(USER, night(NOW - number * 40 * DAY))

    async def expire(_request):
        if len(pipeline.cloud.requests) == 5:
            pipeline.cloud.revoke(USER)

    pipeline.cloud.on_request = expire
    (outcome,) = await pipeline.run(Task("once"))
    assert isinstance(outcome.error, AuthenticationError)
    assert 0 < await pipeline.value("SELECT count(*) FROM beddit.sessions") < 5
    pipeline.cloud.on_request = None
    pipeline.cloud.set_token(USER, TOKENS[USER])
    await pipeline.once()
    await pipeline.assert_truth()
