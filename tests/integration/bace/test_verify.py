"""``verify``: what it finds, what it costs, what it mends, and what it must not complain about."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import numpy as np
import pytest

from sync.emulators.bace import Behaviour, DataSession, Dataset, Fleet, identifier
from sync.emulators.bace.behaviour import OddValues
from sync.emulators.bace.levels import Level
from sync.emulators.faults import Fault
from sync.model import Task

VERIFY, REPAIR = Task("verify"), Task("verify", repair=True)

START = 1_699_900_000
FLEET = Fleet(sessions=60, first_start=1_690_000_000, hours=(0.1, 2.0))


async def open_differences(pipeline: Any) -> dict[str, str]:
    """Kinds of what is open, by item."""
    rows = await pipeline.fetch(
        "SELECT item_key, kind FROM sync.differences WHERE resolved_at IS NULL ORDER BY item_key"
    )
    return {row["item_key"]: row["kind"] for row in rows}


async def plant(pipeline: Any, sessions: list[DataSession]) -> dict[str, str]:
    """Make source and warehouse differ in five ways; what a verification has to say."""
    changed, lost, removed, gone, renamed = (one.id for one in sessions)
    # A value in the middle of its day, so that no count, stamp, least or most moves with it.
    value = await pipeline.value(
        """
        WITH ranked AS (
            SELECT ctid, row_number() OVER (ORDER BY value) AS rank, count(*) OVER () AS rows
            FROM bace.datapoint_rows
            WHERE id_data_session = $1 AND id_container_data_latest = (
                SELECT id_container_data_latest FROM bace.datapoint_rows WHERE id_data_session = $1
                GROUP BY 1 ORDER BY count(*) DESC, 1 LIMIT 1)
        )
        UPDATE bace.datapoint_rows d SET value = value + 0.001 FROM ranked
        WHERE d.ctid = ranked.ctid AND rank = rows / 2 RETURNING value
        """,
        UUID(changed),
    )
    assert value is not None
    await pipeline.pool.execute(
        "DELETE FROM bace.datapoint_rows WHERE ctid = (SELECT ctid FROM bace.datapoint_rows"
        " WHERE id_data_session = $1 ORDER BY time OFFSET 3 LIMIT 1)",
        UUID(lost),
    )
    await pipeline.pool.execute("DELETE FROM bace.session_records WHERE id_data_session = $1", UUID(removed))
    pipeline.cloud.remove(gone)
    pipeline.cloud.put(replace(pipeline.cloud.session(renamed), label="another label"))
    return {
        f"{changed}/datapoints": "content",
        f"{lost}/datapoints": "content",
        removed: "missing",
        gone: "vanished",
        renamed: "changed",
    }


def dense(pipeline: Any) -> list[DataSession]:
    """The sessions that have enough samples to lose one."""
    return [one for one in pipeline.cloud.sessions() if len(pipeline.cloud.samples(one.id)) > 50]


async def test_exactly_the_planted_differences_are_found_and_mended(open_pipeline: Any) -> None:
    """Five differences of different kinds are found, nothing else is; a repair mends them."""
    pipeline = await open_pipeline(FLEET)
    full = await pipeline.once()
    planted = await plant(pipeline, dense(pipeline)[:5])
    cost = await pipeline.once(VERIFY)
    assert await open_differences(pipeline) == dict(sorted(planted.items()))
    assert cost < full / 4  # of so few sessions; bench/verify.py has a thousand

    await pipeline.once(REPAIR)
    assert await open_differences(pipeline) == {}
    assert set(await pipeline.statuses()) == {"complete"}
    await pipeline.assert_sessions()
    vanished = next(key for key, kind in planted.items() if kind == "vanished")
    await pipeline.pool.execute("DELETE FROM bace.datapoint_rows WHERE id_data_session = $1", UUID(vanished))
    await pipeline.assert_exact()
    mended = await pipeline.fetch("SELECT item_key FROM sync.differences WHERE mended")
    assert {row["item_key"] for row in mended} == planted.keys()


def odd() -> list[DataSession]:
    """Sessions with samples that share an instant, lie on whole minutes, or are silent for long."""
    group, device = identifier("group", 1), identifier("device", 1)
    pulse, battery = Dataset.of(group, device, 6000), Dataset.of(group, device, 5205)
    tied = [(pulse, START + 3 + n // 2, 60.0 + n) for n in range(40)]
    on_minutes = [(battery, START + 86_400 - START % 60 + 300 * n, 3.9 - n / 100) for n in range(20)]
    silent = [(battery, START - 864_000 + n * 7_200.5, 4.0) for n in range(3)]
    return [DataSession.of(points) for points in (tied, on_minutes, silent)]


CLEAN: Mapping[str, Mapping[str, Any]] = {
    "as documented": {},
    "equal instants are one row": {"equal_instants_joined": True},
    "stamps of whole seconds": {"whole_seconds": True},
    "buckets count other sessions too": {"buckets_per_dataset": True},
    "nulls among the values": {"odd_values": OddValues.NULL, "odd_every": 7},
    "archived data is put away": {"archived_data": False},
    "no order in answers": {"rows_shuffled": True},
    "raw samples for a minute at most": {"raw_up_to": 60, "minutes_up_to": 3_600},
    "neither dataset nor time can be asked for across sessions": {
        "refused_attributes": frozenset({"id_container_data_latest"})
    },
    "changes cannot be asked for": {"refused_attributes": frozenset({"updated_at"})},
}


@pytest.mark.parametrize("behaviour", CLEAN.values(), ids=CLEAN.keys())
async def test_a_clean_warehouse_has_no_differences(open_pipeline: Any, behaviour: Any) -> None:
    """Whatever the vendor leaves open, nothing differs where everything was read."""
    fleet = Fleet(
        sessions=16, first_start=1_699_800_000, hours=(0.1, 1.0), unfinished=5, archived=4, clock_error=30
    )
    at_first = Behaviour(**{**behaviour, "archived_data": True})
    pipeline = await open_pipeline([*fleet, *odd()], behaviour=at_first)
    await pipeline.run()
    pipeline.change(**behaviour)
    (outcome,) = await pipeline.run(VERIFY)
    assert outcome.error is None
    assert await open_differences(pipeline) == {}
    await pipeline.assert_ledger()


async def test_what_is_new_since_the_last_pass_is_no_difference(open_pipeline: Any, session: Any) -> None:
    """A session that grows, and one that has just begun, are the next pass's business."""
    growing = session(START, end=None, ends=False)
    pipeline = await open_pipeline([growing])
    pipeline.clock.now = START + 400
    await pipeline.once()
    pipeline.clock.now = START + 5_000
    pipeline.cloud.put(session(START + 4_000))
    await pipeline.once(VERIFY)
    assert await open_differences(pipeline) == {}


async def test_what_was_not_found_again_is_over(open_pipeline: Any, session: Any) -> None:
    """A difference that is gone by itself is resolved by the next verification, and not said to be mended."""
    pipeline = await open_pipeline([session(START)])
    await pipeline.once()
    await pipeline.pool.execute("UPDATE bace.session_records SET label = 'x'")
    await pipeline.once(VERIFY)
    assert list((await open_differences(pipeline)).values()) == ["content"]
    await pipeline.pool.execute("UPDATE bace.session_records SET label = $1", f"BACE Go {START}")
    await pipeline.once(VERIFY)
    (row,) = await pipeline.fetch("SELECT resolved_at IS NULL AS open, mended FROM sync.differences")
    assert row == {"open": False, "mended": False}


async def test_damage_to_a_session_s_own_row_is_mended(open_pipeline: Any, session: Any) -> None:
    """A row that is not what was stored is stored again, though its version is the one that is there."""
    pipeline = await open_pipeline([session(START)])
    await pipeline.once()
    await pipeline.pool.execute("UPDATE bace.session_records SET label = 'x'")
    await pipeline.once(REPAIR)
    assert await open_differences(pipeline) == {}
    await pipeline.assert_sessions()


async def test_what_is_gone_at_the_source_is_told_and_stays(open_pipeline: Any, session: Any) -> None:
    """Samples that the source serves no longer stay; a repair says so in the session's status."""
    pipeline = await open_pipeline([session(START)])
    await pipeline.once()
    pipeline.cloud.put(DataSession.of([], id=session(START).id, start=START, end=START + 1_000))
    pipeline.change(count_error=3)
    held = pipeline.cloud.session(session(START).id)
    pipeline.cloud.put(replace(held, group=session(START).group, label=session(START).label))
    await pipeline.run(VERIFY)
    key = f"{session(START).id}/datapoints"
    assert (await open_differences(pipeline))[key] == "vanished"
    await pipeline.run(REPAIR)
    assert key not in await open_differences(pipeline)
    assert (await pipeline.state())["status"] == "incomplete"
    assert await pipeline.value("SELECT count(*) FROM bace.datapoints") == 3


PULSE, BATTERY = (Dataset.of(identifier("group", 1), identifier("device", 1), code) for code in (6000, 5205))
Points = list[tuple[Dataset, float, float]]


def pulses(numbers: range) -> Points:
    """Some of the samples of a pulse that is taken every second."""
    return [(PULSE, START + 3.25 + n, 60.0 + n % 17) for n in numbers]


def batteries(numbers: range = range(10)) -> Points:
    """Some of the samples of a battery that is read every minute."""
    return [(BATTERY, START + 10 + 60 * n, 3.9) for n in numbers]


def measured(points: Points) -> DataSession:
    """A session of some samples."""
    return DataSession.of(points, start=START, end=START + 1_100)


def lose_at_the_source(pipeline: Any, points: Points) -> None:
    """The source serves these samples alone, and says nothing of it in the session's row."""
    (held,) = pipeline.cloud.sessions()
    pipeline.change(count_error=len(pipeline.cloud.samples(held.id)) - len(points))
    pipeline.cloud.put(replace(measured(points), id=held.id, group=held.group, label=held.label))


async def stored(pipeline: Any) -> dict[str, int]:
    """How many rows there are of each dataset."""
    rows = await pipeline.fetch("SELECT id_container_data_latest, count(*) FROM bace.datapoints GROUP BY 1")
    return {str(row["id_container_data_latest"]): row["count"] for row in rows}


def rows_of(pulse: int, battery: int) -> dict[str, int]:
    """What ``stored`` finds."""
    return {PULSE.id_container_data_latest: pulse, BATTERY.id_container_data_latest: battery}


async def test_what_the_source_lost_in_part_stays(open_pipeline: Any) -> None:
    """Neither a repair nor a later pass deletes what the source has no more, and the session says so."""
    pipeline = await open_pipeline([measured([*pulses(range(1_000)), *batteries()])])
    await pipeline.once()
    lose_at_the_source(pipeline, [*pulses(range(0, 1_000, 2)), *batteries()])
    key = f"{(await pipeline.state())['id_data_session']}/datapoints"
    await pipeline.once(VERIFY)
    assert await open_differences(pipeline) == {key: "vanished"}
    await pipeline.once(REPAIR)
    for _ in range(3):
        assert await stored(pipeline) == rows_of(1_000, 10)
        state = await pipeline.state()
        assert (state["status"], state["loaded_count"]) == ("incomplete", 1_010)
        assert "the source serves fewer datapoints than it once did" in state["status_reason"]
        pipeline.clock.now += 10 * 86_400
        await pipeline.once()
        await pipeline.once(VERIFY)
        assert await open_differences(pipeline) == {}


async def test_damage_is_found_where_the_source_lost_more(open_pipeline: Any) -> None:
    """What the warehouse lacks is read again, though the source has fewer samples of the same minutes."""
    pipeline = await open_pipeline([measured([*pulses(range(1_000)), *batteries()])])
    await pipeline.once()
    lose_at_the_source(pipeline, [*pulses(range(0, 1_000, 2)), *batteries()])
    await pipeline.once(REPAIR)
    await pipeline.pool.execute(
        "DELETE FROM bace.datapoint_rows WHERE time = to_timestamp($1)", START + 3.25 + 500
    )
    await pipeline.once(VERIFY)
    assert list((await open_differences(pipeline)).values()) == ["content"]
    await pipeline.once(REPAIR)
    assert await open_differences(pipeline) == {}
    assert await stored(pipeline) == rows_of(1_000, 10)
    assert await pipeline.statuses() == {"incomplete": 1}


async def test_only_what_was_mended_is_said_to_be(open_pipeline: Any) -> None:
    """Of a mixture, what the warehouse lacks is read again; what the source lacks stays, and that is told."""
    pipeline = await open_pipeline([measured([*pulses(range(1_000)), *batteries()])])
    await pipeline.once()
    lose_at_the_source(pipeline, pulses(range(1_000)))
    await pipeline.pool.execute(
        "DELETE FROM bace.datapoint_rows WHERE time = to_timestamp($1)", START + 3.25 + 500
    )
    await pipeline.once(VERIFY)
    assert list((await open_differences(pipeline)).values()) == ["content"]
    await pipeline.once(REPAIR)
    assert await stored(pipeline) == rows_of(1_000, 10)
    (found,) = await pipeline.fetch("SELECT kind, text FROM sync.differences")
    assert found["kind"] == "vanished"
    state = await pipeline.state()
    assert state["status"] == "incomplete"
    assert "the source serves fewer datapoints than it once did" in state["status_reason"]


async def test_a_repair_that_mends_nothing_leaves_the_difference_open(open_pipeline: Any) -> None:
    """Rows that are gone again when they are compared once more were not mended."""
    pipeline = await open_pipeline([measured(batteries())])
    await pipeline.once()
    await pipeline.pool.execute("DELETE FROM bace.datapoint_rows")
    await pipeline.pool.execute(
        "CREATE FUNCTION drop_row() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'"
    )
    await pipeline.pool.execute(
        "CREATE TRIGGER lossy BEFORE INSERT ON bace.datapoint_rows FOR EACH ROW EXECUTE FUNCTION drop_row()"
    )
    await pipeline.once(REPAIR)
    assert list((await open_differences(pipeline)).values()) == ["missing"]


@pytest.mark.parametrize("lost", [BATTERY, None], ids=["one dataset", "everything"])
async def test_what_is_lost_of_unknown_datasets_is_found(open_pipeline: Any, lost: Dataset | None) -> None:
    """Where the source does not say which datasets a session has, it is compared all the same."""
    pipeline = await open_pipeline([measured([*pulses(range(100)), *batteries()])])
    await pipeline.once()
    await pipeline.pool.execute("UPDATE bace.session_records SET datasets = NULL")
    await pipeline.once(VERIFY)
    assert await open_differences(pipeline) == {}
    await pipeline.pool.execute(
        "DELETE FROM bace.datapoint_rows WHERE $1::uuid IS NULL OR id_container_data_latest = $1",
        None if lost is None else UUID(lost.id_container_data_latest),
    )
    await pipeline.once(VERIFY)
    assert len(await open_differences(pipeline)) == 1
    await pipeline.once(REPAIR)
    assert await open_differences(pipeline) == {}
    await pipeline.assert_exact()


@pytest.mark.parametrize("datasets", [1, 101])
async def test_rows_of_a_dataset_that_the_session_does_not_have_are_told(
    open_pipeline: Any, datasets: int
) -> None:
    """They are in none of the source's lists, and found all the same."""
    series = [Dataset.of(identifier("group", 1), identifier("device", n), 6000) for n in range(datasets)]
    pipeline = await open_pipeline([measured([(one, START + 7.5 + n, 60.0) for n, one in enumerate(series)])])
    await pipeline.once()
    await pipeline.pool.execute(
        "INSERT INTO bace.datapoint_rows (time, id_data_session, id_container_data_latest, value)"
        " SELECT to_timestamp($1), id_data_session, $2, 9 FROM bace.session_records",
        START + 500.5,
        UUID(int=7),
    )
    await pipeline.once(VERIFY)
    assert list((await open_differences(pipeline)).values()) == ["vanished"]


@pytest.mark.parametrize("new", [60.5, 61.0, 63.0])
async def test_a_change_among_few_whole_numbers_is_found(open_pipeline: Any, new: float) -> None:
    """That an average has no decimal places does not show that it is rounded: it may be exact."""
    values = (50.0, 60.0, 60.0, 60.0, 60.0, 70.0)
    pipeline = await open_pipeline(
        [measured([(PULSE, START + 20.25 + 20 * n, value) for n, value in enumerate(values)])]
    )
    await pipeline.once()
    await pipeline.pool.execute(
        "UPDATE bace.datapoint_rows SET value = $1 WHERE time = to_timestamp($2)", new, START + 60.25
    )
    await pipeline.once(VERIFY)
    assert list((await open_differences(pipeline)).values()) == ["content"]


async def test_rounded_averages_are_no_difference(open_pipeline: Any, monkeypatch: Any) -> None:
    """That the source rounds is found out from rows that are equal, in a few closer looks."""
    exact = Level.mean
    monkeypatch.setattr(
        Level, "mean", lambda level: np.where(level.count > 1, exact(level).round(1), exact(level))
    )
    pipeline = await open_pipeline(FLEET)
    full = await pipeline.once()
    cost = await pipeline.once(VERIFY)
    assert await open_differences(pipeline) == {}
    assert cost < full / 10
    (changed, *_) = dense(pipeline)
    await pipeline.pool.execute(
        "UPDATE bace.datapoint_rows SET value = value + 100"
        " WHERE ctid = (SELECT ctid FROM bace.datapoint_rows WHERE id_data_session = $1 LIMIT 1)",
        UUID(changed.id),
    )
    await pipeline.once(VERIFY)
    assert await open_differences(pipeline) == {f"{changed.id}/datapoints": "content"}


async def test_a_part_of_history_is_verified_alone(open_pipeline: Any, session: Any) -> None:
    """What began outside of the time asked for is neither found, nor resolved, nor mended."""
    early, late = session(START - 40 * 86_400), session(START)
    pipeline = await open_pipeline([early, late])
    await pipeline.once()
    await pipeline.pool.execute("UPDATE bace.datapoint_rows SET value = value + 1")
    both = {f"{one.id}/datapoints": "content" for one in (early, late)}
    part = {"since": datetime.fromtimestamp(START - 86_400, UTC)}
    await pipeline.once(Task("verify", **part))
    assert await open_differences(pipeline) == {f"{late.id}/datapoints": "content"}
    await pipeline.once(VERIFY)
    assert await open_differences(pipeline) == dict(sorted(both.items()))
    await pipeline.once(Task("verify", **part, repair=True))
    assert await open_differences(pipeline) == {f"{early.id}/datapoints": "content"}


async def test_a_session_is_verified_by_the_account_that_reads_it(open_pipeline: Any, session: Any) -> None:
    """What two accounts see is told once; one that only another account sees is that one's business."""
    pipeline = await open_pipeline([session(START)])
    pipeline.add_account("ward", [identifier("group", 1)])
    await pipeline.once()
    await pipeline.pool.execute("UPDATE bace.session_records SET label = 'x'")
    await pipeline.pool.execute("UPDATE bace.datapoint_rows SET value = value + 1")
    await pipeline.once(VERIFY)
    assert await open_differences(pipeline) == {
        session(START).id: "content",
        f"{session(START).id}/datapoints": "content",
    }
    assert await pipeline.value("SELECT count(*) FROM sync.differences") == 2


async def test_a_session_that_cannot_be_compared_stops_no_other(open_pipeline: Any, session: Any) -> None:
    """The run names it and fails; the others are compared, and the next run goes on with it."""
    spoilt, damaged = session(START), session(START - 40 * 86_400)
    pipeline = await open_pipeline([spoilt, damaged])
    await pipeline.once()
    await pipeline.pool.execute("UPDATE bace.datapoint_rows SET value = value + 1")

    async def spoil(request: Any) -> None:
        if request.query.get("filter[id_data_session]") == spoilt.id:
            pipeline.cloud.fail_next(Fault(body=b"{}"))

    pipeline.cloud.on_request = spoil
    (outcome,) = await pipeline.run(VERIFY)
    assert spoilt.id in str(outcome.error)
    assert list(await open_differences(pipeline)) == [f"{damaged.id}/datapoints"]
    pipeline.cloud.on_request = None
    await pipeline.once(VERIFY)
    assert len(await open_differences(pipeline)) == 2


async def test_a_session_too_dense_for_one_answer_is_narrowed_down_in_parts(open_pipeline: Any) -> None:
    """Where even a day is answered raw, on more pages than are read at once, shorter ones are asked for."""
    dataset = Dataset.of(identifier("group", 1), identifier("device", 1), 6000)
    dense = DataSession.of([(dataset, START + n / 4, 60 + n % 7) for n in range(2_000)])
    behaviour = Behaviour(raw_up_to=7 * 86_400, data_pages=20, data_pages_to=20)
    pipeline = await open_pipeline([dense], behaviour=behaviour)
    await pipeline.once()
    await pipeline.pool.execute(
        "UPDATE bace.datapoint_rows SET value = value + 0.5 WHERE time = to_timestamp($1)", START + 300.0
    )
    await pipeline.once(VERIFY)
    assert await open_differences(pipeline) == {f"{dense.id}/datapoints": "content"}
    await pipeline.once(REPAIR)
    assert await open_differences(pipeline) == {}
    await pipeline.assert_exact()
