"""Single values of the vendor's JSON, read as tolerantly as their meaning is certain. Pure and total."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from math import isfinite
from typing import Any
from uuid import UUID

EARLIEST, LATEST = -62_135_510_400.0, 253_402_300_800.0
"""Unix seconds of the years 1 and 10000: what PostgreSQL and Python both can name.

Not the very first day, whose first moment asyncpg takes for minus infinity.
"""

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
