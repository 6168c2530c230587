"""Making a cluster, completely or not at all."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from io import FileIO

from sync.errors import ConfigurationError, StorageUnavailable
from sync.storage.embedded.configuration import DATABASE, ROLE, include_ours
from sync.storage.embedded.files import disk_full, private_folder, sync_folder, tells_of_full_disk
from sync.storage.embedded.layout import Layout
from sync.storage.embedded.programs import Programs


def create_cluster(
    layout: Layout, programs: Programs, lock: FileIO, abort: threading.Event, *, durable: bool
) -> None:
    """Make a cluster with its database.

    Args:
        layout: Where.
        programs: PostgreSQL's.
        lock: The server's; whoever holds it knows that no earlier attempt still works.
        abort: Set to give up.
        durable: Whether it shall survive a power failure.
    """
    if layout.data.is_dir() and any(layout.data.iterdir()):
        raise ConfigurationError(f"{layout.data} holds files but no PostgreSQL cluster: move it away.")
    shutil.rmtree(layout.unfinished, ignore_errors=True)  # of an interrupted attempt
    private_folder(layout.unfinished, programs.account)
    for command, statement in _steps(layout.unfinished.name, durable=durable):
        complaint = programs.run(*command, statement=statement, inherit=lock, abort=abort)
        if complaint is not None:
            what = f"The embedded database could not be made in {layout.root}."
            if tells_of_full_disk(complaint):
                what = disk_full(layout.root)
            raise StorageUnavailable(f"{what}\n{command[0]} says: {complaint}")
    include_ours(layout.unfinished, programs.account)
    layout.unfinished.rename(layout.data)
    sync_folder(layout.root)


def _steps(where: str, *, durable: bool) -> Iterator[tuple[list[str], str | None]]:
    """Yield the commands, and what they read."""
    initdb = ["initdb", f"--pgdata={where}", f"--username={ROLE}", "--auth=peer"]
    initdb += ["--encoding=UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
    initdb += ["--data-checksums", "--no-instructions", *([] if durable else ["--no-sync"])]
    yield initdb, None
    # A single-user server needs no socket and no authentication.
    single = ["postgres", "--single", "-D", where, "-c", "exit_on_error=on", "template1"]
    yield single, f"CREATE DATABASE {DATABASE}\n"
