"""One look at the warehouse: it says what the views say, reads nothing large, and knows an outage."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from sync.errors import StorageUnavailable
from sync.model import Difference, Interval, Progress, Reject, StreamKey, Survey, Update
from sync.sources.bace.tables import CHECK_KEY, SESSION_CHECKS
from sync.sources.beddit.tables import BLOB_MENTIONS
from sync.storage.survey import read_survey

HANG_S = 60
NOON = datetime(2024, 1, 1, 12, tzinfo=UTC)


def covered(*hours: tuple[int, int]) -> Progress:
    """Make progress over some hours."""
    spans = tuple(Interval(NOON + timedelta(hours=a), NOON + timedelta(hours=b)) for a, b in hours)
    return Progress(covered=spans)


async def test_an_empty_warehouse_is_a_survey_without_anything(store):
    """Where nothing was ever done, nothing is said and nothing fails."""
    assert await read_survey(store.pool) == Survey()


async def test_a_stream_says_how_far_it_is(store):
    """Success and lag by the database's clock, the last error, and the gaps in what was read."""
    bob = StreamKey("beddit", "bob", "sessions")
    await store.commit(progress=covered((0, 1), (2, 3), (5, 6)))
    await store.commit(stream=bob, progress=Progress(checked=True))
    await store.pool.execute(
        "UPDATE sync.stream_state SET last_success_at = now() - interval '1 hour' WHERE account = 'bob'"
    )
    await store.pool.execute("UPDATE sync.stream_state SET last_error = 'refused' WHERE account = 'alice'")

    alice, late = (await read_survey(store.pool)).streams
    assert (alice.key, alice.last_success_at, alice.lag) == (store.stream, None, None)
    assert (alice.last_error, alice.gaps, alice.gap_seconds) == ("refused", 2, 3 * 3600.0)
    assert (late.key, late.last_error, late.gaps, late.gap_seconds) == (bob, None, 0, 0.0)
    assert late.last_success_at == await store.pool.fetchval(
        "SELECT last_success_at FROM sync.streams WHERE account = 'bob'"
    )
    assert 3600 <= late.lag < 3600 + 300


async def test_sessions_are_counted_as_the_view_counts_them(store, data_session):
    """Each status of a data session, a proof of an older version included, is the view's."""
    records = [
        data_session(1, ended_at=None),
        data_session(2, is_ingestion_finished=False),
        data_session(3, is_ingestion_finished=None),
        *(data_session(n) for n in range(4, 9)),
    ]
    proofs = [("complete", 4, b"a"), ("incomplete", 5, b"a"), ("complete", 6, b"old"), ("open", 1, b"a")]
    updates = tuple(
        Update(
            SESSION_CHECKS,
            CHECK_KEY,
            {
                "id_data_session": records[session - 1].row["id_data_session"],
                "digest": digest,
                "status": status,
                "attempts": 1,
                "checked_at": NOON,
            },
        )
        for status, session, digest in proofs
    )
    await store.commit(*records, updates=updates)
    rows = await store.fetch("SELECT status, count(*) AS count FROM bace.data_sessions GROUP BY status")
    found = (await read_survey(store.pool)).data_sessions
    assert found == {row["status"]: row["count"] for row in rows}
    assert found == {"open": 3, "loading": 3, "complete": 1, "incomplete": 1}


async def test_raw_signals_and_open_rejects_are_counted(store, night, signal):
    """Raw signals by status, and only the rejects that are open."""
    declares = [("normal", "int16", 28), ("noise", "int8", 2)]
    named = {"user_id": 1001, "session_id": 2, "track": "normal"}
    await store.commit(
        night(1, declares=declares),
        night(2, declares=declares[:1]),
        signal(1, [1]),
        updates=(Update(BLOB_MENTIONS, tuple(named), named | {"updated": 1.0}),),
        rejects=[Reject("1001/1", f"1001/1/x/{n}", "not a number") for n in range(3)],
    )
    survey = await read_survey(store.pool)
    assert survey.sampled_tracks == {"absent": 1, "complete": 1, "pending": 1}
    assert survey.open_rejects == {"beddit": 3}

    await store.commit(night(1, updated=2.0, content="b"))
    assert (await read_survey(store.pool)).open_rejects == {}


async def test_open_differences_are_counted(store):
    """Those that a verification found, until they are mended."""
    found = tuple(Difference(key, "content", "it differs", NOON) for key in ("1001/1", "1001/2"))
    await store.commit(differences=found)
    assert (await read_survey(store.pool)).open_differences == {"beddit": 2}
    assert [row["count"] for row in (await store.warehouse.status()).differences] == [2]
    await store.commit(mended=("1001/1",))
    assert (await read_survey(store.pool)).open_differences == {"beddit": 1}
    await store.commit(mended=("1001/2",))
    assert (await read_survey(store.pool)).open_differences == {}
    assert (await store.warehouse.status()).differences == []


async def test_only_living_workers_are_counted(store):
    """A process that was silent for longer than its lease is none; a lease is one while it is held."""
    await store.pool.execute(
        """
        INSERT INTO sync.workers (command, host, pid, version, lease, heartbeat_at)
        VALUES ('run', 'a', 1, '1', '1 minute', now()),
               ('run', 'b', 2, '1', '1 minute', now() - interval '2 minutes')
        """
    )
    await store.pool.execute(
        "INSERT INTO sync.leases (source, account, worker_id) VALUES ('x', 'a', 1), ('x', 'b', NULL)"
    )
    survey = await read_survey(store.pool)
    assert (survey.workers, survey.leases) == (1, 1)


async def test_no_large_table_is_read(store, other):
    """Datapoints, samples and track values are not even looked at: a survey passes by their locks."""
    async with other.transaction(), asyncio.timeout(HANG_S):
        await other.execute("LOCK TABLE beddit.track_arrays, beddit.sample_chunks, bace.datapoint_rows")
        assert await read_survey(store.pool) == Survey()


async def test_a_database_that_ends_the_connection_is_an_outage(store, other, blocked):
    """A server that goes away under a survey is reported as the warehouse being away."""
    async with other.transaction(), asyncio.timeout(HANG_S):
        await other.execute("LOCK TABLE sync.leases")
        looking = asyncio.create_task(read_survey(store.pool))
        await other.execute("SELECT pg_terminate_backend($1)", await blocked())
        with pytest.raises(StorageUnavailable):
            await looking
