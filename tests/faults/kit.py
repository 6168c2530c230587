"""Every fault there is, by name: what vendors do, what networks do, what databases do, what ends processes.

``docs/faults.md`` has a row for each of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final

from sync.emulators.faults import HTML_PAGE, MALFORMED_JSON, Disorder, Fault

STATUSES: Final = (204, 206, 302, 400, 404, 408, 409, 410, 422, 429, 500, 502, 503, 504, 599)

ANSWERS: Final[Mapping[str, Fault]] = {
    **{f"status-{status}": Fault(status=status) for status in STATUSES},
    "redirect": Fault(location="http://127.0.0.1:9/elsewhere"),
    "retry-after-seconds": Fault(status=429, retry_after=0.01),
    "retry-after-date": Fault(status=503, retry_after=datetime(2020, 1, 1, tzinfo=UTC)),
    "retry-after-absent": Fault(status=429),
    "retry-after-nonsense": Fault(status=429, retry_after="soon"),
    "cut-body": Fault(cut_after=40),
    "malformed-body": MALFORMED_JSON,
    "empty-body": Fault(body=b""),
    "html": HTML_PAGE,
    "wrong-content-type": Fault(content_type="text/plain"),
    "stall": Fault(stall=60),
    "slow-drip": Fault(drip=0.0, drip_bytes=7),
    "reset": Fault(reset=True),
    "duplicated-page": Fault(disorder=Disorder.DOUBLED),
    "shuffled-page": Fault(disorder=Disorder.SHUFFLED),
    "clock-behind": Fault(clock_skew=-86_400.0),
    "clock-ahead": Fault(clock_skew=86_400.0),
}
"""What happens to one answer of a vendor."""

CREDENTIALS: Final = ("expired-token", "refused-refresh", "status-401", "status-403")
"""What happens to who we are."""

NETWORK: Final = (
    "database-delay",
    "database-cut",
    "database-reset",
    "database-blackhole",
    "database-refused",
)
"""What happens between nightshift and PostgreSQL."""

SERVER: Final = ("disk-full", "statement-timeout", "back-end-terminated", "server-crash")
"""What happens to PostgreSQL."""

PROCESS: Final = ("killed", "failpoint-kill", "failpoint-raise", "failpoint-drop", "failpoint-end", "frozen")
"""What happens to a process of ours."""

ALL: Final = (*ANSWERS, *CREDENTIALS, *NETWORK, *SERVER, *PROCESS)
