"""Where nothing is: what buckets and empty answers prove."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from sync.errors import SourceContractError
from sync.sources.bace.lengths import RAW, Lengths
from sync.sources.bace.resolution.raw import accept
from sync.sources.bace.resolution.scan import (
    NONE,
    Ask,
    Deferred,
    Reply,
    Scan,
    Step,
    Stretch,
    Tied,
    shorter,
    without,
)
from sync.sources.bace.spans import MINUTE, Span, ceil, difference, intersection, span, union


@dataclass(frozen=True, slots=True)
class Told:
    """What an answer told of a stretch: at which width, and the buckets in it."""

    span: Span
    grain: int
    cells: tuple[Stretch, ...] = ()


def bucket_rows(scan: Scan, lengths: Lengths, reply: Reply, grain: int) -> Step:
    """Buckets say where nothing is. A bucket answers by its start, so only whole ones say anything."""
    asked, stamps = reply.span, reply.stamps
    # Up to the end of what was asked, not of its last bucket: raw samples can lie on whole minutes, too.
    end = asked.end if reply.whole else int(stamps[-1]) if lengths.ordered else asked.start
    known = span(ceil(asked.start, grain), end)
    filled = [cell for cell in _cells(reply, grain) if cell.holds]
    missing = [cell for cell in filled if cell.holds != _seen(scan, cell.span)]
    empty = difference(known, [cell.span for cell in missing])
    whole = [cell for cell in missing if not difference((cell.span,), known)]
    # What a cut answer did not come to is worth another question, if only it came to something.
    reached = end if end > asked.start else asked.end
    told = Told(Span(asked.start, reached), grain, tuple(whole))
    return _found_empty(scan, lengths, reply.ask, empty, told)


def _cells(reply: Reply, grain: int) -> list[Stretch]:
    """The buckets of an answer, and how many samples of all datasets each announces."""
    starts, which = np.unique(reply.stamps, return_inverse=True)
    totals = np.bincount(which, weights=reply.counts).astype(np.int64)
    pairs = zip(starts.tolist(), totals.tolist(), strict=True)
    return [Stretch(Span(start, start + grain), grain, total) for start, total in pairs]


def _seen(scan: Scan, within: Span) -> int:
    """How many samples were found in a bucket already: all that it announced, and the rest of it is empty."""
    return sum(within.start <= stamp < within.end for stamp in scan.seen)


def tied_rows(scan: Scan, lengths: Lengths, reply: Reply) -> Step:
    """Rows that are on no grid of buckets, and yet stand for several samples.

    Most likely some share an instant, but nothing has proven that. Wherever there is no such row, and shortly
    after it, there is nothing; and once a shorter answer is raw and has the same rows, this one was, too.
    """
    asked, stamps = reply.span, reply.stamps
    if scan.tied is None or scan.tied.length < asked.length:
        counts = dict(zip(stamps.tolist(), reply.counts.tolist(), strict=True))
        scan = replace(scan, tied=Tied(asked.length, counts))
    end = asked.end if reply.whole else int(stamps[-1]) if lengths.ordered else asked.start
    minutes = np.unique(stamps // MINUTE * MINUTE).tolist()
    filled = union(Span(minute, minute + 2 * MINUTE) for minute in minutes)
    empty = difference(span(ceil(asked.start, MINUTE), end), filled)
    reached = end if end > asked.start else asked.end
    return _found_empty(scan, lengths, reply.ask, empty, Told(Span(asked.start, reached), MINUTE))


def no_rows(scan: Scan, lengths: Lengths, reply: Reply) -> Step:
    """An empty answer proves emptiness at a raw length, and between the edges of the widest buckets."""
    ask = reply.ask
    if not reply.whole:
        raise SourceContractError("an answer announced rows and held none of the stretch that was asked for")
    grain = lengths.widest(ask.span.length)
    if grain == RAW:
        scan = replace(scan, density=scan.density / 2)  # what was dense before may be over
        return accept(scan, lengths, ask.span, NONE, NONE, cut=False)
    empty = span(ceil(ask.span.start, grain), ask.span.end)
    step = _found_empty(scan, lengths, ask, empty, Told(ask.span, grain))
    unproven = intersection(step.scan.remaining, (ask.span,))
    if ask.hoped or scan.last_resort or not unproven:
        return step
    deferred = (*scan.deferred, *(Deferred(part, ask.span.length) for part in unproven))
    scan = replace(
        step.scan,
        todo=without(step.scan.todo, unproven),
        deferred=deferred,
        waste=scan.waste.after(ask.span, NONE, cut=False),
        longest=None if scan.longest is None else 2 * scan.longest,
        wary=True,
    )
    return replace(step, scan=scan)


def _found_empty(scan: Scan, lengths: Lengths, ask: Ask, empty: Sequence[Span], told: Told) -> Step:
    """No raw samples came, but the knowledge of where there are none."""
    accepted = intersection(scan.remaining, empty)
    if RAW < ask.hoped < told.grain:
        lengths = lengths.disappointed(ask.span.length, ask.hoped)
    todo = _described(without(scan.todo, empty), told)
    scan = replace(scan, todo=todo, hollow=union((*scan.hollow, *empty)))
    return Step(scan if ask.hoped else shorter(scan, lengths, ask.span.length), lengths, accepted)


def taken_up(step: Step) -> Step:
    """Deferred time is proven empty once its length is proven raw; if it never is, it is read after all."""
    scan = step.scan
    proven = [part.span for part in scan.deferred if step.lengths.is_raw(part.length)]
    waiting = tuple(part for part in scan.deferred if not step.lengths.is_raw(part.length))
    if proven:
        step = replace(step, accepted=union((*step.accepted, *proven)))
        scan = replace(scan, hollow=union((*scan.hollow, *proven)), deferred=waiting)
    if waiting and not scan.todo:
        todo = tuple(Stretch(part) for part in union(part.span for part in waiting))
        scan = replace(scan, todo=todo, deferred=(), in_doubt=True, last_resort=True)
    return replace(step, scan=scan)


def _described(todo: Sequence[Stretch], told: Told) -> tuple[Stretch, ...]:
    """The same time, with what an answer told of a part of it."""
    described: list[Stretch] = []
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
                *(Stretch(part, told.grain) for part in intersection(rest, inside)),
                *(replace(stretch, span=part, holds=None) for part in difference(rest, inside)),
            ),
            key=lambda part: part.span,
        )
    return tuple(described)
