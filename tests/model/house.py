"""One database and one event loop for all examples of a machine, and the processes that work in them."""

from __future__ import annotations

import asyncio
import tempfile
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

from sync.engine.keeper import Permits
from sync.engine.runner import Engine
from sync.errors import AccountBusy, LeaseLost, StorageUnavailable
from sync.model import Batch, RunOutcome, Tally, Task
from sync.observe.display import Counts
from sync.ports import Source
from sync.storage.database import open_pool
from sync.storage.leases import PostgresLeases
from sync.storage.ledger import PostgresLedger
from sync.storage.progress import PostgresWarehouse
from sync.storage.sink import PostgresSink
from sync.storage.workers import PostgresWorker
from sync.transport import Limits
from tests.model.puppets import Puppet, install

T = TypeVar("T")

HANG_S = 20.0
LEASE = timedelta(hours=1)

IMPATIENT = Limits(
    connect_timeout_s=5,
    read_timeout_s=20,
    attempts=2,
    backoff_initial_s=0,
    backoff_max_s=0,
    requests_per_second=100_000,
    burst=100_000,
    retry_after_cap_s=0.01,
)

DISTURBED = (AccountBusy, LeaseLost, StorageUnavailable)
"""What a run may end with that was interfered with."""

_TABLES = """
    SELECT format('%I.%I', schemaname, tablename) AS name FROM pg_tables
    WHERE schemaname IN ('beddit', 'bace', 'sync') ORDER BY 1
"""
_WRONG_RUNS = """
    SELECT * FROM sync.run_log r
    WHERE read <> stored + unchanged + superseded + duplicate + rejected
       OR (outcome = 'running' AND NOT EXISTS (SELECT FROM sync.workers w WHERE w.worker_id = r.worker_id))
"""
_RUNNING = "SELECT count(*) AS runs FROM sync.run_log WHERE outcome = 'running'"


class House:
    """A migrated database that is emptied for each example, and a loop that all of it lives in.

    Attributes:
        happened: How often what has happened, over all examples.
    """

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        self._runner = asyncio.Runner()
        install(self._runner.get_loop())
        self._stack = AsyncExitStack()
        self._tables: list[str] = []
        self.happened: Counter[str] = Counter()
        self.do(self._open())

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        """Do something in the loop; nothing takes long here."""
        return self._runner.run(asyncio.wait_for(work, 2 * HANG_S))

    async def _open(self) -> None:
        self.pool = await self._stack.enter_async_context(open_pool(self.dsn, name="model"))
        for row in await self.pool.fetch(_TABLES):
            if not await self.pool.fetchval(f"SELECT EXISTS (SELECT FROM {row['name']})"):  # noqa: S608
                self._tables.append(row["name"])

    async def empty(self) -> None:
        """Forget the last example; for a few rows DELETE is ten times as fast as TRUNCATE."""
        await self.pool.execute(";".join(f"DELETE FROM {name}" for name in self._tables))  # noqa: S608

    def close(self) -> None:
        """End everything."""
        self.do(self._stack.aclose())
        self._runner.close()

    async def fetch(self, query: str, *args: Any) -> list[dict[str, Any]]:
        """Rows of a query."""
        return [dict(row) for row in await self.pool.fetch(query, *args)]


class BrittleSink:
    """A sink whose n-th commit fails, before or after it was made."""

    def __init__(self, pool: Any) -> None:
        self._sink = PostgresSink(pool)
        self.fails_in = 0
        self.after = False

    async def commit(self, run: int, batch: Batch) -> Tally:
        """Store a batch, or fail."""
        self.fails_in -= 1
        if self.fails_in == 0 and not self.after:
            raise StorageUnavailable("the model: before COMMIT")
        tally = await self._sink.commit(run, batch)
        if self.fails_in == 0:
            raise StorageUnavailable("the model: the answer to COMMIT was lost")
        return tally


@dataclass(slots=True)
class Process:
    """A nightshift: a worker of the warehouse with a memory of its own.

    Attributes:
        begun: The machine's step in which its work was begun; None while it does nothing.
        is_lost: Others have taken over.
    """

    house: House
    make_sources: Callable[[PostgresWarehouse, Path], Mapping[str, Source]]
    puppet: Puppet = field(default_factory=Puppet)
    begun: int | None = None
    is_lost: bool = False
    worker: Any = None
    sink: Any = None
    _pool: Any = None
    _sources: Mapping[str, Source] = field(default_factory=dict)
    _engine: Any = None
    _stack: AsyncExitStack = field(default_factory=AsyncExitStack)

    async def open(self) -> None:
        """Enrol."""
        folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="nightshift-model-")))
        self.worker = PostgresWorker(self.house.dsn, LEASE)
        await self.worker.enrol("once", "model")
        self._pool = await self._stack.enter_async_context(open_pool(self.house.dsn, name=self.worker.name))
        self._sources = self.make_sources(PostgresWarehouse(self._pool), folder)
        self.sink = BrittleSink(self._pool)
        self._engine = Engine(
            self.sink,
            PostgresLedger(self._pool, self.worker.number),
            Counts(),
            permit=Permits(PostgresLeases(self._pool, self.worker.number), timedelta()).hold,
        )

    async def close(self) -> None:
        """Leave, politely."""
        for source in self._sources.values():
            await source.aclose()
        await self._stack.aclose()
        await self.worker.leave()

    async def start(
        self, task: Task, accounts: Mapping[str, Sequence[str]], *, stop_at: int | None, begun: int
    ) -> list[RunOutcome] | None:
        """Do a task; the outcomes, or None when it stands still at a step."""
        self.begun = begun
        self.puppet.start(self._work(task, accounts), stop_at)
        return await self.rest()

    async def rest(self) -> list[RunOutcome] | None:
        """Wait for the end of the work, or for the step at which it stands still."""
        if not await self.puppet.rest(HANG_S):
            return None
        self.begun, self.sink.fails_in = None, 0
        task = self.puppet.task
        assert task is not None
        return [] if task.cancelled() else task.result()

    async def _work(self, task: Task, accounts: Mapping[str, Sequence[str]]) -> list[RunOutcome]:
        outcomes = await asyncio.gather(
            *(self._engine.run(self._sources[name], task, names) for name, names in accounts.items())
        )
        return [outcome for of_source in outcomes for outcome in of_source]

    async def cancel(self) -> list[RunOutcome] | None:
        """Go on, being cancelled, as at SIGTERM."""
        assert self.puppet.task is not None
        self.puppet.task.cancel()
        self.puppet.thaw()
        return await self.rest()

    async def kill(self) -> None:
        """SIGKILL: from now on nothing that it does has any effect, and it says goodbye to nobody."""
        self._pool.terminate()
        await self.worker.aclose()
        if self.puppet.is_frozen:
            await self.cancel()
        for source in self._sources.values():
            await source.aclose()
        await self._stack.aclose()

    async def disconnect(self) -> None:
        """All its connections are ended by the server."""
        await self.house.pool.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name = $1",
            self.worker.name,
        )

    async def fall_silent(self) -> None:
        """Its last heartbeat was long ago."""
        await self.house.pool.execute(
            "UPDATE sync.workers SET heartbeat_at = now() - 2 * lease WHERE worker_id = $1",
            self.worker.number,
        )


async def assert_runs_add_up(house: House) -> None:
    """The ledger adds up, and only a living worker's run is still running."""
    assert await house.fetch(_WRONG_RUNS) == []


async def assert_nothing_runs(house: House) -> None:
    """No run was left behind."""
    assert await house.fetch(_RUNNING) == [{"runs": 0}]
