"""Text and JSON from outside, in a form that PostgreSQL holds and a person can read."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from math import isfinite
from typing import Any, Final

PAYLOAD_LIMIT: Final = 2_000
"""Characters of an offending item that a reject keeps."""

_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")


def storable(text: str) -> str:
    """Text without what PostgreSQL cannot hold: NUL and lone surrogates become U+FFFD."""
    return _UNSTORABLE.sub("\ufffd", text)


def _as_it_is(value: Any) -> Any:
    return value


def json_text(value: Any, read: Callable[[Any], Any] = _as_it_is) -> str:
    """Canonical JSON that a jsonb column takes: sorted keys, no NUL, no non-finite number.

    Args:
        value: A decoded value.
        read: Applied to every value and text in it: a vendor's JSON may hold more than is to be kept.
    """
    return json.dumps(_clean(value, read), sort_keys=True, ensure_ascii=False, separators=(",", ":"))


def shortened(payload: Any, read: Callable[[Any], Any] = _as_it_is) -> Any:
    """An offending item as a reject keeps it: clean, and not larger than a person wants to read."""
    try:
        text = json_text(payload, read)
    except (RecursionError, ValueError):  # nested too deeply, or a number of thousands of digits
        return None
    return json.loads(text) if len(text) <= PAYLOAD_LIMIT else {"shortened": text[:PAYLOAD_LIMIT]}


def kind(value: Any) -> str:
    """What a person calls a decoded JSON value."""
    match value:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case int() | float():
            return "a number"
        case str():
            return "a string"
        case list():
            return "an array"
    return "an object"


def _clean(value: Any, read: Callable[[Any], Any]) -> Any:
    match read(value):
        case str() as text:
            return storable(text)
        case float() as number if not isfinite(number):
            return str(number)
        case list() | tuple() as parts:
            return [_clean(part, read) for part in parts]
        case dict() as parts:
            return {_clean(str(key), read): _clean(part, read) for key, part in parts.items()}
        case plain:
            return plain
