"""When a request may leave: the pace and the slots of a host, and the pause that a vendor asked for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sync.transport.clock import Clock
from sync.transport.limits import Limits


class Pause:
    """A stretch in which one client sends nothing, because the vendor said Retry-After.

    It belongs to a client and not to a host: a limit is usually an account's own, and one account's
    trouble must not stop the others.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._ends_at = clock.monotonic()

    @property
    def remaining(self) -> float:
        """Seconds until requests may leave again; zero when there is no pause."""
        return max(0.0, self._ends_at - self._clock.monotonic())

    def extend(self, seconds: float) -> None:
        """Let nothing leave for that long from now; never shortens a pause."""
        self._ends_at = max(self._ends_at, self._clock.monotonic() + seconds)

    async def over(self) -> None:
        """Wait until the pause is over."""
        while seconds := self.remaining:
            await self._clock.sleep(seconds)


class HostGate:
    """One host's slots and pace, shared by everybody in the process who talks to it."""

    def __init__(self, limits: Limits, clock: Clock) -> None:
        self._clock = clock
        self._slots = asyncio.Semaphore(limits.concurrency)
        self._interval = 1.0 / limits.requests_per_second
        self._burst = limits.burst
        self._due = clock.monotonic()

    @asynccontextmanager
    async def turn(self, pause: Pause) -> AsyncIterator[None]:
        """Hold a slot, from the moment when the request may leave until its answer has been read.

        Whoever opens a second request to the same host while reading the first holds two slots, and enough
        of them at once would wait for each other for ever.
        """
        async with self._unpaused_slot(pause):
            await self._pace()
            yield

    @asynccontextmanager
    async def _unpaused_slot(self, pause: Pause) -> AsyncIterator[None]:
        while True:
            # A paused client must not occupy slots that others could use ...
            await pause.over()
            async with self._slots:
                # ... and the pause may have begun while this one stood in the queue.
                if not pause.remaining:
                    yield
                    return

    async def _pace(self) -> None:
        now = self._clock.monotonic()
        start, self._due = reserve(self._due, now, interval=self._interval, burst=self._burst)
        if start > now:
            await self._clock.sleep(start - now)


def reserve(due: float, now: float, *, interval: float, burst: int) -> tuple[float, float]:
    """When the next request may start, and the ``due`` to call with next time.

    ``due`` is when a perfectly even stream would send its next request; being early by up to ``burst - 1``
    intervals is allowed. So any ``t`` seconds see at most ``burst + t / interval`` starts.
    """
    due = max(due, now)
    return max(now, due - (burst - 1) * interval), due + interval


class HostGates:
    """The gates of all hosts: one registry for a process, made by the composition root."""

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or Clock()
        self._gates: dict[tuple[str, int], HostGate] = {}

    def gate(self, host: str, port: int, limits: Limits) -> HostGate:
        """A host's gate; the first caller's limits are the ones that count."""
        key = (host.lower(), port)
        if key not in self._gates:
            self._gates[key] = HostGate(limits, self._clock)
        return self._gates[key]
