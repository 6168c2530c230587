"""The unit of work of one data session: read what is missing of it, prove it, say when to look again."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

import structlog

from sync.errors import RequestRefused, SourceContractError, SourceUnavailable, SyncError
from sync.model import Batch, StreamKey, Update
from sync.sources.bace.comparison import ALL_TIME, differing
from sync.sources.bace.context import AccountContext
from sync.sources.bace.knowledge import Known
from sync.sources.bace.proof import LOST, Verdict, judge, still_open, unproven
from sync.sources.bace.spans import (
    DAY,
    MINUTE,
    SECOND,
    Span,
    ceil,
    difference,
    duration,
    floor,
    intersection,
    span,
    union,
)
from sync.sources.bace.tables import (
    ACCESS_KEY,
    CHECK_KEY,
    NEWEST_DATAPOINT,
    SEEN_BY,
    SESSION_ACCESS,
    SESSION_CHECKS,
    SESSION_COUNTS,
    SESSION_LOADS,
)
from sync.sources.bace.walk import Part, Walk, microseconds
from sync.transport import TokenRejected

log = structlog.get_logger(__name__)

MOST_DATASETS: Final = 100
"""Datasets that one request may be about (BACE docs, accessing-data)."""

FEW: Final = 3
"""So many questions for raw samples cost no more than to find out whether they are worth it."""


@dataclass(frozen=True, slots=True)
class DueSession:
    """A session that has to be read or looked at again, as the warehouse has it.

    Attributes:
        final: It has ended, and the vendor has all of it.
        checked_digest: The version that was proved last, if any; likewise the next four.
    """

    id_data_session: UUID
    started_at: datetime
    ended_at: datetime | None
    updated_at: datetime | None
    datapoint_count: int | None
    digest: bytes
    datasets: Sequence[UUID] | None
    final: bool
    checked_digest: bytes | None
    checked_status: str | None
    checked_reason: str | None
    attempts: int | None
    news_at: datetime | None

    @property
    def is_as_checked(self) -> bool:
        """Whether its row has not changed since it was last looked at."""
        return self.checked_digest == self.digest


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a session could not be read.

    Attributes:
        reason: A sentence for a person.
        is_denied: The account may not read it.
    """

    reason: str
    is_denied: bool = False


@dataclass(slots=True)
class SessionData:
    """Reads a session's datapoints.

    Attributes:
        context: The account.
        known: What is known of the server; learns.
        due: The session.
        failure: After the unit: why the session could not be read; None: it was, or another account will.
    """

    context: AccountContext
    known: Known
    due: DueSession
    failure: Failure | None = None
    _rows: int = 0
    _differed: bool = False
    _news_at: datetime | None = None

    @property
    def stream(self) -> StreamKey:
        """The account's sessions."""
        return self.context.stream

    @property
    def label(self) -> str:
        """For a person."""
        return f"session {self.due.id_data_session} of {self.due.started_at:%Y-%m-%d %H:%M}"

    async def batches(self) -> AsyncGenerator[Batch, None]:
        """The datapoints, then the verdict. What is wrong with this session alone is a verdict, too.

        Raises:
            AuthenticationError: The account cannot sign in.
            RetryableError: The vendor, or the warehouse, cannot be reached.
        """
        try:
            async with aclosing(self._read()) as batches:
                async for batch in batches:
                    yield batch
            verdict = await self._verdict()
        except TokenRejected as error:
            if await self._is_seen_by_others():
                yield self._hand_over()
                return
            verdict = self._failed(Failure(str(error), is_denied=True))
        except (RequestRefused, SourceContractError, SourceUnavailable) as error:
            await self.context.client.server_time()  # the vendor is there: it is this session's trouble
            verdict = self._failed(Failure(str(error)))
        except SyncError:
            raise
        except Exception as error:
            log.exception("session.defect")
            verdict = self._failed(Failure(f"a defect of nightshift ({type(error).__name__}); see the log"))
        yield self._note(verdict)

    # -- reading -------------------------------------------------------------------------------

    async def _read(self) -> AsyncGenerator[Batch, None]:
        parts = await self._parts()
        unsettled = await self._unsettled()
        asked = False
        for part in parts:
            doubted = intersection(part.covered, unsettled)
            missing = difference(self._wanted(), difference(part.covered, doubted))
            missing = await self._worth_reading(part, missing)
            if missing:
                asked = True
                async with aclosing(self._walk(part, missing, len(parts), doubted=doubted)) as batches:
                    async for batch in batches:
                        yield batch
        if self.due.final and await self._needs_comparison(asked=asked):
            async with aclosing(self._compared(parts)) as batches:
                async for batch in batches:
                    yield batch

    async def _unsettled(self) -> tuple[Span, ...]:
        """Time in which samples may still come; it does not count as read, even if the session once ended."""
        if self.due.final:
            return ()
        newest = await self._newest()
        settled = self._wanted()[0].start if newest is None else newest - self._settle
        return span(settled, ALL_TIME.end)

    async def _worth_reading(self, part: Part, missing: tuple[Span, ...]) -> tuple[Span, ...]:
        """Of an open session whose row is as it was, however long it is silent, a coarse answer tells all."""
        reach = max(self.known.lengths.raw.reached, SECOND)
        if self.due.final or not self.due.is_as_checked or duration(missing) <= FEW * reach:
            return missing
        since = Span(floor(missing[0].start, DAY), ALL_TIME.end)
        return intersection(missing, await differing(self.context, self.known, part, since))

    async def _walk(
        self,
        part: Part,
        wanted: Sequence[Span],
        parts: int,
        *,
        doubted: Sequence[Span] = (),
        keeps: bool = False,
    ) -> AsyncGenerator[Batch, None]:
        walk = Walk(
            self.context,
            self.known,
            part,
            wanted,
            expected=await self._expected() if parts == 1 and not doubted else None,
            series=len(part.datasets or self.due.datasets or ()) or 1,
            newest=None if self.due.final else await self._newest(),
            settle=None if self.due.final else self._settle,
            doubted=tuple(doubted),
            keeps=keeps,
        )
        async with aclosing(walk.batches()) as batches:
            async for batch in batches:
                self._rows += batch.read
                yield batch

    def _wanted(self) -> tuple[Span, ...]:
        """The session's time with a margin: stamps have fractions, ``end`` has not, and device clocks err."""
        due, margin = self.due, _length(self.context.settings.margin)
        end = microseconds(self._vendors_now)
        if due.final and due.ended_at:  # perhaps in the year 9999
            end = min(microseconds(due.ended_at), end) + margin
        begin = floor(microseconds(due.started_at) - margin, MINUTE)
        return span(begin, max(ceil(end, SECOND), begin + MINUTE))

    async def _parts(self) -> list[Part]:
        """The groups of datasets: one request is about 100 of them at most."""
        rows = await self._fetch(SESSION_LOADS)
        stored = {row["part"]: row for row in rows}
        groups = _groups(self.due.datasets)
        named = frozenset(self.due.datasets or ())
        return [
            replace(
                self._part(number, group, stored.get(number)),
                elsewhere=named.difference(named if group is None else group),
            )
            for number, group in enumerate(groups)
        ]

    def _part(self, number: int, group: tuple[UUID, ...] | None, row: Mapping[str, Any] | None) -> Part:
        if row is None:
            return Part(self.due.id_data_session, number, group)
        before = None if row["datasets"] is None else tuple(sorted(row["datasets"]))
        if before != group:
            return Part(self.due.id_data_session, number, group, is_new=True)
        covered = tuple(
            Span(microseconds(part.lower), microseconds(part.upper)) for part in row["raw_coverage"]
        )
        return Part(self.due.id_data_session, number, group, covered)

    async def _expected(self) -> int | None:
        """Datapoints that should still come, where the source's count can be final."""
        count = self.due.datapoint_count
        if count is None or not self.due.final:
            return None
        loaded, rejected = await self._counts()
        return max(0, count - loaded - rejected)

    # -- proving -------------------------------------------------------------------------------

    async def _needs_comparison(self, *, asked: bool) -> bool:
        """Whether sums do not add up, or this is about a session that was read before."""
        loaded, rejected = await self._counts()
        return self.due.datapoint_count != loaded + rejected or not asked

    async def _compared(self, parts: Sequence[Part]) -> AsyncGenerator[Batch, None]:
        """Read again where the source's buckets and the warehouse's differ.

        A session whose row is as it was has no newer version: what its source does not have any more stays.
        """
        for part in parts:
            wrong = union(await differing(self.context, self.known, part))
            if wrong:
                self._differed = True
                walk = self._walk(part, wrong, len(parts), doubted=wrong, keeps=self.due.is_as_checked)
                async with aclosing(walk) as batches:
                    async for batch in batches:
                        yield batch

    async def _verdict(self) -> Verdict:
        if not self.due.final:
            self._news_at = await self._last_news()
            return still_open(self._news_at, self._now)
        if self._differed and self.due.is_as_checked and self.due.checked_reason == LOST:
            return unproven(LOST, self._attempts, self._now)
        (row,) = await self._fetch(SESSION_COUNTS)
        return judge(
            expected=self.due.datapoint_count,
            loaded=row["loaded"],
            rejected=row["rejected"],
            hopeful=row["hopeful"],
            attempts=self._attempts,
            now=self._now,
            ended_at=self.due.ended_at,
        )

    def _failed(self, failure: Failure) -> Verdict:
        self.failure = failure
        if failure.is_denied:  # permission comes without a change of the session: it is not given up
            return unproven(f"denied: {failure.reason}", 0, self._now)
        return unproven(f"it could not be read: {failure.reason}", self._attempts, self._now)

    async def _is_seen_by_others(self) -> bool:
        seen = await self.context.warehouse.fetch(
            SEEN_BY, [self.due.id_data_session], list(self.context.other_accounts)
        )
        return bool(seen)

    def _hand_over(self) -> Batch:
        """A session that the account may list and not read is left to another one that lists it."""
        row = {
            "id_data_session": self.due.id_data_session,
            "account": self.context.account,
            "refused_at": self._now,
        }
        return Batch(self.stream, updates=(Update(SESSION_ACCESS, ACCESS_KEY, row),))

    async def _last_news(self) -> datetime:
        """When something about an open session was last new."""
        if self._rows == 0 and self.due.is_as_checked and self.due.news_at is not None:
            return self.due.news_at
        newest = await self._newest()
        known = [self.due.updated_at, self.due.started_at, None if newest is None else _moment(newest)]
        return min(self._now, max(moment for moment in known if moment is not None))

    def _note(self, verdict: Verdict) -> Batch:
        row = {
            "id_data_session": self.due.id_data_session,
            "digest": self.due.digest,
            "status": verdict.status,
            "reason": verdict.reason,
            "attempts": verdict.attempts,
            "news_at": self._news_at,
            "checked_at": self._now,
            "next_check_at": verdict.next_check_at,
        }
        return Batch(self.stream, updates=(Update(SESSION_CHECKS, CHECK_KEY, row),))

    # -- what is known -------------------------------------------------------------------------

    @property
    def _attempts(self) -> int:
        return (self.due.attempts or 0) if self.due.is_as_checked else 0

    @property
    def _settle(self) -> int:
        return _length(self.context.settings.settle)

    @property
    def _now(self) -> datetime:
        return datetime.fromtimestamp(self.context.clock(), UTC)

    @property
    def _vendors_now(self) -> datetime:
        return self.context.client.last_server_time or self._now

    async def _newest(self) -> int | None:
        (row,) = await self._fetch(NEWEST_DATAPOINT)
        return None if row["newest"] is None else microseconds(row["newest"])

    async def _counts(self) -> tuple[int, int]:
        (row,) = await self._fetch(SESSION_COUNTS)
        return row["loaded"], row["rejected"]

    async def _fetch(self, query: str) -> Sequence[Mapping[str, Any]]:
        return await self.context.warehouse.fetch(query, self.due.id_data_session)


def _groups(datasets: Sequence[UUID] | None) -> list[tuple[UUID, ...] | None]:
    if datasets is None or len(datasets) <= MOST_DATASETS:
        return [None]
    ordered = sorted(datasets)
    return [tuple(ordered[first : first + MOST_DATASETS]) for first in range(0, len(ordered), MOST_DATASETS)]


def _length(time: timedelta) -> int:
    return time // timedelta(microseconds=1)


def _moment(instant: int) -> datetime:
    return datetime.fromtimestamp(instant / SECOND, UTC)
