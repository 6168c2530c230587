"""Who works on which account: at most one process at a time, and once a cycle.

A lease is held by a worker until it gives it back, or until it falls silent and others take it (``workers``).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import asyncpg

from sync.storage.failures import translated
from sync.storage.forgotten import SHARED, KnownAs, find_forgotten, identities_of

# A cycle of the future was written by a clock that was wrong.
_IS_DUE = """
    l.worker_id IS NULL AND (
        $4::timestamptz IS NULL
        OR coalesce((l.cycles ->> $3)::timestamptz, '-infinity') < $4
        OR (l.cycles ->> $3)::timestamptz > now() + interval '1 minute'
        OR (l.retries ->> $3)::timestamptz <= now()
        OR ($5::boolean AND l.failures > 0)
    )
"""
_DUE = f"""
    SELECT l.account FROM unnest($2::text[]) WITH ORDINALITY AS wanted (account, place)
    JOIN sync.leases l ON l.source = $1 AND l.account = wanted.account
    WHERE {_IS_DUE} ORDER BY wanted.place
"""  # noqa: S608 - constants
# The lock on our own row: whoever takes us for dead right now waits, and then finds what we claim.
_CLAIM = f"""
    WITH me AS (
        SELECT worker_id FROM sync.workers WHERE worker_id = $6 FOR KEY SHARE
    ), free AS (
        SELECT l.account FROM sync.leases l
        WHERE EXISTS (SELECT FROM me) AND l.source = $1 AND l.account = ANY ($2) AND {_IS_DUE}
        ORDER BY l.account FOR UPDATE SKIP LOCKED
    )
    UPDATE sync.leases l
    SET worker_id = me.worker_id, work = $3, claimed_at = now(), retries = l.retries - $3::text,
        cycles = CASE WHEN $4::timestamptz IS NULL THEN l.cycles
                      ELSE l.cycles || jsonb_build_object($3::text, $4::timestamptz) END
    FROM free, me WHERE l.source = $1 AND l.account = free.account
    RETURNING l.account
"""  # noqa: S608 - constants
_UNKNOWN = """
    SELECT account FROM unnest($2::text[]) AS account
    EXCEPT SELECT account FROM sync.leases WHERE source = $1 ORDER BY account
"""


class PostgresLeases:
    """The leases of one worker.

    Args:
        pool: Connections.
        worker: Who we are in ``sync.workers``.
        known_as: What accounts are recognised by that were forgotten.
    """

    def __init__(self, pool: asyncpg.Pool, worker: int, known_as: KnownAs | None = None) -> None:
        self._pool = pool
        self._worker = worker
        self._known_as = known_as

    async def due(
        self, source: str, accounts: Sequence[str], work: str, cycle: datetime, *, retry_failed: bool = False
    ) -> list[str]:
        """Accounts that nobody works on and that were not done in a cycle yet, in the order given.

        Args:
            source: The accounts' source.
            accounts: Which ones.
            work: The kind of work; each kind has cycles of its own.
            cycle: When the cycle began.
            retry_failed: Those as well whose last work failed, whenever that was.
        """
        with translated():
            await self._know(source, accounts)
            rows = await self._pool.fetch(_DUE, source, list(accounts), work, cycle, retry_failed)
        return [row["account"] for row in rows]

    async def claim(
        self,
        source: str,
        accounts: Sequence[str],
        work: str,
        cycle: datetime | None = None,
        *,
        retry_failed: bool = False,
    ) -> set[str]:
        """Take what is free and due of these; see ``due``. Without a cycle, all that is free is due.

        Where that fails, its answer may have been lost on the way: give back what was asked for.
        """
        with translated():
            if cycle is None:
                await self._know(source, accounts)
            rows = await self._pool.fetch(
                _CLAIM, source, list(accounts), work, cycle, retry_failed, self._worker
            )
        return {row["account"] for row in rows}

    async def release(
        self,
        source: str,
        account: str,
        *,
        done: bool,
        failed: bool | None = None,
        retry: bool = False,
    ) -> None:
        """Give an account back; a no-op where it was lost.

        Args:
            source: The account's source.
            account: The account.
            done: Whether the work came to its end; if not, it is due again at once.
            failed: Whether it ended with an error; None: it proved nothing either way.
            retry: Whether it is due again before its next cycle: in a minute, after each failure in a row in
                twice that time, up to an hour.
        """
        with translated():
            await self._pool.execute(
                """
                WITH ended AS (  -- a run whose end could not be written down when it came
                    UPDATE sync.run_log SET outcome = 'failed', finished_at = now(),
                        error = coalesce(error, 'the warehouse was away')
                    WHERE worker_id = $3 AND source = $1 AND account = $2 AND outcome = 'running'
                )
                UPDATE sync.leases
                SET worker_id = NULL, work = NULL,
                    cycles = CASE WHEN $4 THEN cycles ELSE cycles - coalesce(work, '') END,
                    failures = CASE $5::bool WHEN true THEN failures + 1 WHEN false THEN 0 ELSE failures END,
                    retries = CASE WHEN NOT $6::bool THEN retries ELSE retries || jsonb_build_object(
                        work, now() + least(interval '1 minute' * 2 ^ least(failures, 6), interval '1 hour'))
                    END
                WHERE source = $1 AND account = $2 AND worker_id = $3
                """,
                source,
                account,
                self._worker,
                done,
                failed,
                retry,
            )

    async def holder(self, source: str, account: str) -> str | None:
        """Who works on an account, for a person to read; None: nobody does."""
        with translated():
            holder: str | None = await self._pool.fetchval(
                """
                SELECT format('`nightshift %s` on %s (process %s) since %s', w.command, w.host, w.pid,
                              to_char(l.claimed_at AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI "UTC"'))
                FROM sync.leases l JOIN sync.workers w USING (worker_id)
                WHERE l.source = $1 AND l.account = $2
                """,
                source,
                account,
            )
        return holder

    async def _know(self, source: str, accounts: Sequence[str]) -> None:
        """Make the leases of accounts; of those that were forgotten not even the name is kept."""
        rows = await self._pool.fetch(_UNKNOWN, source, list(accounts))
        if not rows:
            return
        unknown = [row["account"] for row in rows]
        async with self._pool.acquire() as connection, connection.transaction():
            await connection.execute(SHARED)
            forgotten = await find_forgotten(
                connection, source, identities_of(self._known_as, source, unknown)
            )
            await connection.execute(
                """
                INSERT INTO sync.leases (source, account) SELECT $1, unnest($2::text[])
                ON CONFLICT DO NOTHING
                """,
                source,
                [account for account in unknown if account not in forgotten],
            )
