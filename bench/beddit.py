"""Nights a second from the emulated cloud into PostgreSQL, beside the limit: the same rows by COPY alone.

    python bench/beddit.py [NIGHTS]

Every figure comes from one run on one machine; the ratios are what can be compared.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path
from time import perf_counter
from typing import Any

import structlog

from sync.emulators.beddit import BedditCloud, Study
from sync.engine.runner import Engine
from sync.model import Rows, Task
from sync.observe.display import Counts
from sync.sources.beddit.blob import DueBlob, decode_blob
from sync.sources.beddit.decode import decode_session
from sync.sources.beddit.settings import Account, BedditSettings
from sync.sources.beddit.source import BedditSource
from sync.storage.copy import encode
from sync.storage.database import open_pool
from sync.storage.embedded import EmbeddedPostgres
from sync.storage.ledger import PostgresLedger
from sync.storage.migrate import migrate
from sync.storage.progress import PostgresWarehouse
from sync.storage.sink import PostgresSink
from sync.transport import HostGates, Limits


async def main(nights: int) -> None:
    """Print the table."""
    study = Study(users=(1,), nights=nights)
    with tempfile.TemporaryDirectory(prefix="nightshift-bench-") as name:
        folder = Path(name)
        folder.chmod(0o711)
        async with EmbeddedPostgres(folder / "postgres").running() as dsn:
            await migrate(dsn)
            async with open_pool(dsn) as pool:
                parts = await asyncio.to_thread(decoded, study, folder)
                limit = await timed(copy_alone(pool, [list(encode(part)) for part in parts]))
                await pool.execute("TRUNCATE beddit.track_arrays, beddit.sample_chunks")
                whole = await timed(end_to_end(pool, study, folder))
    print(f"{nights} nights, with raw signal")
    print(f"{'COPY of encoded rows alone':<32}{nights / limit:>8.1f} nights/s")
    print(f"{'cloud to warehouse':<32}{nights / whole:>8.1f} nights/s{limit / whole:>8.2f} of the limit")
    print("(the emulated cloud makes and serves the nights in the same process and is part of the second)")


async def timed(work: Awaitable[Any]) -> float:
    """Seconds that some work takes."""
    began = perf_counter()
    await work
    return perf_counter() - began


def decoded(study: Study, folder: Path) -> list[list[Rows]]:
    """The study's large tables, table by table."""
    tracks: list[Rows] = []
    chunks: list[Rows] = []
    for night in study.nights_of(1):
        record = decode_session(night.record().text(), 1).record
        assert record is not None  # noqa: S101
        tracks.append(record.details[0])
        for track, kind, rate in (("normal", "uint16", 28), ("noise", "float32", 2)):
            spool = folder / f"{night.session_id}.{track}"
            spool.write_bytes(night.blob(track))
            due = DueBlob(
                1,
                night.session_id,
                track,
                kind,
                rate,
                0.2,
                night.frames,
                night.start_timestamp,
                None,
                None,
                bytes(32),
                0,
            )
            chunks.extend(decode_blob(due, spool, b"").details)
    return [tracks, chunks]


async def copy_alone(pool: Any, encoded: list[list[bytes]]) -> None:
    """Write rows that were encoded before."""

    async def pieces(stream: list[bytes]) -> AsyncIterator[bytes]:
        for piece in stream:
            yield piece

    async with pool.acquire() as connection, connection.transaction():
        for table, stream in zip(("track_arrays", "sample_chunks"), encoded, strict=True):
            await connection.copy_to_table(
                table, schema_name="beddit", source=pieces(stream), format="binary"
            )


async def end_to_end(pool: Any, study: Study, folder: Path) -> None:
    """Read everything from an emulated cloud."""
    async with BedditCloud(study) as cloud:
        settings = BedditSettings(
            cloud.base_url,
            {"one": Account(1, cloud.token(1))},
            folder / "spool",
            allow_private_blob_hosts=True,
        )
        source = BedditSource(
            settings, PostgresWarehouse(pool), HostGates(), Limits(requests_per_second=10_000)
        )
        outcomes = await Engine(PostgresSink(pool), PostgresLedger(pool), Counts()).run(
            source, Task("once"), ["one"]
        )
        await source.aclose()
        if outcomes[0].error:
            raise outcomes[0].error


if __name__ == "__main__":
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 40))
