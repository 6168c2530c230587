"""What all units of a source share of what they learn about the server: one value, always replaced whole."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Self

from sync.sources.bace.lengths import Lengths, Threshold

NAME: Final = "data.lengths"
PROOF_LASTS: Final = 86_400.0
"""Seconds after which a proven length is a hint: thresholds may have changed, and proof is cheap."""

SAVE_EVERY: Final = 3_600.0
MEMORY: Final = 0.8
"""How much of the old habit stays when a session has been read."""


@dataclass(slots=True)
class Known:
    """The server, as far as its answers have shown it.

    Attributes:
        lengths: Which interval lengths are answered at which resolution.
        page_size: Rows that a page of data holds.
        habit: Which part of their time sessions spend without samples, at length.
        sorts: Whether the order of rows can be asked for at all.
        explorer: Who is trying a longer interval at the moment: one at a time is enough.
        saved: What the warehouse has of it, and when it got it.
    """

    lengths: Lengths = field(default_factory=Lengths)
    page_size: int | None = None
    habit: float = 0.0
    sorts: bool = True
    explorer: object = None
    saved: tuple[Lengths, int | None, float] | None = None

    @classmethod
    def load(cls, stored: Any, now: float) -> Self:
        """From what the warehouse has; anything that does not look right is as good as nothing."""
        match stored:
            case {"raw": [int() as raw, *_], "page": int() | None as page, "at": int() | float() as at}:
                fresh = 0 <= now - at < PROOF_LASTS
                lengths = _lengths(stored) if fresh else Lengths(hint=raw)
                return cls(lengths=lengths, page_size=page, saved=(lengths, page, at))
        return cls()

    def news(self, now: float) -> Mapping[str, Any]:
        """What the warehouse shall keep, if it is new or has not been confirmed for a while."""
        proven = self.lengths.raw.reached > 0
        if self.saved is not None:
            lengths, page, at = self.saved
            if (lengths, page) == (self.lengths, self.page_size) and (now - at < SAVE_EVERY or not proven):
                return {}
        if not proven:
            return {}
        self.saved = (self.lengths, self.page_size, now)
        lengths = self.lengths
        return {
            NAME: {
                "raw": _pair(lengths.raw),
                "minutes": _pair(lengths.minutes),
                "hours": _pair(lengths.hours),
                "ordered": lengths.ordered,
                "page": self.page_size,
                "at": now,
            }
        }

    def remember(self, idle: float) -> None:
        """A session was read, and spent this part of its time without samples."""
        self.habit = MEMORY * self.habit + (1 - MEMORY) * idle


def _pair(threshold: Threshold) -> list[int | None]:
    return [threshold.reached, threshold.missed]


def _lengths(stored: Mapping[str, Any]) -> Lengths:
    match stored:
        case {
            "raw": [int() as raw, int() | None as not_raw],
            "minutes": [int() as minutes, int() | None as not_minutes],
            "hours": [int() as hours, int() | None as not_hours],
            "ordered": bool() | None as ordered,
        }:
            return Lengths(
                raw=Threshold(raw, not_raw),
                minutes=Threshold(minutes, not_minutes),
                hours=Threshold(hours, not_hours),
                ordered=ordered,
            )
    return Lengths()
