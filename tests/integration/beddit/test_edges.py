"""Rare turns at which data could be lost, and is not."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest

from sync.emulators.beddit import Behaviour, Fault, Overload, Record
from sync.errors import SourceContractError
from sync.model import Task

NOW = 1_711_000_000.5
DAY = 86_400.0
USER = 1001
TOKENS = {USER: "token-of-the-only-user"}
FRAMES = 3000
BLOB = np.arange(FRAMES * 2, dtype="<u2").tobytes()
DECLARED = {"normal": {"samples_per_frame": 2, "data_type": "uint16"}}
BROKEN = b'{"id": 5, "hardware": "ends twice"}}'


async def opened(open_pipeline, manual_clock, **options):
    """A pipeline for one user whose clock and whose cloud's clock stand still."""
    pipeline = await open_pipeline(None, tokens=TOKENS, clock=manual_clock(NOW), **options)
    pipeline.clock = pipeline.cloud._clock
    return pipeline


def hold(cloud, text, *, start, updated):
    """Let the cloud hold any text beside its sessions, as if it were one that began at ``start``."""
    record = Record(USER, None, start, start + 600, updated, None, lambda: (text, b""))
    cloud._records[USER]["held"] = record


async def sessions(pipeline):
    """The ids that are stored."""
    return [row["session_id"] for row in await pipeline.fetch("SELECT session_id FROM beddit.sessions")]


# --- raw signal ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answer",
    [Fault(status=204), Fault(status=202), Fault(status=200, body=b""), Fault(status=200, body=b"x" * 20)],
)
async def test_an_answer_without_the_signal_wipes_nothing(open_pipeline, manual_clock, night, answer):
    """A whole raw signal is not replaced by a success that carries less than the session calls for."""
    pipeline = await opened(open_pipeline, manual_clock)
    pipeline.cloud.put(USER, night(NOW - DAY, sampled_tracks=DECLARED))
    pipeline.cloud.set_blob(USER, int(NOW - DAY), "normal", BLOB)
    await pipeline.once()
    pipeline.cloud._clock.now += 60
    pipeline.cloud.put(USER, night(NOW - DAY, level=70.0, sampled_tracks=DECLARED))
    pipeline.cloud.fail_next(answer, times=9, host="blob")
    await pipeline.once()
    await pipeline.assert_truth()
    (row,) = await pipeline.fetch("SELECT status, reason, next_attempt_at FROM beddit.sampled_tracks")
    assert row["status"] in {"pending", "unavailable"}
    assert row["reason"]
    pipeline.cloud.faults.clear()
    pipeline.cloud._clock.now = row["next_attempt_at"].timestamp() + 1
    await pipeline.once()
    assert await pipeline.value("SELECT status FROM beddit.sampled_tracks") == "complete"


async def test_an_address_is_used_for_its_own_version_alone(open_pipeline, manual_clock, night):
    """When an older version follows a newer one, its address does not stand for the newer one's."""
    pipeline = await opened(open_pipeline, manual_clock)
    cloud = pipeline.cloud
    old = {"normal": {"samples_per_frame": 2, "data_type": "uint16"}}
    cloud.put(USER, night(NOW - DAY, sampled_tracks=DECLARED))
    cloud.set_blob(USER, int(NOW - DAY), "normal", BLOB)
    cloud.put(
        USER, night(NOW - DAY - 1000, sampled_tracks=DECLARED)
    )  # lends its address to the older version
    cloud.set_blob(USER, int(NOW - DAY - 1000), "normal", BLOB[::-1])
    old["normal"]["data_url"] = cloud.signed_url(USER, int(NOW - DAY - 1000), "normal")
    stale = night(NOW - DAY, level=1.0, sampled_tracks=old) | {"updated": NOW - 9 * DAY}
    hold(cloud, json.dumps(stale).encode(), start=NOW - DAY, updated=NOW - 9 * DAY)
    await pipeline.once()
    stored = await pipeline.value(
        "SELECT array_agg(value ORDER BY index) FROM beddit.samples WHERE session_id = $1", int(NOW - DAY)
    )
    assert stored == np.frombuffer(BLOB, "<u2").astype(float).tolist()


async def test_a_session_is_listed_again_once_for_all_its_tracks(open_pipeline, manual_clock, night):
    """Two raw signals whose addresses were lost cost one question, not two."""
    pipeline = await opened(open_pipeline, manual_clock)
    tracks = {name: {"samples_per_frame": 2, "data_type": "uint16"} for name in ("normal", "noise")}
    pipeline.cloud.put(USER, night(NOW - DAY, sampled_tracks=tracks), updated=NOW - DAY + 700)
    for track in tracks:
        pipeline.cloud.set_blob(USER, int(NOW - DAY), track, BLOB)
    pipeline.cloud.fail_next(Fault(status=503), times=100, host="blob")
    await pipeline.once()
    pipeline.cloud.faults.clear()
    pipeline.cloud._clock.now += 3600
    pipeline.cloud.forget_requests()
    await pipeline.once()
    await pipeline.assert_truth()
    assert len(pipeline.cloud.requests_to("api")) == 2  # the changes, and the session


async def test_a_declaration_that_changes_under_an_equal_stamp(open_pipeline, manual_clock, night):
    """The same bytes are read as what the session says now, even when no stamp moved."""
    pipeline = await opened(open_pipeline, manual_clock)
    pipeline.cloud.put(USER, night(NOW - DAY, sampled_tracks=DECLARED), updated=NOW - 60)
    pipeline.cloud.set_blob(USER, int(NOW - DAY), "normal", b"\xff" * len(BLOB))
    await pipeline.once()
    changed = {"normal": {"samples_per_frame": 2, "data_type": "int16"}}
    pipeline.cloud.put(USER, night(NOW - DAY, sampled_tracks=changed), updated=NOW - 60)
    await pipeline.backfill(reload=True)
    await pipeline.assert_truth()
    assert await pipeline.value("SELECT max(value) FROM beddit.samples") == -1.0


async def test_a_version_that_was_not_fetched_is_not_complete(open_pipeline, manual_clock, night):
    """While a newer version's signal cannot be had, the track does not claim to be complete."""
    pipeline = await opened(open_pipeline, manual_clock)
    pipeline.cloud.put(USER, night(NOW - DAY, sampled_tracks=DECLARED))
    pipeline.cloud.set_blob(USER, int(NOW - DAY), "normal", BLOB)
    await pipeline.once()
    pipeline.cloud._clock.now += 60
    pipeline.cloud.put(USER, night(NOW - DAY, length=1200.0, sampled_tracks=DECLARED))
    pipeline.cloud.remove_blob(USER, int(NOW - DAY), "normal")
    await pipeline.once()
    (row,) = await pipeline.fetch("SELECT status, sample_count, expected_count FROM beddit.sampled_tracks")
    assert (row["status"], row["sample_count"], row["expected_count"]) == ("unavailable", 6000, 12000)


async def test_patience_ends_by_the_clock_that_asked_for_it(open_pipeline, manual_clock, night):
    """A machine whose clock is hours behind PostgreSQL's does not hammer the blob's host."""
    pipeline = await opened(open_pipeline, manual_clock)  # a clock of 2024, hours and years behind
    pipeline.cloud.put(USER, night(NOW - DAY, sampled_tracks=DECLARED))
    pipeline.cloud.set_blob(USER, int(NOW - DAY), "normal", BLOB)
    pipeline.cloud.remove_blob(USER, int(NOW - DAY), "normal")
    await pipeline.once()
    attempts = await pipeline.value("SELECT attempts FROM beddit.sampled_tracks")
    await pipeline.once()
    assert await pipeline.value("SELECT attempts FROM beddit.sampled_tracks") == attempts == 1


# --- answers that break -------------------------------------------------------------------------------


async def test_a_broken_answer_costs_its_own_hours_and_not_the_account(open_pipeline, manual_clock, night):
    """One session that breaks its answer's JSON keeps no other from arriving; the gap shows, and heals."""
    pipeline = await opened(open_pipeline, manual_clock)
    nights = [NOW - number * 3 * DAY for number in range(1, 40)]
    for start in nights:
        pipeline.cloud.put(USER, night(start))
    broken = NOW - 50 * DAY
    good = night(broken)
    hold(pipeline.cloud, BROKEN, start=broken, updated=broken + 9)
    (outcome,) = await pipeline.run(Task("once"))
    assert isinstance(outcome.error, SourceContractError)
    assert "cannot all be read" in str(outcome.error)
    assert sorted(await sessions(pipeline)) == sorted(int(start) for start in nights)
    stream = (await pipeline.fetch("SELECT * FROM sync.streams"))[0]
    assert "cannot all be read" in stream["last_error"]
    gap = "SELECT count(*) FROM sync.streams, unnest(range_merge(coverage)::tstzmultirange - coverage)"
    assert await pipeline.value(gap) >= 1

    pipeline.cloud.remove(USER, "held")
    pipeline.cloud.put(USER, good, updated=broken + 10)
    await pipeline.once()
    assert int(broken) in await sessions(pipeline)
    assert await pipeline.value(gap) == 0


async def test_a_broken_session_among_the_changes(open_pipeline, manual_clock, night):
    """New nights arrive although one of them breaks every answer that it is part of."""
    pipeline = await opened(open_pipeline, manual_clock)
    pipeline.cloud.put(USER, night(NOW - 100 * DAY))
    await pipeline.once()
    for number in range(1, 6):
        pipeline.cloud._clock.now += 10
        pipeline.cloud.put(USER, night(NOW - number * 3 * DAY))
    pipeline.cloud._clock.now += 10
    hold(pipeline.cloud, BROKEN, start=NOW - 30 * DAY, updated=pipeline.cloud._clock.now)
    await pipeline.run(Task("once"))
    expected = [NOW - 100 * DAY, *(NOW - number * 3 * DAY for number in range(1, 6))]
    assert sorted(await sessions(pipeline)) == sorted(int(start) for start in expected)


@pytest.mark.parametrize(
    "trouble", [Fault(status=502), Fault(status=504), Fault(status=502, retry_after=0.0)]
)
async def test_a_moment_of_trouble_does_not_read_all_history_again(
    open_pipeline, manual_clock, night, trouble
):
    """After one bad answer the same question is asked again before it is believed to be too large."""
    pipeline = await opened(open_pipeline, manual_clock)
    for number in range(2, 30):
        pipeline.cloud.put(USER, night(NOW - number * 9 * DAY), updated=NOW - number * 8 * DAY)
    await pipeline.once()
    pipeline.cloud._clock.now += 60
    pipeline.cloud.put(USER, night(NOW - DAY))
    pipeline.cloud.forget_requests()
    pipeline.cloud.fail_next(trouble)
    (outcome,) = await pipeline.once()
    assert outcome.tally.read <= 10
    assert len(pipeline.cloud.requests) <= 3
    await pipeline.assert_truth()


async def test_an_outage_is_no_reason_to_read_all_history_again(open_pipeline, manual_clock, night):
    """A server that fails every question is away, not overloaded: the run fails and the cursor stays."""
    pipeline = await opened(open_pipeline, manual_clock)
    pipeline.cloud.put(USER, night(NOW - DAY))
    await pipeline.once()
    cursor = await pipeline.value("SELECT cursor FROM sync.streams")
    pipeline.cloud.fail_next(Fault(status=502), times=1000)
    (outcome,) = await pipeline.run(Task("once"))
    assert outcome.error is not None
    assert await pipeline.value("SELECT cursor FROM sync.streams") == cursor


async def test_an_answer_may_be_larger_than_any_single_body(open_pipeline, manual_clock, night):
    """Sessions are taken one by one, so that the length of their list is no limit."""
    pipeline = await opened(open_pipeline, manual_clock)
    pipeline.limits = replace(pipeline.limits, max_body_bytes=5000)
    for number in range(1, 30):
        pipeline.cloud.put(USER, night(NOW - number * DAY))
    await pipeline.once()
    await pipeline.assert_truth()


# --- clocks that err ----------------------------------------------------------------------------------


async def test_nights_from_the_future_arrive_even_when_history_is_read_in_pieces(
    open_pipeline, manual_clock, night
):
    """A night whose clock was a year ahead is asked for, however the reading of history was begun."""
    pipeline = await opened(open_pipeline, manual_clock)
    pipeline.cloud.put(USER, night(NOW + 400 * DAY), updated=NOW - 30 * DAY)
    pipeline.cloud.put(USER, night(NOW - 300 * DAY), updated=NOW - 300 * DAY + 700)
    await pipeline.backfill(until=datetime(2020, 1, 1, tzinfo=UTC))
    pipeline.cloud._clock.now += DAY
    pipeline.cloud.put(USER, night(NOW))
    await pipeline.once()
    await pipeline.backfill()
    await pipeline.assert_truth()


async def test_a_walk_reads_what_a_clock_without_time_put_into_1970(open_pipeline, manual_clock, night):
    """All history means all: a change to a night of 1970 is not jumped over by the cursor."""
    pipeline = await opened(open_pipeline, manual_clock, behaviour=Behaviour(limit="refused"))
    pipeline.cloud.put(USER, night(NOW - DAY))
    await pipeline.once()
    pipeline.cloud._clock.now += 60
    pipeline.cloud.put(USER, night(12_345.5))
    for number in range(2, 12):
        pipeline.cloud.put(USER, night(NOW - number * 40 * DAY))
    pipeline.cloud.behaviour = Behaviour(
        limit="refused", overload_above=8, overload_seconds=0.0, overload=Overload.GATEWAY_TIMEOUT
    )
    await pipeline.once()
    await pipeline.assert_truth()


# --- rejects ------------------------------------------------------------------------------------------


async def test_a_session_that_is_served_as_it_is_stored_resolves_its_reject(
    open_pipeline, manual_clock, night
):
    """A session that was rejected once and then comes just as it is stored leaves no open reject."""
    pipeline = await opened(open_pipeline, manual_clock)
    updated = pipeline.cloud.put(USER, night(NOW - DAY), updated=NOW - 60)
    await pipeline.once()
    bad = b'{"id": %d, "start_timestamp": null}' % int(NOW - DAY)
    pipeline.cloud.put_raw(USER, bad, updated=NOW - 30)
    await pipeline.backfill(reload=True)
    open_rejects = "SELECT count(*) FROM sync.rejects WHERE resolved_at IS NULL"
    assert await pipeline.value(open_rejects) == 1
    pipeline.cloud.put(USER, night(NOW - DAY), updated=updated)
    await pipeline.backfill(reload=True)
    assert await pipeline.value(open_rejects) == 0


@pytest.mark.parametrize("order", [-1, 1])
async def test_a_version_that_falls_takes_its_rejects_with_it(open_pipeline, manual_clock, night, order):
    """An older version beside a newer one in an answer leaves no open reject, whatever their order."""
    pipeline = await opened(open_pipeline, manual_clock)
    older = night(NOW - DAY)
    older["time_value_tracks"]["heart_rate"]["items"].append(["x", 1])
    pipeline.cloud.put(USER, night(NOW - DAY), updated=NOW - 60)
    hold(
        pipeline.cloud,
        json.dumps(older | {"updated": NOW - 90}).encode(),
        start=NOW - DAY + order,
        updated=NOW - 90,
    )
    await pipeline.once()
    assert await pipeline.value("SELECT count(*) FROM sync.rejects WHERE resolved_at IS NULL") == 0
    await pipeline.assert_ledger()
