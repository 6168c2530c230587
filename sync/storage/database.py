"""Connections to the warehouse."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import TypeAlias

import asyncpg

from sync.errors import ConfigurationError, StorageUnavailable
from sync.storage.failures import translated

Pool: TypeAlias = asyncpg.Pool
"""For rooms that hand a pool on without knowing what it is."""

OLDEST_SERVER = 15
CONNECT_TIMEOUT_S = 15.0
CLOSE_TIMEOUT_S = 3.0
SEND_BUFFER = 2 << 20
"""Bytes: a piece of a COPY goes to the kernel as a whole, as far as that allows, and no rest is kept here."""

SILENCE_S = 30
"""How long a network may swallow what is sent before the connection counts as lost."""


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
            min_size=0,  # opened when needed; a pool that keeps some reports each attempt of an outage
            max_size=size,
            init=prepare,
            reset=_nothing,  # we change nothing about a connection; that would be a round trip every time
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
                # TimescaleDB would refuse the same deletion again and again; ours are bounded by themselves.
                "timescaledb.max_tuples_decompressed_per_dml_transaction": "0",
                "jit": "off",  # it costs more than it saves on statements of a few milliseconds
            },
        )
    try:
        await _refuse_old_server(pool)
        yield pool
    finally:
        await _close(pool)


async def prepare(connection: asyncpg.Connection) -> None:
    """Tell the kernel what the connection is for."""
    transport = getattr(connection, "_transport", None)  # asyncpg has no public way to the socket
    end = transport and transport.get_extra_info("socket")
    if end is None:
        return
    if end.family == socket.AF_UNIX:
        with suppress(OSError):  # it is faster with it, and works without
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)  # TCP's grows by itself
    else:
        _notice_silence(end)


def _notice_silence(end: socket.socket) -> None:
    """Have the kernel end a connection whose other side is gone without a word."""
    end.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (
        ("TCP_KEEPIDLE", SILENCE_S // 3),
        ("TCP_KEEPINTVL", SILENCE_S // 3),
        ("TCP_KEEPCNT", 2),
        ("TCP_USER_TIMEOUT", SILENCE_S * 1000),
    ):
        if hasattr(socket, option):  # not everywhere
            end.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)


async def _nothing(connection: asyncpg.Connection) -> None:
    """Leave a connection as it is when it is given back."""


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
    with connecting():  # a pool opens nothing before it is used
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
                with suppress(asyncpg.InterfaceError):  # taken away from us meanwhile: what ended us says why
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
