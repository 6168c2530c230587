"""What flows from a source to the sink: frozen values, complete in themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal, TypeAlias
from uuid import UUID

from sync.model.table import Head, Series, Table

if TYPE_CHECKING:
    import numpy as np

ColumnValues: TypeAlias = "np.ndarray[Any, Any] | Sequence[Any]"


@dataclass(frozen=True, slots=True)
class Interval:
    """A half-open stretch of time, ``[start, end)``, both in UTC."""

    start: datetime
    end: datetime

    def __post_init__(self) -> None:
        if self.start >= self.end:
            raise ValueError(f"an interval needs start < end, got {self.start} and {self.end}")


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of one table, column by column.

    Attributes:
        table: Where they belong.
        values: One entry a column, all of one length. A numeric column is a numpy array (no NULLs) or a
            sequence that may hold None; timestamps are ``datetime64[us]`` in UTC; a column of arrays is a
            sequence of numpy arrays or None.
    """

    table: Table
    values: tuple[ColumnValues, ...]

    def __post_init__(self) -> None:
        lengths = {len(column) for column in self.values}
        if len(self.values) != len(self.table.columns) or len(lengths) > 1:
            raise ValueError(f"ragged rows for {self.table.name}: {len(self.values)} columns of {lengths}")

    def __len__(self) -> int:
        return len(self.values[0]) if self.values else 0


@dataclass(frozen=True, slots=True)
class Reject:
    """An item that could not become a row, kept with its reason instead of being dropped.

    Attributes:
        record_key: The record that it belongs to (``"1001/1431835725"``); when that record is stored
            again without this reject, the reject is resolved.
        item_key: What exactly was rejected; unique within an account.
        reason: One sentence for a person.
        payload: The offending item as JSON, shortened, free of addresses and tokens.
        counts: How many items it is in the ledger; none for a note about an item that was stored all the
            same (an unknown time zone).
        instant: When the item happened, where rows are replaced by time: the reject is resolved when that
            time is read again without it.
        items: How many source items it stands for (a bucket of samples, which is one in the ledger all the
            same).
    """

    record_key: str
    item_key: str
    reason: str
    payload: Any = None
    counts: int = 1
    instant: datetime | None = None
    items: int = 1


@dataclass(frozen=True, slots=True)
class Record:
    """One version of one thing that a vendor holds: its row, and all rows that belong to it.

    Attributes:
        head: The table family that it belongs to.
        row: The head table's columns by name; a missing one is NULL.
            JSON columns hold JSON text.
        details: Rows of the owned tables. Owned tables that are not mentioned end up empty for this key.
        size: How many source items it stands for in the ledger.
        rejects: What this version held beside it. They are open for as long as this version is stored.
        force: Write it even where an equal version is stored: its rows may have been damaged. An older
            one never replaces a newer one all the same.
    """

    head: Head
    row: Mapping[str, Any]
    details: tuple[Rows, ...] = ()
    size: int = 1
    rejects: tuple[Reject, ...] = ()
    force: bool = False

    @property
    def key(self) -> tuple[Any, ...]:
        """The values of the head's key columns."""
        return tuple(self.row[column] for column in self.head.key)

    @property
    def label(self) -> str:
        """The key as text, as in ``Reject.record_key``: ``"1001/1431835725"``."""
        return "/".join(str(part) for part in self.key)


@dataclass(frozen=True, slots=True)
class Stretch:
    """What some time of a record holds, read whole, and what is proved once it is stored.

    Attributes:
        series: Where the rows belong.
        key: The record.
        part: The group of data sets that was asked for, from 0.
        datasets: The data sets of that group; None for all that there are.
        replaced: The time that was read. The rows of a data set in it are replaced as a whole; a data set
            without a row here keeps those that it has, for what disappears upstream stays.
        rows: All within ``replaced``. Equal rows are kept as often as they came.
        rejects: What the answer held beside the rows, each with an ``instant`` within ``replaced``. Older
            ones of this record in that time that are not among them are resolved.
        covered: Time that is proved to be stored as the source holds it.
        uncovered: Time that shall be read again; it is taken away before ``covered`` is added.
        reset: Forget first what was covered: the groups of data sets are no longer what they were.
        keeps: Nothing says that the source's rows are a newer version: stored rows that it has no more stay,
            save where it has another row at their instant instead; of equal ones there are as many as came.
            Of a data set with at least as many new instants as there are stored ones they do not stay: these
            samples were given other times.
        recount: Count the record's rows anew instead of adding to what was counted: rows may have been lost.
    """

    series: Series
    key: UUID
    part: int
    datasets: tuple[UUID, ...] | None
    replaced: tuple[Interval, ...]
    rows: Rows
    rejects: tuple[Reject, ...] = ()
    covered: tuple[Interval, ...] = ()
    uncovered: tuple[Interval, ...] = ()
    reset: bool = False
    keeps: bool = False
    recount: bool = False

    @property
    def label(self) -> str:
        """The record as text, as in ``Reject.record_key``."""
        return str(self.key)


@dataclass(frozen=True, slots=True)
class StreamKey:
    """What progress is kept for: one stream of one account of one source."""

    source: str
    account: str
    stream: str

    def __str__(self) -> str:
        return f"{self.source}/{self.account}/{self.stream}"


@dataclass(frozen=True, slots=True)
class Progress:
    """What a batch proves, stored in the batch's own transaction.

    Attributes:
        cursor: The stream's new cursor; None leaves it alone.
        cursor_was: The cursor that the work began with. If another process has moved it since, the new one
            is not stored, nor is coverage taken back for it: the rows are, and reading them again costs
            little.
        covered: Time whose items have all been read.
        uncovered: Time that shall be read again.
        checked: The stream is up to date as of this batch: a successful check ends with it.
        owing: Something older could not be read: the stream's last error stays.
    """

    cursor: Mapping[str, Any] | None = None
    cursor_was: Mapping[str, Any] | None = None
    covered: tuple[Interval, ...] = ()
    uncovered: tuple[Interval, ...] = ()
    checked: bool = False
    owing: bool = False


Kind = Literal["missing", "changed", "vanished", "content", "blob"]


@dataclass(frozen=True, slots=True)
class Difference:
    """Something in which source and warehouse differ.

    Attributes:
        item_key: What: a record's label, and a part of it perhaps; unique within an account.
        kind: ``missing``: the source has it, the warehouse not. ``changed``: another version, or other
            content. ``vanished``: the warehouse has it, the source not any more. ``content``: the same
            version and other rows. ``blob``: a raw signal's length or its stored samples.
        text: One sentence for a person.
        instant: When the session began.
    """

    item_key: str
    kind: Kind
    text: str
    instant: datetime


@dataclass(frozen=True, slots=True)
class Verified:
    """A verification has come to its end: open differences that it did not find are over.

    Attributes:
        found_before: What was last found before this moment, by the warehouse's clock, was not found again.
        since: Only sessions that began then or later were looked at; None: all.
        until: And only those that began before; None: all.
        left_out: And none that began then: they could not be looked at.
    """

    found_before: datetime
    since: datetime | None = None
    until: datetime | None = None
    left_out: tuple[Interval, ...] = ()


@dataclass(frozen=True, slots=True)
class Update:
    """One unversioned row, inserted or replaced by its key columns."""

    table: Table
    key: tuple[str, ...]
    row: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Batch:
    """What the sink commits in one transaction: rows, rejects and progress, together or not at all.

    Attributes:
        stream: The stream whose progress this is.
        records: Versions to store. When two share a key, the last one that the guard lets through stays.
        stretches: Rows in time to store, in this order.
        updates: Single rows without a version, replaced by key (state that only this stream writes).
        missing: Keys of records that the source holds no longer. They are marked and stay; the mark goes
            when the record comes again.
        others: Accounts that may see the same records: what one of them still sees is not marked.
        rejects: Items that belong to no record here.
        progress: What is proved once this batch is stored.
        learned: Hints about the vendor, by name; safe to delete.
        read: How many source items came in: items of records, rows of stretches, rejects of both. The sink
            accounts for each of them. What was only compared is not counted.
        differences: What source and warehouse differ in.
        mended: Items that this batch makes equal again, or that were found to be; a difference of theirs is
            over, one of this very batch too.
        verified: A verification ends with this batch.
    """

    stream: StreamKey
    records: tuple[Record, ...] = ()
    stretches: tuple[Stretch, ...] = ()
    updates: tuple[Update, ...] = ()
    missing: tuple[tuple[Head, tuple[Any, ...]], ...] = ()
    others: tuple[str, ...] = ()
    rejects: tuple[Reject, ...] = ()
    progress: Progress | None = None
    learned: Mapping[str, Any] = field(default_factory=dict)
    read: int = 0
    differences: tuple[Difference, ...] = ()
    mended: tuple[str, ...] = ()
    verified: Verified | None = None

    @property
    def all_rejects(self) -> tuple[Reject, ...]:
        """The batch's own rejects and those of its records and stretches."""
        of_records = (reject for record in self.records for reject in record.rejects)
        of_stretches = (reject for stretch in self.stretches for reject in stretch.rejects)
        return (*self.rejects, *of_records, *of_stretches)
