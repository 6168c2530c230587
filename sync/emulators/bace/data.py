"""The endpoint ``data-downsampled``: which rows answer a filter, at which resolution, in which order.

The resolution follows from the length of the interval that is asked for (BACE docs, Accessing Data); the
lengths are switches, because the documents have them in a picture only.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from sync.emulators.bace.behaviour import HOUR, Behaviour, Excess, OddValues, Sorting
from sync.emulators.bace.holdings import Holdings, Table, table
from sync.emulators.bace.levels import EMPTY, Level, joined
from sync.emulators.bace.query import Both, Compare, Condition, Kind, bounds, holds, mentions, selects
from sync.emulators.bace.samples import Array, Dataset
from sync.emulators.bace.sessions import DataSession

KINDS: Final = {
    "id_container_data_latest": Kind.TEXT,
    "id_group": Kind.TEXT,
    "datatype": Kind.INTEGER,
    "source_device": Kind.TEXT,
    "timestamp_seconds": Kind.NUMBER,
    "min_val": Kind.NUMBER,
    "max_val": Kind.NUMBER,
    "avg_val": Kind.NUMBER,
    "count_val": Kind.INTEGER,
    "id_data_session": Kind.TEXT,
}
SORTABLE: Final = frozenset(KINDS) - {"id_data_session"}

_OF_DATASETS: Final = ("id_container_data_latest", "id_group", "datatype", "source_device")
_BIG: Final = 100_000
"""Samples from which on a session is computed in a thread."""
_SLACK: Final = HOUR
"""Seconds by which computed samples may lie outside their session, because device clocks err."""
_MANY: Final = 20
"""Sessions from which on all are computed in a thread."""
_SELECTIONS: Final = 4
"""So many selections of rows are kept, so that the next page need not be selected again."""


class TooManyDatasetsError(Exception):
    """A request for more datasets than one request may have."""


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """The rows that answer a request.

    Attributes:
        datasets: What the level's ``dataset`` points to.
        level: The rows, in the order of the answer.
    """

    datasets: tuple[Dataset, ...]
    level: Level

    def __len__(self) -> int:
        return len(self.level)

    def shown(self, part: slice, behaviour: Behaviour) -> list[dict[str, Any]]:
        """Some of the rows as they are answered."""
        level = self.level.at(part)
        columns = zip(
            level.dataset.tolist(),
            level.stamp.tolist(),
            level.low.tolist(),
            level.high.tolist(),
            level.mean().tolist(),
            level.count.tolist(),
            strict=True,
        )
        rows = [
            {
                **self._about(dataset),
                "timestamp_seconds": _number(stamp / 1000),
                "min_val": _number(low),
                "max_val": _number(high),
                "avg_val": _number(mean),
                "count_val": count,
            }
            for dataset, stamp, low, high, mean, count in columns
        ]
        if behaviour.odd_values or behaviour.extra_fields:
            for row, stamp in zip(rows, level.stamp.tolist(), strict=True):
                _spoil(row, stamp, behaviour)
        return rows

    def _about(self, position: int) -> dict[str, Any]:
        dataset = self.datasets[position]
        return {
            "id_container_data_latest": dataset.id_container_data_latest,
            "id_group": dataset.id_group,
            "datatype": dataset.datatype,
            "source_device": dataset.source_device,
        }


def _number(value: float) -> float | int:
    """A number as PHP writes it: without a fraction if it has none."""
    return int(value) if value.is_integer() else value


def _spoil(row: dict[str, Any], stamp: int, behaviour: Behaviour) -> None:
    if behaviour.extra_fields:
        row["quality"] = {"level": 3, "flags": []}
    if (stamp * 2654435761 >> 7) % behaviour.odd_every:
        return
    match behaviour.odd_values:
        case OddValues.NULL:
            row.update(min_val=None, max_val=None, avg_val=None)
        case OddValues.TEXT:
            row.update(min_val="n/a", max_val="n/a", avg_val="n/a")
        case OddValues.NUMERIC_STRING:
            row.update({name: str(row[name]) for name in ("min_val", "max_val", "avg_val", "count_val")})


_UNKNOWN: Final = (math.inf, Rows((), EMPTY))


@dataclass(frozen=True, slots=True)
class _Wanted:
    """A dataset that a request concerns, and the sessions whose samples of it are asked for."""

    dataset: Dataset
    sessions: tuple[DataSession, ...]


class Downsampled:
    """Answers requests for rows.

    Args:
        holdings: What the service holds.
    """

    def __init__(self, holdings: Holdings) -> None:
        self._holdings = holdings
        self._selections: dict[object, tuple[float, Rows]] = {}
        self._chance = np.random.default_rng(1)

    async def rows(
        self,
        condition: Condition,
        *,
        may_see: Callable[[DataSession], bool],
        sort: tuple[str, bool] | None,
        behaviour: Behaviour,
        now: float,
    ) -> Rows:
        """The rows that a filter selects.

        Args:
            condition: The filter.
            may_see: Whether the account may see a session.
            sort: The attribute to sort by and whether it descends.
            behaviour: How the service is.
            now: Unix seconds on the service's clock.

        Raises:
            TooManyDatasetsError: The filter concerns more datasets than it may.
        """
        wanted = self._wanted(condition, may_see, behaviour, now)
        if len(wanted) > behaviour.datasets_to:
            match behaviour.datasets_beyond:
                case Excess.REFUSED:
                    raise TooManyDatasetsError(len(wanted))
                case Excess.TRUNCATED:
                    wanted = wanted[: behaviour.datasets_to]
        sort = sort if behaviour.data_sort is Sorting.HONOURED else None
        width = 1000 * behaviour.resolution(_length(condition, wanted, behaviour, now))
        reading = _Reading(condition, width, behaviour, int(now * 1000))
        key = condition, width, sort, behaviour, tuple(wanted)
        settled_ms, rows = self._selections.get(key, _UNKNOWN)
        if reading.now_ms >= settled_ms:
            return rows
        settled_ms = await self._read(wanted, reading, may_see)
        parts = [reading.rows(position, want) for position, want in enumerate(wanted)]
        rows = Rows(tuple(want.dataset for want in wanted), joined(parts, merge=None))
        rows = Rows(rows.datasets, rows.level.at(_order(rows, sort, behaviour, self._chance)))
        if reading.now_ms >= settled_ms and not (reading.per_dataset or behaviour.ties_shuffled):
            while len(self._selections) >= _SELECTIONS:
                del self._selections[next(iter(self._selections))]
            self._selections[key] = settled_ms, rows
        return rows

    async def _read(
        self, wanted: list[_Wanted], reading: _Reading, may_see: Callable[[DataSession], bool]
    ) -> float:
        """Read every session that rows come from, one after the other.

        Returns:
            The instant (ms) from which they give the same rows for ever.
        """
        concerned: dict[DataSession, list[_Wanted]] = {}
        for want in wanted:
            for session in self._sources(want, reading, may_see):
                concerned.setdefault(session, []).append(want)
        settled_ms = -math.inf
        for session, wants in concerned.items():
            one = await self._table(session, aside=len(concerned) > _MANY)
            settled_ms = max(settled_ms, one.settled_ms)
            for want in wants:
                reading.read(one, want)
        return settled_ms

    def _wanted(
        self,
        condition: Condition,
        may_see: Callable[[DataSession], bool],
        behaviour: Behaviour,
        now: float,
    ) -> list[_Wanted]:
        """The datasets that a filter without its conditions on time and values concerns."""
        found: dict[Dataset, list[DataSession]] = {}
        per_session = mentions(condition, "id_data_session")
        known: dict[Dataset, bool] = {}
        for session in self._named(condition):
            if not session.exists(now) or not may_see(session):
                continue
            if not behaviour.archived_data and session.archived_by(now) is not None:
                continue
            for dataset in session.datasets:
                if per_session or dataset not in known:
                    known[dataset] = holds(condition, _static(dataset, session).__getitem__)
                if known[dataset]:
                    found.setdefault(dataset, []).append(session)
        return [_Wanted(dataset, tuple(found[dataset])) for dataset in sorted(found)]

    def _named(self, condition: Condition) -> Iterable[DataSession]:
        """The sessions that the filter names, or all."""
        for part in condition.parts if isinstance(condition, Both) else (condition,):
            if isinstance(part, Compare) and part.attribute == "id_data_session" and part.op in ("eq", "in"):
                names = part.value if part.op == "in" else (part.value,)
                sessions = (self._holdings.get(name) for name in dict.fromkeys(names))
                return [session for session in sessions if session is not None]
        return self._holdings

    def _sources(
        self, want: _Wanted, reading: _Reading, may_see: Callable[[DataSession], bool]
    ) -> list[DataSession]:
        """The sessions whose samples go into a dataset's rows."""
        sessions = list(want.sessions)
        if reading.per_dataset:
            every = self._holdings.with_dataset(want.dataset.id_container_data_latest)
            now = reading.now_ms / 1000
            near = [
                other
                for other in every
                if other.exists(now) and may_see(other) and any(reading.near(s, other) for s in want.sessions)
            ]
            sessions += [other for other in near if other not in want.sessions]
        return [session for session in sessions if reading.reaches(session)]

    async def _table(self, session: DataSession, *, aside: bool) -> Table:
        """A session's table, computed in a thread if that takes long or if there are many to come."""
        kept = self._holdings.kept(session)
        if kept is not None:
            return kept
        aside = aside or (session.total is not None and session.total() > _BIG)
        return self._holdings.keep(await asyncio.to_thread(table, session) if aside else table(session))


class _Reading:
    """One request's way to its rows."""

    def __init__(self, condition: Condition, width: int, behaviour: Behaviour, now_ms: int) -> None:
        self.condition = condition
        self.width = width
        self.now_ms = now_ms
        self.per_dataset = (
            behaviour.buckets_per_dataset and width > 0 and mentions(condition, "id_data_session")
        )
        self._behaviour = behaviour
        self._parts: dict[Dataset, list[Level]] = {}
        self._own: dict[Dataset, list[Array]] = {}
        lower, upper = bounds(condition, "timestamp_seconds")
        self._low = None if lower is None else math.floor(lower * 1000)
        self._high = None if upper is None else math.ceil(upper * 1000)
        self._by_row = any(mentions(condition, name) for name in KINDS if name not in _OF_DATASETS)

    def reaches(self, session: DataSession) -> bool:
        """Whether any of a session's rows can be in the interval that is asked for."""
        if session.total is None:
            return True
        first, last = _span_ms(session, self.now_ms)
        slack = _SLACK * 1000
        return (self._high is None or first - slack <= self._high + self.width) and (
            self._low is None or last + slack >= self._low
        )

    def near(self, session: DataSession, other: DataSession) -> bool:
        """Whether two sessions can share a bucket."""
        first, last = _span_ms(session, self.now_ms)
        begin, end = _span_ms(other, self.now_ms)
        reach = self.width + _SLACK * 1000
        return begin - reach <= last and first <= end + reach

    def read(self, one: Table, want: _Wanted) -> None:
        """Take a dataset's rows from a session."""
        part = self._part(one, want.dataset)
        self._parts.setdefault(want.dataset, []).append(part)
        if one.session in want.sessions:
            self._own.setdefault(want.dataset, []).append(part.stamp)

    def rows(self, position: int, want: _Wanted) -> Level:
        """A dataset's rows, from all sessions that were read."""
        parts = [part.labelled(position) for part in self._parts.get(want.dataset, [])]
        own = self._own.get(want.dataset, [])
        join = self.width or (1 if self._behaviour.equal_instants_joined else None)
        level = joined(parts, merge=join)
        if self.per_dataset and len(level):
            level = level.at(self._of_sessions(level, want, own))
        if not self._by_row or not len(level):
            return level
        columns = {
            **_static(want.dataset, None),
            "timestamp_seconds": level.stamp / 1000,
            "min_val": level.low,
            "max_val": level.high,
            "avg_val": level.mean(),
            "count_val": level.count,
        }
        return level.at(selects(self.condition, columns, len(level)))

    def _part(self, one: Table, dataset: Dataset) -> Level:
        level = one.level(
            self.now_ms,
            self.width,
            whole_seconds=self._behaviour.whole_seconds and not self.width,
            join=self._behaviour.equal_instants_joined,
        )
        if dataset not in one.samples.datasets:
            return EMPTY
        return level.within(one.samples.datasets.index(dataset), self._low, self._high)

    def _of_sessions(self, level: Level, want: _Wanted, own: list[Array]) -> Array:
        """The buckets that touch the wanted sessions or hold samples of theirs."""
        mask: Array = np.isin(level.stamp, np.concatenate(own)) if own else np.zeros(len(level), np.bool_)
        for session in want.sessions:
            first, last = _span_ms(session, self.now_ms)
            mask |= (level.stamp <= last) & (level.stamp + self.width > first)
        return mask


def _static(dataset: Dataset, session: DataSession | None) -> Mapping[str, Any]:
    """What is known without looking at rows; the rest counts as fulfilled."""
    return {
        **dict.fromkeys(KINDS, NotImplemented),
        "id_container_data_latest": dataset.id_container_data_latest,
        "id_group": dataset.id_group,
        "datatype": dataset.datatype,
        "source_device": dataset.source_device,
        "id_data_session": NotImplemented if session is None else session.id,
    }


def _span_ms(session: DataSession, now_ms: int) -> tuple[int, int]:
    end = session.end_at(now_ms / 1000)
    return session.start * 1000, max(now_ms if end is None else end * 1000, session.start * 1000)


def _length(condition: Condition, wanted: list[_Wanted], behaviour: Behaviour, now: float) -> float | None:
    """Seconds of the interval that is asked for; None for an open one."""
    lower, upper = bounds(condition, "timestamp_seconds")
    if lower is not None and upper is not None:
        return upper - lower
    alone = lower is None and upper is None and mentions(condition, "id_data_session")
    if not alone or not wanted or not behaviour.session_span_decides:
        return None
    spans = [_span_ms(session, int(now * 1000)) for want in wanted for session in want.sessions]
    return (max(last for _, last in spans) - min(first for first, _ in spans)) / 1000


def _order(
    rows: Rows, sort: tuple[str, bool] | None, behaviour: Behaviour, chance: np.random.Generator
) -> Array | slice:
    """In which order the rows are answered."""
    level = rows.level
    if sort is None and not behaviour.rows_shuffled:
        return slice(None)
    order: Array = np.arange(len(level))
    if behaviour.ties_shuffled:
        order = chance.permutation(len(level))
    elif behaviour.rows_shuffled:
        salted = level.stamp.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + level.dataset.astype(
            np.uint64
        )
        order = np.argsort(salted * np.uint64(0xBF58476D1CE4E5B9) >> np.uint64(7), kind="stable")
    if sort is None:
        return order
    key = _key(rows, sort[0])[order]
    return order[np.argsort(-key if sort[1] else key, kind="stable")]


def _key(rows: Rows, attribute: str) -> Array:
    level = rows.level
    if attribute in _OF_DATASETS:
        values = [getattr(dataset, attribute) for dataset in rows.datasets]
        ranks = {value: rank for rank, value in enumerate(sorted(set(values)))}
        return np.array([ranks[value] for value in values], np.int64)[level.dataset]
    columns: dict[str, Callable[[], Array]] = {
        "timestamp_seconds": lambda: level.stamp,
        "min_val": lambda: level.low,
        "max_val": lambda: level.high,
        "avg_val": level.mean,
        "count_val": lambda: level.count,
    }
    return columns[attribute]()
