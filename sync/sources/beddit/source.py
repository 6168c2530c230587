"""What Beddit work there is for an account, in which order."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace
from datetime import datetime, timedelta

from sync.model import Interval, Progress, StreamState, Task, Traffic, union
from sync.ports import Unit, Warehouse
from sync.sources.beddit.addresses import AddressBook
from sync.sources.beddit.blob import DueBlob
from sync.sources.beddit.blob_unit import Blob
from sync.sources.beddit.client import BedditClient
from sync.sources.beddit.cursor import (
    FIRST_WIDTH,
    Course,
    Cursor,
    as_time,
    next_window,
    still_owed,
    still_spoilt,
)
from sync.sources.beddit.items import EARLIEST, LATEST
from sync.sources.beddit.lengths import Lengths
from sync.sources.beddit.reading import AccountContext
from sync.sources.beddit.settings import BedditSettings
from sync.sources.beddit.tables import DUE_BLOBS
from sync.sources.beddit.units import (
    BEGINNING,
    ORDER,
    WIDTH,
    Again,
    Ahead,
    Begin,
    Complain,
    Incremental,
    Note,
    Window,
)
from sync.sources.beddit.verification import Verification
from sync.transport import UNMETERED, AddressPolicy, FixedToken, HostGates, HttpClient, Limits, Meter

NAME = "beddit"

GROUP = 16
"""Blobs that are planned at a time, so that a long list of them stays interruptible."""

NAMELESS = (
    "some rejects tell no session of this user that could be asked for: they come right when their sessions "
    "are put again, or with `nightshift backfill --reload`"
)

TRIES = 2
"""How often a raw signal is tried in one run; the second time for a version that the first one found."""


class BedditSource:
    """Plans the work of all configured Beddit accounts."""

    name = NAME

    def __init__(
        self,
        settings: BedditSettings,
        warehouse: Warehouse,
        gates: HostGates,
        limits: Limits,
        user_agent: str = "nightshift",
        *,
        meter: Meter = UNMETERED,
    ) -> None:
        self._settings = settings
        self._warehouse = warehouse
        policy = AddressPolicy(
            allow_private=settings.allow_private_blob_hosts, setting="beddit.allow_private_blob_hosts"
        )
        self._contexts: dict[str, AccountContext] = {}
        self._blob_http: dict[str, HttpClient] = {}
        for name, account in settings.accounts.items():
            http = HttpClient(
                base_url=settings.base_url,
                credentials=FixedToken("UserToken", account.token),
                setting=f"{NAME}.accounts.{name}.token",
                limits=limits,
                user_agent=user_agent,
                gates=gates,
                ca_file=settings.ca_file,
                secrets=(account.token,),
                meter=meter,
            )
            self._contexts[name] = AccountContext(
                NAME, name, account.user_id, BedditClient(http, account.user_id), settings, AddressBook()
            )
            self._blob_http[name] = HttpClient(
                base_url=None,
                limits=limits,
                user_agent=user_agent,
                policy=policy,
                gates=gates,
                ca_file=settings.ca_file,
                meter=meter,
            )

    @property
    def accounts(self) -> Sequence[str]:
        """The configured accounts."""
        return tuple(self._contexts)

    def traffic(self, account: str) -> Traffic:
        """What the account's requests have cost since the process began."""
        api, blobs = self._contexts[account].client.http.traffic, self._blob_http[account].traffic
        return Traffic(api.requests + blobs.requests, api.received_bytes + blobs.received_bytes)

    async def probe(self, account: str) -> datetime | None:
        """Prove an account's token with one cheap request, sent once; the vendor's clock."""
        return await self._contexts[account].client.server_time(retry=False)

    async def aclose(self) -> None:
        """Close connections."""
        for context in self._contexts.values():
            await context.client.http.aclose()
        for http in self._blob_http.values():
            await http.aclose()

    async def plan(self, account: str, task: Task) -> AsyncGenerator[Sequence[Unit], None]:
        """Changes first, then history from its newest gap backwards, raw signal soon after each.

        An account that was never read gets its cursor before any of its history. Whatever was put while
        history was being read comes with the pass at the end. What cannot be read stops nothing else: the
        run ends with a complaint about it.
        """
        context = self._contexts[account]
        context.rejected.clear()
        async with aclosing(self._steps(context, task)) as steps:
            async for units in steps:
                yield units

    def _steps(self, context: AccountContext, task: Task) -> AsyncGenerator[Sequence[Unit], None]:
        match task.kind:
            case "archive":
                return self._saved(context, task)
            case "retry" if task.rejects:
                return self._again(context, task)
            case "retry":
                return self._due_again(context)
            case "verify":
                return self._verified(context, task)
        return self._served(context, task)

    async def _verified(self, context: AccountContext, task: Task) -> AsyncGenerator[Sequence[Unit], None]:
        """What the cloud holds beside what the warehouse does."""
        http = self._blob_http[context.account]
        verification = Verification(context, self._warehouse, http, await self._course())
        async with aclosing(verification.units(task)) as steps:
            async for units in steps:
                yield units

    async def _served(self, context: AccountContext, task: Task) -> AsyncGenerator[Sequence[Unit], None]:
        """What the cloud holds."""
        cursor, course = await self._cursor(context), await self._course()
        sweeps = cursor is not None and cursor.is_sweep(context.clock(), self._settings)
        if cursor is None:
            yield [Begin(context, reads_history=task.kind == "once")]
        elif task.kind == "once" and cursor.walk_to is None:
            yield [await self._incremental(context, cursor, course)]
        async for units in self._blobs(context):
            yield units
        if task.reload:
            async for units in self._forget(context, task):
                yield units
        has_read = cursor is None
        async for units in self._history(context, task, course, sweeps=sweeps):
            has_read |= any(isinstance(unit, Window) for unit in units)
            yield units
        async for units in self._spoilt(context, course):
            yield units
        complaints: list[str] = []
        async for units in self._ahead(context, complaints):
            yield units
        cursor = await self._cursor(context)
        if has_read and cursor is not None:
            yield [await self._incremental(context, cursor, course)]
            async for units in self._blobs(context):
                yield units
            async for units in self._conclude(context, course):
                yield units
        if cursor is not None and cursor.owed:
            complaints.append(_cannot_be_read(cursor.owed_stretches))
        if complaints:
            yield [Complain(context, " ".join(complaints))]

    async def _history(
        self, context: AccountContext, task: Task, course: Course, *, sweeps: bool
    ) -> AsyncGenerator[Sequence[Unit], None]:
        """Windows from the newest gap backwards.

        What is owed is asked for as a whole, and in parts as well when all history is, or once a day.
        """
        cursor = await self._cursor(context)
        if cursor is None:
            return
        in_parts = sweeps or task.kind == "backfill" or cursor.walk_to is not None
        for stretch in () if in_parts else cursor.owed_stretches:
            yield [Window(context, stretch, Course(course.lengths, patience=0))]
        left_out = () if in_parts else cursor.owed_stretches
        spans = (*cursor.owed_stretches, *self._span(cursor, task))
        while True:
            coverage = (await self._state(context)).coverage
            window = next_window(spans, (*coverage, *left_out, *course.given_up), course.width)
            if window is None:
                return
            unit = Window(context, window, course)
            yield [unit]
            course.widen(unit.found)
            async for units in self._blobs(context, between_windows=True):
                yield units

    async def _due_again(self, context: AccountContext) -> AsyncGenerator[Sequence[Unit], None]:
        """What could not be had or understood before, where that is due."""
        async for units in self._blobs(context):
            yield units
        async for units in self._spoilt(context, await self._course()):
            yield units

    async def _again(self, context: AccountContext, task: Task) -> AsyncGenerator[Sequence[Unit], None]:
        """List the sessions of chosen rejects again, due or not."""
        starts = {_session_of(reject.record_key, context.user_id) for reject in task.rejects}
        named = sorted(start for start in starts if start is not None)
        for first in range(0, len(named), GROUP):
            yield [Again(context, start) for start in named[first : first + GROUP]]
        async for units in self._conclude(context, await self._course(), listed=named):
            yield units
        if None in starts:
            yield [Complain(context, NAMELESS)]

    async def _spoilt(self, context: AccountContext, course: Course) -> AsyncGenerator[Sequence[Unit], None]:
        """List sessions again that could not be understood; then write down what is left to do."""
        cursor, now = await self._cursor(context), context.clock()
        due = [one.start for one in cursor.spoilt if one.due_at <= now] if cursor is not None else []
        for start in due:
            yield [Again(context, start)]
        async for units in self._conclude(context, course, listed=due):
            yield units

    async def _conclude(
        self, context: AccountContext, course: Course, listed: Sequence[int] = ()
    ) -> AsyncGenerator[Sequence[Unit], None]:
        """Write down what is left to do, and that a walk came to its end.

        After all history was read again, what was put since the walk began is what is new.
        """
        state = await self._state(context)
        cursor = Cursor.load(state.cursor)
        if cursor is None:
            return
        after = replace(
            cursor,
            owed=still_owed((*cursor.owed_stretches, *course.given_up), state.coverage),
            spoilt=still_spoilt(cursor.spoilt, listed, context.rejected, context.clock()),
        )
        context.rejected.clear()
        if cursor.walk_to is not None:
            after = replace(after, updated_after=cursor.walk_to, walk_to=None)
        if after != cursor:
            progress = Progress(cursor=after.dump(), cursor_was=cursor.dump())
            yield [Note(context, "what is left to do", progress)]

    async def _ahead(
        self, context: AccountContext, complaints: list[str]
    ) -> AsyncGenerator[Sequence[Unit], None]:
        cursor = await self._cursor(context)
        if cursor is None or cursor.ahead_from is None:
            return
        unit = Ahead(context, cursor)
        yield [unit]
        if unit.fault is not None:
            complaints.append(f"Nights from the future could not be asked for: {unit.fault}")

    async def _saved(self, context: AccountContext, task: Task) -> AsyncGenerator[Sequence[Unit], None]:
        """All of a stretch of time, newest first: saved files have no changes to ask for."""
        if task.since is None or task.until is None:
            raise AssertionError("an archive is read between two known times")
        course = Course(Lengths(whole=sys.maxsize))
        wanted, read = (Interval(task.since, task.until),), list[Interval]()
        while (window := next_window(wanted, read, course.width)) is not None:
            unit = Window(context, window, course)
            read.append(window)
            yield [unit]
            course.widen(unit.found)
            async for units in self._blobs(context, at_hand=True):
                yield units
        yield [Note(context, "end of the archive", Progress(checked=True))]
        if course.given_up:
            yield [Complain(context, _cannot_be_read(union(course.given_up)))]

    async def _blobs(
        self, context: AccountContext, *, at_hand: bool = False, between_windows: bool = False
    ) -> AsyncGenerator[Sequence[Unit], None]:
        """Raw signals that are due, newest first; then those that became due meanwhile.

        What is due is asked for once, not for each group: that takes the longer the more nights there are.

        Args:
            context: The account.
            at_hand: Only those whose address an answer has just named.
            between_windows: History is waiting: leave the rest for later when the host is in trouble.
        """
        tried: Counter[tuple[int, str]] = Counter()
        http = self._blob_http[context.account]
        while due := [blob for blob in await self._due(context, at_hand) if tried[blob.key] < TRIES]:
            tried.update(blob.key for blob in due)
            for start in range(0, len(due), GROUP):
                units = [Blob(context, http, blob) for blob in due[start : start + GROUP]]
                yield units
                if between_windows and any(unit.in_trouble for unit in units):
                    context.addresses.clear()
                    return
        context.addresses.clear()

    async def _forget(self, context: AccountContext, task: Task) -> AsyncGenerator[Sequence[Unit], None]:
        """Take coverage back, in the warehouse: an interrupted reload goes on as a plain backfill."""
        cursor = await self._cursor(context)
        if cursor is not None and (span := self._span(cursor, task)):
            yield [Note(context, "coverage taken back", Progress(uncovered=span))]

    def _span(self, cursor: Cursor, task: Task) -> tuple[Interval, ...]:
        """The history that a task asks for; what is newer comes with the incremental passes."""
        start, end = self._settings.history_start, cursor.known_until
        if cursor.walk_to is not None:
            start = BEGINNING
        elif task.kind == "backfill":
            start, end = task.since or start, min(task.until or end, end)
        elif not cursor.reads_history:
            return ()
        return (Interval(start, end),) if start < end else ()

    async def _course(self) -> Course:
        hints = await self._warehouse.knowledge(NAME)
        width = timedelta(seconds=hints.get(WIDTH, FIRST_WIDTH.total_seconds()))
        return Course(Lengths.load(hints), min(width, FIRST_WIDTH))

    async def _incremental(self, context: AccountContext, cursor: Cursor, course: Course) -> Incremental:
        hints = await self._warehouse.knowledge(NAME)
        return Incremental(context, cursor, course.lengths, hints.get(ORDER) == "updated")

    async def _cursor(self, context: AccountContext) -> Cursor | None:
        return Cursor.load((await self._state(context)).cursor)

    async def _state(self, context: AccountContext) -> StreamState:
        return await self._warehouse.stream(context.stream)

    async def _due(self, context: AccountContext, at_hand: bool) -> list[DueBlob]:
        rows = await self._warehouse.fetch(DUE_BLOBS, context.user_id, as_time(context.clock()))
        due = [DueBlob(user_id=context.user_id, **row) for row in rows]
        book = context.addresses
        return [blob for blob in due if not at_hand or book.has(blob.session_id, blob.track, blob.version)]


def _session_of(record_key: str, user_id: int) -> int | None:
    """The session that a reject belongs to; None where nothing that can be asked for is named."""
    user, _, rest = record_key.partition("/")
    name = rest.partition("/")[0]
    if user != str(user_id) or not name.removeprefix("-").isdecimal():
        return None
    return int(name) if EARLIEST <= int(name) < LATEST - 1 else None


def _cannot_be_read(parts: Sequence[Interval]) -> str:
    named = [f"{part.start:%Y-%m-%d %H:%M} and {part.end:%Y-%m-%d %H:%M} UTC" for part in parts[:3]]
    more = f" (and in {len(parts) - 3} stretches more)" if len(parts) > 3 else ""
    return (
        f"the sessions that began between {', between '.join(named)}{more} cannot all be read: the vendor "
        "has no whole answer about them. Everything else was read, the gap shows in the stream's coverage, "
        "and the next run asks again"
    )
