"""The read side: what a source may know of the warehouse when it plans."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import asyncpg
import msgspec
import structlog

from sync.model import Fault, Interval, Record, StreamKey, StreamState, Survey
from sync.storage.differences import find_faults, read_differences
from sync.storage.failures import translated
from sync.storage.housekeeping import keep_house
from sync.storage.status import Status, read_status
from sync.storage.survey import read_survey

log = structlog.get_logger(__name__)


class PostgresWarehouse:
    """Reads progress, hints and a source's own tables."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def status(self) -> Status:
        """What the warehouse says of itself, in one snapshot."""
        return await read_status(self._pool)

    async def survey(self) -> Survey:
        """How the work goes, in one snapshot; cheaper than ``status``."""
        return await read_survey(self._pool)

    async def keep_house(self) -> None:
        """Add up old runs."""
        done = await keep_house(self._pool)
        log.debug("housekeeping.done", runs=done.runs, days=done.days)

    async def forget_connections(self) -> None:
        """Use none of the connections that are open: they may lead nowhere."""
        await self._pool.expire_connections()

    def connections(self) -> tuple[int, int, int]:
        """Connections that are open, those of them that are idle, and how many there may be."""
        return self._pool.get_size(), self._pool.get_idle_size(), self._pool.get_max_size()

    async def stream(self, key: StreamKey) -> StreamState:
        """A stream's progress; empty for a stream never seen."""
        rows = await self.fetch(
            """
            SELECT cursor, coverage FROM sync.stream_state
            WHERE source = $1 AND account = $2 AND stream = $3
            """,
            key.source,
            key.account,
            key.stream,
        )
        if not rows:
            return StreamState()
        cursor = rows[0]["cursor"]
        return StreamState(
            cursor=None if cursor is None else msgspec.json.decode(cursor),
            coverage=tuple(Interval(part.lower, part.upper) for part in rows[0]["coverage"]),
        )

    async def knowledge(self, source: str) -> Mapping[str, Any]:
        """Hints learned about a vendor, by name."""
        rows = await self.fetch("SELECT name, value FROM sync.knowledge WHERE source = $1", source)
        return {row["name"]: msgspec.json.decode(row["value"]) for row in rows}

    async def compare(
        self, records: Sequence[Record], *, columns: Sequence[str] | None = None
    ) -> Mapping[str, Fault]:
        """How the stored versions of records of one kind differ from these, by label; equal ones left out.

        Args:
            records: As the source has them now.
            columns: All that is known of them; None: everything is, details too.

        Raises:
            StorageUnavailable: PostgreSQL is away.
        """
        with translated():
            async with self._pool.acquire() as connection:
                return await find_faults(connection, records, columns)

    async def differences(
        self, accounts: Sequence[tuple[str, str]], since: datetime
    ) -> Sequence[Mapping[str, Any]]:
        """The open differences of some accounts (source, account), and those that were mended since then."""
        with translated():
            return await read_differences(self._pool, accounts, since)

    async def now(self) -> datetime:
        """The warehouse's clock."""
        with translated():
            moment: datetime = await self._pool.fetchval("SELECT now()")
            return moment

    async def fetch(self, query: str, *args: Any) -> Sequence[Mapping[str, Any]]:
        """Rows of a query; JSON columns come as text.

        Raises:
            StorageUnavailable: PostgreSQL is away.
        """
        with translated():
            rows: Sequence[Mapping[str, Any]] = await self._pool.fetch(query, *args)
            return rows
