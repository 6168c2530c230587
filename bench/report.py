"""What was measured: the lines of the table, and the same as JSON."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """What a ratio shall be: at least, or at most, so much."""

    least: float | None = None
    most: float | None = None

    def is_met(self, ratio: float) -> bool:
        """Whether a ratio is as it shall be."""
        return (self.least is None or ratio >= self.least) and (self.most is None or ratio <= self.most)

    def __str__(self) -> str:
        return f"≥ {self.least:g}" if self.least is not None else f"≤ {self.most:g}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One measurement.

    Attributes:
        what: What was measured.
        value: How much; None where it could not be measured, which ``note`` explains.
        unit: Of what.
        ratio: The same beside something else of the same run.
        beside: What that is.
        goal: What the ratio shall be.
        note: What a reader has to know.
    """

    what: str
    value: float | None
    unit: str
    ratio: float | None = None
    beside: str = ""
    goal: Goal | None = None
    note: str = ""

    @property
    def verdict(self) -> str:
        """``ok``, ``missed``, or nothing where there is no goal."""
        if self.goal is None:
            return ""
        if self.ratio is None:
            return "not measured"
        return "ok" if self.goal.is_met(self.ratio) else "missed"

    @property
    def amount(self) -> str:
        """Value and unit for a person."""
        return f"{short(self.value)} {self.unit}" if self.value is not None else "-"


def short(number: float) -> str:
    """A number with three digits that count."""
    if abs(number) >= 100:
        return f"{number:,.0f}"
    return f"{number:.3g}" if abs(number) >= 0.001 or not number else f"{number:.1e}"


def show(console: Console, figure: str, lines: Sequence[Line]) -> None:
    """Print a figure's lines."""
    table = Table(title=figure, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for name, justify in (("", "left"), ("measured", "right"), ("ratio", "right"), ("to", "left")):
        table.add_column(name, justify="right" if justify == "right" else "left")
    table.add_column("goal")
    table.add_column("")
    for line in lines:
        colour = {"ok": "green", "missed": "red"}.get(line.verdict, "yellow")
        table.add_row(
            line.what,
            line.amount,
            "" if line.ratio is None else short(line.ratio),
            line.beside,
            "" if line.goal is None else str(line.goal),
            f"[{colour}]{line.verdict}[/]",
        )
    console.print(table)
    for note in dict.fromkeys(line.note for line in lines if line.note):
        console.print(f"[dim]  {note}[/]")
    console.print()


def write(path: Path, size: str, server: Mapping[str, Any], figures: Mapping[str, Iterable[Line]]) -> None:
    """Write everything as JSON."""
    content = {
        "size": size,
        "machine": machine(),
        "server": dict(server),
        "figures": {
            name: [asdict(line) | {"goal": str(line.goal or ""), "verdict": line.verdict} for line in lines]
            for name, lines in figures.items()
        },
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def machine() -> dict[str, Any]:
    """The machine, as far as figures depend on it."""
    facts = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.partition(":")[2].strip() for line in facts if line.startswith("model name")]
    return {
        "processor": models[0] if models else platform.machine(),
        "processors": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "load_before": round(os.getloadavg()[0], 2),
        "system": platform.system(),
        "python": platform.python_version(),
    }
