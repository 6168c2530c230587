"""What Beddit work there is for an account, in which order."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace
from datetime import datetime

from sync.model import Interval, Progress, StreamState, Task, Traffic
from sync.ports import Unit, Warehouse
from sync.sources.beddit.addresses import AddressBook
from sync.sources.beddit.blob import DueBlob
from sync.sources.beddit.blob_unit import Blob
from sync.sources.beddit.client import BedditClient
from sync.sources.beddit.cursor import FIRST_WIDTH, Cursor, as_time, next_width, next_window
from sync.sources.beddit.reading import AccountContext
from sync.sources.beddit.settings import BedditSettings
from sync.sources.beddit.tables import DUE_BLOBS
from sync.sources.beddit.units import (
    BEGINNING,
    ORDER,
    Ahead,
    Begin,
    Complain,
    Incremental,
    MoveCursor,
    Note,
    Window,
)
from sync.transport import AddressPolicy, FixedToken, HostGates, HttpClient, Limits

NAME = "beddit"

GROUP = 16
"""Blobs that are planned at a time, so that a long list of them stays interruptible."""

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
                limits=limits,
                user_agent=user_agent,
                gates=gates,
                ca_file=settings.ca_file,
                secrets=(account.token,),
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
        """Prove an account's token with one cheap request; the vendor's clock."""
        return await self._contexts[account].client.server_time()

    async def aclose(self) -> None:
        """Close connections."""
        for context in self._contexts.values():
            await context.client.http.aclose()
        for http in self._blob_http.values():
            await http.aclose()

    async def plan(self, account: str, task: Task) -> AsyncGenerator[Sequence[Unit], None]:
        """Changes first, then history from its newest gap backwards, raw signal soon after each.

        An account that was never read gets its cursor before any of its history. Whatever was put while
        history was being read comes with the pass at the end.
        """
        context = self._contexts[account]
        if task.kind == "archive":
            async for units in self._archive(context, task):
                yield units
            return
        cursor = await self._cursor(context)
        if cursor is None:
            yield [Begin(context, reads_history=task.kind == "once")]
        elif task.kind == "once" and cursor.walk_to is None:
            yield [await self._incremental(context)]
        async for units in self._blobs(context):
            yield units
        if task.reload:
            async for units in self._forget(context, task):
                yield units
        windows: list[Window] = []
        async for units in self._history(context, task, windows):
            yield units
        async for units in self._end_walk(context):
            yield units
        if cursor is None or windows:
            yield [await self._incremental(context)]
            async for units in self._blobs(context):
                yield units
        if broken := [part for window in windows for part in window.given_up]:
            yield [Complain(context, _cannot_be_read(broken))]

    async def _history(
        self, context: AccountContext, task: Task, windows: list[Window]
    ) -> AsyncGenerator[Sequence[Unit], None]:
        """Windows from the newest gap backwards; each is noted in ``windows``."""
        width = FIRST_WIDTH
        given_up: list[Interval] = []
        while (span := await self._wanted(context, task)) is not None:
            state = await self._state(context)
            cursor = Cursor.load(state.cursor)
            if cursor is not None and not cursor.asked_ahead:
                yield [Ahead(context, cursor)]
                async for units in self._blobs(context, between_windows=True):
                    yield units
                continue
            window = next_window(span, (*state.coverage, *given_up), width)
            if window is None:
                return
            unit = Window(context, window)
            windows.append(unit)
            yield [unit]
            given_up += unit.given_up
            async for units in self._blobs(context, between_windows=True):
                yield units
            width = next_width(width, unit.found, unit.narrowest)

    async def _archive(self, context: AccountContext, task: Task) -> AsyncGenerator[Sequence[Unit], None]:
        """All of a stretch of time, newest first: saved files have no changes to ask for."""
        if task.since is None or task.until is None:
            raise AssertionError("an archive is read between two known times")
        width = FIRST_WIDTH
        end = task.until
        while end > task.since:
            unit = Window(context, Interval(max(task.since, end - width), end))
            yield [unit]
            async for units in self._blobs(context, at_hand=True):
                yield units
            end = unit.window.start
            width = next_width(width, unit.found, unit.narrowest)
        yield [Note(context, "end of the archive", Progress(checked=True))]

    async def _blobs(
        self, context: AccountContext, *, at_hand: bool = False, between_windows: bool = False
    ) -> AsyncGenerator[Sequence[Unit], None]:
        """Raw signals that are due, newest first.

        Args:
            context: The account.
            at_hand: Only those whose address an answer has just named.
            between_windows: History is waiting: leave the rest for later when the host is in trouble.
        """
        tried: Counter[tuple[int, str]] = Counter()
        http = self._blob_http[context.account]
        while due := [blob for blob in await self._due(context, at_hand) if tried[blob.key] < TRIES][:GROUP]:
            tried.update(blob.key for blob in due)
            units = [Blob(context, http, blob) for blob in due]
            yield units
            if between_windows and any(unit.in_trouble for unit in units):
                break
        context.addresses.clear()

    async def _forget(self, context: AccountContext, task: Task) -> AsyncGenerator[Sequence[Unit], None]:
        """Take coverage back, in the warehouse: an interrupted reload goes on as a plain backfill."""
        cursor, span = await self._cursor(context), await self._wanted(context, task)
        if cursor is not None and span is not None:
            yield [Note(context, "coverage taken back", Progress(uncovered=(span,)))]

    async def _end_walk(self, context: AccountContext) -> AsyncGenerator[Sequence[Unit], None]:
        """After all history was read again, what was put since the walk began is what is new."""
        cursor = await self._cursor(context)
        if cursor is not None and cursor.walk_to is not None:
            arrived = replace(cursor, updated_after=cursor.walk_to, walk_to=None)
            yield [MoveCursor(context, "end of the walk", cursor, arrived)]

    async def _wanted(self, context: AccountContext, task: Task) -> Interval | None:
        """The history that a task asks for; what is newer comes with the incremental passes."""
        cursor = await self._cursor(context)
        if cursor is None:
            return None
        start, end = self._settings.history_start, cursor.known_until
        if cursor.walk_to is not None:
            start = BEGINNING
        elif task.kind == "backfill":
            start, end = task.since or start, min(task.until or end, end)
        elif not cursor.reads_history:
            return None
        return Interval(start, end) if start < end else None

    async def _incremental(self, context: AccountContext) -> Incremental:
        cursor = await self._cursor(context)
        if cursor is None:
            raise AssertionError("an incremental pass is planned after the first contact")
        hints = await self._warehouse.knowledge(NAME)
        return Incremental(context, cursor, sorted_by_updated=hints.get(ORDER) == "updated")

    async def _cursor(self, context: AccountContext) -> Cursor | None:
        return Cursor.load((await self._state(context)).cursor)

    async def _state(self, context: AccountContext) -> StreamState:
        return await self._warehouse.stream(context.stream)

    async def _due(self, context: AccountContext, at_hand: bool) -> list[DueBlob]:
        rows = await self._warehouse.fetch(DUE_BLOBS, context.user_id, as_time(context.clock()))
        due = [DueBlob(user_id=context.user_id, **row) for row in rows]
        book = context.addresses
        return [blob for blob in due if not at_hand or book.has(blob.session_id, blob.track, blob.updated)]


def _cannot_be_read(parts: Sequence[Interval]) -> str:
    first, last = min(part.start for part in parts), max(part.end for part in parts)
    return (
        f"the sessions that began between {first:%Y-%m-%d %H:%M} and {last:%Y-%m-%d %H:%M} UTC cannot all be "
        "read: the vendor's answer is broken there. Everything else was read, the gap shows in the stream's "
        "coverage, and the next run asks again"
    )
