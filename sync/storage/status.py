"""What the warehouse says of itself: the facts behind ``nightshift status``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import asyncpg

from sync.storage.failures import translated

_STREAMS = """
    SELECT source, account, stream, last_success_at, lag, last_error,
           lower(coverage) AS covered_from, upper(coverage) AS covered_to,
           (SELECT coalesce(array_agg(lower(gap) || ' to ' || upper(gap)), '{}')
            FROM unnest(range_merge(coverage)::tstzmultirange - coverage) AS gap) AS gaps
    FROM sync.streams WHERE stream <> 'verification' ORDER BY source, account, stream
"""
_BLOBS = "SELECT status, count(*) AS count FROM beddit.sampled_tracks GROUP BY status ORDER BY status"
_MISSING_BLOBS = """
    SELECT status, reason, count(*) AS count, min(next_attempt_at) AS next_attempt_at
    FROM beddit.sampled_tracks WHERE status IN ('pending', 'unavailable')
    GROUP BY status, reason ORDER BY status DESC, count(*) DESC, reason
"""
_REJECTS = """
    SELECT source, account, reason, count(*) AS count, max(last_seen_at) AS last_seen_at
    FROM sync.rejects WHERE resolved_at IS NULL
    GROUP BY source, account, reason ORDER BY count(*) DESC, reason, source, account
"""
_DIFFERENCES = """
    SELECT source, account, kind, count(*) AS count, min(found_at) AS found_at
    FROM sync.differences WHERE resolved_at IS NULL
    GROUP BY source, account, kind ORDER BY count(*) DESC, source, account, kind
"""
_NIGHTS = """
    SELECT count(*) AS nights, max(night) AS newest FROM beddit.sessions
"""
_DATA_SESSIONS = """
    SELECT status, count(*) AS count, max(started_at) AS newest FROM bace.data_sessions
    GROUP BY status ORDER BY array_position('{complete,loading,open,incomplete}', status)
"""
_DATAPOINTS = "SELECT coalesce(sum(loaded_count), 0)::bigint FROM bace.session_loads"
_UNFINISHED = """
    SELECT id_data_session, label, started_at, status, status_reason, datapoint_count, loaded_count,
           rejected_count
    FROM bace.data_sessions WHERE status = $1
    ORDER BY started_at DESC NULLS LAST, id_data_session LIMIT 20
"""
# Not from sync.runs: its daily totals are no runs, and have no number.
_RUNS = """
    SELECT source, account, task, started_at, finished_at, now() - started_at AS ago, outcome, read, stored,
           rejected, requests, error
    FROM sync.run_log
    JOIN (SELECT max(run_id) AS run_id FROM sync.run_log GROUP BY source, account) AS last USING (run_id)
    ORDER BY source, account
"""
WORKERS = """
    SELECT worker_id, command, host, pid, version, started_at, heartbeat_at, lease,
           now() - heartbeat_at AS silent_for, now() - heartbeat_at > lease AS gone
    FROM sync.workers ORDER BY worker_id
"""
_LEASES = """
    SELECT source, account, worker_id, work, claimed_at, now() - claimed_at AS working_for
    FROM sync.leases WHERE worker_id IS NOT NULL ORDER BY claimed_at, source, account
"""


@dataclass(frozen=True, slots=True)
class Status:
    """The warehouse's facts; each entry is a row by column name.

    Attributes:
        data_sessions: How many there are of each status.
        datapoints: How many samples their rows stand for.
        open_data_sessions: The newest of them, and likewise the incomplete ones: 20 at most.
        streams: How far each is; its gaps, and why its last attempt failed.
        blobs: How many raw signals there are of each status.
        missing_blobs: Those that are pending or unavailable, by reason.
        rejects: The open ones, by account and reason.
        differences: The open ones that verifications found, by account and kind.
        runs: The last one of each account.
        workers: The processes that share the warehouse; ``gone`` are those that others take over from.
        leases: Who works on what now.
    """

    schema_version: str
    nights: int
    newest_night: Any
    data_sessions: Mapping[str, int]
    newest_data_session: datetime | None
    datapoints: int
    open_data_sessions: Sequence[Mapping[str, Any]]
    incomplete_data_sessions: Sequence[Mapping[str, Any]]
    streams: Sequence[Mapping[str, Any]]
    blobs: Mapping[str, int]
    missing_blobs: Sequence[Mapping[str, Any]]
    rejects: Sequence[Mapping[str, Any]]
    differences: Sequence[Mapping[str, Any]]
    runs: Sequence[Mapping[str, Any]]
    workers: Sequence[Mapping[str, Any]]
    leases: Sequence[Mapping[str, Any]]

    def facts(self) -> dict[str, Any]:
        """The facts by name."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    def plain(self) -> dict[str, Any]:
        """The same as values that JSON has words for; durations in seconds."""
        return {name: _plain(value) for name, value in self.facts().items()}


async def read_status(pool: asyncpg.Pool) -> Status:
    """Read all facts in one snapshot.

    Raises:
        StorageUnavailable: PostgreSQL is away.
    """
    with translated():
        async with pool.acquire() as c, c.transaction(isolation="repeatable_read", readonly=True):
            nights = await c.fetchrow(_NIGHTS)
            sessions = await c.fetch(_DATA_SESSIONS)
            return Status(
                schema_version=await c.fetchval("SELECT version_num FROM sync.alembic_version"),
                nights=nights["nights"],
                newest_night=nights["newest"],
                data_sessions={row["status"]: row["count"] for row in sessions},
                newest_data_session=max((row["newest"] for row in sessions if row["newest"]), default=None),
                datapoints=await c.fetchval(_DATAPOINTS),
                open_data_sessions=[dict(row) for row in await c.fetch(_UNFINISHED, "open")],
                incomplete_data_sessions=[dict(row) for row in await c.fetch(_UNFINISHED, "incomplete")],
                streams=[dict(row) for row in await c.fetch(_STREAMS)],
                blobs={row["status"]: row["count"] for row in await c.fetch(_BLOBS)},
                missing_blobs=[dict(row) for row in await c.fetch(_MISSING_BLOBS)],
                rejects=[dict(row) for row in await c.fetch(_REJECTS)],
                differences=[dict(row) for row in await c.fetch(_DIFFERENCES)],
                runs=[dict(row) for row in await c.fetch(_RUNS)],
                workers=[dict(row) for row in await c.fetch(WORKERS)],
                leases=[dict(row) for row in await c.fetch(_LEASES)],
            )


def _plain(value: Any) -> Any:
    match value:
        case Mapping():
            return {key: _plain(part) for key, part in value.items()}
        case list() | tuple():
            return [_plain(part) for part in value]
        case timedelta():
            return value.total_seconds()
        case datetime():
            return value.isoformat()
        case None | bool() | int() | float() | str():
            return value
    return str(value)
