"""Binary COPY, read back by a decoder written from PostgreSQL's documentation alone."""

import math
import struct
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta, timezone
from uuid import UUID, uuid4

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sync.model import PgType, Rows, Table
from sync.storage.copy import encode, images

# --- the decoder: section "Binary Format" of COPY, and the send functions of the types ---

OIDS = {21: "int2", 23: "int4", 20: "int8", 700: "float4", 701: "float8", 1184: "timestamptz", 2950: "uuid"}


def scalar(kind, data):
    """One value as the type's send function writes it; floats stay bytes, to be compared bit for bit."""
    match kind:
        case "bool":
            assert data in (b"\0", b"\1")
            return data == b"\1"
        case "int2" | "int4" | "int8":
            assert len(data) == int(kind[-1])
            return int.from_bytes(data, "big", signed=True)
        case "float4" | "float8":
            assert len(data) == int(kind[-1])
            return data
        case "text":
            return data.decode()
        case "bytea":
            return data
        case "jsonb":
            assert data[0] == 1
            return data[1:].decode()
        case "uuid":
            assert len(data) == 16
            return UUID(bytes=data)
        case "date":
            return date(2000, 1, 1) + timedelta(days=struct.unpack("!i", data)[0])
        case "timestamptz":
            return datetime(2000, 1, 1, tzinfo=UTC) + timedelta(microseconds=struct.unpack("!q", data)[0])


def array(kind, data):
    """A one-dimensional array as array_send writes it."""
    dimensions, has_null, oid = struct.unpack_from("!iii", data)
    assert has_null == 0
    assert OIDS[oid] == kind
    if dimensions == 0:
        assert len(data) == 12
        return []
    assert dimensions == 1
    count, lower = struct.unpack_from("!ii", data, 12)
    assert (count > 0, lower) == (True, 1)
    items, at = [], 20
    for _ in range(count):
        (length,) = struct.unpack_from("!i", data, at)
        items.append(scalar(kind, data[at + 4 : at + 4 + length]))
        at += 4 + length
    assert at == len(data)
    return items


def field(kind, data):
    """A field of any type."""
    return array(kind[:-2], data) if kind.endswith("[]") else scalar(kind, data)


def decode(stream, kinds):
    """All rows of a stream, which has to end where its trailer does."""
    assert stream[:11] == b"PGCOPY\n\377\r\n\0"
    assert stream[11:19] == bytes(8)
    rows, at = [], 19
    while (fields := struct.unpack_from("!h", stream, at)[0]) != -1:
        assert fields == len(kinds)
        at += 2
        row = []
        for kind in kinds:
            (length,) = struct.unpack_from("!i", stream, at)
            at += 4
            row.append(None if length == -1 else field(kind, stream[at : at + length]))
            at += max(length, 0)
        rows.append(tuple(row))
    assert len(stream) == at + 2
    return rows


# --- what the tests need ---


def rows_of(*columns):
    """Rows of a table whose columns are given as (type, values)."""
    table = Table("some.table", tuple((f"c{i}", PgType(kind)) for i, (kind, _) in enumerate(columns)))
    return Rows(table, tuple(values for _, values in columns))


def written(rows):
    """The rows that a decoder finds in the encoded ones."""
    kinds = [pg_type.value for _, pg_type in rows.table.columns]
    return decode(b"".join(encode([rows])), kinds)


def column(kind, values):
    """The same for one column."""
    return [value for (value,) in written(rows_of((kind, values)))]


def bits(kind, values):
    """Floats as the bytes that they are on the wire."""
    form = "!f" if kind == "float4" else "!d"
    return [None if value is None else struct.pack(form, value) for value in values]


INTEGERS = {"int2": 16, "int4": 32, "int8": 64}
FINITE_TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
TIMES = st.datetimes(timezones=st.just(UTC))
VALUES = {
    "bool": st.booleans(),
    **{kind: st.integers(-(2 ** (n - 1)), 2 ** (n - 1) - 1) for kind, n in INTEGERS.items()},
    "text": FINITE_TEXT,
    "bytea": st.binary(),
    "jsonb": st.just('{"a": 1}'),
    "uuid": st.uuids(),
    "date": st.dates(),
    "timestamptz": TIMES,
}
ARRAYS = {
    "int2[]": ("int2", np.int16),
    "int4[]": ("int4", np.int32),
    "int8[]": ("int8", np.int64),
}


# --- round trips ---


@pytest.mark.parametrize("kind", VALUES)
@given(data=st.data())
def test_every_type_survives_with_nulls_anywhere(kind, data):
    """What is encoded as a scalar, NULL or not, decodes to the same value."""
    values = data.draw(st.lists(st.none() | VALUES[kind]))
    assert column(kind, values) == values


@pytest.mark.parametrize("kind", ["float4", "float8"])
@given(data=st.data())
def test_floats_survive_bit_for_bit(kind, data):
    """NaN, infinities and negative zero are stored as they are."""
    width = 32 if kind == "float4" else 64
    values = data.draw(st.lists(st.none() | st.floats(width=width)))
    assert column(kind, values) == bits(kind, values)


@pytest.mark.parametrize("kind", ARRAYS)
@given(data=st.data())
def test_integer_arrays_survive(kind, data):
    """Arrays of integers, empty and NULL ones too, decode to the same integers."""
    element, dtype = ARRAYS[kind]
    lists = data.draw(st.lists(st.none() | st.lists(VALUES[element])))
    arrays = [None if items is None else np.array(items, dtype) for items in lists]
    assert column(kind, arrays) == lists


@pytest.mark.parametrize("kind", ["float4[]", "float8[]"])
@given(data=st.data())
def test_float_arrays_survive_bit_for_bit(kind, data):
    """Samples that are not finite keep their place in an array."""
    width = 32 if kind == "float4[]" else 64
    lists = data.draw(st.lists(st.none() | st.lists(st.floats(width=width))))
    arrays = [None if items is None else np.array(items, f"f{width // 8}") for items in lists]
    assert column(kind, arrays) == [None if items is None else bits(kind[:-2], items) for items in lists]


@given(st.lists(st.none() | st.lists(TIMES)))
def test_timestamp_arrays_survive(lists):
    """Arrays of datetime64[us] decode to the same instants."""
    arrays = [
        None if items is None else np.array([item.replace(tzinfo=None) for item in items], "M8[us]")
        for items in lists
    ]
    assert column("timestamptz[]", arrays) == lists


@given(st.data())
def test_columns_of_all_kinds_mix_in_one_row(data):
    """Each row of a table with any columns in any order holds its own values."""
    kinds = data.draw(st.lists(st.sampled_from(sorted(VALUES)), min_size=1, max_size=6))
    count = data.draw(st.integers(0, 5))
    columns = [
        data.draw(st.lists(st.none() | VALUES[kind], min_size=count, max_size=count)) for kind in kinds
    ]
    found = written(rows_of(*zip(kinds, columns, strict=True)))
    assert found == list(zip(*columns, strict=True))


@given(st.lists(st.lists(st.tuples(VALUES["int4"], st.none() | FINITE_TEXT))))
def test_several_rows_become_one_stream(groups):
    """Rows of one table follow each other between one header and one trailer."""
    table = Table("t", (("a", PgType.INT4), ("b", PgType.TEXT)))
    several = [Rows(table, ([a for a, _ in group], [b for _, b in group])) for group in groups]
    found = decode(b"".join(encode(several)), ["int4", "text"])
    assert found == [row for group in groups for row in group]


def test_numpy_columns_are_the_same_as_lists():
    """Numpy columns of a mixed table are stored like the Python values that they equal."""
    identifiers = [uuid4() for _ in range(3)]
    found = written(
        rows_of(
            ("bool", np.array([True, False, True])),
            ("int8", np.array([1, -2, 3], np.int16)),
            ("text", np.array(["a", "b", None], object)),
            ("uuid", np.array([u.bytes for u in identifiers], "V16")),
            ("date", np.array(["1999-12-31", "2000-01-01", "2024-02-29"], "M8[D]")),
            ("timestamptz", np.array(["1970-01-01", "1999-12-31T23:59:59.999999", "2024-02-29"], "M8[us]")),
            ("int2[]", np.array([[1, 2], [3, 4], [5, 6]], np.uint8)),
        )
    )
    assert found == [
        (True, 1, "a", identifiers[0], date(1999, 12, 31), datetime(1970, 1, 1, tzinfo=UTC), [1, 2]),
        (
            False,
            -2,
            "b",
            identifiers[1],
            date(2000, 1, 1),
            datetime(1999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
            [3, 4],
        ),
        (True, 3, None, identifiers[2], date(2024, 2, 29), datetime(2024, 2, 29, tzinfo=UTC), [5, 6]),
    ]


def test_arrays_of_objects_may_hold_nulls():
    """A numpy array of Python objects is a sequence like any other."""
    assert column("int4", np.array([1, None], object)) == [1, None]
    assert column("text", np.array(["a", None], object)) == ["a", None]


@pytest.mark.parametrize("order", "<>")
def test_byte_order_in_memory_does_not_matter(order):
    """Big- and little-endian arrays, contiguous or not, are stored as the same values."""
    assert column("int4", np.arange(6, dtype=f"{order}i4")[::2]) == [0, 2, 4]
    assert column("float8", np.array([1.5, -0.0], f"{order}f8")) == bits("float8", [1.5, -0.0])
    assert column("timestamptz", np.array([0, 1], f"{order}M8[us]")) == [
        datetime(1970, 1, 1, microsecond=micro, tzinfo=UTC) for micro in (0, 1)
    ]


def test_instants_of_any_zone_are_stored_in_utc():
    """A datetime with another offset is the same instant in the warehouse."""
    there = datetime(2024, 1, 1, 2, tzinfo=timezone(timedelta(hours=2)))
    assert column("timestamptz", [there]) == [datetime(2024, 1, 1, tzinfo=UTC)]


def test_a_signalling_nan_keeps_its_payload():
    """A NaN's bits are not touched on the way."""
    pattern = b"\x7f\xf0\x00\x00\x00\x00\x12\x34"
    assert column("float8", np.frombuffer(pattern, ">f8").astype("<f8")) == [pattern]


@pytest.mark.parametrize("kind", PgType)
def test_a_column_of_nulls_only(kind):
    """A column without a single value is possible for every type."""
    assert column(kind, [None, None]) == [None, None]


@pytest.mark.parametrize("kind", PgType)
def test_no_rows(kind):
    """Rows of length zero are an empty stream."""
    assert column(kind, []) == []


def test_arrays_of_uuids():
    """A list of identifiers is one array, and none of them is an empty one."""
    some = [UUID(int=1), UUID(int=2**128 - 1)]
    assert column("uuid[]", [some, [], None]) == [some, [], None]


def test_the_image_of_a_row_is_the_row_bit_for_bit():
    """Rows have the same image if every value has the same bits, whatever holds the column."""
    key, moment = UUID(int=7), datetime(2024, 1, 1, 0, 0, 0, 5, tzinfo=UTC)
    values = [0.0, -0.0, math.nan, 1.0, 1.0]
    loose = rows_of(
        ("uuid", [key] * 5), ("timestamptz", [moment] * 5), ("float8", values), ("int4", [None, 1, 1, 1, 1])
    )
    dense = rows_of(
        ("uuid", np.frombuffer(key.bytes * 5, "V16")),
        ("timestamptz", np.array(["2024-01-01T00:00:00.000005"] * 5, "M8[us]")),
        ("float8", np.array(values)),
        ("int4", (None, 1, 1, 1, 1)),
    )
    found = images(loose)
    assert found == images(dense)
    assert len(set(found)) == 4
    assert b"".join(found) == b"".join(encode([loose]))[19:-2]
    assert images(rows_of(("float8", []))) == []


def test_values_that_are_made_when_asked_for_are_made_once():
    """A sequence that computes its values costs each of them once, however many pieces they fill."""
    made = []

    class Made(Sequence):
        def __init__(self, numbers):
            self.numbers = numbers

        def __len__(self):
            return len(self.numbers)

        def __getitem__(self, at):
            if isinstance(at, slice):
                return Made(self.numbers[at])
            made.append(self.numbers[at])
            return np.full(3000, made[-1], np.int16)

    table = Table("t.t", (("id", PgType.INT8), ("samples", PgType.INT2_ARRAY)))
    lazy = Rows(table, (np.arange(700), Made(range(700))))
    ready = Rows(table, (np.arange(700), [np.full(3000, n, np.int16) for n in range(700)]))
    assert b"".join(encode([lazy])) == b"".join(encode([ready]))
    assert made == list(range(700))


def test_no_rows_at_all():
    """Even nothing is a stream that PostgreSQL accepts."""
    assert decode(b"".join(encode([])), []) == []


@pytest.mark.parametrize("blob", [b"\0\1", bytearray(b"\0\1"), memoryview(b"\0\1")])
def test_bytes_in_any_wrapping(blob):
    """A bytea takes all that is bytes."""
    assert column("bytea", [blob]) == [b"\0\1"]


def test_json_is_text_or_bytes():
    """A jsonb takes encoded JSON either way."""
    assert column("jsonb", ['{"ä": null}', b"[1]", None]) == ['{"ä": null}', "[1]", None]


# --- what fits, and what does not ---


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("int2", np.array([32767], np.uint64)),
        ("int2", np.array([-32768, 32767], np.int64)),
        ("int4", np.array([2**32 - 1 - 2**31], np.uint32)),
        ("int8", np.array([2**63 - 1], np.uint64)),
    ],
)
def test_wider_integers_are_stored_when_they_fit(kind, values):
    """What counts for integers is their value, not the width they come in."""
    assert column(kind, values) == values.tolist()


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("int2", np.array([32768], np.uint16)),
        ("int2", [-32769]),
        ("int4", np.array([2**31])),
        ("int8", np.array([2**63], np.uint64)),
        ("int8", [2**63]),
        ("int8", [-1, 2**63]),
        ("int8", [2**70, None]),
        ("int4", [1.0]),
        ("int4", [None, 1, 2.5]),
        ("int4", np.array([True])),
        ("int4", ["1"]),
        ("int4", np.zeros((2, 2), int)),
        ("bool", [1]),
        ("bool", np.array([0, 1])),
        ("float4", [1e39]),
        ("float4", np.array([-1e39])),
        ("float8", ["1.5"]),
        ("float8", [10**400]),
        ("float8", [1j]),
        ("float8", np.array([True])),
        ("text", ["a\0b"]),
        ("text", ["\ud800"]),
        ("text", [b"bytes"]),
        ("text", [5]),
        ("jsonb", ['"\udfff"']),
        ("jsonb", [{"a": 1}]),
        ("bytea", [5]),
        ("bytea", [[5]]),
        ("bytea", ["text"]),
        ("uuid", ["00000000-0000-0000-0000-000000000000"]),
        ("date", [datetime(2024, 1, 1, tzinfo=UTC)]),
        ("date", np.array(["NaT"], "M8[D]")),
        ("date", np.array([2_145_042_906], "M8[D]")),
        ("date", np.array([-2_440_589], "M8[D]")),
        ("date", np.array(["2024-01-01T12"], "M8[us]")),
        ("timestamptz", [datetime(2024, 1, 1)]),  # noqa: DTZ001 - that is what must not pass
        ("timestamptz", [1.5]),
        ("timestamptz", np.array(["2024-01-01", "NaT"], "M8[us]")),
        ("timestamptz", np.array([-210_866_803_200_000_001], "M8[us]")),
        ("timestamptz", np.array(["2024-01-01"], "M8[ns]")),
        ("timestamptz", np.array([0])),
        ("int2[]", [np.array([1, 40_000])]),
        ("int2[]", [np.array([1.5])]),
        ("int2[]", [np.zeros((2, 2), np.int16)]),
        ("int4[]", [[1, None]]),
        ("float8[]", [[1.0, None]]),
        ("float4[]", [np.array([1e39])]),
        ("timestamptz[]", [np.array(["NaT"], "M8[us]")]),
        ("int2[]", [5]),
    ],
)
def test_what_does_not_fit_is_refused_by_name(kind, values):
    """A value that its column cannot hold raises and names the column; nothing wraps or is cut."""
    with pytest.raises(ValueError, match=r"^some\.table\.c0 \("):
        column(kind, values)


def test_extreme_times():
    """The first and last instants that PostgreSQL and numpy share are stored."""
    since_1970 = [-210_866_803_200_000_000, 2**63 - 1]
    (_, piece, _) = encode([rows_of(("timestamptz", np.array(since_1970, "M8[us]")))])
    first, last = (instant - 946_684_800_000_000 for instant in since_1970)
    assert struct.unpack("!hiqhiq", piece) == (1, 8, first, 1, 8, last)


def test_float4_rounds_to_its_precision():
    """A double in a float4 column is rounded to the nearest, as PostgreSQL would."""
    assert column("float4", [0.1, math.inf, 7]) == bits("float4", [0.1, math.inf, 7.0])


def test_huge_integers_in_float_columns_are_rounded():
    """JSON's integers of any length are numbers: a float column takes them, in arrays too."""
    assert column("float8", [2**70, None, 1]) == bits("float8", [2.0**70, None, 1.0])
    assert column("float8[]", [[2**70, 0.5]]) == [bits("float8", [2.0**70, 0.5])]


def test_tables_do_not_mix():
    """One stream is for one table."""
    with pytest.raises(ValueError, match="one COPY holds one table"):
        list(encode([rows_of(("int2", [1])), rows_of(("int4", [1]))]))


# --- memory ---


@pytest.mark.parametrize(
    "rows",
    [
        rows_of(("int8", np.arange(1_000_000))),
        rows_of(("int2[]", [np.zeros(50_000, np.int16)] * 100)),
        rows_of(("text", ["x" * 1000] * 20_000), ("int4", [None, 1] * 10_000)),
    ],
    ids=["numbers", "arrays", "text"],
)
def test_pieces_are_bounded(rows):
    """A stream comes in pieces of a few megabytes, whatever it is made of."""
    sizes = [len(piece) for piece in encode([rows])]
    assert max(sizes) < 3 << 20
    assert len(sizes) < 30


def test_rows_keep_their_order_across_pieces():
    """Where a stream is cut into pieces does not show in its rows."""
    texts = [None if number % 7 == 0 else "x" * (number % 1000) for number in range(10_000)]
    rows = rows_of(("int4", np.arange(10_000)), ("text", texts), ("int8", list(range(10_000))))
    assert len(list(encode([rows]))) > 4
    assert written(rows) == list(zip(range(10_000), texts, range(10_000), strict=True))


def test_rows_are_taken_one_by_one():
    """Later rows are not asked for before earlier ones have been encoded."""
    asked = []

    def lazily():
        for number in range(3):
            asked.append(number)
            yield rows_of(("int4", [number]))

    stream = encode(lazily())
    assert next(stream).startswith(b"PGCOPY")
    next(stream)
    assert asked == [0]
