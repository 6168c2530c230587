"""Splits a streamed JSON array into its elements, so that no answer has to fit into memory.

Only the structure is read here: strings, brackets, and the commas between elements. Whether an element is
valid JSON is for its decoder to say.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from enum import Enum, auto
from typing import Any, TypeAlias

import numpy as np

from sync.errors import AnswerBroken, AnswerTooLarge, SourceContractError

DEFAULT_CAP = 16 << 20  # bytes; a night's element is about half a megabyte

Array: TypeAlias = "np.ndarray[Any, Any]"

_BLANKS = b" \t\r\n"
_BOM = b"\xef\xbb\xbf"
_BRACKET_FIRST = re.compile(rb"[ \t\r\n]*[\[{]")
_WINDOW = 1 << 17  # bytes looked at together, so that numpy's temporaries stay in the processor's cache

_OPEN, _CLOSE, _QUOTE, _COMMA = 1, -1, 2, 3  # the first two are also steps in depth
_MEANING_OF = {"[": _OPEN, "{": _OPEN, "]": _CLOSE, "}": _CLOSE, '"': _QUOTE, ",": _COMMA}
_MEANINGS = np.array([_MEANING_OF.get(chr(byte), 0) for byte in range(256)], np.int8).tobytes()


class _Place(Enum):
    """Where in the answer we are, between its elements' bytes."""

    BEFORE = auto()  # the array's bracket has not been seen
    FIRST = auto()  # an element or the end may follow
    NEXT = auto()  # an element has to follow
    CLOSED = auto()  # an element's last bracket has been seen: a comma or the end has to follow
    AFTER = auto()  # the array is complete


class ArraySplitter:
    """Takes an answer's chunks, gives the elements of the array that it is.

    An element that begins with a bracket is complete at that bracket's partner, any other at the next comma
    or at the array's end. A fault never takes back elements: those before it are returned, and the
    following call raises.

    Attributes:
        count: How many elements have been complete so far.
    """

    def __init__(self, cap: int = DEFAULT_CAP) -> None:
        """``cap`` is the largest size of an element in bytes, and so bounds what is kept in memory."""
        self.count = 0
        self._cap = cap
        self._place = _Place.BEFORE
        self._head = b""  # what came before the array's bracket, while a byte order mark may be incomplete
        self._pending: list[bytes] = []  # the current element so far, without blanks in front
        self._pending_size = 0
        self._escape = b""  # a backslash at a chunk's end, which belongs to the next chunk's first byte
        self._depth = 1
        self._quoted = False
        self._fault: SourceContractError | None = None

    def feed(self, chunk: bytes) -> list[bytes]:
        """Read the answer's next bytes.

        Returns:
            The elements that these bytes complete, without blanks around them.

        Raises:
            SourceContractError: The answer is no JSON array, an element exceeds the cap, a comma is
                missing or too many, or something follows the array.
        """
        self._raise_fault()
        complete: list[bytes] = []
        try:
            for start in range(0, len(chunk), _WINDOW):
                complete.extend(self._read(chunk[start : start + _WINDOW]))
        except SourceContractError as fault:
            self._fault = fault
        if not complete:
            self._raise_fault()
        return complete

    def close(self) -> None:
        """Say that the answer has ended.

        Raises:
            AnswerTooLarge: It ended before the array did, or was empty.
            SourceContractError: It had a fault that no call has raised yet.
        """
        self._raise_fault()
        if self._place is not _Place.AFTER:
            raise AnswerTooLarge(f"the answer was cut after {self.count} complete sessions")

    def _raise_fault(self) -> None:
        if self._fault:
            raise self._fault

    def _read(self, window: bytes) -> Iterator[bytes]:
        if self._place is _Place.BEFORE:
            window = self._after_opening(window)
        if self._place is _Place.AFTER:
            _refuse_trailing(window)
        elif window:
            yield from self._split(window)

    def _after_opening(self, window: bytes) -> bytes:
        """Find the array's bracket; return what follows it, or nothing if it is still to come."""
        self._head += window
        if _BOM.startswith(self._head):
            return b""
        text = self._head.removeprefix(_BOM).lstrip(_BLANKS)
        self._head = b" "  # blanks need not be kept, but a byte order mark cannot follow them
        if not text:
            return b""
        if not text.startswith(b"["):
            raise SourceContractError(
                f"the answer is no JSON array, it starts with {_printable(text)!r}. Check beddit.base_url, "
                "and whether a proxy or a portal answers in the vendor's place"
            )
        self._place = _Place.FIRST
        return text[1:]

    def _split(self, window: bytes) -> Iterator[bytes]:
        window, self._escape = _without_open_escape(self._escape + window)
        start = 0
        for end, depth in self._boundaries(window):
            then = _place_behind(window[end], depth)
            is_closed = then is _Place.CLOSED
            if is_closed and not self._begins_with_bracket(window, start):
                continue  # brackets inside garbage, which goes on until the next comma
            if element := self._take(window[start : end + is_closed], then):
                yield element
            start = end + 1
            if then is _Place.AFTER:
                _refuse_trailing(window[start:] + self._escape)
                return
        self._keep(window[start:])

    def _boundaries(self, window: bytes) -> Iterable[tuple[int, int]]:
        """Find the commas between elements and the brackets that close an element or the array.

        Returns:
            Each one's position and the depth behind it: 0 behind the array, else 1.
        """
        if b"\\" in window:  # same length, but every quote that is left begins or ends a string
            window = window.replace(rb"\\", b"  ").replace(rb"\"", b"  ")
        meanings = np.frombuffer(window.translate(_MEANINGS), np.int8)
        positions = np.flatnonzero(meanings != 0)
        positions, meanings = self._outside_strings(positions, meanings[positions])
        commas = meanings == _COMMA
        steps = np.where(commas, 0, meanings)
        depths = self._depth + np.cumsum(steps)
        self._depth += int(steps.sum())
        found = (commas & (depths == 1)) | ((meanings == _CLOSE) & (depths <= 1))
        return zip(positions[found].tolist(), depths[found].tolist(), strict=True)

    def _outside_strings(self, positions: Array, meanings: Array) -> tuple[Array, Array]:
        quotes = meanings == _QUOTE
        inside = np.logical_xor.accumulate(quotes) ^ self._quoted  # from a string's first quote to its last
        self._quoted ^= bool(np.count_nonzero(quotes) & 1)
        outside = ~(inside | quotes)
        return positions[outside], meanings[outside]

    def _begins_with_bracket(self, window: bytes, start: int) -> bool:
        if self._pending:
            return self._pending[0][:1] in (b"[", b"{")
        return _BRACKET_FIRST.match(window, start) is not None

    def _take(self, text: bytes, then: _Place) -> bytes:
        """End the current element with ``text``; nothing is left of it if it was closed before.

        Raises:
            SourceContractError: There is something where nothing may be, or nothing where something must.
        """
        element = b"".join([*self._pending, text]).strip(_BLANKS)
        if self._place is _Place.CLOSED:
            if element:
                raise AnswerBroken(f"the answer lacks a comma after session {self.count}")
        elif not element and (self._place, then) != (_Place.FIRST, _Place.AFTER):
            raise AnswerBroken(f"the answer has a comma too many after session {self.count}")
        self._check_size(len(element))
        self._pending.clear()
        self._pending_size = 0
        self._place = then
        self.count += bool(element)
        return element

    def _keep(self, text: bytes) -> None:
        """Remember an element's bytes until it is complete."""
        if not self._pending:
            text = text.lstrip(_BLANKS)
        if text:
            self._pending.append(text)
            self._pending_size += len(text)
            self._check_size(self._pending_size)

    def _check_size(self, size: int) -> None:
        if size > self._cap:
            raise AnswerBroken(f"session {self.count + 1} of the answer exceeds {self._cap} bytes")


def _without_open_escape(window: bytes) -> tuple[bytes, bytes]:
    """Cut off a last backslash that escapes a byte still to come."""
    backslashes = len(window) - len(window.rstrip(b"\\"))
    return (window[:-1], b"\\") if backslashes % 2 else (window, b"")


def _place_behind(boundary: int, depth: int) -> _Place:
    if depth == 1:
        return _Place.NEXT if boundary == ord(",") else _Place.CLOSED
    if boundary != ord("]"):
        raise AnswerBroken("the answer's array ends with a brace")
    return _Place.AFTER


def _refuse_trailing(text: bytes) -> None:
    if text := text.strip(_BLANKS):
        raise AnswerBroken(f"the answer goes on after its array, with {_printable(text)!r}")


def _printable(text: bytes) -> str:
    """The text's first characters, fit for a message."""
    start = text[:240].decode(errors="replace")[:60]
    return "".join(character if character.isprintable() else " " for character in start)
