"""Raw samples, whole or cut off at the end of a page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np
import numpy.typing as npt

from sync.errors import SourceContractError
from sync.sources.bace.lengths import FLOOR, Lengths
from sync.sources.bace.resolution.scan import (
    MILLISECOND,
    Pages,
    Promise,
    Reply,
    Scan,
    Stamps,
    Step,
    Stretch,
    even,
    without,
)
from sync.sources.bace.spans import MINUTE, SECOND, Span, difference, floor, intersection, union

EDGE_LOSS: Final = 16
"""A cut page is used up to the last whole second, unless that gives up more than this part of its rows."""


def raw_rows(scan: Scan, lengths: Lengths, reply: Reply) -> Step:
    """Rows that are proven raw: all of them, or those before the last instant of a cut page."""
    stamps, counts, asked = reply.stamps, reply.counts, reply.span
    reached = asked.end if reply.whole else int(stamps[-1])
    scan = replace(scan, density=stamps.size / max(reached - asked.start, SECOND))
    if reply.whole:
        return accept(scan, lengths, asked, stamps, counts, cut=False)
    if lengths.ordered is False and asked.length > MILLISECOND:
        return Step(replace(scan, longest=_fitting(reply)), lengths)
    end = _last_edge(asked, stamps)
    if end is None:
        return _one_instant(scan, lengths, reply)
    reaches_back = bool(difference(difference((asked,), scan.remaining), scan.hollow))
    if reaches_back and not lengths.ordered:
        return Step(scan, lengths)  # what was read before hides whether all rows come that this page promises
    early = stamps < end
    step = accept(scan, lengths, Span(asked.start, end), stamps[early], counts[early], cut=True)
    if step.scan.promise is not None or step.doubted or reply.total is None or reaches_back:
        return step
    promise = Promise(asked, reply.total).less(stamps[early])
    return replace(step, scan=replace(step.scan, promise=promise))


def _last_edge(asked: Span, stamps: Stamps) -> int | None:
    """Up to where a cut page holds everything: its last instant, rounded down where that costs little."""
    last = int(stamps[-1])
    second = floor(last, SECOND)
    if second > asked.start and int((stamps >= second).sum()) * EDGE_LOSS <= stamps.size:
        return second
    exact = floor(last, MILLISECOND)
    return exact if exact > asked.start else None


def _one_instant(scan: Scan, lengths: Lengths, reply: Reply) -> Step:
    """A page holds nothing but rows of the very first instant: ask for just that, then page by page."""
    if reply.span.length > MILLISECOND:
        return Step(replace(scan, longest=MILLISECOND), lengths)
    if reply.total is None:
        raise SourceContractError(
            "more rows share one instant than a page holds, and their number is not told"
        )
    pages = Pages(reply.span, reply.total, reply.stamps, reply.counts, reply.ask.page)
    return Step(replace(scan, pages=pages), lengths, hold=True)


def next_page(scan: Scan, pages: Pages, lengths: Lengths, reply: Reply) -> Step:
    """A further page of an answer that can only be used whole.

    Raises:
        SourceContractError: It does not belong to the pages before it.
    """
    stamps = np.concatenate([pages.stamps, reply.stamps])
    counts = np.concatenate([pages.counts, reply.counts])
    missing = pages.total - stamps.size
    if reply.total != pages.total or missing < 0 or (missing and not reply.stamps.size):
        raise SourceContractError(
            "the pages of an answer do not belong together: it changed while it was read"
        )
    if missing:
        pages = replace(pages, stamps=stamps, counts=counts, page=reply.ask.page)
        return Step(replace(scan, pages=pages), lengths, hold=True)
    return accept(replace(scan, pages=None), lengths, reply.span, stamps, counts, cut=True)


def accept(scan: Scan, lengths: Lengths, proven: Span, stamps: Stamps, counts: Stamps, *, cut: bool) -> Step:
    """A stretch was read: raw samples, or none."""
    news = _unread(scan, stamps)  # a coarse question may reach back into time that was read
    stamps, counts = stamps[news], counts[news]
    todo = tuple(_less(stretch, proven, stamps, counts) for stretch in scan.todo)
    # All samples that a bucket announced have come: the rest of it is empty.
    found = difference(union(stretch.span for stretch in todo if stretch.holds == 0), (proven,))
    promise = scan.promise.less(stamps) if scan.promise is not None else None
    scan = replace(
        scan,
        todo=without(todo, union((*found, proven))),
        seen=() if lengths.raw.reached else (*scan.seen, *np.repeat(stamps, counts).tolist()),
        hollow=union((*scan.hollow, *found)),
        left=None if scan.left is None else scan.left - int(counts.sum()),
        longest=_next_longest(lengths, proven.length),
        waste=scan.waste.after(proven, stamps, cut=cut),
        promise=promise,
        wary=scan.wary and not bool((stamps % MINUTE).any()),
    )
    accepted = (proven, *found)
    if promise is None or proven.end < promise.span.end:
        return Step(scan, lengths, accepted)
    scan = replace(scan, promise=None)
    if promise.rows <= 0:
        return Step(scan, lengths, accepted)
    return _broken_promise(scan, lengths, Span(promise.span.start, proven.end), accepted)


def _unread(scan: Scan, stamps: Stamps) -> npt.NDArray[np.bool_]:
    """Which instants lie in time that was not read yet."""
    edges = np.array([edge for part in scan.remaining for edge in (part.start, part.end)], np.int64)
    unread: npt.NDArray[np.bool_] = np.searchsorted(edges, stamps, side="right") % 2 == 1
    return unread


def _less(stretch: Stretch, proven: Span, stamps: Stamps, counts: Stamps) -> Stretch:
    """A stretch after the samples of another one were found, some of which it may have announced."""
    if stretch.holds is None or not intersection((stretch.span,), (proven,)):
        return stretch
    inside = (stamps >= stretch.span.start) & (stamps < stretch.span.end)
    return replace(stretch, holds=max(0, stretch.holds - int(counts[inside].sum())))


def _next_longest(lengths: Lengths, length: int) -> int | None:
    """While no raw length is proven, at most twice the one at which something was read after all is tried."""
    return None if lengths.raw.reached else max(FLOOR, even(2 * length))


def _broken_promise(scan: Scan, lengths: Lengths, doubted: Span, accepted: Sequence[Span]) -> Step:
    """Rows that were announced never came: cut pages were not in order, so their time is read again."""
    todo = (*without(scan.todo, (doubted,)), Stretch(doubted))
    return Step(
        replace(scan, todo=tuple(sorted(todo, key=lambda stretch: stretch.span))),
        replace(lengths, ordered=False),
        accepted=difference(union(accepted), (doubted,)),
        doubted=(doubted,),
    )


def _fitting(reply: Reply) -> int:
    """The length at which the rows of a stretch likely fit into one page."""
    first, last = int(reply.stamps.min()), int(reply.stamps.max())
    if last - first < MILLISECOND:  # too many rows at one instant: up to it, and then it alone
        return max(MILLISECOND, floor(first, MILLISECOND) - reply.span.start)
    total = reply.total if reply.total is not None else 2 * reply.stamps.size
    return even(int(reply.span.length * reply.stamps.size / max(total, 1)))
