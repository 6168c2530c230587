"""What is stored: bytes on disk, and how fast it is read again.

A few nights are read by the program; a larger warehouse is made of copies of them, by the server itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Final

import asyncpg

from bench.clouds import bace, beddit
from bench.nights import USER, Series
from bench.program import bace_config, beddit_config, nightshift
from bench.report import Goal, Line, short
from bench.warehouse import Bench, connected
from sync.emulators.bace import Fleet

DIFFERENT: Final = 10
ROUNDS: Final = 7
HOW: Final = (
    "the first time, as copying the nights left it. The figure is the best of the rounds after it, warm, by "
    "the clock, with the server's own settings for parallel workers and JIT"
)
BYTES_A_SAMPLE: Final = Goal(most=2.3)
SAMPLES_A_SECOND: Final = Goal(least=1.0)
MILLISECONDS: Final = Goal(most=1.0)
M_SAMPLES: Final = 10.0
MS: Final = 10.0

SUM: Final = """
    SELECT sum(value) FROM beddit.samples WHERE user_id = $1 AND session_id = $2 AND track = 'normal'
"""
TEN_SECONDS: Final = """
    SELECT index, time, value
    FROM beddit.samples_between($1, $2, 'normal', $3::timestamptz, $3::timestamptz + interval '10 s')
"""
LARGE: Final = ("beddit.track_arrays", "beddit.sample_chunks", "bace.datapoint_rows")
COMPRESS: Final = """
    SELECT compress_chunk(chunk, if_not_compressed => true)
    FROM timescaledb_information.hypertables,
         show_chunks(format('%I.%I', hypertable_schema, hypertable_name)::regclass) AS chunk
    WHERE compression_enabled
"""
COMMUNITY: Final = "SELECT current_setting('timescaledb.license', true) = 'timescale'"
COPIED: Final = {  # each table's columns with the session moved by $1 days
    "beddit.session_records": ("start_timestamp", "started_at", "ended_at", "night"),
    "beddit.blob_records": (),
    "beddit.track_declarations": (),
    "beddit.blob_mentions": (),
    "beddit.track_arrays": (),
    "beddit.sample_chunks": (),
}
MOVED: Final = {
    "session_id": "session_id + shift.days * 86400",
    "start_timestamp": "start_timestamp + shift.days * 86400",
    "started_at": "started_at + shift.days * interval '1 day'",
    "ended_at": "ended_at + shift.days * interval '1 day'",
    "night": "night + shift.days",
}


async def measure(bench: Bench) -> Sequence[Line]:
    """Beddit's arrays, BACE's rows, and what the server makes of them when it compresses."""
    async with bench.database("storage") as dsn:
        series = Series(nights=min(DIFFERENT, bench.size.stored_nights), hours=bench.size.hours)
        async with beddit(series) as cloud:
            await nightshift(beddit_config(bench.own("stored"), dsn, cloud), "backfill")
        async with bace(Fleet(sessions=bench.size.sessions)) as cloud:
            await nightshift(bace_config(bench.own("stored-bace"), dsn, cloud), "once")
        async with connected(dsn) as connection:
            copies = bench.size.stored_nights // series.nights
            await multiply(connection, copies, step=series.nights)
            lines = await _lines(connection, await _kind(connection), bench.size.stored_nights)
            return [*lines, *await _compressed(connection, bench.size.stored_nights)]


async def multiply(connection: asyncpg.Connection, copies: int, *, step: int) -> None:
    """Copy all nights, so that there are ``copies`` of each, ``step`` days apart and before them."""
    for table in COPIED:
        names = await connection.fetch(
            "SELECT attname FROM pg_attribute WHERE attrelid = $1::text::regclass AND attnum > 0"
            " AND NOT attisdropped AND attgenerated = '' ORDER BY attnum",
            table,
        )
        columns = [f'"{name}"' for (name,) in names]
        values = [MOVED.get(name, f'"{name}"') for (name,) in names]
        await connection.execute(
            f"INSERT INTO {table} ({', '.join(columns)}) SELECT {', '.join(values)} FROM {table},"  # noqa: S608
            f" (SELECT -{step} * n AS days FROM generate_series(1, {copies - 1}) n) AS shift"
        )
    await connection.execute("VACUUM ANALYZE")
    await connection.execute("CHECKPOINT")


async def _kind(connection: asyncpg.Connection) -> str:
    found = await connection.fetchval("SELECT extversion FROM pg_extension WHERE extname = 'timescaledb'")
    return "PostgreSQL" if found is None else "TimescaleDB row store"


async def _lines(connection: asyncpg.Connection, kind: str, nights: int) -> Sequence[Line]:
    return [
        await _sample_bytes(connection, kind),
        await _bytes(connection, kind, "point", "beddit.track_arrays", "sum(cardinality(offsets))"),
        await _bytes(connection, kind, "BACE datapoint", "bace.datapoint_rows", "count(*)"),
        await _sum(connection, kind),
        await _ten_seconds(connection, kind, nights),
    ]


async def _sample_bytes(connection: asyncpg.Connection, kind: str) -> Line:
    """Of the 16-bit signal; the share of the other one in the table's size is by bytes of its arrays."""
    size = await _size(connection, "beddit.sample_chunks")
    row = await connection.fetchrow(
        """
        SELECT sum(b.sample_count) FILTER (WHERE b.track = 'normal') AS samples,
               sum(b.byte_count) FILTER (WHERE b.track = 'normal') / sum(b.byte_count) AS share
        FROM beddit.blob_records b
        """
    )
    each = size * float(row["share"]) / float(row["samples"])
    return Line(
        what=f"16-bit sample, {kind}",
        value=each,
        unit="bytes",
        ratio=each,
        beside="1 byte, indexes and all included",
        goal=BYTES_A_SAMPLE,
    )


async def _bytes(connection: asyncpg.Connection, kind: str, what: str, table: str, count: str) -> Line:
    total = float(await connection.fetchval(f"SELECT {count} FROM {table}"))  # noqa: S608
    each = await _size(connection, table) / total
    return Line(what=f"{what}, {kind}", value=each, unit="bytes", ratio=each, beside="1 byte")


async def _size(connection: asyncpg.Connection, table: str) -> float:
    """Bytes on disk, those of a hypertable's chunks included."""
    schema, _, name = table.partition(".")
    if await _is_hypertable(connection, table):
        return float(await connection.fetchval("SELECT hypertable_size($1::text::regclass)", table))
    relation = f"{schema}.{name}"
    return float(await connection.fetchval("SELECT pg_total_relation_size($1::text::regclass)", relation))


async def _is_hypertable(connection: asyncpg.Connection, table: str) -> bool:
    if not await connection.fetchval("SELECT true FROM pg_extension WHERE extname = 'timescaledb'"):
        return False
    query = """
        SELECT true FROM timescaledb_information.hypertables
        WHERE format('%s.%s', hypertable_schema, hypertable_name) = $1
    """
    return bool(await connection.fetchval(query, table))


async def _sum(connection: asyncpg.Connection, kind: str) -> Line:
    session, count = await connection.fetchrow(
        "SELECT session_id, sample_count FROM beddit.blob_records WHERE track = 'normal'"
        " ORDER BY session_id LIMIT 1"
    )
    timed = await _timed(connection, SUM, USER, session)
    rate = count / timed.best / 1e6
    return Line(
        what=f"sum(value) of a night, {kind}",
        value=rate,
        unit="M samples/s",
        ratio=rate / M_SAMPLES,
        beside=f"{M_SAMPLES:.0f} M samples/s",
        goal=SAMPLES_A_SECOND,
        note=f"sum(value), {kind}: {short(count / timed.first / 1e6)} M samples/s {HOW}.",
    )


async def _ten_seconds(connection: asyncpg.Connection, kind: str, nights: int) -> Line:
    session, began = await connection.fetchrow(
        "SELECT session_id, started_at + interval '30 min' FROM beddit.sessions"
        " ORDER BY session_id OFFSET (SELECT count(*) / 2 FROM beddit.sessions) LIMIT 1"
    )
    timed = await _timed(connection, TEN_SECONDS, USER, session, began)
    taken = 1000 * timed.best
    return Line(
        what=f"10 s of {nights} nights, {kind}",
        value=taken,
        unit="ms",
        ratio=taken / MS,
        beside=f"{MS:.0f} ms",
        goal=MILLISECONDS,
        note=f"10 s, {kind}: {short(1000 * timed.first)} ms {HOW}.",
    )


@dataclass(frozen=True, slots=True)
class Timed:
    """Seconds of a query, the answer received.

    Attributes:
        first: Before anything else asked for these rows.
        best: The fewest of the rounds after that.
    """

    first: float
    best: float


async def _timed(connection: asyncpg.Connection, query: str, *arguments: Any) -> Timed:
    first, *others = [await _seconds(connection, query, *arguments) for _ in range(1 + ROUNDS)]
    return Timed(first, min(others))


async def _seconds(connection: asyncpg.Connection, query: str, *arguments: Any) -> float:
    began = perf_counter()
    await connection.fetch(query, *arguments)
    return perf_counter() - began


async def _compressed(connection: asyncpg.Connection, nights: int) -> Sequence[Line]:
    """The same once its chunks are compressed, where the server can."""
    hypertables = [table for table in LARGE if await _is_hypertable(connection, table)]
    if not hypertables:
        why = "TimescaleDB was not measured: this server, or the program on it, has no hypertables."
        return [Line(what="TimescaleDB", value=None, unit="", note=why)]
    if not await connection.fetchval(COMMUNITY):
        why = "TimescaleDB's columnstore was not measured: it needs the community licence."
        return [Line(what="TimescaleDB columnstore", value=None, unit="", note=why)]
    await connection.execute(COMPRESS)
    await connection.execute("CHECKPOINT")
    return await _lines(connection, "columnstore", nights)
