"""Parts that live and die together."""

from __future__ import annotations

import asyncio

import pytest
import structlog.testing

from sync.config import Beddit
from sync.daemon.parts import PartEnded, jobs, together, works
from sync.errors import ConfigurationError, LeaseLost, SyncError
from sync.model import Task

HANG_S = 30


class Part:
    """Runs until it is cancelled, and notes it."""

    def __init__(self, last_words=None):
        self.began = asyncio.Event()
        self.ended = False
        self.last_words = last_words

    async def run(self):
        """Wait for ever."""
        self.began.set()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            self.ended = True
            if self.last_words:
                raise self.last_words


async def fails(part, error):
    """Fail as soon as the other part has begun."""
    await part.began.wait()
    raise error


async def returns(part):
    """End as soon as the other part has begun."""
    await part.began.wait()


async def joined(**parts):
    """Run parts together, not for ever."""
    async with asyncio.timeout(HANG_S):
        await together(**parts)


@pytest.mark.parametrize(
    "error", [ZeroDivisionError("oops"), OSError(28, "full"), ExceptionGroup("x", [ValueError()])]
)
async def test_a_part_that_dies_takes_the_others_with_it(error):
    """The error names the part and the kind; its cause is what happened; the log has it, too."""
    other = Part()
    with structlog.testing.capture_logs() as logs, pytest.raises(PartEnded) as caught:
        await joined(other=other.run(), keeper=fails(other, error))
    assert f"part 'keeper' ended ({type(error).__name__})" in str(caught.value)
    assert caught.value.__cause__ is error
    assert other.ended
    assert logs == [{"event": "daemon.part_ended", "log_level": "error", "part": "keeper", "exc_info": error}]


async def test_a_part_that_returns_is_a_defect_as_well():
    """Nothing may end without a word."""
    other = Part()
    with pytest.raises(PartEnded, match=r"part 'keeper' ended \(without an error\)"):
        await joined(other=other.run(), keeper=returns(other))
    assert other.ended


async def test_a_part_that_is_cancelled_by_somebody_is_a_defect_as_well():
    """A cancellation that nobody here asked for ends all."""
    other = Part()
    with pytest.raises(PartEnded, match=r"part 'keeper' ended"):
        await joined(other=other.run(), keeper=fails(other, asyncio.CancelledError()))
    assert other.ended


@pytest.mark.parametrize("error", [LeaseLost("taken"), ConfigurationError("no"), PartEnded("inner")])
async def test_what_says_what_to_do_passes_as_it_is(error):
    """An error of ours is not wrapped, and is nobody's defect."""
    other = Part()
    with structlog.testing.capture_logs() as logs, pytest.raises(SyncError) as caught:
        await joined(other=other.run(), keeper=fails(other, error))
    assert caught.value is error
    assert other.ended
    assert logs == []


async def test_cancelling_ends_all_parts():
    """Whoever cancels gets its cancellation back when every part has ended."""
    parts = [Part(), Part()]
    task = asyncio.create_task(joined(one=parts[0].run(), two=parts[1].run()))
    async with asyncio.timeout(HANG_S):
        for part in parts:
            await part.began.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert [part.ended for part in parts] == [True, True]


async def test_the_first_to_end_is_the_one_that_counts():
    """What others say while they are being ended does not hide why."""
    other = Part(last_words=ValueError("while ending"))
    with pytest.raises(LeaseLost):
        await joined(other=other.run(), keeper=fails(other, LeaseLost("taken")))
    assert other.ended


def test_every_kind_of_work_has_a_job():
    """What is new, what is owed and what is verified have schedules of their own; metrics know all jobs."""
    cloud = Beddit(schedule="5m", retry_schedule="2h")
    assert [(work.kind, work.schedule.text) for work in works(cloud)] == [("once", "5m"), ("retry", "2h")]
    *_, verify = works(Beddit(verify_schedule="7d", verify_repair=True))
    assert (verify.task, verify.schedule.text) == (Task("verify", repair=True), "7d")
    assert jobs(["beddit", "bace"]) == [
        "beddit.once",
        "beddit.retry",
        "beddit.verify",
        "bace.once",
        "bace.retry",
        "bace.verify",
        "housekeeping",
    ]
