"""Whether clocks agree: due times, cursors and signed addresses depend on it."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from sync.commands.check.finding import Finding

TOLERATED: Final = timedelta(seconds=60)


def compare_clocks(subject: str, whose: str, ahead: timedelta) -> Finding:
    """Judge a clock.

    Args:
        subject: The finding's.
        whose: The other clock's owner: ``the database``.
        ahead: How far its clock is ahead of this machine's.
    """
    if abs(ahead) <= TOLERATED:
        return Finding(subject, True, f"{whose}'s clock and this machine's agree")
    way = "ahead of" if ahead > timedelta() else "behind"
    text = f"{whose}'s clock is {abs(ahead).total_seconds():,.0f} s {way} this machine's: set them by NTP"
    return Finding(subject, False, text)
