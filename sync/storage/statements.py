"""SQL built from table descriptions. These are constants of the program: no value ever enters a statement."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

from sync.model import Head, Series, Table


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
def upsert_guarded(head: Head, *, force: bool = False) -> str:
    """Write one record's row if it is newer, or as new with other content; tell whether it was there.

    With ``force`` an equal one is written, too.
    """
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
              AND ({force} OR excluded.{head.digest} <> t.{head.digest} OR t.missing_upstream_at IS NOT NULL)
        RETURNING {_names(head.key, "t")}, xmax = 0 AS inserted
    """


@lru_cache
def delete_by_key(head: Head, table: Table) -> str:
    """Delete the owned rows of given keys; its arguments are ``of_keys``."""
    return f"DELETE FROM {table.name} t USING {_unnest(head)} WHERE {_same_key(head)}{_within_parts(head)}"


@lru_cache
def upsert_plain(table: Table, key: tuple[str, ...]) -> str:
    """Insert one row or replace the one with its key; an equal one is left as it lies."""
    names = table.column_names
    others = [name for name in names if name not in key]
    changes = ", ".join(f"{name} = excluded.{name}" for name in others)
    news = f"({_names(others, 't')}) IS DISTINCT FROM ({_names(others, 'excluded')})"
    return f"""
        INSERT INTO {table.name} AS t ({", ".join(names)})
        VALUES ({", ".join(f"${n + 1}" for n in range(len(names)))})
        ON CONFLICT ({", ".join(key)}) {f"DO UPDATE SET {changes} WHERE {news}" if others else "DO NOTHING"}
    """


@lru_cache
def select_records(head: Head) -> str:
    """Read the rows of given keys, and which of them are marked as missing upstream."""
    return f"""
        SELECT {_names(head.table.column_names, "t")}, t.missing_upstream_at IS NOT NULL AS missing
        FROM {head.table.name} t JOIN {_unnest(head)} ON {_same_key(head)}
    """


@lru_cache
def select_details(head: Head, table: Table) -> str:
    """Read the owned rows of given keys; of an array, the hash of how PostgreSQL sends it.

    Its arguments are ``of_keys``.
    """
    columns = (
        f'sha256(array_send(t."{name}")) AS "{name}"' if type_.element else f't."{name}"'
        for name, type_ in table.columns
    )
    return f"""
        SELECT {", ".join(columns)} FROM {table.name} t JOIN {_unnest(head)}
        ON {_same_key(head)}{_within_parts(head)}
    """


@lru_cache
def mark_missing(head: Head) -> str:
    """Mark the records of given keys as missing upstream; an older mark stays.

    Where the head knows who sees a record, those that one of some accounts sees are left out; these accounts
    are the parameter behind the keys.
    """
    unseen = (
        ""
        if head.access is None
        else f"""
          AND NOT EXISTS (
              SELECT FROM {head.access.name} a
              WHERE ({_names(head.key, "a")}) = ({_names(head.key, "t")})
                AND a.account = ANY (${len(head.key) + 1}) AND a.refused_at IS NULL)
    """
    )
    return f"""
        UPDATE {head.table.name} t SET missing_upstream_at = now()
        FROM {_unnest(head)} WHERE {_same_key(head)} AND t.missing_upstream_at IS NULL {unseen}
    """


@lru_cache
def make_load(series: Series) -> str:
    """Make a record's row for a group of data sets, where there is none."""
    return f"""
        INSERT INTO {series.loads} ({series.key}, part, datasets) VALUES ($1, $2, $3)
        ON CONFLICT ({series.key}, part) DO NOTHING
    """


@lru_cache
def lock_loads(series: Series) -> str:
    """Lock the rows of all groups of given records."""
    return f"""
        SELECT FROM {series.loads} WHERE {series.key} = ANY ($1) ORDER BY {series.key}, part FOR UPDATE
    """


@lru_cache
def change_load(series: Series) -> str:
    """Note what was loaded of a group, unless that changes nothing.

    Coverage that was proved for another group than the one that the row is about is not noted: the rows are
    stored, and reading them again costs little.
    """
    return f"""
        UPDATE {series.loads} l
        SET datasets = n.datasets, raw_coverage = n.raw_coverage, loaded_count = n.loaded_count
        FROM (
            SELECT CASE WHEN $4 THEN $3 ELSE datasets END AS datasets,
                   CASE WHEN $4 THEN '{{}}' ELSE raw_coverage END - $5::tstzmultirange
                       + CASE WHEN $4 OR datasets IS NOT DISTINCT FROM $3 THEN $6::tstzmultirange
                              ELSE '{{}}' END AS raw_coverage,
                   loaded_count + $7 AS loaded_count
            FROM {series.loads} WHERE {series.key} = $1 AND part = $2
        ) n
        WHERE l.{series.key} = $1 AND l.part = $2
          AND (l.datasets, l.raw_coverage, l.loaded_count)
              IS DISTINCT FROM (n.datasets, n.raw_coverage, n.loaded_count)
    """


@lru_cache
def recount_load(series: Series) -> str:
    """Set what was loaded of a group so that the sum over a record is what its rows count."""
    return f"""
        UPDATE {series.loads} l SET loaded_count = n.rows - n.others
        FROM (
            SELECT (SELECT coalesce(sum(coalesce({series.weight}, 1)), 0)
                    FROM {series.table.name} WHERE {series.key} = $1) AS rows,
                   (SELECT coalesce(sum(loaded_count), 0)
                    FROM {series.loads} WHERE {series.key} = $1 AND part <> $2) AS others
        ) n
        WHERE l.{series.key} = $1 AND l.part = $2 AND l.loaded_count <> n.rows - n.others
    """


@lru_cache
def holds_any(series: Series) -> str:
    """Whether a record has a row in an interval, of whatever data set."""
    return f"SELECT EXISTS (SELECT FROM {series.table.name} {_between(series)})"


@lru_cache
def select_stretch(series: Series) -> str:
    """Read the rows of some data sets of a record in an interval."""
    return f"SELECT {', '.join(series.table.column_names)} FROM {series.table.name} {_within(series)}"


@lru_cache
def delete_stretch(series: Series) -> str:
    """Delete the same."""
    return f"DELETE FROM {series.table.name} {_within(series)}"


def _within(series: Series) -> str:
    return f"{_between(series)} AND {series.part_of} = ANY ($4)"


def _between(series: Series) -> str:
    return f"WHERE {series.key} = $1 AND {series.time} >= $2 AND {series.time} < $3"


def _unnest(head: Head) -> str:
    types = dict(head.table.columns)
    arrays = ", ".join(f"${n}::{types[name]}[]" for n, name in enumerate(head.key, start=1))
    return f"unnest({arrays}) AS k ({', '.join(head.key)})"


def of_keys(head: Head, keys: Sequence[Sequence[Any]]) -> Sequence[Any]:
    """The arguments of a statement on owned rows: the keys by column, and where their parts lie."""
    columns = list(zip(*keys, strict=True))
    if head.part is None:
        return columns
    parts = columns[head.key.index(head.part)]
    return [*columns, min(parts), max(parts)]


def _within_parts(head: Head) -> str:
    """Of a table in chunks, those that hold no part are not even looked at."""
    if head.part is None:
        return ""
    first = len(head.key) + 1
    return f" AND t.{head.part} BETWEEN ${first} AND ${first + 1}"


def _same_key(head: Head) -> str:
    return " AND ".join(f"t.{name} = k.{name}" for name in head.key)


def _names(names: Iterable[str], alias: str) -> str:
    return ", ".join(f"{alias}.{name}" for name in names)
