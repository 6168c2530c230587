"""``verify`` from beginning to end: interrupted, in vain in parts, too old; and what it says of itself."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest

from sync.emulators.faults import Fault
from sync.model import VERIFICATION, Extent, Pass, StreamKey, Task

VERIFY, REPAIR = Task("verify"), Task("verify", repair=True)

START = 1_699_900_000
HOUR, DAY = 3_600, 86_400
LONG_AGO = START - 300 * DAY
"""Far enough to be compared with another question."""


async def found(pipeline: Any) -> set[str]:
    """What is open."""
    rows = await pipeline.fetch("SELECT item_key FROM sync.differences WHERE resolved_at IS NULL")
    return {row["item_key"] for row in rows}


async def verify(pipeline: Any, task: Task = VERIFY) -> set[str]:
    """Verify; it has to succeed. What is open afterwards."""
    await pipeline.once(task)
    return await found(pipeline)


async def verify_in_vain(pipeline: Any, task: Task = VERIFY) -> str:
    """Verify; it has to fail. Why."""
    (outcome,) = await pipeline.run(task)
    assert outcome.error is not None
    return str(outcome.error)


async def extent(pipeline: Any) -> Extent:
    """What the last verification compared."""
    stored = await pipeline.warehouse.stream(StreamKey("bace", "lab", VERIFICATION))
    verification = Pass.load(stored.cursor)
    assert verification is not None
    return verification.extent


def spoil(pipeline: Any, ids: set[str]) -> set[str]:
    """Have no question about some sessions' data answered in words; those that were asked about."""
    asked: set[str] = set()

    async def spoilt(request: Any) -> None:
        if (chosen := request.query.get("filter[id_data_session]")) in ids:
            asked.add(chosen)
            pipeline.cloud.fail_next(Fault(body=b"{}"))

    pipeline.cloud.on_request = spoilt
    return asked


def lists(pipeline: Any) -> int:
    """How often sessions were listed."""
    return sum(request.path.endswith("/data-session") for request in pipeline.asked())


async def tamper(pipeline: Any) -> None:
    """Change all datapoints behind the back of everybody."""
    await pipeline.pool.execute("UPDATE bace.datapoint_rows SET value = value + 1")


async def test_many_broken_sessions_hide_no_older_one(open_pipeline: Any, session: Any) -> None:
    """Where none of the newest can be looked at, older ones are, and soon."""
    broken, older = [session(START - n * HOUR) for n in range(20)], session(LONG_AGO)
    pipeline = await open_pipeline([*broken, older])
    await pipeline.once()
    await tamper(pipeline)
    asked = spoil(pipeline, {one.id for one in broken})
    why = await verify_in_vain(pipeline)
    assert ".." not in why
    assert await found(pipeline) == {f"{older.id}/datapoints"}
    assert len(asked) < len(broken)


async def test_one_that_can_be_looked_at_proves_that_it_is_the_sessions(
    open_pipeline: Any, session: Any
) -> None:
    """However many sessions are broken, each of a stretch is tried once another could be compared."""
    broken = [session(START - n * HOUR) for n in range(1, 20)]
    pipeline = await open_pipeline([session(START), *broken])
    await pipeline.once()
    await tamper(pipeline)
    asked = spoil(pipeline, {one.id for one in broken})
    assert "18 more" in await verify_in_vain(pipeline)
    assert asked == {one.id for one in broken}


async def test_what_never_answers_hides_nothing_else(open_pipeline: Any, session: Any) -> None:
    """A verification that could not look at everything ends: what was verified is looked at by the next."""
    broken, older = session(START), session(LONG_AGO)
    pipeline = await open_pipeline([broken, older])
    await pipeline.once()
    await pipeline.pool.execute(
        "UPDATE bace.datapoint_rows SET value = value + 1 WHERE id_data_session = $1", broken.id
    )
    spoil(pipeline, {broken.id})
    await verify_in_vain(pipeline)
    assert await found(pipeline) == set()
    await tamper(pipeline)
    await verify_in_vain(pipeline)
    assert await found(pipeline) == {f"{older.id}/datapoints"}


async def test_what_could_not_be_looked_at_is_not_over(open_pipeline: Any, session: Any) -> None:
    """A difference stays open where this verification did not look, and goes where it did."""
    broken, older = session(START), session(LONG_AGO)
    pipeline = await open_pipeline([broken, older])
    await pipeline.once()
    await tamper(pipeline)
    assert len(await verify(pipeline)) == 2
    await pipeline.pool.execute(
        "UPDATE bace.datapoint_rows SET value = value - 1 WHERE id_data_session = $1", older.id
    )
    spoil(pipeline, {broken.id})
    await verify_in_vain(pipeline)
    assert await found(pipeline) == {f"{broken.id}/datapoints"}


async def test_an_old_pass_is_not_gone_on_with(open_pipeline: Any, session: Any) -> None:
    """What was verified more than a week ago is verified again."""
    pipeline = await open_pipeline([session(START)])
    await pipeline.once()
    assert await verify(pipeline) == set()
    await pipeline.pool.execute(
        """
        UPDATE sync.stream_state SET cursor = cursor || jsonb_build_object(
            'ended', false, 'began_at', to_char(now() - interval '8 days', 'YYYY-MM-DD"T"HH24:MI:SS"+00:00"'))
        WHERE stream = 'verification'
        """
    )
    await tamper(pipeline)
    assert await verify(pipeline) == {f"{session(START).id}/datapoints"}


async def test_an_interrupted_verification_goes_on(open_pipeline: Any, session: Any) -> None:
    """What was verified, or left out, before an interruption is not asked for again in this pass."""
    broken, older = session(START), session(LONG_AGO)
    pipeline = await open_pipeline([broken, older])
    await pipeline.once()
    await pipeline.pool.execute(
        "UPDATE bace.datapoint_rows SET value = value + 1 WHERE id_data_session = $1", broken.id
    )
    spoil(pipeline, {broken.id})
    spoilt = pipeline.cloud.on_request
    running = asyncio.ensure_future(pipeline.run(VERIFY))

    async def interrupt(request: Any) -> None:
        await spoilt(request)
        begin = request.query.get("filter[timestamp_seconds][gte]")
        if "downsampled" in request.path and begin is not None and int(begin) < LONG_AGO:
            running.cancel()

    pipeline.cloud.on_request = interrupt
    with pytest.raises(asyncio.CancelledError):
        await running

    await tamper(pipeline)
    asked = spoil(pipeline, {broken.id})
    before = lists(pipeline)
    assert "could be verified" in await verify_in_vain(pipeline)
    assert asked == set()
    assert lists(pipeline) == before > 0
    assert await found(pipeline) == {f"{older.id}/datapoints"}
    pipeline.cloud.on_request = None
    assert len(await verify(pipeline)) == 2


async def test_what_has_vanished_is_told_until_a_repair_takes_note_of_it(
    open_pipeline: Any, session: Any
) -> None:
    """One verification that nobody read loses nothing; and how much is missing is told ever after."""
    gone, stays = session(START), session(LONG_AGO)
    pipeline = await open_pipeline([gone, stays])
    await pipeline.once()
    pipeline.cloud.remove(gone.id)
    assert await verify(pipeline) == {gone.id}
    assert await verify(pipeline) == {gone.id}
    assert await verify(pipeline, REPAIR) == set()
    assert await verify(pipeline) == set()
    assert (await extent(pipeline)).vanished == 1


async def test_it_says_what_was_compared(open_pipeline: Any, session: Any) -> None:
    """How many sessions, and from when to when."""
    pipeline = await open_pipeline([session(START - n * DAY) for n in range(3)])
    await pipeline.once()
    await verify(pipeline)
    first, middle, last = (datetime.fromtimestamp(START - n * DAY, UTC) for n in (2, 1, 0))
    assert await extent(pipeline) == Extent(sessions=3, first=first, last=last)
    await verify(pipeline, Task("verify", since=middle))
    assert await extent(pipeline) == Extent(sessions=2, first=middle, last=last)
