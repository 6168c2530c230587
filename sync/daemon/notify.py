"""Tells systemd how we are (sd_notify(3)): a datagram to the socket that it named, if it did."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NoReturn


@dataclass(frozen=True, slots=True)
class Notifier:
    """Speaks to the service manager; says nothing where there is none.

    Attributes:
        address: The manager's socket; empty where there is none.
        watchdog_s: How often it wants to hear of us, at the latest; None: it does not watch.
    """

    address: str = ""
    watchdog_s: float | None = None

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> Notifier:
        """As the manager told us in the environment."""
        watched = environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        microseconds = environ.get("WATCHDOG_USEC", "")
        return cls(
            environ.get("NOTIFY_SOCKET", ""),
            int(microseconds) / 1e6 if watched and microseconds.isdecimal() else None,
        )

    def ready(self, status: str) -> None:
        """We are there; what we do, in a line for ``systemctl status``."""
        self._send("READY=1", f"STATUS={status}")

    def reloading(self) -> None:
        """We read our configuration again; ``ready`` follows."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """We are about to end."""
        self._send("STOPPING=1", "STATUS=ending")

    async def watch(self, status: Callable[[], str], every_s: float) -> NoReturn:
        """Show that the event loop turns, twice as often as the manager wants to see it.

        Args:
            status: What we do, in a line.
            every_s: How often it is told where nobody watches.
        """
        while True:
            self._send("WATCHDOG=1", f"STATUS={status()}")
            await asyncio.sleep(every_s if self.watchdog_s is None else min(every_s, self.watchdog_s / 2))

    def _send(self, *lines: str) -> None:
        if not self.address:
            return
        address = "\0" + self.address[1:] if self.address.startswith("@") else self.address
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
            end.setblocking(False)
            try:
                end.connect(address)
                end.send("\n".join(lines).encode())
            except OSError:  # a manager that cannot hear is no reason to stop working
                return
