"""The record of runs, as people read it in SQL."""

from __future__ import annotations

import pytest

from sync.errors import StorageUnavailable
from sync.model import RunOutcome, StreamKey, Tally, Task, Traffic

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
    ("verdict", "error"), [("done", None), ("failed", "the vendor is away"), ("interrupted", None)]
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
        await store.ledger.failed(BOB, message)
    rows = await store.pool.fetch(
        "SELECT account, stream, cursor, coverage::text, last_error FROM sync.streams"
    )
    assert [tuple(row) for row in rows] == [("bob", "sessions", None, "{}", "second")]


async def test_a_server_that_is_away_is_told_as_such(store):
    """When the connection is gone the ledger says StorageUnavailable, not something of asyncpg's."""
    await store.pool.close()
    for call in (
        store.ledger.begin("beddit", "alice", Task("once")),
        store.ledger.failed(BOB, "x"),
        store.ledger.finish(store.run, outcome(), verdict="done", error=None),
        store.warehouse.stream(BOB),
        store.warehouse.knowledge("beddit"),
        store.warehouse.status(),
        store.commit(),
    ):
        with pytest.raises(StorageUnavailable):
            await call
