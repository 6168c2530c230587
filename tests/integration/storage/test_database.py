"""Doors that do not open: each says what is wrong, in our words and without the password.

A wrong password cannot be tried here: the test server trusts whoever reaches its socket. Its error class is
among those of ``tests/unit/storage/test_failures.py``.
"""

from __future__ import annotations

import socket
from urllib.parse import urlsplit

import pytest

from sync.errors import ConfigurationError, StorageUnavailable
from sync.storage.database import open_pool
from sync.storage.inspection import inspect
from sync.storage.migrate import ensure_schema, migrate

SECRET = "hush-hush"


async def opens(dsn):
    """Open a pool and use it."""
    async with open_pool(dsn) as pool:
        await pool.fetchval("SELECT 1")


DOORS = [opens, inspect, migrate, ensure_schema]


@pytest.fixture
def closed_port():
    """Return a port on which nobody listens, held so that nobody will."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


@pytest.mark.parametrize("door", DOORS)
async def test_a_closed_port(door, closed_port):
    """Where nobody listens the server is away, which may pass."""
    with pytest.raises(StorageUnavailable, match=str(closed_port)) as caught:
        await door(f"postgresql://me:{SECRET}@127.0.0.1:{closed_port}/db")
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("door", DOORS)
async def test_an_unknown_host(door):
    """A name that nobody knows is the same to us: the server cannot be reached."""
    with pytest.raises(StorageUnavailable, match="host is not known") as caught:
        await door(f"postgresql://me:{SECRET}@nowhere.invalid/db")
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("door", DOORS)
async def test_an_unknown_database(door, server):
    """A database that does not exist is for the person to change, and is named."""
    dsn = urlsplit(server)._replace(path="/no_such_database").geturl()
    with pytest.raises(ConfigurationError, match=r'PostgreSQL refuses: .*"no_such_database" does not exist'):
        await door(dsn)


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize(
    "dsn",
    [
        f"mysql://me:{SECRET}@localhost/db",
        f"host=localhost password={SECRET}",
        f"postgresql://me:{SECRET}/x@localhost/db",
        f"postgresql://me:1{SECRET}@localhost:port/db",
        f"postgresql://me:{SECRET}@localhost/db?sslmode=perhaps",
        f"postgresql://me:{SECRET}@[::1/db",
        "",
    ],
)
async def test_a_dsn_that_is_none(door, dsn, monkeypatch):
    """What is no connection string is a matter of configuration, and the password is not told."""
    for name in ("PGHOST", "PGPORT", "PGUSER", "PGDATABASE"):
        monkeypatch.delenv(name, raising=False)
    if not dsn:
        monkeypatch.setenv("PGPORT", "none")
    with pytest.raises(ConfigurationError, match=r"warehouse\.dsn|PostgreSQL refuses") as caught:
        await door(dsn)
    assert SECRET not in str(caught.value)


async def test_connections_say_who_they_are(database):
    """A pool's connections carry nightshift's name, think in UTC, and end statements that take too long."""
    async with open_pool(database, statement_timeout_s=7) as pool:
        row = await pool.fetchrow(
            "SELECT current_setting('application_name'), current_setting('TimeZone'), "
            "current_setting('statement_timeout')"
        )
    assert tuple(row) == ("nightshift", "UTC", "7s")


async def test_compressed_rows_are_deleted_however_many_they_are(database):
    """TimescaleDB's limit of compressed rows in a transaction is off: it would refuse the same for ever."""
    async with open_pool(database) as pool:
        limit = "SELECT current_setting('timescaledb.max_tuples_decompressed_per_dml_transaction')"
        assert await pool.fetchval(limit) == "0"
