"""Newer wins: which version of a record stays. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum, auto
from math import inf

from sync.model import Record


class Verdict(Enum):
    """What an offered version means to what is stored."""

    STORE = auto()
    RESTAMP = auto()  # equal content, but newer, or marked as missing until now: only its own row changes
    UNCHANGED = auto()
    SUPERSEDED = auto()


@dataclass(frozen=True, slots=True)
class Version:
    """A version of a record: ordered by stamp, told apart by digest; a stored one may be marked missing."""

    stamp: float | None
    digest: bytes
    missing: bool = False

    def judge(self, stored: Version | None, *, force: bool = False) -> Verdict:
        """What becomes of this version where ``stored`` is there already.

        Args:
            stored: The stored version; None: there is none.
            force: Write an equal version again, rows and all.
        """
        if stored is None:
            return Verdict.STORE
        mine, theirs = _order(self.stamp), _order(stored.stamp)
        if mine < theirs:
            return Verdict.SUPERSEDED
        if force or self.digest != stored.digest:
            return Verdict.STORE
        return Verdict.UNCHANGED if mine == theirs and not stored.missing else Verdict.RESTAMP


def version(record: Record) -> Version:
    """The version that a record carries."""
    return Version(record.row.get(record.head.stamp), record.row[record.head.digest])


@dataclass(frozen=True, slots=True)
class Folded:
    """The last standing version of each key, in key order, and how many items fell on the way."""

    records: tuple[Record, ...]
    duplicate: int
    superseded: int


def fold(records: Iterable[Record]) -> Folded:
    """Reduce a batch's records to one a key, as storing them one after the other would."""
    standing: dict[tuple[object, ...], Record] = {}
    duplicate = superseded = 0
    for record in records:
        rival = standing.get(record.key)
        verdict = version(record).judge(version(rival) if rival else None)
        if verdict is Verdict.UNCHANGED:
            duplicate += record.size
        elif verdict is Verdict.SUPERSEDED:
            superseded += record.size
        else:
            superseded += rival.size if rival else 0
            standing[record.key] = record
    # One order for everybody: two writers that lock the same rows never wait for each other in a circle.
    return Folded(tuple(standing[key] for key in sorted(standing)), duplicate, superseded)


def _order(stamp: float | None) -> float:
    return -inf if stamp is None else stamp
