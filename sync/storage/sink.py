"""Commits a batch: rows, rejects, coverage, cursor and tally in one transaction, all or nothing.

The order inside the transaction is: the records' own rows (their locks serialise writers and the version
guard decides), away with the details of what is replaced, COPY of the new details, then stretches of rows in
time, then the bookkeeping, and last the run's row, which must still be running: the fence against a process
that was taken for dead. Locks are taken in that order, and in the order of keys within each, by everybody.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, TypeAlias

import asyncpg

from sync.errors import LeaseLost
from sync.model import Batch, Head, Progress, Record, Reject, Rows, StreamKey, Tally, Update
from sync.storage.database import while_connected
from sync.storage.differences import write_differences
from sync.storage.failures import translated
from sync.storage.rejects import resolve_of_records, write_rejects
from sync.storage.series import write_stretches
from sync.storage.statements import (
    delete_by_key,
    mark_missing,
    of_keys,
    select_versions,
    upsert_guarded,
    upsert_plain,
)
from sync.storage.transfer import copy_rows
from sync.storage.values import json_text, multirange
from sync.storage.versions import Verdict, Version, fold, version

Key: TypeAlias = tuple[Any, ...]
"""The values of a head's key columns."""

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
            LeaseLost: The run was ended by somebody else; nothing was stored.
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
    tally = Tally(read=batch.read, rejected=sum(reject.counts for reject in batch.all_rejects))
    judged: list[Judged] = []
    for head, records, missing in _by_head(batch):
        outcome, of_head = await _write_records(connection, head, records, missing, batch.others)
        tally += outcome
        judged += of_head
    tally += await write_stretches(connection, batch.stream, batch.stretches)
    await _write_updates(connection, batch.updates)
    await write_rejects(connection, batch.stream, [*batch.rejects, *_new_rejects(judged)])
    standing = [record for record, verdict in judged if verdict is not Verdict.SUPERSEDED]
    await resolve_of_records(connection, batch.stream, standing)
    await write_differences(connection, batch)
    if batch.progress is not None:
        await _write_progress(connection, batch.stream, batch.progress)
    if batch.learned:
        await _write_knowledge(connection, batch)
    await _add_to_run(connection, run, tally)
    return tally


# --- records ---------------------------------------------------------------------------------------


def _by_head(batch: Batch) -> Iterator[tuple[Head, list[Record], list[Key]]]:
    """The batch's records and missing keys by head, in one order for everybody."""
    heads = {record.head for record in batch.records} | {head for head, _ in batch.missing}
    for head in sorted(heads, key=lambda head: head.table.name):
        records = [record for record in batch.records if record.head == head]
        yield head, records, [key for of, key in batch.missing if of == head]


async def _write_records(
    connection: asyncpg.Connection,
    head: Head,
    records: Sequence[Record],
    missing: Sequence[Key],
    others: Sequence[str],
) -> tuple[Tally, list[Judged]]:
    """Store what the version guard lets through; the tally, and what became of each key's last version.

    Keys in ``missing`` that no record has are marked as missing upstream, unless one of the accounts in
    ``others`` sees the record. Whoever comes to mark it at the same time waits for the record's lock, so the
    last one finds that nobody sees it.
    """
    folded = fold(records)
    tally = Tally(duplicate=folded.duplicate, superseded=folded.superseded)
    offered_keys = [record.key for record in folded.records]
    absent = set(missing).difference(offered_keys)
    stored = await _stored_versions(connection, head, [*offered_keys, *absent])
    if absent:
        sighted = () if head.access is None else (others,)
        await connection.execute(mark_missing(head), *zip(*absent, strict=True), *sighted)
    verdicts = {record.key: _judged(record, stored) for record in folded.records}
    offered = [r for r in folded.records if verdicts[r.key] in (Verdict.STORE, Verdict.RESTAMP)]
    inserted = await _upsert_heads(connection, head, offered)

    # Another process may have inserted a key since we looked; then the guard in the statement decided.
    lost = [record for record in offered if record.key not in inserted]
    if lost:
        rivals = await _stored_versions(connection, head, [record.key for record in lost])
        verdicts |= {record.key: _judged(record, rivals) for record in lost}

    written = [r for r in folded.records if verdicts[r.key] is Verdict.STORE]
    await _delete_details(connection, head, [r.key for r in written if r.force or not inserted[r.key]])
    await _copy_details(connection, written)
    for record in folded.records:
        tally += _outcome(verdicts[record.key], record.size)
    return tally, [(record, verdicts[record.key]) for record in folded.records]


def _judged(record: Record, stored: Mapping[Key, Version]) -> Verdict:
    return version(record).judge(stored.get(record.key), force=record.force)


def _outcome(verdict: Verdict, size: int) -> Tally:
    match verdict:
        case Verdict.STORE | Verdict.RESTAMP:
            return Tally(stored=size)
        case Verdict.UNCHANGED:
            return Tally(unchanged=size)
        case Verdict.SUPERSEDED:
            return Tally(superseded=size)


async def _stored_versions(
    connection: asyncpg.Connection, head: Head, keys: Sequence[Key]
) -> dict[Key, Version]:
    """Lock and read the stored versions of these keys."""
    rows = await connection.fetch(select_versions(head), *zip(*keys, strict=True))
    width = len(head.key)
    return {tuple(row[:width]): Version(row["stamp"], row["digest"], row["missing"]) for row in rows}


async def _upsert_heads(
    connection: asyncpg.Connection, head: Head, records: Sequence[Record]
) -> dict[Key, bool]:
    """Write the records' rows under the guard; the keys that were written, and whether each is new."""
    width = len(head.key)
    written: dict[Key, bool] = {}
    for force, alike in groupby(records, key=lambda record: record.force):  # in key order all the same
        values = [[record.row.get(name) for name in head.table.column_names] for record in alike]
        rows = await connection.fetchmany(upsert_guarded(head, force=force), values)
        written |= {tuple(row[:width]): row["inserted"] for row in rows}
    return written


async def _delete_details(connection: asyncpg.Connection, head: Head, keys: Sequence[Key]) -> None:
    if not keys:
        return
    for table in head.owns:
        await connection.execute(delete_by_key(head, table), *of_keys(head, keys))


async def _copy_details(connection: asyncpg.Connection, records: Iterable[Record]) -> None:
    by_table: dict[str, list[Rows]] = {}
    for record in records:
        for rows in record.details:
            by_table.setdefault(rows.table.name, []).append(rows)
    for parts in by_table.values():
        await copy_rows(connection, parts)


# --- bookkeeping -----------------------------------------------------------------------------------


async def _write_updates(connection: asyncpg.Connection, updates: Iterable[Update]) -> None:
    def place(update: Update) -> tuple[Any, ...]:
        return update.table.name, update.key, tuple(update.row[column] for column in update.key)

    ordered = sorted(updates, key=place)  # one order for everybody; of one key's rows the last one stays
    for (table, key), rows in groupby(ordered, key=lambda update: (update.table, update.key)):
        names = table.column_names
        await connection.executemany(
            upsert_plain(table, key), [[update.row.get(name) for name in names] for update in rows]
        )


def _new_rejects(judged: Iterable[Judged]) -> Iterator[Reject]:
    """The rejects of versions that are stored by this batch; those of older ones are nobody's concern."""
    for record, verdict in judged:
        if verdict is Verdict.STORE:
            yield from record.rejects


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
            last_error = CASE WHEN $8 AND NOT $9 THEN NULL ELSE s.last_error END
        """,
        stream.source,
        stream.account,
        stream.stream,
        json_text(progress.cursor),
        json_text(progress.cursor_was),
        multirange(progress.covered),
        multirange(progress.uncovered),
        progress.checked,
        progress.owing,
    )


async def _write_knowledge(connection: asyncpg.Connection, batch: Batch) -> None:
    await connection.executemany(
        """
        INSERT INTO sync.knowledge (source, name, value) VALUES ($1, $2, $3)
        ON CONFLICT (source, name) DO UPDATE SET value = excluded.value, learned_at = now()
        """,
        [(batch.stream.source, name, json_text(value)) for name, value in sorted(batch.learned.items())],
    )


async def _add_to_run(connection: asyncpg.Connection, run: int, tally: Tally) -> None:
    """Count the batch; an update, because its lock makes whoever would end the run wait for our COMMIT.

    Raises:
        LeaseLost: The run does not last any more.
    """
    found = await connection.fetchval(
        """
        UPDATE sync.run_log SET read = read + $2, stored = stored + $3, unchanged = unchanged + $4,
            superseded = superseded + $5, duplicate = duplicate + $6, rejected = rejected + $7
        WHERE run_id = $1 AND outcome = 'running'
        RETURNING run_id
        """,
        run,
        tally.read,
        tally.stored,
        tally.unchanged,
        tally.superseded,
        tally.duplicate,
        tally.rejected,
    )
    if found is None:
        raise LeaseLost("another process took over this account; what was read last was not stored")
