"""What a database lets us do, looked at without changing anything: the facts behind ``nightshift check``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg

from sync.storage.database import open_pool
from sync.storage.failures import translated
from sync.storage.features import missing_steps
from sync.storage.status import WORKERS


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """A server, a database in it, and our role there.

    Attributes:
        server: The server's name and version.
        encoding: How the database writes characters.
        is_standby: Whether it follows another server and takes no writes.
        is_read_only: Whether transactions are read-only by a setting.
        clock_skew: How far its clock is ahead of this machine's, the way there and back allowed for.
        timescaledb: The extension's version in this database.
        timescaledb_offered: The version that the server could install.
        timescaledb_licence: ``timescale`` or ``apache``.
        missing_features: What the schema could have of TimescaleDB, and has not.
        database: The database's name.
        role: Who we are there.
        is_superuser: Whether the role may do anything.
        may_create: Whether it may create schemas.
        has_schemas: Whether there is a schema of ours, finished or not.
        lacking: What would have to be granted to it, as GRANT has it.
        connections: How many connections nightshift may have here, those included that it has.
        strangers: Roles of other nightshift processes whose connections our role may not end.
        workers: The processes that share the warehouse, each a row by column name (see ``Status.workers``).
    """

    server: str
    encoding: str
    is_standby: bool
    is_read_only: bool
    clock_skew: timedelta
    timescaledb: str | None
    timescaledb_offered: str | None
    timescaledb_licence: str | None
    missing_features: tuple[str, ...]
    database: str
    role: str
    is_superuser: bool
    may_create: bool
    has_schemas: bool
    lacking: tuple[str, ...]
    connections: int
    strangers: tuple[str, ...]
    workers: tuple[Mapping[str, Any], ...]


_SERVER = """
    SELECT 'PostgreSQL ' || current_setting('server_version') AS server,
           current_setting('server_encoding') AS encoding,
           pg_is_in_recovery() AS is_standby,
           current_setting('default_transaction_read_only')::bool AS is_read_only,
           (SELECT extversion FROM pg_extension WHERE extname = 'timescaledb') AS timescaledb,
           (SELECT default_version FROM pg_available_extensions WHERE name = 'timescaledb')
               AS timescaledb_offered,
           current_setting('timescaledb.license', true) AS timescaledb_licence,
           current_database()::text AS database, current_user::text AS role,
           (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) AS is_superuser,
           has_database_privilege(current_database(), 'CREATE') AS may_create,
           EXISTS (SELECT FROM pg_namespace WHERE nspname IN ('sync', 'beddit', 'bace')) AS has_schemas
"""

# An identity column's sequence needs no right of its own. To ask about a sequence's rights is an error where
# it is none, and only CASE is sure to look at that first.
_LACKING = """
    WITH ours AS (
        SELECT oid, nspname FROM pg_namespace WHERE nspname IN ('sync', 'beddit', 'bace')
    )
    SELECT format('USAGE ON SCHEMA %I', nspname) FROM ours WHERE NOT has_schema_privilege(oid, 'USAGE')
    UNION ALL (
        SELECT string_agg(needed.privilege, ', ' ORDER BY needed.position)
               || format(' ON %I.%I', ours.nspname, c.relname)
        FROM ours JOIN pg_class c ON c.relnamespace = ours.oid
        CROSS JOIN LATERAL unnest(
            CASE WHEN c.relkind IN ('r', 'p') AND c.relname <> 'alembic_version'
                 THEN '{SELECT,INSERT,UPDATE,DELETE}'::text[] ELSE '{SELECT}' END)
            WITH ORDINALITY AS needed (privilege, position)
        WHERE c.relkind IN ('r', 'p', 'v', 'm') AND NOT has_table_privilege(c.oid, needed.privilege)
        GROUP BY ours.nspname, c.relname ORDER BY ours.nspname, c.relname
    )
    UNION ALL
    SELECT format('USAGE ON SEQUENCE %I.%I', ours.nspname, c.relname)
    FROM ours JOIN pg_class c ON c.relnamespace = ours.oid
    WHERE CASE WHEN c.relkind = 'S' THEN NOT has_sequence_privilege(c.oid, 'USAGE') END AND NOT EXISTS (
        SELECT FROM pg_depend d
        WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'i')
    UNION ALL
    SELECT format('EXECUTE ON FUNCTION %s', p.oid::regprocedure)
    FROM ours JOIN pg_proc p ON p.pronamespace = ours.oid
    WHERE NOT has_function_privilege(p.oid, 'EXECUTE')
"""

# Of sessions of other roles, backend_type cannot be seen.
_CONNECTIONS = """
    WITH others AS (
        SELECT datname, usename FROM pg_stat_activity
        WHERE datid IS NOT NULL AND coalesce(backend_type, 'client backend') = 'client backend'
          AND NOT (datname = current_database() AND application_name ~ '^nightshift(:[0-9]+)?$')
    )
    SELECT least(
        current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
            - coalesce(current_setting('reserved_connections', true)::int, 0)
            - (SELECT count(*) FROM others),
        (SELECT nullif(datconnlimit, -1) FROM pg_database WHERE datname = current_database())
            - (SELECT count(*) FROM others WHERE datname = current_database()),
        (SELECT nullif(rolconnlimit, -1) FROM pg_roles WHERE rolname = current_user)
            - (SELECT count(*) FROM others WHERE usename = current_user))
"""

# As pg_terminate_backend has it.
_STRANGERS = """
    SELECT DISTINCT target.rolname::text
    FROM pg_stat_activity a
    JOIN pg_roles target ON target.oid = a.usesysid
    JOIN pg_roles me ON me.rolname = current_user
    WHERE a.datname = current_database() AND a.application_name ~ '^nightshift(:[0-9]+)?$'
      AND a.pid <> pg_backend_pid() AND NOT me.rolsuper
      AND (target.rolsuper
           OR NOT (pg_has_role(target.oid, 'USAGE') OR pg_has_role('pg_signal_backend', 'USAGE')))
    ORDER BY 1
"""

_SHOWS_WORKERS = """
    SELECT has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT')
    FROM pg_namespace n JOIN pg_class c ON c.relnamespace = n.oid
    WHERE n.nspname = 'sync' AND c.relname = 'workers'
"""


async def inspect(dsn: str) -> Inspection:
    """Look at a database without changing anything.

    Raises:
        ConfigurationError: PostgreSQL refuses the connection for good, or is too old.
        StorageUnavailable: It cannot be reached.
    """
    async with open_pool(dsn, size=1) as pool:
        with translated():
            async with pool.acquire() as connection:
                shows_workers = await connection.fetchval(_SHOWS_WORKERS)
                missing = await missing_steps(connection)
                return Inspection(
                    **await connection.fetchrow(_SERVER),
                    missing_features=tuple(step.name for step in missing),
                    clock_skew=await _clock_skew(connection),
                    lacking=await _column(connection, _LACKING),
                    connections=await connection.fetchval(_CONNECTIONS),
                    strangers=await _column(connection, _STRANGERS),
                    workers=tuple(map(dict, await connection.fetch(WORKERS) if shows_workers else ())),
                )


async def _column(connection: asyncpg.Connection, query: str) -> tuple[str, ...]:
    return tuple(row[0] for row in await connection.fetch(query))


async def _clock_skew(connection: asyncpg.Connection) -> timedelta:
    """How far the database's clock is ahead of this machine's; nothing where the way may be to blame."""
    asked = datetime.now(UTC)
    theirs: datetime = await connection.fetchval("SELECT clock_timestamp()")
    answered = datetime.now(UTC)
    if asked <= theirs <= answered:
        return timedelta()
    return theirs - (answered if theirs > answered else asked)
