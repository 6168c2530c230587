"""The synthetic nights look like the one real night that is known, and are the same every time."""

import json
import math
from datetime import date, datetime
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sync.emulators.beddit import Night, Study

NIGHT = Study(seed=5).night(1001, 3)
SESSION = NIGHT.session()
TRACKS = {name: np.array(track["items"]) for name, track in SESSION["time_value_tracks"].items()}
PER_NIGHT = NIGHT.duration / 31_794  # of the real night's length


@pytest.mark.parametrize(
    ("track", "least", "most"),
    [
        ("respiration_cycles", 6500, 9000),
        ("heartbeat", 4000, 9000),
        ("actigram", 450, 1100),
        ("heart_rate", 320, 620),
        ("signal_high_percentile", 535, 550),
        ("activity_segment_length", 200, 420),
        ("high_activity_intervals", 60, 160),
        ("snoring_events", 1, 30),
    ],
)
def test_tracks_have_as_many_points_as_those_of_the_real_night(track, least, most):
    """A track has about as many points as in the recorded night, scaled by length."""
    assert least <= len(TRACKS[track]) / PER_NIGHT <= most


def test_a_night_has_the_real_nights_tracks_and_size():
    """A night has the twelve known tracks and about 24,000 points in half a megabyte."""
    assert len(TRACKS) == 12
    assert 18_000 < sum(map(len, TRACKS.values())) / PER_NIGHT < 30_000
    assert 350_000 < len(NIGHT.record().text()) / PER_NIGHT < 650_000


def test_times_lie_on_the_grids_of_their_tracks():
    """Each track's times increase on its own grid."""
    grids = {"actigram": 3, "heart_rate": 30, "snoring_events": 30, "high_activity_intervals": 3}
    for name, grid in grids.items():
        assert np.all(TRACKS[name][:, 0] % grid == 0), name
    tenths = TRACKS["respiration_cycles"][:, 0] * 10
    assert np.allclose(tenths, np.rint(tenths), atol=1e-6)
    assert np.allclose(np.diff(TRACKS["signal_high_percentile"][:, 0]), 58.4)
    for name, points in TRACKS.items():
        assert np.all(np.diff(points[:, 0]) > 0), name


def test_offsets_are_relative_with_two_known_exceptions_at_the_edges():
    """Times are offsets from the start; only the first event lies a little before it."""
    (first, code), (last, end_code) = SESSION["time_value_tracks"]["events"]["items"]
    assert (code, end_code) == (10, 11)
    assert -5 < first < 0
    assert NIGHT.duration - 2 < last < NIGHT.duration
    for name, points in TRACKS.items():
        if name != "events":
            assert points[0, 0] >= 0
            assert points[-1, 0] < NIGHT.duration


def test_beats_are_whole_samples_long_and_carry_float32_times():
    """Beat lengths are multiples of 1/140 s, times are float32 values printed as doubles."""
    times, lengths = TRACKS["heartbeat"].T
    assert np.allclose(lengths * 140, np.rint(lengths * 140), atol=1e-3)
    assert np.all((lengths >= 0.7) & (lengths <= 1.5))
    assert np.array_equal(times, times.astype(np.float32).astype(float))
    assert np.diff(times).max() > 300  # where nothing was reliable


def test_values_look_like_float32_with_seven_digits_and_some_are_integers():
    """Floats have at most seven significant digits, and a float track holds some integers too."""
    values = [value for _, value in SESSION["time_value_tracks"]["respiration_cycle_amplitudes"]["items"]]
    assert all(float(f"{value:.7g}") == value for value in values)
    lengths = [value for _, value in SESSION["time_value_tracks"]["respiration_cycles"]["items"]]
    assert {type(value) for value in lengths} == {int, float}


def test_breaths_last_about_three_seconds_and_share_their_times():
    """Respiration cycles last 3.2 s on average, and amplitudes have exactly their times."""
    cycles, amplitudes = TRACKS["respiration_cycles"], TRACKS["respiration_cycle_amplitudes"]
    assert 2.9 < cycles[:, 1].mean() < 3.6
    assert np.array_equal(cycles[:, 0], amplitudes[:, 0])
    assert 900 < np.median(amplitudes[:, 1]) < 2200


def test_the_heart_slows_down_during_the_night():
    """Heart rate falls in the first hours and stays in a sleeper's range, with gaps."""
    times, rates = TRACKS["heart_rate"].T
    assert rates[times < 2400].mean() > rates[times > 3 * 3600].mean() + 6
    assert rates.min() > 35
    assert rates.max() < 90
    assert 60 < np.diff(times).max() <= 1700


def test_high_activity_alternates():
    """The activity intervals start with 1 and alternate."""
    values = TRACKS["high_activity_intervals"][:, 1]
    assert values[0] == 1
    assert np.all(np.diff(values) != 0)


@given(st.integers(0, 10_000), st.integers(0, 400), st.floats(0.1, 1.0))
@settings(max_examples=40, deadline=None)
def test_every_night_keeps_the_documented_laws(seed, number, hours):
    """The id is the truncated start, and start and end are microseconds a whole number of frames apart."""
    night = Study(seed=seed, hours=hours).night(1002, number)
    assert night.session_id == math.floor(night.start_timestamp)
    assert round(night.start_timestamp, 6) == night.start_timestamp
    frames = (night.end_timestamp - night.start_timestamp) / 0.2
    assert frames == pytest.approx(round(frames), abs=1e-4)
    assert round(frames) == night.frames
    assert 1 < night.updated - night.end_timestamp < 3
    session = night.session()
    assert session["updated"] == night.updated
    assert all(session["time_value_tracks"][name]["items"] for name in ("heart_rate", "events", "actigram"))


def test_one_seed_gives_one_study_and_another_seed_another():
    """Equal arguments give equal bytes; another seed, person or night gives other ones."""
    nights = [
        Study(seed=seed, hours=0.2).night(user_id, number)
        for seed, user_id, number in [(1, 1001, 0), (2, 1001, 0), (1, 1002, 0), (1, 1001, 1)]
    ]
    again = Study(seed=1, hours=0.2).night(1001, 0)
    assert again == nights[0]
    assert again.record().text() == nights[0].record().text()
    assert again.blob("normal") == nights[0].blob("normal")
    assert len({night.blob("normal") for night in nights}) == 4
    assert len({night.record().text() for night in nights}) == 4


def test_nights_end_on_consecutive_local_dates_across_a_clock_change():
    """The first user sleeps through a daylight saving change and still wakes once on every date."""
    study = Study(nights=30, first_night=date(2024, 3, 11))
    nights = list(study.nights_of(1001))
    zone = ZoneInfo(nights[0].timezone)
    ends = [datetime.fromtimestamp(night.end_timestamp, zone) for night in nights]
    assert [end.date().toordinal() for end in ends] == list(
        range(ends[0].toordinal(), ends[0].toordinal() + 30)
    )
    assert ends[0].date() == date(2024, 3, 11)
    assert len({end.utcoffset() for end in ends}) == 2


def test_text_is_separated_as_the_service_does():
    """The JSON text is what Python's encoder writes with its default separators."""
    text = NIGHT.record().text().decode()
    compact = json.dumps(json.loads(text))
    assert compact == text


def test_sampled_tracks_have_the_documented_shape():
    """``normal`` has 28 little-endian uint16 a frame, ``noise`` two float32."""
    night = Study(seed=9, hours=0.3).night(1001, 0)
    normal = np.frombuffer(night.blob("normal"), "<u2")
    noise = np.frombuffer(night.blob("noise"), "<f4")
    assert len(normal) == night.frames * 28
    assert len(noise) == night.frames * 2
    assert np.all(np.isfinite(noise) & (noise > 0))
    assert abs(np.median(normal) - 32_768) < 300
    assert night.session()["sampled_tracks"]["normal"] == {"samples_per_frame": 28, "data_type": "uint16"}


def test_an_unknown_track_has_no_samples():
    """A track that a night does not have is an error, not silence."""
    with pytest.raises(KeyError):
        NIGHT.blob("gained")


def test_a_study_may_have_no_raw_signal():
    """Without raw signal there are no sampled tracks at all."""
    assert "sampled_tracks" not in Study(raw_signal=False, hours=0.2).night(1001, 0).session()


def test_the_signal_beats_at_the_heart_rate_of_the_night():
    """The ballistocardiogram's period in a quiet minute is the beat length of the heartbeat track."""
    night = Study(seed=5, hours=2).night(1001, 0)
    rate = _median_beat(night, 3600, 3900)
    signal = night.samples("normal").astype(float)[3600 * 140 : 3900 * 140]
    found = [_period(signal[begin : begin + 2800]) for begin in range(0, len(signal) - 2800, 2800)]
    assert np.median(found) == pytest.approx(rate, rel=0.12)


def test_movements_are_in_the_signal():
    """The signal swings widely where the actigram reports movement, and little elsewhere."""
    night = Study(seed=5, hours=1).night(1001, 0)
    epochs = night.samples("normal").astype(float)[: night.frames // 15 * 15 * 28].reshape(-1, 420)
    swing = np.ptp(epochs, axis=1)
    moving = (np.array(night.session()["time_value_tracks"]["actigram"]["items"])[:, 0] / 3).astype(int)
    quiet = np.ones(len(swing), dtype=bool)
    quiet[moving[moving < len(swing)]] = False
    assert np.median(swing[~quiet]) > 1.4 * np.median(swing[quiet])


def _median_beat(night: Night, first: float, last: float) -> float:
    beats = np.array(night.session()["time_value_tracks"]["heartbeat"]["items"])
    chosen = beats[(beats[:, 0] >= first) & (beats[:, 0] < last), 1]
    return float(np.median(chosen))


def _period(signal: np.ndarray) -> float:
    """The strongest period between 0.6 and 1.6 s after breathing was taken away."""
    trend = np.convolve(signal, np.ones(35) / 35, mode="same")
    fast = np.abs((signal - trend)[50:-50])
    fast = np.convolve(fast, np.ones(28) / 28, mode="same")
    fast -= fast.mean()
    correlation = np.correlate(fast, fast, mode="full")[len(fast) - 1 :]
    return float(84 + np.argmax(correlation[84:224])) / 140
