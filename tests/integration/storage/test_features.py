"""What a database gets from TimescaleDB: from the first migration, or later, with everything in it."""

from __future__ import annotations

import asyncpg
import pytest

from sync.storage.database import open_pool
from sync.storage.features import HYPERTABLES, add_features
from sync.storage.inspection import inspect
from sync.storage.migrate import migrate
from tests.integration.storage.conftest import make_night, make_signal, make_stretch, open_store

MONTH = 35 * 86_400
FOUND = (
    "SELECT hypertable_schema || '.' || hypertable_name FROM timescaledb_information.hypertables ORDER BY 1"
)
CHUNKS = """
    SELECT format('%I.%I', chunk_schema, chunk_name)::regclass::oid FROM timescaledb_information.chunks
    WHERE hypertable_name = $1
"""


async def execute(dsn, statement):
    """Run a statement on a connection of its own: the extension comes and goes with the first one."""
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


@pytest.fixture
async def plain(empty_database, not_tested):
    """Return a database without TimescaleDB on a server that has it."""
    connection = await asyncpg.connect(empty_database)
    offered = await connection.fetchval("SELECT true FROM pg_available_extensions WHERE name = 'timescaledb'")
    await connection.close()
    if not offered:
        not_tested("hypertables", "the server has no TimescaleDB (make test-timescaledb)")
    await execute(empty_database, "DROP EXTENSION IF EXISTS timescaledb CASCADE")
    return empty_database


async def test_without_timescaledb_there_is_nothing_to_add(database):
    """A plain server is asked once, and nothing is missing."""
    async with open_pool(database) as pool:
        if await pool.fetchval("SELECT true FROM pg_extension WHERE extname = 'timescaledb'"):
            await pool.close()
            await execute(database, "DROP EXTENSION timescaledb CASCADE")
    assert await add_features(database) == []
    assert (await inspect(database)).missing_features == ()


async def test_a_plain_warehouse_can_move_to_timescaledb(plain):
    """One command makes hypertables of the large tables, with their rows; it can be repeated."""
    await migrate(plain)
    async with open_store(plain) as store:
        await fill(store, 1.0, "a", 100)
        before = await contents(store)
        assert [len(rows) for rows in before] == [303, 6, 3]
    await execute(plain, "CREATE EXTENSION timescaledb")
    assert len((await inspect(plain)).missing_features) >= len(HYPERTABLES)
    added = await migrate(plain)
    assert {f"{name} is a hypertable" for name in HYPERTABLES} <= set(added)
    assert await migrate(plain) == []
    assert (await inspect(plain)).missing_features == ()
    async with open_store(plain) as store:
        assert sorted(await store.values(FOUND)) == sorted(HYPERTABLES)
        assert await contents(store) == before
        await fill(store, 2.0, "b", 50)
        assert [len(rows) for rows in await contents(store)] == [153, 6, 3]


async def test_chunks_store_as_the_tables_were_made_to(plain):
    """How rows are laid out on pages is not lost: raw signal takes as little room in chunks."""
    await execute(plain, "CREATE EXTENSION timescaledb")
    await migrate(plain)
    async with open_store(plain) as store:
        await fill(store, 1.0, "a", 100)
        chunk, *_ = await store.values(CHUNKS, "sample_chunks")
        assert await store.values("SELECT reloptions FROM pg_class WHERE oid = $1", chunk) == [
            ["toast_tuple_target=8160"]
        ]
        chunk, *_ = await store.values(CHUNKS, "track_arrays")
        storage = (
            "SELECT attname::text, attstorage::text FROM pg_attribute WHERE attrelid = $1 AND attnum > 0"
        )
        kinds = {row[0]: row[1] for row in await store.pool.fetch(storage, chunk)}
        assert kinds["offsets"] == kinds["times"] == kinds["values"] == "e"


async def fill(store, stamp, content, size):
    """Store a version of three nights over three months, each with raw signal, and datapoints of months."""
    records = []
    for n in range(3):
        start = 1_700_000_000 + n * MONTH
        tracks, declares = {"heart_rate": [50.0 + n, size]}, [("normal", "int16", 28)]
        records.append(make_night(start, stamp, content, tracks, declares))
        records.append(make_signal(start, range(size + n), updated=stamp))
    await store.commit(*records)
    points = [(n * MONTH, 7, float(size + n)) for n in range(3)]
    await store.store(make_stretch([(0, 3 * MONTH)], points))


async def contents(store):
    """Return what is in the large tables."""
    questions = (
        "SELECT user_id, session_id, index, value FROM beddit.samples ORDER BY 1, 2, 3",
        "SELECT user_id, session_id, track, index, value FROM beddit.track_values ORDER BY 1, 2, 3, 4",
        "SELECT id_data_session, time, value FROM bace.datapoints ORDER BY 1, 2",
    )
    return [[tuple(row) for row in await store.pool.fetch(question)] for question in questions]
