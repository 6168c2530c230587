"""``backfill --archive``: a folder of saved nights, through the same door as the cloud's answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

NIGHT = 1_710_000_000


def night(number: int, **changes: Any) -> dict[str, Any]:
    """A saved session of three points."""
    start = NIGHT + number * 86_400
    return {
        "id": start,
        "start_timestamp": start + 0.5,
        "end_timestamp": start + 3600.5,
        "timezone": "Europe/Helsinki",
        "hardware": "2.0/7d41c0a",
        "software": "2.5.2 (281)",
        "frame_length": 0.2,
        "error_code": 0,
        "updated": start + 3602.25,
        "time_value_tracks": {
            "heart_rate": {"value_data_type": "float32", "items": [[0, 61.5], [30, 60], [60.5, 59.25]]}
        },
    } | changes


SLEEP = {"date": "2024-03-10", "properties": {"resting_heart_rate": 50}, "start_timestamp": NIGHT}


def save(path: Path, value: Any) -> Path:
    """Write JSON as Python does, which knows NaN."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return path


SESSIONS = "SELECT user_id, session_id FROM beddit.sessions ORDER BY 1, 2"
REJECTS = "SELECT reason FROM sync.rejects WHERE resolved_at IS NULL"


async def test_a_folder_as_people_have_it_is_loaded(on_server, rows, database):
    """Sessions load whatever surrounds them; files that are none are named with the reason."""
    nights = on_server.folder / "saved nights"
    save(nights / "2016.json", [night(0), night(1)])
    save(nights / "one.json", night(2))
    save(nights / "1003" / "a" / "other.json", [night(0)])
    save(nights / "sleep.json", SLEEP)
    save(nights / "notes [draft].txt", "slept badly")
    save(nights / "cut.json", json.dumps([night(3), night(4)])[:-200])
    ended = await on_server.succeed("backfill", "--archive", "saved nights")
    assert await rows(database, SESSIONS) == [
        *[(1, NIGHT + number * 86_400) for number in (0, 1, 2, 3)],
        (1003, NIGHT),
    ]
    for name, what in (
        ("sleep.json", "passed over"),
        ("notes [draft].txt", "passed over"),
        ("cut.json", "damaged"),
    ):
        (line,) = [line for line in ended.out.splitlines() if name in line]
        assert line.startswith(what), line
    assert "sleep" in next(line for line in ended.out.splitlines() if "sleep.json" in line).split(":", 1)[1]
    assert await rows(database, REJECTS) == []
    values = await rows(
        database,
        "SELECT index, offset_seconds, value FROM beddit.track_values WHERE user_id = 1003 ORDER BY index",
    )
    assert values == [(0, 0.0, 61.5), (1, 30.0, 60.0), (2, 60.5, 59.25)]


async def test_again_writes_nothing_and_then_only_what_is_new(on_server):
    """A folder can be loaded as often as one likes; a file that was added is all that is stored."""
    nights = on_server.folder / "nights"
    save(nights / "a.json", [night(0), night(1)])
    first, again = [
        (await on_server.succeed("backfill", "--archive", "nights", "--json")).lines[-1] for _ in range(2)
    ]
    save(nights / "b.json", night(2))
    more = (await on_server.succeed("backfill", "--archive", "nights", "--json")).lines[-1]
    size = first["read"] // 2  # the items of one such night
    assert size >= 3
    assert [(line["stored"], line["unchanged"]) for line in (first, again, more)] == [
        (2 * size, 0),
        (0, 2 * size),
        (size, 2 * size),
    ]


async def test_the_notes_are_json_too(on_server):
    """With --json every line of the report parses, notes about files included."""
    nights = on_server.folder / "nights"
    save(nights / "a.json", [night(0)])
    save(nights / "readme", "hello")
    lines = (await on_server.succeed("backfill", "--archive", "nights", "--json")).lines
    assert [(Path(line["file"]).name, line["what"]) for line in lines[:-1]] == [("readme", "passed over")]
    assert lines[-1]["records"] == {"night": 1}


async def test_what_is_malformed_becomes_a_reject_and_the_rest_loads(on_server, rows, database):
    """NaN, an element that is no session, a session without `updated`: nothing stops, nothing is lost."""
    odd = night(0)
    odd["time_value_tracks"]["heart_rate"]["items"][1] = [30, float("nan")]
    without = night(1)
    del without["updated"]
    nights = on_server.folder / "nights"
    save(nights / "odd.json", [odd, 17, {"start_timestamp": "soon"}, without, SLEEP])
    ended = await on_server.succeed("backfill", "--archive", "nights", "--json")
    assert await rows(database, SESSIONS) == [(1, NIGHT), (1, NIGHT + 86_400)]
    kept = await rows(
        database,
        "SELECT offset_seconds, value FROM beddit.track_values WHERE session_id = $1 ORDER BY 1",
        NIGHT,
    )
    assert kept == [(0.0, 61.5), (60.5, 59.25)]
    assert len(await rows(database, REJECTS)) == 3  # the NaN, the 17, the start that is no instant
    line = ended.lines[-1]
    assert line["rejected"] == 3
    assert line["read"] == line["stored"] + line["unchanged"] + line["rejected"]


async def test_saved_samples_are_loaded_and_old_addresses_are_not_asked(on_server, rows, database):
    """Samples saved beside a session arrive; a track that only has a dead address is absent."""
    tracks = {
        "normal": {
            "samples_per_frame": 28,
            "data_type": "uint16",
            "data_url": "https://bedditcloud-sleepdata.example/gone?Signature=abc",
        },
        "noise": {"samples_per_frame": 2, "data_type": "float32", "data_url": "https://gone.example/n"},
    }
    nights = on_server.folder / "nights"
    save(nights / "a.json", [night(0, end_timestamp=NIGHT + 1.5, sampled_tracks=tracks)])
    samples = np.arange(140, dtype="<u2")
    (nights / f"{NIGHT}_normal.bin").write_bytes(samples.tobytes())
    ended = await on_server.succeed("backfill", "--archive", "nights")
    states = await rows(
        database, "SELECT track, status, sample_count FROM beddit.sampled_tracks ORDER BY track"
    )
    assert [(track, status) for track, status, _ in states] == [("noise", "absent"), ("normal", "complete")]
    stored = await rows(database, "SELECT value FROM beddit.samples ORDER BY index")
    assert [value for (value,) in stored] == [float(number) for number in range(140)]
    assert "Signature" not in ended.out + ended.err


async def test_a_folder_without_sessions_is_a_mistake(on_server):
    """An empty folder, a folder of something else and one that is not there: exit code 2, and why."""
    (on_server.folder / "empty").mkdir()
    save(on_server.folder / "other" / "sleep.json", SLEEP)
    empty = await on_server.run("backfill", "--archive", "empty")
    other = await on_server.run("backfill", "--archive", "other")
    missing = await on_server.run("backfill", "--archive", "missing")
    assert [ended.code for ended in (empty, other, missing)] == [2, 2, 2]
    assert "no session" in empty.err
    assert "sleep.json" in other.err
    assert "missing" in missing.err
    assert all("Traceback" not in ended.err for ended in (empty, other, missing))


async def test_account_says_whose_files_without_a_folder_are(on_server, rows, database):
    """With --account the user of that account owns what no folder names a user for."""
    save(on_server.folder / "nights" / "a.json", [night(0)])
    variables = {
        "NIGHTSHIFT_BEDDIT__ACCOUNTS__ANN__USER_ID": "77",
        "NIGHTSHIFT_BEDDIT__ACCOUNTS__ANN__TOKEN": "token-of-ann",
    }
    await on_server.succeed("backfill", "--archive", "nights", "--account", "ann", **variables)
    unknown = await on_server.run("backfill", "--archive", "nights", "--account", "bob", **variables)
    assert await rows(database, SESSIONS) == [(77, NIGHT)]
    assert (unknown.code, "'bob'" in unknown.err) == (2, True)


async def test_a_start_that_is_no_time_stops_no_other_night(on_server, rows, database):
    """A session whose start is in milliseconds is one reject with its reason; all others load."""
    nights = [night(0), night(1), night(2) | {"start_timestamp": (NIGHT + 172_800) * 1000.0}]
    save(on_server.folder / "saved" / "nights.json", nights)
    await on_server.succeed("backfill", "--archive", "saved")
    assert await rows(database, SESSIONS) == [(1, NIGHT), (1, NIGHT + 86_400)]
    assert await rows(database, REJECTS) == [("a session has no usable start_timestamp",)]
