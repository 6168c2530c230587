"""Bodies as they should be: decompressed piece by piece, and never silently short.

aiohttp could decompress too, but it takes a gzip stream without its end for a whole one.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Protocol

from sync.errors import AnswerTooLarge, SourceContractError

# Decompression yields pieces of at most this many bytes, however well they were compressed.
PIECE = 256 * 1024

GZIP = 16 + zlib.MAX_WBITS


class Decoder(Protocol):
    """Undoes a content encoding."""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Decode the next bytes."""

    def end(self) -> None:
        """Say that there are no more bytes; complains when there should be."""


class Identity:
    """The encoding that is none."""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Hand the bytes on."""
        yield data

    def end(self) -> None:
        """Any end is a good end: the framing has been checked by aiohttp."""


class Gunzip:
    """One gzip member or several, in pieces of bounded size."""

    def __init__(self, where: str) -> None:
        self._where = where
        self._member = zlib.decompressobj(GZIP)
        self._begun = False

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Decompress the next bytes.

        Raises:
            SourceContractError: They are not gzip.
        """
        while data:
            self._next_member()
            if piece := self._decompress(data):
                yield piece
            data = self._member.unconsumed_tail or self._member.unused_data
        while piece := self._decompress(b""):
            yield piece

    def end(self) -> None:
        """Complain about a stream that lacks its end.

        Raises:
            AnswerTooLarge: The vendor ended it half-way.
        """
        if self._begun and not self._member.eof:
            raise AnswerTooLarge(
                f"{self._where}: the compressed answer lacks its end; ask for less, or later."
            )

    def _next_member(self) -> None:
        self._begun = True
        if self._member.eof:
            self._member = zlib.decompressobj(GZIP)

    def _decompress(self, data: bytes) -> bytes:
        try:
            return self._member.decompress(data, PIECE)
        except zlib.error:
            raise SourceContractError(
                f"{self._where}: the answer says that it is gzip, and is not."
            ) from None


def decoder(encoding: str, where: str) -> Decoder:
    """The decoder of a Content-Encoding.

    Raises:
        SourceContractError: Nobody asked for that encoding.
    """
    match encoding.strip().lower():
        case "" | "identity":
            return Identity()
        case "gzip" | "x-gzip":
            return Gunzip(where)
        case _:
            raise SourceContractError(f"{where}: the answer has an encoding that was not asked for.")
