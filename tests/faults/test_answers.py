"""Whatever a vendor answers, nothing wrong is stored, nothing is promised, and a good answer mends it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Final

import pytest

from sync.emulators.bace import DataSession, Dataset, Request, identifier
from sync.emulators.faults import Fault
from sync.errors import (
    AnswerTooLarge,
    ConnectionEnded,
    RateLimited,
    RequestRefused,
    SourceContractError,
    SourceUnavailable,
    SyncError,
)
from sync.model import Task
from tests.faults.kit import ANSWERS
from tests.integration.bace.conftest import NOW

DAY: Final = 86_400.0
STARTS: Final = (NOW - DAY, NOW - 40 * DAY, NOW - 80 * DAY)

BEDDIT: Final[Mapping[str, type[SyncError] | None]] = {
    "status-204": SourceUnavailable,
    "status-206": SourceContractError,
    "status-302": RequestRefused,
    "status-400": RequestRefused,
    "status-404": RequestRefused,
    "status-408": AnswerTooLarge,
    "status-409": RequestRefused,
    "status-410": RequestRefused,
    "status-422": RequestRefused,
    "status-429": RateLimited,
    "status-500": SourceUnavailable,
    "status-502": AnswerTooLarge,
    "status-503": SourceUnavailable,
    "status-504": AnswerTooLarge,
    "status-599": SourceUnavailable,
    "redirect": RequestRefused,
    "retry-after-seconds": RateLimited,
    "retry-after-date": SourceUnavailable,
    "retry-after-absent": RateLimited,
    "retry-after-nonsense": RateLimited,
    "cut-body": SourceContractError,
    "malformed-body": AnswerTooLarge,
    "empty-body": AnswerTooLarge,
    "html": SourceContractError,
    "wrong-content-type": None,
    "stall": AnswerTooLarge,
    "slow-drip": None,
    "reset": ConnectionEnded,
    "duplicated-page": None,
    "shuffled-page": None,
    "clock-behind": None,
    "clock-ahead": None,
}
"""How a run ends that gets nothing but such answers."""

# What is too much for the vendor is asked for in smaller pages, and then given up with a sentence.
BACE: Final[Mapping[str, type[SyncError] | None]] = {
    **BEDDIT,
    **dict.fromkeys(
        ("status-400", "status-422", "status-408", "status-502", "status-504"), SourceContractError
    ),
    **dict.fromkeys(("malformed-body", "empty-body", "stall"), SourceContractError),
}

CLAIMED: Final = """
    SELECT stream FROM sync.streams, unnest($1::float8[]) AS start WHERE coverage @> to_timestamp(start)
"""
"""Streams that say that one of the nights was read."""

REFUSED: Final = (
    "status-206",
    "status-302",
    "status-400",
    "status-404",
    "status-409",
    "status-410",
    "status-422",
)
SPOILT: Final = ("malformed-body", "empty-body", "html")
HARMLESS: Final = (
    "wrong-content-type",
    "slow-drip",
    "duplicated-page",
    "shuffled-page",
    "clock-behind",
    "clock-ahead",
)
BLOBS: Final[Mapping[str, str]] = {
    **dict.fromkeys(ANSWERS, "pending"),
    **dict.fromkeys((*REFUSED, *SPOILT), "unavailable"),
    **dict.fromkeys(HARMLESS, "complete"),
}
"""What becomes of a raw signal whose host gives nothing but such answers."""


@pytest.fixture
async def beddit(open_beddit: Any, night: Any, manual_clock: Any) -> Any:
    """Three nights of one user, weeks apart, the newest with raw signal."""
    clock = manual_clock(NOW)
    pipeline = await open_beddit(None, tokens={1001: "token-of-1001"}, clock=clock)
    pipeline.clock = clock
    for number, start in enumerate(STARTS):
        raw = {"normal": {"samples_per_frame": 1, "data_type": "uint16"}} if not number else {}
        pipeline.cloud.put(1001, night(start, level=50.0 + number, sampled_tracks=raw), updated=start + 700)
    pipeline.cloud.set_blob(1001, int(NOW - DAY), "normal", bytes(range(200)) * 30)
    return pipeline


def data_session(start: float) -> DataSession:
    """Forty minutes of 300 samples."""
    dataset = Dataset.of(identifier("group"), identifier("device"), 6000)
    points = [(dataset, start + 3 + 7.25 * n, 60.0 + n / 7) for n in range(300)]
    return DataSession.of(points, start=int(start), end=int(start) + 2400)


@pytest.fixture
async def bace(open_bace: Any) -> Any:
    """Two data sessions, in pages of 100 samples."""
    pipeline = await open_bace([data_session(NOW - DAY), data_session(NOW - 10 * DAY)])
    pipeline.change(data_pages_to=100)
    return pipeline


@contextmanager
def answering(pipeline: Any, name: str) -> Iterator[Fault]:
    """The fault of the kit; while it lasts, nobody waits long for an answer that does not come at all."""
    fault, limits = ANSWERS[name], pipeline.limits
    if fault.stall:
        pipeline.limits = replace(limits, read_timeout_s=1)
    try:
        yield fault
    finally:
        pipeline.cloud.faults.clear()
        pipeline.limits = limits


async def test_every_fault_is_expected_to_do_something():
    """Of each fault of the kit it is said what it does to either cloud's run, and to a raw signal."""
    assert set(BEDDIT) == set(BACE) == set(BLOBS) == set(ANSWERS)


@pytest.mark.parametrize("name", ANSWERS)
async def test_beddit_answers_nothing_else(beddit, name):
    """A run ends as it should, claims nothing that it did not store, and the next one reads everything."""
    with answering(beddit, name) as fault:
        beddit.cloud.faults.add(fault, times=1000, host="api")
        (outcome,) = await beddit.run(Task("once"))
    assert type(outcome.error) is (BEDDIT[name] or type(None)), outcome.error
    if outcome.error:
        assert await beddit.value("SELECT count(*) FROM beddit.sessions") == 0
        assert await beddit.fetch(CLAIMED, STARTS) == []
    await beddit.once()
    await beddit.assert_truth()


@pytest.mark.parametrize("name", ANSWERS)
async def test_beddit_answers_so_once(beddit, night, name):
    """One such answer among good ones costs a request or a run, and never a night."""
    await beddit.once()
    beddit.cloud.put(1001, night(NOW - 3600, level=70.0))
    beddit.clock.now += 60
    with answering(beddit, name) as fault:
        beddit.cloud.fail_next(fault)
        await beddit.run(Task("once"))
    beddit.clock.now += DAY + 60  # a cursor that a wrong clock moved is set right by the daily look back
    await beddit.once()
    await beddit.assert_truth()


@pytest.mark.parametrize("name", ANSWERS)
async def test_a_blob_host_answers_nothing_else(beddit, name):
    """Nights are stored all the same; the raw signal says how it is, and arrives when the host is well."""
    with answering(beddit, name) as fault:
        beddit.cloud.faults.add(fault, times=1000, host="blob")
        await beddit.once()
    assert await beddit.value("SELECT count(*) FROM beddit.sessions") == 3
    assert await beddit.value("SELECT status FROM beddit.sampled_tracks") == BLOBS[name]
    beddit.clock.now += DAY
    await beddit.once()
    await beddit.assert_truth()


@pytest.mark.parametrize("name", ANSWERS)
async def test_bace_answers_nothing_else(bace, name):
    """A run ends as it should, claims nothing that it did not store, and the next one reads everything."""
    with answering(bace, name) as fault:
        bace.cloud.faults.add(fault, times=1000, host="api", path="/api/v2")
        (outcome,) = await bace.run()
    assert type(outcome.error) is (BACE[name] or type(None)), outcome.error
    if outcome.error:
        assert await bace.value("SELECT count(*) FROM bace.data_sessions") == 0
        assert await bace.fetch("SELECT 1 FROM sync.streams WHERE last_success_at IS NOT NULL") == []
    bace.clock.now += DAY + 60  # what was found not to add up is compared again after a day
    await bace.once()
    await bace.assert_exact()
    assert await bace.statuses() == {"complete": 2}


@pytest.mark.parametrize("name", ANSWERS)
async def test_bace_answers_so_once(bace, name):
    """One such answer to a question for data costs a request or a run, and never a sample."""
    with answering(bace, name) as fault:

        async def spoil(request: Request) -> None:
            if "downsampled" in request.path:
                bace.cloud.on_request = None
                bace.cloud.fail_next(fault)

        bace.cloud.on_request = spoil
        await bace.run()
    bace.clock.now += DAY + 60
    await bace.once()
    await bace.assert_exact()
    assert await bace.statuses() == {"complete": 2}
