"""What one look at the warehouse says of the work: what health and metrics are made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from sync.model.batch import StreamKey


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamSurvey:
    """How far one stream is.

    Attributes:
        key: The stream.
        last_success_at: When it was last up to date; None: never.
        lag: Seconds since then.
        last_error: Why the last attempt failed; None after a success.
        gaps: Stretches of time within what is covered that were not read yet.
        gap_seconds: How long they are together.
    """

    key: StreamKey
    last_success_at: datetime | None = None
    lag: float | None = None
    last_error: str | None = None
    gaps: int = 0
    gap_seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """A snapshot of the warehouse, by its own clock.

    Attributes:
        streams: Every stream that was ever worked on, also those of accounts that are configured no longer.
        data_sessions: How many BACE sessions have a status: ``open``, ``loading``, ``complete``,
            ``incomplete``.
        sampled_tracks: How many Beddit raw signals have a status, as in ``beddit.sampled_tracks``.
        open_rejects: Items that could not become rows, by source.
        open_differences: Where verifications found source and warehouse to differ, by source.
        workers: Processes that work here and were heard from within their lease.
        leases: Accounts that one of them works on now.
    """

    streams: tuple[StreamSurvey, ...] = ()
    data_sessions: Mapping[str, int] = field(default_factory=dict)
    sampled_tracks: Mapping[str, int] = field(default_factory=dict)
    open_rejects: Mapping[str, int] = field(default_factory=dict)
    open_differences: Mapping[str, int] = field(default_factory=dict)
    workers: int = 0
    leases: int = 0
