"""What the settings amount to: when work is done, where the daemon can be asked, how much happens at once."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import AsyncIterator, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

from sync.app.accounts import clouds, configured_accounts
from sync.commands.check.finding import Finding, note
from sync.config import NEVER, NOWHERE, Settings
from sync.errors import SyncError
from sync.schedule import Schedule
from sync.transport import HttpClient, Limits, Request

SHORT_LEASE_S: Final = 15
"""A busy machine, or a database that restarts, may keep a process silent for so long."""

ANSWER_LIMITS: Final = Limits(connect_timeout_s=2, read_timeout_s=5, total_timeout_s=5, attempts=1)
LONGEST_ANSWER: Final = 64 * 1024

# Which address a person means who listens on all of them.
_HERE: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104


async def check_configuration(settings: Settings, config: Path | None) -> AsyncIterator[Finding]:
    """Where the configuration comes from, and what the daemon would make of it."""
    yield Finding("configuration", True, f"read from {config}" if config else "no file, defaults only")
    for finding in _schedules(settings, datetime.now(UTC)):
        yield finding
    yield _lease(settings.daemon.lease_s)
    yield _parallel_work(settings)
    yield await _listen(settings.daemon.listen)


def _schedules(settings: Settings, now: datetime) -> Iterator[Finding]:
    """When the daemon works, in words."""
    accounts = configured_accounts(settings)
    for name, cloud in clouds(settings).items():
        if accounts[name]:
            texts = {"": cloud.schedule, "retries ": cloud.retry_schedule}
            if cloud.verify_schedule != NEVER:
                texts["verifies "] = cloud.verify_schedule
            yield _schedule(f"{name} schedule", texts, now)
    yield _schedule("housekeeping", {"": settings.daemon.housekeeping_schedule}, now)


def _schedule(subject: str, texts: Mapping[str, str], now: datetime) -> Finding:
    following = {name: next_time(Schedule(text), now) for name, text in texts.items()}
    words = (f"{name}{_words(texts[name])}, next {_clock(time, now)}" for name, time in following.items())
    return Finding(subject, True, "; ".join(words))


def next_time(schedule: Schedule, now: datetime) -> datetime | None:
    """When a schedule's next cycle begins; None: never."""
    found: datetime | None = schedule.trigger().get_next_fire_time(None, now)
    return found


def _words(text: str) -> str:
    return f"every {text}" if Schedule(text).interval is not None else f"at {text!r}"


def _clock(time: datetime | None, now: datetime) -> str:
    if time is None:
        return "never"
    return f"at {time:%H:%M} UTC" if time.date() == now.date() else f"at {time:%Y-%m-%d %H:%M} UTC"


def _lease(lease_s: float) -> Finding:
    text = f"others take over after {lease_s:g} s of silence"
    if lease_s < SHORT_LEASE_S:
        return note("lease", f"{text}: a moment's pause is enough, consider a longer daemon.lease_s")
    return Finding("lease", True, text)


def _parallel_work(settings: Settings) -> Finding:
    """Whether connections are what work would wait for: an account in hand needs one of its own."""
    accounts, units = settings.engine.parallel_accounts, settings.engine.parallel_units
    size = settings.warehouse.pool_size
    text = f"{accounts} accounts at once, {units} units of each, over {size} database connections"
    if size < accounts:
        return note(
            "parallel work",
            f"{text}: accounts wait for one another; set warehouse.pool_size to {accounts + 1} or more, or "
            f"engine.parallel_accounts to {size}",
        )
    return Finding("parallel work", True, text)


# --- where the daemon can be asked -------------------------------------------------------------------


async def _listen(place: str) -> Finding:
    if place == NOWHERE:
        return Finding("listen", True, "off: no /healthz, /readyz and /metrics")
    parts = urlsplit(f"//{place}")
    host, port = parts.hostname or "", parts.port or 0
    try:
        await asyncio.to_thread(_bind, host, port)
    except OSError as error:
        if error.errno == errno.EADDRINUSE and (version := await _running(host, port)):
            return Finding("listen", True, f"a nightshift {version} answers at {place}")
        return Finding("listen", False, f"{place}: {_why(error)}")
    return Finding("listen", True, f"{place} can be listened on")


def _why(error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return "another program listens there: set daemon.listen to a free port"
    return f"{error.strerror or error}: set daemon.listen to an address of this machine and a port above 1023"


def _bind(host: str, port: int) -> None:
    """Take the addresses for a moment, as the daemon would.

    Raises:
        OSError: One of them cannot be had.
    """
    for family, kind, protocol, _, address in socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    ):
        with socket.socket(family, kind, protocol) as taken:
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                taken.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            taken.bind(address)


async def _running(host: str, port: int) -> str | None:
    """The version of the nightshift that answers there; None when something else does, or nothing."""
    here = _HERE.get(host, host)
    base = f"http://[{here}]:{port}" if ":" in here else f"http://{here}:{port}"
    try:
        async with (
            HttpClient(base_url=base, limits=ANSWER_LIMITS) as client,
            client.open(Request("/healthz", retry=False)) as response,
        ):
            answer = msgspec.json.decode(await response.read(LONGEST_ANSWER))
    except (SyncError, msgspec.DecodeError, UnicodeDecodeError):
        return None
    return _version(answer)


def _version(answer: Any) -> str | None:
    """What our own /healthz says: a version, and an uptime in seconds."""
    match answer:
        case {"version": str(version), **facts} if any(str(name).startswith("uptime") for name in facts):
            return version
    return None
