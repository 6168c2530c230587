"""The record of runs, for people to read in SQL."""

from __future__ import annotations

import asyncpg

from sync.model import RunOutcome, StreamKey, Task
from sync.storage.failures import translated


class PostgresLedger:
    """Writes ``sync.runs`` and the last error of each stream."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def begin(self, source: str, account: str, task: Task) -> int:
        """Open a run's row; its number identifies the run."""
        with translated():
            run: int = await self._pool.fetchval(
                "INSERT INTO sync.run_log (source, account, task) VALUES ($1, $2, $3) RETURNING run_id",
                source,
                account,
                task.kind,
            )
        return run

    async def finish(self, run: int, outcome: RunOutcome, *, verdict: str, error: str | None) -> None:
        """Close a run's row.

        Args:
            run: The run.
            outcome: Its traffic.
            verdict: ``done``, ``failed`` or ``interrupted``.
            error: What went wrong, already free of secrets.
        """
        with translated():
            await self._pool.execute(
                """
                UPDATE sync.run_log
                SET finished_at = now(), outcome = $2, requests = $3, bytes = $4, error = $5
                WHERE run_id = $1
                """,
                run,
                verdict,
                outcome.traffic.requests,
                outcome.traffic.received_bytes,
                error,
            )

    async def failed(self, stream: StreamKey, error: str) -> None:
        """Note why a stream's last attempt failed; its progress stays where it was."""
        with translated():
            await self._pool.execute(
                """
                INSERT INTO sync.stream_state (source, account, stream, last_error, last_error_at)
                VALUES ($1, $2, $3, $4, now())
                ON CONFLICT (source, account, stream) DO UPDATE
                SET last_error = excluded.last_error, last_error_at = excluded.last_error_at
                """,
                stream.source,
                stream.account,
                stream.stream,
                error,
            )
