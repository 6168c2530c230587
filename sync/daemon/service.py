"""The daemon's life: how it begins, what it does when it is told something, and how it ends."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Final, NoReturn

import structlog

from sync.app.accounts import clouds
from sync.config import Settings
from sync.daemon.notify import Notifier
from sync.daemon.parts import Parts, jobs
from sync.engine.troubles import Troubles
from sync.errors import ConfigurationError
from sync.observe.logging import Redactor
from sync.observe.metrics import Metrics
from sync.observe.web import PlaceTaken

log = structlog.get_logger(__name__)

_STDERR: Final = 2


class Service:
    """Works until a signal: SIGTERM and SIGINT end it, SIGHUP has it read its configuration again.

    A second SIGTERM or SIGINT ends it at once. A terminal that goes away ends it, too.

    Reading the configuration again is a restart without an end:
    the batches in hand are stored or not, whole, and everything begins anew with the new one.

    Args:
        load: Reads the configuration.
        configure_logging: Sets the log up as a configuration wants it.
        environ: Where a service manager says what it wants to hear.
        abort: Ends the process at once, with an exit code.
    """

    def __init__(
        self,
        load: Callable[[], Settings],
        configure_logging: Callable[[Settings], Redactor],
        environ: Mapping[str, str],
        abort: Callable[[int], NoReturn] = os._exit,
    ) -> None:
        self._load = load
        self._configure_logging = configure_logging
        self._abort = abort
        self._notifier = Notifier.of(environ)
        self._told: asyncio.Queue[signal.Signals] = asyncio.Queue()
        self._is_ending = False
        self._has_terminal = os.isatty(_STDERR)

    async def run(self) -> None:
        """Work until told to end.

        Raises:
            ConfigurationError: The configuration or the database does not allow it to start.
            PartEnded: Something ended that never should; nothing is left half alive.
        """
        settings = self._load()
        before: Settings | None = None
        started_at, has_worked = datetime.now(UTC), False
        sources = clouds(settings)
        metrics = Metrics(version("nightshift"), sources, jobs=jobs(sources))
        troubles = Troubles(metrics)
        self._listen()
        while True:
            redactor = self._configure_logging(settings)
            parts = Parts(
                settings, redactor, metrics, troubles, self._notifier, started_at, has_worked=has_worked
            )
            try:
                following = await self._until_told(parts)
            except (ConfigurationError, PlaceTaken) as error:
                if before is None or parts.has_worked:
                    raise
                log.warning("daemon.reload_refused", error=str(error))
                settings, before, has_worked = before, None, True  # it has worked with that one
                continue
            if following is None:
                log.info("daemon.stopped")
                return
            settings, before, has_worked = following, settings, False

    def _listen(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup wants it
                loop.add_signal_handler(number, self._received, number)

    def _received(self, number: signal.Signals) -> None:
        if number is signal.SIGHUP and self._has_terminal and not os.isatty(_STDERR):
            number = signal.SIGTERM  # the terminal is gone: nobody asked for anything to be read again
        if number is not signal.SIGHUP:
            if self._is_ending:
                log.warning("daemon.aborted", signal=number.name)
                self._abort(128 + number)
            self._is_ending = True
        self._told.put_nowait(number)

    async def _until_told(self, parts: Parts) -> Settings | None:
        """Work until a signal wants something else: the configuration to go on with, or None to end."""
        work = asyncio.create_task(parts.run(), name="daemon")
        told = asyncio.create_task(self._next(), name="signals")
        await asyncio.wait({work, told}, return_when=asyncio.FIRST_COMPLETED)
        if not told.done():
            told.cancel()
            work.result()  # raises: work ends by itself only by an error
        following = told.result()
        grace_s = parts.settings.daemon.grace_s
        if following is None:
            log.info("daemon.stopping", grace_s=grace_s)
            self._notifier.stopping()
        else:
            log.info("daemon.reloading")
            self._notifier.reloading()
            await self._released(work)
        await self._end(work, grace_s)
        return None if self._is_ending else following

    async def _next(self) -> Settings | None:
        while True:
            await self._told.get()
            while not self._told.empty():  # many at once are one
                self._told.get_nowait()
            if self._is_ending:
                return None
            try:
                return self._load()
            except ConfigurationError as error:
                log.warning("daemon.reload_refused", error=str(error))

    async def _released(self, work: asyncio.Task[NoReturn]) -> None:
        """Cancel the work and wait for its end: nobody wants the process to end, unless told so meanwhile."""
        work.cancel()
        while not (work.done() or self._is_ending):
            await asyncio.wait({work}, timeout=1.0)

    async def _end(self, work: asyncio.Task[NoReturn], grace_s: float) -> None:
        """Cancel the work; what does not end in time is cut off."""
        work.cancel()
        await asyncio.wait({work}, timeout=grace_s)
        if not work.done():
            log.error("daemon.cut_off", grace_s=grace_s, advice="what was not committed is read again")
            self._abort(1)
        if not work.cancelled() and (error := work.exception()):
            log.warning("daemon.ended_badly", error=str(error))
