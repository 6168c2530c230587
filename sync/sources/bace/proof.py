"""Whether a data session is complete, and when to look again. Pure.

A session is complete when every stretch of it is proven and what was stored and rejected adds up to the
number of datapoints that the source says it has. Where it does not, the source's buckets are compared with
the warehouse's, from coarse to fine, and what differs is read again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from math import isclose
from typing import Final, Literal
from uuid import UUID

from sync.sources.bace.decode import Readings
from sync.sources.bace.spans import DAY, HOUR, MINUTE, Span

Status = Literal["open", "complete", "incomplete"]

WIDTHS: Final = (DAY, HOUR, MINUTE)
"""Buckets that are compared, from coarse to fine."""

RETRIES: Final = (timedelta(days=1), timedelta(days=7), timedelta(days=30))
"""When an incomplete session is tried again, if nothing about it changes; after that, not before it does."""

TOTALS: Final = 1e-6
"""Totals that differ by no more than this part are equal: the vendor may round the averages."""

ROUNDING: Final = 1e-12
"""How much each of the values that were added can add to the error of a total, as a part of the largest."""

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

    def equals(self, other: Bucket | None) -> bool:
        """Whether both have the same samples, as far as these figures can tell."""
        # Values that cancel each other out leave a total that is nothing but rounding errors.
        rounding = ROUNDING * self.count * max(abs(self.least), abs(self.most))
        return (
            other is not None
            and (self.count, self.least, self.most) == (other.count, other.least, other.most)
            and isclose(self.total, other.total, rel_tol=TOTALS, abs_tol=rounding)
        )


Buckets = Mapping[tuple[UUID, int], Bucket]
"""By dataset and start, in microseconds."""


def buckets_of(readings: Readings, width: int) -> Buckets:
    """What an answer says of each dataset in buckets of a width; bad items are left out."""
    found: dict[tuple[UUID, int], Bucket] = {}
    starts = readings.stamps // width * width
    for position, container in enumerate(readings.containers):
        if container is None:
            continue
        count, value = int(readings.counts[position]), float(readings.values[position])
        one = Bucket(count, float(readings.least[position]), float(readings.most[position]), value * count)
        key = (container, int(starts[position]))
        found[key] = found[key] + one if key in found else one
    return found


def differences(source: Buckets, stored: Buckets, width: int) -> tuple[Span, ...]:
    """Stretches in which the two do not hold the same."""
    starts = {
        start
        for container, start in {*source, *stored}
        if not _same(source.get((container, start)), stored.get((container, start)))
    }
    return tuple(Span(start, start + width) for start in sorted(starts))


def _same(one: Bucket | None, other: Bucket | None) -> bool:
    return one is None if other is None else other.equals(one)


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
) -> Verdict:
    """The verdict on a final session whose every stretch is proven.

    Args:
        expected: ``datapoint_count``.
        loaded: Datapoints stored.
        rejected: Datapoints that could not become rows.
        attempts: Verdicts on this version of the session before this one.
        now: The time.
        ended_at: When the session ended.
    """
    if expected == loaded + rejected:
        recent = ended_at is not None and now - ended_at < RECENT
        look_again = now + LATE_CHECK if recent and attempts == 0 else None
        return Verdict("complete", None, attempts + 1, look_again)
    return unproven(_shortfall(expected, loaded, rejected), attempts, now)


def unproven(reason: str, attempts: int, now: datetime) -> Verdict:
    """The verdict on a session that could not be read, or does not add up."""
    wait = RETRIES[attempts] if attempts < len(RETRIES) else None
    return Verdict("incomplete", reason, attempts + 1, None if wait is None else now + wait)


def still_open(news_at: datetime, now: datetime) -> Verdict:
    """The verdict on a session that is not final: the longer it is silent, the rarer it is asked for."""
    silent = now - news_at
    wait = next((every for limit, every in PATIENCE if silent < limit), WEEKLY)
    return Verdict("open", None, 0, now + wait)


def _shortfall(expected: int | None, loaded: int, rejected: int) -> str:
    found = f"{loaded} are stored and {rejected} were rejected"
    if expected is None:
        return f"the source does not say how many datapoints it has; {found}"
    if loaded + rejected < expected:
        return f"the source says {expected} datapoints and serves fewer: {found}"
    return f"the source says {expected} datapoints and serves, or once served, more: {found}"
