"""What the BACE source wants to know."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Account:
    """One BACE account: a person's, and the client that the vendor issued for it."""

    client_id: str
    client_secret: str = field(repr=False)
    username: str
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class BaceSettings:
    """The source's settings, checked by whoever made them.

    Attributes:
        base_url: The API's host, without ``/api/v2``.
        accounts: Accounts by the name that people gave them.
        tokens: Folder for the accounts' tokens; it is made, and nobody else may read it.
        ca_file: Certificate authorities to trust beside the system's.
        renew_before: A token is renewed this long before it expires.
        margin: Data is wanted from this long before a session's start until this long after its end: stamps
            have fractions, and the clocks of devices err.
        settle: A session that is not final counts as read up to this long before its newest sample.
        overlap: Each pass over changed sessions reads this much of the past again.
    """

    base_url: str
    accounts: Mapping[str, Account]
    tokens: Path
    ca_file: Path | None = None
    renew_before: timedelta = timedelta(seconds=60)
    margin: timedelta = timedelta(seconds=60)
    settle: timedelta = timedelta(minutes=15)
    overlap: timedelta = timedelta(minutes=5)
