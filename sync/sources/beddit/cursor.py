"""The cursor of an account's sessions, and the windows in which history is read. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Self

from sync.model import Interval, gaps
from sync.sources.beddit.settings import BedditSettings

FIRST_WIDTH = timedelta(days=30)
SMALLEST_WIDTH = timedelta(hours=6)
LARGEST_WIDTH = timedelta(days=730)
PLENTY = 60
"""Sessions in one window beyond which it is not widened: about 30 MB of JSON."""


@dataclass(frozen=True, slots=True)
class Cursor:
    """Up to where an account's changes are known. Moved by incremental passes alone.

    Attributes:
        updated_after: Unix seconds by the server's clock; everything put before has been read.
        swept_at: When a pass last looked seven days back, by our own clock.
        reads_history: Whether all history was asked for, so that ``once`` goes on reading it.
        asked_ahead: Whether nights were asked for that clocks which err have put into the future.
        walk_to: Set while the changes are read by windows because one answer cannot hold them: what
            ``updated_after`` becomes when the walk ends.
    """

    updated_after: float
    swept_at: float
    reads_history: bool = False
    asked_ahead: bool = False
    walk_to: float | None = None

    @classmethod
    def load(cls, stored: Mapping[str, Any] | None) -> Self | None:
        """The cursor as the warehouse has it."""
        return None if stored is None else cls(**stored)

    def dump(self) -> dict[str, Any]:
        """The cursor as the warehouse keeps it."""
        return asdict(self)

    def lookback(self, now: float, settings: BedditSettings) -> tuple[float, bool]:
        """Where a pass begins to read, and whether it is the daily one that looks far back."""
        sweeps = now - self.swept_at >= settings.sweep_every.total_seconds()
        overlap = settings.sweep_overlap if sweeps else settings.overlap
        return self.updated_after - overlap.total_seconds(), sweeps

    @property
    def known_until(self) -> datetime:
        """Sessions that start later are the incremental passes' business."""
        return as_time(self.updated_after if self.walk_to is None else self.walk_to)


def as_time(seconds: float) -> datetime:
    """Unix seconds as an instant."""
    return datetime.fromtimestamp(seconds, UTC)


def next_window(span: Interval, covered: Iterable[Interval], width: timedelta) -> Interval | None:
    """The newest stretch of ``span`` that was not read yet, at most ``width`` long; None when all was."""
    missing = list(gaps(span, covered))
    if not missing:
        return None
    newest = missing[-1]
    return Interval(max(newest.start, newest.end - width), newest.end)


def halves(window: Interval) -> tuple[Interval, Interval] | None:
    """The window's older and newer half; None where it is too small to ask for less."""
    width = window.end - window.start
    if width <= SMALLEST_WIDTH:
        return None
    middle = window.end - width / 2
    return Interval(window.start, middle), Interval(middle, window.end)


def next_width(width: timedelta, found: int, narrowest: timedelta) -> timedelta:
    """How long the next window may be.

    Args:
        width: How long the last one was planned.
        found: Sessions that it held.
        narrowest: The length at which it could be had, after what the server refused.
    """
    if narrowest < width:
        return narrowest
    if found == 0:
        return min(width * 4, LARGEST_WIDTH)
    return width if found > PLENTY else min(max(width, FIRST_WIDTH), LARGEST_WIDTH)
