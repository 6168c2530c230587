"""The manners of Yii2, the framework behind the service: records, pages, links, sorting, errors."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from sync.emulators.answers import Answer, whole
from sync.emulators.bace.query import Tree, http_build_query, php_int
from sync.emulators.faults import phrase

JSON: Final = "application/json; charset=UTF-8"
_DIGITS: Final = re.compile(r"([0-9]+)")
_TYPES: Final = {
    400: "BadRequestHttpException",
    401: "UnauthorizedHttpException",
    404: "NotFoundHttpException",
    405: "MethodNotAllowedHttpException",
    429: "TooManyRequestsHttpException",
}


class RefusedError(Exception):
    """A request that the service refuses."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.status)
        self.answer = answer


def json_answer(value: object, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Answer:
    """An answer in JSON; a value that is not a number is null."""
    return whole(msgspec.json.encode(value), status=status, content_type=JSON, headers=headers)


def http_error(
    status: int, message: str, *, with_type: bool = True, headers: Mapping[str, str] | None = None
) -> Answer:
    """An error of the API (BACE docs, HTTP status codes)."""
    body: dict[str, Any] = {
        "name": phrase(status),
        "message": message,
        "code": 0,
        "status": status,
    }
    if with_type:
        body["type"] = f"yii\\web\\{_TYPES.get(status, 'HttpException')}"
    return json_answer(body, status=status, headers=headers)


def invalid(name: str, message: str) -> Answer:
    """A failed validation: an array (Yii2, Serializer)."""
    return json_answer([{"field": name, "message": message}], status=422)


# --- records --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Record:
    """A record and its relations.

    Attributes:
        fields: What it consists of.
        links: Its links as they are in a record of its own, by whether its fields were restricted.
        relations: What can be expanded.
    """

    fields: Mapping[str, Any]
    links: Callable[[bool], Any]
    relations: Mapping[str, Callable[[], Any]] = field(default_factory=dict)

    def shown(self, fields: Iterable[str] = (), expand: Iterable[str] = (), *, nested: bool = False) -> Any:
        """The record with some fields (none: with all of them) and some relations."""
        wanted, expanded = _roots(fields), _roots(expand)
        found = {
            name: value
            for name, value in self.fields.items()
            if not wanted or name in wanted or "*" in wanted
        }
        for name, relation in self.relations.items():
            if name in expanded:
                found[name] = _shown(relation(), _below(fields, name), _below(expand, name))
        found["_links"] = self.links(nested and bool(wanted))
        return found


def _shown(value: Any, fields: list[str], expand: list[str]) -> Any:
    if isinstance(value, Record):
        return value.shown(fields, expand, nested=True)
    if isinstance(value, list):
        return [_shown(member, fields, expand) for member in value]
    return value


def _roots(names: Iterable[str]) -> set[str]:
    return {name.split(".", 1)[0] for name in names}


def _below(names: Iterable[str], root: str) -> list[str]:
    return [name.split(".", 1)[1] for name in names if name.startswith(root + ".")]


def names_in(parameter: object) -> list[str]:
    """The names in ``fields`` or ``expand``."""
    return [name for name in re.split(r"\s*,\s*", parameter) if name] if isinstance(parameter, str) else []


# --- sorting --------------------------------------------------------------------------------------


def sort_key(parameter: object, sortable: Iterable[str]) -> tuple[str, bool] | None:
    """The attribute to sort by and whether it descends: the first that is sortable, as Yii2 has it."""
    for name in names_in(parameter):
        attribute = name.removeprefix("-")
        if attribute in sortable:
            return attribute, name.startswith("-")
    return None


def ordering(value: Any) -> tuple[Any, ...]:
    """Numbers in numeric order, text in natural order, NULL after everything (as PostgreSQL has it)."""
    if value is None:
        return (1,)
    return 0, _natural(value) if isinstance(value, str) else value


def _natural(text: str) -> list[tuple[int, int, str]]:
    parts = (part for part in _DIGITS.split(text) if part)
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part.lower()) for part in parts]


# --- pages ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Page:
    """A page of a collection (Yii2, Pagination).

    Attributes:
        total: The number of records that the service claims.
        number: The page, counted from 1; one beyond the end is the last one.
        size: Records on a page.
        default_size: The size that links do not mention.
    """

    total: int
    number: int
    size: int
    default_size: int

    @classmethod
    def of(cls, query: Tree, *, total: int, default: int, most: int, ignored: bool) -> Page:
        """The page that a query asks for, clamped without a word."""
        asked = query.get("per-page")
        size = default if asked is None or ignored else max(1, min(php_int(asked), most))
        count = -(-total // size)
        return cls(total, max(1, min(php_int(query.get("page", "1")), count)), size, default)

    @property
    def count(self) -> int:
        """The number of pages."""
        return -(-self.total // self.size)

    @property
    def rows(self) -> slice:
        """Which records are on it."""
        return slice((self.number - 1) * self.size, self.number * self.size)

    def links(self, address: str, query: Tree) -> dict[str, str]:
        """The addresses of this page and of those around it."""
        numbers = {"self": self.number}
        if self.count:
            numbers |= {"first": 1, "last": self.count}
            if self.number > 1:
                numbers["prev"] = self.number - 1
            if self.number < self.count:
                numbers["next"] = self.number + 1
        return {name: f"{address}?{self._query(query, number)}" for name, number in numbers.items()}

    def _query(self, query: Tree, number: int) -> str:
        changed = {**query, "page": number}
        if self.size == self.default_size:
            changed.pop("per-page", None)
        else:
            changed["per-page"] = self.size
        return http_build_query(changed)


def collection(
    items: list[Any], page: Page, *, address: str, query: Tree, more: Mapping[str, Any] | None = None
) -> Answer:
    """A page of a collection in its envelope, and the same counts in the headers."""
    links = page.links(address, query)
    meta = {
        "totalCount": page.total,
        "pageCount": page.count,
        "currentPage": page.number,
        "perPage": page.size,
    }
    body = {
        "items": items,
        "_links": {name: {"href": href} for name, href in links.items()},
        "_meta": meta,
        **(more or {}),
    }
    headers = {
        "x-pagination-total-count": str(page.total),
        "x-pagination-page-count": str(page.count),
        "x-pagination-current-page": str(page.number),
        "x-pagination-per-page": str(page.size),
        "Link": ", ".join(f"<{href}>; rel={name}" for name, href in links.items()),
    }
    return json_answer(body, headers=headers)
