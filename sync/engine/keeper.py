"""Keeps a process among the living, and accounts in one process's hands."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, NoReturn

import structlog

from sync.engine.troubles import Troubles
from sync.errors import AccountBusy, ConfigurationError, StorageUnavailable, SyncError
from sync.ports import Leases, Worker

log = structlog.get_logger(__name__)

KEEPER: Final = "keeper"
"""Who asks the warehouse here."""

BEATS: Final = 4
"""Heartbeats in the length of a lease: some may be lost."""

FIRST_WAIT_S: Final = 1.0
"""How soon a warehouse that did not answer is asked again; twice as long each time, up to a heartbeat."""

ASK_AGAIN_S: Final = 1.0
"""How soon an account that is busy is asked for again."""


def _nothing() -> None:
    """Nobody wants to know."""


async def _nothing_more() -> None:
    """Nobody wants to know."""


async def keep(
    worker: Worker,
    lease: timedelta,
    troubles: Troubles,
    *,
    freed: Callable[[], None] = _nothing,
    unanswered: Callable[[], Awaitable[None]] = _nothing_more,
    patience: timedelta = timedelta.max,
) -> NoReturn:
    """Say that we live, for ever, and take over what others left.

    Args:
        worker: Who we are.
        lease: After a silence of that length others take over.
        troubles: Told whether the warehouse answers.
        freed: Called when accounts of others became free.
        unanswered: Called when a heartbeat failed.
        patience: How long heartbeats may fail before that is an error.

    Raises:
        LeaseLost: Others have taken over already.
        StorageUnavailable: Heartbeats failed for longer than ``patience``.
    """
    answered_at = time.monotonic()
    interval = lease.total_seconds() / BEATS
    wait = min(FIRST_WAIT_S, interval)
    while True:
        try:
            silent = await worker.beat()
        except (StorageUnavailable, ConfigurationError) as error:
            # Refused is like away: whoever locks us out while we run may be about to let us in again.
            troubles.warehouse_failed(str(error), KEEPER)
            await unanswered()
            if time.monotonic() - answered_at > patience.total_seconds():
                raise
            await asyncio.sleep(wait * random.uniform(0.5, 1.0))  # noqa: S311 - nobody gains by guessing it
            wait = min(2 * wait, interval)
            continue
        troubles.warehouse_answered(KEEPER)
        answered_at = time.monotonic()
        wait = min(FIRST_WAIT_S, interval)
        if silent:
            freed()
        await asyncio.sleep(interval)


@dataclass(frozen=True, slots=True)
class Permits:
    """Lets a command work on an account that nobody else works on.

    Attributes:
        leases: Who works on what.
        patience: How long a busy account is waited for; a daemon's quiet cycle takes a second.
    """

    leases: Leases
    patience: timedelta

    @asynccontextmanager
    async def hold(self, source: str, account: str) -> AsyncIterator[None]:
        """Hold the account's lease.

        Raises:
            AccountBusy: Another process does; the message says which one.
        """
        await self._claim(source, account)
        try:
            yield
        finally:
            with suppress(SyncError):  # whoever leaves gives everything back
                await self.leases.release(source, account, done=True)

    async def _claim(self, source: str, account: str) -> None:
        begun = time.monotonic()
        told = False
        while not await self.leases.claim(source, [account], "command"):
            holder = await self.leases.holder(source, account) or "another process"
            if time.monotonic() - begun > self.patience.total_seconds():
                raise AccountBusy(
                    f"{holder} works on account {account} of {source}, so nothing was done here. "
                    "Try again later, or stop that process first"
                )
            if not told:
                log.info("account.waiting", source=source, account=account, holder=holder)
            told = True
            await asyncio.sleep(ASK_AGAIN_S)
