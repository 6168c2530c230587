"""Binary COPY into a real PostgreSQL, compared bit for bit with what the server then holds."""

import json
import math
import struct
from datetime import UTC, date, datetime
from uuid import UUID

import asyncpg
import numpy as np
import pytest

from sync.model import PgType, Rows, Table
from sync.storage.copy import encode

FLOATS = [0.0, -0.0, 0.1, -1e308, 5e-324, math.inf, -math.inf, math.nan]
SINGLES = [0.0, -0.0, 0.5, -3e38, 1e-45, math.inf, -math.inf, math.nan]
TIMES = [datetime(1, 1, 1, tzinfo=UTC), datetime(2024, 2, 29, 1, 2, 3, 456_789, tzinfo=UTC)]
SCALARS = {
    "bool": [True, False],
    "int2": [-(2**15), 2**15 - 1, 0],
    "int4": [-(2**31), 2**31 - 1, 0],
    "int8": [-(2**63), 2**63 - 1, 0],
    "text": ["", "a\t\\N\n", "\u20ac\U0001f634", "x" * 100_000],
    "bytea": [b"", b"\0\xff", bytes(range(256)) * 100],
    "uuid": [UUID(int=0), UUID(int=2**128 - 1)],
    "date": [date(1, 1, 1), date(1999, 12, 31), date(9999, 12, 31)],
    "timestamptz": TIMES,
}


@pytest.fixture
async def connection(empty_database):
    """Yield a connection to an empty database."""
    connection = await asyncpg.connect(empty_database)
    yield connection
    await connection.close()


async def copied(connection, *columns, several=1):
    """Copy columns, given as (type, values), into a new table; return its name."""
    named = tuple((f"c{i}", PgType(kind)) for i, (kind, _) in enumerate(columns))
    await connection.execute(f"CREATE TABLE t (row serial, {', '.join(f'{n} {t}' for n, t in named)})")
    rows = Rows(Table("public.t", named), tuple(values for _, values in columns))

    async def pieces():
        for piece in encode([rows] * several):
            yield piece

    names = [name for name, _ in named]
    status = await connection.copy_to_table("t", columns=names, source=pieces(), format="binary")
    assert status == f"COPY {len(rows) * several}"


async def fetched(connection, expression="c0"):
    """An expression over all rows, in the order in which they were copied."""
    return [row[0] for row in await connection.fetch(f"SELECT {expression} FROM t ORDER BY row")]  # noqa: S608


@pytest.mark.parametrize("kind", SCALARS)
@pytest.mark.parametrize("nulls", [[], [None]])
async def test_scalars(connection, kind, nulls):
    """The extremes of every type, and NULL, arrive as they are."""
    values = [*nulls, *SCALARS[kind], *nulls]
    await copied(connection, (kind, values))
    assert await fetched(connection) == values


@pytest.mark.parametrize("nulls", [[], [None]])
@pytest.mark.parametrize(("kind", "values", "form"), [("float4", SINGLES, "!f"), ("float8", FLOATS, "!d")])
async def test_floats(connection, kind, values, form, nulls):
    """The server holds the same bits, also of NaN and negative zero."""
    await copied(connection, (kind, [*nulls, *values]))
    assert await fetched(connection, f"{kind}send(c0)") == [*nulls, *(struct.pack(form, v) for v in values)]


@pytest.mark.parametrize(
    ("kind", "dtype", "values", "wire"),
    [
        ("int2[]", "i2", SCALARS["int2"], ">i2"),
        ("int2[]", "u1", [0, 255], ">i2"),
        ("int4[]", "i4", SCALARS["int4"], ">i4"),
        ("int8[]", "i8", SCALARS["int8"], ">i8"),
        ("float4[]", "f4", SINGLES, ">f4"),
        ("float8[]", "f8", FLOATS, ">f8"),
    ],
)
async def test_arrays(connection, kind, dtype, values, wire):
    """Arrays, empty and NULL ones too, unpack to the same bits from index 1 on."""
    samples = np.array(values, dtype)
    await copied(connection, (kind, [samples, None, samples[:0], samples[::-1]]))
    assert await fetched(connection, "array_lower(c0, 1)") == [1, None, None, 1]
    assert await fetched(connection, "cardinality(c0)") == [len(samples), None, 0, len(samples)]
    send = kind.replace("[]", "send")
    stored = await fetched(connection, f"(SELECT string_agg({send}(v), '') FROM unnest(c0) v)")  # noqa: S608
    assert stored == [samples.astype(wire).tobytes(), None, None, samples[::-1].astype(wire).tobytes()]


async def test_timestamp_arrays(connection):
    """Arrays of instants, empty and NULL ones too, hold the same microseconds."""
    instants = np.array([time.replace(tzinfo=None) for time in TIMES], "M8[us]")
    await copied(connection, ("timestamptz[]", [instants, None, instants[:0]]))
    assert await fetched(connection) == [TIMES, None, []]


async def test_json(connection):
    """A jsonb column holds the same document."""
    documents = ['{"a": [1, null, "\\u20ac\\"]"]}', "null", None, '"text"']
    await copied(connection, ("jsonb", documents))
    stored = await fetched(connection)
    assert [value and json.loads(value) for value in stored] == [
        value and json.loads(value) for value in documents
    ]
    assert stored[2] is None


async def test_the_first_and_last_times(connection):
    """The limits that the encoder checks are the server's own."""
    await copied(
        connection,
        ("timestamptz", np.array([-210_866_803_200_000_000, 2**63 - 1], "M8[us]")),
        ("date", np.array([-2_440_588, 2_145_042_905], "M8[D]")),
    )
    await connection.execute("SET timezone = 'UTC'")
    assert await fetched(connection, "c0::text") == [
        "4714-11-24 00:00:00+00 BC",
        "294247-01-10 04:00:54.775807+00",
    ]
    assert await fetched(connection, "c1::text") == ["4714-11-24 BC", "5874897-12-31"]


async def test_many_rows_of_mixed_columns(connection):
    """Rows that span many pieces, from several Rows in one stream, arrive complete and in order."""
    count = 20_000
    numbers = np.arange(count)
    texts = [None if n % 3 == 0 else "x" * (n % 500) for n in range(count)]
    chunks = [np.arange(n % 100, dtype=np.int16) for n in range(count)]
    columns = (("int8", numbers), ("text", texts), ("float8", numbers / 3), ("int2[]", chunks))
    await copied(connection, *columns, several=2)
    rows = await connection.fetch("SELECT c0, c1, c2, c3 FROM t ORDER BY row")
    expected = list(
        zip(range(count), texts, (numbers / 3).tolist(), map(np.ndarray.tolist, chunks), strict=True)
    )
    assert [tuple(row) for row in rows] == expected * 2


async def test_a_fault_stores_nothing(connection):
    """A value that does not fit ends the COPY, and no row before it stays."""
    values = [*range(1_000_000), 2**31]
    with pytest.raises(ValueError, match=r"public\.t\.c0 \(int4\)"):
        await copied(connection, ("int4", values))
    assert await fetched(connection, "count(*) OVER ()") == []
