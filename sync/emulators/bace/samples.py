"""What devices measured: datasets and their samples, as parallel arrays."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final
from uuid import NAMESPACE_URL, uuid5

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Array = npt.NDArray[Any]

NEVER_LATE: Final = np.iinfo(np.int64).min


def identifier(*parts: object) -> str:
    """A UUID that follows from its parts."""
    return str(uuid5(NAMESPACE_URL, "/".join(map(str, ("bace", *parts)))))


@dataclass(frozen=True, slots=True, order=True)
class Dataset:
    """A combination of group, physical device and datatype (BACE docs, Data Sessions).

    Attributes:
        id_container_data_latest: UUID of the combination.
        id_group: UUID of the group.
        source_device: UUID of the physical device.
        datatype: Numeric code of what is measured.
    """

    id_container_data_latest: str
    id_group: str
    source_device: str
    datatype: int

    @classmethod
    def of(cls, group: str, device: str, datatype: int) -> Dataset:
        """The dataset of a group, a device and a datatype; its UUID follows from them."""
        return cls(identifier("dataset", group, device, datatype), group, device, datatype)


Point = tuple[Dataset, float, float]
"""A dataset, Unix seconds, a value."""


@dataclass(frozen=True, slots=True, eq=False)
class Samples:
    """Samples as parallel arrays.

    Attributes:
        datasets: What ``dataset`` points to.
        dataset: For each sample, the position of its dataset.
        time_ms: Unix milliseconds, on the device's clock.
        value: The value; NaN is answered as null.
        arrives_ms: Unix milliseconds at which the service gets the sample; None: at once.
    """

    datasets: tuple[Dataset, ...]
    dataset: npt.NDArray[np.integer[Any]]
    time_ms: Ints
    value: Floats
    arrives_ms: Ints | None = None

    def __len__(self) -> int:
        return len(self.time_ms)

    @classmethod
    def of(cls, points: Iterable[Point], *, arrives: float | None = None) -> Samples:
        """Samples from (dataset, Unix seconds, value), which all arrive at once or at one instant."""
        listed = list(points)
        positions: dict[Dataset, int] = {}
        index = [positions.setdefault(dataset, len(positions)) for dataset, _, _ in listed]
        return cls(
            datasets=tuple(positions),
            dataset=np.array(index, dtype=np.int64),
            time_ms=np.array([round(time * 1000) for _, time, _ in listed], dtype=np.int64),
            value=np.array([value for _, _, value in listed], dtype=np.float64),
            arrives_ms=None if arrives is None else np.full(len(listed), round(arrives * 1000), np.int64),
        )

    def arriving(self, at_ms: int) -> Samples:
        """The same samples, arriving at one instant."""
        return Samples(
            self.datasets, self.dataset, self.time_ms, self.value, np.full(len(self), at_ms, np.int64)
        )

    def where(self, mask: Bools) -> Samples:
        """Those samples that a mask selects."""
        arrives = None if self.arrives_ms is None else self.arrives_ms[mask]
        return Samples(self.datasets, self.dataset[mask], self.time_ms[mask], self.value[mask], arrives)

    def ordered(self) -> Samples:
        """The same samples by dataset (in the order of their UUIDs) and time; equal instants as they were."""
        order_of_sets = sorted(range(len(self.datasets)), key=lambda i: self.datasets[i])
        rank = np.empty(len(order_of_sets), np.int64)
        rank[order_of_sets] = np.arange(len(order_of_sets))
        dataset = rank[self.dataset] if len(rank) else self.dataset.astype(np.int64)
        order = np.lexsort((self.time_ms, dataset))
        arrives = None if self.arrives_ms is None else self.arrives_ms[order]
        return Samples(
            tuple(self.datasets[i] for i in order_of_sets),
            dataset[order],
            self.time_ms[order],
            self.value[order],
            arrives,
        )

    def and_also(self, other: Samples) -> Samples:
        """These samples and others."""
        positions = {dataset: i for i, dataset in enumerate(self.datasets)}
        moved = [positions.setdefault(dataset, len(positions)) for dataset in other.datasets]
        theirs = np.array(moved, dtype=np.int64)[other.dataset] if moved else other.dataset
        arrives = None
        if self.arrives_ms is not None or other.arrives_ms is not None:
            arrives = np.concatenate([_arrivals(self), _arrivals(other)])
        return Samples(
            tuple(positions),
            np.concatenate([self.dataset.astype(np.int64), theirs.astype(np.int64)]),
            np.concatenate([self.time_ms, other.time_ms]),
            np.concatenate([self.value, other.value]),
            arrives,
        )

    def arrived(self, now_ms: int) -> Bools:
        """Which samples the service has at an instant."""
        mask: Bools = self.time_ms <= now_ms
        return mask if self.arrives_ms is None else mask & (self.arrives_ms <= now_ms)

    def settled_ms(self) -> int:
        """The instant from which the service has them all."""
        latest = int(self.time_ms.max(initial=NEVER_LATE))
        return (
            latest if self.arrives_ms is None else max(latest, int(self.arrives_ms.max(initial=NEVER_LATE)))
        )


NOTHING: Final = Samples((), np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float64))


def _arrivals(samples: Samples) -> Ints:
    if samples.arrives_ms is None:
        return np.full(len(samples), NEVER_LATE, np.int64)
    return samples.arrives_ms
