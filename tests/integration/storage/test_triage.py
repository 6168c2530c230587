"""Rejects as people meet them: told once for each cause, listed, settled, and never larger than a page."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace

import pytest
import structlog

from sync.model import Reject, StreamKey
from sync.storage.rejects import MOST_PAYLOAD
from sync.storage.triage import PostgresTriage

BOB = StreamKey("beddit", "bob", "sessions")
LAB = StreamKey("bace", "lab", "sessions")


def bad(number, reason="not a number", **fields):
    """Return a reject of a session."""
    return Reject(f"1001/{number}", f"1001/{number}/x", reason, **fields)


@pytest.fixture
def triage(store):
    """Return the desk."""
    return PostgresTriage(store.pool)


async def began(committing):
    """Return what was said to begin while something was committed."""
    with structlog.testing.capture_logs() as logs:
        await committing
    return [(line["account"], line["item"]) for line in logs if line["event"] == "rejects.began"]


# --- one word for each cause ----------------------------------------------------------------------


async def test_a_cause_is_told_when_it_begins_and_not_for_each_item(store):
    """A thousand items of one cause are one line, whenever they come; the line names the first."""
    many = [bad(number) for number in range(10, 1000)]
    with structlog.testing.capture_logs() as logs:
        await store.commit(rejects=many)
    assert [line for line in logs if line["log_level"] != "debug"] == [
        {
            "event": "rejects.began",
            "log_level": "warning",
            "source": "beddit",
            "account": "alice",
            "reason": "not a number",
            "item": "1001/10/x",
        }
    ]
    assert await began(store.commit(rejects=[*many, bad(2000)])) == []
    assert await began(store.commit(rejects=[bad(1, "no start"), bad(2, "no end")])) == [
        ("alice", "1001/2/x"),
        ("alice", "1001/1/x"),
    ]


async def test_numbers_do_not_make_another_cause(store):
    """A reason that counts or places something is the same cause with every number."""
    first = bad(1, "a session is not valid JSON: trailing characters (byte 1,234)")
    other = bad(2, "a session is not valid JSON: trailing characters (byte 77)")
    assert await began(store.commit(rejects=[first, other])) == [("alice", "1001/1/x")]
    assert await began(store.commit(rejects=[replace(other, item_key="1001/3/x")])) == []


async def test_each_account_has_its_own_beginnings(store):
    """What one account meets is news of another."""
    assert await began(store.commit(rejects=[bad(1)])) == [("alice", "1001/1/x")]
    assert await began(store.commit(rejects=[bad(1)], stream=BOB)) == [("bob", "1001/1/x")]


async def test_what_was_over_begins_again(store, night, triage):
    """After the last of a cause was resolved or settled, the next one is news."""
    await store.commit(rejects=[bad(1)])
    await store.commit(night(1))
    assert await began(store.commit(rejects=[bad(2)])) == [("alice", "1001/2/x")]
    (open_one,) = await triage.rejects()
    await triage.settle(open_one, "known")
    assert await began(store.commit(rejects=[bad(2)])) == [("alice", "1001/2/x")]


async def test_who_meets_a_cause_at_the_same_time_leaves_the_word_to_one(store, other):
    """While one tells of it, others do not wait, and say nothing."""
    lock = "SELECT pg_advisory_xact_lock(hashtextextended('beddit/alice/not a number', 0))"
    async with other.transaction():
        await other.execute(lock)
        assert await asyncio.wait_for(began(store.commit(rejects=[bad(1)])), 30) == []


# --- payloads -------------------------------------------------------------------------------------


@pytest.mark.parametrize("filling", ["x", '"', "\u2028", "€"])
async def test_no_payload_is_larger_than_a_page(store, triage, filling):
    """Whatever a source thinks fit: the rest is cut, and the cut is visible."""
    await store.commit(rejects=[bad(1, payload=[filling * 100_000]), bad(2, payload=["short"])])
    cut, whole = await triage.rejects()
    assert whole.payload == ["short"]
    assert cut.payload.keys() == {"shortened"}
    assert cut.payload["shortened"].startswith('["')
    assert MOST_PAYLOAD / 4 < len(json.dumps(cut.payload, ensure_ascii=False)) <= MOST_PAYLOAD


# --- looking and settling -------------------------------------------------------------------------


async def test_the_open_ones_by_source_account_and_reason(store, triage):
    """They come in that order, with all that is known; the others only where they are asked for."""
    await store.commit(rejects=[bad(2), bad(1), bad(3, "a reason")])
    await store.commit(rejects=[bad(1)], stream=BOB)
    await store.commit(rejects=[bad(1, payload={"a": None})])
    found = await triage.rejects()
    assert [(r.account, r.reason, r.item_key) for r in found] == [
        ("alice", "a reason", "1001/3/x"),
        ("alice", "not a number", "1001/1/x"),
        ("alice", "not a number", "1001/2/x"),
        ("bob", "not a number", "1001/1/x"),
    ]
    assert (found[1].attempts, found[1].payload, found[2].payload) == (2, {"a": None}, None)
    assert found[1].reject == bad(1, payload={"a": None})
    assert [r.account for r in await triage.rejects(account="bob")] == ["bob"]
    assert [r.account for r in await triage.rejects(item_key="1001/1/x")] == ["alice", "bob"]
    assert await triage.rejects(source="bace") == []


async def test_what_a_person_settles_is_closed_with_the_note(store, triage):
    """It is listed no longer, unless closed ones are asked for; the note is kept beside it."""
    await store.commit(rejects=[bad(1), bad(2)])
    assert await triage.settle((await triage.rejects())[0], "the phone was dropped")
    assert [reject.item_key for reject in await triage.rejects()] == ["1001/2/x"]
    closed, _ = await triage.rejects(closed=True)
    assert (closed.item_key, closed.note) == ("1001/1/x", "the phone was dropped")
    assert closed.resolved_at is not None
    assert not await triage.settle(closed, "again")


async def test_what_comes_again_is_open_again(store, triage):
    """A person's word does not hold against the source's; the note stays to be read."""
    await store.commit(rejects=[bad(1)])
    await triage.settle((await triage.rejects())[0], "the phone was dropped")
    await store.commit(rejects=[bad(1)])
    (found,) = await triage.rejects()
    assert (found.attempts, found.note, found.resolved_at) == (2, "the phone was dropped", None)


async def test_a_settled_datapoint_still_counts_as_rejected(store, stretch, data_session, triage):
    """Closing it does not make a session's sums wrong; a row in its place does away with it for good."""
    rejected = "SELECT rejected_count FROM bace.data_sessions"
    await store.commit(data_session(1), stream=LAB)
    await store.store(stretch([(0, 100)], [(1, 1, 1.0)], rejects=[(50, "one"), (60, "two", 3)]), stream=LAB)
    assert await store.values(rejected) == [4]
    one, _ = await triage.rejects()
    await triage.settle(one, "a known gap")
    assert await store.values(rejected) == [4]
    assert len(await triage.rejects()) == 1
    await store.store(stretch([(0, 100)], [(1, 1, 1.0), (50, 1, 1.0), (60, 1, 1.0)]), stream=LAB)
    assert await store.values(rejected) == [0]
    closed = await triage.rejects(closed=True)
    assert [(r.note, r.resolved_at is not None) for r in closed] == [("a known gap", True), (None, True)]
