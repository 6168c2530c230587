"""Rows as PostgreSQL's binary COPY format, encoded by numpy.

A row on the wire is the number of its fields, then every field with its length in front. Whatever has one
width in every row (counts, lengths, numbers without NULLs) is written as big-endian records, column by
column; so are arrays of one length, given as the rows of a two-dimensional one. What differs from row to row
(text, NULLs, other arrays) is a list of payloads between those records. A table without any is therefore one
array of records, and nothing happens row by row.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import chain
from typing import Any, TypeAlias

import numpy as np

from sync.model import ColumnValues, PgType, Rows, Table

_HEADER = b"PGCOPY\n\xff\r\n\0" + struct.pack(">ii", 0, 0)  # the signature, no flags, no extension
_TRAILER = struct.pack(">h", -1)
_PIECE = 2 << 20  # bytes
_FEW = 128  # rows
_SHORT = 256  # bytes
_JSONB_VERSION = b"\x01"

Array: TypeAlias = "np.ndarray[Any, Any]"
Payloads: TypeAlias = "list[bytes | bytearray]"
Piece: TypeAlias = "bytes | memoryview"
Fixed: TypeAlias = "tuple[Any, Array | int | _Items]"
"""How it looks on the wire (a numpy type), and its value in every row."""


def encode(rows: Iterable[Rows]) -> Iterator[Piece]:
    """Encode rows of one table as a whole COPY stream.

    Args:
        rows: Read lazily; all of one table.

    Yields:
        Pieces of about 2 MiB; a single row larger than that is one piece.

    Raises:
        ValueError: A value does not fit its column, which the message names; or the tables differ. Nothing
            is rounded or wrapped to make it fit, except that float columns round to their own precision.
    """
    yield _HEADER
    table = None
    for some in rows:
        if table is not None and some.table != table:
            raise ValueError(f"one COPY holds one table, got {table.name} and {some.table.name}")
        table = some.table
        for at_hand in _at_hand(some):
            for cut in _cuts(at_hand):
                yield _interleave(_parts(table, [values[cut] for values in at_hand.values]))
    yield _TRAILER


def _at_hand(rows: Rows) -> Iterator[Rows]:
    """The same rows; values that are made when they are asked for are made once, a few at a time."""
    if all(isinstance(values, list | tuple | np.ndarray) for values in rows.values):
        yield rows
        return
    for start in range(0, len(rows), _FEW):
        cut = slice(start, start + _FEW)
        parts = (values[cut] for values in rows.values)
        yield Rows(rows.table, tuple(part if isinstance(part, np.ndarray) else list(part) for part in parts))


def images(rows: Rows) -> list[bytes]:
    """Every row as PostgreSQL receives it: rows are equal bit for bit if these are.

    Raises:
        ValueError: As in ``encode``.
    """
    return [b"".join(row) for row in _row_by_row(_parts(rows.table, rows.values))] if len(rows) else []


def _cuts(rows: Rows) -> Iterator[slice]:
    """Cut rows into slices that take about one piece each, at least one row."""
    sizes = np.zeros(len(rows), np.int64)
    for (name, pg_type), values in zip(rows.table.columns, rows.values, strict=True):
        with _naming(rows.table, name, pg_type):
            sizes += _sizes(pg_type, values)
    ends = np.cumsum(sizes)
    start, done = 0, 0
    while start < len(rows):
        stop = max(start + 1, int(np.searchsorted(ends, done + _PIECE, side="right")))
        yield slice(start, stop)
        start, done = stop, int(ends[stop - 1])


def _sizes(pg_type: PgType, values: ColumnValues) -> Array | int:
    """About how many bytes each value takes."""
    if pg_type in _SCALARS:
        return 4 + _SCALARS[pg_type].width
    element = pg_type.element
    each = 4 + _SCALARS[element].width if element else 1
    if isinstance(values, np.ndarray) and values.ndim > 1:
        return 4 + each * int(values.shape[1])
    lengths = (0 if value is None else len(value) for value in values)
    return 4 + each * np.fromiter(lengths, np.int64, len(values))


def _parts(table: Table, columns: Sequence[ColumnValues]) -> list[Array | Payloads]:
    """Encode columns of equal length as records and payloads that alternate in every row."""
    count = len(columns[0])
    parts: list[Array | Payloads] = []
    fixed: list[Fixed] = [(">i2", len(columns))]
    for (name, pg_type), values in zip(table.columns, columns, strict=True):
        with _naming(table, name, pg_type):
            cells, payloads = _cells(pg_type, values)
        fixed += cells
        if payloads:
            parts += [_records(fixed, count), payloads]
            fixed = []
    return [*parts, _records(fixed, count)] if fixed else parts


@contextmanager
def _naming(table: Table, name: str, pg_type: PgType) -> Iterator[None]:
    """Say which column a value does not fit."""
    try:
        yield
    except (ArithmeticError, AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"{table.name}.{name} ({pg_type}): {error}") from error


def _cells(pg_type: PgType, values: ColumnValues) -> tuple[Sequence[Fixed], Payloads]:
    """Encode one column: what has one width in every row, its lengths at least, and the payloads behind."""
    scalar = _SCALARS.get(pg_type)
    if scalar and not _has_nulls(values):
        return [(">i4", scalar.width), (scalar.wire, scalar.convert(values))], []
    if pg_type.element and isinstance(values, np.ndarray) and values.ndim == 2 and values.size:
        return _array_cells(_SCALARS[pg_type.element], values), []
    payloads = _payloads(pg_type, [value for value in values if value is not None])
    lengths, spread = _with_nulls(values, payloads)
    if not spread or lengths.min() < lengths.max() or lengths[0] > _SHORT:
        return [(">i4", lengths)], spread
    if lengths[0] <= 0:
        return [(">i4", lengths)], []
    short = f"V{lengths[0]}"
    return [(">i4", lengths), (short, np.frombuffer(b"".join(spread), short))], []


def _has_nulls(values: ColumnValues) -> bool:
    if isinstance(values, np.ndarray) and values.dtype != object:
        return False
    return any(value is None for value in values)


def _payloads(pg_type: PgType, values: Sequence[Any]) -> Iterable[bytes | bytearray]:
    """Encode values without their lengths, one payload each."""
    if pg_type in _TEXTS:
        return map(_TEXTS[pg_type], values)
    if pg_type.element:
        return _arrays(pg_type.element, values)
    scalar = _SCALARS[pg_type]
    return _bytes_of(_records([(scalar.wire, scalar.convert(values))], len(values)))


def _with_nulls(values: ColumnValues, payloads: Iterable[bytes | bytearray]) -> tuple[Array, Payloads]:
    """Put empty payloads of length -1 where the NULLs are."""
    present = iter(payloads)
    spread = [b"" if value is None else next(present) for value in values]
    lengths = [-1 if value is None else len(payload) for value, payload in zip(values, spread, strict=True)]
    return np.array(lengths, np.int64), spread


def _records(cells: Sequence[Fixed], count: int) -> Array:
    """Write cells of fixed width side by side."""
    records = np.empty(count, np.dtype([("", wire) for wire, _ in cells]))
    for name, (_, values) in zip(records.dtype.names or (), cells, strict=True):
        if isinstance(values, _Items):
            records[name]["length"] = values.width
            records[name]["value"] = values.values
        else:
            records[name] = values
    return records


def _interleave(parts: list[Array | Payloads]) -> Piece:
    """Join parts row by row; records alone are as they are, for a copy of all would be felt."""
    if len(parts) == 1 and isinstance(parts[0], np.ndarray):
        return parts[0].view(np.uint8).data
    return b"".join(chain.from_iterable(_row_by_row(parts)))


def _row_by_row(parts: Sequence[Array | Payloads]) -> Iterator[tuple[bytes | bytearray, ...]]:
    columns = (_bytes_of(part) if isinstance(part, np.ndarray) else part for part in parts)
    return zip(*columns, strict=True)


def _bytes_of(records: Array) -> list[bytes]:
    whole: list[bytes] = records.view(f"V{records.dtype.itemsize}").tolist()
    return whole


# --- numbers, times and other values of fixed width ---


def _one_dimension(values: ColumnValues) -> Array:
    array = np.asarray(values)
    if array.ndim != 1:
        raise ValueError(f"a list of values is needed, got {array.ndim} dimensions")
    return array


def _of_kinds(values: ColumnValues, kinds: str) -> Array:
    """The values as an array whose ``dtype.kind`` is one of ``kinds``; no values are of any kind."""
    array = _one_dimension(values)
    if array.size and array.dtype.kind not in kinds:
        raise ValueError(f"values of type {array.dtype} do not belong here")
    return array


def _booleans(values: ColumnValues) -> Array:
    return _of_kinds(values, "b")


def _integers(wire: str) -> Callable[[ColumnValues], Array]:
    target = np.dtype(wire)
    limits = np.iinfo(target)

    def convert(values: ColumnValues) -> Array:
        array = _of_kinds(values, "iu")
        if not np.can_cast(array.dtype, target) and not _lies_within(array, limits.min, limits.max):
            raise ValueError(f"{array.min()} to {array.max()} is not within {limits.min} to {limits.max}")
        return array

    return convert


def _lies_within(integers: Array, lowest: int, highest: int) -> bool:
    return not integers.size or lowest <= int(integers.min()) <= int(integers.max()) <= highest


def _floats(wire: str) -> Callable[[ColumnValues], Array]:
    target = np.dtype(wire)

    def convert(values: ColumnValues) -> Array:
        array = _one_dimension(values)
        if array.dtype == object:  # integers of more than 64 bits
            array = np.array([float(value) for value in array])
        array = _of_kinds(array, "fiu")
        return array if np.can_cast(array.dtype, target) else _rounded(array, target)

    return convert


def _rounded(array: Array, target: np.dtype[Any]) -> Array:
    """The nearest floats of another width, unless a finite one would become infinite."""
    with np.errstate(over="ignore", invalid="ignore"):
        rounded = array.astype(target)
    if (np.isinf(rounded) & np.isfinite(array)).any():
        raise ValueError(f"a number is too large for {target.itemsize} bytes")
    return rounded


def _uuids(values: ColumnValues) -> Array:
    if isinstance(values, np.ndarray) and values.dtype == np.dtype("V16"):
        return values
    return np.frombuffer(b"".join([value.bytes for value in values]), "V16")


# numpy and Python count from 1970, PostgreSQL from 2000, with dates from 4713 BC until 5874897 AD; its
# last timestamp is beyond what datetime64[us] can hold.
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DAYS_TO_2000 = 10_957
_FIRST_DAY, _LAST_DAY = -2_440_588, 2_145_042_905
_MICROSECONDS_TO_2000 = 946_684_800_000_000
_FIRST_MICROSECOND, _LAST_MICROSECOND = -210_866_803_200_000_000, (1 << 63) - 1


def _timestamps(values: ColumnValues) -> Array:
    counted = _since_1970(values, "us", lambda value: (value - _EPOCH) // timedelta(microseconds=1))
    return _in_time(counted, _FIRST_MICROSECOND, _LAST_MICROSECOND) - _MICROSECONDS_TO_2000


def _dates(values: ColumnValues) -> Array:
    return _in_time(_since_1970(values, "D", _day), _FIRST_DAY, _LAST_DAY) - _DAYS_TO_2000


def _day(value: date) -> int:
    if isinstance(value, datetime):
        raise TypeError("a date is needed, got a datetime")
    return value.toordinal() - _EPOCH.toordinal()


def _since_1970(values: ColumnValues, unit: str, count: Callable[[Any], int]) -> Array:
    """Count from 1970: datetime64 of exactly this unit as it is, Python's objects one by one."""
    array = _one_dimension(values)
    if array.dtype == object or not array.size:
        return np.array([count(value) for value in array], np.int64)
    if array.dtype.newbyteorder("=") != np.dtype(f"M8[{unit}]"):
        raise ValueError(f"datetime64[{unit}] is needed, got {array.dtype}")
    return array.astype(np.int64)


def _in_time(counted: Array, first: int, last: int) -> Array:
    if not _lies_within(counted, first, last):  # NaT is the least integer
        raise ValueError("NaT, or a time that PostgreSQL cannot hold")
    return counted


@dataclass(frozen=True, slots=True)
class _Scalar:
    """A type of fixed width.

    Attributes:
        wire: Its numpy type on the wire.
        convert: Turns a column without NULLs into values that fit ``wire``, or raises.
        oid: PostgreSQL's number for it, for the types that come in arrays.
    """

    wire: str
    convert: Callable[[ColumnValues], Array]
    oid: int = 0

    @property
    def width(self) -> int:
        return np.dtype(self.wire).itemsize


_SCALARS: Mapping[PgType, _Scalar] = {
    PgType.BOOL: _Scalar("?", _booleans),
    PgType.INT2: _Scalar(">i2", _integers(">i2"), 21),
    PgType.INT4: _Scalar(">i4", _integers(">i4"), 23),
    PgType.INT8: _Scalar(">i8", _integers(">i8"), 20),
    PgType.FLOAT4: _Scalar(">f4", _floats(">f4"), 700),
    PgType.FLOAT8: _Scalar(">f8", _floats(">f8"), 701),
    PgType.UUID: _Scalar("V16", _uuids, 2950),
    PgType.DATE: _Scalar(">i4", _dates),
    PgType.TIMESTAMPTZ: _Scalar(">i8", _timestamps, 1184),
}


# --- arrays ---

_EMPTY = struct.Struct(">iii")  # no dimensions, no NULLs, the elements' type
_NOT_EMPTY = struct.Struct(">iiiii")  # the same with one dimension: its length, its first index


@dataclass(frozen=True, slots=True)
class _Items:
    """The elements of arrays of one length: a row each.

    Attributes:
        width: Bytes of an element.
        values: All of them.
    """

    width: int
    values: Array


def _item(scalar: _Scalar) -> np.dtype[Any]:
    return np.dtype([("length", ">i4"), ("value", scalar.wire)])


def _array_cells(scalar: _Scalar, values: Array) -> Sequence[Fixed]:
    """Arrays that are all of one length, and not empty."""
    count, length = values.shape
    items = np.dtype((_item(scalar), (length,)))
    head = np.frombuffer(_NOT_EMPTY.pack(1, 0, scalar.oid, length, 1), f"V{_NOT_EMPTY.size}")
    converted = scalar.convert(values.reshape(-1)).reshape(count, length)
    return [
        (">i4", _NOT_EMPTY.size + items.itemsize),
        (head.dtype, head),
        (items, _Items(scalar.width, converted)),
    ]


def _arrays(element: PgType, values: Iterable[ColumnValues]) -> Iterator[bytes | bytearray]:
    scalar = _SCALARS[element]
    item = _item(scalar)
    for array in values:
        yield _array(scalar, item, scalar.convert(array)) if len(array) else _EMPTY.pack(0, 0, scalar.oid)


def _array(scalar: _Scalar, item: np.dtype[Any], values: Array) -> bytearray:
    payload = bytearray(_NOT_EMPTY.size + item.itemsize * len(values))
    _NOT_EMPTY.pack_into(payload, 0, 1, 0, scalar.oid, len(values), 1)
    items = np.frombuffer(payload, item, offset=_NOT_EMPTY.size)
    items["length"] = scalar.width
    items["value"] = values
    return payload


# --- text and bytes ---


def _text(value: str) -> bytes:
    encoded = value.encode()
    if b"\0" in encoded:
        raise ValueError("PostgreSQL's text cannot hold NUL")
    return encoded


def _bytea(value: bytes | bytearray | memoryview) -> bytes:
    if not isinstance(value, bytes | bytearray | memoryview):
        raise TypeError(f"bytes are needed, got {type(value).__name__}")
    return bytes(value)


def _jsonb(value: str | bytes) -> bytes:
    return _JSONB_VERSION + (_text(value) if isinstance(value, str) else _bytea(value))


_TEXTS: Mapping[PgType, Callable[[Any], bytes]] = {
    PgType.TEXT: _text,
    PgType.BYTEA: _bytea,
    PgType.JSONB: _jsonb,
}
