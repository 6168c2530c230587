"""How the questions that people ask are answered: by an index or a few chunks, not by reading everything."""

# ruff: noqa: S608 - constants

from __future__ import annotations

import json

import pytest

USER, OTHERS = 1001, 40
NIGHTS = 400
FIRST = 1_700_000_000
DAY = 86_400
LAST = FIRST + (NIGHTS - 1) * DAY

FILL = (
    f"""
    INSERT INTO beddit.session_records
        (user_id, session_id, start_timestamp, started_at, ended_at, night, digest)
    SELECT u, start, start, to_timestamp(start), to_timestamp(start + 28800), to_timestamp(start)::date, ''
    FROM generate_series({USER}, {USER + OTHERS - 1}) AS u,
         generate_series({FIRST}::bigint, {LAST}, {DAY}) AS start
    """,
    """
    INSERT INTO beddit.track_arrays (session_id, user_id, track, indexes, offsets, times, "values")
    SELECT session_id, user_id, track, NULL, array_fill(1.5::float8, ARRAY[20]),
           array_fill(to_timestamp(session_id), ARRAY[20]), array_fill(60::float8, ARRAY[20])
    FROM beddit.session_records, unnest('{heart_rate,actigram}'::text[]) AS track
    """,
    f"""
    INSERT INTO beddit.blob_records (user_id, session_id, track, digest, sha256, byte_count, status,
                                     frame_length, samples_per_frame)
    SELECT user_id, session_id, 'normal', '', '', 1, 'complete', 0.2, 28
    FROM beddit.session_records WHERE user_id = {USER}
    """,
    """
    INSERT INTO beddit.sample_chunks (session_id, user_id, track, first_index, bias, int2s)
    SELECT session_id, user_id, track, n * 1960, 32768, array_fill(1::int2, ARRAY[60])
    FROM beddit.blob_records, generate_series(0, 60) AS n
    """,
    f"""
    INSERT INTO bace.dataset_records (id_container_data_latest, id_group, source_device, datatype)
    SELECT md5(n::text)::uuid, md5('g')::uuid, md5('device' || n)::uuid, 6000
    FROM generate_series(1, {OTHERS}) AS n
    """,
    f"""
    INSERT INTO bace.datapoint_rows (time, id_data_session, id_container_data_latest, value)
    SELECT to_timestamp({FIRST} + day * {DAY} + n * 400), md5('session' || day || '/' || device)::uuid,
           md5(device::text)::uuid, n
    FROM generate_series(0, {NIGHTS - 1}) AS day, generate_series(1, {OTHERS}) AS device,
         generate_series(0, 19) AS n
    """,
    "VACUUM ANALYZE",  # as autovacuum does
)

QUESTIONS = {
    "one night's heart rate": f"""
        SELECT time, value FROM beddit.track_values
        WHERE user_id = {USER} AND session_id = {LAST} AND track = 'heart_rate'
    """,
    "one night's raw signal between two instants": f"""
        SELECT time, value FROM beddit.samples_between(
            {USER}, {LAST}, 'normal', to_timestamp({LAST + 100}), to_timestamp({LAST + 110}))
    """,
    "one night's raw signal by its date": f"""
        SELECT p.time, p.value FROM beddit.sessions s JOIN beddit.samples p USING (user_id, session_id)
        WHERE user_id = {USER} AND s.night = to_timestamp({LAST})::date AND p.track = 'normal'
    """,
    "one device's last day": f"""
        SELECT time, value FROM bace.datapoints
        WHERE source_device = md5('device7')::uuid AND time >= to_timestamp({LAST})
    """,
    "one session's datapoints": f"""
        SELECT time, value FROM bace.datapoints WHERE id_data_session = md5('session{NIGHTS - 1}/7')::uuid
    """,
    "one session hour by hour": f"""
        SELECT time, value FROM bace.datapoints_by_hour
        WHERE id_data_session = md5('session{NIGHTS - 1}/7')::uuid
    """,
    "nightly averages of a year": f"""
        SELECT night, heart_rate_mean FROM beddit.night_summaries
        WHERE user_id = {USER} AND night > to_timestamp({LAST - 365 * DAY})::date ORDER BY night
    """,
}
UNPACKED = {
    "all of it": "SELECT sum(value) FROM beddit.samples",
    "by minute": "SELECT date_trunc('minute', time), avg(value) FROM beddit.samples GROUP BY 1",
    "in order": "SELECT index, value FROM beddit.samples ORDER BY value",
    "a stretch": f"""
        SELECT index, value FROM beddit.samples_between(
            {USER}, {LAST}, 'normal', to_timestamp({LAST}), to_timestamp({LAST + 100})) ORDER BY value
    """,
}
KEEPING = ("Aggregate", "Sort", "Incremental Sort")
NARROW = 100
"""Bytes that a row that is sorted or grouped may have; an array here has 144, one of 14 s 3,944."""

LARGE = {"track_arrays": 2, "sample_chunks": 130, "datapoint_rows": 6_500}
"""How many rows an answer may look at; the tables have 32,000, 24,400 and 320,000."""


@pytest.fixture
async def full(store):
    """Return a warehouse in which reading everything would show."""
    for statement in FILL:
        await store.pool.execute(statement)
    return store


def nodes(plan):
    """Yield a plan's nodes."""
    yield plan
    for child in plan.get("Plans", ()):
        yield from nodes(child)


async def test_questions_are_answered_without_reading_everything(full):
    """What large tables are looked at, is found by an index or lies in the chunks of the time asked for."""
    for what, question in QUESTIONS.items():
        (text,) = await full.values(
            f"EXPLAIN (ANALYZE, VERBOSE, FORMAT json, COSTS off, TIMING off) {question}"
        )
        (explained,) = json.loads(text)
        scans = [node for node in nodes(explained["Plan"]) if "Relation Name" in node]
        looked_at = dict.fromkeys(LARGE, 0.0)
        for scan in scans:
            table = await table_of(full, scan)
            if table in LARGE:
                removed = scan.get("Rows Removed by Filter", 0) + scan.get("Rows Removed by Index Recheck", 0)
                looked_at[table] += (scan["Actual Rows"] + removed) * scan["Actual Loops"]
        for table, rows in looked_at.items():
            assert rows <= LARGE[table], f"{what}: {rows:,.0f} rows of {table} were read\n{text}"
        assert sum(looked_at.values()) or what.startswith("nightly"), what


async def test_samples_are_unpacked_as_they_are_read(full):
    """Arrays are not written down before their samples are read, nor sorted or grouped with each of them."""
    for what, question in UNPACKED.items():
        (text,) = await full.values(f"EXPLAIN (FORMAT json) {question}")
        (explained,) = json.loads(text)
        found = list(nodes(explained["Plan"]))
        kinds = [node["Node Type"] for node in found]
        assert "ProjectSet" in kinds, f"{what}\n{text}"
        assert "Function Scan" not in kinds, f"{what}\n{text}"
        kept = [below for node in found if node["Node Type"] in KEEPING for below in node["Plans"]]
        assert all(node["Plan Width"] <= NARROW for node in kept), f"{what}\n{text}"


async def table_of(store, scan):
    """Return the table that is scanned; of a chunk its hypertable."""
    name, schema = scan["Relation Name"], scan["Schema"]
    if schema != "_timescaledb_internal":
        return name
    (table,) = await store.values(
        "SELECT hypertable_name FROM timescaledb_information.chunks WHERE chunk_name = $1", name
    )
    return table
