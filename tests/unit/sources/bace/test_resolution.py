"""The resolution planner against a model of the server, for whatever samples, thresholds and pages."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sync.sources.bace.lengths import Lengths, Threshold
from sync.sources.bace.resolution import Ask, begin, next_ask
from sync.sources.bace.spans import DAY, HOUR, MINUTE, SECOND, Span, difference, floor, intersection, union
from tests.unit.sources.bace.model import ModelServer, Reader, bound

MILLISECOND = 1000
NOON = 1_648_641_600 * SECOND
"""A whole hour: 2022-03-30 12:00 UTC."""

gaps = st.one_of(
    st.integers(0, 3),
    st.integers(1, 2_000),
    st.integers(1_000, 300_000),
    st.integers(60_000, 20_000_000),
    st.sampled_from([60_000, 300_000, 3_600_000]),
)
"""Milliseconds between two samples."""


@st.composite
def servers(draw: st.DrawFn, *, sorts: bool = True) -> ModelServer:
    """A session's samples, and a server that holds them."""
    steps = draw(st.lists(gaps, max_size=60))
    start = NOON + draw(st.integers(0, 7_200)) * SECOND + draw(st.sampled_from([1, 995])) * MILLISECOND
    stamps = start + np.cumsum(np.array([0, *steps], np.int64)) * MILLISECOND
    series = draw(st.lists(st.integers(0, 3), min_size=len(stamps), max_size=len(stamps)))
    raw = draw(st.sampled_from([59, 60, 61, 299, 600, 3_599, 3_600, 5_000, 86_400]))
    minutes = raw + draw(st.sampled_from([600, 3_600, 86_400]))
    return ModelServer(
        stamps=stamps,
        series=np.array(series, np.int64),
        raw_up_to=raw * SECOND,
        minutes_up_to=minutes * SECOND,
        hours_up_to=(minutes + draw(st.sampled_from([3_600, 30 * 86_400]))) * SECOND,
        page=draw(st.sampled_from([1, 2, 3, 7, 50, 500])),
        merges=draw(st.booleans()),
        sorts=sorts,
    )


def wanted_of(server: ModelServer) -> Span:
    """The session's span with its margins, as the unit asks for it."""
    first, last = int(server.stamps.min()), int(server.stamps.max())
    return Span(floor(first - 60 * SECOND, MINUTE), floor(last, SECOND) + 61 * SECOND)


def expected_of(server: ModelServer) -> Counter[tuple[int, int]]:
    """How many samples each dataset has at each instant."""
    return Counter(zip(server.stamps.tolist(), server.series.tolist(), strict=True))


def found_by(reader: Reader) -> Counter[tuple[int, int]]:
    """How many samples were accepted for each dataset and instant."""
    found: Counter[tuple[int, int]] = Counter()
    for stamp, series, count in reader.rows:
        found[stamp, series] += count
    return found


def reader_of(server: ModelServer, lengths: Lengths = Lengths()) -> Reader:  # noqa: B008 - it is frozen
    """A walk through all of a session."""
    scan = begin([wanted_of(server)], expected=len(server.stamps), series=len(set(server.series.tolist())))
    return Reader(server, scan, lengths)


@given(servers())
@settings(max_examples=300, deadline=None)
def test_every_sample_arrives_exactly_once_with_its_own_instant(server: ModelServer) -> None:
    """Whatever the samples, thresholds and pages: all of them, once, never a bucket in their place."""
    reader = reader_of(server)
    reader.read(most=20_000)
    assert found_by(reader) == expected_of(server)


@given(servers())
@settings(max_examples=200, deadline=None)
def test_all_wanted_time_is_covered_in_the_end(server: ModelServer) -> None:
    """The walk ends, and then nothing of what was wanted is left unproven."""
    reader = reader_of(server)
    reader.read(most=20_000)
    assert difference((wanted_of(server),), union(reader.covered)) == ()


@given(servers(sorts=False))
@settings(max_examples=200, deadline=None)
def test_a_server_that_ignores_the_order_loses_nothing(server: ModelServer) -> None:
    """Cut pages in any order are found out, and what they hid is read."""
    if Counter(server.stamps.tolist()).most_common(1)[0][1] > server.page:
        server = replace(server, page=len(server.stamps))
    reader = reader_of(server)
    reader.read(most=50_000)
    assert found_by(reader) == expected_of(server)


@given(servers(), st.data())
@settings(max_examples=250, deadline=None)
def test_a_walk_that_was_interrupted_goes_on_and_asks_nothing_twice(
    server: ModelServer, data: st.DataObject
) -> None:
    """Begun anew from its coverage, at any step: the same samples, and none of them is asked for again."""
    first = reader_of(server)
    for _ in range(data.draw(st.integers(0, 30))):
        if not first.step():
            break
    if first.scan.pages is not None or first.scan.promise is not None:
        return
    read = union(first.covered)
    left = difference((wanted_of(server),), read)
    asked_before = len(server.asks)
    second = Reader(server, begin(left), Lengths(), rows=list(first.rows), covered=list(first.covered))
    second.read(most=20_000)
    assert found_by(second) == expected_of(server)
    for ask in server.asks[asked_before:]:
        for again in () if ask.hoped else intersection((ask.span,), read):
            assert not ((server.stamps >= again.start) & (server.stamps < again.end)).any()


def test_minute_buckets_with_one_sample_each_are_never_taken_for_samples() -> None:
    """A battery read every five minutes comes with counts of 1 and wrong instants, until asked right."""
    stamps = NOON + np.arange(0, 12 * 300, 300, dtype=np.int64) * SECOND + 39_995 * MILLISECOND
    server = ModelServer(stamps, np.zeros(12, np.int64), raw_up_to=20 * MINUTE)
    reader = reader_of(server)
    reader.read()
    assert sorted(stamp for stamp, _, _ in reader.rows) == stamps.tolist()


def test_samples_on_whole_minutes_are_found_though_nothing_tells_them_from_buckets() -> None:
    """A device that reports on the minute is read down to the floor once, and at a proven length after."""
    stamps = NOON + np.arange(5, dtype=np.int64) * MINUTE
    server = ModelServer(stamps, np.zeros(5, np.int64))
    reader = reader_of(server)
    reader.read()
    assert sorted(stamp for stamp, _, _ in reader.rows) == stamps.tolist()
    proven = reader_of(replace(server, asks=[]), Lengths(raw=Threshold(HOUR)))
    proven.read()
    assert len(proven.server.asks) <= 3


def test_samples_that_share_an_instant_stay_one_row_at_a_proven_length() -> None:
    """An aggregate of equal instants is kept with its number, and is not split for ever."""
    stamps = np.repeat(NOON + np.array([500, 1_700, 2_900]) * MILLISECOND, [1, 3, 1])
    server = ModelServer(stamps, np.zeros(5, np.int64), merges=True)
    reader = reader_of(server)
    reader.read()
    assert sorted(count for _, _, count in reader.rows) == [1, 1, 3]


def test_more_rows_at_one_instant_than_a_page_holds_are_read_page_by_page() -> None:
    """Where no shorter interval can help, offsets do."""
    stamps = np.full(25, NOON + 500 * MILLISECOND)
    server = ModelServer(stamps, np.arange(25, dtype=np.int64), page=10)
    reader = reader_of(server)
    reader.read()
    assert len(reader.rows) == 25
    assert max(ask.page for ask in server.asks) == 3


@pytest.mark.parametrize("raw", [0, 1, 2, 30])
def test_a_server_that_hardly_ever_answers_raw_is_read_down_to_the_floor(raw: int) -> None:
    """The walk ends at intervals of a second, with every sample counted."""
    stamps = NOON + np.array([500, 1_700, 61_300, 61_900, 130_000]) * MILLISECOND
    server = ModelServer(stamps, np.zeros(5, np.int64), raw_up_to=raw * SECOND, minutes_up_to=HOUR)
    reader = reader_of(server)
    reader.read(most=1_000)
    assert sum(count for _, _, count in reader.rows) == 5
    if raw:
        assert found_by(reader) == expected_of(server)


def test_a_device_whose_every_instant_has_two_samples_is_read_without_searching_each_second() -> None:
    """Rows that a shorter answer confirms prove the length of the longer one."""
    stamps = np.repeat(NOON + np.arange(0, 12_000_000, 700_000, dtype=np.int64) * MILLISECOND + 995_000, 2)
    server = ModelServer(stamps, np.zeros(len(stamps), np.int64), merges=True)
    reader = reader_of(server)
    reader.read()
    assert found_by(reader) == expected_of(server)
    assert reader.lengths.raw.reached >= 59 * SECOND
    assert len(server.asks) <= 40


def test_a_device_that_reports_on_the_minute_costs_a_few_questions_a_sample_at_most() -> None:
    """Where nothing but whole minutes is ever seen, buckets say where to look for each sample."""
    stamps = NOON + np.arange(0, 8 * 60, 5, dtype=np.int64) * MINUTE
    server = ModelServer(stamps, np.zeros(len(stamps), np.int64))
    reader = reader_of(server)
    reader.read()
    assert found_by(reader) == expected_of(server)
    assert len(server.asks) <= 6 * len(stamps)


def test_a_changed_threshold_is_noticed() -> None:
    """Buckets at a length that was proven raw once are not taken for samples."""
    stamps = NOON + np.arange(0, 600_000, 700, dtype=np.int64) * MILLISECOND
    server = ModelServer(stamps, np.zeros(len(stamps), np.int64), raw_up_to=MINUTE)
    reader = reader_of(server, Lengths(raw=Threshold(HOUR)))
    reader.read()
    assert found_by(reader) == expected_of(server)
    assert reader.lengths.raw.reached <= MINUTE


def test_minute_buckets_are_not_believed_for_what_was_proved_once() -> None:
    """At a length that was proven raw once, a battery's minute buckets still ask for a second look."""
    stamps = NOON + np.arange(0, 12 * 300, 300, dtype=np.int64) * SECOND + 39_995 * MILLISECOND
    server = ModelServer(stamps, np.zeros(12, np.int64), raw_up_to=20 * MINUTE)
    reader = reader_of(server, Lengths(raw=Threshold(6 * HOUR)))
    reader.read()
    assert sorted(stamp for stamp, _, _ in reader.rows) == stamps.tolist()
    assert reader.lengths.raw.reached <= 20 * MINUTE


def test_long_pauses_are_not_asked_through() -> None:
    """A week with two short bursts costs a handful of questions, not one an hour."""
    burst = np.arange(0, 60_000, 1_001, dtype=np.int64) * MILLISECOND
    stamps = np.concatenate([NOON + burst, NOON + 7 * DAY + burst])
    server = ModelServer(stamps, np.zeros(len(stamps), np.int64))
    reader = reader_of(server, Lengths(raw=Threshold(HOUR, HOUR + MINUTE)))
    reader.read()
    assert found_by(reader) == expected_of(server)
    assert len(server.asks) <= 8


def test_dense_data_costs_its_pages_and_little_more() -> None:
    """Where pages are the limit, each question brings a full one."""
    stamps = NOON + np.arange(0, 4 * 3_600_000, 333, dtype=np.int64) * MILLISECOND
    server = ModelServer(stamps, np.zeros(len(stamps), np.int64))
    reader = reader_of(server)
    reader.read()
    assert len(server.asks) <= 1.05 * bound(stamps, HOUR, 500) + 2


def test_nothing_is_asked_when_nothing_is_wanted() -> None:
    """A session that was read whole costs no request."""
    assert next_ask(begin([]), Lengths()) is None


def test_the_first_question_about_a_short_session_is_about_all_of_it() -> None:
    """Most sessions are shorter than any plausible raw length: one question each."""
    span = Span(NOON, NOON + 20 * MINUTE)
    assert next_ask(begin([span]), Lengths()) == Ask(span)
