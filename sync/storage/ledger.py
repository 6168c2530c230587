"""The record of runs: for people to read in SQL, and what a commit has to show.

A run belongs to the worker that holds its account's lease. It can be begun only under that lease, and a batch
is committed only while its run is ``running``: who takes over an account ends its runs first. For an account
that was forgotten none is begun.
"""

from __future__ import annotations

from typing import Final

import asyncpg

from sync.errors import LeaseLost
from sync.model import RunOutcome, StreamKey, Task
from sync.storage.failures import translated
from sync.storage.forgotten import SHARED, KnownAs, find_forgotten, identities_of, refusal

_BEGIN: Final = """
    WITH lease AS (
        SELECT FROM sync.leases WHERE source = $1 AND account = $2 AND worker_id = $4 FOR SHARE
    )
    INSERT INTO sync.run_log (source, account, task, worker_id)
    SELECT $1, $2, $3, $4 WHERE $4 IS NULL OR EXISTS (SELECT FROM lease)
    RETURNING run_id
"""


class PostgresLedger:
    """Writes ``sync.runs`` and the last error of each stream.

    Args:
        pool: Connections.
        worker: Who we are in ``sync.workers``; None where nobody shares the warehouse: no lease is asked for.
        known_as: What accounts are recognised by that were forgotten.
    """

    def __init__(
        self, pool: asyncpg.Pool, worker: int | None = None, known_as: KnownAs | None = None
    ) -> None:
        self._pool = pool
        self._worker = worker
        self._known_as = known_as

    async def begin(self, source: str, account: str, task: Task) -> int:
        """Open a run's row; its number identifies the run.

        Raises:
            LeaseLost: The account is not this worker's any more.
            AccountForgotten: Its data was removed, perhaps just now.
        """
        known = identities_of(self._known_as, source, [account])
        with translated():
            async with self._pool.acquire() as connection, connection.transaction():
                await connection.execute(SHARED)
                if found := (await find_forgotten(connection, source, known)).get(account):
                    raise refusal(source, account, found)
                run: int | None = await connection.fetchval(_BEGIN, source, account, task.kind, self._worker)
        if run is None:
            raise LeaseLost(f"another process works on account {account} of {source} now")
        return run

    async def finish(self, run: int, outcome: RunOutcome, *, verdict: str, error: str | None) -> None:
        """Close a run's row, unless somebody else did.

        Args:
            run: The run.
            outcome: Its traffic.
            verdict: ``done``, ``paused``, ``failed`` or ``interrupted``.
            error: What went wrong, already free of secrets.
        """
        with translated():
            await self._pool.execute(
                """
                UPDATE sync.run_log
                SET finished_at = now(), outcome = $2, requests = $3, bytes = $4, error = $5
                WHERE run_id = $1 AND outcome = 'running'
                """,
                run,
                verdict,
                outcome.traffic.requests,
                outcome.traffic.received_bytes,
                error,
            )

    async def failed(self, run: int, stream: StreamKey, error: str) -> None:
        """Note why a stream's last attempt failed, while the run lasts; the stream's progress stays."""
        with translated():
            await self._pool.execute(
                """
                WITH run AS (SELECT FROM sync.run_log WHERE run_id = $1 AND outcome = 'running')
                INSERT INTO sync.stream_state (source, account, stream, last_error, last_error_at)
                SELECT $2, $3, $4, $5, now() FROM run
                ON CONFLICT (source, account, stream) DO UPDATE
                SET last_error = excluded.last_error, last_error_at = excluded.last_error_at
                """,
                run,
                stream.source,
                stream.account,
                stream.stream,
                error,
            )
