"""Rows into a table, by binary COPY."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence

import asyncpg

from sync.model import Rows
from sync.storage.copy import encode


async def copy_rows(connection: asyncpg.Connection, rows: Sequence[Rows]) -> None:
    """Add rows, all of one table, in one COPY.

    Raises:
        ValueError: A value does not fit its column.
    """
    table = rows[0].table
    schema, name = table.name.split(".")
    await connection.copy_to_table(
        name,
        schema_name=schema,
        columns=table.column_names,
        source=_pieces(encode(rows)),
        format="binary",
    )


async def _pieces(encoded: Iterator[bytes]) -> AsyncIterator[bytes]:
    for piece in encoded:
        yield piece
