"""What came of one thing that was tried."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was tried.

    Attributes:
        subject: What it is about.
        ok: Whether it is as it should be.
        text: What was seen; where it is not ok, what to do.
        fatal: Whether no work is possible at all.
        note: Whether a person should know it although work can go on as it is.
    """

    subject: str
    ok: bool
    text: str
    fatal: bool = False
    note: bool = False


def note(subject: str, text: str) -> Finding:
    """Something that works, and that a person should know."""
    return Finding(subject, True, text, note=True)
