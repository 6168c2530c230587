"""Opening the warehouse, to look at it or to work in it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path

import structlog

from sync.app.accounts import known_as
from sync.config import Settings
from sync.errors import AccountForgotten, SyncError
from sync.storage.database import Pool, open_pool
from sync.storage.embedded import EmbeddedPostgres
from sync.storage.forgetting import PostgresForgetting
from sync.storage.forgotten import refusal
from sync.storage.migrate import ensure_schema
from sync.storage.progress import PostgresWarehouse
from sync.storage.triage import PostgresTriage
from sync.storage.workers import NAME

log = structlog.get_logger(__name__)


@asynccontextmanager
async def open_warehouse(settings: Settings) -> AsyncIterator[PostgresWarehouse]:
    """Open the warehouse for looking at it; an empty database stays empty.

    Raises:
        ConfigurationError: As ``open_app``, or nightshift has not worked there yet.
    """
    async with _existing(settings) as pool:
        yield PostgresWarehouse(pool)


@asynccontextmanager
async def open_triage(settings: Settings) -> AsyncIterator[PostgresTriage]:
    """Open the warehouse's rejects; raises as ``open_warehouse``."""
    async with _existing(settings) as pool:
        yield PostgresTriage(pool)


@asynccontextmanager
async def open_forgetting(settings: Settings) -> AsyncIterator[PostgresForgetting]:
    """Open the warehouse to see what there is of a person; raises as ``open_warehouse``."""
    async with _existing(settings) as pool:
        yield PostgresForgetting(pool)


@asynccontextmanager
async def _existing(settings: Settings) -> AsyncIterator[Pool]:
    async with AsyncExitStack() as stack:
        dsn = await open_database(settings, stack, create=False)
        yield await stack.enter_async_context(configured_pool(settings, dsn))


async def refused_accounts(settings: Settings) -> Mapping[str, Mapping[str, AccountForgotten]]:
    """By source, the configured accounts that were forgotten; for those who work without a warehouse.

    Where there is none, or none that answers, nobody is known to be.
    """
    if settings.warehouse.dsn is None and not embedded_in(settings.state_dir).is_initialised():
        return {}
    try:
        async with open_forgetting(settings) as forgetting:
            known = known_as(settings)
            return {source: await refused(forgetting, source, known[source]) for source in known}
    except SyncError as error:
        log.debug("forgotten.unknown", error=str(error))
        return {}


async def refused(
    forgetting: PostgresForgetting, source: str, known: Mapping[str, Sequence[str]]
) -> Mapping[str, AccountForgotten]:
    """Those of a source's accounts that were forgotten, each with a sentence."""
    found = await forgetting.forgotten(source, known)
    return {account: refusal(source, account, forgotten) for account, forgotten in found.items()}


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


async def open_database(settings: Settings, stack: AsyncExitStack, *, create: bool) -> str:
    """The address of a warehouse whose schema is ours; a server that is started for it ends with the stack.

    Raises:
        ConfigurationError: As ``ensure_schema``.
    """
    dsn = await stack.enter_async_context(open_dsn(settings))
    await ensure_schema(dsn, create=create)
    return dsn


def configured_pool(
    settings: Settings, dsn: str, name: str = NAME, *, size: int | None = None
) -> AbstractAsyncContextManager[Pool]:
    """Connections as the configuration wants them."""
    warehouse = settings.warehouse
    return open_pool(
        dsn,
        size=size or warehouse.pool_size,
        statement_timeout_s=warehouse.statement_timeout_s,
        name=name,
    )
