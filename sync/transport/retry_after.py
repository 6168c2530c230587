"""How long a vendor wants to be left alone. Arithmetic on headers; waiting is somebody else's job."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

# A number of seconds above this is a Unix time (2001 and later): nobody asks for a pause of 31 years.
UNIX_TIME = 1e9

NUMBER = re.compile(r"\s*\d+(\.\d+)?\s*", re.ASCII)


def http_date(text: str | None) -> datetime | None:
    """An HTTP date in UTC; None when there is none, or it cannot be read."""
    try:
        moment = parsedate_to_datetime(text or "")
        # "-0000" means UTC of an unknown place, and is parsed without a zone.
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError, TypeError):
        return None


def wanted_pause(headers: Mapping[str, str], *, now: datetime, cap: float) -> float | None:
    """Seconds that the vendor asked for, between zero and ``cap``; None when it asked for none.

    Retry-After counts in both of its forms, and before X-Rate-Limit-Reset, which is seconds (Yii2) or a
    Unix time.

    Args:
        headers: The answer's headers, found without regard to case.
        now: Our own clock, for an answer without a Date: differences are taken on the vendor's clock.
        cap: The longest pause that is granted.
    """
    now = http_date(headers.get("Date")) or now
    seconds = _retry_after(headers.get("Retry-After"), now)
    if seconds is None:
        seconds = _reset(headers.get("X-Rate-Limit-Reset"), now)
    return None if seconds is None else min(max(seconds, 0.0), cap)


def _retry_after(text: str | None, now: datetime) -> float | None:
    if (seconds := _number(text)) is not None:
        return seconds
    moment = http_date(text)
    return None if moment is None else (moment - now).total_seconds()


def _reset(text: str | None, now: datetime) -> float | None:
    seconds = _number(text)
    return seconds - now.timestamp() if seconds is not None and seconds > UNIX_TIME else seconds


def _number(text: str | None) -> float | None:
    # float() and not int(): thousands of digits become infinity, and then the cap.
    return float(text) if text and NUMBER.fullmatch(text) else None
