"""Which page of the data sessions to ask for next, and when all have been seen. Pure.

Pages are asked for by key: sorted, from the last stamp seen on (``filter[start][lte]``). Whatever appears or
vanishes meanwhile, everything behind that stamp is in the answer. By offset, one session that vanishes hides
another. Offsets are left for sessions that share one stamp, more of them than a page holds, and for a server
that does not sort or filter as it is asked; their pages overlap, so that a shift is noticed.

Every answer is checked against what it claims to be. What cannot be proved is asked for again, a bounded
number of times, and then given up with a reason.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from math import inf

MOST_REPEATS = 8
"""How often sessions that share a stamp are read before they are given up."""

MOST_PASSES = 4
"""How often a whole listing is read by offsets before it is given up."""

PROOF_LENGTH = 8
"""Stamps in an order that cannot be chance (1 in 40,320)."""

ASKS_A_PAGE = 24
"""Questions for each page that there is, beyond which something must be wrong."""

SPARE_ASKS = 256


@dataclass(frozen=True, slots=True)
class Order:
    """How a listing is sorted."""

    attribute: str
    descending: bool

    @property
    def sort(self) -> str:
        """As the parameter ``sort`` has it."""
        return f"-{self.attribute}" if self.descending else self.attribute

    def place(self, stamp: float) -> float:
        """A number that falls, or stays, from one row to the next."""
        return stamp if self.descending else -stamp


BY_START = Order("start", descending=True)
BY_CHANGE = Order("updated_at", descending=False)


@dataclass(frozen=True, slots=True)
class Seen:
    """One row of an answer, as far as paging is concerned.

    Attributes:
        id: What tells it from others.
        stamp: The value of the attribute that the listing is sorted by; None where it has none.
    """

    id: Hashable
    stamp: float | None


@dataclass(frozen=True, slots=True)
class Answer:
    """One page, as received.

    Attributes:
        rows: Its items, all of them.
        page: Its number, from 1, as the vendor says; a page past the end is the last one again.
        page_count: Pages in all.
        per_page: The page size in force.
        total: Items on all pages.
        has_next: Whether the vendor says that there is another page.
    """

    rows: Sequence[Seen]
    page: int | None = None
    page_count: int | None = None
    per_page: int | None = None
    total: int | None = None
    has_next: bool = False


@dataclass(frozen=True, slots=True)
class Ask:
    """The next page to ask for.

    Attributes:
        bound: The listing begins at this stamp, inclusive; None: at its beginning.
        page: Which page of that, from 1.
        per_page: Items on a page.
        sorts: Whether ``sort`` is asked for.
    """

    bound: float | None
    page: int
    per_page: int
    sorts: bool = True


@dataclass(frozen=True, slots=True)
class Done:
    """All that existed throughout was seen."""


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Nothing proves that all was seen."""

    reason: str


@dataclass(slots=True)
class _Walk:
    """Pages of one question, one after the other.

    Attributes:
        reached: Items from the beginning of the question that were passed.
        total: How many there are, by the first page.
        steady: Whether nothing moved so far: totals stayed, and pages that overlap share an item.
        last: Items of the last page.
        ids: Items of all pages.
        tied: Those of them that share the bound.
    """

    reached: int = 0
    total: int | None = None
    steady: bool = True
    last: frozenset[Hashable] = frozenset()
    ids: set[Hashable] = field(default_factory=set)
    tied: set[Hashable] = field(default_factory=set)


class Paging:
    """A pass through a listing: what was asked last, and what all answers so far have shown."""

    def __init__(
        self,
        order: Order,
        size: int,
        *,
        since: float | None = None,
        offsets: bool = True,
        excess: int = 0,
    ) -> None:
        """Begin a pass.

        Args:
            order: How to sort.
            size: Items that are asked for on a page; the vendor may allow fewer.
            since: Begin at this stamp.
            offsets: Whether a listing that is not in order shall be read by offsets, or given up.
            excess: By how many items the vendor's total is known to be too large.
        """
        self.ids: set[Hashable] = set()
        self.total: int | None = None
        self.fault: str | None = None
        self._order = order
        self._size = size
        self._excess = max(0, excess)
        self._may_use_offsets = offsets
        self._by_key = True
        self._adjustable = True
        self._falls = 0
        self._longest = 0
        self._asks = 0
        self._repeats = 0
        self._unproved: str | None = None
        self._walk = _Walk()
        self._previous: set[Hashable] | None = None
        self.ask = Ask(since, 1, size)

    @property
    def is_ordered(self) -> bool:
        """Whether the answers have proved that they are sorted as asked."""
        return self._by_key and self._falls >= PROOF_LENGTH - 1

    def after(self, answer: Answer) -> Ask | Done | GiveUp:
        """What an answer to the last question means."""
        if self._asks == 0:
            self.total = answer.total
        self._asks += 1
        self.ids.update(row.id for row in answer.rows)
        if self._asks > self._most_asks(answer):
            return GiveUp(f"{self._asks} pages did not come to an end")
        if self._by_key and (fault := self._disorder(answer)):
            return self._fall_back(fault)
        in_force = self._page_size(answer)
        at = ((answer.page or self.ask.page) - 1) * in_force
        if at > self._walk.reached:  # the page size was not what the page's number was made for
            self._adjustable = False
            return self._next_page()
        known = self._note(answer, at)
        more = answer.has_next or (answer.page_count or 0) > (answer.page or self.ask.page)
        if not (known and answer.page is None):  # it may be the last page again, without saying so
            self._walk.reached = max(self._walk.reached, at + (in_force if more else len(answer.rows)))
        ends = not answer.rows or (not more and (known or len(answer.rows) < in_force))
        return self._step_by_key(answer, at, ends) if self._by_key else self._step_by_offset(answer, ends)

    def refused(self, reason: str, *, smaller: bool) -> Ask | GiveUp:
        """What it means that the last question got no answer; ``smaller`` where less might be had."""
        self._asks += 1
        if smaller:
            if self._size == 1:
                return GiveUp(reason)
            self._size //= 2
            return self._next_page()
        if not self.ask.sorts:
            return GiveUp(reason)
        sorting_refused = not self._by_key or self.ask.bound is None
        return self._fall_back(reason, sorts=not sorting_refused)

    # -- by key --------------------------------------------------------------------------------

    def _disorder(self, answer: Answer) -> str | None:
        """Why the answer is not what was asked for; None if it may be."""
        places = [self._order.place(row.stamp) for row in answer.rows if row.stamp is not None]
        bound = self._bound
        if any(place > bound for place in places):
            return f"a page for a bound on {self._order.attribute!r} holds sessions outside of it"
        if any(earlier < later for earlier, later in pairwise(places)):
            return f"a page is not sorted by {self._order.attribute!r}"
        self._falls += sum(earlier > later for earlier, later in pairwise(places))
        return None

    @property
    def _bound(self) -> float:
        return inf if self.ask.bound is None else self._order.place(self.ask.bound)

    def _step_by_key(self, answer: Answer, at: int, ends: bool) -> Ask | Done | GiveUp:
        bound = self._bound
        below = [n for n, row in enumerate(answer.rows) if row.stamp is not None and self._place(row) < bound]
        self._walk.tied.update(row.id for row in answer.rows[: below[0] if below else None])
        if not below and not ends:
            return self._next_page()
        if at > 0 or self.ask.page > 1:  # several pages shared the bound: were all of them seen?
            shared = at + below[0] if below else self._walk.reached
            if not self._walk.steady or len(self._walk.tied) < shared:
                if self._repeats < MOST_REPEATS:
                    return self._again(keeps=self._walk.tied)
                self._unproved = self._restless
        if ends:
            return self._end_by_key()
        stamp = next(row.stamp for row in reversed(answer.rows) if row.stamp is not None)
        self._begin(replace(self.ask, bound=stamp))
        return self.ask

    def _end_by_key(self) -> Ask | Done | GiveUp:
        if self._unproved is not None:
            return GiveUp(self._unproved)
        expected = None if self.total is None else self.total - self._excess
        if self._may_use_offsets and expected is not None and len(self.ids) < expected:
            return self._fall_back(f"{len(self.ids)} sessions were found where {self.total} were announced")
        return Done()

    def _place(self, row: Seen) -> float:
        return inf if row.stamp is None else self._order.place(row.stamp)

    # -- by offset -----------------------------------------------------------------------------

    def _fall_back(self, fault: str, *, sorts: bool = True) -> Ask | GiveUp:
        self.fault = fault
        if not self._may_use_offsets:
            return GiveUp(fault)
        self._by_key = False
        self._begin(Ask(None, 1, self._size, sorts))
        return self.ask

    def _step_by_offset(self, answer: Answer, ends: bool) -> Ask | Done | GiveUp:
        if not ends:
            return self._next_page()
        counted = answer.total is not None and len(self._walk.ids) == answer.total
        agreed = self._walk.ids == self._previous
        if self._walk.steady and (counted or agreed):
            return Done()
        if self._repeats + 1 >= MOST_PASSES:
            return GiveUp(self._restless)
        self._previous = self._walk.ids
        return self._again()

    # -- pages of one question -----------------------------------------------------------------

    def _begin(self, ask: Ask) -> None:
        self._walk = _Walk()
        self._repeats = 0
        self.ask = replace(ask, page=1, per_page=self._size)

    def _again(self, keeps: set[Hashable] | None = None) -> Ask:
        """Walk the same stretch once more, because something moved or is missing."""
        self._repeats += 1
        self._walk = _Walk(tied=keeps or set())
        self.ask = replace(self.ask, page=1, per_page=self._size)
        return self.ask

    @property
    def _restless(self) -> str:
        announced = "an unknown number" if self.total is None else str(self.total)
        place = "" if self.ask.bound is None else f" at {self._order.attribute} {self.ask.bound:.0f}"
        return (
            f"the listing{place} looks different each time it is read;"
            f" {len(self.ids)} sessions were found, {announced} announced"
        )

    def _page_size(self, answer: Answer) -> int:
        """The size in force, which the page's number counts in; remembered for the next questions."""
        in_force = answer.per_page
        if not in_force:  # it does not say: as long as the longest page
            self._adjustable = False
            self._longest = in_force = max(self._longest, len(answer.rows), 1)
        if self.ask.per_page == self._size:
            self._size = in_force
        elif in_force != self.ask.per_page:
            self._adjustable = False
        return in_force

    def _note(self, answer: Answer, at: int) -> bool:
        """Add a page to the walk; True where it brings nothing that the walk has not seen."""
        walk = self._walk
        ids = frozenset(row.id for row in answer.rows)
        if walk.reached:
            overlaps = at < walk.reached and bool(answer.rows)
            walk.steady &= answer.total == walk.total and not (overlaps and walk.last.isdisjoint(ids))
        else:
            walk.total = answer.total
        known = bool(walk.reached) and ids <= walk.ids
        walk.last = ids
        walk.ids |= ids
        return known

    def _next_page(self) -> Ask:
        """The page behind what was reached, with as much overlap as a tenth of a page, at least one item.

        A page begins at a multiple of its size: the size is chosen so that one begins where it should.
        """
        reached, size = self._walk.reached, self._size
        page, per_page = reached // size + 1, size
        wanted = reached - max(1, size // 10)
        if self._adjustable and wanted > 0:
            best = max(range(max(1, size // 2), size + 1), key=lambda each: (wanted // each + 1) * each)
            if (wanted // best + 1) * best > reached:
                page, per_page = wanted // best + 1, best
        self.ask = replace(self.ask, page=page, per_page=per_page)
        return self.ask

    def _most_asks(self, answer: Answer) -> int:
        items = max(answer.total or 0, self.total or 0, len(self.ids))
        return SPARE_ASKS + ASKS_A_PAGE * (items // max(1, min(self._size, len(answer.rows) or 1)))
