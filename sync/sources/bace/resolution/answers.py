"""What an answer proves: raw samples, or what kind of hint it is."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np

from sync.sources.bace.lengths import FLOOR, RAW, Lengths, grain_of
from sync.sources.bace.resolution.emptiness import bucket_rows, no_rows, taken_up, tied_rows
from sync.sources.bace.resolution.raw import next_page, raw_rows
from sync.sources.bace.resolution.scan import Answer, Ask, Doubt, Reply, Scan, Stamps, Step, in_vain, shorter
from sync.sources.bace.spans import MINUTE, Span

ORDERLY: Final = 8
"""So many rows of datasets that take turns are in the order of time by no chance."""


def after(scan: Scan, lengths: Lengths, ask: Ask, answer: Answer) -> Step:
    """What an answer proves, and how the walk goes on.

    Raises:
        SourceContractError: The answer contradicts itself, so that nothing can be made of it.
    """
    step = _judged(replace(scan, in_doubt=False), lengths, ask, answer)
    if ask.hoped and step.scan.todo == scan.todo:
        step = replace(step, scan=replace(step.scan, todo=in_vain(scan.todo, ask.span)))
    return taken_up(step)


def _judged(scan: Scan, lengths: Lengths, ask: Ask, answer: Answer) -> Step:
    """What kind of answer it is, and what that kind means."""
    scan = replace(scan, page_size=answer.page_size or scan.page_size)
    reply = Reply.to(ask, answer)
    if scan.pages is not None:
        return next_page(scan, scan.pages, lengths, reply)
    if scan.doubt is not None:
        return _confirmed(scan, scan.doubt, lengths, reply)
    if not reply.whole:
        lengths = _judge_order(lengths, reply)
    if reply.stamps.size == 0:
        return no_rows(scan, lengths, reply)
    length = ask.span.length
    grain = grain_of(reply.stamps, reply.counts, length, lengths)
    if grain is None:
        return tied_rows(scan, lengths, reply)
    if length > FLOOR:
        lengths = lengths.learn(length, grain, places=np.unique(reply.stamps).size, shared=reply.shares)
    if grain != RAW:
        if ask.hoped == RAW and not reply.shares:
            scan = replace(scan, suspect=ask.span, wary=True)
        return bucket_rows(scan, lengths, reply, grain)
    if length > FLOOR and not scan.vouched and not bool((reply.stamps % MINUTE).any()):
        doubt = Doubt(length, int(reply.stamps[0]), int(reply.counts[0]))
        return Step(replace(scan, doubt=doubt), lengths)
    if scan.suspect is not None and _betrays(scan.suspect, reply.stamps):
        lengths = lengths.exposed(scan.suspect.length)
        scan = replace(scan, suspect=None)
    if scan.tied is not None and scan.tied.agrees(reply):
        lengths = replace(lengths, raw=lengths.raw.hit(scan.tied.length))
        scan = replace(scan, tied=None)
    step = raw_rows(scan, lengths, reply)
    return replace(step, proves=not reply.shares and bool((reply.stamps % MINUTE).any()))


def _confirmed(scan: Scan, doubt: Doubt, lengths: Lengths, reply: Reply) -> Step:
    """Whether rows on whole minutes are samples: proof of an interval length may be older than the server."""
    scan = replace(scan, doubt=None)
    if doubt.is_dispelled_by(reply):
        return Step(replace(scan, vouched=True), lengths)
    lengths = lengths.exposed(doubt.length)
    return Step(shorter(scan, lengths, doubt.length), lengths)


def _judge_order(lengths: Lengths, reply: Reply) -> Lengths:
    """What a cut page shows of the order of rows: against it, or, where datasets take turns, for it."""
    if not bool((np.diff(reply.stamps) >= 0).all()):
        return replace(lengths, ordered=False)
    convincing = reply.mixed and reply.stamps.size >= ORDERLY and lengths.ordered is None
    return replace(lengths, ordered=True) if convincing else lengths


def _betrays(suspect: Span, stamps: Stamps) -> bool:
    """Whether raw samples lie off the minutes in a stretch for which a longer answer had only whole ones."""
    inside = stamps[(stamps >= suspect.start) & (stamps < suspect.end)]
    return bool((inside % MINUTE).any())
