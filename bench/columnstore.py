"""What TimescaleDB's community edition makes of the tables: bytes, replacing what is compressed, summaries.

    python -m bench.columnstore DSN

By hand, on an empty database of such a server that is thrown away afterwards. One connection does it all, and
the rows are on the server before time is taken: what counts is the ratio to the same in rows, in rounds that
alternate.
"""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from time import perf_counter
from typing import Final
from uuid import UUID

import asyncpg
import numpy as np
from rich.console import Console

from bench.report import Line, show
from bench.warehouse import connected
from sync.emulators.bace import DataSession, Fleet, Kind
from sync.emulators.beddit import Study
from sync.sources.bace.tables import DATAPOINTS
from sync.storage.features import ROLLUPS
from sync.storage.migrate import migrate
from sync.storage.statements import delete_stretch, select_stretch

ROWS: Final = DATAPOINTS.table.name
MONTH: Final = timedelta(days=30)
FIRST: Final = 635 * int(MONTH.total_seconds())
"""Where a chunk begins: all sessions are in this one."""
FLEET: Final = Fleet(sessions=100, first_start=FIRST)
LONG: Final = Fleet(
    seed=2, sessions=1, kinds=(Kind.VITALS,), hours=(8.4, 8.5), rate=3.4, gap=0, first_start=FIRST
)
"""A session of 300,000 datapoints."""
SPARSE: Final = Fleet(seed=3, sessions=400, devices=40, kinds=(Kind.BATTERY, Kind.SCALE), first_start=FIRST)
NIGHT: Final = Study(users=(1,), nights=1, hours=2.0)
ROUNDS: Final = 3
AT_ONCE: Final = 20_000
SAMPLES_A_CHUNK: Final = 1_960

COMMUNITY: Final = "SELECT current_setting('timescaledb.license', true) = 'timescale'"
COMPRESSION: Final = "policy_compression"
REFRESH: Final = "policy_refresh_continuous_aggregate"
JOBS: Final = "SELECT job_id FROM timescaledb_information.jobs WHERE proc_name = $1 ORDER BY job_id"
SUSPEND: Final = """
    SELECT alter_job(job_id, scheduled => false) FROM timescaledb_information.jobs WHERE proc_name = ANY ($1)
"""
INSERT: Final = f"""
    INSERT INTO {ROWS} (time, id_data_session, id_container_data_latest, value)
    SELECT timestamptz 'epoch' + s.ms * interval '1 millisecond', $1, ($2::uuid[])[s.dataset + 1], s.value
    FROM unnest($3::bigint[], $4::int[], $5::float8[]) AS s (ms, dataset, value)
"""  # noqa: S608 - constants
# Once more in the next chunk, which stays in rows.
REPEAT: Final = f"""
    INSERT INTO {ROWS} SELECT time + interval '30 days', id_data_session, id_container_data_latest, value
    FROM {ROWS}
"""  # noqa: S608 - constants
# A session as a backfill may bring it: ten years older, averages of ten seconds.
OLD: Final = f"""
    INSERT INTO {ROWS}
    SELECT time_bucket('10 s', time) - interval '3600 days', id_data_session, id_container_data_latest,
           avg(value), min(value), max(value), count(*)
    FROM {ROWS} WHERE id_data_session = $1 GROUP BY 1, 2, 3
"""  # noqa: S608 - constants
FIRST_CHUNK: Final = """
    SELECT total_bytes / 1e6::float8 FROM chunks_detailed_size($1::text::regclass) ORDER BY chunk_name LIMIT 1
"""
# Buckets of a view that are not what its rows come to.
DIFFERENT: Final = f"""
    SELECT count(*) FROM (
        SELECT id_data_session, id_container_data_latest, time_bucket('%s', time) AS time,
               sum(value * coalesce(count, 1)) / sum(coalesce(count, 1)) AS value,
               min(coalesce(min_value, value)) AS min_value, max(coalesce(max_value, value)) AS max_value,
               sum(coalesce(count, 1)) AS count
        FROM {ROWS} GROUP BY 1, 2, 3) AS r
    FULL JOIN %s v USING (id_data_session, id_container_data_latest, time)
    WHERE (r.min_value, r.max_value, r.count) IS DISTINCT FROM (v.min_value, v.max_value, v.count)
       OR abs(r.value - v.value) > 1e-9 * abs(r.value)
"""  # noqa: S608 - constants
NARROW: Final = (
    """
    CREATE TABLE narrow_samples (
        time timestamptz NOT NULL, session_id bigint NOT NULL, user_id bigint NOT NULL, track text NOT NULL,
        value int NOT NULL)
    """,
    "CREATE INDEX ON narrow_samples (session_id, user_id, track, time)",
    """
    SELECT create_hypertable('narrow_samples', by_range('time', interval '30 days'),
                             create_default_indexes => false)
    """,
    """
    INSERT INTO narrow_samples
    SELECT sync.instant(session_id + (first_index + ordinal - 1) / 140.0::float8), session_id, user_id, track,
           item + bias
    FROM beddit.sample_chunks, unnest(int2s) WITH ORDINALITY AS items (item, ordinal)
    """,
)


async def main(dsn: str) -> None:
    """Measure on an empty database, and print."""
    await migrate(dsn)
    async with connected(dsn) as connection:
        if not await connection.fetchval(COMMUNITY):
            raise SystemExit("this server has no TimescaleDB under the community licence")
        show(Console(width=132, highlight=False), "columnstore", await measure(connection))


async def measure(connection: asyncpg.Connection) -> Sequence[Line]:
    """All figures, in a database that is migrated and empty."""
    await connection.execute(SUSPEND, [COMPRESSION, REFRESH])
    # As the program's own connections have it.
    await connection.execute("SET timescaledb.max_tuples_decompressed_per_dml_transaction = 0")
    await connection.execute(f"CREATE TEMPORARY TABLE came (LIKE {ROWS})")
    return [
        *await _signal(connection),
        *await _datapoints(connection),
        *await _replacing(connection),
        await _compressed_again(connection),
        *await _summaries(connection),
    ]


# -- bytes ---------------------------------------------------------------------------------------


async def _signal(connection: asyncpg.Connection) -> Sequence[Line]:
    """A sample of 16 bits: in arrays, as it is stored, and one a row."""
    night = next(NIGHT.nights_of(1))
    samples = night.samples("normal").astype(np.int32) - 32_768
    for start in range(0, len(samples), SAMPLES_A_CHUNK):
        await connection.execute(
            "INSERT INTO beddit.sample_chunks (session_id, user_id, track, first_index, bias, int2s)"
            " VALUES ($1, 1, 'normal', $2, 32768, $3::int2[])",
            night.session_id,
            start,
            samples[start : start + SAMPLES_A_CHUNK].tolist(),
        )
    for statement in NARROW:
        await connection.execute(statement)
    return [
        *await _sample(
            "in arrays", connection, "beddit.sample_chunks", "session_id, first_index", len(samples)
        ),
        *await _sample("one a row", connection, "narrow_samples", "time", len(samples)),
    ]


async def _sample(
    what: str, connection: asyncpg.Connection, table: str, order: str, count: int
) -> Sequence[Line]:
    rows = await _size(connection, table) / count
    await connection.execute(
        f"ALTER TABLE {table} SET (timescaledb.compress, timescaledb.compress_segmentby = 'user_id, track',"
        f" timescaledb.compress_orderby = '{order}')"
    )
    await _compress(connection, table)
    columns = await _size(connection, table) / count
    return _bytes(f"16-bit sample {what}", rows, columns)


async def _datapoints(connection: asyncpg.Connection) -> Sequence[Line]:
    """Of a few sparse datasets a session (a voltage every five minutes, a weight), and of what most send."""
    lines = []
    for what, sessions in (("sparse datapoint", list(SPARSE)), ("datapoint", [*FLEET, *LONG])):
        await connection.execute(f"TRUNCATE {ROWS}")
        count = await _load(connection, sessions)
        rows = await _size(connection, ROWS) / count
        await _compress(connection, ROWS)
        lines += _bytes(what, rows, await _size(connection, ROWS) / count)
    return lines


def _bytes(what: str, rows: float, columns: float) -> Sequence[Line]:
    return [
        Line(what=f"{what}, row store", value=rows, unit="bytes"),
        Line(
            what=f"{what}, columnstore", value=columns, unit="bytes", ratio=columns / rows, beside="row store"
        ),
    ]


# -- replacing -----------------------------------------------------------------------------------


async def _replacing(connection: asyncpg.Connection) -> Sequence[Line]:
    """A stretch and whole sessions, by the program's own statements, rolled back."""
    await connection.execute(REPEAT)
    await connection.execute("ANALYZE")
    usual = max(FLEET, key=lambda session: len(session.computed()))
    long = next(iter(LONG))
    middle = (usual.start + usual.end) // 2
    return [
        await _replaced(connection, "ten minutes of a session", usual, (middle, middle + 600)),
        await _replaced(connection, "a session", usual, (usual.start, usual.end)),
        await _replaced(connection, "a long session", long, (long.start, long.end)),
    ]


async def _replaced(
    connection: asyncpg.Connection, what: str, session: DataSession, seconds: tuple[int, int]
) -> Line:
    start, end = (datetime.fromtimestamp(each, UTC) for each in seconds)
    columns, rows = [], []
    for _ in range(ROUNDS):
        columns.append(await _replacement(connection, session, start, end))
        rows.append(await _replacement(connection, session, start + MONTH, end + MONTH))
    best, beside = min(columns), min(rows)
    return Line(
        what=f"replacing {what}: {best.count:,} datapoints, {best.decompressed:,} decompressed",
        value=1000 * best.seconds,
        unit="ms",
        ratio=best.seconds / beside.seconds,
        beside=f"row store, {1000 * beside.seconds:.3g} ms",
    )


@dataclass(frozen=True, slots=True, order=True)
class Replacement:
    """How long it took, for how many datapoints, and how many had to be decompressed."""

    seconds: float
    count: int
    decompressed: int


async def _replacement(
    connection: asyncpg.Connection,
    session: DataSession,
    start: datetime,
    end: datetime,
    *,
    keep: bool = False,
) -> Replacement:
    scope = UUID(session.id), start, end, [UUID(one.id_container_data_latest) for one in session.datasets]
    await connection.execute(f"VACUUM {ROWS}")
    await connection.execute("TRUNCATE came")
    await connection.execute(f"INSERT INTO came {select_stretch(DATAPOINTS)}", *scope)
    count = await connection.fetchval("SELECT count(*) FROM came")
    transaction = connection.transaction()
    await transaction.start()
    began = perf_counter()
    plan = await connection.fetch(
        f"EXPLAIN (ANALYZE, TIMING off, COSTS off) {delete_stretch(DATAPOINTS)}", *scope
    )
    await connection.execute(f"INSERT INTO {ROWS} SELECT * FROM came")  # noqa: S608 - constants
    seconds = perf_counter() - began
    await (transaction.commit() if keep else transaction.rollback())
    found = re.search(r"Tuples decompressed: (\d+)", "\n".join(line for (line,) in plan))
    return Replacement(seconds, count, int(found[1]) if found else 0)


async def _compressed_again(connection: asyncpg.Connection) -> Line:
    """A chunk of which a session was replaced, before and after its policy's job."""
    session = next(iter(LONG))
    start, end = (datetime.fromtimestamp(each, UTC) for each in (session.start, session.end))
    await _replacement(connection, session, start, end, keep=True)
    replaced = await _first_chunk(connection)
    await _run_jobs(connection, COMPRESSION)
    await connection.execute(f"VACUUM {ROWS}")
    again = await _first_chunk(connection)
    return Line(
        what="chunk of which a long session was replaced",
        value=replaced,
        unit="MB",
        ratio=replaced / again,
        beside=f"compressed again, {again:.3g} MB",
    )


# -- summaries -----------------------------------------------------------------------------------


async def _summaries(connection: asyncpg.Connection) -> Sequence[Line]:
    """The policies' jobs: for all that there is, and for what a backfill brings of the past."""
    everything = await _refreshed(connection, "all datapoints")
    await connection.execute(OLD, UUID(next(iter(LONG)).id))
    return [everything, await _refreshed(connection, "a session of ten years before")]


async def _refreshed(connection: asyncpg.Connection, what: str) -> Line:
    stale = await _different(connection)
    seconds = await _run_jobs(connection, REFRESH)
    return Line(
        what=f"summaries of {what}: {await _different(connection)} buckets differ, {stale:,} before",
        value=seconds,
        unit="s",
    )


async def _different(connection: asyncpg.Connection) -> int:
    return sum([await connection.fetchval(DIFFERENT % (one.width, one.view)) for one in ROLLUPS])


# -- all of them ---------------------------------------------------------------------------------


async def _load(connection: asyncpg.Connection, sessions: Iterable[DataSession]) -> int:
    """Store sessions one after the other; how many datapoints."""
    count = 0
    for session in sessions:
        samples = session.computed()
        order = np.argsort(samples.time_ms, kind="stable")
        datasets = [UUID(one.id_container_data_latest) for one in samples.datasets]
        for cut in (order[at : at + AT_ONCE] for at in range(0, len(order), AT_ONCE)):
            columns = (samples.time_ms[cut], samples.dataset[cut], samples.value[cut])
            await connection.execute(INSERT, UUID(session.id), datasets, *(one.tolist() for one in columns))
        count += len(order)
    return count


async def _compress(connection: asyncpg.Connection, table: str) -> None:
    await connection.execute(f"SELECT compress_chunk(c) FROM show_chunks('{table}') c")  # noqa: S608


async def _run_jobs(connection: asyncpg.Connection, kind: str) -> float:
    """Run policies of a kind in the order in which they were made; seconds."""
    jobs = await connection.fetch(JOBS, kind)
    began = perf_counter()
    for (job,) in jobs:
        await connection.execute(f"CALL run_job({job})")
    return perf_counter() - began


async def _size(connection: asyncpg.Connection, table: str) -> float:
    """Bytes of all chunks, indexes and all."""
    return float(await connection.fetchval("SELECT hypertable_size($1::text::regclass)", table))


async def _first_chunk(connection: asyncpg.Connection) -> float:
    """Megabytes of the oldest chunk of datapoints."""
    return float(await connection.fetchval(FIRST_CHUNK, ROWS))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
