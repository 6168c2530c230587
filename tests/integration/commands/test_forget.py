"""``nightshift forget``: asks, removes, and sees to it that nobody reads the account again."""

from __future__ import annotations

import asyncio
import os
import pty
import signal
import sys
from contextlib import suppress

import pytest

from sync.emulators.bace import BaceCloud, Fleet
from sync.emulators.beddit import BedditCloud, Study
from tests.integration import forks

PAIR = Study(users=(1001, 1002), nights=2, hours=0.1)
NIGHTS = "SELECT user_id, count(*) FROM beddit.sessions GROUP BY user_id ORDER BY user_id"
ACCOUNTS = "SELECT DISTINCT account FROM sync.runs ORDER BY account"
BEDDIT = ("forget", "--source", "beddit")
BACE = ("forget", "--source", "bace", "--account", "lab", "--yes")


@pytest.fixture
async def cloud():
    """Serve the nights of two sleepers."""
    async with BedditCloud(PAIR) as served:
        yield served


@pytest.fixture
async def read(on_server, cloud):
    """Read that cloud."""
    on_server.configure(cloud, 1001, 1002)
    await on_server.succeed("once")
    return on_server


def dsn(nightshift):
    """The warehouse's address."""
    return nightshift.environment["NIGHTSHIFT_WAREHOUSE__DSN"]


def asked(cloud, user, before):
    """How many requests about a user's sessions came after some first ones."""
    return sum(f"/user/{user}/" in request.path for request in cloud.requests[before:])


async def at_a_terminal(nightshift, *arguments, typed):
    """Run a command whose standard input is a terminal, at which something is typed."""
    ours, theirs = pty.openpty()
    os.write(ours, typed.encode() + b"\n")
    process = await forks.start(*arguments, cwd=nightshift.folder, env=nightshift.environment, stdin=theirs)
    os.close(theirs)
    try:
        out, err = await asyncio.wait_for(process.communicate(), 60)
    finally:
        os.close(ours)
        with suppress(ProcessLookupError):
            process.kill()
    return process.returncode, out.decode(), err.decode()


# --- asking ---------------------------------------------------------------------------------------


async def test_without_a_terminal_nothing_goes_unless_it_is_said(read, rows):
    """What would go is shown all the same; exit code 2."""
    ended = await read.run(*BEDDIT, "--account", "user1001")
    assert (ended.code, "--yes" in ended.err) == (2, True)
    for words in ("user 1001", "2  nights", "4  raw signals", "removed, for good"):
        assert words in ended.out
    assert await rows(dsn(read), NIGHTS) == [(1001, 2), (1002, 2)]
    assert await rows(dsn(read), "SELECT * FROM sync.forgotten") == []


async def test_a_person_types_the_accounts_name(read, rows):
    """Anything else removes nothing, with exit code 1; the name removes it, and says what."""
    code, _, err = await at_a_terminal(read, *BEDDIT, "--account", "user1001", typed="yes")
    assert (code, "nothing was removed" in err) == (1, True)
    assert await rows(dsn(read), NIGHTS) == [(1001, 2), (1002, 2)]
    code, out, err = await at_a_terminal(read, *BEDDIT, "--account", "user1001", typed="user1001")
    assert (code, "Type user1001" in err) == (0, True)
    for words in (
        "beddit.sample_chunks",
        "sync.run_log",
        "SET allowed_at",
        "--archive",
        "CSV",
        "backups",
        "VACUUM",
    ):
        assert words in out
    assert await rows(dsn(read), NIGHTS) == [(1002, 2)]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--source", "fitbit", "--account", "a"), "there is no source 'fitbit'"),
        (("--source", "beddit", "--account", "user7"), "--user-id N"),
        (("--source", "beddit", "--account", "7"), "nothing of '7'"),
        (("--source", "beddit", "--account", "user1001", "--user-id", "1002"), "belongs to user 1001"),
        (("--source", "bace", "--account", "lab"), "the warehouse knows no account"),
        (("--source", "bace", "--account", "../lab"), "no account can be called"),
        (("--source", "bace", "--account", "lab", "--user-id", "1"), "for Beddit"),
        (("--source", "beddit", "--account", "user1001", "--account", "1002"), "one user at a time"),
    ],
)
async def test_who_is_meant_has_to_be_clear(on_server, cloud, arguments, said):
    """What nobody is called is explained, with exit code 2, and nothing is written down."""
    on_server.configure(cloud, 1001)
    ended = await on_server.run("forget", *arguments, "--yes")
    assert (ended.code, said in ended.err) == (2, True), ended.err


# --- what is left ---------------------------------------------------------------------------------


async def test_the_account_is_not_read_again_and_the_others_are(read, cloud, rows):
    """Work commands refuse it, say why and how to allow it, and go on; it is read again when allowed."""
    gone, what = (await read.succeed(*BEDDIT, "--account", "user1001", "--yes", "--json")).lines[::-1]
    assert (what["what"], gone["what"]) == ("found", "removed")
    assert (what["found"]["nights"], what["shared"], what["strangers"]) == (2, {}, [])
    assert gone["removed"]["beddit.session_records"] == 2
    before = len(cloud.requests)
    for command in ("once", "backfill"):
        ended = await read.run(command)
        assert ended.code == 1
        assert "account user1001 of beddit was forgotten on 20" in ended.out
        assert gone["undo"] in ended.out
        assert "ok" in ended.out, "the other account was read"
    assert asked(cloud, 1001, before) == 0
    assert asked(cloud, 1002, before) > 0
    assert await rows(dsn(read), ACCOUNTS) == [("user1002",)]
    assert await rows(dsn(read), "SELECT account FROM sync.leases") == [("user1002",)]
    renamed = read.folder / "nightshift.toml"
    renamed.write_text(renamed.read_text().replace("accounts.user1001", "accounts.ann"))
    ended = await read.run("once", "--account", "ann")
    assert (ended.code, "ann of beddit was forgotten" in ended.out) == (1, True), "whatever it is called"
    await read.succeed("sql", gone["undo"])
    await read.succeed("once")
    assert await rows(dsn(read), NIGHTS) == [(1001, 2), (1002, 2)]
    assert await rows(dsn(read), "SELECT allowed_at > forgotten_at FROM sync.forgotten") == [(True,)]


async def test_a_name_may_be_given_to_another_person(read, cloud, rows):
    """Of Beddit the user's id alone says who was forgotten; the first person stays forgotten."""
    await read.succeed(*BEDDIT, "--account", "user1001", "--yes")
    file = read.configure(cloud, 1001)
    theirs, first = cloud.token(1002), cloud.token(1001)
    text = file.read_text()
    file.write_text(text.replace("user_id = 1001", "user_id = 1002").replace(first, theirs))
    await read.succeed("once")
    assert await rows(dsn(read), ACCOUNTS) == [("user1001",), ("user1002",)]
    file.write_text(text.replace("accounts.user1001", "accounts.first"))
    ended = await read.run("once")
    assert (ended.code, "first of beddit was forgotten" in ended.out) == (1, True)


async def test_a_renamed_account_is_told_of_its_old_name(read, rows):
    """What the old name has beside nights cannot be known for sure: it is named, and goes when it is, too."""
    file = read.folder / "nightshift.toml"
    file.write_text(file.read_text().replace("accounts.user1001", "accounts.ann"))
    await read.succeed("once", "--account", "ann")
    ended = await read.run(*BEDDIT, "--account", "ann", "--json")
    assert (ended.code, ended.lines[0]["strangers"]) == (2, ["user1001"])
    await read.succeed(*BEDDIT, "--account", "ann", "--account", "user1001", "--yes")
    assert await rows(dsn(read), ACCOUNTS) == [("user1002",)]
    assert await rows(dsn(read), NIGHTS) == [(1002, 2)]


async def test_the_daemon_says_once_that_it_leaves_the_account_alone(read, cloud, rows):
    """It reads the others, time and again."""
    await read.succeed(*BEDDIT, "--account", "user1001", "--yes")
    await rows(dsn(read), "DELETE FROM sync.run_log")
    before = len(cloud.requests)
    variables = {
        "NIGHTSHIFT_BEDDIT__SCHEDULE": "1s",
        "NIGHTSHIFT_DAEMON__LISTEN": "off",
        "NIGHTSHIFT_LOG__FORMAT": "json",
    }
    process = await read.start("run", **variables)
    async with asyncio.timeout(50):
        while len(await rows(dsn(read), "SELECT FROM sync.run_log WHERE outcome = 'done'")) < 3:  # noqa: ASYNC110
            await asyncio.sleep(0.1)
    process.send(signal.SIGTERM)
    ended = await process.ended()
    assert ended.code == 0, ended
    told = [line for line in ended.err.splitlines() if "was forgotten" in line]
    assert len(told) == 1, told
    assert "outage.began" in told[0]
    assert asked(cloud, 1001, before) == 0
    assert await rows(dsn(read), "SELECT account FROM sync.leases") == [("user1002",)]


async def test_saved_files_of_the_forgotten_are_not_loaded_either(read, folder, rows):
    """The person is recognised by the user's id, whatever the way."""
    files = folder / "export" / "1001"
    files.mkdir(parents=True)
    (files / "night.json").write_text('{"id": 5, "start_timestamp": 5, "end_timestamp": 605}')
    await read.succeed("backfill", "--archive", str(files.parent))
    assert await rows(dsn(read), NIGHTS) == [(1001, 3), (1002, 2)]
    await read.succeed(*BEDDIT, "--account", "user1001", "--yes")
    assert await rows(dsn(read), ACCOUNTS) == [("user1002",)]
    ended = await read.run("backfill", "--archive", str(files.parent))
    assert (ended.code, "archive-1001 of beddit was forgotten" in ended.out) == (1, True)
    assert await rows(dsn(read), NIGHTS) == [(1002, 2)]


async def test_who_is_configured_no_longer_is_forgotten_by_user_id(read, cloud, rows):
    """By the id alone, which names what else there may be; by name and id, nothing is left."""
    read.configure(cloud, 1002)
    ended = await read.run(*BEDDIT, "--account", "user1001", "--yes")
    assert (ended.code, "--user-id" in ended.err) == (2, True)
    ended = await read.succeed(*BEDDIT, "--account", "1001", "--yes")
    assert "Accounts that are not configured: user1001" in ended.out
    assert await rows(dsn(read), NIGHTS) == [(1002, 2)]
    await read.succeed(*BEDDIT, "--account", "user1001", "--user-id", "1001", "--yes")
    assert await rows(dsn(read), ACCOUNTS) == [("user1002",)]
    assert len(await rows(dsn(read), "SELECT * FROM sync.forgotten")) == 1


# --- BACE -----------------------------------------------------------------------------------------


@pytest.fixture
async def fleet():
    """Serve a few data sessions."""
    async with BaceCloud(Fleet(seed=3, sessions=3)) as served:
        yield served


@pytest.fixture
async def lab(on_server, fleet):
    """Read them as ``lab``."""
    on_server.configure(None, bace=fleet)
    await on_server.succeed("once")
    return on_server


async def full_tables(nightshift, rows):
    """The tables with rows, of what knows of accounts and data sessions."""
    tables = await rows(
        dsn(nightshift),
        "SELECT schemaname || '.' || tablename FROM pg_tables WHERE schemaname IN ('sync', 'bace')",
    )
    return {name for (name,) in tables if await rows(dsn(nightshift), f"SELECT FROM {name} LIMIT 1")}


IMPERSONAL = {"sync.alembic_version", "sync.knowledge", "sync.forgotten", "bace.datatype_records"}


async def test_of_bace_the_token_goes_too(lab, rows):
    """Nothing of the account is left in the warehouse, nor in the state folder; what codes mean stays."""
    tokens = lab.state / "tokens"
    assert (tokens / "bace-lab.json").exists()
    ended = await lab.succeed(*BACE)
    assert "data sessions" in ended.out
    assert list(tokens.iterdir()) == []
    assert await full_tables(lab, rows) <= IMPERSONAL
    ended = await lab.run("once")
    assert (ended.code, "lab of bace was forgotten" in ended.out) == (1, True)


async def test_of_bace_a_renamed_account_goes_with_its_old_name(lab, rows):
    """The old name sees every session, too: it has to be named, with --yes as well, or nothing would go."""
    file = lab.folder / "nightshift.toml"
    file.write_text(file.read_text().replace("accounts.lab", "accounts.lab2"))
    await lab.succeed("once")
    renamed = ("forget", "--source", "bace", "--account", "lab2")
    ended = await lab.run(*renamed, "--yes")
    assert (ended.code, "--account lab2 --account lab" in ended.err) == (2, True), ended
    assert await rows(dsn(lab), "SELECT * FROM sync.forgotten") == []
    await lab.succeed(*renamed, "--account", "lab", "--yes")
    assert await full_tables(lab, rows) <= IMPERSONAL


async def test_of_bace_what_strangers_see_may_be_left_on_purpose(lab, rows):
    """An account that another machine's configuration has keeps what it sees."""
    file = lab.folder / "nightshift.toml"
    file.write_text(file.read_text().replace("accounts.lab", "accounts.lab2"))
    await lab.succeed("once")
    ended = await lab.succeed(
        "forget", "--source", "bace", "--account", "lab2", "--leave-shared", "--yes", "--json"
    )
    assert ended.lines[0]["shared"] == {"lab": 3}
    assert ended.lines[0]["strangers"] == ["lab"]
    assert await rows(dsn(lab), "SELECT DISTINCT account FROM bace.session_access") == [("lab",)]
    assert await rows(dsn(lab), "SELECT count(*) FROM bace.data_sessions") == [(3,)]


async def test_of_bace_a_login_is_recognised_by_whatever_name(lab, fleet):
    """However its name and its user name are written, the login is not read again."""
    await lab.succeed(*BACE)
    file = lab.folder / "nightshift.toml"
    login = fleet.account().username
    renamed = file.read_text().replace("accounts.lab", "accounts.ward").replace(login, login.upper())
    file.write_text(renamed)
    ended = await lab.run("once")
    assert (ended.code, "ward of bace was forgotten" in ended.out) == (1, True)


# --- who else asks a vendor -----------------------------------------------------------------------


async def test_check_asks_nobody_about_the_forgotten(on_server, cloud, fleet):
    """It says that they were forgotten, with exit code 1; no request, and no token comes back."""
    on_server.configure(cloud, 1001, bace=fleet)
    await on_server.succeed("once")
    await on_server.succeed(*BACE)
    await on_server.succeed(*BEDDIT, "--account", "user1001", "--yes")
    before = len(cloud.requests), len(fleet.requests)
    ended = await on_server.run("check")
    assert ended.code == 1
    for account in ("user1001 of beddit", "lab of bace"):
        assert f"account {account} was forgotten on 20" in " ".join(ended.out.split())
    assert (len(cloud.requests), len(fleet.requests)) == before
    assert list((on_server.state / "tokens").iterdir()) == []


async def test_no_csv_is_downloaded_with_a_forgotten_account(lab, fleet):
    """Neither asked for by name nor by itself."""
    session = fleet.sessions()[0].id
    await lab.succeed("bace", "download-csv", str(session))
    await lab.succeed(*BACE)
    before = len(fleet.requests)
    for chosen in ((), ("--account", "lab")):
        ended = await lab.run("bace", "download-csv", str(session), "--output", "again.csv", *chosen)
        assert (ended.code, "lab of bace was forgotten" in ended.err) == (1, True), ended
    assert len(fleet.requests) == before
    assert not (lab.folder / "again.csv").exists()


# --- interruptions --------------------------------------------------------------------------------


async def test_interrupted_it_goes_on_when_it_is_repeated(read, rows, folder):
    """Killed in its middle, the account is refused from then on, and the rest goes with the next try."""
    launcher = folder / "slow.py"
    launcher.write_text(
        "import asyncio\nfrom sync.storage import forgetting\nfrom sync.cli import main\n"
        "forgetting.NIGHTS_AT_ONCE = 1\nremove = forgetting.PostgresForgetting._remove_nights\n"
        "async def slow(self, *args):\n"
        "    gone = await remove(self, *args)\n    print('gone', flush=True)\n"
        "    await asyncio.sleep(60)\n    return gone\n"
        "forgetting.PostgresForgetting._remove_nights = slow\nmain()\n"
    )
    program, read.program = read.program, [sys.executable, str(launcher)]
    process = await read.start(*BEDDIT, "--account", "user1001", "--yes", "--json")
    while await process.line() != "gone\n":
        pass
    process.send(signal.SIGKILL)
    await process.ended()
    read.program = program
    assert await rows(dsn(read), NIGHTS) == [(1001, 1), (1002, 2)]
    ended = await read.run("once", "--account", "user1001")
    assert (ended.code, "was forgotten" in ended.out) == (1, True)
    await read.succeed(*BEDDIT, "--account", "user1001", "--yes")
    assert await rows(dsn(read), NIGHTS) == [(1002, 2)]
    assert await rows(dsn(read), "SELECT finished_at IS NOT NULL FROM sync.forgotten") == [(True,)]
