"""What is asked for, how far a stream is, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, Literal, Self

from sync.model.batch import Interval, Reject


@dataclass(frozen=True, slots=True)
class Task:
    """What a person or a schedule asks of a source.

    Attributes:
        kind: ``once`` reads what is new (all history on an empty warehouse); ``retry`` looks again at what
            could not be had or proved before, where that is due; ``backfill`` reads history; ``archive``
            reads a stretch of time whatever was read before, and keeps no cursor; ``verify`` compares
            the source with the warehouse.
        since: Where a backfill or a verification begins; None means the source's own beginning.
        until: Where it ends; None means now.
        reload: Read again what is already covered.
        repair: Read again what a verification finds to differ.
        rejects: For ``retry``: what shall be read again now, due or not, and nothing else.
    """

    kind: Literal["once", "retry", "backfill", "archive", "verify"]
    since: datetime | None = None
    until: datetime | None = None
    reload: bool = False
    repair: bool = False
    rejects: tuple[Reject, ...] = ()


@dataclass(frozen=True, slots=True)
class StreamState:
    """A stream's progress as the warehouse has it: the only thing that travels back to a source."""

    cursor: Mapping[str, Any] | None = None
    coverage: tuple[Interval, ...] = ()


@dataclass(frozen=True, slots=True)
class Tally:
    """The ledger of items: what came in, and what became of each.

    ``read`` is counted where answers are decoded, the other five where rows are written, so that a
    difference would show.
    """

    read: int = 0
    stored: int = 0
    unchanged: int = 0
    superseded: int = 0
    duplicate: int = 0
    rejected: int = 0

    @property
    def accounted_for(self) -> int:
        """Items whose fate is known; equal to ``read`` unless something was lost."""
        return self.stored + self.unchanged + self.superseded + self.duplicate + self.rejected

    def __add__(self, other: Self) -> Tally:
        return Tally(**{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)})


@dataclass(frozen=True, slots=True)
class Traffic:
    """What talking to a vendor has cost so far."""

    requests: int = 0
    received_bytes: int = 0

    def __sub__(self, other: Self) -> Traffic:
        return Traffic(self.requests - other.requests, self.received_bytes - other.received_bytes)


@dataclass(frozen=True, slots=True)
class RunOutcome:
    """How one account's run ended.

    Attributes:
        error: Why not all could be done; None: it was.
        paused: Whether the rest waits for another run, because others waited for this one.
    """

    source: str
    account: str
    tally: Tally
    traffic: Traffic
    error: Exception | None = None
    paused: bool = False
