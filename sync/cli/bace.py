"""``nightshift bace ...``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated
from uuid import UUID

import typer

from sync.cli.invocation import invocation
from sync.cli.options import FLAG, AccountName
from sync.cli.output import err, out, show_nothing_more
from sync.cli.running import DONE, run


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
    settings = invocation.settings()
    from sync.commands.bace import STANDARD_OUTPUT
    from sync.commands.bace import download_csv as download
    from sync.observe.display import shows_bars
    from sync.observe.tables import plain

    invocation.logging(settings, bars=shows_bars(err))
    work = download(settings, session, account=account, output=output, force=force)
    try:
        done = run(work, farewell="no file was written")
    except BrokenPipeError:
        show_nothing_more()
        raise typer.Exit(DONE) from None
    if done.path != STANDARD_OUTPUT:
        out.print(f"{plain(str(done.path))}: {done.size:,} bytes, seen by account {done.account}")
