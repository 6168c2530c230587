"""The log of rejects: what could not become a row, and when that was over."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

import asyncpg
import structlog

from sync.model import Record, Reject, StreamKey, Stretch
from sync.storage.values import json_text, multirange

log = structlog.get_logger(__name__)

MOST_PAYLOAD: Final = 16 * 1024
"""Characters of JSON beyond which a payload is cut, whatever its source thought a person wants to read."""

# Numbers aside, equal reasons are one cause. Of those who meet it at the same moment one takes the lock,
# and speaks.
_BEGINNINGS: Final = r"""
    SELECT new.item_key, new.reason
    FROM (
        SELECT DISTINCT ON (cause) cause, item_key, reason
        FROM unnest($3::text[], $4::text[]) AS item (item_key, reason)
        CROSS JOIN LATERAL regexp_replace(reason, '\d[\d,.]*', 'N', 'g') AS cause
        ORDER BY cause, item_key
    ) AS new
    WHERE (
        SELECT true FROM sync.reject_log r
        WHERE r.source = $1 AND r.account = $2 AND r.resolved_at IS NULL
          AND regexp_replace(r.reason, '\d[\d,.]*', 'N', 'g') = new.cause
        LIMIT 1) IS NULL
      AND pg_try_advisory_xact_lock(hashtextextended(format('%s/%s/%s', $1, $2, new.cause), 0))
"""


async def write_rejects(
    connection: asyncpg.Connection,
    stream: StreamKey,
    rejects: Iterable[Reject],
    *,
    part: int | None = None,
) -> None:
    """Add rejects, or note that they were seen again; with the group of data sets they were read with.

    Logged is what the account has no open reject of the same cause for, once for all its items.
    """
    ordered = sorted(rejects, key=lambda reject: reject.item_key)  # one order for everybody, see fold
    if not ordered:
        return
    beginnings = await connection.fetch(
        _BEGINNINGS, stream.source, stream.account, [r.item_key for r in ordered], [r.reason for r in ordered]
    )
    await connection.executemany(
        """
        INSERT INTO sync.reject_log AS r
            (source, account, record_key, item_key, reason, payload, part, instant, items)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
        ON CONFLICT (source, account, item_key) DO UPDATE SET
            record_key = excluded.record_key, reason = excluded.reason, payload = excluded.payload,
            part = excluded.part, instant = excluded.instant, items = excluded.items,
            attempts = r.attempts + 1, last_seen_at = now(), resolved_at = NULL, settled = false
        """,
        [
            (
                stream.source,
                stream.account,
                r.record_key,
                r.item_key,
                r.reason,
                _payload(r.payload),
                part,
                r.instant,
                r.items if r.counts else 0,
            )
            for r in ordered
        ],
    )
    for row in beginnings:
        log.warning(
            "rejects.began",
            source=stream.source,
            account=stream.account,
            reason=row["reason"],
            item=row["item_key"],
        )


def _payload(payload: Any) -> str | None:
    text = json_text(payload)
    if text is None or len(text) <= MOST_PAYLOAD:
        return text
    return json_text({"shortened": text[: MOST_PAYLOAD // 2 - 100]})  # quotes and backslashes get another one


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
        UPDATE sync.reject_log SET resolved_at = coalesce(resolved_at, now()), settled = false
        WHERE source = $1 AND record_key = $2 AND part = $3 AND instant <@ $4::tstzmultirange
          AND instant IS NOT NULL AND (resolved_at IS NULL OR settled)
          AND NOT (account = $5 AND item_key = ANY ($6))
        """,
        stream.source,
        stretch.label,
        stretch.part,
        multirange(stretch.replaced),
        stream.account,
        [reject.item_key for reject in stretch.rejects],
    )
