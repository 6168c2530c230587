"""The Beddit machine: nights are put, changed, shrunk, put again, and vanish, under two processes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule

from sync.emulators.beddit import BedditCloud, Behaviour, Order, Overload, RangeBy
from sync.model import Task
from sync.ports import Source
from sync.sources.beddit.settings import Account, BedditSettings
from sync.sources.beddit.source import BedditSource
from sync.storage.progress import PostgresWarehouse
from sync.transport import HostGates
from tests.integration.beddit.conftest import SAMPLES, SESSIONS, TRACKS, micros
from tests.model.house import IMPATIENT
from tests.model.machine import DAY, PipelineMachine

USER = 1001
ACCOUNT = "user1001"
NOW = 1_711_000_000.5
OLDEST = 45
"""Days before NOW in which the first nights lie; history begins a little before."""

STREAM = """
    SELECT cursor, coverage FROM sync.stream_state WHERE source = 'beddit' AND account = $1
"""
LENGTHS = st.sampled_from([20.0, 40.0, 60.0])
BEHAVIOURS = (
    Behaviour(),
    Behaviour(inclusive_updated_after=True, order=Order.START, range_by=RangeBy.END),
    Behaviour(order=Order.SHUFFLED, range_order=Order.SHUFFLED, range_by=RangeBy.OVERLAP, gzip=True),
    Behaviour(range_by=RangeBy.CONTAINMENT, range_includes_end=False, range_includes_start=False),
    # Nine nights are never asked for at once, but all of them are.
    Behaviour(overload_above=8, overload_seconds=0),
    Behaviour(overload_above=8, overload_seconds=0, order=Order.SHUFFLED, overload=Overload.CUT),
)

Content = tuple[Any, ...]
"""Everything that the warehouse tells of a version of a night but its raw signal."""


@dataclass(slots=True)
class Night:
    """What the vendor has held of one night.

    Attributes:
        versions: All of them in the order of their puts, and their contents.
        first: The stamp of the first one since it was last absent.
        is_silent: The newest version has the stamp of one before it.
        is_present: The vendor holds it.
        signals: Every raw signal that it ever had.
    """

    versions: list[dict[str, Any]] = field(default_factory=list)
    contents: list[Content] = field(default_factory=list)
    first: float = 0.0
    is_silent: bool = False
    is_present: bool = True
    signals: set[bytes] = field(default_factory=set)

    @property
    def newest(self) -> dict[str, Any]:
        """The newest version."""
        return self.versions[-1]


class BedditPart:
    """The vendor's side, and what must hold; usable in more than one machine."""

    def __init__(self, machine: PipelineMachine, now: float) -> None:
        self.machine = machine
        self.nights: dict[int, Night] = {}
        self.begun_at: float | None = None
        self._stored: dict[int, int] = {}
        self._samples: dict[int, bytes] = {}
        self._now = now
        self._serial = 0
        self.cloud = BedditCloud(tokens={USER: "model-token"}, clock=machine.clock)

    def source(self, warehouse: PostgresWarehouse, folder: Path) -> Source:
        """The source of one process."""
        settings = BedditSettings(
            base_url=self.cloud.base_url,
            accounts={ACCOUNT: Account(USER, "model-token")},
            spool=folder / "spool",
            allow_private_blob_hosts=True,
            history_start=datetime.fromtimestamp(self._now - (OLDEST + 5) * DAY, UTC),
        )
        source = BedditSource(settings, warehouse, HostGates(), IMPATIENT)
        source._contexts = {
            name: replace(context, clock=self.machine.clock) for name, context in source._contexts.items()
        }
        return source

    # --- what the vendor does ---------------------------------------------------------------------

    def put(self, start: float, *, length: float, items: int, signal: bool, ago: float = 0.0) -> None:
        """The app puts a night, new or changed; ``ago`` is how long it took until it is served."""
        self._serial += 1
        night = {
            "id": int(start),
            "start_timestamp": start,
            "end_timestamp": start + length,
            "timezone": "Europe/Helsinki",
            "hardware": f"version {self._serial}",
            "frame_length": 0.2,
            "error_code": 0,
            "time_value_tracks": {
                f"track_{n}": {"items": [[0.5 * m, self._serial + m / 8] for m in range(items)]}
                for n in range(1 + items % 2)
            },
        }
        if signal:
            night["sampled_tracks"] = {"normal": {"samples_per_frame": 1, "data_type": "uint16"}}
            samples = (np.arange(round(length / 0.2)) + self._serial).astype("<u2").tobytes()
            self.cloud.set_blob(USER, int(start), "normal", samples)
        before = self.nights.get(int(start))
        stamp = round(self.machine.clock() - ago, 6)
        if before is not None:
            stamp = max(stamp, before.newest["updated"])
        self._put(night, stamp)

    def put_again(self, chosen: int, *, changed: bool, silently: bool) -> None:
        """A known night is put once more: as it was, or with other content; with a new stamp or the old."""
        known = [night for _, night in sorted(self.nights.items()) if night.is_present]
        if not known:
            return
        night = json.loads(json.dumps(known[chosen % len(known)].newest))
        stamp = night["updated"] if silently else max(night["updated"], round(self.machine.clock(), 6))
        if changed:
            self._serial += 1
            night["hardware"] = f"version {self._serial}"
        self._put(night, stamp)

    def vanish(self, chosen: int) -> None:
        """A night disappears without a trace."""
        known = sorted(key for key, night in self.nights.items() if night.is_present)
        if known:
            key = known[chosen % len(known)]
            self.nights[key].is_present = False
            self.cloud.remove(USER, key)

    def _put(self, session: dict[str, Any], stamp: float) -> None:
        self.cloud.put(USER, session, updated=stamp)
        session = session | {"updated": stamp}
        night = self.nights.setdefault(session["id"], Night())
        if not night.is_present or not night.versions:
            night.first, night.is_present = stamp, True
        content = _content(session)
        if any(
            stamp == v["updated"] and c != content
            for v, c in zip(night.versions, night.contents, strict=True)
        ):
            night.is_silent = True
        elif night.versions and stamp > night.newest["updated"]:
            night.is_silent = False
        night.versions.append(session)
        night.contents.append(content)
        if "sampled_tracks" in session and (signal := self.cloud.blob(USER, session["id"], "normal")):
            night.signals.add(signal)

    # --- what holds ------------------------------------------------------------------------------

    async def check(self) -> None:
        """Every row is a version that once was; versions only get newer; progress is behind the rows."""
        stored = await self._contents()
        which = {key: self._version(key, content) for key, content in stored.items()}
        for key, before in self._stored.items():
            assert which.get(key, -1) >= before, f"night {key}: version {which.get(key)} after {before}"
        self._stored = which
        await self._check_samples()
        await self._check_progress(which)

    async def check_equal(self, *, silent_too: bool) -> None:
        """The warehouse has the newest version of everything, and every raw signal that there is."""
        stored = await self._contents()
        for key, night in self.nights.items():
            if not night.is_present or (night.is_silent and not silent_too):
                continue
            assert stored[key] == night.contents[-1], f"night {key}"
            if "sampled_tracks" in night.newest:
                assert self._samples[key] == self.cloud.blob(USER, key, "normal"), f"signal of {key}"

    def _version(self, key: int, content: Content) -> int:
        known = self.nights[key].contents
        assert content in known, f"night {key} was never like that: {content}"
        return max(n for n, version in enumerate(known) if version == content)

    async def _contents(self) -> dict[int, Content]:
        fetch = self.machine.house.fetch
        tracks: dict[int, list[Any]] = {}
        for row in await fetch(TRACKS, USER):
            cells = tuple(tuple(row[name]) for name in ("indexes", "offsets", "values", "instants"))
            tracks.setdefault(row["session_id"], []).append((row["track"], *cells))
        return {
            row["session_id"]: (
                row["start"],
                row["end"],
                row["hardware"],
                row["updated"],
                tuple(sorted(tracks.get(row["session_id"], ()))),
            )
            for row in await fetch(SESSIONS, USER)
        }

    async def _check_samples(self) -> None:
        found = {
            row["session_id"]: np.array(row["values"]).astype("<u2").tobytes()
            for row in await self.machine.house.fetch(SAMPLES, USER)
        }
        assert self._samples.keys() <= found.keys(), "a raw signal is gone"
        for key, samples in found.items():
            assert samples in self.nights[key].signals, f"the raw signal of {key} was never like that"
        self._samples = found

    async def _check_progress(self, which: Mapping[int, int]) -> None:
        rows = await self.machine.house.fetch(STREAM, ACCOUNT)
        if not rows or rows[0]["cursor"] is None:
            return
        reached = json.loads(rows[0]["cursor"])["updated_after"]
        if self.begun_at is None:
            self.begun_at = reached
        passed = reached - 1.0  # each pass looks one second back
        for key, night in self.nights.items():
            if not night.is_present:
                continue
            start = datetime.fromtimestamp(night.newest["start_timestamp"], UTC)
            read = any(part.lower <= start < part.upper for part in rows[0]["coverage"])
            has = night.versions[which[key]]["updated"] if key in which else None
            if read and night.first <= passed:
                assert has is not None, f"night {key} counts as read and is not there"
            if (read or night.newest["updated"] > self.begun_at) and night.newest["updated"] <= passed:
                assert has == night.newest["updated"], f"the cursor has passed a version of night {key}"


def _content(session: Mapping[str, Any]) -> Content:
    start = session["start_timestamp"]
    tracks = []
    for name, track in session["time_value_tracks"].items():
        if items := track["items"]:
            offsets = tuple(float(offset) for offset, _ in items)
            values = tuple(float(value) for _, value in items)
            instants = tuple(micros(start + offset) for offset in offsets)
            tracks.append((name, tuple(range(len(items))), offsets, values, instants))
    end = micros(session["end_timestamp"])
    return micros(start), end, session["hardware"], session["updated"], tuple(sorted(tracks))


def span(first: int, last: int) -> dict[str, datetime]:
    """A backfill's bounds, in days before NOW."""
    return {
        "since": datetime.fromtimestamp(NOW - first * DAY, UTC),
        "until": datetime.fromtimestamp(NOW - last * DAY, UTC),
    }


class BedditMachine(PipelineMachine):
    """One account whose nights change under two processes."""

    now = NOW
    accounts: Mapping[str, Sequence[str]] = MappingProxyType({"beddit": (ACCOUNT,)})
    tasks = (
        Task("once"),
        Task("once"),
        Task("once"),
        Task("retry"),
        Task("backfill"),
        Task("backfill", **span(30, 10)),
        Task("backfill", reload=True),
        Task("backfill", reload=True, **span(20, 5)),
    )

    async def open_clouds(self) -> None:
        """One cloud."""
        self.part = BedditPart(self, NOW)
        await self.part.cloud.__aenter__()

    async def close_clouds(self) -> None:
        """End it."""
        await self.part.cloud.__aexit__(None, None, None)

    def sources(self, warehouse: PostgresWarehouse, folder: Path) -> Mapping[str, Source]:
        """Beddit's."""
        return {"beddit": self.part.source(warehouse, folder)}

    @initialize(behaviour=st.sampled_from(BEHAVIOURS), days=st.lists(st.integers(1, OLDEST), max_size=20))
    def begin(self, behaviour: Behaviour, days: list[int]) -> None:
        """What the vendor is like, and holds at first."""
        self.part.cloud.behaviour = behaviour
        for day in days:
            self.part.put(NOW - day * DAY, length=20.0, items=day % 4, signal=day % 3 == 0)

    @rule(day=st.integers(0, OLDEST), length=LENGTHS, items=st.integers(0, 3), signal=st.booleans())
    def put(self, day: int, length: float, items: int, signal: bool) -> None:
        """A night of long ago is put: new, changed, shrunk or grown."""
        self.step += 1
        self.part.put(NOW - day * DAY, length=length, items=items, signal=signal)

    @rule(length=LENGTHS, items=st.integers(0, 3), signal=st.booleans(), ago=st.sampled_from([0.0, 0.5]))
    def put_new(self, length: float, items: int, signal: bool, ago: float) -> None:
        """A night ends."""
        self.step += 1
        start = self.clock.now // (DAY / 2) * (DAY / 2) - 700.0
        self.part.put(start, length=length, items=items, signal=signal, ago=ago)

    @rule(chosen=st.integers(0, 99), changed=st.booleans(), silently=st.booleans())
    def put_again(self, chosen: int, changed: bool, silently: bool) -> None:
        """A known night is put once more."""
        self.step += 1
        self.part.put_again(chosen, changed=changed, silently=silently)

    @precondition(lambda self: self.part.nights)
    @rule(chosen=st.integers(0, 99))
    def vanish(self, chosen: int) -> None:
        """A night disappears."""
        self.step += 1
        self.part.vanish(chosen)

    @rule(seconds=st.sampled_from([0.25, 1.0, 60.0, 7 * 3600.0, DAY + 1, 8 * DAY]))
    def time_passes(self, seconds: float) -> None:
        """Time passes."""
        self.step += 1
        self.clock.now += seconds

    async def check(self, since: int) -> None:  # noqa: ARG002 - nights are whole
        """What holds of the nights."""
        await self.part.check()

    async def check_end(self) -> None:
        """A few quiet days bring everything but what has no stamp of its own; a reload brings that, too."""
        for days in (1.1, 1.1, 8.0):
            await self.quiet(Task("once"), after=days * DAY)
        await self.part.check_equal(silent_too=False)
        await self.quiet(Task("backfill", reload=True), after=DAY)
        await self.part.check_equal(silent_too=True)
