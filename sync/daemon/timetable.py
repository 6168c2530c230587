"""When work is due: APScheduler, whose jobs only say so. Nothing depends on its keeping time exactly."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

import structlog
from apscheduler.events import (
    EVENT_JOB_ERROR,
    EVENT_JOB_EXECUTED,
    EVENT_JOB_MAX_INSTANCES,
    EVENT_JOB_MISSED,
    JobEvent,
)
from apscheduler.schedulers.asyncio import AsyncIOScheduler

from sync.schedule import Schedule

log = structlog.get_logger(__name__)

Ending = Literal["done", "failed", "missed"]


@dataclass(frozen=True, slots=True)
class Job:
    """Something that is due again and again.

    Attributes:
        name: For logs and metrics: ``beddit.once``.
        schedule: When.
        due: What to await then; a coroutine function, for APScheduler calls others in a thread.
    """

    name: str
    schedule: Schedule
    due: Callable[[], Awaitable[None]]


class Timetable:
    """Calls jobs when they are due, until it is closed.

    Args:
        jitter: How late they may be, at random.
        ended: Told what became of each call.
    """

    def __init__(self, jitter: timedelta, ended: Callable[[str, Ending], None]) -> None:
        self._jitter = jitter
        self._ended = ended
        self._scheduler = AsyncIOScheduler(
            timezone=UTC,
            job_defaults={
                "coalesce": True,
                "max_instances": 1,
                "misfire_grace_time": None,  # better late than a cycle later: a machine may have slept
            },
        )
        self._scheduler.add_listener(self._executed, EVENT_JOB_EXECUTED)
        self._scheduler.add_listener(self._failed, EVENT_JOB_ERROR)
        self._scheduler.add_listener(self._missed, EVENT_JOB_MISSED | EVENT_JOB_MAX_INSTANCES)

    def add(self, job: Job, *, at_once: bool = False) -> None:
        """Call a job from now on, and once right away if asked for."""
        first = {"next_run_time": datetime.now(UTC)} if at_once else {}
        self._scheduler.add_job(
            job.due, job.schedule.trigger(self._jitter), id=job.name, name=job.name, **first
        )

    def start(self) -> None:
        """Begin."""
        self._scheduler.start()

    def close(self) -> None:
        """Call nothing any more."""
        if self._scheduler.running:
            self._scheduler.shutdown(wait=False)

    def _executed(self, event: JobEvent) -> None:
        self._ended(event.job_id, "done")

    def _failed(self, event: JobEvent) -> None:
        log.error("job.failed", job=event.job_id, exc_info=event.exception)
        self._ended(event.job_id, "failed")

    def _missed(self, event: JobEvent) -> None:
        log.warning("job.missed", job=event.job_id)
        self._ended(event.job_id, "missed")
