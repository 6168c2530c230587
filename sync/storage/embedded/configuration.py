"""The server's configuration files, written at every start."""

from __future__ import annotations

import pwd
from collections.abc import Mapping
from pathlib import Path

from sync.storage.embedded.account import Account
from sync.storage.embedded.files import write
from sync.storage.embedded.layout import Layout
from sync.storage.embedded.sockets import PORT

ROLE = DATABASE = "nightshift"

SETTINGS: Mapping[str, str] = {
    "listen_addresses": "",
    "port": str(PORT),
    "cluster_name": "nightshift",  # for those who look at the list of processes
    "unix_socket_permissions": "0700",  # the server's account, and root, whom no permission stops
    "timezone": "UTC",
    "log_timezone": "UTC",
    # A small warehouse that is written in bulk.
    "shared_buffers": "128MB",
    "max_wal_size": "2GB",
    "checkpoint_timeout": "15min",
    "wal_compression": "on",
    "wal_level": "minimal",  # nobody replicates from here
    "max_wal_senders": "0",
    "jit": "off",  # the wheel is built without LLVM
    # A log for each day of the week, without help from logrotate.
    "logging_collector": "on",
    "log_filename": "server-%a.log",
    "log_rotation_age": "1d",
    "log_rotation_size": "0",  # the server never truncates a log for its size, so this would bound nothing
    "log_truncate_on_rotation": "on",
    "log_checkpoints": "off",
}

_NOTE = "# Written at every start. Use ALTER SYSTEM, or postgresql.conf below its include.\n"


def include_ours(cluster: Path, account: Account) -> None:
    """Make a new cluster read our settings."""
    main = cluster / "postgresql.conf"
    write(main, f"{main.read_text()}\ninclude 'nightshift.conf'\n", account)


def configure(layout: Layout, account: Account, socket_folder: Path, settings: Mapping[str, str]) -> None:
    """Write the settings, with the caller's on top of ours, and who may connect."""
    places = {"unix_socket_directories": str(socket_folder), "log_directory": str(layout.log)}
    lines = [f"{name} = {_quoted(value)}\n" for name, value in {**SETTINGS, **places, **settings}.items()]
    users = dict.fromkeys([pwd.getpwuid(0).pw_name, account.name])
    files = {
        "nightshift.conf": "".join(lines),
        "pg_hba.conf": f"local all all peer map={ROLE}\n",
        "pg_ident.conf": "".join(f'{ROLE} "{name}" {ROLE}\n' for name in users),
    }
    for name, text in files.items():
        write(layout.data / name, _NOTE + text, account)


def _quoted(value: str) -> str:
    return "'" + value.replace("\\", "\\\\").replace("'", "''") + "'"
