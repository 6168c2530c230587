"""The sink alone: decoded batches into empty tables, beside the server reading the same rows from a file.

Batches are as large as the program makes them, one after the other; and once more, where a run of the program
commits several side by side, as many at a time. Everything that a commit is made of counts: the record's row,
the version guard, encoding, COPY, the ledger. Rounds alternate; the best of each counts.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import perf_counter
from typing import Final
from uuid import UUID

import asyncpg
import numpy as np

from bench.nights import USER, Series, Template
from bench.report import Goal, Line
from bench.warehouse import Bench, connected, copied, export
from sync.model import Batch, Interval, Record, Rows, StreamKey, Stretch, Task
from sync.sources.bace.gathering import MOST_ROWS, together
from sync.sources.bace.tables import DATAPOINTS, SAMPLES
from sync.sources.beddit.blob import DueBlob, decode_blob
from sync.sources.beddit.decode import decode_session
from sync.sources.beddit.settings import BedditSettings
from sync.storage.database import open_pool
from sync.storage.ledger import PostgresLedger
from sync.storage.sink import PostgresSink

GOAL: Final = Goal(least=0.85)
MOST_NIGHTS: Final = 100
MOST_BLOBS: Final = 12
COMMITS: Final = 20
BATCH_BYTES: Final = BedditSettings("", {}, Path()).batch_bytes
PAGE: Final = 1_000
"""Rows of a BACE answer."""
DATASETS: Final = 5
"""Of a BACE session."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What is written.

    Attributes:
        what: Its name.
        unit: What is counted.
        count: How many of them.
        table: The large table.
        emptied: Everything else that a batch writes to.
        batches: Makes the batches, outside of what is timed.
        at_once: How many of them a run of the program commits side by side.
    """

    what: str
    unit: str
    count: int
    table: str
    emptied: str
    batches: Callable[[], Sequence[Batch]]
    at_once: int = 4  # engine.parallel_units


async def measure(bench: Bench) -> Sequence[Line]:
    """Points, samples, datapoints."""
    async with bench.database("write_path") as dsn:
        loads = await asyncio.to_thread(lambda: [_points(bench), _samples(bench), _datapoints(bench)])
        return [line for load in loads for line in await _lines(bench, dsn, load)]


async def _lines(bench: Bench, dsn: str, load: Load) -> Sequence[Line]:
    ours: dict[int, list[float]] = {at_once: [] for at_once in (1, load.at_once)}
    theirs = []
    path = bench.exchange / "write_path.copy"
    async with open_pool(dsn) as pool, connected(dsn) as connection:
        for number in range(bench.size.rounds):
            for at_once, seconds in ours.items():
                seconds.append(await _by_sink(pool, connection, load, at_once))
            if not number:
                await export(connection, load.table, path)
            await connection.execute(f"TRUNCATE {load.table}")
            theirs.append(await copied(connection, load.table, path))
    path.unlink()
    return [
        Line(
            what=load.what if at_once == 1 else f"  {at_once} commits at a time, as in a run",
            value=load.count / min(seconds) / 1e6,
            unit=f"M {load.unit}/s",
            ratio=min(theirs) / min(seconds),
            beside=f"server-side COPY, {load.count / min(theirs) / 1e6:.3g} M {load.unit}/s",
            goal=GOAL,
        )
        for at_once, seconds in ours.items()
    ]


async def _by_sink(pool: asyncpg.Pool, connection: asyncpg.Connection, load: Load, at_once: int) -> float:
    batches = iter(load.batches())
    await connection.execute(f"TRUNCATE {load.table}, {load.emptied}")
    await connection.execute("CHECKPOINT")
    run = await PostgresLedger(pool).begin("bench", "one", Task("once"))
    sink = PostgresSink(pool)

    async def commit() -> None:
        for batch in batches:
            await sink.commit(run, batch)

    began = perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(at_once):
            group.create_task(commit())
    return perf_counter() - began


STREAM: Final = StreamKey("bench", "one", "sessions")


def _points(bench: Bench) -> Load:
    """Time-value tracks, in batches of as many bytes as the program's."""
    series = Series(nights=min(MOST_NIGHTS, bench.size.nights), hours=bench.size.hours, raw_signal=False)
    records: list[tuple[int, Record]] = []
    for start, template in series:
        text = template.record(start, start + 86_400.0).text()
        record = decode_session(text, USER).record
        if record is None:
            raise AssertionError("a night that cannot be decoded")
        records.append((len(text), record))
    return Load(
        what="time-value points",
        unit="points",
        count=sum(record.size - 1 for _, record in records),
        table="beddit.track_arrays",
        emptied="beddit.session_records, beddit.track_declarations",
        batches=lambda: list(_batched(records)),
        at_once=1,
    )


def _batched(records: Sequence[tuple[int, Record]]) -> Iterator[Batch]:
    some: list[Record] = []
    size = 0
    for length, record in records:
        some.append(record)
        size += length
        if size >= BATCH_BYTES:
            yield _batch(some)
            some, size = [], 0
    if some:
        yield _batch(some)


def _batch(records: Sequence[Record]) -> Batch:
    return Batch(STREAM, records=tuple(records), read=sum(record.size for record in records))


def _samples(bench: Bench) -> Load:
    """The 140 Hz signal, a blob a batch; the spool file is read again as in the program."""
    series = Series(nights=min(MOST_BLOBS, bench.size.nights), hours=bench.size.hours)
    dues = []
    for start, template in series:
        spool = bench.folder / f"{start}.spool"
        spool.write_bytes(template.blobs["normal"])
        dues.append((due(start, template), spool))
    return Load(
        what="140 Hz samples",
        unit="samples",
        count=sum(spool.stat().st_size // 2 for _, spool in dues),
        table="beddit.sample_chunks",
        emptied="beddit.blob_records",
        batches=lambda: [_batch([decode_blob(one, spool, _sha256(spool))]) for one, spool in dues],
    )


def due(start: int, template: Template) -> DueBlob:
    """A night's 140 Hz signal, as its session declares it."""
    return DueBlob(
        user_id=USER,
        session_id=start,
        track="normal",
        data_type="uint16",
        samples_per_frame=28,
        frame_length=0.2,
        frame_count=template.night.frames,
        start_timestamp=float(start),
        ended_at=None,
        updated=None,
        session_digest=bytes(32),
        attempts=0,
    )


def _sha256(path: Path) -> bytes:
    return hashlib.sha256(path.read_bytes()).digest()


def _datapoints(bench: Bench) -> Load:
    """BACE's narrow rows: pages of a session, gathered as the program gathers them."""
    commits = max(2, COMMITS * bench.size.nights // 200)
    pages = MOST_ROWS // PAGE
    return Load(
        what="BACE datapoints",
        unit="rows",
        count=commits * pages * PAGE,
        table="bace.datapoint_rows",
        emptied="bace.session_loads",
        batches=lambda: [
            together([_page(commit * pages + number, UUID(int=1 + commit)) for number in range(pages)])
            for commit in range(commits)
        ],
    )


def _page(number: int, session: UUID) -> Batch:
    """Samples of a session, one a second, of a few datasets in turns."""
    places = np.arange(number * PAGE, (number + 1) * PAGE)
    instants = (places * 1_000_000 + 1_700_000_000_000_000).astype("M8[us]")
    first, last = (instants[place].astype("M8[ms]").item() for place in (0, -1))
    span = Interval(_utc(first), _utc(last) + timedelta(seconds=1))
    datasets = np.frombuffer(b"".join(UUID(int=7 + number).bytes for number in range(DATASETS)), "V16")
    values = np.linspace(40.0, 80.0, PAGE)
    columns = (instants, np.full(PAGE, np.void(session.bytes)), datasets[places % DATASETS], values)
    stretch = Stretch(
        series=DATAPOINTS,
        key=session,
        part=0,
        datasets=None,
        replaced=(span,),
        rows=Rows(SAMPLES, columns),
        covered=(span,),
    )
    return Batch(STREAM, stretches=(stretch,), read=PAGE)


def _utc(naive: datetime) -> datetime:
    return naive.replace(tzinfo=UTC)
