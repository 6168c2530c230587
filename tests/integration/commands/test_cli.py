"""The command line's promises: help, exit codes, configuration, signals, one warehouse for many processes."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
import time
from pathlib import Path

import pytest
from typer.main import get_command

from sync.cli import app
from sync.commands.emulated import lively_fleet
from sync.emulators.bace import BaceCloud, Behaviour, Fleet, Kind
from sync.emulators.beddit import BedditCloud, Fault, Study

ROOT = Path(__file__).parents[3]
DAY = 86_400
COMMANDS = sorted(get_command(app).commands)
SMALL = Study(users=(1001,), nights=2, hours=0.1)
PAIR = Study(users=(1001, 1002), nights=2, hours=0.1, raw_signal=False)
NOWHERE = "postgresql://nobody:hunter2secret@127.0.0.1:1/nowhere"


# --- help -----------------------------------------------------------------------------------------


def test_help_names_every_command_and_explains_the_exit_codes(call):
    """`nightshift --help` is enough to begin: each command with a sentence, exit codes, configuration."""
    ended = call("--help", COLUMNS="100")
    text = " ".join(ended.out.split())
    assert ended.code == 0
    for command in COMMANDS:
        assert re.search(rf"│ {command} +[A-Z]", text), command
    for promise in ("0 all done", "1 something failed", "2 the configuration", "130", "143", "demo"):
        assert promise in text


@pytest.mark.parametrize("command", COMMANDS)
def test_flags_ask_for_no_value(command):
    """In the help, an option that is on or off is followed by its sentence, not by the name of a type."""
    for parameter in get_command(app).commands[command].params:
        if getattr(parameter, "is_flag", False):
            assert parameter.metavar == "", parameter.name


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_and_option_is_documented(command):
    """No command and no option goes without a sentence."""
    documented = get_command(app).commands[command]
    assert documented.help
    assert len(documented.help) > 40
    for parameter in documented.params:
        assert getattr(parameter, "help", None), parameter.name


def test_the_readme_documents_every_command():
    """README's table of commands is complete."""
    readme = (ROOT / "README.md").read_text()
    assert "## Commands" in readme
    section = readme.split("## Commands", 1)[1].split("\n## ", 1)[0]
    missing = [name for name in COMMANDS if not re.search(rf"^\| *`{name}\b", section, re.MULTILINE)]
    assert missing == []


def test_version_needs_no_command(call):
    """`nightshift --version` prints name and version."""
    ended = call("--version")
    assert ended.code == 0
    assert re.fullmatch(r"nightshift \d+\.\d+\.\d+\n", ended.out)


async def test_the_console_command_is_the_module(nightshift):
    """`nightshift` and `python -m sync` do the same, and so does what is forked for the tests."""
    forked = await nightshift.succeed("config")
    by_module = await nightshift.succeed("config", PYTHONUNBUFFERED="1")  # which takes an interpreter's start
    nightshift.program = [str(Path(sys.executable).with_name("nightshift"))]
    assert (await nightshift.succeed("config")).out == by_module.out == forked.out


# --- configuration --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[warehouse]\ndns = 'x'\n", ["warehouse.dns", "did you mean dsn"]),
        ("[log]\nlevel = 'loud'\n", ["log.level", "debug"]),
        ("[beddit\n", ["nightshift.toml", "line 1"]),
        ("[beddit.accounts.ann]\nuser_id = 1\n", ["beddit.accounts.ann.token", "token_file"]),
    ],
)
def test_a_wrong_file_is_explained(call, folder, content, said):
    """What is wrong in the file is named, with what to do; exit code 2."""
    (folder / "nightshift.toml").write_text(content)
    ended = call("status")
    assert ended.code == 2
    assert all(words in ended.err for words in said), ended.err


def test_a_file_that_is_not_there_and_a_variable_that_does_not_exist_are_named(call):
    """A mistyped path or variable is no silent default."""
    missing = call("--config", "elsewhere.toml", "status")
    assert (missing.code, "elsewhere.toml" in missing.err) == (2, True)
    unknown = call("status", NIGHTSHIFT_WAREHOUSE__DNS="x")
    assert unknown.code == 2
    assert "NIGHTSHIFT_WAREHOUSE__DNS" in unknown.err
    assert "did you mean dsn" in unknown.err


@pytest.mark.parametrize("command", ["migrate", "once", "status"])
async def test_a_database_that_cannot_be_reached_is_a_configuration_error(nightshift, command):
    """Exit code 2, what to look at, and not the password."""
    variables = {
        "NIGHTSHIFT_WAREHOUSE__DSN": NOWHERE,
        "NIGHTSHIFT_BEDDIT__ACCOUNTS__ANN__USER_ID": "1",
        "NIGHTSHIFT_BEDDIT__ACCOUNTS__ANN__TOKEN": "token-of-ann",
    }
    ended = await nightshift.run(command, **variables)
    assert ended.code == 2
    assert "warehouse.dsn" in ended.err
    assert "Traceback" not in ended.err
    assert "hunter2secret" not in ended.err + ended.out


def test_a_choice_that_fits_nothing_is_refused_before_anything_is_made(call, folder):
    """No account, an unknown account or source, a span that ends before it begins: 2, and no warehouse."""
    ann = {
        "NIGHTSHIFT_BEDDIT__ACCOUNTS__ANN__USER_ID": "77",
        "NIGHTSHIFT_BEDDIT__ACCOUNTS__ANN__TOKEN": "token-of-ann",
    }
    nothing = call("once")
    assert (nothing.code, "nightshift demo" in nothing.err) == (2, True)
    account = call("once", "--account", "bob", **ann)
    assert (account.code, "'bob'" in account.err, "ann" in account.err) == (2, True, True)
    source = call("backfill", "--source", "fitbit", **ann)
    assert (source.code, "'fitbit'" in source.err, "beddit" in source.err) == (2, True, True)
    backwards = call("backfill", "--from", "2024-02-01", "--to", "2024-01-01", **ann)
    assert (backwards.code, "--from has to be before --to" in backwards.err) == (2, True)
    dated = call("backfill", "--archive", ".", "--from", "2024-01-01", **ann)
    assert (dated.code, "--archive" in dated.err) == (2, True)
    other = call("backfill", "--archive", ".", "--source", "bace", **ann)
    assert (other.code, "--archive" in other.err) == (2, True)
    none = call("status")
    assert (none.code, "demo --keep" in none.err) == (2, True)
    assert list(folder.iterdir()) == []


async def test_paths_may_be_relative_and_hold_spaces(nightshift, rows, database):
    """--config is relative to where one stands, paths in the file to the file; spaces are nothing special."""
    async with BedditCloud(PAIR) as cloud:
        config = nightshift.configure(cloud, 1001, path="my nights/the config.toml")
        (config.parent / "the dsn").write_text(f"{database}\n")
        config.write_text('state_dir = "a state"\n[warehouse]\ndsn_file = "the dsn"\n' + config.read_text())
        elsewhere = nightshift.folder / "else where"
        elsewhere.mkdir()
        ended = await nightshift.run(
            "--config", "../my nights/the config.toml", "once", cwd=elsewhere, NIGHTSHIFT_STATE_DIR=""
        )
    assert ended.code == 0, ended
    assert await rows(database, "SELECT count(*) FROM beddit.sessions") == [(2,)]
    assert not list(elsewhere.iterdir())


def test_the_example_is_a_configuration(call, folder):
    """`config --example > nightshift.toml` loads as it is, and changes nothing."""
    without = call("config")
    (folder / "nightshift.toml").write_text(call("config", "--example").out)
    assert without.code == 0
    assert "[beddit]" in without.out
    described = call("config").out
    assert described.splitlines()[1:] == without.out.splitlines()[1:]
    assert without.out.startswith("# from no file and 1 variable\n")
    assert described.startswith("# from nightshift.toml and 1 variable\n")


def test_config_shows_no_secret(call):
    """The effective configuration can be pasted into a question to others."""
    ended = call(
        "config",
        NIGHTSHIFT_WAREHOUSE__DSN=NOWHERE,
        NIGHTSHIFT_BEDDIT__ACCOUNTS__ANN__USER_ID="77",
        NIGHTSHIFT_BEDDIT__ACCOUNTS__ANN__TOKEN="token-of-ann",
    )
    assert "user_id = 77" in ended.out
    assert "hunter2secret" not in ended.out
    assert "token-of-ann" not in ended.out


# --- work and its report --------------------------------------------------------------------------


async def test_a_refused_account_stops_alone(on_server, rows, database):
    """Exit code 1: the other account is done, and the message says what to do; the token is in no output."""
    async with BedditCloud(PAIR) as cloud:
        on_server.configure(cloud, 1001, 1002)
        secret = cloud.token(1002)
        cloud.revoke(1002)
        ended = await on_server.run("once")
        plain = await on_server.run("once", "--json")
    assert ended.code == plain.code == 1
    assert await rows(database, "SELECT user_id, count(*) FROM beddit.sessions GROUP BY 1") == [(1001, 2)]
    assert re.search(r"beddit/user1001 .* ok\b", ended.out)
    assert re.search(r"beddit/user1002 .* failed\b", ended.out)
    assert "token" in ended.out.split("beddit/user1002")[-1]
    assert [(line["account"], line["ok"]) for line in plain.lines] == [
        ("user1001", True),
        ("user1002", False),
    ]
    assert "token" in plain.lines[1]["error"]
    assert secret not in ended.out + ended.err + plain.out + plain.err
    assert "Traceback" not in ended.err


async def test_what_a_vendor_says_cannot_steer_the_terminal(on_server):
    """Escape sequences and markup in an answer are shown as text."""
    page = b'{"error": "forbidden", "description": "[bold]no[/] \\u001b[31mway"}'
    async with BedditCloud(SMALL) as cloud:
        on_server.configure(cloud, 1001)
        cloud.fail_next(Fault(status=403, body=page), times=9)
        ended = await on_server.run("once")
    assert ended.code == 1
    assert "\x1b" not in ended.out
    assert "Traceback" not in ended.err


async def test_status_is_for_people_and_for_programs(on_server):
    """`status` tells where each stream is; `status --json` is one line with the same facts."""
    async with BedditCloud(PAIR) as cloud:
        on_server.configure(cloud, 1001, 1002)
        await on_server.succeed("once")
        shown = await on_server.succeed("status")
        (facts,) = (await on_server.succeed("status", "--json")).lines
    assert "4 nights in the warehouse" in shown.out
    assert "…" not in shown.out
    assert facts["nights"] == 4
    assert {stream["account"] for stream in facts["streams"]} == {"user1001", "user1002"}
    assert [run["outcome"] for run in facts["runs"]] == ["done", "done"]


async def test_status_names_what_is_open_and_what_is_incomplete(on_server):
    """Open data sessions are named with what is loaded, incomplete ones with the reason; of many, a few."""
    now = time.time()
    past = Fleet(
        sessions=7, devices=7, kinds=(Kind.BATTERY,), hours=(0.1, 0.2), first_start=int(now) - 3 * DAY
    )
    (running, *_) = (s for s in lively_fleet(1, seed=1, now=now) if s.exists(now) and s.end_at(now) is None)
    behaviour = Behaviour(count_error=2)
    async with BaceCloud([*past, running], behaviour=behaviour) as cloud:
        on_server.configure(None, bace=cloud)
        ended = await on_server.succeed("once")
        shown = await on_server.succeed("status")
        (facts,) = (await on_server.succeed("status", "--json")).lines
    assert re.search(r"bace/lab +8 sessions ", ended.out)
    assert "8 data sessions with " in shown.out
    assert "nights" not in shown.out.split("\n\n")[0]
    assert "data sessions  1 open, 7 incomplete" in shown.out
    assert re.search(rf"{re.escape(running.label)} +\d+ +the session has not ended", shown.out)
    assert shown.out.count("datapoints and serves fewer: ") == 5
    assert "and 2 more (status = 'incomplete' in bace.data_sessions)" in shown.out
    assert facts["data_sessions"] == {"open": 1, "incomplete": 7}
    assert [row["id_data_session"] for row in facts["open_data_sessions"]] == [running.id]
    assert {row["id_data_session"] for row in facts["incomplete_data_sessions"]} == {s.id for s in past}
    for row in facts["incomplete_data_sessions"]:
        assert row["datapoint_count"] == row["loaded_count"] + 2
        assert f"{row['loaded_count']} are stored" in row["status_reason"]
    loaded = [
        row["loaded_count"] for name in ("open", "incomplete") for row in facts[f"{name}_data_sessions"]
    ]
    assert facts["datapoints"] == sum(loaded)


async def test_one_source_and_one_account_can_be_chosen(on_server, rows, database):
    """`--source bace --account lab` leaves the other vendor alone."""
    async with BedditCloud(PAIR) as beddit, BaceCloud(Fleet(sessions=2)) as bace:
        on_server.configure(beddit, 1001, bace=bace)
        for command in ("once", "backfill"):
            ended = await on_server.succeed(command, "--source", "bace", "--account", "lab", "--json")
            assert [(line["source"], line["account"]) for line in ended.lines] == [("bace", "lab")]
        assert beddit.requests == ()
    assert await rows(database, "SELECT count(*), bool_and(status = 'complete') FROM bace.data_sessions") == [
        (2, True)
    ]


async def test_sql_is_psql(on_server):
    """A statement, a script on standard input, and an error's exit code."""
    asked = await on_server.succeed("sql", "COPY (SELECT 6 * 7) TO STDOUT")
    assert asked.out == "42\n"
    piped = await on_server.run("sql", stdin="COPY (SELECT 6 * 7) TO STDOUT;\n")
    assert (piped.code, piped.out) == (0, "42\n")
    assert (await on_server.run("sql", "SELECT * FROM nowhere")).code != 0


async def test_migrate_can_be_repeated(nightshift):
    """The first one makes the schema, the second says that it was there."""
    first = await nightshift.succeed("migrate")
    second = await nightshift.succeed("migrate")
    assert "was empty" in first.out
    assert "already was" in second.out


# --- signals --------------------------------------------------------------------------------------


class Halfway:
    """A cloud that falls silent in the middle: nights are in, the first raw signal never ends."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self.cloud = BedditCloud(SMALL, on_request=self._see)
        self.cloud.fail_next(Fault(stall=3600), host="blob", times=4)

    async def _see(self, request) -> None:
        if request.host == "blob":
            self.reached.set()

    async def wait(self) -> None:
        """Wait until the program is in the middle."""
        await asyncio.wait_for(self.reached.wait(), 60)


WHOLE = (
    "COPY (SELECT (SELECT count(*) FROM beddit.sessions), status, count(*) "
    "FROM beddit.sampled_tracks GROUP BY 2) TO STDOUT"
)


@pytest.mark.parametrize(
    ("signals", "code"),
    [([signal.SIGINT], 130), ([signal.SIGINT] * 3, 130), ([signal.SIGTERM], 143)],
    ids=["ctrl-c", "ctrl-c-again-and-again", "sigterm"],
)
async def test_a_signal_ends_work_in_order(nightshift, working_in, signals, code):
    """It ends with a sentence, closes its run and its server, keeps what was stored, and can go on."""
    halfway = Halfway()
    async with halfway.cloud as cloud:
        nightshift.configure(cloud, 1001)
        process = await nightshift.start("backfill")
        await halfway.wait()
        for number in signals:
            process.send(number)
        ended = await process.ended()
        assert ended.code == code
        said = [line for line in ended.err.splitlines() if line.startswith("nightshift:")]
        assert len(said) == 1
        assert "goes on from there" in said[0]
        assert "Traceback" not in ended.err
        assert working_in(nightshift.state) == []
        query = "COPY (SELECT outcome, stored >= 2 FROM sync.runs) TO STDOUT"
        assert (await nightshift.succeed("sql", query)).out == "interrupted\tt\n"
        cloud.faults.clear()
        await nightshift.succeed("backfill")
    assert (await nightshift.succeed("sql", WHOLE)).out == "2\tcomplete\t4\n"


async def test_killed_in_the_middle_it_goes_on(nightshift, working_in):
    """After kill -9 the same command adopts the server that was left, finishes the work, and stops it."""
    halfway = Halfway()
    async with halfway.cloud as cloud:
        nightshift.configure(cloud, 1001)
        process = await nightshift.start("backfill")
        await halfway.wait()
        process.send(signal.SIGKILL)
        assert (await process.ended()).code == -9
        cloud.faults.clear()
        await nightshift.succeed("backfill")
    assert working_in(nightshift.state) == []
    assert (await nightshift.succeed("sql", WHOLE)).out == "2\tcomplete\t4\n"


async def test_commands_share_the_embedded_warehouse(nightshift, working_in):
    """`status` and `sql` work while a backfill does; a second command leaves it its account, and says so."""
    halfway = Halfway()
    async with halfway.cloud as cloud:
        nightshift.configure(cloud, 1001)
        process = await nightshift.start("backfill")
        await halfway.wait()
        (facts,) = (await nightshift.succeed("status", "--json")).lines
        assert facts["nights"] == 2
        cloud.faults.clear()
        second = await nightshift.run("once")
        assert second.code == 1
        assert "`nightshift backfill` on" in second.out
        assert any("postgres" in name for name in working_in(nightshift.state))
        process.send(signal.SIGINT)
        assert (await process.ended()).code == 130
        assert working_in(nightshift.state) == []
        await nightshift.succeed("once")
    assert (await nightshift.succeed("sql", WHOLE)).out == "2\tcomplete\t4\n"


async def test_psql_ends_with_us_and_leaves_no_server(nightshift, working_in):
    """Closing the terminal of an open `sql` (or SIGTERM) ends psql and the embedded server."""
    await nightshift.succeed("migrate")
    process = await nightshift.start("sql")
    assert process.handle.stdin is not None
    process.handle.stdin.write(b"SELECT 'looking';\n")
    while "looking" not in await process.line():
        pass
    process.send(signal.SIGHUP)
    assert (await process.ended()).code == 129
    assert working_in(nightshift.folder) == []


async def test_a_reader_that_leaves_early_is_no_crash(on_server):
    """`nightshift config --example | head -1` ends without a traceback."""
    process = await on_server.start("config", "--example")
    assert process.handle.stdout is not None
    process.handle.stdout._transport.close()
    ended = await process.handle.wait()
    assert process.handle.stderr is not None
    assert b"Traceback" not in await process.handle.stderr.read()
    assert ended in {0, 1}


async def test_logs_are_json_lines_without_a_terminal(on_server):
    """Standard error holds one JSON event a line, standard output only the result."""
    async with BedditCloud(PAIR) as cloud:
        on_server.configure(cloud, 1001)
        ended = await on_server.succeed("once", "--json")
    events = [json.loads(line) for line in ended.err.splitlines()]
    assert {event["event"] for event in events} == {"run.finished"}
    assert [line["records"] for line in ended.lines] == [{"night": 2}]


async def test_root_leaves_nothing_in_the_folder_of_another_user(nightshift, not_tested):
    """A work command of root beside a service that runs as somebody else says whom to be."""
    if os.geteuid() != 0:
        not_tested("root beside a service", "only root can try it")
    nightshift.configure(None)
    nightshift.state.mkdir(parents=True, exist_ok=True)
    os.chown(nightshift.state, 12345, 12345)
    with_account = "[beddit.accounts.a]\nuser_id = 1\ntoken = 't0ken'\n"
    (nightshift.folder / "nightshift.toml").write_text(with_account)
    ended = await nightshift.run("once")
    assert ended.code == 2
    assert "belongs to user 12345" in ended.err
    assert list(nightshift.state.iterdir()) == []
