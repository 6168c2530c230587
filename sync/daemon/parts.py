"""What runs side by side under one configuration. Where one part ends, all end: there is no half daemon."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from importlib.metadata import version
from typing import Any, Final, NoReturn

import structlog

from sync.app.accounts import choose, clouds, configured_accounts, fresh_since
from sync.app.work import App, open_app
from sync.config import NEVER, NOWHERE, Cloud, Settings
from sync.daemon.dispatcher import Dispatcher, Work
from sync.daemon.notify import Notifier
from sync.daemon.pages import Pages
from sync.daemon.timetable import Job, Timetable
from sync.engine.troubles import WAREHOUSE, Troubles
from sync.errors import ConfigurationError, LeaseLost, StorageUnavailable, SyncError
from sync.model import Task
from sync.observe.logging import Redactor
from sync.observe.metrics import Metrics
from sync.observe.web import serving
from sync.schedule import Schedule

log = structlog.get_logger(__name__)

NEW: Final = Task("once")
AGAIN: Final = Task("retry")
VERIFY: Final = "verify"
HOUSEKEEPING: Final = "housekeeping"
OPENING: Final = "opening"
LOOK_S: Final = 60.0
"""How often it is looked what is due, whatever the timetable says: clocks are set, machines sleep, and what
failed is tried again."""
FIRST_WAIT_S: Final = 1.0
LONGEST_WAIT_S: Final = 30.0
"""Between two attempts to open a warehouse that is away."""
STATUS_S: Final = 30.0
"""How often the service manager is told how we are, if it does not want to hear it more often."""


class PartEnded(SyncError):
    """A part of the daemon ended by itself; its cause says why."""


@dataclass(slots=True)
class Parts:
    """All that a daemon consists of, under one configuration.

    Attributes:
        settings: The configuration.
        redactor: For messages that are kept.
        metrics: What is counted; outlives the configuration, as do the troubles.
        troubles: What is wrong.
        notifier: The service manager's ear.
        started_at: When the process began.
        has_worked: Whether the warehouse could be opened: from then on all that it refuses is waited out.
    """

    settings: Settings
    redactor: Redactor
    metrics: Metrics
    troubles: Troubles
    notifier: Notifier
    started_at: datetime
    has_worked: bool = False
    _works: Mapping[str, Sequence[Work]] = field(init=False)
    _pages: Pages = field(init=False)
    _dispatchers: Sequence[Dispatcher] = ()

    def __post_init__(self) -> None:
        configured, of_sources = configured_accounts(self.settings), clouds(self.settings)
        self._works = {name: works(cloud) for name, cloud in of_sources.items() if configured[name]}
        self._pages = Pages(
            self.metrics,
            configured,
            partial(fresh_since, self.settings),
            self.started_at,
            lambda: WAREHOUSE in self.troubles.open,
        )

    async def run(self) -> NoReturn:
        """Work for ever.

        Raises:
            ConfigurationError: The configuration or the database does not allow it to start.
            PartEnded: A part ended that never should.
        """
        accounts = choose(configured_accounts(self.settings), None, None)
        self.metrics.accounts(configured_accounts(self.settings))
        self.troubles.only(configured_accounts(self.settings))
        self.metrics.queue(self._load)
        async with self._served() as place:
            log.info(
                "daemon.started",
                version=version("nightshift"),
                listen=place,
                next={name: self._next(name) for name in accounts},
                accounts={source: len(names) for source, names in accounts.items()},
            )
            self.notifier.ready(self._status())
            await together(notifier=self.notifier.watch(self._status, STATUS_S), work=self._work())
        raise AssertionError("work ends only by being cancelled")

    @asynccontextmanager
    async def _served(self) -> AsyncIterator[str]:
        """Answer whoever asks how we are; yields where."""
        if self.settings.daemon.listen == NOWHERE:
            yield NOWHERE
            return
        async with serving(self.settings.daemon.listen, self._pages) as (host, port):
            try:
                yield f"{host}:{port}"
            finally:
                await self._pages.aclose()

    # -- work ----------------------------------------------------------------------------------

    async def _work(self) -> NoReturn:
        """Work; begin anew where the warehouse was away, and where others have taken us for dead."""
        wait = FIRST_WAIT_S
        while True:
            try:
                async with self._opened() as app, app.watch() as watched:
                    wait, self.has_worked = FIRST_WAIT_S, True
                    self.troubles.warehouse_answered(OPENING)
                    self._pages.survey = watched.survey
                    await self._work_with(app)
            except LeaseLost as error:
                log.warning("worker.replaced", reason=str(error))
            except (StorageUnavailable, ConfigurationError) as error:
                if isinstance(error, ConfigurationError) and not self.has_worked:
                    raise
                self.troubles.warehouse_failed(str(error), OPENING)
                await asyncio.sleep(wait)
                wait = min(2 * wait, LONGEST_WAIT_S)
            finally:
                self._pages.survey, self._dispatchers = None, ()

    def _opened(self) -> AbstractAsyncContextManager[App]:
        return open_app(
            self.settings,
            self.redactor,
            self.metrics,
            command="run",
            metrics=self.metrics,
            troubles=self.troubles,
        )

    async def _work_with(self, app: App) -> NoReturn:
        self.metrics.pool(app.warehouse.connections)
        places = self.settings.engine.parallel_accounts
        dispatchers = {
            name: Dispatcher(app.sources[name], app.engine, app.leases, places, app.refused)
            for name in self._works
        }
        self._dispatchers = tuple(dispatchers.values())
        house = asyncio.Event()
        timetable = self._timetable(dispatchers, house)

        def look(*, retry_failed: bool = False) -> None:
            for name, works in self._works.items():
                dispatchers[name].look(
                    [work for work in works if work.task != AGAIN],  # which what is new includes
                    retry_failed=retry_failed,
                )

        async def look_around() -> NoReturn:
            while True:
                await asyncio.sleep(LOOK_S)
                look()

        look(retry_failed=True)
        timetable.start()
        try:
            await together(
                keeper=app.keep(look),
                lookout=look_around(),
                housekeeper=self._keep_house(app, house),
                **{name: dispatcher.run() for name, dispatcher in dispatchers.items()},
            )
        finally:
            timetable.close()
        raise AssertionError("work ends only by being cancelled")

    def _timetable(self, dispatchers: Mapping[str, Dispatcher], house: asyncio.Event) -> Timetable:
        timetable = Timetable(timedelta(seconds=self.settings.daemon.jitter_s), self.metrics.job)

        async def look(dispatcher: Dispatcher, work: Work) -> None:
            dispatcher.look([work])

        async def keep_house() -> None:
            house.set()

        for source, works in self._works.items():
            for work in works:
                due = partial(look, dispatchers[source], work)
                timetable.add(Job(f"{source}.{work.kind}", work.schedule, due))
        schedule = Schedule(self.settings.daemon.housekeeping_schedule)
        timetable.add(Job(HOUSEKEEPING, schedule, keep_house), at_once=True)
        return timetable

    async def _keep_house(self, app: App, due: asyncio.Event) -> NoReturn:
        while True:
            await due.wait()
            due.clear()
            try:
                await app.keep_house()
            except (StorageUnavailable, ConfigurationError, OSError) as error:
                log.warning(
                    "housekeeping.failed", error=str(error), advice="it is tried again when it is due"
                )

    # -- how it goes ---------------------------------------------------------------------------

    def _load(self) -> tuple[int, int]:
        loads = [dispatcher.load for dispatcher in self._dispatchers]
        return sum(waiting for waiting, _ in loads), sum(running for _, running in loads)

    def _next(self, source: str) -> str:
        """When a source's next cycle begins; the one that lasts is taken up at once."""
        now = datetime.now(UTC)
        due = self._works[source][0].schedule.trigger().get_next_fire_time(None, now)
        return f"{due:%Y-%m-%dT%H:%M:%SZ}"

    def _status(self) -> str:
        waiting, running = self._load()
        doing = f"{running} accounts are being read, {waiting} wait"
        wrong = sorted(self.troubles.open)
        return f"{doing}; in trouble: {', '.join(wrong[:3])}" if wrong else doing


def works(cloud: Cloud) -> Sequence[Work]:
    """What is done for the accounts of a source again and again, the most urgent first."""
    reading = Work(NEW, Schedule(cloud.schedule)), Work(AGAIN, Schedule(cloud.retry_schedule))
    if cloud.verify_schedule == NEVER:
        return reading
    return *reading, Work(Task(VERIFY, repair=cloud.verify_repair), Schedule(cloud.verify_schedule))


def jobs(sources: Iterable[str]) -> Sequence[str]:
    """The names of all jobs that there may be."""
    kinds = (NEW.kind, AGAIN.kind, VERIFY)
    return [*(f"{source}.{kind}" for source in sources for kind in kinds), HOUSEKEEPING]


async def together(**parts: Coroutine[Any, Any, NoReturn]) -> NoReturn:
    """Run parts side by side; the end of one is the end of all.

    Raises:
        PartEnded: A part ended by an error that nobody expected there, or by none at all.
        SyncError: A part ended by one that says what to do.
    """
    tasks = [asyncio.create_task(part, name=name) for name, part in parts.items()]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    ended = next(iter(done))
    error = None if ended.cancelled() else ended.exception()
    if isinstance(error, SyncError):
        raise error
    why = type(error).__name__ if error else "without an error"
    log.error("daemon.part_ended", part=ended.get_name(), exc_info=error)
    raise PartEnded(
        f"the daemon's part {ended.get_name()!r} ended ({why}): this is a defect, please report it with the"
        " log. What was committed stays"
    ) from error
