"""The demonstration: two emulated clouds, an embedded PostgreSQL, and the real pipeline between them."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, time
from typing import Any

from rich.console import Console

from sync.app.warehouse import embedded_in
from sync.app.work import open_app
from sync.commands.emulated import CONFIG, emulated_settings, lively_fleet, write_config
from sync.config import Settings
from sync.emulators.bace import BaceCloud
from sync.emulators.beddit import BedditCloud, Study
from sync.errors import ConfigurationError
from sync.model import RunOutcome, Task
from sync.observe.logging import Redactor
from sync.observe.tables import plain, plain_table, sparkline
from sync.ports import Observer

SLEEPERS = {"ada": 1001, "ben": 1002}

_TOTALS = """
    SELECT (SELECT count(*) FROM beddit.sessions) AS nights,
           (SELECT count(DISTINCT user_id) FROM beddit.sessions) AS sleepers,
           (SELECT coalesce(sum(cardinality("values")), 0)::bigint FROM beddit.track_arrays) AS points,
           (SELECT count(DISTINCT track) FROM beddit.track_arrays) AS tracks,
           (SELECT coalesce(sum(sample_count), 0)::bigint FROM beddit.sampled_tracks) AS samples,
           (SELECT count(*) FROM bace.data_sessions) AS data_sessions,
           (SELECT count(*) FROM bace.data_sessions WHERE status = 'complete') AS complete_sessions,
           (SELECT count(*) FROM bace.data_sessions WHERE status = 'open') AS open_sessions,
           (SELECT count(DISTINCT source_device) FROM bace.datasets) AS devices,
           (SELECT count(DISTINCT datatype) FROM bace.datasets) AS datatypes,
           (SELECT coalesce(sum(count), 0)::bigint FROM bace.datapoints) AS datapoints,
           (SELECT count(*) FROM sync.rejects WHERE resolved_at IS NULL) AS rejects,
           (SELECT sum(requests)::bigint FROM sync.runs) AS requests,
           pg_database_size(current_database()) AS bytes
"""

_NIGHTS = """
    SELECT s.user_id, s.night, extract(epoch FROM s.ended_at - s.started_at) / 3600 AS hours,
           heart.average, heart.lowest, breath.rate, heart.curve
    FROM beddit.sessions s
    CROSS JOIN LATERAL (
        SELECT avg(value) AS average, min(value) AS lowest,
               (SELECT array_agg(v ORDER BY slot) FROM (
                    SELECT slot, avg(h.value) AS v FROM generate_series(1, 30) AS slot
                    LEFT JOIN beddit.track_values h
                      ON h.user_id = s.user_id AND h.session_id = s.session_id AND h.track = 'heart_rate'
                     AND width_bucket(h.offset_seconds, 0,
                             extract(epoch FROM s.ended_at - s.started_at)::float8, 30) = slot
                    GROUP BY slot) AS slots) AS curve
        FROM beddit.track_values h
        WHERE h.user_id = s.user_id AND h.session_id = s.session_id AND h.track = 'heart_rate') AS heart
    CROSS JOIN LATERAL (
        SELECT 60 / avg(value) AS rate FROM beddit.track_values r
        WHERE r.user_id = s.user_id AND r.session_id = s.session_id
          AND r.track = 'respiration_cycles') AS breath
    ORDER BY s.night DESC, s.user_id LIMIT 4
"""

_DATA_SESSIONS = """
    SELECT s.started_at, s.status, s.loaded_count, device.label AS device,
           extract(epoch FROM coalesce(s.ended_at, now()) - s.started_at) / 60 AS minutes,
           pulse.average, pulse.curve
    FROM bace.data_sessions s
    CROSS JOIN LATERAL (
        SELECT min(d.label) AS label
        FROM bace.datapoints p JOIN bace.devices d ON d.id_physical_device = p.source_device
        WHERE p.id_data_session = s.id_data_session) AS device
    CROSS JOIN LATERAL (
        SELECT avg(v) AS average, array_agg(v ORDER BY slot) AS curve FROM (
            SELECT slot, avg(p.value) AS v FROM generate_series(1, 16) AS slot
            LEFT JOIN bace.datapoints p
              ON p.id_data_session = s.id_data_session AND p.datatype = 6000
             AND width_bucket(extract(epoch FROM p.time - s.started_at)::float8, 0,
                     extract(epoch FROM coalesce(s.ended_at, now()) - s.started_at)::float8, 16) = slot
            GROUP BY slot) AS slots) AS pulse
    ORDER BY s.started_at DESC LIMIT 6
"""

# They are printed in double quotes, to be copied into a shell: no ", $, ` or ! in them.
QUERIES = {
    "Resting heart rate, night by night": (
        "SELECT s.user_id, s.night, round(avg(v.value)::numeric, 1) AS heart_rate "
        "FROM beddit.sessions s JOIN beddit.track_values v USING (user_id, session_id) "
        "WHERE v.track = 'heart_rate' GROUP BY 1, 2 ORDER BY 2, 1"
    ),
    "Two seconds of raw signal, five hours into the last night": (
        "SELECT p.time, p.value FROM (SELECT * FROM beddit.sessions ORDER BY started_at DESC LIMIT 1) s, "
        "beddit.samples_between(s.user_id, s.session_id, 'normal', "
        "s.started_at + interval '5 h', s.started_at + interval '5 h 2 s') p"
    ),
    "Mean pulse (datatype 6000) of each data session, with its device": (
        "SELECT s.started_at, d.label AS device, round(avg(p.value)::numeric, 1) AS pulse, "
        "count(*) AS datapoints, s.status "
        "FROM bace.data_sessions s JOIN bace.datapoints p USING (id_data_session) "
        "JOIN bace.devices d ON d.id_physical_device = p.source_device "
        "WHERE p.datatype = 6000 GROUP BY 1, 2, 5 ORDER BY 1 DESC"
    ),
}


@dataclass(frozen=True, slots=True)
class Summary:
    """What the demonstration left behind, read back from the warehouse."""

    outcomes: Sequence[RunOutcome]
    totals: Mapping[str, Any]
    nights: Sequence[Mapping[str, Any]]
    data_sessions: Sequence[Mapping[str, Any]]
    seconds: float


def kept_folder(settings: Settings) -> Path:
    """Where ``demo --keep`` leaves its warehouse, apart from the real one."""
    return settings.state_dir / "demo"


def kept_config(settings: Settings) -> Path | None:
    """The configuration of a demonstration that was kept, if there is one."""
    path = kept_folder(settings) / CONFIG
    return path if path.is_file() else None


@contextmanager
def workplace(settings: Settings, *, keep: bool) -> Iterator[Path]:
    """A fresh folder for the demonstration; gone afterwards unless it is kept.

    The database's unprivileged owner must be able to enter it, nobody else can list it.
    """
    if keep:
        folder = kept_folder(settings)
        _remove(folder)
        folder.mkdir(parents=True)
        yield folder
        return
    folder = Path(tempfile.mkdtemp(prefix="nightshift-demo-"))
    try:
        folder.chmod(0o711)
        yield folder
    finally:
        _remove(folder)


async def run_demo(
    folder: Path, *, nights: int, sessions: int, redactor: Redactor, observer: Observer
) -> Summary:
    """Emulate two sleepers and a fleet of devices, copy what they left, and read the warehouse back.

    Args:
        folder: Where the database and the configuration go.
        nights: How many nights each of them sleeps.
        sessions: How many data sessions the fleet made in the past days; some more live now.
        redactor: For messages that are kept.
        observer: Who is told how it goes.
    """
    began = monotonic()
    async with (
        BedditCloud(Study(users=tuple(SLEEPERS.values()), nights=nights)) as beddit,
        BaceCloud(lively_fleet(sessions, seed=1, now=time())) as bace,
    ):
        settings = emulated_settings(write_config(folder, beddit, SLEEPERS, bace))
        async with open_app(settings, redactor, observer) as app:
            outcomes = await app.run(Task("once"))
            (totals,) = await app.warehouse.fetch(_TOTALS)
            shown = await app.warehouse.fetch(_NIGHTS), await app.warehouse.fetch(_DATA_SESSIONS)
            return Summary(outcomes, totals, *shown, monotonic() - began)


def _remove(folder: Path) -> None:
    """Remove a demonstration's folder, and stop its server should one still run.

    Raises:
        ConfigurationError: Somebody is using it.
    """
    server = embedded_in(folder)
    if server.is_initialised() and not server.stop_if_unused():
        raise ConfigurationError(f"the demo's warehouse in {folder} is in use: leave it, then try again")
    if folder.exists():
        shutil.rmtree(folder)


def show_demo(console: Console, summary: Summary, command: str, *, kept: bool) -> None:
    """What arrived, the newest nights and data sessions, and what to try next.

    Args:
        console: Where to print.
        summary: What arrived.
        command: How to call this program so that it looks at the warehouse that was kept.
        kept: Whether it was.
    """
    totals = summary.totals
    console.print(
        f"\n[bold green]Copied into PostgreSQL[/] in [bold]{summary.seconds:.1f} s[/] "
        f"with {totals['requests']:,} requests:\n"
    )
    for cloud, number, what in _listed(totals):
        console.print(f"  [bold]{cloud:<6}[/] {number:>12,} {what}")
    console.print()
    _show_nights(console, summary.nights)
    console.print()
    _show_data_sessions(console, summary.data_sessions)
    console.print(
        "\n[bold]Try it:[/]"
        if kept
        else f"\n[bold]To try these, keep the warehouse:[/] {plain(command)} demo --keep"
    )
    for title, query in QUERIES.items():
        console.print(f'\n[dim]# {title}[/]\n{plain(command)} sql "{query}"')


def _listed(totals: Mapping[str, Any]) -> Iterator[tuple[str, int, str]]:
    """The totals, a line each: the cloud where its first line is, a number, of what."""
    yield "Beddit", totals["nights"], f"nights of {totals['sleepers']} sleepers"
    yield "", totals["points"], f"points in {totals['tracks']} tracks"
    yield "", totals["samples"], "raw samples at 140 Hz and 10 Hz"
    yield "BACE", totals["data_sessions"], f"data sessions of {totals['devices']} devices:"
    yield "", totals["complete_sessions"], f"proved complete, {totals['open_sessions']} are still open"
    yield "", totals["datapoints"], f"datapoints of {totals['datatypes']} types"
    yield "Both", totals["rejects"], "rejects"
    yield "", round(totals["bytes"] / 1e6), "MB on disk"


def _show_nights(console: Console, nights: Sequence[Mapping[str, Any]]) -> None:
    numbers = ("hours", "bpm", "lowest", "breaths")
    table = plain_table("night", "sleeper", *numbers, "heart rate through the night", numbers=numbers)
    names = {user_id: name for name, user_id in SLEEPERS.items()}
    for night in nights:
        table.add_row(
            str(night["night"]),
            names.get(night["user_id"], str(night["user_id"])),
            f"{night['hours']:.1f}",
            f"{night['average']:.0f}",
            f"{night['lowest']:.0f}",
            f"{night['rate']:.1f}",
            f"[cyan]{sparkline(night['curve'])}",
        )
    console.print(table)


def _show_data_sessions(console: Console, sessions: Sequence[Mapping[str, Any]]) -> None:
    numbers = ("min", "datapoints", "pulse")
    table = plain_table("began", "device", *numbers, "status", "pulse over time", numbers=numbers)
    for session in sessions:
        table.add_row(
            f"{session['started_at']:%m-%d %H:%M}Z",
            plain(session["device"] or ""),
            f"{session['minutes']:.0f}",
            f"{session['loaded_count']:,}",
            "" if session["average"] is None else f"{session['average']:.0f}",
            session["status"],
            f"[cyan]{sparkline(session['curve'])}",
        )
    console.print(table)
