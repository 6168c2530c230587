"""What ``nightshift check`` sees of a database, through the eyes of roles that may more or less."""

from __future__ import annotations

import uuid
from contextlib import asynccontextmanager
from datetime import timedelta
from urllib.parse import urlsplit

import asyncpg
import pytest

from sync.storage.inspection import inspect


@pytest.fixture
async def someone(database):
    """Return a role that may do nothing at all, and the DSN of a superuser who has taken it on."""
    name = f"nightshift_test_{uuid.uuid4().hex[:12]}"
    connection = await asyncpg.connect(database)
    await connection.execute(f"CREATE ROLE {name} NOLOGIN")
    yield name, f"{database}{'&' if '?' in database else '?'}role={name}"
    await connection.execute(f"DROP OWNED BY {name}; DROP ROLE {name}")
    await connection.close()


@asynccontextmanager
async def connected(dsn, **settings):
    """Somebody else's connection, meanwhile."""
    connection = await asyncpg.connect(dsn, server_settings=settings)
    try:
        yield connection
    finally:
        await connection.close()


async def test_nothing_to_complain_about(database):
    """Server, database and role are named; the owner of all lacks nothing."""
    found = await inspect(database)
    assert found.server.startswith("PostgreSQL ")
    assert found.database == urlsplit(database).path.removeprefix("/")
    assert (found.encoding, found.is_standby, found.is_read_only) == ("UTF8", False, False)
    assert (found.may_create, found.lacking, found.strangers, found.workers) == (True, (), (), ())
    assert abs(found.clock_skew) < timedelta(seconds=5)
    assert found.connections > 5


async def test_each_missing_right_is_written_as_it_is_granted(database, someone, other):
    """What is granted by those words is not missing any more, until nothing is; reading is not enough."""
    role, dsn = someone
    await other.execute("REVOKE EXECUTE ON FUNCTION sync.instant FROM public")
    await other.execute("CREATE SEQUENCE sync.made_by_hand")
    found = await inspect(dsn)
    assert (found.role, found.is_superuser, found.may_create) == (role, False, False)
    assert {
        "USAGE ON SCHEMA bace",
        "SELECT, INSERT, UPDATE, DELETE ON sync.run_log",
        "SELECT ON sync.alembic_version",
        "SELECT ON beddit.sessions",
        "USAGE ON SEQUENCE sync.made_by_hand",
        "EXECUTE ON FUNCTION sync.instant(double precision)",
    } <= set(found.lacking)
    await other.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA sync, beddit, bace TO {role}")
    reader = await inspect(dsn)
    assert "INSERT, UPDATE, DELETE ON sync.run_log" in reader.lacking
    for what in reader.lacking:
        await other.execute(f"GRANT {what} TO {role}")
    assert (await inspect(dsn)).lacking == ()
    assert await other.fetchval("SELECT count(*) FROM sync.run_log") == 0


async def test_processes_are_seen_by_who_may_see_them(database, someone, other):
    """The workers are told with their silence; a role that may not look is told nothing, and no error."""
    await other.execute("""
        INSERT INTO sync.workers (command, host, pid, version, lease, heartbeat_at)
        VALUES ('run', 'here', 12, '1.0', '60 s', now() - interval '5 min')
    """)
    (worker,) = (await inspect(database)).workers
    assert (worker["command"], worker["pid"], worker["gone"]) == ("run", 12, True)
    assert (await inspect(someone[1])).workers == ()


async def test_limits_of_role_and_database_bound_the_connections(database, someone, other):
    """The narrowest limit counts; what nightshift has already counts as had, what others have does not."""
    role, dsn = someone
    await other.execute(f"ALTER ROLE {role} CONNECTION LIMIT 7")
    assert (await inspect(dsn)).connections == 7
    name = urlsplit(database).path.removeprefix("/")
    await other.execute(f"ALTER DATABASE {name} CONNECTION LIMIT 6")
    assert (await inspect(dsn)).connections == 4  # the test's own two are others'
    async with connected(database), connected(database, application_name="nightshift:3"):
        assert (await inspect(dsn)).connections == 3


async def test_whose_connections_cannot_be_ended_is_told(database, someone, server):
    """Another role's nightshift is a stranger, unless ours may end what it holds."""
    _, dsn = someone
    async with connected(database, application_name="nightshift:77") as owner:
        me = await owner.fetchval("SELECT current_user")
        assert (await inspect(dsn)).strangers == (me,)
        assert (await inspect(database)).strangers == ()
        await owner.execute("SELECT set_config('application_name', 'psql', false)")
        assert (await inspect(dsn)).strangers == ()


async def test_a_read_only_database_is_seen(database, other):
    """A setting that keeps everybody from writing is told apart from missing rights."""
    name = urlsplit(database).path.removeprefix("/")
    await other.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    found = await inspect(database)
    assert (found.is_read_only, found.lacking) == (True, ())
