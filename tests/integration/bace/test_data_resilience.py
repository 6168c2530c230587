"""What is wrong with one session, or with one account, stays with it."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import Any

import pytest

from sync.emulators.bace import Fault, Fleet, Kind, Request, resources
from sync.errors import AuthenticationError
from sync.sources.bace.data import SessionData
from tests.integration.bace.conftest import NOW, Pipeline

HOUR, DAY = 3600, 86_400
START = int(NOW) - 3 * DAY
END_OF_TIME = 253_402_300_799
"""The last second of the year 9999."""


@pytest.fixture
def fleet() -> Fleet:
    """Four sessions of vital signs."""
    return Fleet(seed=3, sessions=4, kinds=(Kind.VITALS,), first_start=START - DAY, rate=0.1, hours=(1, 2))


def deny(pipeline: Pipeline, *sessions: str) -> None:
    """Let the vendor deny the data of some sessions, to whoever asks."""

    async def listen(request: Request) -> None:
        if "downsampled" in request.path and request.query["filter[id_data_session]"] in sessions:
            pipeline.cloud.faults.add(Fault(status=401), path="downsampled")

    pipeline.cloud.on_request = listen


async def ids(pipeline: Pipeline) -> list[str]:
    """The sessions, newest first."""
    sessions = sorted(pipeline.cloud.sessions(), key=lambda session: -session.start)
    return [session.id for session in sessions]


# --- denied ---------------------------------------------------------------------------------------


async def test_a_denied_session_stops_no_other(open_pipeline, fleet):
    """It says so in its status and the run does too; the others are read, and it is when it may be."""
    pipeline = await open_pipeline(fleet)
    deny(pipeline, (await ids(pipeline))[0])
    (outcome,) = await pipeline.run()
    assert "could not be read" in str(outcome.error)
    assert not isinstance(outcome.error, AuthenticationError)
    assert await pipeline.statuses() == {"complete": 3, "incomplete": 1}
    reason = await pipeline.value("SELECT status_reason FROM bace.data_sessions WHERE status = 'incomplete'")
    assert reason.startswith("denied")
    assert await pipeline.value("SELECT last_error FROM sync.streams")
    await pipeline.once()
    pipeline.cloud.on_request = None
    pipeline.clock.now += DAY
    await pipeline.once()
    await pipeline.assert_exact()
    assert await pipeline.statuses() == {"complete": 4}


async def test_a_denied_session_is_never_given_up(open_pipeline, fleet):
    """However often it was denied, it is asked for again a day later."""
    pipeline = await open_pipeline(fleet)
    deny(pipeline, (await ids(pipeline))[0])
    for _ in range(6):
        (outcome,) = await pipeline.run()
        assert "could not be read" in str(outcome.error)
        pipeline.clock.now += DAY
    pipeline.cloud.on_request = None
    await pipeline.once()
    assert await pipeline.statuses() == {"complete": 4}


async def test_sessions_that_are_denied_in_a_row_do_not_hide_those_behind_them(open_pipeline, session):
    """The run ends with advice for the account; the next ones go on behind them."""
    pipeline = await open_pipeline([session(START - n * HOUR) for n in range(12)])
    deny(pipeline, *(await ids(pipeline))[:7])
    (outcome,) = await pipeline.run()
    assert isinstance(outcome.error, AuthenticationError)
    assert "lacks the permission" in str(outcome.error)
    assert "left for the next run" in str(outcome.error)
    (outcome,) = await pipeline.run()
    assert not isinstance(outcome.error, AuthenticationError)
    assert await pipeline.statuses() == {"complete": 5, "incomplete": 7}


# --- odd sessions ---------------------------------------------------------------------------------


@pytest.mark.parametrize("end", [END_OF_TIME, int(NOW) + 400 * DAY])
async def test_a_session_that_ended_in_the_far_future(open_pipeline, session, monkeypatch, end):
    """It is read as far as time has come, and its neighbour is read."""
    odd, other = session(START), session(START - DAY)
    pipeline = await open_pipeline([odd, other])
    listed = {"end": lambda one, now: end if one.id == odd.id else one.end_at(now)}
    monkeypatch.setattr(resources, "_SESSION", {**resources._SESSION, **listed})
    await pipeline.once()
    await pipeline.assert_exact()
    assert await pipeline.statuses() == {"complete": 2}
    assert len(pipeline.asked_for_data()) < 60
    ended = "SELECT extract(epoch FROM max(ended_at))::bigint FROM bace.data_sessions"
    assert await pipeline.value(ended) == end


async def test_a_defect_of_ours_stays_with_its_session(open_pipeline, fleet, monkeypatch):
    """An error that nobody thought of is a verdict on that session; the others are read."""
    pipeline = await open_pipeline(fleet)
    first, *_ = await ids(pipeline)
    read = SessionData._read

    async def trip(self: SessionData) -> AsyncGenerator[Any, None]:
        async for batch in read(self):
            if str(self.due.id_data_session) == first:
                raise OverflowError("date value out of range")
            yield batch

    monkeypatch.setattr(SessionData, "_read", trip)
    (outcome,) = await pipeline.run()
    assert "defect" in str(outcome.error)
    assert await pipeline.statuses() == {"complete": 3, "incomplete": 1}
    reason = await pipeline.value("SELECT status_reason FROM bace.data_sessions WHERE status = 'incomplete'")
    assert "OverflowError" in reason
    monkeypatch.undo()
    pipeline.clock.now += DAY
    await pipeline.once()
    await pipeline.assert_exact()
    assert await pipeline.statuses() == {"complete": 4}


# --- accounts that fail ---------------------------------------------------------------------------


async def test_the_sessions_of_a_failed_account_pass_to_another(open_pipeline, session):
    """Where one had no success for a day and another one did, that one reads what both see; not before."""
    sessions = [session(START - n * HOUR) for n in range(3)]
    pipeline = await open_pipeline(sessions)
    pipeline.add_account("zeta", [sessions[0].group])
    for name in ("lab", "zeta"):
        await pipeline.once(accounts=[name])
    await pipeline.assert_exact()
    pipeline.cloud.put(replace(sessions[0], label="renamed", changed_at=(int(NOW) + HOUR,)))
    pipeline.clock.now += 2 * HOUR
    lock_out(pipeline, "lab")
    lab, zeta = await pipeline.run()
    assert isinstance(lab.error, AuthenticationError)
    assert zeta.error is None
    assert await pipeline.statuses() == {"complete": 2, "loading": 1}
    await pipeline.pool.execute(
        "UPDATE sync.stream_state SET last_success_at = last_success_at - interval '25 hours'"
        " WHERE account = 'lab'"
    )
    lab, zeta = await pipeline.run()
    assert zeta.error is None
    assert await pipeline.statuses() == {"complete": 3}
    await pipeline.assert_exact()


def lock_out(pipeline: Pipeline, name: str) -> None:
    """Let an account's password be another one from now on."""
    accounts = pipeline.settings.accounts
    accounts = {**accounts, name: replace(accounts[name], password="old")}
    pipeline.settings = replace(pipeline.settings, accounts=accounts)
    pipeline.cloud.revoke_tokens()
