"""Beddit's JSON to records. Pure and total: every item becomes a row or a reject, never an exception.

Facts about the format are from the vendor's session documentation (``beddit-session-resource``) and from
a real night; where the two disagree the night wins: item times are seconds from the session's start.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from hashlib import blake2b
from itertools import repeat
from math import isfinite
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import numpy as np
from numpy.typing import NDArray

from sync.model import Record, Reject, Rows
from sync.sources.beddit.tables import SESSIONS, TRACK_ARRAYS, TRACK_DECLARATIONS

ABSOLUTE_FROM = 1e9
"""Seconds: no night is 31 years long, so an item time above this can only be a Unix time."""

EARLIEST, LATEST = -62_135_510_400.0, 253_402_300_800.0
"""Unix seconds of the years 1 and 10000: what PostgreSQL and Python both can name.

Not the very first day, whose first moment asyncpg takes for minus infinity.
"""

PAYLOAD_LIMIT = 2_000
"""Characters of an offending item that a reject keeps."""

NAME_LIMIT = 500
"""Characters of a track's name: it is part of keys, and PostgreSQL's index entries end at 2,700 bytes."""

MOST_FRAMES = 2**31
"""So that frames times samples per frame stays within 64 bits; at 0.2 s a frame, 13 years."""

KNOWN_FIELDS = frozenset(
    {
        *("id", "start_timestamp", "end_timestamp", "timezone", "hardware", "software", "frame_length"),
        *("error_code", "sampled_tracks", "time_value_tracks", "updated"),
    }
)

_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
# In raw JSON text the slashes and the question mark may be escaped.
_SIGNED_ADDRESS = re.compile(r"(https?:(?:\\?/){2}[^\s?\"]+?)(?:\?|\\u003f)[^\s\"]*", re.IGNORECASE)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_PAIRS = msgspec.json.Decoder(list[tuple[float, float]])
_OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])


@dataclass(frozen=True, slots=True)
class DecodedSession:
    """What one element of an answer became.

    Attributes:
        record: The session; None if it could not be understood at all.
        rejects: What could not become a row, and notes.
        addresses: Where its raw signals can be fetched, by track. Credentials: never stored.
        read: Source items that the element held.
    """

    record: Record | None
    rejects: tuple[Reject, ...]
    addresses: Mapping[str, str] = field(default_factory=dict, repr=False)
    read: int = 1


def decode_session(element: bytes, user_id: int) -> DecodedSession:
    """Decode one session.

    Args:
        element: The session's JSON as it stood in the answer.
        user_id: The user whose sessions were asked for; the answer does not name it.
    """
    try:
        fields = _fields(_utf8(element))
        if not isinstance(fields, dict):
            return _rejected_whole(element, user_id, f"a session is {_kind(fields)}, not an object")
        return _Session(fields, user_id).decode()
    except _UnusableError as error:
        return _rejected_whole(element, user_id, str(error), fields)
    except (ValueError, RecursionError) as error:
        return _rejected_whole(element, user_id, f"a session is not valid JSON: {_one_line(error)}")


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
            row=row | {"digest": self._digest.digest()},
            details=tuple(rows for rows in (tracks, declarations) if len(rows)),
            size=self._size,
        )
        return DecodedSession(record, tuple(self._rejects), addresses, self._read)

    # -- the session's own fields --------------------------------------------------------------

    def _required_start(self) -> float:
        start = _finite(_value(self._fields.get("start_timestamp")))
        if start is None or not EARLIEST <= start < LATEST:
            raise _UnusableError("a session has no usable start_timestamp")
        return start

    def _required_id(self) -> int:
        """The id; where it is missing, what the documents derive it from: the start, truncated."""
        given = _value(self._fields.get("id"))
        if given is None:
            return int(self._start)
        if isinstance(given, bool) or not isinstance(given, int) or not -(2**63) <= given < 2**63:
            raise _UnusableError(f"a session's id is {_kind(given)}, not a 64-bit integer")
        return given

    def _number(self, name: str, low: float, high: float) -> float | None:
        given = _value(self._fields.get(name))
        if given is None:
            return None
        number = _finite(given)
        if number is None or not low <= number < high:
            self._note(name, f"{name} is not a usable number; stored as NULL", given)
            return None
        return number

    def _error_code(self) -> int | None:
        given = _value(self._fields.get("error_code"))
        if given is None:
            return None
        if isinstance(given, bool) or not isinstance(given, int) or not -(2**31) <= given < 2**31:
            self._note("error_code", "error_code is not an integer; stored as NULL", given)
            return None
        return given

    def _text(self, name: str) -> str | None:
        given = _value(self._fields.get(name))
        if given is None:
            return None
        if not isinstance(given, str):
            self._note(name, f"{name} is {_kind(given)}, not a string; stored as NULL", given)
            return None
        return self._storable(name, _SIGNED_ADDRESS.sub(r"\1?...", given))

    def _storable(self, name: str, text: str) -> str:
        """Text as PostgreSQL can hold it; what had to be replaced is noted with the original."""
        clean = clean_text(text)
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
        unknown = {clean_text(k): _value(v) for k, v in self._fields.items() if k not in KNOWN_FIELDS}
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
        items = self._pairs(name, track.get("items"))
        absolute = items.offsets > ABSOLUTE_FROM
        if absolute.any():
            note = f"{absolute.sum()} items carry absolute Unix times; taken as such"
            self._note(f"{name}#absolute", note, float(items.offsets[absolute][0]))
        seconds = np.where(absolute, items.offsets, self._start + items.offsets)
        self._size += len(items.offsets)
        declared = _value(track.get("value_data_type"))
        extra = {k: _value(v) for k, v in track.items() if k not in ("items", "value_data_type")}
        data_type = declared if isinstance(declared, str) else None
        if declared is not None and data_type is None:
            extra["value_data_type"] = declared
        self._hash_json([name, declared, extra])
        self._hash_items(items)
        return (
            name,
            None if data_type is None else clean_text(data_type),
            json_text(extra) if extra else None,
            items.indexes,
            items.offsets,
            np.rint(seconds * 1e6).astype("int64").view("datetime64[us]"),
            items.values,
        )

    def _pairs(self, track: str, raw: Any) -> _Items:
        """A track's items; those that are not two finite numbers become rejects."""
        try:
            pairs: Any = _PAIRS.decode(raw) if isinstance(raw, msgspec.Raw) else None
        except msgspec.DecodeError:
            pairs = None
        if pairs is not None:
            whole = np.array(pairs, dtype=np.float64).reshape(-1, 2)
            if np.isfinite(whole).all() and self._nameable(whole[:, 0]).all():
                self._read += len(whole)
                return _Items(whole[:, 0].copy(), whole[:, 1].copy(), None)
        given = _value(raw)
        if given is None:
            given = []
        if not isinstance(given, list):
            self._read += 1
            self._reject(track, f"a track's items are {_kind(given)}, not an array", given)
            given = []
        return self._pick(track, given)

    def _pick(self, track: str, items: Sequence[Any]) -> _Items:
        self._read += len(items)
        kept: list[tuple[int, float, float]] = []
        for index, item in enumerate(items):
            fault = self._fault(item)
            if fault is None:
                kept.append((index, float(item[0]), float(item[1])))
            else:
                self._reject_item(track, index, fault, item)
        indexes, offsets, values = zip(*kept, strict=True) if kept else ((), (), ())
        gapless = len(kept) == len(items)
        return _Items(
            np.array(offsets, np.float64),
            np.array(values, np.float64),
            None if gapless else np.array(indexes, np.int32),
        )

    def _fault(self, item: Any) -> str | None:
        """Why an item cannot be a row; None if it can."""
        if not isinstance(item, list):
            return f"an item is {_kind(item)}, not a [time, value] pair"
        if len(item) != 2:
            return f"an item has {len(item)} elements, not 2"
        time, value = (_finite(part) for part in item)
        if time is None or value is None:
            return "an item is not two finite numbers"
        if not self._nameable(np.array([time]))[0]:
            return "an item's time is out of range"
        return None

    def _nameable(self, offsets: NDArray[np.float64]) -> NDArray[np.bool_]:
        seconds = np.where(offsets > ABSOLUTE_FROM, offsets, self._start + offsets)
        return (seconds >= EARLIEST) & (seconds < LATEST)

    # -- sampled tracks ------------------------------------------------------------------------

    def _sampled_tracks(self) -> tuple[Rows, dict[str, str]]:
        names, types, rates, addressed, extras = [], [], [], [], []
        addresses: dict[str, str] = {}
        for name, track in self._objects("sampled_tracks", "a sampled track"):
            fields = {key: _value(value) for key, value in track.items()}
            address = fields.pop("data_url", None)
            if isinstance(address, str) and address:
                addresses[name] = address
            elif address is not None:
                self._note(f"{name}#data_url", f"data_url is {_kind(address)}, not an address", None)
            data_type = fields.pop("data_type", None)
            rate = fields.pop("samples_per_frame", None)
            names.append(name)
            types.append(clean_text(data_type) if isinstance(data_type, str) else None)
            rates.append(self._samples_per_frame(name, rate))
            addressed.append(name in addresses)
            extras.append(json_text(fields) if fields else None)
            self._hash_json([name, data_type, rate, name in addresses, fields])
        rows = (*self._keys(len(names)), names, types, rates, np.array(addressed, bool), extras)
        return Rows(TRACK_DECLARATIONS, rows), addresses

    def _samples_per_frame(self, track: str, given: Any) -> int | None:
        if given is None or (isinstance(given, int) and not isinstance(given, bool) and 0 < given < 2**31):
            return given
        self._note(f"{track}#samples_per_frame", "samples_per_frame is not a positive integer", given)
        return None

    # -- helpers -------------------------------------------------------------------------------

    def _objects(self, name: str, what: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """The named objects inside a field, in name order; null ones count as not computed."""
        given = _fields(self._fields.get(name))
        if given is None:
            return
        if not isinstance(given, dict):
            self._read += 1
            self._reject(name, f"{name} is {_kind(given)}, not an object", given)
            return
        taken: set[str] = set()
        for key in sorted(given):
            inner = _fields(given[key])
            if inner is None:
                continue
            clean = clean_text(key)
            if isinstance(inner, dict) and len(key) <= NAME_LIMIT and clean not in taken:
                taken.add(clean)
                yield self._storable(f"{name}/{clean}", key), inner
                continue
            fault = f"is {_kind(inner)}, not an object"
            if isinstance(inner, dict):
                fault = "has a name that is too long" if len(key) > NAME_LIMIT else "has another one's name"
            self._read += 1
            self._reject(f"{name}/{_short_name(key)}", f"{what} {fault}", inner)

    def _keys(self, count: int) -> tuple[list[int], list[int]]:
        return list(repeat(self._id, count)), list(repeat(self._user_id, count))

    def _reject(self, item: str, reason: str, payload: Any) -> None:
        self._rejects.append(Reject(self._key, f"{self._key}/{item}", reason, shorten(payload)))
        self._hash_json([item, reason, payload])

    def _reject_item(self, track: str, index: int, reason: str, item: Any) -> None:
        self._reject(f"{track}[{index}]", reason, item)

    def _note(self, item: str, reason: str, payload: Any) -> None:
        note = Reject(self._key, f"{self._key}/{clean_text(item)}", reason, shorten(payload), counts=False)
        self._rejects.append(note)
        if item != "updated":
            self._hash_json([item, reason, payload])

    def _hash_json(self, value: Any) -> None:
        self._digest.update(json_text(value).encode())

    def _hash_items(self, items: _Items) -> None:
        for array in (items.offsets, items.values):
            self._digest.update(len(array).to_bytes(8))
            self._digest.update(array.data if array.size else b"")


@dataclass(frozen=True, slots=True)
class _Items:
    """A track's good items; ``indexes`` only where rejected ones left gaps."""

    offsets: NDArray[np.float64]
    values: NDArray[np.float64]
    indexes: NDArray[np.int32] | None


# --- values ----------------------------------------------------------------------------------------


def instant(seconds: float) -> datetime:
    """Unix seconds to an instant: one float64 product, rounded half to even to microseconds."""
    return _EPOCH + timedelta(microseconds=round(seconds * 1e6))


def _short_name(name: str) -> str:
    """A track's name as a reject's key takes it; a hash stands for one that is too long."""
    if len(name) <= NAME_LIMIT:
        return clean_text(name)
    return f"#{blake2b(name.encode(errors='surrogatepass'), digest_size=8).hexdigest()}"


def clean_text(text: str) -> str:
    """Text without what PostgreSQL cannot store: NUL and lone surrogates become U+FFFD."""
    return _UNSTORABLE.sub("\ufffd", text)


def json_text(value: Any) -> str:
    """Canonical JSON that a jsonb column takes: sorted keys, no NUL, no non-finite number, no signature."""
    return json.dumps(_clean(value), sort_keys=True, ensure_ascii=False, separators=(",", ":"))


def shorten(payload: Any) -> Any:
    """An offending item as a reject keeps it: clean, and not larger than a person wants to read."""
    if payload is None:
        return None
    text = json_text(payload)
    return json.loads(text) if len(text) <= PAYLOAD_LIMIT else {"shortened": text[:PAYLOAD_LIMIT]}


def _clean(value: Any) -> Any:
    match value:
        case str():
            return _SIGNED_ADDRESS.sub(r"\1?...", clean_text(value))
        case float() if not isfinite(value):
            return str(value)
        case list() | tuple():
            return [_clean(part) for part in value]
        case dict():
            return {_clean(str(key)): _clean(_value(part)) for key, part in value.items()}
        case msgspec.Raw():
            return _clean(_value(value))
    return value


def _utf8(element: bytes) -> msgspec.Raw:
    """The element with broken UTF-8 replaced, so that one bad byte does not cost a night."""
    try:
        element.decode()
    except UnicodeDecodeError:
        element = element.decode(errors="replace").encode()
    return msgspec.Raw(element)


def _fields(raw: Any) -> Any:
    """An object with its values still as JSON; any other value decoded."""
    if isinstance(raw, msgspec.Raw):
        try:
            return _OBJECT.decode(raw)
        except msgspec.DecodeError:
            return _value(raw)
    return raw


def _value(raw: Any) -> Any:
    """A decoded value. What strict JSON refuses, NaN and numbers beyond float64, Python's reader takes."""
    if not isinstance(raw, msgspec.Raw):
        return raw
    try:
        return msgspec.json.decode(raw)
    except (msgspec.DecodeError, ValueError):
        return json.loads(bytes(raw), parse_int=_integer)


def _integer(digits: str) -> int | float:
    """An integer; one of more digits than Python reads is beyond float64 too, so: infinite."""
    try:
        return int(digits)
    except ValueError:
        return float(digits)


def _finite(value: Any) -> float | None:
    """A JSON number as a finite float64; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if isfinite(number) else None


def _frame_count(start: float, end: float | None, frame_length: float | None) -> int | None:
    if end is None or frame_length is None or end < start:
        return None
    count = round((end - start) / frame_length)
    return count if count < MOST_FRAMES else None


def _rejected_whole(
    element: bytes, user_id: int, reason: str, fields: Mapping[str, Any] | None = None
) -> DecodedSession:
    """A reject for a whole session, keyed by its id if it has one, else by its content."""
    try:
        given = _value(fields.get("id")) if fields else None
    except (ValueError, RecursionError):
        given = None
    is_key = isinstance(given, int) and not isinstance(given, bool) and -(2**63) <= given < 2**63
    name = given if is_key else f"#{blake2b(element, digest_size=8).hexdigest()}"
    key = f"{user_id}/{name}"
    payload = shorten(element[: 4 * PAYLOAD_LIMIT].decode(errors="replace"))
    return DecodedSession(None, (Reject(key, key, reason, payload),))


def _kind(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case int() | float():
            return "a number"
        case str():
            return "a string"
        case list():
            return "an array"
    return "an object"


def _one_line(error: BaseException) -> str:
    return clean_text(str(error)).splitlines()[0][:200] if str(error) else type(error).__name__
