"""Time as a parameter, so that no test has to wait for it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime


def _utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class Clock:
    """The three things that waiting needs.

    Attributes:
        monotonic: Seconds that only ever grow.
        now: The instant, in UTC; asked only when an answer carries no Date header.
        sleep: Waits for some seconds.
    """

    monotonic: Callable[[], float] = time.monotonic
    now: Callable[[], datetime] = _utc_now
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
