"""A fleet is computed from its seed: always the same, cheap to list, and like real devices."""

import itertools
from dataclasses import replace

import numpy as np
import pytest

from sync.emulators.bace import DataSession, Dataset, Fleet, Kind, Samples, identifier

FLEET = Fleet(sessions=24, hours=(0.2, 3.0))


def of(samples, datatype):
    """The times (ms) and values of a datatype."""
    position = next(i for i, one in enumerate(samples.datasets) if one.datatype == datatype)
    mask = samples.dataset == position
    return samples.time_ms[mask], samples.value[mask]


def test_equal_fleets_have_equal_sessions():
    """Two fleets with one seed agree in everything, and another seed in nothing."""
    for mine, yours in zip(FLEET, Fleet(sessions=24, hours=(0.2, 3.0)), strict=True):
        assert (mine.id, mine.label, mine.start, mine.end) == (yours.id, yours.label, yours.start, yours.end)
        left, right = mine.computed(), yours.computed()
        assert np.array_equal(left.time_ms, right.time_ms)
        assert np.array_equal(left.value, right.value)
    assert not {one.id for one in FLEET} & {one.id for one in replace(FLEET, seed=2)}


def test_a_longer_fleet_begins_like_a_shorter_one():
    """More sessions change nothing about the first ones."""
    for mine, longer in zip(FLEET, replace(FLEET, sessions=100), strict=False):
        assert (mine.id, mine.start, mine.end) == (longer.id, longer.start, longer.end)


@pytest.mark.parametrize(
    "fleet", [FLEET, replace(FLEET, gap=0.0), replace(FLEET, rate=4.0, burst=30.0, gap=90.0)]
)
def test_totals_are_known_without_the_samples(fleet):
    """What a session says it holds is what it holds."""
    for session in fleet:
        assert session.total() == len(session.computed())


def test_samples_lie_in_their_session_and_arrive_before_ingestion_ends():
    """Devices measure while they are on, and send what they have in batches."""
    for session in FLEET:
        samples = session.computed()
        assert session.start * 1000 <= samples.time_ms.min()
        assert samples.time_ms.max() <= session.end * 1000
        assert np.all(samples.time_ms < samples.arrives_ms)
        assert samples.arrives_ms.max() <= session.ingested_at * 1000
        assert session.datasets == samples.datasets


def test_wrong_clocks_put_samples_outside():
    """With a clock error some samples lie before the start or after the end, and none is far off."""
    outside = 0
    for session in replace(FLEET, clock_error=40.0, kinds=(Kind.VITALS,)):
        times = session.computed().time_ms
        outside += int((times < session.start * 1000).sum() + (times > session.end * 1000).sum())
        assert session.start * 1000 - 40_000 <= times.min()
        assert times.max() <= session.end * 1000 + 40_000
    assert outside > 0


def test_vital_signs_come_in_dense_bursts_with_gaps():
    """About one sample a second with jitter in milliseconds, and pauses of minutes between."""
    fleet = Fleet(sessions=1, kinds=(Kind.VITALS,), hours=(8.0, 8.0), burst=600, gap=300)
    samples = next(iter(fleet)).computed()
    for datatype, low, high in ((6000, 40, 90), (6001, 8, 22), (6002, 90, 100)):
        times, values = of(samples, datatype)
        steps = np.diff(times)
        assert np.all(steps > 0)
        assert 900 < np.median(steps) < 1100
        assert len(np.unique(times % 1000)) > 500
        assert (steps > 60_000).sum() > 3
        assert np.all((low < values) & (values <= high))
    pulse = of(samples, 6000)[1]
    assert 0.2 < np.mean(pulse % 1 == 0) < 0.8


def test_batteries_are_read_every_300_seconds():
    """The first sample lies 46.995 s after the start, as in the documents' example."""
    for session in replace(FLEET, kinds=(Kind.BATTERY,)):
        times, values = of(session.computed(), 5205)
        assert times[0] == session.start * 1000 + 46_995
        assert set(np.diff(times)) <= {300_000}
        assert np.all((values > 3.0) & (values < 4.3))


def test_kinds_decide_the_datatypes():
    """Devices take the kinds in turn, and a mixed one measures all."""
    fleet = replace(FLEET, kinds=(Kind.MIXED, Kind.SCALE))
    mixed, scale = list(fleet)[:2]
    assert [one.datatype for one in mixed.datasets] == [6000, 6001, 6002, 5205, 6011]
    assert [one.datatype for one in scale.datasets] == [6011]
    assert {one.group for one in fleet} == {fleet.group(i) for i in range(fleet.groups)}


def test_a_device_has_one_session_at_a_time():
    """Sessions of a device do not overlap, and share its datasets."""
    by_device = {}
    for session in Fleet(sessions=120):
        by_device.setdefault(session.device, []).append(session)
    assert len(by_device) == 12
    for sessions in by_device.values():
        for earlier, later in itertools.pairwise(sessions):
            assert earlier.ingested_at < later.start
            assert earlier.datasets == later.datasets


def test_some_sessions_are_never_finished_or_are_archived():
    """One session in so many stays without the end of ingestion, or is archived."""
    fleet = list(replace(FLEET, unfinished=6, archived=8))
    assert sum(one.ingested_at is None for one in fleet) == 4
    assert sum(one.archived_at is not None for one in fleet) == 3


def test_a_session_says_what_is_true_at_an_instant():
    """Its facts follow from the clock alone."""
    dataset = Dataset.of(identifier("g"), identifier("d"), 6000)
    session = DataSession.of([(dataset, 1000.5, 1), (dataset, 1100.2, 2)], archived_at=5000)
    assert (session.start, session.end, session.created_at, session.ingested_at) == (1000, 1101, 1004, 1418)
    assert [session.exists(now) for now in (1003.9, 1004)] == [False, True]
    assert [session.end_at(now) for now in (1100.9, 1101)] == [None, 1101]
    assert [session.is_ingested(now) for now in (1417, 1418)] == [False, True]
    assert [session.archived_by(now) for now in (4999, 5000)] == [None, 5000]
    assert [session.updated_at(now) for now in (1010, 1101, 1418, 5000)] == [1004, 1101, 1418, 5000]


def test_samples_are_ordered_by_dataset_and_time():
    """Order follows the datasets' ids and the times; equal instants stay as they were."""
    sets = [Dataset.of(identifier("g"), identifier("d"), datatype) for datatype in (1, 2)]
    points = [(sets[i % 2], 10.0 - i // 4, float(i)) for i in range(8)]
    ordered = Samples.of(points, arrives=20.0).ordered()
    assert ordered.datasets == tuple(sorted(sets))
    seen = [
        (ordered.datasets[i], time, value)
        for i, time, value in zip(ordered.dataset, ordered.time_ms, ordered.value, strict=True)
    ]
    assert seen == sorted(
        ((one, round(time * 1000), value) for one, time, value in points), key=lambda p: p[:2]
    )
    assert set(ordered.arrives_ms) == {20_000}
