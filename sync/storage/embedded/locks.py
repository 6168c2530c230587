"""Locks that the kernel releases when their holder dies."""

from __future__ import annotations

import fcntl
import os
from io import FileIO
from pathlib import Path


def try_exclusively(path: Path) -> FileIO | None:
    """Take a lock alone, or return None while anybody else holds it. Closing the file releases it."""
    return _try(path, fcntl.LOCK_EX)


def try_shared(path: Path) -> FileIO | None:
    """Take a lock with others, or return None while somebody holds it alone."""
    return _try(path, fcntl.LOCK_SH)


def _try(path: Path, kind: int) -> FileIO | None:
    file = FileIO(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600), "r+")
    try:
        _give_to_owner(file, path.parent)
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    except BaseException:
        file.close()
        raise
    return file


def _give_to_owner(file: FileIO, folder: Path) -> None:
    """Let the folder's owner have what root made: it may come without root later."""
    now, owner = os.fstat(file.fileno()), folder.stat()
    # A second name would be a trap: a file from elsewhere, linked to here.
    if os.geteuid() == 0 and now.st_uid != owner.st_uid and now.st_nlink == 1:
        os.fchown(file.fileno(), owner.st_uid, owner.st_gid)
