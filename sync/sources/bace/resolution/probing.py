"""Whether a coarse question pays: what it would cost, and what it would save. Estimates, never proof."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from sync.sources.bace.lengths import BUCKETS, Lengths
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
    reach = lengths.raw.reached or scan.longest or 0
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
    wasted = _wasted_share(scan, time, reach)
    rows = scan.series * time / grain
    if scan.left is not None:
        rows = min(rows, max(scan.left, 0) / max(1.0, scan.density * grain / scan.series))
    shortest, longest = lengths.length_for(grain)
    holds = time * scan.page_size / max(rows, 1)  # how much time one page of such buckets describes
    reachable = max(shortest, int(min(longest or time + grain, holds)))
    guided = time * (1 - wasted) / reach * (1 + grain / (2 * reach))
    start = floor(ahead[0].start, grain)
    least = start + max(grain, ceil(shortest, SECOND))
    end = max(min(ceil(ahead[-1].end, grain), floor(start + reachable, grain)), least)
    known = duration(stretch.span for stretch in scan.todo if stretch.grain <= grain)
    return _Plan(Ask(Span(start, end), hoped=grain), max(1.0, time / reachable) + guided + known / reach)


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
