"""The vendors: each account's credentials, the vendors' clocks, and whom raw signals may come from."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from urllib.parse import urlsplit

from sync.app.sources import open_sources
from sync.app.warehouse import refused_accounts
from sync.commands.check.clocks import compare_clocks
from sync.commands.check.finding import Finding, note
from sync.config import Settings
from sync.errors import RetryableError, SyncError
from sync.model import Fault, Record, StreamKey, StreamState
from sync.ports import Source
from sync.transport import AddressPolicy
from sync.transport.policy import SocketRefused, not_public

PATIENCE: Final = 2
"""So many accounts in a row that get no answer, and the vendor's others are not tried."""

SETTING: Final = "beddit.allow_private_blob_hosts"

_EXAMPLES: Final = {"the internet": "1.1.1.1", "private networks": "10.0.0.1", "this machine": "127.0.0.1"}


async def check_accounts(settings: Settings) -> AsyncIterator[Finding]:
    """Ask every vendor with every account's credentials, but for those that were forgotten."""
    refused = await refused_accounts(settings)
    try:
        async with open_sources(settings, _Unread()) as sources:
            if not any(source.accounts for source in sources):
                text = "none is configured; `nightshift config --example` shows how"
                yield Finding("accounts", False, text)
            for source in sources:
                async for finding in _source(source, refused.get(source.name, {})):
                    yield finding
    except SyncError as error:  # certificates that cannot be read, say
        yield Finding("accounts", False, str(error), fatal=True)
    if settings.beddit.accounts:
        yield await _blob_hosts(settings)


async def _source(source: Source, refused: Mapping[str, SyncError]) -> AsyncIterator[Finding]:
    ahead: timedelta | None = None
    unanswered = 0
    for account, error in refused.items():
        yield Finding(f"{source.name}.{account}", False, str(error))
    accounts = [account for account in source.accounts if account not in refused]
    for number, account in enumerate(accounts):
        if unanswered == PATIENCE:
            left = len(accounts) - number
            yield Finding(source.name, False, f"{left} more accounts were not tried; check again later")
            break
        try:
            server_time = await source.probe(account)
        except SyncError as error:
            unanswered = unanswered + 1 if isinstance(error, RetryableError) else 0
            yield Finding(f"{source.name}.{account}", False, str(error))
            continue
        unanswered = 0
        yield Finding(f"{source.name}.{account}", True, "credentials accepted")
        if server_time is not None and ahead is None:
            ahead = server_time - datetime.now(UTC)
    if ahead is not None:
        yield compare_clocks(f"{source.name} clock", "the vendor", ahead)


# --- where raw signals may come from -------------------------------------------------------------------


async def _blob_hosts(settings: Settings) -> Finding:
    """What the address policy really does, on the very socket."""
    policy = AddressPolicy(allow_private=settings.beddit.allow_private_blob_hosts, setting=SETTING)
    allowed = [name for name, address in _EXAMPLES.items() if _permits(policy, address)]
    text = f"raw signals may come from {', '.join(allowed)}"
    if policy.allow_private:
        return note(
            "blob hosts", f"{text}, over plain http too: {SETTING} is meant for emulators and private clouds"
        )
    host = urlsplit(settings.beddit.base_url).hostname or ""
    if reason := await _private(host):
        return note(
            "blob hosts",
            f"{text} only, over https: from {host}, {reason}, they would be refused; if that host serves "
            f"them and is yours, set {SETTING} = true",
        )
    return Finding("blob hosts", True, f"{text} only, over https ({SETTING})")


def _permits(policy: AddressPolicy, address: str) -> bool:
    try:
        policy.open_socket((socket.AF_INET, socket.SOCK_STREAM, 0, "", (address, 443))).close()
    except SocketRefused:
        return False
    return True


async def _private(host: str) -> str | None:
    """Why a host's address is none of the open internet; None when it is one, or nobody knows it."""
    with suppress(OSError):
        found = await asyncio.get_running_loop().getaddrinfo(host, 443, type=socket.SOCK_STREAM)
        reasons = (not_public(str(address[0]).partition("%")[0]) for *_, address in found)
        return next(filter(None, reasons), None)
    return None


class _Unread:
    """A warehouse for sources that are only asked whether they are let in."""

    async def stream(self, key: StreamKey) -> StreamState:  # noqa: ARG002
        return StreamState()

    async def knowledge(self, source: str) -> Mapping[str, Any]:  # noqa: ARG002
        return {}

    async def fetch(self, query: str, *args: Any) -> Sequence[Mapping[str, Any]]:  # noqa: ARG002
        return []

    async def compare(
        self,
        records: Sequence[Record],  # noqa: ARG002
        *,
        columns: Sequence[str] | None = None,  # noqa: ARG002
    ) -> Mapping[str, Fault]:
        return {}
