"""The composition root: the one place that joins settings, warehouse, sources and engine."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from importlib.metadata import version
from pathlib import Path

from stamina.instrumentation import set_on_retry_hooks

from sync.config import Cloud, Settings
from sync.engine.runner import Engine
from sync.errors import ConfigurationError, StorageUnavailable
from sync.model import RunOutcome, Task
from sync.observe.logging import Redactor
from sync.ports import Observer, Source, Warehouse
from sync.sources.bace.settings import Account as BaceAccount
from sync.sources.bace.settings import BaceSettings
from sync.sources.bace.source import BaceSource
from sync.sources.beddit.settings import Account, BedditSettings
from sync.sources.beddit.source import BedditSource
from sync.storage.database import Pool, open_pool
from sync.storage.embedded import EmbeddedPostgres
from sync.storage.ledger import PostgresLedger
from sync.storage.migrate import ensure_schema
from sync.storage.progress import PostgresWarehouse
from sync.storage.sink import PostgresSink
from sync.transport import HostGates, Limits

# The transport reports its retries itself; stamina's own hook would log each a second time.
set_on_retry_hooks(())

USER_AGENT = f"nightshift/{version('nightshift')}"


@dataclass(frozen=True, slots=True)
class App:
    """A running nightshift: its warehouse is open and its sources are ready."""

    warehouse: PostgresWarehouse
    engine: Engine
    sources: Mapping[str, Source]

    async def run(
        self, task: Task, *, source: str | None = None, account: str | None = None
    ) -> list[RunOutcome]:
        """Do a task for the chosen accounts, or for all.

        Raises:
            ConfigurationError: No configured account fits the choice.
        """
        outcomes: list[RunOutcome] = []
        known = {name: vendor.accounts for name, vendor in self.sources.items()}
        for name, accounts in choose(known, source, account).items():
            outcomes += await self.engine.run(self.sources[name], task, accounts)
        return outcomes


def configured_accounts(settings: Settings) -> Mapping[str, Sequence[str]]:
    """The accounts of each source."""
    return {"beddit": tuple(settings.beddit.accounts), "bace": tuple(settings.bace.accounts)}


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
async def open_app(settings: Settings, redactor: Redactor, observer: Observer) -> AsyncIterator[App]:
    """Open the warehouse, migrating an empty one, and prepare the sources.

    Raises:
        ConfigurationError: The database cannot be used: its address, its rights, its schema's version, or
            it cannot be reached at all.
    """
    async with AsyncExitStack() as stack:
        pool = await _open_pool(settings, stack, create=True)
        warehouse = PostgresWarehouse(pool)
        sources = await stack.enter_async_context(open_sources(settings, warehouse))
        engine = Engine(
            sink=PostgresSink(pool),
            ledger=PostgresLedger(pool),
            observer=observer,
            redact=redactor.redact,
            parallel_accounts=settings.engine.parallel_accounts,
            parallel_units=settings.engine.parallel_units,
        )
        yield App(warehouse, engine, {source.name: source for source in sources})


@asynccontextmanager
async def open_sources(settings: Settings, warehouse: Warehouse) -> AsyncIterator[Sequence[Source]]:
    """All sources, sharing one set of host limits. A new vendor is one line here."""
    gates = HostGates()
    sources: Sequence[Source] = (
        BedditSource(beddit_settings(settings), warehouse, gates, limits(settings.beddit), USER_AGENT),
        BaceSource(bace_settings(settings), warehouse, gates, limits(settings.bace), USER_AGENT),
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
        yield PostgresWarehouse(await _open_pool(settings, stack, create=False))


async def _open_pool(settings: Settings, stack: AsyncExitStack, *, create: bool) -> Pool:
    try:
        dsn = await stack.enter_async_context(open_dsn(settings))
        await ensure_schema(dsn, create=create)
        return await stack.enter_async_context(
            open_pool(
                dsn,
                size=settings.warehouse.pool_size,
                statement_timeout_s=settings.warehouse.statement_timeout_s,
            )
        )
    except StorageUnavailable as error:
        raise ConfigurationError(
            f"the warehouse cannot be reached: {error}. Check warehouse.dsn and that PostgreSQL is running"
        ) from error


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
