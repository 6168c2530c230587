"""Values reach PostgreSQL as parameters alone; what is written into a statement are names of our own."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

SYNC = Path(__file__).parents[2] / "sync"
STATEMENT = re.compile(
    r"\b(SELECT|INSERT INTO|UPDATE|DELETE FROM|CREATE|ALTER|DROP|TRUNCATE|GRANT|COPY|LOCK|VACUUM|ANALYZE)\b"
)
CONSTANT = re.compile(r"_?[A-Z][A-Z0-9_]*")

NAMES_ONLY = {
    "storage/statements.py": "builds statements from heads, tables and series: constants of the sources",
    "storage/features.py": "builds statements from its own lists of tables and aggregates",
    "storage/copy.py": "a message about two tables",
    "storage/migrate.py": "a message with a command for a person",
    "commands/check/database.py": "a message with a command for a person",
    "commands/forget.py": "a message with a command for a person",
    "emulators": "the emulators have no database",
}
"""Where a statement holds more than constants of its module, and why that is no way in."""

TABLES_OF_ITS_OWN = {("storage/forgetting.py", "table")}
"""Names that run over a constant of the module."""

NUMBERS = {("storage/forgotten.py", "number")}
"""Integers from the database itself."""


def statements(tree: ast.AST) -> Iterator[tuple[int, list[str]]]:
    """Every statement that is put together from pieces: where, and from which expressions."""
    for node in ast.walk(tree):
        match node:
            case ast.JoinedStr(values=values):
                text = "".join(str(part.value) for part in values if isinstance(part, ast.Constant))
                pieces = [part.value for part in values if isinstance(part, ast.FormattedValue)]
            case ast.BinOp(op=ast.Add() | ast.Mod(), left=left, right=right):
                sides = [side for side in (left, right) if isinstance(side, ast.Constant)]
                text = "".join(str(side.value) for side in sides)
                pieces = [side for side in (left, right) if not isinstance(side, ast.Constant)]
            case ast.Call(func=ast.Attribute(value=ast.Constant(value=str() as text)), args=pieces):
                pass
            case _:
                continue
        if pieces and STATEMENT.search(text):
            yield node.lineno, [ast.unparse(piece) for piece in pieces]


def is_constant(name: str, place: str) -> bool:
    """Whether an expression is a constant of a module, or filled in from constants."""
    if (place, name) in TABLES_OF_ITS_OWN | NUMBERS:
        return True
    return CONSTANT.fullmatch(re.sub(r"\.format\(.*\)$", "", name)) is not None


def built_by_hand(source: str, place: str) -> list[str]:
    """The statements of a file that hold anything but constants."""
    return [
        f"{place}:{line} {names}"
        for line, names in statements(ast.parse(source))
        if not all(is_constant(name, place) for name in names)
    ]


def test_no_statement_is_built_from_values() -> None:
    """Whatever is put into a statement by f-string, + or % is a constant, save in the files named above."""
    found = []
    for path in sorted(SYNC.rglob("*.py")):
        place = path.relative_to(SYNC).as_posix()
        if not any(place.startswith(known) for known in NAMES_ONLY):
            found += built_by_hand(path.read_text(), place)
    assert found == []


@pytest.mark.parametrize(
    "line",
    [
        "q = f\"SELECT * FROM sync.rejects WHERE item_key = '{key}'\"",
        'q = "SELECT * FROM sync.rejects WHERE item_key = " + key',
        'q = "DELETE FROM beddit.session_records WHERE user_id = %s" % user',
        'q = "UPDATE sync.leases SET work = {}".format(work)',
    ],
)
def test_the_scan_finds_what_it_looks_for(line: str) -> None:
    """Each way to build a statement from a value is found."""
    assert len(built_by_hand(line, "storage/new.py")) == 1


def test_the_exceptions_exist() -> None:
    """A file that is excused is still there."""
    assert [place for place in NAMES_ONLY if not (SYNC / place).exists()] == []
