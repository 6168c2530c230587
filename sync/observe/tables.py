"""Results as a person reads them, on standard output."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import groupby
from typing import Any, TypeAlias

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from sync.model import RunOutcome
from sync.observe.display import Counts, listed, plural

Facts: TypeAlias = Mapping[str, Any]
"""A row, by column name."""

_SHOWN = 5
"""Open and incomplete data sessions that are named at most."""

_FEW = 10
"""So many accounts of a source have a line each; of more, only those in trouble."""

_LISTED = 20
"""Lines of one kind at most."""

_FRESH = timedelta(days=1)
"""A check older than that is worth a line, where nobody says better."""

_DIFFERENCES = 200
"""Differences that are named at most."""

_WELL = frozenset({"done", "running", "paused"})
"""Outcomes that need no attention."""

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
    numbers = ("stored", "unchanged", "rejected")
    table = plain_table("account", "read", *numbers, "result", numbers=numbers)
    for outcome in outcomes:
        tally = outcome.tally
        table.add_row(
            f"{outcome.source}/{outcome.account}",
            listed(counts.of(outcome.source, outcome.account), short=True),
            f"{tally.stored:,}",
            f"{tally.unchanged + tally.superseded + tally.duplicate:,}",
            f"{tally.rejected:,}",
            "[green]ok[/]" if outcome.error is None else "[red]failed[/]",
        )
    console.print(table)
    for outcome in outcomes:
        if outcome.error is not None:
            message = redact(str(outcome.error) or type(outcome.error).__name__)
            console.print(f"\n[red]{outcome.source}/{outcome.account}[/] {plain(message)}")


def show_differences(console: Console, differences: Sequence[Facts]) -> None:
    """What source and warehouse differ in: which item, in what, since when; and what was mended."""
    for is_open, title in ((True, "[red]differs[/]"), (False, "[green]mended[/]")):
        rows = [row for row in differences if (row["resolved_at"] is None) == is_open]
        if not rows:
            continue
        table = plain_table("", "account", "item", "since", "what")
        for row in rows[:_DIFFERENCES]:
            what = f"{row['kind']}: {plain(row['text'])}"
            table.add_row(title, _account(row), plain(row["item_key"]), moment(row["found_at"]), what)
        console.print(table)
        if len(rows) > _DIFFERENCES:
            console.print(f"  [dim]and {len(rows) - _DIFFERENCES:,} more (sync.differences)[/]")
        console.print()


def show_verified(console: Console, accounts: Sequence[Facts]) -> None:
    """One line an account: what is left after a verification, and what it cost; below it, of what."""
    numbers = ("open", "mended", "requests", "bytes")
    table = plain_table("account", *numbers, "result", numbers=numbers)
    colours = {"equal": "green", "differs": "red", "failed": "red", "nothing was read yet": "yellow"}
    for row in accounts:
        result = row["result"]
        partly = ", of what was read" if row["read_since"] and result == "equal" else ""
        table.add_row(
            _account(row),
            *(f"{row[name]:,}" for name in numbers),
            f"[{colours[result]}]{result}[/]{partly}",
        )
    console.print(table)
    console.print()
    for row in accounts:
        console.print(f"[bold]{_account(row)}[/] {_compared(row)}")
    for row in accounts:
        if row["error"] is not None:
            console.print(f"\n[red]{_account(row)}[/] {plain(row['error'])}")


def _compared(row: Facts) -> str:
    """What a verification compared of an account, what it could not know of, and what is missing upstream."""
    said = f"{row['sessions']:,} {plural('session', row['sessions'])} compared"
    if row["from"]:
        said += f", from {row['from'][:10]} to {row['to'][:10]}"
    if row["read_since"]:
        said += f"; not all of its history was read, only some since {row['read_since'][:10]}"
    if row["missing_upstream"]:
        said += f"; {row['missing_upstream']:,} missing upstream, kept and marked (missing_upstream_at)"
    return said


def plain_difference(row: Facts) -> dict[str, Any]:
    """A difference as values that JSON has words for."""
    return {
        "what": "difference",
        **{name: row[name] for name in ("source", "account", "item_key", "kind", "text")},
        **{name: row[name] and row[name].isoformat() for name in ("found_at", "last_seen_at", "resolved_at")},
        "mended": row["mended"],
    }


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


def show_status(
    console: Console, status: Facts, *, fresh_within: Mapping[str, timedelta] | None = None
) -> None:
    """What is there, who works on it, how far streams are, what is unfinished or wrong, and the last runs.

    Args:
        console: Where to.
        status: The facts.
        fresh_within: By source, how old its last success may be before an account counts as in trouble.
    """
    _show_contents(console, status)
    _show_workers(console, status["workers"], status["leases"])
    _show_streams(console, status["streams"], fresh_within or {})
    _show_blobs(console, status["blobs"], status["missing_blobs"])
    if status["data_sessions"]:
        console.print(f"\n[bold]data sessions[/]  {_by_state(status['data_sessions'])}")
        _show_open(console, status["open_data_sessions"], status["data_sessions"].get("open", 0))
        _show_incomplete(
            console, status["incomplete_data_sessions"], status["data_sessions"].get("incomplete", 0)
        )
    _show_rejects(console, status["rejects"])
    _show_open_differences(console, status["differences"])
    _show_runs(console, status["runs"])


def _show_contents(console: Console, status: Facts) -> None:
    nights, sessions = status["nights"], sum(status["data_sessions"].values())
    if nights or not sessions:
        newest = f", the newest on {status['newest_night']}" if status["newest_night"] else ""
        console.print(f"[bold]{nights:,} {plural('night', nights)}[/] in the warehouse{newest}")
    if sessions:
        began = status["newest_data_session"]
        newest = f", the newest from {moment(began)}" if began else ""
        console.print(
            f"[bold]{sessions:,} {plural('data session', sessions)}[/] with {status['datapoints']:,} "
            f"{plural('datapoint', status['datapoints'])}{newest}"
        )
    console.print()


def _by_state(states: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {state}" for state, count in states.items())


def _show_open(console: Console, sessions: Sequence[Facts], count: int) -> None:
    """Sessions that are not final: nothing is wrong with them."""
    if not count:
        return
    table = plain_table("  open", "loaded", "why", numbers=("loaded",))
    for session in sessions[:_SHOWN]:
        name = plain(session["label"] or str(session["id_data_session"]))
        table.add_row(f"  {name}", f"{session['loaded_count']:,}", plain(session["status_reason"] or ""))
    console.print(table)
    _show_rest(console, "open", count)


def _show_incomplete(console: Console, sessions: Sequence[Facts], count: int) -> None:
    """Sessions of which something is missing, each with its reason."""
    for session in sessions[:_SHOWN]:
        began = f" of {moment(session['started_at'])}" if session["started_at"] else ""
        console.print(f"  [yellow]incomplete[/] {session['id_data_session']}{began}:")
        console.print(f"    {plain(session['status_reason'] or '')}")
    _show_rest(console, "incomplete", count)


def _show_rest(console: Console, state: str, count: int) -> None:
    if count > _SHOWN:
        console.print(f"  [dim]and {count - _SHOWN:,} more (status = '{state}' in bace.data_sessions)[/]")


def _show_workers(console: Console, workers: Sequence[Facts], leases: Sequence[Facts]) -> None:
    """The processes that share the warehouse, and what each has in hand."""
    if not workers:
        console.print("[bold]processes[/]  none is working here now\n")
        return
    console.print("[bold]processes[/]")
    for worker in workers[:_LISTED]:
        name = f"  {plain(worker['command'])} on {plain(worker['host'])} (pid {worker['pid']})"
        console.print(f"{name}, {plain(worker['version'])}, since {moment(worker['started_at'])}: ", end="")
        if worker["gone"]:
            console.print(f"[red]silent for {ago(worker['silent_for'])}[/]; gone, will be taken over")
        else:
            console.print(_in_hand([one for one in leases if one["worker_id"] == worker["worker_id"]]))
    _show_more(console, len(workers), "sync.workers")
    console.print()


def _in_hand(leases: Sequence[Facts]) -> str:
    """What a process works on, the longest first."""
    if not leases:
        return "nothing to do now"
    named = [
        f"{plain(_account(lease))}{_what(lease['work'])} for {ago(lease['working_for'])}"
        for lease in leases[:_SHOWN]
    ]
    more = f" and {len(leases) - _SHOWN:,} more" if len(leases) > _SHOWN else ""
    return f"works on {', '.join(named)}{more}"


def _what(work: str | None) -> str:
    return f" ({plain(work)})" if work else ""


def _show_streams(console: Console, streams: Sequence[Facts], fresh_within: Mapping[str, timedelta]) -> None:
    if not streams:
        console.print("no account has been read yet")
        return

    def in_trouble(stream: Facts) -> bool:
        late = stream["lag"] is None or stream["lag"] > fresh_within.get(stream["source"], _FRESH)
        return late or bool(stream["last_error"])

    named, rest = _told_apart(streams, in_trouble)
    if named:
        _show_stream_table(console, named[:_LISTED])
    _show_more(console, len(named), "sync.streams")
    for source, healthy in rest.items():
        gaps = sum(bool(stream["gaps"]) for stream in healthy)
        with_gaps = f", {gaps:,} with gaps" if gaps else ""
        oldest = max(stream["lag"] for stream in healthy)
        console.print(
            f"[bold]{source}[/]: {len(healthy):,} {plural('account', len(healthy))} fresh, "
            f"oldest check {ago(oldest)} ago{with_gaps}"
        )


def _show_stream_table(console: Console, streams: Sequence[Facts]) -> None:
    table = plain_table("stream", "last success", "covered", "gaps", numbers=("gaps",))
    for stream in streams:
        covered = (stream["covered_from"], stream["covered_to"])
        known = covered[0] is not None
        table.add_row(
            f"{_account(stream)}/{stream['stream']}",
            "never" if stream["lag"] is None else f"{ago(stream['lag'])} ago",
            f"{covered[0]:%Y-%m-%d} to {covered[1]:%Y-%m-%d %H:%M}"
            if known
            else _uncovered(stream["source"]),
            str(len(stream["gaps"])) if known else "",
        )
    console.print(table)
    for stream in streams:
        if stream["last_error"]:
            console.print(f"[red]{_account(stream)}/{stream['stream']}[/] {plain(stream['last_error'])}")


def _told_apart(
    rows: Sequence[Facts], in_trouble: Callable[[Facts], bool]
) -> tuple[list[Facts], dict[str, list[Facts]]]:
    """Rows that get a line each, and, by source, those of which there are too many for that."""
    named: list[Facts] = []
    rest: dict[str, list[Facts]] = {}
    for source, group in groupby(rows, key=lambda row: str(row["source"])):
        of_source = list(group)
        few = len(of_source) <= _FEW
        named += [row for row in of_source if few or in_trouble(row)]
        healthy = [row for row in of_source if not few and not in_trouble(row)]
        if healthy:
            rest[source] = healthy
    return named, rest


def _show_more(console: Console, count: int, table: str) -> None:
    if count > _LISTED:
        console.print(f"  [dim]and {count - _LISTED:,} more ({table})[/]")


def _account(row: Facts) -> str:
    return f"{row['source']}/{row['account']}"


def _uncovered(source: str) -> str:
    """What a stream without coverage says: of BACE each session keeps its own."""
    return "by data session" if source == "bace" else "nothing"


def _show_blobs(console: Console, states: Mapping[str, int], missing: Sequence[Facts]) -> None:
    """How many raw signals there are, and why some are not there."""
    if not states:
        return
    console.print(f"\n[bold]raw signals[/]  {_by_state(states)}")
    for blob in missing[:_LISTED]:
        when = blob["next_attempt_at"]
        again = f" (again {moment(when)} or later)" if when else ""
        reason = plain(blob["reason"] or "not asked for yet")
        console.print(f"  {blob['count']:>6,}  {blob['status']}: {reason}{again}")
    _show_more(console, len(missing), "beddit.sampled_tracks")


def _show_rejects(console: Console, rejects: Sequence[Facts]) -> None:
    if not rejects:
        console.print("\n[bold]rejects[/]  none open")
        return
    console.print(f"\n[bold]rejects[/]  {sum(r['count'] for r in rejects):,} open (details: sync.rejects)")
    for reject in rejects[:_LISTED]:
        console.print(f"  {reject['count']:>6,}  {_account(reject)}  {plain(reject['reason'])}")
    _show_more(console, len(rejects), "sync.rejects")


def _show_open_differences(console: Console, differences: Sequence[Facts]) -> None:
    if not differences:
        return
    count = sum(one["count"] for one in differences)
    console.print(
        f"\n[bold]differences[/]  {count:,} open (details: sync.differences; `nightshift verify --repair`)"
    )
    for one in differences[:_LISTED]:
        console.print(
            f"  {one['count']:>6,}  {_account(one)}  {one['kind']}, since {moment(one['found_at'])}"
        )
    _show_more(console, len(differences), "sync.differences")


def _show_runs(console: Console, runs: Sequence[Facts]) -> None:
    if not runs:
        return
    console.print("\n[bold]last run of each account[/]  (all of them: sync.runs)")
    named, rest = _told_apart(runs, lambda run: run["outcome"] not in _WELL)
    if named:
        _show_run_table(console, named[:_LISTED])
    _show_more(console, len(named), "sync.runs")
    for source, well in rest.items():
        states = {state: sum(run["outcome"] == state for run in well) for state in sorted(_WELL)}
        console.print(
            f"[bold]{source}[/]: {_by_state({state: count for state, count in states.items() if count})}; "
            f"the newest began {ago(min(run['ago'] for run in well))} ago"
        )


def _show_run_table(console: Console, runs: Sequence[Facts]) -> None:
    numbers = ("stored", "rejected", "requests")
    table = plain_table("account", "task", "began", "outcome", *numbers, numbers=numbers)
    for run in runs:
        table.add_row(
            _account(run),
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
