"""Which accounts are configured, and which of them a command is about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final

from sync.config import Cloud, Settings
from sync.errors import ConfigurationError
from sync.schedule import Schedule
from sync.storage.forgotten import KnownAs, by_name

# A source is called what its table of the configuration is called.
BEDDIT: Final = "beddit"
BACE: Final = "bace"


def configured_accounts(settings: Settings) -> Mapping[str, Sequence[str]]:
    """The accounts of each source."""
    return {BEDDIT: tuple(settings.beddit.accounts), BACE: tuple(settings.bace.accounts)}


def known_as(settings: Settings) -> KnownAs:
    """What each account is recognised by: what the vendor calls the person; of BACE its name, too.

    A Beddit user's number says who it is, whatever the account is called. Of a BACE account that was
    forgotten when it was not configured any more nothing but its name was known.
    """
    return {
        BEDDIT: {name: (by_user(account.user_id),) for name, account in settings.beddit.accounts.items()},
        BACE: {
            name: (by_name(name), by_login(account.username))
            for name, account in settings.bace.accounts.items()
        },
    }


def by_user(user_id: int) -> str:
    """What a Beddit account is recognised by."""
    return f"user {user_id}"


def by_login(username: str) -> str:
    """What a BACE account is recognised by, whatever its name."""
    return f"username {username.casefold()}"


def clouds(settings: Settings) -> Mapping[str, Cloud]:
    """The configuration of each source."""
    return {BEDDIT: settings.beddit, BACE: settings.bace}


def fresh_since(settings: Settings, now: datetime) -> Mapping[str, datetime]:
    """The oldest success of an account of each source that still counts as fresh."""
    cycles = settings.daemon.stale_cycles + 1  # the one under way does not count
    return {
        name: Schedule(cloud.schedule).last(now, cycles=cycles) for name, cloud in clouds(settings).items()
    }


def choose(
    accounts: Mapping[str, Sequence[str]], source: str | None, account: str | None
) -> Mapping[str, Sequence[str]]:
    """The accounts of each source that a command is about.

    Raises:
        ConfigurationError: No configured account fits the choice.
    """
    if source is not None and source not in accounts:
        raise ConfigurationError(f"there is no source {source!r}; there is {_listed(accounts)}")
    configured = {name: names for name, names in accounts.items() if source in {None, name} and names}
    if not configured:
        raise ConfigurationError(
            "no account is configured. Add one to nightshift.toml (`nightshift config --example` shows how), "
            "or try `nightshift demo`, which needs none"
        )
    chosen = {name: [a for a in names if account in {None, a}] for name, names in configured.items()}
    if not any(chosen.values()):
        known = [a for names in configured.values() for a in names]
        raise ConfigurationError(f"there is no account {account!r}; there is {_listed(known)}")
    return {name: names for name, names in chosen.items() if names}


def _listed(names: Sequence[str] | Mapping[str, object]) -> str:
    return ", ".join(sorted(names)) or "none"
