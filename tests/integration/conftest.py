"""Databases for tests: one server per process, one migrated template, one fresh clone per test."""

from __future__ import annotations

import asyncio
import io
import logging
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn
from urllib.parse import urlsplit

import asyncpg
import pytest
import structlog

from sync.errors import SyncError
from sync.storage.embedded import EmbeddedPostgres
from tests.integration.timescaledb import ImpossibleError, timescaledb

NO_DURABILITY = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
PREFIX = "nightshift-tests-"


@pytest.fixture
def folder() -> Iterator[Path]:
    """Make a folder that other accounts can enter; root's ``tmp_path`` is closed to them."""
    with _open_folder("nightshift-test-") as path:
        yield path


@pytest.fixture
def written() -> Iterator[io.StringIO]:
    """Everything that is logged, at debug, as JSON; logging is put back afterwards."""
    root = logging.getLogger()
    handlers, level, before = root.handlers[:], root.level, structlog.get_config()
    buffer = io.StringIO()
    yield buffer
    logging.captureWarnings(False)
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.configure(**before)


@pytest.fixture(scope="session")
def session_folder() -> Iterator[Path]:
    """Make such a folder for a whole session."""
    with _open_folder("nightshift-test-") as path:
        yield path


@pytest.fixture(scope="session")
def server(
    pytestconfig: pytest.Config,
    tested_server: Callable[[str], None],
    not_tested: Callable[[str, str], NoReturn],
) -> Iterator[str]:
    """Return the DSN of the server that ``--server`` names; one that we start is this process's own."""
    try:
        with _serving(pytestconfig.getoption("--server")) as dsn:
            tested_server(asyncio.run(_describe(dsn)))
            yield dsn
    except ImpossibleError as why:
        if os.environ.get("CI") and os.geteuid() == 0:
            raise
        not_tested("TimescaleDB", str(why))


@pytest.fixture(scope="session")
def template(server: str) -> Iterator[str]:
    """Return the name of a migrated database that nobody is connected to."""
    from sync.storage.migrate import migrate  # noqa: PLC0415 - the embedded server's tests need no schema

    name = _new_name()
    asyncio.run(_execute(server, f"CREATE DATABASE {name}"))
    asyncio.run(migrate(_with_database(server, name)))
    # Keeps out what an extension runs in every database; a template must be free of sessions.
    asyncio.run(
        _execute(
            server,
            f"ALTER DATABASE {name} WITH ALLOW_CONNECTIONS false",
            f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'",  # noqa: S608
        )
    )
    yield name
    asyncio.run(_execute(server, f"DROP DATABASE {name} WITH (FORCE)"))


@pytest.fixture
async def database(server: str, template: str) -> AsyncIterator[str]:
    """Return the DSN of a migrated database that belongs to this test alone."""
    name = _new_name()
    await _execute(server, f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy")
    yield _with_database(server, name)
    await _execute(server, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
async def empty_database(server: str) -> AsyncIterator[str]:
    """Return the DSN of a database without a schema that belongs to this test alone."""
    name = _new_name()
    await _execute(server, f"CREATE DATABASE {name} STRATEGY file_copy")
    yield _with_database(server, name)
    await _execute(server, f"DROP DATABASE {name} WITH (FORCE)")


def _new_name() -> str:
    return f"nightshift_test_{uuid.uuid4().hex}"


def _with_database(dsn: str, name: str) -> str:
    return urlsplit(dsn)._replace(path=f"/{name}").geturl()


async def _execute(dsn: str, *statements: str) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


@contextmanager
def _serving(which: str) -> Iterator[str]:
    """Yield the DSN of a server for this process, or of one that runs already."""
    if which == "timescaledb":
        with timescaledb(NO_DURABILITY, _root()) as dsn:
            yield dsn
    elif which == "embedded":
        _stop_leftovers()
        with (
            _open_folder(PREFIX) as path,
            EmbeddedPostgres(path / "pg", settings=NO_DURABILITY).running_sync() as dsn,
        ):
            yield dsn
    else:
        yield which


async def _describe(dsn: str) -> str:
    """Say which PostgreSQL this is, and whether a new database on it comes with TimescaleDB."""
    name = _new_name()
    await _execute(dsn, f"CREATE DATABASE {name} STRATEGY file_copy")
    connection = await asyncpg.connect(_with_database(dsn, name))
    try:
        version = (await connection.fetchval("SHOW server_version")).split()[0]
        extension = await connection.fetchrow(
            "SELECT extversion, current_setting('timescaledb.license') AS licence "
            "FROM pg_extension WHERE extname = 'timescaledb'"
        )
    finally:
        await connection.close()
        await _execute(dsn, f"DROP DATABASE {name} WITH (FORCE)")
    if extension is None:
        return f"PostgreSQL {version} without TimescaleDB"
    return f"PostgreSQL {version} with TimescaleDB {extension['extversion']} ({extension['licence']})"


def _root() -> Path:
    """Return where test databases live: in memory where there is plenty, which is five times as fast.

    Never below TMPDIR, which may be closed to other accounts, or too long for a socket.
    """
    memory = Path("/dev/shm")  # noqa: S108
    with suppress(OSError):
        may_run = not os.statvfs(memory).f_flag & os.ST_NOEXEC
        if may_run and os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > 4 * 2**30:
            return memory
    return Path("/tmp")  # noqa: S108


@contextmanager
def _open_folder(prefix: str) -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix=prefix, dir=_root()))
    path.chmod(0o711)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _stop_leftovers() -> None:
    """End the servers of test runs that were killed; a run younger than that may still be starting."""
    for path in _root().glob(f"{PREFIX}*"):
        with suppress(OSError, SyncError):  # another run was faster, or it is another user's
            found = path.stat()
            old = time.time() - found.st_mtime > 600
            if found.st_uid == os.geteuid() and old and EmbeddedPostgres(path / "pg").stop_if_unused():
                shutil.rmtree(path, ignore_errors=True)
