"""The whole way from the emulated BACE cloud into a database, for tests that change either end."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from sync.emulators.bace import Account as CloudAccount
from sync.emulators.bace import BaceCloud, DataSession, Dataset, identifier
from sync.engine.runner import Engine
from sync.model import RunOutcome, Task
from sync.observe.display import Counts
from sync.sources.bace.settings import Account, BaceSettings
from sync.sources.bace.source import BaceSource
from sync.sources.bace.spans import Span
from sync.sources.bace.walk import microseconds
from sync.storage.database import open_pool
from sync.storage.ledger import PostgresLedger
from sync.storage.progress import PostgresWarehouse
from sync.storage.sink import PostgresSink
from sync.transport import HostGates, Limits

NOW = 1_700_000_000.0

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

SESSIONS = """
    SELECT id_data_session::text AS id_data_session, id_group::text AS id_group, id_person::text AS id_person,
           label, extract(epoch FROM started_at)::bigint AS start,
           extract(epoch FROM ended_at)::bigint AS "end",
           extract(epoch FROM created_at)::bigint AS created_at,
           extract(epoch FROM updated_at)::bigint AS updated_at,
           extract(epoch FROM archived_at)::bigint AS archived_at,
           is_ingestion_finished, is_archived
    FROM bace.data_sessions WHERE missing_upstream_at IS NULL ORDER BY id_data_session::text
"""


DATAPOINTS = """
    SELECT id_data_session::text AS session, id_container_data_latest::text AS dataset,
           (extract(epoch FROM time) * 1000)::bigint AS ms, value, min_value, max_value, count
    FROM bace.datapoints
"""

Sample = tuple[str, str, int, float]
"""Session, dataset, Unix milliseconds, value."""

ONCE = Task("once")


@dataclass(slots=True)
class ManualClock:
    """Unix seconds that pass only when a test says so."""

    now: float = NOW

    def __call__(self) -> float:
        """Tell the time."""
        return self.now


@dataclass(slots=True)
class Pipeline:
    """A cloud, a warehouse, and the real thing between them.

    Attributes:
        cloud: The vendor.
        warehouse: What is stored.
        pool: Its connections.
        settings: The source's settings.
        clock: The vendor's time, and ours.
        source: What is run.
        limits: How it asks.
        sink: Makes the sink of a run.
        redact: Takes secrets out of what is kept.
    """

    cloud: BaceCloud
    warehouse: PostgresWarehouse
    pool: Any
    settings: BaceSettings
    clock: ManualClock
    source: type[BaceSource] = BaceSource
    limits: Limits = QUICK
    sink: Callable[[Any], Any] = PostgresSink
    redact: Callable[[str], str] = str

    async def run(self, task: Task = ONCE, *, accounts: Sequence[str] | None = None) -> list[RunOutcome]:
        """One task, as a process of its own would do it: with new connections and an empty memory."""
        source = self.source(self.settings, self.warehouse, HostGates(), self.limits, clock=self.clock)
        engine = Engine(self.sink(self.pool), PostgresLedger(self.pool), Counts(), self.redact)
        try:
            return await engine.run(source, task, accounts or source.accounts)
        finally:
            await source.aclose()

    async def once(self, task: Task = ONCE, *, accounts: Sequence[str] | None = None) -> int:
        """One task; it has to succeed. How many requests it took, those for tokens aside."""
        before = len(self.asked())
        outcomes = await self.run(task, accounts=accounts)
        assert [outcome.error for outcome in outcomes] == [None] * len(outcomes)
        return len(self.asked()) - before

    def asked(self) -> list[Any]:
        """The requests so far, those for tokens aside."""
        return [request for request in self.cloud.requests if "oauth2" not in request.path]

    def asked_for_data(self) -> list[Span]:
        """The stretches of time that were asked for so far, one for each request for data."""
        return [_asked(request) for request in self.cloud.requests if "downsampled" in request.path]

    def change(self, **behaviour: Any) -> None:
        """Replace switches of the cloud."""
        self.cloud.behaviour = replace(self.cloud.behaviour, **behaviour)

    def add_account(self, name: str, groups: Sequence[str]) -> None:
        """Configure a further account, which sees the sessions of some groups."""
        account = self.cloud.add_account(CloudAccount(username=f"{name}@example.org"), groups=groups)
        self.settings = replace(self.settings, accounts={**self.settings.accounts, name: _account(account)})

    async def assert_sessions(self) -> None:
        """The sessions of the warehouse are those of the cloud, field for field, save what has vanished."""
        now = self.clock()
        assert await self.fetch(SESSIONS) == [
            {
                "id_data_session": session.id,
                "id_group": session.group,
                "id_person": session.person,
                "label": session.label,
                "start": session.start,
                "end": session.end_at(now),
                "created_at": session.created_at,
                "updated_at": session.updated_at(now),
                "archived_at": session.archived_by(now),
                "is_ingestion_finished": session.is_ingested(now),
                "is_archived": session.archived_by(now) is not None,
            }
            for session in sorted(self.cloud.sessions(), key=lambda session: session.id)
            if session.exists(now)
        ]
        await self.assert_ledger()

    async def assert_exact(self) -> None:
        """Every sample of every session is in the warehouse once, with its instant and value."""
        await self.assert_ledger()
        found: Counter[Sample] = Counter()
        for row in await self.fetch(DATAPOINTS):
            assert row["count"] == 1 or row["min_value"] <= row["value"] <= row["max_value"]
            found[row["session"], row["dataset"], row["ms"], row["value"]] += row["count"]
        assert found == self.samples()

    def samples(self) -> Counter[Sample]:
        """All samples that the cloud has got so far."""
        expected: Counter[Sample] = Counter()
        for session in self.cloud.sessions():
            held = self.cloud.samples(session.id)
            for which, ms, value in zip(held.dataset, held.time_ms, held.value, strict=True):
                key = held.datasets[which].id_container_data_latest
                expected[session.id, key, int(ms), float(value)] += 1
        return expected

    async def statuses(self) -> dict[str, int]:
        """How many sessions there are of each status."""
        rows = await self.fetch("SELECT status, count(*) FROM bace.data_sessions GROUP BY status")
        return {row["status"]: row["count"] for row in rows}

    async def state(self) -> Mapping[str, Any]:
        """The only session, as the contract shows it."""
        (row,) = await self.fetch("SELECT * FROM bace.data_sessions")
        return row

    async def coverage(self, session: str) -> tuple[Span, ...]:
        """What of a session was read, in microseconds."""
        ranges = await self.value(
            "SELECT raw_coverage FROM bace.data_sessions WHERE id_data_session = $1", UUID(session)
        )
        return tuple(Span(microseconds(part.lower), microseconds(part.upper)) for part in ranges)

    async def assert_ledger(self) -> None:
        """Every run accounts for every item that it read."""
        wrong = await self.fetch(
            "SELECT * FROM sync.runs "
            "WHERE read <> stored + unchanged + superseded + duplicate + rejected OR outcome = 'running'"
        )
        assert wrong == []

    async def fetch(self, query: str, *args: Any) -> list[Mapping[str, Any]]:
        """Rows of a query, as dictionaries."""
        return [dict(row) for row in await self.warehouse.fetch(query, *args)]

    async def value(self, query: str, *args: Any) -> Any:
        """The only value of a query's only row."""
        (row,) = await self.fetch(query, *args)
        (value,) = row.values()
        return value

    async def missing(self) -> set[str]:
        """Sessions that are marked as missing upstream."""
        rows = await self.fetch(
            "SELECT id_data_session FROM bace.data_sessions WHERE missing_upstream_at IS NOT NULL"
        )
        return {str(row["id_data_session"]) for row in rows}


def make_session(start: int, **fields: Any) -> DataSession:
    """A small session of one battery: what a test does not name follows from the documents' example."""
    dataset = Dataset.of(identifier("group", 1), identifier("device", 1), 5205)
    points = [(dataset, start + 47 + 300 * n, 3.95) for n in range(3)]
    return DataSession.of(points, **{"start": start, "end": start + 1_000, **fields})


def _asked(request: Any) -> Span:
    """Which time a request for data is about, in microseconds."""
    if request.body:
        bounds = json.loads(request.body)["filter"]["timestamp_seconds"]
    else:
        bounds = {op: request.query[f"filter[timestamp_seconds][{op}]"] for op in ("gte", "lt")}
    return Span(round(float(bounds["gte"]) * 1e6), round(float(bounds["lt"]) * 1e6))


def _account(given: CloudAccount) -> Account:
    return Account(given.client_id, given.client_secret, given.username, given.password)


@pytest.fixture
def session() -> Callable[..., DataSession]:
    """``session(start, **fields)``: a small session."""
    return make_session


@pytest.fixture
async def open_pipeline(database: str, tmp_path: Path) -> AsyncIterator[Any]:
    """Make a pipeline from sessions and the cloud's options; its account ``lab`` sees everything."""
    async with AsyncExitStack() as stack:

        async def opened(sessions: Any = (), **options: Any) -> Pipeline:
            return await stack.enter_async_context(_pipeline(database, tmp_path, sessions, options))

        yield opened


@asynccontextmanager
async def _pipeline(
    database: str, tmp_path: Path, sessions: Any, options: dict[str, Any]
) -> AsyncIterator[Pipeline]:
    clock = ManualClock()
    async with open_pool(database) as pool, BaceCloud(sessions, clock=clock, **options) as cloud:
        settings = BaceSettings(cloud.base_url, {"lab": _account(cloud.account())}, tmp_path / "tokens")
        yield Pipeline(cloud, PostgresWarehouse(pool), pool, settings, clock)
