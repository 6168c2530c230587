"""The warehouse: whether it can be worked in, and by whom it is."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Final

from sync.app.warehouse import embedded_in, open_dsn
from sync.commands.check.clocks import compare_clocks
from sync.commands.check.finding import Finding, note
from sync.config import Settings
from sync.errors import SyncError
from sync.storage.inspection import Inspection, inspect
from sync.storage.migrate import known_versions, may_not_create, newest_version, schema_version

SHOWN: Final = 5
"""Grants that are written out."""

ROLE_SCRIPT: Final = "config/postgresql/role.sql"


async def check_database(settings: Settings) -> AsyncIterator[Finding]:
    """The server, our role, the schema, and who else is there."""
    if settings.warehouse.dsn is None and not embedded_in(settings.state_dir).is_initialised():
        yield Finding("database", True, "embedded PostgreSQL; it is created by the first command that works")
        return
    try:
        async with open_dsn(settings) as dsn:
            seen = await inspect(dsn)
            for finding in _server(seen, settings):
                yield finding
            if seen.has_schemas:
                yield _privileges(seen)
            yield await _schema(dsn, seen)
            for finding in _others(seen):
                yield finding
    except SyncError as error:
        yield Finding("database", False, str(error), fatal=True)


def _server(seen: Inspection, settings: Settings) -> Iterator[Finding]:
    yield _database(seen)
    if settings.warehouse.dsn is not None:
        yield _role(seen)
    yield _connections(seen, settings.warehouse.pool_size)
    yield compare_clocks("database clock", "the database", seen.clock_skew)
    yield _timescaledb(seen)


def _database(seen: Inspection) -> Finding:
    where = f"{seen.server} as {seen.role!r} in database {seen.database!r}"
    if seen.is_standby:
        what = "is a standby that takes no writes: name the primary in warehouse.dsn"
    elif seen.is_read_only:
        what = "is read-only (default_transaction_read_only): set that off for this role and database"
    elif seen.encoding != "UTF8":
        what = f"cannot store every character ({seen.encoding}): create a database with ENCODING 'UTF8'"
    else:
        return Finding("database", True, f"{where}, {seen.encoding}")
    return Finding("database", False, f"{where} {what}", fatal=True)


def _role(seen: Inspection) -> Finding:
    if seen.is_superuser:
        return note(
            "role", f"{seen.role!r} is a superuser, and need not be: {ROLE_SCRIPT} makes one that is not"
        )
    return Finding("role", True, f"{seen.role!r} is no superuser")


def _connections(seen: Inspection, pool_size: int) -> Finding:
    """Whether the pools of all processes fit; each process has a connection for its heartbeat besides."""
    wanted = max(1, len(seen.workers)) * (pool_size + 1)
    text = (
        f"{seen.connections:,} to be had, {wanted:,} wanted ({pool_size} and a heartbeat's for each process)"
    )
    if seen.connections < wanted:
        advice = "raise max_connections (or the role's or the database's limit), or lower warehouse.pool_size"
        return Finding("connections", False, f"{text}: {advice}")
    return Finding("connections", True, text)


def _timescaledb(seen: Inspection) -> Finding:
    if seen.timescaledb is not None:
        text = f"version {seen.timescaledb}, licence {seen.timescaledb_licence or 'unknown'}"
        if seen.missing_features:
            missing = "; ".join(seen.missing_features)
            return note("timescaledb", f"{text}; `nightshift migrate` would add: {missing}")
    elif seen.timescaledb_offered is not None:
        text = f"not in this database (the server has {seen.timescaledb_offered}); nothing needs it"
    else:
        text = "not on this server; nothing needs it"
    return Finding("timescaledb", True, text)


def _privileges(seen: Inspection) -> Finding:
    if not seen.lacking:
        return Finding("privileges", True, "everything in the schemas can be used")
    grants = "; ".join(f'GRANT {what} TO "{seen.role}"' for what in seen.lacking[:SHOWN])
    more = f"; and {len(seen.lacking) - SHOWN} more" if len(seen.lacking) > SHOWN else ""
    return Finding("privileges", False, f"let the owner run {ROLE_SCRIPT}, or {grants}{more}")


async def _schema(dsn: str, seen: Inspection) -> Finding:
    try:
        version = await schema_version(dsn)
    except SyncError as error:
        return Finding("schema", False, str(error), fatal=True)
    newest = newest_version()
    if version is None:
        return _no_schema(seen)
    if version == newest:
        return Finding("schema", True, f"version {version}, the newest")
    what = (
        "run `nightshift migrate`"
        if version in known_versions()
        else "a newer nightshift made it: upgrade this one"
    )
    return Finding("schema", False, f"version {version}, this nightshift needs {newest}: {what}", fatal=True)


def _no_schema(seen: Inspection) -> Finding:
    if seen.may_create:
        text = "none yet; `nightshift migrate`, or any command that works, creates it"
        return Finding("schema", True, text)
    return Finding("schema", False, f"none yet, {may_not_create(seen.role, seen.database)}", fatal=True)


def _others(seen: Inspection) -> Iterator[Finding]:
    """Who else works here, and whether what a frozen one holds could be freed."""
    alive = [
        f"{one['command']} on {one['host']} (pid {one['pid']})" for one in seen.workers if not one["gone"]
    ]
    silent = len(seen.workers) - len(alive)
    more = f" and {len(alive) - SHOWN} more" if len(alive) > SHOWN else ""
    text = f"{', '.join(alive[:SHOWN])}{more}" if alive else "nobody works here now"
    yield Finding("processes", True, f"{text}; {silent} silent, to be taken over" if silent else text)
    if seen.strangers:
        names = ", ".join(map(repr, seen.strangers))
        yield Finding(
            "taking over",
            False,
            f"nightshift works here as {names} too, whose connections {seen.role!r} may not end when they "
            "freeze: use one role for all processes",
        )
