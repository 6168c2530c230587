"""How the emulated cloud keeps one session: what queries ask about, and where its JSON text comes from."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

SampledTracks = Mapping[str, Any]
TextAround = tuple[bytes, bytes]


@dataclass(frozen=True, slots=True)
class Record:
    """One version of one session, as the cloud holds it.

    A session's text is kept in two parts, before and after the place of its sampled tracks, because
    addresses are signed anew in every answer while all other bytes have to arrive as they were stored.

    Attributes:
        user_id: Whose session it is.
        session_id: The documented id; None if the text does not have a usable one.
        start: ``start_timestamp``; None if the text does not have a usable one.
        end: ``end_timestamp``; None if the text does not have a usable one.
        updated: When the session was put, as the server knows it.
        sampled: The value of ``sampled_tracks``, to be written between the two parts; None: they join.
        load: Gives the two parts. It may take time (reading a file, computing a night).
    """

    user_id: int
    session_id: int | None
    start: float | None
    end: float | None
    updated: float
    sampled: SampledTracks | None
    load: Callable[[], TextAround]

    def text(self) -> bytes:
        """The session's JSON text without any address added."""
        return self.text_with(self.sampled)

    def text_with(self, sampled: SampledTracks | None) -> bytes:
        """The session's JSON text with these sampled tracks instead of its own."""
        before, after = self.load()
        if self.sampled is None:
            return before + after
        return before + json.dumps(sampled).encode() + after


def number(value: object) -> float | None:
    """A JSON value as a finite float, or None if it is not one."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        as_float = float(value)
    except OverflowError:
        return None
    return as_float if math.isfinite(as_float) else None


def identifier(value: object) -> int | None:
    """A JSON value as a session id, or None if it is not a whole number."""
    as_float = number(value)
    if as_float is None or not as_float.is_integer():
        return None
    return int(as_float)


def rendered(session: Mapping[str, Any]) -> tuple[TextAround, SampledTracks | None]:
    """A session's JSON text around its sampled tracks, separated like the real service's, and these.

    Source: the recorded night, in which ``", "`` and ``": "`` separate and keys have no fixed order.
    """
    sampled = session.get("sampled_tracks")
    if not isinstance(sampled, Mapping):
        return (json.dumps(session).encode(), b""), None
    placed_last = {key: value for key, value in session.items() if key != "sampled_tracks"}
    before = json.dumps({**placed_last, "sampled_tracks": 0}).encode().removesuffix(b"0}")
    return (before, b"}"), sampled
