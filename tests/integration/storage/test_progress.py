"""What a stream has proved: cursor, coverage and last success, and the hints beside them."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from sync.model import Interval, Progress, StreamKey, StreamState, Tally

ALICE = StreamKey("beddit", "alice", "sessions")
BOB = StreamKey("beddit", "bob", "sessions")


def day(number, until=None):
    """Return days of January 2024, the second one not included."""
    return Interval(datetime(2024, 1, number, tzinfo=UTC), datetime(2024, 1, until or number + 1, tzinfo=UTC))


async def test_a_stream_never_seen_is_empty(store):
    """Nothing is known of a stream before its first batch."""
    assert await store.warehouse.stream(ALICE) == StreamState(None, ())


async def test_the_first_cursor_is_set_and_then_moved(store):
    """A cursor comes back as it was stored; one that is None leaves the stored one alone."""
    first = {"updated_after": 1431835725.1234567, "walk_to": None, "reads_history": True}
    await store.commit(progress=Progress(cursor=first))
    assert (await store.warehouse.stream(ALICE)).cursor == first
    await store.commit(progress=Progress(checked=True))
    assert (await store.warehouse.stream(ALICE)).cursor == first
    second = first | {"updated_after": 1431835726.0}
    await store.commit(progress=Progress(cursor=second, cursor_was=first))
    assert (await store.warehouse.stream(ALICE)).cursor == second
    assert (await store.warehouse.stream(BOB)).cursor is None


@pytest.mark.parametrize("known", [None, {"at": 1}, {"at": 3, "more": 1}])
async def test_a_cursor_that_somebody_else_moved_is_not_overwritten(store, night, known):
    """The stale cursor is dropped; the batch's rows and coverage are stored all the same."""
    await store.commit(progress=Progress(cursor={"at": 3}))
    await store.commit(night(1), progress=Progress(cursor={"at": 2}, cursor_was=known, covered=(day(1),)))
    assert await store.warehouse.stream(ALICE) == StreamState({"at": 3}, (day(1),))
    assert await store.values("SELECT count(*) FROM beddit.sessions") == [1]


async def test_a_cursor_that_was_deleted_is_not_brought_back(store):
    """When a person deletes a stream's row to have it read anew, running work does not restore its cursor."""
    await store.commit(progress=Progress(cursor={"at": 1}))
    await store.pool.execute("DELETE FROM sync.stream_state")
    await store.commit(progress=Progress(cursor={"at": 2}, cursor_was={"at": 1}))
    assert (await store.warehouse.stream(ALICE)).cursor is None


async def test_of_two_that_move_the_same_cursor_one_wins(store):
    """Two processes that began at the same cursor: exactly one moves it, however they meet."""
    await store.commit(progress=Progress(cursor={"at": 0}))
    at = 0
    for turn in range(30):
        steps = [2 * turn + 1, 2 * turn + 2]
        await asyncio.gather(
            *(store.commit(progress=Progress(cursor={"at": to}, cursor_was={"at": at})) for to in steps)
        )
        at = (await store.warehouse.stream(ALICE)).cursor["at"]
        assert at in steps


async def test_coverage_is_a_union(store):
    """Covered stretches add up, touching and overlapping ones become one, and gaps stay."""
    for covered in [(day(1),), (day(5), day(9, 12)), (day(2, 4), day(10, 11)), (day(4),)]:
        await store.commit(progress=Progress(covered=covered))
    assert (await store.warehouse.stream(ALICE)).coverage == (day(1, 6), day(9, 12))
    assert (await store.warehouse.stream(BOB)).coverage == ()


async def test_uncovered_is_taken_away_before_covered_is_added(store):
    """What shall be read again is a gap, except where the same batch covers it."""
    await store.commit(progress=Progress(covered=(day(1, 20),)))
    await store.commit(progress=Progress(uncovered=(day(5, 15),), covered=(day(10),)))
    assert (await store.warehouse.stream(ALICE)).coverage == (day(1, 5), day(10), day(15, 20))


async def test_taking_coverage_away_from_a_new_stream(store):
    """The first batch of a stream may take back what nobody covered."""
    await store.commit(progress=Progress(uncovered=(day(1, 20),), covered=(day(3),)))
    assert (await store.warehouse.stream(ALICE)).coverage == (day(3),)


async def test_side_by_side_windows_all_count(store):
    """Coverage that several processes prove at once is all there."""
    await asyncio.gather(*(store.commit(progress=Progress(covered=(day(n),))) for n in range(1, 21)))
    assert (await store.warehouse.stream(ALICE)).coverage == (day(1, 21),)


async def test_gaps_are_visible_in_sql(store):
    """A gap in what was read can be asked for in plain SQL."""
    await store.commit(progress=Progress(covered=(day(1), day(3, 5), day(9))))
    gaps = await store.values(
        "SELECT unnest(range_merge(coverage)::tstzmultirange - coverage)::text FROM sync.streams"
    )
    assert gaps == [
        '["2024-01-02 00:00:00+00","2024-01-03 00:00:00+00")',
        '["2024-01-05 00:00:00+00","2024-01-09 00:00:00+00")',
    ]


async def test_a_successful_check_clears_the_error(store):
    """``checked`` sets the time of success and clears the error; other progress does neither."""
    await store.ledger.failed(store.run, ALICE, "the vendor is away")
    await store.commit(progress=Progress(covered=(day(1),)))
    query = "SELECT last_error, last_success_at, lag FROM sync.streams"
    assert [tuple(row.values()) for row in await store.fetch(query)] == [("the vendor is away", None, None)]
    before = (await store.values("SELECT clock_timestamp()"))[0]
    await store.commit(progress=Progress(checked=True))
    after = (await store.values("SELECT clock_timestamp()"))[0]
    (row,) = await store.fetch(query)
    assert row["last_error"] is None
    assert before <= row["last_success_at"] <= after
    await store.ledger.failed(store.run, ALICE, "away again")
    (later,) = await store.fetch(query)
    assert (later["last_error"], later["last_success_at"]) == ("away again", row["last_success_at"])
    await store.commit(progress=Progress(checked=True, owing=True))
    (owing,) = await store.fetch(query)
    assert owing["last_error"] == "away again"  # of what is older, and still not read
    assert owing["last_success_at"] > row["last_success_at"]


async def test_lag_is_the_time_since_the_last_success(store):
    """The lag grows from the last successful check."""
    await store.commit(progress=Progress(checked=True))
    await store.pool.execute("UPDATE sync.stream_state SET last_success_at = now() - interval '90 minutes'")
    (lag,) = await store.values("SELECT lag FROM sync.streams")
    assert timedelta(minutes=90) <= lag < timedelta(minutes=95)


async def test_knowledge_is_the_last_that_was_learned(store):
    """Hints are kept by source and name; a later one replaces an earlier one and is dated."""
    await store.commit(learned={"order": "updated", "limits": {"page": [1, None, 2.5]}})
    (first,) = await store.values("SELECT learned_at FROM sync.knowledge WHERE name = 'order'")
    await store.commit(learned={"order": "start"}, stream=BOB)
    assert await store.warehouse.knowledge("beddit") == {"order": "start", "limits": {"page": [1, None, 2.5]}}
    assert await store.warehouse.knowledge("bace") == {}
    (second,) = await store.values("SELECT learned_at FROM sync.knowledge WHERE name = 'order'")
    assert second > first


async def test_a_batch_without_progress_moves_nothing(store, night):
    """Rows alone leave no trace in the streams."""
    await store.commit(night(1))
    assert await store.values("SELECT stream FROM sync.streams") == []


async def test_a_batch_of_nothing_is_fine(store):
    """An empty batch is committed and changes nothing."""
    before = await store.everything()
    assert await store.commit() == Tally()
    assert await store.everything() == before
