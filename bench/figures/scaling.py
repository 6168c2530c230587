"""Whether a night costs more in a large warehouse, and an account more among many.

A warehouse is grown by copies that the server makes itself; then the program reads new nights as a daily pass
does, and the ledger tells how long that took. A cycle without news is measured as ``once``, start and end
included, of accounts with one night each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from bench.clouds import beddit
from bench.figures.storage import multiply
from bench.nights import Series
from bench.program import Spent, beddit_config, nightshift
from bench.report import Goal, Line
from bench.warehouse import Bench, connected

GROWS_BY: Final = Goal(most=1.25)
HOURS: Final = 0.2
"""Short nights: the number of rows in a night does not matter here, that of nights does."""
NEW: Final = 100
ROUNDS: Final = 2
LAST_RUN: Final = """
    SELECT extract(epoch FROM finished_at - started_at) FROM sync.run_log ORDER BY run_id DESC LIMIT 1
"""


async def measure(bench: Bench) -> Sequence[Line]:
    """Nights, then accounts."""
    return [*await _nights(bench), *await _accounts(bench)]


async def _nights(bench: Bench) -> Sequence[Line]:
    costs: dict[int, float] = {}
    async with bench.database("scaling") as dsn, connected(dsn) as connection:
        new = min(NEW, *bench.size.scaling_nights)
        await _read(bench, dsn, Series(nights=0))
        await _read(bench, dsn, _put_now(new, first=0))
        for nights in bench.size.scaling_nights:
            known = await connection.fetchval("SELECT count(*) FROM beddit.sessions")
            await multiply(connection, round(nights / known), step=known)
            tries = [new * (1 + ROUNDS * len(costs) + number) for number in range(ROUNDS)]
            taken = []
            for first in tries:
                await _read(bench, dsn, _put_now(new, first=first))
                taken.append(float(await connection.fetchval(LAST_RUN)))
            costs[nights] = 1000 * min(taken) / new
    return _against_first(costs, "a night more, among about {:,} nights", "ms")


def _put_now(nights: int, *, first: int) -> Series:
    return Series(nights=nights, first=first, hours=HOURS, put_now=True)


async def _read(bench: Bench, dsn: str, series: Series) -> None:
    """Have the program read what is new."""
    async with beddit(series) as cloud:
        config = beddit_config(bench.own(f"scaling-{series.first}-{series.nights}"), dsn, cloud)
        await nightshift(config, "once")


async def _accounts(bench: Bench) -> Sequence[Line]:
    """Processor time of a cycle without news beyond what it takes for the fewest accounts, an account."""
    fewest, *more = bench.size.scaling_accounts
    base = (await _idle(bench, fewest)).cpu_s
    costs = {}
    for accounts in more:
        spent = await _idle(bench, accounts)
        costs[accounts] = 1000 * (spent.cpu_s - base) / (accounts - fewest)
    return _against_first(costs, "an idle account more, among {:,}", "ms of CPU")


async def _idle(bench: Bench, accounts: int) -> Spent:
    """What ``once`` takes when everything is known."""
    async with bench.database("idle") as dsn, beddit(None, users=accounts) as cloud:
        config = beddit_config(bench.own(f"idle-{accounts}"), dsn, cloud, users=accounts)
        await nightshift(config, "once")
        spent, _ = await nightshift(config, "once")
    return spent


def _against_first(costs: Mapping[int, float], what: str, unit: str) -> Sequence[Line]:
    first = next(iter(costs))
    return [
        Line(
            what=what.format(number),
            value=cost,
            unit=unit,
            ratio=cost / costs[first],
            beside=f"the same among {first:,}",
            goal=GROWS_BY if number != first else None,
        )
        for number, cost in costs.items()
    ]
