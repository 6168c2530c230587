"""The daemon as it really runs: a process of its own, between emulated clouds and a real PostgreSQL."""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import signal
import socket
import sys
import time
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import aiohttp
import asyncpg
import pytest

from sync.emulators.bace import BaceCloud
from sync.emulators.beddit import BedditCloud
from sync.sources.bace.settings import BaceSettings
from sync.sources.beddit.settings import Account, BedditSettings
from sync.storage.database import open_pool
from sync.storage.progress import PostgresWarehouse
from tests.integration import forks
from tests.integration.bace.conftest import Pipeline as BacePipeline
from tests.integration.beddit.conftest import Pipeline as BedditPipeline

ROOT = Path(__file__).parents[3]
PROGRAM = ("-m", "sync")
IMPATIENT = (str(Path(__file__).with_name("impatient.py")),)
PATIENCE = 40.0
"""How long a test waits for anything: far longer than it ever takes."""


async def until(condition: Callable[[], Any], what: str = "", *, within: float = PATIENCE) -> Any:
    """Wait for a condition, awaited where it can be; what it gives when it is true."""
    ends = time.monotonic() + within
    while True:
        found = condition()
        if inspect.isawaitable(found):
            found = await found
        if found:
            return found
        assert time.monotonic() < ends, f"waited in vain for {what or inspect.getsource(condition).strip()}"
        await asyncio.sleep(0.05)


@dataclass(slots=True)
class Daemon:
    """A process that runs.

    Attributes:
        handle: The process.
        lines: Its standard error so far.
    """

    handle: asyncio.subprocess.Process
    lines: list[str] = field(default_factory=list)
    reader: asyncio.Task[None] | None = None

    @property
    def events(self) -> list[dict[str, Any]]:
        """What it logged so far."""
        return [json.loads(line) for line in self.lines if line.startswith("{")]

    def named(self, event: str, **fields: Any) -> list[dict[str, Any]]:
        """The events of a name and with some fields."""
        return [e for e in self.events if e["event"] == event and fields.items() <= e.items()]

    async def said(self, event: str, *, times: int = 1, **fields: Any) -> dict[str, Any]:
        """Wait for an event."""

        def found() -> list[dict[str, Any]]:
            matching = self.named(event, **fields)
            assert matching or self.handle.returncode is None, f"it ended without {event}: {self.lines}"
            return matching if len(matching) >= times else []

        try:
            matching: list[dict[str, Any]] = await until(found, event)
        except AssertionError as error:
            raise AssertionError(f"{error}; it said {self.lines[-30:]}") from error
        return matching[-1]

    async def get(self, page: str) -> tuple[int, str]:
        """What a page answers: status and text."""
        listen = self.named("daemon.started")[-1]["listen"]
        async with aiohttp.ClientSession() as client, client.get(f"http://{listen}{page}") as answer:
            return answer.status, await answer.text()

    async def is_ready(self) -> bool:
        """Whether /readyz says yes."""
        return (await self.get("/readyz"))[0] == 200

    def send(self, number: signal.Signals) -> None:
        """Send a signal to it alone, as ``kill`` does."""
        self.handle.send_signal(number)

    async def ended(self, within: float = PATIENCE) -> int:
        """Wait for its end; the exit code."""
        code = await asyncio.wait_for(self.handle.wait(), within)
        if self.reader is not None:
            await self.reader
        return code

    async def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """End it; it has to succeed."""
        self.send(number)
        assert await self.ended() == 0, self.lines

    async def listen(self) -> None:
        """Collect what it logs."""
        assert self.handle.stderr is not None
        async for line in self.handle.stderr:
            self.lines.append(line.decode())


@dataclass(slots=True)
class House:
    """Where daemons live: a folder, a database, and the configuration that they share.

    Attributes:
        folder: For configuration and state.
        dsn: The database.
        pool: Connections of the test's own.
    """

    folder: Path
    dsn: str
    pool: asyncpg.Pool
    started: list[Daemon] = field(default_factory=list)

    def write(
        self,
        beddit: BedditCloud | None = None,
        users: Sequence[int] = (),
        bace: BaceCloud | None = None,
        *,
        dsn: str | None = None,
        name: str = "nightshift.toml",
        state: str = "state",
        schedule: str = "1s",
        pool_size: int = 5,
        engine: Mapping[str, Any] = {},
        more: Mapping[str, Any] = {},
        **daemon: Any,
    ) -> Path:
        """Write a configuration file; Beddit accounts are ``user<id>``, BACE's is ``lab``.

        What is in ``more`` holds for both clouds.
        """
        settings: dict[str, Mapping[str, Any]] = {
            "warehouse": {"dsn": dsn or self.dsn, "pool_size": pool_size},
            "log": {"format": "json", "level": "info"},
            "daemon": {"listen": "127.0.0.1:0", "lease_s": 3, "jitter_s": 0, **daemon},
            "engine": engine,
        }
        cloud = {"schedule": schedule, "retry_schedule": "1h", "requests_per_second": 10_000, **more}
        if beddit is not None:
            settings["beddit"] = cloud | {
                "base_url": beddit.base_url,
                "allow_private_blob_hosts": True,
                "history_start": "2023-11-01",
            }
            for user in users:
                settings[f"beddit.accounts.user{user}"] = {"user_id": user, "token": beddit.token(user)}
        if bace is not None:
            account = bace.account()
            settings["bace"] = cloud | {"base_url": bace.base_url}
            settings["bace.accounts.lab"] = {
                key: getattr(account, key) for key in ("client_id", "client_secret", "username", "password")
            }
        lines = [f"state_dir = {json.dumps(str(self.folder / state))}"]
        for table, values in settings.items():
            lines += [f"[{table}]", *(f"{key} = {json.dumps(value)}" for key, value in values.items())]
        path = self.folder / name
        path.write_text("\n".join(lines) + "\n")
        return path

    async def start(
        self,
        path: Path,
        *arguments: str,
        program: Sequence[str] = PROGRAM,
        waits: bool = True,
        **variables: str,
    ) -> Daemon:
        """Start a process, ``run`` if nothing else is said; a daemon is waited for until it has started."""
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("NIGHTSHIFT_", "NOTIFY_"))}
        environment |= {"PYTHONPATH": str(ROOT)} | variables
        typed = ("--config", str(path), *(arguments or ("run",)))
        if program == PROGRAM:
            handle = await forks.start(
                *typed, cwd=self.folder, env=environment, stdin=DEVNULL, stdout=DEVNULL
            )
        else:
            handle = await asyncio.create_subprocess_exec(
                *(sys.executable, *program, *typed),
                cwd=self.folder,
                env=environment,
                stdin=DEVNULL,
                stdout=DEVNULL,
                stderr=PIPE,
                limit=forks.LIMIT,
            )
        daemon = Daemon(handle)
        daemon.reader = asyncio.create_task(daemon.listen())
        self.started.append(daemon)
        if waits and not arguments:
            await daemon.said("daemon.started")
        return daemon

    async def value(self, query: str, *args: Any) -> Any:
        """The first value of a query."""
        return await self.pool.fetchval(query, *args)

    async def fetch(self, query: str, *args: Any) -> list[Mapping[str, Any]]:
        """Rows of a query."""
        return [dict(row) for row in await self.pool.fetch(query, *args)]

    def beddit(self, cloud: BedditCloud, users: Sequence[int]) -> BedditPipeline:
        """What compares the warehouse with a Beddit cloud."""
        accounts = {f"user{user}": Account(user, cloud.token(user)) for user in users}
        settings = BedditSettings(base_url=cloud.base_url, accounts=accounts, spool=self.folder / "unused")
        return BedditPipeline(cloud, PostgresWarehouse(self.pool), self.pool, settings)

    def bace(self, cloud: BaceCloud) -> BacePipeline:
        """What compares the warehouse with a BACE cloud."""
        settings = BaceSettings(cloud.base_url, {}, self.folder / "unused")
        clock: Any = time.time
        return BacePipeline(cloud, PostgresWarehouse(self.pool), self.pool, settings, clock)

    async def end_all(self) -> None:
        """Kill what still runs."""
        for daemon in self.started:
            with suppress(ProcessLookupError):
                if daemon.handle.returncode is None:
                    daemon.handle.kill()
            await daemon.handle.wait()
            if daemon.reader is not None:
                await daemon.reader
            sys.stdout.write("".join(daemon.lines[-40:]))  # shown where a test fails


class Gate:
    """A way to the database that can be closed, and that can swallow everything without a word.

    Attributes:
        dsn: The database by this way.
        upstream: The database itself; may be replaced.
    """

    def __init__(self, dsn: str) -> None:
        self.upstream = dsn
        self.port = free_port()
        parts = urlsplit(dsn)
        login = parts.netloc.rpartition("@")[0]
        self.dsn = f"postgresql://{login}@127.0.0.1:{self.port}{parts.path}"
        self._flows = asyncio.Event()
        self._flows.set()
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()

    async def open(self) -> None:
        """Let through."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)

    async def close(self) -> None:
        """Refuse, and end every connection."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in tuple(self._writers):
            writer.transport.abort()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def freeze(self) -> None:
        """Let nothing through any more, without a word."""
        self._flows.clear()

    def thaw(self) -> None:
        """Let through what was held up."""
        self._flows.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._writers.add(writer)
        try:
            theirs, ours = await self._connect()
        except OSError:
            writer.transport.abort()
        else:
            self._writers.add(ours)
            with suppress(OSError, asyncio.CancelledError):
                one = asyncio.create_task(self._pass(reader, ours))
                other = asyncio.create_task(self._pass(theirs, writer))
                try:
                    await asyncio.wait({one, other}, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for way in (one, other):
                        way.cancel()
                    await asyncio.gather(one, other, return_exceptions=True)
            ours.transport.abort()
            writer.transport.abort()
            self._writers.discard(ours)
        self._writers.discard(writer)
        self._tasks.discard(task)

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        parts = urlsplit(self.upstream)
        query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        host, port = query.get("host", parts.hostname or "127.0.0.1"), query.get("port", parts.port or 5432)
        host = unquote(host)
        if host.startswith("/"):
            return await asyncio.open_unix_connection(f"{host}/.s.PGSQL.{port}")
        return await asyncio.open_connection(host, int(port))

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while piece := await reader.read(2**16):
            await self._flows.wait()
            writer.write(piece)
            await writer.drain()


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as end:
        end.bind(("127.0.0.1", 0))
        return int(end.getsockname()[1])


@pytest.fixture
async def house(database: str, folder: Path) -> AsyncIterator[House]:
    """Return a place for daemons, with a migrated database of the test's own."""
    async with open_pool(database, name="test") as pool:
        opened = House(folder, database, pool)
        try:
            yield opened
        finally:
            await opened.end_all()


@pytest.fixture
async def gate(database: str) -> AsyncIterator[Gate]:
    """Return a way to the database that is open."""
    way = Gate(database)
    await way.open()
    yield way
    way.thaw()
    await way.close()
