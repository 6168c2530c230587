"""Whatever ends a run, wherever: what was stored stays, and the next run goes on behind it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from itertools import count
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sync.emulators.beddit import HTML_PAGE, MALFORMED_JSON, Behaviour, Fault, Limit, Order, Study
from sync.errors import StorageUnavailable
from sync.model import Task
from sync.sources.beddit.cursor import as_time
from sync.storage.sink import PostgresSink

NOW = 1_711_000_000.0
DAY = 86_400.0
STARTS = [NOW - days * DAY for days in (1, 20, 31, 62, 200, 700)]


@dataclass
class BrittleSink:
    """A sink whose database goes away at the n-th commit: before it, or just after it."""

    sink: PostgresSink
    breaks_at: int
    after: bool
    commits: int = 0

    async def commit(self, run: int, batch: Any) -> Any:
        """Commit, or fail as the database does."""
        self.commits += 1
        if self.commits < self.breaks_at:
            return await self.sink.commit(run, batch)
        if self.commits == self.breaks_at and self.after:
            await self.sink.commit(run, batch)
        raise StorageUnavailable("PostgreSQL: the server closed the connection")


async def opened(open_pipeline, manual_clock, night, user):
    """A pipeline for one user with nights in several windows, two of them with raw signal."""
    pipeline = await open_pipeline(None, tokens={user: f"token-of-{user}"}, clock=manual_clock(NOW))
    for number, start in enumerate(STARTS):
        sampled = {"normal": {"samples_per_frame": 1, "data_type": "uint16"}} if number in (1, 4) else {}
        pipeline.cloud.put(
            user, night(start, level=50.0 + number, sampled_tracks=sampled), updated=start + 602.5
        )
        if sampled:
            pipeline.cloud.set_blob(user, int(start), "normal", bytes(range(200)) * 30)
    return pipeline


def asked(pipeline):
    """The bounds of every window that was asked for."""
    queries = [r.query for r in pipeline.cloud.requests_to("api")]
    return [
        (q["start_timestamp"], q["end_timestamp"]) for q in queries if q.get("start_timestamp", "0") != "0"
    ]


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
async def test_the_database_goes_away_at_any_commit(open_pipeline, manual_clock, night, after):
    """At every commit of a first run whose windows shrink: it fails, the next one ends with the truth."""
    for breaks_at in count(1):
        pipeline = await opened(open_pipeline, manual_clock, night, 3000 + breaks_at)
        pipeline.cloud.behaviour = Behaviour(overload_above=1, overload_seconds=0)
        pipeline.change(history_start=as_time(NOW - 250 * DAY))
        pipeline.cloud.remove(3000 + breaks_at, int(STARTS[-1]))
        pipeline.sink = lambda pool, n=breaks_at: BrittleSink(PostgresSink(pool), n, after)
        (outcome,) = await pipeline.run(Task("once"))
        if outcome.error is None:
            break
        assert isinstance(outcome.error, StorageUnavailable)
        pipeline.sink = PostgresSink
        pipeline.cloud._clock.now += 3600
        await pipeline.once()
        await pipeline.assert_truth()
    assert breaks_at > 10


async def test_a_run_is_cancelled_at_any_request(open_pipeline, manual_clock, night):
    """At every request of a backfill: nothing half is stored, and covered windows are not asked for again."""
    for moment in count(1):
        user = 3000 + moment
        pipeline = await opened(open_pipeline, manual_clock, night, user)
        reached = asyncio.Event()

        async def hold(_request, cloud=pipeline.cloud, moment=moment, reached=reached):
            if len(cloud.requests) == moment:
                reached.set()
                await asyncio.Event().wait()

        pipeline.cloud.on_request = hold
        running = asyncio.create_task(pipeline.run(Task("backfill")))
        waiting = asyncio.create_task(reached.wait())
        await asyncio.wait({running, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            waiting.cancel()
            assert [outcome.error for outcome in running.result()] == [None]
            break
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        spool = pipeline.settings.spool
        assert not spool.exists() or list(spool.iterdir()) == []
        query = "SELECT outcome FROM sync.runs WHERE account = $1"
        assert await pipeline.value(query, f"user{user}") == "interrupted"
        await pipeline.assert_ledger()
        pipeline.cloud.on_request = None
        before = set(asked(pipeline)[:-1])  # the last one, or the blob behind it, had no answer
        pipeline.cloud.forget_requests()
        await pipeline.backfill()
        relisted = {(f"{start - 1:.6f}", f"{start + 601:.6f}") for start in STARTS}
        assert (before - relisted) & (set(asked(pipeline)) - relisted) == set()
        await pipeline.assert_truth()
    assert moment > 10


async def test_every_request_fails_once(open_pipeline, manual_clock, night):
    """A failure of the k-th request for good: the run fails or passes over it, the next one has all."""
    for moment in count(1):
        pipeline = await opened(open_pipeline, manual_clock, night, 3000 + moment)

        async def fail(request, cloud=pipeline.cloud, moment=moment):
            if len(cloud.requests) == moment:
                cloud.fail_next(Fault(status=404), host=request.host)

        pipeline.cloud.on_request = fail
        (outcome,) = await pipeline.run(Task("once"))
        happened = len(pipeline.cloud.requests) >= moment
        pipeline.cloud.on_request = None
        if not happened:
            break
        refused_a_blob = any(r.host == "blob" and r.status == 404 for r in pipeline.cloud.requests)
        assert (outcome.error is None) == refused_a_blob
        await pipeline.once()
        await pipeline.assert_truth()
    assert moment > 10


FAULTS = [
    None,
    Fault(status=500),
    Fault(status=502),
    Fault(status=504),
    Fault(status=404),
    Fault(status=429, retry_after=1),
    Fault(cut_after=1500),
    Fault(reset=True),
    HTML_PAGE,
    MALFORMED_JSON,
]

BEHAVIOURS = [
    Behaviour(),
    Behaviour(inclusive_updated_after=True, gzip=True),
    Behaviour(order=Order.SHUFFLED, range_order=Order.SHUFFLED),
    Behaviour(overload_above=12, overload_seconds=0),
    Behaviour(overload_above=12, overload_seconds=0, limit=Limit.IGNORED, order=Order.START),
    Behaviour(overload_above=12, overload_seconds=0, limit_ceiling=9),
]

STEPS = st.lists(
    st.tuples(
        st.sampled_from(["once", "backfill", "reload"]),
        st.sampled_from(FAULTS),
        st.integers(1, 8),  # the request that the fault happens to, how often, and what is put before it
        st.integers(1, 3),
        st.lists(st.tuples(st.integers(1, 400), st.integers(40, 90)), max_size=25),
        st.sampled_from([0.0, 0.25, 1.0, 5000.0]),
    ),
    min_size=1,
    max_size=4,
)


@settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(behaviour=st.sampled_from(BEHAVIOURS), steps=STEPS)
def test_any_order_of_runs_ends_with_the_truth(open_many, behaviour, steps):
    """Runs of all kinds, in any order, with faults and puts in between: one good pass later all is there."""
    open_many(behaviour, steps)


@pytest.fixture
def open_many(pipeline_in_own_loop, night, manual_clock):
    """Run one example in an event loop of its own, with a user of its own."""
    users = count(5000)

    async def example(user, behaviour, steps):
        options = {"tokens": {user: f"token-{user}"}, "clock": manual_clock(NOW), "behaviour": behaviour}
        async with pipeline_in_own_loop(**options) as pipeline:
            cloud = pipeline.cloud
            for start in STARTS:
                cloud.put(user, night(start), updated=start + 602.5)
            for kind, fault, moment, times, puts, pause in steps:
                cloud._clock.now += pause
                cloud.forget_requests()

                async def disturb(request, fault=fault, moment=moment, times=times, puts=puts):
                    if len(cloud.requests) == moment:
                        for day, level in puts:
                            cloud.put(user, night(NOW - day * DAY, level=float(level)))
                        if fault is not None:
                            cloud.fail_next(fault, times=times, host=request.host)

                cloud.on_request = disturb
                kinds = {"once": Task("once"), "backfill": Task("backfill")}
                await pipeline.run(kinds.get(kind) or Task("backfill", reload=True))
                cloud.on_request = None
                cloud.faults.clear()
            await pipeline.backfill()
            await pipeline.once()
            await pipeline.assert_truth()

    return lambda behaviour, steps: asyncio.run(example(next(users), behaviour, steps))


async def test_two_processes_at_once(open_pipeline):
    """A backfill and an incremental pass of one account, side by side, end with the truth."""
    pipeline = await open_pipeline(Study(users=(1001,), nights=6, hours=0.1))
    await asyncio.gather(
        pipeline.run(Task("backfill")), pipeline.run(Task("once")), pipeline.run(Task("once"))
    )
    await pipeline.once()
    await pipeline.assert_truth()
