"""Who the server runs as, and whether that account can enter its folder."""

from __future__ import annotations

import contextlib
import os
import pwd
import stat
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from sync.errors import ConfigurationError
from sync.storage.embedded.layout import Layout

ACCOUNTS_FOR_ROOT = ("nightshift", "postgres", "nobody")


class Identity(TypedDict, total=False):
    """The arguments of ``subprocess.Popen`` that say who a process is."""

    user: int
    group: int
    extra_groups: list[int]


@dataclass(frozen=True)
class Account:
    """An account of the operating system."""

    name: str
    uid: int
    gid: int

    @classmethod
    def of_server(cls, layout: Layout) -> Account:
        """Choose who runs the server: ourselves, or for root the owner of what is there already."""
        if os.geteuid() != 0:
            return cls._of_number(os.geteuid())
        for path in (layout.data, layout.root):
            with contextlib.suppress(FileNotFoundError):
                owner = path.stat().st_uid
                if owner != 0:
                    return cls._of_number(owner)
        for name in ACCOUNTS_FOR_ROOT:
            with contextlib.suppress(KeyError):
                return cls._of(pwd.getpwnam(name))
        raise ConfigurationError(
            "PostgreSQL does not run as root, and none of the accounts "
            f"{', '.join(ACCOUNTS_FOR_ROOT)} exists. Make one: useradd --system nightshift"
        )

    @classmethod
    def _of_number(cls, uid: int) -> Account:
        try:
            return cls._of(pwd.getpwuid(uid))
        except KeyError:
            raise ConfigurationError(
                f"The embedded PostgreSQL recognises its users by their account, and user number {uid} has "
                "none (no line in /etc/passwd). Run nightshift as a user who has one, or set warehouse.dsn."
            ) from None

    @classmethod
    def _of(cls, entry: pwd.struct_passwd) -> Account:
        return cls(entry.pw_name, entry.pw_uid, entry.pw_gid)

    @property
    def is_other(self) -> bool:
        """Whether we are root and this account is not."""
        return self.uid != os.geteuid()

    @property
    def identity(self) -> Identity:
        """What makes a child process run as this account, and without root's groups."""
        return Identity(user=self.uid, group=self.gid, extra_groups=[]) if self.is_other else Identity()


def open_to(account: Account, folder: Path) -> None:
    """Make the folder and see to it that the account can enter it; the folders above are not ours to open.

    Raises:
        ConfigurationError: One of those is closed.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not account.is_other:
        return
    now = folder.stat()
    if now.st_uid != account.uid:
        folder.chmod(stat.S_IMODE(now.st_mode) | 0o011)
    barrier = _first_closed(reversed([folder, *folder.parents]), account)
    if barrier is not None:
        raise ConfigurationError(
            f"PostgreSQL does not run as root, and the account {account.name!r} that it would "
            f"run as may not enter {barrier}. Choose a state_dir that it can reach, such as "
            f"/var/lib/nightshift, or run nightshift as the user who owns {barrier}."
        )


def _first_closed(folders: Iterable[Path], account: Account) -> Path | None:
    """Return the first of these folders that an account cannot enter; tried, not computed."""
    script = 'for folder; do cd "$folder" 2>/dev/null || { printf %s "$folder"; exit 1; }; done'
    command: list[str | Path] = ["/bin/sh", "-c", script, "sh", *folders]
    closed = subprocess.run(  # noqa: S603
        command, cwd="/", stdout=subprocess.PIPE, check=False, **account.identity
    ).stdout
    return Path(os.fsdecode(closed)) if closed else None
