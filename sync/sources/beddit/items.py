"""The items of a time-value track: pairs of numbers, and what is none. Pure and total.

Few of a long track's items are Python objects at a time: as objects they take twenty times their JSON.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from sync.model import kind
from sync.sources.beddit.split import ArraySplitter
from sync.sources.beddit.values import finite, plain

ABSOLUTE_FROM = 1e9
"""Seconds: no night is 31 years long, so an item time above this can only be a Unix time."""

EARLIEST, LATEST = -62_135_510_400.0, 253_402_300_800.0
"""Unix seconds of the years 1 and 10000: what PostgreSQL and Python both can name.

Not the very first day, whose first moment asyncpg takes for minus infinity.
"""

SLICE = 1 << 20
"""Bytes of items that are decoded together; a real night has half as many in all."""

Fault: TypeAlias = Callable[[int, str, Any], None]
"""Is told of an item that is no pair: its index, the reason, and the item."""

_NUMBERS = msgspec.json.Decoder(list[float])
_IN_NUMBERS = b"+-.0123456789eE \t\r\n"


@dataclass(frozen=True, slots=True)
class Items:
    """A track's good items.

    Attributes:
        count: How many there were, those that are none included.
        offsets: Their times as received: seconds.
        values: Their values.
        indexes: Their places in the answer; None where all were good.
    """

    count: int
    offsets: NDArray[np.float64]
    values: NDArray[np.float64]
    indexes: NDArray[np.int32] | None

    @property
    def absolute(self) -> NDArray[np.bool_]:
        """Which times are Unix times."""
        return self.offsets > ABSOLUTE_FROM


def read_items(raw: Any, start: float, fault: Fault) -> Items:
    """Read a track's items.

    Args:
        raw: A JSON array, or the list that it was decoded to.
        start: The session's start in Unix seconds, for telling which times can be named.
        fault: Is told of every item that is not two finite numbers.
    """
    count = 0
    good: list[tuple[NDArray[Any], NDArray[Any]]] = []
    for part in _slices(raw):
        pairs = _pairs(part, start)
        if pairs is None:
            items = plain(part)
            pairs, indexes = _pick(items, count, start, fault)
        else:
            items, indexes = pairs, np.arange(count, count + len(pairs), dtype=np.int32)
        good.append((pairs, indexes))
        count += len(items)
    pairs = np.concatenate([np.empty((0, 2)), *(pairs for pairs, _ in good)])
    indexes = np.concatenate([np.empty(0, np.int32), *(indexes for _, indexes in good)])
    return Items(count, pairs[:, 0].copy(), pairs[:, 1].copy(), None if len(indexes) == count else indexes)


def _slices(raw: Any) -> Iterator[Any]:
    """The array in parts of about ``SLICE`` bytes, each an array of its own."""
    if not isinstance(raw, msgspec.Raw) or len(memoryview(raw)) <= SLICE:
        yield raw
        return
    whole = memoryview(raw)
    splitter = ArraySplitter(cap=len(whole))
    for begin in range(0, len(whole), SLICE):
        if elements := splitter.feed(bytes(whole[begin : begin + SLICE])):
            yield msgspec.Raw(b"[%b]" % b",".join(elements))


def _pairs(raw: Any, start: float) -> NDArray[np.float64] | None:
    """The items as two columns; None where there are none, or they are not all pairs of finite numbers.

    Whether they are pairs is seen by what is left without their numbers. The numbers are then decoded as one
    list, for an object for each pair takes longer than all the rest.
    """
    if not isinstance(raw, msgspec.Raw):
        return None
    text = bytes(raw)
    frame = text.translate(None, _IN_NUMBERS)
    count = len(frame) // len(b"[,],")
    if not count or frame != b"[%b]" % (b"[,]," * count)[:-1]:
        return None
    try:
        numbers = _NUMBERS.decode(b"[%b]" % text.translate(None, b"[]"))
    except msgspec.DecodeError:
        return None
    pairs = np.fromiter(numbers, np.float64, 2 * count).reshape(-1, 2)
    return pairs if np.isfinite(pairs).all() and _nameable(pairs[:, 0], start).all() else None


def _pick(
    items: list[Any], first: int, start: float, fault: Fault
) -> tuple[NDArray[np.float64], NDArray[np.int32]]:
    """The good ones among items, and their indexes."""
    kept: list[tuple[float, float]] = []
    indexes: list[int] = []
    for index, item in enumerate(items, start=first):
        reason = _fault(item, start)
        if reason is None:
            kept.append((float(item[0]), float(item[1])))
            indexes.append(index)
        else:
            fault(index, reason, item)
    return np.array(kept, np.float64).reshape(-1, 2), np.array(indexes, np.int32)


def _fault(item: Any, start: float) -> str | None:
    """Why an item cannot be a row; None if it can."""
    if not isinstance(item, list):
        return f"an item is {kind(item)}, not a [time, value] pair"
    if len(item) != 2:
        return f"an item has {len(item)} elements, not 2"
    time, value = (finite(part) for part in item)
    if time is None or value is None:
        return "an item is not two finite numbers"
    if not _nameable(np.array([time]), start)[0]:
        return "an item's time is out of range"
    return None


def _nameable(offsets: NDArray[np.float64], start: float) -> NDArray[np.bool_]:
    seconds = np.where(offsets > ABSOLUTE_FROM, offsets, start + offsets)
    return (seconds >= EARLIEST) & (seconds < LATEST)
