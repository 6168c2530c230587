"""Finding a session's raw samples with the fewest possible questions. Pure.

The server chooses the resolution of an answer from the length of the interval asked for (``lengths``). A
``Scan`` is one walk through the time of one session that was not read yet, oldest first. ``next_ask`` says
which half-open stretch to ask for; ``after`` says what its answer proves and returns the scan as it goes on.

* **Raw or not.** A stretch counts as read only when its answer is proven raw (``grain_of``), or proven empty.
  Everything else is a hint about where the samples are.
* **Pages.** Rows are asked for in the order of time. A page that was cut is a whole answer to a shorter
  question: everything before its last instant. The next question begins there, so that no offset into a
  list that may grow is needed. What the cut answer said is still to come is checked (``_Promise``): a server
  that ignores the order would be found out by it.
* **Empty stretches.** A coarse answer costs one request and says where no samples are. It is asked for when,
  going by the stretch walked so far, it saves more than it costs (``_probe``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Final

import numpy as np
import numpy.typing as npt

from sync.errors import SourceContractError
from sync.sources.bace.lengths import BUCKETS, FLOOR, RAW, Lengths, grain_of
from sync.sources.bace.spans import (
    DAY,
    MINUTE,
    SECOND,
    Span,
    ceil,
    difference,
    duration,
    floor,
    intersection,
    span,
    union,
)

MILLISECOND: Final = 1000
"""The finest instants that the server has."""

USUAL_PAGE: Final = 500
"""Rows in a page until one has said so (BACE docs, data sessions)."""

UNKNOWN: Final = DAY + 1
"""The grain of a stretch that no coarse answer has described."""

ORDERLY: Final = 8
"""So many rows of datasets that take turns are in the order of time by no chance."""

MOST_HOPES: Final = 3
"""So many coarse questions are asked about a stretch though none says anything new."""

EDGE_LOSS: Final = 16
"""A cut page is used up to the last whole second, unless that gives up more than this part of its rows."""

Stamps = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Ask:
    """The next question: a half-open stretch, and which page of its answer.

    Attributes:
        span: The stretch.
        hoped: ``RAW``, or the width of the buckets that shall say where there is nothing.
        page: From 1.
    """

    span: Span
    hoped: int = RAW
    page: int = 1


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back, as far as the plan is concerned.

    Attributes:
        stamps: The rows' instants in microseconds, in the order received.
        counts: Samples behind each row.
        whole: No page follows.
        total: Rows of all pages; None where the server does not say.
        page_size: Rows that one page holds.
        mixed: The rows of different datasets take turns.
    """

    stamps: Stamps
    counts: Stamps
    whole: bool
    total: int | None
    page_size: int | None = None
    mixed: bool = False


@dataclass(frozen=True, slots=True)
class Step:
    """What an answer means.

    Attributes:
        scan: The walk as it goes on.
        lengths: What is now known of the server.
        accepted: Stretches that are proven. Their rows, in this answer and in those held, are raw.
        doubted: Stretches that were accepted before and have to be read again.
        hold: More pages of this answer follow: keep its rows until they are accepted.
    """

    scan: Scan
    lengths: Lengths
    accepted: tuple[Span, ...] = ()
    doubted: tuple[Span, ...] = ()
    hold: bool = False


@dataclass(frozen=True, slots=True)
class _Promise:
    """A cut answer said how many rows follow in its stretch; they have to come."""

    span: Span
    rows: int

    def less(self, stamps: Stamps) -> _Promise:
        """After these rows came."""
        return replace(self, rows=self.rows - int((stamps < self.span.end).sum()))


@dataclass(frozen=True, slots=True)
class _Pages:
    """Pages of one answer that can only be used together."""

    span: Span
    total: int
    rows: int
    page: int


@dataclass(frozen=True, slots=True)
class _Stretch:
    """Time that was not read yet.

    Attributes:
        span: Which.
        grain: The width of the buckets that a coarse answer has told of it.
        holds: The samples that they say are in it; None where they do not say.
        hopes: Coarse questions that told nothing new of it.
    """

    span: Span
    grain: int = UNKNOWN
    holds: int | None = None
    hopes: int = 0


@dataclass(frozen=True, slots=True)
class _Deferred:
    """A stretch that came empty, in an answer to an interval of some length."""

    span: Span
    length: int


@dataclass(frozen=True, slots=True)
class _Waste:
    """How much of the time asked for so far was a wait for the next sample: what a coarse answer saves.

    Attributes:
        scanned: Microseconds that raw answers covered.
        wasted: Of these, how many lay between the end of an answer and the next sample.
        since: The end of the last answer, while no sample has come after it.
        sample: The last sample before it.
    """

    scanned: int = 0
    wasted: int = 0
    since: int | None = None
    sample: int | None = None

    def after(self, covered: Span, stamps: Stamps, *, cut: bool) -> _Waste:
        """A raw answer covered a stretch; ``cut`` when its rows, not its length, were its limit."""
        first = int(stamps.min()) if stamps.size else covered.end
        waited = first - max(covered.start, self.since or covered.start) if self.since is not None else 0
        return _Waste(
            scanned=self.scanned + covered.length,
            wasted=self.wasted + waited,
            since=None if cut else covered.end,
            sample=int(stamps.max()) if stamps.size else self.sample,
        )

    @property
    def present(self) -> int:
        """The wait that goes on, if it lasts as long again as it has lasted."""
        return 0 if self.since is None or self.sample is None else self.since - self.sample


@dataclass(frozen=True, slots=True, kw_only=True)
class Scan:
    """A walk through what was not read yet of one session, or of one group of its datasets.

    Attributes:
        todo: Time not read yet, oldest first.
        left: Samples that are still expected; None where nothing is known.
        series: How many datasets there are, about.
        page_size: Rows that one page holds.
        longest: No raw answer can be had at this length here, whatever is known in general.
        deferred: Time for which an answer was empty that proves nothing yet: it will, once its length is
            proven raw by another one.
        in_doubt: Nothing but deferred time is left: ask along bucket edges, then second by second if need be.
        last_resort: That has been done.
        hollow: Time that is known to hold no samples: a question may reach across it.
        waste: What coarse answers could save.
        density: Rows in a microsecond of the last raw answer.
        promise: What a cut answer said is still to come.
        pages: An answer that is being read page by page.
        suspect: What was asked when rows came that may have been buckets, each with a single sample.
        wary: The last interval that was longer than a proven one showed nothing: none is tried for now.
        habit: Which part of their time sessions before this one spent without samples, at length.
        wanted: How long everything was that was to be read.
    """

    todo: tuple[_Stretch, ...]
    left: int | None = None
    series: int = 1
    page_size: int = USUAL_PAGE
    longest: int | None = None
    deferred: tuple[_Deferred, ...] = ()
    in_doubt: bool = False
    last_resort: bool = False
    hollow: tuple[Span, ...] = ()
    waste: _Waste = _Waste()
    density: float = 0.0
    promise: _Promise | None = None
    pages: _Pages | None = None
    suspect: Span | None = None
    wary: bool = False
    habit: float = 0.0
    wanted: int = 0

    def idle_share(self, reach: int) -> float:
        """Which part of the time had no samples for longer than a raw interval reaches."""
        pauses = sum(max(0, part.length - reach) for part in self.hollow)
        return min(1.0, (pauses + self.waste.wasted) / max(self.wanted, 1))

    @property
    def remaining(self) -> tuple[Span, ...]:
        """Time not read yet."""
        return tuple(stretch.span for stretch in self.todo)


def begin(
    wanted: Sequence[Span],
    *,
    hollow: Sequence[Span] = (),
    expected: int | None = None,
    series: int = 1,
    newest: int | None = None,
    page_size: int | None = None,
    habit: float = 0.0,
) -> Scan:
    """Start a walk.

    Args:
        wanted: Time to read.
        hollow: Time between that is known to hold no samples.
        expected: Samples that the source says are there and that the warehouse does not hold.
        series: How many datasets there are, about.
        newest: The newest sample known before ``wanted`` begins, in microseconds.
        page_size: Rows of a page, where that is known.
        habit: ``idle_share`` of sessions read before.
    """
    parts = union(wanted)
    waste = _Waste()
    if newest is not None and parts:
        waste = _Waste(since=max(newest, parts[0].start), sample=newest)
    return Scan(
        todo=tuple(_Stretch(part) for part in parts),
        hollow=union(hollow),
        left=expected,
        series=max(1, series),
        page_size=page_size or USUAL_PAGE,
        habit=habit,
        wanted=duration(parts),
        waste=waste,
    )


# --- what to ask -----------------------------------------------------------------------------------


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
    if scan.in_doubt:
        spans = scan.remaining
        return Ask(Span(floor(spans[0].start, DAY), ceil(spans[-1].end, DAY)), hoped=DAY)
    probe = _probe(scan, lengths)
    if probe is not None:
        return probe
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
    if scan.longest is not None and length >= scan.longest:
        length = proven if 0 < proven < scan.longest else max(FLOOR, _even(scan.longest // 2))
        if scan.longest <= FLOOR:
            # Below the floor, only to get fewer rows than a page holds.
            length = _even(scan.longest - 1)
    if lengths.ordered is False and scan.density > 0:
        length = min(length, _even(int(0.8 * scan.page_size / scan.density)))
    return min(length, needed)


def _fills_page(scan: Scan, length: int) -> bool:
    """Whether a longer interval would not help: the rows of this one fill a page already."""
    return scan.density * length >= scan.page_size


@dataclass(frozen=True, slots=True)
class _Plan:
    """A coarse question and what the whole walk would cost with it, in requests."""

    ask: Ask
    cost: float


def _probe(scan: Scan, lengths: Lengths) -> Ask | None:
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


def too_much(scan: Scan, ask: Ask) -> Scan:
    """The walk after a question that could not be answered as it was: the next one is about less time.

    Raises:
        SourceContractError: Less cannot be asked for.
    """
    if ask.hoped:
        return replace(scan, todo=_in_vain(scan.todo, ask.span), in_doubt=False)
    if ask.span.length <= FLOOR:
        raise SourceContractError("an answer about a single second could not be had")
    return replace(_shorter(scan, ask.span.length), pages=None)


# --- what an answer means --------------------------------------------------------------------------


def after(scan: Scan, lengths: Lengths, ask: Ask, answer: Answer) -> Step:
    """What an answer proves, and how the walk goes on.

    Raises:
        SourceContractError: The answer contradicts itself, so that nothing can be made of it.
    """
    step = _judged(replace(scan, in_doubt=False), lengths, ask, answer)
    if ask.hoped and step.scan.todo == scan.todo:
        step = replace(step, scan=replace(step.scan, todo=_in_vain(scan.todo, ask.span)))
    return _taken_up(step)


def _taken_up(step: Step) -> Step:
    """Deferred time is proven empty once its length is proven raw; if it never is, it is read after all."""
    scan = step.scan
    proven = [part.span for part in scan.deferred if step.lengths.is_raw(part.length)]
    waiting = tuple(part for part in scan.deferred if not step.lengths.is_raw(part.length))
    if proven:
        step = replace(step, accepted=union((*step.accepted, *proven)))
        scan = replace(scan, hollow=union((*scan.hollow, *proven)), deferred=waiting)
    if waiting and not scan.todo:
        todo = tuple(_Stretch(part) for part in union(part.span for part in waiting))
        scan = replace(scan, todo=todo, deferred=(), in_doubt=True, last_resort=True)
    return replace(step, scan=scan)


def _in_vain(todo: Sequence[_Stretch], asked: Span) -> tuple[_Stretch, ...]:
    return tuple(
        replace(stretch, hopes=stretch.hopes + 1) if intersection((stretch.span,), (asked,)) else stretch
        for stretch in todo
    )


def _judged(scan: Scan, lengths: Lengths, ask: Ask, answer: Answer) -> Step:
    inside = (answer.stamps >= ask.span.start) & (answer.stamps < ask.span.end)
    stamps, counts = answer.stamps[inside], answer.counts[inside]
    scan = replace(scan, page_size=answer.page_size or scan.page_size)
    if scan.pages is not None:
        return _next_page(scan, lengths, ask, answer, stamps)
    if not answer.whole:
        lengths = _judge_order(lengths, answer, stamps)
    if stamps.size == 0:
        return _nothing(scan, lengths, ask, answer)
    length = ask.span.length
    grain = grain_of(stamps, counts, length, lengths)
    if grain is None:
        return Step(_shorter(scan, length), lengths)
    learned = lengths
    if length > FLOOR:
        places, shared = np.unique(stamps).size, bool((counts > 1).any())
        learned = lengths.learn(length, grain, places=places, shared=shared)
    if grain == RAW:
        if scan.suspect is not None and _betrays(scan.suspect, stamps):
            learned = learned.exposed(scan.suspect.length)
            scan = replace(scan, suspect=None)
        return _raw(scan, learned, ask, answer, (stamps, counts))
    if ask.hoped == RAW and not bool((counts > 1).any()):
        scan = replace(scan, suspect=ask.span, wary=True)
    return _buckets(scan, learned, ask, answer, _Buckets(stamps, counts, grain))


def _judge_order(lengths: Lengths, answer: Answer, stamps: Stamps) -> Lengths:
    """What a cut page shows of the order of rows: against it, or, where datasets take turns, for it."""
    if not bool((np.diff(stamps) >= 0).all()):
        return replace(lengths, ordered=False)
    convincing = answer.mixed and stamps.size >= ORDERLY and lengths.ordered is None
    return replace(lengths, ordered=True) if convincing else lengths


def _betrays(suspect: Span, stamps: Stamps) -> bool:
    """Whether raw samples lie off the minutes in a stretch for which a longer answer had only whole ones."""
    inside = stamps[(stamps >= suspect.start) & (stamps < suspect.end)]
    return bool((inside % MINUTE).any())


def _raw(scan: Scan, lengths: Lengths, ask: Ask, answer: Answer, rows: tuple[Stamps, Stamps]) -> Step:
    stamps, counts = rows
    reached = ask.span.end if answer.whole else int(stamps[-1])
    scan = replace(scan, density=stamps.size / max(reached - ask.span.start, SECOND))
    if answer.whole:
        return _accept(scan, lengths, ask.span, stamps, counts, cut=False)
    if lengths.ordered is False:
        return Step(_shorter(scan, _fitting(ask.span, answer, stamps)), lengths)
    end = _last_edge(ask.span, stamps)
    if end is None:
        return _one_instant(scan, lengths, ask, answer, stamps)
    early = stamps < end
    if scan.promise is None and answer.total is not None:
        scan = replace(scan, promise=_Promise(ask.span, answer.total))
    return _accept(scan, lengths, Span(ask.span.start, end), stamps[early], counts[early], cut=True)


def _last_edge(asked: Span, stamps: Stamps) -> int | None:
    """Up to where a cut page holds everything: its last instant, rounded down where that costs little."""
    last = int(stamps[-1])
    second = floor(last, SECOND)
    if second > asked.start and int((stamps >= second).sum()) * EDGE_LOSS <= stamps.size:
        return second
    exact = floor(last, MILLISECOND)
    return exact if exact > asked.start else None


def _one_instant(scan: Scan, lengths: Lengths, ask: Ask, answer: Answer, stamps: Stamps) -> Step:
    """A page holds nothing but rows of the very first instant: ask for just that, then page by page."""
    if ask.span.length > MILLISECOND:
        return Step(replace(scan, longest=max(MILLISECOND, min(ask.span.length - 1, MILLISECOND))), lengths)
    if answer.total is None:
        raise SourceContractError(
            "more rows share one instant than a page holds, and their number is not told"
        )
    pages = _Pages(ask.span, answer.total, stamps.size, ask.page)
    return Step(replace(scan, pages=pages), lengths, hold=True)


def _next_page(scan: Scan, lengths: Lengths, ask: Ask, answer: Answer, stamps: Stamps) -> Step:
    pages = scan.pages
    assert pages is not None  # noqa: S101 - the caller has looked
    rows = pages.rows + stamps.size
    if answer.total != pages.total or rows > pages.total or (rows < pages.total and not stamps.size):
        raise SourceContractError(
            "the pages of an answer do not belong together: it changed while it was read"
        )
    if rows < pages.total:
        return Step(replace(scan, pages=replace(pages, rows=rows, page=ask.page)), lengths, hold=True)
    scan = replace(scan, pages=None)
    nothing = np.empty(0, np.int64)
    step = _accept(scan, lengths, ask.span, nothing, nothing, cut=True)
    promise = step.scan.promise
    if promise is not None and ask.span.start < promise.span.end:
        return replace(step, scan=replace(step.scan, promise=replace(promise, rows=promise.rows - rows)))
    return step


def _accept(scan: Scan, lengths: Lengths, proven: Span, stamps: Stamps, counts: Stamps, *, cut: bool) -> Step:
    """A stretch was read: raw samples, or none."""
    todo = tuple(_less(stretch, proven, stamps, counts) for stretch in scan.todo)
    # All samples that a bucket announced have come: the rest of it is empty.
    found = difference(union(stretch.span for stretch in todo if stretch.holds == 0), (proven,))
    promise = scan.promise.less(stamps) if scan.promise is not None else None
    scan = replace(
        scan,
        todo=_without(todo, union((*found, proven))),
        hollow=union((*scan.hollow, *found)),
        left=None if scan.left is None else scan.left - int(counts.sum()),
        longest=_next_longest(lengths, proven.length),
        waste=scan.waste.after(proven, stamps, cut=cut),
        promise=promise,
        wary=scan.wary and not bool((stamps % MINUTE).any()),
    )
    accepted = (proven, *found)
    if promise is not None and proven.end >= promise.span.end:
        scan = replace(scan, promise=None)
        if promise.rows > 0:
            return _broken_promise(scan, lengths, promise.span, accepted)
    return Step(scan, lengths, accepted)


def _less(stretch: _Stretch, proven: Span, stamps: Stamps, counts: Stamps) -> _Stretch:
    """A stretch after the samples of another one were found, some of which it may have announced."""
    if stretch.holds is None or not intersection((stretch.span,), (proven,)):
        return stretch
    inside = (stamps >= stretch.span.start) & (stamps < stretch.span.end)
    return replace(stretch, holds=max(0, stretch.holds - int(counts[inside].sum())))


def _next_longest(lengths: Lengths, length: int) -> int | None:
    """While no raw length is proven, one at which something was read after all is kept to."""
    if lengths.raw.reached:
        return None
    return max(FLOOR + 1, length + 1)


def _broken_promise(scan: Scan, lengths: Lengths, promised: Span, accepted: Sequence[Span]) -> Step:
    """Rows that were announced never came: the pages were not in order, so what they held is read again."""
    todo = tuple(
        sorted((*_without(scan.todo, (promised,)), _Stretch(promised)), key=lambda stretch: stretch.span)
    )
    return Step(
        replace(scan, todo=todo),
        replace(lengths, ordered=False),
        accepted=difference(union(accepted), (promised,)),
        doubted=(promised,),
    )


def _buckets(scan: Scan, lengths: Lengths, ask: Ask, answer: Answer, rows: _Buckets) -> Step:
    """Buckets say where nothing is. A bucket answers by its start, so only whole ones say anything."""
    stamps, counts, grain = rows.stamps, rows.counts, rows.grain
    # Up to the end of what was asked, not of its last bucket: raw samples can lie on whole minutes, too.
    end = ask.span.end if answer.whole else int(stamps[-1]) if lengths.ordered else ask.span.start
    starts, which = np.unique(stamps, return_inverse=True)
    totals = np.bincount(which, weights=counts).astype(np.int64)
    known = span(ceil(ask.span.start, grain), end)
    filled = [
        _Stretch(Span(start, start + grain), grain, total)
        for start, total in zip(starts.tolist(), totals.tolist(), strict=True)
    ]
    empty = difference(known, [cell.span for cell in filled])
    whole = [cell for cell in filled if not difference((cell.span,), known)]
    # What a cut answer did not come to is worth another question, if only it came to something.
    reached = end if end > ask.span.start else ask.span.end
    return _found_empty(scan, lengths, ask, empty, _Told(Span(ask.span.start, reached), grain, tuple(whole)))


@dataclass(frozen=True, slots=True)
class _Buckets:
    """Rows that are not raw: where their buckets start, their counts, and their width."""

    stamps: Stamps
    counts: Stamps
    grain: int


@dataclass(frozen=True, slots=True)
class _Told:
    """What an answer told of a stretch: at which width, and the buckets in it."""

    span: Span
    grain: int
    cells: tuple[_Stretch, ...] = ()


def _nothing(scan: Scan, lengths: Lengths, ask: Ask, answer: Answer) -> Step:
    """An empty answer proves emptiness at a raw length, and between the edges of the widest buckets."""
    if not answer.whole:
        raise SourceContractError("an answer announced rows and held none of the stretch that was asked for")
    grain = lengths.widest(ask.span.length)
    if grain == RAW:
        nothing = np.empty(0, np.int64)
        return _accept(scan, lengths, ask.span, nothing, nothing, cut=False)
    empty = span(ceil(ask.span.start, grain), ask.span.end)
    step = _found_empty(scan, lengths, ask, empty, _Told(ask.span, grain))
    unproven = intersection(step.scan.remaining, (ask.span,))
    if ask.hoped or scan.last_resort or not unproven:
        return step
    deferred = (*scan.deferred, *(_Deferred(part, ask.span.length) for part in unproven))
    scan = replace(
        step.scan,
        todo=_without(step.scan.todo, unproven),
        deferred=deferred,
        longest=scan.longest,
        wary=True,
    )
    return replace(step, scan=scan)


def _found_empty(scan: Scan, lengths: Lengths, ask: Ask, empty: Sequence[Span], told: _Told) -> Step:
    """No raw samples came, but the knowledge of where there are none."""
    accepted = intersection(scan.remaining, empty)
    if RAW < ask.hoped < told.grain:
        lengths = lengths.disappointed(ask.span.length, ask.hoped)
    todo = _described(_without(scan.todo, empty), told)
    scan = replace(scan, todo=todo, hollow=union((*scan.hollow, *empty)))
    return Step(scan if ask.hoped else _shorter(scan, ask.span.length), lengths, accepted)


def _shorter(scan: Scan, length: int) -> Scan:
    """The next raw answer has to come at less than this length."""
    return replace(scan, longest=length if scan.longest is None else min(length, scan.longest))


def _fitting(asked: Span, answer: Answer, stamps: Stamps) -> int:
    """The length at which the rows of a stretch would likely fit into one page."""
    total = answer.total if answer.total is not None else 2 * stamps.size
    return max(MILLISECOND + 1, _even(int(asked.length * stamps.size / max(total, 1))))


def _even(length: int) -> int:
    """A length in whole seconds, or in whole milliseconds where it is less than one."""
    grain = SECOND if length >= SECOND else MILLISECOND
    return max(MILLISECOND, floor(length, grain))


def _without(todo: Sequence[_Stretch], spans: Sequence[Span]) -> tuple[_Stretch, ...]:
    return tuple(
        replace(stretch, span=part) for stretch in todo for part in difference((stretch.span,), spans)
    )


def _described(todo: Sequence[_Stretch], told: _Told) -> tuple[_Stretch, ...]:
    """The same time, with what an answer told of a part of it."""
    described: list[_Stretch] = []
    for stretch in todo:
        inside = intersection((stretch.span,), (told.span,))
        if stretch.grain <= told.grain or not inside:
            described.append(stretch)
            continue
        cells = [cell for cell in told.cells if not difference((cell.span,), (stretch.span,))]
        rest = difference((stretch.span,), [cell.span for cell in cells])
        described += sorted(
            (
                *(replace(cell, grain=told.grain) for cell in cells),
                *(_Stretch(part, told.grain) for part in intersection(rest, inside)),
                *(replace(stretch, span=part, holds=None) for part in difference(rest, inside)),
            ),
            key=lambda part: part.span,
        )
    return tuple(described)
