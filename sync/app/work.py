"""All that work takes, joined: warehouse, sources and engine, and this process among its like."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import structlog

from sync.app.accounts import choose, known_as
from sync.app.sources import open_sources, spool_folder
from sync.app.warehouse import configured_pool, open_database, refused
from sync.config import Settings
from sync.engine.keeper import Permits, keep
from sync.engine.runner import Engine
from sync.engine.troubles import Troubles
from sync.errors import AccountForgotten, ConfigurationError, SyncError
from sync.model import RunOutcome, Task
from sync.observe.logging import Redactor
from sync.ports import Observer, Source
from sync.sources.beddit.spool import sweep
from sync.storage.forgetting import PostgresForgetting
from sync.storage.forgotten import KnownAs, identities_of
from sync.storage.leases import PostgresLeases
from sync.storage.ledger import PostgresLedger
from sync.storage.progress import PostgresWarehouse
from sync.storage.sink import PostgresSink
from sync.storage.triage import PostgresTriage
from sync.storage.workers import PostgresWorker

if TYPE_CHECKING:
    from sync.observe.metrics import Metrics

EMBEDDED_PATIENCE = timedelta(seconds=10)
"""How long an embedded server that was ended may be away; longer than it takes to restart by itself."""

LEAVE_TIMEOUT_S = 3.0
"""How long a process tries to say that it leaves."""

PATIENCE = 2
"""Leases for which a command waits for an account: one until its holder counts as dead, one to find out."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class App:
    """A running nightshift: its warehouse is open and its sources are ready.

    Attributes:
        warehouse: What sources read.
        engine: What does the work.
        sources: By name.
        leases: Which accounts are ours.
        worker: Who we are among those that share the warehouse.
        lease: After a silence of that length we are nobody.
        spool: Where blobs wait while they are being downloaded.
        patience: How long the warehouse may be away before it has to be opened anew.
        watch: Opens a look at the warehouse that waits for no work: a connection of its own.
        permits: Lets a command hold an account.
        triage: What people do about rejects.
        forgetting: Removes persons.
        known_as: What accounts are recognised by that were forgotten.
    """

    warehouse: PostgresWarehouse
    engine: Engine
    sources: Mapping[str, Source]
    leases: PostgresLeases
    worker: PostgresWorker
    lease: timedelta
    spool: Path
    patience: timedelta
    watch: Callable[[], AbstractAsyncContextManager[PostgresWarehouse]]
    permits: Permits
    triage: PostgresTriage
    forgetting: PostgresForgetting
    known_as: KnownAs

    async def refused(self, source: str) -> Mapping[str, AccountForgotten]:
        """The configured accounts of a source that were forgotten and are not read, each with a sentence."""
        return await refused(self.forgetting, source, self.known_as[source])

    async def run(
        self, task: Task, *, source: str | None = None, account: str | None = None
    ) -> list[RunOutcome]:
        """Do a task for the chosen accounts, or for all; the sources side by side.

        Raises:
            ConfigurationError: No configured account fits the choice.
        """
        known = {name: vendor.accounts for name, vendor in self.sources.items()}
        chosen = choose(known, source, account)
        async with self.kept():
            outcomes = await asyncio.gather(
                *(self.engine.run(self.sources[name], task, accounts) for name, accounts in chosen.items())
            )
        return [outcome for of_source in outcomes for outcome in of_source]

    async def keep(self, freed: Callable[[], None] = lambda: None) -> NoReturn:
        """Stay among the living; see ``sync.engine.keeper``."""
        await keep(
            self.worker,
            self.lease,
            self.engine.troubles,
            freed=freed,
            unanswered=self.warehouse.forget_connections,
            patience=self.patience,
        )

    async def keep_house(self) -> None:
        """Add up old runs, and remove what killed processes left in the spool folder."""
        await self.warehouse.keep_house()
        await asyncio.to_thread(sweep, self.spool)

    @asynccontextmanager
    async def kept(self) -> AsyncIterator[None]:
        """Stay among the living meanwhile. Should others take over, each commit finds that out by itself."""
        keeper = asyncio.create_task(self.keep(), name="keeper")
        try:
            yield
        finally:
            keeper.cancel()
            await asyncio.wait([keeper])
            if not keeper.cancelled():
                keeper.exception()


@asynccontextmanager
async def open_app(
    settings: Settings,
    redactor: Redactor,
    observer: Observer,
    *,
    command: str = "once",
    metrics: Metrics | None = None,
    troubles: Troubles | None = None,
) -> AsyncIterator[App]:
    """Open the warehouse, migrating an empty one, and prepare the sources.

    Args:
        settings: The configuration.
        redactor: For messages that are kept.
        observer: Who is told how work goes.
        command: What this process calls itself among those that share the warehouse.
        metrics: Where requests and batches are measured.
        troubles: What is known to be wrong already.

    Raises:
        ConfigurationError: The database cannot be used: its address, its rights, or its schema's version.
        StorageUnavailable: It cannot be reached.
    """
    _refuse_foreign_folder(settings.state_dir)
    lease = timedelta(seconds=settings.daemon.lease_s)
    async with AsyncExitStack() as stack:
        dsn = await open_database(settings, stack, create=True)
        worker = await stack.enter_async_context(_enrolled(PostgresWorker(dsn, lease), command))
        pool = await stack.enter_async_context(configured_pool(settings, dsn, worker.name))
        names = known_as(settings)
        warehouse, leases = PostgresWarehouse(pool), PostgresLeases(pool, worker.number, names)
        sources = await stack.enter_async_context(open_sources(settings, warehouse, metrics))
        sink = PostgresSink(pool)
        permits = Permits(leases, PATIENCE * lease)
        forgetting = PostgresForgetting(pool, worker.number)

        @asynccontextmanager
        async def permit(source: str, account: str) -> AsyncIterator[None]:
            known = identities_of(names, source, [account])
            for error in (await refused(forgetting, source, known)).values():
                raise error
            async with permits.hold(source, account):
                yield

        engine = Engine(
            sink=sink if metrics is None else metrics.timed(sink),
            ledger=PostgresLedger(pool, worker.number, names),
            observer=observer,
            redact=redactor.redact,
            permit=permit,
            troubles=troubles or Troubles(),
            parallel_accounts=settings.engine.parallel_accounts,
            parallel_units=settings.engine.parallel_units,
        )

        @asynccontextmanager
        async def watch() -> AsyncIterator[PostgresWarehouse]:
            async with configured_pool(settings, dsn, worker.name, size=1) as connection:
                yield PostgresWarehouse(connection)

        named = {source.name: source for source in sources}
        is_embedded = settings.warehouse.dsn is None  # then it is for us to start it again
        patience = EMBEDDED_PATIENCE if is_embedded else timedelta.max
        yield App(
            warehouse,
            engine,
            named,
            leases,
            worker,
            lease,
            spool_folder(settings),
            patience,
            watch,
            permits,
            PostgresTriage(pool),
            forgetting,
            names,
        )


def _refuse_foreign_folder(folder: Path) -> None:
    """Keep root from leaving tokens and blobs where another user works who could not read them.

    Raises:
        ConfigurationError: Root works in a folder that belongs to another user.
    """
    if os.geteuid() != 0 or not folder.exists() or folder.stat().st_uid == 0:
        return
    try:
        owner = folder.owner()
    except KeyError:  # in a container, perhaps
        owner = f"user {folder.stat().st_uid}"
    raise ConfigurationError(
        f"{folder} belongs to {owner}, who could not read what root leaves there: "
        f"work as {owner} (`runuser -u {owner} -- nightshift ...`)"
    )


@asynccontextmanager
async def _enrolled(worker: PostgresWorker, command: str) -> AsyncIterator[PostgresWorker]:
    """Be a worker meanwhile; a warehouse that is away in the end finds out by itself that we left."""
    await worker.enrol(command, version("nightshift"))
    try:
        yield worker
    finally:
        try:
            await asyncio.wait_for(worker.leave(), LEAVE_TIMEOUT_S)
        except (SyncError, TimeoutError) as error:
            log.debug("worker.left_silently", error=str(error))
