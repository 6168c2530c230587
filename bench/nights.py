"""Nights whose answers are ready before anybody asks, so that the emulated cloud is not what is measured.

A few nights of a study are computed; all others are copies of them at other times.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from sync.emulators.beddit import BedditCloud, Record, Study
from sync.emulators.beddit.study import FRAME_LENGTH, SAMPLED_TRACKS, Night

USER: Final = 1
DAY: Final = 86_400
FIRST: Final = int(datetime(2012, 6, 1, 22, tzinfo=UTC).timestamp())
"""Within what a backfill reads without being told from when."""
DIFFERENT: Final = 8
"""Nights that are computed."""

_TRACKS: Final = b'"time_value_tracks"'


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """Some nights in a row.

    Attributes:
        nights: How many.
        first: The first one's number; number 0 was slept on ``FIRST``.
        hours: How long a night is, about.
        raw_signal: Whether they have sampled tracks.
        put_now: Whether they are put when the cloud starts, instead of at their ends.
    """

    nights: int
    first: int = 0
    hours: float = 8.8
    raw_signal: bool = True
    put_now: bool = False

    def templates(self) -> list[Template]:
        """The nights that are computed."""
        study = Study(
            users=(USER,), nights=min(DIFFERENT, self.nights), hours=self.hours, raw_signal=self.raw_signal
        )
        return [Template.of(night) for night in study.nights_of(USER)]

    def __iter__(self) -> Iterator[tuple[int, Template]]:
        """Each night's start, and the one that it is a copy of."""
        templates = self.templates()
        for number in range(self.first, self.first + self.nights):
            yield FIRST + number * DAY, templates[number % len(templates)]


@dataclass(frozen=True, slots=True)
class Template:
    """A computed night.

    Attributes:
        night: Its facts.
        tracks: Its text from the time-value tracks to the place of the sampled ones.
        after: Its text after these.
        blobs: The samples.
    """

    night: Night
    tracks: bytes
    after: bytes
    blobs: dict[str, bytes]

    @classmethod
    def of(cls, night: Night) -> Template:
        """Compute a night."""
        before, after = night.text_around()
        _, name, rest = before.partition(_TRACKS)
        blobs = {track: night.blob(track) for track in SAMPLED_TRACKS} if night.raw_signal else {}
        return cls(night, name + rest, after, blobs)

    def record(self, start: int, updated: float) -> Record:
        """The same night at another time, as a cloud keeps it."""
        end = start + self.night.frames * FRAME_LENGTH
        facts = {
            "id": start,
            "start_timestamp": float(start),
            "end_timestamp": round(end, 6),
            "timezone": self.night.timezone,
            "hardware": self.night.hardware,
            "software": self.night.software,
            "frame_length": FRAME_LENGTH,
            "error_code": 0,
            "updated": updated,
        }
        head = json.dumps(facts)[:-1].encode() + b", "
        return Record(
            user_id=USER,
            session_id=start,
            start=float(start),
            end=end,
            updated=updated,
            sampled=SAMPLED_TRACKS if self.night.raw_signal else None,
            load=lambda: (head + self.tracks, self.after),
        )


class PreparedCloud(BedditCloud):
    """A Beddit cloud that holds such nights."""

    def hold(self, series: Series, *, now: float) -> None:
        """Put nights."""
        for start, template in series:
            end = start + template.night.duration
            self._hold(template.record(start, now if series.put_now else round(end + 2, 6)))
            for track, samples in template.blobs.items():
                self.set_blob(USER, start, track, samples)
        self.set_token(USER, self.token(USER))
