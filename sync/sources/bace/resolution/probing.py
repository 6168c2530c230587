"""Whether a coarse question pays: what it would cost, and what it would save. Estimates, never proof."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from sync.sources.bace.lengths import BUCKETS, FIRST_GUESS, Lengths
from sync.sources.bace.resolution.scan import Ask, Scan
from sync.sources.bace.spans import SECOND, Span, ceil, duration, floor

MOST_HOPES: Final = 3
"""So many coarse questions are asked about a stretch though none says anything new."""


@dataclass(frozen=True, slots=True)
class _Plan:
    """A coarse question and what the whole walk would cost with it, in requests."""

    ask: Ask
    cost: float


def probe(scan: Scan, lengths: Lengths) -> Ask | None:
    """The coarse question that saves more than it costs, if there is one."""
    # Before anything is proven, the first question is a guess; another one like it needs a reason.
    reach = lengths.raw.reached or scan.longest or (FIRST_GUESS if scan.deferred else 0)
    if reach == 0:
        return None
    plans = [plan for grain in BUCKETS if (plan := _plan(scan, lengths, grain, reach)) is not None]
    best = min(plans, key=lambda plan: plan.cost, default=None)
    blind = duration(scan.remaining) / reach
    return best.ask if best is not None and best.cost < blind else None


def _plan(scan: Scan, lengths: Lengths, grain: int, reach: int) -> _Plan | None:
    """Ask for buckets of a width, then only for stretches that have samples."""
    ahead = [stretch.span for stretch in scan.todo if stretch.grain > grain and stretch.hopes < MOST_HOPES]
    if not ahead or ahead[0].start != scan.todo[0].span.start:
        return None  # the next stretch is known as well as such buckets could tell
    time = duration(ahead)
    if time <= reach:
        return None
    shortest, longest = lengths.length_for(grain)
    described = time * scan.page_size / max(_rows(scan, time, grain), 1)  # by one page of such buckets
    length = max(shortest, int(min(longest or time + grain, described)))
    start = floor(ahead[0].start, grain)
    least = start + max(grain, ceil(shortest, SECOND))
    end = max(min(ceil(ahead[-1].end, grain), floor(start + length, grain)), least)
    known = duration(stretch.span for stretch in scan.todo if stretch.grain <= grain)
    cost = max(1.0, time / length) + _guided(scan, time, grain, reach) + known / reach
    return _Plan(Ask(Span(start, end), hoped=grain), cost)


def _rows(scan: Scan, time: int, grain: int) -> float:
    """How many buckets of a width the answer about some time may have."""
    rows = scan.series * time / grain
    if scan.left is None:
        return rows
    return min(rows, max(scan.left, 0) / max(1.0, scan.density * grain / scan.series))


def _guided(scan: Scan, time: int, grain: int, reach: int) -> float:
    """Questions for raw samples, once the buckets have said where some are."""
    # One after the other, each begun half a bucket too early.
    in_a_row = time * (1 - _wasted_share(scan, time, reach)) / reach * (1 + grain / (2 * reach))
    # Or bucket by bucket, each up to the last of the samples that it announced.
    buckets = time / grain if scan.left is None else min(time / grain, max(scan.left, 0))
    announced = 1.0 if not scan.left or not buckets else scan.left / buckets
    apart = buckets * max(1.0, grain / reach * announced / (announced + 1))
    return min(in_a_row, apart)


def _wasted_share(scan: Scan, time: int, reach: int) -> float:
    """Which part of blind questions would be spent on waiting for the next sample."""
    if scan.left is not None and scan.left <= 0:
        return 1.0
    waste = scan.waste
    if waste.scanned >= reach:
        return min(1.0, waste.wasted / waste.scanned + waste.present / time)
    if waste.since is not None and waste.present > 0:
        gap = float(waste.present)
    elif scan.left is not None:
        gap = time / (2 * scan.left)  # half the distance of two samples, if they are spread evenly
    else:
        return scan.habit
    return max(scan.habit, gap / (gap + reach))
