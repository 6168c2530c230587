"""Single values of the vendor's JSON, read as tolerantly as their meaning is certain. Pure and total."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from math import isfinite
from typing import Any
from uuid import UUID

EARLIEST, LATEST = -62_135_510_400.0, 253_402_300_800.0
"""Unix seconds of the years 1 and 10000: what PostgreSQL and Python both can name.

Not the very first day, whose first moment asyncpg takes for minus infinity.
"""

PAYLOAD_LIMIT = 2_000
"""Characters of an offending item that a reject keeps."""

_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
_UUID = re.compile(r"[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}", re.IGNORECASE)
_NUMBER = re.compile(r"[+-]?\d{1,300}(\.\d{1,300})?", re.ASCII)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TRUTH = {True: True, False: False, "1": True, "0": False, "true": True, "false": False}


def instant(seconds: float) -> datetime:
    """Unix seconds to an instant: one float64 product, rounded half to even to microseconds."""
    return _EPOCH + timedelta(microseconds=round(seconds * 1e6))


def number(value: Any) -> float | None:
    """A number, or a text that spells one, as a finite float64; None for anything else."""
    match value:
        case bool():
            return None
        case int() | float():
            pass
        case str() if _NUMBER.fullmatch(value.strip()):
            pass
        case _:
            return None
    try:
        read = float(value)
    except OverflowError:
        return None
    return read if isfinite(read) else None


def unix_seconds(value: Any) -> float | None:
    """Unix seconds that have a name as an instant; None for anything else."""
    seconds = number(value)
    return seconds if seconds is not None and EARLIEST <= seconds < LATEST else None


def whole_number(value: Any, bits: int) -> int | None:
    """A whole number that fits into a signed integer of so many bits; None for anything else."""
    if isinstance(value, int) and not isinstance(value, bool):
        read = value
    elif (real := number(value)) is not None and real.is_integer():
        read = int(value) if isinstance(value, str) and "." not in value else int(real)
    else:
        return None
    return read if -(2 ** (bits - 1)) <= read < 2 ** (bits - 1) else None


def truth(value: Any) -> bool | None:
    """A boolean, as PHP and databases spell it; None for anything else."""
    if isinstance(value, str):
        return _TRUTH.get(value.strip().lower())
    return _TRUTH.get(value) if isinstance(value, bool | int | float) else None


def uuid(value: Any) -> UUID | None:
    """A UUID; None for anything else."""
    return UUID(value.strip()) if isinstance(value, str) and _UUID.fullmatch(value.strip()) else None


def clean_text(text: str) -> str:
    """Text without what PostgreSQL cannot store: NUL and lone surrogates become U+FFFD."""
    return _UNSTORABLE.sub("\ufffd", text)


def json_text(value: Any) -> str:
    """Canonical JSON that a jsonb column takes: sorted keys, no NUL, no non-finite number."""
    return json.dumps(_clean(value), sort_keys=True, ensure_ascii=False, separators=(",", ":"))


def shorten(payload: Any) -> Any:
    """An offending item as a reject keeps it: clean, and not larger than a person wants to read."""
    try:
        text = json_text(payload)
    except (RecursionError, ValueError):  # nested too deeply, or a number of thousands of digits
        return None
    return json.loads(text) if len(text) <= PAYLOAD_LIMIT else {"shortened": text[:PAYLOAD_LIMIT]}


def kind(value: Any) -> str:
    """What a person calls a JSON value's type."""
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


def _clean(value: Any) -> Any:
    match value:
        case str():
            return clean_text(value)
        case float() if not isfinite(value):
            return str(value)
        case list() | tuple():
            return [_clean(part) for part in value]
        case dict():
            return {clean_text(str(key)): _clean(part) for key, part in value.items()}
    return value
