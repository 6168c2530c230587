"""The commands: parse, call, print, exit code. Each is a few lines over ``sync.app``.

Results go to standard output, logs and progress to standard error. Exit codes: 0 all done; 1 something
failed, differs or is still open, what could be done was done; 2 the configuration is wrong or the database
cannot be reached; 130 and 143 ended by Ctrl-C or SIGTERM.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, Any, Final, NoReturn, TextIO, TypeVar, cast
from uuid import UUID

import msgspec
import structlog
import typer
from rich.console import Console
from rich.markup import escape

from sync import config
from sync.app import (
    USER_AGENT,
    choose,
    configured_accounts,
    embedded_in,
    fresh_since,
    open_app,
    open_dsn,
    open_warehouse,
)
from sync.commands.archive import load_archive
from sync.commands.bace import STANDARD_OUTPUT
from sync.commands.bace import download_csv as download
from sync.commands.check import Finding
from sync.commands.check import check as run_checks
from sync.commands.demo import SLEEPERS, kept_config, kept_folder, run_demo, show_demo, workplace
from sync.commands.emulate import Ports, list_switches
from sync.commands.emulate import emulate as serve_emulated
from sync.commands.emulated import CONFIG, command_using, this_program
from sync.commands.forget import (
    find_person,
    forget_person,
    plain_found,
    plain_gone,
    show_found,
    show_gone,
)
from sync.commands.rejects import (
    Choice,
    find_rejects,
    retry_rejects,
    settle_reject,
    show_reject,
    show_rejects,
    show_retried,
)
from sync.commands.verify import verify as verify_accounts
from sync.daemon import Service
from sync.emulators.beddit import Study
from sync.errors import ConfigurationError, StorageUnavailable, SyncError
from sync.model import RunOutcome, Task
from sync.observe import logging
from sync.observe.display import Counts, plural, shows_bars, watching
from sync.observe.tables import (
    plain,
    plain_difference,
    plain_outcome,
    show_differences,
    show_outcomes,
    show_status,
    show_verified,
)
from sync.storage.embedded import run_psql
from sync.storage.migrate import migrate as migrate_database
from sync.storage.migrate import newest_version, schema_version

T = TypeVar("T")

DONE, FAILED, MISCONFIGURED, INTERRUPTED = 0, 1, 2, 130

_ENDINGS = {
    signal.SIGINT: ("interrupted", INTERRUPTED),
    signal.SIGTERM: ("terminated", 143),
    signal.SIGHUP: ("the terminal is gone", 129),
}
_PATIENCE_S = 10.0
"""How long ending in order may take before another signal ends at once."""

_GOES_ON = "what was committed stays, and the same command goes on from there"

log = structlog.get_logger(__name__)

app = typer.Typer(
    name="nightshift",
    help=(
        "Copies what sensors left in the Beddit and BACE clouds into PostgreSQL: completely, cheaply, and "
        "for good.\n\nNew here? `nightshift demo` needs no account, no network and no database."
    ),
    epilog=(
        "Configuration: --config PATH, else NIGHTSHIFT_CONFIG, else ./nightshift.toml, else "
        "/etc/nightshift/nightshift.toml. Every key can also be a variable: "
        "NIGHTSHIFT_WAREHOUSE__DSN, NIGHTSHIFT_BEDDIT__ACCOUNTS__ALICE__TOKEN, "
        "NIGHTSHIFT_BACE__ACCOUNTS__LAB__PASSWORD.\n\n"
        "Exit codes: 0 all done; 1 something failed, differs or is still open, what could be done was done; "
        "2 the configuration is wrong or the database cannot be reached; 130 Ctrl-C, 143 SIGTERM: what was "
        "committed stays, and the same command goes on from there."
    ),
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,  # they print local variables, and those may hold secrets
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

bace = typer.Typer(
    name="bace",
    help="Ask BACE for what is not copied into the warehouse; needs no database.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)
app.add_typer(bace)

FLAG: Final = ""
"""What stands in the help for the value of an option that takes none."""

rejects = typer.Typer(
    name="rejects",
    help="Look at the items that could not become rows; have them read again, or declare them settled.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)
app.add_typer(rejects)

Json = Annotated[bool, typer.Option("--json", metavar=FLAG, help="Print JSON lines instead of tables.")]
_TIMES = ["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"]
SourceName = Annotated[
    str | None, typer.Option("--source", metavar="S", help="Only this source: beddit or bace.")
]
AccountName = Annotated[
    str | None,
    typer.Option("--account", metavar="A", help="Only this account, by its name in the configuration."),
]

ItemKey = Annotated[
    str, typer.Argument(metavar="ITEM_KEY", help="What was rejected, as `rejects list` names it.")
]


class _StandardError:
    """Standard error as it is at the moment of writing: a progress display may have put itself in between."""

    def __getattr__(self, name: str) -> Any:
        return getattr(sys.stderr, name)


@dataclass(slots=True)
class _Session:
    """One invocation: where its configuration is, and how it talks."""

    path: Path | None = None

    def settings(self) -> config.Settings:
        return config.load(self.path, os.environ)

    def logging(
        self, settings: config.Settings, *, bars: bool = False, findings: bool = False
    ) -> logging.Redactor:
        """Set up the log. Beside bars only what needs attention is logged, beside findings only defects.

        Who asked for debugging gets everything.
        """
        level = settings.log.level
        if level != "debug" and (findings or (bars and level == "info")):
            level = "error" if findings else "warning"
        stream = cast("TextIO", _StandardError())
        return logging.configure(level, settings.log.format, settings.secrets(), stream)


_session = _Session()
# Far wider than any terminal: nothing is ever cut or shortened, a terminal wraps long lines by itself.
_out = Console(soft_wrap=True, highlight=False, width=10_000)
_err = Console(stderr=True, highlight=False)


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(USER_AGENT.replace("/", " "))
        raise typer.Exit


@app.callback()
def options(
    path: Annotated[
        Path | None,
        typer.Option(
            "--config", metavar="PATH", help="The configuration file.", envvar=config.CONFIG_VARIABLE
        ),
    ] = None,
    version: Annotated[  # noqa: ARG001
        bool,
        typer.Option(
            "--version", metavar=FLAG, is_eager=True, callback=_show_version, help="Print the version."
        ),
    ] = False,
) -> None:
    """Remember the options that stand before the command."""
    _session.path = path


@app.command()
def demo(
    keep: Annotated[
        bool,
        typer.Option(
            "--keep", metavar=FLAG, help="Keep the warehouse, so that `nightshift sql` can look at it."
        ),
    ] = False,
    nights: Annotated[
        int, typer.Option("--nights", min=1, max=400, help="Nights of each of the two Beddit sleepers.")
    ] = 4,
    sessions: Annotated[
        int, typer.Option("--sessions", min=1, max=5000, help="Past data sessions of the BACE devices.")
    ] = 24,
    json: Json = False,
) -> None:
    """Copy two emulated clouds into an embedded PostgreSQL and show what arrived.

    An emulated Beddit cloud on this machine holds the nights of two sleepers: a dozen tracks and a raw
    signal of 140 samples a second each. An emulated BACE cloud holds the data sessions of a fleet of
    devices; some of them are running. The real pipeline copies everything. Nothing is configured, nothing
    leaves this machine, and unless you say --keep nothing stays.
    """
    settings = _session.settings()
    redactor = _session.logging(settings, bars=shows_bars(_err))
    if not json:
        what = f"{nights} {plural('night', nights)} each of {len(SLEEPERS)} sleepers"
        _out.print(f"Emulating a Beddit cloud ({what})\nand a BACE cloud (a fleet of devices) ...")
    with workplace(settings, keep=keep) as folder, watching(_err) as counts:
        summary = _run(run_demo(folder, nights=nights, sessions=sessions, redactor=redactor, observer=counts))
    if json:
        _print_json({**summary.totals, "seconds": round(summary.seconds, 2)})
    else:
        command = this_program(_session.path)
        if keep and _has_warehouse(settings):  # which is what `sql` would open otherwise
            command = command_using(kept_folder(settings) / CONFIG)
        show_demo(_out, summary, command, kept=keep)
    _exit_by(summary.outcomes)


@app.command()
def migrate() -> None:
    """Bring the database to the newest schema. Safe to repeat, and to run beside another nightshift."""
    settings = _session.settings()
    _session.logging(settings)

    async def work() -> tuple[str | None, str, Sequence[str]]:
        async with open_dsn(settings) as dsn:
            before = await schema_version(dsn)
            features = await migrate_database(dsn)
            return before, newest_version(), features

    before, after, features = _run(work())
    _out.print(
        f"schema version {after}"
        + (" (it already was)" if before == after else f" (was {before or 'empty'})")
    )
    for feature in features:
        _out.print(f"new with TimescaleDB: {feature}")


@app.command()
def check(json: Json = False) -> None:
    """Try configuration, database and credentials; say ok or what to do, line by line."""
    settings = _session.settings()
    _session.logging(settings, findings=True)
    source = config.find(_session.path, os.environ)
    worst = DONE

    async def work() -> None:
        nonlocal worst
        async with aclosing(run_checks(settings, source)) as findings:
            async for finding in findings:
                worst = max(worst, DONE if finding.ok else MISCONFIGURED if finding.fatal else FAILED)
                try:
                    _show_finding(finding, json=json)
                except (BrokenPipeError, SystemExit):  # rich makes the one of the other
                    _show_nothing_more()
                    return

    _run(work())
    raise typer.Exit(worst)


@app.command("config")
def show_config(
    example: Annotated[
        bool, typer.Option("--example", metavar=FLAG, help="The commented example file instead.")
    ] = False,
) -> None:
    """Print the effective configuration, secrets hidden, or an example to start from.

    `nightshift config --example > nightshift.toml` is a good beginning.
    """
    text = config.example_text() if example else _origin() + config.describe(_session.settings())
    typer.echo(text.rstrip())


@app.command()
def once(source: SourceName = None, account: AccountName = None, json: Json = False) -> None:
    """Read everything that is new, then exit. An account never read before is read from its beginning.

    Run it from cron if you like: a quiet account costs a request or two. Whatever was interrupted goes on
    where it stopped. `--source bace --account lab` reads that account alone.
    """
    _work(Task("once"), source, account, json=json)


@app.command()
def backfill(
    source: SourceName = None,
    account: AccountName = None,
    since: Annotated[
        datetime | None,
        typer.Option(
            "--from",
            metavar="T",
            help="Where to begin: 2024-02-01 or 2024-02-01T12:00:00, UTC.",
            formats=_TIMES,
        ),
    ] = None,
    until: Annotated[
        datetime | None,
        typer.Option("--to", metavar="T", help="Where to end; T itself is not included.", formats=_TIMES),
    ] = None,
    reload: Annotated[
        bool,
        typer.Option(
            "--reload",
            metavar=FLAG,
            help="Read again what was read before; stored rows only change if the source did.",
        ),
    ] = False,
    archive: Annotated[
        Path | None,
        typer.Option(
            "--archive", metavar="DIR", help="Load saved Beddit session files instead of asking the cloud."
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Read history, newest first. Interrupt it whenever you like: it goes on where it stopped.

    Of Beddit, --from and --to choose nights, of BACE the data sessions that began in that time.
    `--source bace --account lab` reads that account alone.

    With --archive DIR, every saved session file below DIR is loaded, through the same pipeline. A folder
    directly below DIR whose name is a number holds the sessions of that user; all others belong to the user
    of --account, else to user 1. Files that are not sessions are named and passed over.
    """
    if since is not None and until is not None and since >= until:
        raise typer.BadParameter("--from has to be before --to")
    if archive is not None:
        if since or until or reload:
            raise typer.BadParameter("--archive reads whole files: it goes without --from, --to and --reload")
        if source not in {None, "beddit"}:
            raise typer.BadParameter("--archive loads Beddit session files: it goes without another --source")
        _work_archive(archive, account, json=json)
        return
    task = Task("backfill", since and since.replace(tzinfo=UTC), until and until.replace(tzinfo=UTC), reload)
    _work(task, source, account, json=json)


@app.command()
def verify(
    source: SourceName = None,
    account: AccountName = None,
    since: Annotated[
        datetime | None,
        typer.Option("--from", metavar="T", help="Only sessions that began then or later.", formats=_TIMES),
    ] = None,
    until: Annotated[
        datetime | None,
        typer.Option("--to", metavar="T", help="Only sessions that began before.", formats=_TIMES),
    ] = None,
    repair: Annotated[
        bool, typer.Option("--repair", metavar=FLAG, help="Read again what differs, and nothing else.")
    ] = False,
    json: Json = False,
) -> None:
    """Compare the sources with the warehouse; exit with 1 if anything differs, or could not be compared.

    Of Beddit every night is listed once more; of raw signals only the length is asked for, and stored samples
    are counted, not read. Of BACE the list of sessions is compared, and days of many sessions at once; what
    differs is looked at more closely, down to the rows. What has come since the last `once` is no difference.

    What the source holds no longer stays, and is marked; every verification says how much that is.
    Differences are kept in sync.differences, and told, until a repair or a later verification ends them.
    Interrupt it whenever you like: within a week it goes on where it stopped.
    """
    if since is not None and until is not None and since >= until:
        raise typer.BadParameter("--from has to be before --to")
    settings = _session.settings()
    choose(configured_accounts(settings), source, account)  # before a warehouse is made for nothing
    redactor = _session.logging(settings, bars=shows_bars(_err))
    task = Task(
        "verify",
        since and since.replace(tzinfo=UTC),
        until and until.replace(tzinfo=UTC),
        repair=repair,
    )
    with watching(_err) as counts:
        verdict = _run(verify_accounts(settings, task, redactor, counts, source=source, account=account))
    accounts = [verdict.plain(outcome, redactor.redact) for outcome in verdict.outcomes]
    if json:
        for row in verdict.differences:
            _print_json(plain_difference(row))
        for row in accounts:
            _print_json(row)
    else:
        show_differences(_out, verdict.differences)
        show_verified(_out, accounts)
    raise typer.Exit(DONE if verdict.is_equal else FAILED)


@app.command("run")
def run_daemon() -> None:
    """Work until it is told to stop: read what is new again and again, as `schedule` says.

    SIGTERM and Ctrl-C end it after the batch in hand (exit code 0), a second one at once. SIGHUP has it read
    its configuration again. A database or a vendor that is away is waited for. Any number of them may share
    one database: each account is read by one at a time, and those of a process that died by the others.

    How it is: /healthz, /readyz and /metrics on `daemon.listen`; `nightshift status`; the log.
    """
    service = Service(_session.settings, _session.logging, os.environ)
    asyncio.run(service.run())


@app.command()
def status(json: Json = False) -> None:
    """Show what is there, what is open or incomplete and why, open rejects, and each account's last run."""
    settings = _existing_warehouse()
    _session.logging(settings, bars=True)

    async def work() -> Any:
        async with open_warehouse(settings) as warehouse:
            return await warehouse.status()

    facts, now = _run(work()), datetime.now(UTC)
    if json:
        _print_json(facts.plain())
    else:
        show_status(
            _out,
            facts.facts(),
            fresh_within={name: now - since for name, since in fresh_since(settings, now).items()},
        )


@app.command()
def sql(
    query: Annotated[
        str | None, typer.Argument(help="A statement; without one, psql is interactive.")
    ] = None,
) -> None:
    """Open psql on the warehouse, the embedded one too, or run one statement."""
    settings = _existing_warehouse()
    _session.logging(settings, bars=True)
    arguments = [] if query is None else ["--command", query]
    for number in (signal.SIGTERM, signal.SIGHUP):  # psql ends with us, and the embedded server too
        signal.signal(number, lambda number, _frame: sys.exit(_ENDINGS[signal.Signals(number)][1]))
    if query is None and _err.is_terminal:
        _err.print(r"[dim]\dv beddit.* and \dv bace.* list what there is, \q leaves.[/]")
    if settings.warehouse.dsn is not None:
        raise typer.Exit(run_psql(settings.warehouse.dsn.get_secret_value(), arguments))
    with embedded_in(settings.state_dir).running_sync() as dsn:
        code = run_psql(dsn, arguments)
    raise typer.Exit(code)


@app.command()
def emulate(
    archive: Annotated[
        Path | None,
        typer.Option(
            "--archive", metavar="DIR", help="Serve saved Beddit session files instead, and no BACE cloud."
        ),
    ] = None,
    nights: Annotated[int, typer.Option("--nights", min=1, help="Nights of each Beddit sleeper.")] = 30,
    sessions: Annotated[
        int, typer.Option("--sessions", min=1, help="Past data sessions of the BACE devices.")
    ] = 60,
    seed: Annotated[
        int, typer.Option("--seed", min=0, help="Where the synthetic clouds' chance comes from.")
    ] = 1,
    port: Annotated[int, typer.Option("--port", help="The Beddit API's port; 0 is any free one.")] = 0,
    blob_port: Annotated[
        int, typer.Option("--blob-port", help="The Beddit blob host's port; 0 is any free one.")
    ] = 0,
    bace_port: Annotated[
        int, typer.Option("--bace-port", help="The BACE API's port; 0 is any free one.")
    ] = 0,
    behave: Annotated[
        list[str] | None,
        typer.Option(
            "--behave",
            metavar="CLOUD.NAME=VALUE",
            help="Be another cloud than the default; `--behave help` lists how.",
        ),
    ] = None,
) -> None:
    """Serve emulated clouds on this machine until Ctrl-C, and write a configuration that uses them.

    Beddit holds the nights of two sleepers, BACE the data sessions of a fleet of devices: past ones, and
    short ones that begin, grow and end while it runs.
    """
    if behave == ["help"]:
        typer.echo(list_switches())
        raise typer.Exit
    settings = _session.settings()
    _session.logging(settings, bars=True)
    _run(
        serve_emulated(
            settings.state_dir / "emulated",
            _out,
            archive=archive,
            study=Study(seed=seed, nights=nights),
            sessions=sessions,
            ports=Ports(beddit=port, beddit_blobs=blob_port, bace=bace_port),
            behave=behave or [],
        ),
        farewell="the emulated clouds are gone",
    )


@bace.command("download-csv")
def download_csv(
    session: Annotated[UUID, typer.Argument(metavar="SESSION", help="The data session's id, a UUID.")],
    account: AccountName = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            metavar="FILE",
            help="Where to write; - is standard output.",
            show_default="SESSION.csv",
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", metavar=FLAG, help="Replace a file that is already there.")
    ] = False,
) -> None:
    """Download a data session as the vendor's own CSV file.

    Without --account, the configured accounts are tried one after the other. The file appears when it is
    whole; after a failure nothing is left of it.
    """
    settings = _session.settings()
    _session.logging(settings, bars=shows_bars(_err))
    work = download(settings, session, account=account, output=output, force=force)
    try:
        done = _run(work, farewell="no file was written")
    except BrokenPipeError:
        _show_nothing_more()
        raise typer.Exit(DONE) from None
    if done.path != STANDARD_OUTPUT:
        _out.print(f"{plain(str(done.path))}: {done.size:,} bytes, seen by account {done.account}")


@rejects.command("list")
def list_rejects(
    source: SourceName = None,
    account: AccountName = None,
    closed: Annotated[
        bool,
        typer.Option(
            "--all", metavar=FLAG, help="Those as well that are resolved, by a reading or by a person."
        ),
    ] = False,
    json: Json = False,
) -> None:
    """List the open rejects: how many there are of each reason, then each of them."""
    settings = _existing_warehouse()
    _session.logging(settings, bars=True)
    choice = Choice(source=source, account=account, closed=closed, payloads=json)
    found = _run(find_rejects(settings, choice))
    if json:
        for reject in found:
            _print_json(reject.plain())
    else:
        show_rejects(_out, found)


@rejects.command("show")
def show_one_reject(
    item: ItemKey, source: SourceName = None, account: AccountName = None, json: Json = False
) -> None:
    """Show a reject with its reason, what exactly was rejected, and how often it was seen, and when."""
    settings = _existing_warehouse()
    _session.logging(settings, bars=True)
    for reject in _run(find_rejects(settings, Choice(source=source, account=account, item_key=item))):
        if json:
            _print_json(reject.plain())
        else:
            show_reject(_out, reject)


@rejects.command("retry")
def retry(
    item: Annotated[
        str | None, typer.Argument(metavar="[ITEM_KEY]", help="This one; without it, all that are open.")
    ] = None,
    source: SourceName = None,
    account: AccountName = None,
    json: Json = False,
) -> None:
    """Read the records of open rejects again, now. The daemon does so by itself, ever more rarely.

    Exit code 1 if one is still open afterwards, or could not be tried; it says which, and why.
    """
    settings = _existing_warehouse()
    choice = Choice(source=source, account=account, item_key=item)
    redactor = _session.logging(settings, bars=shows_bars(_err))
    with watching(_err) as counts:
        retried = _run(retry_rejects(settings, choice, redactor, counts))
    if json:
        for line in retried.plain():
            _print_json(line)
    else:
        show_retried(_out, retried, redactor)
    raise typer.Exit(DONE if retried.is_well else FAILED)


@rejects.command("resolve")
def resolve(
    item: ItemKey,
    note: Annotated[str, typer.Option("--note", metavar="TEXT", help="Why it is settled; it is kept.")],
    source: SourceName = None,
    account: AccountName = None,
) -> None:
    """Declare a reject settled. It opens again, with its note, when the source sends it again."""
    settings = _existing_warehouse()
    _session.logging(settings, bars=True)
    if not note.strip():
        raise typer.BadParameter("--note has to say why")
    choice = Choice(source=source, account=account, item_key=item)
    settled = _run(settle_reject(settings, choice, note))
    _out.print(f"{plain(settled.item_key)} of {settled.source}/{settled.account} is settled")


@app.command()
def forget(
    source: Annotated[str, typer.Option("--source", metavar="S", help="The account's source.")],
    account: Annotated[
        list[str],
        typer.Option(
            "--account",
            metavar="A",
            help="Its name in the configuration; of Beddit also the user's id. Again for each old name.",
        ),
    ],
    user_id: Annotated[
        int | None,
        typer.Option(
            "--user-id", metavar="N", help="Whose nights a Beddit account read that is configured no longer."
        ),
    ] = None,
    leave_shared: Annotated[
        bool,
        typer.Option(
            "--leave-shared",
            metavar=FLAG,
            help="BACE: leave data sessions that accounts see, too, which are configured no longer.",
        ),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", metavar=FLAG, help="Do not ask: for scripts.")] = False,
    json: Json = False,
) -> None:
    """Remove an account's data from every table, for good, and never read the account again.

    For withdrawn consent. Of Beddit that is one person's data; of BACE all that no other account sees,
    perhaps of many persons. It shows what will go, and asks for the account's name before anything does.
    Interrupted, it goes on when it is repeated. Nothing else in nightshift deletes.
    """
    settings = _session.settings()
    redactor = _session.logging(settings)
    if not _has_warehouse(settings):
        _fail(MISCONFIGURED, f"there is no warehouse in {settings.state_dir}: nothing is stored")
    found = _run(find_person(settings, source, account, user_id, leave_shared=leave_shared))
    if json:
        _print_json(plain_found(found))
    else:
        show_found(_out, found)
    if not yes:
        _ask_for(found.name)
    farewell = "what was removed is gone; the same command removes the rest, and until then nobody reads it"
    gone = _run(forget_person(settings, redactor, found.person), farewell=farewell)
    if json:
        _print_json(plain_gone(gone))
    else:
        show_gone(_out, gone)


# --- what the commands share -----------------------------------------------------------------------


def _origin() -> str:
    """Where the configuration comes from, as its first line."""
    file = config.find(_session.path, os.environ)
    count = sum(
        name.upper().startswith(config.PREFIX) and name not in config.OTHER_VARIABLES and bool(value)
        for name, value in os.environ.items()
    )
    return f"# from {file or 'no file'} and {count} {plural('variable', count)}\n"


def _show_finding(finding: Finding, *, json: bool) -> None:
    if json:
        found = {"subject": finding.subject, "ok": finding.ok, "note": finding.note}
        _print_json({**found, "text": finding.text})
        return
    mark = "[red]FAIL[/]"
    if finding.ok:
        mark = "[yellow]note[/]" if finding.note else "[green]ok  [/]"
    _out.print(f"{mark} [bold]{finding.subject:<16}[/] {plain(finding.text)}")


def _show_nothing_more() -> None:
    """Whoever read our output has seen enough."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _work(task: Task, source: str | None, account: str | None, *, json: bool) -> None:
    settings = _session.settings()
    choose(configured_accounts(settings), source, account)  # before a warehouse is made for nothing
    redactor = _session.logging(settings, bars=shows_bars(_err))
    with watching(_err) as counts:

        async def work() -> list[RunOutcome]:
            async with open_app(settings, redactor, counts, command=task.kind) as running:
                return await running.run(task, source=source, account=account)

        outcomes = _run(work())
    _report(outcomes, counts, redactor, json=json)


def _work_archive(folder: Path, account: str | None, *, json: bool) -> None:
    settings = _session.settings()
    redactor = _session.logging(settings, bars=shows_bars(_err))
    with watching(_err) as counts:
        loaded = _run(load_archive(settings, folder, account, redactor, counts))
    for what, notes in (("passed over", loaded.passed_over), ("damaged", loaded.damaged)):
        for note in notes:
            if json:
                _print_json({"file": str(note.path), "what": what, "reason": note.reason})
            else:
                _out.print(f"[yellow]{what}[/] {plain(str(note.path))}: {plain(note.reason)}")
    _report(loaded.outcomes, counts, redactor, json=json)


def _report(
    outcomes: Sequence[RunOutcome], counts: Counts, redactor: logging.Redactor, *, json: bool
) -> None:
    if json:
        for outcome in outcomes:
            error = redactor.redact(str(outcome.error)) if outcome.error else None
            _print_json(plain_outcome(outcome, counts, error))
    else:
        show_outcomes(_out, outcomes, counts, redactor.redact)
    _exit_by(outcomes)


def _exit_by(outcomes: Sequence[RunOutcome]) -> NoReturn:
    raise typer.Exit(FAILED if any(outcome.error for outcome in outcomes) else DONE)


def _existing_warehouse() -> config.Settings:
    """The configured warehouse; where there is none yet, the one that a demonstration left."""
    settings = _session.settings()
    if not _has_warehouse(settings):
        kept = kept_config(settings)
        if kept is None:
            _fail(
                MISCONFIGURED,
                f"there is no warehouse in {settings.state_dir} yet: `nightshift run` makes one, "
                "and so does `nightshift demo --keep`",
            )
        folder = plain(str(kept.parent))
        _err.print(f"[dim]There is no warehouse of your own yet; this is the demo's ({folder}).[/]")
        return config.load(kept, {})
    return settings


def _ask_for(account: str) -> None:
    """Go on only if a person at a terminal types the account's name."""
    if not sys.stdin.isatty():
        _fail(MISCONFIGURED, "nothing was removed: there is no terminal to ask at, and --yes was not given")
    typed = typer.prompt(f"Type {account} to remove it", default="", show_default=False, err=True)
    if typed.strip() != account:
        _fail(FAILED, "nothing was removed")


def _has_warehouse(settings: config.Settings) -> bool:
    return settings.warehouse.dsn is not None or embedded_in(settings.state_dir).is_initialised()


def _run(work: Coroutine[Any, Any, T], *, farewell: str = _GOES_ON) -> T:
    """Run to the end, or to a signal: the batch in hand is committed or rolled back, whole.

    A signal cancels the work, which then ends in order: its runs are closed and the embedded server stops.
    That takes a moment, in which further signals change nothing. Where it takes ``_PATIENCE_S`` (a database
    that does not answer), another one ends the process at once.
    """
    received: list[signal.Signals] = []
    asked_at = 0.0

    async def until_signal() -> T:
        task = asyncio.ensure_future(work)

        def end(number: signal.Signals) -> None:
            nonlocal asked_at
            received.append(number)
            if len(received) == 1:
                asked_at = time.monotonic()
                task.cancel()
            elif time.monotonic() - asked_at < _PATIENCE_S:
                _err.print("[dim]ending already: the batch in hand is finished, the database closed ...[/]")
            else:
                _err.print("[dim]ended at once: what was not committed will be read again[/]")
                os._exit(128 + number)

        for number in _ENDINGS:
            if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup wants it
                asyncio.get_running_loop().add_signal_handler(number, end, number)
        await asyncio.wait([task])
        return task.result()

    with _explained():
        try:
            return asyncio.run(until_signal())
        except asyncio.CancelledError:
            if not received:
                raise
            name, code = _ENDINGS[received[0]]
            _fail(code, f"{name}: {farewell}")


@contextmanager
def _explained() -> Iterator[None]:
    """Turn what can go wrong into a sentence and an exit code."""
    try:
        yield
    except (ConfigurationError, StorageUnavailable) as error:
        _fail(MISCONFIGURED, str(error))
    except SyncError as error:
        _fail(FAILED, str(error))
    except KeyboardInterrupt:
        _fail(INTERRUPTED, "interrupted")


def _fail(code: int, message: str) -> NoReturn:
    _err.print("[bold red]nightshift:[/]", escape(message), soft_wrap=True)
    raise SystemExit(code)


def _print_json(value: object) -> None:
    typer.echo(msgspec.json.encode(value).decode())


def main() -> None:
    """Run the command line."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # a curve that cannot be written is no reason to fail
            stream.reconfigure(errors="replace")
    with _explained():
        app()
