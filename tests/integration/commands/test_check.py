"""``nightshift check``: every precondition tried, with a sentence on each."""

from __future__ import annotations

import time

import pytest

from sync.emulators.bace import BaceCloud, Behaviour, Fleet
from sync.emulators.beddit import BedditCloud, Fault, Study

STUDY = Study(users=(1001, 1002), nights=1, hours=0.1, raw_signal=False)


def findings(ended):
    """What was found, by subject."""
    return {line["subject"]: line for line in ended.lines}


async def test_all_is_well(on_server):
    """Every line says ok, and the exit code is 0."""
    async with BedditCloud(STUDY) as cloud, BaceCloud(Fleet(sessions=1)) as bace:
        on_server.configure(cloud, 1001, 1002, bace=bace)
        shown = await on_server.succeed("check")
        listed = findings(await on_server.succeed("check", "--json"))
    assert shown.out.splitlines()
    assert all(line.startswith("ok ") for line in shown.out.splitlines())
    assert {"configuration", "state folder", "database", "schema", "privileges"} <= set(listed)
    assert {"beddit.user1001", "beddit.user1002", "bace.lab"} <= set(listed)
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
    assert "check the account's client_id, client_secret, username and password" in finding["text"]
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
    assert not listed["accounts"]["ok"]
    assert "config --example" in listed["accounts"]["text"]
    assert not (nightshift.state / "postgres").exists()
