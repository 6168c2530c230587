"""The figures of a night: what they are of, and what they leave out."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sync.sources.beddit.decode import decode_session
from sync.sources.beddit.summary import LARGEST, SHORTEST, summarise
from sync.sources.beddit.tables import SESSIONS

TRACKS = ("heart_rate", "respiration_cycles", "actigram", "snoring_events")
READINGS = ("heart_rate", "actigram")
LENGTHS = ("respiration_cycles", "snoring_events")

NUMBERS = st.floats() | st.floats(min_value=-100, max_value=100) | st.sampled_from([LARGEST, SHORTEST, -0.0])
NIGHTS = st.dictionaries(st.sampled_from([*TRACKS, "heartbeat"]), st.lists(NUMBERS, max_size=20))


def summary(**tracks: Sequence[float]) -> dict[str, Any]:
    """The figures of a night that has these tracks."""
    return dict(summarise({name: np.array(values, np.float64) for name, values in tracks.items()}))


def decoded(**tracks: Any) -> dict[str, Any]:
    """The row of a session whose tracks have these items."""
    fields = {
        "id": 7,
        "start_timestamp": 1431835725.0,
        "time_value_tracks": {name: {"items": items} for name, items in tracks.items()},
    }
    record = decode_session(json.dumps(fields).encode(), 1001).record
    assert record is not None
    return dict(record.row)


def test_the_figures_of_a_plain_night() -> None:
    """By hand: what a person would write down of four short tracks."""
    assert summary(
        heart_rate=[60, 50, 55],
        respiration_cycles=[3, 4, 5],
        actigram=[0, 1000, 500],
        snoring_events=[30, 90],
        heartbeat=[1],
    ) == {
        "heart_rate_count": 3,
        "heart_rate_mean": 55.0,
        "heart_rate_min": 50.0,
        "heart_rate_max": 60.0,
        "respiration_cycle_count": 3,
        "respiration_cycle_seconds": 12.0,
        "respiration_rate_mean": 15.0,
        "actigram_count": 3,
        "actigram_sum": 1500.0,
        "actigram_mean": 500.0,
        "actigram_min": 0.0,
        "actigram_max": 1000.0,
        "snoring_event_count": 2,
        "snoring_seconds": 120.0,
        "snoring_longest_seconds": 90.0,
    }


def test_every_figure_has_a_column() -> None:
    """What no column is called after would be lost without a word."""
    figures = summary(**{track: [1.0] for track in TRACKS})
    assert None not in figures.values()
    columns = SESSIONS.table.column_names
    assert set(figures) == set(columns[columns.index("extra") + 1 :])


def test_the_rate_of_respiration_is_of_the_time_that_the_cycles_took() -> None:
    """Two seconds of fast breaths do not outweigh ten of slow ones: six cycles in twelve seconds."""
    assert summary(respiration_cycles=[0.5] * 4 + [5] * 2)["respiration_rate_mean"] == 30.0


def test_a_track_that_is_empty_is_another_thing_than_one_that_is_missing() -> None:
    """No snoring was met: 0 seconds of it. Nobody looked for snoring: no figure at all."""
    figures = summary(snoring_events=[], heart_rate=[])
    assert figures == {
        "heart_rate_count": 0,
        "heart_rate_mean": None,
        "heart_rate_min": None,
        "heart_rate_max": None,
        "snoring_event_count": 0,
        "snoring_seconds": 0.0,
        "snoring_longest_seconds": None,
    }


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1.1e30, -1.1e30, 1.7e308])
@pytest.mark.parametrize("track", TRACKS)
def test_what_is_no_measurement_is_left_out(track: str, value: float) -> None:
    """Values that are not finite, or beyond all measure, change no figure of their neighbours."""
    assert summary(**{track: [3.0, value, 4.0]}) == summary(**{track: [3.0, 4.0]})


@pytest.mark.parametrize("value", [0.0, -0.0, -3.0, 5e-324, 0.9e-6])
@pytest.mark.parametrize("track", LENGTHS)
def test_what_has_no_length_is_neither_a_cycle_nor_an_event(track: str, value: float) -> None:
    """A length below the resolution of time would make a rate of any size."""
    assert summary(**{track: [3.0, value]}) == summary(**{track: [3.0]})
    assert 0 in summary(**{track: [value]}).values()


@given(NIGHTS)
@settings(deadline=None)
def test_they_are_what_a_plain_program_computes(night: dict[str, list[float]]) -> None:
    """Equal to loops over the values, in their order, whatever the values are."""
    figures = summary(**night)
    assert figures.keys() == {column for track in night for column in columns_of(track)}
    for track, values in night.items():
        assert [figures[column] for column in columns_of(track)] == plainly(track, values)
    assert not any(math.isnan(figure) for figure in figures.values() if figure is not None)


def columns_of(track: str) -> tuple[str, ...]:
    """The figures of a track."""
    match track:
        case "heart_rate":
            return tuple(f"heart_rate_{name}" for name in ("count", "mean", "min", "max"))
        case "actigram":
            return tuple(f"actigram_{name}" for name in ("count", "sum", "mean", "min", "max"))
        case "respiration_cycles":
            return ("respiration_cycle_count", "respiration_cycle_seconds", "respiration_rate_mean")
        case "snoring_events":
            return ("snoring_event_count", "snoring_seconds", "snoring_longest_seconds")
        case _:
            return ()


def plainly(track: str, values: list[float]) -> list[float | None]:
    """The same figures, one value after the other."""
    if track in LENGTHS:
        good = [value for value in values if SHORTEST <= value <= LARGEST]
    else:
        good = [value for value in values if -LARGEST <= value <= LARGEST]
    total = 0.0
    for value in good:
        total += value
    count = len(good)
    mean = total / count if count else None
    least, most = (min(good), max(good)) if good else (None, None)
    match track:
        case "heart_rate":
            return [count, mean, least, most]
        case "actigram":
            return [count, total, mean, least, most]
        case "respiration_cycles":
            return [count, total, 60 * count / total if count else None]
        case "snoring_events":
            return [count, total, most]
        case _:
            return []


# --- in a session's row ----------------------------------------------------------------------------


def test_a_session_carries_the_figures_of_the_items_that_are_stored() -> None:
    """Items that are no pairs of numbers are rejects, and in no figure."""
    row = decoded(heart_rate=[[30, 50], [60, None], "x", [90, 60]])
    assert (row["heart_rate_count"], row["heart_rate_mean"]) == (2, 55.0)


def test_the_figures_leave_the_digest_as_it_was() -> None:
    """Nights that were stored before there were figures are the same nights, and not fetched again."""
    row = decoded(heart_rate=[[30, 50]])
    assert row["digest"].hex() == "5d1ebe4743339bef85c2ef29a556eff3798b01baa610a341a5902b10ec74306f"
