"""Whether a data session is complete, and when to look again. Pure.

A session is complete when every stretch of it is proven and what was stored and rejected adds up to the
number of datapoints that the source says it has. Where it does not, the source's buckets are compared with
the warehouse's, from coarse to fine, and what differs is read again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from math import ceil, isclose, log10
from typing import Final, Literal
from uuid import UUID

from sync.sources.bace.decode import NO_DATASET, Readings
from sync.sources.bace.spans import DAY, HOUR, MINUTE, Span

Status = Literal["open", "complete", "incomplete"]

WIDTHS: Final = (DAY, HOUR, MINUTE)
"""Buckets that are compared, from coarse to fine."""

RETRIES: Final = (timedelta(days=1), timedelta(days=7), timedelta(days=30))
"""When a session that is incomplete, or of which something was rejected, is tried again, if nothing about it
changes; after that, not before it does."""

TOTALS: Final = 1e-6
"""Totals that differ by no more than this part are equal: the vendor may round the averages."""

ROUNDING: Final = 1e-12
"""How much each of the values that were added can add to the error of a total, as a part of the largest."""

NOISE: Final = 1e-9
"""By what part two averages that are the same number may differ, and how near a power of ten is one."""

LOST: Final = "the source serves fewer datapoints than it once did; those that were stored stay"
"""Why a session is incomplete of which the source has lost some."""

RECENT: Final = timedelta(days=7)
LATE_CHECK: Final = timedelta(days=1)
"""A session that ended recently is compared once more: late data need not change its row."""

PATIENCE: Final = (
    (timedelta(days=1), timedelta()),
    (timedelta(days=7), timedelta(hours=1)),
    (timedelta(days=30), timedelta(days=1)),
)
"""How long after its last news a session that is not final is asked for how often; later, weekly."""
WEEKLY: Final = timedelta(days=7)


@dataclass(frozen=True, slots=True)
class Bucket:
    """What is known of one dataset in one stretch."""

    count: int
    least: float
    most: float
    total: float

    def __add__(self, other: Bucket) -> Bucket:
        return Bucket(
            self.count + other.count,
            min(self.least, other.least),
            max(self.most, other.most),
            self.total + other.total,
        )

    def equals(self, other: Bucket | None, rounding: float | None = None) -> bool:
        """Whether both have the same samples, as far as these figures can tell.

        Args:
            other: The other one.
            rounding: By how much the vendor rounds an average at most; None: unknown.
        """
        # Values that cancel each other out leave a total that is nothing but rounding errors.
        error = ROUNDING * self.count * max(abs(self.least), abs(self.most))
        return (
            other is not None
            and (self.count, self.least, self.most) == (other.count, other.least, other.most)
            and isclose(
                self.total,
                other.total,
                rel_tol=TOTALS if rounding is None else 0.0,
                abs_tol=error + self.count * (rounding or 0.0),
            )
        )

    def holds(self, other: Bucket | None) -> bool:
        """Whether the other one may be what is left of this one, as far as these figures can tell."""
        return other is None or (
            other.count < self.count and self.least <= other.least and other.most <= self.most
        )


Buckets = Mapping[tuple[UUID, int], Bucket]
"""By dataset and start, in microseconds."""


def buckets_of(readings: Readings, width: int) -> Buckets:
    """What an answer says of each dataset in buckets of a width; bad items are left out."""
    found: dict[tuple[UUID, int], Bucket] = {}
    starts = readings.stamps // width * width
    for position, which in enumerate(readings.which.tolist()):
        if which == NO_DATASET:
            continue
        container = readings.datasets[which].id_container_data_latest
        count, value = int(readings.counts[position]), float(readings.values[position])
        one = Bucket(count, float(readings.least[position]), float(readings.most[position]), value * count)
        key = (container, int(starts[position]))
        found[key] = found[key] + one if key in found else one
    return found


def differences(
    source: Buckets, stored: Buckets, width: int, rounding: float | None = None
) -> tuple[Span, ...]:
    """Stretches in which the two do not hold the same; ``rounding`` as of ``Bucket.equals``."""
    starts = {start for _, start in unequal(source, stored, rounding)}
    return tuple(Span(start, start + width) for start in sorted(starts))


def unequal(source: Buckets, stored: Buckets, rounding: float | None = None) -> set[tuple[UUID, int]]:
    """The dataset and the start of each bucket that is not the same in both."""
    return {
        place for place in {*source, *stored} if not _same(source.get(place), stored.get(place), rounding)
    }


def _same(one: Bucket | None, other: Bucket | None, rounding: float | None) -> bool:
    return one is None if other is None else other.equals(one, rounding)


@dataclass(slots=True)
class Rounding:
    """How the vendor rounds averages, so far as it is proved.

    Few decimal places prove nothing: the average of whole numbers may have none, and be exact. What proves
    it is an average that is not that of its samples, though these are known.

    Attributes:
        error: By how much an average is off at most.
    """

    error: float = 0.0

    def learn(self, source: Buckets, stored: Buckets) -> None:
        """Look at buckets that are known to hold the same samples."""
        for place, one in source.items():
            other = stored.get(place)
            if other is not None and not one.equals(other, self.error):
                self.error = max(self.error, rounded_by(one, other))


def rounded_by(one: Bucket, exact: Bucket) -> float:
    """By how much averages are off that are rounded like this one; 0 where rounding explains nothing."""
    average, off = one.total / one.count, abs(one.total - exact.total) / one.count
    if off == 0 or not one.equals(exact, off):
        return 0.0
    places = -ceil(log10(2 * off) - NOISE)
    if places < 0 or not isclose(average, round(average, places), rel_tol=NOISE):
        return 0.0
    return 0.5 * 10.0**-places


def is_as_fine_as(readings: Readings, width: int) -> bool:
    """Whether an answer tells buckets of a width apart: its rows do not all lie on the next wider ones."""
    wider = min((other for other in WIDTHS if other > width), default=None)
    return wider is None or not readings.stamps.size or bool((readings.stamps % wider).any())


@dataclass(frozen=True, slots=True)
class Verdict:
    """What comparing a session with its source came to.

    Attributes:
        status: As in ``bace.data_sessions``.
        reason: Why it is not complete, with numbers.
        attempts: Comparisons of this version of the session so far.
        next_check_at: When to look again; None: when its row changes.
    """

    status: Status
    reason: str | None
    attempts: int
    next_check_at: datetime | None


def judge(
    *,
    expected: int | None,
    loaded: int,
    rejected: int,
    attempts: int,
    now: datetime,
    ended_at: datetime | None,
    hopeful: bool = False,
) -> Verdict:
    """The verdict on a final session whose every stretch is proven.

    Args:
        expected: ``datapoint_count``.
        loaded: Datapoints stored.
        rejected: Datapoints that could not become rows.
        attempts: Verdicts on this version of the session before this one.
        now: The time.
        ended_at: When the session ended.
        hopeful: Whether the vendor may still mend what was rejected.
    """
    if expected == loaded + rejected:
        recent = ended_at is not None and now - ended_at < RECENT
        late = now + LATE_CHECK if recent and attempts == 0 else None
        return Verdict("complete", None, attempts + 1, _retry(attempts, now) if hopeful else late)
    return unproven(_shortfall(expected, loaded, rejected), attempts, now)


def unproven(reason: str, attempts: int, now: datetime) -> Verdict:
    """The verdict on a session that could not be read, or does not add up."""
    return Verdict("incomplete", reason, attempts + 1, _retry(attempts, now))


def still_open(news_at: datetime, now: datetime) -> Verdict:
    """The verdict on a session that is not final: the longer it is silent, the rarer it is asked for."""
    silent = now - news_at
    wait = next((every for limit, every in PATIENCE if silent < limit), WEEKLY)
    return Verdict("open", None, 0, now + wait)


def _retry(attempts: int, now: datetime) -> datetime | None:
    return now + RETRIES[attempts] if attempts < len(RETRIES) else None


def _shortfall(expected: int | None, loaded: int, rejected: int) -> str:
    found = f"{loaded} are stored and {rejected} were rejected"
    if expected is None:
        return f"the source does not say how many datapoints it has; {found}"
    if loaded + rejected < expected:
        return f"the source says {expected} datapoints and serves fewer: {found}"
    return f"the source says {expected} datapoints and serves, or once served, more: {found}"
