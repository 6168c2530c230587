"""Beddit's JSON to records. Pure and total: every item becomes a row or a reject, never an exception.

Facts about the format are from the vendor's session documentation (``beddit-session-resource``) and from
a real night; where the two disagree the night wins: item times are seconds from the session's start.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from hashlib import blake2b
from itertools import repeat
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np

from sync.model import PAYLOAD_LIMIT, Record, Reject, Rows, kind, storable
from sync.sources.beddit.items import EARLIEST, LATEST, Items, read_items
from sync.sources.beddit.paging import Seen
from sync.sources.beddit.summary import Summary, summarise
from sync.sources.beddit.tables import SESSIONS, TRACK_ARRAYS, TRACK_DECLARATIONS
from sync.sources.beddit.values import (
    finite,
    is_array,
    json_text,
    members,
    one_line,
    plain,
    shorten,
    unsigned,
    utf8,
)

NAME_LIMIT = 500
"""Characters of a track's name: it is part of keys, and PostgreSQL's index entries end at 2,700 bytes."""

MOST_REJECTS = 100
"""Items of one track that are rejected one by one; one reject more stands for all the others."""

MOST_FRAMES = 2**31
"""So that frames times samples per frame stays within 64 bits; at 0.2 s a frame, 13 years."""

KNOWN_FIELDS = frozenset(
    {
        *("id", "start_timestamp", "end_timestamp", "timezone", "hardware", "software", "frame_length"),
        *("error_code", "sampled_tracks", "time_value_tracks", "updated"),
    }
)

_ID = re.compile(rb'"id"\s*:\s*(-?[0-9]{1,18})(?![0-9.eE])')
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class DecodedSession:
    """What one element of an answer became.

    Attributes:
        record: The session; None if it could not be understood at all.
        rejects: What could not become a row, and notes.
        addresses: Where its raw signals can be fetched, by track. Credentials: never stored.
        read: Source items that the element held.
        rejected_id: The id of a session that could not be understood, where that much could be.
    """

    record: Record | None
    rejects: tuple[Reject, ...]
    addresses: Mapping[str, str] = field(default_factory=dict, repr=False)
    read: int = 1
    rejected_id: int | None = None

    @property
    def seen(self) -> Seen:
        """The session's place in its answer."""
        row = self.record.row if self.record is not None else {"session_id": None, "updated": None}
        return Seen(row["session_id"], row["updated"])


def decode_session(element: bytes, user_id: int) -> DecodedSession:
    """Decode one session.

    Args:
        element: The session's JSON as it stood in the answer.
        user_id: The user whose sessions were asked for; the answer does not name it.
    """
    try:
        fields = members(utf8(element))
        if not isinstance(fields, dict):
            return _rejected_whole(element, user_id, f"a session is {kind(fields)}, not an object")
        return _Session(fields, user_id).decode()
    except _UnusableError as error:
        return _rejected_whole(element, user_id, str(error), fields)
    except (ValueError, RecursionError) as error:
        return _rejected_whole(element, user_id, f"a session is not valid JSON: {one_line(error)}")


def identify(element: bytes, user_id: int) -> Seen:
    """Which session an element is, and of which version, if it can be understood; its tracks are not."""
    try:
        fields = members(utf8(element))
        return _Session(fields, user_id).seen if isinstance(fields, dict) else Seen(None, None)
    except (_UnusableError, ValueError, RecursionError):
        return Seen(None, None)


class _UnusableError(Exception):
    """A session lacks what its key or its place in time is made of."""


class _Session:
    """Collects one session's rows and rejects while its fields are read."""

    def __init__(self, fields: Mapping[str, Any], user_id: int) -> None:
        self._fields = fields
        self._rejects: list[Reject] = []
        self._read = 1
        self._size = 1
        self._digest = blake2b(digest_size=32)
        self._user_id = user_id
        self._start = self._required_start()
        self._id = self._required_id()
        self._key = f"{user_id}/{self._id}"

    @property
    def seen(self) -> Seen:
        return Seen(self._id, self._number("updated", EARLIEST, LATEST))

    def decode(self) -> DecodedSession:
        end = self._number("end_timestamp", EARLIEST, LATEST)
        frame_length = self._number("frame_length", 1e-6, 1e6)
        zone = self._text("timezone")
        row = {
            "user_id": self._user_id,
            "session_id": self._id,
            "start_timestamp": self._start,
            "started_at": instant(self._start),
            "ended_at": None if end is None else instant(end),
            "timezone": zone,
            "night": self._night(end if end is not None else self._start, zone),
            "hardware": self._text("hardware"),
            "software": self._text("software"),
            "frame_length": frame_length,
            "frame_count": _frame_count(self._start, end, frame_length),
            "error_code": self._error_code(),
            "updated": self._number("updated", EARLIEST, LATEST),
            "extra": self._extra(),
        }
        self._hash_json({name: str(value) for name, value in row.items() if name != "updated"})
        tracks = self._time_value_tracks()
        declarations, addresses = self._sampled_tracks()
        record = Record(
            head=SESSIONS,
            row={**row, **_summary(tracks), "digest": self._digest.digest()},
            details=tuple(rows for rows in (tracks, declarations) if len(rows)),
            size=self._size,
        )
        return DecodedSession(record, tuple(self._rejects), addresses, self._read)

    # -- the session's own fields --------------------------------------------------------------

    def _required_start(self) -> float:
        start = finite(plain(self._fields.get("start_timestamp")))
        if start is None or not EARLIEST <= start < LATEST:
            raise _UnusableError("a session has no usable start_timestamp")
        return start

    def _required_id(self) -> int:
        """The id; where it is missing, what the documents derive it from: the start, truncated."""
        given = plain(self._fields.get("id"))
        if given is None:
            return int(self._start)
        if isinstance(given, bool) or not isinstance(given, int) or not -(2**63) <= given < 2**63:
            raise _UnusableError(f"a session's id is {kind(given)}, not a 64-bit integer")
        return given

    def _number(self, name: str, low: float, high: float) -> float | None:
        given = plain(self._fields.get(name))
        if given is None:
            return None
        number = finite(given)
        if number is None or not low <= number < high:
            self._note(name, f"{name} is not a usable number; stored as NULL", given)
            return None
        return number

    def _error_code(self) -> int | None:
        given = plain(self._fields.get("error_code"))
        if given is None:
            return None
        if isinstance(given, bool) or not isinstance(given, int) or not -(2**31) <= given < 2**31:
            self._note("error_code", "error_code is not an integer; stored as NULL", given)
            return None
        return given

    def _text(self, name: str) -> str | None:
        given = plain(self._fields.get(name))
        if given is None:
            return None
        if not isinstance(given, str):
            self._note(name, f"{name} is {kind(given)}, not a string; stored as NULL", given)
            return None
        return self._storable(name, unsigned(given))

    def _storable(self, name: str, text: str) -> str:
        """Text as PostgreSQL can hold it; what had to be replaced is noted with the original."""
        clean = storable(text)
        if clean != text:
            note = f"{name} holds characters that PostgreSQL cannot store; replaced by U+FFFD"
            self._note(f"{name}#text", note, text)
        return clean

    def _night(self, moment: float, zone: str | None) -> date:
        """The local date of ``moment``, by the rules of the session's own zone."""
        utc = instant(moment)
        if zone is None:
            return utc.date()
        try:
            return utc.astimezone(ZoneInfo(zone)).date()
        except (KeyError, ValueError, OSError, OverflowError):
            self._note("timezone", "unknown time zone; the night is the UTC date", zone)
            return utc.date()

    def _extra(self) -> str | None:
        unknown = {storable(k): plain(v) for k, v in self._fields.items() if k not in KNOWN_FIELDS}
        return json_text(unknown) if unknown else None

    # -- time-value tracks ---------------------------------------------------------------------

    def _time_value_tracks(self) -> Rows:
        tracks = [
            self._track(name, track)
            for name, track in self._objects("time_value_tracks", "a time-value track")
        ]
        names, types, extras, indexes, offsets, times, values = (
            zip(*tracks, strict=True) if tracks else [()] * 7
        )
        return Rows(
            TRACK_ARRAYS,
            (
                *self._keys(len(tracks)),
                list(names),
                list(types),
                list(extras),
                list(indexes),
                list(offsets),
                list(times),
                list(values),
            ),
        )

    def _track(self, name: str, track: Mapping[str, Any]) -> tuple[Any, ...]:
        items = self._items(name, track.get("items"))
        absolute = items.absolute
        if absolute.any():
            note = f"{absolute.sum()} items carry absolute Unix times; taken as such"
            self._note(f"{name}#absolute", note, float(items.offsets[absolute][0]))
        seconds = np.where(absolute, items.offsets, self._start + items.offsets)
        self._size += len(items.offsets)
        declared = plain(track.get("value_data_type"))
        extra = {k: plain(v) for k, v in track.items() if k not in ("items", "value_data_type")}
        data_type = declared if isinstance(declared, str) else None
        if declared is not None and data_type is None:
            extra["value_data_type"] = declared
        self._hash_json([name, declared, extra])
        self._hash_items(items)
        return (
            name,
            None if data_type is None else storable(data_type),
            json_text(extra) if extra else None,
            items.indexes,
            items.offsets,
            np.rint(seconds * 1e6).astype("int64").view("datetime64[us]"),
            items.values,
        )

    def _items(self, track: str, raw: Any) -> Items:
        """A track's items; those that are not two finite numbers become rejects."""
        if not is_array(raw):
            given, raw = plain(raw), []
            if given is not None:
                self._read += 1
                self._reject(track, f"a track's items are {kind(given)}, not an array", given)
        bad = 0

        def fault(index: int, reason: str, item: Any) -> None:
            nonlocal bad
            bad += 1
            if bad <= MOST_REJECTS:
                self._reject(f"{track}[{index}]", reason, item)
            else:
                self._digest.update(repr(item).encode(errors="surrogatepass"))

        items = read_items(raw, self._start, fault)
        self._read += items.count
        if more := max(0, bad - MOST_REJECTS):
            reason = f"{more:,} more items of this track are not two finite numbers"
            key = f"{self._key}/{track}[more]"
            self._rejects.append(Reject(self._key, key, reason, counts=more, items=more))
        return items

    # -- sampled tracks ------------------------------------------------------------------------

    def _sampled_tracks(self) -> tuple[Rows, dict[str, str]]:
        names, types, rates, extras = [], [], [], []
        addresses: dict[str, str] = {}
        for name, track in self._objects("sampled_tracks", "a sampled track"):
            fields = {key: plain(value) for key, value in track.items()}
            address = fields.pop("data_url", None)
            if isinstance(address, str) and address:
                addresses[name] = address
            elif address is not None:
                self._note(f"{name}#data_url", f"data_url is {kind(address)}, not an address", None)
            data_type = fields.pop("data_type", None)
            rate = fields.pop("samples_per_frame", None)
            names.append(name)
            types.append(storable(data_type) if isinstance(data_type, str) else None)
            rates.append(self._samples_per_frame(name, rate))
            extras.append(json_text(fields) if fields else None)
            self._hash_json([name, data_type, rate, fields])
        rows = (*self._keys(len(names)), names, types, rates, extras)
        return Rows(TRACK_DECLARATIONS, rows), addresses

    def _samples_per_frame(self, track: str, given: Any) -> int | None:
        if given is None or (isinstance(given, int) and not isinstance(given, bool) and 0 < given < 2**31):
            return given
        self._note(f"{track}#samples_per_frame", "samples_per_frame is not a positive integer", given)
        return None

    # -- helpers -------------------------------------------------------------------------------

    def _objects(self, name: str, what: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """The named objects inside a field, in name order; null ones count as not computed."""
        given = members(self._fields.get(name))
        if given is None:
            return
        if not isinstance(given, dict):
            self._read += 1
            self._reject(name, f"{name} is {kind(given)}, not an object", given)
            return
        taken: set[str] = set()
        for key in sorted(given):
            inner = members(given[key])
            if inner is None:
                continue
            clean = storable(key)
            if isinstance(inner, dict) and len(key) <= NAME_LIMIT and clean not in taken:
                taken.add(clean)
                yield self._storable(f"{name}/{clean}", key), inner
                continue
            fault = f"is {kind(inner)}, not an object"
            if isinstance(inner, dict):
                fault = "has a name that is too long" if len(key) > NAME_LIMIT else "has another one's name"
            self._read += 1
            self._reject(f"{name}/{_short_name(key)}", f"{what} {fault}", inner)

    def _keys(self, count: int) -> tuple[list[int], list[int]]:
        return list(repeat(self._id, count)), list(repeat(self._user_id, count))

    def _reject(self, item: str, reason: str, payload: Any) -> None:
        self._rejects.append(Reject(self._key, f"{self._key}/{item}", reason, shorten(payload)))
        self._hash_json([item, reason, payload])

    def _note(self, item: str, reason: str, payload: Any) -> None:
        note = Reject(self._key, f"{self._key}/{storable(item)}", reason, shorten(payload), counts=0)
        self._rejects.append(note)
        if item != "updated":
            self._hash_json([item, reason, payload])

    def _hash_json(self, value: Any) -> None:
        self._digest.update(json_text(value).encode())

    def _hash_items(self, items: Items) -> None:
        for array in (items.offsets, items.values):
            self._digest.update(len(array).to_bytes(8))
            self._digest.update(array.data if array.size else b"")


def instant(seconds: float) -> datetime:
    """Unix seconds to an instant: one float64 product, rounded half to even to microseconds."""
    return _EPOCH + timedelta(microseconds=round(seconds * 1e6))


def _summary(tracks: Rows) -> Summary:
    """Of the tracks as they are stored."""
    columns = dict(zip(tracks.table.column_names, tracks.values, strict=True))
    return summarise(dict(zip(columns["track"], columns["values"], strict=True)))


def _short_name(name: str) -> str:
    """A track's name as a reject's key takes it; a hash stands for one that is too long."""
    if len(name) <= NAME_LIMIT:
        return storable(name)
    return f"#{blake2b(name.encode(errors='surrogatepass'), digest_size=8).hexdigest()}"


def _frame_count(start: float, end: float | None, frame_length: float | None) -> int | None:
    if end is None or frame_length is None or end < start:
        return None
    count = round((end - start) / frame_length)
    return count if count < MOST_FRAMES else None


def _rejected_whole(
    element: bytes, user_id: int, reason: str, fields: Mapping[str, Any] | None = None
) -> DecodedSession:
    """A reject for a whole session, keyed by its id if it has one, else by its content."""
    session_id = _found_id(element, fields)
    name = f"#{blake2b(element, digest_size=8).hexdigest()}" if session_id is None else session_id
    key = f"{user_id}/{name}"
    payload = shorten(element[: 4 * PAYLOAD_LIMIT].decode(errors="replace"))
    return DecodedSession(None, (Reject(key, key, reason, payload),), rejected_id=session_id)


def _found_id(element: bytes, fields: Mapping[str, Any] | None) -> int | None:
    """The id of a session that cannot be understood; of broken JSON, the only one that its text names."""
    if fields is None:
        named = set(_ID.findall(element))
        return int(named.pop()) if len(named) == 1 else None
    try:
        given = plain(fields.get("id"))
    except (ValueError, RecursionError):
        return None
    is_key = isinstance(given, int) and not isinstance(given, bool) and -(2**63) <= given < 2**63
    return given if is_key else None
