"""What is away for a while: told once when it begins and once when it ends, and waited for in between."""

from __future__ import annotations

import json

import asyncpg
import pytest

from sync.emulators.beddit import BedditCloud, Fault, Study
from sync.storage.embedded import EmbeddedPostgres
from tests.integration.beddit.conftest import make_night
from tests.integration.daemon.conftest import IMPATIENT, Gate, free_port, until

STUDY = Study(users=(1, 2), nights=1, hours=0.1, raw_signal=False)
NIGHTS = "SELECT count(*) FROM beddit.sessions"
QUICK = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}


def assert_told_once(daemon, subject):
    """One beginning and one end, in that order, of this subject and of no other."""
    told = [(e["event"], e["subject"]) for e in daemon.events if e["event"].startswith("outage.")]
    assert told == [("outage.began", subject), ("outage.ended", subject)]


async def problems(daemon):
    """What /readyz complains about; nothing while it says yes."""
    status, text = await daemon.get("/readyz")
    return "" if status == 200 else json.dumps(json.loads(text))


async def count(dsn, query):
    """The number that a query gives, by a connection of its own."""
    connection = await asyncpg.connect(dsn)
    try:
        return await connection.fetchval(query)
    finally:
        await connection.close()


async def test_the_database_server_is_restarted(house, tested_server):
    """The daemon goes on by itself with what came meanwhile; the outage is told once."""
    server = EmbeddedPostgres(house.folder / "pg", settings=QUICK)
    gate = Gate(house.dsn)
    try:
        async with BedditCloud(STUDY) as cloud:
            async with server.running() as dsn:
                gate.upstream = dsn
                gate.dsn = f"postgresql://nightshift@127.0.0.1:{gate.port}/nightshift"
                await gate.open()
                daemon = await house.start(house.write(cloud, (1, 2), dsn=gate.dsn))
                await until(daemon.is_ready)
                assert await count(dsn, NIGHTS) == 2
            assert "warehouse" in await until(lambda: problems(daemon), "/readyz to say no")
            await daemon.said("outage.began")
            assert (await daemon.get("/healthz"))[0] == 200
            assert "nightshift_warehouse_up 0.0" in (await daemon.get("/metrics"))[1]
            cloud.put(1, make_night(1_700_000_000.0))
            async with server.running() as dsn:
                gate.upstream = dsn
                await daemon.said("outage.ended")
                await until(lambda: _is(dsn, 3), "the new night")
                await until(daemon.is_ready)
                assert_told_once(daemon, "warehouse")
                await daemon.stop()
    finally:
        await gate.close()


async def test_all_connections_are_ended(house):
    """The daemon takes new ones, goes on, and never begins anew as a process."""
    async with BedditCloud(STUDY) as cloud:
        daemon = await house.start(house.write(cloud, (1, 2)))
        await until(daemon.is_ready)
        for night in range(5):
            await house.pool.fetch(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND application_name LIKE 'nightshift%'"
            )
            cloud.put(1, make_night(1_700_000_000.0 + 86_400 * night))
            await until(lambda: _is(house.dsn, 3 + night), "the new night")  # noqa: B023 - awaited here
        await until(daemon.is_ready)
        began, ended = daemon.named("outage.began"), daemon.named("outage.ended")
        assert {e["subject"] for e in began} <= {"warehouse"}
        assert len(ended) == len(began) <= 5
        await daemon.stop()
        await house.beddit(cloud, (1, 2)).assert_truth()


async def test_the_database_is_away_at_the_start(house, gate):
    """The daemon lives and says that it is not ready, and begins by itself when the database comes."""
    async with BedditCloud(STUDY) as cloud:
        await gate.close()
        daemon = await house.start(house.write(cloud, (1, 2), dsn=gate.dsn))
        await daemon.said("outage.began", subject="warehouse")
        assert (await daemon.get("/healthz"))[0] == 200
        assert "warehouse" in await problems(daemon)
        assert cloud.requests == ()
        await gate.open()
        await until(lambda: _is(house.dsn, 2), "both nights")
        await until(daemon.is_ready)
        assert_told_once(daemon, "warehouse")
        await daemon.stop()


async def test_the_database_hangs_without_a_word(house, gate):
    """Silence is found out, told, and outlived; the process that fell silent goes on as a new one."""
    async with BedditCloud(STUDY) as cloud:
        daemon = await house.start(house.write(cloud, (1, 2), dsn=gate.dsn))
        await until(daemon.is_ready)
        gate.freeze()
        await daemon.said("outage.began", subject="warehouse")
        assert "warehouse" in await until(lambda: problems(daemon), "/readyz to say no")
        cloud.put(1, make_night(1_700_000_000.0))
        gate.thaw()
        await until(lambda: _is(house.dsn, 3), "the new night")
        await until(daemon.is_ready)
        assert_told_once(daemon, "warehouse")
        await daemon.stop()
        await house.beddit(cloud, (1, 2)).assert_truth()


@pytest.mark.parametrize("how", ["closed", "503"])
async def test_a_vendor_is_away_for_ten_cycles(house, how):
    """It is told once; the accounts are stale and /readyz says which and why, until the vendor is back."""
    cloud = BedditCloud(STUDY, port=free_port(), blob_port=free_port())
    async with cloud:
        path = house.write(cloud, (1, 2), stale_cycles=2)
        daemon = await house.start(path, program=IMPATIENT)
        await until(daemon.is_ready)
        if how == "503":
            cloud.faults.add(Fault(status=503), times=100_000)
            await assert_stale(house, daemon)
            cloud.faults.clear()
            await assert_comes_back(house, daemon, cloud)
    if how == "closed":
        await assert_stale(house, daemon)
        async with cloud:
            await assert_comes_back(house, daemon, cloud)


async def assert_stale(house, daemon):
    """Ten cycles fail; the accounts are named."""
    failed = "SELECT count(*) >= 20 FROM sync.run_log WHERE outcome = 'failed'"
    await until(lambda: house.value(failed), "ten cycles of two accounts")
    told = await problems(daemon)
    assert "beddit/user1" in told
    assert "beddit/user2" in told
    assert "the last error" in told
    assert len(daemon.named("outage.began")) == 1
    assert daemon.named("outage.ended") == []
    assert 'nightshift_outage_active{kind="source",subject="beddit"} 1.0' in (await daemon.get("/metrics"))[1]


async def assert_comes_back(house, daemon, cloud):
    """What came meanwhile is read, and all is well."""
    cloud.put(1, make_night(1_700_000_000.0))
    await until(lambda: _is(house.dsn, 3), "the new night")
    await until(daemon.is_ready)
    assert_told_once(daemon, "beddit")
    await daemon.stop()
    await house.beddit(cloud, (1, 2)).assert_truth()


async def _is(dsn, expected):
    return await count(dsn, NIGHTS) == expected
