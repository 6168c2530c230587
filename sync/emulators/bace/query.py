"""Query parameters as PHP reads them, and the filter grammar (BACE docs, Advanced Features).

The grammar's errors are those of Yii2's DataFilter, on which the service is built.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final
from urllib.parse import quote_plus

import numpy as np

Tree = dict[str, Any]

_NAME: Final = re.compile(r"([^\[]+)((?:\[[^\]]*\])*)")
_KEYS: Final = re.compile(r"\[([^\]]*)\]")
_INTEGER: Final = re.compile(r"[+-]?[0-9]+")
_NUMBER: Final = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_LEADING: Final = re.compile(r"\s*([+-]?[0-9]+)")

_ORDERED: Final = {"lt": operator.lt, "lte": operator.le, "gt": operator.gt, "gte": operator.ge}


def php_query(pairs: Iterable[tuple[str, str]]) -> Tree:
    """Parameters as PHP nests them: ``a[b][]=c`` is ``{"a": {"b": {"0": "c"}}}``; the last of equals wins."""
    tree: Tree = {}
    for name, value in pairs:
        parts = _NAME.fullmatch(name)
        keys = [parts[1], *_KEYS.findall(parts[2])] if parts else [name]
        place = tree
        for key in keys[:-1]:
            inner = place.get(key := key or _next(place))
            if not isinstance(inner, dict):
                inner = place[key] = {}
            place = inner
        place[keys[-1] or _next(place)] = value
    return tree


def _next(place: Tree) -> str:
    return str(max((int(key) + 1 for key in place if _INTEGER.fullmatch(key)), default=0))


def http_build_query(tree: Mapping[str, Any], prefix: str = "") -> str:
    """The same parameters as PHP writes them."""
    parts = []
    for key, value in tree.items():
        name = f"{prefix}[{key}]" if prefix else str(key)
        if isinstance(value, dict):
            parts.append(http_build_query(value, name))
        else:
            parts.append(f"{quote_plus(name)}={quote_plus(str(value))}")
    return "&".join(part for part in parts if part)


def php_int(text: object) -> int:
    """A cast to int as PHP does it: the leading digits, else 0."""
    found = _LEADING.match(text) if isinstance(text, str) else None
    return int(found[1]) if found else 0


class Kind(StrEnum):
    """What an attribute holds, which decides the operators that it has."""

    INTEGER = "integer"
    NUMBER = "number"
    BOOLEAN = "boolean"
    TEXT = "text"


class FilterError(ValueError):
    """A filter that the service refuses (422)."""


@dataclass(frozen=True, slots=True)
class Compare:
    """One attribute compared with a value.

    Attributes:
        attribute: Its name.
        op: ``eq``, ``neq``, ``like``, ``lt``, ``lte``, ``gt``, ``gte`` or ``in``.
        value: The value, of the attribute's kind; None is SQL's NULL. A tuple for ``in``.
    """

    attribute: str
    op: str
    value: Any


@dataclass(frozen=True, slots=True)
class Both:
    """All of some conditions; of none: true."""

    parts: tuple[Condition, ...]


@dataclass(frozen=True, slots=True)
class Either:
    """Any of some conditions."""

    parts: tuple[Condition, ...]


Condition = Compare | Both | Either
ANYTHING: Final = Both(())


def parse_filter(tree: Any, kinds: Mapping[str, Kind], *, ignore_unknown: bool = False) -> Condition:
    """A filter, from the URL or from a JSON body.

    Args:
        tree: The parameter ``filter``.
        kinds: The attributes that can be filtered.
        ignore_unknown: Whether conditions on other attributes are left out.

    Raises:
        FilterError: An unknown attribute or operator, or a bad value.
    """
    if isinstance(tree, list):
        tree = {str(i): part for i, part in enumerate(tree)}
    if not isinstance(tree, dict):
        raise FilterError("The format of Filter is invalid.")
    parts: list[Condition] = []
    for key, value in tree.items():
        if key in ("or", "and"):
            if not isinstance(value, dict | list):
                raise FilterError(f'Operator "{key}" requires multiple operands.')
            operands = value.values() if isinstance(value, dict) else value
            inner = tuple(parse_filter(part, kinds, ignore_unknown=ignore_unknown) for part in operands)
            parts.append(Either(inner) if key == "or" else Both(inner))
        elif key in kinds:
            parts.extend(_comparisons(key, value, kinds[key]))
        elif not ignore_unknown:
            raise FilterError(f'Unknown filter attribute "{key}"')
    return parts[0] if len(parts) == 1 else Both(tuple(parts))


def _comparisons(attribute: str, condition: Any, kind: Kind) -> Iterable[Compare]:
    if not isinstance(condition, dict | list):
        yield Compare(attribute, "eq", _value(attribute, condition, kind))
        return
    if isinstance(condition, list) or not condition:
        raise FilterError(_neither(attribute))
    for op, value in condition.items():
        if op == "in":
            if not isinstance(value, dict | list):
                raise FilterError(f'Operator "{op}" requires multiple operands.')
            members = value.values() if isinstance(value, dict) else value
            yield Compare(attribute, op, tuple(_value(attribute, member, kind) for member in members))
            continue
        if op not in ("eq", "neq", "like", *_ORDERED):
            raise FilterError(_neither(attribute))
        if (op == "like" and kind is not Kind.TEXT) or (
            op in _ORDERED and kind not in (Kind.INTEGER, Kind.NUMBER)
        ):
            raise FilterError(f'"{attribute}" does not support operator "{op}".')
        yield Compare(attribute, op, _value(attribute, value, kind))


def _neither(attribute: str) -> str:
    return f'Condition for "{attribute}" should be either a value or valid operator specification.'


def _value(attribute: str, value: Any, kind: Kind) -> Any:
    if value is None or value == "NULL":  # Yii2's DataFilter::$nullValue
        return None
    if isinstance(value, dict | list):
        raise FilterError(f"{attribute} is invalid.")
    match kind:
        case Kind.TEXT:
            return str(value)
        case Kind.BOOLEAN:
            if value in (True, False, "1", "0"):
                return value in (True, "1")
            raise FilterError(f'{attribute} must be either "1" or "0".')
        case Kind.INTEGER:
            if isinstance(value, int) and not isinstance(value, bool):
                return value
            if isinstance(value, str) and _INTEGER.fullmatch(value):
                return int(value)
            raise FilterError(f"{attribute} must be an integer.")
        case Kind.NUMBER:
            if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
                return float(value)
            if isinstance(value, str) and _NUMBER.fullmatch(value):
                return float(value)
            raise FilterError(f"{attribute} must be a number.")


def holds(condition: Condition, of: Callable[[str], Any]) -> bool:
    """Whether a condition holds for a record, as SQL sees it: nothing compares with NULL.

    Args:
        condition: The condition.
        of: The record's attributes. ``NotImplemented`` stands for one that is not known yet: conditions on
            it count as fulfilled.
    """
    match condition:
        case Both(parts):
            return all(holds(part, of) for part in parts)
        case Either(parts):
            return any(holds(part, of) for part in parts)
        case Compare(attribute, op, value):
            held = of(attribute)
            return held is NotImplemented or _compared(held, op, value)


def _compared(held: Any, op: str, value: Any) -> bool:
    if op == "in":
        return held is not None and held in value
    if value is None:
        return (held is None) == (op == "eq") if op in ("eq", "neq") else False
    if held is None:
        return False
    match op:
        case "eq":
            return bool(held == value)
        case "neq":
            return bool(held != value)
        case "like":
            return value.lower() in held.lower()
        case _:
            return bool(_ORDERED[op](held, value))


def selects(condition: Condition, columns: Mapping[str, Any], size: int) -> Any:
    """For which rows a condition holds.

    Args:
        condition: The condition.
        columns: An array for each attribute that differs between the rows, one value for each other.
            ``NotImplemented`` is as for ``holds``.
        size: The number of rows.

    Returns:
        A mask.
    """
    match condition:
        case Both(parts):
            mask = np.ones(size, np.bool_)
            for part in parts:
                mask &= selects(part, columns, size)
            return mask
        case Either(parts):
            mask = np.zeros(size, np.bool_)
            for part in parts:
                mask |= selects(part, columns, size)
            return mask
        case Compare(attribute, op, value):
            held = columns[attribute]
            if held is NotImplemented:
                return np.ones(size, np.bool_)
            if not isinstance(held, np.ndarray):
                return np.full(size, _compared(held, op, value))
            return _compared_all(held, op, value)


def _compared_all(held: Any, op: str, value: Any) -> Any:
    there = ~np.isnan(held)
    match op:
        case "in":
            return np.isin(held, [member for member in value if member is not None])
        case "eq":
            return ~there if value is None else held == value
        case "neq":
            return there if value is None else there & (held != value)
        case _:
            return np.zeros(len(held), np.bool_) if value is None else _ORDERED[op](held, value)


def bounds(condition: Condition, attribute: str) -> tuple[float | None, float | None]:
    """The lowest and the highest value that a number can have, as far as plain conditions bound it."""
    parts = condition.parts if isinstance(condition, Both) else (condition,)
    lower: list[float] = []
    upper: list[float] = []
    for part in parts:
        if isinstance(part, Both):
            low, high = bounds(part, attribute)
            lower += [] if low is None else [low]
            upper += [] if high is None else [high]
        elif isinstance(part, Compare) and part.attribute == attribute and part.value is not None:
            if part.op in ("gt", "gte", "eq"):
                lower.append(part.value)
            if part.op in ("lt", "lte", "eq"):
                upper.append(part.value)
    return max(lower, default=None), min(upper, default=None)


def mentions(condition: Condition, attribute: str) -> bool:
    """Whether a condition says anything about an attribute."""
    if isinstance(condition, Compare):
        return condition.attribute == attribute
    return any(mentions(part, attribute) for part in condition.parts)
