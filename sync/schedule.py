"""When work is due: ``15m`` (so often) or ``30 3 * * *`` (a crontab line), both in UTC.

Times are counted from the epoch, not from the start of a process: all processes agree on when a cycle began
without a word between them, and a restart neither repeats one nor leaves one out.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Final

from apscheduler.triggers.base import BaseTrigger
from apscheduler.triggers.cron import CronTrigger
from apscheduler.triggers.interval import IntervalTrigger

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_INSTANT: Final = timedelta(microseconds=1)
_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_INTERVAL: Final = re.compile(r"(\d{1,6})\s*([smhdw])")
_NUMBER: Final = re.compile(r"(?<![/\d])\d")
_LONGEST: Final = timedelta(days=366)
_RAREST: Final = timedelta(days=366 * 8)
"""A 29th of February may be eight years after the last one."""


@dataclass(frozen=True)
class Schedule:
    """When work is due.

    Attributes:
        text: As a person writes it.

    Raises:
        ValueError: The text is neither an interval nor a crontab line; says what is expected.
    """

    text: str

    def __post_init__(self) -> None:
        if self._times().get_next_fire_time(None, datetime.now(UTC)) is None:
            raise ValueError("should come sometimes: there is no such day")

    def trigger(self, jitter: timedelta = timedelta()) -> BaseTrigger:
        """For the scheduler: a random moment within ``jitter`` after each time that is due.

        At most a tenth of an interval, so that one cycle never runs into the next.
        """
        most = jitter if self.interval is None else min(jitter, self.interval / 10)
        return _Spread(self._times(), most)

    @cached_property
    def interval(self) -> timedelta | None:
        """The interval; None for a crontab line."""
        if not (found := _INTERVAL.fullmatch(self.text.strip())):
            return None
        interval = timedelta(**{_UNITS[found[2]]: int(found[1])})
        if not timedelta() < interval <= _LONGEST:
            raise ValueError("should be longer than nothing and at most a year")
        return interval

    def last(self, now: datetime, *, cycles: int = 1) -> datetime:
        """The beginning of the cycle that ``now`` is in, or of the one so many cycles ago.

        A schedule whose times all lie ahead has its last one at the epoch.
        """
        if self.interval is not None:
            return _EPOCH + ((now - _EPOCH) // self.interval - (cycles - 1)) * self.interval
        trigger, before = self._times(), now + _INSTANT
        for _ in range(cycles):
            before = _last_before(trigger, before)
        return before

    def _times(self) -> BaseTrigger:
        if self.interval is None:
            return _cron(self.text)
        seconds = int(self.interval.total_seconds())
        return IntervalTrigger(seconds=seconds, start_date=_EPOCH, timezone=UTC)


class _Spread(BaseTrigger):  # type: ignore[misc]
    """Comes a little after another trigger. APScheduler's own jitter adds up from one time to the next."""

    def __init__(self, times: BaseTrigger, most: timedelta) -> None:
        self._times, self._most = times, most

    def get_next_fire_time(self, previous_fire_time: datetime | None, now: datetime) -> datetime | None:
        """The next time, spread; never the previous one again, where that is this very microsecond."""
        start = now if previous_fire_time is None else max(now, previous_fire_time + _INSTANT)
        found: datetime | None = self._times.get_next_fire_time(None, start)
        return found and found + random.random() * self._most  # noqa: S311 - nobody gains by guessing it


def _last_before(trigger: BaseTrigger, end: datetime) -> datetime:
    """The trigger's last time before an instant: crontab lines only know how to look ahead."""
    reach = timedelta(minutes=1)
    while (found := trigger.get_next_fire_time(None, end - reach)) is None or found >= end:
        if reach == _RAREST:
            return _EPOCH
        reach = min(2 * reach, _RAREST)
    while (following := trigger.get_next_fire_time(found, found + _INSTANT)) is not None and following < end:
        found = following
    return found  # type: ignore[no-any-return]


def _cron(text: str) -> CronTrigger:
    fields = text.split()
    if len(fields) != 5:
        raise ValueError("should be an interval such as 30s, 15m, 6h or 1d, or a crontab line of five fields")
    if _NUMBER.search(fields[4]):
        raise ValueError(
            "should name the days of the week: mon, tue-fri (0 is Sunday to some, Monday to others)"
        )
    if fields[2] != "*" and fields[4] != "*":
        raise ValueError("should say either the day of the month or the day of the week, not both")
    try:
        return CronTrigger.from_crontab(text, timezone=UTC)
    except ValueError as error:
        raise ValueError(f"is no crontab line ({error})") from None
