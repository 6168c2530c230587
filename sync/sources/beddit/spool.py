"""The files that raw signals wait in while they are downloaded."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from tempfile import mkstemp
from typing import Final

from sync.errors import ConfigurationError

PREFIX: Final = "blob-"

STALE_AFTER: Final = timedelta(days=1)
"""Nobody downloads one raw signal for so long."""


@contextmanager
def spool_file(folder: Path) -> Iterator[Path]:
    """A private file that is gone when its blob is committed or given up.

    Raises:
        ConfigurationError: The folder cannot be written, or is full.
    """
    try:
        with _private_file(folder) as path:
            yield path
    except OSError as error:
        raise ConfigurationError(
            f"the folder for downloads, {folder}, cannot be used: {error.strerror or error}. "
            "Make room there, or set state_dir to another disk"
        ) from error


@contextmanager
def _private_file(folder: Path) -> Iterator[Path]:
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    sweep(folder)
    handle, name = mkstemp(prefix=PREFIX, dir=folder)
    os.close(handle)
    try:
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)


def sweep(folder: Path, older_than: timedelta = STALE_AFTER) -> int:
    """Remove what killed processes left behind.

    Args:
        folder: Where the files are; it need not exist.
        older_than: How long a file was not written to.

    Returns:
        Files removed. What cannot be removed stays, and is nobody's trouble.
    """
    removed, oldest = 0, time.time() - older_than.total_seconds()
    for path in folder.glob(f"{PREFIX}*"):
        with suppress(OSError):
            if path.stat().st_mtime < oldest:
                path.unlink()
                removed += 1
    return removed
