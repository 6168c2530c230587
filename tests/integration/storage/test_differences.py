"""What the warehouse says of differences, how it compares records, and how it takes one back."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from sync.model import Difference, Interval, Verified

T0, T1, T2 = (datetime(2024, 1, day, tzinfo=UTC) for day in (1, 2, 3))
LOG = """
    SELECT item_key, kind, resolved_at IS NULL AS open, mended FROM sync.differences ORDER BY item_key
"""


def difference(key: str, instant: datetime = T1, kind: Any = "content") -> Difference:
    """A difference of some item."""
    return Difference(key, kind, f"{key} differs", instant)


async def test_a_difference_is_open_until_it_is_mended_or_not_found_again(store: Any) -> None:
    """What a verification found stays open; mending ends it, and so does the end of a later verification."""
    await store.commit(differences=tuple(map(difference, ("a", "b", "c"))))
    await store.commit(mended=("a",))
    began = await store.warehouse.now()
    await store.commit(differences=(difference("b", kind="changed"),))
    await store.commit(verified=Verified(began))
    assert await store.fetch(LOG) == [
        {"item_key": "a", "kind": "content", "open": False, "mended": True},
        {"item_key": "b", "kind": "changed", "open": True, "mended": False},
        {"item_key": "c", "kind": "content", "open": False, "mended": False},
    ]


async def test_a_verification_ends_only_what_it_looked_at(store: Any) -> None:
    """A bounded verification says nothing of sessions that began outside of its half-open bounds."""
    keys = {"before": T0, "in": T1, "after": T2}
    await store.commit(differences=tuple(difference(key, instant) for key, instant in keys.items()))
    began = await store.warehouse.now()
    await store.commit(verified=Verified(began, since=T1, until=T2))
    assert {row["item_key"]: row["open"] for row in await store.fetch(LOG)} == {
        "after": True,
        "before": True,
        "in": False,
    }


async def test_a_verification_ends_nothing_that_it_left_out(store: Any) -> None:
    """A difference of a session that could not be looked at stays open; its half-open time ends before."""
    keys = {"before": T0, "left out": T1, "after": T2}
    await store.commit(differences=tuple(difference(key, instant) for key, instant in keys.items()))
    began = await store.warehouse.now()
    await store.commit(verified=Verified(began, left_out=(Interval(T1, T2),)))
    assert {row["item_key"]: row["open"] for row in await store.fetch(LOG)} == {
        "after": False,
        "before": False,
        "left out": True,
    }


async def test_since_when_it_differs_stays_while_it_does(store: Any) -> None:
    """Found again while it is open, a difference keeps its beginning; after it was over it begins anew."""
    await store.commit(differences=(difference("a"),))
    (first,) = await store.fetch("SELECT found_at, last_seen_at FROM sync.differences")
    await store.commit(differences=(difference("a"),))
    (second,) = await store.fetch("SELECT found_at, last_seen_at FROM sync.differences")
    assert second["found_at"] == first["found_at"]
    assert second["last_seen_at"] > first["last_seen_at"]
    await store.commit(mended=("a",))
    await store.commit(differences=(difference("a"),))
    (third,) = await store.fetch("SELECT found_at, resolved_at, mended FROM sync.differences")
    assert third["found_at"] > first["found_at"]
    assert (third["resolved_at"], third["mended"]) == (None, False)


async def test_what_is_mended_with_the_batch_that_found_it_was_found_and_is_over(store: Any) -> None:
    """A difference that is told and mended in one transaction is in the log, and not open."""
    await store.commit(differences=(difference("a"),), mended=("a",))
    (row,) = await store.fetch(LOG)
    assert (row["open"], row["mended"]) == (False, True)


DAMAGE = {
    "a value of a track": (
        "UPDATE beddit.track_arrays SET \"values\"[2] = 7 WHERE track = 'pulse'",
        "content",
        "track_arrays",
    ),
    "a lost track": ("DELETE FROM beddit.track_arrays WHERE track = 'pulse'", "content", "track_arrays"),
    "a track twice": (
        "INSERT INTO beddit.track_arrays SELECT * FROM beddit.track_arrays WHERE track = 'pulse'",
        "content",
        "track_arrays",
    ),
    "a declaration": (
        "UPDATE beddit.track_declarations SET samples_per_frame = 2",
        "content",
        "track_declarations",
    ),
    "a column": ("UPDATE beddit.session_records SET hardware = 'x'", "content", "hardware"),
    "JSON": ("UPDATE beddit.session_records SET extra = '{\"a\": 2}'", "content", "extra"),
    "a newer stamp": ("UPDATE beddit.session_records SET updated = 2", "changed", "the newer one stays"),
    "an older stamp": ("UPDATE beddit.session_records SET updated = 0", "changed", "put this night again"),
    "a digest": ("UPDATE beddit.session_records SET digest = 'x'", "changed", "at the same time stamp"),
    "a lost row": ("DELETE FROM beddit.session_records", "missing", "the warehouse not"),
}


@pytest.mark.parametrize(("statement", "kind", "text"), DAMAGE.values(), ids=DAMAGE.keys())
async def test_damage_is_found_and_taken_back(
    store: Any, night: Any, statement: str, kind: str, text: str
) -> None:
    """Whatever is not as the record says is told, and undone by writing the record with force."""
    record = night(
        tracks={"pulse": [1.0, 2.0, -0.0], "breath": []},
        declares=[("normal", "uint16", 28)],
        extra='{"a": 1, "b":[1.50]}',
    )
    neighbour = night(session_id=2, tracks={"pulse": [5.0]})
    await store.commit(record)
    before = await store.everything()
    await store.commit(neighbour)
    assert await store.warehouse.compare([record, neighbour]) == {}
    await store.pool.execute("DELETE FROM beddit.session_records WHERE session_id = 2")
    await store.pool.execute("DELETE FROM beddit.track_arrays WHERE session_id = 2")
    await store.pool.execute(statement)
    faults = await store.warehouse.compare([record])
    assert faults[record.label].kind == kind
    assert text in faults[record.label].text
    await store.commit(replace(record, force=True))
    if faults[record.label].newer_stays:
        assert (await store.warehouse.compare([record]))[record.label].newer_stays
        return
    assert await store.warehouse.compare([record]) == {}
    after = await store.everything()
    tables = ("beddit.track_arrays", "beddit.track_declarations")
    assert {name: after[name] for name in tables} == {name: before[name] for name in tables}


async def test_a_record_of_which_little_is_known_is_compared_in_that(store: Any, data_session: Any) -> None:
    """Columns that are not named are not looked at, nor is a mark taken for a difference."""
    await store.commit(data_session(label="a", datasets=[]))
    known = data_session(label="a")
    assert await store.warehouse.compare([known], columns=("label", "ended_at")) == {}
    await store.pool.execute("UPDATE bace.session_records SET missing_upstream_at = now()")
    assert (await store.warehouse.compare([known], columns=("label",)))[known.label].kind is None
    await store.pool.execute("UPDATE bace.session_records SET label = 'b'")
    assert (await store.warehouse.compare([known], columns=("label",)))[known.label].kind == "content"


async def test_a_recount_counts_the_rows(store: Any, stretch: Any) -> None:
    """Rows that were lost behind our back are not counted for ever, once some of them are read again."""
    points = [(second, 1, 1.0) for second in range(10)]
    await store.store(stretch([(0, 10)], points))
    await store.pool.execute(
        "DELETE FROM bace.datapoint_rows WHERE ctid IN (SELECT ctid FROM bace.datapoint_rows LIMIT 4)"
    )
    again = stretch([(0, 10)], points)
    await store.store(again)
    assert await store.values("SELECT loaded_count FROM bace.session_loads") == [14]
    await store.store(replace(again, recount=True))
    assert await store.values("SELECT loaded_count FROM bace.session_loads") == [10]
