"""Commits a batch: rows, rejects, coverage, cursor and tally in one transaction, all or nothing.

The order inside the transaction is: the records' own rows (their locks serialise writers and the version
guard decides), away with the details of what is replaced, COPY of the new details, then the bookkeeping.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from itertools import groupby
from typing import TypeAlias

import asyncpg
import msgspec

from sync.model import Batch, Head, Interval, Progress, Record, Reject, Rows, StreamKey, Tally, Update
from sync.storage.copy import encode
from sync.storage.database import while_connected
from sync.storage.failures import translated
from sync.storage.statements import delete_by_key, select_versions, upsert_guarded, upsert_plain
from sync.storage.versions import Verdict, Version, fold, version

Judged: TypeAlias = tuple[Record, Verdict]
"""A version of a record, and what became of it."""


class PostgresSink:
    """Stores batches in PostgreSQL."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def commit(self, run: int, batch: Batch) -> Tally:
        """Store a batch, all or nothing.

        Args:
            run: The run to whose row the tally is added.
            batch: What to store.

        Returns:
            What became of the batch's items.

        Raises:
            StorageUnavailable: PostgreSQL is away or ended the transaction; nothing was stored.
        """
        with translated():
            async with (
                self._pool.acquire() as connection,
                while_connected(connection),
                connection.transaction(),
            ):
                return await _write(connection, run, batch)


async def _write(connection: asyncpg.Connection, run: int, batch: Batch) -> Tally:
    everything = [*batch.rejects, *(reject for record in batch.records for reject in record.rejects)]
    tally = Tally(read=batch.read, rejected=sum(reject.counts for reject in everything))
    judged: list[Judged] = []
    for head, records in groupby(batch.records, key=lambda record: record.head):
        outcome, of_head = await _write_records(connection, head, list(records))
        tally += outcome
        judged += of_head
    await _write_updates(connection, batch.updates)
    await _write_rejects(connection, batch.stream, [*batch.rejects, *_new_rejects(judged)])
    await _resolve_rejects(connection, batch.stream, judged)
    if batch.progress is not None:
        await _write_progress(connection, batch.stream, batch.progress)
    await _write_knowledge(connection, batch)
    await _add_to_run(connection, run, tally)
    return tally


# --- records ---------------------------------------------------------------------------------------


async def _write_records(
    connection: asyncpg.Connection, head: Head, records: Sequence[Record]
) -> tuple[Tally, list[Judged]]:
    """Store what the version guard lets through; the tally, and what became of each key's last version."""
    folded = fold(records)
    tally = Tally(duplicate=folded.duplicate, superseded=folded.superseded)
    stored = await _stored_versions(connection, head, folded.records)
    verdicts = {record.key: version(record).judge(stored.get(record.key)) for record in folded.records}
    offered = [r for r in folded.records if verdicts[r.key] in (Verdict.STORE, Verdict.RESTAMP)]
    inserted = await _upsert_heads(connection, head, offered)

    # Another process may have inserted a key since we looked; then the guard in the statement decided.
    lost = [record for record in offered if record.key not in inserted]
    if lost:
        rivals = await _stored_versions(connection, head, lost)
        verdicts |= {record.key: version(record).judge(rivals.get(record.key)) for record in lost}

    written = [r for r in folded.records if verdicts[r.key] is Verdict.STORE]
    await _delete_details(connection, head, [r.key for r in written if not inserted[r.key]])
    await _copy_details(connection, written)
    for record in folded.records:
        tally += _outcome(verdicts[record.key], record.size)
    return tally, [(record, verdicts[record.key]) for record in folded.records]


def _outcome(verdict: Verdict, size: int) -> Tally:
    match verdict:
        case Verdict.STORE | Verdict.RESTAMP:
            return Tally(stored=size)
        case Verdict.UNCHANGED:
            return Tally(unchanged=size)
        case Verdict.SUPERSEDED:
            return Tally(superseded=size)


async def _stored_versions(
    connection: asyncpg.Connection, head: Head, records: Sequence[Record]
) -> dict[tuple[object, ...], Version]:
    """Lock and read the stored versions of these keys."""
    rows = await connection.fetch(select_versions(head), *zip(*[r.key for r in records], strict=True))
    width = len(head.key)
    return {tuple(row[:width]): Version(row["stamp"], row["digest"], row["missing"]) for row in rows}


async def _upsert_heads(
    connection: asyncpg.Connection, head: Head, records: Sequence[Record]
) -> dict[tuple[object, ...], bool]:
    """Write the records' rows under the guard; the keys that were written, and whether each is new."""
    if not records:
        return {}
    values = [[record.row.get(name) for name in head.table.column_names] for record in records]
    rows = await connection.fetchmany(upsert_guarded(head), values)
    width = len(head.key)
    return {tuple(row[:width]): row["inserted"] for row in rows}


async def _delete_details(
    connection: asyncpg.Connection, head: Head, keys: Sequence[tuple[object, ...]]
) -> None:
    if not keys:
        return
    for table in head.owns:
        await connection.execute(delete_by_key(head, table), *zip(*keys, strict=True))


async def _copy_details(connection: asyncpg.Connection, records: Iterable[Record]) -> None:
    by_table: dict[str, list[Rows]] = {}
    for record in records:
        for rows in record.details:
            by_table.setdefault(rows.table.name, []).append(rows)
    for name, parts in by_table.items():
        schema, table = name.split(".")
        await connection.copy_to_table(
            table,
            schema_name=schema,
            columns=parts[0].table.column_names,
            source=_pieces(encode(parts)),
            format="binary",
        )


async def _pieces(encoded: Iterator[bytes]) -> AsyncIterator[bytes]:
    for piece in encoded:
        yield piece


# --- bookkeeping -----------------------------------------------------------------------------------


async def _write_updates(connection: asyncpg.Connection, updates: Iterable[Update]) -> None:
    for update in updates:
        await connection.execute(
            upsert_plain(update.table, update.key), *[update.row.get(n) for n in update.table.column_names]
        )


async def _write_rejects(
    connection: asyncpg.Connection, stream: StreamKey, rejects: Sequence[Reject]
) -> None:
    await connection.executemany(
        """
        INSERT INTO sync.reject_log AS r (source, account, record_key, item_key, reason, payload)
        VALUES ($1, $2, $3, $4, $5, $6)
        ON CONFLICT (source, account, item_key) DO UPDATE SET
            record_key = excluded.record_key, reason = excluded.reason, payload = excluded.payload,
            attempts = r.attempts + 1, last_seen_at = now(), resolved_at = NULL
        """,
        [
            (stream.source, stream.account, r.record_key, r.item_key, r.reason, _json(r.payload))
            for r in sorted(rejects, key=lambda reject: reject.item_key)  # one order for everybody, see fold
        ],
    )


def _new_rejects(judged: Iterable[Judged]) -> Iterator[Reject]:
    """The rejects of versions that are stored by this batch; those of older ones are nobody's concern."""
    for record, verdict in judged:
        if verdict is Verdict.STORE:
            yield from record.rejects


async def _resolve_rejects(
    connection: asyncpg.Connection, stream: StreamKey, judged: Iterable[Judged]
) -> None:
    """What the stored version of a record does not suffer from (any more) is resolved."""
    standing = [record for record, verdict in judged if verdict is not Verdict.SUPERSEDED]
    if not standing:
        return
    await connection.execute(
        """
        UPDATE sync.reject_log SET resolved_at = now()
        WHERE source = $1 AND account = $2 AND resolved_at IS NULL
          AND record_key = ANY ($3) AND item_key <> ALL ($4)
        """,
        stream.source,
        stream.account,
        [record.label for record in standing],
        [reject.item_key for record in standing for reject in record.rejects],
    )


async def _write_progress(connection: asyncpg.Connection, stream: StreamKey, progress: Progress) -> None:
    await connection.execute(
        """
        INSERT INTO sync.stream_state AS s (source, account, stream, cursor, coverage, last_success_at)
        VALUES ($1, $2, $3, CASE WHEN $5::jsonb IS NULL THEN $4::jsonb END, $6, CASE WHEN $8 THEN now() END)
        ON CONFLICT (source, account, stream) DO UPDATE SET
            cursor = CASE WHEN $4::jsonb IS NOT NULL AND s.cursor IS NOT DISTINCT FROM $5::jsonb
                          THEN $4 ELSE s.cursor END,
            coverage = CASE WHEN $4::jsonb IS NULL OR s.cursor IS NOT DISTINCT FROM $5::jsonb
                            THEN s.coverage - $7::tstzmultirange ELSE s.coverage END + $6,
            last_success_at = CASE WHEN $8 THEN now() ELSE s.last_success_at END,
            last_error = CASE WHEN $8 THEN NULL ELSE s.last_error END
        """,
        stream.source,
        stream.account,
        stream.stream,
        _json(progress.cursor),
        _json(progress.cursor_was),
        [_range(interval) for interval in progress.covered],
        [_range(interval) for interval in progress.uncovered],
        progress.checked,
    )


async def _write_knowledge(connection: asyncpg.Connection, batch: Batch) -> None:
    await connection.executemany(
        """
        INSERT INTO sync.knowledge (source, name, value) VALUES ($1, $2, $3)
        ON CONFLICT (source, name) DO UPDATE SET value = excluded.value, learned_at = now()
        """,
        [(batch.stream.source, name, _json(value)) for name, value in sorted(batch.learned.items())],
    )


async def _add_to_run(connection: asyncpg.Connection, run: int, tally: Tally) -> None:
    await connection.execute(
        """
        UPDATE sync.run_log SET read = read + $2, stored = stored + $3, unchanged = unchanged + $4,
            superseded = superseded + $5, duplicate = duplicate + $6, rejected = rejected + $7
        WHERE run_id = $1
        """,
        run,
        tally.read,
        tally.stored,
        tally.unchanged,
        tally.superseded,
        tally.duplicate,
        tally.rejected,
    )


def _json(value: object) -> str | None:
    return None if value is None else msgspec.json.encode(value).decode()


def _range(interval: Interval) -> asyncpg.Range:
    return asyncpg.Range(interval.start, interval.end, lower_inc=True, upper_inc=False)
