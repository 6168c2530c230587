"""What the two clouds hold during a campaign, how that changes, and what of it a warehouse may hold.

The clouds' own memory is the truth. Beside it, every version that ever was is remembered, so that the
warehouse can be judged at any moment: what it says to have read has to be there, as it was at some time.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np

from sync.emulators.bace import BaceCloud, DataSession, Dataset, Samples, identifier
from sync.emulators.bace import Behaviour as BaceBehaviour
from sync.emulators.beddit import BedditCloud, Behaviour

USERS: Final = (1001, 1002)
DAY: Final = 86_400
MANY: Final = 60
"""Nights of a user, or data sessions, beyond which what there is changes instead of growing in number."""

FRAMES: Final = 300
PER_FRAME: Final = 3
TRACKS: Final = ("heart_rate", "actigram", "events", "respiration_cycles")
DATATYPES: Final = (5205, 6000, 6001)

MANNERS: Final = (Behaviour(limit_ceiling=None), Behaviour(gzip=True, inclusive_updated_after=True))


@dataclass(frozen=True, slots=True)
class Version:
    """One version of a night.

    Attributes:
        session: The session object, with its stamp.
        blob: Its raw signal; None: it has none.
    """

    session: dict[str, Any]
    blob: bytes | None


@dataclass(slots=True)
class World:
    """Two clouds that change.

    Attributes:
        beddit: The Beddit cloud.
        bace: The BACE cloud.
        clock: Their time.
        nights: Every version of every night, by user and session, in the order of their stamps.
        late: Samples (session, dataset, milliseconds) that arrived after their time.
        changes: How many changes there were.
    """

    beddit: BedditCloud
    bace: BaceCloud
    clock: Callable[[], float]
    nights: dict[tuple[int, int], list[Version]] = field(default_factory=dict)
    late: set[tuple[str, str, int]] = field(default_factory=set)
    changes: int = 0

    @classmethod
    def empty(cls, clock: Callable[[], float], rng: random.Random) -> World:
        """Clouds that hold nothing yet, and answer in small pages."""
        bace = BaceBehaviour(
            raw_up_to=rng.choice([900, 3600]),
            data_pages=50,
            data_pages_to=rng.choice([60, 200]),
            session_pages_to=rng.choice([5, 50]),
            access_lifetime=rng.choice([600, DAY]),
            session_span_decides=rng.random() < 0.5,
        )
        tokens = {user: f"token-of-{user}" for user in USERS}
        return cls(
            BedditCloud(None, tokens=tokens, clock=clock, behaviour=rng.choice(MANNERS)),
            BaceCloud(clock=clock, behaviour=bace),
            clock,
        )

    def change(self, rng: random.Random) -> None:
        """Something happens in one of the clouds."""
        kinds = (self._new_night, self._changed_night, self._shrunk_night, self._late_night)
        others = (self._new_session, self._growing, self._late_session, self._changed, self._late_samples)
        rng.choice((*kinds, *others))(rng)
        self.changes += 1

    # --- Beddit -----------------------------------------------------------------------------------

    def _new_night(self, rng: random.Random) -> None:
        self._night(rng, self.clock() - rng.uniform(1, 3) * 3600)

    def _late_night(self, rng: random.Random) -> None:
        """A night of long ago that is put now."""
        self._night(rng, self.clock() - rng.uniform(2, 900) * DAY)

    def _night(self, rng: random.Random, start: float) -> None:
        user = rng.choice(USERS)
        if sum(one == user for one, _ in self.nights) < MANY:
            self._put(rng, user, round(start, 6), items=rng.randint(1, 40), is_raw=rng.random() < 0.4)
        else:
            self._changed_night(rng)

    def _changed_night(self, rng: random.Random) -> None:
        self._again(rng, lambda _: rng.randint(1, 60))

    def _shrunk_night(self, rng: random.Random) -> None:
        self._again(rng, lambda items: max(1, items // 3))

    def _again(self, rng: random.Random, length: Callable[[int], int]) -> None:
        if not self.nights:
            self._new_night(rng)
            return
        user, session_id = rng.choice(sorted(self.nights))
        last = self.nights[user, session_id][-1]
        longest = max(len(track["items"]) for track in last.session["time_value_tracks"].values())
        start = last.session["start_timestamp"]
        self._put(rng, user, start, items=length(longest), is_raw=last.blob is not None)

    def _put(self, rng: random.Random, user: int, start: float, *, items: int, is_raw: bool) -> None:
        chosen = rng.sample(TRACKS, rng.randint(1, len(TRACKS)))
        tracks = {
            track: {
                "value_data_type": "float32",
                "items": [[rng.uniform(-3, 60), rng.gauss(50, 20)] for _ in range(rng.randint(1, items))],
            }
            for track in chosen
        }
        session: dict[str, Any] = {
            "id": int(start),
            "start_timestamp": start,
            "end_timestamp": round(start + FRAMES * 0.2, 6),
            "timezone": rng.choice(["Europe/Helsinki", "America/New_York"]),
            "hardware": "2.0/7d41c0a bl:1.1 hw:1",
            "software": f"2.5.{rng.randint(0, 9)} (281)",
            "frame_length": 0.2,
            "error_code": 0,
            "time_value_tracks": tracks,
        }
        blob = None
        if is_raw:
            session["sampled_tracks"] = {"normal": {"samples_per_frame": PER_FRAME, "data_type": "uint16"}}
            blob = rng.randbytes(2 * FRAMES * PER_FRAME)
            self.beddit.set_blob(user, int(start), "normal", blob)
        self.beddit.put(user, session)
        stamped = self.beddit.truth(user)[int(start)]
        self.nights.setdefault((user, int(start)), []).append(Version(stamped, blob))

    # --- BACE -------------------------------------------------------------------------------------

    def _new_session(self, rng: random.Random) -> None:
        self._session(rng, int(self.clock()) - rng.randint(2 * 3600, DAY))

    def _late_session(self, rng: random.Random) -> None:
        """A session of long ago that is uploaded now."""
        self._session(rng, int(self.clock()) - rng.randint(2 * DAY, 400 * DAY))

    def _session(self, rng: random.Random, start: int) -> None:
        if len(self.bace.sessions()) >= MANY:
            self._changed(rng)
            return
        now, seconds = int(self.clock()), rng.randint(600, 7000)
        self.bace.put(
            DataSession.of(
                self._samples(rng, start, seconds),
                start=start,
                end=start + seconds,
                created_at=now,
                ingested_at=now,
                label=f"BACE Go {start}.{rng.randrange(1000)}",
            )
        )

    def _growing(self, rng: random.Random) -> None:
        """A session that has just begun, and goes on for some hours."""
        if len(self.bace.sessions()) >= MANY:
            self._late_samples(rng)
            return
        start, seconds = int(self.clock()), rng.randint(1800, 5 * 3600)
        label = f"BACE Go {start}.{rng.randrange(1000)}"
        samples = self._samples(rng, start, seconds)
        self.bace.put(
            DataSession.of(samples, start=start, end=start + seconds, created_at=start, label=label)
        )

    def _changed(self, rng: random.Random) -> None:
        """Somebody renames a session."""
        if sessions := self._present():
            session, now = rng.choice(sessions), self.clock()
            self.bace.put(replace(session, label=f"renamed at {now}", changed_at=(*session.changed_at, now)))

    def _late_samples(self, rng: random.Random) -> None:
        """Samples of a session arrive after their time."""
        if not (sessions := self._present()):
            return
        session, now_ms = rng.choice(sessions), int(self.clock() * 1000)
        held = session.computed()
        known = set(held.time_ms.tolist())
        points = []
        for _ in range(rng.randint(1, 20)):
            last = min(now_ms, 1000 * (session.end or 0)) - 1
            ms = rng.randint(1000 * session.start, max(1000 * session.start, last))
            if ms not in known:
                known.add(ms)
                points.append((rng.choice(session.datasets), ms / 1000, round(rng.gauss(60, 9), 3)))
        if not points:
            return
        self.bace.add_samples(session.id, Samples.of(points))
        self.late |= {(session.id, d.id_container_data_latest, round(at * 1000)) for d, at, _ in points}

    def _present(self) -> list[DataSession]:
        now = self.clock()
        found = [session for session in self.bace.sessions() if session.exists(now)]
        return sorted(found, key=lambda session: session.label)

    def _samples(self, rng: random.Random, start: int, seconds: int) -> Samples:
        group, device = identifier("group", rng.randrange(3)), identifier("device", rng.randrange(5))
        datasets = tuple(
            Dataset.of(group, device, one) for one in DATATYPES[: rng.randint(1, len(DATATYPES))]
        )
        count = rng.randint(0, 150)
        times = sorted(rng.sample(range(1000 * seconds - 1), count))
        return Samples(
            datasets,
            np.array([rng.randrange(len(datasets)) for _ in times], np.int64),
            1000 * start + np.array(times, np.int64),
            np.array([round(rng.gauss(60, 9), 3) for _ in times], np.float64),
        )
