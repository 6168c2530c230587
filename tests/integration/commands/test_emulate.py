"""``nightshift emulate``: a cloud of one's own, to try things on."""

from __future__ import annotations

import json
import re
import shlex
import signal
import socket
import stat

import pytest

from sync.commands.emulate import parse_behaviour
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


async def test_the_printed_commands_work_and_ctrl_c_ends_it(nightshift):
    """What it says can be pasted; its configuration is private; Ctrl-C ends it with a sentence."""
    process, commands, _ = await serve(nightshift, "--nights", "1")
    assert [words[-1] for words in commands] == ["check", "once"]
    config = nightshift.state / "emulated" / "nightshift.toml"
    assert stat.S_IMODE(config.stat().st_mode) == 0o600
    for words in commands:
        assert words[:3] == ["env", "-u", "NIGHTSHIFT_STATE_DIR"]
        assert words[3:6] == nightshift.program
        await nightshift.succeed(*words[6:], NIGHTSHIFT_STATE_DIR="")
    count = "COPY (SELECT count(*) FROM beddit.sessions) TO STDOUT"
    asked = await nightshift.succeed(*commands[0][6:-1], "sql", count, NIGHTSHIFT_STATE_DIR="")
    assert asked.out == "2\n"
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


async def test_switches_are_listed_and_wrong_ones_are_explained(call, nightshift):
    """`--behave help` lists every switch with its values; a mistake is answered with the choice."""
    listed = call("emulate", "--behave", "help")
    assert listed.code == 0
    assert "order=updated (updated, start, shuffled)" in listed.out
    wrong = await nightshift.run("emulate", "--behave", "ordre=start")
    assert (wrong.code, "'ordre'" in wrong.err, "order=" in wrong.err) == (2, True, True)
    for switch, choice in (("order=backwards", "shuffled"), ("gzip=perhaps", "gzip cannot be")):
        with pytest.raises(ConfigurationError, match=choice):
            parse_behaviour([switch])
    assert parse_behaviour(["order=start", "gzip=yes", "limit_ceiling=5"]) == Behaviour(
        order=Order.START, gzip=True, limit_ceiling=5
    )


@pytest.mark.parametrize("port", ["--port", "--blob-port"])
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
    """--archive serves a folder's nights, one account for each user; what is no session is named."""
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
    ended = await nightshift.succeed(*commands[1][6:], "--json", NIGHTSHIFT_STATE_DIR="")
    assert [(line["account"], line["records"]) for line in ended.lines] == [("user42", {"night": 1})]
    process.send(signal.SIGINT)
    assert (await process.ended()).code == 130
