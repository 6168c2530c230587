"""One item of the list of data sessions to a record. Pure and total: any JSON gives a record or a reject.

Fields are those of the vendor's "Data Sessions" page. What ``expand`` brings along is named there too, but
not its shape: what is understood becomes a row of its own, what is not stays in ``extra``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from hashlib import blake2b
from types import MappingProxyType
from typing import Any, Final
from uuid import UUID

from sync.model import PgType, Record, Reject, Table, Update, json_text, kind, shortened, storable
from sync.sources.bace.tables import DATASETS, DATATYPES, DEVICES, GROUPS, PERSONS, SESSIONS
from sync.sources.bace.values import (
    instant,
    truth,
    unix_seconds,
    uuid,
    whole_number,
)


def _instant(value: Any) -> datetime | None:
    seconds = unix_seconds(value)
    return None if seconds is None else instant(seconds)


def _text(value: Any) -> str | None:
    match value:
        case str():
            return storable(value)
        case bool() | None:
            return None
        case int() | float():
            return str(value)
    return None


def _count(value: Any) -> int | None:
    count = whole_number(value, 64)
    return count if count is not None and count >= 0 else None


_COLUMNS: Final[Mapping[str, tuple[str, Callable[[Any], Any]]]] = MappingProxyType(
    {
        "id_data_session": ("id_data_session", uuid),
        "id_group": ("id_group", uuid),
        "id_person": ("id_person", uuid),
        "label": ("label", _text),
        "start": ("started_at", _instant),
        "end": ("ended_at", _instant),
        "created_at": ("created_at", _instant),
        "created_by": ("created_by", uuid),
        "updated_at": ("updated_at", _instant),
        "updated_by": ("updated_by", uuid),
        "archived_at": ("archived_at", _instant),
        "datapoint_count": ("datapoint_count", _count),
        "isIngestionFinished": ("is_ingestion_finished", truth),
        "isArchived": ("is_archived", truth),
    }
)

FIELDS: Final = tuple(_COLUMNS)
"""Every documented field of a data session."""

COLUMNS: Final = tuple(column for column, _ in _COLUMNS.values())
"""Where they are stored."""

RELATIONS: Final = ("group", "person", "physicalDevices", "fromDevice", "datatypes", "dataIds")
"""What ``expand`` is asked for; ``person`` is in the answer's labels, but not in its list of names."""

_READERS: Final[Mapping[PgType, Callable[[Any], Any]]] = MappingProxyType(
    {
        PgType.UUID: uuid,
        PgType.TEXT: _text,
        PgType.TIMESTAMPTZ: _instant,
        PgType.INT4: lambda value: whole_number(value, 32),
    }
)

_TABLES: Final[Mapping[str, Table]] = MappingProxyType(
    {
        "group": GROUPS,
        "person": PERSONS,
        "physicalDevices": DEVICES,
        "fromDevice": DEVICES,
        "datatypes": DATATYPES,
        "dataIds": DATASETS,
    }
)


@dataclass(frozen=True, slots=True)
class DecodedSession:
    """What one item of the list became.

    Attributes:
        record: The session, with notes about fields that could not be read.
        start: When it began, in Unix seconds as received.
        updated: When it last changed, likewise; None where the vendor does not say.
        final: Whether it has ended and all its data has been taken in.
        updates: Rows of what it refers to.
        datasets: The datasets that are in it; None where the item does not say.
    """

    record: Record
    start: float
    updated: float | None
    final: bool
    updates: tuple[Update, ...] = ()
    datasets: tuple[UUID, ...] | None = None

    @property
    def id(self) -> UUID:
        """The session's key."""
        key: UUID = self.record.row["id_data_session"]
        return key

    @property
    def digest(self) -> bytes:
        """Of all documented fields: an equal one means that nothing has changed."""
        digest: bytes = self.record.row["digest"]
        return digest


def decode_session(item: Any) -> DecodedSession | Reject:
    """Decode one element of ``items``, or the answer to a request for a single session.

    The digest is over the documented fields alone, in whatever order or company they came.
    """
    try:
        return _decoded(item)
    except RecursionError:
        return _rejected(item, "a data session is nested too deeply")


def _decoded(item: Any) -> DecodedSession | Reject:
    if not isinstance(item, dict):
        return _rejected(item, f"a data session is {kind(item)}, not an object")
    key, start = uuid(item.get("id_data_session")), unix_seconds(item.get("start"))
    if key is None:
        return _rejected(item, "a data session has no usable id_data_session")
    if start is None:
        return _rejected(item, "a data session has no usable start", str(key))

    row: dict[str, Any] = {}
    notes: list[Reject] = []
    for name, (column, read) in _COLUMNS.items():
        given = item.get(name)
        row[column] = read(given)
        if given is not None and (fault := _fault(given, row[column])):
            notes.append(_note(str(key), name, f"{name} {fault}", given))
    related = _Relations(item, row["datapoint_count"])
    updated = unix_seconds(item.get("updated_at"))
    unknown = {name: value for name, value in item.items() if name not in _IGNORED} | related.left_over
    record = Record(
        head=SESSIONS,
        row=row
        | {
            "updated_at_seconds": updated,
            "digest": _digest(row, notes),
            "datasets": None if related.datasets is None else list(related.datasets),
            "extra": json_text(unknown) if unknown else None,
        },
        rejects=tuple(notes),
    )
    final = row["ended_at"] is not None and row["is_ingestion_finished"] is True
    return DecodedSession(record, start, updated, final, tuple(related.updates), related.datasets)


_IGNORED: Final = frozenset((*FIELDS, *RELATIONS, "_links"))


def _fault(given: Any, read: Any) -> str | None:
    if read is None:
        return f"is {kind(given)} that cannot be used; stored as NULL"
    if isinstance(given, str) and isinstance(read, str) and read != given:
        return "holds characters that PostgreSQL cannot store; replaced by U+FFFD"
    return None


def _digest(row: Mapping[str, Any], notes: list[Reject]) -> bytes:
    """Of what was read, and of what could not be read."""
    fields = {column: None if value is None else str(value) for column, value in row.items()}
    odd = {note.item_key: note.payload for note in notes}
    return blake2b(json_text([fields, odd]).encode(), digest_size=32).digest()


def _note(key: str, field: str, reason: str, payload: Any) -> Reject:
    return Reject(key, f"{key}/{field}", reason, shortened(payload), counts=False)


def _rejected(item: Any, reason: str, key: str | None = None) -> Reject:
    """A reject for a whole session, keyed by its id if it has one, else by its content."""
    payload = shortened(item)
    name = key or f"#{blake2b(json_text(payload).encode(), digest_size=8).hexdigest()}"
    return Reject(name, name, reason, payload)


# --- what expand brings along -------------------------------------------------------------------


class _Relations:
    """Rows of what a session refers to, in any shape that can be understood."""

    def __init__(self, item: Mapping[str, Any], datapoint_count: int | None) -> None:
        self.updates: list[Update] = []
        self.left_over: dict[str, Any] = {}
        for name in RELATIONS:
            rest = [element for element in _elements(item.get(name)) if not self._take(name, element)]
            if rest:
                self.left_over[name] = item[name]
        self.datasets = self._datasets(item, datapoint_count)

    def _take(self, name: str, element: Any) -> bool:
        """Make a row of one related thing; False where its shape is not understood."""
        table = _TABLES[name]
        update = _row_of(table, element) if isinstance(element, dict) else _stub_of(table, element)
        if update is not None:
            self.updates.append(update)
        return update is not None

    def _datasets(self, item: Mapping[str, Any], datapoint_count: int | None) -> tuple[UUID, ...] | None:
        """All datasets, or None: a list that is not understood as a whole does not say what is missing."""
        if not isinstance(item.get("dataIds"), list | dict) or "dataIds" in self.left_over:
            return None
        found = {update.row["id_container_data_latest"] for update in self.updates if _is(update, DATASETS)}
        if not found and datapoint_count != 0:
            return None
        return tuple(sorted(found))


def _is(update: Update, table: Table) -> bool:
    return update.table.name == table.name


def _elements(value: Any) -> Iterator[Any]:
    """The related things: one of them, a list, or an object that holds each under its id."""
    match value:
        case None:
            return
        case list():
            yield from value
        case dict() if value and all(isinstance(inner, dict) for inner in value.values()):
            yield from value.values()
        case dict() if not value:
            return
        case _:
            yield value


def _key(table: Table) -> tuple[str, PgType]:
    return table.columns[0]


def _stub_of(table: Table, value: Any) -> Update | None:
    """Nothing but an id: enough for a row where there is none yet, and never the end of a better one."""
    name, pg_type = _key(table)
    key = _READERS[pg_type](value)
    if key is None:
        return None
    return Update(Table(table.name, table.columns[:1]), (name,), {name: key})


def _row_of(table: Table, fields: Mapping[str, Any]) -> Update | None:
    name, pg_type = _key(table)
    key = _READERS[pg_type](fields.get(name, fields.get("id")))
    if key is None:
        return None
    row: dict[str, Any] = {name: key}
    extra = {field: value for field, value in fields.items() if field not in (name, "id", "_links")}
    for column, column_type in table.columns[1:]:
        read = _READERS[column_type](extra.get(column)) if column_type in _READERS else None
        row[column] = read
        if read is not None:
            del extra[column]
    if "extra" in dict(table.columns):
        extra = {field: value for field, value in extra.items() if value is not None}
        row["extra"] = json_text(extra) if extra else None
    return Update(table, (name,), row)
