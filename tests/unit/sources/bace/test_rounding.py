"""How exactly averages are compared."""

from __future__ import annotations

from uuid import UUID

import pytest

from sync.sources.bace.proof import Bucket, Buckets, Rounding

COUNT = 7


def bucket(average: float, *, most: float = 100.0) -> Buckets:
    """A bucket of seven samples."""
    return {(UUID(int=1), 0): Bucket(COUNT, 0.0, most, average * COUNT)}


@pytest.mark.parametrize(
    ("told", "exact", "error"),
    [
        (62.0, 62.46, 0.5),
        (62.3, 62.34, 0.05),
        (62.35, 62.345, 0.005),
        (-3.1, -3.06, 0.05),
        (62.3457, 62.345678, 0.00005),
        (62.346, 62.34598, 0.00005),
    ],
)
def test_an_average_that_is_not_that_of_its_samples_shows_the_rounding(
    told: float, exact: float, error: float
) -> None:
    """It is off by no more than half of a decimal place: the smallest place that explains it."""
    rounding = Rounding()
    rounding.learn(bucket(told), bucket(exact))
    assert rounding.error == pytest.approx(error)


@pytest.mark.parametrize(
    ("told", "exact"),
    [(62.0, 62.0), (62.0, 62.0 + 1e-14), (62.0, 63.0), (62.123456, 62.5), (62.25, 62.4)],
    ids=["exact", "an error of adding", "too far off", "more places than that", "not to that place"],
)
def test_what_rounding_does_not_explain_shows_none(told: float, exact: float) -> None:
    """Neither an exact average, however round it is, nor one that is simply wrong."""
    rounding = Rounding()
    rounding.learn(bucket(told), bucket(exact))
    assert rounding.error == 0


def test_only_averages_can_be_rounded() -> None:
    """Buckets with other extremes, or another number of samples, do not hold the same."""
    rounding = Rounding()
    rounding.learn(bucket(62.3), bucket(62.34, most=99.0))
    rounding.learn(bucket(62.3), {})
    rounding.learn({}, bucket(62.34))
    assert rounding.error == 0


def test_what_was_proved_stays_proved() -> None:
    """A rounder average takes back nothing, and a more exact one does not either."""
    rounding = Rounding()
    for told, exact in ((62.35, 62.345), (62.3, 62.34), (62.35, 62.345), (62.0, 62.0)):
        rounding.learn(bucket(told), bucket(exact))
    assert rounding.error == pytest.approx(0.05)


def test_one_value_of_many_is_found_unless_averages_are_rounded_away() -> None:
    """In a day of 50,000 samples a change of a ten-thousandth counts, if averages are told exactly."""
    day = Bucket(50_000, 40.0, 120.0, 3_000_000.0)
    moved = Bucket(50_000, 40.0, 120.0, 3_000_000.0001)
    assert day.equals(moved), "the vendor may round"
    assert not day.equals(moved, rounding=0.0)
    assert day.equals(moved, rounding=0.5e-3)
    assert day.equals(Bucket(50_000, 40.0, 120.0, 3_000_000.0000001), rounding=0.0), "an error of adding"


def test_fewer_samples_within_the_same_bounds_may_be_what_is_left() -> None:
    """A bucket that lost samples has fewer, and none that it did not have."""
    held = Bucket(3, 1.0, 3.0, 6.0)
    assert held.holds(None)
    assert held.holds(Bucket(2, 1.0, 2.0, 3.0))
    assert not held.holds(held)
    assert not held.holds(Bucket(2, 0.5, 2.0, 2.5))
    assert not held.holds(Bucket(2, 1.0, 3.5, 4.5))
    assert not held.holds(Bucket(4, 1.0, 3.0, 8.0))
