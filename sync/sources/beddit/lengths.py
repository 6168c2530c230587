"""Whether an answer was cut to a number of sessions that the server does not tell. Pure.

No document says that an answer holds all that was asked for. A server that has sent n sessions at once
sends fewer only where there are fewer. So the longest answers so far alone are in doubt: they are asked for
again in two pieces, a few times, and whatever else is in those proves a cap. From then on answers of that
length are too large.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Self

from sync.errors import AnswerTooLarge
from sync.sources.beddit.paging import Seen

SMALL = 5
"""Sessions below which no server cuts an answer."""

ENOUGH = 3
"""Answers of one length that were found whole before the next one is believed: that may be chance."""

WHOLE, CAP = "sessions.whole", "sessions.cap"
"""Names of the hints."""


@dataclass(slots=True)
class Lengths:
    """What the answers so far have shown.

    Attributes:
        whole: Answers of at most so many sessions are not cut.
        cap: Answers of so many sessions are; 0 where none is known.
        passed: How many answers that are one longer than ``whole`` were found not to be.
    """

    whole: int = SMALL - 1
    cap: int = 0
    passed: int = 0

    @classmethod
    def load(cls, hints: Mapping[str, Any]) -> Self:
        """What earlier runs have learned."""
        return cls(hints.get(WHOLE, SMALL - 1), hints.get(CAP, 0))

    @property
    def learned(self) -> dict[str, Any]:
        """The hints that later runs begin with."""
        return {WHOLE: self.whole, CAP: self.cap}

    def is_cut(self, count: int) -> bool:
        """Whether an answer of so many sessions is known to be cut."""
        return 0 < count == self.cap

    def check(self, count: int) -> None:
        """Refuse a cut answer.

        Raises:
            AnswerTooLarge: It is one.
        """
        if self.is_cut(count):
            raise AnswerTooLarge(f"the vendor's answers end after {count} sessions without saying so")

    def doubts(self, count: int) -> bool:
        """Whether an answer of so many sessions may be cut; shorter ones are not, from now on."""
        if count > self.whole + 1:
            self.whole, self.passed = count - 1, 0
        if self.cap <= self.whole:
            self.cap = 0
        return count > self.whole

    def settle(self, count: int, *, cut: bool) -> None:
        """A doubt was cleared up."""
        if cut:
            self.whole, self.cap = count - 1, count
        elif count > self.whole:
            self.passed += 1
            if self.passed == ENOUGH:
                self.whole, self.passed = count, 0


def adds(parts: Collection[Seen], answer: Collection[Seen], asked_at: float) -> bool:
    """Whether the parts of a question hold sessions that its answer lacked.

    Args:
        parts: What the parts held.
        answer: What the whole held.
        asked_at: The server's clock at the whole answer: what was put since is no proof.
    """
    ids = {row.session_id for row in answer}
    return any(row.session_id not in ids and (row.updated or 0.0) < asked_at for row in parts)
