"""``nightshift forget``: removes one person's data, and sees to it that it is not read again."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from time import monotonic
from typing import Any, Final

import structlog
from rich.console import Console

from sync.app import bace_settings, by_user, known_as, open_app, open_forgetting, spool_folder
from sync.config import Settings
from sync.errors import ConfigurationError
from sync.observe.display import Counts, plural
from sync.observe.logging import Redactor
from sync.observe.tables import plain, plain_table
from sync.sources.bace.client import remove_token
from sync.sources.beddit.spool import sweep
from sync.storage.forgetting import Holdings, Person, by_name

log = structlog.get_logger(__name__)

LEFT_ALONE: Final = timedelta(hours=1)
"""How long a download that nobody writes to may still be somebody's."""

TELL_EVERY_S: Final = 10.0

_NAME: Final = re.compile("[a-z0-9_-]+")
"""What accounts may be called."""


@dataclass(frozen=True, slots=True)
class Found:
    """Whose data is to go, and what there is.

    Attributes:
        person: The person.
        name: What the account was called by whoever asked.
        holdings: What there is.
        strangers: Accounts in the warehouse that are not configured and not known to be this person's.
    """

    person: Person
    name: str
    holdings: Holdings
    strangers: Sequence[str]


@dataclass(frozen=True, slots=True)
class Gone:
    """What was removed.

    Attributes:
        rows: By table.
        files: From the state folder.
        undo: The statement that lets the account be read again.
    """

    rows: Mapping[str, int]
    files: Sequence[Path]
    undo: str


async def find_person(settings: Settings, source: str, account: str, user_id: int | None) -> Found:
    """Find out whose data is meant, and what there is of it.

    Args:
        settings: The configuration.
        source: The account's source.
        account: Its name in the configuration; of Beddit also the user's id.
        user_id: Of a Beddit account that is configured no longer.

    Raises:
        ConfigurationError: That cannot be told, or there is nothing.
    """
    person, is_configured = _person(settings, source, account, user_id)
    async with open_forgetting(settings) as forgetting:
        holdings, names = await forgetting.holdings(person), await forgetting.names(source)
    strangers = [name for name in names if name not in {*person.accounts, *known_as(settings)[source]}]
    if not is_configured and not any(holdings.counts.values()):
        known = ", ".join(names) or "no account"
        raise ConfigurationError(f"there is nothing of {account!r} of {source}; the warehouse knows {known}")
    return Found(person, account, holdings, strangers)


def _person(settings: Settings, source: str, account: str, user_id: int | None) -> tuple[Person, bool]:
    """The person, and whether a configured account is theirs."""
    known = known_as(settings)
    if source not in known:
        raise ConfigurationError(f"there is no source {source!r}; there is {', '.join(sorted(known))}")
    if not _NAME.fullmatch(account):
        raise ConfigurationError(f"no account can be called {account!r}: names consist of a-z, 0-9, _ and -")
    if source != "beddit":
        if user_id is not None:
            raise ConfigurationError("--user-id is for Beddit accounts")
        identities = known[source].get(account, (by_name(account),))
        person = Person(source=source, accounts=(account,), identities=identities)
        return person, account in known[source]
    user = _user(settings, account, user_id)
    configured = [name for name, one in settings.beddit.accounts.items() if one.user_id == user]
    # What `backfill --archive` calls an account of saved files.
    names = sorted({*configured, f"archive-{user}", *(() if account.isdecimal() else (account,))})
    identities = (by_user(user), *map(by_name, names))
    return Person(source=source, accounts=names, user_id=user, identities=identities), bool(configured)


def _user(settings: Settings, account: str, user_id: int | None) -> int:
    configured = settings.beddit.accounts.get(account)
    if configured is None and user_id is None and not account.isdecimal():
        raise ConfigurationError(
            f"account {account!r} of beddit is not configured, so that nobody knows whose nights it read: "
            "say it with --user-id N (the user_id of beddit.sessions)"
        )
    user = configured.user_id if configured is not None else user_id
    if user is None:
        user = int(account)
    if user_id not in {None, user}:
        raise ConfigurationError(f"account {account} belongs to user {user}, not to user {user_id}")
    return user


async def forget_person(settings: Settings, redactor: Redactor, person: Person) -> Gone:
    """Remove all of a person's data, whoever else works meanwhile.

    Raises:
        AccountBusy: A process reads an account of the person now; nothing was done.
        LeaseLost: Another process took over; the same call goes on.
    """
    async with open_app(settings, redactor, Counts(), command="forget") as app:
        forgetting = app.forgetting
        await forgetting.make_leases(person)
        async with AsyncExitStack() as held:
            await held.enter_async_context(app.kept())
            for account in person.accounts:
                await held.enter_async_context(app.permits.hold(person.source, account))
            number = await forgetting.begin(person)
            async with aclosing(forgetting.remove(person, number)) as steps:
                total, told = 0, monotonic()
                async for rows in steps:
                    total += rows
                    if monotonic() - told >= TELL_EVERY_S:
                        told = monotonic()
                        log.info("forgetting.goes_on", rows=total)
            removed = await forgetting.removed(number)
        (forgotten,) = (await forgetting.forgotten(person.source, {"": person.identities})).values()
    return Gone(removed, _remove_files(settings, person), forgotten.undo)


def _remove_files(settings: Settings, person: Person) -> Sequence[Path]:
    """The person's token, and downloads that killed processes left: nobody can tell whose those were."""
    if person.source == "bace":
        bace = bace_settings(settings)
        return [path for account in person.accounts for path in remove_token(bace, account)]
    spool = spool_folder(settings)
    before = set(spool.glob("*"))
    sweep(spool, LEFT_ALONE)
    return sorted(before - set(spool.glob("*")))


# --- for a person ---------------------------------------------------------------------------------


def show_found(console: Console, found: Found) -> None:
    """What will go, and what will stay."""
    person, holdings = found.person, found.holdings
    names = ", ".join(person.accounts)
    user = f" (user {person.user_id})" if person.user_id is not None else ""
    console.print(
        f"Of [bold]{plain(found.name)}[/] of {person.source}{user} this will be removed, for good:\n"
    )
    for what, count in holdings.counts.items():
        console.print(f"  {count:>14,}  {what}")
    console.print(f"\n  and whatever else is kept under {plain(names)}")
    if holdings.shared:
        console.print(
            f"\n{holdings.shared:,} {plural('data session', holdings.shared)} that other accounts see, too, "
            "stay; only this account's access to them is removed."
        )
    if found.strangers and person.source == "beddit":
        console.print(
            f"\nAccounts that are not configured: {plain(', '.join(found.strangers))}. If one of them was "
            f"this person's, name it: --account NAME --user-id {person.user_id}"
        )
    console.print()


def plain_found(found: Found) -> dict[str, Any]:
    """The same as values that JSON has words for."""
    return {
        "source": found.person.source,
        "accounts": list(found.person.accounts),
        "found": dict(found.holdings.counts),
        "shared": found.holdings.shared,
    }


def show_gone(console: Console, gone: Gone) -> None:
    """What was removed, and what is not nightshift's to remove."""
    table = plain_table("table", "rows removed", numbers=("rows removed",))
    for name, count in sorted(gone.rows.items()):
        table.add_row(name, f"{count:,}")
    console.print(table if gone.rows else "nothing was left to remove")
    for path in gone.files:
        console.print(f"removed {plain(str(path))}")
    console.print(
        "\nThe account is not read again. What recognises it, without naming it, is in sync.forgotten;\n"
        f"to allow it again: {gone.undo}\n\n"
        "Not nightshift's to remove: backups; the write-ahead log and its archive; what lies in the\n"
        "space of the removed rows until VACUUM (FULL) gives it back; log files; the account's place in the\n"
        "configuration, and its files of secrets; tokens in the state folders of other machines."
    )
