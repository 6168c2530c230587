"""What people do about rejects: look at them, and declare them settled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import asyncpg
import msgspec

from sync.model import Reject
from sync.storage.failures import translated

_CHOSEN: Final = """
    SELECT source, account, record_key, item_key, reason, CASE WHEN $5 THEN payload END AS payload, attempts,
           first_seen_at, last_seen_at, resolved_at, note, instant, items
    FROM sync.reject_log
    WHERE ($1::text IS NULL OR source = $1) AND ($2::text IS NULL OR account = $2)
      AND ($3::text IS NULL OR item_key = $3) AND ($4 OR resolved_at IS NULL)
    ORDER BY source, account, reason, item_key
"""
_KNOWN: Final = """
    SELECT EXISTS (SELECT FROM sync.leases WHERE source = $1 AND account = $2)
        OR EXISTS (SELECT FROM sync.reject_log WHERE source = $1 AND account = $2)
"""
_SETTLE: Final = """
    UPDATE sync.reject_log SET resolved_at = now(), settled = true, note = $4
    WHERE source = $1 AND account = $2 AND item_key = $3 AND resolved_at IS NULL
    RETURNING true
"""


@dataclass(frozen=True, slots=True)
class FiledReject:
    """A reject as the warehouse keeps it.

    Attributes:
        record_key: What it belongs to.
        item_key: What was rejected; unique within the account.
        attempts: How often it was seen.
        resolved_at: When its record came right, or a person settled it; None: it is open.
        note: What that person said.
        instant: When it happened, of a datapoint.
        items: How many source items it stands for.
    """

    source: str
    account: str
    record_key: str
    item_key: str
    reason: str
    payload: Any
    attempts: int
    first_seen_at: datetime
    last_seen_at: datetime
    resolved_at: datetime | None
    note: str | None
    instant: datetime | None
    items: int

    @property
    def reject(self) -> Reject:
        """The reject as its source made it."""
        return Reject(
            self.record_key, self.item_key, self.reason, self.payload, instant=self.instant, items=self.items
        )

    def plain(self) -> dict[str, Any]:
        """As ``sync.rejects`` has it, in values that JSON has words for."""
        return {
            "source": self.source,
            "account": self.account,
            "item_key": self.item_key,
            "reason": self.reason,
            "payload": self.payload,
            "attempts": self.attempts,
            "first_seen_at": self.first_seen_at,
            "last_seen_at": self.last_seen_at,
            "resolved_at": self.resolved_at,
            "note": self.note,
        }


class PostgresTriage:
    """The rejects of a warehouse."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def rejects(
        self,
        *,
        source: str | None = None,
        account: str | None = None,
        item_key: str | None = None,
        closed: bool = False,
        payloads: bool = True,
    ) -> Sequence[FiledReject]:
        """Rejects by source, account and reason.

        Args:
            source: Only of this source.
            account: Only of this account.
            item_key: Only this item.
            closed: Those as well that are resolved.
            payloads: With what was rejected; that may be much.
        """
        with translated():
            rows = await self._pool.fetch(_CHOSEN, source, account, item_key, closed, payloads)
        return [_filed(row) for row in rows]

    async def knows(self, source: str, account: str) -> bool:
        """Whether an account was ever worked on, configured or not."""
        with translated():
            return bool(await self._pool.fetchval(_KNOWN, source, account))

    async def settle(self, reject: FiledReject, note: str) -> bool:
        """Close a reject on a person's word; it opens again when it is seen again.

        Returns:
            False where it was closed already.
        """
        with translated():
            return bool(
                await self._pool.fetchval(_SETTLE, reject.source, reject.account, reject.item_key, note)
            )


def _filed(row: Mapping[str, Any]) -> FiledReject:
    columns = dict(row)
    payload = columns.pop("payload")
    return FiledReject(**columns, payload=None if payload is None else msgspec.json.decode(payload))
