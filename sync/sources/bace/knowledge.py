"""What all units of a source share of what they learn about the server: one value, always replaced whole."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, Self

import msgspec

from sync.sources.bace.lengths import Lengths, Threshold

NAME: Final = "data.lengths"
PROOF_LASTS: Final = 86_400.0
"""Seconds after which a proven length is a hint: thresholds may have changed, and proof is cheap."""

SAVE_EVERY: Final = 3_600.0
"""Seconds after which the warehouse is told that a proof was renewed."""

AS_LONG: Final = 0.9
"""Part of the longest raw length that an answer has to have to prove it anew."""

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
        proven_at: When an answer of about the longest raw length last proved it.
        saved: What the warehouse has of all this.
    """

    lengths: Lengths = field(default_factory=Lengths)
    page_size: int | None = None
    habit: float = 0.0
    sorts: bool = True
    explorer: object = None
    proven_at: float = 0.0
    saved: _Stored | None = None

    @classmethod
    def load(cls, stored: Any, now: float) -> Self:
        """From what the warehouse has; anything that does not look right is as good as nothing."""
        try:
            told = msgspec.convert(stored, _Stored)
        except (msgspec.ValidationError, OverflowError):
            return cls()
        known = cls(lengths=told.lengths, page_size=told.page, proven_at=told.at, saved=told)
        known.current(now)
        return known

    def current(self, now: float) -> Lengths:
        """What may be relied on: a proof that was not renewed for a day is a hint."""
        if self.lengths.raw.reached and not 0 <= now - self.proven_at < PROOF_LASTS:
            self.lengths = Lengths(hint=self.lengths.raw.reached)
        return self.lengths

    def learn(self, lengths: Lengths, now: float, *, proven: int = 0) -> None:
        """An answer has shown something.

        Args:
            lengths: What is known now.
            now: Unix seconds.
            proven: The length that the answer proved to be raw by itself, in microseconds.
        """
        if proven and proven >= AS_LONG * lengths.raw.reached:
            self.proven_at = now
        self.lengths = lengths

    def news(self) -> Mapping[str, Any]:
        """What the warehouse shall keep, where it differs from what it has."""
        if not self.lengths.raw.reached and not self._withdraws:
            return {}
        stored = _stored(self.lengths, self.page_size, self.proven_at)
        if self.saved is not None:
            renewed = self.proven_at - self.saved.at
            if stored == msgspec.structs.replace(self.saved, at=stored.at) and renewed < SAVE_EVERY:
                return {}
        return {NAME: msgspec.to_builtins(stored)}

    def note_saved(self, news: Mapping[str, Any]) -> None:
        """The warehouse has some news."""
        if news:
            self.saved = msgspec.convert(news[NAME], _Stored)

    @property
    def _withdraws(self) -> bool:
        """Whether a proof that the warehouse has turned out wrong, and did not merely grow old."""
        return self.saved is not None and self.saved.raw[0] > 0 and not self.lengths.hint

    def remember(self, idle: float) -> None:
        """A session was read, and spent this part of its time without samples."""
        self.habit = MEMORY * self.habit + (1 - MEMORY) * idle


_Length = Annotated[int, msgspec.Meta(ge=0, le=1 << 53)]
_Ends = tuple[_Length, _Length | None]
"""A threshold."""


class _Stored(msgspec.Struct, frozen=True):
    """What the warehouse keeps."""

    raw: _Ends
    minutes: _Ends
    hours: _Ends
    ordered: bool | None
    page: Annotated[int, msgspec.Meta(gt=0, le=1 << 31)] | None
    at: float

    def __post_init__(self) -> None:
        if any(missed is not None and missed <= reached for reached, missed in self._ends):
            raise ValueError("a resolution cannot end before it was last seen")

    @property
    def _ends(self) -> tuple[_Ends, ...]:
        return (self.raw, self.minutes, self.hours)

    @property
    def lengths(self) -> Lengths:
        """What they say of the server."""
        raw, minutes, hours = (Threshold(*ends) for ends in self._ends)
        return Lengths(raw=raw, minutes=minutes, hours=hours, ordered=self.ordered)


def _stored(lengths: Lengths, page: int | None, at: float) -> _Stored:
    raw, minutes, hours = (
        (threshold.reached, threshold.missed) for threshold in (lengths.raw, lengths.minutes, lengths.hours)
    )
    return _Stored(raw=raw, minutes=minutes, hours=hours, ordered=lengths.ordered, page=page, at=at)
