"""The log of rejects: what could not become a row, and when that was over."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import asyncpg
import structlog

from sync.model import Record, Reject, StreamKey, Stretch
from sync.storage.values import json_text, multirange

log = structlog.get_logger(__name__)


async def write_rejects(
    connection: asyncpg.Connection,
    stream: StreamKey,
    rejects: Iterable[Reject],
    *,
    part: int | None = None,
) -> None:
    """Add rejects, or note that they were seen again; with the group of data sets they were read with.

    What was not known before is logged.
    """
    rows = await connection.fetchmany(
        """
        INSERT INTO sync.reject_log AS r
            (source, account, record_key, item_key, reason, payload, part, instant, items)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
        ON CONFLICT (source, account, item_key) DO UPDATE SET
            record_key = excluded.record_key, reason = excluded.reason, payload = excluded.payload,
            part = excluded.part, instant = excluded.instant, items = excluded.items,
            attempts = r.attempts + 1, last_seen_at = now(), resolved_at = NULL
        RETURNING r.item_key, r.reason, xmax = 0 AS is_new
        """,
        [
            (
                stream.source,
                stream.account,
                r.record_key,
                r.item_key,
                r.reason,
                json_text(r.payload),
                part,
                r.instant,
                r.items if r.counts else 0,
            )
            for r in sorted(rejects, key=lambda reject: reject.item_key)  # one order for everybody, see fold
        ],
    )
    for row in rows:
        if row["is_new"]:
            log.warning("item.rejected", item=row["item_key"], reason=row["reason"])


async def resolve_of_records(
    connection: asyncpg.Connection, stream: StreamKey, standing: Sequence[Record]
) -> None:
    """What the stored version of a record does not suffer from (any more) is resolved."""
    if not standing:
        return
    await connection.execute(
        """
        UPDATE sync.reject_log SET resolved_at = now()
        WHERE source = $1 AND account = $2 AND resolved_at IS NULL AND instant IS NULL
          AND record_key = ANY ($3) AND item_key <> ALL ($4)
        """,
        stream.source,
        stream.account,
        [record.label for record in standing],
        [reject.item_key for record in standing for reject in record.rejects],
    )


async def resolve_in_time(connection: asyncpg.Connection, stream: StreamKey, stretch: Stretch) -> None:
    """What the time that was read does not suffer from (any more) is resolved, whoever read it before."""
    await connection.execute(
        """
        UPDATE sync.reject_log SET resolved_at = now()
        WHERE source = $1 AND record_key = $2 AND part = $3 AND instant <@ $4::tstzmultirange
          AND instant IS NOT NULL AND resolved_at IS NULL
          AND NOT (account = $5 AND item_key = ANY ($6))
        """,
        stream.source,
        stretch.label,
        stretch.part,
        multirange(stretch.replaced),
        stream.account,
        [reject.item_key for reject in stretch.rejects],
    )
