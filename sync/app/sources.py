"""The sources, as they are configured."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, time, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from stamina.instrumentation import set_on_retry_hooks

from sync.app.accounts import BACE, BEDDIT
from sync.config import Cloud, Settings
from sync.ports import Source, Warehouse
from sync.sources.bace.settings import Account as BaceAccount
from sync.sources.bace.settings import BaceSettings
from sync.sources.bace.source import BaceSource
from sync.sources.beddit.settings import Account, BedditSettings
from sync.sources.beddit.source import BedditSource
from sync.transport import UNMETERED, HostGates, Limits, Meter

if TYPE_CHECKING:
    from sync.observe.metrics import Metrics

# The transport reports its retries itself; stamina's own hook would log each a second time.
set_on_retry_hooks(())

USER_AGENT = f"nightshift/{version('nightshift')}"


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
