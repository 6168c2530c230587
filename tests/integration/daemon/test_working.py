"""A daemon left alone: what is new arrives by itself, and the daemon says how it is."""

from __future__ import annotations

import re
import signal
import socket
import time
from pathlib import Path

from sync.emulators.bace import BaceCloud, DataSession, Dataset, Samples, identifier
from sync.emulators.beddit import BedditCloud, Fault, Study
from tests.integration.beddit.conftest import make_night
from tests.integration.daemon.conftest import until

PULSE = Dataset.of(identifier("group", 1), identifier("device", 1), 6000)
NIGHTS = "SELECT count(*) FROM beddit.sessions"
OPEN = "SELECT count(*) FROM sync.differences WHERE resolved_at IS NULL"
POINTS = "SELECT count(*) FROM bace.datapoints"


def growing(seconds_left: int) -> DataSession:
    """A session of half an hour that ends soon; its samples come as they are taken."""
    now = int(time.time())
    start, end = now - 1800, now + seconds_left
    points = [(PULSE, start + 0.25 + n, float(n % 90)) for n in range(end - start)]
    return DataSession.of(Samples.of(points), start=start, end=end, ingested_at=end + 1)


async def test_what_is_new_arrives_and_all_of_it(house):
    """Nights that are put and a session that grows and ends are stored exactly, while the daemon answers."""
    study = Study(users=(1, 2), nights=1, hours=0.2)
    session = growing(seconds_left=8)
    async with BedditCloud(study) as beddit, BaceCloud([session]) as bace:
        daemon = await house.start(house.write(beddit, (1, 2), bace))
        await until(lambda: house.value(POINTS), "the session's first samples")
        first = await house.value(POINTS)
        assert (await daemon.get("/healthz"))[0] == 200
        beddit.put(2, make_night(1_700_000_000.0))
        query = "SELECT count(*) FROM beddit.sessions WHERE user_id = 2"
        await until(lambda: _is(house, query, 2), "the new night")
        await until(lambda: _more(house, first), "further samples")
        await until(daemon.is_ready)
        complete = "SELECT count(*) FROM bace.data_sessions WHERE status = 'complete'"
        await until(lambda: _is(house, complete, 1), "the session's end")
        blobs = "SELECT count(*) FROM beddit.sampled_tracks WHERE status = 'complete'"
        await until(lambda: _is(house, blobs, 4), "raw signals")
        status, metrics = await daemon.get("/metrics")
        assert status == 200
        assert "nightshift_warehouse_up 1.0" in metrics
        assert re.search(r'nightshift_requests_total\{source="beddit",status="200"\} [1-9]', metrics)
        await daemon.stop()
        await house.beddit(beddit, (1, 2)).assert_truth()
        await house.bace(bace).assert_exact()


async def test_a_verification_on_schedule_tells_what_differs_and_mends_it_where_it_may(house):
    """What was damaged in the warehouse is told until somebody allows the repair; the daemon stays ready."""
    study = Study(users=(1, 2), nights=2, hours=0.2)
    async with BedditCloud(study) as beddit, BaceCloud([growing(seconds_left=0)]) as bace:

        def written(*, repair: bool) -> Path:
            return house.write(beddit, (1, 2), bace, more={"verify_schedule": "1s", "verify_repair": repair})

        daemon = await house.start(written(repair=False))
        complete = "SELECT count(*) FROM bace.data_sessions WHERE status = 'complete'"
        await until(lambda: _is(house, complete, 1), "the session")
        await until(lambda: _is(house, NIGHTS, 4), "the nights")
        assert not await house.value(OPEN)
        await house.pool.execute("DELETE FROM beddit.track_arrays WHERE user_id = 2")
        await house.pool.execute("UPDATE bace.datapoint_rows SET value = -1 WHERE ctid = '(0,1)'")
        await daemon.said("differences.found", source="beddit", account="user2")
        await daemon.said("differences.found", source="bace", account="lab")
        assert re.search(
            r'nightshift_differences_open\{source="bace"\} [1-9]', (await daemon.get("/metrics"))[1]
        )
        assert await daemon.is_ready()
        written(repair=True)
        daemon.send(signal.SIGHUP)
        await until(lambda: _is(house, OPEN, 0), "the repair")
        await daemon.stop()
        await house.beddit(beddit, (1, 2)).assert_truth()
        await house.bace(bace).assert_exact()


async def test_each_line_is_an_event_and_no_secret_is_told(house):
    """Every line has a time, a level and an event, whatever goes wrong; credentials stand nowhere."""
    study = Study(users=(1, 2), nights=1, hours=0.2)
    async with BedditCloud(study) as beddit, BaceCloud([growing(seconds_left=3)]) as bace:
        path = house.write(beddit, (1, 2), bace)
        account = bace.account()
        secrets = [beddit.token(1), beddit.token(2), account.password, account.client_secret]
        beddit.revoke(2)
        told_by_vendor = f'{{"message": "{account.password}"}}'.encode()
        bace.fail_next(Fault(status=422, body=told_by_vendor), times=3, path="data-session")
        daemon = await house.start(path)
        await daemon.said("outage.began", subject="beddit/user2")
        await until(lambda: house.value(POINTS), "samples")
        await until(lambda: house.value(NIGHTS), "nights")
        told = [await daemon.get(page) for page in ("/readyz", "/metrics", "/healthz")]
        await daemon.stop()
        text = "".join(daemon.lines) + str(told)
        assert [secret for secret in secrets if secret in text] == []
        assert len(daemon.events) == len(daemon.lines)
        for event in daemon.events:
            assert {"timestamp", "level", "event"} <= event.keys()
            assert ("account" in event) <= ("source" in event)
        about = [e for e in daemon.events if e["event"].startswith(("run.", "unit."))]
        assert about
        assert [e for e in about if not {"source", "account"} <= e.keys()] == []


async def test_a_service_manager_hears_everything(house):
    """READY, a sign of life again and again, and STOPPING arrive at a real socket."""
    async with BedditCloud(Study(users=(1,), nights=1, hours=0.1, raw_signal=False)) as beddit:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ear:
            ear.bind(str(house.folder / "notify"))
            ear.setblocking(False)
            heard: list[str] = []

            def listen() -> list[str]:
                while True:
                    try:
                        heard.extend(ear.recv(4096).decode().split("\n"))
                    except BlockingIOError:
                        return heard

            place = str(house.folder / "notify")
            path = house.write(beddit, (1,))
            daemon = await house.start(path, NOTIFY_SOCKET=place, WATCHDOG_USEC="400000")
            await until(lambda: "READY=1" in listen())
            await until(lambda: listen().count("WATCHDOG=1") >= 3)
            assert "STOPPING=1" not in heard
            await daemon.stop()
            assert "STOPPING=1" in listen()


async def _is(house, query, expected):
    return await house.value(query) == expected


async def _more(house, than):
    return await house.value(POINTS) > than
