"""The log's events: docs/operations.md explains each that a person may see, and no other."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[3]
OPERATIONS = (ROOT / "docs" / "operations.md").read_text("utf-8")
LEVELS = {"info": "info", "warning": "warning", "error": "error", "exception": "error", "log": "info"}
NAME = re.compile(r"[a-z]+\.[a-z_]+")


def explained() -> dict[str, str]:
    """The table's events and their levels."""
    section = OPERATIONS.split("### The log's events", 1)[1].split("\n##", 1)[0]
    return dict(re.findall(r"^\| `([a-z_.]+)` \| (\w+)\b.*? \|", section, re.MULTILINE))


def events() -> Iterator[tuple[str, str]]:
    """Every event at info or above that the program can emit, with its level; log.log() begins at info."""
    trees = [ast.parse(path.read_text("utf-8")) for path in (ROOT / "sync").rglob("*.py")]
    wrappers = {name: level for tree in trees for name, level in wrappers_in(tree)}
    for tree in trees:
        for node in ast.walk(tree):
            match node:
                case ast.Call(func=ast.Attribute(value=ast.Name(id="log"), attr=kind), args=args):
                    yield from ((name, LEVELS[kind]) for name in names(args) if kind in LEVELS)
                case ast.Call(func=ast.Attribute(attr=wrapper), args=args) if wrapper in wrappers:
                    yield from ((name, wrappers[wrapper]) for name in names(args))
                case ast.Dict(keys=keys, values=values):  # made by hand where the chain itself fails
                    for key, value in zip(keys, values, strict=True):
                        if isinstance(key, ast.Constant) and key.value == "event":
                            yield from ((name, "error") for name in names([value]))


def wrappers_in(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Functions that log an event which their caller names."""
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef):
            for node in ast.walk(function):
                match node:
                    case ast.Call(func=ast.Attribute(value=ast.Name(id="log"), attr=kind), args=[ast.Name()]):
                        yield function.name, LEVELS[kind]


def names(arguments: list[ast.expr]) -> Iterator[str]:
    """Event names that stand there as they are."""
    for argument in arguments[:2]:
        match argument:
            case ast.Constant(value=str(text)) if NAME.fullmatch(text):
                yield text


def test_every_event_is_explained():
    """Name by name and level by level, the table and the program agree."""
    emitted = dict(events())
    assert {"daemon.started", "outage.began", "token.not_saved", "log.unrenderable"} <= set(emitted)
    assert explained() == emitted
