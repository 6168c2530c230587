"""JSON values and texts as the warehouse can hold them. Pure and total."""

from __future__ import annotations

import json
import re
from math import isfinite
from typing import Any

import msgspec

from sync import model
from sync.model import storable

# In raw JSON text the slashes and the question mark may be escaped.
_SIGNED_ADDRESS = re.compile(r"(https?:(?:\\?/){2}[^\s?\"]+?)(?:\?|\\u003f)[^\s\"]*", re.IGNORECASE)
_OPENS_ARRAY = re.compile(rb"\s*\[")
_OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])


def unsigned(text: str) -> str:
    """Text whose addresses have lost what may be a signature."""
    return _SIGNED_ADDRESS.sub(r"\1?...", text)


def json_text(value: Any) -> str:
    """Canonical JSON that a jsonb column takes, decoded to its end and without signatures."""
    return model.json_text(value, _read)


def shorten(payload: Any) -> Any:
    """An offending item as a reject keeps it, without signatures."""
    return model.shortened(payload, _read)


def _read(value: Any) -> Any:
    value = plain(value)
    return unsigned(storable(value)) if isinstance(value, str) else value


def utf8(element: bytes) -> msgspec.Raw:
    """The element with broken UTF-8 replaced, so that one bad byte does not cost a night."""
    try:
        element.decode()
    except UnicodeDecodeError:
        element = element.decode(errors="replace").encode()
    return msgspec.Raw(element)


def members(raw: Any) -> Any:
    """An object with its values still as JSON; any other value decoded."""
    if isinstance(raw, msgspec.Raw):
        try:
            return _OBJECT.decode(raw)
        except msgspec.DecodeError:
            return plain(raw)
    return raw


def plain(raw: Any) -> Any:
    """A decoded value. What strict JSON refuses, NaN and numbers beyond float64, Python's reader takes."""
    if not isinstance(raw, msgspec.Raw):
        return raw
    try:
        return msgspec.json.decode(raw)
    except (msgspec.DecodeError, ValueError):
        return json.loads(bytes(raw), parse_int=_integer)


def is_array(raw: Any) -> bool:
    """Whether a value is an array, without decoding it."""
    return isinstance(raw, list) or (isinstance(raw, msgspec.Raw) and _OPENS_ARRAY.match(raw) is not None)


def _integer(digits: str) -> int | float:
    """An integer; one of more digits than Python reads is beyond float64 too, so: infinite."""
    try:
        return int(digits)
    except ValueError:
        return float(digits)


def finite(value: Any) -> float | None:
    """A JSON number as a finite float64; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if isfinite(number) else None


def one_line(error: BaseException) -> str:
    """An error's first line, shortened."""
    return storable(str(error)).splitlines()[0][:200] if str(error) else type(error).__name__
