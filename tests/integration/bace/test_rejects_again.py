"""Rejected datapoints are read again: ever more rarely by themselves, and at once on a person's word."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sync.emulators.bace import Behaviour, Fleet, Kind, OddValues
from sync.model import Reject, Task
from tests.integration.bace.conftest import NOW

DAY = 86_400
START = int(NOW) - 30 * DAY
OPEN = "SELECT * FROM sync.reject_log WHERE resolved_at IS NULL ORDER BY item_key"


@pytest.fixture
async def odd(open_pipeline):
    """Open a pipeline that has read some values that were no numbers; the vendor has mended them since."""
    fleet = Fleet(seed=2, sessions=2, kinds=(Kind.VITALS,), first_start=START, rate=0.1)
    pipeline = await open_pipeline(fleet, behaviour=Behaviour(odd_values=OddValues.NULL))
    await pipeline.once()
    assert await pipeline.statuses() == {"complete": 2}
    pipeline.change(odd_values=None)
    return pipeline


async def rejects(pipeline):
    """The open rejects, as a person's word is about them."""
    rows = await pipeline.fetch(OPEN)
    names = ("record_key", "item_key", "reason", "instant")
    return tuple(Reject(**{name: row[name] for name in names}) for row in rows)


async def test_mended_values_are_read_after_a_day(odd):
    """By the daemon's own work, without any change of the session's row."""
    await odd.once(Task("retry"))
    assert await rejects(odd)
    odd.clock.now += DAY
    await odd.once(Task("retry"))
    assert await rejects(odd) == ()
    assert await odd.statuses() == {"complete": 2}
    await odd.assert_exact()


async def test_they_are_asked_for_ever_more_rarely_and_not_for_ever(odd):
    """After one, seven and thirty days; then only when the session changes."""
    odd.change(odd_values=OddValues.NULL)
    asked = []
    for day in (0, 1, 2, 8, 15, 35, 38, 138):
        odd.clock.now = NOW + day * DAY
        before = len(odd.asked_for_data())
        await odd.once(Task("retry"))
        asked.append(len(odd.asked_for_data()) > before)
    assert asked == [False, True, False, True, False, False, True, False]
    assert await odd.statuses() == {"complete": 2}
    assert await rejects(odd)


async def test_what_a_person_settled_is_no_reason_to_ask(odd):
    """The session stays complete, and nobody asks for it again."""
    await odd.pool.execute("UPDATE sync.reject_log SET resolved_at = now(), settled = true")
    odd.clock.now += DAY
    await odd.once(Task("retry"))
    before = len(odd.asked_for_data())
    for _ in range(3):
        odd.clock.now += 40 * DAY
        await odd.once(Task("retry"))
    assert len(odd.asked_for_data()) == before
    assert await odd.statuses() == {"complete": 2}


async def test_a_persons_word_is_followed_at_once(odd):
    """Only the chosen session is read, and only around the moments in which something was rejected."""
    first, *_ = every = await rejects(odd)
    chosen = tuple(reject for reject in every if reject.record_key == first.record_key)
    others = len(every) - len(chosen)
    assert others
    before = len(odd.asked_for_data())
    await odd.once(Task("retry", rejects=chosen))
    assert len(odd.asked_for_data()) - before <= 3 * len(chosen)
    assert len(await rejects(odd)) == others
    await odd.once(Task("retry", rejects=await rejects(odd)))
    assert await odd.statuses() == {"complete": 2}
    await odd.assert_exact()


async def test_what_is_still_bad_stays_open(odd):
    """In vain costs nothing but the question: counted once more, complete as before."""
    odd.change(odd_values=OddValues.NULL)
    chosen = await rejects(odd)
    await odd.once(Task("retry", rejects=chosen))
    assert await rejects(odd) == chosen
    assert await odd.value("SELECT min(attempts) FROM sync.rejects") == 2
    assert await odd.statuses() == {"complete": 2}


async def test_what_cannot_be_asked_for_is_complained_about(odd):
    """A reject without an id, and one whose session this account does not read; the others are tried."""
    first, *_ = chosen = await rejects(odd)
    strange = replace(first, record_key="#0123456789abcdef", item_key="#0123456789abcdef", instant=None)
    foreign = replace(first, record_key="00000000-0000-0000-0000-000000000007", item_key="7")
    (outcome,) = await odd.run(Task("retry", rejects=(*chosen, strange, foreign)))
    assert "no id to ask for" in str(outcome.error)
    assert await rejects(odd) == ()
