"""Requests for the data of an account, beside the fewest possible and plain halving; datapoints a second.

The whole way from the emulated cloud into PostgreSQL, beginning without any knowledge of the server, so that
what it costs to learn its interval lengths is part of the figure. The bound is a greedy cover of the sample
times by intervals that are no longer than the raw length and hold one page at most, session by session. Plain
halving splits each session's time until an answer is raw and fits on a page; it is even told the raw length.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from bench.clouds import bace
from bench.program import bace_config, nightshift
from bench.report import Goal, Line
from bench.warehouse import Bench, connected
from sync.emulators.bace import BaceCloud, Behaviour, Fleet, Kind
from sync.engine.runner import Engine
from sync.model import Task
from sync.observe.display import Counts
from sync.sources.bace.settings import Account, BaceSettings
from sync.sources.bace.source import BaceSource
from sync.storage.database import Pool, open_pool
from sync.storage.ledger import PostgresLedger
from sync.storage.progress import PostgresWarehouse
from sync.storage.sink import PostgresSink
from sync.transport import HostGates, Limits

Ints = npt.NDArray[np.int64]

MARGIN: Final = 60_000
GOAL: Final = Goal(most=1.10)
LATENCIES_MS: Final = (0, 20, 100)
NOTE: Final = "Requests for data, what it costs to learn the server's interval lengths included."
LATENCY: Final = "What latency explains: all requests, had they always been as many at once as are allowed."
EMPTY: Final = """
    TRUNCATE bace.session_records, bace.session_access, bace.session_loads, bace.session_checks,
             bace.datapoint_rows, sync.stream_state, sync.knowledge
"""
FAST: Final = Limits(requests_per_second=100_000, burst=1_000)

FLEETS: Final = {
    "dense bursts, short pauses": Fleet(kinds=(Kind.VITALS,)),
    "dense bursts, long pauses": Fleet(kinds=(Kind.VITALS,), gap=3_000),
    "sparse batteries": Fleet(kinds=(Kind.BATTERY,)),
    "mixed devices": Fleet(),
}
RAW_LENGTHS: Final = (900, 3_600, 6 * 3_600)


@dataclass(frozen=True, slots=True)
class Cost:
    """Requests for the data of an account."""

    asked: int
    bound: int
    halving: int


async def measure(bench: Bench) -> Sequence[Line]:
    """Requests, then datapoints per second at several latencies."""
    async with bench.database("bace") as dsn:
        requests = await _requests(bench, dsn)
        return [*requests, *await _speeds(bench, dsn)]


async def _requests(bench: Bench, dsn: str) -> Sequence[Line]:
    lines = []
    async with open_pool(dsn) as pool:
        for title, fleet in FLEETS.items():
            for raw in RAW_LENGTHS:
                cost = await measured(pool, bench.folder, sized(fleet, bench.size.sessions), raw)
                halving = f"the bound ({cost.bound}); plain halving {cost.halving / cost.bound:.2f}"
                lines.append(
                    Line(
                        what=f"{title}, raw up to {raw} s",
                        value=cost.asked,
                        unit="requests",
                        ratio=cost.asked / cost.bound,
                        beside=halving,
                        goal=GOAL,
                        note=NOTE,
                    )
                )
    return lines


async def _speeds(bench: Bench, dsn: str) -> Sequence[Line]:
    fleet = sized(FLEETS["mixed devices"], bench.size.sessions)
    rates: dict[int, float] = {}
    beside: dict[int, str] = {}
    for latency in LATENCIES_MS:
        async with connected(dsn) as connection, bace(fleet, latency_s=latency / 1000) as cloud:
            await connection.execute(EMPTY)
            config = bace_config(bench.own(f"bace-{latency}"), dsn, cloud)
            spent, _ = await nightshift(config, "once")
            rows = await connection.fetchval("SELECT count(*) FROM bace.datapoint_rows")
            rates[latency] = rows / spent.seconds
            served = await cloud.served()
            waiting = sum(served.requests.values()) * latency / 1000 / Limits().concurrency
            beside[latency] = (
                f"no latency; the cloud's process worked {served.cpu_s / spent.seconds:.0%},"
                f" latency explains {waiting / spent.seconds:.0%}"
            )
    return [
        Line(
            what=f"datapoints, {latency} ms of latency",
            value=rate / 1000,
            unit="k/s",
            ratio=rate / rates[0],
            beside=beside[latency],
            note=LATENCY,
        )
        for latency, rate in rates.items()
    ]


def sized(fleet: Fleet, sessions: int) -> Fleet:
    """The same devices with so many sessions."""
    return Fleet(kinds=fleet.kinds, gap=fleet.gap, sessions=sessions)


async def measured(pool: Pool, folder: Path, fleet: Fleet, raw: int) -> Cost:
    """Load an account into an empty warehouse."""
    await pool.execute(EMPTY)
    behaviour = Behaviour(raw_up_to=raw, minutes_up_to=max(86_400, 4 * raw))
    with tempfile.TemporaryDirectory(dir=folder) as tokens:
        return await loaded(pool, Path(tokens), fleet, behaviour)


async def loaded(pool: Pool, tokens: Path, fleet: Fleet, behaviour: Behaviour) -> Cost:
    """Load an account, and compare."""
    async with BaceCloud(fleet, behaviour=behaviour) as cloud:
        given = cloud.account()
        account = Account(given.client_id, given.client_secret, given.username, given.password)
        settings = BaceSettings(cloud.base_url, {"lab": account}, tokens)
        source = BaceSource(settings, PostgresWarehouse(pool), HostGates(), FAST)
        engine = Engine(PostgresSink(pool), PostgresLedger(pool), Counts())
        try:
            (outcome,) = await engine.run(source, Task("once"), ("lab",))
        finally:
            await source.aclose()
        if outcome.error is not None:
            raise outcome.error
        asked = sum("data-downsampled" in request.path for request in cloud.requests)
        page = behaviour.data_pages_to
        sessions = cloud.sessions()
        times = [np.sort(cloud.samples(session.id).time_ms) for session in sessions]
    spans = [(one.start * 1000 - MARGIN, (one.end or one.start) * 1000 + MARGIN) for one in sessions]
    length = round(behaviour.raw_up_to * 1000)
    return Cost(
        asked=asked,
        bound=sum(fewest(one, length, page) for one in times),
        halving=sum(halved(one, *span, length, page) for one, span in zip(times, spans, strict=True)),
    )


def fewest(times: Ints, length: int, page: int) -> int:
    """A greedy cover by intervals of a length that hold one page at most."""
    intervals = at = 0
    while at < len(times):
        at = min(int(np.searchsorted(times, times[at] + length)), at + page)
        intervals += 1
    return intervals


def halved(times: Ints, start: int, end: int, length: int, page: int) -> int:
    """Requests of a client that halves until an answer is raw and fits on a page."""
    first, last = np.searchsorted(times, (start, end))
    if end - start <= length and last - first <= page:
        return 1
    middle = (start + end) // 2
    return 1 + halved(times, start, middle, length, page) + halved(times, middle, end, length, page)
