"""The server that everything is written to, and a new database on it for every figure."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, Final
from urllib.parse import urlsplit

import asyncpg

from bench.size import Size
from sync.storage.embedded import EmbeddedPostgres
from sync.storage.migrate import migrate

SHOWN: Final = (
    "server_version",
    "fsync",
    "synchronous_commit",
    "shared_buffers",
    "max_wal_size",
    "wal_level",
)
_PREFIX: Final = "nightshift_bench_"


@dataclass(frozen=True, slots=True)
class Bench:
    """What a figure needs.

    Attributes:
        size: How much to measure.
        folder: For its files; the server's account may pass through it.
        dsn: The server.
    """

    size: Size
    folder: Path
    dsn: str

    @asynccontextmanager
    async def database(self, name: str) -> AsyncIterator[str]:
        """A new database with the program's schema; dropped in the end."""
        async with self.empty_database(name) as dsn:
            await migrate(dsn)
            yield dsn

    @asynccontextmanager
    async def empty_database(self, name: str) -> AsyncIterator[str]:
        """A new database; dropped in the end."""
        name = _PREFIX + name
        server = await asyncpg.connect(self.dsn)
        try:
            await server.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
            await server.execute(f"CREATE DATABASE {name}")
            try:
                dsn = _named(self.dsn, name)
                if await server.fetchval("SELECT true FROM pg_extension WHERE extname = 'timescaledb'"):
                    async with connected(dsn) as connection:
                        await connection.execute("CREATE EXTENSION IF NOT EXISTS timescaledb")
                yield dsn
            finally:
                await server.execute(f"DROP DATABASE {name} WITH (FORCE)")
        finally:
            await server.close()

    @property
    def exchange(self) -> Path:
        """A folder that this process and the server write to."""
        folder = self.folder / "exchange"
        folder.mkdir(exist_ok=True)
        folder.chmod(0o777)
        return folder

    def own(self, name: str) -> Path:
        """A new folder for files of one run of the program."""
        folder = self.folder / name
        folder.mkdir(parents=True)
        return folder


@asynccontextmanager
async def server(size: Size, folder: Path, dsn: str | None) -> AsyncIterator[Bench]:
    """The server of a DSN, or an embedded one with its users' settings."""
    folder.chmod(0o711)  # the embedded server's account has to pass
    if dsn is not None:
        yield Bench(size, folder, dsn)
        return
    async with EmbeddedPostgres(folder / "postgres").running() as embedded:
        yield Bench(size, folder, embedded)


async def facts(dsn: str) -> dict[str, Any]:
    """The server's settings that figures depend on."""
    async with connected(dsn) as connection:
        shown = {name: await connection.fetchval(f"SHOW {name}") for name in SHOWN}
        extension = "SELECT extversion FROM pg_extension WHERE extname = 'timescaledb'"
        licence = "SELECT current_setting('timescaledb.license', true)"
        return shown | {
            "timescaledb": await connection.fetchval(extension),
            "timescaledb_licence": await connection.fetchval(licence),
        }


@asynccontextmanager
async def connected(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection without time limits."""
    connection = await asyncpg.connect(dsn, server_settings={"TimeZone": "UTC"})
    try:
        yield connection
    finally:
        await connection.close()


async def export(connection: asyncpg.Connection, table: str, path: Path) -> None:
    """Have the server write a table to a file, encoded for COPY."""
    # As a query, because a hypertable's own COPY is empty.
    await connection.execute(f"COPY (SELECT * FROM {table}) TO '{path}' (FORMAT binary)")  # noqa: S608


async def copied(connection: asyncpg.Connection, table: str, path: Path) -> float:
    """Seconds in which the server reads such a file into an empty table, by itself.

    The table was emptied in an earlier transaction: under ``wal_level = minimal`` the same one would save
    the log, which no loader that keeps what it has can do.
    """
    await connection.execute("CHECKPOINT")
    began = perf_counter()
    await connection.execute(f"COPY {table} FROM '{path}' (FORMAT binary)")
    return perf_counter() - began


def _named(dsn: str, database: str) -> str:
    parts = urlsplit(dsn)
    query = f"?{parts.query}" if parts.query else ""
    return f"{parts.scheme}://{parts.netloc}/{database}{query}"
