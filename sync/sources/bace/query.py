"""Questions to a BACE collection, as the vendor's "Advanced Features" has them: built here, sent elsewhere.

A filter is a value that is made by plain functions, one for each documented operator::

    Query(filter=and_(eq("datatype", 5205), gte("timestamp_seconds", 1648641893)), sort="timestamp_seconds")

It has two forms that mean the same: parameters of the URL, and a JSON body.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Literal, TypeAlias
from urllib.parse import quote, urlencode
from uuid import UUID

Value: TypeAlias = str | int | float | UUID
Operator: TypeAlias = Literal["eq", "neq", "like", "lt", "lte", "gt", "gte", "in"]

# A name that the grammar of the URL form does not take for something else.
_ATTRIBUTE = re.compile(r"(?!(and|or)$)[A-Za-z_][\w.]*", re.ASCII)


@dataclass(frozen=True, slots=True)
class Condition:
    """One attribute compared with one value, or with several for ``in``."""

    attribute: str
    operator: Operator
    value: str | int | float | tuple[str | int | float, ...]


@dataclass(frozen=True, slots=True)
class Junction:
    """Several filters of which all (``and``) or at least one (``or``) must hold."""

    word: Literal["and", "or"]
    parts: tuple[Filter, ...]


Filter: TypeAlias = Condition | Junction


def eq(attribute: str, value: Value) -> Condition:
    """The attribute is exactly this."""
    return _condition(attribute, "eq", value)


def neq(attribute: str, value: Value) -> Condition:
    """The attribute is anything but this."""
    return _condition(attribute, "neq", value)


def like(attribute: str, text: str) -> Condition:
    """The attribute has this text in it, in any case of letters."""
    return _condition(attribute, "like", text)


def lt(attribute: str, value: Value) -> Condition:
    """The attribute is below this."""
    return _condition(attribute, "lt", value)


def lte(attribute: str, value: Value) -> Condition:
    """The attribute is this or below."""
    return _condition(attribute, "lte", value)


def gt(attribute: str, value: Value) -> Condition:
    """The attribute is above this."""
    return _condition(attribute, "gt", value)


def gte(attribute: str, value: Value) -> Condition:
    """The attribute is this or above."""
    return _condition(attribute, "gte", value)


def in_(attribute: str, values: Iterable[Value]) -> Condition:
    """The attribute is one of these; there must be one, as an empty list would not travel at all."""
    plain = tuple(_plain(value) for value in values)
    if not plain:
        raise ValueError(f"a filter for {attribute} in an empty list would let everything through")
    return Condition(_named(attribute), "in", plain)


def and_(*filters: Filter) -> Filter:
    """All of these hold."""
    return _junction("and", filters)


def or_(*filters: Filter) -> Filter:
    """At least one of these holds."""
    return _junction("or", filters)


def seconds(instant: datetime) -> int | float:
    """An instant as the API counts it, in Unix seconds: a whole number where it is one."""
    return _number(instant.timestamp())


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """What is asked of a collection or of one record.

    Attributes:
        filter: Which items; None is all of them.
        sort: An attribute, with a minus before it for descending order. Unknown ones may be ignored silently.
        fields: Nothing but these, ``rel.field`` for those of relations; empty is all of them.
        expand: Relations to bring along, ``rel.rel`` for nested ones.
        page: Which page, from 1; the vendor takes a number beyond the end for the last page.
        per_page: Items on a page; the vendor clamps it to a range of its own.
    """

    filter: Filter | None = None
    sort: str | None = None
    fields: tuple[str, ...] = ()
    expand: tuple[str, ...] = ()
    page: int | None = None
    per_page: int | None = None

    def params(self) -> Mapping[str, str]:
        """The whole query as parameters of the URL."""
        return {**dict(_flat("filter", self._tree())), **self.options()}

    def options(self) -> Mapping[str, str]:
        """The parameters of the URL beside a filter that travels as a body."""
        given: dict[str, str | int | None] = {
            "sort": self.sort,
            "fields": ",".join(self.fields),
            "expand": ",".join(self.expand),
            "page": self.page,
            "per-page": self.per_page,
        }
        return {name: str(value) for name, value in given.items() if value}

    def body(self) -> Mapping[str, Any]:
        """The filter as a JSON body. The vendor never merges it with a filter in the URL, which would win."""
        return {"filter": self._tree()}

    def _tree(self) -> Mapping[str, Any]:
        return {} if self.filter is None else _conjunction(_parts(self.filter))


def url_text(params: Mapping[str, str]) -> str:
    """Parameters as they stand in a URL, their brackets and commas bare, as in the vendor's documents."""
    return urlencode(params, safe="[],", quote_via=quote)


def excludes(part: Filter, item: Any) -> bool:
    """Whether a filter that was honoured cannot have let an item through, as far as its fields tell."""
    match part:
        case Junction("and", parts):
            return any(excludes(inner, item) for inner in parts)
        case Junction("or", parts):
            return all(excludes(inner, item) for inner in parts)
        case Condition(attribute, operator, value) if isinstance(item, dict):
            return _fails(item.get(attribute), operator, value)
        case _:
            return False


def _fails(found: Any, operator: Operator, value: Any) -> bool:
    values = value if isinstance(value, tuple) else (value,)
    if not all(_comparable(found, each) for each in values):
        return False
    match operator:
        case "eq" | "in":
            return found not in values
        case "neq":
            return found in values
        case "like":
            return str(value).casefold() not in str(found).casefold()
        case "lt":
            return not found < value
        case "lte":
            return not found <= value
        case "gt":
            return not found > value
        case "gte":
            return not found >= value


def _comparable(found: Any, value: str | float) -> bool:
    """Text with text, numbers with numbers; how anything else compares is the vendor's secret."""
    if isinstance(found, bool):
        return False
    return isinstance(found, str) if isinstance(value, str) else isinstance(found, int | float)


# --- building -----------------------------------------------------------------------------------


def _condition(attribute: str, operator: Operator, value: Value) -> Condition:
    return Condition(_named(attribute), operator, _plain(value))


def _junction(word: Literal["and", "or"], filters: tuple[Filter, ...]) -> Filter:
    if not filters:
        raise ValueError(f"{word}_ of nothing would let everything through")
    return filters[0] if len(filters) == 1 else Junction(word, filters)


def _named(attribute: str) -> str:
    if not _ATTRIBUTE.fullmatch(attribute):
        raise ValueError(f"{attribute!r} is no name of an attribute")
    return attribute


def _plain(value: Value) -> str | int | float:
    match value:
        case bool():
            raise TypeError("no document says how a filter spells a boolean")
        case UUID():
            return str(value)
        case float():
            return _number(value)
        case _:
            return value


def _number(value: float) -> int | float:
    if not math.isfinite(value):
        raise ValueError(f"no filter can be compared with {value}")
    return int(value) if value.is_integer() else value


# --- the two forms ------------------------------------------------------------------------------


def _tree(part: Filter) -> Mapping[str, Any]:
    match part:
        case Junction(word, parts):
            return {word: [_tree(inner) for inner in parts]}
        case Condition(attribute, operator, value):
            return {attribute: _operand({operator: value})}


def _conjunction(parts: Iterable[Filter]) -> Mapping[str, Any]:
    """Filters that all hold, side by side as far as their names allow, the rest below one ``and``."""
    compared: dict[str, dict[str, Any]] = {}
    alternatives: list[Filter] = []
    rest: list[Filter] = []
    for part in parts:
        match part:
            case Condition(attribute, operator, value) if operator not in compared.get(attribute, ()):
                compared.setdefault(attribute, {})[operator] = value
            case Junction("or") if not alternatives:
                alternatives.append(part)
            case _:
                rest.append(part)
    tree: dict[str, Any] = {attribute: _operand(operands) for attribute, operands in compared.items()}
    for junction in alternatives:
        tree |= _tree(junction)
    return tree | ({"and": [_tree(part) for part in rest]} if rest else {})


def _operand(operands: Mapping[str, Any]) -> Any:
    """``eq`` alone is written in its short form, which all the documents' requests have."""
    if operands.keys() == {"eq"}:
        return operands["eq"]
    return {word: list(value) if isinstance(value, tuple) else value for word, value in operands.items()}


def _parts(whole: Filter) -> Iterator[Filter]:
    """The members of an ``and``, and of the ``and``s directly within it."""
    match whole:
        case Junction("and", parts):
            for part in parts:
                yield from _parts(part)
        case _:
            yield whole


def _flat(prefix: str, node: Any) -> Iterator[tuple[str, str]]:
    match node:
        case Mapping():
            for key, inner in node.items():
                yield from _flat(f"{prefix}[{key}]", inner)
        case list():
            for index, inner in enumerate(node):
                yield from _flat(f"{prefix}[{index}]", inner)
        case float():
            yield prefix, format(Decimal(repr(node)), "f")  # never in scientific notation
        case _:
            yield prefix, str(node)
