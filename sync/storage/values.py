"""Our values as asyncpg wants them."""

from __future__ import annotations

from collections.abc import Iterable

import asyncpg
import msgspec

from sync.model import Interval


def json_text(value: object) -> str | None:
    """JSON for a jsonb parameter; None stays NULL."""
    return None if value is None else msgspec.json.encode(value).decode()


def multirange(intervals: Iterable[Interval]) -> list[asyncpg.Range]:
    """Intervals for a tstzmultirange parameter."""
    return [asyncpg.Range(part.start, part.end, lower_inc=True, upper_inc=False) for part in intervals]
