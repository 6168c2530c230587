"""Nothing is believed for longer, or sooner, than it was proven."""

from __future__ import annotations

from typing import Any

import pytest

from sync.emulators.bace import Behaviour, DataSession, Dataset, Sorting, identifier
from sync.sources.bace import gathering
from sync.storage.sink import PostgresSink
from tests.integration.bace.conftest import NOW, Pipeline

HOUR, DAY = 3_600, 86_400


def dataset(device: int, datatype: int) -> Dataset:
    """What a device measures."""
    return Dataset.of(identifier("group", 1), identifier("device", device), datatype)


def steady(device: int, start: int, number: int, *, every: float, datatype: int = 6000) -> DataSession:
    """A session with a sample every so many seconds, off the minutes."""
    points = [(dataset(device, datatype), start + 7.3 + every * n, float(n)) for n in range(number)]
    return DataSession.of(points)


async def lower_threshold_unseen(pipeline: Pipeline, *, hours: int) -> None:
    """Prove six hours, let short sessions come for days, then have the vendor serve one hour at most."""
    await pipeline.once()
    for _ in range(5):
        pipeline.clock.now += 20 * HOUR
        pipeline.cloud.put(steady(3, int(pipeline.clock.now) - 5_000, 40, every=5.35))
        await pipeline.once()
    pipeline.change(raw_up_to=HOUR)
    pipeline.clock.now += hours * HOUR


@pytest.mark.parametrize("hours", [1, 20])
async def test_buckets_are_no_samples_after_the_vendor_has_changed_its_thresholds(
    open_pipeline: Any, hours: int
) -> None:
    """However sure a length was: a battery's minute buckets with a count of 1 never become readings."""
    pipeline = await open_pipeline(
        [steady(1, int(NOW) - 40 * DAY, 3_000, every=5.35)],
        behaviour=Behaviour(raw_up_to=6 * HOUR, minutes_up_to=7 * DAY),
    )
    await lower_threshold_unseen(pipeline, hours=hours)
    start = int(pipeline.clock.now) - DAY // 2
    pipeline.cloud.put(steady(2, start, 60, every=300, datatype=5205))
    await pipeline.once()
    await pipeline.assert_exact()


class Crashing(PostgresSink):
    """Dies when it has stored so many batches with datapoints."""

    left = 0

    async def commit(self, run: int, batch: Any) -> Any:
        """Store a batch, or die."""
        if batch.stretches:
            if not Crashing.left:
                raise RuntimeError("a crash")
            Crashing.left -= 1
        return await super().commit(run, batch)


@pytest.mark.parametrize("batches", [1, 2, 3, 5])
async def test_a_crash_leaves_no_coverage_that_rests_on_an_order_nobody_has_proven(
    open_pipeline: Any, batches: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that ignores the order is found out late: until then cut pages are stored, not vouched for."""
    monkeypatch.setattr(gathering, "MOST_ROWS", 1)  # each answer is a batch
    start = int(NOW) - 2 * HOUR
    points = [(dataset(1 + n % 2, 6000), start + 2 * n + 0.001 * (n % 2), float(n)) for n in range(2_800)]
    pipeline = await open_pipeline(
        [DataSession.of(points, start=start - 10, end=int(NOW) + 3 * DAY)],
        behaviour=Behaviour(data_sort=Sorting.IGNORED, data_pages_to=500),
    )
    pipeline.sink = Crashing
    Crashing.left = batches
    await pipeline.run()
    pipeline.sink = PostgresSink
    await pipeline.once()
    await pipeline.assert_exact()
