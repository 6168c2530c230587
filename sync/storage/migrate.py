"""The schema: which version a database has, which this program brings, and the way from one to the other."""

from __future__ import annotations

import asyncio
from contextlib import AbstractContextManager
from importlib.resources import as_file, files
from pathlib import Path

import asyncpg
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from sync.errors import ConfigurationError
from sync.storage.failures import translated


async def migrate(dsn: str) -> None:
    """Bring a database to this program's schema; a no-op where it already is.

    Concurrent calls wait for each other on an advisory lock.

    Raises:
        ConfigurationError: The schema is newer than this program, or the role may not create it.
        StorageUnavailable: The database cannot be reached.
    """
    await check_not_newer(dsn)
    engine = create_async_engine(
        "postgresql+asyncpg://", async_creator=lambda: asyncpg.connect(dsn), poolclass=NullPool
    )
    with _scripts() as scripts, translated():
        try:
            async with engine.connect() as connection:
                await connection.run_sync(_upgrade, scripts)
        finally:
            await engine.dispose()


async def ensure_schema(dsn: str) -> None:
    """Migrate an empty database; refuse one whose schema this program does not match.

    Raises:
        ConfigurationError: The schema is older (run ``nightshift migrate``) or newer than this program.
    """
    version = await schema_version(dsn)
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
    with translated():
        connection = await asyncpg.connect(dsn)
        try:
            if await connection.fetchval("SELECT to_regclass('sync.alembic_version')") is None:
                return None
            version: str | None = await connection.fetchval("SELECT version_num FROM sync.alembic_version")
            return version
        finally:
            await connection.close()


def newest_version() -> str:
    """The schema version that this program brings."""
    with _scripts() as scripts:
        head = ScriptDirectory(str(scripts)).get_current_head()
    if head is None:
        raise FileNotFoundError(f"no migrations in {scripts}")
    return head


def known_versions() -> frozenset[str]:
    """All schema versions that this program can start from."""
    with _scripts() as scripts:
        return frozenset(script.revision for script in ScriptDirectory(str(scripts)).walk_revisions())


def _upgrade(connection: Connection, scripts: Path) -> None:
    config = Config()
    config.set_main_option("script_location", str(scripts).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def _scripts() -> AbstractContextManager[Path]:
    """The migrations: inside the package in a wheel, beside it in a checkout."""
    packaged = files("sync") / "migrations"
    return as_file(packaged if packaged.is_dir() else files("sync").joinpath("..", "migrations"))
