"""The pieces of BACE work that list data sessions. Each can run again at any time.

::

    Newest      newest first, until a whole page is known: what has appeared
    Changed     by ``updated_at``: what has changed, however old
    Revisit     by id: what is known and not final
    Everything  the whole list: first contact, and whatever the others cannot find
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from uuid import UUID

from sync.errors import AnswerBroken, AnswerTooLarge, RequestRefused, SourceContractError
from sync.model import Batch, Progress, StreamKey
from sync.ports import Unit
from sync.sources.bace.context import AccountContext
from sync.sources.bace.cursor import CHANGES, SORT, Cursor, Hints, unsupported
from sync.sources.bace.listing import BY_CHANGE, BY_START, Ask, Done, GiveUp, Order, Paging
from sync.sources.bace.query import Query
from sync.sources.bace.reading import Listed, Reading, is_about_parameters
from sync.sources.bace.tables import COUNT_OF_ACCOUNT, SESSIONS_OF_ACCOUNT

NEWEST_PAGE = 50
"""Sessions that are looked at each cycle."""

LARGE_PAGE = 500
"""Sessions that are asked for on a page where all are wanted; the vendor may allow fewer."""

MOST_NEW_PAGES = 40
"""Pages of new sessions beyond which the whole list is read instead: they are held until the last is in."""

FULL_EVERY = 7 * 86_400.0
FULL_EVERY_IF_BLIND = 86_400.0
"""Seconds between two listings of everything; the second where changes cannot be asked for."""

ASK_FOR_LESS = (AnswerTooLarge, AnswerBroken)
"""What a smaller page may mend."""


class Pages:
    """Follows a paging through the vendor's answers, one page at a time."""

    def __init__(self, reading: Reading, order: Order, paging: Paging, *, whole: bool = False) -> None:
        self.reading = reading
        self.paging = paging
        self.end: Done | GiveUp | None = None
        self._order = order
        self._whole = whole

    async def next(self) -> Listed | None:
        """The next page; None when the pass has come to its ``end``."""
        while self.end is None:
            try:
                listed = await self.reading.listed(self.paging.ask, self._order, whole=self._whole)
            except ASK_FOR_LESS as error:
                self._keep(self.paging.refused(str(error), smaller=True))
            except RequestRefused as error:
                if not is_about_parameters(error):
                    raise
                self._keep(self.paging.refused(str(error), smaller=False))
            else:
                self._keep(self.paging.after(listed.answer(self._order)))
                return listed
        return None

    def _keep(self, step: Ask | Done | GiveUp) -> None:
        if not isinstance(step, Ask):
            self.end = step


@dataclass(slots=True)
class Newest:
    """What has appeared since the last pass: pages, newest first, until a whole one is known.

    Nothing is stored before the last page is in, and then the oldest comes first: an interruption leaves the
    newest page unknown, so that the next pass reads as far again.

    Attributes:
        total: Sessions that the account can see, as the vendor counts them; None before the pass.
    """

    context: AccountContext
    cursor: Cursor
    total: int | None = None

    @property
    def stream(self) -> StreamKey:
        """The account's sessions."""
        return self.context.stream

    @property
    def label(self) -> str:
        """For a person."""
        return "newest sessions"

    async def batches(self) -> AsyncGenerator[Batch, None]:
        """The new sessions; more of them than is good for memory are left to ``Everything``."""
        reading = await Reading.begin(self.context)
        pages = Pages(reading, BY_START, Paging(BY_START, NEWEST_PAGE, offsets=False))
        held: list[list[Batch]] = []
        while (listed := await pages.next()) is not None:
            batches, quiet = await reading.compared(listed)
            held.append(batches)
            if quiet and pages.end is None and pages.paging.is_ordered:
                break
            if len(held) > MOST_NEW_PAGES:
                wanted = replace(self.cursor, tried_at=None)
                yield Batch(
                    self.stream, progress=Progress(cursor=wanted.dump(), cursor_was=self.cursor.dump())
                )
                break
        self.total = pages.paging.total
        for batches in reversed(held):
            for batch in batches:
                yield batch
        if isinstance(pages.end, GiveUp) and reading.hints.sort is None:
            yield Batch(self.stream, learned={SORT: unsupported(pages.end.reason, self.context.clock())})


@dataclass(frozen=True, slots=True)
class Changed:
    """What has changed since the last pass, however long ago it began.

    The vendor's documents do not say that sessions can be filtered and sorted by ``updated_at``: each answer
    is checked, and where it cannot be had that is learned.
    """

    context: AccountContext
    cursor: Cursor

    @property
    def stream(self) -> StreamKey:
        """The stream whose cursor is moved."""
        return self.context.stream

    @property
    def label(self) -> str:
        """For a person."""
        return "changed sessions"

    async def batches(self) -> AsyncGenerator[Batch, None]:
        """The changes, then the cursor."""
        reading = await Reading.begin(self.context)
        since = max(0.0, self.cursor.changed_since - self.context.settings.overlap.total_seconds())
        pages = Pages(reading, BY_CHANGE, Paging(BY_CHANGE, LARGE_PAGE, since=since, offsets=False))
        newest, now = self.cursor.changed_since, None
        while (listed := await pages.next()) is not None:
            now = _vendors_now(listed) if now is None else now
            batches, _ = await reading.compared(listed)
            for batch in batches:
                yield batch
            newest = max([newest, *(one.updated for one in listed.sessions if one.updated is not None)])
        if isinstance(pages.end, GiveUp):
            yield Batch(self.stream, learned={CHANGES: unsupported(pages.end.reason, self.context.clock())})
            return
        # Never past the vendor's own clock: a stamp from the future would hide what changes until then.
        limit = newest if now is None else min(newest, now)
        cursor = replace(self.cursor, changed_since=max(self.cursor.changed_since, limit))
        yield Batch(
            self.stream,
            progress=Progress(
                cursor=None if cursor == self.cursor else cursor.dump(),
                cursor_was=self.cursor.dump(),
                checked=True,
            ),
        )


@dataclass(frozen=True, slots=True)
class Revisit:
    """Known sessions once more, by their ids: those that are not final, when they are due."""

    context: AccountContext
    ids: tuple[UUID, ...]

    @property
    def stream(self) -> StreamKey:
        """The account's sessions."""
        return self.context.stream

    @property
    def label(self) -> str:
        """For a person."""
        return f"{len(self.ids)} open sessions"

    async def batches(self) -> AsyncGenerator[Batch, None]:
        """The sessions as they are now; what the vendor knows no longer is marked."""
        reading = await Reading.begin(self.context)
        async with aclosing(reading.revisited(self.ids)) as batches:
            async for batch in batches:
                yield batch


@dataclass(frozen=True, slots=True)
class Everything:
    """All sessions that the account can see.

    The first time they are read whole. Later the documented fields are enough, and what differs from the
    warehouse is asked for whole. Known sessions that are not in the list are asked for by id, and marked
    where the vendor has them no longer.

    Attributes:
        cursor: None for an account that was never read. It begins before the list is read, so that whatever
            changes meanwhile comes with the ``Changed`` pass that follows.
    """

    context: AccountContext
    cursor: Cursor | None

    @property
    def stream(self) -> StreamKey:
        """The stream whose cursor notes that this was done."""
        return self.context.stream

    @property
    def label(self) -> str:
        """For a person."""
        return "all sessions"

    async def batches(self) -> AsyncGenerator[Batch, None]:
        """The sessions, then the note that all were listed.

        Raises:
            SourceContractError: Nothing proves that all were seen; those that were are stored.
        """
        reading = await Reading.begin(self.context)
        whole = self.cursor is None or self.cursor.is_new
        excess = 0 if self.cursor is None else self.cursor.mismatch
        paging = Paging(BY_START, LARGE_PAGE, excess=excess)
        pages = Pages(reading, BY_START, paging, whole=whole)
        cursor = self.cursor
        while (listed := await pages.next()) is not None:
            if cursor is None:
                cursor = _first_cursor(listed, self.context)
                yield Batch(self.stream, progress=Progress(cursor=cursor.dump()))
            if whole:
                yield await reading.whole(listed.decoded)
                continue
            for batch in (await reading.compared(listed))[0]:
                yield batch
        if isinstance(pages.end, Done):
            async with aclosing(reading.revisited(await self._unlisted(paging))) as batches:
                async for batch in batches:
                    yield batch
        if cursor is None:
            raise SourceContractError(not_proved(pages.end))
        yield await self._note(cursor, paging, pages.end)
        if not isinstance(pages.end, Done):
            raise SourceContractError(not_proved(pages.end))

    async def _unlisted(self, paging: Paging) -> list[UUID]:
        """Sessions that the account is thought to see and that were not in the list."""
        rows = await self.context.warehouse.fetch(SESSIONS_OF_ACCOUNT, self.context.account)
        return [row["id_data_session"] for row in rows if row["id_data_session"] not in paging.ids]

    async def _note(self, cursor: Cursor, paging: Paging, end: Done | GiveUp | None) -> Batch:
        now, proved = self.context.clock(), isinstance(end, Done)
        known = await known_sessions(self.context)
        noted = replace(
            cursor,
            tried_at=now,
            listed_at=now if proved else cursor.listed_at,
            mismatch=0 if paging.total is None else paging.total - known,
        )
        progress = Progress(cursor=noted.dump(), cursor_was=cursor.dump(), checked=proved)
        return Batch(self.stream, progress=progress)


def _first_cursor(listed: Listed, context: AccountContext) -> Cursor:
    """Where changes begin for an account that was never read: before anything of it is.

    The vendor's stamps say best what its clock says to them; the newest sessions have the newest.
    """
    stamps = [one.updated for one in listed.sessions if one.updated is not None]
    now = _vendors_now(listed)
    return Cursor(changed_since=min(max(stamps, default=0.0), context.clock() if now is None else now))


def _vendors_now(listed: Listed) -> float | None:
    moment = listed.page.server_time
    return None if moment is None else moment.timestamp()


def not_proved(end: Done | GiveUp | None) -> str:
    """Why a listing was not whole, for a person."""
    reason = end.reason if isinstance(end, GiveUp) else "there was no answer"
    return (
        f"the list of data sessions could not be proved to be whole: {reason}. What was seen is stored, other"
        " sessions may be missing. The whole list is read again later; if this stays, tell the vendor"
    )


# --- what is due ----------------------------------------------------------------------------------


async def load_cursor(context: AccountContext) -> Cursor | None:
    """The account's cursor as the warehouse has it."""
    return Cursor.load((await context.warehouse.stream(context.stream)).cursor)


async def known_sessions(context: AccountContext) -> int:
    """How many sessions the account is known to see."""
    rows = await context.warehouse.fetch(COUNT_OF_ACCOUNT, context.account)
    count: int = rows[0]["sessions"]
    return count


async def listing(context: AccountContext) -> AsyncGenerator[Sequence[Unit], None]:
    """One cycle over an account's list: what is new, what has changed, and everything where that is due."""
    cursor = await load_cursor(context)
    if cursor is None or cursor.tried_at is None:
        yield [Everything(context, cursor)]
        async for units in changes(context):
            yield units
        return
    newest = Newest(context, cursor)
    yield [newest]
    async for units in changes(context):
        yield units
    cursor = await load_cursor(context)
    if cursor is not None and await _everything_is_due(context, cursor, newest.total):
        yield [Everything(context, cursor)]


async def changes(context: AccountContext) -> AsyncGenerator[Sequence[Unit], None]:
    """What has changed since the last pass, where the vendor can tell."""
    cursor, hints = await load_cursor(context), await _hints(context)
    if cursor is not None and hints.changes is None:
        yield [Changed(context, cursor)]


async def _hints(context: AccountContext) -> Hints:
    return Hints.load(await context.warehouse.knowledge(context.source), context.clock())


async def _everything_is_due(context: AccountContext, cursor: Cursor, total: int | None) -> bool:
    """Whether the whole list has to be read: it is time, or the vendor counts other sessions than we do."""
    hints = await _hints(context)
    is_blind = hints.changes is not None or hints.sort is not None
    every = FULL_EVERY_IF_BLIND if is_blind else FULL_EVERY
    if cursor.tried_at is None or context.clock() - cursor.tried_at >= every:
        return True
    if total is None or total - await known_sessions(context) == cursor.mismatch:
        return False
    # Sessions may have come and gone since the total was read: one cheap question before many dear ones.
    total = await context.client.count("data-session", Query())
    return total - await known_sessions(context) != cursor.mismatch
