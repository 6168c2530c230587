"""One look at the warehouse, for health and metrics: every few seconds, so that it has to be cheap.

It reads small tables and one row a session; never datapoints, samples or track values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import asyncpg

from sync.model import StreamKey, StreamSurvey, Survey
from sync.storage.failures import translated

# 0.4 s for 100,000 sessions of each source with two raw signals a night: one core, no temporary files.
_GENTLY: Final = "SET LOCAL work_mem = '64MB'; SET LOCAL max_parallel_workers_per_gather = 0"
_STREAMS: Final = """
    SELECT source, account, stream, last_success_at, last_error,
           extract(epoch FROM now() - last_success_at)::float8 AS lag, gaps.count AS gaps,
           gaps.seconds AS gap_seconds
    FROM sync.stream_state
    CROSS JOIN LATERAL (
        SELECT count(*) AS count,
               coalesce(extract(epoch FROM sum(upper(gap) - lower(gap))), 0)::float8 AS seconds
        FROM unnest(range_merge(coverage)::tstzmultirange - coverage) AS gap
    ) AS gaps
    WHERE stream <> 'verification'  -- which reads nothing: it is neither fresh nor late
    ORDER BY source, account, stream
"""
# The status as in the view bace.data_sessions, without the rest of it: what was loaded is added up there.
_DATA_SESSIONS: Final = """
    SELECT CASE WHEN r.ended_at IS NULL OR r.is_ingestion_finished IS NOT TRUE THEN 'open'
                WHEN c.digest = r.digest THEN c.status
                ELSE 'loading' END AS status,
           count(*) AS count
    FROM bace.session_records r
    LEFT JOIN bace.session_checks c USING (id_data_session)
    GROUP BY 1
"""
_SAMPLED_TRACKS: Final = "SELECT status, count(*) AS count FROM beddit.sampled_tracks GROUP BY 1"
_REJECTS: Final = "SELECT source, count(*) AS count FROM sync.reject_log WHERE resolved_at IS NULL GROUP BY 1"
_DIFFERENCES: Final = (
    "SELECT source, count(*) AS count FROM sync.difference_log WHERE resolved_at IS NULL GROUP BY 1"
)
_WORKERS: Final = "SELECT count(*) FROM sync.workers WHERE heartbeat_at + lease > now()"
_LEASES: Final = "SELECT count(*) FROM sync.leases WHERE worker_id IS NOT NULL"


async def read_survey(pool: asyncpg.Pool) -> Survey:
    """Look at the warehouse, in one snapshot.

    Raises:
        StorageUnavailable: PostgreSQL is away.
    """
    with translated():
        async with pool.acquire() as c, c.transaction(isolation="repeatable_read", readonly=True):
            await c.execute(_GENTLY)
            return Survey(
                streams=tuple(_stream(row) for row in await c.fetch(_STREAMS)),
                data_sessions=_counts(await c.fetch(_DATA_SESSIONS)),
                sampled_tracks=_counts(await c.fetch(_SAMPLED_TRACKS)),
                open_rejects=_counts(await c.fetch(_REJECTS)),
                open_differences=_counts(await c.fetch(_DIFFERENCES)),
                workers=await c.fetchval(_WORKERS),
                leases=await c.fetchval(_LEASES),
            )


def _stream(row: Mapping[str, object]) -> StreamSurvey:
    columns = dict(row)
    key = StreamKey(*(str(columns.pop(name)) for name in ("source", "account", "stream")))
    return StreamSurvey(key=key, **columns)  # type: ignore[arg-type]  # the columns are named as the fields


def _counts(rows: Sequence[Sequence[object]]) -> Mapping[str, int]:
    """Rows of a name and a number."""
    return dict(rows)  # type: ignore[arg-type]
