"""From the items of an answer to readings: whatever they are, each is one reading or one bad item."""

from __future__ import annotations

import json
import math
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sync.model import PAYLOAD_LIMIT
from sync.sources.bace.decode import NO_DATASET, BadItem, Dataset, Readings, decode_data

# A busy machine is no fault of the program's.
calm = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

START = 1_648_641_600_000_000
CONTAINER = "0d7c5a54-9b0e-4e7e-8a39-1d0f6b1c2a01"
OTHER = "0d7c5a54-9b0e-4e7e-8a39-1d0f6b1c2a02"
GROUP = "5f0c1a9e-3a55-4a0e-9b7d-0c6a5a3b0001"
DEVICE = "5f0c1a9e-3a55-4a0e-9b7d-0c6a5a3b0002"

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-(10**400), 10**400),
    st.floats(),
    st.text(st.characters(), max_size=20),
    st.sampled_from(["\ud800", "\x00", "1e5", "", " 12 ", "1648641939.995", "nan", "9" * 400]),
)
anything = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
)
numbers = st.one_of(
    st.integers(-(10**20), 10**20), st.floats(allow_nan=False, allow_infinity=False), st.just("21.5")
)


def item(**changes: Any) -> dict[str, Any]:
    """A datapoint as the documents show one, with changes."""
    return {
        "id_container_data_latest": CONTAINER,
        "id_group": GROUP,
        "source_device": DEVICE,
        "datatype": 5205,
        "timestamp_seconds": 1_648_641_939.995,
        "min_val": 3.95,
        "max_val": 3.95,
        "avg_val": 3.95,
        "count_val": 1,
        **changes,
    }


fields = st.sampled_from([*item(), "unknown"])
nearly = st.builds(
    lambda changes, gone: {name: value for name, value in item(**changes).items() if name not in gone},
    st.dictionaries(fields, anything | numbers, max_size=3),
    st.sets(fields, max_size=2),
)
"""Objects that are almost datapoints."""


def nested(depth: int) -> Any:
    """An array in an array in an array."""
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


def bad_one(value: Any) -> BadItem:
    """What becomes of an item that is no reading."""
    (bad,) = decode_data([value], START).bad
    return bad


def dataset_of(readings: Readings, position: int) -> UUID:
    """The id of a reading's dataset."""
    return readings.datasets[readings.which[position]].id_container_data_latest


@calm
@given(st.lists(anything | nearly, max_size=8))
def test_every_item_is_one_reading_or_one_bad_item(items: list[Any]):
    """Nothing raises and nothing is dropped; what is bad can be told, stored and found."""
    readings = decode_data(items, START)
    columns = (readings.stamps, readings.counts, readings.values, readings.least, readings.most)
    assert {len(column) for column in (*columns, readings.which)} == {len(items)}
    bad = [entry.position for entry in readings.bad]
    assert bad == sorted(set(bad))
    for position in range(len(items)):
        whole = [math.isfinite(column[position]) for column in columns[2:]]
        assert all(whole) == (position not in bad)
        assert (readings.which[position] == NO_DATASET) == (position in bad)
    assert (readings.counts >= 1).all()
    for entry in readings.bad:
        assert entry.reason
        assert "\x00" not in entry.key
        assert entry.key.encode()
        text = json.dumps(entry.payload, allow_nan=False, ensure_ascii=False)
        assert text.encode()
        assert len(text) <= 2 * PAYLOAD_LIMIT + 100


@calm
@given(st.lists(nearly, max_size=6))
def test_a_bad_item_changes_nothing_for_its_neighbours(items: list[Any]):
    """Each reading is the same as if it had come alone."""
    readings = decode_data(items, START)
    bad = {entry.position for entry in readings.bad}
    for position, one in enumerate(items):
        alone = decode_data([one], START)
        assert bool(alone.bad) == (position in bad)
        if position not in bad:
            assert alone.stamps[0] == readings.stamps[position]
            assert alone.counts[0] == readings.counts[position]
            assert alone.values[0] == readings.values[position]
            assert dataset_of(alone, 0) == dataset_of(readings, position)


documented = st.builds(
    item,
    id_container_data_latest=st.sampled_from([CONTAINER, CONTAINER.upper(), OTHER]),
    id_group=st.sampled_from([GROUP, OTHER, None]),
    timestamp_seconds=st.integers(-(10**12), 10**12) | st.floats(-1e12, 1e12) | st.floats(),
    avg_val=st.integers(-(10**400), 10**400) | st.floats(),
    count_val=st.integers(-1, 2**31) | st.integers(),
)
"""Items of which each field has the documented type, and nearly always a possible value."""


@calm
@given(st.lists(documented, max_size=8))
def test_items_as_documented_are_read_like_all_others(items: list[Any]):
    """Beside one that is nothing at all, each is the same reading as without it."""
    together, beside = decode_data(items, START), decode_data([*items, None], START)
    columns = ("stamps", "counts", "values", "least", "most", "which")
    for name in columns:
        assert getattr(together, name).tobytes() == getattr(beside, name)[: len(items)].tobytes()
    assert together.bad == beside.bad[:-1]
    assert together.datasets == beside.datasets
    assert together.is_mixed is beside.is_mixed


@calm
@given(numbers, numbers, numbers, st.integers(1, 2**31 - 1))
def test_values_arrive_bit_for_bit(average: Any, least: Any, most: Any, count: int):
    """Numbers are float64, each in its own column, and the count is a whole number."""
    one = item(avg_val=average, min_val=least, max_val=most, count_val=count)
    readings = decode_data([one], START)
    assert readings.bad == ()
    assert readings.values[0] == float(average)
    assert readings.least[0] == float(least)
    assert readings.most[0] == float(most)
    assert readings.counts[0] == count


def test_a_minus_zero_keeps_its_sign():
    """Bit for bit means this one, too."""
    assert math.copysign(1, decode_data([item(avg_val=-0.0)], START).values[0]) == -1


@calm
@given(st.integers(946_684_800_000, 4_102_444_800_000))
def test_instants_of_this_century_are_exact_to_the_millisecond(milliseconds: int):
    """As a number or as a text: the microsecond that the vendor meant."""
    seconds = milliseconds / 1000
    exact = f"{milliseconds // 1000}.{milliseconds % 1000:03}"
    read = decode_data([item(timestamp_seconds=seconds), item(timestamp_seconds=exact)], START)
    assert read.stamps.tolist() == [milliseconds * 1000] * 2
    whole = decode_data([item(timestamp_seconds=milliseconds // 1000)], START)
    assert whole.stamps.tolist() == [milliseconds // 1000 * 1_000_000]


@calm
@given(st.floats(-6e10, 2.5e11))
def test_a_stamp_is_one_product_rounded_half_to_even(seconds: float):
    """The rule for all instants of the warehouse."""
    assert decode_data([item(timestamp_seconds=seconds)], START).stamps[0] == round(seconds * 1e6)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "a datapoint is null instead of an object"),
        ([item()], "a datapoint is an array instead of an object"),
        ("x", "a datapoint is a string instead of an object"),
        (True, "a datapoint is a boolean instead of an object"),
        (1.5, "a datapoint is a number instead of an object"),
        ({}, "timestamp_seconds is null that names no instant"),
        (item(timestamp_seconds=True), "timestamp_seconds is a boolean that names no instant"),
        (item(timestamp_seconds=1e300), "timestamp_seconds is a number that names no instant"),
        (item(timestamp_seconds=math.nan), "timestamp_seconds is a number that names no instant"),
        (item(timestamp_seconds="2022-03-30"), "timestamp_seconds is a string that names no instant"),
        (item(id_container_data_latest=None), "id_container_data_latest is no UUID"),
        (item(id_container_data_latest=7), "id_container_data_latest is no UUID"),
        (item(id_container_data_latest="x"), "id_container_data_latest is no UUID"),
        (item(count_val=0), "count_val is no positive whole number"),
        (item(count_val=-1), "count_val is no positive whole number"),
        (item(count_val=1.5), "count_val is no positive whole number"),
        (item(count_val=True), "count_val is no positive whole number"),
        (item(count_val=2**31), "count_val is no positive whole number"),
        (item(avg_val=None), "avg_val is null instead of a number"),
        (item(min_val="x"), "min_val is a string instead of a number"),
        (item(max_val=math.inf), "max_val is a number instead of a number"),
        (item(avg_val=10**400), "avg_val is a number instead of a number"),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence(value: Any, reason: str):
    """The first thing that is wrong, by the vendor's name for it."""
    assert bad_one(value).reason == reason


@pytest.mark.parametrize("depth", [400, 900, 100_000])
@pytest.mark.parametrize("field", [None, "id_container_data_latest", "timestamp_seconds", "avg_val"])
def test_nesting_is_no_way_to_stop_a_session(field: str | None, depth: int):
    """However deep, and wherever it stands."""
    value = nested(depth) if field is None else item(**{field: nested(depth)})
    assert bad_one(value).position == 0


@pytest.mark.parametrize("text", ["\x00", "\ud800", "x" * 10_000, "\x00" * 100])
def test_the_key_of_a_bad_item_can_be_stored(text: str):
    """No NUL, no half of a character, no length without end, whatever stands in the item's own key."""
    key = bad_one(item(id_container_data_latest=text)).key
    assert "\x00" not in key
    assert len(key.encode()) < 200
    assert key.endswith("/1648641939995000")


def test_bad_items_keep_their_instant_and_their_number_of_samples():
    """A reject stands for as many samples as the item said it holds, at the time that it named."""
    readings = decode_data([item(avg_val=None, count_val=7), item(count_val="x")], START)
    assert readings.stamps.tolist() == [1_648_641_939_995_000] * 2
    assert readings.counts.tolist() == [7, 1]
    assert [entry.position for entry in readings.bad] == [0, 1]


def test_an_item_without_an_instant_has_that_of_the_item_before_it():
    """It belongs among its neighbours, so that it is replaced together with them."""
    stamps = [100, None, 200, None]
    readings = decode_data([item(timestamp_seconds=stamp) for stamp in stamps], START)
    assert readings.stamps.tolist() == [100_000_000, 100_000_000, 200_000_000, 200_000_000]


def test_an_item_without_an_instant_adds_none_of_its_own():
    """Where a question began must not pass for a sample off the minute: that would prove buckets raw."""
    readings = decode_data([item(timestamp_seconds=None), item(timestamp_seconds=120)], 90_500_000)
    assert readings.stamps.tolist() == [120_000_000] * 2
    assert decode_data([None, {}], 90_500_000).stamps.tolist() == [90_500_000] * 2


def test_datasets_are_told_once_each():
    """With what the first row says of them; what cannot be read of it is left open."""
    rows = [
        item(),
        item(id_group=OTHER),
        item(id_container_data_latest=CONTAINER.upper(), id_group=None),
        item(id_container_data_latest=OTHER, id_group=None, source_device="x", datatype="many"),
        item(id_container_data_latest="x"),
    ]
    assert decode_data(rows, START).datasets == (
        Dataset(UUID(CONTAINER), UUID(GROUP), UUID(DEVICE), 5205),
        Dataset(UUID(OTHER), None, None, None),
    )


@pytest.mark.parametrize(
    ("order", "mixed"),
    [
        ([], False),
        ([CONTAINER], False),
        ([CONTAINER, CONTAINER, OTHER], False),
        ([CONTAINER, OTHER, CONTAINER], True),
        ([CONTAINER, "x", CONTAINER], False),
        (["x", CONTAINER, "x"], False),
        ([CONTAINER, "x", OTHER, CONTAINER], True),
        ([CONTAINER, OTHER, CONTAINER.upper()], True),
        ([CONTAINER, CONTAINER.upper(), CONTAINER], False),
    ],
)
def test_datasets_take_turns_only_where_another_one_came_between(order: list[str], mixed: bool):
    """A bad item is no other dataset: rows sorted by dataset must not pass for rows in the order of time."""
    items = [item(id_container_data_latest=container) for container in order]
    assert decode_data(items, START).is_mixed is mixed
