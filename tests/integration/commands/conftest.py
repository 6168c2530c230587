"""The program as a person runs it: a process of its own, in a folder of its own."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from sync.cli import main
from sync.emulators.bace import BaceCloud
from sync.emulators.beddit import BedditCloud
from tests.integration import forks

ROOT = Path(__file__).parents[3]
PATIENCE = 60
MODULE = [sys.executable, "-m", "sync"]


@dataclass(frozen=True, slots=True)
class Ended:
    """A process that has ended."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[dict[str, Any]]:
        """Standard output's JSON lines."""
        return [json.loads(line) for line in self.out.splitlines()]


@dataclass(slots=True)
class Process:
    """A process that runs."""

    handle: asyncio.subprocess.Process

    def send(self, number: signal.Signals) -> None:
        """Send a signal to it alone, as ``kill`` does."""
        self.handle.send_signal(number)

    async def line(self) -> str:
        """The next line of standard output."""
        assert self.handle.stdout is not None
        return (await asyncio.wait_for(self.handle.stdout.readline(), PATIENCE)).decode()

    async def ended(self, stdin: str = "") -> Ended:
        """Wait for its end; a process that hangs fails the test."""
        out, err = await asyncio.wait_for(self.handle.communicate(stdin.encode()), PATIENCE)
        assert self.handle.returncode is not None
        return Ended(self.handle.returncode, out.decode(), err.decode())


@dataclass(slots=True)
class CommandLine:
    """``nightshift``, in a folder and an environment of the test's own."""

    folder: Path
    environment: dict[str, str]
    program: list[str] = field(default_factory=lambda: [*MODULE])
    _started: list[Process] = field(default_factory=list)

    @property
    def state(self) -> Path:
        """The state folder, unless a configuration names another."""
        return self.folder / "state"

    async def start(self, *arguments: str, cwd: Path | None = None, **variables: str) -> Process:
        """Start a command and let it run."""
        place, environment = cwd or self.folder, self.environment | variables
        if self.program == MODULE:
            handle = await forks.start(*arguments, cwd=place, env=environment)
        else:
            handle = await asyncio.create_subprocess_exec(
                *self.program,
                *arguments,
                cwd=place,
                env=environment,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                limit=forks.LIMIT,
            )
        process = Process(handle)
        self._started.append(process)
        return process

    async def run(self, *arguments: str, stdin: str = "", cwd: Path | None = None, **variables: str) -> Ended:
        """Run a command to its end."""
        return await (await self.start(*arguments, cwd=cwd, **variables)).ended(stdin)

    async def succeed(self, *arguments: str, **variables: str) -> Ended:
        """Run a command that has to exit with 0."""
        ended = await self.run(*arguments, **variables)
        assert ended.code == 0, ended
        return ended

    def configure(
        self,
        cloud: BedditCloud | None,
        *users: int,
        bace: BaceCloud | None = None,
        path: str = "nightshift.toml",
        **top: str,
    ) -> Path:
        """Write a configuration for emulated clouds: Beddit accounts ``user<id>``, BACE's ``lab``."""
        lines = [f"{key} = {json.dumps(value)}" for key, value in top.items()]
        if cloud is not None:
            lines += ["[beddit]", f'base_url = "{cloud.base_url}"', "allow_private_blob_hosts = true"]
            lines += ["requests_per_second = 1000"]
            for user in users:
                lines += [f"[beddit.accounts.user{user}]", f"user_id = {user}"]
                lines += [f'token = "{cloud.token(user)}"']
        if bace is not None:
            account = bace.account()
            lines += ["[bace]", f'base_url = "{bace.base_url}"', "requests_per_second = 1000"]
            lines += ["[bace.accounts.lab]"]
            lines += [f'client_id = "{account.client_id}"', f'client_secret = "{account.client_secret}"']
            lines += [f'username = "{account.username}"', f'password = "{account.password}"']
        file = self.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("\n".join(lines) + "\n")
        return file

    async def stop_all(self) -> None:
        """End what a failed test left running."""
        for process in self._started:
            if process.handle.returncode is None:
                process.handle.kill()
                await process.handle.communicate()


@pytest.fixture
async def nightshift(folder: Path) -> AsyncIterator[CommandLine]:
    """Return the program with an embedded warehouse of its own, which does not exist yet."""
    work = folder / "work"
    work.mkdir(mode=0o711)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("NIGHTSHIFT_")}
    for name in ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE"):
        environment.pop(name, None)
    environment |= {
        "NIGHTSHIFT_STATE_DIR": str(work / "state"),
        "NIGHTSHIFT_DAEMON__LEASE_S": "4",  # what a killed command held is free again soon
        "PYTHONPATH": str(ROOT),
        "TMPDIR": str(folder),
    }
    line = CommandLine(work, environment)
    yield line
    await line.stop_all()


@pytest.fixture
async def on_server(nightshift: CommandLine, database: str) -> CommandLine:
    """Return the program with a migrated database of the test's own."""
    nightshift.environment["NIGHTSHIFT_WAREHOUSE__DSN"] = database
    return nightshift


async def fetch(dsn: str, query: str, *args: Any) -> list[tuple[Any, ...]]:
    """Rows of a query."""
    connection = await asyncpg.connect(dsn)
    try:
        return [tuple(row) for row in await connection.fetch(query, *args)]
    finally:
        await connection.close()


def find_processes(folder: Path) -> list[str]:
    """Command lines of processes that stand or work below a folder, ours aside."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            text = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if int(entry.name) != os.getpid() and str(folder) in f"{text} {(entry / 'cwd').readlink()}":
                found.append(text)
    return found


@pytest.fixture
def call(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Ended]:
    """Return ``nightshift`` within this process, for what ends before any work: it is faster."""
    for name in [name for name in os.environ if name.startswith("NIGHTSHIFT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NIGHTSHIFT_STATE_DIR", str(folder / "state"))
    monkeypatch.chdir(folder)

    def called(*arguments: str, **variables: str) -> Ended:
        with monkeypatch.context() as patch:
            patch.setattr(sys, "argv", ["nightshift", *arguments])
            for name, value in variables.items():
                patch.setenv(name, value)
            with pytest.raises(SystemExit) as ended:
                main()
        return Ended(int(ended.value.code or 0), *capsys.readouterr())

    return called


@pytest.fixture
def working_in() -> Any:
    """Return the function that finds the processes of a folder."""
    return find_processes


@pytest.fixture
def rows() -> Any:
    """Return the function that asks a database, of an address, a query and its parameters."""
    return fetch
