"""Datapoints from the emulated cloud into a real database."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from sync.emulators.bace import Fleet, Kind
from sync.sources.bace.source import BaceSource
from sync.transport import HostGates
from tests.integration.bace.conftest import IMPATIENT, NOW, Pipeline

START = int(NOW) - 40 * 86_400


def whole_source(settings: Any, warehouse: Any, clock: Callable[[], float]) -> BaceSource:
    """The real source, made for a test."""
    return BaceSource(settings, warehouse, HostGates(), IMPATIENT, clock=clock)


async def assert_exact(pipeline: Pipeline) -> None:
    """Every sample of every session is in the warehouse once, with its instant and value."""
    rows = await pipeline.fetch(
        "SELECT id_data_session::text AS session, id_container_data_latest::text AS dataset,"
        " (extract(epoch FROM time) * 1000)::bigint AS ms, value, count FROM bace.datapoints"
    )
    found = Counter((r["session"], r["dataset"], r["ms"], r["value"]) for r in rows for _ in range(r["count"]))
    expected: Counter[tuple[str, str, int, float]] = Counter()
    for session in pipeline.cloud.sessions():
        samples = pipeline.cloud.samples(session.id)
        for which, ms, value in zip(samples.dataset, samples.time_ms, samples.value, strict=True):
            key = samples.datasets[which].id_container_data_latest
            expected[session.id, key, int(ms), float(value)] += 1
    assert found == expected


@pytest.mark.parametrize("kind", [Kind.VITALS, Kind.BATTERY])
async def test_every_sample_of_a_fleet_arrives_once(open_pipeline: Any, kind: Kind) -> None:
    """All samples of all sessions, with the source's millisecond instants and values, and complete."""
    fleet = Fleet(seed=3, sessions=8, kinds=(kind,), first_start=START)
    pipeline = await open_pipeline(fleet)
    pipeline.make_source = whole_source
    requests = await pipeline.once()
    print(requests, await pipeline.fetch("SELECT status, status_reason, count(*) FROM bace.data_sessions GROUP BY 1,2"))
    await assert_exact(pipeline)
    assert await pipeline.fetch("SELECT DISTINCT status FROM bace.data_sessions") == [{"status": "complete"}]
