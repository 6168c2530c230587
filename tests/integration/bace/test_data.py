"""Datapoints from the emulated cloud into a real database: exact, once, whatever the server is like."""

from __future__ import annotations

from typing import Any

import pytest

from sync.emulators.bace import Behaviour, DataSession, Dataset, Fleet, Kind, Samples, Sorting, identifier
from tests.integration.bace.conftest import NOW

DAY = 86_400
START = int(NOW) - 40 * DAY

SERVERS: dict[str, dict[str, Any]] = {
    "a minute": {"raw_up_to": 60, "data_pages": 20, "data_pages_to": 20},
    "ten minutes": {"raw_up_to": 600, "data_pages": 50, "data_pages_to": 50},
    "an hour": {"raw_up_to": 3600, "data_pages_to": 500},
    "less than an hour": {"raw_up_to": 3600, "thresholds_inclusive": False},
    "six hours": {"raw_up_to": 21_600, "minutes_up_to": 7 * DAY},
    "six hours, hardly any minutes": {"raw_up_to": 21_600, "minutes_up_to": 30_000, "hours_up_to": 2 * DAY},
    "pages of 20": {"raw_up_to": 3600, "data_pages": 20, "data_pages_to": 20},
    "page size is not up to us": {"per_page_ignored": True},
    "order is not up to us": {"data_sort": Sorting.IGNORED, "data_pages_to": 100},
    "no order at all": {"data_sort": Sorting.IGNORED, "data_pages_to": 100, "rows_shuffled": True},
    "order is refused": {"data_sort": Sorting.REFUSED, "data_pages_to": 100},
    "order is unstable": {"ties_shuffled": True, "data_pages_to": 50},
    "buckets of whole datasets": {"buckets_per_dataset": True},
    "equal instants joined": {"equal_instants_joined": True},
    "more fields": {"extra_fields": True},
    "compressed": {"gzip": True},
}


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("manners", SERVERS)
async def test_every_sample_of_a_fleet_arrives_once(open_pipeline, manners, kind):
    """All samples, with the source's millisecond instants and values, whatever the server does not tell."""
    fleet = Fleet(seed=3, sessions=5, kinds=(kind,), first_start=START, rate=0.2, clock_error=20.0)
    pipeline = await open_pipeline(fleet, behaviour=Behaviour(**SERVERS[manners]))
    await pipeline.once()
    await pipeline.assert_exact()
    assert await pipeline.statuses() == {"complete": 5}


async def test_samples_of_one_instant_are_rows_of_their_own(open_pipeline):
    """As many rows as the source has, equal ones too, also where they fill more than a page."""
    dataset = Dataset.of(identifier("group", 1), identifier("device", 1), 6000)
    points = [(dataset, START + 10.25, float(n % 7)) for n in range(130)]
    points += [(dataset, START + 60 * n, 1.0) for n in range(30)] * 2
    pipeline = await open_pipeline([DataSession.of(points)], behaviour=Behaviour(data_pages_to=50))
    await pipeline.once()
    await pipeline.assert_exact()
    assert await pipeline.value("SELECT count(*) FROM bace.datapoint_rows") == 190
    assert await pipeline.statuses() == {"complete": 1}


async def test_samples_of_one_instant_that_come_joined_stay_one_row(open_pipeline):
    """Such a row keeps its count, minimum, maximum and average; it is never split for ever."""
    dataset = Dataset.of(identifier("group", 1), identifier("device", 1), 6000)
    points = [(dataset, START + 10.25, value) for value in (1.0, 2.0, 6.0)]
    points += [(dataset, START + 20.5 + n, 4.0) for n in range(100)]
    pipeline = await open_pipeline([DataSession.of(points)], behaviour=Behaviour(equal_instants_joined=True))
    requests = await pipeline.once()
    assert requests < 30
    (row,) = await pipeline.fetch("SELECT * FROM bace.datapoints WHERE count > 1")
    assert [row[name] for name in ("min_value", "max_value", "value", "count")] == [1.0, 6.0, 3.0, 3]
    state = await pipeline.state()
    assert (state["status"], state["loaded_count"], state["datapoint_count"]) == ("complete", 103, 103)


async def test_samples_on_whole_minutes_are_not_taken_for_buckets(open_pipeline):
    """A device that samples at the full minute, and one that does so every five minutes, are read exactly."""
    sets = [Dataset.of(identifier("group", 1), identifier("device", n), 5205) for n in range(2)]
    start = START // 3600 * 3600
    points = [(sets[0], start + 60 * n, float(n)) for n in range(200)]
    points += [(sets[1], start + 300 * n, 3.9 + n / 1000) for n in range(40)]
    pipeline = await open_pipeline([DataSession.of(points), DataSession.of(points[200:], label="b")])
    await pipeline.once()
    await pipeline.assert_exact()
    assert await pipeline.statuses() == {"complete": 2}


async def test_values_are_kept_bit_for_bit(open_pipeline):
    """Whole numbers, negative zero, the smallest and the largest floats: what JSON can say arrives."""
    dataset = Dataset.of(identifier("group", 1), identifier("device", 1), 6000)
    values = [0.1, -0.0, 5e-324, 1.7976931348623157e308, 3.0, -7.0, 1 / 3, 2.0**53 + 2]
    points = [(dataset, START + 1.007 * n, value) for n, value in enumerate(values)]
    pipeline = await open_pipeline([DataSession.of(points)])
    await pipeline.once()
    rows = await pipeline.fetch("SELECT value FROM bace.datapoints ORDER BY time")
    assert [str(row["value"]) for row in rows] == [str(value + 0.0 if value else 0.0) for value in values]


async def test_a_session_without_data_is_complete(open_pipeline):
    """Nothing to store, nothing missing, and hardly anything to ask."""
    pipeline = await open_pipeline([DataSession.of(Samples.of([]), start=START, end=START + 40_000)])
    assert await pipeline.once() < 16
    assert await pipeline.statuses() == {"complete": 1}
    assert await pipeline.value("SELECT count(*) FROM bace.datapoints") == 0
