"""What a night's tracks come to: the figures of ``beddit.night_summaries``. Pure and total.

What a track's values are is from the vendor's session documentation (``beddit-session-resource``):

* ``heart_rate``: a reading for every 30 seconds whose signal could be analysed. All have the same weight, and
  none is held over the gap behind it.
* ``respiration_cycles``: lengths, sound for an average rate and nothing else: so many cycles in the time that
  they took.
* ``actigram``: movement, one value for an epoch; epochs are equally long.
* ``snoring_events``: lengths.

Sums are taken one value after the other, as PostgreSQL takes them: its figures are equal, not only close.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

LARGEST = 1e30
"""Beyond it nothing is a measurement, and a sum might leave float64."""

SHORTEST = 1e-6
"""Seconds: the resolution of time. What is not as long has no length."""

Values: TypeAlias = NDArray[np.float64]
Summary: TypeAlias = Mapping[str, float | int | None]


def summarise(tracks: Mapping[str, Values]) -> Summary:
    """The figures of a night, by column. Those of a track that it has not are left out.

    Of a track without values the counts and sums are 0, and the other figures None.

    Args:
        tracks: The values of the night's time-value tracks.
    """
    return {
        column: figure
        for track, figures in _FIGURES.items()
        if track in tracks
        for column, figure in figures(tracks[track]).items()
    }


def _heart_rate(values: Values) -> Summary:
    readings = _measured(values)
    return {
        "heart_rate_count": len(readings),
        "heart_rate_mean": _mean(readings),
        "heart_rate_min": _least(readings),
        "heart_rate_max": _most(readings),
    }


def _respiration(values: Values) -> Summary:
    lengths = _lasting(values)
    return {
        "respiration_cycle_count": len(lengths),
        "respiration_cycle_seconds": _sum(lengths),
        "respiration_rate_mean": 60 * len(lengths) / _sum(lengths) if len(lengths) else None,
    }


def _movement(values: Values) -> Summary:
    epochs = _measured(values)
    return {
        "actigram_count": len(epochs),
        "actigram_sum": _sum(epochs),
        "actigram_mean": _mean(epochs),
        "actigram_min": _least(epochs),
        "actigram_max": _most(epochs),
    }


def _snoring(values: Values) -> Summary:
    lengths = _lasting(values)
    return {
        "snoring_event_count": len(lengths),
        "snoring_seconds": _sum(lengths),
        "snoring_longest_seconds": _most(lengths),
    }


_FIGURES: Mapping[str, Callable[[Values], Summary]] = {
    "heart_rate": _heart_rate,
    "respiration_cycles": _respiration,
    "actigram": _movement,
    "snoring_events": _snoring,
}


def _measured(values: Values) -> Values:
    return values[np.abs(values) <= LARGEST]


def _lasting(values: Values) -> Values:
    return values[(values >= SHORTEST) & (values <= LARGEST)]


def _sum(values: Values) -> float:
    return float(values.cumsum()[-1]) if len(values) else 0.0


def _mean(values: Values) -> float | None:
    return _sum(values) / len(values) if len(values) else None


def _least(values: Values) -> float | None:
    return float(values.min()) if len(values) else None


def _most(values: Values) -> float | None:
    return float(values.max()) if len(values) else None
