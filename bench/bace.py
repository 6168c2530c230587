"""Requests for the data of an account, beside the fewest possible, and beside plain halving.

    python bench/bace.py [SESSIONS]

The whole way from the emulated cloud into PostgreSQL, beginning without any knowledge of the server, so that
what it costs to learn its interval lengths is part of the figure. The bound is a greedy cover of the sample
times by intervals that are no longer than the raw length and hold one page at most, session by session. Plain
halving splits each session's time until an answer is raw and fits on a page; it is even told the raw length.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import structlog

from sync.emulators.bace import BaceCloud, Behaviour, Fleet, Kind
from sync.engine.runner import Engine
from sync.model import Task
from sync.observe.display import Counts
from sync.sources.bace.settings import Account, BaceSettings
from sync.sources.bace.source import BaceSource
from sync.storage.database import Pool, open_pool
from sync.storage.embedded import EmbeddedPostgres
from sync.storage.ledger import PostgresLedger
from sync.storage.migrate import migrate
from sync.storage.progress import PostgresWarehouse
from sync.storage.sink import PostgresSink
from sync.transport import HostGates, Limits

Ints = npt.NDArray[np.int64]

MARGIN: Final = 60_000
GOAL: Final = 1.10
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


async def main(sessions: int) -> None:
    """Print the table."""
    print(f"requests for data ÷ the fewest possible, {sessions} sessions an account, learning included")
    print(f"{'':<28}{'raw up to':>10}{'bound':>8}{'asked':>8}{'ratio':>8}{'halving':>9}")
    with tempfile.TemporaryDirectory(prefix="nightshift-bench-") as name:
        folder = Path(name)
        folder.chmod(0o711)
        async with EmbeddedPostgres(folder / "postgres").running() as dsn:
            await migrate(dsn)
            async with open_pool(dsn) as pool:
                for title, fleet in FLEETS.items():
                    for raw in RAW_LENGTHS:
                        cost = await measured(pool, folder, sized(fleet, sessions), raw)
                        print(
                            f"{title:<28}{raw:>8} s{cost.bound:>8}{cost.asked:>8}"
                            f"{cost.asked / cost.bound:>8.3f}{cost.halving / cost.bound:>9.2f}"
                        )
    print(f"(the goal is {GOAL})")


def sized(fleet: Fleet, sessions: int) -> Fleet:
    """The same devices with so many sessions."""
    return Fleet(kinds=fleet.kinds, gap=fleet.gap, sessions=sessions)


async def measured(pool: Pool, folder: Path, fleet: Fleet, raw: int) -> Cost:
    """Load an account into an empty warehouse."""
    await pool.execute(
        "TRUNCATE bace.session_records, bace.session_access, bace.session_loads, bace.session_checks,"
        " bace.datapoint_rows, sync.stream_state, sync.knowledge"
    )
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


if __name__ == "__main__":
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 100))
