"""A warehouse of a test's own, and hand-made nights and raw signals to put into it."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import numpy as np
import pytest

from sync.model import (
    Batch,
    Interval,
    Record,
    Reject,
    Rows,
    StreamKey,
    Stretch,
    Tally,
    Task,
)
from sync.sources.bace.tables import DATAPOINTS
from sync.sources.bace.tables import SESSIONS as DATA_SESSIONS
from sync.sources.beddit.tables import BLOBS, SAMPLE_CHUNKS, SESSIONS, TRACK_ARRAYS, TRACK_DECLARATIONS
from sync.storage.database import open_pool
from sync.storage.ledger import PostgresLedger
from sync.storage.progress import PostgresWarehouse
from sync.storage.sink import PostgresSink

USER = 1001
STREAM = StreamKey("beddit", "alice", "sessions")
BACE = StreamKey("bace", "lab", "data")
ZERO = datetime(2022, 3, 30, 12, tzinfo=UTC)

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
        stretches: Sequence[Stretch] = rest.get("stretches", ())
        read = sum(r.size for r in records) + sum(r.counts for r in rejects)
        read += sum(len(s.rows) + sum(r.counts for r in s.rejects) for s in stretches)
        carried: list[Record] = []
        alone = list(rejects)
        for record in records:
            own = tuple(reject for reject in alone if reject.record_key == record.label)
            alone = [reject for reject in alone if reject not in own]
            carried.append(replace(record, rejects=own))
        batch = Batch(stream, records=tuple(carried), rejects=tuple(alone), read=read, **rest)
        return await self.sink.commit(self.run, batch)

    async def store(self, *stretches: Stretch, stream: StreamKey = BACE, **rest: Any) -> Tally:
        """Commit one batch of stretches."""
        return await self.commit(stretches=stretches, stream=stream, **rest)

    async def fetch(self, query: str, *args: Any) -> list[dict[str, Any]]:
        """Rows of a query, as dictionaries."""
        return [dict(row) for row in await self.pool.fetch(query, *args)]

    async def values(self, query: str, *args: Any) -> list[Any]:
        """The first column of a query."""
        return [row[0] for row in await self.pool.fetch(query, *args)]

    async def everything(self) -> dict[str, list[str]]:
        """Every row of every table, as text."""
        names = await self.values(
            "SELECT schemaname || '.' || tablename FROM pg_tables "
            "WHERE schemaname IN ('sync', 'beddit', 'bace')"
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
        declares: (track, data type, samples per frame).
        user: Whose night it is.
        columns: Other columns of its row.
    """
    details = []
    for name, values in (tracks or {}).items():
        offsets = np.arange(len(values), dtype=np.float64)
        times = _instants(session_id, offsets)
        cells = ([session_id], [user], [name], ["float32"], [None], [None], [offsets], [times])
        details.append(Rows(TRACK_ARRAYS, (*cells, [np.array(values, np.float64)])))
    for name, data_type, rate in declares:
        cells = ([session_id], [user], [name], [data_type], [rate], [None])
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


def make_span(start: float, end: float) -> Interval:
    """Make an interval from one second of the tests' time to another."""
    return Interval(ZERO + timedelta(seconds=start), ZERO + timedelta(seconds=end))


def make_stretch(
    spans: Sequence[tuple[float, float]],
    points: Sequence[tuple[Any, ...]] = (),
    *,
    session: int = 1,
    part: int = 0,
    datasets: Sequence[int] | None = None,
    rejects: Sequence[tuple[Any, ...]] = (),
    covered: Sequence[tuple[float, float]] | None = None,
    uncovered: Sequence[tuple[float, float]] = (),
    reset: bool = False,
) -> Stretch:
    """Make what some seconds of a data session hold.

    Args:
        spans: The seconds that were read.
        points: (second, data set, value), or (second, data set, value, min, max, count).
        session: Which data session.
        part: Which group of data sets.
        datasets: The group.
        rejects: (second, name, items) or (second, name).
        covered: What is proved; what was read, unless given.
        uncovered: What shall be read again.
        reset: Whether coverage is forgotten.
    """
    key = UUID(int=session)
    full = [(*point, None, None, None)[:6] for point in points]
    seconds, sets, values, lows, highs, counts = zip(*full, strict=True) if full else ((),) * 6
    start = np.datetime64(ZERO.replace(tzinfo=None), "us")
    times = start + np.rint(np.array(seconds, np.float64) * 1e6).astype("m8[us]")
    columns = (times, [key] * len(full), [UUID(int=n) for n in sets], list(values), lows, highs, counts)
    return Stretch(
        DATAPOINTS,
        key,
        part,
        None if datasets is None else tuple(UUID(int=n) for n in datasets),
        replaced=tuple(make_span(*span) for span in spans),
        rows=Rows(DATAPOINTS.table, columns),
        rejects=tuple(
            Reject(
                str(key),
                f"{key}/{name}",
                "no number",
                instant=ZERO + timedelta(seconds=at),
                items=sum(rest or (1,)),
            )
            for at, name, *rest in rejects
        ),
        covered=tuple(make_span(*span) for span in (spans if covered is None else covered)),
        uncovered=tuple(make_span(*span) for span in uncovered),
        reset=reset,
    )


def make_data_session(session: int = 1, stamp: float = 1.0, content: str = "a", **columns: Any) -> Record:
    """Make one version of a data session that has ended; ``content`` stands for its digest."""
    row = {
        "id_data_session": UUID(int=session),
        "started_at": ZERO,
        "ended_at": ZERO + timedelta(hours=1),
        "is_ingestion_finished": True,
        "updated_at_seconds": stamp,
        "digest": content.encode(),
        **columns,
    }
    return Record(DATA_SESSIONS, row)


@pytest.fixture
def span() -> Callable[[float, float], Interval]:
    """Return the maker of intervals."""
    return make_span


@pytest.fixture
def stretch() -> Callable[..., Stretch]:
    """Return the maker of stretches."""
    return make_stretch


@pytest.fixture
def data_session() -> Callable[..., Record]:
    """Return the maker of data sessions."""
    return make_data_session


@pytest.fixture
def night() -> Callable[..., Record]:
    """Return the maker of nights."""
    return make_night


@pytest.fixture
def signal() -> Callable[..., Record]:
    """Return the maker of raw signals."""
    return make_signal


@asynccontextmanager
async def open_store(dsn: str) -> AsyncIterator[Store]:
    """Open a warehouse with a run."""
    async with open_pool(dsn) as pool:
        ledger = PostgresLedger(pool)
        run = await ledger.begin("beddit", "alice", Task("once"))
        yield Store(dsn, pool, PostgresSink(pool), ledger, PostgresWarehouse(pool), run)


@pytest.fixture
async def store(database: str) -> AsyncIterator[Store]:
    """Open the test's own warehouse."""
    async with open_store(database) as opened:
        yield opened


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
