"""Connections to the warehouse."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TypeAlias

import asyncpg

from sync.errors import ConfigurationError, StorageUnavailable
from sync.storage.failures import translated

Pool: TypeAlias = asyncpg.Pool
"""For rooms that hand a pool on without knowing what it is."""

OLDEST_SERVER = 15
CONNECT_TIMEOUT_S = 15.0
CLOSE_TIMEOUT_S = 5.0


@asynccontextmanager
async def open_pool(
    dsn: str, *, size: int = 5, statement_timeout_s: float = 600, name: str = "nightshift"
) -> AsyncIterator[asyncpg.Pool]:
    """A pool of connections that think in UTC.

    Args:
        dsn: A libpq connection string.
        size: The most connections that are opened; they are opened when needed.
        statement_timeout_s: PostgreSQL ends a statement that takes longer.
        name: What the connections call themselves; a worker's have a number (see ``workers``).

    Raises:
        ConfigurationError: The address, the credentials or the server's age do not do.
        StorageUnavailable: The server cannot be reached.
    """
    with connecting():
        pool = await asyncpg.create_pool(
            dsn,
            min_size=1,
            max_size=size,
            timeout=CONNECT_TIMEOUT_S,
            command_timeout=statement_timeout_s + 30,
            server_settings={
                "application_name": name,
                "TimeZone": "UTC",
                "statement_timeout": f"{statement_timeout_s:.0f}s",
                # A host that is gone without a word must not hold locks for hours.
                "idle_in_transaction_session_timeout": f"{statement_timeout_s:.0f}s",
                "tcp_keepalives_idle": "30",
                "tcp_keepalives_interval": "10",
                "tcp_keepalives_count": "3",
                "jit": "off",  # it costs more than it saves on statements of a few milliseconds
            },
        )
    try:
        await _refuse_old_server(pool)
        yield pool
    finally:
        await _close(pool)


@contextmanager
def connecting() -> Iterator[None]:
    """Raise our errors where a connection is opened.

    asyncpg's word for a DSN that it cannot read is ValueError; its text may hold the password.
    """
    try:
        with translated():
            yield
    except ValueError:
        raise ConfigurationError("warehouse.dsn is not a PostgreSQL connection string") from None


async def _refuse_old_server(pool: asyncpg.Pool) -> None:
    with translated():
        async with pool.acquire() as connection:
            version = connection.get_server_version()
    if version.major < OLDEST_SERVER:
        raise ConfigurationError(
            f"PostgreSQL {version.major} is too old: nightshift needs {OLDEST_SERVER} or newer"
        )


@asynccontextmanager
async def while_connected(connection: asyncpg.Connection) -> AsyncIterator[None]:
    """End the work inside as soon as its connection is gone.

    A COPY whose server stopped reading before it went away would otherwise wait for its time-out.

    Raises:
        StorageUnavailable: The connection was lost.
    """
    loop = asyncio.get_running_loop()
    limit = asyncio.timeout(None)
    try:
        async with limit:

            def lost(_: asyncpg.Connection) -> None:
                limit.reschedule(loop.time())

            connection.add_termination_listener(lost)
            try:
                yield
            finally:
                connection.remove_termination_listener(lost)
    except TimeoutError as error:
        if not limit.expired():
            raise
        raise StorageUnavailable("PostgreSQL: the connection was lost while writing") from error


async def _close(pool: asyncpg.Pool) -> None:
    """Close politely, or at once where a connection is beyond politeness."""
    try:
        with translated():
            await asyncio.wait_for(pool.close(), CLOSE_TIMEOUT_S)
    except StorageUnavailable:
        pool.terminate()
    except BaseException:
        pool.terminate()
        raise
