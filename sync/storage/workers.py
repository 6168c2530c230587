"""The processes that share a warehouse: each says that it lives, and takes over from those who fell silent.

A worker is one row of ``sync.workers``; all its connections carry its number in their name. Time is told by
the database alone. To take over is, in this order: end the silent worker's connections (a frozen process may
hold locks that nobody else would ever get past), remove its row, end its runs (the fence: see ``sink``), free
its accounts. Should it wake up, it finds its row gone, and what it still tries to store is refused.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

import asyncpg
import structlog

from sync.errors import LeaseLost, StorageUnavailable
from sync.storage.database import CONNECT_TIMEOUT_S, connecting, prepare
from sync.storage.failures import translated

log = structlog.get_logger(__name__)

NAME = "nightshift"
"""What our connections call themselves."""

_SILENT = "heartbeat_at < now() - lease"

_STRAYS = f"""
    SELECT a.pid FROM pg_stat_activity a
    WHERE a.datname = current_database() AND a.application_name ~ '^{NAME}:[0-9]+$'
      AND NOT EXISTS (SELECT FROM sync.workers w WHERE a.application_name = '{NAME}:' || w.worker_id)
"""  # noqa: S608 - constants
_OF_SILENT = f"""
    SELECT a.pid FROM pg_stat_activity a
    WHERE a.datname = current_database() AND a.application_name = $2
      AND EXISTS (SELECT FROM sync.workers WHERE worker_id = $1 AND {_SILENT})
"""  # noqa: S608 - constants


def connection_name(worker: int) -> str:
    """What a worker's connections call themselves, in ``pg_stat_activity.application_name``."""
    return f"{NAME}:{worker}"


@dataclass(frozen=True, slots=True)
class Silent:
    """A worker that was not heard of for longer than its lease."""

    worker: int
    command: str
    host: str
    pid: int


class PostgresWorker:
    """This process among those that share the warehouse; has a connection of its own for that."""

    def __init__(self, dsn: str, lease: timedelta) -> None:
        self._dsn = dsn
        self._lease = lease
        self._connection: asyncpg.Connection | None = None
        self.number = 0
        """Who we are; 0 before ``enrol``."""

    @property
    def _patience_ms(self) -> int:
        """How long a heartbeat waits for a lock: less than a beat."""
        return round(self._lease.total_seconds() * 1000 / 8)

    @property
    def name(self) -> str:
        """What our connections are to call themselves."""
        return connection_name(self.number)

    async def enrol(self, command: str, version: str) -> None:
        """Become one of the workers.

        Args:
            command: What the process does, as its user called it.
            version: Which nightshift it is.

        Raises:
            StorageUnavailable: PostgreSQL is away.
        """
        connection = await self._connected()
        with translated():
            self.number = await connection.fetchval(
                """
                INSERT INTO sync.workers (command, host, pid, version, lease)
                VALUES ($1, $2, $3, $4, $5) RETURNING worker_id
                """,
                command,
                socket.gethostname(),
                os.getpid(),
                version,
                self._lease,
            )
            await self._call_ourselves(connection)

    async def beat(self) -> Sequence[Silent]:
        """Say that we live, and take over from those who do not.

        Returns:
            Those whose accounts are free now.

        Raises:
            LeaseLost: Others have taken us for dead: our number is worth nothing any more.
            StorageUnavailable: PostgreSQL is away.
        """
        try:
            return await self._beat(await self._connected())
        except StorageUnavailable:
            await self.aclose()  # a connection that hangs would hang again
            raise

    async def _beat(self, connection: asyncpg.Connection) -> Sequence[Silent]:
        with translated():
            alive = await connection.fetchval(
                "UPDATE sync.workers SET heartbeat_at = now() WHERE worker_id = $1 RETURNING true",
                self.number,
            )
            if not alive:
                raise LeaseLost("this process was silent for too long, and others took over its accounts")
            await _end_strays(connection)
            silent = await connection.fetch(
                f"SELECT worker_id, command, host, pid FROM sync.workers WHERE {_SILENT} ORDER BY worker_id"  # noqa: S608
            )
            return [found for row in silent if await _take_over(connection, found := Silent(*row))]

    async def leave(self) -> None:
        """Be no worker any more; what was still held is free. Our other connections have to be closed."""
        try:
            connection = await self._connected()
            with translated():
                async with connection.transaction():
                    await _remove(connection, self.number, "interrupted", "its process ended")
        finally:
            await self.aclose()

    async def aclose(self) -> None:
        """Close the connection, without a word to anybody."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.terminate()

    async def _connected(self) -> asyncpg.Connection:
        if self._connection is None or self._connection.is_closed():
            with connecting():
                self._connection = await asyncpg.connect(
                    self._dsn,
                    timeout=CONNECT_TIMEOUT_S,
                    command_timeout=self._lease.total_seconds() / 2,
                    server_settings={
                        "application_name": NAME,
                        "lock_timeout": f"{self._patience_ms}ms",
                    },
                )
            await prepare(self._connection)
            if self.number:
                with translated():
                    await self._call_ourselves(self._connection)
        return self._connection

    async def _call_ourselves(self, connection: asyncpg.Connection) -> None:
        await connection.execute("SELECT set_config('application_name', $1, false)", self.name)


async def _take_over(connection: asyncpg.Connection, silent: Silent) -> bool:
    """Free what a silent worker held; False when it spoke in the meantime, or another was quicker."""
    await _end(connection, await _pids(connection, _OF_SILENT, silent.worker, connection_name(silent.worker)))
    try:
        still = await _remove_silent(connection, silent)
    except asyncpg.LockNotAvailableError:  # the next heartbeat tries again
        return False
    if still:
        log.warning(
            "worker.lost", worker=silent.worker, command=silent.command, host=silent.host, pid=silent.pid
        )
    return still


async def _remove_silent(connection: asyncpg.Connection, silent: Silent) -> bool:
    async with connection.transaction():
        still = await connection.fetchval(
            f"SELECT true FROM sync.workers WHERE worker_id = $1 AND {_SILENT} FOR UPDATE",  # noqa: S608
            silent.worker,
        )
        if still:
            await _remove(connection, silent.worker, "lost", "its process fell silent")
    return bool(still)


async def _remove(connection: asyncpg.Connection, worker: int, outcome: str, error: str) -> None:
    await connection.execute("DELETE FROM sync.workers WHERE worker_id = $1", worker)
    await connection.execute(
        """
        UPDATE sync.run_log SET outcome = $2, finished_at = now(), error = coalesce(error, $3)
        WHERE worker_id = $1 AND outcome = 'running'
        """,
        worker,
        outcome,
        error,
    )
    await connection.execute(
        """
        UPDATE sync.leases SET worker_id = NULL, work = NULL, cycles = cycles - coalesce(work, '')
        WHERE worker_id = $1
        """,
        worker,
    )


async def _pids(connection: asyncpg.Connection, query: str, *args: object) -> set[int]:
    return {row["pid"] for row in await connection.fetch(query, *args)}


async def _end_strays(connection: asyncpg.Connection) -> None:
    """End connections of workers that are none any more: woken up, and perhaps frozen again while they tried.

    Looked for twice: who enrolled while we were looking has a row the second time.
    """
    if suspects := await _pids(connection, _STRAYS):
        await _end(connection, suspects & await _pids(connection, _STRAYS))


async def _end(connection: asyncpg.Connection, pids: set[int]) -> None:
    """End connections, without waiting: whoever needs what they hold waits for that."""
    try:
        await connection.fetch("SELECT pg_terminate_backend(pid) FROM unnest($1::int[]) AS pid", sorted(pids))
    except asyncpg.InsufficientPrivilegeError:  # what they hold stays locked; they can commit nothing
        log.warning(
            "worker.not_terminated",
            advice="a lost process used another database role: let all processes use the same one",
        )
