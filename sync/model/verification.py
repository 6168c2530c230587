"""How a verification goes: what it finds of one record, and how far it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Self

from sync.model.batch import Kind
from sync.model.run import Task

VERIFICATION: Final = "verification"
"""The stream that keeps how far a verification is: coverage is time that was verified in this pass."""


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
class Pass:
    """One verification, from its beginning to its end, however many runs it takes.

    Attributes:
        began_at: When, by the warehouse's clock.
        since: Sessions that began earlier are not looked at; None: all are.
        until: Likewise for those that began then or later.
        repair: What differs is read again.
        listed: The list of sessions was compared, where that is done at once.
        ended: Everything was compared; the next verification begins anew.
    """

    began_at: datetime
    since: datetime | None = None
    until: datetime | None = None
    repair: bool = False
    listed: bool = False
    ended: bool = False

    @classmethod
    def load(cls, stored: Mapping[str, Any] | None) -> Self | None:
        """The pass as the warehouse has it."""
        if stored is None:
            return None
        times = {
            name: None if stored[name] is None else datetime.fromisoformat(stored[name])
            for name in ("began_at", "since", "until")
        }
        return cls(**{**stored, **times})

    def dump(self) -> dict[str, Any]:
        """The pass as the warehouse keeps it."""
        return {
            "began_at": self.began_at.isoformat(),
            "since": None if self.since is None else self.since.isoformat(),
            "until": None if self.until is None else self.until.isoformat(),
            "repair": self.repair,
            "listed": self.listed,
            "ended": self.ended,
        }

    def does(self, task: Task) -> bool:
        """Whether going on with this pass is what a task asks for."""
        return not self.ended and (self.since, self.until, self.repair) == (
            task.since,
            task.until,
            task.repair,
        )

    def looks_at(self, began: datetime) -> bool:
        """Whether a session that began then is verified."""
        return (self.since is None or began >= self.since) and (self.until is None or began < self.until)
