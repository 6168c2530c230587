"""One batch, one transaction: which version stays, what becomes of each item, and nothing in between."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID

import asyncpg
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sync.errors import LeaseLost, StorageUnavailable
from sync.model import Batch, Interval, PgType, Progress, Reject, Rows, StreamKey, Table, Tally, Update
from sync.sources.beddit.tables import BLOB_ATTEMPTS, TRACK_ARRAYS, TRACK_DECLARATIONS
from sync.storage import sink
from sync.storage.sink import PostgresSink

DETAILS = ("beddit.track_arrays", "beddit.track_declarations")
DAY = Interval(datetime(2024, 1, 1, tzinfo=UTC), datetime(2024, 1, 2, tzinfo=UTC))


def attempt(session_id=1, **columns):
    """Return an update of a blob's attempts."""
    row = {
        "user_id": 1001,
        "session_id": session_id,
        "track": "normal",
        "attempts": 1,
        "status": "pending",
        "tried_at": DAY.start,
    }
    return Update(BLOB_ATTEMPTS, ("user_id", "session_id", "track"), row | columns)


def everything(night):
    """Return a batch's parts that write to every table there is, details of several pieces included."""
    bulk = {"heart_rate": np.arange(400_000.0), "respiration": [1.0]}
    return {
        "records": (night(1, tracks=bulk, declares=[("normal", "int16", 28)]), night(2)),
        "updates": (attempt(),),
        "rejects": (Reject("1001/1", "1001/1/hr/5", "not a number", {"item": "x"}),),
        "progress": Progress(cursor={"after": 5}, covered=(DAY,), checked=True),
        "learned": {"order": "updated"},
    }


async def commit(store, parts):
    """Commit such a batch."""
    rest = dict(parts)
    return await store.commit(*rest.pop("records"), **rest)


# --- all or nothing --------------------------------------------------------------------------------


async def test_a_batch_is_stored_with_all_its_parts(store, night):
    """Rows, updates, rejects, progress, hints and the run's tally are there together."""
    tally = await commit(store, everything(night))
    assert tally == Tally(read=400_004, stored=400_003, rejected=1)
    counts = {name: len(rows) for name, rows in (await store.everything()).items() if rows}
    counts.pop("sync.alembic_version")
    assert counts == {
        "beddit.session_records": 2,
        "beddit.track_arrays": 2,
        "beddit.track_declarations": 1,
        "beddit.blob_attempts": 1,
        "sync.reject_log": 1,
        "sync.stream_state": 1,
        "sync.knowledge": 1,
        "sync.run_log": 1,
    }


def _null_in_an_array_column(parts, night):
    cells = ([1], [1001], ["bad"], [None], [None], [None], [np.zeros(1)], [None], [np.zeros(1)])
    return _with_detail(parts, Rows(TRACK_ARRAYS, cells))


def _broken_json(parts, night):
    return _with_detail(parts, Rows(TRACK_DECLARATIONS, ([1], [1001], ["t"], [None], [1], ["{"])))


def _with_detail(parts, rows):
    first, *rest = parts["records"]
    return parts | {"records": (replace(first, details=(*first.details, rows)), *rest)}


def _value_that_does_not_encode(parts, night):
    cells = ([1], [1001], ["bad"], [None], ["28"], [None])
    return _with_detail(parts, Rows(TRACK_DECLARATIONS, cells))


def _number_too_large(parts, night):
    return parts | {"records": (*parts["records"], night(3, error_code=2**31))}


def _null_in_an_update(parts, night):
    return parts | {"updates": (attempt(1), attempt(2, status=None))}


def _no_reason(parts, night):
    return parts | {"rejects": (*parts["rejects"], Reject("1001/2", "1001/2", None))}


def _empty_hint(parts, night):
    return parts | {"learned": {"order": "updated", "bad": None}}


@pytest.mark.parametrize(
    ("spoil", "error"),
    [
        (_null_in_an_array_column, asyncpg.NotNullViolationError),
        (_broken_json, asyncpg.InvalidTextRepresentationError),
        (_value_that_does_not_encode, ValueError),
        (_number_too_large, asyncpg.DataError),
        (_null_in_an_update, asyncpg.NotNullViolationError),
        (_no_reason, asyncpg.NotNullViolationError),
        (_empty_hint, asyncpg.NotNullViolationError),
    ],
)
async def test_a_value_that_is_refused_leaves_nothing(store, night, spoil, error):
    """A defect anywhere in a batch surfaces as what it is, and the warehouse is as before."""
    await store.commit(night(1, 0.5, "old", {"heart_rate": [7.0]}))
    before = await store.everything()
    with pytest.raises(error):
        await commit(store, spoil(everything(night), night))
    assert await store.everything() == before
    await commit(store, everything(night))
    assert await store.values("SELECT hardware FROM beddit.sessions ORDER BY session_id") == ["a", "a"]


@pytest.mark.parametrize(
    "table",
    [
        "beddit.session_records",
        "beddit.track_arrays",
        "beddit.blob_attempts",
        "sync.reject_log",
        "sync.stream_state",
        "sync.knowledge",
        "sync.run_log",
    ],
)
async def test_a_killed_back_end_leaves_nothing(store, night, other, blocked, table):
    """Wherever the server ends the connection, nothing of the batch stays; later the same batch fits."""
    await store.commit(night(1, 0.5, "old", {"heart_rate": [7.0]}))
    before = await store.everything()
    lock = other.transaction()
    await lock.start()
    await other.execute(f"LOCK TABLE {table} IN EXCLUSIVE MODE")
    task = asyncio.create_task(commit(store, everything(night)))
    assert await other.fetchval("SELECT pg_terminate_backend($1)", await blocked())
    with pytest.raises(StorageUnavailable):
        await task
    await lock.rollback()
    assert await store.everything() == before
    assert (await commit(store, everything(night))).stored == 400_003


async def test_a_cancelled_commit_leaves_nothing(store, night, other, blocked):
    """A stop in the middle of a batch is as if it had never begun."""
    before = await store.everything()
    lock = other.transaction()
    await lock.start()
    await other.execute("LOCK TABLE sync.run_log IN EXCLUSIVE MODE")
    task = asyncio.create_task(commit(store, everything(night)))
    await blocked()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await lock.rollback()
    assert await store.everything() == before


# --- newer wins ------------------------------------------------------------------------------------

OLD, NEW = [1.0, 2.0, 3.0], [9.0]


@pytest.mark.parametrize(
    ("stored", "offered", "verdict"),
    [
        ((5.0, "a"), (6.0, "b"), "stored"),
        ((5.0, "a"), (5.0, "b"), "stored"),
        ((5.0, "a"), (5.0, "a"), "unchanged"),
        ((5.0, "a"), (4.0, "b"), "superseded"),
        ((5.0, "a"), (4.0, "a"), "superseded"),
        ((5.0, "a"), (None, "b"), "superseded"),
        ((None, "a"), (5.0, "b"), "stored"),
        ((None, "a"), (None, "b"), "stored"),
        ((None, "a"), (None, "a"), "unchanged"),
        ((None, "a"), (-1e308, "b"), "stored"),
    ],
)
async def test_newer_wins(store, night, stored, offered, verdict):
    """Newer replaces, equal with other content too, equal is left alone, older is refused; none is oldest."""
    await store.commit(night(1, *stored, {"x": OLD}))
    before = await store.everything()
    record = night(1, *offered, {"x": NEW})
    assert await store.commit(record) == Tally(read=2, **{verdict: 2})
    replaced = verdict == "stored"
    assert await store.points() == [("x", NEW if replaced else OLD)]
    (row,) = await store.fetch("SELECT updated, hardware FROM beddit.sessions")
    assert tuple(row.values()) == (offered if replaced else stored)
    if not replaced:
        after = await store.everything()
        assert {k: v for k, v in after.items() if k != "sync.run_log"} == {
            k: v for k, v in before.items() if k != "sync.run_log"
        }


@pytest.mark.parametrize("stamp", [5.0, None])
async def test_equal_content_with_a_newer_stamp_touches_no_detail(store, night, stamp):
    """Only the record's own row takes the new stamp; not one detail row is written again."""
    declares = [("normal", "int16", 28)]
    await store.commit(night(1, stamp, "a", {"x": OLD}, declares))
    before = await store.physical(*DETAILS)
    assert len(before) == 2
    assert await store.commit(night(1, 6.0, "a", {"x": OLD}, declares)) == Tally(read=4, stored=4)
    assert await store.physical(*DETAILS) == before
    assert await store.values("SELECT updated FROM beddit.sessions") == [6.0]


async def test_an_unchanged_version_writes_no_data_row(store, night):
    """The same version again leaves even the record's own row as it lies."""
    tables = ("beddit.session_records", *DETAILS)
    record = night(1, 5.0, "a", {"x": OLD}, [("normal", "int16", 28)])
    await store.commit(record)
    before = await store.physical(*tables)
    await store.commit(record)
    assert await store.physical(*tables) == before


async def test_a_newer_version_leaves_nothing_stale(store, night):
    """What the newer version no longer has is gone, in every owned table; a neighbour keeps its own."""
    declares = [("normal", "int16", 28), ("b", "int8", 1)]
    for session_id in (1, 2):
        await store.commit(night(session_id, 1.0, "a", {"x": OLD, "y": OLD}, declares))
    await store.commit(night(1, 2.0, "b", {"y": NEW}, [("b", "int8", 1)]))
    assert await store.points(1) == [("y", NEW)]
    assert await store.values("SELECT track FROM beddit.sampled_tracks WHERE session_id = 1") == ["b"]
    await store.commit(night(1, 3.0, "c"))
    assert await store.points(1) == []
    assert await store.values("SELECT track FROM beddit.sampled_tracks WHERE session_id = 1") == []
    assert await store.points(2) == [("x", OLD), ("y", OLD)]
    assert await store.values("SELECT count(*) FROM beddit.sampled_tracks WHERE session_id = 2") == [2]


async def test_the_same_session_id_of_another_user_is_another_night(store, night):
    """Replacing one user's night leaves the other's details alone."""
    await store.commit(night(1, 1.0, "a", {"x": OLD}), night(1, 1.0, "a", {"x": OLD}, user=2))
    await store.commit(night(1, 2.0, "b", {"x": NEW}))
    assert await store.points(1) == [("x", NEW)]
    assert await store.points(1, user=2) == [("x", OLD)]


async def test_a_replaced_signal_has_only_its_new_samples(store, night, signal):
    """A shorter raw signal leaves no chunk of the longer one, and an empty one leaves none at all."""
    query = "SELECT value FROM beddit.samples ORDER BY index"
    await store.commit(night(1), signal(1, range(100), chunk=10))
    assert await store.values(query) == [float(n) for n in range(100)]
    await store.commit(signal(1, [5, 6], updated=2.0))
    assert await store.values(query) == [5.0, 6.0]
    await store.commit(signal(1, [], updated=3.0))
    assert await store.values(query) == []
    assert await store.values("SELECT sample_count FROM beddit.sampled_tracks") == [0]


@pytest.mark.parametrize("stamp", [5.0, None])
async def test_what_is_seen_again_is_not_missing_any_more(store, night, stamp):
    """A record that was marked as missing upstream loses its mark when the same version comes again."""
    record = night(1, stamp, "a", {"x": OLD})
    await store.commit(record)
    await store.pool.execute("UPDATE beddit.session_records SET missing_upstream_at = now()")
    before = await store.physical(*DETAILS)
    tally = await store.commit(record)
    assert tally.read == tally.accounted_for == 4
    assert await store.values("SELECT missing_upstream_at FROM beddit.sessions") == [None]
    assert await store.physical(*DETAILS) == before


@pytest.mark.parametrize("content", ["a", "b"])
async def test_missing_upstream_does_not_let_an_older_version_win(store, night, content):
    """A record that is marked as missing keeps its newest version when an older one turns up."""
    await store.commit(night(1, 5.0, "a", {"x": OLD}))
    await store.pool.execute("UPDATE beddit.session_records SET missing_upstream_at = now()")
    assert await store.commit(night(1, 4.0, content, {"x": NEW})) == Tally(read=2, superseded=2)
    assert await store.points() == [("x", OLD)]
    assert await store.values("SELECT updated FROM beddit.sessions") == [5.0]


async def test_missing_upstream_lets_a_newer_version_win(store, night):
    """A record that was missing and comes newer is replaced, and its mark is gone."""
    await store.commit(night(1, 5.0, "a", {"x": OLD}))
    await store.pool.execute("UPDATE beddit.session_records SET missing_upstream_at = now()")
    assert await store.commit(night(1, 6.0, "b", {"x": NEW})) == Tally(read=2, stored=2)
    assert await store.points() == [("x", NEW)]
    assert await store.values("SELECT missing_upstream_at FROM beddit.sessions") == [None]


async def test_what_the_source_holds_no_longer_is_marked_and_stays(store, night):
    """The mark is the moment at which it was first missed; it goes when the same version comes again."""
    record = night(1, 5.0, "a", {"x": OLD})
    await store.commit(record, night(2, 5.0))
    gone = ((record.head, record.key), (record.head, (1001, 99)))
    assert await store.commit(missing=gone) == Tally()
    marks = "SELECT missing_upstream_at FROM beddit.sessions ORDER BY session_id"
    first, other = await store.values(marks)
    assert (first is not None, other) == (True, None)
    before = await store.physical("beddit.session_records")
    await store.commit(missing=gone)
    assert await store.physical("beddit.session_records") == before
    assert await store.points() == [("x", OLD)]
    assert await store.commit(record) == Tally(read=4, stored=4)
    assert await store.values(marks) == [None, None]


async def test_what_a_batch_holds_is_not_missing_in_it(store, night):
    """A record that comes in the very batch that would mark it is there, whatever its version."""
    record = night(1, 5.0, "a")
    for stamp in (5.0, 4.0, 5.0):
        await store.commit(night(1, stamp, "a"), night(2), missing=((record.head, record.key),))
        assert await store.values("SELECT missing_upstream_at FROM beddit.sessions") == [None, None]


# --- single rows -----------------------------------------------------------------------------------


async def test_the_last_of_a_key_s_updates_stays(store):
    """Within a batch as between batches the later row replaces the earlier one, key by key."""
    await store.commit(updates=(attempt(2, attempts=1), attempt(1, attempts=5), attempt(2, attempts=3)))
    query = "SELECT session_id, attempts FROM beddit.blob_attempts ORDER BY 1"
    assert await store.fetch(query) == [
        {"session_id": 1, "attempts": 5},
        {"session_id": 2, "attempts": 3},
    ]
    await store.commit(updates=(attempt(1, attempts=2),))
    assert await store.values("SELECT attempts FROM beddit.blob_attempts ORDER BY session_id") == [2, 3]


async def test_an_equal_update_writes_nothing(store):
    """A row that is there already stays where it lies, also one that is nothing but its key."""
    bare = Table("bace.session_access", (("id_data_session", PgType.UUID), ("account", PgType.TEXT)))
    row = {"id_data_session": UUID(int=1), "account": "lab"}
    updates = (attempt(1, reason=None), Update(bare, ("id_data_session", "account"), row))
    await store.commit(updates=updates)
    before = await store.physical("beddit.blob_attempts", "bace.session_access")
    assert len(before) == 2
    await store.commit(updates=updates)
    assert await store.physical("beddit.blob_attempts", "bace.session_access") == before


async def test_updates_of_several_tables_in_any_order(store):
    """Two processes that write the same rows in other orders wait for each other, never in a circle."""
    access = Table(
        "bace.session_access",
        (("id_data_session", PgType.UUID), ("account", PgType.TEXT), ("refused_at", PgType.TIMESTAMPTZ)),
    )

    def denied(n, at):
        row = {"id_data_session": UUID(int=n), "account": "lab", "refused_at": at}
        return Update(access, ("id_data_session", "account"), row)

    for turn in range(20):
        rows = [attempt(n, attempts=turn) for n in range(1, 9)]
        rows += [denied(n, DAY.end if turn % 2 else DAY.start) for n in range(8)]
        await asyncio.gather(store.commit(updates=tuple(rows)), store.commit(updates=tuple(reversed(rows))))
    assert await store.values("SELECT attempts FROM beddit.blob_attempts") == [19] * 8
    assert await store.values("SELECT refused_at FROM bace.session_access") == [DAY.end] * 8


# --- the tally -------------------------------------------------------------------------------------


async def test_duplicates_inside_one_batch(store, night):
    """Of one key's versions in a batch the newest stays; each item has exactly one fate."""
    tally = await store.commit(
        night(1, 5.0, "a", {"x": OLD}),  # replaced by the last but one
        night(1, 5.0, "a", {"x": OLD}),  # the same again
        night(1, 4.0, "z", {"x": OLD}),  # older
        night(1, 6.0, "b", {"x": NEW}),  # stays
        night(2, 1.0, "a"),
    )
    assert tally == Tally(read=15, stored=3, duplicate=4, superseded=8)
    assert await store.points() == [("x", NEW)]
    assert await store.values("SELECT count(*) FROM beddit.sessions") == [2]


async def test_a_run_sums_its_batches(store, night):
    """``sync.runs`` holds the sum of its batches, and read is the sum of the other five."""
    reject = Reject("1001/9", "1001/9", "broken")
    note = Reject("1001/1", "1001/1/zone", "unknown time zone", counts=False)
    await store.commit(night(1, 5.0, "a", {"x": OLD}), rejects=[note])
    await store.commit(night(1, 5.0, "a", {"x": OLD}), night(2), night(2), rejects=[reject])
    await store.commit(night(1, 4.0, "b"))
    (row,) = await store.fetch(
        "SELECT read, stored, unchanged, superseded, duplicate, rejected FROM sync.runs"
    )
    assert row == {"read": 12, "stored": 5, "unchanged": 4, "superseded": 1, "duplicate": 1, "rejected": 1}
    assert row["read"] == sum(count for name, count in row.items() if name != "read")


STAMPS = st.sampled_from([None, 1.0, 2.0, 3.0])
CONTENTS = st.fixed_dictionaries({stamp: st.sampled_from("abc") for stamp in (None, 1.0, 2.0, 3.0)})
SIZES = {"a": [], "b": [1.0], "c": [1.0, 2.0, 3.0]}
BATCHES = st.lists(st.tuples(st.integers(1, 3), STAMPS), min_size=1, max_size=4)
HISTORY = st.lists(BATCHES, min_size=1, max_size=6)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(contents=CONTENTS, history=HISTORY)
async def test_any_order_and_repetition_ends_with_the_newest(store, night, contents, history):
    """However versions are batched, ordered and repeated, what stands is what the newest alone gives."""
    await store.pool.execute(f"TRUNCATE beddit.session_records, {', '.join(DETAILS)}")

    def version(key, stamp):
        content = contents[stamp]
        declares = [("normal", "int16", 28)] if content == "c" else []
        return night(key, stamp, content, {"x": SIZES[content]} if SIZES[content] else None, declares)

    for batch in history:
        tally = await store.commit(*(version(*pair) for pair in batch))
        assert tally.read == tally.accounted_for == sum(1 + len(SIZES[contents[stamp]]) for _, stamp in batch)

    newest = {}
    for key, stamp in (pair for batch in history for pair in batch):
        if key not in newest or (stamp or 0) > (newest[key] or 0):
            newest[key] = stamp
    sessions = await store.pool.fetch("SELECT session_id, updated, hardware FROM beddit.sessions ORDER BY 1")
    assert [tuple(row) for row in sessions] == [(k, s, contents[s]) for k, s in sorted(newest.items())]
    for key, stamp in newest.items():
        items = SIZES[contents[stamp]]
        assert await store.points(key) == ([("x", items)] if items else [])
    declared = await store.values("SELECT session_id FROM beddit.sampled_tracks ORDER BY 1")
    assert declared == [key for key, stamp in sorted(newest.items()) if contents[stamp] == "c"]


# --- side by side ----------------------------------------------------------------------------------


async def test_two_writers_of_the_same_new_keys(store, night):
    """Two processes that bring other versions of the same new nights end with the newest, whole."""
    rival = PostgresSink(store.pool)
    superseded = 0
    for turn in range(40):
        keys = [100 * turn + n for n in range(1, 6)]
        old = [night(key, 1.0, "old", {"x": OLD}) for key in keys]
        new = [night(key, 2.0, "new", {"x": NEW}) for key in reversed(keys)]
        if turn % 2:
            old.reverse()
            new.reverse()
        tallies = await asyncio.gather(store.commit(*old), replace(store, sink=rival).commit(*new))
        assert tallies[1] == Tally(read=10, stored=10)
        assert (tallies[0].read, tallies[0].stored + tallies[0].superseded) == (20, 20)
        superseded += tallies[0].superseded
        rows = await store.pool.fetch(
            "SELECT session_id, hardware FROM beddit.sessions WHERE session_id = ANY ($1) ORDER BY 1", keys
        )
        assert [tuple(row) for row in rows] == [(key, "new") for key in keys]
        for key in keys:
            assert await store.points(key) == [("x", NEW)]
    (row,) = await store.fetch("SELECT read, stored, superseded FROM sync.runs")
    assert row == {"read": 1200, "stored": 1200 - superseded, "superseded": superseded}


async def test_two_writers_of_the_same_version(store, night):
    """Two processes that bring the same version store it once; the other one finds it there."""
    for turn in range(40):
        keys = [100 * turn + n for n in range(1, 6)]
        records = [night(key, 1.0, "a", {"x": OLD}) for key in keys]
        tallies = await asyncio.gather(store.commit(*records), store.commit(*reversed(records)))
        assert tallies[0] + tallies[1] == Tally(read=40, stored=20, unchanged=20)
        for key in keys:
            assert await store.points(key) == [("x", OLD)]


@pytest.mark.parametrize(("first", "second"), [(1.0, 2.0), (2.0, 1.0), (None, 1.0), (1.0, None), (1.0, 1.0)])
async def test_a_key_that_appears_while_a_batch_is_written(store, night, other, blocked, *, first, second):
    """When a rival commits the same new key after we looked, the guard decides as if it had been there."""
    lock = other.transaction()
    await lock.start()
    await other.execute(
        """
        INSERT INTO beddit.session_records (user_id, session_id, start_timestamp, started_at, night, hardware,
                                            updated, digest)
        VALUES (1001, 1, 1, to_timestamp(1), '1970-01-01', 'rival', $1, 'rival')
        """,
        first,
    )
    await other.execute(
        "INSERT INTO beddit.track_arrays VALUES (1, 1001, 'rival', NULL, NULL, NULL, '{0}', '{epoch}', '{7}')"
    )
    task = asyncio.create_task(store.commit(night(1, second, "mine", {"mine": OLD})))
    await blocked()
    await lock.commit()
    wins = (second or 0) >= (first or 0)
    assert await task == Tally(read=4, **{"stored" if wins else "superseded": 4})
    assert await store.points() == ([("mine", OLD)] if wins else [("rival", [7.0])])


async def test_rejects_in_crossing_orders_do_not_lock_each_other_out(store):
    """Two processes that note the same rejects in other orders both succeed, and both are counted."""
    rejects = [Reject(f"1001/{n}", f"1001/{n}", "broken") for n in range(200)]
    other = replace(store, stream=StreamKey("beddit", "alice", "other"))
    for _ in range(10):
        await asyncio.gather(
            store.commit(rejects=rejects), other.commit(rejects=rejects[::-1], stream=other.stream)
        )
    assert await store.values("SELECT DISTINCT attempts FROM sync.rejects") == [20]


# --- rejects ---------------------------------------------------------------------------------------


async def rejected(store):
    """All rejects: item, attempts, whether resolved."""
    rows = await store.pool.fetch(
        "SELECT item_key, attempts, resolved_at IS NOT NULL FROM sync.rejects ORDER BY item_key"
    )
    return [tuple(row) for row in rows]


async def test_the_life_of_a_reject(store, night):
    """Noted, counted again, resolved when its record comes whole, opened again when it breaks again."""
    bad = Reject("1001/1", "1001/1/x/5", "not a number", [1.0, "x"])
    await store.commit(night(1, 1.0, "a"), rejects=[bad])
    (first,) = await store.fetch("SELECT * FROM sync.rejects")
    assert (first["source"], first["account"], first["reason"]) == ("beddit", "alice", "not a number")
    assert json.loads(first["payload"]) == [1.0, "x"]
    assert (first["attempts"], first["resolved_at"]) == (1, None)
    assert first["first_seen_at"] == first["last_seen_at"]

    await store.commit(night(1, 2.0, "b"), rejects=[replace(bad, reason="still not a number")])
    (second,) = await store.fetch("SELECT * FROM sync.rejects")
    assert (second["attempts"], second["reason"]) == (2, "still not a number")
    assert second["first_seen_at"] == first["first_seen_at"] < second["last_seen_at"]

    await store.commit(night(1, 3.0, "c"))
    assert await rejected(store) == [("1001/1/x/5", 2, True)]
    await store.commit(night(1, 4.0, "d"), rejects=[bad])
    assert await rejected(store) == [("1001/1/x/5", 3, False)]


async def test_only_what_the_new_version_no_longer_suffers_from_is_resolved(store, night):
    """Of two rejects the one that is still there stays open; other records' and accounts' do too."""
    bad = [Reject(f"1001/{n}", f"1001/{n}/x/{m}", "bad") for n in (1, 11) for m in (1, 2)]
    await store.commit(night(1, 1.0, "a"), night(11, 1.0, "a"), rejects=bad)
    await store.commit(rejects=bad[:1], stream=StreamKey("beddit", "bob", "sessions"))
    await store.commit(night(1, 2.0, "b"), rejects=bad[:1])
    rows = await store.pool.fetch(
        "SELECT account, item_key FROM sync.rejects WHERE resolved_at IS NULL ORDER BY 1, 2"
    )
    assert [tuple(row) for row in rows] == [
        ("alice", "1001/1/x/1"),
        ("alice", "1001/11/x/1"),
        ("alice", "1001/11/x/2"),
        ("bob", "1001/1/x/1"),
    ]


@pytest.mark.parametrize(("stamp", "content"), [(4.0, "old"), (5.0, "a"), (6.0, "a")])
async def test_a_version_that_changes_nothing_changes_no_reject(store, night, stamp, content):
    """An older version without the fault, or the same content again, neither resolves nor counts."""
    bad = Reject("1001/1", "1001/1/x/5", "bad")
    await store.commit(night(1, 5.0, "a"), rejects=[bad])
    before = await store.fetch("SELECT * FROM sync.rejects")
    again = [bad] if content == "a" else [replace(bad, item_key="1001/1/x/6")]
    tally = await store.commit(night(1, stamp, content), rejects=again)
    assert (tally.rejected, tally.accounted_for) == (1, 2)
    assert await store.fetch("SELECT * FROM sync.rejects") == before


async def test_a_reject_without_a_record(store, night):
    """What is so broken that it gives no record is kept, counted, and resolved when the record comes."""
    bad = Reject("1001/1", "1001/1", "no start", {"start_timestamp": None})
    await store.commit(rejects=[bad])
    await store.commit(rejects=[bad])
    assert await rejected(store) == [("1001/1", 2, False)]
    await store.commit(night(1))
    assert await rejected(store) == [("1001/1", 2, True)]


async def test_a_note_is_kept_but_not_counted(store, night):
    """A note about an item that was stored all the same is not in the tally."""
    note = Reject("1001/1", "1001/1/zone", "unknown time zone", "Mars/Olympus", counts=False)
    assert await store.commit(night(1), rejects=[note]) == Tally(read=1, stored=1)
    assert await rejected(store) == [("1001/1/zone", 1, False)]


@pytest.mark.parametrize(
    "payload", [None, "text", 1.5, True, {"a": [1, None, {"\u20ac": '"\\'}]}, [], 10**25]
)
async def test_payloads_are_json(store, payload):
    """A payload comes back from jsonb as the value that went in."""
    await store.commit(rejects=[Reject("k", "k", "bad", payload)])
    (stored,) = await store.values("SELECT payload FROM sync.rejects")
    assert (None if stored is None else json.loads(stored)) == payload


# --- updates ---------------------------------------------------------------------------------------


async def test_an_update_replaces_the_row_with_its_key(store):
    """The last update of a key stays, and what it does not mention is NULL."""
    await store.commit(updates=(attempt(reason="first"), attempt(session_id=2)))
    await store.commit(updates=(attempt(attempts=2, status="unavailable"),))
    rows = await store.pool.fetch(
        "SELECT session_id, attempts, status, reason FROM beddit.blob_attempts ORDER BY session_id"
    )
    assert [tuple(row) for row in rows] == [(1, 2, "unavailable", None), (2, 1, "pending", None)]


async def test_a_server_that_goes_away_while_it_does_not_read_is_noticed(store, night):
    """A COPY whose server stops reading and then ends is a failure at once, not after a time-out."""
    await store.pool.execute(
        """
        CREATE FUNCTION pause() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN PERFORM pg_sleep(100); RETURN new; END $$
        """
    )
    await store.pool.execute(
        "CREATE TRIGGER pause BEFORE INSERT ON beddit.track_arrays FOR EACH ROW EXECUTE FUNCTION pause()"
    )
    many = [night(n, tracks={"heart_rate": [1.0] * 100_000}) for n in range(1, 20)]
    commit = asyncio.create_task(store.commit(*many))
    ended = False
    while not ended:
        await asyncio.sleep(0.05)
        ended = await store.pool.fetchval(
            "SELECT bool_or(pg_terminate_backend(pid)) FROM pg_stat_activity "
            "WHERE wait_event = 'PgSleep' AND datname = current_database()"
        )
    done, _ = await asyncio.wait([commit], timeout=30)
    assert done == {commit}
    with pytest.raises(StorageUnavailable):
        await commit


# --- the fence -------------------------------------------------------------------------------------


@pytest.mark.parametrize("outcome", ["lost", "interrupted", "done", "failed"])
async def test_a_run_that_has_ended_stores_nothing_more(store, night, outcome):
    """However it ended: the batch is refused, and not one row of any table is another than before."""
    await store.commit(night(1))
    await store.pool.execute("UPDATE sync.run_log SET outcome = $1, finished_at = now()", outcome)
    before = await store.everything()
    with pytest.raises(LeaseLost, match="was not stored"):
        await commit(store, everything(night))
    assert await store.everything() == before


async def test_a_run_that_is_nobody_s_stores_nothing(store, night):
    """A number that no run has is no run that lasts."""
    before = await store.everything()
    with pytest.raises(LeaseLost):
        await store.sink.commit(store.run + 1, Batch(store.stream, records=(night(1),), read=1))
    assert await store.everything() == before


async def test_a_batch_that_comes_while_its_run_is_ended_is_refused(store, other, blocked, night):
    """It waits for whoever is about to end the run, and then finds that it did: nothing is stored."""
    async with other.transaction():
        await other.execute("UPDATE sync.run_log SET outcome = 'lost'")
        committing = asyncio.create_task(commit(store, everything(night)))
        await blocked()
    with pytest.raises(LeaseLost):
        await committing
    assert await store.values("SELECT stored FROM sync.run_log") == [0]
    assert await store.values("SELECT count(*) FROM beddit.session_records") == [0]


async def test_whoever_ends_a_run_waits_for_its_last_batch(store, other, night):
    """A batch that has passed the fence is stored before the run can be ended: its tally is counted."""

    async def end() -> None:
        await other.execute("UPDATE sync.run_log SET outcome = 'lost' WHERE outcome = 'running'")

    async with store.pool.acquire() as connection:
        transaction = connection.transaction()
        await transaction.start()
        await sink._write(connection, store.run, Batch(store.stream, records=(night(1),), read=1))
        ending = asyncio.create_task(end())
        async with asyncio.timeout(60):
            while not await connection.fetchval(  # noqa: ASYNC110 - a lock is waited for without a signal
                "SELECT count(*) FROM pg_locks WHERE pid = $1 AND NOT granted", other.get_server_pid()
            ):
                await asyncio.sleep(0)
        assert not ending.done()
        await transaction.commit()
        await ending
    (row,) = await store.fetch("SELECT outcome, stored FROM sync.run_log")
    assert row == {"outcome": "lost", "stored": 1}
