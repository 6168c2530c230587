"""Whether nightshift works and is up to date, from what the warehouse says."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import structlog

from sync.errors import SyncError
from sync.model import Survey
from sync.observe.tables import ago

log = structlog.get_logger(__name__)

SHOWN: Final = 20
"""Problems that are told at most; more would not be read."""


@dataclass(frozen=True, slots=True)
class Readiness:
    """Whether nightshift works and is up to date; each problem is a sentence."""

    ready: bool
    problems: tuple[str, ...] = ()


def judge(
    survey: Survey | None,
    error: str | None,
    accounts: Mapping[str, Sequence[str]],
    fresh_since: Mapping[str, datetime],
    *,
    started_at: datetime,
    now: datetime,
) -> Readiness:
    """Say whether everything is as it should be.

    Args:
        survey: What the warehouse says; None: it is away.
        error: Why it is away.
        accounts: The configured accounts of each source.
        fresh_since: The oldest last success of an account of a source that will do.
        started_at: When this process began: an account that was never read is late only after that.
        now: The time.
    """
    if survey is None:
        return Readiness(False, (f"The warehouse is away: {error or 'it was not asked yet'}",))
    late = [problem for _, problem in sorted(_late(survey, accounts, fresh_since, started_at, now))]
    more = len(late) - SHOWN
    told = (*late[:SHOWN], f"and {more:,} more: `nightshift status` names all") if more > 0 else tuple(late)
    return Readiness(not late, told)


def _late(
    survey: Survey,
    accounts: Mapping[str, Sequence[str]],
    fresh_since: Mapping[str, datetime],
    started_at: datetime,
    now: datetime,
) -> Iterator[tuple[datetime, str]]:
    """Accounts without a success that will do: since when, and the sentence about it."""
    succeeded: dict[tuple[str, str], datetime] = {}
    errors: dict[tuple[str, str], str] = {}
    for stream in survey.streams:
        key = (stream.key.source, stream.key.account)
        if stream.last_success_at is not None:
            succeeded[key] = max(stream.last_success_at, succeeded.get(key, stream.last_success_at))
        if stream.last_error is not None:
            errors[key] = stream.last_error
    for source, names in accounts.items():
        for name in names:
            last = succeeded.get((source, name))
            since = last or started_at
            if since >= fresh_since[source]:
                continue
            what = "no successful check" if last else "never checked successfully,"
            why = f"; the last error: {errors[source, name]}" if (source, name) in errors else ""
            yield since, f"{source}/{name}: {what} for {ago(now - since)}{why}"


@dataclass(frozen=True, slots=True)
class Look:
    """What looking at the warehouse came to: a survey, or why there is none."""

    survey: Survey | None
    error: str | None = None


class Surveyor:
    """Looks at the warehouse when asked: not too often, never twice at once, and never for long.

    Args:
        read: Looks; its errors are the warehouse's being away.
        max_age_s: Whoever asks again within that time is told the same. A look that took long is kept for
            longer, up to ten seconds, so that looking takes a tenth of the time at most.
        patience_s: Nobody waits for longer; a look that hangs is ended.
        clock: Seconds.
    """

    _SHARE: Final = 10
    _LONGEST_S: Final = 10.0

    def __init__(
        self,
        read: Callable[[], Awaitable[Survey]],
        *,
        max_age_s: float = 3.0,
        patience_s: float = 4.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._read = read
        self._max_age_s = max_age_s
        self._patience_s = patience_s
        self._clock = clock
        self._look = Look(None)
        self._good_until = float("-inf")
        self._looking: asyncio.Task[None] | None = None

    async def look(self) -> Look:
        """What the warehouse says, or why it says nothing."""
        if self._clock() < self._good_until:
            return self._look
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._renew(), name="survey")
        looking = self._looking
        await asyncio.wait([looking], timeout=self._patience_s)
        if not looking.done():
            # Cancelling may hang too. As long as it does, nobody looks again: connections are few.
            looking.cancel()
        elif not looking.cancelled():
            return self._look
        return Look(None, f"it did not answer within {self._patience_s:g} s")

    async def aclose(self) -> None:
        """End a look that is under way."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.wait([self._looking], timeout=self._patience_s)

    async def _renew(self) -> None:
        began = self._clock()
        self._look = await self._fresh()
        took = self._clock() - began
        self._good_until = self._clock() + max(self._max_age_s, min(took * self._SHARE, self._LONGEST_S))

    async def _fresh(self) -> Look:
        try:
            return Look(await self._read())
        except SyncError as error:
            return Look(None, str(error))
        except Exception as error:  # a defect here must show where it is looked for
            log.exception("survey.defect")
            return Look(None, f"looking at it failed ({type(error).__name__}); the log has the details")
