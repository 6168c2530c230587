"""The configuration of a daemon: wrong at the start, changed while it runs, broken while it runs."""

from __future__ import annotations

import signal

from sync.emulators.beddit import BedditCloud, Study
from tests.integration.daemon.conftest import until

STUDY = Study(users=(1, 2), nights=1, hours=0.1, raw_signal=False)
READ = "SELECT count(*) = 1 FROM beddit.sessions WHERE user_id = $1"


async def test_an_account_that_is_added_is_read_by_the_same_process(house):
    """SIGHUP is enough; what was read before is not read again."""
    async with BedditCloud(STUDY) as cloud:
        daemon = await house.start(house.write(cloud, (1,)))
        await until(lambda: house.value(READ, 1))
        await until(daemon.is_ready)
        house.write(cloud, (1, 2))
        before = len(cloud.requests)
        daemon.send(signal.SIGHUP)
        await daemon.said("daemon.started", times=2)
        await until(lambda: house.value(READ, 2))
        await until(daemon.is_ready)
        await until(lambda: _of_first(cloud, before), "the first account's next cycle")
        assert await house.value("SELECT count(DISTINCT pid) FROM sync.workers") == 1
        await daemon.stop()
        await house.beddit(cloud, (1, 2)).assert_truth()
        (night,) = cloud.records(1)
        later = _of_first(cloud, before)
        assert [r for r in later if float(r.query["updated_after"]) < night.updated - 60] == []


async def test_a_broken_file_is_refused_and_nothing_changes(house):
    """One event says what is wrong; the old configuration stays, until a good one comes."""
    async with BedditCloud(STUDY) as cloud:
        path = house.write(cloud, (1,))
        daemon = await house.start(path)
        await until(lambda: house.value(READ, 1))
        path.write_text("[warehouse\n")
        daemon.send(signal.SIGHUP)
        await daemon.said("daemon.reload_refused")
        seen = len(cloud.requests)
        await until(lambda: len(cloud.requests) > seen + 1, "further cycles")
        assert len(daemon.named("daemon.reload_refused")) == len(daemon.named("daemon.started")) == 1
        house.write(cloud, (1, 2))
        daemon.send(signal.SIGHUP)
        await until(lambda: house.value(READ, 2))
        await daemon.stop()


async def test_a_wrong_configuration_at_the_start(house):
    """Nothing starts; exit code 2, and the message names the key."""
    async with BedditCloud(STUDY) as cloud:
        path = house.write(cloud, (1,), lease_s=1)
        daemon = await house.start(path, waits=False)
        assert await daemon.ended() == 2
        assert "lease_s" in "".join(daemon.lines)
        assert cloud.requests == ()


async def test_no_account_at_the_start(house):
    """A daemon that would do nothing says so and ends with exit code 2."""
    async with BedditCloud(STUDY) as cloud:
        daemon = await house.start(house.write(cloud, ()), waits=False)
        assert await daemon.ended() == 2
        assert "no account is configured" in "".join(daemon.lines)


def _of_first(cloud, since):
    """The questions for news of the first user's account."""
    asked = [request for request in cloud.requests[since:] if "/user/1/" in request.path]
    return [request for request in asked if "updated_after" in request.query]
