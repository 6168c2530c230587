"""Reading datapoints is stopped anywhere, and goes on as if nothing had been."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from itertools import count
from typing import Any

import pytest

from sync.emulators.bace import Behaviour, Fault, Fleet, Kind, Request
from sync.errors import SourceUnavailable
from sync.model import Batch, Tally
from sync.sources.bace import gathering
from sync.sources.bace.spans import intersection, union
from sync.storage.sink import PostgresSink
from tests.integration.bace.conftest import DATAPOINTS, NOW, Pipeline

DAY = 86_400
BEHAVIOUR = Behaviour(raw_up_to=1200, data_pages_to=100)
RAW = 1200 * 1_000_000


@pytest.fixture
async def pipeline(open_pipeline: Any) -> Pipeline:
    """One session of five hours, with pauses, from a server that is known."""
    fleet = Fleet(
        seed=5,
        sessions=1,
        kinds=(Kind.VITALS,),
        first_start=int(NOW) - 3 * DAY,
        hours=(5, 5),
        rate=0.1,
        gap=2500,
    )
    opened: Pipeline = await open_pipeline(fleet, behaviour=BEHAVIOUR)
    await opened.once()
    await forget(opened)
    return opened


async def forget(pipeline: Pipeline) -> None:
    """Empty the warehouse of everything but what was learned of the server."""
    await pipeline.pool.execute(
        "TRUNCATE bace.session_records, bace.session_access, bace.session_loads, bace.session_checks,"
        " bace.datapoint_rows, bace.dataset_records, sync.stream_state, sync.reject_log"
    )


async def assert_goes_on(pipeline: Pipeline) -> None:
    """A new process completes the session, and asks for no sample that is stored and covered."""
    (session,) = pipeline.cloud.sessions()
    stored = await pipeline.fetch(DATAPOINTS)
    covered = await pipeline.coverage(session.id) if stored else ()
    kept = [row["ms"] * 1000 for row in stored]
    before = len(pipeline.asked_for_data())
    await pipeline.once()
    asked = [span for span in pipeline.asked_for_data()[before:] if span.length <= RAW]
    again = intersection(union(asked), covered)
    assert [ms for ms in kept for span in again if span.start <= ms < span.end] == []
    await pipeline.assert_exact()
    assert await pipeline.statuses() == {"complete": 1}


class Stop:
    """Does something when the cloud gets a certain request for data."""

    def __init__(self, number: int, action: Callable[[], Awaitable[None]]) -> None:
        self._left, self._action = number, action
        self.reached = False

    async def __call__(self, request: Request) -> None:
        """Count."""
        if "downsampled" in request.path:
            self._left -= 1
            if self._left == 0:
                self.reached = True
                await self._action()


async def test_a_fault_at_any_request(pipeline):
    """Wherever the vendor fails, what it answered is kept; the next process asks for nothing of it twice."""
    rows = 0

    async def fail() -> None:
        pipeline.cloud.faults.add(Fault(status=500), times=100)

    for number in count(1):
        await forget(pipeline)
        pipeline.cloud.on_request = stop = Stop(number, fail)
        (outcome,) = await pipeline.run()
        if not stop.reached:
            break
        assert isinstance(outcome.error, SourceUnavailable)
        stored = len(await pipeline.fetch(DATAPOINTS))
        assert stored >= rows  # what was answered before is not lost
        rows = stored
        pipeline.cloud.faults.clear()
        await assert_goes_on(pipeline)
    assert number > 15
    assert rows > 1000


async def test_a_process_that_is_cancelled_at_any_request(pipeline):
    """Cancelled while any request is on its way, the next process goes on where this one was."""
    for number in count(1):
        await forget(pipeline)
        process = asyncio.create_task(pipeline.run())

        async def hang(process: asyncio.Task[Any] = process) -> None:
            process.cancel()
            await asyncio.Event().wait()

        pipeline.cloud.on_request = stop = Stop(number, hang)
        await asyncio.wait([process])
        pipeline.cloud.on_request = None
        if not stop.reached:
            break
        assert process.cancelled()
        await assert_goes_on(pipeline)
    assert number > 15


@pytest.mark.parametrize(("rows", "commits"), [(1, 15), (300, 4)], ids=["answer by answer", "gathered"])
async def test_a_process_that_dies_after_any_commit(pipeline, monkeypatch, rows, commits):
    """What was committed is kept, whatever the process had not done yet."""
    monkeypatch.setattr(gathering, "MOST_ROWS", rows)

    class Dying(PostgresSink):
        left = 0

        async def commit(self, run: int, batch: Batch) -> Tally:
            tally = await super().commit(run, batch)
            Dying.left -= bool(batch.stretches)
            if Dying.left == 0 and batch.stretches:
                raise RuntimeError("the process dies")
            return tally

    for number in count(1):
        await forget(pipeline)
        Dying.left = number
        pipeline.sink = Dying
        (outcome,) = await pipeline.run()
        pipeline.sink = PostgresSink
        if Dying.left > 0:
            break
        assert str(outcome.error) == "the process dies"
        await assert_goes_on(pipeline)
    assert number > commits


async def test_the_kept_knowledge_is_only_a_help(pipeline):
    """Without it, too, an interrupted session is completed."""

    async def fail() -> None:
        pipeline.cloud.faults.add(Fault(reset=True), times=100)

    pipeline.cloud.on_request = Stop(9, fail)
    (outcome,) = await pipeline.run()
    assert outcome.error is not None
    pipeline.cloud.faults.clear()
    await pipeline.pool.execute("TRUNCATE sync.knowledge")
    await pipeline.once()
    await pipeline.assert_exact()
    assert await pipeline.statuses() == {"complete": 1}
