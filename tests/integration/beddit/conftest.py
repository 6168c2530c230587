"""The whole way from an emulated cloud into a database, for tests that change either end."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sync.emulators.beddit import BedditCloud, Study
from sync.engine.runner import Engine
from sync.model import RunOutcome, Task
from sync.observe.display import Counts
from sync.sources.beddit.settings import Account, BedditSettings
from sync.sources.beddit.source import BedditSource
from sync.storage.database import open_pool
from sync.storage.ledger import PostgresLedger
from sync.storage.progress import PostgresWarehouse
from sync.storage.sink import PostgresSink
from sync.transport import HostGates, Limits

QUICK = Limits(
    connect_timeout_s=20,
    read_timeout_s=20,
    attempts=2,
    backoff_initial_s=0,
    backoff_max_s=0,
    requests_per_second=10_000,
    burst=10_000,
    retry_after_cap_s=0.01,
)


DTYPES = {
    "uint8": "u1",
    "int8": "i1",
    "uint16": "<u2",
    "int16": "<i2",
    "uint32": "<u4",
    "int32": "<i4",
    "float32": "<f4",
    "float64": "<f8",
}

TRACKS = """
    SELECT session_id, track, array_agg(index ORDER BY index) AS indexes,
           array_agg(offset_seconds ORDER BY index) AS offsets,
           array_agg(value ORDER BY index) AS values,
           array_agg((extract(epoch FROM "time") * 1000000)::bigint ORDER BY index) AS instants
    FROM beddit.track_values WHERE user_id = $1 GROUP BY session_id, track
"""

SESSIONS = """
    SELECT session_id, (extract(epoch FROM started_at) * 1000000)::bigint AS start,
           (extract(epoch FROM ended_at) * 1000000)::bigint AS "end", timezone, hardware, software,
           frame_length, error_code, updated
    FROM beddit.sessions WHERE user_id = $1 ORDER BY session_id
"""

SAMPLES = """
    SELECT session_id, track, array_agg(value ORDER BY index) AS values
    FROM beddit.samples WHERE user_id = $1 GROUP BY session_id, track
"""


@dataclass(slots=True)
class ManualClock:
    """Unix seconds that pass only when a test says so."""

    now: float

    def __call__(self) -> float:
        """Tell the time."""
        return self.now


@dataclass(slots=True)
class Pipeline:
    """A cloud, a warehouse, and the real thing between them."""

    cloud: BedditCloud
    warehouse: PostgresWarehouse
    pool: Any
    settings: BedditSettings
    limits: Limits = QUICK
    redact: Callable[[str], str] = str
    clock: Callable[[], float] | None = None
    sink: Callable[[Any], Any] = PostgresSink

    @property
    def users(self) -> tuple[int, ...]:
        """The users whose sessions are copied."""
        return tuple(account.user_id for account in self.settings.accounts.values())

    async def run(self, task: Task, *, accounts: Sequence[str] | None = None) -> list[RunOutcome]:
        """Do a task as a process of its own would: with new connections and an empty memory."""
        source = BedditSource(self.settings, self.warehouse, HostGates(), self.limits)
        if self.clock is not None:
            source._contexts = {
                name: replace(context, clock=self.clock) for name, context in source._contexts.items()
            }
        engine = Engine(self.sink(self.pool), PostgresLedger(self.pool), Counts(), self.redact)
        try:
            return await engine.run(source, task, accounts or source.accounts)
        finally:
            await source.aclose()

    async def once(self) -> list[RunOutcome]:
        """One incremental pass; it has to succeed."""
        outcomes = await self.run(Task("once"))
        assert [outcome.error for outcome in outcomes] == [None] * len(outcomes)
        return outcomes

    async def backfill(self, **span: Any) -> list[RunOutcome]:
        """Read history; it has to succeed."""
        outcomes = await self.run(Task("backfill", **span))
        assert [outcome.error for outcome in outcomes] == [None] * len(outcomes)
        return outcomes

    async def assert_truth(self, truth: Mapping[int, Mapping[int, Any]] | None = None) -> None:
        """The warehouse equals what the clouds hold, or another truth, to the bit and the microsecond."""
        for user in self.users:
            sessions = self.cloud.truth(user) if truth is None else truth[user]
            await self._assert_sessions(user, sessions)
            await self._assert_tracks(user, sessions)
            await self._assert_samples(user, sessions)
        await self.assert_ledger()

    async def assert_ledger(self) -> None:
        """Every run accounts for every item that it read."""
        wrong = await self.fetch(
            "SELECT * FROM sync.runs "
            "WHERE read <> stored + unchanged + superseded + duplicate + rejected OR outcome = 'running'"
        )
        assert wrong == []

    async def _assert_sessions(self, user: int, sessions: Mapping[int, Any]) -> None:
        rows = await self.fetch(SESSIONS, user)
        assert rows == [
            {
                "session_id": session_id,
                "start": micros(session["start_timestamp"]),
                "end": micros(session["end_timestamp"]),
                **{
                    name: session.get(name)
                    for name in ("timezone", "hardware", "software", "frame_length", "error_code", "updated")
                },
            }
            for session_id, session in sorted(sessions.items())
        ]

    async def _assert_tracks(self, user: int, sessions: Mapping[int, Any]) -> None:
        found = {(row["session_id"], row["track"]): row for row in await self.fetch(TRACKS, user)}
        expected = {}
        for session_id, session in sessions.items():
            start = session["start_timestamp"]
            for track, content in session.get("time_value_tracks", {}).items():
                if items := content["items"]:
                    expected[session_id, track] = {
                        "session_id": session_id,
                        "track": track,
                        "indexes": list(range(len(items))),
                        "offsets": [float(time) for time, _ in items],
                        "values": [float(value) for _, value in items],
                        "instants": [micros(start + time) for time, _ in items],
                    }
        assert found == expected

    async def _assert_samples(self, user: int, sessions: Mapping[int, Any]) -> None:
        found = {
            (row["session_id"], row["track"]): np.array(row["values"])
            for row in await self.fetch(SAMPLES, user)
        }
        expected = {}
        for session_id, session in sessions.items():
            for track, declared in session.get("sampled_tracks", {}).items():
                blob = self.cloud.blob(user, session_id, track)
                if blob:
                    expected[session_id, track] = np.frombuffer(blob, DTYPES[declared["data_type"]])
        assert found.keys() == expected.keys()
        for key, samples in expected.items():
            np.testing.assert_array_equal(found[key], samples.astype(np.float64))

    async def fetch(self, query: str, *args: Any) -> list[Mapping[str, Any]]:
        """Rows of a query, as dictionaries."""
        return [dict(row) for row in await self.warehouse.fetch(query, *args)]

    async def value(self, query: str, *args: Any) -> Any:
        """The only value of a query's only row."""
        (row,) = await self.fetch(query, *args)
        (value,) = row.values()
        return value

    def change(self, **settings: Any) -> None:
        """Replace settings of the source."""
        self.settings = replace(self.settings, **settings)


def micros(seconds: float) -> int:
    """Unix seconds as whole microseconds, half to even."""
    return round(seconds * 1e6)


def make_night(start: float, *, length: float = 600.0, level: float = 50.0, **fields: Any) -> dict[str, Any]:
    """A small session of 3,000 frames: what a test does not name is plain."""
    session = {
        "id": int(start),
        "start_timestamp": start,
        "end_timestamp": start + length,
        "timezone": "Europe/Helsinki",
        "hardware": "2.0/7d41c0a bl:1.1 hw:1",
        "software": "2.5.2 (281)",
        "frame_length": 0.2,
        "error_code": 0,
        "time_value_tracks": {
            "heart_rate": {"value_data_type": "float32", "items": [[30, level], [60.0, level + 0.1]]},
            "events": {"value_data_type": "uint8", "items": [[-2.41, 10], [length, 11]]},
        },
    }
    return json.loads(json.dumps(session | fields))


@pytest.fixture
def night() -> Callable[..., dict[str, Any]]:
    """``night(start, **fields)``: a small session."""
    return make_night


@pytest.fixture
def manual_clock() -> Callable[[float], ManualClock]:
    """``manual_clock(seconds)``: a clock that stands still until its ``now`` is set."""
    return ManualClock


@pytest.fixture
async def open_pipeline(database: str, tmp_path: Path) -> AsyncIterator[Any]:
    """Make a pipeline from a study or None and the cloud's options; its accounts are the cloud's users."""
    async with AsyncExitStack() as stack:

        async def opened(study: Study | None = None, **options: Any) -> Pipeline:
            return await stack.enter_async_context(_pipeline(database, tmp_path, study, options))

        yield opened


@pytest.fixture
def pipeline_in_own_loop(database: str, tmp_path: Path) -> Callable[..., Any]:
    """Make pipelines inside ``async with``, for a test that has its own event loops."""
    return lambda study=None, **options: _pipeline(database, tmp_path, study, options)


@asynccontextmanager
async def _pipeline(
    database: str, tmp_path: Path, study: Study | None, options: dict[str, Any]
) -> AsyncIterator[Pipeline]:
    async with open_pool(database) as pool, BedditCloud(study, **options) as cloud:
        users = study.users if study else tuple(options.get("tokens", {}))
        settings = BedditSettings(
            base_url=cloud.base_url,
            accounts={f"user{user}": Account(user, cloud.token(user)) for user in users},
            spool=tmp_path / "spool",
            allow_private_blob_hosts=True,
        )
        yield Pipeline(cloud, PostgresWarehouse(pool), pool, settings)
