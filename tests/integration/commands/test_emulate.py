"""``nightshift emulate``: a cloud of one's own, to try things on."""

from __future__ import annotations

import json
import re
import shlex
import signal
import socket
import stat

import pytest

from sync.app.accounts import clouds
from sync.commands.emulate import Switches, parse_switches
from sync.commands.emulated import lively_fleet
from sync.config import load
from sync.emulators.bace import Behaviour as BaceBehaviour
from sync.emulators.bace import OddValues
from sync.emulators.beddit import Behaviour, Order
from sync.errors import ConfigurationError


async def serve(nightshift, *arguments, **variables):
    """Start a cloud; the process, and the commands that it tells one to type."""
    process = await nightshift.start("emulate", *arguments, **variables)
    said = []
    while not said or "Ctrl-C" not in said[-1]:
        line = await process.line()
        assert line, (await process.ended()).err
        said.append(line)
    commands = [shlex.split(line) for line in said if line.startswith("  ")]
    return process, commands, "".join(said)


def arguments(nightshift, words):
    """What a printed command gives to this very program."""
    begin = words.index(nightshift.program[0])
    end = begin + len(nightshift.program)
    assert words[begin:end] == nightshift.program
    return words[end:]


async def test_the_printed_commands_work_and_ctrl_c_ends_it(nightshift):
    """What it says can be pasted; its configuration is private; Ctrl-C ends it with a sentence."""
    process, commands, _ = await serve(nightshift, "--nights", "1", "--sessions", "4")
    assert [words[-1] for words in commands] == ["check", "run", "once", "status"]
    config = nightshift.state / "emulated" / "nightshift.toml"
    assert stat.S_IMODE(config.stat().st_mode) == 0o600
    assert [cloud.schedule for cloud in clouds(load(config, {})).values()] == ["30s", "30s"]
    for words in commands:
        assert words[0] == "env"
        assert words[words.index("NIGHTSHIFT_STATE_DIR") - 1] == "-u"
        if words[-1] != "run":
            await nightshift.succeed(*arguments(nightshift, words), NIGHTSHIFT_STATE_DIR="")
    count = (
        "COPY (SELECT (SELECT count(*) FROM beddit.sessions), count(*) FILTER (WHERE status = 'complete'), "
        "count(*) FILTER (WHERE status = 'open') > 0 FROM bace.data_sessions) TO STDOUT"
    )
    asked = await nightshift.succeed(
        *arguments(nightshift, commands[0])[:-1], "sql", count, NIGHTSHIFT_STATE_DIR=""
    )
    assert asked.out == "2\t4\tt\n"
    process.send(signal.SIGINT)
    ended = await process.ended()
    assert ended.code == 130
    assert "goes on from there" not in ended.err
    assert len(ended.err.splitlines()) == 1


async def test_the_real_warehouse_is_not_what_the_printed_commands_use(nightshift):
    """A variable that names a real database would override the written file: the commands take it away."""
    process, commands, _ = await serve(
        nightshift, "--nights", "1", NIGHTSHIFT_WAREHOUSE__DSN="postgresql://real.example/study"
    )
    process.send(signal.SIGTERM)
    assert (await process.ended()).code == 143
    for words in commands:
        assert words[words.index("NIGHTSHIFT_WAREHOUSE__DSN") - 1] == "-u"


def test_sessions_live_while_the_fleet_is_served():
    """Past sessions are over, some run now, others follow soon; tomorrow's call makes other sessions."""
    now = 1_795_000_000.0
    fleet = list(lively_fleet(30, seed=1, now=now))
    assert sum(session.is_ingested(now) and session.end < now - 3600 for session in fleet) >= 20
    running = [session for session in fleet if session.exists(now) and session.end_at(now) is None]
    assert len(running) >= 2
    (first, *_) = sorted(session.start for session in fleet if session.start > now)
    assert first - now < 600
    assert all(session.is_ingested(now + 1800) for session in running)
    ids = {session.id for session in fleet}
    assert len(ids) == len(fleet)
    assert ids.isdisjoint(session.id for session in lively_fleet(30, seed=1, now=now + 86_400))


async def test_switches_are_listed_and_wrong_ones_are_explained(call, nightshift):
    """`--behave help` lists every switch with its values; a mistake is answered with the choice."""
    listed = call("emulate", "--behave", "help")
    assert listed.code == 0
    assert "beddit.order=updated (updated, start, shuffled)" in listed.out
    assert "bace.odd_values= (null, text, numeric-string)" in listed.out
    wrong = await nightshift.run("emulate", "--behave", "beddit.ordre=start")
    assert (wrong.code, "'beddit.ordre'" in wrong.err, "beddit.order=" in wrong.err) == (2, True, True)
    for switch, choice in (
        ("beddit.order=backwards", "shuffled"),
        ("bace.gzip=perhaps", "bace.gzip cannot be"),
        ("bace.odd_values=x", "null, text"),
        ("gzip=yes", "no switch 'gzip'"),
        ("cloud.gzip=yes", "no switch"),
    ):
        with pytest.raises(ConfigurationError, match=choice):
            parse_switches([switch])
    assert parse_switches(
        [
            "beddit.order=start",
            "beddit.gzip=yes",
            "beddit.limit_ceiling=5",
            "bace.raw_up_to=900",
            "bace.forbidden=group,data-session",
            "bace.odd_values=text",
            "bace.permission_text=",
        ]
    ) == Switches(
        beddit=Behaviour(order=Order.START, gzip=True, limit_ceiling=5),
        bace=BaceBehaviour(
            raw_up_to=900.0,
            forbidden=frozenset({"group", "data-session"}),
            odd_values=OddValues.TEXT,
            permission_text=None,
        ),
    )


@pytest.mark.parametrize("port", ["--port", "--blob-port", "--bace-port"])
async def test_a_taken_port_is_named(nightshift, port):
    """Exit code 2, a sentence with the port, no traceback."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        number = str(taken.getsockname()[1])
        ended = await nightshift.run("emulate", "--nights", "1", port, number)
    assert ended.code == 2
    assert number in ended.err
    assert "Traceback" not in ended.err


async def test_saved_sessions_can_be_served(nightshift):
    """--archive serves a folder's nights, an account for each user, nothing else; other files are named."""
    session = {
        "id": 1_710_000_000,
        "start_timestamp": 1_710_000_000.5,
        "end_timestamp": 1_710_003_600.5,
        "time_value_tracks": {"heart_rate": {"items": [[0, 60]]}},
        "updated": 1_710_003_602.0,
    }
    (nightshift.folder / "saved" / "42").mkdir(parents=True)
    (nightshift.folder / "saved" / "42" / "a.json").write_text(json.dumps([session]))
    (nightshift.folder / "saved" / "note[1].txt").write_text("hello")
    process, commands, said = await serve(nightshift, "--archive", "saved")
    assert re.search(r"passed over .*note\[1\]\.txt", said)
    ended = await nightshift.succeed(*arguments(nightshift, commands[2]), "--json", NIGHTSHIFT_STATE_DIR="")
    assert [(line["account"], line["records"]) for line in ended.lines] == [("user42", {"night": 1})]
    process.send(signal.SIGINT)
    assert (await process.ended()).code == 130
