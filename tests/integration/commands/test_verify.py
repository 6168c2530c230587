"""``nightshift verify`` as a person runs it: what it prints, and how it exits."""

from __future__ import annotations

import asyncio
import signal
from datetime import datetime
from typing import Any

import asyncpg
import pytest

from sync.emulators.bace import BaceCloud, Fleet
from sync.emulators.beddit import BedditCloud, Fault, Study

STUDY = Study(users=(1001,), nights=2, hours=0.1)
FLEET = Fleet(sessions=3, first_start=1_690_000_000, hours=(0.1, 0.2))


async def execute(dsn: str, statement: str) -> None:
    """Change the warehouse behind nightshift's back."""
    connection = await asyncpg.connect(dsn)
    await connection.execute(statement)
    await connection.close()


async def test_it_exits_by_what_it_finds(on_server: Any, database: str) -> None:
    """Nothing read: 1. Equal: 0. A difference: 1, in a table and in JSON; mended: 0, and said once."""
    async with BedditCloud(STUDY) as cloud, BaceCloud(FLEET) as bace:
        on_server.configure(cloud, 1001, bace=bace)
        unread = await on_server.run("verify", "--json")
        assert unread.code == 1
        assert {line["result"] for line in unread.lines} == {"nothing was read yet"}

        await on_server.succeed("once")
        equal = await on_server.succeed("verify", "--json")
        assert [(line["account"], line["result"]) for line in equal.lines] == [
            ("user1001", "equal"),
            ("lab", "equal"),
        ]

        await execute(database, "UPDATE beddit.session_records SET software = 'x' WHERE user_id = 1001")
        differs = await on_server.run("verify", "--json")
        assert differs.code == 1
        found = [line for line in differs.lines if line["what"] == "difference"]
        assert [(line["kind"], line["mended"], line["resolved_at"]) for line in found] == 2 * [
            ("content", False, None)
        ]
        assert all(line["found_at"] <= line["last_seen_at"] for line in found)
        table = await on_server.run("verify")
        assert table.code == 1
        assert all(line["item_key"] in table.out for line in found)
        assert "differs" in table.out
        assert "software" in table.out

        mended = await on_server.succeed("verify", "--repair", "--json")
        assert [line["mended"] for line in mended.lines if line["what"] == "difference"] == [True, True]
        assert [line["open"] for line in mended.lines if line["what"] == "account"] == [0, 0]
        again = await on_server.succeed("verify", "--json")
        assert [line for line in again.lines if line["what"] == "difference"] == []


async def test_a_part_of_history_is_verified_alone(on_server: Any, database: str) -> None:
    """What lies outside of --from and --to is neither found nor taken for resolved."""
    async with BedditCloud(Study(users=(1001,), nights=4, hours=0.1, raw_signal=False)) as cloud:
        on_server.configure(cloud, 1001)
        await on_server.succeed("once")
        await execute(database, "UPDATE beddit.session_records SET software = 'x'")
        part = ("--from", "2024-03-10", "--to", "2024-03-12T12:00:00", "--json")
        found = (await on_server.run("verify", *part)).lines
        assert sum(line["what"] == "difference" for line in found) == 2
        await on_server.run("verify", "--json")
        await on_server.run("verify", "--repair", *part)
        left = (await on_server.run("verify", *part)).lines
        assert sum(line["what"] == "difference" for line in left) == 2


async def test_it_says_what_was_compared(on_server: Any) -> None:
    """Sessions, from when to when; and that history was not all read, where it was not."""
    async with BedditCloud(Study(users=(1001,), nights=4, hours=0.1, raw_signal=False)) as cloud:
        on_server.configure(cloud, 1001)
        await on_server.succeed("backfill", "--from", "2024-06-01")
        (nothing,) = (await on_server.succeed("verify", "--json")).lines
        assert (nothing["result"], nothing["sessions"], nothing["from"]) == ("equal", 0, None)
        assert nothing["read_since"].startswith("2024-06-01T")
        table = (await on_server.succeed("verify")).out
        assert "equal, of what was read" in table
        assert "0 sessions compared; not all of its history was read, only some since 2024-06-01" in table

        await on_server.succeed("backfill")
        (whole,) = (await on_server.succeed("verify", "--json")).lines
        starts = sorted(session["start_timestamp"] for session in cloud.truth(1001).values())
        assert (whole["sessions"], whole["read_since"]) == (4, None)
        assert [datetime.fromisoformat(whole[name]).timestamp() for name in ("from", "to")] == [
            pytest.approx(starts[0], abs=1e-5),
            pytest.approx(starts[-1], abs=1e-5),
        ]
        table = (await on_server.succeed("verify")).out
        assert "4 sessions compared, from 2024-03-" in table
        assert "read" not in table


async def test_what_is_missing_upstream_is_never_lost_sight_of(on_server: Any) -> None:
    """It differs until a repair takes note of it; after that every verification says how much it is."""
    async with BedditCloud(Study(users=(1001,), nights=2, hours=0.1, raw_signal=False)) as cloud:
        on_server.configure(cloud, 1001)
        await on_server.succeed("once")
        cloud.remove(1001, min(cloud.truth(1001)))
        assert [(await on_server.run("verify")).code for _ in range(2)] == [1, 1]
        await on_server.succeed("verify", "--repair")
        (account,) = (await on_server.succeed("verify", "--json")).lines
        assert (account["result"], account["missing_upstream"]) == ("equal", 1)
        assert "1 missing upstream" in (await on_server.succeed("verify")).out


async def test_an_account_that_fails_is_named(on_server: Any) -> None:
    """What could not be compared is no equality: exit code 1, and why."""
    async with BedditCloud(STUDY) as cloud:
        on_server.configure(cloud, 1001)
        await on_server.succeed("once")
        cloud.revoke(1001)
        ended = await on_server.run("verify")
    assert ended.code == 1
    assert "failed" in ended.out
    assert "403" in ended.out


async def test_from_after_to_is_refused(on_server: Any) -> None:
    """A range that ends before it begins is a mistake, told as one."""
    assert (await on_server.run("verify", "--from", "2024-02-01", "--to", "2024-01-01")).code == 2


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
async def test_a_signal_ends_it_in_order(
    on_server: Any, rows: Any, database: str, number: signal.Signals, code: int
) -> None:
    """Interrupted, its run is closed, and the same command goes on."""
    reached = asyncio.Event()

    async def waiting(request: Any) -> None:
        reached.set()

    async with BedditCloud(STUDY) as cloud:
        on_server.configure(cloud, 1001)
        await on_server.succeed("once")
        cloud.fail_next(Fault(stall=30))
        cloud.on_request = waiting
        process = await on_server.start("verify")
        await asyncio.wait_for(reached.wait(), 30)
        process.send(number)
        assert (await process.ended()).code == code
        assert ("interrupted",) in await rows(database, "SELECT outcome FROM sync.runs WHERE task = 'verify'")
        cloud.on_request = None
        await on_server.succeed("verify")
