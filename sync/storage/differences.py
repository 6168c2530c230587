"""Differences between source and warehouse: how records are compared, and the log of what was found.

Large arrays never leave PostgreSQL: their hashes are compared.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from datetime import datetime
from hashlib import sha256
from typing import Any, Final, TypeAlias

import asyncpg
import msgspec

from sync.model import Batch, Fault, Head, PgType, Record, Rows, Table
from sync.storage.copy import images
from sync.storage.statements import of_keys, select_details, select_records
from sync.storage.values import multirange
from sync.storage.versions import Verdict, Version, version

Key: TypeAlias = tuple[Any, ...]
Row: TypeAlias = tuple[Hashable, ...]

_FRAME: Final = 6
"""Bytes of a row's image before the payload of its only column: the number of fields, and its length."""

_OPEN: Final = """
    SELECT source, account, item_key, kind, text, found_at, last_seen_at, resolved_at, mended
    FROM sync.differences
    JOIN unnest($1::text[], $2::text[]) AS chosen (source, account) USING (source, account)
    WHERE resolved_at IS NULL OR (mended AND resolved_at >= $3)
    ORDER BY source, account, found_at, item_key
"""


# --- the log ---------------------------------------------------------------------------------------


async def write_differences(connection: asyncpg.Connection, batch: Batch) -> None:
    """Note what a batch says of differences: those found, those that are over."""
    source, account = batch.stream.source, batch.stream.account
    if batch.differences:  # each statement is a round trip
        await connection.executemany(
            """
            INSERT INTO sync.difference_log AS d (source, account, item_key, kind, text, instant)
            VALUES ($1, $2, $3, $4, $5, $6)
            ON CONFLICT (source, account, item_key) DO UPDATE SET
                kind = excluded.kind, text = excluded.text, instant = excluded.instant,
                found_at = CASE WHEN d.resolved_at IS NULL THEN d.found_at ELSE now() END,
                last_seen_at = now(), resolved_at = NULL, mended = false
            """,
            [
                (source, account, one.item_key, one.kind, one.text, one.instant)
                for one in sorted(batch.differences, key=lambda one: one.item_key)  # one order for everybody
            ],
        )
    if batch.mended:
        await connection.execute(
            """
            UPDATE sync.difference_log SET resolved_at = now(), mended = true
            WHERE source = $1 AND account = $2 AND resolved_at IS NULL AND item_key = ANY ($3)
            """,
            source,
            account,
            batch.mended,
        )
    if batch.verified is not None:
        await connection.execute(
            """
            UPDATE sync.difference_log SET resolved_at = now()
            WHERE source = $1 AND account = $2 AND resolved_at IS NULL AND last_seen_at < $3
              AND ($4::timestamptz IS NULL OR instant >= $4) AND ($5::timestamptz IS NULL OR instant < $5)
              AND NOT $6::tstzmultirange @> instant
            """,
            source,
            account,
            batch.verified.found_before,
            batch.verified.since,
            batch.verified.until,
            multirange(batch.verified.left_out),
        )


async def read_differences(
    pool: asyncpg.Pool, accounts: Sequence[tuple[str, str]], since: datetime
) -> Sequence[Mapping[str, Any]]:
    """The open differences of some accounts (source, account), and those that were mended since then."""
    rows = await pool.fetch(
        _OPEN, [source for source, _ in accounts], [account for _, account in accounts], since
    )
    return [dict(row) for row in rows]


# --- comparing -------------------------------------------------------------------------------------


async def find_faults(
    connection: asyncpg.Connection, records: Sequence[Record], columns: Sequence[str] | None
) -> Mapping[str, Fault]:
    """How the stored versions of records of one head differ from these, by label; equal ones left out.

    Args:
        connection: A connection.
        records: As the source has them now.
        columns: All that is known of them; None: everything is, details too.
    """
    if not records:
        return {}
    head = records[0].head
    keys = [record.key for record in records]
    stored = {
        tuple(row[name] for name in head.key): row
        for row in await connection.fetch(select_records(head), *zip(*keys, strict=True))
    }
    details: Mapping[str, Mapping[Key, Counter[Row]]] = {}
    if columns is None:
        details = {table.name: await _details(connection, head, table, keys) for table in head.owns}
    faults: dict[str, Fault] = {}
    for record in records:
        fault = _fault(record, stored.get(record.key), columns)
        if fault is None:
            of_key = {name: rows.get(record.key, Counter()) for name, rows in details.items()}
            fault = _fault_in_details(record, of_key)
        if fault is not None:
            faults[record.label] = fault
    return faults


def _fault(record: Record, stored: Mapping[str, Any] | None, columns: Sequence[str] | None) -> Fault | None:
    """How a record's own row differs."""
    head, noun = record.head, record.head.noun
    if stored is None:
        return Fault("missing", f"the source has this {noun}, the warehouse not")
    mine, theirs = version(record), Version(stored[head.stamp], stored[head.digest], stored["missing"])
    match mine.judge(theirs):
        case Verdict.SUPERSEDED:
            text = f"the source has an older version of this {noun} again; the newer one stays"
            return Fault("changed", text, newer_stays=True)
        case Verdict.STORE:
            how = "at the same time stamp" if mine.stamp == theirs.stamp else "newer"
            return Fault("changed", f"the source has another version of this {noun}, {how}")
    if mine.stamp != theirs.stamp:
        return Fault("changed", f"the source has put this {noun} again, with the same content")
    types = dict(head.table.columns)
    wrong = [
        name
        for name in columns or head.table.column_names
        if _plain(types[name], record.row.get(name)) != _plain(types[name], stored[name])
    ]
    if wrong:
        return Fault("content", f"the warehouse's row is not what was stored: {', '.join(wrong)}")
    return Fault(None) if theirs.missing else None


def _fault_in_details(record: Record, stored: Mapping[str, Counter[Row]]) -> Fault | None:
    """Which owned rows are not those of the record, where the versions are the same."""
    given: dict[str, Counter[Row]] = {}
    for rows in record.details:
        given.setdefault(rows.table.name, Counter()).update(_rows_of(rows))
    wrong = [
        f"{name.partition('.')[2]} ({max((rows - mine).total(), (mine - rows).total()):,})"
        for name, rows in sorted(stored.items())
        if rows != (mine := given.get(name, Counter()))
    ]
    if not wrong:
        return None
    return Fault("content", f"rows in the warehouse are not those of this version: {', '.join(wrong)}")


async def _details(
    connection: asyncpg.Connection, head: Head, table: Table, keys: Sequence[Key]
) -> Mapping[Key, Counter[Row]]:
    found: dict[Key, Counter[Row]] = {}
    for row in await connection.fetch(select_details(head, table), *of_keys(head, keys)):
        key = tuple(row[name] for name in head.key)
        found.setdefault(key, Counter())[
            tuple(row[name] if type_.element else _plain(type_, row[name]) for name, type_ in table.columns)
        ] += 1
    return found


def _rows_of(rows: Rows) -> Iterable[Row]:
    """Rows as ``select_details`` has them."""
    return zip(
        *(
            _hashes(name, type_, values) if type_.element else [_plain(type_, value) for value in values]
            for (name, type_), values in zip(rows.table.columns, rows.values, strict=True)
        ),
        strict=True,
    )


def _hashes(name: str, type_: PgType, values: Any) -> list[bytes | None]:
    """The hash of each array as PostgreSQL sends it."""
    column = Table("pg_temp.hashed", ((name, type_),))
    return [
        None if value is None else sha256(image[_FRAME:]).digest()
        for value, image in zip(values, images(Rows(column, (values,))), strict=True)
    ]


def _plain(type_: PgType, value: Any) -> Any:
    """A value as it compares, however it was written; PostgreSQL writes JSON in its own way."""
    if type_ is PgType.JSONB and value is not None:
        return msgspec.json.encode(msgspec.json.decode(value), order="sorted")
    return tuple(value) if type_.element and value is not None else value
