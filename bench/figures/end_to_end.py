"""Nights from the cloud to the warehouse, beside dlt, a straightforward script, and COPY alone.

The program runs as a process of its own and its start counts; the others' clocks begin after their imports.
Raw signal becomes queryable rows everywhere: one a sample with dlt and the script, arrays that a view unpacks
here. Rates are compared in rows that a query sees (points and samples), because one row a sample takes the
others hours for all nights. Their tables have no index.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from typing import Final, TypeAlias

import asyncpg

from bench.clouds import Clouds, beddit
from bench.nights import DAY, FIRST, USER, Series
from bench.peers.api import Job
from bench.program import MIB, beddit_config, nightshift, run
from bench.report import Goal, Line
from bench.warehouse import Bench, connected, copied, export

OVER_DLT: Final = Goal(least=20)
OVER_SCRIPT: Final = Goal(least=3)
OF_COPY: Final = Goal(least=0.6)
TABLES: Final = ("beddit.track_arrays", "beddit.sample_chunks")
ROWS: Final = """
    SELECT (SELECT coalesce(sum(cardinality(offsets)), 0) FROM beddit.track_arrays)
         + (SELECT coalesce(sum(sample_count), 0) FROM beddit.blob_records)
"""
SCRIPT: Final = "bench.peers.script"
DLT: Final = "bench.peers.dlt_load"

Others: TypeAlias = "Mapping[str, tuple[Rate | None, Goal]]"


@dataclass(frozen=True, slots=True)
class Rate:
    """Nights and rows a second of a load, and what else is to be said of it."""

    nights: float
    rows: float
    note: str = ""


async def measure(bench: Bench) -> Sequence[Line]:
    """Time-value tracks alone, then whole nights."""
    size = bench.size
    tracks = Series(nights=size.nights, hours=size.hours, raw_signal=False)
    whole = Series(nights=size.nights, hours=size.hours)
    return [
        *await _tracks(bench, tracks),
        *await _whole(bench, whole),
    ]


async def _tracks(bench: Bench, series: Series) -> Sequence[Line]:
    size = bench.size
    async with beddit(series) as cloud:
        ours, limit = await _ours(bench, cloud, series, "tracks")
        script = await _other(bench, cloud, SCRIPT, _job(series, size.nights))
        few = min(size.dlt_track_nights, size.nights)
        objects = await _dlt(bench, cloud, _job(series, few))
        arrow = await _dlt(bench, cloud, replace(_job(series, few), arrow=True))
    return [
        await _start(bench),
        *_compared("tracks", ours, limit, None, _others(script, objects, arrow)),
    ]


async def _whole(bench: Bench, series: Series) -> Sequence[Line]:
    size = bench.size
    async with beddit(series) as cloud:
        ours, limit = await _ours(bench, cloud, series, "whole")
        rows = replace(_job(series, size.script_nights), samples="rows")
        script = await _other(bench, cloud, SCRIPT, rows)
        bytea = await _other(bench, cloud, SCRIPT, replace(_job(series, size.nights), samples="bytea"))
        few = replace(_job(series, size.dlt_nights), samples="rows")
        objects = await _dlt(bench, cloud, few)
        arrow = await _dlt(bench, cloud, replace(few, arrow=True))
    return [
        *_compared("whole nights", ours, limit, OF_COPY, _others(script, objects, arrow)),
        Line(
            what="script, raw signal unqueryable (bytea)",
            value=bytea.nights,
            unit="nights/s",
            ratio=ours.nights / bytea.nights,
            beside="nightshift to it, by nights",
        ),
    ]


def _others(script: Rate, objects: Rate | None, arrow: Rate | None) -> Others:
    return {
        "script (json, COPY)": (script, OVER_SCRIPT),
        "dlt, Python objects": (objects, OVER_DLT),
        "dlt, Arrow tables": (arrow, OVER_DLT),
    }


def _compared(what: str, ours: Rate, limit: Rate, of_copy: Goal | None, others: Others) -> Iterator[Line]:
    yield Line(what=f"nightshift, {what}", value=ours.nights, unit="nights/s", note=f"{what}: {ours.note}")
    yield Line(
        what="  the same rows, encoded, COPY alone",
        value=limit.nights,
        unit="nights/s",
        ratio=ours.nights / limit.nights,
        beside="nightshift to it",
        goal=of_copy,
    )
    yield Line(what="  nightshift by rows", value=ours.rows / 1000, unit="k rows/s")
    for name, (rate, goal) in others.items():
        yield Line(
            what=f"  {name}",
            value=rate.rows / 1000 if rate else None,
            unit="k rows/s",
            ratio=ours.rows / rate.rows if rate else None,
            beside="nightshift to it",
            goal=goal,
            note="" if rate else "dlt is not installed here: `make bench` has it.",
        )


async def _start(bench: Bench) -> Line:
    """What the program takes for nothing at all, which is part of everything below."""
    async with bench.database("start") as dsn, beddit(Series(nights=0)) as cloud:
        spent, _ = await nightshift(beddit_config(bench.own("end-start"), dsn, cloud), "backfill")
    return Line(what="nightshift, nothing to read", value=spent.seconds, unit="s")


async def _ours(bench: Bench, cloud: Clouds, series: Series, name: str) -> tuple[Rate, Rate]:
    """The program, and then its own rows once more by COPY alone."""
    async with bench.database("end_to_end") as dsn:
        config = beddit_config(bench.own(f"end-{name}"), dsn, cloud)
        before = (await cloud.served()).cpu_s
        spent, _ = await nightshift(config, "backfill")
        worked = (await cloud.served()).cpu_s - before
        async with connected(dsn) as connection:
            nights = await connection.fetchval("SELECT count(*) FROM beddit.sessions")
            if nights != series.nights:
                raise SystemExit(f"{nights} nights instead of {series.nights}")
            rows = int(await connection.fetchval(ROWS))
            seconds = await _limit(bench, connection)
    note = (
        f"nightshift took {spent.seconds:.3g} s, {spent.cpu_s:.3g} s of them on a processor, and"
        f" {spent.peak / MIB:.0f} MiB;"
        f" the emulated cloud's process worked {worked:.2g} s meanwhile."
    )
    return Rate(nights / spent.seconds, rows / spent.seconds, note), Rate(nights / seconds, rows / seconds)


async def _limit(bench: Bench, connection: asyncpg.Connection) -> float:
    """Seconds in which the server reads the large tables' rows again, by itself."""
    files = {table: bench.exchange / f"{table}.copy" for table in TABLES}
    for table, path in files.items():
        await export(connection, table, path)
    await connection.execute(f"TRUNCATE {', '.join(TABLES)}")
    try:
        return sum([await copied(connection, table, path) for table, path in files.items()])
    finally:
        for path in files.values():
            path.unlink(missing_ok=True)


def _job(series: Series, nights: int) -> Job:
    return Job(
        address="",
        token="",
        user=USER,
        dsn="",
        first=FIRST + series.first * DAY,
        last=FIRST + (series.first + nights - 1) * DAY,
        samples="none",
        arrow=False,
        folder="",
    )


async def _dlt(bench: Bench, cloud: Clouds, job: Job) -> Rate | None:
    return None if find_spec("dlt") is None else await _other(bench, cloud, DLT, job)


async def _other(bench: Bench, cloud: Clouds, module: str, job: Job) -> Rate:
    """Another loader, as a process of its own that measures itself."""
    kind = f"{module.rpartition('.')[2]}-{job.samples}-{'arrow' if job.arrow else 'objects'}-{job.last}"
    folder = bench.own(kind)
    async with bench.empty_database("other") as dsn:
        told = replace(job, address=cloud.address, token=cloud.token, dsn=dsn, folder=str(folder))
        home = {"HOME": str(folder), "DLT_DATA_DIR": str(folder), "DLT_PROJECT_DIR": str(folder)}
        _, output = await run(sys.executable, "-m", module, json.dumps(asdict(told)), environment=home)
    said = json.loads(output.splitlines()[-1])
    nights = (job.last - job.first) // DAY + 1
    return Rate(nights / said["seconds"], said["rows"] / said["seconds"])
