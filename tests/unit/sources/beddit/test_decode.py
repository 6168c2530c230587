"""What every JSON value becomes when it arrives where a session is expected."""

from __future__ import annotations

import json
import math
import random
import struct
from datetime import UTC, date, datetime, timedelta
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sync.sources.beddit.decode import MOST_REJECTS, DecodedSession, decode_session, identify
from sync.sources.beddit.items import SLICE
from sync.storage.copy import encode

# A busy machine is no fault of the program's.
calm = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

USER = 1001
START = 1431835725.618702
FIGURES = ("heart_rate_", "respiration_", "actigram_", "snoring_")

# The session of the vendor's document, completed to valid JSON.
DOCUMENTED = b"""
{
   "id" : 1431835725,
   "start_timestamp" : 1431835725.618702,
   "end_timestamp" : 1431865087.218702,
   "timezone" : "America/New_York",
   "hardware" : "1.0/39bc22e bl:1.1 hw:1",
   "software" : "1.11.0 (101)",
   "frame_length" : 0.2,
   "error_code" : 0,
   "sampled_tracks" : {
      "normal" : {
         "samples_per_frame" : 28,
         "data_url" : "https://bedditcloud-sleepdata.example/1431835725/normal?signature=Zm9v&expires=1",
         "data_type" : "uint16"
      },
      "noise" : {
         "samples_per_frame" : 2,
         "data_url" : "https://bedditcloud-sleepdata.example/1431835725/noise?signature=YmFy&expires=1",
         "data_type" : "float32"
      }
   },
   "time_value_tracks" : {
      "actigram" : {"value_data_type" : "float32", "items" : [[0, 29973.82]]},
      "snoring_events" : {"value_data_type" : "float32", "items" : []},
      "respiration_cycles" : {"value_data_type" : "float32", "items" : [[40.3, 4.1]]},
      "heart_rate" : {"value_data_type" : "float32", "items" : [[60, 64.59961]]},
      "sensor_status" : {"value_data_type" : "uint8", "items" : [[58.4, 1], [29316.8, 1]]}
   },
   "updated" : 1371482503.646541
}
"""


def session(**fields: Any) -> bytes:
    """A session of few words, with these fields instead; None leaves one out."""
    whole = {"id": int(START), "start_timestamp": START, "updated": 1431865100.0} | fields
    return json.dumps({k: v for k, v in whole.items() if v is not None}).encode()


def with_items(items: str) -> bytes:
    """A session with one track, whose items are this JSON text."""
    head = f'{{"id": 7, "start_timestamp": {START}, "time_value_tracks": {{"heart_rate": {{"items": '
    return f"{head}{items}}}}}}}".encode()


def row_of(element: bytes) -> dict[str, Any]:
    """The row of a session that has one."""
    record = decode_session(element, USER).record
    assert record is not None
    return dict(record.row)


def details(decoded: DecodedSession, table: str) -> list[dict[str, Any]]:
    """The rows that a session has in an owned table."""
    assert decoded.record is not None
    return [
        dict(zip(rows.table.column_names, values, strict=True))
        for rows in decoded.record.details
        if rows.table.name == table
        for values in zip(*rows.values, strict=True)
    ]


def tracks(decoded: DecodedSession) -> dict[str, dict[str, Any]]:
    """The time-value tracks by name."""
    return {row["track"]: row for row in details(decoded, "beddit.track_arrays")}


def declarations(decoded: DecodedSession) -> dict[str, dict[str, Any]]:
    """The sampled tracks by name."""
    return {row["track"]: row for row in details(decoded, "beddit.track_declarations")}


def numbered(track: dict[str, Any]) -> list[tuple[int, float, float]]:
    """A track's items with the places that they had in the answer."""
    offsets, values = track["offsets"].tolist(), track["values"].tolist()
    indexes = range(len(offsets)) if track["indexes"] is None else track["indexes"].tolist()
    return list(zip(indexes, offsets, values, strict=True))


def microseconds(track: dict[str, Any]) -> list[int]:
    """A track's instants since 1970."""
    return track["times"].astype("int64").tolist()


def texts(value: Any) -> list[str]:
    """Every text inside a value, keys too."""
    match value:
        case str():
            return [value]
        case list() | tuple():
            return [text for part in value for text in texts(part)]
        case dict():
            return [text for pair in value.items() for part in pair for text in texts(part)]
    return []


def assert_sound(element: bytes) -> DecodedSession:
    """Decode, and check what holds whatever came: the ledger, the keys, and what PostgreSQL can store."""
    decoded = decode_session(element, USER)
    size = 0 if decoded.record is None else decoded.record.size
    counting = sum(reject.counts for reject in decoded.rejects)
    assert decoded.read == size + counting
    assert decoded.record is not None or counting == 1
    stored = 0
    if decoded.record is not None:
        assert identify(element, USER) == decoded.seen
        rows = tracks(decoded).values()
        stored = sum(len(track["offsets"]) for track in rows)
        assert len(rows) == len(details(decoded, "beddit.track_arrays"))
        assert len(declarations(decoded)) == len(details(decoded, "beddit.track_declarations"))
        for track in rows:
            assert len(track["values"]) == len(track["times"]) == len(track["offsets"])
            assert np.isfinite(track["offsets"]).all()
            assert np.isfinite(track["values"]).all()
        for part in decoded.record.details:
            b"".join(encode([part]))
        assert decoded.record.size == 1 + stored
    rejected = [(r.record_key, r.item_key, r.reason, r.payload) for r in decoded.rejects]
    row = {} if decoded.record is None else {k: v for k, v in decoded.record.row.items() if k != "digest"}
    for text in texts([rejected, row]):
        assert "\0" not in text
        text.encode()
    for text in [*texts(row["extra"] if row else None)]:
        json.loads(text, parse_constant=pytest.fail)
    for reject in decoded.rejects:
        json.dumps(reject.payload, allow_nan=False)
        assert len(reject.item_key.encode()) < 2_500  # an index entry of PostgreSQL
    keys = [reject.item_key for reject in decoded.rejects if reject.counts]
    assert len(set(keys)) == len(keys)
    return decoded


# --- the documents' own example --------------------------------------------------------------------


def test_the_documented_session_becomes_the_row_that_the_documents_describe():
    """The vendor's own example loads without a single note."""
    decoded = assert_sound(DOCUMENTED)
    assert decoded.rejects == ()
    assert decoded.record is not None
    row = {k: v for k, v in decoded.record.row.items() if not k.startswith(FIGURES)}
    assert len(row.pop("digest")) == 32
    assert row == {
        "user_id": 1001,
        "session_id": 1431835725,
        "start_timestamp": 1431835725.618702,
        "started_at": datetime(2015, 5, 17, 4, 8, 45, 618702, tzinfo=UTC),
        "ended_at": datetime(2015, 5, 17, 12, 18, 7, 218702, tzinfo=UTC),
        "timezone": "America/New_York",
        "night": date(2015, 5, 17),
        "hardware": "1.0/39bc22e bl:1.1 hw:1",
        "software": "1.11.0 (101)",
        "frame_length": 0.2,
        "frame_count": 146_808,
        "error_code": 0,
        "updated": 1371482503.646541,
        "extra": None,
    }
    assert decoded.record.key == (1001, 1431835725)
    assert decoded.record.size == decoded.read == 6


def test_the_documented_tracks_keep_their_items_in_order():
    """Item times are seconds from the session's start, stored as received and as instants."""
    found = tracks(decode_session(DOCUMENTED, USER))
    assert {name: numbered(track) for name, track in found.items()} == {
        "actigram": [(0, 0.0, 29973.82)],
        "snoring_events": [],
        "respiration_cycles": [(0, 40.3, 4.1)],
        "heart_rate": [(0, 60.0, 64.59961)],
        "sensor_status": [(0, 58.4, 1.0), (1, 29316.8, 1.0)],
    }
    assert microseconds(found["sensor_status"]) == [1431835784018702, 1431865042418702]
    assert {track["value_data_type"] for track in found.values()} == {"float32", "uint8"}


def test_the_documented_raw_signals_are_declared_without_their_addresses():
    """Addresses go beside the rows, and never into them."""
    decoded = decode_session(DOCUMENTED, USER)
    normal, noise = declarations(decoded)["normal"], declarations(decoded)["noise"]
    assert (normal["data_type"], normal["samples_per_frame"]) == ("uint16", 28)
    assert (noise["data_type"], noise["samples_per_frame"], noise["extra"]) == ("float32", 2, None)
    assert decoded.addresses["noise"].endswith("?signature=YmFy&expires=1")
    assert "signature" not in repr(decoded)


# --- totality --------------------------------------------------------------------------------------

AWKWARD = st.sampled_from(
    ["\0", "\ud800", "a\0b", "\udfff\ud800", "", "items", "data_url", "é", "\U0001f634"]
)
TEXT = st.one_of(AWKWARD, st.text(st.characters(exclude_categories=[]), max_size=8), st.just("n" * 3_000))
NUMBER = st.one_of(
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=True, allow_infinity=True),
    st.sampled_from([START, 1e9, 1e308, -1e308, -0.0, 253402300800.0, -62135596800.0]),
)
SCALAR = st.one_of(st.none(), st.booleans(), NUMBER, TEXT)
ANYTHING = st.recursive(
    SCALAR,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXT, inner, max_size=3)),
    max_leaves=8,
)
ITEM = st.one_of(st.tuples(NUMBER, NUMBER), st.lists(NUMBER, max_size=3), ANYTHING)
TRACK = st.one_of(
    ANYTHING,
    st.fixed_dictionaries(
        {"items": st.one_of(st.lists(ITEM, max_size=6), ANYTHING)},
        optional={"value_data_type": SCALAR, "note": ANYTHING},
    ),
)
SIGNAL = st.one_of(
    ANYTHING,
    st.fixed_dictionaries(
        {}, optional={"data_url": SCALAR, "data_type": SCALAR, "samples_per_frame": SCALAR, "x": ANYTHING}
    ),
)
SESSION = st.fixed_dictionaries(
    {"start_timestamp": st.one_of(st.just(START), st.just(START), SCALAR)},
    optional={
        "id": st.one_of(st.integers(0, 2**64), SCALAR),
        "end_timestamp": st.one_of(st.floats(START, START + 1e5), ANYTHING),
        "timezone": st.one_of(
            st.sampled_from(["Asia/Tokyo", "America", "/etc", "../x", "zone.tab"]), ANYTHING
        ),
        "hardware": SCALAR,
        "software": ANYTHING,
        "frame_length": SCALAR,
        "error_code": SCALAR,
        "updated": SCALAR,
        "time_value_tracks": st.one_of(ANYTHING, st.dictionaries(TEXT, TRACK, max_size=3)),
        "sampled_tracks": st.one_of(ANYTHING, st.dictionaries(TEXT, SIGNAL, max_size=3)),
        "unknown": ANYTHING,
    },
)


@calm
@given(st.binary(max_size=200))
def test_any_bytes_are_a_reject_or_a_session(element: bytes):
    """No byte string makes the decoder fail, and each is accounted for."""
    assert_sound(element)


@calm
@given(ANYTHING, st.booleans())
def test_any_json_value_is_accounted_for(value: Any, ascii_only: bool):
    """A value that is no session is one item read and one reject."""
    assert_sound(json.dumps(value, ensure_ascii=ascii_only).encode(errors="surrogatepass"))


@settings(calm, max_examples=400)
@given(SESSION, st.booleans())
def test_a_session_with_anything_in_any_field_is_accounted_for(value: Any, ascii_only: bool):
    """Whatever stands in a session's fields: items read are items stored plus items rejected."""
    assert_sound(json.dumps(value, ensure_ascii=ascii_only).encode(errors="surrogatepass"))


@settings(calm, max_examples=200)
@given(st.integers(0, len(DOCUMENTED) - 1), st.binary(min_size=1, max_size=3), st.booleans())
def test_a_damaged_session_is_accounted_for(place: int, damage: bytes, cut: bool):
    """Bytes overwritten anywhere, or an end that is missing, never make the decoder fail."""
    behind = b"" if cut else DOCUMENTED[place + len(damage) :]
    assert_sound(DOCUMENTED[:place] + damage + behind)


@pytest.mark.parametrize("depth", [50, 300, 480, 500, 900, 1_000, 5_000, 200_000])
@pytest.mark.parametrize(
    "where",
    [
        b"%s",
        b'{"start_timestamp": 1431835725.6, "unknown": %s}',
        b'{"start_timestamp": 1431835725.6, "timezone": %s}',
        b'{"start_timestamp": null, "id": %s}',
        b'{"start_timestamp": 1431835725.6, "sampled_tracks": {"normal": %s}}',
        b'{"start_timestamp": 1431835725.6, "time_value_tracks": {"a": {"items": [[1, 2], %s]}}}',
    ],
)
def test_deep_nesting_is_accounted_for(where: bytes, depth: int):
    """No depth of brackets, wherever they stand, makes the decoder fail."""
    assert_sound(where % (b"[" * depth + b"]" * depth))


# --- bad items -------------------------------------------------------------------------------------

BAD_ITEMS = [
    "null",
    '"text"',
    "true",
    "12",
    "{}",
    '{"0": 1, "1": 2}',
    "[]",
    "[1]",
    "[1, 2, 3]",
    "[[1, 2], 3]",
    "[1, [2]]",
    "[null, 1]",
    "[1, null]",
    '["1", 2]',
    '[1, "2"]',
    "[true, 2]",
    "[1, false]",
    "[NaN, 1]",
    "[1, NaN]",
    "[1, Infinity]",
    "[-Infinity, 1]",
    "[1e999, 1]",
    "[1, -1e999]",
    "[1e300, 1]",
    "[-1e300, 1]",
    "[253402300800, 1]",
    f"[1, {'9' * 400}]",
    f"[{'9' * 5_000}, 1]",
]


@pytest.mark.parametrize("bad", BAD_ITEMS, ids=lambda text: text[:20])
def test_a_bad_item_becomes_a_reject_and_its_neighbours_keep_their_places(bad: str):
    """One bad item costs itself: the reject names its place, the others stay where they were."""
    decoded = assert_sound(with_items(f"[[1.5, 60], {bad}, [3, 61.25]]"))
    track = tracks(decoded)["heart_rate"]
    assert numbered(track) == [(0, 1.5, 60.0), (2, 3.0, 61.25)]
    assert microseconds(track) == [1431835727118702, 1431835728618702]
    (reject,) = decoded.rejects
    assert reject.item_key == "1001/7/heart_rate[1]"
    assert reject.record_key == "1001/7"
    assert reject.counts
    assert decoded.read == 4


@calm
@given(st.lists(st.booleans(), max_size=30))
def test_every_item_is_a_row_or_a_reject_at_its_own_place(good: list[bool]):
    """Rows and rejects together name each place of the answer once."""
    items = ", ".join(f"[{n}, {n * 2}]" if fine else "[null, 0]" for n, fine in enumerate(good))
    decoded = assert_sound(with_items(f"[{items}]"))
    track = tracks(decoded)["heart_rate"]
    expected = [(n, float(n), n * 2.0) for n, fine in enumerate(good) if fine]
    assert numbered(track) == expected
    rejected = [f"1001/7/heart_rate[{n}]" for n, fine in enumerate(good) if not fine]
    assert [reject.item_key for reject in decoded.rejects] == rejected


def test_many_bad_items_are_few_rejects():
    """A hundred of them are named one by one; one reject more stands for all others, and all are counted."""
    items = ", ".join(["null"] * (MOST_REJECTS + 7))
    decoded = assert_sound(with_items(f"[[1, 2], {items}]"))
    assert len(decoded.rejects) == MOST_REJECTS + 1
    last = decoded.rejects[-1]
    assert (last.item_key, last.counts, last.items) == ("1001/7/heart_rate[more]", 7, 7)
    assert "7 more items" in last.reason
    assert decoded.read == 1 + 1 + MOST_REJECTS + 7


def test_a_track_of_many_slices_is_one_track():
    """Items that are decoded a part at a time keep their places and their neighbours."""
    count = SLICE // 4
    items = [f"[{n}, {n}.5]" for n in range(count)]
    whole = tracks(assert_sound(with_items(f"[{', '.join(items)}]")))["heart_rate"]
    assert whole["indexes"] is None
    assert whole["offsets"].tolist() == [float(n) for n in range(count)]
    assert whole["values"].tolist() == [n + 0.5 for n in range(count)]
    bad = {5, count // 2, count - 1}
    decoded = assert_sound(with_items(f"[{', '.join('[]' if n in bad else i for n, i in enumerate(items))}]"))
    track = tracks(decoded)["heart_rate"]
    assert [reject.item_key for reject in decoded.rejects] == [f"1001/7/heart_rate[{n}]" for n in sorted(bad)]
    assert track["indexes"].tolist() == track["offsets"].tolist()
    assert len(track["offsets"]) == count - len(bad)


@pytest.mark.parametrize(
    ("element", "session_id"),
    [
        (b'{"id": 5, "hardware": }', 5),
        (b'{"hardware": , "id" : -5}', -5),
        (b'{"id": 5, "start_timestamp": null}', 5),
        (b'{"id": 5, "user": {"id": 6}, "hardware": }', None),  # either may be meant
        (b'{"id": 5.5, "hardware": }', None),
        (b'{"id": "5", "hardware": }', None),
        (b'{"hardware": }', None),
    ],
)
def test_the_id_of_a_session_that_cannot_be_understood(element: bytes, session_id: int | None):
    """Where its text names one id alone, that is its key, so that its mended version resolves the reject."""
    decoded = assert_sound(element)
    assert decoded.rejected_id == session_id
    (reject,) = decoded.rejects
    assert (reject.item_key == f"1001/{session_id}") == (session_id is not None)


def test_only_gaps_cost_an_index_column():
    """A track without rejects has its places implied."""
    assert tracks(decode_session(with_items("[[1, 2], [3, 4]]"), USER))["heart_rate"]["indexes"] is None


@pytest.mark.parametrize("items", ["5", '"x"', "{}", "true", "1e999"])
def test_items_that_are_no_array_are_one_reject(items: str):
    """A track whose items cannot be counted costs one reject and keeps its (empty) row."""
    decoded = assert_sound(with_items(items))
    assert len(tracks(decoded)["heart_rate"]["offsets"]) == 0
    assert [(r.item_key, r.counts) for r in decoded.rejects] == [("1001/7/heart_rate", True)]
    assert decoded.read == 2


@pytest.mark.parametrize("items", ["null", "[]"])
def test_no_items_are_no_fault(items: str):
    """An empty track, or one that was not computed, is a track without items."""
    decoded = assert_sound(with_items(items))
    assert decoded.rejects == ()
    assert numbered(tracks(decoded)["heart_rate"]) == []


@pytest.mark.parametrize("bad", [5, "x", [], [[1, 2]], True])
def test_a_track_that_is_no_object_costs_only_itself(bad: Any):
    """The other tracks of the session load."""
    fine = {"items": [[1, 2]]}
    decoded = assert_sound(session(time_value_tracks={"bad": bad, "fine": fine, "gone": None}))
    assert list(tracks(decoded)) == ["fine"]
    assert decoded.read == 3
    assert len(decoded.rejects) == 1


@pytest.mark.parametrize("name", ["time_value_tracks", "sampled_tracks"])
@pytest.mark.parametrize("bad", [5, "x", [], [{"data_url": "https://h.example/x?key=SECRET"}], False])
def test_a_field_of_tracks_that_is_no_object_is_one_reject(name: str, bad: Any):
    """The session itself loads."""
    decoded = assert_sound(session(**{name: bad}))
    assert decoded.record is not None
    assert [reject.item_key for reject in decoded.rejects] == [f"1001/1431835725/{name}"]
    assert "SECRET" not in repr(decoded.rejects)


def test_the_two_kinds_of_tracks_do_not_share_a_reject():
    """A bad sampled track and a bad time-value track of one name are two rejects."""
    decoded = assert_sound(session(time_value_tracks={"noise": 1}, sampled_tracks={"noise": 1}))
    assert len({reject.item_key for reject in decoded.rejects}) == 2


@calm
@given(st.floats(allow_nan=False, allow_infinity=False), st.sampled_from([-0.0, 5e-324, 0.1, 1e308]))
def test_numbers_are_kept_bit_for_bit(value: float, other: float):
    """What the vendor sent as a number is the same float64, to the sign of zero."""
    decoded = assert_sound(with_items(f"[[-0.0, {value!r}], [0.1, {other!r}]]"))
    track = tracks(decoded)["heart_rate"]
    assert track["values"].tobytes() == struct.pack("=dd", value, other)
    assert track["offsets"].tobytes() == struct.pack("=dd", -0.0, 0.1)


@calm
@given(st.integers(-(2**80), 2**80))
def test_large_integers_become_the_nearest_float(value: int):
    """Integers are rounded to float64 as Python does it."""
    track = tracks(assert_sound(with_items(f"[[1, {value}]]")))["heart_rate"]
    assert track["values"].tolist() == [float(value)]


def test_bits_survive_a_bad_neighbour():
    """The path that a track with rejects takes keeps bits too."""
    track = tracks(assert_sound(with_items("[[-0.0, -0.0], null, [0.30000000000000004, 5e-324]]")))[
        "heart_rate"
    ]
    assert track["offsets"].tobytes() == struct.pack("=dd", -0.0, 0.30000000000000004)
    assert track["values"].tobytes() == struct.pack("=dd", -0.0, 5e-324)


# --- time ------------------------------------------------------------------------------------------


def half_even(seconds: float) -> int:
    """Microseconds by exact arithmetic on the float64 product, written without numpy or round()."""
    product = Fraction(seconds * 1e6)
    whole = product.numerator // product.denominator
    rest = product - whole
    up = rest > Fraction(1, 2) or (rest == Fraction(1, 2) and whole % 2 == 1)
    return whole + up


def test_instants_are_rounded_half_to_even_from_one_float64_sum():
    """``round((start + offset) * 1e6)``, checked against exact fractions for many random times."""
    chance = random.Random(20150517)  # noqa: S311 - no secret
    offsets = [chance.uniform(-100, 40_000) for _ in range(2_000)]
    offsets += [n / 140 for n in range(1_000)] + [n * 0.1 for n in range(1_000)]
    for start in (START, 0.0, -86_400.25, 0.5e-6, 1471275293.21):
        text = json.dumps(
            {"start_timestamp": start, "time_value_tracks": {"a": {"items": [[o, 0] for o in offsets]}}}
        )
        found = microseconds(tracks(decode_session(text.encode(), USER))["a"])
        assert found == [half_even(start + offset) for offset in offsets]


@pytest.mark.parametrize(
    ("start", "micros"), [(0.5e-6, 0), (1.5e-6, 2), (2.5e-6, 2), (3.5e-6, 4), (-0.5e-6, 0)]
)
def test_ties_go_to_the_even_microsecond(start: float, micros: int):
    """A session's own instants and its items' are rounded alike."""
    decoded = assert_sound(session(id=1, start_timestamp=start, time_value_tracks={"a": {"items": [[0, 1]]}}))
    assert decoded.record is not None
    assert decoded.record.row["started_at"] == datetime(1970, 1, 1, tzinfo=UTC) + timedelta(
        microseconds=micros
    )
    assert microseconds(tracks(decoded)["a"]) == [micros]


def test_absolute_item_times_are_taken_as_such_and_noted():
    """A time that can only be a Unix time is one; the raw number stays, and a note counts the anomaly."""
    decoded = assert_sound(with_items("[[0, 1], [1431835785.25, 2], [1000000000, 3], [-2.5, 4]]"))
    track = tracks(decoded)["heart_rate"]
    assert track["offsets"].tolist() == [0, 1431835785.25, 1000000000, -2.5]
    assert microseconds(track) == [
        1431835725618702,
        1431835785250000,
        2431835725618702,  # exactly 1e9 is still an offset
        1431835723118702,
    ]
    (note,) = decoded.rejects
    assert not note.counts
    assert note.payload == 1431835785.25
    assert "1 item" in note.reason


@pytest.mark.parametrize("time", ["253402300800", "-65000000000", "1e18", "-1e18"])
def test_times_without_a_name_are_rejects(time: str):
    """What neither PostgreSQL nor Python can call a date is no row."""
    decoded = assert_sound(with_items(f"[[{time}, 1], [1, 2]]"))
    assert numbered(tracks(decoded)["heart_rate"]) == [(1, 1.0, 2.0)]
    assert "out of range" in decoded.rejects[0].reason


NIGHTS = [
    # Helsinki put its clocks forward at 01:00 UTC on 29 March 2015, and back on 25 October.
    ("Europe/Helsinki", "2015-03-28T21:30:00", date(2015, 3, 28)),
    ("Europe/Helsinki", "2015-03-28T22:30:00", date(2015, 3, 29)),
    ("Europe/Helsinki", "2015-03-29T20:59:59", date(2015, 3, 29)),
    ("Europe/Helsinki", "2015-03-29T21:00:00", date(2015, 3, 30)),
    ("Europe/Helsinki", "2015-10-24T21:00:00", date(2015, 10, 25)),
    ("Europe/Helsinki", "2015-10-25T21:30:00", date(2015, 10, 25)),
    ("Europe/Helsinki", "2015-10-25T22:00:00", date(2015, 10, 26)),
    ("Asia/Tokyo", "2016-08-15T23:25:00", date(2016, 8, 16)),
    ("Asia/Tokyo", "2016-08-15T14:59:59.999999", date(2016, 8, 15)),
    ("Asia/Tokyo", "2016-08-15T15:00:00", date(2016, 8, 16)),
    ("America/New_York", "2015-05-17T03:59:59", date(2015, 5, 16)),
    ("America/New_York", "2015-05-17T04:00:00", date(2015, 5, 17)),
    ("Pacific/Kiritimati", "2016-01-01T09:59:59", date(2016, 1, 1)),
    ("Pacific/Kiritimati", "2016-01-01T10:00:00", date(2016, 1, 2)),
    (None, "2016-01-01T23:59:59", date(2016, 1, 1)),
    ("UTC", "2016-01-02T00:00:00", date(2016, 1, 2)),
]


@pytest.mark.parametrize(("zone", "ended", "night"), NIGHTS)
def test_a_night_belongs_to_the_local_date_on_which_it_ends(zone: str | None, ended: str, night: date):
    """Right in every zone, on both days when clocks change, and exactly at local midnight."""
    end = datetime.fromisoformat(ended).replace(tzinfo=UTC).timestamp()
    decoded = assert_sound(session(start_timestamp=end - 3600, end_timestamp=end, timezone=zone))
    assert decoded.record is not None
    assert decoded.record.row["night"] == night
    assert decoded.rejects == ()


def test_a_night_without_an_end_goes_by_its_start():
    """A session that is still running is found under the date of its start."""
    row = row_of(session(timezone="America/New_York"))
    assert (row["night"], row["ended_at"], row["frame_count"]) == (date(2015, 5, 17), None, None)


@pytest.mark.parametrize(
    "zone",
    ["Mars/Olympus", "America", "", "/etc/passwd", "../UTC", "zone.tab", "UTC\0", "\ud800", "z" * 4_000],
)
def test_an_unknown_zone_means_the_utc_date_and_a_note(zone: str):
    """A zone that nobody knows is kept, never trusted, and never a failure."""
    decoded = assert_sound(session(end_timestamp=START + 1, timezone=zone))
    assert decoded.record is not None
    assert decoded.record.row["night"] == date(2015, 5, 17)
    assert decoded.record.row["timezone"] == zone.replace("\0", "\ufffd").replace("\ud800", "\ufffd")
    assert [r.reason for r in decoded.rejects if r.item_key == "1001/1431835725/timezone"] == [
        "unknown time zone; the night is the UTC date"
    ]
    assert not any(reject.counts for reject in decoded.rejects)


# --- the session's own fields ----------------------------------------------------------------------


def test_everything_but_the_start_is_optional():
    """A session that has only begun is a session."""
    decoded = assert_sound(b'{"start_timestamp": 1431835725.618702}')
    assert decoded.rejects == ()
    assert decoded.record is not None
    row = {k: v for k, v in decoded.record.row.items() if v is not None and k != "digest"}
    assert row == {
        "user_id": 1001,
        "session_id": 1431835725,
        "start_timestamp": START,
        "started_at": datetime(2015, 5, 17, 4, 8, 45, 618702, tzinfo=UTC),
        "night": date(2015, 5, 17),
    }
    assert decoded.record.details == ()


@pytest.mark.parametrize(
    "field",
    [
        "end_timestamp",
        "timezone",
        "hardware",
        "software",
        "frame_length",
        "error_code",
        "sampled_tracks",
        "time_value_tracks",
        "updated",
    ],
)
def test_null_is_the_same_as_missing(field: str):
    """A field that could not be computed is null in some answers and absent in others."""
    fields = json.loads(DOCUMENTED)
    absent = json.dumps({k: v for k, v in fields.items() if k != field}).encode()
    null = json.dumps(fields | {field: None}).encode()
    assert assert_sound(null).rejects == ()
    assert row_of(null) == row_of(absent)


@pytest.mark.parametrize("bad", ["x", [], {}, True, math.nan, math.inf, 1e300, -1e300])
@pytest.mark.parametrize("field", ["end_timestamp", "frame_length", "updated"])
def test_a_number_that_is_none_is_null_and_noted(field: str, bad: Any):
    """The night loads without it, and the note keeps what came."""
    decoded = assert_sound(session(**{field: bad}))
    assert decoded.record is not None
    assert decoded.record.row[field if field != "end_timestamp" else "ended_at"] is None
    assert [(r.item_key, r.counts) for r in decoded.rejects] == [(f"1001/1431835725/{field}", False)]


@pytest.mark.parametrize("bad", ["0", 1.5, 2**31, -(2**31) - 1, True, [0]])
def test_an_error_code_that_is_no_32_bit_integer_is_null_and_noted(bad: Any):
    """The night loads without it."""
    decoded = assert_sound(session(error_code=bad))
    assert decoded.record is not None
    assert decoded.record.row["error_code"] is None
    assert [reject.counts for reject in decoded.rejects] == [False]


@pytest.mark.parametrize("code", [2**31 - 1, -(2**31), -1])
def test_any_32_bit_error_code_is_kept(code: int):
    """Unknown codes are just integers."""
    assert row_of(session(error_code=code))["error_code"] == code


@pytest.mark.parametrize(
    "bad",
    [
        {},
        {"start_timestamp": None},
        {"start_timestamp": "1431835725"},
        {"start_timestamp": True},
        {"start_timestamp": 253402300800},
        {"start_timestamp": -62135596801},
        {"start_timestamp": math.nan},
    ],
)
def test_a_session_without_a_usable_start_is_one_reject_under_its_id(bad: dict[str, Any]):
    """Its reject is found by the id that the session names."""
    decoded = assert_sound(json.dumps({"id": 42, "hardware": "2.0"} | bad).encode())
    assert decoded.record is None
    (reject,) = decoded.rejects
    assert reject.item_key == "1001/42"
    assert "2.0" in reject.payload


@pytest.mark.parametrize("bad", ["1431835725", 1431835725.0, True, 2**63, -(2**63) - 1, [1], {}, 10**4_000])
def test_an_id_that_is_no_64_bit_integer_rejects_the_session(bad: Any):
    """A guessed key could replace another night; the reject is found by the content instead."""
    text = json.dumps({"id": "@", "start_timestamp": START}).replace('"@"', json.dumps(bad)).encode()
    decoded = assert_sound(text)
    assert decoded.record is None
    assert decoded.rejects[0].item_key.startswith("1001/#")
    assert decoded.rejects == decode_session(text, USER).rejects


@pytest.mark.parametrize(("start", "derived"), [(1431835725.999999, 1431835725), (0.5, 0), (-1.5, -1)])
def test_a_missing_id_is_the_truncated_start(start: float, derived: int):
    """The documents say how an id is made."""
    assert row_of(json.dumps({"start_timestamp": start}).encode())["session_id"] == derived


def test_integers_beyond_all_measure_cost_only_themselves():
    """A number of thousands of digits is no reason to lose a night."""
    digits = b"7" * 5_000
    element = b'{"id": 7, "start_timestamp": 1431835725.5, "unknown": %s, "frame_length": %s}' % (
        digits,
        digits,
    )
    decoded = assert_sound(element)
    assert decoded.record is not None
    assert decoded.record.row["frame_length"] is None


def test_a_frame_count_never_makes_a_query_overflow():
    """Frames times samples per frame has to fit 64 bits, whatever a session claims."""
    row = row_of(session(start_timestamp=1.0, id=1, end_timestamp=253402300799, frame_length=1e-6))
    assert row["frame_count"] is None
    assert row_of(session(end_timestamp=START - 1, frame_length=0.2))["frame_count"] is None


def test_the_last_of_repeated_keys_counts():
    """As every JSON reader of the vendor's own has it."""
    element = b'{"id": 1, "start_timestamp": 5.0, "hardware": "a", "id": 2, "hardware": "b"}'
    row = row_of(element)
    assert (row["session_id"], row["hardware"]) == (2, "b")


# --- text ------------------------------------------------------------------------------------------

UNSTORABLE = ["\0", "\ud800", "\udfff"]


@pytest.mark.parametrize("bad", UNSTORABLE, ids=ascii)
@pytest.mark.parametrize("field", ["hardware", "software", "timezone"])
def test_text_that_postgresql_cannot_store_is_replaced_and_noted(field: str, bad: str):
    """A NUL or half a surrogate pair costs one character, not a night."""
    decoded = assert_sound(session(**{field: f"2.0{bad}x"}))
    assert decoded.record is not None
    assert decoded.record.row[field] == "2.0\ufffdx"
    assert any("replaced" in reject.reason for reject in decoded.rejects)


@pytest.mark.parametrize("bad", UNSTORABLE, ids=ascii)
def test_unstorable_text_in_names_and_unknown_fields_is_replaced(bad: str):
    """Track names, types, and the keys and values of unknown fields are cleaned alike."""
    name = f"a{bad}b"
    fields = {
        name: {name: [name]},
        "time_value_tracks": {name: {"items": [[1, 2], None], "value_data_type": name, name: name}},
        "sampled_tracks": {name: {"data_type": name, "samples_per_frame": 1, name: name}},
    }
    decoded = assert_sound(session(**fields))
    assert decoded.record is not None
    clean = "a\ufffdb"
    assert json.loads(decoded.record.row["extra"]) == {clean: {clean: [clean]}}
    track, signal = tracks(decoded)[clean], declarations(decoded)[clean]
    assert track["value_data_type"] == signal["data_type"] == clean
    assert json.loads(track["extra"]) == json.loads(signal["extra"]) == {clean: clean}
    assert f"1001/1431835725/{clean}[1]" in [reject.item_key for reject in decoded.rejects]


@pytest.mark.parametrize("field", ["hardware", "unknown"])
def test_one_broken_byte_costs_one_character(field: str):
    """Invalid UTF-8 inside a string does not cost the night."""
    element = session(**{field: "1.0@x"}).replace(b"@", b"\xff")
    decoded = assert_sound(element)
    assert decoded.record is not None
    extra = decoded.record.row["extra"]
    text = decoded.record.row["hardware"] if field == "hardware" else json.loads(extra)["unknown"]
    assert text == "1.0\ufffdx"


@pytest.mark.parametrize("kind", ["time_value_tracks", "sampled_tracks"])
def test_names_that_only_differ_in_unstorable_characters_do_not_mix(kind: str):
    """Two tracks cannot be stored under one name: the second is a reject."""
    inner = {"items": [[1, 2]]} if kind == "time_value_tracks" else {"data_type": "uint16"}
    decoded = assert_sound(session(**{kind: {"a\0": inner, "a\ud800": inner, "b": inner}}))
    found = tracks(decoded) if kind == "time_value_tracks" else declarations(decoded)
    assert list(found) == ["a\ufffd", "b"]
    assert [reject.counts for reject in decoded.rejects].count(True) == 1


@pytest.mark.parametrize("kind", ["time_value_tracks", "sampled_tracks"])
def test_a_name_too_long_for_an_index_is_a_reject(kind: str):
    """Names are parts of keys; one that PostgreSQL cannot index must not stop its batch."""
    letters = "".join(chr(0x4E00 + n) for n in range(5_000))
    decoded = assert_sound(session(**{kind: {letters: {}, "b": {}}}))
    found = tracks(decoded) if kind == "time_value_tracks" else declarations(decoded)
    assert list(found) == ["b"]


def test_a_byte_order_mark_is_no_obstacle():
    """Some servers write one."""
    assert row_of(b"\xef\xbb\xbf" + session())["session_id"] == int(START)


# --- what is unknown is kept, what is secret is not ------------------------------------------------


def test_unknown_fields_are_kept():
    """The vendor may grow without losing data here."""
    decoded = assert_sound(session(mood={"morning": [1, 2.5, None]}, nap=True))
    assert decoded.record is not None
    assert json.loads(decoded.record.row["extra"]) == {"mood": {"morning": [1, 2.5, None]}, "nap": True}


def test_unknown_fields_of_tracks_are_kept():
    """A track's own unknown fields, and a declared type that is no text, stay with it."""
    decoded = assert_sound(
        session(
            time_value_tracks={"new": {"items": [], "unit": "bpm", "value_data_type": 5}},
            sampled_tracks={"normal": {"gain": 4}},
        )
    )
    assert json.loads(tracks(decoded)["new"]["extra"]) == {"unit": "bpm", "value_data_type": 5}
    assert tracks(decoded)["new"]["value_data_type"] is None
    assert json.loads(declarations(decoded)["normal"]["extra"]) == {"gain": 4}


@pytest.mark.parametrize("rate", [0, -1, 2**31, 28.0, "28", True])
def test_samples_per_frame_that_is_no_positive_integer_is_null_and_noted(rate: Any):
    """The track is declared all the same."""
    decoded = assert_sound(session(sampled_tracks={"normal": {"samples_per_frame": rate}}))
    assert declarations(decoded)["normal"]["samples_per_frame"] is None
    assert [reject.counts for reject in decoded.rejects] == [False]


@pytest.mark.parametrize("address", [None, "", 5, ["https://h.example/x"]])
def test_a_missing_address_is_normal_and_a_strange_one_noted(address: Any):
    """Only text can be an address."""
    decoded = assert_sound(session(sampled_tracks={"normal": {"data_url": address, "data_type": "uint16"}}))
    assert decoded.addresses == {}
    assert "normal" in declarations(decoded)
    assert len(decoded.rejects) == (address is not None)


SECRET = "Zm9vYmFyc2VjcmV0"
SIGNED = [
    f"https://h.example/a/b?Signature={SECRET}&Expires=1",
    f"http://h.example:8080/a?{SECRET}",
    f"HTTPS://H.EXAMPLE/a?X-Amz-Signature={SECRET}",
    f"https://h.example?sig={SECRET}",
]


@pytest.mark.parametrize(
    "escape",
    [lambda text: text, lambda text: text.replace("/", "\\/"), lambda text: text.replace("?", "\\u003f")],
    ids=["plain", "slashes", "u003f"],
)
@pytest.mark.parametrize("address", SIGNED)
@pytest.mark.parametrize(
    "place",
    [
        '{"start_timestamp": 5, "unknown": {"deep": ["@", {"@": 1}]}}',
        '{"start_timestamp": 5, "sampled_tracks": {"n": {"data_url": "@", "other": "see @ there"}}}',
        '{"start_timestamp": 5, "sampled_tracks": [{"data_url": "@"}]}',
        '{"start_timestamp": 5, "sampled_tracks": {"n": ["@"]}}',
        '{"start_timestamp": 5, "time_value_tracks": {"a": {"items": ["@", ["@", 1]], "x": "@"}}}',
        '{"start_timestamp": 5, "end_timestamp": "@", "error_code": "@", "timezone": ["@"]}',
        '{"start_timestamp": null, "sampled_tracks": {"n": {"data_url": "@"}}}',
        '{"id": "@", "start_timestamp": 5}',
        '{"start_timestamp": 5, "sampled_tracks": {"n": {"data_url": "@"}}, broken',
        '["@"]',
        '"@"',
    ],
)
def test_signatures_of_addresses_are_never_stored(place: str, address: str, escape: Any):
    """A signed address is a credential: it appears in no row, no reject and no repr, wherever it came."""
    decoded = assert_sound(place.replace("@", escape(address)).encode())
    rows = [] if decoded.record is None else [decoded.record.row, *decoded.record.details]
    assert SECRET not in repr([rows, decoded.rejects, decoded])


# --- the digest ------------------------------------------------------------------------------------


def digest(fields: dict[str, Any], **dump: Any) -> bytes:
    """The digest of a session with these fields."""
    return row_of(json.dumps(fields, **dump).encode())["digest"]


def changed(*path: Any, to: Any) -> dict[str, Any]:
    """The documented session with one part replaced; ``...`` takes it away."""
    whole = inner = json.loads(DOCUMENTED)
    for key in path[:-1]:
        inner = inner[key]
    if to is ...:
        del inner[path[-1]]
    else:
        inner[path[-1]] = to
    return whole


def shuffled(value: Any, chance: random.Random) -> Any:
    """The same JSON with its objects' keys in another order."""
    if isinstance(value, dict):
        keys = list(value)
        chance.shuffle(keys)
        return {key: shuffled(value[key], chance) for key in keys}
    return value


@calm
@given(st.integers(0, 10_000), st.sampled_from([None, 1, 4]))
def test_order_and_white_space_do_not_change_the_digest(seed: int, indent: int | None):
    """The vendor's keys come in arbitrary order: the same content is the same version."""
    fields = json.loads(DOCUMENTED) | {"unknown": {"b": 1, "a": [2]}}
    assert digest(shuffled(fields, random.Random(seed)), indent=indent) == digest(fields)  # noqa: S311


@pytest.mark.parametrize(
    ("path", "to"),
    [
        (("updated",), 1371482504.0),
        (("updated",), ...),
        (("updated",), "never"),
        (("sampled_tracks", "normal", "data_url"), "https://elsewhere.example/?signature=new"),
        (("sampled_tracks", "normal", "data_url"), ...),
    ],
)
def test_stamps_and_addresses_do_not_change_the_digest(path: tuple[Any, ...], to: Any):
    """Addresses are signed anew in every answer, saved files have none, and stamps are compared apart."""
    assert digest(changed(*path, to=to)) == digest(json.loads(DOCUMENTED))


CHANGES = [
    (("id",), 1431835726),
    (("start_timestamp",), 1431835725.618703),
    (("end_timestamp",), 1431865087.218703),
    (("end_timestamp",), ...),
    (("timezone",), "America/Toronto"),
    (("timezone",), 5),
    (("hardware",), "1.0"),
    (("hardware",), ...),
    (("software",), "1.11.0 (102)"),
    (("frame_length",), 0.1),
    (("error_code",), 1),
    (("error_code",), "x"),
    (("unknown",), 0),
    (("sampled_tracks",), ...),
    (("sampled_tracks",), 5),
    (("sampled_tracks", "normal"), ...),
    (("sampled_tracks", "normal", "data_type"), "int16"),
    (("sampled_tracks", "normal", "samples_per_frame"), 29),
    (("sampled_tracks", "normal", "gain"), 1),
    (("time_value_tracks",), ...),
    (("time_value_tracks", "snoring_events"), ...),
    (("time_value_tracks", "snoring_events", "value_data_type"), "float64"),
    (("time_value_tracks", "snoring_events", "value_data_type"), 5),
    (("time_value_tracks", "snoring_events", "unit"), "s"),
    (("time_value_tracks", "snoring_events", "items"), 5),
    (("time_value_tracks", "snoring_events", "items"), [None]),
    (("time_value_tracks", "snoring_events", "items"), [[0, 0]]),
    (("time_value_tracks", "snoring_events", "items"), [[-0.0, 0]]),
    (("time_value_tracks", "snoring_events", "items"), [[0, -0.0]]),
    (("time_value_tracks", "respiration_cycles", "items"), [[4.1, 40.3]]),
    (("time_value_tracks", "sensor_status", "items"), [[58.4, 1]]),
    (("time_value_tracks", "sensor_status", "items"), [[29316.8, 1], [58.4, 1]]),
    (("time_value_tracks", "sensor_status", "items"), [[58.4, 1], [29316.8, 1], None]),
    (("time_value_tracks", "sensor_status", "items"), [None, [58.4, 1], [29316.8, 1]]),
    (("time_value_tracks", "sensor_status", "items"), [[58.4, 1], None, [29316.8, 1]]),
    (("time_value_tracks", "sensor_status", "items"), [[58.4, 1], True, [29316.8, 1]]),
]


def test_any_other_change_changes_the_digest():
    """No two different contents are taken for the same version, bad items and bad fields included."""
    digests = {digest(changed(*path, to=to)): (path, to) for path, to in CHANGES}
    assert len(digests) == len(CHANGES)
    assert digest(json.loads(DOCUMENTED)) not in digests


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"timezone": 5}, {"timezone": 6}),
        ({"hardware": "a\0"}, {"hardware": "a\ufffd"}),
        ({"frame_length": "x"}, {"frame_length": None}),
        ({"error_code": 1.5}, {"error_code": 2.5}),
    ],
)
def test_what_is_only_noted_changes_the_digest_too(one: dict[str, Any], other: dict[str, Any]):
    """Otherwise a note would outlive what it tells of."""
    assert row_of(session(**one))["digest"] != row_of(session(**other))["digest"]


@calm
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=6), st.data())
def test_moving_an_item_between_tracks_changes_the_digest(items: list[tuple[int, int]], data: st.DataObject):
    """Where one track's items end and the next one's begin is part of the content."""
    cut, other = (data.draw(st.integers(0, len(items))) for _ in range(2))

    def split(at: int) -> dict[str, Any]:
        return {"a": {"items": items[:at]}, "b": {"items": items[at:]}}

    digests = [row_of(session(time_value_tracks=split(at)))["digest"] for at in (cut, other)]
    assert (digests[0] == digests[1]) == (cut == other)
