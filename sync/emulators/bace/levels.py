"""Samples and their buckets as columns: what one resolution of the data looks like."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from sync.emulators.bace.samples import Array, Floats, Ints, Samples


@dataclass(frozen=True, slots=True, eq=False)
class Level:
    """Rows of one resolution, in the order of their datasets and stamps.

    Attributes:
        dataset: The position of the row's dataset.
        stamp: Unix milliseconds: a sample's instant or a bucket's start.
        low: The smallest value.
        high: The largest value.
        total: The sum of the values.
        count: The number of samples.
    """

    dataset: Ints
    stamp: Ints
    low: Floats
    high: Floats
    total: Floats
    count: Ints

    def __len__(self) -> int:
        return len(self.stamp)

    def at(self, rows: Array | slice) -> Level:
        """Some of the rows, in the order asked for."""
        return Level(*(column[rows] for column in self._columns()))

    def within(self, dataset: int, low: int | None, high: int | None) -> Level:
        """A dataset's rows with stamps from ``low`` to ``high``, both included."""
        first, last = np.searchsorted(self.dataset, [dataset, dataset + 1])
        stamps = self.stamp[first:last]
        begin = 0 if low is None else int(np.searchsorted(stamps, low))
        end = len(stamps) if high is None else int(np.searchsorted(stamps, high, side="right"))
        return self.at(slice(first + begin, first + end))

    def labelled(self, dataset: int) -> Level:
        """The same rows under another dataset's position."""
        return Level(np.full(len(self), dataset, np.int64), *self._columns()[1:])

    def mean(self) -> Floats:
        """The average values; never outside the smallest and the largest, whatever rounding does."""
        return np.clip(self.total / self.count, self.low, self.high)

    def in_buckets(self, width: int) -> Level:
        """The rows in buckets of so many milliseconds, aligned to UTC and stamped with their start."""
        if not len(self):
            return self
        starts = self.stamp // width * width
        new = np.flatnonzero((np.diff(starts) != 0) | (np.diff(self.dataset) != 0)) + 1
        first = np.concatenate([[0], new])
        return Level(
            self.dataset[first],
            starts[first],
            np.minimum.reduceat(self.low, first),
            np.maximum.reduceat(self.high, first),
            np.add.reduceat(self.total, first),
            np.add.reduceat(self.count, first),
        )

    def _columns(self) -> tuple[Any, ...]:
        return self.dataset, self.stamp, self.low, self.high, self.total, self.count


def raw(samples: Samples, *, whole_seconds: bool) -> Level:
    """Ordered samples as rows."""
    stamps = samples.time_ms // 1000 * 1000 if whole_seconds else samples.time_ms
    ones = np.ones(len(samples), np.int64)
    return Level(samples.dataset.astype(np.int64), stamps, samples.value, samples.value, samples.value, ones)


def joined(levels: Iterable[Level], *, merge: int | None) -> Level:
    """Rows of several sources in one order; with ``merge``, rows that share a bucket so wide become one."""
    parts = [level for level in levels if len(level)] or [EMPTY]
    if len(parts) == 1:
        return parts[0]
    columns = zip(*(part._columns() for part in parts), strict=True)  # noqa: SLF001 - of its own kind
    whole = Level(*(np.concatenate(column) for column in columns))
    if not np.all(whole.dataset[1:] >= whole.dataset[:-1]) or not _rises(whole):
        whole = whole.at(np.lexsort((whole.stamp, whole.dataset)))
    return whole if merge is None else whole.in_buckets(merge)


def _rises(level: Level) -> bool:
    same = level.dataset[1:] == level.dataset[:-1]
    return not np.any(same & (level.stamp[1:] < level.stamp[:-1]))


_NONE = np.empty(0, np.int64)
EMPTY = Level(_NONE, _NONE, _NONE.astype(float), _NONE.astype(float), _NONE.astype(float), _NONE)
