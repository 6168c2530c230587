"""What answers teach of the interval lengths at which the server's resolution changes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sync.sources.bace.lengths import (
    BUCKETS,
    FLOOR,
    RAW,
    Lengths,
    Threshold,
    grain_of,
)
from sync.sources.bace.spans import DAY, HOUR, MINUTE, SECOND

# A busy machine is no fault of the program's.
calm = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

NOON = 1_648_641_600 * SECOND
"""A whole hour: 2022-03-30 12:00 UTC."""
MIDNIGHT = NOON - 12 * HOUR
MILLISECOND = 1_000
CONVINCING = 3
USUAL = {MINUTE: DAY - SECOND, HOUR: 14 * DAY - SECOND}
MOST_TRIALS = 25
"""Answers after which a threshold is known; far fewer than one session takes at a bad length."""

lengths_of_intervals = st.integers(1, 400 * DAY)
observations = st.lists(st.tuples(st.booleans(), st.integers(1, 40)), max_size=12)
grains = st.sampled_from([RAW, *BUCKETS])
true_thresholds = st.one_of(
    st.integers(2, 30 * 86_400).map(lambda seconds: seconds * SECOND),
    st.floats(2.0, 30 * 86_400.0).map(lambda seconds: round(seconds * SECOND)),
    st.floats(0.0, 1.0).map(lambda part: round(2 * SECOND * (30 * DAY / (2 * SECOND)) ** part)),
    st.sampled_from([2, 4, 5, 59, 60, 61, 299, 300, 3_599, 3_600, 3_601, 5_400, 86_399, 86_400]).map(
        lambda seconds: seconds * SECOND
    ),
)


@dataclass(frozen=True)
class Server:
    """Up to which length each resolution is served; ``exclusive``: not at that length itself."""

    raw: int
    minutes: int
    hours: int
    exclusive: bool = False

    def grain(self, length: int) -> int:
        """What an answer at a length consists of."""
        longest = length + 1 if self.exclusive else length
        limits = ((self.raw, RAW), (self.minutes, MINUTE), (self.hours, HOUR))
        return next((grain for limit, grain in limits if longest <= limit), DAY)

    def teach(self, lengths: Lengths, length: int) -> Lengths:
        """What is known after an answer with plenty of samples."""
        grain = self.grain(length)
        return lengths.learn(length, grain, places=CONVINCING, shared=grain != RAW)


def fold(steps: list[tuple[bool, int]], threshold: Threshold = Threshold()) -> Threshold:  # noqa: B008
    """A threshold after some answers: (the resolution came, at which length)."""
    for came, length in steps:
        threshold = threshold.hit(length) if came else threshold.miss(length)
    return threshold


@st.composite
def known(draw: st.DrawFn) -> Lengths:
    """Whatever a row of answers, contradicting each other or not, has taught."""
    lengths = Lengths(hint=draw(st.sampled_from([0, MINUTE, HOUR])))
    taught = st.tuples(lengths_of_intervals, grains, st.integers(1, 5), st.booleans())
    for length, grain, places, shared in draw(st.lists(taught, max_size=8)):
        lengths = lengths.learn(length, grain, places=places, shared=shared)
    return lengths


# --- thresholds ------------------------------------------------------------------------------------


@calm
@given(observations)
def test_a_threshold_never_contradicts_itself_nor_the_last_answer(steps: list[tuple[bool, int]]):
    """Whatever came before: it is reached before it is missed, and what was just seen is believed."""
    threshold = fold(steps)
    assert threshold.missed is None or threshold.reached < threshold.missed
    for came, length in steps[-1:]:
        if came:
            assert threshold.reached >= length
        else:
            assert threshold.missed is not None
            assert threshold.missed <= length


@calm
@given(st.integers(1, 40), st.lists(st.integers(1, 40), max_size=10), st.randoms(use_true_random=False))
def test_answers_that_agree_teach_the_same_in_any_order(true: int, asked: list[int], random):
    """The longest length that did and the shortest that did not are all that is kept."""
    steps = [(length <= true, length) for length in asked]
    hits = [length for came, length in steps if came]
    misses = [length for came, length in steps if not came]
    random.shuffle(steps)
    assert fold(steps) == Threshold(max(hits, default=0), min(misses, default=None))


@calm
@given(observations, st.integers(1, 40), st.booleans())
def test_the_same_answer_twice_teaches_nothing_new(steps: list[tuple[bool, int]], length: int, came: bool):
    """Learning is idempotent."""
    once = fold([*steps, (came, length)])
    assert fold([(came, length)], once) == once


def test_a_miss_takes_back_what_was_believed_of_longer_intervals():
    """A server that changed its mind is believed: nothing proven before stays proven beyond it."""
    assert Threshold(30, 40).miss(30) == Threshold(0, 30)
    assert Threshold(30, 40).miss(31) == Threshold(30, 31)
    assert Threshold(30, 40).hit(40) == Threshold(40)
    assert Threshold(30, 40).hit(39) == Threshold(39, 40)


# --- what an answer teaches ------------------------------------------------------------------------


@calm
@given(
    st.lists(lengths_of_intervals, max_size=10),
    st.lists(st.integers(1, 60 * DAY), min_size=3, max_size=3).map(sorted),
    st.randoms(use_true_random=False),
)
def test_all_that_is_learned_of_a_steady_server_is_true(asked: list[int], limits: list[int], random):
    """In whatever order it was asked: the same knowledge, and none of it wrong."""
    server = Server(*limits)
    lengths, other = Lengths(), Lengths()
    for length in asked:
        lengths = server.teach(lengths, length)
    random.shuffle(asked)
    for length in asked:
        other = server.teach(other, length)
    assert lengths == other
    for threshold, limit in zip((lengths.raw, lengths.minutes, lengths.hours), limits, strict=True):
        assert threshold.reached <= limit
        assert threshold.missed is None or threshold.missed > limit
    for length in asked:
        assert lengths.widest(length) in {RAW if length <= FLOOR else server.grain(length), RAW}
        assert lengths.is_raw(length) == (server.grain(length) == RAW or length <= FLOOR)


@calm
@given(known(), lengths_of_intervals, lengths_of_intervals)
def test_a_shorter_interval_is_never_answered_coarser(lengths: Lengths, one: int, other: int):
    """What is proven for a length holds for all shorter ones."""
    shorter, longer = sorted((one, other))
    assert lengths.widest(shorter) <= lengths.widest(longer)
    assert lengths.is_raw(shorter) or not lengths.is_raw(longer)
    assert lengths.is_raw(shorter) == (lengths.widest(shorter) == RAW)


@pytest.mark.parametrize("length", [1, MILLISECOND, FLOOR])
def test_nothing_is_shortened_below_the_floor(length: int):
    """An interval of a second counts as raw though nothing is known."""
    assert Lengths().is_raw(length)
    assert not Lengths().is_raw(FLOOR + 1)
    assert Lengths().widest(FLOOR + 1) == DAY


def test_few_rows_on_a_wide_grid_teach_nothing_of_buckets():
    """Two samples lie on whole hours by chance; three hardly."""
    taught = Lengths().learn(HOUR, DAY, places=CONVINCING - 1, shared=False)
    assert taught == Lengths()
    taught = Lengths().learn(HOUR, DAY, places=CONVINCING, shared=False)
    assert (taught.raw, taught.minutes, taught.hours) == (
        Threshold(),
        Threshold(missed=HOUR),
        Threshold(missed=HOUR),
    )


def test_counts_of_one_never_show_that_a_length_is_not_raw():
    """Samples may lie on whole minutes: only a row of several samples tells buckets from them."""
    assert Lengths().learn(HOUR, MINUTE, places=100, shared=False).raw == Threshold()
    assert Lengths().learn(HOUR, MINUTE, places=1, shared=True).raw == Threshold(missed=HOUR)


def test_an_answer_teaches_of_every_resolution_it_is_as_fine_as():
    """Raw is finer than minutes, and minutes are finer than hours."""
    for grain, reached in ((RAW, (9, 9, 9)), (MINUTE, (0, 9, 9)), (HOUR, (0, 0, 9)), (DAY, (0, 0, 0))):
        taught = Lengths().learn(9, grain, places=CONVINCING, shared=True)
        assert (taught.raw.reached, taught.minutes.reached, taught.hours.reached) == reached
        missed = tuple(None if length else 9 for length in reached)
        assert (taught.raw.missed, taught.minutes.missed, taught.hours.missed) == missed


def test_exposed_and_disappointed_take_back_what_they_are_about():
    """Buckets that passed for samples, and buckets that were wider than hoped for."""
    taught = Lengths().learn(HOUR, RAW, places=CONVINCING, shared=False)
    assert taught.exposed(HOUR) == Lengths(Threshold(missed=HOUR), taught.minutes, taught.hours)
    assert taught.disappointed(HOUR, MINUTE).minutes == Threshold(missed=HOUR)
    assert taught.disappointed(HOUR, MINUTE).hours == taught.hours
    assert taught.disappointed(HOUR, HOUR).hours == Threshold(missed=HOUR)
    assert taught.disappointed(HOUR, HOUR).minutes == taught.minutes
    assert taught.disappointed(HOUR, DAY) == taught


# --- what to try -----------------------------------------------------------------------------------


@settings(calm, max_examples=400)
@given(true_thresholds, st.booleans(), st.sampled_from([0, MINUTE, 3_599 * SECOND, 40 * DAY]))
def test_any_threshold_is_found_within_a_twentieth_in_few_trials(limit: int, exclusive: bool, hint: int):
    """From two seconds to thirty days, with or without its own length, with a good hint or a bad one."""
    server = Server(limit, 2 * limit, 3 * limit, exclusive=exclusive)
    lengths = Lengths(hint=hint)
    trials = 0
    while (length := lengths.worth_trying()) != lengths.raw.reached:
        trials += 1
        assert trials <= MOST_TRIALS
        lengths = server.teach(lengths, length)
    longest = limit - exclusive
    assert lengths.raw.reached <= longest <= lengths.raw.reached * 1.05 + 1


@calm
@given(known())
def test_a_trial_is_never_shorter_than_what_is_proven_nor_as_long_as_what_failed(lengths: Lengths):
    """It could teach nothing there; and it is an interval."""
    length = lengths.worth_trying()
    assert length >= max(lengths.raw.reached, 1)
    assert lengths.raw.missed is None or length < max(lengths.raw.missed, FLOOR + 1)


def test_the_common_threshold_of_an_hour_costs_two_trials_to_reach():
    """The first guess is the likeliest, and a hint is tried before it."""
    assert Lengths().worth_trying() == HOUR - SECOND
    assert Lengths(hint=2 * HOUR).worth_trying() == 2 * HOUR
    assert Lengths(raw=Threshold(missed=2 * HOUR), hint=2 * HOUR).worth_trying() < 2 * HOUR
    assert Lengths(raw=Threshold(MINUTE), hint=2 * HOUR).worth_trying() == 2 * HOUR


@calm
@given(known(), st.sampled_from(BUCKETS))
def test_the_shortest_length_for_buckets_is_no_longer_than_the_longest(lengths: Lengths, width: int):
    """Whatever was learned, there is a length to ask for buckets of a width."""
    shortest, longest = lengths.length_for(width)
    assert shortest > 0
    assert longest is None or shortest <= longest
    assert (longest is None) == (width == DAY)


def test_buckets_are_asked_for_where_they_are_expected():
    """As documented while nothing is known; then as the server was seen to answer."""
    assert Lengths().length_for(MINUTE) == (2 * MINUTE, USUAL[MINUTE])
    assert Lengths().length_for(HOUR) == (USUAL[MINUTE] + HOUR, USUAL[HOUR])
    assert Lengths().length_for(DAY) == (USUAL[HOUR] + DAY, None)
    seen = Lengths(Threshold(HOUR, 2 * HOUR), Threshold(3 * DAY, 4 * DAY), Threshold(30 * DAY, 40 * DAY))
    assert seen.length_for(MINUTE) == (2 * HOUR, 3 * DAY)
    assert seen.length_for(HOUR) == (4 * DAY, 30 * DAY)
    assert seen.length_for(DAY) == (40 * DAY, None)
    shrunk = Lengths(minutes=Threshold(missed=8 * HOUR), hours=Threshold(missed=8 * DAY))
    assert shrunk.length_for(MINUTE)[1] == HOUR
    assert shrunk.length_for(HOUR) == (8 * HOUR, DAY)
    assert Lengths(Threshold(HOUR), Threshold(2 * DAY), Threshold(20 * DAY)).length_for(HOUR)[0] == 4 * DAY
    assert Lengths(hours=Threshold(20 * DAY)).length_for(DAY)[0] == 40 * DAY


# --- the grain of an answer ------------------------------------------------------------------------


@calm
@given(
    st.sampled_from(BUCKETS),
    st.lists(st.tuples(st.integers(-500, 500), st.integers(1, 3)), min_size=1, max_size=20),
    known(),
    lengths_of_intervals,
)
def test_buckets_are_never_taken_for_samples(
    width: int, cells: list[tuple[int, int]], lengths: Lengths, length: int
):
    """On a grid, counts of 1 prove nothing at a length that is not proven, and larger ones nothing ever."""
    stamps = MIDNIGHT + np.array([place * width for place, _ in cells], np.int64)
    counts = np.array([count for _, count in cells], np.int64)
    grain = grain_of(stamps, counts, length, lengths)
    if length > FLOOR and (not lengths.is_raw(length) or counts.max() > 1):
        assert grain in BUCKETS
        assert grain >= width
        assert not (stamps % grain).any()
        assert all((stamps % wider).any() for wider in BUCKETS if wider > grain)
    else:
        assert grain == RAW


@calm
@given(st.integers(1, MINUTE // MILLISECOND - 1), st.integers(0, 5), known(), lengths_of_intervals)
def test_one_stamp_off_the_minute_proves_counts_of_one_raw(
    offset: int, others: int, lengths: Lengths, length: int
):
    """No bucket begins there, whatever the length and whatever the other rows look like."""
    stamps = NOON + np.array([offset * MILLISECOND, *(place * MINUTE for place in range(others))], np.int64)
    counts = np.ones(len(stamps), np.int64)
    assert grain_of(stamps, counts, length, lengths) == RAW
    counts[0] = 2
    expected = RAW if lengths.is_raw(length) else None
    assert grain_of(stamps, counts, length, lengths) == expected


@pytest.mark.parametrize(
    ("stamp", "count", "length", "grain"),
    [
        (NOON, 1, FLOOR, RAW),
        (NOON, 2, FLOOR, RAW),
        (NOON, 1, HOUR, RAW),
        (NOON, 1, HOUR + 1, HOUR),
        (NOON, 2, HOUR, HOUR),
        (NOON + MINUTE, 2, HOUR, MINUTE),
        (MIDNIGHT, 2, HOUR, DAY),
        (NOON + 995 * MILLISECOND, 2, HOUR, RAW),
        (NOON + 995 * MILLISECOND, 2, HOUR + 1, None),
        (NOON + 995 * MILLISECOND, 1, HOUR + 1, RAW),
    ],
)
def test_one_row_is_judged_by_stamp_count_and_length(stamp: int, count: int, length: int, grain: int | None):
    """An hour is proven raw here: up to it an instant may be shared, beyond it only its place tells."""
    lengths = Lengths(raw=Threshold(HOUR))
    assert grain_of(np.array([stamp]), np.array([count]), length, lengths) == grain
