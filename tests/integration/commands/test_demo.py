"""The demonstration: what a newcomer sees first."""

from __future__ import annotations

import re
import shlex

import pytest

from sync.commands.demo import QUERIES

CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f]")


async def test_without_a_terminal_it_prints_plain_text_that_is_not_cut_and_nothing_stays(
    nightshift, folder, working_in
):
    """No colours, bars or ellipses stand in a pipe, the table fits 80 columns; no folder or server stays."""
    before = sorted(folder.rglob("*"))
    ended = await nightshift.succeed("demo", "--nights", "1", "--sessions", "4", COLUMNS="20")
    assert not CONTROL.search(ended.out + ended.err)
    assert "…" not in ended.out
    assert "━" not in ended.err
    said = " ".join(ended.out.split())
    assert "Beddit 2 nights of 2 sleepers" in said
    assert re.search(r"BACE \d+ data sessions of \d+ devices: 4 proved complete, [1-9] are still open", said)
    assert "Both 0 rejects" in said
    nights, sessions = (
        ended.out[ended.out.index(head) :].split("\n\n")[0].splitlines() for head in ("night  ", "began  ")
    )
    assert [line.split()[1] for line in nights[1:]] == ["ada", "ben"]
    assert any(" complete " in line for line in sessions)
    assert any(" open " in line for line in sessions)
    shown = ended.out[: ended.out.index("To try these")]
    assert max(map(len, shown.splitlines())) <= 80
    assert sorted(folder.rglob("*")) == before
    assert working_in(folder) == []


async def test_a_kept_warehouse_holds_what_was_said_and_can_be_kept_again(nightshift):
    """--json's numbers are the warehouse's; `sql` and `status` find it; nobody loses it while looking."""
    (said,) = (await nightshift.succeed("demo", "--keep", "--nights", "1", "--json")).lines
    query = (
        "COPY (SELECT (SELECT count(*) FROM beddit.sessions), (SELECT count(*) FROM beddit.track_values), "
        "(SELECT count(*) FROM beddit.samples), (SELECT count(*) FROM sync.rejects), "
        "(SELECT sum(requests) FROM sync.runs), (SELECT count(*) FROM bace.data_sessions), "
        "(SELECT count(*) FROM bace.data_sessions WHERE status = 'complete'), "
        "(SELECT count(*) FROM bace.data_sessions WHERE status = 'open'), "
        "(SELECT count(*) FROM bace.datapoints)) TO STDOUT"
    )
    asked = await nightshift.succeed("sql", query)
    numbers = [int(word) for word in asked.out.split()]
    beddit = ("nights", "points", "samples", "rejects", "requests")
    bace = ("data_sessions", "complete_sessions", "open_sessions", "datapoints")
    assert numbers == [said[name] for name in (*beddit, *bace)]
    assert numbers[0] == 2
    assert said["complete_sessions"] == 24
    assert said["open_sessions"] == said["data_sessions"] - 24 > 0
    assert "no warehouse of your own" in asked.err
    assert str(nightshift.state / "demo") in asked.err.replace("\n", "")
    status = await nightshift.succeed("status")
    assert "2 nights in the warehouse" in status.out
    assert f"{said['data_sessions']} data sessions with {said['datapoints']:,} datapoints" in status.out
    assert f"24 complete, {said['open_sessions']} open" in status.out
    assert "beddit/ada" in status.out
    assert "bace/lab" in status.out

    looking = await nightshift.start("sql")
    assert looking.handle.stdin is not None
    looking.handle.stdin.write(b"\\t\nSELECT 'looking';\n")
    while "looking" not in await looking.line():
        pass
    refused = await nightshift.run("demo", "--keep", "--nights", "2")
    assert refused.code == 2
    assert "is in use" in refused.err
    looked = await looking.ended("SELECT count(*) AS nights FROM beddit.sessions;\n")
    assert looked.out.split() == ["2"]
    again = await nightshift.succeed("demo", "--keep", "--nights", "2", "--sessions", "1", "--json")
    assert [line["nights"] for line in again.lines] == [4]


async def test_the_printed_commands_work_as_they_are(nightshift):
    """Each command printed after --keep can be pasted into a shell, and finds rows."""
    ended = await nightshift.succeed("demo", "--keep", "--nights", "1", "--sessions", "4")
    printed = [line for line in ended.out.splitlines() if " sql " in line]
    assert len(printed) == len(QUERIES) == 3
    for line in printed:
        # In double quotes a shell leaves alone what has none of these.
        assert not re.search(r"[$`!\\]", line)
        words = shlex.split(line)
        assert words[:3] == [*nightshift.program][:3]
        answer = await nightshift.succeed(*words[3:])
        assert re.search(r"\([1-9]\d* rows?\)", answer.out), line


async def test_next_to_a_warehouse_of_ones_own_the_printed_commands_name_the_demo(nightshift):
    """Who has data already is not sent to it by the demonstration's commands."""
    await nightshift.succeed("migrate")
    ended = await nightshift.succeed("demo", "--keep", "--nights", "1", "--sessions", "1")
    words = shlex.split(next(line for line in ended.out.splitlines() if " sql " in line))
    names = words[words.index("env") : words.index(nightshift.program[0])]
    assert "NIGHTSHIFT_STATE_DIR" in names  # it would override the demo's own
    count = "COPY (SELECT count(*) FROM beddit.sessions) TO STDOUT"
    answer = await nightshift.succeed(*words[words.index("--config") : -1], count, NIGHTSHIFT_STATE_DIR="")
    assert answer.out.strip() == "2"
    own = await nightshift.succeed("sql", count)
    assert own.out.strip() == "0"


@pytest.mark.parametrize(("option", "value"), [("--nights", "0"), ("--nights", "401"), ("--sessions", "x")])
def test_an_impossible_number_is_refused(call, option, value):
    """Bad options end with exit code 2 and name the option."""
    ended = call("demo", option, value)
    assert ended.code == 2
    assert option in ended.err
