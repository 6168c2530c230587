"""Rows in time, replaced stretch by stretch, and the table that says what is loaded.

A record's rows in that table are the lock that serialises its writers. Coverage, the sum of what was loaded
and the rejects change in the transaction that changes the rows, and only there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from itertools import chain, compress, groupby
from typing import Any, TypeAlias

import asyncpg
import numpy as np

from sync.model import Rows, Series, StreamKey, Stretch, Tally, union
from sync.storage.copy import images
from sync.storage.rejects import resolve_in_time, write_rejects
from sync.storage.statements import (
    change_load,
    delete_stretch,
    lock_loads,
    make_load,
    recount_load,
    select_stretch,
)
from sync.storage.transfer import copy_rows
from sync.storage.values import multirange

Scope: TypeAlias = "list[tuple[Any, ...]]"
"""Arguments of a statement on stored rows, one set for each interval of time."""


async def write_stretches(
    connection: asyncpg.Connection, stream: StreamKey, stretches: Sequence[Stretch]
) -> Tally:
    """Store stretches in the order in which they come; what became of their rows."""
    for stretch in stretches:
        _refuse_strays(stretch)
    await _lock_loads(connection, stretches)
    tally = Tally()
    for stretch in stretches:
        tally += await _write_stretch(connection, stretch)
        await resolve_in_time(connection, stream, stretch)
        await write_rejects(connection, stream, stretch.rejects, part=stretch.part)
    return tally


def _refuse_strays(stretch: Stretch) -> None:
    """Outside of the time that is replaced a row would come again, and a reject stay, with every reading."""
    edges = _times(edge for span in union(stretch.replaced) for edge in (span.start, span.end))
    rows = np.asarray(_column(stretch.rows, stretch.series.time), "M8[us]")
    rejects = _times(reject.instant for reject in stretch.rejects)
    for times in (rows, rejects):
        if (np.searchsorted(edges, times, side="right") % 2 == 0).any():  # outside of all, or between two
            raise ValueError(
                f"a {stretch.series.noun} of {stretch.label} is not within the time that was read"
            )


def _times(moments: Iterable[datetime | None]) -> np.ndarray[Any, Any]:
    naive = [None if moment is None else moment.astimezone(UTC).replace(tzinfo=None) for moment in moments]
    return np.array(naive, "M8[us]")


async def _lock_loads(connection: asyncpg.Connection, stretches: Sequence[Stretch]) -> None:
    """Lock the records' rows of all groups, for a data set may move from one group to another.

    They are made where they are not there yet. There is one order for everybody: two writers that lock the
    same rows never wait for each other in a circle.
    """
    wanted = {(s.series.loads, s.key, s.part): s for s in reversed(stretches)}
    ordered = [wanted[place] for place in sorted(wanted)]
    for series, of_series in groupby(ordered, key=lambda stretch: stretch.series):
        rows = [(stretch.key, stretch.part, _group(stretch)) for stretch in of_series]
        await connection.executemany(make_load(series), rows)
        await connection.execute(lock_loads(series), [key for key, *_ in rows])


async def _write_stretch(connection: asyncpg.Connection, stretch: Stretch) -> Tally:
    rows, count = stretch.rows, len(stretch.rows)
    scope = _scope(stretch)
    stored = await _stored(connection, stretch.series, scope)
    wanted = [rows, _kept(stretch, stored)] if stretch.keeps else [rows]
    same = len(stored) == sum(map(len, wanted)) and Counter(images(stored)) == _counted(wanted)
    if not same:
        if len(stored):
            await connection.executemany(delete_stretch(stretch.series), scope)
        await copy_rows(connection, wanted)
    came = 0 if same else sum(_weight(stretch, each) for each in wanted) - _weight(stretch, stored)
    await _change_load(connection, stretch, came)
    if stretch.recount:
        await connection.execute(recount_load(stretch.series), stretch.key, stretch.part)
    return Tally(unchanged=count) if same else Tally(stored=count)


def _scope(stretch: Stretch) -> Scope:
    """Where a stretch's rows are, were they stored already: only in its own data sets, for others stay."""
    datasets = sorted(set(_column(stretch.rows, stretch.series.part_of)))
    return [(stretch.key, span.start, span.end, datasets) for span in union(stretch.replaced) if datasets]


async def _stored(connection: asyncpg.Connection, series: Series, scope: Scope) -> Rows:
    found = await connection.fetchmany(select_stretch(series), scope) if scope else []
    return Rows(series.table, tuple(zip(*found, strict=True)) if found else ((),) * len(series.table.columns))


def _counted(parts: Iterable[Rows]) -> Counter[bytes]:
    return Counter(chain.from_iterable(map(images, parts)))


def _kept(stretch: Stretch, stored: Rows) -> Rows:
    """What of the stored rows stays beside those that came, as ``Stretch.keeps`` says."""
    came, held = _places(stretch.series, stretch.rows), _places(stretch.series, stored)
    known = Counter(dataset for dataset, _ in set(held))
    new = Counter(dataset for dataset, _ in set(came).difference(held))
    ours, theirs = images(stored), images(stretch.rows)
    of_source, of_ours = set(theirs), set(ours)
    changed = {place for image, place in zip(theirs, came, strict=True) if image not in of_ours}
    stays = [
        image not in of_source and place not in changed and new[place[0]] < known[place[0]]
        for image, place in zip(ours, held, strict=True)
    ]
    return Rows(stored.table, tuple(tuple(compress(column, stays)) for column in stored.values))


def _places(series: Series, rows: Rows) -> list[tuple[Any, int]]:
    """The data set and the instant of each row."""
    times = _column(rows, series.time)
    instants = times if isinstance(times, np.ndarray) else _times(times)
    return list(
        zip(_column(rows, series.part_of), instants.astype("M8[us]").astype(int).tolist(), strict=True)
    )


async def _change_load(connection: asyncpg.Connection, stretch: Stretch, came: int) -> None:
    await connection.execute(
        change_load(stretch.series),
        stretch.key,
        stretch.part,
        _group(stretch),
        stretch.reset,
        multirange(stretch.uncovered),
        multirange(stretch.covered),
        came,
    )


def _group(stretch: Stretch) -> list[Any] | None:
    return None if stretch.datasets is None else sorted(stretch.datasets)


def _weight(stretch: Stretch, rows: Rows) -> int:
    return sum(1 if weight is None else int(weight) for weight in _column(rows, stretch.series.weight))


def _column(rows: Rows, name: str) -> Any:
    return rows.values[rows.table.column_names.index(name)]
