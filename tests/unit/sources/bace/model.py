"""A model of ``data-downsampled``, as small as the documents allow: one session, answers without I/O."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from sync.sources.bace.lengths import Lengths
from sync.sources.bace.resolution import Answer, Ask, Scan, after, next_ask
from sync.sources.bace.spans import DAY, HOUR, MINUTE, Span

Ints = npt.NDArray[np.int64]


@dataclass
class ModelServer:
    """Samples of one session, and when it answers at which resolution.

    Attributes:
        stamps: Instants in microseconds.
        series: The dataset of each sample.
        raw_up_to: The longest interval that is answered raw; the others likewise.
        page: Rows of a page.
        merges: Samples of one dataset that share an instant are one row with their number.
        sorts: Whether the order of time that is asked for is honoured.
        asks: What was asked.
    """

    stamps: Ints
    series: Ints
    raw_up_to: int = HOUR
    minutes_up_to: int = DAY
    hours_up_to: int = 30 * DAY
    page: int = 500
    merges: bool = False
    sorts: bool = True
    asks: list[Ask] = field(default_factory=list)

    def rows(self, span: Span) -> tuple[Ints, Ints, Ints]:
        """All rows of the answer to a stretch: stamp, dataset, count."""
        length = span.length
        if length <= self.raw_up_to:
            inside = (self.stamps >= span.start) & (self.stamps < span.end)
            stamps, series = self.stamps[inside], self.series[inside]
            if not self.merges:
                return stamps, series, np.ones(len(stamps), np.int64)
            return _grouped(stamps, series)
        limits = ((self.minutes_up_to, MINUTE), (self.hours_up_to, HOUR))
        width = next((grain for limit, grain in limits if length <= limit), DAY)
        starts = self.stamps // width * width
        inside = (starts >= span.start) & (starts < span.end)
        return _grouped(starts[inside], self.series[inside])

    def answer(self, ask: Ask) -> tuple[Answer, Ints]:
        """The answer to a question, and the datasets of its rows."""
        self.asks.append(ask)
        stamps, series, counts = self.rows(ask.span)
        order = np.lexsort((series, stamps)) if self.sorts else np.lexsort((stamps, series))
        chosen = order[(ask.page - 1) * self.page : ask.page * self.page]
        answer = Answer(
            stamps=stamps[chosen],
            counts=counts[chosen],
            whole=ask.page * self.page >= len(stamps),
            total=len(stamps),
            page_size=self.page,
            mixed=takes_turns(series[chosen]),
        )
        return answer, series[chosen]


def takes_turns(series: Ints) -> bool:
    """Whether some dataset comes again after another one."""
    runs = 1 + int((np.diff(series) != 0).sum())
    return runs > len(np.unique(series))


def _grouped(stamps: Ints, series: Ints) -> tuple[Ints, Ints, Ints]:
    pairs, counts = np.unique(np.stack([stamps, series]), axis=1, return_counts=True)
    return pairs[0], pairs[1], counts.astype(np.int64)


@dataclass
class Reader:
    """Does what a scan says, as the unit does, with a warehouse of one session.

    Attributes:
        rows: (stamp, dataset, count) of all accepted rows.
        covered: Stretches that were accepted.
    """

    server: ModelServer
    scan: Scan
    lengths: Lengths = field(default_factory=Lengths)
    rows: list[tuple[int, int, int]] = field(default_factory=list)
    covered: list[Span] = field(default_factory=list)
    held: list[tuple[int, int, int]] = field(default_factory=list)

    def step(self) -> bool:
        """One question and its answer; False when there is nothing more to ask."""
        ask = next_ask(self.scan, self.lengths)
        if ask is None:
            return False
        answer, series = self.server.answer(ask)
        step = after(self.scan, self.lengths, ask, answer)
        self.scan, self.lengths = step.scan, step.lengths
        self.held += zip(answer.stamps.tolist(), series.tolist(), answer.counts.tolist(), strict=True)
        for doubted in step.doubted:
            self._replace(doubted, [])
        for accepted in step.accepted:
            self._replace(accepted, self.held)
            self.covered.append(accepted)
        if not step.hold:
            self.held = []
        return True

    def read(self, most: int = 100_000) -> None:
        """Everything, in a bounded number of questions."""
        for _ in range(most):
            if not self.step():
                return
        raise AssertionError(f"still asking after {most} questions: {self.scan}")

    def _replace(self, span: Span, rows: list[tuple[int, int, int]]) -> None:
        self.rows = [row for row in self.rows if not span.start <= row[0] < span.end]
        self.rows += [row for row in rows if span.start <= row[0] < span.end]


def bound(stamps: Ints, length: int, page: int) -> int:
    """The fewest requests: a greedy cover by intervals of this length that hold one page at most."""
    requests = at = 0
    ordered = np.sort(stamps)
    while at < len(ordered):
        reach = int(np.searchsorted(ordered, ordered[at] + length))
        at = min(reach, at + page)
        requests += 1
    return requests
