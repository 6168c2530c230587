"""What a server with TimescaleDB adds to the schema. Everything works, and reads, the same without it.

The large tables become hypertables; where the licence allows, old chunks of datapoints become columnar, and
views of datapoints by minute, hour and day read continuous aggregates. What is there is left alone.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Final

import asyncpg
import structlog

from sync.errors import ConfigurationError
from sync.storage.database import CONNECT_TIMEOUT_S, connecting
from sync.storage.failures import translated

log = structlog.get_logger(__name__)

OLDEST_TIMESCALEDB: Final = (2, 13)
"""The first version that is told how to partition as it is told here."""

REFRESHES_IN_BATCHES: Final = (2, 19)
"""The first version that refreshes aggregates in batches; of a bucket or ten, if it is not told otherwise."""


# Chunks of 30 days: ten years are 122. Each one costs every statement that cannot leave it out a lock, and
# DELETE takes all of them before it plans; a night is in one chunk, for its session's id is when it began.
HYPERTABLES: Final = {
    "beddit.track_arrays": f"by_range('session_id', {30 * 86_400})",
    "beddit.sample_chunks": f"by_range('session_id', {30 * 86_400})",
    "bace.datapoint_rows": "by_range('time', interval '30 days')",
}


@dataclass(frozen=True, slots=True)
class Rollup:
    """A continuous aggregate, and the view that reads it.

    Attributes:
        name: The aggregate.
        view: The view, which is there without it, too.
        width: What it adds up.
        of: What it is made of: datapoints, or a finer one.
        batch: How many buckets are refreshed in one transaction: those of a chunk of datapoints.
    """

    name: str
    view: str
    width: str
    of: str
    batch: int


ROLLUPS: Final = tuple(
    Rollup(f"bace.datapoint_{unit}s", f"bace.datapoints_by_{unit}", f"1 {unit}", of, batch)
    for unit, of, batch in (
        ("minute", "bace.datapoint_rows", 43_200),
        ("hour", "bace.datapoint_minutes", 720),
        ("day", "bace.datapoint_hours", 30),
    )
)

# A row that is an average itself (of several datapoints at one instant) counts as often as it stands for.
_OF_ROWS: Final = """
    sum(value * coalesce(count, 1)) AS weighted_sum,
    sum(coalesce(count, 1)) FILTER (WHERE value IS NOT NULL) AS weight,
    min(coalesce(min_value, value)) AS min_value, max(coalesce(max_value, value)) AS max_value,
    sum(coalesce(count, 1)) AS count
"""
_OF_BUCKETS: Final = """
    sum(weighted_sum) AS weighted_sum, sum(weight) AS weight, min(min_value) AS min_value,
    max(max_value) AS max_value, sum(count) AS count
"""

_SERVER: Final = """
    SELECT (SELECT extversion FROM pg_extension WHERE extname = 'timescaledb') AS version,
           current_setting('timescaledb.license', true) = 'timescale' AS is_community
"""
_TABLES: Final = """
    SELECT t.schemaname || '.' || t.tablename AS name, h.hypertable_name IS NOT NULL AS is_hypertable,
           coalesce(h.compression_enabled, false) AS is_columnar
    FROM pg_tables t
    LEFT JOIN timescaledb_information.hypertables h
        ON (h.hypertable_schema, h.hypertable_name) = (t.schemaname, t.tablename)
    WHERE t.schemaname IN ('beddit', 'bace')
"""
# A view reads its aggregate when all that goes before has succeeded.
_READS: Final = "SELECT definition FROM pg_views WHERE schemaname || '.' || viewname = $1"


@dataclass(frozen=True, slots=True)
class Step:
    """Something that is missing.

    Attributes:
        name: What it brings, for a person.
        statements: How it comes; each on its own, outside of a transaction.
        is_needed: Whether nightshift counts on it; what is not needed may fail with a warning.
    """

    name: str
    statements: tuple[str, ...]
    is_needed: bool = True


async def add_features(dsn: str) -> Sequence[str]:
    """Give a migrated database what its server offers; the names of what was added.

    Raises:
        ConfigurationError: TimescaleDB is there, and too old, or our role may not change the tables.
        StorageUnavailable: The database went away.
    """
    with connecting():
        connection = await asyncpg.connect(dsn, timeout=CONNECT_TIMEOUT_S)
    try:
        with translated():
            await connection.execute("SELECT pg_advisory_lock(hashtext('nightshift.features'))")
            return [name async for name in _add(connection)]
    finally:
        await connection.close()


async def _add(connection: asyncpg.Connection) -> AsyncIterator[str]:
    for step in await missing_steps(connection):
        log.info("feature.begins", feature=step.name)
        try:
            for statement in step.statements:
                await connection.execute(statement)
        except asyncpg.PostgresError as error:
            if step.is_needed:
                raise
            log.warning("feature.refused", feature=step.name, error=str(error))
        else:
            yield step.name


async def missing_steps(connection: asyncpg.Connection) -> Sequence[Step]:
    """What the server offers, and the schema does not have yet.

    Raises:
        ConfigurationError: TimescaleDB is there, and too old.
    """
    server = await connection.fetchrow(_SERVER)
    if server["version"] is None:
        return []
    version = _numbers(server["version"])
    if version < OLDEST_TIMESCALEDB:
        oldest = ".".join(map(str, OLDEST_TIMESCALEDB))
        raise ConfigurationError(
            f"TimescaleDB {server['version']} is too old: nightshift needs {oldest} or newer. Update it "
            "(ALTER EXTENSION timescaledb UPDATE), or use a database without the extension"
        )
    tables = {row["name"]: row for row in await connection.fetch(_TABLES)}
    large = {name: by for name, by in HYPERTABLES.items() if name in tables}
    steps = [_hypertable(name, by) for name, by in large.items() if not tables[name]["is_hypertable"]]
    if server["is_community"] and "bace.datapoint_rows" in tables:
        if not tables["bace.datapoint_rows"]["is_columnar"]:
            steps.append(_COLUMNSTORE)
        for rollup in ROLLUPS:
            definition = await connection.fetchval(_READS, rollup.view)
            if definition is not None and rollup.name not in definition:
                steps.append(_rollup(rollup, version))
    return steps


def _numbers(version: str) -> tuple[int, ...]:
    """``2.19.3-dev`` as numbers."""
    return tuple(int(part) for part in version.partition("-")[0].split(".") if part.isdecimal())


def _hypertable(table: str, by: str) -> Step:
    statement = f"""
        SELECT create_hypertable('{table}', {by}, create_default_indexes => false, migrate_data => true)
    """
    return Step(f"{table} is a hypertable", (statement,))


# Raw signal stays in rows: its arrays are as dense as noise can be.
_COLUMNSTORE: Final = Step(
    "old datapoints are stored by column",
    (
        """
        ALTER TABLE bace.datapoint_rows SET (
            timescaledb.compress, timescaledb.compress_orderby = 'time',
            timescaledb.compress_segmentby = 'id_data_session, id_container_data_latest')
        """,
        "SELECT add_compression_policy('bace.datapoint_rows', interval '30 days', if_not_exists => true)",
    ),
    is_needed=False,
)


def _rollup(rollup: Rollup, version: tuple[int, ...]) -> Step:
    time, values = ("time", _OF_ROWS) if rollup.of == "bace.datapoint_rows" else ("bucket", _OF_BUCKETS)
    aggregate = f"""
        CREATE MATERIALIZED VIEW IF NOT EXISTS {rollup.name}
        WITH (timescaledb.continuous, timescaledb.materialized_only = false) AS
        SELECT id_data_session, id_container_data_latest,
               time_bucket(interval '{rollup.width}', {time}) AS bucket, {values}
        FROM {rollup.of} GROUP BY 1, 2, 3 WITH NO DATA
    """
    batches = f", buckets_per_batch => {rollup.batch}" if version >= REFRESHES_IN_BATCHES else ""
    # No start: what a backfill brings years later counts, too. What is newest is added when somebody asks.
    policy = f"""
        SELECT add_continuous_aggregate_policy('{rollup.name}', start_offset => NULL,
            end_offset => interval '{rollup.width}', schedule_interval => interval '15 minutes',
            if_not_exists => true{batches})
    """
    view = f"""
        CREATE OR REPLACE VIEW {rollup.view} AS
        SELECT b.id_data_session, b.id_container_data_latest, d.id_group, d.source_device, d.datatype,
               b.bucket AS time, b.weighted_sum / b.weight AS value, b.min_value, b.max_value,
               b.count::bigint AS count
        FROM {rollup.name} b LEFT JOIN bace.dataset_records d USING (id_container_data_latest)
    """
    return Step(f"{rollup.view} is kept up to date", (aggregate, policy, view), is_needed=False)
