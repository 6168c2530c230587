"""How exactly averages are compared."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest

from sync.sources.bace.decode import Readings, decode_data
from sync.sources.bace.proof import Bucket, Rounding

DATASET = str(UUID(int=1))


def answer(*averages: Any, count: int = 3) -> Readings:
    """Rows with averages of several samples."""
    items = [
        {
            "id_container_data_latest": DATASET,
            "timestamp_seconds": 60 * n,
            "min_val": 0,
            "max_val": 100,
            "avg_val": average,
            "count_val": count,
        }
        for n, average in enumerate(averages)
    ]
    return decode_data(items, 0)


@pytest.mark.parametrize(
    ("averages", "places"),
    [((), None), ((4,), 0), ((4.25, 3.9), 2), ((1 / 3,), 16), ((1e-7,), 7), (("3.125", None), 3)],
)
def test_decimal_places_show_how_an_average_is_rounded(averages: Any, places: int | None) -> None:
    """The most places of any average count; numbers that cannot be read say nothing."""
    rounding = Rounding()
    rounding.note(answer(*averages))
    assert rounding.places == places


def test_single_samples_say_nothing_and_nothing_is_forgotten() -> None:
    """A sample is no average; what one answer has shown, a rounder one does not take back."""
    rounding = Rounding()
    rounding.note(answer(1 / 3, count=1))
    assert rounding.error is None
    rounding.note(answer(1.25))
    assert rounding.error == pytest.approx(0.005)
    rounding.note(answer(1.5))
    assert rounding.error == pytest.approx(0.005)


def test_one_value_of_many_is_found_unless_averages_are_rounded_away() -> None:
    """In a day of 50,000 samples a change of a ten-thousandth counts, if averages are told exactly."""
    day = Bucket(50_000, 40.0, 120.0, 3_000_000.0)
    moved = Bucket(50_000, 40.0, 120.0, 3_000_000.0001)
    assert day.equals(moved), "the vendor may round"
    assert not day.equals(moved, rounding=0.5e-13)
    assert day.equals(moved, rounding=0.5e-3)
    assert day.equals(Bucket(50_000, 40.0, 120.0, 3_000_000.0000001), rounding=0.5e-13), "an error of adding"
