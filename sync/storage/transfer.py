"""Rows into a table, by binary COPY."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Final

import asyncpg

from sync.model import Rows
from sync.storage.copy import Piece, encode

LARGE: Final = 1 << 18
"""Bytes of a piece from which on it pays to encode the next one in a thread."""


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


async def _pieces(encoded: Iterator[Piece]) -> AsyncIterator[Piece]:
    """The pieces in order; behind a large one, each is encoded while PostgreSQL takes the one before."""
    for piece in encoded:
        if len(piece) < LARGE:
            yield piece
            continue
        following = _next(encoded)
        try:
            while True:
                yield piece
                piece = await asyncio.shield(following)  # noqa: PLW2901 - the loop goes on in here
                if not piece:
                    return
                following = _next(encoded)
        finally:
            await asyncio.wait({following})  # nothing may be read from a spool file that is gone
            following.exception()


def _next(encoded: Iterator[Piece]) -> asyncio.Task[Piece]:
    return asyncio.create_task(asyncio.to_thread(next, encoded, b""))
