"""The record of runs: for people to read in SQL, and what a commit has to show.

A run belongs to the worker that holds its account's lease. It can be begun only under that lease, and a batch
is committed only while its run is ``running``: who takes over an account ends its runs first.
"""

from __future__ import annotations

import asyncpg

from sync.errors import LeaseLost
from sync.model import RunOutcome, StreamKey, Task
from sync.storage.failures import translated


class PostgresLedger:
    """Writes ``sync.runs`` and the last error of each stream.

    Args:
        pool: Connections.
        worker: Who we are in ``sync.workers``; None where nobody shares the warehouse: no lease is asked for.
    """

    def __init__(self, pool: asyncpg.Pool, worker: int | None = None) -> None:
        self._pool = pool
        self._worker = worker

    async def begin(self, source: str, account: str, task: Task) -> int:
        """Open a run's row; its number identifies the run.

        Raises:
            LeaseLost: The account is not this worker's any more.
        """
        with translated():
            run: int | None = await self._pool.fetchval(
                """
                WITH lease AS (
                    SELECT FROM sync.leases WHERE source = $1 AND account = $2 AND worker_id = $4 FOR SHARE
                )
                INSERT INTO sync.run_log (source, account, task, worker_id)
                SELECT $1, $2, $3, $4 WHERE $4 IS NULL OR EXISTS (SELECT FROM lease)
                RETURNING run_id
                """,
                source,
                account,
                task.kind,
                self._worker,
            )
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
