"""From an answer to batches, for every unit that lists sessions."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Iterator
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from sync.ahead import ReadAhead
from sync.errors import SyncError
from sync.model import Batch, StreamKey, Update
from sync.sources.beddit.addresses import AddressBook, Version
from sync.sources.beddit.client import Answer, BedditClient
from sync.sources.beddit.decode import DecodedSession, decode_session, identify
from sync.sources.beddit.items import EARLIEST, LATEST
from sync.sources.beddit.paging import Seen
from sync.sources.beddit.settings import BedditSettings
from sync.sources.beddit.tables import BLOB_MENTIONS

STREAM = "sessions"


@dataclass(frozen=True, slots=True)
class AccountContext:
    """What all units of one account share.

    Attributes:
        rejected: Ids of sessions that the current run could not understand, or not all items of.
    """

    source: str
    account: str
    user_id: int
    client: BedditClient
    settings: BedditSettings
    addresses: AddressBook
    clock: Callable[[], float] = time.time
    rejected: set[int] = field(default_factory=set)

    @property
    def stream(self) -> StreamKey:
        """The account's only stream."""
        return StreamKey(self.source, self.account, STREAM)

    def seconds(self, server_time: datetime | None) -> float:
        """The vendor's time, which its stamps are made of; ours where it does not say."""
        return self.clock() if server_time is None else server_time.astimezone(UTC).timestamp()


@dataclass(slots=True)
class AccountUnit:
    """What all units have in common."""

    context: AccountContext

    @property
    def stream(self) -> StreamKey:
        """The stream whose progress the unit moves."""
        return self.context.stream


@dataclass(slots=True)
class Reading:
    """Turns an answer's elements into batches and remembers what the cursor needs to know.

    Attributes:
        seen: Every session of the answer, those that could not be understood included.
        answered_at: The server's clock when it answered.
    """

    context: AccountContext
    seen: list[Seen] = field(default_factory=list)
    answered_at: float = 0.0

    @asynccontextmanager
    async def of(
        self, question: AbstractAsyncContextManager[Answer]
    ) -> AsyncIterator[AsyncGenerator[Batch, None]]:
        """Ask; the answer's sessions come in batches of about ``batch_bytes``, without progress."""
        async with question as answer:
            self.answered_at = self.context.seconds(answer.server_time)
            async with aclosing(self._batches(answer)) as batches:
                yield batches

    async def _batches(self, answer: Answer) -> AsyncGenerator[Batch, None]:
        async with aclosing(ReadAhead(self._decoded(answer))) as ahead:
            while (batch := await ahead.next()) is not None:
                yield batch

    async def _decoded(self, answer: Answer) -> AsyncGenerator[Batch, None]:
        decoded: list[DecodedSession] = []
        size = 0
        try:
            async for element in answer.elements():
                decoded.append(self._decode(element))
                size += len(element)
                if size >= self.context.settings.batch_bytes:
                    yield self._batch(decoded)
                    decoded, size = [], 0
        except SyncError:
            if decoded:  # what came before the fault is good
                yield self._batch(decoded)
            raise
        if decoded:
            yield self._batch(decoded)

    def _decode(self, element: bytes) -> DecodedSession:
        decoded = decode_session(element, self.context.user_id)
        self.seen.append(decoded.seen)
        if decoded.record is None:
            self._rejected(decoded.rejected_id)
        else:
            row = decoded.record.row
            if any(reject.counts for reject in decoded.rejects):
                self._rejected(row["session_id"])
            version = Version(row["updated"], row["digest"])
            self.context.addresses.note(row["session_id"], version, decoded.addresses)
        return decoded

    def _rejected(self, session_id: int | None) -> None:
        """Have a session listed again later, if its id is a time that can be asked for."""
        if session_id is not None and EARLIEST <= session_id < LATEST - 1:
            self.context.rejected.add(session_id)

    def _batch(self, decoded: list[DecodedSession]) -> Batch:
        return Batch(
            self.context.stream,
            records=tuple(
                replace(part.record, rejects=part.rejects) for part in decoded if part.record is not None
            ),
            updates=tuple(mention for part in decoded for mention in _mentions(part)),
            rejects=tuple(reject for part in decoded if part.record is None for reject in part.rejects),
            read=sum(part.read for part in decoded),
        )


async def seen_in(
    context: AccountContext, question: AbstractAsyncContextManager[Answer], known: Collection[Seen]
) -> list[Seen]:
    """Which sessions an answer holds, where most are known: those are not decoded, which takes long."""
    ids = {row.session_id for row in known}

    def seen(element: bytes) -> Seen:
        found = identify(element, context.user_id)
        return found if found.session_id in ids else decode_session(element, context.user_id).seen

    async with question as answer:
        return [seen(element) async for element in answer.elements()]


def _mentions(decoded: DecodedSession) -> Iterator[Update]:
    """That an answer named addresses, which is all that may be kept of them."""
    if decoded.record is None:
        return
    row = {name: decoded.record.row[name] for name in ("user_id", "session_id", "updated")}
    for track in decoded.addresses:
        yield Update(BLOB_MENTIONS, ("user_id", "session_id", "track"), row | {"track": track})
