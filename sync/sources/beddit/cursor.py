"""The cursor of an account's sessions, and the windows in which history is read. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Self

from sync.model import Interval, gaps, union
from sync.sources.beddit.lengths import Lengths
from sync.sources.beddit.settings import BedditSettings

FIRST_WIDTH = timedelta(days=30)
SMALLEST_WIDTH = timedelta(hours=6)
LARGEST_WIDTH = timedelta(days=730)
PLENTY = 60
"""Sessions in one window beyond which it is not widened: about 30 MB of JSON."""

PATIENCE = 8
"""Smallest parts in a row that are asked for in vain before windows are not divided any more."""

HOUR, DAY = 3_600.0, 86_400.0

RETRY_AFTER = (HOUR, DAY, 7 * DAY, 30 * DAY)
"""Seconds until a session of which something was rejected is listed again; after the last one, no more."""

MOST_SPOILT = 100
"""Sessions that are listed again; of more, the newest."""


@dataclass(frozen=True, slots=True)
class Spoilt:
    """A session of which something was rejected: the vendor may mend it without a new stamp.

    Attributes:
        start: Its id, which by the documents is its start in whole Unix seconds.
        tried: How often it was listed again.
        due_at: When it is the next time, by our own clock.
    """

    start: int
    tried: int
    due_at: float


@dataclass(frozen=True, slots=True)
class Cursor:
    """Up to where an account's changes are known. Moved by incremental passes alone.

    Attributes:
        updated_after: Unix seconds by the server's clock; everything put before has been read.
        swept_at: When a pass last looked seven days back, by our own clock.
        reads_history: Whether all history was asked for, so that ``once`` goes on reading it.
        ahead_from: From where on nights of the future were not asked for yet; None when they were.
        walk_to: Set while the changes are read by windows because one answer cannot hold them: what
            ``updated_after`` becomes when the walk ends.
        owed: Unix seconds from and to: stretches of history that no answer could be had for. Every run asks
            for them again.
        spoilt: Sessions to list again.
    """

    updated_after: float
    swept_at: float
    reads_history: bool = False
    ahead_from: float | None = None
    walk_to: float | None = None
    owed: tuple[tuple[float, float], ...] = ()
    spoilt: tuple[Spoilt, ...] = ()

    @classmethod
    def load(cls, stored: Mapping[str, Any] | None) -> Self | None:
        """The cursor as the warehouse has it."""
        if stored is None:
            return None
        owed = tuple((start, end) for start, end in stored["owed"])
        return cls(**{**stored, "owed": owed, "spoilt": tuple(Spoilt(**one) for one in stored["spoilt"])})

    def dump(self) -> dict[str, Any]:
        """The cursor as the warehouse keeps it."""
        return asdict(self)

    def is_sweep(self, now: float, settings: BedditSettings) -> bool:
        """Whether it is time for the daily pass that looks far back."""
        return now - self.swept_at >= settings.sweep_every.total_seconds()

    def lookback(self, now: float, settings: BedditSettings) -> tuple[float, bool]:
        """Where a pass begins to read, and whether it is the daily one that looks far back."""
        sweeps = self.is_sweep(now, settings)
        overlap = settings.sweep_overlap if sweeps else settings.overlap
        return self.updated_after - overlap.total_seconds(), sweeps

    @property
    def known_until(self) -> datetime:
        """Sessions that start later are the incremental passes' business."""
        return as_time(self.updated_after if self.walk_to is None else self.walk_to)

    @property
    def owed_stretches(self) -> tuple[Interval, ...]:
        """What is owed, as intervals."""
        return tuple(Interval(as_time(start), as_time(end)) for start, end in self.owed)


def as_time(seconds: float) -> datetime:
    """Unix seconds as an instant."""
    return datetime.fromtimestamp(seconds, UTC)


def still_owed(
    stretches: Iterable[Interval], covered: Collection[Interval]
) -> tuple[tuple[float, float], ...]:
    """What is left of ``stretches`` after all that was read; as ``Cursor.owed`` has it."""
    left = (gap for stretch in union(stretches) for gap in gaps(stretch, covered))
    return tuple((gap.start.timestamp(), gap.end.timestamp()) for gap in left)


def still_spoilt(
    known: Iterable[Spoilt], listed: Collection[int], rejected: Collection[int], now: float
) -> tuple[Spoilt, ...]:
    """Which sessions are to be listed again after a run.

    Args:
        known: Those that were before it.
        listed: Those that the run listed again.
        rejected: The sessions of which the run rejected something.
        now: Our own clock.
    """
    before = {one.start: one for one in known}
    after = {start: one for start, one in before.items() if start not in listed}
    for start in rejected:
        tried = before[start].tried + 1 if start in listed and start in before else 0
        if start not in after and tried < len(RETRY_AFTER):
            after[start] = Spoilt(start, tried, now + RETRY_AFTER[tried])
    return tuple(after[start] for start in sorted(after, reverse=True)[:MOST_SPOILT])


@dataclass(slots=True)
class Course:
    """How a run reads windows: what each of them shows is good for the next.

    Attributes:
        lengths: What is known of the lengths of answers.
        width: How long the next window may be.
        narrowest: The shortest part that had to be asked for in this run.
        patience: Parts in a row that may be asked for in vain before none is divided any more.
        in_vain: How many were.
        given_up: Parts that no answer could be had for, from a server that is well.
    """

    lengths: Lengths
    width: timedelta = FIRST_WIDTH
    narrowest: timedelta = timedelta.max
    patience: int = PATIENCE
    in_vain: int = 0
    given_up: list[Interval] = field(default_factory=list)

    def smaller(self, part: Interval) -> tuple[Interval, Interval] | None:
        """The halves to ask for instead of a part that is too large; None where it is to be given up."""
        return halves(part) if self.in_vain < self.patience else None

    def refused(self, half: Interval) -> None:
        """A part was too large: nothing longer than its half is asked for while there are sessions."""
        self.narrowest = min(self.narrowest, half.end - half.start)
        self.width = min(self.width, self.narrowest)

    def widen(self, found: int) -> None:
        """A window was read that held so many sessions: the next one may be longer."""
        self.width = next_width(self.width, found, self.narrowest)


def next_window(
    spans: Iterable[Interval], covered: Collection[Interval], width: timedelta
) -> Interval | None:
    """The newest stretch of ``spans`` that was not read yet, at most ``width`` long; None when all was."""
    missing = [gap for span in union(spans) for gap in gaps(span, covered)]
    if not missing:
        return None
    newest = missing[-1]
    return Interval(newest.end - min(width, newest.end - newest.start), newest.end)


def halves(window: Interval) -> tuple[Interval, Interval] | None:
    """The window's older and newer half; None where it is too small to ask for less."""
    width = window.end - window.start
    if width <= SMALLEST_WIDTH:
        return None
    middle = window.end - width / 2
    return Interval(window.start, middle), Interval(middle, window.end)


def bisected(asked: Interval, starts: Iterable[int | None]) -> tuple[Interval, Interval]:
    """Two pieces of a question, older and newer, that hold about as many of the sessions of its answer.

    Args:
        asked: The time that was asked about.
        starts: When the sessions began, in Unix seconds, so far as is known. Where they do not tell pieces
            apart the cut is in the middle of the time.
    """
    begin, end = asked.start.timestamp(), asked.end.timestamp()
    inside = sorted(start for start in starts if start is not None and begin < start < end)
    alike = not inside or inside[0] == inside[-1]
    cut = asked.start + (asked.end - asked.start) / 2 if alike else as_time(inside[len(inside) // 2])
    return Interval(asked.start, cut), Interval(cut, asked.end)


def next_width(width: timedelta, found: int, narrowest: timedelta) -> timedelta:
    """How long the next window may be: at most twice as long as the last one.

    Args:
        width: How long the last one was planned.
        found: Sessions that it held.
        narrowest: The length at which such windows could be had, after what the server refused.
    """
    if found == 0:
        return min(width * 2, LARGEST_WIDTH)
    if found > PLENTY:
        return width
    return max(width, min(width * 2, FIRST_WIDTH, narrowest))
