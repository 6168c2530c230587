"""Sessions that grow, end late or never, and data that comes after everything seemed done."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest

from sync.emulators.bace import Behaviour, DataSession, Dataset, Samples, identifier
from sync.model import Task
from sync.sources.bace.spans import MINUTE, SECOND, difference
from tests.integration.bace.conftest import NOW, Pipeline

HOUR, DAY = 3600, 86_400
START = int(NOW) - 1000
PULSE = Dataset.of(identifier("group", 1), identifier("device", 1), 6000)
BATTERY = Dataset.of(identifier("group", 1), identifier("device", 1), 5205)
PATIENT = {"access_lifetime": 90 * DAY}


def steady(start: int, seconds: int, every: float = 5.0, **fields: Any) -> DataSession:
    """A session with a sample each few seconds, which arrives within 30 s."""
    count = int(seconds / every)
    samples = Samples.of([(PULSE, start + 0.25 + every * n, float(n % 90)) for n in range(count)])
    late = Samples(
        samples.datasets, samples.dataset, samples.time_ms, samples.value, samples.time_ms + 30_000
    )
    return DataSession.of(late, start=start, **fields)


def more(*points: tuple[float, float]) -> Samples:
    """Samples of the pulse."""
    return Samples.of([(PULSE, time, value) for time, value in points])


async def test_a_growing_session_costs_what_its_news_cost(open_pipeline):
    """Each of ten cycles asks for the new samples and the last quarter of an hour; then it completes."""
    growing = steady(START, 11 * HOUR, end=START + 11 * HOUR)
    pipeline = await open_pipeline([steady(START - DAY, 4 * HOUR), growing])
    await pipeline.once()
    for _ in range(10):
        pipeline.clock.now += HOUR
        before = len(pipeline.asked_for_data())
        await pipeline.once()
        assert len(pipeline.asked_for_data()) - before <= (HOUR + 960) / 5 / 1000 + 3
        await pipeline.assert_exact()
        assert await pipeline.statuses() == {"open": 1, "complete": 1}
        newest = pipeline.cloud.samples(growing.id).time_ms.max() * 1000
        (covered,) = await pipeline.coverage(growing.id)
        assert covered.end == newest - 15 * MINUTE
    pipeline.clock.now += HOUR
    assert await pipeline.once() <= 7
    await pipeline.assert_exact()
    assert await pipeline.statuses() == {"complete": 2}


async def test_a_session_that_never_ends_is_asked_for_ever_more_rarely(open_pipeline):
    """Each cycle for a day after its last news, then hourly, daily, weekly; and each time for little."""
    session = steady(START, 900, ends=False)
    pipeline = await open_pipeline([session], behaviour=Behaviour(**PATIENT))
    looked: dict[str, int] = {}
    costs = []
    for name, cycles, step, meanwhile in (
        ("first day", 24, HOUR, 0),
        ("first week", 48, HOUR // 2, 5 * DAY),
        ("first month", 36, 4 * HOUR, 20 * DAY),
        ("later", 30, DAY, 0),
    ):
        for _ in range(cycles):
            before = len(pipeline.asked_for_data())
            await pipeline.once()
            pipeline.clock.now += step
            costs.append(len(pipeline.asked_for_data()) - before)
        looked[name] = sum(map(bool, costs[-cycles:]))
        pipeline.clock.now += meanwhile
    assert looked["first day"] == 24
    assert 22 <= looked["first week"] <= 25
    assert 5 <= looked["first month"] <= 7
    assert 4 <= looked["later"] <= 6
    assert max(costs[1:]) <= 4
    await pipeline.assert_exact()
    assert await pipeline.statuses() == {"open": 1}


async def test_news_of_a_silent_session_make_it_worth_asking_again(open_pipeline):
    """Once new samples come, it is asked for each cycle again."""
    session = steady(START, 900, ends=False)
    pipeline = await open_pipeline([session], behaviour=Behaviour(**PATIENT))
    await pipeline.once()
    pipeline.clock.now += 20 * DAY
    await pipeline.once()
    pipeline.cloud.add_samples(session.id, more((pipeline.clock.now - 5.5, 61.0)))
    for _ in range(3):
        pipeline.clock.now += 60
        before = len(pipeline.asked_for_data())
        await pipeline.once()
        assert len(pipeline.asked_for_data()) > before
    await pipeline.assert_exact()


async def test_late_data_of_an_open_session_is_found_when_it_ends(open_pipeline):
    """Samples that arrive behind what counts as read are missing from the sum in the end, and are found."""
    pipeline = await open_pipeline([steady(START, 6 * HOUR, end=START + 6 * HOUR)])
    (session,) = pipeline.cloud.sessions()
    pipeline.clock.now += 4 * HOUR
    await pipeline.once()
    pipeline.cloud.add_samples(session.id, more((START + 1000.5, 1.0), (START + 9_000.5, 2.0)))
    pipeline.clock.now += 4 * HOUR
    await pipeline.once()
    await pipeline.assert_exact()
    assert await pipeline.statuses() == {"complete": 1}


ENDED = int(NOW) - 12 * HOUR


@pytest.fixture
async def ended(open_pipeline: Any) -> Pipeline:
    """A session that ended eight hours ago and is complete."""
    pipeline: Pipeline = await open_pipeline([steady(ENDED, 4 * HOUR)], behaviour=Behaviour(**PATIENT))
    await pipeline.once()
    assert await pipeline.statuses() == {"complete": 1}
    return pipeline


LATE = more((ENDED + 3_000.5, 1.0), (ENDED + 3_001.5, 2.0), (ENDED + 11_000.5, 3.0))


async def test_late_data_that_changes_the_session_is_found_at_once(ended):
    """When ``updated_at`` moves, the next cycle finds where, and asks for just that."""
    (session,) = ended.cloud.sessions()
    ended.clock.now += HOUR
    ended.cloud.add_samples(session.id, LATE)
    before = len(ended.asked_for_data())
    await ended.once()
    await ended.assert_exact()
    assert await ended.statuses() == {"complete": 1}
    assert len(ended.asked_for_data()) - before <= 6


@pytest.mark.parametrize("frozen", [False, True])
async def test_late_data_that_changes_nothing_is_found_by_the_late_check(ended, frozen):
    """A day later the buckets are compared, whether the source's count has moved or not."""
    (session,) = ended.cloud.sessions()
    ended.change(late_data_bumps=False, count_frozen=frozen)
    ended.clock.now += HOUR
    ended.cloud.add_samples(session.id, LATE)
    ended.clock.now += DAY
    await ended.once()
    await ended.assert_exact()
    count = (await ended.state())["datapoint_count"]
    assert await ended.statuses() == {"incomplete" if count != 4 * 720 + 3 else "complete": 1}
    if frozen:
        reason = (await ended.state())["status_reason"]
        assert "2880" in reason
        assert "2883" in reason


async def test_the_late_check_costs_one_request_and_is_made_once(ended):
    """Where nothing came late, one coarse answer shows it; after that the session is left alone."""
    ended.clock.now += DAY + HOUR
    before = len(ended.asked_for_data())
    await ended.once()
    assert len(ended.asked_for_data()) - before == 1
    for _ in range(5):
        ended.clock.now += 10 * DAY
        await ended.once()
    assert len(ended.asked_for_data()) - before == 1
    assert await ended.statuses() == {"complete": 1}


async def test_a_correction_with_an_equal_count_is_found(ended):
    """A value that was changed upstream shows in the buckets' average, and replaces the old one."""
    (session,) = ended.cloud.sessions()
    held = session.computed()
    values = held.value.copy()
    values[100] += 0.5
    corrected = Samples(held.datasets, held.dataset, held.time_ms, values)
    ended.cloud.put(DataSession.of(corrected, id=session.id, start=session.start, label=session.label))
    ended.clock.now += DAY + HOUR
    await ended.once()
    await ended.assert_exact()
    assert await ended.statuses() == {"complete": 1}


async def test_samples_far_outside_their_session_are_found(open_pipeline):
    """A device whose clock is wrong by days is read all the same: the sum leads to them."""
    points = [(PULSE, ENDED + 5.5 + 10 * n, float(n)) for n in range(300)]
    points += [(PULSE, ENDED - 5 * DAY + 0.5 + n, float(n)) for n in range(40)]
    points += [(BATTERY, ENDED + 2 * HOUR + 1.25 + n, float(n)) for n in range(40)]
    session = DataSession.of(points, start=ENDED, end=ENDED + HOUR)
    pipeline = await open_pipeline([session])
    await pipeline.once()
    await pipeline.assert_exact()
    assert await pipeline.statuses() == {"complete": 1}


async def test_a_session_that_was_opened_again_is_read_again(ended):
    """A session whose end is taken back counts as open, and completes when it ends for good."""
    (session,) = ended.cloud.sessions()
    longer = steady(ENDED, 20 * HOUR, end=ENDED + 20 * HOUR, id=session.id, label=session.label)
    ended.cloud.put(longer.with_more(more(), changed_at=ended.clock.now + 30))
    ended.clock.now += 60
    await ended.once()
    assert await ended.statuses() == {"open": 1}
    await ended.assert_exact()
    ended.clock.now += DAY
    await ended.once()
    await ended.assert_exact()
    assert await ended.statuses() == {"complete": 1}


@pytest.mark.parametrize("error", [-7, 13])
async def test_a_wrong_count_is_told_and_not_asked_about_for_ever(open_pipeline, error):
    """The reason has the numbers; it is compared again after 1, 7 and 30 days, and then no more."""
    pipeline = await open_pipeline(
        [steady(ENDED, 4 * HOUR)], behaviour=Behaviour(count_error=error, **PATIENT)
    )
    await pipeline.once()
    await pipeline.assert_exact()
    state = await pipeline.state()
    assert state["status"] == "incomplete"
    assert str(2880 + error) in state["status_reason"]
    assert "2880" in state["status_reason"]
    days = []
    for day in range(1, 75):
        pipeline.clock.now += DAY
        before = len(pipeline.asked_for_data())
        await pipeline.once()
        if len(pipeline.asked_for_data()) > before:
            assert len(pipeline.asked_for_data()) == before + 1
            days.append(day)
    assert days == [1, 8, 38]
    assert (await pipeline.state())["status"] == "incomplete"


@pytest.mark.parametrize("loaded_before", [True, False])
async def test_data_that_is_served_no_longer_is_not_deleted(open_pipeline, loaded_before):
    """Nothing stored goes; what was not stored in time is missing, and the session says so."""
    session = steady(ENDED, 4 * HOUR, archived_at=int(NOW) + DAY)
    pipeline = await open_pipeline([session], behaviour=Behaviour(archived_data=False, **PATIENT))
    if loaded_before:
        await pipeline.once()
    pipeline.clock.now += DAY + HOUR
    for _ in range(3):
        await pipeline.once()
        pipeline.clock.now += 2 * DAY
    stored = 2880 if loaded_before else 0
    assert await pipeline.value("SELECT count(*) FROM bace.datapoint_rows") == stored
    assert await pipeline.value("SELECT loaded_count FROM bace.data_sessions") == stored
    assert await pipeline.statuses() == {"complete" if loaded_before else "incomplete": 1}
    if not loaded_before:
        assert "2880" in (await pipeline.state())["status_reason"]


async def test_a_dataset_that_is_served_no_longer_is_not_deleted(open_pipeline):
    """Its rows stay while the other's are read again, and a sum that no longer fits is told."""
    points = [(dataset, ENDED + 0.5 + 10 * n, float(n)) for n in range(300) for dataset in (PULSE, BATTERY)]
    session = DataSession.of(points, start=ENDED, end=ENDED + HOUR)
    pipeline = await open_pipeline([session], behaviour=Behaviour(**PATIENT))
    await pipeline.once()
    pulse = session.computed().where(session.computed().dataset == 0)
    rest = DataSession.of(pulse, id=session.id, start=ENDED, end=ENDED + HOUR, label=session.label)
    pipeline.cloud.put(rest.with_more(more(), changed_at=NOW + 60))
    pipeline.clock.now += HOUR
    await pipeline.once()
    await pipeline.once(Task("backfill", reload=True))
    assert await pipeline.value("SELECT count(*) FROM bace.datapoint_rows") == 600
    state = await pipeline.state()
    assert (state["status"], state["loaded_count"]) == ("incomplete", 600)
    assert "300" in state["status_reason"]


async def test_a_session_that_vanishes_keeps_its_data(ended):
    """It is marked as missing upstream, and asked for no more."""
    (session,) = ended.cloud.sessions()
    ended.cloud.remove(session.id)
    ended.clock.now += 8 * DAY
    await ended.once()
    assert await ended.missing() == {session.id}
    assert await ended.value("SELECT count(*) FROM bace.datapoint_rows") == 2880
    before = len(ended.asked_for_data())
    ended.clock.now += DAY
    await ended.once()
    assert len(ended.asked_for_data()) == before


async def test_coverage_spans_the_whole_session(ended):
    """What is covered reaches from before the start to behind the end, without a gap."""
    (session,) = ended.cloud.sessions()
    (covered,) = await ended.coverage(session.id)
    assert covered.start <= (session.start - 60) * SECOND
    assert covered.end >= (session.end + 60) * SECOND
    assert difference((covered,), await ended.coverage(session.id)) == ()
    assert await ended.value(
        "SELECT status_reason IS NULL FROM bace.data_sessions WHERE id_data_session = $1", UUID(session.id)
    )
