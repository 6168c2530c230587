"""The whole way from an emulated cloud into a database, for tests that change either end."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

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

IMPATIENT = Limits(
    connect_timeout_s=2,
    read_timeout_s=0.5,
    attempts=2,
    backoff_initial_s=0,
    backoff_max_s=0,
    requests_per_second=10_000,
    burst=10_000,
    retry_after_cap_s=0.01,
)


@dataclass(slots=True)
class Pipeline:
    """A cloud, a warehouse, and the real thing between them."""

    cloud: BedditCloud
    warehouse: PostgresWarehouse
    pool: Any
    settings: BedditSettings
    limits: Limits = IMPATIENT

    async def run(self, task: Task, *, accounts: Sequence[str] | None = None) -> list[RunOutcome]:
        """Do a task as a process of its own would: with new connections and an empty memory."""
        source = BedditSource(self.settings, self.warehouse, HostGates(), self.limits)
        engine = Engine(PostgresSink(self.pool), PostgresLedger(self.pool), Counts())
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


@pytest.fixture
async def open_pipeline(database: str, tmp_path: Path) -> AsyncIterator[Any]:
    """``await open_pipeline(study_or_None, **cloud_options)``: a pipeline whose accounts are the cloud's users."""
    async with AsyncExitStack() as stack:

        async def opened(study: Study | None = None, **options: Any) -> Pipeline:
            return await stack.enter_async_context(_pipeline(database, tmp_path, study, options))

        yield opened


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
