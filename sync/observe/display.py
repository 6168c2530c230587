"""How work looks to a person: bars on a terminal, nothing but log lines elsewhere."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Column
from rich.text import Text

from sync.model import Batch, RunOutcome, Tally, length
from sync.ports import Unit

_ROOMY = 100
"""Columns of a terminal from which on there is room for more than the facts."""


class Counts:
    """Counts what was committed, by what a person calls it, for each account.

    A night that two windows share is one night, so that keys are kept, not numbers.
    """

    def __init__(self) -> None:
        self._records: dict[str, set[tuple[str, str]]] = {}

    def planned(self, source: str, account: str, units: Sequence[Unit]) -> None:
        """Nothing to count yet."""

    def committed(self, source: str, account: str, unit: Unit, batch: Batch, tally: Tally) -> None:  # noqa: ARG002
        """Count the batch's records."""
        records = {(record.head.noun, record.label) for record in batch.records}
        self._records.setdefault(f"{source}/{account}", set()).update(records)

    def finished(self, outcome: RunOutcome) -> None:
        """Nothing to count any more."""

    def of(self, source: str, account: str) -> Counter[str]:
        """Records that were committed for an account, by noun."""
        return Counter(noun for noun, _ in self._records.get(f"{source}/{account}", ()))


class Bars(Counts):
    """Counts, and shows a line for each account that is being worked on.

    How many nights an account holds is known only when they have been read: while history is read, the bar
    only says that something happens. Of raw signals, whose number is known, it says how many are done.
    """

    def __init__(self, console: Console) -> None:
        super().__init__()
        bar = (BarColumn(bar_width=12),) if console.width >= _ROOMY else ()
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("[bold]{task.fields[account]}", table_column=Column(no_wrap=True)),
            *bar,
            _Facts(),
            TimeElapsedColumn(table_column=Column(no_wrap=True, min_width=7)),
            console=console,
            transient=True,
            expand=True,
        )
        self._lines: dict[str, TaskID] = {}
        self._items: Counter[str] = Counter()
        self._covered: dict[str, timedelta] = {}
        self._group: dict[str, int] = {}
        self._begun: dict[str, set[str]] = {}

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def planned(self, source: str, account: str, units: Sequence[Unit]) -> None:
        """Say what is being read."""
        line = f"{source}/{account}"
        self._group[line] = len(units)
        self._begun[line] = set()
        self._show(line, units[0].label)
        self._progress.update(self._lines[line], total=len(units) if len(units) > 1 else None, completed=0)

    def committed(self, source: str, account: str, unit: Unit, batch: Batch, tally: Tally) -> None:
        """Say how much has been read."""
        super().committed(source, account, unit, batch, tally)
        line = f"{source}/{account}"
        self._items[line] += tally.read
        if batch.progress is not None:
            self._covered[line] = self._covered.get(line, timedelta()) + length(batch.progress.covered)
        self._begun[line].add(unit.label)
        self._show(line, unit.label)
        self._progress.update(self._lines[line], completed=len(self._begun[line]))

    def finished(self, outcome: RunOutcome) -> None:
        """Stop the account's spinner."""
        line = f"{outcome.source}/{outcome.account}"
        self._group.pop(line, None)
        self._show(line, "failed" if outcome.error else "done")
        self._progress.update(self._lines[line], total=1, completed=1)

    def _show(self, line: str, doing: str) -> None:
        if line not in self._lines:
            self._lines[line] = self._progress.add_task("", total=None, account=escape(line))
        counted = listed(Counter(noun for noun, _ in self._records.get(line, ())))
        years = self._covered.get(line, timedelta()).days / 365.25
        parts = [counted or "nothing yet"]
        if self._group.get(line, 1) > 1:
            doing = f"reading {self._group[line]}"
        elif years >= 0.1:
            parts += [f"{years:.1f} years"]
        parts += [doing, f"{self._items[line]:,} items"]
        self._progress.update(self._lines[line], description=" · ".join(parts))


class _Facts(ProgressColumn):
    """What is known of an account, the most important first: a narrow terminal cuts the end."""

    def __init__(self) -> None:
        super().__init__(table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1))

    def render(self, task: Task) -> Text:
        return Text(task.description)


def shows_bars(console: Console) -> bool:
    """Whether the console is a terminal that can redraw a line."""
    return console.is_terminal and not console.is_dumb_terminal


@contextmanager
def watching(console: Console) -> Iterator[Counts]:
    """Bars where the console can show them; plain counting elsewhere."""
    if not shows_bars(console):
        yield Counts()
        return
    with Bars(console) as bars:
        yield bars


def listed(records: Mapping[str, int], *, short: bool = False) -> str:
    """How many there are of each noun; ``short`` for a table, where a noun's last word says enough."""
    return ", ".join(
        f"{number:,} {plural(noun.split()[-1] if short else noun, number)}"
        for noun, number in sorted(records.items())
    )


def plural(noun: str, number: int) -> str:
    """The noun as it stands after a number."""
    return noun if number == 1 else f"{noun}s"
