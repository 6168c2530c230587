"""The list of data sessions beside the stored ones."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any
from uuid import UUID

from sync.errors import SourceContractError
from sync.model import VERIFICATION, Batch, Difference, Fault, Pass, Record, StreamKey
from sync.sources.bace.context import AccountContext
from sync.sources.bace.cursor import Cursor, Hints
from sync.sources.bace.listing import BY_START, Done, Paging
from sync.sources.bace.passes import LARGE_PAGE, Pages, not_proved
from sync.sources.bace.reading import CHUNK, Reading
from sync.sources.bace.sessions import COLUMNS, DecodedSession
from sync.sources.bace.tables import SEEN_BY, STILL_VANISHED


def stream_of(context: AccountContext) -> StreamKey:
    """The stream that keeps how far an account's verification is."""
    return StreamKey(context.source, context.account, VERIFICATION)


@dataclass(frozen=True, slots=True)
class Owned:
    """A stored session that the account reads.

    Attributes:
        began: When it began.
        ended: When it ended, if it did.
        final: Whether the source has all of it.
        datasets: What is in it, so far as is known.
    """

    id: UUID
    began: datetime
    ended: datetime | None
    final: bool
    datasets: frozenset[UUID]


@dataclass(slots=True)
class ComparedList:
    """All sessions that the account can see, in their documented fields, beside the stored ones.

    Attributes:
        context: The account.
        verification: Which of them are looked at, and whether what differs is stored.
        cursor: What was changed after it comes with the next pass over changes: no difference.
        owned: The stored sessions that the account reads.
        mended: After a repair: sessions that were stored anew.
    """

    context: AccountContext
    verification: Pass
    cursor: Cursor
    owned: Mapping[UUID, Owned]
    label: str = "list of sessions"
    mended: list[UUID] = field(default_factory=list)
    _known_until: float = 0.0

    @property
    def stream(self) -> StreamKey:
        """The verification's."""
        return stream_of(self.context)

    async def batches(self) -> AsyncGenerator[Batch, None]:
        """What differs, page by page; then what is no longer listed.

        Raises:
            SourceContractError: Nothing proves that all were seen.
        """
        reading = await Reading.begin(self.context)
        self._known_until = self._changes_known_until(reading.hints)
        paging = Paging(BY_START, LARGE_PAGE, excess=self.cursor.mismatch)
        pages = Pages(reading, BY_START, paging)
        while (listed := await pages.next()) is not None:
            async with aclosing(self._compared(reading, listed.sessions)) as batches:
                async for batch in batches:
                    yield batch
        if not isinstance(pages.end, Done):
            raise SourceContractError(not_proved(pages.end))
        unlisted = [
            key
            for key, session in self.owned.items()
            if key not in paging.ids and self.verification.looks_at(session.began)
        ]
        async with aclosing(reading.revisited(unlisted)) as batches:
            async for batch in batches:
                yield await self._vanished(batch)
        rows = await self.context.warehouse.fetch(STILL_VANISHED, self.context.account)
        known = {row["id_data_session"]: row["started_at"] for row in rows}
        again = {
            key: began
            for key, began in known.items()
            if key not in paging.ids and key not in self.owned and self.verification.looks_at(began)
        }
        if again:  # until a repair takes note of it
            yield Batch(self.stream, **self._told(again))

    async def _compared(
        self, reading: Reading, sessions: Sequence[DecodedSession]
    ) -> AsyncGenerator[Batch, None]:
        records = [one.record for one in sessions if self._is_due(one)]
        faults = await self.context.warehouse.compare(records, columns=COLUMNS)
        wrong = {
            record.row["id_data_session"]: (record, faults[record.label])
            for record in records
            if self._counts(record, faults.get(record.label))
        }
        differences = tuple(
            Difference(record.label, fault.kind, fault.text, record.row["started_at"])
            for record, fault in wrong.values()
            if fault.kind is not None
        )
        if differences:
            yield Batch(self.stream, differences=differences)
        wanted = [key for key, (_, fault) in wrong.items() if self._is_mended(fault)]
        for chunk in _chunks(wanted):
            found, _ = await reading.by_id(chunk)
            yield self._forced(await reading.whole(found))

    def _changes_known_until(self, hints: Hints) -> float:
        """Up to which change sessions should be stored; listings bring those that cannot be asked for."""
        cursor = self.cursor
        if hints.changes is None or cursor.listed_at is None:
            return cursor.changed_since
        overlap = self.context.settings.overlap.total_seconds()
        return max(cursor.changed_since, cursor.listed_at - overlap)

    def _is_due(self, session: DecodedSession) -> bool:
        """Whether it is looked at, and should be in the warehouse as it is by now."""
        began: datetime = session.record.row["started_at"]
        is_news = session.updated is not None and session.updated > self._known_until
        return not is_news and self.verification.looks_at(began)

    def _counts(self, record: Record, fault: Fault | None) -> bool:
        """Whether a fault is one: a session that is not final changes all the time, and is asked for again.

        What another account reads is that account's business.
        """
        if fault is None or fault.kind == "missing":
            return fault is not None
        known = self.owned.get(record.row["id_data_session"])
        return fault.kind is None or (known is not None and known.final)

    def _is_mended(self, fault: Fault) -> bool:
        """Whether to store it: a mark that is wrong says no more than what was seen."""
        return fault.kind is None or (self.verification.repair and not fault.newer_stays)

    def _forced(self, batch: Batch) -> Batch:
        self.mended += [record.row["id_data_session"] for record in batch.records]
        return replace(
            batch,
            stream=self.stream,
            records=tuple(replace(record, force=True) for record in batch.records),
            mended=tuple(record.label for record in batch.records),
        )

    async def _vanished(self, batch: Batch) -> Batch:
        """Sessions that the source knows no longer are marked; one that it still knows is as it should be."""
        gone = [key for _, (key,) in batch.missing]
        others = list(self.context.other_accounts)
        seen = {row["id_data_session"] for row in await self.context.warehouse.fetch(SEEN_BY, gone, others)}
        told = self._told({key: self.owned[key].began for key in gone if key not in seen})
        return replace(batch, stream=self.stream, **told)

    def _told(self, gone: Mapping[UUID, datetime]) -> dict[str, Any]:
        """What a batch says of sessions that have vanished, by when they began."""
        text = "the source has no session of this id any more; it stays, marked as missing upstream"
        differences = tuple(Difference(str(key), "vanished", text, began) for key, began in gone.items())
        mended = tuple(one.item_key for one in differences) if self.verification.repair else ()
        return {"differences": differences, "mended": mended}


def _chunks(ids: Sequence[UUID]) -> Iterable[Sequence[UUID]]:
    return (ids[first : first + CHUNK] for first in range(0, len(ids), CHUNK))
