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
    process = await asyncio.create_subprocess_exec(
        *nightshift.program,
        *arguments,
        cwd=nightshift.folder,
        env=nightshift.environment,
        stdin=theirs,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
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
    for words in ("beddit.sample_chunks", "sync.run_log", "DELETE FROM sync.forgotten", "backups", "VACUUM"):
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
    assert what["found"]["nights"] == 2
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


async def test_of_bace_the_token_goes_too(on_server, rows):
    """Nothing of the account is left in the warehouse, nor in the state folder; what codes mean stays."""
    async with BaceCloud(Fleet(seed=3, sessions=3)) as cloud:
        on_server.configure(None, bace=cloud)
        await on_server.succeed("once")
        tokens = on_server.state / "tokens"
        assert (tokens / "bace-lab.json").exists()
        ended = await on_server.succeed(*BACE)
        assert "data sessions" in ended.out
        assert list(tokens.iterdir()) == []
        tables = await rows(
            dsn(on_server),
            "SELECT schemaname || '.' || tablename FROM pg_tables WHERE schemaname IN ('sync', 'bace')",
        )
        full = {name for (name,) in tables if await rows(dsn(on_server), f"SELECT FROM {name} LIMIT 1")}
        assert full <= {"sync.alembic_version", "sync.knowledge", "sync.forgotten", "bace.datatype_records"}
        ended = await on_server.run("once")
        assert (ended.code, "lab of bace was forgotten" in ended.out) == (1, True)


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
