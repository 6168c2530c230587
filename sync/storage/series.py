"""Rows in time, replaced stretch by stretch, and the table that says what is loaded.

A record's rows in that table are the lock that serialises its writers. Coverage, the sum of what was loaded
and the rejects change in the transaction that changes the rows, and only there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import chain, compress, groupby
from typing import Any, TypeAlias
from uuid import UUID

import asyncpg
import numpy as np

from sync.model import (
    ColumnValues,
    Interval,
    Rows,
    Series,
    StreamKey,
    Stretch,
    Tally,
    difference,
    length,
    union,
)
from sync.storage.copy import images
from sync.storage.rejects import resolve_in_time, write_rejects
from sync.storage.statements import (
    change_load,
    delete_stretch,
    holds_any,
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
    for _, alike in groupby(stretches, key=_kind):
        tally += await _write_alike(connection, stream, list(alike))
    return tally


async def _write_alike(connection: asyncpg.Connection, stream: StreamKey, alike: Sequence[Stretch]) -> Tally:
    """Store stretches that may be one: as one where they find nothing to replace, else each by itself."""
    spans = union(span for stretch in alike for span in stretch.replaced)
    is_new = not spans or not await _holds_any(connection, alike[0], spans)
    if len(alike) > 1 and not (is_new and _are_disjoint(alike)):
        return sum([await _write_alike(connection, stream, [stretch]) for stretch in alike], Tally())
    stretch = _joined(alike)
    tally = await _write_stretch(connection, stretch, [] if is_new else _scope(stretch))
    await resolve_in_time(connection, stream, stretch)
    await write_rejects(connection, stream, stretch.rejects, part=stretch.part)
    return tally


async def _holds_any(connection: asyncpg.Connection, stretch: Stretch, spans: Sequence[Interval]) -> bool:
    """Whether a stretch's record has any row between the first and the last moment of some time."""
    found: bool = await connection.fetchval(
        holds_any(stretch.series), stretch.key, spans[0].start, spans[-1].end
    )
    return found


def _are_disjoint(alike: Sequence[Stretch]) -> bool:
    """Whether none of the stretches replaces what another one stores."""
    each = sum((length(union(stretch.replaced)) for stretch in alike), timedelta())
    return each == length(union(span for stretch in alike for span in stretch.replaced))


def _kind(stretch: Stretch) -> Hashable:
    """What stretches have in common that may be one."""
    whose = stretch.series, stretch.key, stretch.part, stretch.datasets
    return *whose, stretch.rows.table, stretch.keeps, stretch.recount


def _joined(alike: Sequence[Stretch]) -> Stretch:
    """What stretches prove one after the other, at once."""
    covered: tuple[Interval, ...] = ()
    uncovered: tuple[Interval, ...] = ()
    for stretch in alike:
        kept = () if stretch.reset else difference(covered, stretch.uncovered)
        covered = (*kept, *stretch.covered)
        uncovered = (*uncovered, *stretch.uncovered)
    return replace(
        alike[-1],
        replaced=tuple(span for stretch in alike for span in stretch.replaced),
        rows=_all_of([stretch.rows for stretch in alike]),
        rejects=tuple(reject for stretch in alike for reject in stretch.rejects),
        covered=union(covered),
        uncovered=union(uncovered),
        reset=any(stretch.reset for stretch in alike),
    )


def _all_of(parts: Sequence[Rows]) -> Rows:
    """The rows of one table as one."""
    filled = [part for part in parts if len(part)] or parts[:1]
    columns = zip(*(part.values for part in filled), strict=True)
    return Rows(filled[0].table, tuple(map(_chained, columns)))


def _chained(parts: Sequence[ColumnValues]) -> ColumnValues:
    if all(isinstance(part, np.ndarray) for part in parts):
        return np.concatenate(parts)
    return list(chain.from_iterable(parts))


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


async def _write_stretch(connection: asyncpg.Connection, stretch: Stretch, scope: Scope) -> Tally:
    rows, count = stretch.rows, len(stretch.rows)
    stored = await _stored(connection, stretch.series, scope)
    wanted = [rows, _kept(stretch, stored)] if stretch.keeps else [rows]
    same = len(stored) == sum(map(len, wanted)) and Counter(images(stored)) == _counted(
        stretch.series, wanted
    )
    if not same:
        if len(stored):
            await connection.executemany(delete_stretch(stretch.series), scope)
        for each in filter(len, wanted):
            await copy_rows(connection, [each])
    came = 0 if same else sum(_weight(stretch, each) for each in wanted) - _weight(stretch, stored)
    await _change_load(connection, stretch, came)
    if stretch.recount:
        await connection.execute(recount_load(stretch.series), stretch.key, stretch.part)
    return Tally(unchanged=count) if same else Tally(stored=count)


def _scope(stretch: Stretch) -> Scope:
    """Where a stretch's rows are, were they stored already: only in its own data sets, for others stay."""
    datasets = sorted(UUID(bytes=one) for one in set(_ids(stretch.series, stretch.rows)))
    return [(stretch.key, span.start, span.end, datasets) for span in union(stretch.replaced) if datasets]


async def _stored(connection: asyncpg.Connection, series: Series, scope: Scope) -> Rows:
    found = await connection.fetchmany(select_stretch(series), scope) if scope else []
    return Rows(series.table, tuple(zip(*found, strict=True)) if found else ((),) * len(series.table.columns))


def _counted(series: Series, parts: Iterable[Rows]) -> Counter[bytes]:
    return Counter(chain.from_iterable(_images(series, rows) for rows in parts))


def _images(series: Series, rows: Rows) -> list[bytes]:
    """Rows as they are when they are stored, where columns that were left out are NULL."""
    given = dict(zip(rows.table.column_names, rows.values, strict=True))
    nothing = [None] * len(rows)
    return images(Rows(series.table, tuple(given.get(name, nothing) for name in series.table.column_names)))


def _kept(stretch: Stretch, stored: Rows) -> Rows:
    """What of the stored rows stays beside those that came, as ``Stretch.keeps`` says."""
    came, held = _places(stretch.series, stretch.rows), _places(stretch.series, stored)
    known = Counter(dataset for dataset, _ in set(held))
    new = Counter(dataset for dataset, _ in set(came).difference(held))
    ours, theirs = images(stored), _images(stretch.series, stretch.rows)
    of_source, of_ours = set(theirs), set(ours)
    changed = {place for image, place in zip(theirs, came, strict=True) if image not in of_ours}
    stays = [
        image not in of_source and place not in changed and new[place[0]] < known[place[0]]
        for image, place in zip(ours, held, strict=True)
    ]
    return Rows(stored.table, tuple(tuple(compress(column, stays)) for column in stored.values))


def _places(series: Series, rows: Rows) -> list[tuple[bytes, int]]:
    """The data set and the instant of each row."""
    times = _column(rows, series.time)
    instants = times if isinstance(times, np.ndarray) else _times(times)
    return list(zip(_ids(series, rows), instants.astype("M8[us]").astype(int).tolist(), strict=True))


def _ids(series: Series, rows: Rows) -> list[bytes]:
    """The id of each row's data set."""
    column = _column(rows, series.part_of)
    return column.tolist() if isinstance(column, np.ndarray) else [one.bytes for one in column]


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
    """How many source items rows stand for."""
    if stretch.series.weight not in rows.table.column_names:
        return len(rows)
    return sum(1 if weight is None else int(weight) for weight in _column(rows, stretch.series.weight))


def _column(rows: Rows, name: str) -> Any:
    return rows.values[rows.table.column_names.index(name)]
