"""How a verification goes: what it finds of one record, and how far it is."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final, Self

from sync.model.batch import Interval, Kind
from sync.model.intervals import union
from sync.model.run import Task

VERIFICATION: Final = "verification"
"""The stream that keeps how far a verification is: coverage is time that was verified in this pass."""

LONGEST: Final = timedelta(days=7)
"""How long a verification is gone on with: what it looked at longer ago says little of today."""


@dataclass(frozen=True, slots=True)
class Fault:
    """How a stored record differs from the one that the source has.

    Attributes:
        kind: As of ``Difference``; None where nothing differs but a mark that it was missing upstream.
        text: Likewise; a sentence.
        newer_stays: The warehouse holds a newer version, which nothing older replaces.
    """

    kind: Kind | None
    text: str = ""
    newer_stays: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Extent:
    """What a verification has compared so far.

    Attributes:
        sessions: How many.
        first: When the first of them began; None: there are none.
        last: Likewise the last.
        read_since: History that is older, or some that is newer, was never read, so that nothing is said of
            it; None: all was read.
        vanished: Stored sessions that are marked as missing upstream.
    """

    sessions: int = 0
    first: datetime | None = None
    last: datetime | None = None
    read_since: datetime | None = None
    vanished: int = 0

    def with_sessions(self, began: Collection[datetime]) -> Self:
        """With sessions more, by when they began."""
        ends = [*began, *(end for end in (self.first, self.last) if end is not None)]
        return replace(
            self,
            sessions=self.sessions + len(began),
            first=min(ends, default=None),
            last=max(ends, default=None),
        )

    @classmethod
    def load(cls, stored: Mapping[str, Any]) -> Self:
        """The extent as the warehouse has it."""
        return cls(**{**stored, **_times(stored, "first", "last", "read_since")})

    def dump(self) -> dict[str, Any]:
        """The extent as the warehouse keeps it."""
        return {
            "sessions": self.sessions,
            "first": _text(self.first),
            "last": _text(self.last),
            "read_since": _text(self.read_since),
            "vanished": self.vanished,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """One verification, from its beginning to its end, however many runs it takes.

    Attributes:
        began_at: When, by the warehouse's clock.
        since: Sessions that began earlier are not looked at; None: all are.
        until: Likewise for those that began then or later.
        repair: What differs is read again.
        listed: The list of sessions was compared, where that is done at once.
        ended: Everything was looked at, or left out; the next verification begins anew.
        left_out: Time in which something could not be looked at. This pass does not try again.
        failures: How often something could not be.
        extent: What was compared.
    """

    began_at: datetime
    since: datetime | None = None
    until: datetime | None = None
    repair: bool = False
    listed: bool = False
    ended: bool = False
    left_out: tuple[Interval, ...] = ()
    failures: int = 0
    extent: Extent = Extent()

    @classmethod
    def load(cls, stored: Mapping[str, Any] | None) -> Self | None:
        """The pass as the warehouse has it."""
        if stored is None:
            return None
        return cls(
            **{
                **stored,
                **_times(stored, "began_at", "since", "until"),
                "left_out": tuple(
                    Interval(datetime.fromisoformat(start), datetime.fromisoformat(end))
                    for start, end in stored.get("left_out", ())
                ),
                "extent": Extent.load(stored.get("extent", {})),
            }
        )

    def dump(self) -> dict[str, Any]:
        """The pass as the warehouse keeps it."""
        return {
            "began_at": self.began_at.isoformat(),
            "since": _text(self.since),
            "until": _text(self.until),
            "repair": self.repair,
            "listed": self.listed,
            "ended": self.ended,
            "left_out": [[part.start.isoformat(), part.end.isoformat()] for part in self.left_out],
            "failures": self.failures,
            "extent": self.extent.dump(),
        }

    def does(self, task: Task, now: datetime) -> bool:
        """Whether going on with this pass is what a task asks for, by the warehouse's clock."""
        asked = (self.since, self.until, self.repair) == (task.since, task.until, task.repair)
        return asked and not self.ended and now - self.began_at < LONGEST

    def looks_at(self, began: datetime) -> bool:
        """Whether a session that began then is verified."""
        return (self.since is None or began >= self.since) and (self.until is None or began < self.until)

    def without(self, parts: Iterable[Interval]) -> Self:
        """With time more that could not be looked at."""
        return replace(self, left_out=union((*self.left_out, *parts)))


def _times(stored: Mapping[str, Any], *names: str) -> dict[str, datetime | None]:
    return {
        name: None if stored[name] is None else datetime.fromisoformat(stored[name])
        for name in names
        if name in stored
    }


def _text(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()
