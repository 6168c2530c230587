"""Who may read a session's datapoints, and how many datasets fit into one question."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from sync.emulators.bace import (
    Behaviour,
    DataSession,
    Dataset,
    Excess,
    Fault,
    Fleet,
    Kind,
    Refresh,
    identifier,
)
from sync.errors import AuthenticationError
from sync.model import Task
from tests.integration.bace.conftest import NOW, Pipeline

HOUR, DAY = 3600, 86_400
START = int(NOW) - 3 * DAY
GROUP = identifier("group", 1)


def wide(datasets: int, samples: int = 3, start: int = START) -> DataSession:
    """A session of many datasets."""
    sets = [Dataset.of(GROUP, identifier("device", n), 6000) for n in range(datasets)]
    points = [(each, start + 0.5 + 60 * n, float(n)) for n in range(samples) for each in sets]
    return DataSession.of(points, start=start, end=start + HOUR)


@pytest.fixture
def fleet() -> Fleet:
    """Six sessions of vital signs."""
    return Fleet(seed=4, sessions=6, kinds=(Kind.VITALS,), first_start=START - DAY, rate=0.05)


# --- more than 100 datasets -----------------------------------------------------------------------


@pytest.mark.parametrize("beyond", [Excess.REFUSED, Excess.TRUNCATED])
async def test_many_datasets_are_read_in_groups(open_pipeline, beyond):
    """250 datasets are asked for in groups of at most 100, and all arrive."""
    pipeline = await open_pipeline([wide(250)], behaviour=Behaviour(datasets_beyond=beyond))
    await pipeline.once()
    await pipeline.assert_exact()
    assert await pipeline.statuses() == {"complete": 1}
    assert await pipeline.value("SELECT count(*) FROM bace.session_loads") == 3
    assert await pipeline.value("SELECT max(cardinality(datasets)) FROM bace.session_loads") == 100


async def test_a_dataset_too_many_that_comes_later(open_pipeline):
    """Where a 101st dataset appears, the session is read in groups, and no row is doubled or lost."""
    pipeline = await open_pipeline([wide(100)])
    await pipeline.once()
    assert await pipeline.statuses() == {"complete": 1}
    (session,) = pipeline.cloud.sessions()
    late = wide(101).computed()
    pipeline.clock.now += HOUR
    pipeline.cloud.add_samples(session.id, late.where(late.dataset == 100))
    await pipeline.once()
    await pipeline.assert_exact()
    assert await pipeline.statuses() == {"complete": 1}
    assert await pipeline.value("SELECT loaded_count FROM bace.data_sessions") == 303


async def test_datasets_that_are_cut_silently_are_missed(open_pipeline):
    """Where their names cannot be had, the sum tells: such a session is incomplete, never complete."""
    pipeline = await open_pipeline([wide(150)], behaviour=Behaviour(datasets_beyond=Excess.TRUNCATED))
    refuse_expand(pipeline)
    await pipeline.once()
    state = await pipeline.state()
    assert state["status"] == "incomplete"
    assert "450" in state["status_reason"]
    assert "300" in state["status_reason"]


async def test_datasets_without_names_that_are_refused(open_pipeline):
    """The session says what the vendor said, and the others are read."""
    pipeline = await open_pipeline([wide(150), wide(3, start=START - DAY)])
    refuse_expand(pipeline)
    (outcome,) = await pipeline.run()
    assert "could not be read" in str(outcome.error)
    assert await pipeline.statuses() == {"complete": 1, "incomplete": 1}


def refuse_expand(pipeline: Pipeline) -> None:
    """The vendor refuses relations."""

    async def refuse(request: Any) -> None:
        if "expand" in request.query:
            pipeline.cloud.faults.add(Fault(status=422, body=b"[]"), path="data-session")

    pipeline.cloud.on_request = refuse


# --- tokens and permissions -----------------------------------------------------------------------


async def test_a_token_that_expires_meanwhile(open_pipeline, fleet):
    """In the midst of a session a new one is fetched, and nothing is lost."""
    pipeline = await open_pipeline(fleet, behaviour=Behaviour(access_lifetime=600, refresh_lifetime=1_500))

    async def work(request: Any) -> None:
        pipeline.clock.now += 50 * ("downsampled" in request.path)

    pipeline.cloud.on_request = work
    await pipeline.once()
    await pipeline.assert_exact()
    assert await pipeline.statuses() == {"complete": 6}
    assert len(pipeline.cloud.grants()) > 2


async def test_a_refused_refresh_token(open_pipeline, fleet):
    """The password helps where refreshing is refused."""
    pipeline = await open_pipeline(fleet, behaviour=Behaviour(refresh=Refresh.REFUSED, access_lifetime=600))
    await pipeline.once()
    pipeline.clock.now += HOUR
    await pipeline.once()
    await pipeline.assert_exact()
    assert len(pipeline.cloud.grants("password")) == 2


async def test_data_that_nobody_may_read(open_pipeline, fleet):
    """A missing permission costs a few requests, stops the account, and the message says what to do."""
    fleet = replace(fleet, sessions=12)
    pipeline = await open_pipeline(fleet, behaviour=Behaviour(forbidden=frozenset({"data-downsampled"})))
    for _ in range(2):
        before = len(pipeline.cloud.requests)
        (outcome,) = await pipeline.run()
        assert isinstance(outcome.error, AuthenticationError)
        assert "permi" in str(outcome.error)
        assert len(pipeline.cloud.requests) - before <= 16
    assert await pipeline.statuses() == {"incomplete": 10, "loading": 2}
    assert await pipeline.value("SELECT last_error FROM sync.streams")
    pipeline.change(forbidden=frozenset())
    pipeline.clock.now += DAY
    await pipeline.once()
    await pipeline.assert_exact()
    assert await pipeline.statuses() == {"complete": 12}


async def test_a_denied_session_is_handed_over(open_pipeline, fleet):
    """What one account may list and not read is read by another one that lists it."""
    pipeline = await open_pipeline(fleet)
    pipeline.add_account("zeta", [fleet.group(n) for n in range(3)])
    await pipeline.once()
    pipeline.clock.now += DAY
    for n in range(3):
        pipeline.cloud.put(wide(2, start=int(pipeline.clock.now) - 2 * HOUR - n))
    pipeline.cloud.put(wide(2, start=int(pipeline.clock.now) - 3 * HOUR))
    account = pipeline.cloud.account()
    pipeline.cloud.add_account(replace(account, forbidden=frozenset({"data-downsampled"})))
    pipeline.cloud.revoke_tokens()
    pipeline.add_account("zeta", [GROUP, *(fleet.group(n) for n in range(3))])
    for _ in range(3):
        await pipeline.run()
    await pipeline.assert_exact()
    assert await pipeline.statuses() == {"complete": 10}


async def test_two_accounts_read_a_session_once(open_pipeline, fleet):
    """A session that both see is asked for by one of them."""
    pipeline = await open_pipeline(fleet)
    await pipeline.once()
    alone = len(pipeline.asked_for_data())
    await pipeline.pool.execute(
        "TRUNCATE bace.session_records, bace.session_access, bace.session_loads, bace.session_checks,"
        " bace.datapoint_rows, sync.stream_state, sync.knowledge"
    )
    pipeline.add_account("zeta", [fleet.group(n) for n in range(3)])
    before = len(pipeline.asked_for_data())
    await pipeline.once()
    await pipeline.once()
    await pipeline.assert_exact()
    assert len(pipeline.asked_for_data()) - before <= alone + 6
    asked = pipeline.asked_for_data()[before:]
    assert await pipeline.value("SELECT count(*) FROM bace.session_access") == 12
    assert asked


async def test_one_account_does_not_reload_what_another_one_reads(open_pipeline, fleet):
    """Each account reloads its own sessions: what both see is read once."""
    pipeline = await open_pipeline(fleet)
    pipeline.add_account("zeta", [fleet.group(n) for n in range(3)])
    for name in ("lab", "zeta"):
        await pipeline.once(accounts=[name])
    before = len(pipeline.asked_for_data())
    await pipeline.once(Task("backfill", reload=True), accounts=["lab"])
    alone = len(pipeline.asked_for_data()) - before
    await pipeline.once(Task("backfill", reload=True), accounts=["zeta"])
    assert len(pipeline.asked_for_data()) - before == alone
    await pipeline.assert_exact()
    assert await pipeline.statuses() == {"complete": 6}


# --- reading again --------------------------------------------------------------------------------


async def test_reloading_what_is_equal_writes_nothing(open_pipeline, fleet):
    """Every sample is read once more, all are unchanged, and no row is touched."""
    pipeline = await open_pipeline(fleet)
    await pipeline.once()
    rows = "SELECT xmin::text, ctid::text FROM bace.datapoint_rows ORDER BY 2"
    before = await pipeline.fetch(rows)
    (outcome,) = await pipeline.run(Task("backfill", reload=True))
    assert outcome.error is None
    assert outcome.tally.unchanged >= len(before)
    assert outcome.tally.stored == 0
    assert await pipeline.fetch(rows) == before
    await pipeline.assert_exact()
    assert await pipeline.statuses() == {"complete": 6}


async def test_a_reload_mends_what_differs(open_pipeline, fleet):
    """Rows that were lost or changed in the warehouse come back as they are upstream."""
    pipeline = await open_pipeline(fleet)
    await pipeline.once()
    await pipeline.pool.execute(
        "UPDATE bace.datapoint_rows SET value = value + 1 WHERE ctid::text LIKE '%3)'"
    )
    await pipeline.once(Task("backfill", reload=True))
    await pipeline.assert_exact()
    assert await pipeline.statuses() == {"complete": 6}


async def test_an_interrupted_reload_goes_on(open_pipeline, fleet):
    """What was taken back and not read again is read by the next run."""
    pipeline = await open_pipeline(fleet)
    await pipeline.once()

    async def fail(request: Any) -> None:
        if "downsampled" in request.path:
            pipeline.cloud.faults.add(Fault(status=503), times=100)

    await pipeline.pool.execute(
        "UPDATE bace.datapoint_rows SET value = value + 1 WHERE ctid::text LIKE '%3)'"
    )
    pipeline.cloud.on_request = fail
    (outcome,) = await pipeline.run(Task("backfill", reload=True))
    assert outcome.error is not None
    assert await pipeline.statuses() == {"loading": 6}
    pipeline.cloud.on_request = None
    pipeline.cloud.faults.clear()
    await pipeline.once()
    await pipeline.assert_exact()
    assert await pipeline.statuses() == {"complete": 6}


@pytest.mark.parametrize("reload", [False, True])
async def test_a_backfill_keeps_to_its_range(open_pipeline, reload):
    """Only sessions that began within it are read."""
    sessions = [wide(2, start=START - n * DAY) for n in range(6)]
    pipeline = await open_pipeline(sessions)
    if reload:
        await pipeline.once()
    before = len(pipeline.asked_for_data())
    since, until = (datetime.fromtimestamp(START - n * DAY, UTC) for n in (3, 1))
    await pipeline.once(Task("backfill", since=since, until=until, reload=reload))
    asked = pipeline.asked_for_data()[before:]
    low, high = since.timestamp() * 1e6, until.timestamp() * 1e6
    small = [each for each in asked if each.length < DAY * 1_000_000]
    assert small
    assert [each for each in small if each.end < low or each.start > high] == []
    if not reload:
        assert await pipeline.statuses() == {"complete": 2, "loading": 4}
        await pipeline.once()
    await pipeline.assert_exact()
    assert await pipeline.statuses() == {"complete": 6}


async def test_a_quiet_cycle_is_cheap(open_pipeline):
    """On an account of 5,474 sessions that are all complete, nothing new costs at most three requests."""
    pipeline = await open_pipeline(Fleet(sessions=5_474, first_start=int(NOW) - 500 * DAY))
    await pipeline.pool.execute(
        "CREATE FUNCTION bace.checked() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " INSERT INTO bace.session_checks VALUES"
        " (NEW.id_data_session, NEW.digest, 'complete', NULL, 1, NULL, now(), NULL)"
        " ON CONFLICT (id_data_session) DO NOTHING; RETURN NULL; END $$"
    )
    await pipeline.pool.execute(
        "CREATE TRIGGER checked AFTER INSERT ON bace.session_records"
        " FOR EACH ROW EXECUTE FUNCTION bace.checked()"
    )
    await pipeline.once()
    assert pipeline.asked_for_data() == []
    assert (await pipeline.statuses())["complete"] > 5_000
    pipeline.clock.now += 60
    assert await pipeline.once() <= 3
