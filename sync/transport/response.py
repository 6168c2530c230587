"""An answer whose headers are there and whose body is still on its way."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from datetime import datetime

import aiohttp

from sync.errors import SourceContractError
from sync.transport.body import Identity, decoder
from sync.transport.failures import translated
from sync.transport.retry_after import http_date


class Response:
    """A successful answer. Its body can be read once, while the ``async with`` of its request lasts.

    Attributes:
        status: The HTTP status.
        headers: The header fields, found without regard to case.
        received_bytes: Bytes of the body so far, as they came over the wire.
    """

    def __init__(
        self, raw: aiohttp.ClientResponse, *, where: str, limit: int, count: Callable[[int], None]
    ) -> None:
        self._raw = raw
        self._where = where
        self._limit = limit
        self._count = count
        self.status = raw.status
        self.headers: Mapping[str, str] = raw.headers
        self.received_bytes = 0

    @property
    def content_type(self) -> str:
        """The media type in lower case, without parameters; empty when there is none."""
        return self.headers.get("Content-Type", "").partition(";")[0].strip().lower()

    @property
    def server_time(self) -> datetime | None:
        """The vendor's clock when it answered, in UTC."""
        return http_date(self.headers.get("Date"))

    @property
    def content_length(self) -> int | None:
        """Bytes that the body has on the wire, if the vendor said so."""
        return self._raw.content_length

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the decompressed body in pieces of some 100 kB, as they come.

        Raises:
            AnswerTooLarge: The body was cut, or stalled: ask for less.
            SourceContractError: It is longer than the limit, or not encoded as it says.
        """
        body = decoder(self.headers.get("Content-Encoding", ""), self._where)
        if isinstance(body, Identity):
            self._check(self.content_length or 0, self._limit)
        size = 0
        async for data in self._wire():
            for piece in body.feed(data):
                size += len(piece)
                self._check(size, self._limit)
                yield piece
        body.end()

    async def read(self, limit: int) -> bytes:
        """The whole decompressed body.

        Raises:
            AnswerTooLarge: As ``chunks``.
            SourceContractError: As ``chunks``, or it is longer than ``limit`` bytes.
        """
        whole = bytearray()
        async for piece in self.chunks():
            self._check(len(whole) + len(piece), limit)
            whole += piece
        return bytes(whole)

    async def _wire(self) -> AsyncIterator[bytes]:
        while True:
            with translated(self._where, in_body=True):
                data = await self._raw.content.readany()
            if not data:
                return
            self.received_bytes += len(data)
            self._count(len(data))
            yield data

    def _check(self, size: int, limit: int) -> None:
        if size > limit:
            raise SourceContractError(
                f"{self._where}: the answer is longer than the limit of {limit:,} bytes."
            )
