"""What the daemon says when it is asked how it is: always something, and nothing that it does not know."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from importlib.metadata import version

import pytest
from prometheus_client.parser import text_string_to_metric_families

from sync.daemon.pages import Pages
from sync.errors import StorageUnavailable
from sync.model import StreamKey, StreamSurvey, Survey
from sync.observe.metrics import Metrics

HANG_S = 30


def stream(age: timedelta) -> StreamSurvey:
    """Make Alice's stream, whose last success is so long ago."""
    return StreamSurvey(
        key=StreamKey("beddit", "alice", "sessions"), last_success_at=datetime.now(UTC) - age, lag=1.0
    )


def fresh_since(now: datetime) -> dict[str, datetime]:
    """Say that successes of the last hour still count, of BACE those of the last day."""
    return {"beddit": now - timedelta(hours=1), "bace": now - timedelta(days=1)}


@pytest.fixture
async def pages():
    """Return the pages of a daemon that has not reached its warehouse yet."""
    accounts = {"beddit": ("alice",), "bace": ()}
    found = Pages(Metrics("1.2.3", accounts), accounts, fresh_since, datetime.now(UTC), lambda: False)
    yield found
    await found.aclose()


def looking(*streams):
    """Return a look at a warehouse with such streams."""

    async def look():
        return Survey(streams=streams, workers=2)

    return look


async def samples(pages):
    """Return what a scrape says: by name and source."""
    content, media_type = await pages.metrics()
    assert media_type.startswith("text/plain")
    return {
        (sample.name, sample.labels.get("source")): sample.value
        for family in text_string_to_metric_families(content.decode())
        for sample in family.samples
    }


def test_alive():
    """Which nightshift this is, and for how long: more with time, and without the warehouse."""
    found = Pages(Metrics("1.2.3", ()), {}, fresh_since, datetime.now(UTC), lambda: False)
    first, second = found.health(), found.health()
    assert first["version"] == version("nightshift")
    assert 0 <= first["uptime_seconds"] <= second["uptime_seconds"]


async def test_before_the_warehouse_is_reached(pages):
    """It is not ready and says why; the metrics of the process itself are there."""
    found = await pages.readiness()
    assert not found.ready
    assert "it could not be reached yet" in found.problems[0]
    said = await samples(pages)
    assert said["nightshift_items_total", "beddit"] == 0
    assert not any(name.startswith("nightshift_workers") for name, _ in said)


async def test_up_to_date(pages):
    """With a success of just now everything is as it should be; the metrics have what the warehouse says."""
    pages.survey = looking(stream(timedelta()))
    assert (await pages.readiness()).ready
    said = await samples(pages)
    assert said["nightshift_workers", None] == 2


@pytest.mark.parametrize(("minutes", "is_ready"), [(50, True), (70, False)])
async def test_an_old_success_does_not_count(pages, minutes, is_ready):
    """An account whose last success is too old is late, and the reason names it."""
    pages.survey = looking(stream(timedelta(minutes=minutes)))
    found = await pages.readiness()
    assert found.ready is is_ready
    assert is_ready or found.problems[0].startswith("beddit/alice: no successful check for ")


async def test_who_has_only_just_begun_is_not_late(pages):
    """An account that was never read has as long from the process's beginning."""
    pages.survey = looking()
    assert (await pages.readiness()).ready


async def test_a_warehouse_that_goes_away(pages):
    """The reason is told, and the pages go on answering."""

    async def gone():
        raise StorageUnavailable("PostgreSQL: gone")

    pages.survey = gone
    assert (await pages.readiness()).problems == ("The warehouse is away: PostgreSQL: gone",)
    assert await samples(pages)


async def test_how_fresh_is_fresh_is_told(pages):
    """For each source, the age in seconds up to which a success still counts."""
    pages.survey = looking(stream(timedelta()))
    said = await samples(pages)
    assert said["nightshift_fresh_within_seconds", "beddit"] == 3600
    assert said["nightshift_fresh_within_seconds", "bace"] == 86_400


async def test_closing_ends_a_look_that_hangs(pages):
    """A look under way does not outlive the pages."""
    began, cancelled = asyncio.Event(), []

    async def hangs():
        began.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    pages.survey = hangs
    asked = asyncio.create_task(pages.readiness())
    async with asyncio.timeout(HANG_S):
        await began.wait()
        await pages.aclose()
        assert not (await asked).ready
    assert cancelled == [True]


async def test_a_warehouse_that_is_there_for_others_only(pages):
    """While those who work are not served, the daemon is not ready, whatever a look says."""
    pages.survey = looking()
    pages.is_away = lambda: True
    found = await pages.readiness()
    assert not found.ready
    assert "does not serve the work" in found.problems[0]
