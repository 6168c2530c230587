"""The composition root: the one place that joins settings, warehouse, sources and engine."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import NoReturn

import structlog
from stamina.instrumentation import set_on_retry_hooks

from sync.config import Cloud, Settings
from sync.engine.keeper import Permits, keep
from sync.engine.runner import Engine
from sync.engine.troubles import Troubles
from sync.errors import AccountForgotten, ConfigurationError, SyncError
from sync.model import RunOutcome, Task
from sync.observe.logging import Redactor
from sync.observe.metrics import Metrics
from sync.ports import Observer, Source, Warehouse
from sync.schedule import Schedule
from sync.sources.bace.settings import Account as BaceAccount
from sync.sources.bace.settings import BaceSettings
from sync.sources.bace.source import NAME as BACE
from sync.sources.bace.source import BaceSource
from sync.sources.beddit.settings import Account, BedditSettings
from sync.sources.beddit.source import NAME as BEDDIT
from sync.sources.beddit.source import BedditSource
from sync.sources.beddit.spool import sweep
from sync.storage.database import Pool, open_pool
from sync.storage.embedded import EmbeddedPostgres
from sync.storage.forgetting import PostgresForgetting
from sync.storage.forgotten import KnownAs, by_name, identities_of, refusal
from sync.storage.leases import PostgresLeases
from sync.storage.ledger import PostgresLedger
from sync.storage.migrate import ensure_schema
from sync.storage.progress import PostgresWarehouse
from sync.storage.sink import PostgresSink
from sync.storage.triage import PostgresTriage
from sync.storage.workers import NAME, PostgresWorker
from sync.transport import UNMETERED, HostGates, Limits, Meter

# The transport reports its retries itself; stamina's own hook would log each a second time.
set_on_retry_hooks(())

USER_AGENT = f"nightshift/{version('nightshift')}"

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
        return await _refused(self.forgetting, source, self.known_as[source])

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


def configured_accounts(settings: Settings) -> Mapping[str, Sequence[str]]:
    """The accounts of each source."""
    return {BEDDIT: tuple(settings.beddit.accounts), BACE: tuple(settings.bace.accounts)}


def known_as(settings: Settings) -> KnownAs:
    """What each account is recognised by: what the vendor calls the person; of BACE its name, too.

    A Beddit user's number says who it is, whatever the account is called. Of a BACE account that was
    forgotten when it was not configured any more nothing but its name was known.
    """
    return {
        BEDDIT: {name: (by_user(account.user_id),) for name, account in settings.beddit.accounts.items()},
        BACE: {
            name: (by_name(name), by_login(account.username))
            for name, account in settings.bace.accounts.items()
        },
    }


def by_user(user_id: int) -> str:
    """What a Beddit account is recognised by."""
    return f"user {user_id}"


def by_login(username: str) -> str:
    """What a BACE account is recognised by, whatever its name."""
    return f"username {username.casefold()}"


async def refused_accounts(settings: Settings) -> Mapping[str, Mapping[str, AccountForgotten]]:
    """By source, the configured accounts that were forgotten; for those who work without a warehouse.

    Where there is none, or none that answers, nobody is known to be.
    """
    if settings.warehouse.dsn is None and not embedded_in(settings.state_dir).is_initialised():
        return {}
    try:
        async with open_forgetting(settings) as forgetting:
            known = known_as(settings)
            return {source: await _refused(forgetting, source, known[source]) for source in known}
    except SyncError as error:
        log.debug("forgotten.unknown", error=str(error))
        return {}


async def _refused(
    forgetting: PostgresForgetting, source: str, known: Mapping[str, Sequence[str]]
) -> Mapping[str, AccountForgotten]:
    found = await forgetting.forgotten(source, known)
    return {account: refusal(source, account, forgotten) for account, forgotten in found.items()}


def clouds(settings: Settings) -> Mapping[str, Cloud]:
    """The configuration of each source."""
    return {BEDDIT: settings.beddit, BACE: settings.bace}


def fresh_since(settings: Settings, now: datetime) -> Mapping[str, datetime]:
    """The oldest success of an account of each source that still counts as fresh."""
    cycles = settings.daemon.stale_cycles + 1  # the one under way does not count
    return {
        name: Schedule(cloud.schedule).last(now, cycles=cycles) for name, cloud in clouds(settings).items()
    }


def choose(
    accounts: Mapping[str, Sequence[str]], source: str | None, account: str | None
) -> Mapping[str, Sequence[str]]:
    """The accounts of each source that a command is about.

    Raises:
        ConfigurationError: No configured account fits the choice.
    """
    if source is not None and source not in accounts:
        raise ConfigurationError(f"there is no source {source!r}; there is {_listed(accounts)}")
    configured = {name: names for name, names in accounts.items() if source in {None, name} and names}
    if not configured:
        raise ConfigurationError(
            "no account is configured. Add one to nightshift.toml (`nightshift config --example` shows how), "
            "or try `nightshift demo`, which needs none"
        )
    chosen = {name: [a for a in names if account in {None, a}] for name, names in configured.items()}
    if not any(chosen.values()):
        known = [a for names in configured.values() for a in names]
        raise ConfigurationError(f"there is no account {account!r}; there is {_listed(known)}")
    return {name: names for name, names in chosen.items() if names}


@asynccontextmanager
async def open_dsn(settings: Settings) -> AsyncIterator[str]:
    """The warehouse's address: the configured one, or an embedded server that runs meanwhile.

    Raises:
        ConfigurationError: The embedded server cannot run here; the message says what to do.
    """
    if settings.warehouse.dsn is not None:
        yield settings.warehouse.dsn.get_secret_value()
        return
    async with embedded_in(settings.state_dir).running() as dsn:
        yield dsn


def embedded_in(state_dir: Path) -> EmbeddedPostgres:
    """The embedded server that belongs to a state folder."""
    return EmbeddedPostgres(state_dir / "postgres")


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
        dsn = await _open_database(settings, stack, create=True)
        worker = await stack.enter_async_context(_enrolled(PostgresWorker(dsn, lease), command))
        pool = await stack.enter_async_context(_pool(settings, dsn, worker.name))
        names = known_as(settings)
        warehouse, leases = PostgresWarehouse(pool), PostgresLeases(pool, worker.number, names)
        sources = await stack.enter_async_context(open_sources(settings, warehouse, metrics))
        sink = PostgresSink(pool)
        permits = Permits(leases, PATIENCE * lease)
        forgetting = PostgresForgetting(pool, worker.number)

        @asynccontextmanager
        async def permit(source: str, account: str) -> AsyncIterator[None]:
            known = identities_of(names, source, [account])
            for error in (await _refused(forgetting, source, known)).values():
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
            async with _pool(settings, dsn, worker.name, size=1) as connection:
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


@asynccontextmanager
async def open_sources(
    settings: Settings, warehouse: Warehouse, metrics: Metrics | None = None
) -> AsyncIterator[Sequence[Source]]:
    """All sources, sharing one set of host limits. A new vendor is one line here."""
    gates = HostGates()

    def meter(source: str) -> Meter:
        return UNMETERED if metrics is None else metrics.meter(source)

    beddit, bace = beddit_settings(settings), bace_settings(settings)
    sources: Sequence[Source] = (
        BedditSource(beddit, warehouse, gates, limits(settings.beddit), USER_AGENT, meter=meter(BEDDIT)),
        BaceSource(bace, warehouse, gates, limits(settings.bace), USER_AGENT, meter=meter(BACE)),
    )
    try:
        yield sources
    finally:
        for source in sources:
            await source.aclose()


@asynccontextmanager
async def open_warehouse(settings: Settings) -> AsyncIterator[PostgresWarehouse]:
    """Open the warehouse for looking at it; an empty database stays empty.

    Raises:
        ConfigurationError: As ``open_app``, or nightshift has not worked there yet.
    """
    async with AsyncExitStack() as stack:
        dsn = await _open_database(settings, stack, create=False)
        yield PostgresWarehouse(await stack.enter_async_context(_pool(settings, dsn)))


@asynccontextmanager
async def open_triage(settings: Settings) -> AsyncIterator[PostgresTriage]:
    """Open the warehouse's rejects; raises as ``open_warehouse``."""
    async with AsyncExitStack() as stack:
        dsn = await _open_database(settings, stack, create=False)
        yield PostgresTriage(await stack.enter_async_context(_pool(settings, dsn)))


@asynccontextmanager
async def open_forgetting(settings: Settings) -> AsyncIterator[PostgresForgetting]:
    """Open the warehouse to see what there is of a person; raises as ``open_warehouse``."""
    async with AsyncExitStack() as stack:
        dsn = await _open_database(settings, stack, create=False)
        yield PostgresForgetting(await stack.enter_async_context(_pool(settings, dsn)))


async def _open_database(settings: Settings, stack: AsyncExitStack, *, create: bool) -> str:
    dsn = await stack.enter_async_context(open_dsn(settings))
    await ensure_schema(dsn, create=create)
    return dsn


def _pool(
    settings: Settings, dsn: str, name: str = NAME, *, size: int | None = None
) -> AbstractAsyncContextManager[Pool]:
    warehouse = settings.warehouse
    return open_pool(
        dsn,
        size=size or warehouse.pool_size,
        statement_timeout_s=warehouse.statement_timeout_s,
        name=name,
    )


def beddit_settings(settings: Settings) -> BedditSettings:
    """The Beddit source's settings, from the configuration."""
    beddit = settings.beddit
    return BedditSettings(
        base_url=beddit.base_url,
        accounts={
            name: Account(account.user_id, account.token.get_secret_value())
            for name, account in beddit.accounts.items()
        },
        spool=spool_folder(settings),
        ca_file=beddit.ca_file,
        allow_private_blob_hosts=beddit.allow_private_blob_hosts,
        blob_max_bytes=beddit.blob_max_bytes,
        batch_bytes=beddit.batch_bytes,
        history_start=datetime.combine(beddit.history_start, time(), UTC),
        longest_session=timedelta(hours=beddit.longest_session_hours),
        overlap=timedelta(seconds=beddit.overlap_s),
    )


def bace_settings(settings: Settings) -> BaceSettings:
    """The BACE source's settings, from the configuration."""
    bace = settings.bace
    return BaceSettings(
        base_url=bace.base_url,
        accounts={
            name: BaceAccount(
                account.client_id,
                account.client_secret.get_secret_value(),
                account.username,
                account.password.get_secret_value(),
            )
            for name, account in bace.accounts.items()
        },
        tokens=settings.state_dir / "tokens",
        ca_file=bace.ca_file,
    )


def limits(cloud: Cloud) -> Limits:
    """How gently a vendor's hosts are treated."""
    return Limits(
        read_timeout_s=cloud.request_timeout_s,
        concurrency=cloud.concurrency,
        requests_per_second=cloud.requests_per_second,
    )


def spool_folder(settings: Settings) -> Path:
    """Where blobs wait while they are being downloaded."""
    return settings.state_dir / "spool"


def _listed(names: Sequence[str] | Mapping[str, object]) -> str:
    return ", ".join(sorted(names)) or "none"
