"""Newer wins: what the versions of one thing do to each other."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sync.model import Head, PgType, Record, Table
from sync.storage.versions import Verdict, Version, fold, version

# A busy machine is no fault of the program's.
calm = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

HEAD = Head(
    noun="thing",
    table=Table(
        "test.things",
        (
            ("owner", PgType.INT8),
            ("name", PgType.TEXT),
            ("stamp", PgType.FLOAT8),
            ("digest", PgType.BYTEA),
        ),
    ),
    key=("owner", "name"),
    stamp="stamp",
    digest="digest",
)


def thing(stamp: float | None, content: bytes, key: tuple[int, str] = (1, "a"), size: int = 1) -> Record:
    """One version of one thing."""
    owner, name = key
    return Record(HEAD, {"owner": owner, "name": name, "stamp": stamp, "digest": content}, size=size)


KEYS = st.tuples(st.integers(0, 2), st.sampled_from("ab"))
STAMPS = st.one_of(st.none(), st.integers(-2, 5).map(float))
CONTENTS = st.sampled_from([b"x", b"y", b"z"])
THINGS = st.builds(thing, STAMPS, CONTENTS, KEYS, st.integers(1, 1_000))


@pytest.mark.parametrize(
    ("offered", "stored", "verdict"),
    [
        ((5.0, b"x"), None, Verdict.STORE),
        ((None, b"x"), None, Verdict.STORE),
        ((5.0, b"y"), (4.0, b"x"), Verdict.STORE),
        ((5.0, b"x"), (4.0, b"x"), Verdict.RESTAMP),
        ((5.0, b"x"), (5.0, b"x"), Verdict.UNCHANGED),
        ((5.0, b"y"), (5.0, b"x"), Verdict.STORE),
        ((4.0, b"y"), (5.0, b"x"), Verdict.SUPERSEDED),
        ((4.0, b"x"), (5.0, b"x"), Verdict.SUPERSEDED),
        ((None, b"y"), (-5.0, b"x"), Verdict.SUPERSEDED),
        ((-5.0, b"y"), (None, b"x"), Verdict.STORE),
        ((-5.0, b"x"), (None, b"x"), Verdict.RESTAMP),
        ((None, b"x"), (None, b"x"), Verdict.UNCHANGED),
        ((None, b"y"), (None, b"x"), Verdict.STORE),
    ],
)
def test_a_version_is_judged_by_stamp_then_by_content(
    offered: tuple[Any, bytes], stored: tuple[Any, bytes] | None, verdict: Verdict
):
    """Newer wins, older never does, and at equal stamps only different content is news."""
    assert Version(*offered).judge(Version(*stored) if stored else None) is verdict


def newest(versions: list[Record]) -> tuple[float | None, bytes]:
    """The version that nothing in the list is newer than."""
    best = max(versions, key=lambda r: float("-inf") if r.row["stamp"] is None else r.row["stamp"])
    return best.row["stamp"], best.row["digest"]


@calm
@given(
    st.dictionaries(st.integers(-9, 9).map(float), CONTENTS, min_size=1, max_size=6),
    st.lists(st.integers(0, 5), max_size=8),
    st.integers(0, 2**32),
)
def test_order_and_repetition_do_not_change_which_version_stands(
    contents: dict[float, bytes], repeated: list[int], seed: int
):
    """When stamps differ, the same versions in any order, any number of times, leave the newest."""
    distinct = [thing(stamp, content) for stamp, content in contents.items()]
    versions = distinct + [distinct[n % len(distinct)] for n in repeated]
    random.Random(seed).shuffle(versions)  # noqa: S311
    (standing,) = fold(versions).records
    assert version(standing) == Version(*newest(distinct))


@calm
@given(st.lists(THINGS, max_size=20))
def test_the_last_of_the_newest_versions_stands(versions: list[Record]):
    """An equal stamp with different content replaces; an older one never does."""
    for standing in fold(versions).records:
        rivals = [record for record in versions if record.key == standing.key]
        stamp, _ = newest(rivals)
        last = [record for record in rivals if record.row["stamp"] == stamp][-1]
        assert version(standing) == version(last)


@calm
@given(st.lists(THINGS, max_size=20))
def test_every_item_is_kept_or_named_as_fallen(versions: list[Record]):
    """Sizes in are sizes kept, doubled and superseded: nothing gets lost in between."""
    folded = fold(versions)
    kept = sum(record.size for record in folded.records)
    assert sum(record.size for record in versions) == kept + folded.duplicate + folded.superseded


@calm
@given(st.lists(THINGS, max_size=20))
def test_there_is_one_record_a_key_and_they_are_in_key_order(versions: list[Record]):
    """Two writers that lock rows in one order never wait for each other in a circle."""
    keys = [record.key for record in fold(versions).records]
    assert keys == sorted({record.key for record in versions})


@calm
@given(st.lists(THINGS, max_size=12), st.integers(0, 12))
def test_two_batches_leave_what_one_would(versions: list[Record], cut: int):
    """Where a batch happens to end changes nothing about what stands."""
    first, second = versions[:cut], versions[cut:]
    at_once = fold(versions).records
    one_by_one = fold([*fold(first).records, *second]).records
    assert [version(r) for r in one_by_one] == [version(r) for r in at_once]
    assert [r.key for r in one_by_one] == [r.key for r in at_once]


@calm
@given(THINGS, st.integers(1, 5))
def test_repeating_a_version_only_counts_duplicates(record: Record, times: int):
    """The same session twice in one answer is stored once and counted as what it is."""
    folded = fold([record] * (1 + times))
    assert folded.records == (record,)
    assert (folded.duplicate, folded.superseded) == (record.size * times, 0)


def test_fallen_versions_are_counted_by_their_fate():
    """A duplicate is the same again; superseded is whatever something newer stands in for."""
    first, newer = thing(1.0, b"x", size=10), thing(2.0, b"y", size=100)
    late, again = thing(1.5, b"z", size=1_000), thing(2.0, b"y", size=100)
    folded = fold([first, newer, late, again])
    assert folded.records == (newer,)
    assert (folded.duplicate, folded.superseded) == (100, 1_010)


@pytest.mark.parametrize(
    ("stamp", "content", "verdict"),
    [
        (5.0, b"x", Verdict.RESTAMP),  # it is back: its row says so, its details are there already
        (6.0, b"x", Verdict.RESTAMP),
        (5.0, b"y", Verdict.STORE),
        (6.0, b"y", Verdict.STORE),
        (4.0, b"x", Verdict.SUPERSEDED),
        (4.0, b"y", Verdict.SUPERSEDED),
    ],
)
def test_what_was_missing_upstream_comes_back_without_being_read_again(
    stamp: float, content: bytes, verdict: Verdict
):
    """A mark of absence makes no version older: only the mark goes."""
    assert Version(stamp, content).judge(Version(5.0, b"x", missing=True)) is verdict
