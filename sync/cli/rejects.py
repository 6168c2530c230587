"""``nightshift rejects ...``."""

from __future__ import annotations

from typing import Annotated

import typer

from sync.cli.invocation import existing_warehouse, invocation
from sync.cli.options import FLAG, AccountName, Json, SourceName
from sync.cli.output import err, out, print_json
from sync.cli.running import DONE, FAILED, run

ItemKey = Annotated[
    str, typer.Argument(metavar="ITEM_KEY", help="What was rejected, as `rejects list` names it.")
]


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
    settings = existing_warehouse()
    from sync.commands.rejects import Choice, find_rejects, show_rejects

    invocation.logging(settings, bars=True)
    choice = Choice(source=source, account=account, closed=closed, payloads=json)
    found = run(find_rejects(settings, choice))
    if json:
        for reject in found:
            print_json(reject.plain())
    else:
        show_rejects(out, found)


def show_one_reject(
    item: ItemKey, source: SourceName = None, account: AccountName = None, json: Json = False
) -> None:
    """Show a reject with its reason, what exactly was rejected, and how often it was seen, and when."""
    settings = existing_warehouse()
    from sync.commands.rejects import Choice, find_rejects, show_reject

    invocation.logging(settings, bars=True)
    for reject in run(find_rejects(settings, Choice(source=source, account=account, item_key=item))):
        if json:
            print_json(reject.plain())
        else:
            show_reject(out, reject)


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
    settings = existing_warehouse()
    from sync.commands.rejects import Choice
    from sync.commands.retry import retry_rejects, show_retried
    from sync.observe.display import shows_bars, watching

    choice = Choice(source=source, account=account, item_key=item)
    redactor = invocation.logging(settings, bars=shows_bars(err))
    with watching(err) as counts:
        retried = run(retry_rejects(settings, choice, redactor, counts))
    if json:
        for line in retried.plain():
            print_json(line)
    else:
        show_retried(out, retried, redactor)
    raise typer.Exit(DONE if retried.is_well else FAILED)


def resolve(
    item: ItemKey,
    note: Annotated[str, typer.Option("--note", metavar="TEXT", help="Why it is settled; it is kept.")],
    source: SourceName = None,
    account: AccountName = None,
) -> None:
    """Declare a reject settled. It opens again, with its note, when the source sends it again."""
    if not note.strip():
        raise typer.BadParameter("--note has to say why")
    settings = existing_warehouse()
    from sync.commands.rejects import Choice, settle_reject
    from sync.observe.tables import plain

    invocation.logging(settings, bars=True)
    choice = Choice(source=source, account=account, item_key=item)
    settled = run(settle_reject(settings, choice, note))
    out.print(f"{plain(settled.item_key)} of {settled.source}/{settled.account} is settled")
