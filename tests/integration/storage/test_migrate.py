"""The way of a database from nothing to the newest schema, and what stops it."""

from __future__ import annotations

import asyncio
import shutil
import sys
from contextlib import nullcontext
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest

from sync.errors import ConfigurationError, StorageUnavailable
from sync.storage import migrate as module
from sync.storage.migrate import ensure_schema, migrate, newest_version, schema_version

OBJECTS = """
    SELECT n.nspname || '.' || c.relname || ' ' || c.relkind::text AS name FROM pg_class c
    JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname IN ('sync', 'beddit', 'bace')
    UNION ALL SELECT 'schema ' || nspname FROM pg_namespace WHERE nspname IN ('sync', 'beddit', 'bace')
    ORDER BY 1
"""


async def ask(dsn, query, *args):
    """Return a query's first column, on a connection of its own."""
    connection = await asyncpg.connect(dsn)
    try:
        return [row[0] for row in await connection.fetch(query, *args)]
    finally:
        await connection.close()


@pytest.fixture
async def stranger(empty_database):
    """Return the DSN of a role that may connect to the database and nothing else."""
    name = "stranger_" + urlsplit(empty_database).path.removeprefix("/")[-16:]
    await ask(empty_database, f"CREATE ROLE {name} NOLOGIN")
    yield f"{empty_database}{'&' if '?' in empty_database else '?'}role={name}", name
    await ask(empty_database, f"DROP OWNED BY {name}")
    await ask(empty_database, f"DROP ROLE {name}")


@pytest.mark.parametrize("call", [migrate, ensure_schema])
async def test_an_empty_database_gets_the_newest_schema(empty_database, call):
    """From nothing to the newest version, in one call."""
    assert await schema_version(empty_database) is None
    await call(empty_database)
    assert await schema_version(empty_database) == newest_version()
    objects = await ask(empty_database, OBJECTS)
    assert {"beddit.samples v", "bace.datapoints v"} <= set(objects)


async def test_a_second_time_changes_nothing(database):
    """Where the schema is the newest already, nothing is made anew."""
    query = "SELECT c.oid, c.xmin::text FROM pg_class c ORDER BY 1"
    before = await ask(database, query)
    await migrate(database)
    await ensure_schema(database)
    assert await ask(database, query) == before


async def test_several_at_once(empty_database):
    """Any number of connections of one process may migrate at once; all succeed and one of them does it."""
    await asyncio.gather(*(ensure_schema(empty_database) for _ in range(6)))
    assert await ask(empty_database, "SELECT version_num FROM sync.alembic_version") == [newest_version()]


async def test_several_processes_at_once(empty_database):
    """Any number of processes may migrate at once; all of them succeed and one of them does it."""
    code = (
        "import asyncio, sys; from sync.storage.migrate import ensure_schema; "
        "asyncio.run(ensure_schema(sys.argv[1]))"
    )
    here = Path(module.__file__).parents[2]
    processes = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-c", code, empty_database, cwd=here, stderr=asyncio.subprocess.PIPE
        )
        for _ in range(3)
    ]
    outputs = await asyncio.gather(*(process.communicate() for process in processes))
    assert [process.returncode for process in processes] == [0, 0, 0], outputs
    assert await ask(empty_database, "SELECT version_num FROM sync.alembic_version") == [newest_version()]


@pytest.mark.parametrize("call", [migrate, ensure_schema])
async def test_a_newer_schema_is_refused(database, call):
    """A schema that a newer nightshift made is left alone, and the message says what to upgrade."""
    await ask(database, "UPDATE sync.alembic_version SET version_num = '9999'")
    knows = f"schema version 9999.*upgrade nightshift.*knows {newest_version()}"
    with pytest.raises(ConfigurationError, match=knows):
        await call(database)
    assert await schema_version(database) == "9999"


async def test_an_older_schema_asks_for_migrate(database, monkeypatch):
    """Work commands do not migrate a database that is in use: they name the command that does."""
    ours = newest_version()
    monkeypatch.setattr(module, "newest_version", lambda: "9999")
    monkeypatch.setattr(module, "known_versions", lambda: frozenset({ours, "9999"}))
    with pytest.raises(ConfigurationError, match=rf"version {ours}.*needs 9999.*`nightshift migrate`"):
        await ensure_schema(database)
    assert await schema_version(database) == ours


async def test_the_first_release_s_database_keeps_what_it_holds(empty_database, tmp_path, monkeypatch):
    """A database of version 0001 becomes the newest, and its rejects stay as they are."""
    scripts = tmp_path / "migrations"
    shutil.copytree(Path(module.__file__).parents[2] / "migrations", scripts)
    for script in (scripts / "versions").glob("*.py"):
        if not script.name.startswith("0001"):
            script.unlink()
    with monkeypatch.context() as released:
        released.setattr(module, "_scripts", lambda: nullcontext(scripts))
        await migrate(empty_database)
    assert await schema_version(empty_database) == "0001"
    await ask(
        empty_database,
        "INSERT INTO sync.reject_log (source, account, record_key, item_key, reason) "
        "VALUES ('beddit', 'a', '1/2', '1/2', 'why')",
    )
    kept = "SELECT (source, account, item_key, reason, attempts, resolved_at)::text FROM sync.rejects"
    before = await ask(empty_database, kept)
    await migrate(empty_database)
    assert await schema_version(empty_database) == newest_version()
    assert await ask(empty_database, kept) == before
    assert await ask(empty_database, "SELECT items FROM sync.reject_log WHERE instant IS NULL") == [1]


@pytest.mark.parametrize("call", [migrate, ensure_schema])
async def test_a_role_that_may_not_create(empty_database, stranger, call):
    """Without CREATE on the database the error names what to grant, to whom, and nothing is left."""
    dsn, role = stranger
    database = urlsplit(empty_database).path.removeprefix("/")
    with pytest.raises(ConfigurationError) as caught:
        await call(dsn)
    assert str(caught.value) == (
        f"the database has no schema yet, and {role!r} may not create it: let the database's owner run "
        f'`nightshift migrate`, or GRANT CREATE ON DATABASE "{database}" TO "{role}"'
    )
    assert await ask(empty_database, OBJECTS) == []
    await ask(empty_database, f"GRANT CREATE ON DATABASE {database} TO {role}")
    await call(dsn)
    assert await schema_version(empty_database) == newest_version()


async def test_a_statement_that_fails_leaves_no_half_schema(empty_database, tmp_path, monkeypatch):
    """Every statement of a migration is undone when its last one fails."""
    scripts = tmp_path / "migrations"
    shutil.copytree(Path(module.__file__).parents[2] / "migrations", scripts)
    script = next((scripts / "versions").glob("0001*.py"))
    script.write_text(script.read_text() + '    op.execute("SELECT 1 / 0")\n')
    with monkeypatch.context() as broken:
        broken.setattr(module, "_scripts", lambda: nullcontext(scripts))
        with pytest.raises(Exception, match="division by zero"):
            await migrate(empty_database)
    assert await ask(empty_database, OBJECTS) == []
    await migrate(empty_database)
    assert await schema_version(empty_database) == newest_version()


async def test_a_cut_while_migrating(empty_database):
    """When the server ends the connection half-way the error is ours and no half schema is left."""
    holder = await asyncpg.connect(empty_database)
    await holder.execute(f"SELECT pg_advisory_lock({0x6E69676874})")
    task = asyncio.create_task(migrate(empty_database))
    query = """
        SELECT pid FROM pg_locks JOIN pg_stat_activity USING (pid)
        WHERE locktype = 'advisory' AND NOT granted AND datname = current_database()
    """
    async with asyncio.timeout(60):
        while (pid := await holder.fetchval(query)) is None:  # noqa: ASYNC110 - only the server knows
            await asyncio.sleep(0)
    await holder.execute("SELECT pg_terminate_backend($1)", pid)
    with pytest.raises(StorageUnavailable):
        await task
    assert await holder.fetch(OBJECTS) == []
    await holder.close()


def test_the_names_of_migrations_say_their_versions():
    """What the file names promise is what alembic finds inside: one line, the newest at its end."""
    from alembic.script import ScriptDirectory  # noqa: PLC0415

    with module._scripts() as scripts:
        directory = ScriptDirectory(str(scripts))
        assert {script.revision for script in directory.walk_revisions()} == module.known_versions()
        assert directory.get_heads() == [module.newest_version()]
