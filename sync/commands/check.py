"""``nightshift check``: every precondition of unattended work, tried, with a sentence on each."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sync.app import USER_AGENT, bace_settings, embedded_in, limits, open_dsn, open_sources
from sync.config import Settings
from sync.errors import SyncError
from sync.model import StreamKey, StreamState
from sync.ports import Source
from sync.sources.bace.client import open_client
from sync.sources.bace.query import Query, and_, gte, lt
from sync.storage.database import Inspection, inspect
from sync.storage.migrate import known_versions, newest_version, schema_version
from sync.transport import HostGates

TOLERATED_SKEW_S = 60

_NO_DATA = Query(filter=and_(gte("timestamp_seconds", 0), lt("timestamp_seconds", 1)))
"""A question for data that costs the vendor nothing: nobody measured in 1970."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was tried.

    Attributes:
        subject: What it is about.
        ok: Whether it is as it should be.
        text: What was seen; where it is not ok, what to do.
        fatal: Whether no work is possible at all.
    """

    subject: str
    ok: bool
    text: str
    fatal: bool = False


async def check(settings: Settings, config: Path | None) -> AsyncIterator[Finding]:
    """Try everything, one thing after the other; a failure does not stop the rest."""
    yield Finding("configuration", True, f"read from {config}" if config else "no file, defaults only")
    yield _state_folder(settings)
    async for finding in _database(settings):
        yield finding
    async for finding in _accounts(settings):
        yield finding


def _state_folder(settings: Settings) -> Finding:
    folder = settings.state_dir
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".check"
        probe.touch()
        probe.unlink()
    except OSError as error:
        return Finding(
            "state folder",
            False,
            f"{folder}: {error.strerror}. Set state_dir to a folder that can be written",
        )
    return Finding("state folder", True, str(folder))


async def _database(settings: Settings) -> AsyncIterator[Finding]:
    if settings.warehouse.dsn is None and not embedded_in(settings.state_dir).is_initialised():
        yield Finding("database", True, "embedded PostgreSQL; it is created by the first command that works")
        return
    try:
        async with open_dsn(settings) as dsn:
            seen = await inspect(dsn)
            yield Finding("database", True, f"{seen.server} as {seen.role!r} in database {seen.database!r}")
            yield _schema(await schema_version(dsn), seen)
            yield _privileges(seen)
    except SyncError as error:
        yield Finding("database", False, str(error), fatal=True)


def _schema(version: str | None, seen: Inspection) -> Finding:
    newest = newest_version()
    if version is None:
        text = "none yet; `nightshift migrate`, or any command that works, creates it"
        return Finding("schema", seen.may_create, text if seen.may_create else _GRANT_CREATE)
    if version == newest:
        return Finding("schema", True, f"version {version}, the newest")
    what = (
        "run `nightshift migrate`"
        if version in known_versions()
        else "a newer nightshift made it: upgrade this one"
    )
    return Finding("schema", False, f"version {version}, this nightshift needs {newest}: {what}", fatal=True)


_GRANT_CREATE = "none yet, and the role may not create it: GRANT CREATE ON DATABASE ... TO ..."


def _privileges(seen: Inspection) -> Finding:
    if seen.unwritable:
        tables = ", ".join(seen.unwritable)
        return Finding(
            "privileges", False, f"cannot write {tables}: GRANT SELECT, INSERT, UPDATE, DELETE on them"
        )
    return Finding("privileges", True, "all tables can be written")


async def _accounts(settings: Settings) -> AsyncIterator[Finding]:
    async with open_sources(settings, _Unread()) as sources:
        if not any(source.accounts for source in sources):
            text = "none is configured; `nightshift config --example` shows how"
            yield Finding("accounts", False, text)
        for source in sources:
            for account in source.accounts:
                yield await _account(settings, source, account)


async def _account(settings: Settings, source: Source, account: str) -> Finding:
    subject = f"{source.name}.{account}"
    try:
        server_time = await source.probe(account)
    except SyncError as error:
        return Finding(subject, False, str(error))
    if source.name == "bace" and (denied := await _data_denied(settings, account)):
        return Finding(subject, False, denied)
    if server_time is None:
        return Finding(subject, True, "credentials accepted; the vendor does not tell the time")
    skew = abs((datetime.now(UTC) - server_time).total_seconds())
    if skew > TOLERATED_SKEW_S:
        text = (
            f"credentials accepted, but this machine's clock is {skew:,.0f} s off the vendor's: set it by NTP"
        )
        return Finding(subject, False, text)
    return Finding(subject, True, "credentials accepted, clocks agree")


async def _data_denied(settings: Settings, account: str) -> str | None:
    """Why a BACE account that may list sessions may not read their data, if so: one permission each."""
    client = open_client(
        bace_settings(settings),
        account,
        gates=HostGates(),
        limits=limits(settings.bace),
        user_agent=USER_AGENT,
    )
    try:
        await client.count("data-downsampled", _NO_DATA)
    except SyncError as error:
        return f"sessions can be listed, their data cannot be read: {error}"
    finally:
        await client.aclose()
    return None


class _Unread:
    """A warehouse for sources that are only asked whether they are let in."""

    async def stream(self, key: StreamKey) -> StreamState:  # noqa: ARG002
        return StreamState()

    async def knowledge(self, source: str) -> Mapping[str, Any]:  # noqa: ARG002
        return {}

    async def fetch(self, query: str, *args: Any) -> Sequence[Mapping[str, Any]]:  # noqa: ARG002
        return []
