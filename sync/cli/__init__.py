"""The commands: parse, call, print, exit code. Each is a few lines over ``sync.app`` and ``sync.commands``.

Results go to standard output, logs and progress to standard error. Exit codes: 0 all done; 1 something
failed, differs or is still open, what could be done was done; 2 the configuration is wrong or the database
cannot be reached; 130 and 143 ended by Ctrl-C or SIGTERM.

The modules of this room import at their top what it takes to parse and to print. What a command works with
it imports itself, as soon as its configuration is read: help, a mistyped option and a wrong configuration
wait for nothing, and nothing is imported for the sake of another command.
"""

from __future__ import annotations

import sys
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated

import typer

from sync.cli.bace import download_csv
from sync.cli.emulation import demo, emulate
from sync.cli.invocation import invocation
from sync.cli.options import FLAG
from sync.cli.reading import backfill, once, run_daemon, verify
from sync.cli.rejects import list_rejects, resolve, retry, show_one_reject
from sync.cli.running import explained
from sync.cli.setting_up import check, show_config
from sync.cli.warehouse import forget, migrate, sql, status

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
app.command()(demo)
app.command()(migrate)
app.command()(check)
app.command("config")(show_config)
app.command()(once)
app.command()(backfill)
app.command()(verify)
app.command("run")(run_daemon)
app.command()(status)
app.command()(sql)
app.command()(emulate)
app.command()(forget)

_bace = typer.Typer(
    name="bace",
    help="Ask BACE for what is not copied into the warehouse; needs no database.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)
app.add_typer(_bace)
_bace.command("download-csv")(download_csv)

_rejects = typer.Typer(
    name="rejects",
    help="Look at the items that could not become rows; have them read again, or declare them settled.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)
app.add_typer(_rejects)
_rejects.command("list")(list_rejects)
_rejects.command("show")(show_one_reject)
_rejects.command("retry")(retry)
_rejects.command("resolve")(resolve)


def _show_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(f"nightshift {version('nightshift')}")
        raise typer.Exit


@app.callback()
def options(
    path: Annotated[
        Path | None,
        typer.Option("--config", metavar="PATH", help="The configuration file.", envvar="NIGHTSHIFT_CONFIG"),
    ] = None,
    version: Annotated[  # noqa: ARG001
        bool,
        typer.Option(
            "--version", metavar=FLAG, is_eager=True, callback=_show_version, help="Print the version."
        ),
    ] = False,
) -> None:
    """Remember the options that stand before the command."""
    invocation.path = path


def main() -> None:
    """Run the command line."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # a curve that cannot be written is no reason to fail
            stream.reconfigure(errors="replace")
    with explained():
        app()
