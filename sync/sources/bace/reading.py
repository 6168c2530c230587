"""From pages of sessions to batches, for every unit that lists them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import Any
from uuid import UUID

from sync.errors import AnswerTooLarge, RequestRefused, SourceContractError
from sync.model import Batch, Reject, Update
from sync.sources.bace.client import Page
from sync.sources.bace.context import AccountContext
from sync.sources.bace.cursor import BY_ID, EXPAND, Hints, unsupported
from sync.sources.bace.listing import Answer, Ask, Order, Seen
from sync.sources.bace.query import Filter, Query, gte, in_, lte
from sync.sources.bace.sessions import FIELDS, RELATIONS, DecodedSession, decode_session
from sync.sources.bace.tables import (
    ACCESS_KEY,
    KNOWN_REJECTS,
    KNOWN_SESSIONS,
    SESSION_ACCESS,
    SESSIONS,
)

CHUNK = 50
"""Sessions that are asked for by id at once: their URL stays below 8 KiB."""

REFUSED_FOR = timedelta(days=1)
"""How long an account that was denied a session is not trusted with it again."""

_EXPANSIONS = (RELATIONS, tuple(name for name in RELATIONS if name != "person"), ())
"""``person`` is not in the documents' list of names."""


def is_about_parameters(error: RequestRefused) -> bool:
    """Whether the vendor refused how it was asked, not what."""
    return error.status in (HTTPStatus.BAD_REQUEST, HTTPStatus.UNPROCESSABLE_ENTITY)


@dataclass(frozen=True, slots=True)
class Listed:
    """One page of sessions, decoded, and what the paging wants to know of it."""

    page: Page
    decoded: tuple[DecodedSession | Reject, ...]

    @property
    def sessions(self) -> list[DecodedSession]:
        """Those that could be read."""
        return [one for one in self.decoded if isinstance(one, DecodedSession)]

    @property
    def rejects(self) -> list[Reject]:
        """Those that could not."""
        return [one for one in self.decoded if isinstance(one, Reject)]

    def answer(self, order: Order) -> Answer:
        """The page as the paging has it."""
        page = self.page
        rows = [_seen(one, order) for one in self.decoded]
        return Answer(rows, page.page, page.page_count, page.per_page, page.total, page.has_next)


def _seen(one: DecodedSession | Reject, order: Order) -> Seen:
    if isinstance(one, Reject):
        return Seen(one.item_key, None)
    return Seen(one.id, one.start if order.attribute == "start" else one.updated)


@dataclass(slots=True)
class Reading:
    """Asks for sessions and turns answers into batches.

    Attributes:
        context: The account.
        hints: What is known not to work.
        learned: What was found not to work meanwhile; the next batch takes it along.
    """

    context: AccountContext
    hints: Hints
    learned: dict[str, Any] = field(default_factory=dict)

    @classmethod
    async def begin(cls, context: AccountContext) -> Reading:
        """With the hints that the warehouse has."""
        return cls(context, Hints.load(await context.warehouse.knowledge(context.source), context.clock()))

    # -- asking --------------------------------------------------------------------------------

    async def listed(self, ask: Ask, order: Order, *, whole: bool) -> Listed:
        """A page of the listing: documented fields alone, which is cheap, or all that there is."""
        compared = lte if order.descending else gte
        query = Query(
            filter=None if ask.bound is None else compared(order.attribute, ask.bound),
            sort=order.sort if ask.sorts else None,
            fields=() if whole else FIELDS,
            page=ask.page,
            per_page=ask.per_page,
        )
        page = await (self._expanded(query) if whole else self.context.client.sessions(query))
        return Listed(page, tuple(decode_session(item) for item in page.items))

    async def _expanded(self, query: Query) -> Page:
        """A page with relations, as many of them as the vendor brings along."""
        refusal: RequestRefused | None = None
        for expand in _EXPANSIONS if self.hints.expand is None else ((),):
            try:
                page = await self.context.client.sessions(replace(query, expand=expand))
            except RequestRefused as error:
                if not is_about_parameters(error):
                    raise
                refusal = refusal or error
                continue
            if refusal is not None and not expand:
                self._learn(EXPAND, str(refusal))
                self.hints = replace(self.hints, expand=str(refusal))
            return page
        raise refusal or AssertionError("there is always a last expansion to try")

    async def by_id(self, ids: Sequence[UUID]) -> tuple[list[DecodedSession | Reject], list[UUID]]:
        """At most ``CHUNK`` sessions whole, and which of the ids the vendor knows no longer.

        An id that the answer to the question for all does not hold is asked for alone: only a 404 says that
        a session is gone.
        """
        found: dict[UUID, DecodedSession | Reject] = {}
        if len(ids) > 1 and self.hints.by_id is None:
            found = await self._together(ids)
        gone = []
        for key in ids:
            if key not in found:
                alone = await self._alone(key)
                if alone is None:
                    gone.append(key)
                else:
                    found[key] = alone
        return list(found.values()), gone

    async def _alone(self, key: UUID) -> DecodedSession | Reject | None:
        """One session; None where the vendor has none of that id for this account."""
        client = self.context.client
        expand = _EXPANSIONS[1] if self.hints.expand is None else ()
        try:
            try:
                record = await client.session(str(key), Query(expand=expand))
            except RequestRefused as error:
                if not expand or not is_about_parameters(error):
                    raise
                record = await client.session(str(key))
        except SourceContractError as error:  # one bad answer stops nothing
            return Reject(str(key), str(key), str(error))
        return None if record is None else decode_session(record)

    async def _together(self, ids: Sequence[UUID]) -> dict[UUID, DecodedSession | Reject]:
        wanted = frozenset(ids)
        found: dict[UUID, DecodedSession | Reject] = {}
        number = 1
        while True:
            query = Query(filter=_one_of(ids), page=number, per_page=len(ids))
            try:
                page = await self._expanded(query)
            except RequestRefused as error:
                if not is_about_parameters(error):
                    raise
                self._cannot_ask_by_id(str(error))
                return found
            except (AnswerTooLarge, SourceContractError):
                return found  # one at a time they may be had
            decoded = [decode_session(item) for item in page.items]
            sessions = {one.id: one for one in decoded if isinstance(one, DecodedSession)}
            if not wanted.issuperset(sessions):
                self._cannot_ask_by_id("an answer for some ids holds other sessions")
                return found
            found |= sessions
            number += 1
            if not page.has_next or number > (page.page_count or 0) or number > len(ids):
                return found

    def _cannot_ask_by_id(self, reason: str) -> None:
        self._learn(BY_ID, reason)
        self.hints = replace(self.hints, by_id=reason)

    def _learn(self, name: str, reason: str) -> None:
        self.learned[name] = unsupported(reason, self.context.clock())

    # -- batches -------------------------------------------------------------------------------

    async def compared(self, listed: Listed) -> tuple[list[Batch], bool]:
        """Batches for a page of documented fields, and whether it was quiet.

        What differs from the warehouse is asked for whole. Quiet: all of it was known, and equal in every
        documented field, or as unreadable as before.
        """
        known = await self._known(session.id for session in listed.sessions)
        equal = [one for one in listed.sessions if known[one.id].equals(one)]
        news = [one.id for one in listed.sessions if not known[one.id].equals(one)]
        batches = [self._batch([*listed.rejects, *equal], known)]
        for chunk in _chunks(news):
            whole, _ = await self.by_id(chunk)  # one that is gone by now was never there for us
            batches.append(self._batch(whole, known))
        rejected = await self._rejected([*map(str, news), *(one.item_key for one in listed.rejects)])
        return batches, rejected and all(known[one.id].listed for one in equal)

    async def whole(self, decoded: Iterable[DecodedSession | Reject]) -> Batch:
        """A batch for sessions that were read whole."""
        kept = list(decoded)
        known = await self._known(one.id for one in kept if isinstance(one, DecodedSession))
        return self._batch(kept, known)

    async def revisited(self, ids: Sequence[UUID]) -> AsyncGenerator[Batch, None]:
        """Known sessions, asked for by id; those that are gone for all accounts are marked."""
        for chunk in _chunks(ids):
            found, gone = await self.by_id(chunk)
            batch = await self.whole(found)
            yield replace(
                batch,
                missing=tuple((SESSIONS, (key,)) for key in gone),
                others=self.context.other_accounts,
                updates=(*batch.updates, *(self._access(key, self._now) for key in gone)),
            )

    def _batch(self, decoded: Sequence[DecodedSession | Reject], known: _AllKnown) -> Batch:
        sessions = [one for one in decoded if isinstance(one, DecodedSession)]
        rejects = tuple(one for one in decoded if isinstance(one, Reject))
        updates = [update for session in sessions for update in session.updates]
        updates += [self._access(one.id, None) for one in sessions if known[one.id].opens(one, self._now)]
        learned, self.learned = self.learned, {}
        return Batch(
            self.context.stream,
            records=tuple(session.record for session in sessions),
            updates=_last_of_each(updates),
            rejects=rejects,
            learned=learned,
            read=len(sessions) + len(rejects),
        )

    async def _known(self, ids: Iterable[UUID]) -> _AllKnown:
        rows = await self.context.warehouse.fetch(KNOWN_SESSIONS, list(ids), self.context.account)
        return _AllKnown(
            {
                row["id_data_session"]: _Known(
                    row["digest"], row["missing"], row["listed"], row["refused_at"]
                )
                for row in rows
            }
        )

    async def _rejected(self, keys: Sequence[str]) -> bool:
        """Whether all of these could not be read before."""
        if not keys:
            return True
        context = self.context
        rows = await context.warehouse.fetch(KNOWN_REJECTS, context.source, context.account, list(keys))
        return len(rows) == len(set(keys))

    def _access(self, key: UUID, refused_at: datetime | None) -> Update:
        row = {"id_data_session": key, "account": self.context.account, "refused_at": refused_at}
        return Update(SESSION_ACCESS, ACCESS_KEY, row)

    @property
    def _now(self) -> datetime:
        return datetime.fromtimestamp(self.context.clock(), UTC)


@dataclass(frozen=True, slots=True)
class _Known:
    """What the warehouse has of a session, and whether the account is known to see it."""

    digest: bytes | None = None
    missing: bool = False
    listed: bool = False
    refused_at: datetime | None = None

    def equals(self, session: DecodedSession) -> bool:
        """Whether there is nothing to store."""
        return self.digest == session.digest and not self.missing

    def opens(self, session: DecodedSession, now: datetime) -> bool:
        """Whether it is news that the account sees the session.

        An account that was denied it may list it all the same: it is not trusted again at once.
        """
        if not self.listed or self.refused_at is None:
            return not self.listed
        return not self.equals(session) or now - self.refused_at > REFUSED_FOR


class _AllKnown(dict[UUID, _Known]):
    """What is known of some sessions; nothing of the others."""

    def __missing__(self, key: UUID) -> _Known:
        return _Known()


def _chunks(ids: Sequence[UUID]) -> Iterator[Sequence[UUID]]:
    for start in range(0, len(ids), CHUNK):
        yield ids[start : start + CHUNK]


def _one_of(ids: Sequence[UUID]) -> Filter:
    return in_("id_data_session", ids)


def _last_of_each(updates: Iterable[Update]) -> tuple[Update, ...]:
    """Many sessions refer to the same few things."""
    last: dict[tuple[Hashable, ...], Update] = {}
    for update in updates:
        last[(update.table, *(update.row[column] for column in update.key))] = update
    return tuple(last.values())
