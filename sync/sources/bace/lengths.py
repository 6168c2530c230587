"""What is known of how the server answers: above all, at which interval lengths its resolution changes. Pure.

``data-downsampled`` answers raw samples, or buckets of a minute, an hour or a day, depending on how long the
interval asked for is. Where it changes from one to the other is not documented (BACE docs, accessing-data:
the decision is in a picture), so it is learned: every answer at some length says something about all
shorter or all longer ones.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import isqrt
from typing import Final

import numpy as np
import numpy.typing as npt

from sync.sources.bace.spans import DAY, HOUR, MINUTE, SECOND

RAW: Final = 0
"""The grain of raw samples; the other grains are the widths of buckets."""
BUCKETS: Final = (MINUTE, HOUR, DAY)

FLOOR: Final = SECOND
"""No interval is shortened below this to find raw samples."""

TOLERANCE: Final = 20
"""The raw length is known well enough when one that is a twentieth longer is known to fail."""

CONVINCING: Final = 3
"""So many instants on a grid are no chance."""

# A threshold is most likely a round number; a second less is safe whether or not it belongs to it.
ROUND: Final = tuple(
    round(seconds) * SECOND - SECOND
    for seconds in (
        *(5, 10, 30),
        *(minutes * 60 for minutes in (1, 2, 5, 10, 15, 20, 30)),
        *(hours * 3600 for hours in (1, 1.5, 2, 3, 4, 6, 8, 12)),
        *(days * 86_400 for days in (1, 2, 3, 7, 14, 30, 60, 90, 180, 365)),
    )
)
FIRST_GUESS: Final = 3599 * SECOND
USUAL: Final = {MINUTE: DAY - SECOND, HOUR: 14 * DAY - SECOND}
"""Up to which length buckets of a width are likely served: an interval of more than a day came in hours."""


@dataclass(frozen=True, slots=True)
class Threshold:
    """Where a resolution ends: it is served at lengths up to ``reached``, and no more from ``missed`` on."""

    reached: int = 0
    missed: int | None = None

    def hit(self, length: int) -> Threshold:
        """The resolution, or a finer one, came at this length."""
        if length <= self.reached:
            return self
        return Threshold(length, self.missed if self.missed is None or self.missed > length else None)

    def miss(self, length: int) -> Threshold:
        """A coarser one came at this length. Whatever was believed of it before no longer holds."""
        if self.missed is not None and self.missed <= length:
            return self
        return Threshold(self.reached if self.reached < length else 0, length)


@dataclass(frozen=True, slots=True)
class Lengths:
    """What was learned of the server, in microseconds of interval length.

    Attributes:
        raw: Raw samples; ``raw.reached`` is proven, the rest of this is good guessing.
        minutes: Buckets of a minute, or finer.
        hours: Buckets of an hour, or finer.
        hint: A raw length that was proven some time ago.
        ordered: Whether rows come in the order of time that is asked for; None while nothing has shown it.
    """

    raw: Threshold = Threshold()
    minutes: Threshold = Threshold()
    hours: Threshold = Threshold()
    hint: int = 0
    ordered: bool | None = None

    def is_raw(self, length: int) -> bool:
        """Whether an answer at this length is raw whatever it looks like."""
        return length <= max(self.raw.reached, FLOOR)

    def widest(self, length: int) -> int:
        """The widest buckets that an answer at this length can consist of; ``RAW`` where it has none."""
        if self.is_raw(length):
            return RAW
        if length <= self.minutes.reached:
            return MINUTE
        return HOUR if length <= self.hours.reached else DAY

    def learn(self, length: int, grain: int, *, places: int, shared: bool) -> Lengths:
        """What an answer at this length teaches.

        Args:
            length: Of the interval asked for.
            grain: ``RAW``, or the widest grid that all rows lie on.
            places: How many different instants the rows have: few of them lie on a wide grid by chance.
            shared: Some row stands for several samples.
        """
        convincing = places >= CONVINCING

        def judged(threshold: Threshold, finest: int, *, believed: bool) -> Threshold:
            if grain <= finest:
                return threshold.hit(length)
            return threshold.miss(length) if believed else threshold

        return replace(
            self,
            raw=judged(self.raw, RAW, believed=shared),
            minutes=judged(self.minutes, MINUTE, believed=convincing),
            hours=judged(self.hours, HOUR, believed=convincing),
        )

    def disappointed(self, length: int, hoped: int) -> Lengths:
        """Wider buckets than hoped for came at this length."""
        if hoped == MINUTE:
            return replace(self, minutes=self.minutes.miss(length))
        return replace(self, hours=self.hours.miss(length)) if hoped == HOUR else self

    def exposed(self, length: int) -> Lengths:
        """What came at this length were buckets: a shorter interval showed other instants there."""
        return replace(self, raw=self.raw.miss(length))

    def worth_trying(self) -> int:
        """The length at which to look for raw samples where nothing shorter will do.

        Equal to ``raw.reached`` once that is known well enough.
        """
        proven, missed = self.raw.reached, self.raw.missed
        if proven < self.hint and (missed is None or self.hint < missed):
            return self.hint
        if missed is None:
            return FIRST_GUESS if proven == 0 else _next_round(2 * proven)
        between = [length for length in ROUND if proven < length < missed]
        if between:
            return between[len(between) // 2]
        if proven == 0:
            return max(FLOOR, missed // 2)
        slack = proven + proven // TOLERANCE
        if slack >= missed:
            return proven
        return slack if proven in ROUND else max(slack, _whole(isqrt(proven * missed)))

    def length_for(self, width: int) -> tuple[int, int | None]:
        """Lengths at which buckets of a width are expected: the shortest and the longest."""
        if width == MINUTE:
            longest = _longest(self.minutes, MINUTE)
            return min(self.raw.missed or 2 * max(self.raw.reached, MINUTE), longest), longest
        if width == HOUR:
            longest = _longest(self.hours, HOUR)
            beyond = max(2 * self.minutes.reached, USUAL[MINUTE] + HOUR)
            return min(self.minutes.missed or beyond, longest), longest
        return self.hours.missed or max(2 * self.hours.reached, USUAL[HOUR] + DAY), None


def grain_of(
    stamps: npt.NDArray[np.int64], counts: npt.NDArray[np.int64], length: int, lengths: Lengths
) -> int | None:
    """The grain of an answer that has rows: proven raw, or the widest grid on which all rows lie.

    Counts of 1 alone prove nothing: a battery that is read every five minutes comes as minute buckets with a
    count of 1 and wrong instants. A stamp off the minute grid is one that no bucket has.

    Args:
        stamps: The rows' instants in microseconds.
        counts: Samples behind each.
        length: Of the interval asked for, in microseconds.
        lengths: What is known.

    Returns:
        ``RAW``, a width of ``BUCKETS``, or None where the rows are neither proven raw nor on any grid.
    """
    single = bool((counts == 1).all())
    on_minutes = not (stamps % MINUTE).any()
    if length <= FLOOR or (single and not on_minutes):
        return RAW
    if lengths.is_raw(length) and (single or not on_minutes):
        return RAW  # a larger count is a number of samples that share an instant
    if not on_minutes:
        return None
    return next(width for width in reversed(BUCKETS) if not (stamps % width).any())


def _longest(threshold: Threshold, width: int) -> int:
    """The longest interval at which buckets of a width are expected."""
    usual = USUAL[width]
    if threshold.missed is None or usual < threshold.missed:
        return max(threshold.reached, usual)
    return max(threshold.reached, _whole(threshold.missed // 8))


def _next_round(length: int) -> int:
    return next((candidate for candidate in ROUND if candidate >= length), _whole(length))


def _whole(length: int) -> int:
    return max(FLOOR, length // SECOND * SECOND)
