"""From the items of a ``data-downsampled`` answer to readings. Pure and total.

Every item becomes a reading or a ``BadItem``: nothing is dropped, and nothing raises.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from operator import itemgetter
from typing import Any, Final
from uuid import UUID

import numpy as np
import numpy.typing as npt

from sync.model import kind, shortened, storable
from sync.sources.bace.values import EARLIEST, LATEST, number, unix_seconds, uuid, whole_number

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

MICROSECONDS: Final = 1e6
NO_DATASET: Final = -1
"""Where a bad item has none."""

_NUMBERS: Final = ("avg_val", "min_val", "max_val")
_FIELDS: Final = itemgetter("id_container_data_latest", "count_val", "timestamp_seconds", *_NUMBERS)
_MOST_COUNTED: Final = (1 << 31) - 1


@dataclass(frozen=True, slots=True)
class Dataset:
    """A combination of group, physical device and datatype (BACE docs, data sessions, field list)."""

    id_container_data_latest: UUID
    id_group: UUID | None
    source_device: UUID | None
    datatype: int | None


@dataclass(frozen=True, slots=True)
class BadItem:
    """An item that is no reading.

    Attributes:
        position: Which reading it would have been: bad items have a place in ``stamps`` and ``counts``, too.
        key: What tells it from others of its session.
        reason: One sentence for a person.
        payload: The item, shortened.
    """

    position: int
    key: str
    reason: str
    payload: Any


@dataclass(frozen=True, slots=True)
class Readings:
    """The items of an answer, column by column, in the order received.

    Attributes:
        stamps: Instants in microseconds since 1970; of an item without a readable one, that of the item
            before it, or else of the first that has one: no instant that the vendor did not name.
        counts: Samples behind each; 1 where that cannot be read.
        values: ``avg_val``; NaN for bad items, as in the next two.
        least: ``min_val``.
        most: ``max_val``.
        which: The dataset of each, as its place in ``datasets``; ``NO_DATASET`` for bad items.
        bad: The items that are no readings.
        datasets: What is said of the datasets that occur.
    """

    stamps: Ints
    counts: Ints
    values: Floats
    least: Floats
    most: Floats
    which: Ints
    bad: tuple[BadItem, ...]
    datasets: tuple[Dataset, ...]

    @property
    def is_mixed(self) -> bool:
        """Whether a dataset comes again after another one: rows are then not sorted by dataset."""
        which = self.which[self.which != NO_DATASET]
        return int(np.count_nonzero(np.diff(which))) >= np.unique(which).size > 0


def decode_data(items: Sequence[Any], start: int) -> Readings:
    """Read the items of one answer.

    Args:
        items: As decoded JSON.
        start: Microseconds; where the stretch that was asked for begins: the stamp of all items, where none
            has one.
    """
    return _all_at_once(items) or _one_by_one(items, start)


def _all_at_once(items: Sequence[Any]) -> Readings | None:
    """The readings, column by column, where all items are plainly as documented: nearly always; else None."""
    try:
        containers, counts, seconds, *numbers = zip(*map(_FIELDS, items), strict=True)
        if {*map(type, containers)} != {str} or {*map(type, counts)} != {int}:
            return None
        if not {*map(type, chain(seconds, *numbers))} <= {int, float}:
            return None
        counted = np.array(counts, np.int64)
        stamped, *read = np.array([seconds, *numbers], np.float64)
    except (KeyError, OverflowError, TypeError, ValueError):
        return None
    first = dict(zip(reversed(containers), reversed(items), strict=True))  # of several the first one is left
    datasets: dict[str, Dataset] = {}
    if not (
        all(_dataset(first[text], datasets) for text in dict.fromkeys(containers))
        and np.isfinite(read).all()
        and ((stamped >= EARLIEST) & (stamped < LATEST)).all()
        and ((counted > 0) & (counted <= _MOST_COUNTED)).all()
    ):
        return None
    stamps = np.rint(stamped * MICROSECONDS).astype(np.int64)
    values, least, most = read
    which, told = _told_apart(containers, datasets)
    return Readings(stamps, counted, values, least, most, which, (), told)


def _one_by_one(items: Sequence[Any], start: int) -> Readings:
    """The same for whatever items there may be."""
    stamps, counts = np.empty(len(items), np.int64), np.ones(len(items), np.int64)
    numbers = np.full((3, len(items)), np.nan)
    containers: list[str | None] = [None] * len(items)
    bad: list[BadItem] = []
    datasets: dict[str, Dataset] = {}
    stamp = next((named for named in map(_instant, items) if named is not None), start)
    for position, item in enumerate(items):
        fields = item if isinstance(item, dict) else {}
        named = _instant(item)
        stamp = stamp if named is None else named
        stamps[position] = stamp
        dataset = _dataset(fields, datasets)
        count = whole_number(fields.get("count_val"), 32)
        if count is not None and count > 0:
            counts[position] = count
        read = [number(fields.get(name)) for name in _NUMBERS]
        reason = _wrong(item, named, dataset, count, read)
        if reason is not None:
            bad.append(BadItem(position, _key(fields, stamp), reason, shortened(item)))
            continue
        numbers[:, position] = read
        containers[position] = fields["id_container_data_latest"]
    values, least, most = numbers
    which, told = _told_apart(containers, datasets)
    return Readings(stamps, counts, values, least, most, which, tuple(bad), told)


def _told_apart(
    containers: Sequence[str | None], known: Mapping[str, Dataset]
) -> tuple[Ints, tuple[Dataset, ...]]:
    """The datasets, each once, however its id is spelled; and which of them each item is of."""
    datasets: dict[UUID, Dataset] = {}
    for dataset in known.values():
        datasets.setdefault(dataset.id_container_data_latest, dataset)
    places = {key: place for place, key in enumerate(datasets)}
    which: dict[str | None, int] = {None: NO_DATASET}
    which |= {text: places[dataset.id_container_data_latest] for text, dataset in known.items()}
    return np.array([which[text] for text in containers], np.int64), tuple(datasets.values())


def _instant(item: Any) -> int | None:
    """Microseconds since 1970; None where the item names no instant."""
    seconds = unix_seconds(item.get("timestamp_seconds")) if isinstance(item, dict) else None
    return None if seconds is None else round(seconds * MICROSECONDS)


def _dataset(fields: dict[str, Any], known: dict[str, Dataset]) -> Dataset | None:
    text = fields.get("id_container_data_latest")
    if not isinstance(text, str):
        return None
    if text not in known:
        key = uuid(text)
        if key is None:
            return None
        known[text] = Dataset(
            key,
            uuid(fields.get("id_group")),
            uuid(fields.get("source_device")),
            whole_number(fields.get("datatype"), 32),
        )
    return known[text]


def _wrong(
    item: Any, named: int | None, dataset: Dataset | None, count: int | None, read: Sequence[float | None]
) -> str | None:
    """Why an item is no reading; None where it is one."""
    if not isinstance(item, dict):
        return f"a datapoint is {kind(item)} instead of an object"
    if named is None:
        return f"timestamp_seconds is {kind(item.get('timestamp_seconds'))} that names no instant"
    if dataset is None:
        return "id_container_data_latest is no UUID"
    if count is None or count <= 0:
        return "count_val is no positive whole number"
    for name, value in zip(_NUMBERS, read, strict=True):
        if value is None:
            return f"{name} is {kind(item.get(name))} instead of a number"
    return None


def _key(fields: dict[str, Any], stamp: int) -> str:
    container = fields.get("id_container_data_latest")
    named = storable(container)[:40] if isinstance(container, str) else kind(container)
    return f"{named}/{stamp}"
