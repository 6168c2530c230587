"""From an answer to batches, for every unit that lists sessions."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field, replace

from sync.errors import SyncError
from sync.model import Batch, StreamKey
from sync.sources.beddit.addresses import AddressBook
from sync.sources.beddit.client import Answer, BedditClient
from sync.sources.beddit.decode import DecodedSession, decode_session
from sync.sources.beddit.paging import Seen
from sync.sources.beddit.settings import BedditSettings

STREAM = "sessions"


@dataclass(frozen=True, slots=True)
class AccountContext:
    """What all units of one account share."""

    source: str
    account: str
    user_id: int
    client: BedditClient
    settings: BedditSettings
    addresses: AddressBook
    clock: Callable[[], float] = time.time

    @property
    def stream(self) -> StreamKey:
        """The account's only stream."""
        return StreamKey(self.source, self.account, STREAM)


@dataclass(slots=True)
class Reading:
    """Turns an answer's elements into batches and remembers what the cursor needs to know."""

    context: AccountContext
    seen: list[Seen] = field(default_factory=list)

    async def batches(self, answer: Answer) -> AsyncGenerator[Batch, None]:
        """The answer's sessions in batches of about ``batch_bytes``; no progress yet."""
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
        if decoded.record is not None:
            row = decoded.record.row
            self.seen.append(Seen(row["session_id"], row["updated"]))
            self.context.addresses.note(row["session_id"], row["updated"], decoded.addresses)
        return decoded

    def _batch(self, decoded: list[DecodedSession]) -> Batch:
        return Batch(
            self.context.stream,
            records=tuple(
                replace(part.record, rejects=part.rejects) for part in decoded if part.record is not None
            ),
            rejects=tuple(reject for part in decoded if part.record is None for reject in part.rejects),
            read=sum(part.read for part in decoded),
        )
