"""Listing data sessions, from the emulated cloud into a real database."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace
from typing import Any

import pytest

from sync.emulators.bace import Behaviour, Fault, Fleet, Sorting, resources
from sync.model import Batch, Tally, Task
from sync.ports import Unit
from sync.sources.bace.source import BaceSource
from sync.storage.sink import PostgresSink
from tests.integration.bace.conftest import Pipeline

NOW = 1_700_000_000
DAY = 86_400


class ListingSource(BaceSource):
    """The part of the BACE source that lists sessions, and asks for those that are not final."""

    async def plan(self, account: str, task: Task) -> AsyncGenerator[Sequence[Unit], None]:
        """The list, without the data."""
        async for units in self._list(self._contexts[account], task):
            yield units


@pytest.fixture
def open_pipeline(open_pipeline):
    """Make pipelines that list sessions and do not read their data."""

    async def opened(*args: Any, **options: Any) -> Pipeline:
        pipeline = await open_pipeline(*args, **options)
        pipeline.source = ListingSource
        return pipeline

    return opened


@pytest.fixture
def hundred(session):
    """Return 120 sessions, one every half hour, the last of them over."""
    return [session(NOW - 10_000 - 1_800 * n) for n in range(120)]


async def test_all_sessions_of_a_large_account_are_listed(open_pipeline):
    """5,474 sessions arrive field for field, in hardly more requests than the list has pages."""
    pipeline = await open_pipeline(Fleet(sessions=5_474, first_start=NOW - 460 * DAY))
    held = sum(one.exists(NOW) for one in pipeline.cloud.sessions())
    requests = await pipeline.once()
    await pipeline.assert_sessions()
    assert requests <= held / 49 + 5
    assert await pipeline.value("SELECT last_success_at IS NOT NULL FROM sync.streams")


async def test_a_quiet_cycle_costs_two_requests(open_pipeline):
    """On an account of 5,474 sessions on which nothing happens, the newest and the changed are asked for."""
    pipeline = await open_pipeline(Fleet(sessions=5_474, first_start=NOW - 500 * DAY))
    await pipeline.once()
    pipeline.clock.now += 60
    before = await pipeline.fetch("SELECT xmin::text, ctid::text FROM bace.session_records ORDER BY 2")
    assert await pipeline.once() == 2
    assert (
        await pipeline.fetch("SELECT xmin::text, ctid::text FROM bace.session_records ORDER BY 2") == before
    )


async def test_sessions_that_never_end_do_not_make_a_cycle_dear(open_pipeline, session):
    """Of 2,100 sessions one in 45 stays open, on every page: what appears is found by the newest page."""
    started = NOW - 2_100 * 7_200
    ends = [started + n * 7_200 + 60 if n % 45 else None for n in range(2_100)]
    pipeline = await open_pipeline(
        [session(started + n * 7_200, end=end, ends=end is not None) for n, end in enumerate(ends)]
    )
    await pipeline.once()
    for _ in range(3):
        pipeline.clock.now += 900
        assert await pipeline.once() <= 3


@pytest.mark.parametrize("refused", [(), ("updated_at",)])
async def test_sessions_that_cannot_be_read_do_not_make_a_cycle_dear(
    open_pipeline, hundred, session, monkeypatch, refused
):
    """Where each page has one that is as unreadable as before, the newest page is enough for news."""
    bad = {hundred[n].id for n in range(7, 120, 20)}
    spoilt = {"id_data_session": lambda one, _: f"no {one.id}" if one.id in bad else one.id}
    monkeypatch.setattr(resources, "_SESSION", {**resources._SESSION, **spoilt})
    pipeline = await open_pipeline(hundred)
    pipeline.change(refused_attributes=frozenset(refused))
    for _ in range(2):  # the first time they come with more fields, and are others by that
        await pipeline.once()
    for _ in range(3):
        pipeline.clock.now += 900
        assert await pipeline.once() <= 2
    pipeline.cloud.put(session(NOW))
    pipeline.clock.now += 2_000
    assert await pipeline.once() <= 4
    assert await pipeline.value("SELECT count(*) FROM bace.session_records") == 120 - len(bad) + 1


async def test_the_weekly_listing_asks_for_documented_fields_alone(open_pipeline, hundred):
    """Once a week all pages are compared with the warehouse; nothing is asked for by id, nothing written."""
    pipeline = await open_pipeline(hundred, behaviour=Behaviour(access_lifetime=30 * DAY))
    await pipeline.once()
    pipeline.clock.now += 7 * DAY
    before = await pipeline.fetch("SELECT xmin::text, ctid::text FROM bace.session_records ORDER BY 2")
    assert await pipeline.once() == 2 + 3
    assert all("fields" in request.query for request in pipeline.asked()[-5:])
    assert (
        await pipeline.fetch("SELECT xmin::text, ctid::text FROM bace.session_records ORDER BY 2") == before
    )
    assert await pipeline.once() == 2


async def test_a_session_that_was_uploaded_late_is_found(open_pipeline, hundred, session):
    """However old its start is: by its change, or by the vendor's count where changes cannot be had."""
    for refused in ((), ("updated_at",)):
        pipeline = await open_pipeline(hundred)
        pipeline.change(refused_attributes=frozenset(refused))
        await pipeline.once()
        pipeline.clock.now += 600
        pipeline.cloud.put(session(NOW - 900_000 - len(refused), created_at=int(pipeline.clock.now) - 10))
        await pipeline.once()
        await pipeline.assert_sessions()
        for one in list(pipeline.cloud.sessions()):
            pipeline.cloud.remove(one.id)
        await pipeline.pool.execute("TRUNCATE bace.session_records, bace.session_access, sync.stream_state")


async def test_a_change_to_an_old_session_is_found_at_once(open_pipeline, hundred):
    """A session far from the newest page changes, and the next cycle has it."""
    pipeline = await open_pipeline(hundred)
    await pipeline.once()
    pipeline.clock.now += 600
    pipeline.cloud.put(replace(hundred[100], label="renamed", changed_at=(pipeline.clock.now - 5,)))
    assert await pipeline.once() == 3
    await pipeline.assert_sessions()


@pytest.mark.parametrize("ignored", [True, False])
async def test_where_changes_cannot_be_asked_for_everything_is_listed_daily(open_pipeline, hundred, ignored):
    """A server that refuses or ignores ``updated_at`` is found out, and a change arrives within a day."""
    pipeline = await open_pipeline(hundred)
    pipeline.change(refused_attributes=frozenset({"updated_at"}), unknown_filters_ignored=ignored)
    await pipeline.once()
    pipeline.clock.now += 600
    pipeline.cloud.put(replace(hundred[100], label="renamed", changed_at=(pipeline.clock.now - 5,)))
    assert await pipeline.once() == 1
    pipeline.clock.now += DAY
    await pipeline.once()
    await pipeline.assert_sessions()


async def test_a_session_that_vanishes_is_marked_and_comes_back(open_pipeline, hundred):
    """It stays in the warehouse, marked, and the mark goes when the vendor has it again."""
    pipeline = await open_pipeline(hundred)
    await pipeline.once()
    pipeline.cloud.remove(hundred[60].id)
    await pipeline.once()
    assert await pipeline.missing() == {hundred[60].id}
    assert await pipeline.once() == 2
    pipeline.cloud.put(replace(hundred[60], changed_at=(pipeline.clock.now,)))
    pipeline.clock.now += 1
    await pipeline.once()
    assert await pipeline.missing() == set()
    assert await pipeline.value("SELECT count(*) FROM bace.session_access WHERE refused_at IS NULL") == 120
    assert await pipeline.once() == 2


async def test_open_sessions_are_followed_to_their_end(open_pipeline, hundred, session):
    """A session that runs is asked for until it is final, wherever it stands in the list."""
    running = session(NOW - 9_000 * 30, end=NOW + 5_000)
    pipeline = await open_pipeline([*hundred, running])
    await pipeline.once()
    await pipeline.assert_sessions()
    pipeline.clock.now += 20_000
    await pipeline.once()
    await pipeline.assert_sessions()


async def test_relations_become_rows_of_their_own(open_pipeline):
    """Groups, devices, datatypes and datasets that sessions refer to are kept, once each."""
    fleet = Fleet(sessions=60, first_start=NOW - 30 * DAY)
    pipeline = await open_pipeline(fleet)
    await pipeline.once()
    sessions = [one for one in pipeline.cloud.sessions() if one.exists(NOW)]
    datasets = {dataset for one in sessions for dataset in one.datasets}
    rows = await pipeline.fetch("SELECT id_data_session, datasets FROM bace.session_records")
    assert {str(row["id_data_session"]): {str(each) for each in row["datasets"]} for row in rows} == {
        one.id: {dataset.id_container_data_latest for dataset in one.datasets} for one in sessions
    }
    groups = await pipeline.fetch("SELECT id_group, label, type FROM bace.groups")
    assert {str(row["id_group"]) for row in groups} == {one.group for one in sessions}
    assert all(row["label"] and row["type"] == "5003" for row in groups)
    devices = await pipeline.fetch("SELECT id_physical_device FROM bace.devices")
    assert {str(row["id_physical_device"]) for row in devices} >= {each.source_device for each in datasets}
    codes = await pipeline.fetch("SELECT datatype FROM bace.datatypes")
    assert {row["datatype"] for row in codes} == {each.datatype for each in datasets}
    extras = await pipeline.fetch("SELECT DISTINCT extra FROM bace.session_records")
    assert extras == [{"extra": None}]


async def test_several_accounts_share_a_session(open_pipeline, hundred):
    """It is stored once, seen by both; gone for one of them it is not missing."""
    pipeline = await open_pipeline(hundred)
    pipeline.add_account("clinic", [hundred[0].group])
    await pipeline.once()
    await pipeline.assert_sessions()
    access = (
        "SELECT account, count(*) FROM bace.session_access WHERE refused_at IS NULL GROUP BY 1 ORDER BY 1"
    )
    assert [row["count"] for row in await pipeline.fetch(access)] == [120, 120]
    pipeline.cloud.put(replace(hundred[7], group=hundred[7].id))
    for one in await pipeline.fetch("SELECT account FROM sync.streams ORDER BY account"):
        await pipeline.once(accounts=[one["account"]])
        assert await pipeline.missing() == set(), "whichever of them was the last to look"
    assert [row["count"] for row in await pipeline.fetch(access)] == [119, 120]


async def test_a_session_that_vanishes_for_two_accounts_at_once(open_pipeline, session):
    """Both are told so before either of them has written it down, and the session is marked all the same."""
    one = session(int(NOW) - 5 * DAY)
    pipeline = await open_pipeline([one])
    pipeline.add_account("clinic", [one.group])
    await pipeline.once()
    pipeline.cloud.remove(one.id)
    asked = []
    both_asked = asyncio.Event()

    async def meet(request):
        if one.id in f"{request.path} {request.query} {request.body}":
            asked.append(request)
            if len(asked) == 2:
                both_asked.set()
            await asyncio.wait_for(both_asked.wait(), 10)

    pipeline.cloud.on_request = meet
    pipeline.clock.now += 8 * DAY
    await pipeline.once()
    assert both_asked.is_set()
    assert await pipeline.missing() == {one.id}


@pytest.mark.parametrize(
    "behaviour",
    [
        {"session_sort": Sorting.IGNORED},
        {"session_sort": Sorting.REFUSED},
        {"refused_attributes": frozenset({"start", "updated_at"})},
        {"refused_attributes": frozenset({"start", "updated_at"}), "unknown_filters_ignored": True},
        {
            "refused_attributes": frozenset({"id_data_session", "updated_at", "start"}),
            "per_page_ignored": True,
        },
        {"total_error": 13},
        {"total_error": -13},
        {"per_page_ignored": True},
        {"ties_shuffled": True},
        {"expand_person": True, "data_id_objects": True},
        {"session_pages": 5, "session_pages_to": 5},
    ],
    ids=lambda switches: " ".join(sorted(switches)),
)
async def test_the_list_is_whole_whatever_the_documents_leave_open(
    open_pipeline, hundred, session, behaviour
):
    """At first contact and after a day, and an idle cycle stays cheap."""
    pipeline = await open_pipeline(hundred)
    pipeline.change(**behaviour)
    await pipeline.once()
    await pipeline.assert_sessions()
    pipeline.clock.now += 2 * DAY
    pipeline.cloud.put(session(NOW + DAY))
    pipeline.cloud.put(session(NOW - 80 * DAY, created_at=NOW + DAY + 7))
    pipeline.cloud.remove(hundred[30].id)
    await pipeline.once()
    await pipeline.once()
    await pipeline.assert_sessions()
    assert await pipeline.missing() == {hundred[30].id}
    assert await pipeline.once() <= 5


async def test_what_appears_and_vanishes_while_listing_hides_nothing(open_pipeline, hundred, session):
    """Sessions come and go between pages; every one that was there throughout is stored."""
    pipeline = await open_pipeline(hundred)
    gone = []

    async def meddle(request):
        if "data-session" in request.path and len(gone) < 20:
            n = len(gone)
            gone.append(hundred[n].id)
            pipeline.cloud.remove(hundred[n].id)
            pipeline.cloud.put(session(NOW - 5_000 - n))

    pipeline.change(session_pages_to=10)
    pipeline.cloud.on_request = meddle
    await pipeline.once()
    pipeline.cloud.on_request = None
    rows = await pipeline.fetch("SELECT id_data_session FROM bace.session_records")
    stored = {str(row["id_data_session"]) for row in rows}
    assert stored >= {one.id for one in hundred} - set(gone)
    await pipeline.once()
    await pipeline.assert_sessions()


async def test_a_bad_session_stops_nothing(open_pipeline, hundred):
    """A session without a usable key or start is a reject; its neighbours are stored."""
    pipeline = await open_pipeline(hundred[:3])
    body = b"""{"items": [null, {"id_data_session": "86d70a1b"}, {"id_data_session":
        "86d70a1b-1111-4111-8111-111111111111", "start": null}, {"id_data_session":
        "86d70a1b-2222-4222-8222-222222222222", "start": "1648641893", "end": 1648643067,
        "label": "a\\u0000b", "isIngestionFinished": "1", "created_at": "soon"}]}"""
    pipeline.cloud.faults.add(Fault(status=200, body=body), path="data-session")
    await pipeline.once()
    reasons = {row["reason"] for row in await pipeline.fetch("SELECT reason FROM sync.rejects")}
    assert reasons == {
        "a data session is null, not an object",
        "a data session has no usable id_data_session",
        "a data session has no usable start",
        "label holds characters that PostgreSQL cannot store; replaced by U+FFFD",
        "created_at is a string that cannot be used; stored as NULL",
    }
    assert await pipeline.value("SELECT count(*) FROM bace.session_records") == 4
    await pipeline.assert_ledger()


async def test_an_interrupted_pass_over_new_sessions_is_made_again(open_pipeline, hundred, session):
    """Where it stops after part of them, the next one still finds the rest, changes or not."""
    pipeline = await open_pipeline(hundred)
    pipeline.change(refused_attributes=frozenset({"updated_at"}))
    await pipeline.once()
    pipeline.clock.now += 100_000
    for n in range(150):
        pipeline.cloud.put(session(NOW + 500 * n))
    committed = []

    class Dying(PostgresSink):
        async def commit(self, run: int, batch: Batch) -> Tally:
            committed.extend(batch.records)
            if len(committed) > 60:
                raise AssertionError("the process dies")
            return await super().commit(run, batch)

    pipeline.sink = Dying
    (outcome,) = await pipeline.run()
    assert outcome.error is not None
    pipeline.sink = PostgresSink
    await pipeline.once()
    await pipeline.assert_sessions()


async def test_refused_access_is_not_given_back_by_a_listing_the_same_day(open_pipeline, hundred):
    """An account that was denied a session is not its owner again while the denial is fresh."""
    pipeline = await open_pipeline(hundred)
    await pipeline.once()
    denied = "UPDATE bace.session_access SET refused_at = to_timestamp($1)"
    still = "SELECT count(*) FROM bace.session_access WHERE refused_at IS NOT NULL"
    await pipeline.pool.execute(denied, float(NOW))
    pipeline.clock.now += 60
    await pipeline.once()
    assert await pipeline.value(still) == 120
    pipeline.clock.now += 8 * DAY
    await pipeline.once()
    assert await pipeline.value(still) == 0


async def test_a_server_that_shows_something_else_each_time_ends_in_an_honest_error(open_pipeline, hundred):
    """All that was seen is stored, the error says what may be missing, and comes once a day."""
    pipeline = await open_pipeline(hundred)
    pipeline.change(session_sort=Sorting.IGNORED, ties_shuffled=True)
    (outcome,) = await pipeline.run()
    assert "could not be proved to be whole" in str(outcome.error)
    assert await pipeline.value("SELECT count(*) FROM bace.session_records") > 60
    assert len(pipeline.asked()) < 60
    assert await pipeline.once() <= 5


async def test_more_new_sessions_than_are_good_for_memory_are_read_with_everything(
    open_pipeline, hundred, session
):
    """After a long pause the whole list is read instead, page by page, and nothing is left out."""
    pipeline = await open_pipeline(hundred)
    pipeline.change(refused_attributes=frozenset({"updated_at"}), session_pages_to=2)
    await pipeline.once()
    pipeline.clock.now += 100_000
    for n in range(90):
        pipeline.cloud.put(session(NOW + 500 * n))
    await pipeline.once()
    await pipeline.assert_sessions()


async def test_relations_that_are_refused_are_done_without(open_pipeline, hundred):
    """A 422 for ``expand`` costs the relations, not the sessions, and is learned."""
    pipeline = await open_pipeline(hundred[:3])
    for _ in range(2):
        pipeline.cloud.faults.add(Fault(status=422, body=b"[]"), path="data-session")
    await pipeline.once()
    await pipeline.assert_sessions()
    assert await pipeline.value("SELECT name FROM sync.knowledge") == "sessions.expand"
    assert not any("expand" in request.query for request in pipeline.asked()[2:])
