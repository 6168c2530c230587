"""A synthetic sleep study: people, nights, tracks and raw signal, all computed from a seed.

Nothing is recorded data. The shapes follow the Beddit API docs (3-3, session resource) and the statistics
of one real night: which grids the times lie on, how many points a track has, how its values spread, where
it has gaps. The signals belong together: the beats of the ``heartbeat`` track are the beats in the
ballistocardiogram, breaths and movements likewise.

Nothing is kept either. A night is a few numbers, and its tracks are computed when somebody asks.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from functools import cached_property
from typing import Any, Final
from zoneinfo import ZoneInfo

import msgspec
import numpy as np
import numpy.typing as npt

from sync.emulators.beddit.record import Record, TextAround

Floats = npt.NDArray[np.floating[Any]]
Bools = npt.NDArray[np.bool_]

FRAME_LENGTH: Final = 0.2
"""Seconds in a session frame."""
SAMPLES_PER_FRAME: Final = 28
"""Samples of ``normal`` in a frame: 140 Hz."""
SAMPLE_RATE: Final = 140
EPOCH: Final = 3
"""Seconds of the grid on which movements are reported."""

SAMPLED_TRACKS: Final[dict[str, dict[str, Any]]] = {
    "normal": {"samples_per_frame": SAMPLES_PER_FRAME, "data_type": "uint16"},
    "noise": {"samples_per_frame": 2, "data_type": "float32"},
}

_ZONES: Final = ("Europe/Helsinki", "Asia/Tokyo", "America/New_York", "Australia/Sydney", "Asia/Kolkata")
_DEVICES: Final = (
    ("2.0/7d41c0a bl:1.1 hw:1", "2.5.2 (281)"),
    ("1.0/5e20b7f bl:1.1 hw:1", "1.12.1 (117)"),
)
_HEART_RATE_STEP: Final = 60 * SAMPLE_RATE / 2**14
"""Heart rates are multiples of this: the resolution of a 16,384-point spectrum at 140 Hz."""


@dataclass(frozen=True, slots=True)
class Study:
    """A study of some people over some nights.

    Equal arguments give equal nights, to the byte, with one version of numpy.

    Attributes:
        seed: Where all chance comes from.
        users: The user ids. The first one sleeps in a zone with daylight saving time.
        nights: How many nights each of them sleeps.
        first_night: The local date on which everybody's first night ends.
        hours: How long a night is, about; 0.1 and more.
        raw_signal: Whether the nights have sampled tracks.
    """

    seed: int = 1
    users: tuple[int, ...] = (1001, 1002)
    nights: int = 30
    first_night: date = date(2024, 3, 11)
    hours: float = 8.8
    raw_signal: bool = True

    def night(self, user_id: int, number: int) -> Night:
        """A person's night, counted from 0.

        Raises:
            ValueError: This person is not in the study.
        """
        position = self.users.index(user_id)
        rng = np.random.default_rng((self.seed, user_id, number))
        zone = _ZONES[position % len(_ZONES)]
        hardware, software = _DEVICES[position % len(_DEVICES)]
        evening = datetime.combine(self.first_night + timedelta(number - 1), time(22, 50), ZoneInfo(zone))
        start = round(evening.timestamp() + float(np.clip(rng.normal(0, 2400), -7200, 7200)), 6)
        length = self.hours * 3600 * float(np.clip(rng.normal(1, 0.08), 0.7, 1.3))
        frames = max(1, round(length / FRAME_LENGTH))
        end = round(start + frames * FRAME_LENGTH, 6)
        return Night(
            seed=self.seed,
            user_id=user_id,
            number=number,
            start_timestamp=start,
            end_timestamp=end,
            frames=frames,
            updated=round(end + float(rng.uniform(1.2, 2.9)), 6),
            timezone=zone,
            hardware=hardware,
            software=software,
            raw_signal=self.raw_signal,
        )

    def nights_of(self, user_id: int) -> Iterator[Night]:
        """A person's nights in the order in which they were slept."""
        return (self.night(user_id, number) for number in range(self.nights))


@dataclass(frozen=True, slots=True)
class Night:
    """One night of one person: the facts about it, and its tracks when they are asked for.

    Attributes:
        seed: The study's seed.
        user_id: Who sleeps.
        number: Which night of the study it is, counted from 0.
        start_timestamp: Unix seconds with microseconds.
        end_timestamp: A whole number of frames later.
        frames: How many frames the night has.
        updated: When the app put the session: a moment after its end.
        timezone: The tz database name of the place.
        hardware: The sensor's version.
        software: The app's version.
        raw_signal: Whether there are sampled tracks.
    """

    seed: int
    user_id: int
    number: int
    start_timestamp: float
    end_timestamp: float
    frames: int
    updated: float
    timezone: str
    hardware: str
    software: str
    raw_signal: bool

    @property
    def session_id(self) -> int:
        """The start, truncated to an integer (Beddit API docs, 3-3 "Id")."""
        return int(self.start_timestamp)

    @property
    def duration(self) -> float:
        """Seconds from start to end."""
        return self.frames * FRAME_LENGTH

    def text_around(self) -> TextAround:
        """The session's JSON text before and after its sampled tracks."""
        head = json.dumps(
            {
                "id": self.session_id,
                "start_timestamp": self.start_timestamp,
                "end_timestamp": self.end_timestamp,
                "timezone": self.timezone,
                "hardware": self.hardware,
                "software": self.software,
                "frame_length": FRAME_LENGTH,
                "error_code": 0,
                "updated": self.updated,
            }
        )
        before = head[:-1].encode() + b', "time_value_tracks": ' + _rendered_tracks(self._sleep().tracks())
        return (before + b', "sampled_tracks": ', b"}") if self.raw_signal else (before, b"}")

    def record(self) -> Record:
        """The night as the cloud keeps it."""
        return Record(
            user_id=self.user_id,
            session_id=self.session_id,
            start=self.start_timestamp,
            end=self.end_timestamp,
            updated=self.updated,
            sampled=SAMPLED_TRACKS if self.raw_signal else None,
            load=self.text_around,
        )

    def session(self) -> dict[str, Any]:
        """The session object, without addresses of its sampled tracks."""
        session: dict[str, Any] = json.loads(self.record().text())
        return session

    def samples(self, track: str) -> npt.NDArray[np.uint16] | npt.NDArray[np.float32]:
        """The samples of ``normal`` or ``noise``, in time order.

        Raises:
            KeyError: There is no such track.
        """
        match track:
            case "normal":
                return self._sleep().ballistocardiogram()
            case "noise":
                return self._sleep().noise_level()
            case _:
                raise KeyError(track)

    def blob(self, track: str) -> bytes:
        """A sampled track as its address serves it: little-endian, frame after frame."""
        return self.samples(track).tobytes()

    def _sleep(self) -> _Sleep:
        return _Sleep(self.seed, self.user_id, self.number, self.frames)


@dataclass(frozen=True)
class _Sleep:
    """What happens in a body during one night, on the session's own clock (0 is its start)."""

    seed: int
    user_id: int
    number: int
    frames: int

    def _rng(self, subject: int) -> np.random.Generator:
        """Chance for one subject, so that one track can be computed without all others."""
        return np.random.default_rng((self.seed, self.user_id, self.number, subject))

    @cached_property
    def _duration(self) -> float:
        return self.frames * FRAME_LENGTH

    @cached_property
    def _seconds(self) -> Floats:
        return np.arange(0, self._duration + 2, 1.0)

    @cached_property
    def _depth(self) -> Floats:
        """How deep sleep is in each second, -1 to 1: cycles of about 95 minutes."""
        rng = self._rng(1)
        phase = 2 * np.pi * self._seconds / rng.normal(5700, 350)
        return np.sin(phase - 0.9 + _wander(rng, self._seconds, every=1800) * 0.4)

    @cached_property
    def _activity(self) -> Floats:
        """The movement in each epoch; 0 in quiet ones."""
        rng = self._rng(2)
        epochs = max(1, int(self._duration // EPOCH))
        at = np.arange(epochs) * float(EPOCH)
        restless = 1.2 - np.interp(at, self._seconds, self._depth) + 6 * np.exp(-at / 500)
        restless += 4 * np.exp((at - self._duration) / 400)
        chance = np.cumsum(restless)
        starts = np.searchsorted(chance, rng.random(1 + rng.poisson(self._duration / 85)) * chance[-1])
        lengths = rng.geometric(0.42, len(starts))
        offsets = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        where = np.minimum(np.repeat(starts, lengths) + offsets, epochs - 1)
        strength = np.repeat(rng.lognormal(7.5, 1.0, len(starts)), lengths)
        activity = np.zeros(epochs)
        np.maximum.at(activity, where, 1000 + strength * rng.lognormal(0, 0.4, len(where)))
        return np.minimum(activity, 38_000.0)

    def _activity_at(self, times: Floats) -> Floats:
        epochs = np.clip((times // EPOCH).astype(np.int64), 0, len(self._activity) - 1)
        return self._activity[epochs]

    @cached_property
    def _heart_rate(self) -> Floats:
        """Beats per minute in each second: falls in the first hours, follows the cycles, jumps at moves."""
        rng = self._rng(3)
        person = np.random.default_rng((self.seed, self.user_id, 7))
        rate = person.normal(45, 2.5) + rng.normal(0, 1.2)
        curve = rate + 16 * np.exp(-self._seconds / 6500) - 2.6 * self._depth
        curve += 1.8 * _wander(rng, self._seconds, every=240)
        arousal = np.convolve(self._activity_at(self._seconds) > 0, np.exp(-np.arange(60) / 18))
        result: Floats = np.clip(curve + 1.3 * np.minimum(arousal[: len(curve)], 6), 36, 95)
        return result

    @cached_property
    def _breaths(self) -> tuple[Floats, Floats]:
        """Start and length of every breath, on the 0.1 s grid of the track."""
        rng = self._rng(4)
        count = int(self._duration / 2.4) + 20
        slow = 3.28 + 0.22 * _wander(rng, np.arange(count, dtype=np.float64), every=60)
        lengths = np.clip(np.round(slow + rng.normal(0, 0.52, count), 1), 1.2, 5.9)
        starts = np.round(rng.uniform(0.5, 3.5) + np.cumsum(lengths) - lengths, 1)
        inside = starts < self._duration
        return starts[inside], lengths[inside]

    def _breath_phase(self, times: Floats) -> Floats:
        """Breathing at these times as a phase; whole numbers are starts of breaths."""
        starts, _ = self._breaths
        return np.interp(times, starts, np.arange(len(starts), dtype=np.float64))

    @cached_property
    def _beats(self) -> npt.NDArray[np.int64]:
        """The sample index of every heartbeat, whether or not anybody could tell it from noise."""
        rng = self._rng(5)
        phase = np.cumsum(self._heart_rate / 60)
        times = np.interp(np.arange(1, int(phase[-1])), phase, self._seconds)
        times += 0.02 * np.sin(2 * np.pi * self._breath_phase(times)) + rng.normal(0, 0.008, len(times))
        beats = np.rint(times * SAMPLE_RATE).astype(np.int64)
        return beats[(beats >= 0) & (beats < self.frames * SAMPLES_PER_FRAME)]

    # --- time-value tracks ------------------------------------------------------------------------

    def tracks(self) -> dict[str, tuple[str, Floats, Floats]]:
        """Every time-value track: data type, times, values."""
        breaths, lengths, amplitudes = self._reported_breaths()
        segments, segment_lengths, variations = self._segments()
        return {
            "actigram": ("float32", *self._actigram()),
            "snoring_events": ("float32", *self._snoring()),
            "respiration_cycles": ("float32", breaths, lengths),
            "respiration_cycle_amplitudes": ("float32", breaths, amplitudes),
            "heart_rate": ("float32", *self._reported_heart_rate()),
            "heartbeat": ("float32", *self._reported_beats()),
            "sensor_status": ("uint8", *self._sensor_status()),
            "events": ("uint8", *self._events()),
            "activity_segment_length": ("float32", segments, segment_lengths),
            "activity_segment_variation": ("float32", segments, variations),
            "high_activity_intervals": ("uint8", *self._high_activity()),
            "signal_high_percentile": ("float32", *self._high_percentile()),
        }

    def _actigram(self) -> tuple[Floats, Floats]:
        epochs = np.flatnonzero(self._activity)
        return epochs * float(EPOCH), _float32_digits(self._activity[epochs])

    def _snoring(self) -> tuple[Floats, Floats]:
        rng = self._rng(10)
        slots = int(self._duration * 0.7 // 30)
        wanted = min(slots, int(rng.poisson(self._duration / 3200)))
        times = np.sort(rng.choice(slots, wanted, replace=False)) * 30.0
        return times, np.full(wanted, 30.0)

    def _reported_breaths(self) -> tuple[Floats, Floats, Floats]:
        rng = self._rng(11)
        starts, lengths = self._breaths
        clear = _spells(rng, len(starts), on=24, off_median=1.8, off_spread=0.9, longest=40)
        clear &= (self._activity_at(starts) == 0) & (self._activity_at(starts + lengths) == 0)
        clear &= starts + lengths < self._duration
        if self._duration > 3600:
            clear &= ~_within(starts, rng.uniform(0.1, 0.9) * self._duration, rng.uniform(120, 270))
        swing = 1.5 * _wander(rng, starts, every=300) + rng.normal(0, 0.35, len(starts))
        amplitudes = np.clip(1450 * np.exp(0.45 * swing), 9, 16_500)
        return starts[clear], lengths[clear], _float32_digits(amplitudes[clear])

    def _reported_heart_rate(self) -> tuple[Floats, Floats]:
        rng = self._rng(12)
        times = np.arange(150, self._duration - 30, 30.0)
        clear = _spells(rng, len(times), on=7, off_median=4.5, off_spread=1.1, longest=55)
        rates = np.interp(times, self._seconds, self._heart_rate) + rng.normal(0, 0.8, len(times))
        return times[clear], _float32_digits(np.rint(rates / _HEART_RATE_STEP) * _HEART_RATE_STEP)[clear]

    def _reported_beats(self) -> tuple[Floats, Floats]:
        rng = self._rng(13)
        starts = self._beats[:-1] / SAMPLE_RATE
        lengths = np.diff(self._beats) / SAMPLE_RATE
        clear = _spells(rng, len(starts), on=1.8, off_median=2.2, off_spread=1.35, longest=120)
        clear &= (lengths >= 0.7) & (lengths <= 1.5) & (self._activity_at(starts) == 0)
        if self._duration > 7200:
            clear &= ~_within(starts, rng.uniform(0.1, 0.8) * self._duration, rng.uniform(400, 900))
        # The service computes times in float32 and prints them as doubles.
        return starts[clear].astype(np.float32).astype(np.float64), _float32_digits(lengths[clear])

    def _sensor_status(self) -> tuple[Floats, Floats]:
        rng = self._rng(14)
        if self._duration < 600 or rng.random() < 0.8:
            return np.array([58.4]), np.array([1.0])
        begin = round(58.4 * int(rng.uniform(0.2, 0.7) * self._duration / 58.4), 1)
        return np.array([58.4, begin, round(begin + 116.8, 1)]), np.array([1.0, rng.integers(2, 4), 1.0])

    def _events(self) -> tuple[Floats, Floats]:
        rng = self._rng(15)
        begin = float(np.float32(-rng.uniform(1.5, 3.2)))
        return np.array([begin, self._duration - rng.uniform(0.2, 0.9)]), np.array([10.0, 11.0])

    def _segments(self) -> tuple[Floats, Floats, Floats]:
        """The quiet stretches between movements."""
        rng = self._rng(16)
        quiet = np.concatenate(([False], self._activity == 0, [False]))
        edges = np.flatnonzero(np.diff(quiet.astype(np.int8)))
        starts, lengths = edges[::2], np.diff(edges)[::2]
        starts, lengths = starts[lengths > 1], np.minimum(lengths[lengths > 1] * EPOCH, 1020)
        variations = np.clip(rng.lognormal(5.77, 0.65, len(starts)), 1, 1800)
        return starts * float(EPOCH), lengths.astype(np.float64), _float32_digits(variations)

    def _high_activity(self) -> tuple[Floats, Floats]:
        rng = self._rng(17)
        pairs = 1 + int(self._duration / 570)
        high = np.ceil(rng.lognormal(2.6, 2.0, pairs))
        low = np.ceil(rng.lognormal(1.4, 0.9, pairs))
        steps = np.column_stack((high * self._duration / EPOCH / (high.sum() + low.sum()), low)).ravel()
        times = np.concatenate(([0.0], np.cumsum(np.maximum(1, np.rint(steps)))))[:-1] * EPOCH
        times = times[times < self._duration]
        return times, (np.arange(len(times)) + 1.0) % 2

    def _high_percentile(self) -> tuple[Floats, Floats]:
        rng = self._rng(18)
        step = 292 * FRAME_LENGTH
        times = np.round(np.arange(0, max(self._duration - step, step), step), 1)
        values = rng.lognormal(6.85, 0.5, len(times)) + 0.12 * self._activity_at(times)
        values *= np.where(rng.random(len(times)) < 0.06, 0.15, 1.0)
        return times, _float32_digits(values)

    # --- sampled tracks ---------------------------------------------------------------------------

    def ballistocardiogram(self) -> npt.NDArray[np.uint16]:
        """``normal``: breathing, heartbeats and movements around the middle of the converter's range."""
        rng = self._rng(20)
        knots = np.arange(self.frames + 1) * FRAME_LENGTH
        moving = self._activity_at(knots)
        breathing = 620 * np.sin(2 * np.pi * self._breath_phase(knots))
        breathing *= 1 + 0.25 * _wander(rng, knots, every=300)
        tossing = np.convolve(rng.normal(0, 0.7, len(knots)) * moving, (0.25, 0.5, 0.25), mode="same")
        baseline = (32_768 + breathing + tossing).astype(np.float32)

        # Slow parts are computed once a frame and joined by straight lines: 28 times less work.
        ramp = np.arange(SAMPLES_PER_FRAME, dtype=np.float32) / SAMPLES_PER_FRAME
        signal = baseline[:-1, None] + np.diff(baseline)[:, None] * ramp
        roughness = (22 + 0.03 * moving[:-1]).astype(np.float32)
        signal += rng.standard_normal(signal.shape, dtype=np.float32) * roughness[:, None]

        flat = signal.ravel()
        beats = self._beats[self._beats <= len(flat) - len(_HEARTBEAT)]
        beats = beats[np.diff(beats, prepend=-len(_HEARTBEAT)) >= len(_HEARTBEAT)]
        strength = (520 * rng.normal(1, 0.08, len(beats))).astype(np.float32)
        flat[beats[:, None] + np.arange(len(_HEARTBEAT))] += strength[:, None] * _HEARTBEAT
        samples: npt.NDArray[np.uint16] = np.clip(np.rint(flat), 0, 65_535).astype("<u2")
        return samples

    def noise_level(self) -> npt.NDArray[np.float32]:
        """``noise``: the noise level in windows of 100 ms."""
        rng = self._rng(21)
        times = np.arange(2 * self.frames) * (FRAME_LENGTH / 2)
        level = 14 * rng.lognormal(0, 0.25, len(times)) + 0.02 * self._activity_at(times)
        return level.astype("<f4")


def _heartbeat_shape() -> npt.NDArray[np.float32]:
    """One beat of a ballistocardiogram: the waves H to N, 0.6 s in all, J is the highest."""
    at = np.arange(84) / SAMPLE_RATE
    waves = (
        (0.06, 0.30), (0.12, -0.55), (0.18, 1.00), (0.25, -0.75), (0.33, 0.35), (0.42, -0.18), (0.50, 0.08),
    )  # fmt: skip
    shape = sum(height * np.exp(-(((at - centre) / 0.028) ** 2)) for centre, height in waves)
    return np.asarray(shape, dtype=np.float32)


_HEARTBEAT: Final = _heartbeat_shape()


def _wander(rng: np.random.Generator, at: Floats, *, every: float) -> Floats:
    """Slow chance: a normal deviate at every so many units of ``at``, joined by straight lines."""
    knots = np.arange(at[0], at[-1] + 2 * every, every)
    return np.interp(at, knots, rng.normal(0, 1, len(knots)))


def _spells(
    rng: np.random.Generator, count: int, *, on: float, off_median: float, off_spread: float, longest: int
) -> Bools:
    """A mask of good spells (``on`` long on average) and bad ones (most short, some up to ``longest``)."""
    turns = 1 + count // 2  # each takes two at least
    good = rng.geometric(min(1.0, 1 / on), turns)
    bad = np.ceil(rng.lognormal(np.log(off_median), off_spread, turns))
    spells = np.column_stack((good, np.minimum(bad, longest).astype(np.int64))).ravel()
    return np.repeat(np.tile([True, False], turns), spells)[:count]


def _within(times: Floats, begin: float, length: float) -> Bools:
    return (times >= begin) & (times < begin + length)


def _float32_digits(values: Floats) -> Floats:
    """The doubles that print like float32 values written with seven digits, as the service writes them."""
    single = values.astype(np.float32).astype(np.float64)
    magnitude = np.floor(np.log10(np.where(single == 0, 1, np.abs(single))))
    scale = 10.0 ** (6 - magnitude)
    result: Floats = np.rint(single * scale) / scale
    return result


def _rendered_tracks(tracks: dict[str, tuple[str, Floats, Floats]]) -> bytes:
    """The tracks' JSON text; whole numbers are written as integers, as the service does."""
    plain = {
        name: {"value_data_type": data_type, "items": np.column_stack((times, values)).tolist()}
        for name, (data_type, times, values) in tracks.items()
    }
    text = msgspec.json.format(msgspec.json.encode(plain), indent=0)
    return text.replace(b".0, ", b", ").replace(b".0]", b"]")
