"""Answers with datapoints that are not what the documents say: nothing else suffers, nothing is hidden."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from sync.emulators.bace import (
    HTML_PAGE,
    Behaviour,
    DataSession,
    Dataset,
    Fault,
    Fleet,
    Kind,
    OddValues,
    Request,
    identifier,
)
from tests.integration.bace.conftest import DATAPOINTS, NOW, Pipeline

DAY = 86_400
START = int(NOW) - 3 * DAY
DATASET = Dataset.of(identifier("group", 1), identifier("device", 1), 6000)


def ten(start: int = START) -> DataSession:
    """A session of ten samples."""
    return DataSession.of([(DATASET, start + 0.5 + 7 * n, float(n)) for n in range(10)], start=start)


def items(session: DataSession) -> list[Any]:
    """Its samples as the vendor has them."""
    held = session.computed()
    return [
        {
            "id_container_data_latest": DATASET.id_container_data_latest,
            "id_group": DATASET.id_group,
            "datatype": DATASET.datatype,
            "source_device": DATASET.source_device,
            "timestamp_seconds": ms / 1000,
            "min_val": value,
            "max_val": value,
            "avg_val": value,
            "count_val": 1,
        }
        for ms, value in zip(held.time_ms.tolist(), held.value.tolist(), strict=True)
    ]


def answer(listed: list[Any], **meta: Any) -> Fault:
    """An answer of one page."""
    told = {"totalCount": len(listed), "pageCount": 1, "currentPage": 1, "perPage": 500, **meta}
    return Fault(status=200, body=json.dumps({"items": listed, "_links": {}, "_meta": told}).encode())


def when(pipeline: Pipeline, wanted: Callable[[Request], bool], fault: Fault) -> None:
    """Let a fault happen to every request for data that is of some kind."""

    async def listen(request: Request) -> None:
        if "downsampled" in request.path and wanted(request):
            pipeline.cloud.faults.add(fault, path="downsampled")

    pipeline.cloud.on_request = listen


def length(request: Request) -> float:
    """Seconds that a request is about."""
    low, high = (float(request.query[f"filter[timestamp_seconds][{op}]"]) for op in ("gte", "lt"))
    return high - low


def reaches(instant: float) -> Callable[[Request], bool]:
    """Whether a request is about an instant."""

    def asked(request: Request) -> bool:
        low, high = (float(request.query[f"filter[timestamp_seconds][{op}]"]) for op in ("gte", "lt"))
        return low <= instant < high

    return asked


# --- values ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("odd", [OddValues.NULL, OddValues.TEXT])
@pytest.mark.parametrize("pages", [20, 1000])
async def test_values_that_are_no_numbers_become_rejects(open_pipeline, odd, pages):
    """Each with its payload and instant; the others are stored, and together they are complete."""
    fleet = Fleet(seed=2, sessions=3, kinds=(Kind.VITALS,), first_start=START - DAY, rate=0.1)
    pipeline = await open_pipeline(fleet, behaviour=Behaviour(odd_values=odd, data_pages_to=pages))
    await pipeline.once()
    await pipeline.assert_ledger()
    assert await pipeline.statuses() == {"complete": 3}
    total = sum(pipeline.samples().values())
    rejected = await pipeline.value("SELECT sum(rejected_count) FROM bace.data_sessions")
    assert 0 < rejected < total / 4
    assert await pipeline.value("SELECT sum(loaded_count) FROM bace.data_sessions") == total - rejected
    rejects = await pipeline.fetch("SELECT reason, payload, item_key FROM sync.rejects")
    assert len(rejects) == rejected
    assert all(
        "avg_val" in str(reject["payload"]) and "instead of a number" in reject["reason"]
        for reject in rejects
    )
    pipeline.change(odd_values=None)
    pipeline.clock.now += DAY
    await pipeline.once()
    assert await pipeline.statuses() == {"complete": 3}


async def test_numbers_as_texts_are_numbers(open_pipeline):
    """PHP is not particular about the difference, and neither are we."""
    fleet = Fleet(seed=2, sessions=3, kinds=(Kind.VITALS,), first_start=START - DAY, rate=0.1)
    pipeline = await open_pipeline(fleet, behaviour=Behaviour(odd_values=OddValues.NUMERIC_STRING))
    await pipeline.once()
    await pipeline.assert_exact()
    assert await pipeline.statuses() == {"complete": 3}


BAD: dict[str, Any] = {
    "null": None,
    "number": 5,
    "text": "x",
    "array": [1, 2],
    "empty": {},
    "no average": {"avg_val": ...},
    "no minimum": {"min_val": ...},
    "no count": {"count_val": ...},
    "no dataset": {"id_container_data_latest": ...},
    "no stamp": {"timestamp_seconds": ...},
    "stamp of no instant": {"timestamp_seconds": "noon"},
    "stamp beyond time": {"timestamp_seconds": 1e300},
    "stamp null": {"timestamp_seconds": None},
    "dataset of another type": {"id_container_data_latest": 17},
    "dataset that is no UUID": {"id_container_data_latest": "a\x00b"},
    "boolean": {"avg_val": True},
    "list": {"avg_val": [1.0]},
    "NaN in words": {"avg_val": "NaN"},
    "infinite in words": {"max_val": "1e999"},
    "count of nothing": {"count_val": 0},
    "negative count": {"count_val": -3},
    "half a count": {"count_val": 1.5},
    "count beyond counting": {"count_val": 2**70},
}


@pytest.mark.parametrize("what", BAD)
@pytest.mark.parametrize("position", [0, 4, 9])
async def test_a_bad_item_is_a_reject_and_its_neighbours_load(open_pipeline, what, position):
    """Whatever it is and wherever it stands; another session loads, and the ledger adds up."""
    bad, other = ten(), ten(START - DAY)
    listed = items(bad)
    if isinstance(BAD[what], dict) and BAD[what]:
        listed[position] = {k: v for k, v in {**listed[position], **BAD[what]}.items() if v is not ...}
    else:
        listed[position] = BAD[what]
    pipeline = await open_pipeline([bad, other])
    when(pipeline, lambda request: bad.id in request.query["filter[id_data_session]"], answer(listed))
    await pipeline.once()
    await pipeline.assert_ledger()
    rows = await pipeline.fetch(
        "SELECT id_data_session::text AS id, status, loaded_count, rejected_count FROM bace.data_sessions"
    )
    found = {row["id"]: (row["status"], row["loaded_count"], row["rejected_count"]) for row in rows}
    assert found == {bad.id: ("complete", 9, 1), other.id: ("complete", 10, 0)}
    (reject,) = await pipeline.fetch("SELECT reason, source, account FROM sync.rejects")
    assert reject["reason"]


async def test_a_reject_that_is_repaired_upstream_is_resolved(open_pipeline):
    """Read again, what was bad and is good now becomes a row, and the reject is resolved."""
    session = ten()
    listed = items(session)
    listed[3]["avg_val"] = None
    pipeline = await open_pipeline([session])
    when(pipeline, lambda _: True, answer(listed))
    await pipeline.once()
    assert (await pipeline.state())["rejected_count"] == 1
    pipeline.cloud.on_request = None
    pipeline.cloud.put(session.with_more(ten().computed().where([False] * 10), changed_at=NOW + 30))
    pipeline.clock.now += DAY
    await pipeline.once()
    await pipeline.assert_exact()
    state = await pipeline.state()
    assert (state["status"], state["rejected_count"], state["loaded_count"]) == ("complete", 0, 10)


async def test_a_repeated_bad_item_is_counted_each_time(open_pipeline):
    """Equal bad items are several: the sum with them still fits."""
    session = ten()
    listed = items(session)
    for n in range(4):
        listed[n] = {**listed[0], "avg_val": None}
    pipeline = await open_pipeline([session])
    when(pipeline, lambda _: True, answer(listed))
    await pipeline.once()
    state = await pipeline.state()
    assert (state["status"], state["rejected_count"], state["loaded_count"]) == ("complete", 4, 6)


async def test_rows_outside_of_what_was_asked_are_not_taken(open_pipeline):
    """A row of another time neither replaces nor hides anything."""
    session = ten()
    listed = items(session)
    stray = {**listed[0], "timestamp_seconds": START + 9 * DAY}
    pipeline = await open_pipeline([session])
    when(pipeline, lambda _: True, answer([stray, *listed, {**stray, "timestamp_seconds": 7}]))
    await pipeline.once()
    await pipeline.assert_exact()


# --- answers --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fault",
    [
        Fault(cut_after=200),
        Fault(status=504),
        Fault(status=500),
        Fault(status=200, body=b'{"items": [{"avg_val": NaN}]}'),
        Fault(reset=True),
    ],
    ids=["cut", "504", "500", "NaN", "reset"],
)
@pytest.mark.parametrize("limit", [2_000, 300])
async def test_what_is_too_much_for_the_vendor_is_asked_for_in_parts(open_pipeline, fault, limit):
    """Long intervals fail, always: shorter ones are asked for, and all samples arrive."""
    fleet = Fleet(seed=2, sessions=2, kinds=(Kind.VITALS,), first_start=START - DAY, rate=0.1, hours=(1, 2))
    pipeline = await open_pipeline(fleet)
    when(pipeline, lambda request: length(request) > limit, fault)
    await pipeline.once()
    await pipeline.assert_exact()
    assert await pipeline.statuses() == {"complete": 2}


async def test_an_instant_that_cannot_be_had(open_pipeline):
    """The rest of its session is read, other sessions are, and the session says what is missing."""
    pipeline = await open_pipeline([ten(), ten(START - DAY)])
    when(pipeline, reaches(START + 0.5 + 21), Fault(status=200, body=b'{"items": [{"avg_val": NaN}]}'))
    (outcome,) = await pipeline.run()
    assert "could not be had" in str(outcome.error)
    assert await pipeline.statuses() == {"complete": 1, "incomplete": 1}
    assert await pipeline.value("SELECT min(loaded_count) FROM bace.data_sessions") == 9
    pipeline.cloud.on_request = None
    pipeline.clock.now += DAY
    await pipeline.once()
    await pipeline.assert_exact()
    assert await pipeline.statuses() == {"complete": 2}


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (HTML_PAGE, "web page"),
        (Fault(status=200, body=b'{"error": 1}'), "without items"),
        (Fault(status=200, body=b'{"items": 5}'), "without items"),
        (Fault(status=200, body=b"[]"), "without items"),
        (Fault(status=200, body=b'{"items": []}'), "does not say how many rows"),
        (Fault(status=404), "404"),
        (Fault(status=422, body=b'[{"field": "filter", "message": "no"}]'), "422"),
        (Fault(status=500), "500"),
        (Fault(cut_after=10), "could not be had"),
    ],
    ids=["html", "object", "number", "array", "no total", "404", "422", "500", "cut"],
)
async def test_a_session_that_is_answered_wrongly_stops_no_other(open_pipeline, fault, words):
    """It says why in its status, the run does too, and what it costs is bounded; later it is read."""
    bad = ten()
    pipeline = await open_pipeline([bad, *(ten(START - n * DAY) for n in range(1, 8))])
    when(pipeline, lambda request: bad.id in request.query["filter[id_data_session]"], fault)
    before = len(pipeline.cloud.requests)
    (outcome,) = await pipeline.run()
    assert "could not be read" in str(outcome.error)
    assert len(pipeline.cloud.requests) - before < 150
    assert await pipeline.statuses() == {"complete": 7, "incomplete": 1}
    reason = await pipeline.value("SELECT status_reason FROM bace.data_sessions WHERE status = 'incomplete'")
    assert words in reason
    await pipeline.assert_ledger()
    pipeline.cloud.on_request = None
    pipeline.clock.now += DAY
    await pipeline.once()
    await pipeline.assert_exact()
    assert await pipeline.statuses() == {"complete": 8}


async def test_a_vendor_in_trouble_is_not_a_session_in_trouble(open_pipeline):
    """Where nothing can be had, the run ends with that, and no session is blamed."""
    pipeline = await open_pipeline([ten(START - n * DAY) for n in range(8)])

    async def down(request: Request) -> None:
        if pipeline.asked_for_data():
            pipeline.cloud.faults.add(Fault(status=503), path="data-")

    pipeline.cloud.on_request = down
    (outcome,) = await pipeline.run()
    assert "503" in str(outcome.error)
    assert len(pipeline.cloud.requests) < 20
    assert await pipeline.statuses() == {"loading": 8}
    pipeline.cloud.on_request = None
    pipeline.cloud.faults.clear()
    await pipeline.once()
    await pipeline.assert_exact()


async def test_trouble_with_every_session_ends_the_run_early(open_pipeline):
    """After five in a row the rest is left alone."""
    pipeline = await open_pipeline([ten(START - n * DAY) for n in range(60)])
    when(pipeline, lambda _: True, HTML_PAGE)
    (outcome,) = await pipeline.run()
    assert "left for the next run" in str(outcome.error)
    assert await pipeline.value("SELECT count(*) FROM bace.session_checks") < 40


@pytest.mark.parametrize(("error", "status"), [(13, "incomplete"), (-3, "complete")])
async def test_a_wrong_total_neither_loses_nor_doubles(open_pipeline, error, status):
    """Where a server counts its rows wrongly, all are stored once, or the session says what is wrong."""
    pipeline = await open_pipeline([ten(), ten(START - DAY)], behaviour=Behaviour(data_pages_to=20))
    pipeline.change(total_error=error)
    await pipeline.run()
    assert len(pipeline.cloud.requests) < 60
    assert await pipeline.statuses() == {status: 2}
    rows = await pipeline.fetch(DATAPOINTS)
    assert len(rows) <= 20
    assert {(row["session"], row["dataset"], row["ms"], row["value"]) for row in rows} <= set(
        pipeline.samples()
    )
    if status == "complete":
        await pipeline.assert_exact()
    pipeline.change(total_error=0)
    pipeline.clock.now += DAY
    await pipeline.once()
    await pipeline.assert_exact()
    assert await pipeline.statuses() == {"complete": 2}


async def test_totals_in_headers_alone(open_pipeline):
    """An answer whose ``_meta`` is empty has its counts in its headers."""
    session = ten()
    pipeline = await open_pipeline([session])
    body = json.dumps({"items": items(session), "_links": [], "_meta": []}).encode()
    headers = {"X-Pagination-Total-Count": "10", "X-Pagination-Page-Count": "1"}
    when(pipeline, lambda _: True, Fault(status=200, body=body, more_headers=headers))
    await pipeline.once()
    await pipeline.assert_exact()
