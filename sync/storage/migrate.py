"""The schema: which version a database has, which this program brings, and the way from one to the other.

Alembic and SQLAlchemy are imported where they migrate, and only there: they take a quarter of a second, and
nearly every command finds the schema as it should be.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AbstractContextManager
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import asyncpg

from sync.errors import ConfigurationError
from sync.storage.database import CONNECT_TIMEOUT_S, connecting
from sync.storage.failures import translate, translated
from sync.storage.features import add_features

if TYPE_CHECKING:
    from sqlalchemy import Connection
    from sqlalchemy.exc import DBAPIError

LET_THE_OWNER = "let the database's owner run `nightshift migrate`"

# Alembic keeps the migration that runs in global variables: one at a time in a process.
_TURNS: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = WeakKeyDictionary()


async def migrate(dsn: str) -> Sequence[str]:
    """Bring a database to this program's schema; a no-op where it already is.

    Concurrent calls wait for each other on an advisory lock.

    Returns:
        What was added of that which the server offers beyond PostgreSQL, in words.

    Raises:
        ConfigurationError: The schema is newer than this program, or the role may not create it.
        StorageUnavailable: The database cannot be reached.
    """
    from sqlalchemy.exc import DBAPIError  # noqa: PLC0415 - see above
    from sqlalchemy.ext.asyncio import create_async_engine  # noqa: PLC0415
    from sqlalchemy.pool import NullPool  # noqa: PLC0415

    await check_not_newer(dsn)
    engine = create_async_engine(
        "postgresql+asyncpg://", async_creator=lambda: asyncpg.connect(dsn), poolclass=NullPool
    )
    turn = _TURNS.setdefault(asyncio.get_running_loop(), asyncio.Lock())
    with _scripts() as scripts, translated():
        try:
            async with turn, engine.connect() as connection:
                await connection.run_sync(_upgrade, scripts)
        except DBAPIError as error:
            raise await _unwrapped(error, dsn) from error
        finally:
            await engine.dispose()
    return await add_features(dsn)


async def _unwrapped(error: DBAPIError, dsn: str) -> Exception:
    """Our error for what asyncpg said below sqlalchemy; a defect as it is."""
    cause = error.orig.__cause__ if error.orig else None
    ours = translate(cause) if cause else None
    if isinstance(cause, asyncpg.InsufficientPrivilegeError):
        return await _not_ours(dsn) or ours or error
    return ours or error


async def _not_ours(dsn: str) -> ConfigurationError | None:
    """Why our role cannot make the schema, or change it, and who can; None where it should be able to."""
    version = await schema_version(dsn)
    with connecting():
        connection = await asyncpg.connect(dsn, timeout=CONNECT_TIMEOUT_S)
    with translated():
        try:
            role, database, may_create = await connection.fetchrow("""
                SELECT current_user::text, current_database()::text,
                       has_database_privilege(current_database(), 'CREATE')
            """)
        finally:
            await connection.close()
    if version is not None:
        return ConfigurationError(
            f"the database has schema version {version}, and {role!r} may not change it: {LET_THE_OWNER}"
        )
    if may_create:
        return None
    return ConfigurationError(f"the database has no schema yet, {may_not_create(role, database)}")


def may_not_create(role: str, database: str) -> str:
    """Tell a role without that right who makes the schema."""
    grant = f'GRANT CREATE ON DATABASE "{database}" TO "{role}"'
    return f"and {role!r} may not create it: {LET_THE_OWNER}, or {grant}"


async def ensure_schema(dsn: str, *, create: bool = True) -> None:
    """Migrate an empty database; refuse one whose schema this program does not match.

    Args:
        dsn: The database.
        create: False refuses an empty database too: looking does not change anything.

    Raises:
        ConfigurationError: The schema is older (run ``nightshift migrate``) or newer than this program.
    """
    version = await schema_version(dsn)
    if version is None and not create:
        raise ConfigurationError(
            "the database has no schema yet: `nightshift run` makes it, or, if this role may not, "
            f"{LET_THE_OWNER}"
        )
    if version is None:
        await migrate(dsn)
    elif version != await asyncio.to_thread(newest_version):
        await check_not_newer(dsn)
        raise ConfigurationError(
            f"the database has schema version {version}, this nightshift needs {newest_version()}: "
            "run `nightshift migrate`"
        )


async def check_not_newer(dsn: str) -> None:
    """Refuse a schema that this program does not know.

    Raises:
        ConfigurationError: A newer nightshift has migrated this database.
    """
    version = await schema_version(dsn)
    if version is not None and version not in await asyncio.to_thread(known_versions):
        raise ConfigurationError(
            f"the database has schema version {version}, which a newer nightshift made: upgrade nightshift "
            f"(this one knows {newest_version()})"
        )


async def schema_version(dsn: str) -> str | None:
    """The database's schema version; None where nightshift has never been.

    Raises:
        ConfigurationError: PostgreSQL refuses the connection for good.
        StorageUnavailable: It cannot be reached.
    """
    with connecting():
        connection = await asyncpg.connect(dsn, timeout=CONNECT_TIMEOUT_S)
    with translated():
        try:
            if await connection.fetchval("SELECT to_regclass('sync.alembic_version')") is None:
                return None
            version: str | None = await connection.fetchval("SELECT version_num FROM sync.alembic_version")
            return version
        finally:
            await connection.close()


def newest_version() -> str:
    """The schema version that this program brings."""
    return max(known_versions())


def known_versions() -> frozenset[str]:
    """All schema versions that this program can start from: the numbers that migrations' names begin with."""
    with _scripts() as scripts:
        return frozenset(path.name.partition("_")[0] for path in (scripts / "versions").glob("[0-9]*.py"))


def _upgrade(connection: Connection, scripts: Path) -> None:
    from alembic import command  # noqa: PLC0415 - see above
    from alembic.config import Config  # noqa: PLC0415

    config = Config()
    config.set_main_option("script_location", str(scripts).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def _scripts() -> AbstractContextManager[Path]:
    """The migrations: inside the package in a wheel, beside it in a checkout."""
    packaged = files("sync") / "migrations"
    return as_file(packaged if packaged.is_dir() else files("sync").joinpath("..", "migrations"))
