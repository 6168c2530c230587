"""Rows in time: replaced stretch by stretch, never doubled, never lost, and accounted for."""

from __future__ import annotations

import asyncio
import math
import struct
from collections import Counter
from dataclasses import replace
from uuid import UUID

import asyncpg
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sync.errors import StorageUnavailable
from sync.model import Rows, StreamKey, Tally
from sync.sources.bace.tables import SAMPLES
from sync.storage import series

ROWS = "bace.datapoint_rows"
LOADS = "bace.session_loads"
WAITING = """
    SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND wait_event_type = 'Lock'
"""


async def stored(store, session=1):
    """Return a session's datapoints as (second, data set, value), in order."""
    rows = await store.pool.fetch(
        "SELECT extract(epoch FROM time - '2022-03-30 12:00+00')::float8 AS second, "
        "id_container_data_latest AS dataset, value FROM bace.datapoint_rows "
        "WHERE id_data_session = $1 ORDER BY 1, 2, 3",
        UUID(int=session),
    )
    return [(row["second"], row["dataset"].int, row["value"]) for row in rows]


async def load(store, part=0, session=1):
    """Return what the warehouse says is loaded: count, seconds covered, data sets."""
    row = await store.pool.fetchrow(
        """
        SELECT loaded_count, datasets, (
            SELECT coalesce(array_agg(ARRAY[extract(epoch FROM lower(r) - zero),
                                            extract(epoch FROM upper(r) - zero)]::int[]), '{}')
            FROM unnest(raw_coverage) r, CAST('2022-03-30 12:00+00' AS timestamptz) AS zero) AS covered
        FROM bace.session_loads WHERE id_data_session = $1 AND part = $2
        """,
        UUID(int=session),
        part,
    )
    datasets = row["datasets"] and [dataset.int for dataset in row["datasets"]]
    return row["loaded_count"], [tuple(pair) for pair in row["covered"]], datasets


async def open_rejects(store):
    """Return the names of the rejects that are not resolved."""
    return await store.values(
        "SELECT split_part(item_key, '/', 2) FROM sync.rejects WHERE resolved_at IS NULL ORDER BY 1"
    )


# --- rows ------------------------------------------------------------------------------------------


async def test_a_stretch_is_stored_with_what_it_proves(store, stretch):
    """Rows, count and coverage are there together, though no record of the session is."""
    tally = await store.store(stretch([(0, 60)], [(1, 7, 1.5), (2, 7, 2.5), (2.5, 8, 3.0, 1.0, 5.0, 4)]))
    assert tally == Tally(read=3, stored=3)
    assert await stored(store) == [(1, 7, 1.5), (2, 7, 2.5), (2.5, 8, 3.0)]
    assert await load(store) == (6, [(0, 60)], None)


async def test_what_is_read_again_replaces_what_was_there(store, stretch):
    """The rows of the time that was read are the newly read ones, those beside it stay; the count follows."""
    await store.store(stretch([(0, 60)], [(1, 7, 1.0), (20, 7, 2.0, 0.0, 4.0, 9), (40, 7, 3.0)]))
    tally = await store.store(stretch([(10, 30)], [(11, 7, 5.0), (12, 7, 6.0)]))
    assert tally == Tally(read=2, stored=2)
    assert await stored(store) == [(1, 7, 1.0), (11, 7, 5.0), (12, 7, 6.0), (40, 7, 3.0)]
    assert await load(store) == (4, [(0, 60)], None)


async def test_an_interval_s_end_is_not_in_it(store, stretch):
    """Neighbouring intervals share no row: the end of one is the start of the next."""
    await store.store(stretch([(0, 10)], [(0, 7, 1.0)]), stretch([(10, 20)], [(10, 7, 2.0)]))
    await store.store(stretch([(0, 10)], [(0, 7, 3.0)]))
    assert await stored(store) == [(0, 7, 3.0), (10, 7, 2.0)]


async def test_several_intervals_are_replaced_and_what_lies_between_stays(store, stretch):
    """Overlapping intervals count their rows once, and a row in a gap is not touched."""
    points = [(n, 7, float(n)) for n in (5, 15, 25, 35)]
    await store.store(stretch([(0, 40)], points))
    await store.store(stretch([(0, 8), (4, 10), (30, 40)], [(5, 7, -5.0), (36, 7, -36.0)]))
    assert await stored(store) == [(5, 7, -5.0), (15, 7, 15.0), (25, 7, 25.0), (36, 7, -36.0)]
    assert (await load(store))[0] == 4


async def test_other_sessions_and_data_sets_stay(store, stretch):
    """Only the session and the data sets of an answer are replaced."""
    await store.store(
        stretch([(0, 60)], [(1, 7, 1.0), (1, 8, 2.0)]), stretch([(0, 60)], [(1, 7, 3.0)], session=2)
    )
    await store.store(stretch([(0, 60)], [(2, 7, 9.0)]))
    assert await stored(store) == [(1, 8, 2.0), (2, 7, 9.0)]
    assert await stored(store, 2) == [(1, 7, 3.0)]
    assert (await load(store))[0] == 2


async def test_an_empty_answer_deletes_nothing(store, stretch):
    """What the source does not tell any more stays, with its count; the time counts as read."""
    await store.store(stretch([(0, 60)], [(1, 7, 1.0)]))
    before = await store.physical(ROWS)
    assert await store.store(stretch([(0, 90)])) == Tally()
    assert await store.physical(ROWS) == before
    assert await load(store) == (1, [(0, 90)], None)


async def test_equal_rows_are_kept_as_often_as_they_came(store, stretch):
    """Rows without any difference are all kept; with one more or one less they are not the same answer."""
    twice = [(1, 7, 1.0), (1, 7, 1.0)]
    await store.store(stretch([(0, 60)], twice))
    assert await store.store(stretch([(0, 60)], twice)) == Tally(read=2, unchanged=2)
    assert await store.store(stretch([(0, 60)], [*twice, twice[0]])) == Tally(read=3, stored=3)
    assert await stored(store) == [(1, 7, 1.0)] * 3
    assert await store.store(stretch([(0, 60)], [*twice, (2, 7, 1.0)])) == Tally(read=3, stored=3)
    assert await stored(store) == [*twice, (2, 7, 1.0)]
    assert await store.store(stretch([(0, 60)], [twice[0], (2, 7, 1.0), (2, 7, 1.0)])) == Tally(
        read=3, stored=3
    )


async def test_an_equal_answer_writes_nothing(store, stretch):
    """The same rows, in any order, leave every row and the load as they lie."""
    points = [(1, 7, 1.0), (2, 8, math.nan), (3, 7, -0.0, -1.0, 2.0, 3)]
    await store.store(stretch([(0, 60)], points))
    before = await store.physical(ROWS, LOADS)
    assert await store.store(stretch([(0, 60)], reversed(points))) == Tally(read=3, unchanged=3)
    assert await store.physical(ROWS, LOADS) == before
    assert (await load(store))[0] == 5


BITS = [b"\0" * 8, b"\x80" + b"\0" * 7, bytes.fromhex("7ff8000000000000"), bytes.fromhex("7ff8000000001234")]


@pytest.mark.parametrize("was", BITS)
@pytest.mark.parametrize("comes", BITS)
async def test_values_are_compared_bit_for_bit(store, stretch, was, comes):
    """Zero and minus zero differ, not-a-number equals itself and no other: what is stored is what came."""
    old, new = (struct.unpack(">d", bits)[0] for bits in (was, comes))
    await store.store(stretch([(0, 60)], [(1, 7, old)]))
    tally = await store.store(stretch([(0, 60)], [(1, 7, new)]))
    assert tally == (Tally(read=1, unchanged=1) if was == comes else Tally(read=1, stored=1))
    assert await store.values(f"SELECT float8send(value) FROM {ROWS}") == [comes]  # noqa: S608


@pytest.mark.parametrize("changed", [(1, 7, 1.0, 0.5, 1.0, 2), (1, 7, 1.0, 1.0, 1.0, 1), (1, 7, None)])
async def test_every_column_is_compared(store, stretch, changed):
    """A row that differs in its bounds or its count alone is another row; NULL is not what it stands for."""
    await store.store(stretch([(0, 60)], [(1, 7, 1.0)]))
    assert await store.store(stretch([(0, 60)], [changed])) == Tally(read=1, stored=1)
    found = await store.pool.fetchrow(f"SELECT value, min_value, max_value, count FROM {ROWS}")  # noqa: S608
    assert tuple(found) == (*changed[2:], None, None, None)[:4]


async def test_a_row_outside_of_what_was_read_is_a_defect(store, stretch):
    """It would be stored again with every reading; nothing of the batch is stored."""
    for second in (-0.000001, 10, 15, 30):
        with pytest.raises(ValueError, match="not within the time that was read"):
            await store.store(stretch([(0, 10), (20, 30)], [(5, 7, 1.0), (second, 7, 1.0)]))
        with pytest.raises(ValueError, match="not within the time that was read"):
            await store.store(stretch([(0, 10), (20, 30)], rejects=[(second, "x")]))
    without = stretch([(0, 10)], rejects=[(1, "x")])
    with pytest.raises(ValueError, match="not within the time that was read"):
        await store.store(replace(without, rejects=(replace(without.rejects[0], instant=None),)))
    assert await stored(store) == []
    assert await store.values(f"SELECT 1 FROM {LOADS}") == []  # noqa: S608


async def test_many_rows(store, stretch):
    """Stretches larger than a piece of COPY come and go whole."""
    points = [(n / 1000, 7 + n % 3, float(n)) for n in range(60_000)]
    assert await store.store(stretch([(0, 60)], points)) == Tally(read=60_000, stored=60_000)
    assert await store.store(stretch([(0, 60)], points)) == Tally(read=60_000, unchanged=60_000)
    points[-1] = (59.999, 7, 0.5)
    assert await store.store(stretch([(0, 60)], points)) == Tally(read=60_000, stored=60_000)
    assert await stored(store) == sorted(points)


HELD = [(second, 7, float(second)) for second in range(5)]


@pytest.mark.parametrize(
    ("came", "left"),
    [
        (HELD[::2], HELD),
        ([(1, 7, 9.0)], [HELD[0], (1, 7, 9.0), *HELD[2:]]),
        ([HELD[0], (9, 7, 9.0)], [*HELD, (9, 7, 9.0)]),
        ([(second + 0.5, 7, value) for second, _, value in HELD[1:]], None),
        ([(second + 0.5, 7, value) for second, _, value in HELD], []),
        ([(0, 8, 1.0)], [HELD[0], (0, 8, 1.0), *HELD[1:]]),
    ],
    ids=[
        "fewer",
        "another",
        "fewer and a new one",
        "fewer, at other times",
        "all at other times",
        "other series",
    ],
)
async def test_what_the_source_has_no_more_stays_where_no_version_is_newer(store, stretch, came, left):
    """Rows are replaced instant by instant, or all at once where they were given other times."""
    await store.store(stretch([(0, 60)], HELD))
    tally = await store.store(replace(stretch([(0, 60)], came), keeps=True))
    expected = sorted([*HELD, *came] if left is None else left or came)
    assert await stored(store) == expected
    assert (await load(store))[0] == len(expected)
    assert tally.stored + tally.unchanged == len(came)


async def test_of_rows_that_share_an_instant_all_stay_unless_one_is_another(store, stretch):
    """Of equal ones as many as came; another one that is gone stays; where one differs, none does."""
    tied = [(1, 7, 1.0), (1, 7, 1.0), (1, 7, 2.0)]
    await store.store(stretch([(0, 60)], tied))
    await store.store(replace(stretch([(0, 60)], tied[:1]), keeps=True))
    assert await stored(store) == [(1, 7, 1.0), (1, 7, 2.0)]
    before = await store.physical(ROWS, LOADS)
    await store.store(replace(stretch([(0, 60)], tied[:1]), keeps=True))
    assert await store.physical(ROWS, LOADS) == before
    await store.store(replace(stretch([(0, 60)], [tied[0], (1, 7, 3.0)]), keeps=True))
    assert await stored(store) == [(1, 7, 1.0), (1, 7, 3.0)]
    assert (await load(store))[0] == 2


# --- coverage --------------------------------------------------------------------------------------


async def test_coverage_is_added_and_taken_away(store, stretch):
    """First what shall be read again goes, then what is proved comes; touching intervals become one."""
    await store.store(stretch([(0, 10)]), stretch([(20, 30)]))
    assert (await load(store))[1] == [(0, 10), (20, 30)]
    await store.store(stretch([(10, 20)]))
    assert (await load(store))[1] == [(0, 30)]
    await store.store(stretch([], uncovered=[(5, 25)]))
    assert (await load(store))[1] == [(0, 5), (25, 30)]
    await store.store(stretch([(6, 7)], uncovered=[(0, 28)]))
    assert (await load(store))[1] == [(6, 7), (28, 30)]
    await store.store(stretch([(40, 50)], [(41, 7, 1.0)], covered=[]))
    assert (await load(store))[1] == [(6, 7), (28, 30)]


async def test_a_reset_forgets_coverage_and_takes_the_new_group(store, stretch):
    """When the groups of data sets change, the group is read anew; rows and their count stay."""
    await store.store(stretch([(0, 60)], [(1, 7, 1.0)], datasets=[8, 7]))
    assert await load(store) == (1, [(0, 60)], [7, 8])
    await store.store(stretch([(0, 5)], datasets=[7, 9], reset=True))
    assert await load(store) == (1, [(0, 5)], [7, 9])
    assert await stored(store) == [(1, 7, 1.0)]


async def test_coverage_of_another_group_is_not_noted(store, stretch):
    """A writer that knows only the old group stores its rows, but proves nothing about the new one."""
    await store.store(stretch([(0, 60)], datasets=[7, 8]))
    await store.store(stretch([(60, 70)], [(61, 7, 1.0)], datasets=[7], uncovered=[(0, 10)]))
    assert await load(store) == (1, [(10, 60)], [7, 8])
    assert await stored(store) == [(61, 7, 1.0)]
    await store.store(stretch([(60, 70)], datasets=[8, 7]))
    assert (await load(store))[1] == [(10, 70)]


async def test_a_data_set_that_moves_to_another_group_is_counted_once(store, stretch):
    """Read again with another group, a row is replaced all the same, and the sum of counts is right."""
    await store.store(stretch([(0, 60)], [(1, 7, 1.0), (1, 8, 1.0)], datasets=[7, 8]))
    await store.store(stretch([(0, 60)], [(1, 8, 2.0)], part=1, datasets=[8], reset=True))
    assert await stored(store) == [(1, 7, 1.0), (1, 8, 2.0)]
    assert (await load(store))[0] + (await load(store, 1))[0] == 2


# --- rejects ---------------------------------------------------------------------------------------


async def test_rejects_of_a_stretch_are_logged_and_counted(store, stretch):
    """Each is one in the ledger, with the number of items that it stands for; a note stands for none."""
    one = stretch([(0, 60)], [(1, 7, 1.0)], rejects=[(2, "a", 5), (3, "b")])
    note = replace(one.rejects[1], item_key="x/note", counts=False)
    tally = await store.store(replace(one, rejects=(*one.rejects, note)))
    assert tally == Tally(read=3, stored=1, rejected=2)
    rows = await store.fetch("SELECT item_key, items, part FROM sync.reject_log ORDER BY items")
    assert [(row["item_key"].split("/")[1], row["items"], row["part"]) for row in rows] == [
        ("note", 0, 0),
        ("b", 1, 0),
        ("a", 5, 0),
    ]


async def test_a_reject_is_resolved_when_its_time_is_read_without_it(store, stretch):
    """Reading elsewhere resolves nothing; reading its time again without it does; seen again it is open."""
    await store.store(stretch([(0, 60)], rejects=[(5, "a"), (15, "b"), (25, "c")]))
    await store.store(stretch([(10, 15), (16, 60)], rejects=[(25, "c")]))
    assert await open_rejects(store) == ["a", "b", "c"]
    await store.store(stretch([(10, 30)], rejects=[(25, "c")]))
    assert await open_rejects(store) == ["a", "c"]
    assert await store.values("SELECT attempts FROM sync.rejects ORDER BY item_key") == [1, 1, 3]
    await store.store(stretch([(15, 16)], rejects=[(15, "b")]))
    assert await open_rejects(store) == ["a", "b", "c"]


async def test_rejects_of_two_stretches_in_a_batch_both_stay(store, stretch):
    """What one stretch of a batch rejects is not resolved by another one that read other time."""
    await store.store(stretch([(0, 10)], rejects=[(5, "a")]), stretch([(10, 20)], rejects=[(15, "b")]))
    assert await open_rejects(store) == ["a", "b"]


async def test_rejects_of_other_groups_and_sessions_stay(store, stretch):
    """An answer about one group of data sets says nothing about another one's rejects."""
    await store.store(stretch([(0, 60)], part=1, rejects=[(5, "a")]))
    await store.store(stretch([(0, 60)], session=2, rejects=[(5, "b")]))
    await store.store(stretch([(0, 60)], [(1, 7, 1.0)]))
    assert await open_rejects(store) == ["a", "b"]


async def test_another_account_resolves_what_it_reads_whole(store, stretch):
    """Who reads a session may change: the rejects of the one before do not stay open for ever."""
    await store.store(stretch([(0, 60)], rejects=[(5, "a"), (6, "b")]))
    await store.store(stretch([(0, 60)], rejects=[(5, "a")]), stream=StreamKey("bace", "clinic", "data"))
    rows = await store.fetch("SELECT account, item_key FROM sync.rejects WHERE resolved_at IS NULL")
    assert [(row["account"], row["item_key"][-1]) for row in rows] == [("clinic", "a")]


async def test_a_session_s_own_row_does_not_resolve_its_datapoints(store, stretch, data_session):
    """Listing a session says nothing about its datapoints, nor reading those about what is wrong with it."""
    record = data_session(1)
    note = replace(stretch([(0, 9)], rejects=[(1, "note")]).rejects[0], instant=None, counts=False)
    await store.commit(record, rejects=[note], stream=store.stream)
    await store.store(stretch([(0, 60)], rejects=[(5, "a")]), stream=store.stream)
    assert await open_rejects(store) == ["a", "note"]
    await store.commit(record, stream=store.stream)
    assert await open_rejects(store) == ["a"]


# --- all or nothing --------------------------------------------------------------------------------


async def test_a_stretch_that_fails_leaves_nothing(store, stretch, data_session):
    """A value that does not fit, in the last stretch of a batch, leaves the warehouse as it was."""
    await store.store(stretch([(0, 60)], [(1, 7, 1.0)], rejects=[(5, "a")]))
    before = await store.everything()
    good = stretch([(0, 60)], [(2, 7, 2.0)], rejects=[(6, "b")])
    with pytest.raises(ValueError, match=r"datapoint_rows\.count"):
        await store.store(good, stretch([(60, 70)], [(61, 7, 1.0, 1.0, 1.0, 2**31)]))
    missing = (data_session().head, (UUID(int=1),))
    with pytest.raises(asyncpg.NotNullViolationError):
        await store.store(good, learned={"bad": None}, missing=(missing,))
    assert await store.everything() == before


@pytest.mark.parametrize("table", [LOADS, ROWS, "sync.reject_log", "sync.run_log"])
async def test_a_killed_back_end_leaves_nothing(store, stretch, other, blocked, table):
    """Wherever the server ends the connection, nothing of the stretch stays; later the same one fits."""
    await store.store(stretch([(0, 60)], [(1, 7, 1.0)]))
    before = await store.everything()
    lock = other.transaction()
    await lock.start()
    await other.execute(f"LOCK TABLE {table} IN EXCLUSIVE MODE")
    again = stretch([(0, 60)], [(2, 7, 2.0)], rejects=[(5, "a")])
    task = asyncio.create_task(store.store(again))
    assert await other.fetchval("SELECT pg_terminate_backend($1)", await blocked())
    with pytest.raises(StorageUnavailable):
        await task
    await lock.rollback()
    assert await store.everything() == before
    assert await store.store(again) == Tally(read=2, stored=1, rejected=1)


# --- side by side ----------------------------------------------------------------------------------


async def test_two_writers_of_the_same_stretch(store, stretch):
    """Two processes that read the same time store it once; the other one finds it there."""
    for turn in range(30):
        one = stretch([(0, 60)], [(1, 7, 1.0), (2, 8, 2.0)], session=turn)
        tallies = await asyncio.gather(store.store(one), store.store(one))
        assert tallies[0] + tallies[1] == Tally(read=4, stored=2, unchanged=2)
        assert await stored(store, turn) == [(1, 7, 1.0), (2, 8, 2.0)]
        assert (await load(store, session=turn))[0] == 2


async def test_two_writers_of_many_sessions(store, stretch, data_session):
    """Batches that hold the same sessions in other orders wait for each other, never in a circle."""
    for turn in range(20):
        ones = [stretch([(0, 60)], [(1, 7, float(turn))], session=n, rejects=[(2, "a")]) for n in range(1, 9)]
        missing = [(data_session().head, (UUID(int=n),)) for n in range(1, 9)]
        await asyncio.gather(
            store.store(*ones, missing=tuple(missing)),
            store.store(*reversed(ones), missing=tuple(reversed(missing))),
            store.commit(*(data_session(n, float(turn)) for n in range(1, 9))),
        )
        for n in range(1, 9):
            assert await stored(store, n) == [(1, 7, float(turn))]


async def test_two_writers_that_know_other_groups(store, stretch, other, blocked):
    """A data set that one writer reads with one group and the other with another is stored once."""
    await store.store(stretch([], part=0), stretch([], part=1))
    lock = other.transaction()
    await lock.start()
    await other.execute("LOCK TABLE sync.run_log IN EXCLUSIVE MODE")
    first = asyncio.create_task(store.store(stretch([(0, 60)], [(1, 7, 1.0)], part=0)))
    await blocked()
    second = asyncio.create_task(store.store(stretch([(0, 60)], [(1, 7, 2.0)], part=1)))
    async with asyncio.timeout(60):
        while await other.fetchval(WAITING) < 2:
            # Inside a transaction PostgreSQL remembers which back-ends there are.
            await other.execute("SELECT pg_stat_clear_snapshot()")
    await lock.rollback()
    await asyncio.gather(first, second)
    assert await stored(store) == [(1, 7, 2.0)]
    assert (await load(store, 0))[0] + (await load(store, 1))[0] == 1


# --- any history -----------------------------------------------------------------------------------

VALUES = st.sampled_from([1.0, 2.0, -0.0, 0.0])
POINTS = st.lists(st.tuples(st.integers(0, 11), st.integers(7, 8), VALUES), max_size=6)
SPANS = st.lists(st.tuples(st.integers(0, 11), st.integers(1, 4)), min_size=1, max_size=2)
REJECTS = st.lists(st.integers(0, 11), max_size=2, unique=True)
READINGS = st.lists(st.tuples(st.integers(1, 2), SPANS, POINTS, REJECTS), min_size=1, max_size=4)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(history=st.lists(READINGS, min_size=1, max_size=5), repeated=st.booleans())
async def test_any_history_ends_where_a_dictionary_does(store, stretch, history, repeated):
    """However time is read, batched and read again, the warehouse holds what the last reading of it said."""
    await store.pool.execute(f"TRUNCATE {ROWS}, {LOADS}, sync.reject_log")
    rows, covered, rejected = Counter(), set(), set()
    for readings in history:
        batch = []
        for session, pairs, points, at in readings:
            spans = [(start, start + size) for start, size in pairs]
            seconds = {n for start, end in spans for n in range(start, end)}
            points = [point for point in points if point[0] in seconds]  # noqa: PLW2901
            at = [n for n in at if n in seconds]  # noqa: PLW2901
            batch.append(stretch(spans, points, session=session, rejects=[(n, str(n)) for n in at]))

            held = {dataset for _, dataset, _ in points}
            for row in [r for r in rows if r[0] == session and r[1] in seconds and r[2] in held]:
                del rows[row]
            rows.update((session, second, dataset, struct.pack(">d", v)) for second, dataset, v in points)
            covered |= {(session, n) for n in seconds}
            rejected = {r for r in rejected if r[0] != session or r[1] not in seconds}
            rejected |= {(session, n) for n in at}
        for _ in range(2 if repeated and len(batch) == 1 else 1):
            tally = await store.store(*batch)
            assert tally.read == tally.accounted_for

    found = await store.pool.fetch(
        "SELECT id_data_session AS s, extract(epoch FROM time - '2022-03-30 12:00+00')::int AS t, "
        "id_container_data_latest AS d, float8send(value) AS v FROM bace.datapoint_rows"
    )
    assert Counter((r["s"].int, r["t"], r["d"].int, r["v"]) for r in found) == rows
    for session in {session for session, _ in covered}:
        count, spans, _ = await load(store, session=session)
        assert count == sum(n for row, n in rows.items() if row[0] == session)
        assert {n for start, end in spans for n in range(start, end)} == {
            n for s, n in covered if s == session
        }
    names = await store.values("SELECT item_key FROM sync.rejects WHERE resolved_at IS NULL")
    assert sorted(names) == sorted(f"{UUID(int=session)}/{n}" for session, n in rejected)


def as_read(one):
    """The same stretch as a walk makes it: of raw samples nothing but the value, and ids as bytes."""
    times, sessions, datasets, values, *_ = one.rows.values
    ids = [np.array([key.bytes for key in keys], "V16") for keys in (sessions, datasets)]
    return replace(one, rows=Rows(SAMPLES, (times, *ids, np.array(values, np.float64))))


PROVED = st.lists(st.tuples(st.integers(0, 11), st.integers(1, 4)), max_size=2)
ANSWERS = st.lists(st.tuples(SPANS, POINTS, REJECTS, PROVED, PROVED, st.booleans()), min_size=1, max_size=5)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(before=ANSWERS, answers=ANSWERS, how=st.tuples(st.booleans(), st.booleans()))
async def test_answers_in_one_batch_leave_what_they_leave_one_by_one(store, stretch, before, answers, how):
    """Rows, counts, coverage and rejects do not depend on how many answers a transaction holds."""
    apart, keeps = how
    await store.pool.execute(f"TRUNCATE {ROWS}, {LOADS}, sync.reject_log")

    def made(number, answer, session):
        spans, points, rejects, covered, uncovered, reset = answer
        moved = number * 20 if apart else 0  # else they may well overlap
        spans, covered, uncovered = (
            [(start + moved, start + moved + size) for start, size in pairs]
            for pairs in (spans, covered, uncovered)
        )
        seconds = {n for start, end in spans for n in range(start, end)}
        points = [(n + moved, dataset, value) for n, dataset, value in points if n + moved in seconds]
        at = [(n + moved, f"{number}-{n}") for n in rejects if n + moved in seconds]
        one = stretch(
            spans, points, session=session, rejects=at, covered=covered, uncovered=uncovered, reset=reset
        )
        return as_read(replace(one, keeps=keeps))

    tallies = []
    for session in (1, 2):
        for spans, points, *rest in before:
            await store.store(made(0, (spans, [] if apart else points, *rest), session))
        batch = [made(number, answer, session) for number, answer in enumerate(answers)]
        parts = [batch] if session == 1 else [[one] for one in batch]
        tallies.append(sum([await store.store(*part) for part in parts], Tally()))
    assert tallies[0] == tallies[1]
    assert await stored(store, 1) == await stored(store, 2)
    assert await load(store, session=1) == await load(store, session=2)
    rejects = await store.values("SELECT item_key FROM sync.rejects WHERE resolved_at IS NULL ORDER BY 1")
    one, other = ([key for key in rejects if key.startswith(str(UUID(int=n)))] for n in (1, 2))
    assert [key.split("/")[1] for key in one] == [key.split("/")[1] for key in other]


async def test_answers_about_new_time_are_one_copy(store, stretch, monkeypatch):
    """So many as there are; where one of them finds rows, each replaces its own, and vanished ones stay."""
    copies = []

    async def counted(connection, rows, copy=series.copy_rows):
        copies.append(sum(map(len, rows)))
        await copy(connection, rows)

    monkeypatch.setattr(series, "copy_rows", counted)
    tens = [(n, n + 10) for n in range(0, 30, 10)]
    await store.store(*(as_read(stretch([ten], [(ten[0], 7, 1.0), (ten[0], 8, 1.0)])) for ten in tens))
    assert copies == [6]
    await store.store(as_read(stretch([tens[0]], [(1, 7, 2.0)])), as_read(stretch([tens[1]], [(11, 8, 2.0)])))
    assert copies == [6, 1, 1]
    kept = [(0, 8, 1.0), (1, 7, 2.0), (10, 7, 1.0), (11, 8, 2.0), (20, 7, 1.0), (20, 8, 1.0)]
    assert await stored(store) == kept
    assert (await load(store))[:2] == (6, [(0, 30)])
