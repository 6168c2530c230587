"""Files and folders that we make, sometimes as root, for the server's account."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from sync.errors import ConfigurationError, StorageUnavailable
from sync.storage.embedded.account import Account

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_UNFIT = frozenset({errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP})
"""What waiting does not change."""


def private_folder(path: Path, account: Account) -> Path:
    """Make a folder of the account, or make sure that it is one and no trap."""
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700)
    now = path.lstat()
    ours = now.st_uid in {os.geteuid(), account.uid}
    if not stat.S_ISDIR(now.st_mode) or not ours or now.st_mode & 0o022:
        raise ConfigurationError(
            f"{path} must be a folder that belongs to {account.name!r} and that nobody else may "
            "write to. Remove it, or move it away."
        )
    if account.is_other:
        os.chown(path, account.uid, account.gid, follow_symlinks=False)
    return path


def write(path: Path, text: str, account: Account) -> None:
    """Replace a file as a whole. Never follows a link, because root writes where others own."""
    new = path.with_name(f"{path.name}.new")
    new.unlink(missing_ok=True)
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with open(descriptor, "w", encoding="utf-8") as file:  # noqa: PTH123
        file.write(text)
        os.fchown(descriptor, account.uid, account.gid)
        file.flush()
        os.fsync(descriptor)
    new.rename(path)


def sync_folder(folder: Path) -> None:
    """Make renames in a folder survive a power failure."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def explained(folder: Path) -> Iterator[None]:
    """Turn the operating system's refusals into sentences for a person."""
    try:
        yield
    except PermissionError as error:
        raise ConfigurationError(
            f"The embedded database's folder {folder} cannot be used: {error}. Run nightshift as the "
            "user who owns it, or choose another state_dir."
        ) from error
    except OSError as error:
        if error.errno in _FULL:
            raise StorageUnavailable(disk_full(folder)) from error
        message = f"The embedded database's folder {folder} cannot be used: {error}."
        if error.errno in _UNFIT:
            raise ConfigurationError(f"{message} Set state_dir to a folder that can be written.") from error
        raise StorageUnavailable(f"{message} See that its disk is well, then start again.") from error


def disk_full(folder: Path) -> str:
    """What to do about a disk without room."""
    return f"The disk under {folder} is full: make room, then start again. Nothing that was stored is lost."


def tells_of_full_disk(said: str) -> bool:
    """Whether a program of PostgreSQL's failed for want of room."""
    return any(os.strerror(number) in said for number in _FULL)
