"""The BACE machine: sessions begin, grow, end, change, and vanish, for two accounts under two processes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.stateful import initialize, rule

from sync.emulators.bace import Account as CloudAccount
from sync.emulators.bace import BaceCloud, Behaviour, DataSession, Dataset, Samples, Sorting, identifier
from sync.model import Task
from sync.ports import Source
from sync.sources.bace.settings import Account, BaceSettings
from sync.sources.bace.source import BaceSource
from sync.storage.progress import PostgresWarehouse
from sync.transport import HostGates
from tests.integration.bace.conftest import DATAPOINTS
from tests.model.house import IMPATIENT
from tests.model.machine import DAY, PipelineMachine

NOW = 1_700_000_000.0
HOUR = 3600.0

ROWS = """
    SELECT id_data_session::text AS key, label, updated_at, status, raw_coverage,
           missing_upstream_at IS NOT NULL AS missing, loaded_count
    FROM bace.data_sessions
"""
_FOR_GOOD = 10 * 366 * 86_400
"""Tokens outlast any example: how often they may be renewed is told by a real clock."""
BACE_BEHAVIOURS = tuple(
    replace(behaviour, access_lifetime=_FOR_GOOD)
    for behaviour in (
        Behaviour(),
        Behaviour(raw_up_to=900, ties_shuffled=True, gzip=True),
        Behaviour(session_sort=Sorting.IGNORED, late_data_bumps=False, rows_shuffled=True),
        Behaviour(refused_attributes=frozenset({"updated_at"})),
        Behaviour(session_pages_to=2, data_pages=7, data_pages_to=7),
    )
)

Sample = tuple[str, int, float]
"""Dataset, Unix milliseconds, value."""


@dataclass(slots=True)
class Known:
    """What the vendor has held of one session.

    Attributes:
        ever: The most of each sample that there ever was at once.
        since: For each sample, the machine's step since which it has been there.
        is_silent: Something has changed that left no trace in the record.
        is_present: The vendor holds it.
        last: What it held last.
    """

    ever: Counter[Sample] = field(default_factory=Counter)
    since: dict[Sample, int] = field(default_factory=dict)
    is_silent: bool = False
    is_present: bool = True
    last: Counter[Sample] = field(default_factory=Counter)


class BacePart:
    """The vendor's side, and what must hold; usable in more than one machine."""

    def __init__(self, machine: PipelineMachine) -> None:
        self.machine = machine
        self.sessions: dict[str, Known] = {}
        self._serial = 0
        self._stored: dict[str, Counter[Sample]] = {}
        self._covered: dict[str, Any] = {}
        self.cloud = BaceCloud(clock=machine.clock)
        groups = [identifier("group", 1)]
        self._accounts = {
            "lab": self.cloud.account(),
            "ward": self.cloud.add_account(CloudAccount(username="ward@example.org"), groups=groups),
        }

    @property
    def accounts(self) -> tuple[str, ...]:
        """One that sees all, and one that sees a group."""
        return tuple(self._accounts)

    def source(self, warehouse: PostgresWarehouse, folder: Path) -> Source:
        """The source of one process."""
        accounts = {
            name: Account(one.client_id, one.client_secret, one.username, one.password)
            for name, one in self._accounts.items()
        }
        settings = BaceSettings(self.cloud.base_url, accounts, folder / "tokens")
        return BaceSource(settings, warehouse, HostGates(), IMPATIENT, clock=self.machine.clock)

    # --- what the vendor does ---------------------------------------------------------------------

    def begin(
        self, *, age: float, lasts: float, every: int, group: int, ends: bool, uploaded_late: bool
    ) -> None:
        """A session begins, began, or began long ago and is uploaded only now."""
        now = self.machine.clock.now
        self._serial += 1
        start = int(now - age) + self._serial % 7
        samples = self._samples(group, start, start + lasts, every)
        session = DataSession.of(
            samples,
            start=start,
            end=int(start + lasts) + 1 if ends else None,
            ends=ends,
            label=f"session {self._serial}",
            group=identifier("group", group),
            created_at=int(now) if uploaded_late else min(start + 4, int(now)),
            ingested_at=int(max(now, start + lasts + 300)) if ends and uploaded_late else None,
        )
        self.cloud.put(session)
        self.sessions[session.id] = Known()

    def add(self, chosen: int, *, ago: float, lasts: float, silently: bool) -> None:
        """Late data of a session arrives, into its past."""
        if (session := self._chosen(chosen)) is None:
            return
        now = self.machine.clock.now
        first = max(session.start, min(now, session.end or now) - ago)
        group = 1 if session.group == identifier("group", 1) else 2
        more = self._samples(group, first, min(first + lasts, now), 20)
        if len(more):
            self.cloud.add_samples(session.id, more, silently=silently)
            if silently or not self.cloud.behaviour.late_data_bumps:
                self.sessions[session.id].is_silent = True

    def change(self, chosen: int, *, shrinks: bool, silently: bool) -> None:
        """A session's values are replaced or become fewer, or only its record is changed."""
        if (session := self._chosen(chosen)) is None:
            return
        self._serial += 1
        samples = session.computed()
        if shrinks:
            samples = samples.where(np.arange(len(samples)) % 3 != self._serial % 3)
        else:
            samples = replace(samples, value=samples.value + self._serial)
        now = self.machine.clock.now
        stamps = session.changed_at if silently else (*session.changed_at, now)
        label = session.label if silently else f"changed {self._serial}"
        self.cloud.put(replace(session, samples=samples, label=label, changed_at=stamps))
        self.sessions[session.id].is_silent |= silently

    def archive(self, chosen: int) -> None:
        """A session is archived; its data stays."""
        session = self._chosen(chosen)
        if session is not None and session.end is not None and session.archived_at is None:
            now = int(self.machine.clock.now)
            self.cloud.put(replace(session, archived_at=max(now, session.end)))

    def vanish(self, chosen: int) -> None:
        """A session disappears without a trace."""
        if (session := self._chosen(chosen)) is not None:
            self.cloud.remove(session.id)
            self.sessions[session.id].is_present = False

    def _chosen(self, chosen: int) -> DataSession | None:
        now = self.machine.clock.now
        known = [key for key, one in self.sessions.items() if one.is_present]
        known = [key for key in known if self.cloud.session(key).exists(now)]
        return self.cloud.session(known[chosen % len(known)]) if known else None

    def _samples(self, group: int, first: float, last: float, every: int) -> Samples:
        self._serial += 1
        place = identifier("group", group)
        datasets = [Dataset.of(place, identifier("device", group), code) for code in (5205, 6000)]
        steps = range(int((last - first) // every) + 1)
        return Samples.of(
            (dataset, first + 0.47 * which + every * n, self._serial + n / 8)
            for which, dataset in enumerate(datasets[: 1 + self._serial % 2])
            for n in steps
        )

    def note(self) -> None:
        """Look at what the vendor holds now."""
        for key, known in self.sessions.items():
            if known.is_present:
                known.last = self._truth(key)
                known.ever |= known.last
                known.since = {one: known.since.get(one, self.machine.step) for one in known.last}

    def _truth(self, key: str) -> Counter[Sample]:
        held = self.cloud.samples(key)
        found: Counter[Sample] = Counter()
        for which, ms, value in zip(held.dataset, held.time_ms, held.value, strict=True):
            found[held.datasets[which].id_container_data_latest, int(ms), float(value)] += 1
        return found

    # --- what holds ------------------------------------------------------------------------------

    async def check(self, since: int) -> None:
        """Only what once was is stored, what counts as read is stored, and nothing true goes away."""
        self.note()
        stored: dict[str, Counter[Sample]] = {key: Counter() for key in self.sessions}
        for row in await self.machine.house.fetch(DATAPOINTS):
            stored[row["session"]][row["dataset"], row["ms"], row["value"]] += row["count"]
        rows = {row["key"]: row for row in await self.machine.house.fetch(ROWS)}
        for key, row in rows.items():
            known, has = self.sessions[key], stored[key]
            surplus = has - known.ever
            assert not surplus, f"{key} never had {surplus}"
            assert row["loaded_count"] == has.total(), f"{key} miscounts"
            self._check_kept(key, has)
            self._check_coverage(key, has, row["raw_coverage"], since)
            self._covered[key] = row["raw_coverage"]
        assert self._stored.keys() <= rows.keys(), "a session is gone"
        self._stored = {key: stored[key] for key in rows}

    def _check_kept(self, key: str, has: Counter[Sample]) -> None:
        known = self.sessions[key]
        for one, count in self._stored.get(key, Counter()).items():
            if known.last[one] >= count:
                assert has[one] >= count, f"{key} has lost {one}"

    def _check_coverage(self, key: str, has: Counter[Sample], covered: Any, since: int) -> None:
        """What is newly covered was read since the oldest work in hand began; what was there is stored."""
        known, before = self.sessions[key], self._covered.get(key, ())
        if not known.is_present:  # then it was true that there is nothing
            return
        for one, count in known.last.items():
            second = one[1] / 1000
            is_new = _within(covered, second) and not _within(before, second)
            if is_new and known.since[one] < since:
                assert has[one] >= count, f"{key}: {one} counts as read and is not there"

    async def check_equal(self, *, silent_too: bool) -> None:
        """The warehouse has every sample that there is, and what vanished is marked."""
        rows = {row["key"]: row for row in await self.machine.house.fetch(ROWS)}
        now = self.machine.clock.now
        for key, known in self.sessions.items():
            if known.is_present and self.cloud.session(key).exists(now):
                session, row = self.cloud.session(key), rows[key]
                assert not row["missing"], key
                assert row["label"] == session.label, key
                assert row["updated_at"].timestamp() == session.updated_at(now), key
                if silent_too or not known.is_silent:
                    missing, surplus = known.last - self._stored[key], self._stored[key] - known.last
                    assert not missing, f"{key} lacks {missing}"
                    # What the vendor has no row of any more is kept; what it has, it has as it is now.
                    places = {(dataset, ms) for dataset, ms, _ in known.last}
                    stale = {one for one in surplus if (one[0], one[1]) in places}
                    assert not stale, f"{key} still has {stale}"
                    is_final = session.end is not None and session.is_ingested(now)
                    expected = {"incomplete", "complete"} if surplus else {"complete"}
                    assert row["status"] in (expected if is_final else {"open"}), key
            elif key in rows:
                assert rows[key]["missing"], f"{key} is not there any more"


def _within(covered: Any, second: float) -> bool:
    return any(part.lower.timestamp() <= second < part.upper.timestamp() for part in covered)


class BaceMachine(PipelineMachine):
    """Two accounts whose sessions change under two processes."""

    now = NOW
    tasks = (
        Task("once"),
        Task("once"),
        Task("once"),
        Task("retry"),
        Task("backfill"),
        Task("backfill", reload=True),
    )

    async def open_clouds(self) -> None:
        """One cloud."""
        self.part = BacePart(self)
        self.accounts = {"bace": self.part.accounts}
        await self.part.cloud.__aenter__()

    async def close_clouds(self) -> None:
        """End it."""
        await self.part.cloud.__aexit__(None, None, None)

    def sources(self, warehouse: PostgresWarehouse, folder: Path) -> Mapping[str, Source]:
        """BACE's."""
        return {"bace": self.part.source(warehouse, folder)}

    @initialize(behaviour=st.sampled_from(BACE_BEHAVIOURS), days=st.lists(st.integers(1, 30), max_size=5))
    def begin(self, behaviour: Behaviour, days: list[int]) -> None:
        """What the vendor is like, and holds at first."""
        self.part.cloud.behaviour = behaviour
        for day in days:
            self.part.begin(
                age=day * DAY, lasts=1200, every=60, group=1 + day % 2, ends=day % 5 != 0, uploaded_late=False
            )

    @rule(
        age=st.sampled_from([0.0, 600.0, 3 * HOUR, 9 * DAY]),
        lasts=st.sampled_from([300.0, 2400.0]),
        every=st.sampled_from([30, 300]),
        group=st.integers(1, 2),
        ends=st.sampled_from([True, True, True, False]),
        uploaded_late=st.booleans(),
    )
    def session(
        self, *, age: float, lasts: float, every: int, group: int, ends: bool, uploaded_late: bool
    ) -> None:
        """A session appears."""
        self.step += 1
        self.part.begin(
            age=age, lasts=lasts, every=every, group=group, ends=ends, uploaded_late=uploaded_late
        )

    @rule(chosen=st.integers(0, 99), ago=st.sampled_from([60.0, 1200.0]), silently=st.booleans())
    def late_data(self, chosen: int, ago: float, silently: bool) -> None:
        """Data comes late."""
        self.step += 1
        self.part.add(chosen, ago=ago, lasts=200, silently=silently)

    @rule(chosen=st.integers(0, 99), shrinks=st.booleans(), silently=st.booleans())
    def change(self, chosen: int, shrinks: bool, silently: bool) -> None:
        """A session is changed."""
        self.step += 1
        self.part.change(chosen, shrinks=shrinks, silently=silently)

    @rule(chosen=st.integers(0, 99))
    def archive(self, chosen: int) -> None:
        """A session is archived."""
        self.step += 1
        self.part.archive(chosen)

    @rule(chosen=st.integers(0, 99))
    def vanish(self, chosen: int) -> None:
        """A session disappears."""
        self.step += 1
        self.part.vanish(chosen)

    @rule(seconds=st.sampled_from([1.0, 60.0, 600.0, 2 * HOUR, DAY + 1, 8 * DAY]))
    def time_passes(self, seconds: float) -> None:
        """Time passes."""
        self.step += 1
        self.clock.now += seconds

    async def check(self, since: int) -> None:
        """What holds of the sessions."""
        await self.part.check(since)

    async def check_end(self) -> None:
        """A few quiet weeks bring everything that leaves a trace; a reload brings the rest."""
        for days in (1.1, 8.0, 1.1, 1.1):
            await self.quiet(Task("once"), after=days * DAY)
        await self.part.check_equal(silent_too=False)
        await self.quiet(Task("backfill", reload=True), after=DAY)
        await self.quiet(Task("once"), after=8 * DAY)
        await self.part.check_equal(silent_too=True)
