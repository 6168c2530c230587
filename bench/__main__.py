"""Measures, prints a table, writes JSON.

    python -m bench [FIGURE ...] [--quick] [--json PATH] [--dsn DSN]

Every figure is a ratio of two things that were measured in one run on one machine; amounts are there for
orientation. Nothing but loopback is used. Without a DSN (``--dsn`` or ``NIGHTSHIFT_BENCH_DSN``; it has to be
a superuser's, of a server on this machine) an embedded PostgreSQL serves, with the settings that its users
have.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import tempfile
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any, Final

import structlog
from rich.console import Console

from bench import report
from bench.figures import bace, decode, end_to_end, memory, scaling, storage, write_path
from bench.program import compile_program
from bench.report import Line
from bench.size import FULL, QUICK, Size
from bench.warehouse import Bench, facts, server

FIGURES: Final[dict[str, Callable[[Bench], Awaitable[Sequence[Line]]]]] = {
    "end-to-end": end_to_end.measure,
    "write-path": write_path.measure,
    "decode": decode.measure,
    "bace": bace.measure,
    "memory": memory.measure,
    "storage": storage.measure,
    "scaling": scaling.measure,
}
RESULTS: Final = Path(__file__).parent / "results.json"


async def main(names: Sequence[str], size: Size, json_path: Path, dsn: str | None) -> bool:
    """Measure; whether no goal was missed."""
    if (this := asyncio.current_task()) is not None:  # the server and all processes end with it
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, this.cancel)
    compile_program()
    console = Console(width=132, highlight=False)
    results: dict[str, Sequence[Line]] = {}
    with tempfile.TemporaryDirectory(prefix="nightshift-bench-") as folder:
        async with server(size, Path(folder), dsn) as bench:
            about = await facts(bench.dsn)
            console.print(_headline(size, about))
            for name in names:
                began = perf_counter()
                lines = await FIGURES[name](bench)
                results[name] = lines
                report.show(console, f"{name} ({perf_counter() - began:.0f} s)", lines)
                report.write(json_path, size.name, about, results)  # what was measured stays measured
    missed = [line.what for lines in results.values() for line in lines if line.verdict == "missed"]
    console.print(f"{len(missed)} goals missed. Written to {json_path}")
    return not missed


def _headline(size: Size, about: Mapping[str, Any]) -> str:
    machine = report.machine()
    settings = ", ".join(f"{name} {value}" for name, value in about.items() if value is not None)
    small = " Goals are meant for the full size." if size is QUICK else ""
    return (
        f"{machine['processors']} processors, {machine['processor']}, {machine['memory_gib']} GiB,"
        f" Python {machine['python']}, load {machine['load_before']}\n{settings}\nSize: {size.name}.{small}\n"
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description="How fast nightshift is.")
    parser.add_argument("figures", nargs="*", metavar="FIGURE", help=f"of {', '.join(FIGURES)}; default: all")
    parser.add_argument("--quick", action="store_true", help="a small size, to see that it works")
    parser.add_argument("--json", type=Path, default=RESULTS, metavar="PATH", help="where to write results")
    parser.add_argument("--dsn", default=os.environ.get("NIGHTSHIFT_BENCH_DSN"), help="a PostgreSQL server")
    arguments = parser.parse_args()
    if unknown := set(arguments.figures).difference(FIGURES):
        parser.error(f"there is no figure {', '.join(sorted(unknown))}; there is {', '.join(FIGURES)}")
    return arguments


if __name__ == "__main__":
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    given = _arguments()
    try:  # a missed goal is a finding, not a failure of the benchmark
        asyncio.run(
            main(given.figures or list(FIGURES), QUICK if given.quick else FULL, given.json, given.dsn)
        )
    except asyncio.CancelledError:
        raise SystemExit(128 + signal.SIGTERM) from None
