"""Results as a person reads them, on standard output."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from sync.model import RunOutcome
from sync.observe.display import Counts, plural

_BLOCKS = "▁▂▃▄▅▆▇█"


def plain_table(*columns: str, numbers: Sequence[str] = ()) -> Table:
    """A table without lines; the named columns are aligned to the right."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, justify="right" if column in numbers else "left", no_wrap=True)
    return table


def show_outcomes(
    console: Console, outcomes: Sequence[RunOutcome], counts: Counts, redact: Callable[[str], str]
) -> None:
    """One line an account: what came in and what became of it; below it, what went wrong."""
    numbers = ("nights", "signals", "stored", "unchanged", "rejected", "MB")
    table = plain_table("account", *numbers, "result", numbers=numbers)
    for outcome in outcomes:
        records = counts.of(outcome.source, outcome.account)
        tally, traffic = outcome.tally, outcome.traffic
        table.add_row(
            f"{outcome.source}/{outcome.account}",
            f"{records['night']:,}",
            f"{records['raw signal']:,}",
            f"{tally.stored:,}",
            f"{tally.unchanged + tally.superseded + tally.duplicate:,}",
            f"{tally.rejected:,}",
            f"{traffic.received_bytes / 1e6:,.1f}",
            "[green]ok[/]" if outcome.error is None else "[red]failed[/]",
        )
    console.print(table)
    for outcome in outcomes:
        if outcome.error is not None:
            message = redact(str(outcome.error) or type(outcome.error).__name__)
            console.print(f"\n[red]{outcome.source}/{outcome.account}[/] {plain(message)}")


def plain(text: str) -> str:
    """Text from outside, unable to colour or to steer anything: escaped for a console's markup."""
    return escape("".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text))


def plain_outcome(outcome: RunOutcome, counts: Counts, error: str | None) -> dict[str, Any]:
    """An outcome as values that JSON has words for."""
    tally, traffic = outcome.tally, outcome.traffic
    return {
        "source": outcome.source,
        "account": outcome.account,
        "ok": outcome.error is None,
        "records": dict(counts.of(outcome.source, outcome.account)),
        "read": tally.read,
        "stored": tally.stored,
        "unchanged": tally.unchanged,
        "superseded": tally.superseded,
        "duplicate": tally.duplicate,
        "rejected": tally.rejected,
        "requests": traffic.requests,
        "bytes": traffic.received_bytes,
        "error": error,
    }


def show_status(console: Console, status: Mapping[str, Any]) -> None:
    """Streams and how far they are, blobs, rejects, last runs."""
    newest = f", the newest on {status['newest_night']}" if status["newest_night"] else ""
    console.print(
        f"[bold]{status['nights']:,} {plural('night', status['nights'])}[/] in the warehouse{newest}\n"
    )
    _show_streams(console, status["streams"])
    if status["blobs"]:
        listed = ", ".join(f"{count:,} {state}" for state, count in status["blobs"].items())
        console.print(f"\n[bold]raw signals[/]  {listed}")
    _show_rejects(console, status["rejects"])
    _show_runs(console, status["runs"])


def _show_streams(console: Console, streams: Sequence[Mapping[str, Any]]) -> None:
    if not streams:
        console.print("no account has been read yet")
        return
    table = plain_table("stream", "last success", "covered", "gaps", numbers=("gaps",))
    for stream in streams:
        covered = (stream["covered_from"], stream["covered_to"])
        table.add_row(
            f"{stream['source']}/{stream['account']}/{stream['stream']}",
            "never" if stream["lag"] is None else f"{ago(stream['lag'])} ago",
            "nothing" if covered[0] is None else f"{covered[0]:%Y-%m-%d} to {covered[1]:%Y-%m-%d %H:%M}",
            str(len(stream["gaps"])),
        )
    console.print(table)
    for stream in streams:
        if stream["last_error"]:
            name = f"{stream['source']}/{stream['account']}/{stream['stream']}"
            console.print(f"[red]{name}[/] {plain(stream['last_error'])}")


def _show_rejects(console: Console, rejects: Sequence[Mapping[str, Any]]) -> None:
    if not rejects:
        console.print("\n[bold]rejects[/]  none open")
        return
    console.print(f"\n[bold]rejects[/]  {sum(r['count'] for r in rejects):,} open (details: sync.rejects)")
    for reject in rejects:
        console.print(
            f"  {reject['count']:>6,}  {reject['source']}/{reject['account']}  {plain(reject['reason'])}"
        )


def _show_runs(console: Console, runs: Sequence[Mapping[str, Any]]) -> None:
    if not runs:
        return
    console.print("\n[bold]last run of each account[/]  (all of them: sync.runs)")
    numbers = ("stored", "rejected", "requests")
    table = plain_table("account", "task", "began", "outcome", *numbers, numbers=numbers)
    for run in runs:
        table.add_row(
            f"{run['source']}/{run['account']}",
            run["task"],
            moment(run["started_at"]),
            run["outcome"],
            *(f"{run[name]:,}" for name in numbers),
        )
    console.print(table)


def ago(span: timedelta) -> str:
    """A duration in its largest sensible unit."""
    seconds = span.total_seconds()
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def moment(instant: datetime) -> str:
    """An instant to the minute, in UTC."""
    return f"{instant:%Y-%m-%d %H:%M}Z"


def sparkline(values: Sequence[float | None]) -> str:
    """A curve in one line of text; a gap where a value is missing."""
    known = [value for value in values if value is not None]
    if not known:
        return ""
    low, high = min(known), max(known)
    step = (high - low) / (len(_BLOCKS) - 1) or 1
    return "".join(" " if value is None else _BLOCKS[round((value - low) / step)] for value in values)
