"""Old runs become daily totals: ``sync.run_log`` stays small, and no sum over ``sync.runs`` ever changes."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import asyncpg

from sync.storage.failures import translated

KEPT: Final = timedelta(days=90)
"""For so long every run has a row of its own."""

QUIET_KEPT: Final = timedelta(days=7)
"""And one that found nothing new: a thousand accounts have a hundred thousand of those a day."""

AT_ONCE: Final = 10_000
"""Runs that are added up in one transaction."""

_LOCK: Final = "hashtext('nightshift.housekeeping')"

# Whole days (UTC), so that a day's quiet runs are added up together, and later the rest of them.
_IS_OLD: Final = """
    outcome <> 'running' AND (
        started_at < date_trunc('day', $1::timestamptz, 'UTC')
        OR started_at < date_trunc('day', $2::timestamptz, 'UTC')
           AND outcome = 'done' AND stored = 0 AND rejected = 0 AND error IS NULL)
"""

_DAYS: Final = f"""
    SELECT DISTINCT date_trunc('day', started_at, 'UTC') AS day FROM sync.run_log WHERE {_IS_OLD} ORDER BY day
"""  # noqa: S608 - constants

# A run is counted by the statement that removes it, which PostgreSQL lets only one transaction do.
_ADD_UP: Final = f"""
    WITH old AS (
        DELETE FROM sync.run_log WHERE run_id IN (
            SELECT run_id FROM sync.run_log
            WHERE started_at >= $3::timestamptz AND started_at < $3::timestamptz + interval '24 h'
              AND {_IS_OLD}
            LIMIT $4 FOR UPDATE SKIP LOCKED)
        RETURNING *
    ), added AS (
        INSERT INTO sync.run_days AS d (
            day, source, account, task, outcome, runs, started_at, finished_at,
            read, stored, unchanged, superseded, duplicate, rejected, requests, bytes)
        SELECT ($3::timestamptz AT TIME ZONE 'UTC')::date, source, account, task, outcome,
               count(*), min(started_at), max(finished_at),
               sum(read), sum(stored), sum(unchanged), sum(superseded), sum(duplicate), sum(rejected),
               sum(requests), sum(bytes)
        FROM old GROUP BY source, account, task, outcome ORDER BY source, account, task, outcome
        ON CONFLICT (day, source, account, task, outcome) DO UPDATE SET
            runs = d.runs + excluded.runs,
            started_at = least(d.started_at, excluded.started_at),
            finished_at = greatest(d.finished_at, excluded.finished_at),
            read = d.read + excluded.read,
            stored = d.stored + excluded.stored,
            unchanged = d.unchanged + excluded.unchanged,
            superseded = d.superseded + excluded.superseded,
            duplicate = d.duplicate + excluded.duplicate,
            rejected = d.rejected + excluded.rejected,
            requests = d.requests + excluded.requests,
            bytes = d.bytes + excluded.bytes
    )
    SELECT count(*) FROM old
"""  # noqa: S608 - constants


@dataclass(frozen=True, slots=True, kw_only=True)
class Housekeeping:
    """What was tidied.

    Attributes:
        runs: Runs that were added up.
        days: Days that they were of.
    """

    runs: int = 0
    days: int = 0


async def keep_house(pool: asyncpg.Pool, *, now: datetime | None = None) -> Housekeeping:
    """Add up the runs that are older than ``KEPT``, and the quiet ones that are older than ``QUIET_KEPT``.

    A run that still runs is left alone. Each transaction takes at most ``AT_ONCE`` runs of one day: nobody
    waits for long, and an interrupted call has done what it did. Where another process keeps house already,
    nothing is done.

    Args:
        pool: Connections.
        now: What time it is; the database's clock where it is not given.

    Raises:
        StorageUnavailable: PostgreSQL is away; what was added up stays added up.
    """
    runs = days = 0
    with translated():
        async with pool.acquire() as connection:
            if not await connection.fetchval(f"SELECT pg_try_advisory_lock({_LOCK})"):
                return Housekeeping()
            try:
                moment = now or await connection.fetchval("SELECT now()")
                bounds = (moment - KEPT, moment - QUIET_KEPT)
                for row in await connection.fetch(_DAYS, *bounds):
                    added = await _add_up(connection, bounds, row["day"])
                    runs, days = runs + added, days + bool(added)
            finally:
                await connection.execute(f"SELECT pg_advisory_unlock({_LOCK})")
    return Housekeeping(runs=runs, days=days)


async def _add_up(connection: asyncpg.Connection, bounds: tuple[datetime, datetime], day: datetime) -> int:
    """Add up a day's old runs, in transactions of their own; how many there were."""
    total = 0
    while True:
        added: int = await connection.fetchval(_ADD_UP, *bounds, day, AT_ONCE)
        total += added
        if added < AT_ONCE:
            return total
