"""A synthetic account from a seed: groups, devices, persons and their data sessions.

Nothing is recorded data, and nothing is kept: a session is a few numbers, its samples are computed when
somebody asks. Codes and cadences follow the documents' examples as far as there are any.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from functools import partial
from typing import Any, Final

import numpy as np

from sync.emulators.bace.samples import Dataset, Floats, Ints, Samples, identifier
from sync.emulators.bace.sessions import CREATION_LAG, INGESTION_LAG, DataSession

DAY: Final = 86_400
PULSE_RATE: Final = 6000
RESPIRATORY_RATE: Final = 6001
OXYGEN_SATURATION: Final = 6002
BODY_WEIGHT: Final = 6011
BATTERY_VOLTAGE: Final = 5205

BATTERY_EVERY: Final = 300
BATTERY_OFFSET_MS: Final = 46_995
"""From a session's start to the first battery sample (BACE docs, Data Sessions, example)."""
_UPLOAD_MS: Final = 30_000
"""Devices send what they measured in batches, so often."""
_DROPPED: Final = 50
"""One vital sign in so many is lost."""


class Kind(StrEnum):
    """What a device measures."""

    VITALS = "vitals"
    BATTERY = "battery"
    SCALE = "scale"
    MIXED = "mixed"


_VITALS: Final = (PULSE_RATE, RESPIRATORY_RATE, OXYGEN_SATURATION)
_DATATYPES: Final = {
    Kind.VITALS: _VITALS,
    Kind.BATTERY: (BATTERY_VOLTAGE,),
    Kind.SCALE: (BODY_WEIGHT,),
    Kind.MIXED: (*_VITALS, BATTERY_VOLTAGE, BODY_WEIGHT),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """Some devices and the sessions that they made.

    Equal arguments give equal sessions, with one version of numpy. The first sessions of a longer fleet are
    those of a shorter one.

    Attributes:
        seed: Where all chance comes from.
        sessions: How many sessions there are.
        first_start: Unix seconds before which nothing happens.
        kinds: What the devices measure, in turn.
        devices: How many devices there are; each makes one session a day.
        groups: How many groups the devices belong to.
        persons: How many people use them.
        hours: The shortest and the longest session.
        rate: Vital signs per second, while there are any.
        burst: Seconds for which vital signs come without a pause, on average; never paused if ``gap`` is 0.
        gap: Seconds of a pause, on average.
        clock_error: Devices' clocks are wrong by up to so many seconds (60 at most), so that samples lie
            outside their session.
        unfinished: One session in so many never gets past ingestion; 0: none.
        archived: One session in so many is archived a day after its end; 0: none.
    """

    seed: int = 1
    sessions: int = 30
    first_start: int = 1_646_000_000
    kinds: tuple[Kind, ...] = (Kind.MIXED, Kind.VITALS, Kind.BATTERY, Kind.SCALE)
    devices: int = 12
    groups: int = 3
    persons: int = 8
    hours: tuple[float, float] = (0.1, 8.5)
    rate: float = 1.0
    burst: float = 1200.0
    gap: float = 600.0
    clock_error: float = 0.0
    unfinished: int = 0
    archived: int = 0

    def group(self, number: int) -> str:
        """UUID of a group."""
        return identifier(self.seed, "group", number)

    def device(self, number: int) -> str:
        """UUID of a device."""
        return identifier(self.seed, "device", number)

    def datasets(self, device: int) -> tuple[Dataset, ...]:
        """What a device measures."""
        group = self.group(device % self.groups)
        kind = self.kinds[device % len(self.kinds)]
        return tuple(Dataset.of(group, self.device(device), datatype) for datatype in _DATATYPES[kind])

    def __len__(self) -> int:
        return self.sessions

    def __iter__(self) -> Iterator[DataSession]:
        """All sessions; their samples are not computed."""
        chances = self._chances()
        datasets = [self.datasets(device) for device in range(self.devices)]
        for number, (length, delay, person) in enumerate(zip(*chances, strict=True)):
            yield self._session(number, length, delay, person, datasets[number % self.devices])

    def _chances(self) -> tuple[list[float], list[float], list[float]]:
        length, delay, person = (
            np.random.default_rng((self.seed, which)).random(self.sessions).tolist() for which in range(3)
        )
        return length, delay, person

    def _session(
        self, number: int, length: float, delay: float, person: float, datasets: tuple[Dataset, ...]
    ) -> DataSession:
        shortest, longest = self.hours
        seconds = round(3600 * shortest * (longest / shortest) ** length)
        day, device = divmod(number, self.devices)
        latest = max(DAY - 3600 * longest - 2 * INGESTION_LAG, 0)
        start = self.first_start + day * max(DAY, round(3600 * longest) + 1000) + int(delay * latest)
        measured = _Measured(fleet=self, number=number, start=start, seconds=seconds, datasets=datasets)
        opened = datetime.fromtimestamp(start, UTC)
        end = start + seconds
        return DataSession(
            id=identifier(self.seed, "session", number),
            group=datasets[0].id_group,
            person=None if person < 0.3 else identifier(self.seed, "person", int(person * self.persons)),
            label=f"BACE Go {device:03} {opened:%Y-%m-%d %H:%M}",
            start=start,
            end=end,
            created_at=start + CREATION_LAG,
            ingested_at=None if _one_in(self.unfinished, number) else end + INGESTION_LAG,
            archived_at=end + DAY if _one_in(self.archived, number) else None,
            samples=measured.samples,
            datasets=datasets,
            total=measured.total,
            device=self.device(device),
        )


def _one_in(many: int, number: int) -> bool:
    return many > 0 and number % many == many - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class _Measured:
    """What a session's devices measure."""

    fleet: Fleet
    number: int
    start: int
    seconds: int
    datasets: tuple[Dataset, ...]

    def total(self) -> int:
        """How many samples there are."""
        vitals = sum(count - count // _DROPPED for _, count in self._bursts())
        return sum(
            vitals if dataset.datatype in _VITALS else len(self._sparse(dataset.datatype))
            for dataset in self.datasets
        )

    def samples(self) -> Samples:
        """All samples."""
        columns = [self._column(position) for position in range(len(self.datasets))]
        times = np.concatenate([times for times, _ in columns])
        error = self.fleet.clock_error * 1000
        shift = round(float(self._rng("clock").uniform(-error, error))) if error else 0
        return Samples(
            self.datasets,
            np.repeat(np.arange(len(columns)), [len(times) for times, _ in columns]),
            times + shift,
            np.concatenate([values for _, values in columns]),
            (times // _UPLOAD_MS + 1) * _UPLOAD_MS,
        )

    def _rng(self, purpose: str) -> np.random.Generator:
        return np.random.default_rng((self.fleet.seed, self.number, *purpose.encode()))

    def _column(self, position: int) -> tuple[Ints, Floats]:
        datatype = self.datasets[position].datatype
        rng = self._rng(f"values {datatype}")
        times = self._dense(rng) if datatype in _VITALS else self._sparse(datatype)
        return times, _VALUES[datatype](rng, times)

    def _bursts(self) -> list[tuple[float, int]]:
        """When vital signs come without a pause (seconds from the start) and how many."""
        fleet, rng = self.fleet, self._rng("bursts")
        if not fleet.gap:
            return [(0.0, int(self.seconds * fleet.rate))]
        expected = int(self.seconds / (fleet.burst + fleet.gap)) + 1
        lengths = rng.exponential((fleet.burst, fleet.gap), (2 * expected + 10, 2))
        ends = np.cumsum(lengths).reshape(-1, 2)
        begins = np.concatenate([[0.0], ends[:-1, 1]])
        lasts = np.minimum(ends[:, 0], self.seconds) - begins
        counts = np.maximum(lasts * fleet.rate, 0).astype(int)
        return [
            (begin, count) for begin, count in zip(begins.tolist(), counts.tolist(), strict=True) if count
        ]

    def _dense(self, rng: np.random.Generator) -> Ints:
        parts = []
        for begin, count in self._bursts():
            lost = rng.choice(count, count // _DROPPED, replace=False, shuffle=False)
            beats = np.delete(np.arange(count), lost)
            jitter = rng.uniform(0.05, 0.6, len(beats))
            parts.append(np.floor((begin + (beats + jitter) / self.fleet.rate) * 1000).astype(np.int64))
        return 1000 * self.start + (np.concatenate(parts) if parts else np.empty(0, np.int64))

    def _sparse(self, datatype: int) -> Ints:
        last = self.seconds * 1000
        if datatype == BATTERY_VOLTAGE:
            offsets = np.arange(BATTERY_OFFSET_MS, last, BATTERY_EVERY * 1000, dtype=np.int64)
        else:
            rng = self._rng("weighing")
            offsets = np.unique(rng.integers(0, last, int(rng.integers(1, 4))))
        return 1000 * self.start + offsets


def _wandering(
    rng: np.random.Generator, times: Ints, *, around: float, by: float, noise: float, grid: float
) -> Floats:
    """Values that drift within minutes and hours, on a grid; some of them are whole numbers."""
    seconds = (times - times[:1].sum()) / 1000
    phases = rng.uniform(0, 2 * np.pi, 2)
    drift = np.sin(seconds / 2700 + phases[0]) + 0.5 * np.sin(seconds / 410 + phases[1])
    values = rng.normal(around, by) + by * drift + rng.normal(0, noise, len(times))
    on_grid: Floats = np.round(np.round(values / grid) * grid, 3)
    return on_grid


def _oxygen(rng: np.random.Generator, times: Ints) -> Floats:
    return np.clip(_wandering(rng, times, around=96.5, by=0.8, noise=0.5, grid=1), 70, 100)


def _voltage(rng: np.random.Generator, times: Ints) -> Floats:
    hours = (times - times[:1].sum()) / 3_600_000
    voltage: Floats = np.round(rng.uniform(3.9, 4.15) - 0.05 * hours, 2)
    return voltage


_VALUES: Final[dict[int, Any]] = {
    PULSE_RATE: partial(_wandering, around=62, by=5, noise=1.5, grid=0.5),
    RESPIRATORY_RATE: partial(_wandering, around=14.5, by=1.2, noise=0.4, grid=0.1),
    OXYGEN_SATURATION: _oxygen,
    BODY_WEIGHT: partial(_wandering, around=74, by=0.2, noise=0.1, grid=0.1),
    BATTERY_VOLTAGE: _voltage,
}
