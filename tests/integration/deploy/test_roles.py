"""config/postgresql/role.sql: each role may do its work, and nothing else."""

from __future__ import annotations

import os
import subprocess
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlsplit

import asyncpg
import pytest

from sync.emulators.bace import BaceCloud, Fleet
from sync.emulators.beddit import BedditCloud, Study
from sync.storage.embedded import EmbeddedPostgres, psql_path
from sync.storage.embedded.binaries import Binaries
from tests.integration import forks

ROOT = Path(__file__).parents[3]
SCRIPT = ROOT / "config" / "postgresql" / "role.sql"
STUDY = Study(users=(1001,), nights=1, hours=0.1)
ROLES = ("owner", "worker", "reader")
SCHEMAS = "('sync', 'beddit', 'bace')"

RELATIONS = f"""
    SELECT format('%I.%I', relnamespace::regnamespace::text, relname), relkind = 'r' FROM pg_class
    WHERE relkind IN ('r', 'v') AND relnamespace::regnamespace::text IN {SCHEMAS}
"""  # noqa: S608 - a constant
# What no role but the owner may do.
CHANGES = (
    "DROP TABLE sync.stream_state",
    "DROP VIEW beddit.sessions",
    "DROP FUNCTION sync.instant",
    "DROP SCHEMA bace CASCADE",
    "ALTER TABLE sync.run_log ADD COLUMN more int",
    "ALTER SCHEMA sync RENAME TO other",
    "TRUNCATE bace.datapoint_rows",
    "CREATE TABLE sync.mine ()",
    "CREATE TABLE public.mine ()",
    "CREATE INDEX ON beddit.sample_chunks (user_id)",
    "CREATE SCHEMA mine",
    "CREATE ROLE mine",
)


@dataclass(frozen=True, slots=True)
class Cluster:
    """A server, and a database on it with three roles whose passwords are odd."""

    admin: str
    database: str

    def name(self, role: str) -> str:
        """A role's name, which needs quoting."""
        return f"{self.database} {role}"

    def password(self, role: str) -> str:
        """A role's password, with everything in it that a shell, SQL or an address treats in its own way."""
        return f'{role}\'s 100% "$HOME" \\ @/:#?&'

    def address(self, role: str) -> str:
        """A role's DSN, without the password."""
        parts = urlsplit(self.admin)
        host = parts.netloc.rpartition("@")[2]
        return parts._replace(
            netloc=f"{quote(self.name(role))}@{host}", path=f"/{quote(self.database)}"
        ).geturl()

    async def connect(self, role: str) -> asyncpg.Connection:
        """Connect as a role."""
        return await asyncpg.connect(self.address(role), password=self.password(role))

    def script(self, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run the script, as a superuser."""
        names = {"database": self.database, **{role: self.name(role) for role in ROLES}, **variables}
        command = [psql_path(), "--no-psqlrc", f"--dbname={self.admin}", f"--file={SCRIPT}"]
        passwords = {f"{role.upper()}_PASSWORD": self.password(role) for role in ROLES}
        return subprocess.run(  # noqa: S603
            [*command, *(f"--set={name}={value}" for name, value in names.items())],
            env=os.environ | passwords,
            capture_output=True,
            text=True,
            check=False,
        )

    async def nightshift(self, role: str, *arguments: str, state: Path, **variables: str) -> tuple[int, str]:
        """Run a command as a role; return its exit code and all that it said."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("NIGHTSHIFT")}
        environment |= {
            "NIGHTSHIFT_STATE_DIR": str(state),
            "NIGHTSHIFT_WAREHOUSE__DSN": self.address(role),
            "PGPASSWORD": self.password(role),
            **variables,
        }
        process = await forks.start(*arguments, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL)
        said = b"".join(await process.communicate())
        assert process.returncode is not None
        return process.returncode, said.decode()


@pytest.fixture(scope="module")
def passworded(session_folder: Path, tested_server: Callable[[str], None]) -> Iterator[str]:
    """Return a superuser's DSN of a server that lets others in by password."""
    external = os.environ.get("NIGHTSHIFT_TEST_DSN")
    if external:
        tested_server("the roles of role.sql (NIGHTSHIFT_TEST_DSN)")
        yield external
        return
    rules = session_folder / "pg_hba.conf"
    rules.write_text("local all nightshift peer map=nightshift\nlocal all all scram-sha-256\n")
    rules.chmod(0o644)
    settings = {"hba_file": str(rules), "fsync": "off"}
    with EmbeddedPostgres(session_folder / "roles", settings=settings).running_sync() as dsn:
        tested_server("the roles of role.sql (embedded PostgreSQL, with passwords)")
        yield dsn


@pytest.fixture
async def cluster(passworded: str) -> AsyncIterator[Cluster]:
    """Return names that nobody else uses; whatever is made by them is removed."""
    cluster = Cluster(passworded, f"Roles {uuid.uuid4().hex[:8]}")
    yield cluster
    connection = await asyncpg.connect(passworded)
    await connection.execute(f'DROP DATABASE IF EXISTS "{cluster.database}" WITH (FORCE)')
    for role in ROLES:
        await connection.execute(f'DROP ROLE IF EXISTS "{cluster.name(role)}"')
    await connection.close()


@pytest.fixture
async def warehouse(cluster: Cluster, folder: Path) -> Cluster:
    """Return the same with its roles, migrated by the owner."""
    done = cluster.script()
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    code, said = await cluster.nightshift("owner", "migrate", state=folder)
    assert code == 0, said
    return cluster


@asynccontextmanager
async def emulated() -> AsyncIterator[Mapping[str, str]]:
    """Serve both clouds; the value is the configuration for them, as variables."""
    async with BedditCloud(STUDY) as beddit, BaceCloud(Fleet(sessions=1)) as bace:
        account = bace.account()
        yield {
            "NIGHTSHIFT_BEDDIT__BASE_URL": beddit.base_url,
            "NIGHTSHIFT_BEDDIT__ALLOW_PRIVATE_BLOB_HOSTS": "true",
            "NIGHTSHIFT_BEDDIT__ACCOUNTS__ADA__USER_ID": "1001",
            "NIGHTSHIFT_BEDDIT__ACCOUNTS__ADA__TOKEN": beddit.token(1001),
            "NIGHTSHIFT_BACE__BASE_URL": bace.base_url,
            "NIGHTSHIFT_BACE__ACCOUNTS__LAB__CLIENT_ID": account.client_id,
            "NIGHTSHIFT_BACE__ACCOUNTS__LAB__CLIENT_SECRET": account.client_secret,
            "NIGHTSHIFT_BACE__ACCOUNTS__LAB__USERNAME": account.username,
            "NIGHTSHIFT_BACE__ACCOUNTS__LAB__PASSWORD": account.password,
        }


async def refused(connection: asyncpg.Connection, statement: str) -> bool:
    """Whether PostgreSQL denies a statement for want of a right."""
    transaction = connection.transaction()
    await transaction.start()
    try:
        await connection.execute(statement)
    except asyncpg.InsufficientPrivilegeError:
        return True
    finally:
        await transaction.rollback()
    return False


async def test_the_worker_role_does_all_the_work(warehouse, folder):
    """In tables that the owner made, the worker reads both clouds, again too; to check, all is well."""
    async with emulated() as clouds:
        for arguments in (("check",), ("once",), ("once",), ("backfill", "--reload"), ("status",)):
            code, said = await warehouse.nightshift("worker", *arguments, state=folder, **clouds)
            assert code == 0, said
    connection = await warehouse.connect("worker")
    assert await connection.fetchval("SELECT count(*) FROM beddit.samples") > 0
    assert await connection.fetchval("SELECT count(*) FROM bace.datapoints") > 0
    await connection.close()


async def test_the_worker_role_ends_its_own_connections(warehouse):
    """To take over from a silent process needs no right beside being the same role."""
    one, other = await warehouse.connect("worker"), await warehouse.connect("worker")
    await one.execute("SET application_name = 'nightshift:1'")
    found = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'nightshift:1'"
    assert [tuple(row) for row in await other.fetch(found)] == [(True,)]
    one.terminate()
    await other.close()


@pytest.mark.parametrize("role", ["worker", "reader"])
async def test_only_the_owner_changes_what_tables_there_are(warehouse, role):
    """Neither the worker nor the reader can drop, alter, truncate or create anything."""
    connection = await warehouse.connect(role)
    assert [statement for statement in CHANGES if not await refused(connection, statement)] == []
    await connection.close()


async def test_the_reader_reads_everything_and_writes_nothing(warehouse):
    """Every table, view and function answers the reader; no table takes a row, a change or a deletion."""
    connection = await warehouse.connect("reader")
    relations = [tuple(row) for row in await connection.fetch(RELATIONS)]
    assert {("beddit.samples", False), ("sync.run_log", True)} <= set(relations)
    for relation, _ in relations:
        await connection.fetch(f"SELECT * FROM {relation} LIMIT 1")  # noqa: S608
    attempts = [
        f"{statement} {relation} {rest}"
        for relation, is_table in relations
        for statement, rest in (("INSERT INTO", "DEFAULT VALUES"), ("DELETE FROM", ""), ("LOCK", ""))
        if is_table
    ]
    assert [attempt for attempt in attempts if not await refused(connection, attempt)] == []
    await connection.fetch("SELECT * FROM beddit.samples_between(1, 1, 'normal', now(), now())")
    await connection.fetch("SELECT bace.sessions_of('lab', '{lab}'), sync.instant(0)")
    await connection.close()


async def test_what_a_later_version_adds_is_granted_by_itself(warehouse):
    """A schema, table or sequence that the owner makes afterwards is the worker's and the reader's to use."""
    owner = await warehouse.connect("owner")
    await owner.execute("CREATE SCHEMA later CREATE TABLE later.rows (n serial, value int)")
    await owner.close()
    worker = await warehouse.connect("worker")
    await worker.execute("INSERT INTO later.rows (value) VALUES (7)")
    await worker.close()
    reader = await warehouse.connect("reader")
    assert await reader.fetchval("SELECT value FROM later.rows") == 7
    assert await refused(reader, "DELETE FROM later.rows")
    await reader.close()


async def test_the_script_can_be_repeated_and_comes_late(warehouse, folder):
    """Run again, over tables that are there, it changes nothing; a new role gets the same."""
    rights = f"""
        SELECT relname, relacl::text FROM pg_class
        WHERE relnamespace::regnamespace::text IN {SCHEMAS} ORDER BY 1
    """  # noqa: S608 - a constant
    owner = await warehouse.connect("owner")
    before = await owner.fetch(rights)
    assert warehouse.script().returncode == 0
    assert await owner.fetch(rights) == before
    late = warehouse.name("reader") + " 2"
    assert warehouse.script(reader=late).returncode == 0
    readable = await owner.fetchval(
        f"SELECT bool_and(has_table_privilege($1, r.name, 'SELECT')) FROM ({RELATIONS}) AS r (name)",  # noqa: S608
        late,
    )
    assert readable is True
    await owner.close()
    admin = await asyncpg.connect(urlsplit(warehouse.admin)._replace(path=f"/{warehouse.database}").geturl())
    await admin.execute(f'DROP OWNED BY "{late}"')
    await admin.execute(f'DROP ROLE "{late}"')
    await admin.close()


@pytest.mark.parametrize("role", ["owner", "worker", "reader"])
async def test_whoever_reads_may_make_a_backup(warehouse, role):
    """pg_dump works as each role; it reads sequences too, those of identity columns not left out."""
    program = Binaries.of_wheel().program("pg_dump")  # as new as any server that is tested
    done = subprocess.run(  # noqa: S603, ASYNC221
        [program, "--format=plain", "--file=/dev/null", f"--dbname={warehouse.address(role)}"],
        env=os.environ | {"PGPASSWORD": warehouse.password(role)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    assert done.returncode == 0


async def test_who_may_not_change_the_schema_is_told_who_may(warehouse, folder):
    """The worker that tries to migrate is told whose work that is."""
    owner = await warehouse.connect("owner")
    await owner.execute("UPDATE sync.alembic_version SET version_num = '0002'")
    await owner.close()
    code, said = await warehouse.nightshift("worker", "migrate", state=folder)
    assert code == 2, said
    assert "may not change it: let the database's owner run `nightshift migrate`" in said


async def test_another_owner_is_refused(warehouse):
    """Given the wrong owner, whose later tables nobody could read, the script says so and does nothing."""
    done = warehouse.script(owner="somebody else")
    assert done.returncode != 0
    assert f"sync belongs to {warehouse.name('owner')}" in done.stderr
    connection = await asyncpg.connect(warehouse.admin)
    assert not await connection.fetchval("SELECT count(*) FROM pg_roles WHERE rolname = 'somebody else'")
    await connection.close()


async def test_the_worker_cannot_begin_a_warehouse(cluster, folder):
    """Where the owner has not migrated yet, the worker's start fails with 2 and makes nothing."""
    assert cluster.script().returncode == 0
    async with emulated() as clouds:
        code, said = await cluster.nightshift("worker", "once", state=folder, **clouds)
    assert code == 2, said
    assert "may not create it: let the database's owner run `nightshift migrate`" in said
