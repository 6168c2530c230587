"""The summaries of nights: with each night from the moment it is stored, and of those stored before."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from datetime import UTC, date, datetime
from typing import Any

import asyncpg
import numpy as np
import pytest
from alembic import command

from sync.emulators.beddit import Study
from sync.model import Task
from sync.sources.beddit.summary import summarise
from sync.sources.beddit.tables import SESSIONS
from sync.storage.migrate import migrate

USER = 1001
EVENING = 1431810000.25  # 2015-05-16 21:00 UTC
STUDY = Study(users=(USER,), nights=3, hours=0.5)
FIGURES = SESSIONS.table.column_names[SESSIONS.table.column_names.index("extra") + 1 :]
TRACKS = ("heart_rate", "respiration_cycles", "actigram", "snoring_events")
BEFORE = "0006"

# What a researcher would write, value by value.
BY_HAND = """
    SELECT session_id,
           avg(value) FILTER (WHERE track = 'heart_rate') AS heart_rate_mean,
           min(value) FILTER (WHERE track = 'heart_rate') AS heart_rate_min,
           max(value) FILTER (WHERE track = 'heart_rate') AS heart_rate_max,
           count(*) FILTER (WHERE track = 'heart_rate') AS heart_rate_count,
           60 / avg(value) FILTER (WHERE track = 'respiration_cycles') AS respiration_rate_mean,
           count(*) FILTER (WHERE track = 'respiration_cycles') AS respiration_cycle_count,
           sum(value) FILTER (WHERE track = 'respiration_cycles') AS respiration_cycle_seconds,
           avg(value) FILTER (WHERE track = 'actigram') AS actigram_mean,
           min(value) FILTER (WHERE track = 'actigram') AS actigram_min,
           max(value) FILTER (WHERE track = 'actigram') AS actigram_max,
           sum(value) FILTER (WHERE track = 'actigram') AS actigram_sum,
           count(*) FILTER (WHERE track = 'actigram') AS actigram_count,
           count(*) FILTER (WHERE track = 'snoring_events') AS snoring_event_count,
           coalesce(sum(value) FILTER (WHERE track = 'snoring_events'), 0) AS snoring_seconds,
           max(value) FILTER (WHERE track = 'snoring_events') AS snoring_longest_seconds
    FROM beddit.track_values GROUP BY session_id ORDER BY session_id
"""


async def summary_of(pipeline: Any, session_id: int) -> dict[str, Any]:
    """A night's row."""
    (row,) = await pipeline.fetch("SELECT * FROM beddit.night_summaries WHERE session_id = $1", session_id)
    return dict(row)


async def test_each_night_comes_with_what_a_researcher_would_compute(open_pipeline: Any) -> None:
    """One row a session, and its figures are those of a query over every value."""
    pipeline = await open_pipeline(STUDY)
    await pipeline.once()
    rows = await pipeline.fetch("SELECT * FROM beddit.night_summaries ORDER BY session_id")
    by_hand = await pipeline.fetch(BY_HAND)
    assert [row["session_id"] for row in rows] == sorted(pipeline.cloud.truth(USER))
    for row, expected in zip(rows, by_hand, strict=True):
        assert expected["heart_rate_count"] > 0
        for name, figure in expected.items():
            assert row[name] == (None if figure is None else pytest.approx(figure, rel=1e-12)), name
        session = pipeline.cloud.truth(USER)[row["session_id"]]
        length = session["end_timestamp"] - session["start_timestamp"]
        assert row["time_in_bed_seconds"] == pytest.approx(length, abs=1e-6)


async def test_a_night_is_that_of_the_morning_where_it_was_slept(open_pipeline: Any, night: Any) -> None:
    """The local date of its end, its zone and its instants stand beside the figures."""
    pipeline = await open_pipeline(tokens={USER: "token"})
    pipeline.cloud.put(USER, night(EVENING, length=8 * 3600.0, timezone="Asia/Tokyo"))
    await pipeline.once()
    row = await summary_of(pipeline, int(EVENING))
    assert row["night"] == date(2015, 5, 17)
    assert row["timezone"] == "Asia/Tokyo"
    assert row["started_at"] == datetime(2015, 5, 16, 21, 0, 0, 250_000, tzinfo=UTC)
    assert row["time_in_bed_seconds"] == 28_800.0


async def test_a_newer_version_replaces_its_summary(open_pipeline: Any, night: Any) -> None:
    """Figures of tracks that the newer version has no more are gone, too."""
    pipeline = await open_pipeline(tokens={USER: "token"})
    pipeline.cloud.put(USER, night(EVENING))
    await pipeline.once()
    before = await summary_of(pipeline, int(EVENING))
    assert (before["heart_rate_count"], before["heart_rate_mean"]) == (2, pytest.approx(50.05))
    tracks = {"snoring_events": {"items": [[30, 9], [60, 3]]}}
    pipeline.cloud.put(USER, night(EVENING, length=700.0, time_value_tracks=tracks))
    await pipeline.once()
    after = await summary_of(pipeline, int(EVENING))
    assert after == before | {
        "ended_at": datetime.fromtimestamp(EVENING + 700, UTC),
        "time_in_bed_seconds": 700.0,
        **{name: None for name in before if name.startswith("heart_rate")},
        "snoring_event_count": 2,
        "snoring_seconds": 12.0,
        "snoring_longest_seconds": 9.0,
    }


STRANGE = {
    "nothing": {"time_value_tracks": {}},
    "no end": {"end_timestamp": None},
    "an end before its start": {"end_timestamp": EVENING - 1},
    "the year 9999": {"end_timestamp": 253_402_300_799.0},
    "no measurements": {
        "time_value_tracks": {track: {"items": [[0, 1.7e308], [1, 1.7e308]]} for track in TRACKS}
    },
    "next to nothing": {
        "time_value_tracks": {track: {"items": [[0, 5e-324], [1, 5e-324]]} for track in TRACKS}
    },
    "only rejects": {"time_value_tracks": {track: {"items": "none"} for track in TRACKS}},
}


@pytest.mark.parametrize("fields", STRANGE.values(), ids=STRANGE.keys())
async def test_a_strange_night_has_a_row_all_the_same(open_pipeline: Any, night: Any, fields: Any) -> None:
    """What cannot be told is NULL; nothing fails, and no figure is no number."""
    pipeline = await open_pipeline(tokens={USER: "token"})
    pipeline.cloud.put(USER, night(EVENING, **fields))
    await pipeline.once()
    row = await summary_of(pipeline, int(EVENING))
    assert all(math.isfinite(value) for value in row.values() if isinstance(value, float))
    if row["ended_at"] is None or row["ended_at"] < row["started_at"]:
        assert row["time_in_bed_seconds"] is None
    if fields == STRANGE["nothing"]:
        assert {row[name] for name in FIGURES} == {None}


async def test_verify_finds_a_wrong_figure_and_mends_it(open_pipeline: Any) -> None:
    """A summary that is not that of its tracks is a difference, which says in what."""
    pipeline = await open_pipeline(STUDY)
    await pipeline.once()
    first = min(pipeline.cloud.truth(USER))
    before = await summary_of(pipeline, first)
    await pipeline.pool.execute(
        "UPDATE beddit.session_records SET heart_rate_mean = heart_rate_mean + 1 WHERE session_id = $1", first
    )
    (outcome,) = await pipeline.run(Task("verify"))
    assert outcome.error is None
    (found,) = await pipeline.fetch("SELECT * FROM sync.differences WHERE resolved_at IS NULL")
    assert (found["item_key"], found["kind"]) == (f"{USER}/{first}", "content")
    assert found["text"].endswith("heart_rate_mean")
    await pipeline.run(Task("verify", repair=True))
    assert await pipeline.fetch("SELECT * FROM sync.differences WHERE resolved_at IS NULL") == []
    assert await summary_of(pipeline, first) == before


# --- nights that were stored before ----------------------------------------------------------------


def old_nights() -> list[dict[str, Sequence[float]]]:
    """Tracks of nights: plain, long, empty, missing, and with what must be left out."""
    chance = random.Random(7)  # noqa: S311
    odd = [math.nan, math.inf, -math.inf, 1e30, 1.1e30, -1e30, 1.7e308, 1e-6, 0.9e-6, 5e-324, 0.0, -1.0]
    nights: list[dict[str, Sequence[float]]] = [
        {},
        dict.fromkeys(TRACKS, ()),
        dict.fromkeys(TRACKS, odd),
        dict.fromkeys(TRACKS, (0.1,)),
        {track: [chance.lognormvariate(1, 3) for _ in range(20_000)] for track in TRACKS},
        {"heartbeat": [1.0], "respiration_cycles": [1.7e308, 0.0]},
    ]
    nights += [
        {
            track: [chance.choice([chance.gauss(50, 30), chance.choice(odd)]) for _ in range(size)]
            for track in (*TRACKS, "events")
            if chance.random() < 0.7
            for size in [chance.randrange(30)]
        }
        for _ in range(60)
    ]
    return nights


async def test_nights_of_an_older_warehouse_get_the_same_summaries(
    empty_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The migration gives each the figures that it would have if it came today, every one of them equal."""
    upgrade = command.upgrade
    with monkeypatch.context() as patch:
        patch.setattr(command, "upgrade", lambda config, _: upgrade(config, BEFORE))
        await migrate(empty_database)
    nights = old_nights()
    connection = await asyncpg.connect(empty_database)
    for number, tracks in enumerate(nights):  # of two users, who slept at the same times
        await store_as_before(connection, number % 2, number // 2, tracks)
    await migrate(empty_database)
    rows = await connection.fetch("SELECT * FROM beddit.session_records ORDER BY session_id, user_id")
    await connection.close()
    none = dict.fromkeys(FIGURES)
    for row, tracks in zip(rows, nights, strict=True):
        arrays = {name: np.array(values, np.float64) for name, values in tracks.items()}
        assert {name: row[name] for name in FIGURES} == none | dict(summarise(arrays))


async def store_as_before(
    connection: asyncpg.Connection, user: int, session: int, tracks: dict[str, Sequence[float]]
) -> None:
    """Store a night as the tables of then have it."""
    start = datetime.fromtimestamp(session, UTC)
    await connection.execute(
        "INSERT INTO beddit.session_records (user_id, session_id, start_timestamp, started_at, night, digest)"
        " VALUES ($1, $2, 0, $3, '1970-01-01', '')",
        user,
        session,
        start,
    )
    for track, values in tracks.items():
        await connection.execute(
            'INSERT INTO beddit.track_arrays (session_id, user_id, track, offsets, times, "values")'
            " VALUES ($1, $2, $3, $4, $5, $4)",
            session,
            user,
            track,
            values,
            [start] * len(values),
        )
