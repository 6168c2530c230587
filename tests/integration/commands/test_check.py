"""``nightshift check``: every precondition tried, with a sentence on each."""

from __future__ import annotations

import time

from sync.emulators.beddit import BedditCloud, Fault, Study

STUDY = Study(users=(1001, 1002), nights=1, hours=0.1, raw_signal=False)


def findings(ended):
    """What was found, by subject."""
    return {line["subject"]: line for line in ended.lines}


async def test_all_is_well(on_server):
    """Every line says ok, and the exit code is 0; nothing is written to the warehouse."""
    async with BedditCloud(STUDY) as cloud:
        on_server.configure(cloud, 1001, 1002)
        shown = await on_server.succeed("check")
        listed = findings(await on_server.succeed("check", "--json"))
    assert shown.out.splitlines()
    assert all(line.startswith("ok ") for line in shown.out.splitlines())
    assert {"configuration", "state folder", "database", "schema", "privileges"} <= set(listed)
    assert {"beddit.user1001", "beddit.user1002"} <= set(listed)
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


async def test_an_unreachable_database_is_exit_code_2_and_the_rest_is_tried(nightshift):
    """Whoever sets up a machine sees all that is missing at once."""
    async with BedditCloud(STUDY) as cloud:
        nightshift.configure(cloud, 1001)
        dsn = "postgresql://nobody:hunter2secret@127.0.0.1:1/nowhere"
        ended = await nightshift.run("check", "--json", NIGHTSHIFT_WAREHOUSE__DSN=dsn)
    assert ended.code == 2
    listed = findings(ended)
    assert not listed["database"]["ok"]
    assert listed["beddit.user1001"]["ok"]
    assert "hunter2secret" not in ended.out + ended.err


async def test_an_empty_database_is_fine(nightshift, empty_database):
    """No schema yet is no mistake: the first command that works makes it."""
    nightshift.environment["NIGHTSHIFT_WAREHOUSE__DSN"] = empty_database
    async with BedditCloud(STUDY) as cloud:
        nightshift.configure(cloud, 1001)
        listed = findings(await nightshift.succeed("check", "--json"))
    assert "migrate" in listed["schema"]["text"]
    assert "privileges" not in listed or listed["privileges"]["ok"]


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
    assert "NTP" in findings(ended)["beddit.user1001"]["text"]


async def test_nothing_configured_is_told(nightshift):
    """Without a file there are defaults, no account, and a word on how to begin; no database is made."""
    ended = await nightshift.run("check", "--json")
    assert ended.code == 1
    listed = findings(ended)
    assert not listed["beddit"]["ok"]
    assert "config --example" in listed["beddit"]["text"]
    assert not (nightshift.state / "postgres").exists()
