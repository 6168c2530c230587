"""Reading changes in pages of ``limit``, where one answer cannot hold them. Pure.

``limit`` is not documented for sessions, and neither is the order of an answer. A page that was cut proves
something about the sessions behind the cut only if the server sorts by ``updated``; nights usually are put
in the order in which they were slept, so that a sorted page alone is no proof. Whoever cannot be sure walks
windows over all history instead: slower, and right.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

PROBE_LIMIT = 8
FIRST_LIMIT = 64
LARGEST_LIMIT = 4_096
PROOF_LENGTH = 8
"""Rows in an order that cannot be chance before an answer counts as sorted (1 in 40,320)."""

Order = Literal["updated", "start"]


@dataclass(frozen=True, slots=True)
class Seen:
    """One session of an answer, as far as its order is concerned; all None if it could not be understood."""

    session_id: int | None
    updated: float | None


def proven_order(answer: Sequence[Seen]) -> Order | None:
    """How the server sorts, where this answer proves it; None where it proves nothing."""
    by_updated = _ascending([row.updated for row in answer])
    by_start = _ascending([row.session_id for row in answer])
    if len(answer) < PROOF_LENGTH or by_updated == by_start:
        return None
    return "updated" if by_updated else "start"


@dataclass(frozen=True, slots=True)
class Ask:
    """The next page to ask for."""

    updated_after: float
    limit: int


@dataclass(frozen=True, slots=True)
class Done:
    """All changes were seen."""


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Pages cannot prove that nothing is missing; windows can."""

    reason: str


@dataclass(frozen=True, slots=True)
class Paging:
    """Where a paged pass is: the question asked last, and what all answers so far have shown.

    Attributes:
        ask: The question.
        overlap: Seconds that the next question repeats, against ties and rounding.
        sorted_by_updated: Whether some answer has proved it.
        known: (session, version) of everything seen in this pass.
        largest: Sessions in the largest answer of this pass.
        prefix: What a page of another limit gave for the same question. The larger of the two has to begin
            with the smaller: a server that keeps the newest sessions under ``limit``, not the oldest, is
            found out by that.
        compared: Whether two pages of different lengths have shown that the oldest are kept.
        too_large: The smallest limit that got no answer: a page never grows to it again.
    """

    ask: Ask
    overlap: float
    sorted_by_updated: bool = False
    known: frozenset[Seen] = frozenset()
    largest: int = 0
    prefix: tuple[Seen, ...] = ()
    compared: bool = False
    too_large: int = 2 * LARGEST_LIMIT

    @classmethod
    def begin(cls, updated_after: float, overlap: float, *, sorted_by_updated: bool) -> Paging:
        """The first question: a small page, so that the next one can be compared with it."""
        return cls(Ask(updated_after, PROBE_LIMIT), overlap, sorted_by_updated)

    def refused(self, reason: str, *, smaller: bool) -> tuple[Paging, Ask | GiveUp]:
        """What it means that the last question got no answer; ``smaller`` where less might be had."""
        if not smaller or self.ask.limit == 1:
            return self, GiveUp(reason)
        limit = self.ask.limit // 2
        if limit == len(self.prefix):
            limit = max(1, limit // 2)  # that page is known: comparing it with itself would prove nothing
        ask = replace(self.ask, limit=limit)
        return replace(self, ask=ask, too_large=self.ask.limit), ask

    def after(self, answer: Sequence[Seen]) -> tuple[Paging, Ask | Done | GiveUp]:
        """What an answer to the last question means."""
        fresh = frozenset(answer) - self.known
        paging = replace(
            self,
            sorted_by_updated=self.sorted_by_updated or proven_order(answer) == "updated",
            known=self.known | fresh,
            largest=max(self.largest, len(answer)),
            compared=self.compared or 0 < len(self.prefix) != len(answer) > 0,
        )
        longest = answer if self.compared else max(answer, self.prefix, key=len)
        news = bool(fresh) or paging.compared != self.compared
        step = _step(paging, answer, longest, news, self.largest)
        if not isinstance(step, Ask):
            return paging, step
        same_question = step.updated_after == self.ask.updated_after
        return replace(paging, ask=step, prefix=tuple(answer) if same_question else ()), step


def _step(
    paging: Paging, answer: Sequence[Seen], longest: Sequence[Seen], news: bool, largest_before: int
) -> Ask | Done | GiveUp:
    ask = paging.ask
    if not answer or len(answer) > ask.limit:
        return Done()  # nothing is behind an empty answer; and one that ignores the limit is whole
    shared = min(len(answer), len(paging.prefix))
    if tuple(answer[:shared]) != paging.prefix[:shared]:
        return GiveUp("a larger page does not begin with what the smaller one held")
    stamps = [row.updated for row in longest]
    if not _ascending(stamps):
        return GiveUp("a page is not sorted by 'updated'")
    if ask.limit == PROBE_LIMIT == len(answer) and not paging.compared and paging.too_large > FIRST_LIMIT:
        return Ask(ask.updated_after, FIRST_LIMIT)
    if not paging.sorted_by_updated:
        return GiveUp("nothing proves that pages are sorted by 'updated'")
    if not paging.compared:
        if len(answer) == 1:
            return GiveUp("a single session does not show which ones a page keeps")
        return Ask(ask.updated_after, len(answer) // 2)  # no larger page can be had, but a smaller one
    if not news and len(answer) < min(largest_before, ask.limit):
        return Done()  # smaller than what the server can send, and nothing new: the end
    bound = max(stamp for stamp in stamps if stamp is not None) - paging.overlap
    if news and bound > ask.updated_after:
        return Ask(bound, max(ask.limit, len(longest)))
    if ask.limit * 2 >= paging.too_large:
        return GiveUp(f"more than {ask.limit} sessions share one moment")
    return Ask(ask.updated_after, ask.limit * 2)  # more sessions share one moment than a page holds


def _ascending(values: Sequence[float | int | None]) -> bool:
    """Whether values never fall; a missing one has no place in any order."""
    return None not in values and all(
        earlier <= later for earlier, later in pairwise(values) if earlier is not None and later is not None
    )
