"""What a verification costs beside a full read, with differences planted in both.

    python bench/verify.py [SESSIONS [NIGHTS]]

Both emulated clouds, the whole way into PostgreSQL: read everything, plant five differences in each, verify,
repair, verify again. Printed are BACE requests and bytes of raw signal beside those of the full read; it ends
with an error unless exactly the planted differences are found, and none remains.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import structlog

from sync.emulators.bace import BaceCloud, Fleet
from sync.emulators.beddit import BedditCloud, Study
from sync.engine.runner import Engine
from sync.model import Task, Traffic
from sync.observe.display import Counts
from sync.ports import Source
from sync.sources.bace.settings import Account, BaceSettings
from sync.sources.bace.source import BaceSource
from sync.sources.beddit.settings import Account as BedditAccount
from sync.sources.beddit.settings import BedditSettings
from sync.sources.beddit.source import BedditSource
from sync.storage.database import Pool, open_pool
from sync.storage.embedded import EmbeddedPostgres
from sync.storage.ledger import PostgresLedger
from sync.storage.migrate import migrate
from sync.storage.progress import PostgresWarehouse
from sync.storage.sink import PostgresSink
from sync.transport import HostGates, Limits

GOAL: Final = 0.05
USER: Final = 1001
FAST: Final = Limits(requests_per_second=100_000, burst=1_000)
ONCE, VERIFY, REPAIR = Task("once"), Task("verify"), Task("verify", repair=True)

CHANGE_A_VALUE: Final = """
    WITH ranked AS (
        SELECT ctid, row_number() OVER (ORDER BY value) AS rank, count(*) OVER () AS rows
        FROM bace.datapoint_rows
        WHERE id_data_session = $1 AND id_container_data_latest = (
            SELECT id_container_data_latest FROM bace.datapoint_rows WHERE id_data_session = $1
            GROUP BY 1 ORDER BY count(*) DESC, 1 LIMIT 1)
    )
    UPDATE bace.datapoint_rows d SET value = value + 0.01 FROM ranked
    WHERE d.ctid = ranked.ctid AND rank = rows / 2
"""
LOSE_A_ROW: Final = """
    DELETE FROM bace.datapoint_rows WHERE ctid = (
        SELECT ctid FROM bace.datapoint_rows WHERE id_data_session = $1 ORDER BY time OFFSET 3 LIMIT 1)
"""


@dataclass(slots=True)
class Bench:
    """A source, its cloud and the warehouse."""

    pool: Pool
    source: Source

    async def run(self, task: Task) -> tuple[Traffic, float]:
        """Do a task; what it cost, and how many seconds it took."""
        engine = Engine(PostgresSink(self.pool), PostgresLedger(self.pool), Counts())
        begun = time.monotonic()
        (outcome,) = await engine.run(self.source, task, self.source.accounts)
        if outcome.error is not None:
            raise outcome.error
        return outcome.traffic, time.monotonic() - begun

    async def expect(self, planted: set[str]) -> None:
        """Exactly these differences are open."""
        rows = await self.pool.fetch(
            "SELECT item_key, kind, text FROM sync.differences WHERE resolved_at IS NULL AND source = $1"
            " ORDER BY item_key",
            self.source.name,
        )
        for row in rows:
            print(f"    {row['kind']:<9}{row['item_key']}: {row['text']}")
        found = {row["item_key"] for row in rows}
        if found != planted:
            raise AssertionError(f"not found: {planted - found}; nothing wrong with: {found - planted}")


async def bace(pool: Pool, folder: Path, sessions: int) -> None:
    """A thousand data sessions."""
    async with BaceCloud(Fleet(sessions=sessions, archived=20)) as cloud:
        given = cloud.account()
        account = Account(given.client_id, given.client_secret, given.username, given.password)
        settings = BaceSettings(cloud.base_url, {"lab": account}, folder / "tokens")
        source = BaceSource(settings, PostgresWarehouse(pool), HostGates(), FAST)
        bench = Bench(pool, source)
        full, seconds = await bench.run(ONCE)
        rows = await pool.fetchval("SELECT count(*) FROM bace.datapoint_rows")
        print(f"BACE: {sessions} sessions, {rows:,} datapoints read in {seconds:.0f} s")
        planted = await plant_in_bace(pool, cloud)
        verified, seconds = await bench.run(VERIFY)
        report("requests", verified.requests, full.requests, seconds)
        await bench.expect(planted)
        repaired, seconds = await bench.run(REPAIR)
        report("requests of the repair", repaired.requests, full.requests, seconds)
        again, seconds = await bench.run(VERIFY)
        report("requests when nothing differs", again.requests, full.requests, seconds)
        await bench.expect(set())
        await source.aclose()


async def plant_in_bace(pool: Pool, cloud: BaceCloud) -> set[str]:
    """Five differences of five kinds, far from each other."""
    counts = await pool.fetch(
        "SELECT id_data_session::text AS id FROM bace.data_sessions WHERE loaded_count > 100"
        " ORDER BY started_at"
    )
    ids = [row["id"] for row in counts]
    changed, lost, removed, gone, renamed = (ids[(2 * n + 1) * len(ids) // 10] for n in range(5))
    await pool.execute(CHANGE_A_VALUE, UUID(changed))
    await pool.execute(LOSE_A_ROW, UUID(lost))
    await pool.execute("DELETE FROM bace.session_records WHERE id_data_session = $1", UUID(removed))
    cloud.remove(gone)
    cloud.put(replace(cloud.session(renamed), label="another label"))
    return {f"{changed}/datapoints", f"{lost}/datapoints", removed, gone, renamed}


async def beddit(pool: Pool, folder: Path, nights: int) -> None:
    """A thousand nights."""
    async with BedditCloud(Study(users=(USER,), nights=nights, hours=0.5)) as cloud:
        settings = BedditSettings(
            base_url=cloud.base_url,
            accounts={"alice": BedditAccount(USER, cloud.token(USER))},
            spool=folder / "spool",
            allow_private_blob_hosts=True,
        )
        source = BedditSource(settings, PostgresWarehouse(pool), HostGates(), FAST)
        bench = Bench(pool, source)
        _, seconds = await bench.run(ONCE)
        of_blobs = await pool.fetchval("SELECT sum(byte_count)::bigint FROM beddit.blob_records")
        print(f"Beddit: {nights} nights, {of_blobs:,} bytes of raw signal read in {seconds:.0f} s")
        planted = await plant_in_beddit(pool, cloud)
        for task, what in ((VERIFY, "bytes of raw signal"), (REPAIR, "bytes of the repair")):
            cloud.forget_requests()
            _, seconds = await bench.run(task)
            report(what, await downloaded(pool, cloud.requests_to("blob")), of_blobs, seconds)
            if task is VERIFY:
                await bench.expect(planted)
        await bench.run(VERIFY)
        await bench.expect(set())
        await source.aclose()


async def downloaded(pool: Pool, requests: Sequence[Any]) -> int:
    """Bytes of the raw signals that were asked for whole."""
    total = 0
    for request in requests:
        if request.method == "GET" and "range" not in request.headers:
            _, _, _, session, track = request.path.split("/")
            total += await pool.fetchval(
                "SELECT byte_count FROM beddit.blob_records WHERE session_id = $1 AND track = $2",
                int(session),
                track,
            )
    return total


async def plant_in_beddit(pool: Pool, cloud: BedditCloud) -> set[str]:
    """Five differences of five kinds, far from each other."""
    truth = cloud.truth(USER)
    ids = sorted(truth)
    lost, damaged, put_again, gone, cut = (ids[(2 * n + 1) * len(ids) // 10] for n in range(5))
    await pool.execute("DELETE FROM beddit.session_records WHERE session_id = $1", lost)
    await pool.execute(
        'UPDATE beddit.track_arrays SET "values"[2] = "values"[2] + 1'
        " WHERE session_id = $1 AND track = 'heartbeat'",
        damaged,
    )
    cloud.put(USER, truth[put_again] | {"software": "9.9"}, updated=truth[put_again]["updated"])
    cloud.remove(USER, gone)
    await pool.execute(
        "DELETE FROM beddit.sample_chunks WHERE session_id = $1 AND track = 'normal' AND first_index = 0", cut
    )
    return {*(f"{USER}/{one}" for one in (lost, damaged, put_again, gone)), f"{USER}/{cut}/normal"}


def report(what: str, cost: int, full: int, seconds: float) -> None:
    """One line of the table."""
    print(f"  {what:<32}{cost:>12,} of {full:>14,} = {cost / full:7.2%}   {seconds:6.1f} s")


async def main(sessions: int, nights: int) -> None:
    """Both clouds, one after the other."""
    with tempfile.TemporaryDirectory(prefix="nightshift-bench-") as name:
        folder = Path(name)
        folder.chmod(0o711)
        async with EmbeddedPostgres(folder / "postgres").running() as dsn:
            await migrate(dsn)
            async with open_pool(dsn) as pool:
                await bace(pool, folder, sessions)
                await beddit(pool, folder, nights)
    print(f"(the goal is {GOAL:.0%} of a full read, in BACE requests and in bytes of raw signal)")


if __name__ == "__main__":
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    asyncio.run(main(*(int(each) for each in (sys.argv[1:] + ["1000", "1000"][len(sys.argv) - 1 :]))))
