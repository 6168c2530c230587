"""``nightshift rejects``: look, retry, resolve, from a person's side."""

from __future__ import annotations

import json

import pytest

from sync.emulators.beddit import BedditCloud

DAY = 86_400
START = 1_700_000_000
TOKENS = {1001: "token-of-the-first-user", 1002: "token-of-the-second-user"}
ITEM = f"1001/{START}/heart_rate[1]"


def night(start, value, **fields):
    """Return a night of two heart beats, of which the second may be none."""
    return {
        "id": start,
        "start_timestamp": float(start),
        "end_timestamp": start + 600.0,
        "timezone": "UTC",
        "frame_length": 0.2,
        "time_value_tracks": {"heart_rate": {"items": [[30, 50.0], [60, value]]}},
        **fields,
    }


@pytest.fixture
async def cloud():
    """Serve a night with a bad item, one that is none at all, and one of another user with a bad item."""
    async with BedditCloud(tokens=TOKENS) as served:
        served.put(1001, night(START, "n/a"), updated=START + 700)
        served.put(1001, night(START + 3 * DAY, 51.0, start_timestamp="[red]soon"), updated=START + 4 * DAY)
        served.put(1002, night(START, None), updated=START + 700)
        yield served


@pytest.fixture
async def read(on_server, cloud):
    """Read that cloud."""
    on_server.configure(cloud, 1001, 1002)
    ended = await on_server.succeed("once")
    assert ended.err.count("rejects.began") == 3
    return on_server


async def test_they_are_counted_by_reason_and_then_named(read):
    """The most frequent reason first; text from outside colours nothing."""
    ended = await read.succeed("rejects", "list")
    head, items = ended.out.split("\n\n", 1)
    assert head.splitlines()[0].split() == ["rejects", "account", "reason"]
    assert [line.split()[:2] for line in head.splitlines()[1:]] == [
        ["1", "beddit/user1001"],
        ["1", "beddit/user1001"],
        ["1", "beddit/user1002"],
    ]
    assert ITEM in items
    assert items.count("open") == 3
    ended = await read.succeed("rejects", "list", "--account", "user1002", "--json")
    (line,) = ended.lines
    assert (line["account"], line["payload"], line["attempts"]) == ("user1002", [60, None], 1)
    assert (await read.succeed("rejects", "list", "--source", "bace")).out.startswith("no open rejects")


async def test_one_is_shown_with_all_that_is_known(read):
    """Reason, payload, how often and when it was seen; of an unknown one, what to do."""
    ended = await read.succeed("rejects", "show", ITEM)
    for words in (ITEM, "an item is not two finite numbers", "1 time, first 20", '"n/a"', "open"):
        assert words in ended.out
    ended = await read.succeed("rejects", "show", f"1001/{START + 3 * DAY}")
    assert "[red]soon" in ended.out
    (line,) = (await read.succeed("rejects", "show", ITEM, "--json")).lines
    assert (line["item_key"], line["payload"]) == (ITEM, [60, "n/a"])
    ended = await read.run("rejects", "show", "1001/5")
    assert (ended.code, "nightshift rejects list" in ended.err) == (2, True)


async def test_retry_reads_again_and_says_what_came_of_each(read, cloud):
    """What the vendor has mended is mended, what it has not is still open: exit code 1."""
    cloud.put(1001, night(START, 51.0), updated=START + 700)
    before = len(cloud.requests)
    ended = await read.run("rejects", "retry")
    assert ended.code == 1
    told = sorted(line.split(":")[0].split() for line in ended.out.splitlines())
    assert told == [
        ["mended", ITEM],
        ["still", "open", f"1001/{START + 3 * DAY}"],
        ["still", "open", f"1002/{START}/heart_rate[1]"],
    ]
    assert len(cloud.requests) - before == 3, "a question a session"
    cloud.put(1001, night(START + 3 * DAY, 51.0), updated=START + 4 * DAY)
    ended = await read.succeed("rejects", "retry", f"1001/{START + 3 * DAY}", "--json")
    assert [line["result"] for line in ended.lines] == ["mended"]
    again = await read.succeed("rejects", "retry", "--account", "user1001")
    assert "nothing to retry" in again.out


async def test_what_cannot_be_retried_is_said(read, cloud):
    """An account that is configured no longer, a vendor that is away: named, with exit code 1."""
    read.configure(cloud, 1001)
    ended = await read.run("rejects", "retry", "--account", "user1002", "--json")
    assert ended.code == 1
    (line,) = ended.lines
    assert (line["result"], "not configured" in line["reason"]) == ("not tried", True)
    cloud.revoke(1001)
    ended = await read.run("rejects", "retry", ITEM)
    assert (ended.code, "user1001" in ended.out) == (1, True)


async def test_what_a_person_resolves_is_closed_until_it_comes_again(read, cloud, rows):
    """With the note, which outlives its coming back."""
    assert (await read.run("rejects", "resolve", ITEM)).code == 2, "a note is needed"
    assert (await read.run("rejects", "resolve", ITEM, "--note", " ")).code == 2
    await read.succeed("rejects", "resolve", ITEM, "--note", "the phone fell [bold]down")
    assert ITEM not in (await read.succeed("rejects", "list")).out
    assert ITEM in (await read.succeed("rejects", "list", "--all")).out
    shown = (await read.succeed("rejects", "show", ITEM)).out
    assert "the phone fell [bold]down" in shown
    ended = await read.run("rejects", "resolve", ITEM, "--note", "again")
    assert (ended.code, "resolved already" in ended.err) == (2, True)
    cloud.put(1001, night(START, "n/a", hardware="new"))
    await read.succeed("once")
    (line,) = (await read.succeed("rejects", "show", ITEM, "--json")).lines
    assert (line["resolved_at"], line["note"], line["attempts"]) == (None, "the phone fell [bold]down", 2)


async def test_several_accounts_may_have_the_same_item(read, rows):
    """Nobody guesses which is meant."""
    dsn = read.environment["NIGHTSHIFT_WAREHOUSE__DSN"]
    await rows(
        dsn, "UPDATE sync.reject_log SET item_key = $1, record_key = $1 WHERE account = 'user1002'", ITEM
    )
    ended = await read.run("rejects", "resolve", ITEM, "--note", "known")
    assert (ended.code, "beddit/user1001, beddit/user1002" in ended.err) == (2, True)
    await read.succeed("rejects", "resolve", ITEM, "--note", "known", "--account", "user1002")


async def test_no_configured_secret_is_in_a_reject(on_server, cloud, rows, folder):
    """Whichever it is, and in whichever part of a reject a vendor sends it back."""
    secrets = {
        "token": TOKENS[1001],
        "password": "the-password-of-lab",
        "client_secret": "the-client-secret-of-lab",
        "dsn_password": "the-database-password",
    }
    config = on_server.configure(cloud, 1001)
    lines = ["[bace.accounts.lab]", 'client_id = "lab"', 'username = "lab@example.org"']
    lines += [f'{name} = "{secrets[name]}"' for name in ("password", "client_secret")]
    config.write_text(config.read_text() + "\n".join(lines) + "\n")
    dsn = on_server.environment["NIGHTSHIFT_WAREHOUSE__DSN"]
    on_server.environment["NIGHTSHIFT_WAREHOUSE__DSN"] = f"{dsn}&password={secrets['dsn_password']}"
    for number, secret in enumerate(secrets.values(), start=2):
        start = START + number * 10 * DAY
        tracks = {secret: 5, "a": {"items": [[1, secret], {secret: secret}]}}
        cloud.put(1001, night(start, 50.0, time_value_tracks=tracks), updated=START + 700)
        cloud.put(1001, night(start + DAY, 50.0, start_timestamp=secret), updated=START + 700)
    await on_server.succeed("once", "--source", "beddit")
    found = [text for (text,) in await rows(dsn, "SELECT r::text FROM sync.reject_log r")]
    assert len(found) > 4 * len(secrets)
    assert [text for text in found if any(secret in text for secret in secrets.values())] == []
    listed = await on_server.succeed("rejects", "list", "--json")
    assert "***" in json.dumps(listed.lines)


async def test_a_name_that_nobody_knows_is_a_mistake(read):
    """A source or an account that was mistyped has no rejects, and that is no good news."""
    for words in (("--source", "nosuch"), ("--account", "nobody")):
        for command in (("list",), ("retry",)):
            ended = await read.run("rejects", *command, *words)
            assert ended.code == 2
            assert words[1] in ended.err


async def test_where_nothing_was_ever_stored_nothing_is_made(nightshift):
    """Asked about rejects where there is no warehouse, each command says so and makes none."""
    for words in (("list",), ("show", "x"), ("retry",), ("resolve", "x", "--note", "seen")):
        ended = await nightshift.run("rejects", *words)
        assert ended.code == 2
        assert "no warehouse" in ended.err
    assert not (nightshift.state / "postgres").exists()
