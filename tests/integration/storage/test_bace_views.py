"""What users see of BACE: columns, defaults, and in which state a data session is."""

from __future__ import annotations

import math
import struct
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from sync.model import Reject, StreamKey, Update
from sync.sources.bace.tables import DATASETS
from sync.sources.bace.tables import SESSION_CHECKS as CHECKS

COLUMNS = """
    SELECT column_name || ' ' || udt_name FROM information_schema.columns
    WHERE table_schema = 'bace' AND table_name = $1 ORDER BY ordinal_position
"""


def check(content="a", status="complete", reason=None, session=1):
    """Return an update of what was concluded about a version."""
    row = {
        "id_data_session": UUID(int=session),
        "digest": content.encode(),
        "status": status,
        "reason": reason,
    }
    checked_at = datetime(2022, 3, 31, tzinfo=UTC)
    return Update(CHECKS, ("id_data_session",), row | {"attempts": 1, "checked_at": checked_at})


async def session(store, number=1):
    """Return a session as users see it."""
    return await store.pool.fetchrow(
        "SELECT * FROM bace.data_sessions WHERE id_data_session = $1", UUID(int=number)
    )


def covered(row, zero):
    """Return the seconds of a session's coverage."""
    return [((r.lower - zero).total_seconds(), (r.upper - zero).total_seconds()) for r in row["raw_coverage"]]


# --- columns ---------------------------------------------------------------------------------------


async def test_the_columns_of_data_sessions(store):
    """Every documented field in snake_case, then what the warehouse knows."""
    assert await store.values(COLUMNS, "data_sessions") == [
        "id_data_session uuid",
        "id_group uuid",
        "id_person uuid",
        "label text",
        "started_at timestamptz",
        "ended_at timestamptz",
        "created_at timestamptz",
        "created_by uuid",
        "updated_at timestamptz",
        "updated_by uuid",
        "archived_at timestamptz",
        "datapoint_count int8",
        "is_ingestion_finished bool",
        "is_archived bool",
        "loaded_count int8",
        "rejected_count int8",
        "raw_coverage tstzmultirange",
        "status text",
        "status_reason text",
        "missing_upstream_at timestamptz",
        "extra jsonb",
    ]


async def test_the_columns_of_datapoints(store):
    """The contract's columns in the contract's order."""
    assert await store.values(COLUMNS, "datapoints") == [
        "id_data_session uuid",
        "id_container_data_latest uuid",
        "id_group uuid",
        "source_device uuid",
        "datatype int4",
        "time timestamptz",
        "value float8",
        "min_value float8",
        "max_value float8",
        "count int8",
    ]


@pytest.mark.parametrize(("unit", "seconds"), [("minute", 60), ("hour", 3600), ("day", 86_400)])
async def test_sums_over_time_weigh_what_a_row_stands_for(store, stretch, unit, seconds):
    """By minute, hour and day in UTC: a row that is an average counts as often as it stands for."""
    points = [(0, 7, 10.0), (1, 7, 20.0, 18.0, 25.0, 3), (2, 8, 5.0), (seconds, 7, 1.0)]
    await store.store(stretch([(0, seconds + 1)], points))
    rows = await store.pool.fetch(
        f"SELECT id_container_data_latest AS dataset, value, min_value, max_value, count, time "  # noqa: S608
        f"FROM bace.datapoints_by_{unit} WHERE id_data_session = $1 ORDER BY time, 1",
        UUID(int=1),
    )
    assert [(row["dataset"].int, *row[1:5]) for row in rows] == [
        (7, 17.5, 10.0, 25.0, 4),
        (8, 5.0, 5.0, 5.0, 1),
        (7, 1.0, 1.0, 1.0, 1),
    ]
    assert rows[2]["time"] - rows[0]["time"] == timedelta(seconds=seconds)


async def test_everything_says_what_it_is(store):
    """Every table and every view of the schema has a comment."""
    without = await store.values(
        "SELECT c.relname FROM pg_class c WHERE c.relnamespace = 'bace'::regnamespace "
        "AND c.relkind IN ('r', 'v') AND obj_description(c.oid) IS NULL"
    )
    assert without == []


@pytest.mark.parametrize("name", ["group", "device", "datatype", "person", "dataset"])
async def test_dimensions_are_their_records(store, name):
    """The views of what datapoints refer to have the columns of their tables."""
    columns = await store.values(COLUMNS, f"{name}s")
    assert columns == await store.values(COLUMNS, f"{name}_records")
    assert columns


async def test_a_data_session_as_received(store, data_session):
    """What was stored is what users see, a list of data sets beside it or not."""
    ids = {
        name: UUID(int=n) for n, name in enumerate(("id_group", "id_person", "created_by", "updated_by"), 2)
    }
    zero = data_session().row["started_at"]
    times = {
        name: zero + timedelta(days=n) for n, name in enumerate(("created_at", "updated_at", "archived_at"))
    }
    rest = {"label": "BACE Go", "datapoint_count": 10, "is_archived": True, "extra": '{"new": 1}'}
    await store.commit(data_session(1, datasets=[UUID(int=7)], **ids, **times, **rest))
    row = await session(store)
    assert {name: row[name] for name in ids | times | rest} == ids | times | rest
    assert (row["started_at"], row["ended_at"]) == (zero, zero + timedelta(hours=1))
    assert await store.values("SELECT datasets FROM bace.session_records") == [[UUID(int=7)]]


# --- datapoints ------------------------------------------------------------------------------------


async def test_a_raw_datapoint_is_its_own_bounds_and_counts_one(store, stretch):
    """Bounds are the value bit for bit, minus zero and not-a-number too; an aggregate has its own."""
    values = [1.5, -0.0, math.nan]
    points = [(n, 7, value) for n, value in enumerate(values)]
    await store.store(stretch([(0, 60)], [*points, (9, 8, 2.0, 1.0, 4.0, 5)]))
    rows = await store.pool.fetch("SELECT * FROM bace.datapoints ORDER BY time")
    for row, value in zip(rows, values, strict=False):
        bits = {struct.pack(">d", row[name]) for name in ("value", "min_value", "max_value")}
        assert (bits, row["count"]) == ({struct.pack(">d", value)}, 1)
    assert tuple(rows[3])[6:] == (2.0, 1.0, 4.0, 5)


async def test_a_datapoint_knows_its_data_set(store, stretch):
    """Group, device and datatype come from the data set; a datapoint without one is shown all the same."""
    row = dict(zip(DATASETS.column_names, (UUID(int=7), UUID(int=70), UUID(int=71), 5205), strict=True))
    update = Update(DATASETS, ("id_container_data_latest",), row)
    await store.store(stretch([(0, 60)], [(1, 7, 1.0), (2, 8, 2.0)]), updates=(update,))
    rows = await store.pool.fetch(
        "SELECT id_group, source_device, datatype FROM bace.datapoints ORDER BY time"
    )
    assert [tuple(row) for row in rows] == [(UUID(int=70), UUID(int=71), 5205), (None, None, None)]


# --- counts and coverage ---------------------------------------------------------------------------


async def test_a_session_that_was_never_read(store, data_session):
    """Nothing loaded, nothing rejected, nothing covered: numbers, not NULLs."""
    await store.commit(data_session(1))
    row = await session(store)
    assert (row["loaded_count"], row["rejected_count"], row["raw_coverage"]) == (0, 0, [])


async def test_counts_add_up_over_groups_and_rejects(store, stretch, data_session):
    """Loaded is the sum of the rows' counts, rejected that of the items of open rejects of datapoints."""
    await store.commit(data_session(1), data_session(2))
    await store.store(
        stretch([(0, 60)], [(1, 7, 1.0), (2, 7, 1.0, 1.0, 1.0, 4)], rejects=[(3, "a", 10), (13, "b", 3)]),
        stretch([(0, 60)], [(1, 8, 1.0)], part=1, rejects=[(5, "c")]),
        stretch([(0, 60)], [(1, 9, 1.0)], session=2),
    )
    row = await session(store)
    assert (row["loaded_count"], row["rejected_count"]) == (6, 14)
    assert row["loaded_count"] == await store.pool.fetchval(
        "SELECT sum(count)::bigint FROM bace.datapoints WHERE id_data_session = $1", UUID(int=1)
    )
    await store.store(stretch([(0, 10)]))
    assert (await session(store))["rejected_count"] == 4
    assert (await session(store, 2))["rejected_count"] == 0


async def test_what_is_wrong_with_the_session_itself_is_no_rejected_datapoint(store, stretch, data_session):
    """Notes, rejects of the session's own row and those of another source do not count."""
    other = stretch([(0, 60)], rejects=[(5, "a")])
    own = Reject(str(UUID(int=1)), "x", "bad label")
    await store.commit(data_session(1), rejects=[own], stream=StreamKey("bace", "lab", "sessions"))
    await store.store(other, stream=StreamKey("beddit", "lab", "data"))
    assert (await session(store))["rejected_count"] == 0


async def test_coverage_is_what_all_groups_have(store, stretch, data_session):
    """Time counts as covered when it is for every group of the session's data sets."""
    zero = data_session().row["started_at"]
    await store.commit(data_session(1, datasets=[UUID(int=7), UUID(int=8)]))
    await store.store(stretch([(0, 30), (40, 60)], datasets=[7]))
    assert (await session(store))["raw_coverage"] == []
    await store.store(stretch([(10, 50)], part=1, datasets=[8]))
    assert covered(await session(store), zero) == [(10, 30), (40, 50)]


@pytest.mark.parametrize("datasets", [None, [], [UUID(int=7)], [UUID(int=7), UUID(int=8)]])
async def test_a_group_of_all_data_sets_covers_any(store, stretch, data_session, datasets):
    """A session that was read without naming data sets is covered where it was read."""
    await store.commit(data_session(1, datasets=datasets))
    await store.store(stretch([(0, 30)]))
    assert covered(await session(store), data_session().row["started_at"]) == [(0, 30)]


# --- status ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("columns", "checks", "loaded", "expected"),
    [
        ({}, [], False, ("loading", "not read yet")),
        ({}, [], True, ("loading", "not read to its end yet")),
        ({}, [check()], True, ("complete", None)),
        ({}, [check(status="incomplete", reason="two are missing")], True, ("incomplete", "two are missing")),
        ({}, [check("older")], True, ("loading", "changed upstream since it was last checked")),
        ({}, [check(session=2)], False, ("loading", "not read yet")),
        ({"ended_at": None}, [], False, ("open", "the session has not ended")),
        ({"ended_at": None}, [check()], True, ("open", "the session has not ended")),
        (
            {"is_ingestion_finished": False},
            [check()],
            True,
            ("open", "the source has not finished ingesting it"),
        ),
        ({"is_ingestion_finished": None}, [], False, ("open", "the source has not finished ingesting it")),
    ],
)
async def test_the_status_of_a_session(store, stretch, data_session, *, columns, checks, loaded, expected):
    """A proof counts for the version that it was made for and no other; what is not final is open."""
    await store.commit(data_session(1, **columns), updates=tuple(checks))
    if loaded:
        await store.store(stretch([(0, 30)]))
    row = await session(store)
    assert (row["status"], row["status_reason"]) == expected


async def test_a_proof_ends_when_the_session_changes(store, data_session):
    """A newer version of a complete session is to be read again; the same version newly listed is not."""
    await store.commit(data_session(1, 1.0, "a"), updates=(check("a"),))
    await store.commit(data_session(1, 2.0, "a"))
    assert (await session(store))["status"] == "complete"
    await store.commit(data_session(1, 3.0, "b"))
    assert (await session(store))["status"] == "loading"
    await store.commit(updates=(check("b"),))
    assert (await session(store))["status"] == "complete"


async def test_a_session_that_is_gone_upstream_says_so(store, data_session, stretch):
    """Its mark is shown and everything else stays; it goes when the session is back."""
    record = data_session(1)
    await store.commit(record)
    await store.store(stretch([(0, 60)], [(1, 7, 1.0)]), missing=((record.head, record.key),))
    row = await session(store)
    assert row["missing_upstream_at"] is not None
    assert row["loaded_count"] == 1
    await store.commit(record)
    assert (await session(store))["missing_upstream_at"] is None
