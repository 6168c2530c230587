"""A daemon that is told to end: in time, with whole batches, and nothing is read twice because of it."""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter
from datetime import date
from uuid import UUID

import pytest

from sync.emulators.bace import BaceCloud, Behaviour, Fleet, Kind
from sync.emulators.beddit import BedditCloud, Fault, Study
from sync.sources.bace.spans import intersection, union
from tests.integration.bace.conftest import DATAPOINTS
from tests.integration.daemon.conftest import until

DAY = 86_400
LOCKS = """
    SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND application_name LIKE 'nightshift:%'
"""


class Door:
    """Holds up requests from the first on that comes once something is stored, until it is opened.

    Before, answers may come slowly: those that come within a second are stored together.
    """

    def __init__(self, house, path, query, *, slowly=False):
        self._house, self._path, self._query, self._slowly = house, path, query, slowly
        self.open = asyncio.Event()
        self.reached = asyncio.Event()
        self.held = []

    async def __call__(self, request):
        """Hold up."""
        if self._path not in request.path or self.open.is_set():
            return
        if not self.reached.is_set() and await self._house.value(self._query):
            self.reached.set()
        elif self._slowly:
            await asyncio.sleep(0.4)
        if self.reached.is_set():
            self.held.append(asked(request))
            await self.open.wait()


def asked(request):
    """What a request asks for."""
    return request.path, str(sorted(request.query.items())), request.body


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
async def test_in_the_middle_of_a_large_session(house, number):
    """What is stored is what is covered, to the sample; the next process asks again for what was in hand."""
    fleet = Fleet(
        seed=5,
        sessions=1,
        kinds=(Kind.VITALS,),
        first_start=int(time.time()) - 3 * DAY,
        hours=(3, 3),
        rate=0.2,
        gap=2500,
    )
    door = Door(house, "downsampled", "SELECT EXISTS (SELECT FROM bace.datapoint_rows)", slowly=True)
    behaviour = Behaviour(raw_up_to=1200, data_pages_to=100)
    async with BaceCloud(fleet, behaviour=behaviour, on_request=door) as cloud:
        (session,) = cloud.sessions()
        pipeline, path = house.bace(cloud), house.write(bace=cloud, grace_s=300)
        daemon = await house.start(path)
        await asyncio.wait_for(door.reached.wait(), 40)
        await daemon.stop(number)

        covered = await pipeline.coverage(session.id)
        truth = Counter(
            sample
            for sample in pipeline.samples().elements()
            if any(span.start <= sample[2] * 1000 < span.end for span in covered)
        )
        stored = Counter(
            (row["session"], row["dataset"], row["ms"], row["value"]) for row in await house.fetch(DATAPOINTS)
        )
        assert 0 < stored.total() < pipeline.samples().total()
        assert stored == truth
        await pipeline.assert_ledger()
        door.open.set()

        before = len(pipeline.asked_for_data())
        kept = [ms * 1000 for _, _, ms, _ in stored]
        daemon = await house.start(path)
        complete = "SELECT status = 'complete' FROM bace.data_sessions WHERE id_data_session = $1"
        await until(lambda: house.value(complete, UUID(session.id)), "the rest of the session")
        await daemon.stop()
        await pipeline.assert_exact()
        spans = [span for span in pipeline.asked_for_data()[before:] if span.length <= 1200 * 1_000_000]
        again = intersection(union(spans), covered)
        assert [ms for ms in kept for span in again if span.start <= ms < span.end] == []
        data = Counter(asked(request) for request in cloud.requests if "downsampled" in request.path)
        repeated = [what for what, times in data.items() if times > 1]
        assert set(repeated) <= set(door.held)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
async def test_in_the_middle_of_a_large_raw_signal(house, number):
    """No half signal is stored; the next process asks for its address and reads it again, once."""
    study = Study(users=(1,), nights=1, hours=8.8, first_night=date(2024, 3, 11))
    async with BedditCloud(study) as cloud:
        cloud.fail_next(Fault(drip=0.2, drip_bytes=65_536), times=2, host="blob")
        pipeline, path = house.beddit(cloud, (1,)), house.write(cloud, (1,), grace_s=10)
        daemon = await house.start(path)
        spool = house.folder / "state" / "spool"
        await until(lambda: [f for f in spool.rglob("*") if f.is_file() and f.stat().st_size > 300_000])
        await daemon.stop(number)
        assert await house.value("SELECT count(*) FROM beddit.sessions") == 1
        assert await house.value("SELECT count(*) FROM beddit.samples") == 0
        assert await house.value("SELECT count(*) FROM sync.runs WHERE outcome = 'running'") == 0
        first = len(cloud.requests)

        daemon = await house.start(path)
        done = "SELECT count(*) = 2 FROM beddit.sampled_tracks WHERE status = 'complete'"
        await until(lambda: house.value(done), "the raw signals")
        await daemon.stop()
        await pipeline.assert_truth()
        assert not [f for f in spool.rglob("*") if f.is_file()]
        later = cloud.requests[first:]
        blobs = Counter(request.path for request in later if request.host == "blob")
        assert sorted(blobs.values()) == [1, 1]
        news = [request for request in later if "updated_after" in request.query]
        assert news
        (night,) = cloud.records(1)
        assert [r for r in news if float(r.query["updated_after"]) < night.updated - 60] == []
        ranges = [request.query for request in later if "start_timestamp" in request.query]
        start = night.start
        again = [r for r in ranges if float(r["start_timestamp"]) <= start <= float(r["end_timestamp"])]
        assert len(again) == 1  # for the addresses of both signals


async def stuck(house, gate, cloud, grace_s):
    """A daemon in the middle of a commit to a database that does not answer any more."""
    path = house.write(cloud, (1,), dsn=gate.dsn, grace_s=grace_s)
    async with house.pool.acquire() as connection, connection.transaction():
        await connection.execute("LOCK TABLE beddit.track_arrays IN SHARE MODE")  # commits wait there
        daemon = await house.start(path)
        waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        await until(lambda: house.value(waiting), "a commit that waits")
        gate.freeze()
    return daemon


async def assert_nothing_stays(house, gate):
    """The dead process's connections end, and with them its locks."""
    gate.thaw()
    await until(lambda: _none(house, LOCKS), "the end of its connections")
    locks = "SELECT count(*) FROM pg_locks l JOIN pg_class c ON c.oid = l.relation WHERE relname = $1"
    assert await house.value(locks, "track_arrays") == 0


async def test_a_second_signal_ends_it_at_once(house, gate):
    """Whoever does not want to wait for a database that hangs says so twice."""
    async with BedditCloud(Study(users=(1,), nights=2, hours=0.1, raw_signal=False)) as cloud:
        daemon = await stuck(house, gate, cloud, grace_s=300)
        daemon.send(signal.SIGTERM)
        await daemon.said("daemon.stopping")
        daemon.send(signal.SIGTERM)
        assert await daemon.ended() == 128 + signal.SIGTERM
        assert daemon.named("daemon.aborted")
        await assert_nothing_stays(house, gate)


async def test_what_does_not_end_in_time_is_cut_off(house, gate):
    """After the grace it ends with exit code 1, leaves no lock, and the next one completes the work."""
    async with BedditCloud(Study(users=(1,), nights=2, hours=0.1, raw_signal=False)) as cloud:
        daemon = await stuck(house, gate, cloud, grace_s=1)
        daemon.send(signal.SIGTERM)
        assert await daemon.ended() == 1
        assert daemon.named("daemon.cut_off")
        await assert_nothing_stays(house, gate)
        daemon = await house.start(house.write(cloud, (1,)))
        await until(lambda: house.value("SELECT count(*) = 2 FROM beddit.sessions"), "both nights")
        await until(lambda: house.value("SELECT count(*) = 1 FROM sync.workers"), "the lost one's row")
        await daemon.stop()
        await house.beddit(cloud, (1,)).assert_truth()


async def _none(house, query):
    return await house.value(query) == 0
