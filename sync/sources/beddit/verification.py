"""Comparing an account's sessions with the warehouse: windows over what was read, answer by answer.

There is no shorter form of a session than all of it, so that windows cost what a backfill of them does; raw
signals cost a request for their length. Nothing is stored but differences, and what a repair reads again.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from http import HTTPStatus
from typing import Any, Final

from sync.errors import AddressRefused, RequestRefused, RetryableError, SourceContractError
from sync.model import (
    VERIFICATION,
    Batch,
    Difference,
    Extent,
    Interval,
    Pass,
    Progress,
    Record,
    StreamKey,
    Task,
    Verified,
    gaps,
)
from sync.ports import Unit, Warehouse
from sync.sources.beddit.blob import DueBlob
from sync.sources.beddit.blob_unit import NOT_SIGNAL, Blob
from sync.sources.beddit.cursor import Course, Cursor, as_time, next_window
from sync.sources.beddit.reading import AccountContext, Reading
from sync.sources.beddit.tables import (
    BLOB_ATTEMPTS,
    BLOBS,
    DUE_BLOBS,
    SESSIONS,
    STORED_BLOBS,
    STORED_SESSIONS,
    VANISHED,
)
from sync.sources.beddit.units import ASK_FOR_LESS, BEGINNING, THE_END, Window
from sync.transport import HttpClient, Request
from sync.units import Complaint, Note

GROUP: Final = 16
"""Raw signals that are looked at side by side, at most."""


@dataclass(slots=True)
class Verification:
    """Plans the verification of one account.

    Attributes:
        context: The account.
        warehouse: What is stored.
        http: The way to raw signals.
        course: How windows are read.
    """

    context: AccountContext
    warehouse: Warehouse
    http: HttpClient
    course: Course
    _pass: Pass = field(init=False)
    _trouble: str | None = None

    async def units(self, task: Task) -> AsyncGenerator[Sequence[Unit], None]:
        """Windows over what was read, newest first, each with its raw signals.

        What could not be looked at stops nothing else: the pass goes on, and says so in the end.
        """
        state = await self.warehouse.stream(self.context.stream)
        cursor = Cursor.load(state.cursor)
        if cursor is None:  # nothing was read yet: nothing is claimed
            return
        yield [await self._begun(task, state.coverage or (Interval(cursor.known_until, THE_END),))]
        while (window := await self._next()) is not None:
            unit = ComparedWindow(
                Window(self.context, window, self.course), self.warehouse, self._pass.repair, cursor
            )
            yield [unit]
            self.course.widen(unit.window.found)
            troubles: list[str] = []
            async for units in self._blobs(window, troubles):
                yield units
            async for blobs in self._blobs_of(unit.stored_anew):
                yield blobs
            self.context.addresses.clear()
            yield [self._looked_at(unit, troubles)]
        yield [await self._end()]
        if self._pass.left_out:
            yield [Complaint(self._stream, self._complaint())]

    @property
    def _stream(self) -> StreamKey:
        return stream_of(self.context)

    async def _begun(self, task: Task, read: Sequence[Interval]) -> Unit:
        """The verification that a run goes on with, or a new one."""
        state = await self.warehouse.stream(self._stream)
        (row,) = await self.warehouse.fetch("SELECT now() AS now")
        verification = Pass.load(state.cursor)
        if verification is not None and verification.does(task, row["now"]):
            self._pass = verification
            return self._note("going on", Progress())
        self._pass = Pass(
            began_at=row["now"],
            since=task.since,
            until=task.until,
            repair=task.repair,
            extent=Extent(read_since=self._read_since(task, read)),
        )
        progress = Progress(cursor=self._pass.dump(), cursor_was=state.cursor, uncovered=state.coverage)
        return self._note("beginning", progress)

    def _read_since(self, task: Task, read: Sequence[Interval]) -> datetime | None:
        """Where what was read of the time asked for begins; None: all of that time was read."""
        start = max(self.context.settings.history_start, task.since or BEGINNING)
        end = min(read[-1].end, task.until or THE_END)
        if start >= end or not list(gaps(Interval(start, end), read)):
            return None
        return max(read[0].start, start)

    async def _next(self) -> Interval | None:
        """The newest stretch that was read, and not looked at yet."""
        read = (await self.warehouse.stream(self.context.stream)).coverage
        done = (await self.warehouse.stream(self._stream)).coverage
        wanted = _within(read, self._pass.since, self._pass.until)
        return next_window(wanted, (*done, *self._pass.left_out), self.course.width)

    async def _blobs(
        self, window: Interval, troubles: list[str]
    ) -> AsyncGenerator[Sequence[ComparedBlob], None]:
        rows = await self.warehouse.fetch(
            STORED_BLOBS, self.context.user_id, window.start, window.end, self._pass.began_at
        )
        for first in range(0, len(rows), GROUP):
            units = [self._blob(row) for row in rows[first : first + GROUP]]
            yield units
            troubles += [unit.trouble for unit in units if unit.trouble is not None]

    def _blob(self, row: Mapping[str, Any]) -> ComparedBlob:
        columns = dict(row)
        extra = {
            name: columns.pop(name)
            for name in ("byte_count", "was_stored", "is_mentioned", "started_at", "held")
        }
        due = DueBlob(user_id=self.context.user_id, **columns)
        return ComparedBlob(self.context, self.http, due, self._pass.repair, **extra)

    async def _blobs_of(self, sessions: Collection[int]) -> AsyncGenerator[Sequence[Blob], None]:
        """The raw signals that are due of sessions that were stored anew: a night is mended with them."""
        if not sessions:
            return
        now = as_time(self.context.clock())
        rows = await self.warehouse.fetch(DUE_BLOBS, self.context.user_id, now)
        due = [DueBlob(user_id=self.context.user_id, **row) for row in rows if row["session_id"] in sessions]
        for first in range(0, len(due), GROUP):
            yield [Blob(self.context, self.http, blob) for blob in due[first : first + GROUP]]

    def _note(self, label: str, progress: Progress) -> Unit:
        return Note(label, Batch(self._stream, progress=progress))

    def _looked_at(self, unit: ComparedWindow, troubles: Sequence[str]) -> Unit:
        """Write down that a window was verified, or that it is left out."""
        self._trouble = self._trouble or next(iter(troubles), None)
        covered = () if troubles else tuple(unit.covered)
        before = self._pass
        self._pass = replace(
            before.without(gaps(unit.window.window, covered)),
            failures=before.failures + len(troubles),
            extent=before.extent.with_sessions(unit.nights.values()),
        )
        progress = Progress(cursor=self._pass.dump(), cursor_was=before.dump(), covered=covered)
        return self._note(f"looked at {unit.label}", progress)

    async def _end(self) -> Unit:
        before = self._pass
        rows = await self.warehouse.fetch(VANISHED, self.context.user_id, before.since, before.until)
        extent = replace(before.extent, vanished=rows[0]["count"])
        self._pass = replace(before, ended=True, extent=extent)
        progress = Progress(cursor=self._pass.dump(), cursor_was=before.dump(), checked=not before.left_out)
        verified = Verified(before.began_at, before.since, before.until, before.left_out)
        return Note("end of the verification", Batch(self._stream, progress=progress, verified=verified))

    def _complaint(self) -> str:
        parts = self._pass.left_out
        why = self._trouble or "the vendor has no whole answer about them"
        more = f" (and in {len(parts) - 1} stretches more)" if len(parts) > 1 else ""
        return (
            f"the nights that began {_when(parts[0])} UTC{more} could not all be verified: "
            f"{why.rstrip('.')}. All others were, and the next verification looks at everything again"
        )


def stream_of(context: AccountContext) -> StreamKey:
    """The stream that keeps how far an account's verification is."""
    return StreamKey(context.source, context.account, VERIFICATION)


@dataclass(slots=True)
class ComparedWindow:
    """A window's sessions beside the stored ones. A repair offers what differs to the sink.

    Attributes:
        window: Asks.
        warehouse: What is stored.
        repair: Whether to store what differs.
        cursor: What was put after it comes with the next incremental pass: no difference.
        covered: Parts of the window that were compared whole.
        nights: When each of the source's sessions in the window began, by id.
        stored_anew: After a repair: the sessions that were stored, or stored again.
    """

    window: Window
    warehouse: Warehouse
    repair: bool
    cursor: Cursor
    covered: list[Interval] = field(default_factory=list)
    nights: dict[int, datetime] = field(default_factory=dict)
    stored_anew: set[int] = field(default_factory=set)
    _seen: set[int] = field(default_factory=set)

    @property
    def stream(self) -> StreamKey:
        """The verification's."""
        return stream_of(self.window.context)

    @property
    def label(self) -> str:
        """For a person."""
        return self.window.label

    async def batches(self) -> AsyncGenerator[Batch, None]:
        """What differs; of each part, once it was read whole, what has vanished from it."""
        async with aclosing(self.window.batches()) as batches:
            async for batch in batches:
                if batch.records and (compared := await self._compared(batch)):
                    yield compared
                for part in batch.progress.covered if batch.progress else ():
                    gone, unknown = await self._gone(part)
                    if gone:
                        yield self._vanished(gone)
                    self.covered += gaps(part, unknown)
                if batch.learned:
                    yield Batch(self.stream, learned=batch.learned)

    async def _compared(self, batch: Batch) -> Batch | None:
        """What differs in a part of an answer; None: nothing does."""
        self._seen.update(record.row["session_id"] for record in batch.records)
        records = [record for record in batch.records if self._is_due(record)]
        self.nights |= {record.row["session_id"]: record.row["started_at"] for record in records}
        faults = await self.warehouse.compare(records)
        differences: list[Difference] = []
        offered: list[Record] = []
        for record in records:
            fault = faults.get(record.label)
            if fault is None:
                continue
            if fault.kind is not None:
                began = record.row["started_at"]
                differences.append(Difference(record.label, fault.kind, fault.text, began))
            if fault.kind is None:  # only the mark is wrong, which says no more than what was seen
                offered.append(record)
            elif self.repair and not fault.newer_stays:
                offered.append(replace(record, force=True))
                self.stored_anew.add(record.row["session_id"])
        if not differences and not offered:
            return None
        keys = {record.key for record in offered}
        return Batch(
            self.stream,
            records=tuple(offered),
            updates=tuple(
                update
                for update in batch.updates
                if (update.row["user_id"], update.row["session_id"]) in keys
            ),
            read=sum(record.size + sum(reject.counts for reject in record.rejects) for record in offered),
            differences=tuple(differences),
            mended=tuple(record.label for record in offered),
        )

    def _is_due(self, record: Record) -> bool:
        """Whether it is the window's business, and should be in the warehouse by now."""
        window, row = self.window.window, record.row
        is_news = row["updated"] is not None and row["updated"] > self.cursor.updated_after
        return window.start <= row["started_at"] < window.end and not is_news

    async def _gone(self, part: Interval) -> tuple[Sequence[Mapping[str, Any]], Sequence[Interval]]:
        """Stored sessions that were in no answer, and are in none when they are asked for once more.

        One that is marked already is told again until a repair takes note of it. Beside them: where the
        vendor had no whole answer about such a session, of which nothing is known then.
        """
        context = self.window.context
        user, seen = context.user_id, list(self._seen)
        rows = await self.warehouse.fetch(STORED_SESSIONS, user, part.start, part.end, seen, context.account)
        gone: list[Mapping[str, Any]] = []
        unknown: list[Interval] = []
        for row in rows:
            moment = Interval(row["started_at"], row["started_at"] + timedelta(microseconds=1))
            try:
                if row["is_marked"] or await self._is_gone(row["session_id"], moment):
                    gone.append(row)
            except ASK_FOR_LESS:
                unknown.append(moment)
        return gone, unknown

    def _vanished(self, gone: Sequence[Mapping[str, Any]]) -> Batch:
        """Sessions that are gone at the source are told, and marked."""
        user = self.window.context.user_id
        differences = tuple(
            Difference(
                f"{user}/{row['session_id']}",
                "vanished",
                "the source does not list this night any more; it stays, marked as missing upstream",
                row["started_at"],
            )
            for row in gone
        )
        return Batch(
            self.stream,
            missing=tuple((SESSIONS, (user, row["session_id"])) for row in gone),
            differences=differences,
            mended=tuple(one.item_key for one in differences) if self.repair else (),
        )

    async def _is_gone(self, session_id: int, moment: Interval) -> bool:
        context = self.window.context
        reading = Reading(context)
        question = context.client.started_in(moment, context.settings.longest_session)
        async with reading.of(question) as batches:
            async for _ in batches:
                pass
        # A session that nobody can understand may be this one.
        return all(row.session_id not in {None, session_id} for row in reading.seen)


@dataclass(slots=True)
class ComparedBlob:
    """One raw signal: what its chunks hold, and how long it is at its source, without its bytes.

    That an address is refused, or the signal is gone, says nothing against what is stored.

    Attributes:
        byte_count: Bytes that were downloaded; None: it is not stored, though it was due.
        was_stored: It once was.
        is_mentioned: The source has named an address of it; else it is asked for only if that is at hand.
        started_at: When the session began.
        held: Samples in the chunks; -1 where they leave gaps.
        trouble: After the unit: why it could not be looked at.
    """

    context: AccountContext
    http: HttpClient
    due: DueBlob
    repair: bool
    byte_count: int | None
    was_stored: bool
    is_mentioned: bool
    started_at: datetime
    held: int
    trouble: str | None = None

    @property
    def stream(self) -> StreamKey:
        """The verification's."""
        return stream_of(self.context)

    @property
    def label(self) -> str:
        """For a person."""
        return f"length of raw signal {self.due.session_id}/{self.due.track}"

    async def batches(self) -> AsyncGenerator[Batch, None]:
        """The difference, if there is one; then the signal, if it shall be mended."""
        try:
            fault = self._fault_in_chunks() or await self._fault_in_length()
        except (RetryableError, RequestRefused, SourceContractError) as error:
            self.trouble = str(error)
            return
        if fault is None:
            return
        difference = Difference(self._key, "blob", fault, self.started_at)
        if self.repair:
            async with aclosing(self._mended(difference)) as batches:
                async for batch in batches:
                    yield batch
        else:
            yield Batch(self.stream, differences=(difference,))

    @property
    def _key(self) -> str:
        return f"{self.due.user_id}/{self.due.session_id}/{self.due.track}"

    async def _mended(self, difference: Difference) -> AsyncGenerator[Batch, None]:
        """The signal, which replaces what is stored; or the difference, and why it stays.

        Of a signal that is stored and not replaced, nothing is noted: its state is what it was.
        """
        why = None
        async with aclosing(Blob(self.context, self.http, self.due).batches()) as batches:
            async for batch in batches:
                if any(record.head == BLOBS for record in batch.records):
                    yield self._forced(batch, difference)
                    return
                reasons = [one.row["reason"] for one in batch.updates if one.table == BLOB_ATTEMPTS]
                if not reasons:  # the session, listed again for an address
                    yield batch
                    continue
                why = reasons[0]
                if self.byte_count is None:
                    yield batch
        if why is not None:
            difference = replace(difference, text=f"{difference.text}; it was not mended: {why}")
        yield Batch(self.stream, differences=(difference,))

    def _forced(self, batch: Batch, difference: Difference) -> Batch:
        """The downloaded signal replaces what is stored, though it may be the same version."""
        records = tuple(replace(r, force=True) if r.head == BLOBS else r for r in batch.records)
        return replace(batch, records=records, differences=(difference,), mended=(difference.item_key,))

    def _fault_in_chunks(self) -> str | None:
        if self.byte_count is None:
            return "this raw signal was stored, and the warehouse lost it" if self.was_stored else None
        if self.held == self.due.stored_count:
            return None
        held = "chunks with gaps" if self.held < 0 else f"{self.held:,} samples"
        return f"the warehouse holds {held} where {self.due.stored_count:,} samples were stored"

    async def _fault_in_length(self) -> str | None:
        length = await self._length()
        if length is None or length == self.byte_count:
            return None
        if self.byte_count is None:
            return f"the source has this raw signal, of {length:,} bytes, the warehouse not"
        return f"the source's signal has {length:,} bytes, the stored one {self.byte_count:,}"

    async def _length(self) -> int | None:
        """Bytes of the signal at its source; None where nobody says."""
        address = self._address()
        length = None if address is None else await self._asked(address)
        if length is None and self.is_mentioned:  # the address was not at hand, or has expired
            async with self.context.addresses.renewing(self.due.session_id):
                address = self._address() or await self._listed_again()
            length = None if address is None else await self._asked(address)
        if address is not None:  # a repair uses it once more
            self.context.addresses.note(self.due.session_id, self.due.version, {self.due.track: address})
        return length

    def _address(self) -> str | None:
        return self.context.addresses.take(self.due.session_id, self.due.track, self.due.version)

    async def _listed_again(self) -> str | None:
        reading = Reading(self.context)
        async with reading.of(Blob(self.context, self.http, self.due).listing()) as batches:
            async for _ in batches:
                pass
        return self._address()

    async def _asked(self, address: str) -> int | None:
        """What the host says of an address, by HEAD; by a byte of it where the signature is for GET alone."""
        first_byte = Request(address, headers={"Range": "bytes=0-0"}, retry_timeouts=False)
        for request in (Request(address, method="HEAD", retry_timeouts=False), first_byte):
            try:
                async with self.http.open(request) as response:
                    return _length_in(response.status, response.headers)
            except AddressRefused:
                return None
            except (RequestRefused, SourceContractError):
                continue
        return None


def _length_in(status: int, headers: Mapping[str, str]) -> int | None:
    """The length of a signal by the headers of an answer; None where they speak of something else."""
    kind = headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if kind in NOT_SIGNAL or headers.get("Content-Encoding", "identity") != "identity":
        return None
    if status == HTTPStatus.PARTIAL_CONTENT:
        text = headers.get("Content-Range", "").rpartition("/")[2]
    else:
        text = headers.get("Content-Length", "")
    return int(text) if text.isascii() and text.isdecimal() else None


def _when(part: Interval) -> str:
    """When the nights of a stretch began, to the minute; it may be as short as the moment of one."""
    start, end = (f"{edge:%Y-%m-%d %H:%M}" for edge in (part.start, part.end))
    return f"at {start}" if start == end else f"between {start} and {end}"


def _within(read: Sequence[Interval], since: datetime | None, until: datetime | None) -> tuple[Interval, ...]:
    """What of some time lies between two moments, where these are given."""
    if not read:
        return ()
    start, end = read[0].start, read[-1].end
    outside = []
    if since is not None and since > start:
        outside.append(Interval(start, since))
    if until is not None and until < end:
        outside.append(Interval(until, end))
    return tuple(part for one in read for part in gaps(one, outside))
