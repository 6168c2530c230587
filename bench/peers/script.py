"""A straightforward script: aiohttp, ``json``, asyncpg's ``copy_records_to_table``; no index."""

from __future__ import annotations

import asyncio
import json
import time
from array import array
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import aiohttp
import asyncpg

from bench.peers.api import Job, told

TABLES: Final = """
    CREATE TABLE sessions (user_id bigint, session_id bigint, started_at timestamptz, ended_at timestamptz,
                           timezone text, updated float8);
    CREATE TABLE track_values (user_id bigint, session_id bigint, track text, index int, time timestamptz,
                               value float8);
    CREATE TABLE samples (user_id bigint, session_id bigint, track text, index int, time timestamptz,
                          value float8);
    CREATE TABLE blobs (user_id bigint, session_id bigint, track text, data bytea);
"""
CODES: Final = {"uint16": "H", "float32": "f"}


async def main(job: Job) -> int:
    """Load; how many rows."""
    connection = await asyncpg.connect(job.dsn)
    await connection.execute(TABLES)
    rows = 0
    async with aiohttp.ClientSession(headers=job.headers) as client, aiohttp.ClientSession() as store:
        for question in job.questions():
            async with client.get(question) as response:
                sessions = json.loads(await response.read())
            records = [(job.user, *_session(session)) for session in sessions]
            await connection.copy_records_to_table("sessions", records=records)
            points = [row for session in sessions for row in _points(job.user, session)]
            await connection.copy_records_to_table("track_values", records=points)
            rows += len(points)
            for session in sessions if job.samples != "none" else ():
                rows += await _signals(job, connection, store, session)
    await connection.close()
    return rows


async def _signals(
    job: Job, connection: asyncpg.Connection, store: aiohttp.ClientSession, session: dict[str, Any]
) -> int:
    rows = 0
    for name, track in session["sampled_tracks"].items():
        async with store.get(track["data_url"]) as response:
            data = await response.read()
        if job.samples == "bytea":
            await connection.copy_records_to_table("blobs", records=[(job.user, session["id"], name, data)])
            continue
        samples = array(CODES[track["data_type"]], data)
        step = session["frame_length"] / track["samples_per_frame"]
        records = _samples(job.user, session, name, samples, step)
        await connection.copy_records_to_table("samples", records=records)
        rows += len(samples)
    return rows


def _session(session: dict[str, Any]) -> tuple[Any, ...]:
    times = (datetime.fromtimestamp(session[name], UTC) for name in ("start_timestamp", "end_timestamp"))
    return session["id"], *times, session["timezone"], session["updated"]


def _points(user: int, session: dict[str, Any]) -> Iterator[tuple[Any, ...]]:
    start = datetime.fromtimestamp(session["start_timestamp"], UTC)
    for name, track in session["time_value_tracks"].items():
        for index, (offset, value) in enumerate(track["items"]):
            yield user, session["id"], name, index, start + timedelta(seconds=offset), value


def _samples(
    user: int, session: dict[str, Any], name: str, samples: array[Any], step: float
) -> Iterator[tuple[Any, ...]]:
    start, key = datetime.fromtimestamp(session["start_timestamp"], UTC), session["id"]
    for index, value in enumerate(samples):
        yield user, key, name, index, start + timedelta(seconds=index * step), value


if __name__ == "__main__":
    began = time.perf_counter()
    loaded = asyncio.run(main(told()))
    print(json.dumps({"rows": loaded, "seconds": time.perf_counter() - began}))
