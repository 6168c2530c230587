"""The commands that one begins with: what is configured, and whether it works."""

from __future__ import annotations

import os
from contextlib import aclosing
from typing import TYPE_CHECKING, Annotated

import typer

from sync.cli.invocation import invocation
from sync.cli.options import FLAG, Json
from sync.cli.output import out, print_json, show_nothing_more
from sync.cli.running import DONE, FAILED, MISCONFIGURED, run

if TYPE_CHECKING:
    from sync.commands.check import Finding


def check(json: Json = False) -> None:
    """Try configuration, database and credentials; say ok or what to do, line by line."""
    settings = invocation.settings()
    from sync import config
    from sync.commands.check import check as run_checks

    invocation.logging(settings, findings=True)
    source = config.find(invocation.path, os.environ)
    worst = DONE

    async def work() -> None:
        nonlocal worst
        async with aclosing(run_checks(settings, source)) as findings:
            async for finding in findings:
                worst = max(worst, DONE if finding.ok else MISCONFIGURED if finding.fatal else FAILED)
                try:
                    _show_finding(finding, json=json)
                except (BrokenPipeError, SystemExit):  # rich makes the one of the other
                    show_nothing_more()
                    return

    run(work())
    raise typer.Exit(worst)


def _show_finding(finding: Finding, *, json: bool) -> None:
    if json:
        found = {"subject": finding.subject, "ok": finding.ok, "note": finding.note}
        print_json({**found, "text": finding.text})
        return
    from sync.observe.tables import plain

    mark = "[red]FAIL[/]"
    if finding.ok:
        mark = "[yellow]note[/]" if finding.note else "[green]ok  [/]"
    out.print(f"{mark} [bold]{finding.subject:<16}[/] {plain(finding.text)}")


def show_config(
    example: Annotated[
        bool, typer.Option("--example", metavar=FLAG, help="The commented example file instead.")
    ] = False,
) -> None:
    """Print the effective configuration, secrets hidden, or an example to start from.

    `nightshift config --example > nightshift.toml` is a good beginning.
    """
    from sync import config

    text = config.example_text() if example else _origin() + config.describe(invocation.settings())
    typer.echo(text.rstrip())


def _origin() -> str:
    """Where the configuration comes from, as its first line."""
    from sync import config
    from sync.observe.display import plural

    file = config.find(invocation.path, os.environ)
    count = sum(
        name.upper().startswith(config.PREFIX) and name not in config.OTHER_VARIABLES and bool(value)
        for name, value in os.environ.items()
    )
    return f"# from {file or 'no file'} and {count} {plural('variable', count)}\n"
