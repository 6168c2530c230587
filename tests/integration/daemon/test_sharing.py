"""Two daemons on one warehouse: they share the work, and one heals what happens to the other."""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter

import pytest

from sync.emulators.beddit import BedditCloud, Study
from tests.integration.beddit.conftest import make_night
from tests.integration.daemon.conftest import until

NIGHTS = "SELECT count(*) FROM beddit.sessions"
HELD = """
    SELECT w.pid, w.worker_id, w.heartbeat_at FROM sync.leases l JOIN sync.workers w USING (worker_id)
    WHERE l.account = $1
"""


async def two(house, cloud, users, **settings):
    """Two daemons, with folders of their own, by their process ids."""
    daemons = [
        await house.start(house.write(cloud, users, name=f"{name}.toml", state=name, **settings))
        for name in ("one", "two")
    ]
    return {daemon.handle.pid: daemon for daemon in daemons}


async def test_two_hundred_accounts_are_shared(house):
    """Each account is read once a cycle by one of them; both work, nothing deadlocks, all is exact."""
    users, cycle = range(1, 202), 10
    async with BedditCloud() as cloud:
        for user in users:
            cloud.set_token(user, cloud.token(user))
            cloud.put(user, make_night(1_700_000_000.0 + user, level=float(user)))
        daemons = await two(house, cloud, users, schedule=f"{cycle}s")
        await until(lambda: _is(house, NIGHTS, len(users)), "all nights")
        settled = "SELECT count(*) = $1 FROM sync.leases WHERE worker_id IS NULL AND failures = 0"
        await until(lambda: house.value(settled, len(users)), "a quiet moment")
        since = await house.value("SELECT max(run_id) FROM sync.run_log")
        first, before = time.time() // cycle, len(cloud.requests)
        reads = "SELECT count(*) >= $2 FROM sync.run_log WHERE run_id > $1 AND outcome = 'done'"
        await until(lambda: house.value(reads, since, 2 * len(users)), "two cycles")
        for daemon in daemons.values():
            await daemon.stop()
        cycles = time.time() // cycle - first
        runs = await house.fetch(
            "SELECT account, worker_id, requests FROM sync.run_log WHERE run_id > $1 AND task = 'once'", since
        )
        of_account = Counter(run["account"] for run in runs)
        assert len(of_account) == len(users)
        assert max(of_account.values()) <= cycles
        asked = Counter(request.path for request in cloud.requests[before:])
        assert max(asked.values()) <= 2 * cycles
        of_worker = Counter(run["worker_id"] for run in runs)
        assert len(of_worker) == 2
        assert min(of_worker.values()) > len(runs) / 10
        deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
        assert await house.value(deadlocks) == 0
        assert await house.value("SELECT count(*) FROM sync.workers") == 0
        assert [e for d in daemons.values() for e in d.events if e["level"] in ("warning", "error")] == []
        await house.beddit(cloud, users).assert_truth()


class Held:
    """Holds up every request about a user until it is let go."""

    def __init__(self, user):
        self._path = f"/user/{user}/"
        self.go = asyncio.Event()
        self.reached = asyncio.Event()

    async def __call__(self, request):
        """Hold up."""
        if self._path in request.path and not self.go.is_set():
            self.reached.set()
            await self.go.wait()


async def test_a_killed_one_is_healed_by_the_other(house):
    """What it held is read again a lease and a heartbeat later, and its row and its run are gone."""
    study = Study(users=(1, 2, 3), nights=1, hours=0.1, raw_signal=False)
    held = Held(1)
    async with BedditCloud(study, on_request=held) as cloud:
        daemons = await two(house, cloud, (1, 2, 3))
        await asyncio.wait_for(held.reached.wait(), 20)
        pid, worker, _ = (await until(lambda: house.fetch(HELD, "user1")))[0].values()
        daemons[pid].send(signal.SIGKILL)
        await daemons[pid].ended()
        beat = await house.value("SELECT heartbeat_at FROM sync.workers WHERE worker_id = $1", worker)
        held.go.set()
        (other,) = (daemon for daemon in daemons.values() if daemon.handle.pid != pid)
        await other.said("worker.lost", worker=worker)
        await until(lambda: _is(house, NIGHTS, 3), "the night of the lost account")
        again = await house.value(
            "SELECT min(started_at) FROM sync.run_log WHERE account = 'user1' AND worker_id <> $1", worker
        )
        assert (again - beat).total_seconds() < 3 + 3 / 4 + 2
        lost = await house.fetch("SELECT outcome, stored FROM sync.run_log WHERE worker_id = $1", worker)
        assert {"outcome": "lost", "stored": 0} in lost
        assert await house.value("SELECT count(*) FROM sync.workers") == 1
        await other.stop()
        await house.beddit(cloud, (1, 2, 3)).assert_truth()


@pytest.mark.parametrize("where", ["request", "COPY", "last statement"])
async def test_a_frozen_one_that_wakes_up_writes_nothing(house, where):
    """The other reads its account meanwhile; awake, it stores nothing and goes on as a new worker."""
    study = Study(users=(1, 2), nights=2, hours=2, raw_signal=False)
    held = Held(1)
    async with BedditCloud(study, on_request=held) as cloud:
        daemons = await two(house, cloud, (1, 2))
        await asyncio.wait_for(held.reached.wait(), 20)
        pid, worker, _ = (await until(lambda: house.fetch(HELD, "user1")))[0].values()
        await until(lambda: _is(house, NIGHTS, 2), "the other account's nights")
        frozen = daemons[pid]
        (other,) = (daemon for daemon in daemons.values() if daemon is not frozen)
        if where == "request":
            frozen.send(signal.SIGSTOP)
            held.go.set()
        else:
            async with house.pool.acquire() as connection, connection.transaction():
                await connection.execute(
                    "LOCK TABLE beddit.track_arrays IN SHARE MODE"
                    if where == "COPY"
                    else f"SELECT FROM sync.run_log WHERE worker_id = {worker} AND account = 'user1'"
                    " AND outcome = 'running' FOR UPDATE"
                )
                held.go.set()
                waits = (
                    "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
                    " AND application_name = $1"
                )
                await until(lambda: house.value(waits, f"nightshift:{worker}"), "a commit that waits")
                frozen.send(signal.SIGSTOP)
        await other.said("worker.lost", worker=worker)
        await until(lambda: _is(house, NIGHTS, 4), "the account's nights, from the other")
        await until(other.is_ready)
        rows = "SELECT xmin::text, ctid::text, * FROM beddit.session_records ORDER BY user_id, session_id"
        runs = "SELECT * FROM sync.run_log WHERE worker_id = $1 ORDER BY run_id"
        before, of_frozen = await house.fetch(rows), await house.fetch(runs, worker)
        assert [run for run in of_frozen if run["outcome"] == "running"] == []
        assert "lost" in {run["outcome"] for run in of_frozen}

        frozen.send(signal.SIGCONT)
        await frozen.said("worker.replaced")
        await until(lambda: _is(house, "SELECT count(*) FROM sync.workers", 2), "a new worker")
        assert await house.value("SELECT count(*) FROM sync.workers WHERE worker_id = $1", worker) == 0
        assert await house.fetch(rows) == before
        assert await house.fetch(runs, worker) == of_frozen
        await other.stop()
        cloud.put(1, make_night(1_700_000_000.0))
        await until(lambda: _is(house, NIGHTS, 5), "a night by the one that woke up")
        await frozen.stop()
        await house.beddit(cloud, (1, 2)).assert_truth()


async def test_a_command_beside_a_daemon(house):
    """`once` reads what nobody reads, and says who does where somebody does."""
    study = Study(users=(1, 2), nights=1, hours=0.1, raw_signal=False)
    held = Held(1)
    async with BedditCloud(study, on_request=held) as cloud:
        path = house.write(cloud, (1, 2))
        daemon = await house.start(path)
        await asyncio.wait_for(held.reached.wait(), 20)
        await until(lambda: _is(house, NIGHTS, 1), "the free account's night")
        cloud.put(2, make_night(1_700_000_000.0))
        free = await house.start(path, "once", "--account", "user2")
        assert await free.ended() == 0, free.lines
        assert await house.value("SELECT count(*) FROM beddit.sessions WHERE user_id = 2") == 2
        busy = await house.start(path, "once", "--account", "user1")
        assert await busy.ended() == 1
        text = "".join(busy.lines)
        assert "nightshift run" in text
        assert str(daemon.handle.pid) in text
        held.go.set()
        await until(lambda: _is(house, NIGHTS, 3), "the held account's night")
        await daemon.stop()
        await house.beddit(cloud, (1, 2)).assert_truth()


async def _is(house, query, expected):
    return await house.value(query) == expected
