"""``nightshift check``: every precondition tried, with a sentence on each."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

import pytest

from sync.commands.check.clocks import compare_clocks
from sync.commands.check.configuration import next_time
from sync.commands.check.database import _connections, _database, _others, _timescaledb
from sync.commands.check.machine import is_exposed
from sync.emulators.bace import BaceCloud, Behaviour, Fleet
from sync.emulators.beddit import BedditCloud, Fault, Study
from sync.observe.web import serving
from sync.schedule import Schedule
from sync.storage.inspection import Inspection

STUDY = Study(users=(1001, 1002), nights=1, hours=0.1, raw_signal=False)


@pytest.fixture(autouse=True)
def undisturbed(nightshift):
    """Need neither a port nor room on a disk that others may need as well."""
    nightshift.environment["NIGHTSHIFT_DAEMON__LISTEN"] = "127.0.0.1:0"
    nightshift.environment["NIGHTSHIFT_BEDDIT__BLOB_MAX_BYTES"] = "1000"


def as_role(dsn, role):
    """Return the DSN of somebody who has taken on another role."""
    return f"{dsn}{'&' if '?' in dsn else '?'}role={role}"


def findings(ended):
    """What was found, by subject."""
    return {line["subject"]: line for line in ended.lines}


async def test_all_is_well(on_server):
    """Every line says ok, and the exit code is 0."""
    async with BedditCloud(STUDY) as cloud, BaceCloud(Fleet(sessions=1)) as bace:
        on_server.configure(cloud, 1001, 1002, bace=bace)
        shown = await on_server.succeed("check")
        listed = findings(await on_server.succeed("check", "--json"))
    assert "FAIL" not in shown.out
    assert all(line["ok"] for line in listed.values())
    assert {"configuration", "beddit schedule", "parallel work", "listen", "state folder", "disk"} <= set(
        listed
    )
    assert {"database", "schema", "privileges", "connections", "database clock", "processes"} <= set(listed)
    assert {"beddit.user1001", "beddit.user1002", "beddit clock", "bace.lab", "bace clock"} <= set(listed)
    assert len(listed) == len(shown.out.splitlines())
    assert "nightshift.toml" in listed["configuration"]["text"]


async def test_a_refused_token_is_one_line_and_exit_code_1(on_server):
    """The account that is refused is named with what to do; the others are tried all the same."""
    async with BedditCloud(STUDY) as cloud:
        on_server.configure(cloud, 1001, 1002)
        secret = cloud.token(1001)
        cloud.revoke(1001)
        ended = await on_server.run("check", "--json")
    assert ended.code == 1
    listed = findings(ended)
    assert [name for name, line in listed.items() if not line["ok"]] == ["beddit.user1001"]
    assert "token" in listed["beddit.user1001"]["text"]
    assert listed["beddit.user1002"]["ok"]
    assert secret not in ended.out + ended.err


async def test_one_cloud_is_enough(on_server):
    """Who has accounts of one vendor only is not told to get others."""
    async with BaceCloud(Fleet(sessions=1)) as bace:
        on_server.configure(None, bace=bace)
        listed = findings(await on_server.succeed("check", "--json"))
    assert "bace.lab" in listed
    assert not {name for name in listed if "beddit" in name}


async def test_a_wrong_bace_password_is_told_and_is_in_no_output(on_server):
    """The line says what the vendor said and which settings to look at; exit code 1."""
    async with BaceCloud(Fleet(sessions=1)) as bace:
        config = on_server.configure(None, bace=bace)
        config.write_text(config.read_text().replace(bace.account().password, "hunter2secret"))
        ended = await on_server.run("check", "--json")
    assert ended.code == 1
    finding = findings(ended)["bace.lab"]
    assert not finding["ok"]
    assert "Invalid username and password combination" in finding["text"]
    assert "client_id, client_secret, username and password" in finding["text"]
    assert "hunter2secret" not in ended.out + ended.err


@pytest.mark.parametrize(
    ("endpoint", "said"),
    [("data-session", "401"), ("data-downsampled", "sessions can be listed, their data cannot be read")],
)
async def test_a_missing_bace_permission_is_told(on_server, endpoint, said):
    """Sessions and data need a permission each: the line names what is refused; exit code 1."""
    forbidding = Behaviour(forbidden=frozenset({endpoint}))
    async with BaceCloud(Fleet(sessions=1), behaviour=forbidding) as bace:
        on_server.configure(None, bace=bace)
        ended = await on_server.run("check", "--json")
    assert ended.code == 1
    finding = findings(ended)["bace.lab"]
    assert not finding["ok"]
    assert said in finding["text"]
    assert f"/api/v2/{endpoint} " in finding["text"]
    assert "permission" in finding["text"]


async def test_an_unreachable_database_is_exit_code_2_and_the_rest_is_tried(nightshift):
    """Whoever sets up a machine sees all that is missing at once."""
    async with BedditCloud(STUDY) as cloud:
        nightshift.configure(cloud, 1001)
        dsn = "postgresql://nobody:hunter2secret@127.0.0.1:1/nowhere"
        ended = await nightshift.run("check", "--json", NIGHTSHIFT_WAREHOUSE__DSN=dsn)
    assert ended.code == 2
    listed = findings(ended)
    assert not listed["database"]["ok"]
    assert "127.0.0.1:1 refuses the connection: start it" in listed["database"]["text"]
    assert listed["beddit.user1001"]["ok"]
    assert "hunter2secret" not in ended.out + ended.err


@pytest.mark.parametrize("json", [(), ("--json",)], ids=["text", "json"])
async def test_nobody_who_reads_is_no_crash(nightshift, json):
    """`nightshift check | head -0` ends without a traceback: what cannot be told is not tried."""
    readable, writable = os.pipe()
    os.close(readable)
    process = await asyncio.create_subprocess_exec(
        *nightshift.program,
        *("check", *json),
        cwd=nightshift.folder,
        env=nightshift.environment,
        stdout=writable,
        stderr=asyncio.subprocess.PIPE,
    )
    os.close(writable)
    _, said = await process.communicate()
    assert (process.returncode, said) == (0, b"")


async def test_a_state_folder_that_cannot_be_written_is_told_once(on_server):
    """The line about it is enough: no event of the log stands between the lines."""
    on_server.state.write_text("a file, and no folder")
    async with BaceCloud(Fleet(sessions=1)) as bace:
        on_server.configure(None, bace=bace)
        ended = await on_server.run("check", "--json")
    listed = findings(ended)
    assert [name for name, line in listed.items() if not line["ok"]] == ["state folder"]
    assert "Set state_dir to a folder that can be written" in listed["state folder"]["text"]
    assert ended.err == ""


async def test_an_empty_database_is_fine(nightshift, empty_database):
    """No schema yet is no mistake: the first command that works makes it."""
    nightshift.environment["NIGHTSHIFT_WAREHOUSE__DSN"] = empty_database
    async with BedditCloud(STUDY) as cloud:
        nightshift.configure(cloud, 1001)
        listed = findings(await nightshift.succeed("check", "--json"))
    assert "migrate" in listed["schema"]["text"]
    assert "privileges" not in listed


async def test_a_newer_schema_is_refused_with_the_way_out(on_server, rows, database):
    """A schema that a newer nightshift made stops the work before a request is made."""
    await rows(database, "UPDATE sync.alembic_version SET version_num = '9999'")
    async with BedditCloud(STUDY) as cloud:
        on_server.configure(cloud, 1001)
        refused = await on_server.run("once")
        assert cloud.requests == ()
        ended = await on_server.run("check", "--json")
    listed = findings(ended)
    assert (ended.code, listed["schema"]["ok"]) == (2, False)
    assert "upgrade" in listed["schema"]["text"]
    assert refused.code == 2
    assert "upgrade" in refused.err


async def test_a_clock_that_is_wrong_is_told(on_server):
    """Signed addresses and cursors depend on the clock."""
    async with BedditCloud(STUDY, clock=lambda: time.time() + 600) as cloud:
        on_server.configure(cloud, 1001)
        cloud.fail_next(Fault(clock_skew=600))
        ended = await on_server.run("check", "--json")
    assert ended.code == 1
    listed = findings(ended)
    assert listed["beddit.user1001"]["ok"]
    assert not listed["beddit clock"]["ok"]
    assert "NTP" in listed["beddit clock"]["text"]


async def test_nothing_configured_is_told(nightshift):
    """Without a file there are defaults, no account, and a word on how to begin; no database is made."""
    ended = await nightshift.run("check", "--json")
    assert ended.code == 1
    listed = findings(ended)
    assert not listed["accounts"]["ok"]
    assert "config --example" in listed["accounts"]["text"]
    assert not (nightshift.state / "postgres").exists()


# --- what the settings amount to ------------------------------------------------------------------


async def test_schedules_are_told_in_words(on_server):
    """When the daemon will ask whom next, and one that never comes is a mistake."""
    async with BedditCloud(STUDY) as cloud:
        on_server.configure(cloud, 1001)
        nightly = {"NIGHTSHIFT_BEDDIT__SCHEDULE": "15 4 * * *"}
        told = findings(await on_server.succeed("check", "--json", **nightly))
        never = await on_server.run("check", "--json", NIGHTSHIFT_BEDDIT__SCHEDULE="0 0 30 2 *")
    assert told["beddit schedule"]["text"].startswith("at '15 4 * * *', next at ")
    assert "04:15 UTC; retries every 1h, next at " in told["beddit schedule"]["text"]
    assert told["housekeeping"]["text"].startswith("at '30 3 * * *', next at ")
    assert "bace schedule" not in told
    assert never.code == 2
    assert "beddit.schedule" in never.err


def test_the_next_time_is_the_schedulers():
    """Both kinds of schedule are counted from the epoch, in UTC."""
    now = datetime(2026, 11, 21, 12, 7, tzinfo=UTC)
    assert next_time(Schedule("15m"), now) == datetime(2026, 11, 21, 12, 15, tzinfo=UTC)
    assert next_time(Schedule("30 3 * * *"), now) == datetime(2026, 11, 22, 3, 30, tzinfo=UTC)


class Running:
    """What a daemon says of itself."""

    def health(self):
        """Say version and uptime."""
        return {"version": "9.8.7", "uptime_seconds": 1.0}


async def test_a_daemon_that_runs_already_is_no_obstacle(on_server):
    """The port is taken by a nightshift: that is how it should be. Taken by anything else it is not."""
    async with serving("127.0.0.1:0", Running()) as (host, port):
        on_server.environment["NIGHTSHIFT_DAEMON__LISTEN"] = f"{host}:{port}"
        ours = findings(await on_server.run("check", "--json"))["listen"]
    with socket.create_server(("127.0.0.1", 0)) as other:
        on_server.environment["NIGHTSHIFT_DAEMON__LISTEN"] = f"127.0.0.1:{other.getsockname()[1]}"
        taken = findings(await on_server.run("check", "--json"))["listen"]
    assert (ours["ok"], "nightshift 9.8.7 answers" in ours["text"]) == (True, True)
    assert (taken["ok"], "another program" in taken["text"]) == (False, True)


async def test_an_address_of_another_machine_cannot_be_listened_on(on_server):
    """The line names the setting; off is off."""
    foreign = await on_server.run("check", "--json", NIGHTSHIFT_DAEMON__LISTEN="192.0.2.1:9750")
    off = await on_server.run("check", "--json", NIGHTSHIFT_DAEMON__LISTEN="off")
    assert not findings(foreign)["listen"]["ok"]
    assert "daemon.listen" in findings(foreign)["listen"]["text"]
    assert findings(off)["listen"]["ok"]


async def test_sizes_that_do_not_fit_each_other_are_told(on_server):
    """Fewer connections than accounts at once, a lease that a pause outlasts: work goes on, slower."""
    few = {"NIGHTSHIFT_WAREHOUSE__POOL_SIZE": "2", "NIGHTSHIFT_DAEMON__LEASE_S": "5"}
    listed = findings(await on_server.run("check", "--json", **few))
    assert "warehouse.pool_size to 5" in listed["parallel work"]["text"]
    assert listed["parallel work"]["ok"]
    assert "daemon.lease_s" in listed["lease"]["text"]


# --- the machine ----------------------------------------------------------------------------------


async def test_secrets_that_everybody_can_read_are_named(on_server, folder):
    """The configuration with a token in it, and a token's file; not a file behind a closed folder."""
    async with BedditCloud(STUDY) as cloud:
        config = on_server.configure(cloud, 1001)
        token = on_server.folder / "alice.token"
        token.write_text(cloud.token(1001) + "\n")
        text = config.read_text().replace(f'token = "{cloud.token(1001)}"', 'token_file = "alice.token"')
        config.write_text(text)
        for part in (folder, on_server.folder):
            part.chmod(0o711)
        token.chmod(0o644)
        config.chmod(0o644)
        exposed = findings(await on_server.succeed("check", "--json"))["secrets"]
        token.chmod(0o600)
        again = {"NIGHTSHIFT_BEDDIT__ACCOUNTS__USER1001__TOKEN_FILE": "./alice.token"}  # is still one file
        private = findings(await on_server.succeed("check", "--json", **again))["secrets"]
    assert f"chmod o-r {token}" in exposed["text"]
    assert str(config) not in exposed["text"]
    assert exposed["ok"]
    assert private["text"] == "in 1 file that not everybody can read"
    assert cloud.token(1001) not in str(exposed)


def test_a_closed_folder_protects_what_is_in_it(folder):
    """A file is exposed only where it can be reached."""
    inside = folder / "closed" / "token"
    inside.parent.mkdir(mode=0o711)
    inside.touch(0o644)
    inside.chmod(0o644)
    assert is_exposed(inside)
    inside.parent.chmod(0o700)
    assert not is_exposed(inside)
    assert not is_exposed(folder / "nowhere")


async def test_a_state_folder_that_everybody_may_change_is_refused(on_server):
    """Whoever may replace a token's file acts in the account's name."""
    on_server.state.mkdir()
    on_server.state.chmod(0o777)
    ended = await on_server.run("check", "--json")
    assert not findings(ended)["state folder"]["ok"]
    assert "chmod o-w" in findings(ended)["state folder"]["text"]


async def test_a_disk_that_is_too_small_is_told(on_server):
    """Too little for one raw signal is a failure, too little for all at once a remark."""
    async with BedditCloud(STUDY) as cloud:
        on_server.configure(cloud, 1001)
        none = await on_server.run("check", "--json", NIGHTSHIFT_BEDDIT__BLOB_MAX_BYTES=str(2**60))
        many = await on_server.run("check", "--json", NIGHTSHIFT_ENGINE__PARALLEL_UNITS=str(2**60))
    assert (none.code, findings(none)["disk"]["ok"]) == (1, False)
    assert (many.code, findings(many)["disk"]["ok"]) == (0, True)
    assert all("make room" in findings(ended)["disk"]["text"] for ended in (none, many))


# --- the database ---------------------------------------------------------------------------------


async def test_a_role_that_may_only_read_is_told_what_it_lacks(on_server, database, rows):
    """The grants are written out; a role without any gets the same sentence, and the rest is tried."""
    role = f"nightshift_test_{time.time_ns()}"
    await rows(database, f"CREATE ROLE {role} NOLOGIN")
    on_server.environment["NIGHTSHIFT_WAREHOUSE__DSN"] = as_role(database, role)
    try:
        nothing = await on_server.run("check", "--json")
        await rows(database, f"GRANT USAGE ON SCHEMA sync, beddit, bace TO {role}")
        await rows(database, f"GRANT SELECT ON ALL TABLES IN SCHEMA sync, beddit, bace TO {role}")
        reader = await on_server.run("check", "--json")
    finally:
        await rows(database, f"DROP OWNED BY {role}")
        await rows(database, f"DROP ROLE {role}")
    assert (nothing.code, reader.code) == (2, 1)
    assert f'GRANT USAGE ON SCHEMA bace TO "{role}"' in findings(nothing)["privileges"]["text"]
    assert not findings(nothing)["schema"]["ok"]
    assert "GRANT INSERT, UPDATE, DELETE ON bace." in findings(reader)["privileges"]["text"]
    assert "role.sql" in findings(reader)["privileges"]["text"]
    assert findings(reader)["schema"]["ok"]
    assert "accounts" in findings(nothing)


async def test_an_empty_database_that_is_not_ours_names_the_way_out(nightshift, empty_database, rows):
    """Who may not create the schema is told who can."""
    role = f"nightshift_test_{time.time_ns()}"
    await rows(empty_database, f"CREATE ROLE {role} NOLOGIN")
    nightshift.environment["NIGHTSHIFT_WAREHOUSE__DSN"] = as_role(empty_database, role)
    try:
        ended = await nightshift.run("check", "--json")
    finally:
        await rows(empty_database, f"DROP ROLE {role}")
    name = urlsplit(empty_database).path.removeprefix("/")
    assert ended.code == 2
    assert "owner run `nightshift migrate`" in findings(ended)["schema"]["text"]
    assert f'GRANT CREATE ON DATABASE "{name}" TO "{role}"' in findings(ended)["schema"]["text"]


async def test_a_read_only_database_is_refused(on_server, database, rows):
    """Nothing can be stored there: exit code 2."""
    name = urlsplit(database).path.removeprefix("/")
    await rows(database, f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    ended = await on_server.run("check", "--json")
    assert ended.code == 2
    assert "read-only" in findings(ended)["database"]["text"]


async def test_who_works_here_is_told(on_server, database, rows):
    """Processes by command, host and pid; one that fell silent is only counted."""
    await rows(
        database,
        """
        INSERT INTO sync.workers (command, host, pid, version, lease, heartbeat_at)
        VALUES ('run', 'here', 12, '1.0', '60 s', now()), ('run', 'there', 13, '1.0', '60 s', 'epoch')
        """,
    )
    told = findings(await on_server.run("check", "--json"))["processes"]
    assert (told["ok"], told["text"]) == (True, "run on here (pid 12); 1 silent, to be taken over")


def seen(**facts):
    """Make an inspection of a server that is as it should be but for these facts."""
    usual = {
        "server": "PostgreSQL 18",
        "encoding": "UTF8",
        "is_standby": False,
        "is_read_only": False,
        "clock_skew": timedelta(),
        "timescaledb": None,
        "timescaledb_offered": None,
        "timescaledb_licence": None,
        "missing_features": (),
        "database": "db",
        "role": "me",
        "is_superuser": False,
        "may_create": True,
        "has_schemas": True,
        "lacking": (),
        "connections": 97,
        "strangers": (),
        "workers": (),
    }
    return Inspection(**usual | facts)


def test_a_server_that_cannot_serve_is_fatal():
    """A standby and a database that cannot store every character are told with the way out."""
    assert _database(seen()).ok
    for facts, advice in (({"is_standby": True}, "the primary"), ({"encoding": "LATIN1"}, "'UTF8'")):
        finding = _database(seen(**facts))
        assert (finding.ok, finding.fatal) == (False, True)
        assert advice in finding.text


def test_connections_have_to_do_for_all_processes():
    """Each process may need its whole pool and one connection more."""
    assert _connections(seen(connections=6), pool_size=5).ok
    assert not _connections(seen(connections=5), pool_size=5).ok
    others = ({"gone": False}, {"gone": False})
    assert not _connections(seen(connections=11, workers=others), pool_size=5).ok
    assert "max_connections" in _connections(seen(connections=5), pool_size=5).text


@pytest.mark.parametrize(("ahead", "way"), [(90, "ahead of"), (-90, "behind")])
def test_a_clock_that_differs_is_told(ahead, way):
    """A minute is tolerated; beyond it the line says in which direction."""
    finding = compare_clocks("clock", "the database", timedelta(seconds=ahead))
    assert not finding.ok
    assert f"the database's clock is 90 s {way} this machine's" in finding.text
    assert compare_clocks("clock", "the database", timedelta(seconds=60)).ok


def test_timescaledb_is_a_remark():
    """Installed, not made use of yet, to be had, or not there: all of it is fine."""
    installed = _timescaledb(seen(timescaledb="2.30", timescaledb_licence="apache"))
    assert (installed.ok, installed.text) == (True, "version 2.30, licence apache")
    unused = _timescaledb(seen(timescaledb="2.30", missing_features=("a.b is a hypertable",)))
    assert (unused.ok, unused.note) == (True, True)
    assert unused.text.endswith("`nightshift migrate` would add: a.b is a hypertable")
    assert "the server has 2.30" in _timescaledb(seen(timescaledb_offered="2.30")).text
    assert "nothing needs it" in _timescaledb(seen()).text


def test_a_stranger_whose_connections_cannot_be_ended_is_told():
    """Taking over from a frozen process needs the right to end what it holds."""
    *_, finding = _others(seen(strangers=("postgres",)))
    assert not finding.ok
    assert "one role for all processes" in finding.text


# --- the vendors ----------------------------------------------------------------------------------


async def test_a_vendor_that_is_away_is_not_asked_a_thousand_times(on_server):
    """After two accounts without an answer the others are counted, not tried."""
    async with BedditCloud(STUDY) as cloud, BedditCloud(STUDY) as gone:
        config = on_server.configure(cloud, 1001, 1002)
        text = config.read_text().replace(cloud.base_url, gone.base_url)
        more = "".join(f'[beddit.accounts.a{n}]\nuser_id = {n}\ntoken = "t"\n' for n in range(1, 6))
        config.write_text(text + more)
    ended = await on_server.run("check", "--json")
    assert ended.code == 1
    listed = findings(ended)
    assert [name for name in listed if name.startswith("beddit")] == [
        "beddit schedule",
        "beddit.user1001",
        "beddit.user1002",
        "beddit",
    ]
    assert "5 more accounts were not tried" in listed["beddit"]["text"]


async def test_where_raw_signals_may_come_from_is_told(on_server):
    """What is allowed, which setting decides it, and that the configured cloud itself would be refused."""
    async with BedditCloud(STUDY) as cloud:
        config = on_server.configure(cloud, 1001)
        private = findings(await on_server.succeed("check", "--json"))["blob hosts"]["text"]
        config.write_text(config.read_text().replace("allow_private_blob_hosts = true", ""))
        public = findings(await on_server.succeed("check", "--json"))["blob hosts"]["text"]
    assert "the internet, private networks, this machine, over plain http too" in private
    assert public.startswith("raw signals may come from the internet only, over https: from ")
    assert "a loopback address, they would be refused" in public
    assert all("allow_private_blob_hosts" in text for text in (private, public))


async def test_certificates_that_cannot_be_read_are_a_line(on_server):
    """A wrong ca_file stops the accounts, not the check."""
    async with BedditCloud(STUDY) as cloud:
        on_server.configure(cloud, 1001)
        ended = await on_server.run("check", "--json", NIGHTSHIFT_BEDDIT__CA_FILE="nowhere.pem")
    assert ended.code == 2
    assert "nowhere.pem" in findings(ended)["accounts"]["text"]
