"""What the Beddit source wants to know."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Account:
    """One person's sessions: the vendor issues one token a user."""

    user_id: int
    token: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class BedditSettings:
    """The source's settings, checked by whoever made them.

    Attributes:
        base_url: The API's host.
        accounts: Accounts by the name that people gave them.
        spool: Folder for blobs that are being downloaded; on a real disk, not in memory.
        ca_file: Certificate authorities to trust beside the system's.
        allow_private_blob_hosts: Whether raw signal may come from private hosts and over plain http.
        blob_max_bytes: A larger blob is refused.
        batch_bytes: Answer bytes that are decoded before they are committed.
        history_start: No session is older.
        longest_session: Windows overlap by this much: what a range means at its edges is undocumented.
        overlap: Each incremental pass reads this much of the past again.
        sweep_overlap: And this much once a ``sweep_every``.
        sweep_every: See ``sweep_overlap``.
    """

    base_url: str
    accounts: Mapping[str, Account]
    spool: Path
    ca_file: Path | None = None
    allow_private_blob_hosts: bool = False
    blob_max_bytes: int = 256 << 20
    batch_bytes: int = 8 << 20
    history_start: datetime = datetime(2012, 1, 1, tzinfo=UTC)
    longest_session: timedelta = timedelta(hours=48)
    overlap: timedelta = timedelta(seconds=1)
    sweep_overlap: timedelta = timedelta(days=7)
    sweep_every: timedelta = timedelta(days=1)
