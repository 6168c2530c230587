"""``nightshift bace download-csv`` as a person runs it, against the emulated cloud."""

from __future__ import annotations

import asyncio
import csv
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from sync.emulators.bace import HTML_PAGE, Account, BaceCloud, Behaviour, Fault, Fleet
from tests.integration import forks

NOWHERE = "00000000-0000-4000-8000-000000000000"


@dataclass(frozen=True, slots=True)
class Ended:
    """A process that has ended."""

    code: int
    out: bytes
    err: str


Nightshift = Callable[..., Awaitable[Ended]]


@pytest.fixture
async def cloud() -> AsyncIterator[BaceCloud]:
    """An account of three finished sessions."""
    fleet = Fleet(sessions=3, first_start=1_696_118_400, hours=(0.2, 0.3))
    async with BaceCloud(fleet, behaviour=Behaviour()) as cloud:
        yield cloud


@pytest.fixture
def session(cloud) -> str:
    """One of its sessions."""
    return cloud.sessions()[0].id


@pytest.fixture
def nightshift(cloud, tmp_path) -> Nightshift:
    """Give a function that runs the command in an empty folder, with some accounts configured."""

    async def run(*arguments: str, stdout: int = asyncio.subprocess.PIPE, **accounts: Account) -> Ended:
        lines = [f"[bace]\nbase_url = '{cloud.base_url}'\nrequests_per_second = 1000"]
        for name, account in (accounts or {"lab": cloud.account()}).items():
            lines.append(f"[bace.accounts.{name}]\nclient_id = '{account.client_id}'")
            lines.append(f"client_secret = '{account.client_secret}'")
            lines.append(f"username = '{account.username}'\npassword = '{account.password}'")
        config = tmp_path / "nightshift.toml"
        config.write_text(f"state_dir = '{tmp_path / 'state'}'\n" + "\n".join(lines))
        process = await forks.start(
            *("--config", str(config), "bace", "download-csv", *arguments),
            cwd=folder,
            env=os.environ | {"COLUMNS": "1000"},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=stdout,
        )
        out, err = await process.communicate()
        assert process.returncode is not None
        assert "Traceback" not in err.decode()
        return Ended(process.returncode, out, err.decode())

    folder = tmp_path / "here"
    folder.mkdir()
    return run


@pytest.fixture
def here(nightshift, tmp_path) -> Path:
    """The folder in which the command runs."""
    return tmp_path / "here"


async def test_a_session_becomes_a_file(nightshift, cloud, session, here):
    """Every sample is in the file that is named after the session; nothing else is left there."""
    ended = await nightshift(session.upper())
    assert ended.code == 0, ended.err
    assert f"{session}.csv: " in ended.out.decode()
    assert "account lab" in ended.out.decode()
    assert [path.name for path in here.iterdir()] == [f"{session}.csv"]
    with (here / f"{session}.csv").open() as file:
        assert len(list(csv.DictReader(file))) == len(cloud.samples(session).time_ms) > 0


async def test_a_file_of_ones_own_choice_or_standard_output(nightshift, session, here):
    """--output names the file; with - the same bytes, and only they, go to standard output."""
    assert (await nightshift(session, "--output", "mine.csv")).code == 0
    printed = await nightshift(session, "--output", "-")
    assert printed.code == 0
    assert printed.out == (here / "mine.csv").read_bytes() != b""
    assert [path.name for path in here.iterdir()] == ["mine.csv"]


async def test_a_file_is_not_replaced_by_accident(nightshift, cloud, session, here):
    """What is there stays, and nothing is asked for, unless --force says otherwise."""
    (here / f"{session}.csv").write_text("precious")
    refused = await nightshift(session)
    assert (refused.code, "--force" in refused.err) == (2, True)
    assert (here / f"{session}.csv").read_text() == "precious"
    assert len(cloud.requests) == 0
    assert (await nightshift(session, "--force")).code == 0
    assert (here / f"{session}.csv").stat().st_size > 1000


@pytest.mark.parametrize(
    "fault",
    [Fault(cut_after=500), HTML_PAGE, Fault(status=400), Fault(status=200, body=b"{}")],
    ids=["cut", "web page", "refused", "json"],
)
async def test_a_download_that_fails_leaves_nothing(nightshift, cloud, session, here, fault):
    """Half a file, or a page that is no CSV, never takes the file's place, not even by force."""
    (here / f"{session}.csv").write_text("precious")
    cloud.faults.add(fault, times=10, path="download-csv")
    ended = await nightshift(session, "--force")
    assert ended.code == 1, ended.err
    assert ended.err.startswith("nightshift: ")
    assert [path.name for path in here.iterdir()] == [f"{session}.csv"]
    assert (here / f"{session}.csv").read_text() == "precious"


async def test_the_account_that_may_see_it_is_found(nightshift, cloud, session, here):
    """Accounts are tried one after the other: one does not see the session, one may not, one does."""
    blind = cloud.add_account(Account(username="blind@example.org"), groups=())
    barred = Account(username="barred@example.org", forbidden=frozenset({"data-session"}))
    cloud.add_account(barred)
    ended = await nightshift(session, blind=blind, barred=barred, lab=cloud.account())
    assert ended.code == 0, ended.err
    assert "account lab" in ended.out.decode()
    chosen = await nightshift(session, "--account", "blind", "--force", blind=blind, lab=cloud.account())
    assert chosen.code == 1
    assert "blind sees no such session" in chosen.err


async def test_every_refusal_is_told(nightshift, cloud, session, here):
    """If nobody sees the session, the message says of each account why not."""
    barred = Account(username="barred@example.org", forbidden=frozenset({"data-session"}))
    cloud.add_account(barred)
    wrong = replace(cloud.account(), username="typo@example.org")
    ended = await nightshift(NOWHERE, lab=cloud.account(), barred=barred, typo=wrong)
    assert ended.code == 1
    assert f"session {NOWHERE} cannot be downloaded" in ended.err
    assert "lab sees no such session" in ended.err
    assert "barred: GET" in ended.err
    assert "lacks the permission" in ended.err
    assert "typo: The vendor gives no token" in ended.err
    assert list(here.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["86d70a1b-..."], "valid UUID"),
        ([NOWHERE, "--account", "nobody"], "no account 'nobody'"),
        ([NOWHERE, "--output", "no/such/folder/x.csv"], "cannot be written: No such file or directory"),
    ],
)
async def test_what_cannot_work_is_refused_before_anything_is_asked(nightshift, cloud, arguments, said):
    """A wrong id, account or folder is named, with exit code 2."""
    ended = await nightshift(*arguments)
    assert (ended.code, len(cloud.requests)) == (2, 0)
    assert said in ended.err


async def test_a_reader_that_has_seen_enough_is_no_failure(nightshift, session):
    """``... --output - | head -1`` ends quietly."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        ended = await nightshift(session, "--output", "-", stdout=writer)
    finally:
        os.close(writer)
    assert (ended.code, ended.err) == (0, "")
