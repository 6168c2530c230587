"""What to ask next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

from sync.sources.bace.lengths import FLOOR, Lengths
from sync.sources.bace.resolution.probing import probe
from sync.sources.bace.resolution.scan import Ask, Scan, even, in_vain, shorter, without
from sync.sources.bace.spans import DAY, MINUTE, Span, ceil, difference, floor


def next_ask(scan: Scan, lengths: Lengths, *, may_explore: bool = True) -> Ask | None:
    """The next question; None when everything was read.

    Args:
        scan: The walk.
        lengths: What is known of the server.
        may_explore: Whether a longer interval than any proven one may be tried.
    """
    if not scan.todo:
        return None
    if scan.pages is not None:
        return Ask(scan.pages.span, page=scan.pages.page + 1)
    if scan.doubt is not None:
        return Ask(scan.doubt.span)
    if scan.in_doubt:
        spans = scan.remaining
        return Ask(Span(floor(spans[0].start, DAY), ceil(spans[-1].end, DAY)), hoped=DAY)
    coarse = probe(scan, lengths)
    if coarse is not None:
        return coarse
    asked = _raw_span(scan, _raw_length(scan, lengths, may_explore=may_explore))
    return Ask(asked if lengths.raw.reached else _on_edges(asked))


def _on_edges(asked: Span) -> Span:
    """A stretch that likely comes in buckets ends with a whole minute, so that the next begins with one."""
    end = floor(asked.end, MINUTE)
    return Span(asked.start, end) if end > asked.start else asked


def _raw_span(scan: Scan, length: int) -> Span:
    """From the oldest time not read as far as the length reaches, across nothing that was read before.

    Time that is known to hold nothing costs nothing, and a long interval that proves raw teaches more.
    """
    first = scan.todo[0].span
    limit, end = first.start + length, first.end
    for earlier, later in pairwise(stretch.span for stretch in scan.todo):
        if earlier.end >= limit or not _is_within(earlier.end, later.start, scan.hollow):
            break
        end = later.end
    return Span(first.start, min(end, limit))


def _is_within(start: int, end: int, spans: Sequence[Span]) -> bool:
    """Whether disjoint, sorted spans leave nothing of a stretch over."""
    return start == end or not difference((Span(start, end),), spans)


def _raw_length(scan: Scan, lengths: Lengths, *, may_explore: bool) -> int:
    proven = lengths.raw.reached
    needed = _raw_span(scan, 1 << 62).length
    length = proven
    explores = may_explore and not scan.wary and not _fills_page(scan, proven)
    if needed > proven and (proven == 0 or explores):
        length = lengths.worth_trying()
    if scan.longest is not None:
        length = min(length, scan.longest)
    if lengths.ordered is False and scan.density * length > 0.8 * scan.page_size:
        length = even(int(0.8 * scan.page_size / scan.density))
    return min(length, needed)


def _fills_page(scan: Scan, length: int) -> bool:
    """Whether a longer interval would not help: the rows of this one fill a page already."""
    return scan.density * length >= scan.page_size


def too_much(scan: Scan, lengths: Lengths, ask: Ask) -> Scan:
    """The walk after a question that could not be answered as it was: the next one is about less time.

    Where less cannot be asked for, the walk goes on without that stretch: it is missing in ``remaining``.
    """
    if ask.hoped:
        return replace(scan, todo=in_vain(scan.todo, ask.span), in_doubt=False)
    if ask.span.length <= FLOOR:
        return replace(scan, todo=without(scan.todo, (ask.span,)), pages=None)
    return replace(shorter(scan, lengths, ask.span.length), pages=None)
