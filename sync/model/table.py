"""How the rows of one warehouse table look: names and PostgreSQL types, nothing about how they get there."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class PgType(StrEnum):
    """The column types that binary COPY is encoded for; each value is the type's name in SQL."""

    BOOL = "bool"
    INT2 = "int2"
    INT4 = "int4"
    INT8 = "int8"
    FLOAT4 = "float4"
    FLOAT8 = "float8"
    TEXT = "text"
    BYTEA = "bytea"
    JSONB = "jsonb"
    UUID = "uuid"
    DATE = "date"
    TIMESTAMPTZ = "timestamptz"
    INT2_ARRAY = "int2[]"
    INT4_ARRAY = "int4[]"
    INT8_ARRAY = "int8[]"
    FLOAT4_ARRAY = "float4[]"
    FLOAT8_ARRAY = "float8[]"
    TIMESTAMPTZ_ARRAY = "timestamptz[]"
    UUID_ARRAY = "uuid[]"

    @property
    def element(self) -> PgType | None:
        """The type of an array's elements; None for a scalar type."""
        return PgType(self.value.removesuffix("[]")) if self.value.endswith("[]") else None


@dataclass(frozen=True, slots=True)
class Table:
    """One table: ``schema.name`` and its columns in the order in which rows are written."""

    name: str
    columns: tuple[tuple[str, PgType], ...]

    @property
    def column_names(self) -> tuple[str, ...]:
        """The columns' names, in order."""
        return tuple(name for name, _ in self.columns)


@dataclass(frozen=True, slots=True)
class Head:
    """A table of versioned records, one row each, and the detail tables that a record owns.

    The row is the lock that serialises writers and it carries the version guard: a newer ``stamp``
    replaces an older one, an equal stamp with another ``digest`` replaces too, anything else changes
    nothing. When a record is replaced, every row of ``owns`` with the same key is replaced with it.

    Attributes:
        noun: What a person calls one of them: ``night``.
        table: The records' own table.
        key: Columns that identify a record; present under the same names in every owned table.
        stamp: A float8 column that orders a record's versions; NULL is older than everything.
        digest: A bytea column that tells contents of equal stamps apart.
        owns: The detail tables.
        part: An integer of the key by which the owned tables may be cut into chunks: what is asked of them
            says which ones it is about.
        access: Where records are seen by several accounts: a table of the head's key, ``account`` and
            ``refused_at``, which is NULL while the account sees the record.
    """

    noun: str
    table: Table
    key: tuple[str, ...]
    stamp: str
    digest: str
    owns: tuple[Table, ...] = ()
    part: str | None = None
    access: Table | None = None


@dataclass(frozen=True, slots=True)
class Series:
    """A table of rows in time that belong to a record and are replaced stretch by stretch.

    Attributes:
        noun: What a person calls one of its rows: ``datapoint``.
        table: The rows' table.
        key: The uuid column that names the record.
        part_of: The uuid column that names the data set within the record; each is replaced by itself.
        time: The timestamptz column.
        weight: An integer column: how many source items a row stands for. NULL counts 1.
        loads: The table that says what is loaded, one row a record and group of data sets. It has the
            columns ``part``, ``datasets``, ``raw_coverage`` and ``loaded_count`` beside ``key``.
    """

    noun: str
    table: Table
    key: str
    part_of: str
    time: str
    weight: str
    loads: str
