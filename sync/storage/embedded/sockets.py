"""The Unix socket, the server's only door."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import socket
from pathlib import Path

from sync.storage.embedded.account import Account
from sync.storage.embedded.files import private_folder
from sync.storage.embedded.layout import Layout

PORT = 5432  # only a part of the socket's name

_NAME = f".s.PGSQL.{PORT}"
_LONGEST_PATH = 103  # bytes: macOS's limit, Linux allows 107
_PLAIN_PATH = re.compile(r"[\w/.~@ +-]+", re.ASCII)  # a comma, for one, would separate two hosts in a DSN


def socket_folder(layout: Layout, account: Account) -> Path:
    """Make the folder for the socket where its path is short and plain enough."""
    too_long = len(os.fsencode(layout.socket / _NAME)) > _LONGEST_PATH
    plain = _PLAIN_PATH.fullmatch(str(layout.socket))
    path = layout.socket if plain and not too_long else _short_folder(layout, account)
    return private_folder(path, account)


def remove_short_folder(layout: Layout, account: Account) -> None:
    """Leave nothing outside our folder."""
    with contextlib.suppress(OSError):
        _short_folder(layout, account).rmdir()


def remove_socket(folder: Path) -> None:
    """Remove the socket that a killed server left."""
    (folder / _NAME).unlink(missing_ok=True)
    (folder / f"{_NAME}.lock").unlink(missing_ok=True)


def somebody_listens(folder: str, port: str) -> bool:
    """Tell whether a server is behind the socket."""
    with socket.socket(socket.AF_UNIX) as probe, contextlib.suppress(OSError):
        probe.connect(f"{folder}/.s.PGSQL.{port}")
        return True
    return False


def _short_folder(layout: Layout, account: Account) -> Path:
    digest = hashlib.sha256(os.fsencode(layout.root)).hexdigest()[:16]
    # Not TMPDIR, which is often as long, or private to one account.
    return Path("/tmp") / f"nightshift-{account.uid}-{digest}"  # noqa: S108
