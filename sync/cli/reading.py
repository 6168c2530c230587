"""The commands that read the clouds."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sync.cli.invocation import invocation
from sync.cli.options import FLAG, TIMES, AccountName, Json, SourceName
from sync.cli.output import err, out, print_json
from sync.cli.running import DONE, FAILED, exit_by, run

if TYPE_CHECKING:
    from sync.model import RunOutcome, Task
    from sync.observe.display import Counts
    from sync.observe.logging import Redactor


def once(source: SourceName = None, account: AccountName = None, json: Json = False) -> None:
    """Read everything that is new, then exit. An account never read before is read from its beginning.

    Run it from cron if you like: a quiet account costs a request or two. Whatever was interrupted goes on
    where it stopped. `--source bace --account lab` reads that account alone.
    """
    from sync.model import Task

    _work(Task("once"), source, account, json=json)


def backfill(
    source: SourceName = None,
    account: AccountName = None,
    since: Annotated[
        datetime | None,
        typer.Option(
            "--from",
            metavar="T",
            help="Where to begin: 2024-02-01 or 2024-02-01T12:00:00, UTC.",
            formats=TIMES,
        ),
    ] = None,
    until: Annotated[
        datetime | None,
        typer.Option("--to", metavar="T", help="Where to end; T itself is not included.", formats=TIMES),
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
    from sync.model import Task

    _work(Task("backfill", _utc(since), _utc(until), reload), source, account, json=json)


def verify(
    source: SourceName = None,
    account: AccountName = None,
    since: Annotated[
        datetime | None,
        typer.Option("--from", metavar="T", help="Only sessions that began then or later.", formats=TIMES),
    ] = None,
    until: Annotated[
        datetime | None,
        typer.Option("--to", metavar="T", help="Only sessions that began before.", formats=TIMES),
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
    settings = invocation.settings()
    from sync.app.accounts import choose, configured_accounts
    from sync.commands.verify import verify as verify_accounts
    from sync.model import Task
    from sync.observe.display import shows_bars, watching
    from sync.observe.tables import plain_difference, show_differences, show_verified

    choose(configured_accounts(settings), source, account)  # before a warehouse is made for nothing
    redactor = invocation.logging(settings, bars=shows_bars(err))
    task = Task("verify", _utc(since), _utc(until), repair=repair)
    with watching(err) as counts:
        verdict = run(verify_accounts(settings, task, redactor, counts, source=source, account=account))
    accounts = [verdict.plain(outcome, redactor.redact) for outcome in verdict.outcomes]
    if json:
        for row in verdict.differences:
            print_json(plain_difference(row))
        for row in accounts:
            print_json(row)
    else:
        show_differences(out, verdict.differences)
        show_verified(out, accounts)
    raise typer.Exit(DONE if verdict.is_equal else FAILED)


def run_daemon() -> None:
    """Work until it is told to stop: read what is new again and again, as `schedule` says.

    SIGTERM and Ctrl-C end it after the batch in hand (exit code 0), a second one at once. SIGHUP has it read
    its configuration again. A database or a vendor that is away is waited for. Any number of them may share
    one database: each account is read by one at a time, and those of a process that died by the others.

    How it is: /healthz, /readyz and /metrics on `daemon.listen`; `nightshift status`; the log.
    """
    import asyncio

    from sync.daemon import Service

    service = Service(invocation.settings, invocation.logging, os.environ)
    asyncio.run(service.run())


def _work(task: Task, source: str | None, account: str | None, *, json: bool) -> None:
    settings = invocation.settings()
    from sync.app.accounts import choose, configured_accounts
    from sync.app.work import open_app
    from sync.observe.display import shows_bars, watching

    choose(configured_accounts(settings), source, account)  # before a warehouse is made for nothing
    redactor = invocation.logging(settings, bars=shows_bars(err))
    with watching(err) as counts:

        async def work() -> list[RunOutcome]:
            async with open_app(settings, redactor, counts, command=task.kind) as running:
                return await running.run(task, source=source, account=account)

        outcomes = run(work())
    _report(outcomes, counts, redactor, json=json)


def _work_archive(folder: Path, account: str | None, *, json: bool) -> None:
    settings = invocation.settings()
    from sync.commands.archive import load_archive
    from sync.observe.display import shows_bars, watching
    from sync.observe.tables import plain

    redactor = invocation.logging(settings, bars=shows_bars(err))
    with watching(err) as counts:
        loaded = run(load_archive(settings, folder, account, redactor, counts))
    for what, notes in (("passed over", loaded.passed_over), ("damaged", loaded.damaged)):
        for note in notes:
            if json:
                print_json({"file": str(note.path), "what": what, "reason": note.reason})
            else:
                out.print(f"[yellow]{what}[/] {plain(str(note.path))}: {plain(note.reason)}")
    _report(loaded.outcomes, counts, redactor, json=json)


def _report(outcomes: Sequence[RunOutcome], counts: Counts, redactor: Redactor, *, json: bool) -> None:
    from sync.observe.tables import plain_outcome, show_outcomes

    if json:
        for outcome in outcomes:
            error = redactor.redact(str(outcome.error)) if outcome.error else None
            print_json(plain_outcome(outcome, counts, error))
    else:
        show_outcomes(out, outcomes, counts, redactor.redact)
    exit_by(outcomes)


def _utc(typed: datetime | None) -> datetime | None:
    return typed and typed.replace(tzinfo=UTC)
