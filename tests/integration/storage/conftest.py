"""A warehouse of a test's own, and hand-made nights and raw signals to put into it."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from typing import Any

import asyncpg
import numpy as np
import pytest

from sync.model import Batch, Record, Rows, StreamKey, Tally, Task
from sync.sources.beddit.tables import BLOBS, SAMPLE_CHUNKS, SESSIONS, TRACK_ARRAYS, TRACK_DECLARATIONS
from sync.storage.database import open_pool
from sync.storage.ledger import PostgresLedger
from sync.storage.progress import PostgresWarehouse
from sync.storage.sink import PostgresSink

USER = 1001
STREAM = StreamKey("beddit", "alice", "sessions")
HANG_S = 60


@dataclass(slots=True)
class Store:
    """A sink with an open run, and a look at what it left behind."""

    dsn: str
    pool: Any
    sink: PostgresSink
    ledger: PostgresLedger
    warehouse: PostgresWarehouse
    run: int
    stream: StreamKey = STREAM
    user: int = USER

    async def commit(
        self, *records: Record, rejects: Sequence[Any] = (), stream: StreamKey = STREAM, **rest: Any
    ) -> Tally:
        """Commit one batch; what was read is what it holds. Rejects go with the first record of their key."""
        read = sum(r.size for r in records) + sum(r.counts for r in rejects)
        carried: list[Record] = []
        alone = list(rejects)
        for record in records:
            own = tuple(reject for reject in alone if reject.record_key == record.label)
            alone = [reject for reject in alone if reject not in own]
            carried.append(replace(record, rejects=own))
        batch = Batch(stream, records=tuple(carried), rejects=tuple(alone), read=read, **rest)
        return await self.sink.commit(self.run, batch)

    async def fetch(self, query: str, *args: Any) -> list[dict[str, Any]]:
        """Rows of a query, as dictionaries."""
        return [dict(row) for row in await self.pool.fetch(query, *args)]

    async def values(self, query: str, *args: Any) -> list[Any]:
        """The first column of a query."""
        return [row[0] for row in await self.pool.fetch(query, *args)]

    async def everything(self) -> dict[str, list[str]]:
        """Every row of every table, as text."""
        names = await self.values(
            "SELECT schemaname || '.' || tablename FROM pg_tables WHERE schemaname IN ('sync', 'beddit')"
        )
        return {
            name: await self.values(f"SELECT t::text FROM {name} t ORDER BY 1")  # noqa: S608
            for name in names
        }

    async def points(self, session_id: int = 1, user: int = USER) -> list[tuple[str, list[float]]]:
        """The values of a night's time-value tracks, by track."""
        rows = await self.fetch(
            "SELECT track, array_agg(value ORDER BY index) AS items FROM beddit.track_values "
            "WHERE user_id = $1 AND session_id = $2 GROUP BY track ORDER BY track",
            user,
            session_id,
        )
        return [(row["track"], row["items"]) for row in rows]

    async def physical(self, *tables: str) -> list[tuple[str, str, str]]:
        """Where rows lie and which transaction wrote them: changes with every write, even of equal rows."""
        rows = []
        for table in tables:
            rows += await self.pool.fetch(
                f"SELECT '{table}', ctid::text, xmin::text FROM {table} ORDER BY 2"  # noqa: S608
            )
        return [tuple(row) for row in rows]


def _instants(start: float, offsets: np.ndarray) -> np.ndarray:
    return np.rint((start + offsets) * 1e6).astype("M8[us]")


def make_night(  # noqa: PLR0917 - the first ones are what a version is
    session_id: int = 1,
    updated: float | None = 1.0,
    content: str = "a",
    tracks: dict[str, Sequence[float]] | None = None,
    declares: Sequence[tuple[Any, ...]] = (),
    user: int = USER,
    **columns: Any,
) -> Record:
    """Make one version of a night; ``content`` stands for its digest and is its hardware.

    Args:
        session_id: Its id and its start.
        updated: The version.
        content: What tells its content apart.
        tracks: Values by track, one a second.
        declares: (track, data type, samples per frame, has address).
        user: Whose night it is.
        columns: Other columns of its row.
    """
    details = []
    for name, values in (tracks or {}).items():
        offsets = np.arange(len(values), dtype=np.float64)
        times = _instants(session_id, offsets)
        cells = ([session_id], [user], [name], ["float32"], [None], [None], [offsets], [times])
        details.append(Rows(TRACK_ARRAYS, (*cells, [np.array(values, np.float64)])))
    for name, data_type, rate, has_address in declares:
        cells = ([session_id], [user], [name], [data_type], [rate], [has_address], [None])
        details.append(Rows(TRACK_DECLARATIONS, cells))
    row = {
        "user_id": user,
        "session_id": session_id,
        "start_timestamp": float(session_id),
        "started_at": datetime.fromtimestamp(session_id, UTC),
        "night": date(1970, 1, 1),
        "hardware": content,
        "updated": updated,
        "digest": content.encode(),
        **columns,
    }
    return Record(SESSIONS, row, tuple(details), size=1 + sum(map(len, (tracks or {}).values())))


def make_signal(
    session_id: int = 1,
    samples: Sequence[int] = (),
    *,
    chunk: int = 4096,
    updated: float | None = 1.0,
    track: str = "normal",
    user: int = USER,
    **columns: Any,
) -> Record:
    """Make one downloaded raw signal of int16, cut into chunks."""
    first = np.arange(0, len(samples), chunk)
    pieces = [np.array(samples[n : n + chunk], np.int16) for n in first.tolist()]
    nothing = [None] * len(first)
    cells = ([session_id] * len(first), [user] * len(first), [track] * len(first), first)
    details = Rows(SAMPLE_CHUNKS, (*cells, [0] * len(first), pieces, nothing, nothing, nothing))
    content = np.array(samples, "<i2").tobytes()
    row = {
        "user_id": user,
        "session_id": session_id,
        "track": track,
        "updated": updated,
        "digest": hashlib.sha256(content).digest(),
        "sha256": hashlib.sha256(content).digest(),
        "data_type": "int16",
        "samples_per_frame": 28,
        "frame_length": 0.2,
        "byte_count": 2 * len(samples),
        "sample_count": len(samples),
        "status": "complete",
        **columns,
    }
    return Record(BLOBS, row, (details,) if len(first) else (), size=1 + len(samples))


@pytest.fixture
def night() -> Callable[..., Record]:
    """Return the maker of nights."""
    return make_night


@pytest.fixture
def signal() -> Callable[..., Record]:
    """Return the maker of raw signals."""
    return make_signal


@pytest.fixture
async def store(database: str) -> AsyncIterator[Store]:
    """Open a warehouse with a run."""
    async with open_pool(database) as pool:
        ledger = PostgresLedger(pool)
        run = await ledger.begin("beddit", "alice", Task("once"))
        yield Store(database, pool, PostgresSink(pool), ledger, PostgresWarehouse(pool), run)


@pytest.fixture
async def other(database: str) -> AsyncIterator[asyncpg.Connection]:
    """Connect somebody else to the same database."""
    connection = await asyncpg.connect(database)
    yield connection
    await connection.close()


@pytest.fixture
def blocked(other: asyncpg.Connection) -> Callable[[], Awaitable[int]]:
    """Return a function that waits until a nightshift back-end waits for a lock; it returns its pid."""

    async def wait() -> int:
        query = """
            SELECT pid FROM pg_stat_activity WHERE datname = current_database()
            AND application_name = 'nightshift' AND wait_event_type = 'Lock'
        """
        async with asyncio.timeout(HANG_S):
            while True:
                pid: int | None = await other.fetchval(query)
                if pid is not None:
                    return pid
                await asyncio.sleep(0)

    return wait
