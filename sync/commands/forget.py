"""``nightshift forget``: removes an account's data, and sees to it that it is not read again."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from time import monotonic
from typing import Any, Final

import structlog
from rich.console import Console

from sync.app.accounts import by_login, by_user, configured_accounts
from sync.app.sources import bace_settings, spool_folder
from sync.app.warehouse import open_forgetting
from sync.app.work import open_app
from sync.config import Settings
from sync.errors import ConfigurationError
from sync.observe.display import Counts, plural
from sync.observe.logging import Redactor
from sync.observe.tables import plain, plain_table
from sync.sources.bace.client import remove_token
from sync.sources.beddit.spool import sweep
from sync.storage.forgetting import Holdings, Person
from sync.storage.forgotten import by_name, undo

log = structlog.get_logger(__name__)

LEFT_ALONE: Final = timedelta(hours=1)
"""How long a download that nobody writes to may still be somebody's."""

TELL_EVERY_S: Final = 10.0

_NAME: Final = re.compile("[a-z0-9_-]+")
"""What accounts may be called."""

_ARCHIVE: Final = re.compile("archive-[0-9]+")
"""What `backfill --archive` calls an account of saved files: its user's, and nobody else's."""


@dataclass(frozen=True, slots=True)
class Found:
    """Whose data is to go, and what there is.

    Attributes:
        person: The person.
        name: What the account was called by whoever asked.
        holdings: What there is.
        strangers: Accounts in the warehouse of which nobody knows whose they are.
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


async def find_person(
    settings: Settings, source: str, accounts: Sequence[str], user_id: int | None, *, leave_shared: bool
) -> Found:
    """Find out whose data is meant, and what there is of it.

    Args:
        settings: The configuration.
        source: The account's source.
        accounts: Its name in the configuration, and its old ones; of Beddit also the user's id.
        user_id: Of a Beddit account that is configured no longer.
        leave_shared: Whether to leave what accounts see, too, of which nobody knows whose they are.

    Raises:
        ConfigurationError: That cannot be told, or there is nothing.
    """
    configured = configured_accounts(settings)
    if source not in configured:
        raise ConfigurationError(f"there is no source {source!r}; there is {', '.join(sorted(configured))}")
    for account in accounts:
        if not _NAME.fullmatch(account):
            raise ConfigurationError(
                f"no account can be called {account!r}: names consist of a-z, 0-9, _ and -"
            )
    whose = _of_beddit if source == "beddit" else _of_bace
    person = whose(settings, accounts, user_id)
    async with open_forgetting(settings) as forgetting:
        holdings, names = await forgetting.holdings(person), await forgetting.names(source)
    if not leave_shared:
        _refuse_unknown_sharers(person, holdings, configured[source])
    is_configured = bool({*person.accounts} & {*configured[source]})
    if not (is_configured or any(holdings.counts.values()) or holdings.shared):
        known = ", ".join(names) or "no account"
        raise ConfigurationError(
            f"there is nothing of {accounts[0]!r} of {source}; the warehouse knows {known}"
        )
    archives = [name for name in names if _ARCHIVE.fullmatch(name) and name not in person.accounts]
    person = replace(person, others=[*person.others, *archives])
    strangers = [name for name in names if name not in {*person.accounts, *person.others}]
    return Found(person, accounts[0], holdings, strangers)


def _of_beddit(settings: Settings, accounts: Sequence[str], user_id: int | None) -> Person:
    """A Beddit user, by configured names, by number, and by old names beside one of these."""
    configured = settings.beddit.accounts
    users = {
        f"account {name}": configured[name].user_id if name in configured else int(name)
        for name in accounts
        if name in configured or name.isdecimal()
    }
    if user_id is not None:
        users["--user-id"] = user_id
    if not users:
        raise ConfigurationError(
            f"account {accounts[0]!r} of beddit is not configured, so that nobody knows whose nights it "
            "read: say it with --user-id N (the user_id of beddit.sessions)"
        )
    if len({*users.values()}) > 1:
        which = ", ".join(f"{name} belongs to user {user}" for name, user in users.items())
        raise ConfigurationError(f"one user at a time: {which}")
    user = next(iter(users.values()))
    old = {name for name in accounts if name not in configured and not name.isdecimal()}
    ours = {name for name, one in configured.items() if one.user_id == user}
    return Person(
        source="beddit",
        accounts=sorted({*ours, *old, f"archive-{user}"}),
        user_id=user,
        identities=(by_user(user),),
        others=sorted({*configured} - ours),
    )


def _of_bace(settings: Settings, accounts: Sequence[str], user_id: int | None) -> Person:
    """A BACE login, by configured names, and by old names beside one of these or alone."""
    if user_id is not None:
        raise ConfigurationError("--user-id is for Beddit accounts")
    logins = {name: by_login(account.username) for name, account in settings.bace.accounts.items()}
    named = {name: logins[name] for name in accounts if name in logins}
    if len({*named.values()}) > 1:
        raise ConfigurationError(f"one login at a time: {', '.join(named)} have different ones")
    ours = {name for name, login in logins.items() if login in named.values()}
    return Person(
        source="bace",
        accounts=sorted({*ours, *accounts}),
        identities=sorted({*named.values()} or map(by_name, accounts)),
        others=sorted({*logins} - ours),
    )


def _refuse_unknown_sharers(person: Person, holdings: Holdings, configured: Sequence[str]) -> None:
    """An account that was renamed shares everything with its old name: nothing of it would go."""
    unknown = {name: count for name, count in holdings.shared.items() if name not in configured}
    if not unknown:
        return
    seen = ", ".join(f"{count:,} by {name}" for name, count in unknown.items())
    names = " ".join(f"--account {name}" for name in (*person.accounts, *unknown))
    raise ConfigurationError(
        f"data sessions of {', '.join(person.accounts)} are seen, too, by accounts that are not configured "
        f"({seen}), so that nobody knows whose they are. If they are old names of the same login: {names}. "
        "If another login keeps what it sees: --leave-shared"
    )


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
    return Gone(removed, _remove_files(settings, person), undo(number))


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
    for name, count in holdings.shared.items():
        console.print(
            f"\n{count:,} {plural('data session', count)} that account {plain(name)} sees, too, "
            f"{'stays' if count == 1 else 'stay'}; only this account's access goes."
        )
    if found.strangers:
        user = f" --user-id {person.user_id}" if person.user_id is not None else ""
        console.print(
            f"\nAccounts that are not configured: {plain(', '.join(found.strangers))}. If one of them is an "
            f"old name of this one, what is kept under it goes only if it is named, too: "
            f"--account {plain(found.name)} --account OLD{user}"
        )
    console.print()


def plain_found(found: Found) -> dict[str, Any]:
    """The same as values that JSON has words for."""
    return {
        "what": "found",
        "source": found.person.source,
        "accounts": list(found.person.accounts),
        "found": dict(found.holdings.counts),
        "shared": dict(found.holdings.shared),
        "strangers": list(found.strangers),
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
        "\nThe account is not read again. A pseudonym in sync.forgotten recognises it; to allow it again:\n"
        f"{gone.undo}\n\n"
        "Not nightshift's to remove: saved session files (of --archive), downloaded CSV files and whatever\n"
        "else was taken out of the warehouse; backups; the write-ahead log and its archive; what lies in\n"
        "the space of the removed rows until VACUUM (FULL) gives it back; log files; the account's place\n"
        "in the configuration, and its files of secrets; tokens in the state folders of other machines."
    )


def plain_gone(gone: Gone) -> dict[str, Any]:
    """The same as values that JSON has words for."""
    return {
        "what": "removed",
        "removed": dict(gone.rows),
        "files": list(map(str, gone.files)),
        "undo": gone.undo,
    }
