"""Fetching one raw signal: an address, a download to a spool file, and the record of it."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, aclosing
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from sync.errors import (
    AddressRefused,
    AnswerTooLarge,
    RequestRefused,
    RetryableError,
    SourceContractError,
)
from sync.model import Batch, Interval, Record, Update
from sync.sources.beddit.blob import DueBlob, decode_blob
from sync.sources.beddit.client import Answer
from sync.sources.beddit.cursor import as_time
from sync.sources.beddit.reading import AccountUnit, Reading
from sync.sources.beddit.spool import spool_file
from sync.sources.beddit.tables import BLOB_ATTEMPTS
from sync.transport import HttpClient, Request

DOWNLOADS = 3
"""How often a download that is cut half-way is begun again at once."""

NOT_SIGNAL = ("text/html", "application/json", "application/xml", "text/xml")
"""What portals and error pages call themselves."""


@dataclass(slots=True)
class Blob(AccountUnit):
    """One raw signal of one session.

    A failure is a row, not an exception: the blob is tried again later and costs nobody else anything.

    Attributes:
        in_trouble: Whether the way to the blob's host, and not this blob, was what failed.
    """

    http: HttpClient
    due: DueBlob
    in_trouble: bool = False

    @property
    def label(self) -> str:
        """For a person."""
        return f"raw signal {self.due.session_id}/{self.due.track}"

    async def batches(self) -> AsyncGenerator[Batch, None]:
        """The blob with all its samples, or why there is none yet."""
        try:
            async with aclosing(self._attempt()) as batches:
                async for batch in batches:
                    yield batch
        except (RequestRefused, AddressRefused, SourceContractError) as error:
            yield self._postponed("unavailable", str(error))
        except RetryableError as error:
            self.in_trouble = True
            yield self._postponed("pending", str(error))

    async def _attempt(self) -> AsyncGenerator[Batch, None]:
        address = self._address()
        if address is not None:
            try:
                async with aclosing(self._fetch(address)) as batches:
                    async for batch in batches:
                        yield batch
            except RequestRefused:
                pass  # it has probably expired; a fresh one may do
            else:
                return
        reading = Reading(self.context)
        async with self.context.addresses.renewing(self.due.session_id):
            address = self._address()  # another track of the session may just have asked for both
            if address is None:
                async with reading.of(self.listing()) as batches:
                    async for batch in batches:
                        yield batch
                address = self._address()
        versions = [row.updated for row in reading.seen if row.session_id == self.due.session_id]
        if address is not None:
            async with aclosing(self._fetch(address)) as batches:
                async for batch in batches:
                    yield batch
        elif not versions:
            yield self._postponed("unavailable", "the source does not list the session any more")
        elif all(_is_older(version, self.due.updated) for version in versions):
            yield self._postponed("unavailable", "the source lists an older version of the session again")
        # Otherwise the session that was just stored says what is due now.

    def _address(self) -> str | None:
        return self.context.addresses.take(self.due.session_id, self.due.track, self.due.version)

    def listing(self) -> AbstractAsyncContextManager[Answer]:
        """The session once more: addresses are signed, expire, and are never stored."""
        start = as_time(self.due.start_timestamp)
        length = self.context.settings.longest_session
        if self.due.ended_at is not None:
            length = max(timedelta(), min(length, self.due.ended_at - start))
        # Not as an instant: a session may begin at the end of time.
        begin = Interval(start, start + timedelta(microseconds=1))
        return self.context.client.started_in(begin, length + timedelta(seconds=1))

    async def _fetch(self, address: str) -> AsyncGenerator[Batch, None]:
        with spool_file(self.context.settings.spool) as spool:
            digest = await self._download(address, spool)
            record = await asyncio.to_thread(decode_blob, self.due, spool, digest)
            if (fault := self._worse_than_stored(record)) is not None:
                yield self._postponed("unavailable", f"{fault}; the stored signal stays")
                return
            attempt = self._attempt_row(status=record.row["status"], reason=None, next_attempt_in=None)
            yield Batch(self.stream, records=(record,), updates=(attempt,), read=record.size)

    def _worse_than_stored(self, record: Record) -> str | None:
        """Why a blob must not replace what is stored; None if it may."""
        status, count = record.row["status"], record.row["sample_count"] or 0
        if self.due.stored_count and not record.row["byte_count"]:
            return "the newest blob is empty"
        if self.due.has_complete and status != "complete":
            return f"the newest blob is not whole ({record.row['reason']})"
        if self.due.has_complete and record.row["expected_count"] is None and count < self.due.stored_count:
            return f"the newest blob has {count:,} samples, fewer than are stored, and nothing says how many"
        return None

    async def _download(self, address: str, spool: Path) -> bytes:
        for attempt in range(1, DOWNLOADS + 1):
            try:
                return await self._download_once(address, spool)
            except AnswerTooLarge:
                if attempt == DOWNLOADS:
                    raise
        raise AssertionError("unreachable")

    async def _download_once(self, address: str, spool: Path) -> bytes:
        # Not repeated by the transport where it takes too long: ``DOWNLOADS`` counts for that.
        limit = self.context.settings.blob_max_bytes
        request = Request(address, retry_timeouts=False, max_body_bytes=limit)
        digest = hashlib.sha256()
        async with self.http.open(request) as response:
            if response.content_type in NOT_SIGNAL:
                raise SourceContractError(
                    f"the blob host answered with {response.content_type}, which is a page, not raw signal"
                )
            with spool.open("wb") as file:
                async for chunk in response.chunks():
                    digest.update(chunk)
                    file.write(chunk)
        return digest.digest()

    def _postponed(self, status: str, reason: str) -> Batch:
        delay = retry_delay(status, self.due.attempts + 1)
        return Batch(self.stream, updates=(self._attempt_row(status, reason, delay),))

    def _attempt_row(self, status: str, reason: str | None, next_attempt_in: timedelta | None) -> Update:
        now = as_time(self.context.clock())
        row = {
            "user_id": self.due.user_id,
            "session_id": self.due.session_id,
            "track": self.due.track,
            "updated": self.due.updated,
            "session_digest": self.due.session_digest,
            "attempts": self.due.attempts + 1,
            "status": status,
            "reason": reason,
            "tried_at": now,
            "next_attempt_at": None if next_attempt_in is None else now + next_attempt_in,
        }
        return Update(BLOB_ATTEMPTS, ("user_id", "session_id", "track"), row)


def retry_delay(status: str, attempts: int) -> timedelta:
    """When to try again after the n-th failure: soon after trouble on the way, later after a refusal."""
    first, longest = (
        (timedelta(hours=1), timedelta(days=7))
        if status == "unavailable"
        else (timedelta(minutes=5), timedelta(hours=6))
    )
    return min(first * (1 << min(attempts - 1, 20)), longest)


def _is_older(version: float | None, stored: float | None) -> bool:
    return stored is not None and (version is None or version < stored)
