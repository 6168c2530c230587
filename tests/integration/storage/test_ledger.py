"""The record of runs, as people read it in SQL."""

from __future__ import annotations

import pytest

from sync.errors import LeaseLost, StorageUnavailable
from sync.model import RunOutcome, StreamKey, Tally, Task, Traffic
from sync.storage.ledger import PostgresLedger

BOB = StreamKey("beddit", "bob", "sessions")


def outcome(tally=Tally()):  # noqa: B008 - frozen
    """Return an outcome with some traffic."""
    return RunOutcome("beddit", "alice", tally, Traffic(7, 5_000_000_000))


async def test_an_open_run_is_running(store):
    """A run has a row from its beginning on."""
    (row,) = await store.fetch("SELECT * FROM sync.runs")
    assert row["run_id"] == store.run
    assert (row["source"], row["account"], row["task"]) == ("beddit", "alice", "once")
    assert (row["outcome"], row["finished_at"], row["error"]) == ("running", None, None)
    assert row["started_at"] is not None


async def test_each_run_has_its_own_row(store, night):
    """What a batch adds goes to its own run."""
    second = await store.ledger.begin("beddit", "bob", Task("backfill"))
    await store.commit(night(1))
    rows = await store.pool.fetch("SELECT run_id, account, task, stored FROM sync.runs ORDER BY run_id")
    assert [tuple(row) for row in rows] == [
        (store.run, "alice", "once", 1),
        (second, "bob", "backfill", 0),
    ]


@pytest.mark.parametrize(
    ("verdict", "error"),
    [("done", None), ("paused", None), ("failed", "the vendor is away"), ("interrupted", None)],
)
async def test_a_closed_run(store, night, verdict, error):
    """The end of a run keeps its tally, which its batches added up, and notes traffic and error."""
    await store.commit(night(1))
    await store.ledger.finish(store.run, outcome(Tally(read=99, stored=99)), verdict=verdict, error=error)
    (row,) = await store.fetch("SELECT * FROM sync.runs")
    assert (row["outcome"], row["error"], row["requests"], row["bytes"]) == (verdict, error, 7, 5_000_000_000)
    assert (row["read"], row["stored"]) == (1, 1)
    assert row["started_at"] <= row["finished_at"]


async def test_a_failure_is_noted_once_a_stream(store):
    """The last error of a stream stands in its row, even of one that was never read."""
    for message in ("first", "second"):
        await store.ledger.failed(store.run, BOB, message)
    rows = await store.pool.fetch(
        "SELECT account, stream, cursor, coverage::text, last_error FROM sync.streams"
    )
    assert [tuple(row) for row in rows] == [("bob", "sessions", None, "{}", "second")]


async def test_a_server_that_is_away_is_told_as_such(store):
    """When the connection is gone the ledger says StorageUnavailable, not something of asyncpg's."""
    await store.pool.close()
    for call in (
        store.ledger.begin("beddit", "alice", Task("once")),
        store.ledger.failed(store.run, BOB, "x"),
        store.ledger.finish(store.run, outcome(), verdict="done", error=None),
        store.warehouse.stream(BOB),
        store.warehouse.knowledge("beddit"),
        store.warehouse.status(),
        store.commit(),
    ):
        with pytest.raises(StorageUnavailable):
            await call


# --- the fence -------------------------------------------------------------------------------------


async def test_a_worker_begins_a_run_only_under_its_lease(store):
    """Without the account's lease no run is written; with it the run is that worker's."""
    mine = PostgresLedger(store.pool, 7)
    await store.pool.execute(
        "INSERT INTO sync.leases (source, account, worker_id) VALUES"
        " ('beddit', 'alice', 7), ('beddit', 'bob', 8), ('beddit', 'carl', NULL)"
    )
    for source, account in (
        ("beddit", "bob"),
        ("beddit", "carl"),
        ("beddit", "never seen"),
        ("bace", "alice"),
    ):
        with pytest.raises(LeaseLost, match=f"another process works on account {account} of {source} now"):
            await mine.begin(source, account, Task("once"))
    run = await mine.begin("beddit", "alice", Task("once"))
    rows = await store.pool.fetch("SELECT run_id, worker_id FROM sync.run_log ORDER BY run_id")
    assert [tuple(row) for row in rows] == [(store.run, None), (run, 7)]


async def test_a_run_is_ended_once(store):
    """What somebody else has said of a run's end stays; whoever comes late changes nothing, in no table."""
    await store.ledger.failed(store.run, BOB, "the last word")
    await store.ledger.finish(store.run, outcome(), verdict="lost", error="its process fell silent")
    before = await store.everything()
    await store.ledger.finish(store.run, outcome(), verdict="done", error=None)
    await store.ledger.failed(store.run, BOB, "too late")
    await store.ledger.failed(store.run, StreamKey("beddit", "carl", "sessions"), "too late")
    assert await store.everything() == before
