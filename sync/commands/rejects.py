"""``nightshift rejects``: what could not become a row, and what a person does about it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Final

from rich.console import Console

from sync.app.accounts import choose, configured_accounts
from sync.app.warehouse import open_triage
from sync.config import Settings
from sync.errors import ConfigurationError
from sync.model import storable
from sync.observe.display import plural
from sync.observe.tables import moment, plain, plain_table
from sync.storage.triage import FiledReject, PostgresTriage

MOST_LISTED: Final = 100
"""Items of one reason that are named to a person."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Which rejects a command is about.

    Attributes:
        item_key: This one alone.
        closed: Those as well that are resolved.
        payloads: With what was rejected.
    """

    source: str | None = None
    account: str | None = None
    item_key: str | None = None
    closed: bool = False
    payloads: bool = True


async def find_rejects(settings: Settings, choice: Choice) -> Sequence[FiledReject]:
    """The rejects of a choice.

    Raises:
        ConfigurationError: One was named, and there is none of that name; or nobody knows the source or the
            account.
    """
    async with open_triage(settings) as triage:
        await _refuse_strangers(settings, choice, triage)
        found = await triage.rejects(
            source=choice.source,
            account=choice.account,
            item_key=choice.item_key,
            closed=choice.closed or choice.item_key is not None,
            payloads=choice.payloads,
        )
    if choice.item_key is not None and not found:
        raise ConfigurationError(
            f"there is no reject {choice.item_key!r}; `nightshift rejects list --all` names them"
        )
    return found


async def _refuse_strangers(settings: Settings, choice: Choice, triage: PostgresTriage) -> None:
    """A name that was mistyped has no rejects, which is no good news."""
    sources = [name for name in configured_accounts(settings) if choice.source in {None, name}]
    if choice.account is None and sources:
        return
    for source in sources:
        if choice.account and await triage.knows(source, choice.account):
            return
    choose(configured_accounts(settings), choice.source, choice.account)


async def settle_reject(settings: Settings, choice: Choice, note: str) -> FiledReject:
    """Close a reject on a person's word.

    Raises:
        ConfigurationError: There is none of that name that is open, or several accounts have one.
    """
    found = [reject for reject in await find_rejects(settings, choice) if reject.resolved_at is None]
    if not found:
        raise ConfigurationError(f"{choice.item_key} is resolved already")
    if len(found) > 1:
        owners = ", ".join(f"{reject.source}/{reject.account}" for reject in found)
        raise ConfigurationError(f"several accounts have such a reject ({owners}): name one with --account")
    async with open_triage(settings) as triage:
        if not await triage.settle(found[0], storable(note)):
            raise ConfigurationError(f"{choice.item_key} is resolved already")
    return found[0]


# --- for a person ---------------------------------------------------------------------------------


def show_rejects(console: Console, rejects: Sequence[FiledReject]) -> None:
    """How many there are of each reason, then each of them."""
    if not rejects:
        console.print("no open rejects: every item became a row, was superseded by one, or was settled")
        return
    counts = Counter((f"{r.source}/{r.account}", r.reason) for r in rejects)
    table = plain_table("rejects", "account", "reason", numbers=("rejects",))
    for (account, reason), count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        table.add_row(f"{count:,}", plain(account), plain(reason))
    console.print(table)
    console.print()
    items = plain_table("item", "account", "seen", "first", "last", "state", numbers=("seen",))
    for _, group in groupby(rejects, key=lambda r: (r.source, r.account, r.reason)):
        for reject in list(group)[:MOST_LISTED]:
            items.add_row(
                plain(reject.item_key),
                plain(f"{reject.source}/{reject.account}"),
                f"{reject.attempts:,}",
                moment(reject.first_seen_at),
                moment(reject.last_seen_at),
                "open" if reject.resolved_at is None else f"resolved {moment(reject.resolved_at)}",
            )
    console.print(items)
    hidden = sum(max(0, count - MOST_LISTED) for count in counts.values())
    if hidden:
        console.print(f"[dim]and {hidden:,} more (--json has all)[/]")


def show_reject(console: Console, reject: FiledReject) -> None:
    """All that is known of one."""
    console.print(f"[bold]{plain(reject.item_key)}[/] of {plain(f'{reject.source}/{reject.account}')}")
    console.print(f"  reason    {plain(reject.reason)}")
    seen = f"{reject.attempts:,} {plural('time', reject.attempts)}"
    console.print(
        f"  seen      {seen}, first {moment(reject.first_seen_at)}, last {moment(reject.last_seen_at)}"
    )
    if reject.instant is not None:
        console.print(f"  happened  {moment(reject.instant)}")
    state = "open" if reject.resolved_at is None else f"resolved {moment(reject.resolved_at)}"
    console.print(f"  state     {state}")
    if reject.note is not None:
        console.print(f"  note      {plain(reject.note)}")
    payload = json.dumps(reject.payload, indent=2, ensure_ascii=False)
    console.print(f"  payload   {plain(payload).replace(chr(10), chr(10) + ' ' * 12)}")
