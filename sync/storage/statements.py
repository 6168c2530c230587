"""SQL built from table descriptions. These are constants of the program: no value ever enters a statement."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from sync.model import Head, Table


@lru_cache
def select_versions(head: Head) -> str:
    """Lock and read the versions of given keys, and which of them are marked as missing upstream."""
    return f"""
        SELECT {_names(head.key, "t")},
               t.{head.stamp} AS stamp, t.{head.digest} AS digest,
               t.missing_upstream_at IS NOT NULL AS missing
        FROM {head.table.name} t JOIN {_unnest(head)} ON {_same_key(head)}
        ORDER BY {_names(head.key, "t")} FOR UPDATE OF t
    """


@lru_cache
def upsert_guarded(head: Head) -> str:
    """Write one record's row if it is newer, or as new with other content; tell whether it was there."""
    names = head.table.column_names
    changes = ", ".join(f"{name} = excluded.{name}" for name in names if name not in head.key)
    stamps = [f"coalesce({side}.{head.stamp}, '-infinity')" for side in ("excluded", "t")]
    return f"""
        INSERT INTO {head.table.name} AS t ({", ".join(names)})
        VALUES ({", ".join(f"${n + 1}" for n in range(len(names)))})
        ON CONFLICT ({", ".join(head.key)}) DO UPDATE
        SET {changes}, loaded_at = now(), missing_upstream_at = NULL
        WHERE {stamps[0]} > {stamps[1]}
           OR {stamps[0]} = {stamps[1]}
              AND (excluded.{head.digest} <> t.{head.digest} OR t.missing_upstream_at IS NOT NULL)
        RETURNING {_names(head.key, "t")}, xmax = 0 AS inserted
    """


@lru_cache
def delete_by_key(head: Head, table: Table) -> str:
    """Delete the owned rows of given keys."""
    return f"DELETE FROM {table.name} t USING {_unnest(head)} WHERE {_same_key(head)}"


@lru_cache
def upsert_plain(table: Table, key: tuple[str, ...]) -> str:
    """Insert one row or replace the one with its key."""
    names = table.column_names
    changes = ", ".join(f"{name} = excluded.{name}" for name in names if name not in key)
    return f"""
        INSERT INTO {table.name} ({", ".join(names)})
        VALUES ({", ".join(f"${n + 1}" for n in range(len(names)))})
        ON CONFLICT ({", ".join(key)}) DO UPDATE SET {changes}
    """


def _unnest(head: Head) -> str:
    types = dict(head.table.columns)
    arrays = ", ".join(f"${n}::{types[name]}[]" for n, name in enumerate(head.key, start=1))
    return f"unnest({arrays}) AS k ({', '.join(head.key)})"


def _same_key(head: Head) -> str:
    return " AND ".join(f"t.{name} = k.{name}" for name in head.key)


def _names(names: Iterable[str], alias: str) -> str:
    return ", ".join(f"{alias}.{name}" for name in names)
