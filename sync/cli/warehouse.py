"""The commands that have to do with the warehouse alone."""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from sync.cli.invocation import existing_warehouse, has_warehouse, invocation
from sync.cli.options import FLAG, Json
from sync.cli.output import err, out, print_json
from sync.cli.running import ENDINGS, FAILED, MISCONFIGURED, fail, run


def migrate() -> None:
    """Bring the database to the newest schema. Safe to repeat, and to run beside another nightshift."""
    settings = invocation.settings()
    from sync.app.warehouse import open_dsn
    from sync.storage.migrate import migrate as migrate_database
    from sync.storage.migrate import newest_version, schema_version

    invocation.logging(settings)

    async def work() -> tuple[str | None, str, Sequence[str]]:
        async with open_dsn(settings) as dsn:
            before = await schema_version(dsn)
            features = await migrate_database(dsn)
            return before, newest_version(), features

    before, after, features = run(work())
    out.print(
        f"schema version {after}"
        + (" (it already was)" if before == after else f" (was {before or 'empty'})")
    )
    for feature in features:
        out.print(f"new with TimescaleDB: {feature}")


def status(json: Json = False) -> None:
    """Show what is there, what is open or incomplete and why, open rejects, and each account's last run."""
    settings = existing_warehouse()
    from sync.app.accounts import fresh_since
    from sync.app.warehouse import open_warehouse
    from sync.observe.tables import show_status

    invocation.logging(settings, bars=True)

    async def work() -> Any:
        async with open_warehouse(settings) as warehouse:
            return await warehouse.status()

    facts, now = run(work()), datetime.now(UTC)
    if json:
        print_json(facts.plain())
    else:
        show_status(
            out,
            facts.facts(),
            fresh_within={name: now - since for name, since in fresh_since(settings, now).items()},
        )


def sql(
    query: Annotated[
        str | None, typer.Argument(help="A statement; without one, psql is interactive.")
    ] = None,
) -> None:
    """Open psql on the warehouse, the embedded one too, or run one statement."""
    settings = existing_warehouse()
    from sync.app.warehouse import embedded_in
    from sync.storage.embedded import run_psql

    invocation.logging(settings, bars=True)
    arguments = [] if query is None else ["--command", query]
    for number in (signal.SIGTERM, signal.SIGHUP):  # psql ends with us, and the embedded server too
        signal.signal(number, lambda number, _frame: sys.exit(ENDINGS[signal.Signals(number)][1]))
    if query is None and err.is_terminal:
        err.print(r"[dim]\dv beddit.* and \dv bace.* list what there is, \q leaves.[/]")
    if settings.warehouse.dsn is not None:
        raise typer.Exit(run_psql(settings.warehouse.dsn.get_secret_value(), arguments))
    with embedded_in(settings.state_dir).running_sync() as dsn:
        code = run_psql(dsn, arguments)
    raise typer.Exit(code)


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
    settings = invocation.settings()
    from sync.commands.forget import (
        find_person,
        forget_person,
        plain_found,
        plain_gone,
        show_found,
        show_gone,
    )

    redactor = invocation.logging(settings)
    if not has_warehouse(settings):
        fail(MISCONFIGURED, f"there is no warehouse in {settings.state_dir}: nothing is stored")
    found = run(find_person(settings, source, account, user_id, leave_shared=leave_shared))
    if json:
        print_json(plain_found(found))
    else:
        show_found(out, found)
    if not yes:
        _ask_for(found.name)
    farewell = "what was removed is gone; the same command removes the rest, and until then nobody reads it"
    gone = run(forget_person(settings, redactor, found.person), farewell=farewell)
    if json:
        print_json(plain_gone(gone))
    else:
        show_gone(out, gone)


def _ask_for(account: str) -> None:
    """Go on only if a person at a terminal types the account's name."""
    if not sys.stdin.isatty():
        fail(MISCONFIGURED, "nothing was removed: there is no terminal to ask at, and --yes was not given")
    typed = typer.prompt(f"Type {account} to remove it", default="", show_default=False, err=True)
    if typed.strip() != account:
        fail(FAILED, "nothing was removed")
