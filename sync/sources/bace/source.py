"""What BACE work there is for an account, in which order."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

from sync.errors import AuthenticationError, RequestRefused, SourceContractError, SyncError
from sync.model import Batch, Interval, StreamKey, Stretch, Task, Traffic, Update, union
from sync.ports import Unit, Warehouse
from sync.sources.bace.client import open_client
from sync.sources.bace.context import AccountContext
from sync.sources.bace.data import DueSession, Failure, SessionData
from sync.sources.bace.knowledge import NAME as LENGTHS
from sync.sources.bace.knowledge import Known
from sync.sources.bace.passes import Everything, Revisit, changes, listing, load_cursor
from sync.sources.bace.query import Query, and_, gte, lt
from sync.sources.bace.settings import BaceSettings
from sync.sources.bace.tables import (
    CHECK_KEY,
    DATAPOINTS,
    DUE_NON_FINAL,
    DUE_SESSIONS,
    LOADS_IN_RANGE,
    LOADS_OF_SESSIONS,
    READ_BY_ACCOUNT,
    SESSION_CHECKS,
)
from sync.sources.bace.verification import Verification
from sync.sources.bace.walk import no_rows
from sync.transport import UNMETERED, HostGates, Limits, Meter

NAME: Final = "bace"

GROUP: Final = 32
"""Sessions that are planned at a time, so that a long list of them stays interruptible."""

HOPELESS: Final = 5
"""So many sessions in a row that cannot be read are not the sessions' fault."""

FORGET_AT_ONCE: Final = 200
"""Sessions whose coverage is taken back in one transaction."""

_NO_DATA: Final = Query(filter=and_(gte("timestamp_seconds", 0), lt("timestamp_seconds", 1)))
"""A question for data that costs the vendor nothing: nobody measured in 1970."""


class BaceSource:
    """Plans the work of all configured BACE accounts."""

    name = NAME

    def __init__(
        self,
        settings: BaceSettings,
        warehouse: Warehouse,
        gates: HostGates,
        limits: Limits,
        user_agent: str = "nightshift",
        *,
        clock: Callable[[], float] = time.time,
        meter: Meter = UNMETERED,
    ) -> None:
        self._settings = settings
        self._warehouse = warehouse
        self._clock = clock
        self._known: Known | None = None
        self._contexts = {
            name: AccountContext(
                NAME,
                name,
                open_client(settings, name, gates=gates, limits=limits, user_agent=user_agent, meter=meter),
                settings,
                warehouse,
                clock,
            )
            for name in settings.accounts
        }

    @property
    def accounts(self) -> Sequence[str]:
        """The configured accounts."""
        return tuple(self._contexts)

    def traffic(self, account: str) -> Traffic:
        """What the account's requests have cost since the process began."""
        return self._contexts[account].client.traffic

    async def probe(self, account: str) -> datetime | None:
        """Prove, asking once, that an account may list sessions and read their data; the vendor's clock."""
        client = self._contexts[account].client
        server_time = await client.server_time(retry=False)
        try:
            await client.count("data-downsampled", _NO_DATA, retry=False)
        except (AuthenticationError, RequestRefused) as error:
            raise AuthenticationError(
                f"sessions can be listed, their data cannot be read: {error}"
            ) from error
        return server_time

    async def aclose(self) -> None:
        """Close connections."""
        for context in self._contexts.values():
            await context.client.aclose()

    async def plan(self, account: str, task: Task) -> AsyncGenerator[Sequence[Unit], None]:
        """The list of sessions first, then their data, the newest first.

        A session that cannot be read is noted with its reason, and the others go on; the run says so in the
        end.
        """
        if task.kind == "archive":
            return
        context = self._contexts[account]
        if task.kind == "verify":
            verification = Verification(context, await self._server())
            async with aclosing(verification.units(task)) as steps:
                async for units in steps:
                    yield units
            return
        if task.rejects:
            async for units in self._again(context, task):
                yield units
            return
        if task.kind != "retry":
            async for units in self._list(context, task):
                yield units
        if task.reload:
            async for units in self._forget(context, task):
                yield units
        data = _Data()
        async for units in self._data(context, task, data):
            yield units
        if data.failures:
            yield [Complain(context, data.complaint())]

    async def _list(self, context: AccountContext, task: Task) -> AsyncGenerator[Sequence[Unit], None]:
        if task.kind == "backfill":
            yield [Everything(context, await load_cursor(context))]
            async for units in changes(context):
                yield units
        else:
            async for units in listing(context):
                yield units
        ids = await self._open_sessions(context)
        if ids:
            yield [Revisit(context, ids)]

    async def _open_sessions(self, context: AccountContext) -> tuple[UUID, ...]:
        """Known sessions that are not final and due."""
        rows = await self._warehouse.fetch(
            DUE_NON_FINAL, context.account, list(self._settings.accounts), _time(self._clock())
        )
        return tuple(row["id_data_session"] for row in rows)

    async def _forget(self, context: AccountContext, task: Task) -> AsyncGenerator[Sequence[Unit], None]:
        """Take coverage back, in the warehouse: an interrupted reload goes on as a plain backfill."""
        rows = await self._warehouse.fetch(
            LOADS_IN_RANGE, context.account, list(self._settings.accounts), task.since, task.until
        )
        for first in range(0, len(rows), FORGET_AT_ONCE):
            chunk = rows[first : first + FORGET_AT_ONCE]
            stretches = tuple(
                _taken_back(row, [Interval(part.lower, part.upper) for part in row["raw_coverage"]])
                for row in chunk
            )
            updates = tuple(
                _unchecked(key, self._clock()) for key in {row["id_data_session"] for row in chunk}
            )
            batch = Batch(context.stream, stretches=stretches, updates=updates)
            yield [Note(context, "coverage taken back", batch)]

    async def _again(self, context: AccountContext, task: Task) -> AsyncGenerator[Sequence[Unit], None]:
        """Ask for the sessions of chosen rejects again, and for the moments of those that have one."""
        named = {reject.record_key: _uuid(reject.record_key) for reject in task.rejects}
        wanted = [key for key in named.values() if key is not None]
        yield [Revisit(context, tuple(wanted))]
        whose = (context.account, list(self._settings.accounts), wanted)
        readable = {row["id_data_session"] for row in await self._warehouse.fetch(READ_BY_ACCOUNT, *whose)}
        moments: dict[UUID, list[Interval]] = {}
        passed_over = {name for name, key in named.items() if key is None}
        for reject in task.rejects:
            key = named[reject.record_key]
            if reject.instant is None or key is None:
                continue
            if key in readable:
                moments.setdefault(key, []).append(_second_of(reject.instant))
            else:
                passed_over.add(reject.record_key)
        if moments:
            rows = await self._warehouse.fetch(LOADS_OF_SESSIONS, list(moments))
            stretches = tuple(_taken_back(row, union(moments[row["id_data_session"]])) for row in rows)
            updates = tuple(_unchecked(key, self._clock()) for key in moments)
            batch = Batch(context.stream, stretches=stretches, updates=updates)
            yield [Note(context, "coverage taken back", batch)]
        data = _Data()
        async for units in self._data(context, task, data, only=list(moments)):
            yield units
        if data.failures:
            yield [Complain(context, data.complaint())]
        if passed_over:
            yield [Complain(context, _not_ours(sorted(passed_over)))]

    async def _data(
        self, context: AccountContext, task: Task, data: _Data, only: Sequence[UUID] | None = None
    ) -> AsyncGenerator[Sequence[Unit], None]:
        known = await self._server()
        last: DueSession | None = None
        while True:
            # What the first answers teach of the server serves all others: one session at first.
            size = GROUP if known.lengths.raw.reached else 1
            due = await self._due(context, task, last, size, only)
            if not due:
                return
            last = due[-1]
            units = [SessionData(context, known, session) for session in due]
            yield units
            for unit in units:
                data.note(unit)
            if data.is_hopeless:
                return

    async def _due(
        self,
        context: AccountContext,
        task: Task,
        last: DueSession | None,
        most: int,
        only: Sequence[UUID] | None,
    ) -> list[DueSession]:
        """The next sessions to read, behind the last of those before."""
        is_backfill = task.kind == "backfill"
        rows = await self._warehouse.fetch(
            DUE_SESSIONS,
            context.account,
            list(self._settings.accounts),
            _time(self._clock()),
            task.since if is_backfill else None,
            task.until if is_backfill else None,
            None if last is None else last.started_at,
            None if last is None else last.id_data_session,
            most,
            only,
        )
        return [DueSession(**row) for row in rows]

    async def _server(self) -> Known:
        """What is known of the server, from the warehouse the first time."""
        stored = (await self._warehouse.knowledge(NAME)).get(LENGTHS)
        if self._known is None:  # another account may have been quicker
            self._known = Known.load(stored, self._clock())
        return self._known


@dataclass(frozen=True, slots=True)
class Note:
    """Stores something that no answer is needed for."""

    context: AccountContext
    label: str
    batch: Batch

    @property
    def stream(self) -> StreamKey:
        """The account's sessions."""
        return self.context.stream

    async def batches(self) -> AsyncGenerator[Batch, None]:
        """The batch."""
        yield self.batch


@dataclass(frozen=True, slots=True)
class Complain:
    """Ends a run with an error that did not keep the rest of it from being done."""

    context: AccountContext
    error: SyncError
    label: str = "what could not be read"

    @property
    def stream(self) -> StreamKey:
        """The account's sessions."""
        return self.context.stream

    async def batches(self) -> AsyncGenerator[Batch, None]:
        """Nothing more to store; then the error."""
        yield Batch(self.stream)
        raise self.error


class _Data:
    """How reading the sessions of a run went."""

    def __init__(self) -> None:
        self.failures: list[tuple[str, Failure]] = []
        self._in_a_row = 0

    def note(self, unit: SessionData) -> None:
        """A unit has run."""
        if unit.failure is None:
            self._in_a_row = 0
        else:
            self.failures.append((unit.label, unit.failure))
            self._in_a_row += 1

    @property
    def is_hopeless(self) -> bool:
        """Whether nothing suggests that the next session will fare better."""
        return self._in_a_row >= HOPELESS

    def complaint(self) -> SyncError:
        """What a person should know; denials in a row are the account's trouble."""
        last = [failure for _, failure in self.failures[-HOPELESS:]]
        is_account = self.is_hopeless and all(failure.is_denied for failure in last)
        label, failure = self.failures[0]
        many = f" and {len(self.failures) - 1} more" if len(self.failures) > 1 else ""
        stopped = "; the rest was left for the next run" if self.is_hopeless else ". Everything else was read"
        return (AuthenticationError if is_account else SourceContractError)(
            f"{label}{many} could not be read: {failure.reason.rstrip('.')}{stopped}, and these are tried"
            " again after a day (status_reason in bace.data_sessions)"
        )


def _taken_back(row: Mapping[str, Any], spans: Iterable[Interval]) -> Stretch:
    """A stretch that stores nothing and has some time of a group of datasets read again."""
    return Stretch(
        series=DATAPOINTS,
        key=row["id_data_session"],
        part=row["part"],
        datasets=None if row["datasets"] is None else tuple(row["datasets"]),
        replaced=(),
        uncovered=tuple(spans),
        rows=no_rows(),
    )


def _unchecked(key: UUID, now: float) -> Update:
    """A check that holds for no version: the session is looked at again."""
    row = {
        "id_data_session": key,
        "digest": b"",
        "status": "incomplete",
        "reason": "it is read again",
        "attempts": 0,
        "checked_at": _time(now),
    }
    return Update(SESSION_CHECKS, CHECK_KEY, row)


def _uuid(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None


def _second_of(instant: datetime) -> Interval:
    """The second around an instant: of no shorter time is raw data asked for."""
    second = instant.replace(microsecond=0)
    return Interval(second, second + timedelta(seconds=1))


def _not_ours(names: Sequence[str]) -> SyncError:
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return SourceContractError(
        f"{names[0]}{more}: there is no id to ask for, or this account does not read the session's data (any "
        "more); another one that does reads it again by itself"
    )


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
