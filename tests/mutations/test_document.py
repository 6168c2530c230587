"""docs/promises.md is about the promises that there are, and each of them can be broken."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.mutations.run import MUTATIONS, Mutation

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
DOCUMENT = (ROOT / "docs/promises.md").read_text()

HEADING = re.compile(r"^## (?:(\d)\. )?(.+)$")

each = pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.what)


def rows() -> list[tuple[int, str, str, str]]:
    """The rows of all tables: promise, file, what is broken, test."""
    found: list[tuple[int, str, str, str]] = []
    promise = 0
    for line in DOCUMENT.splitlines():
        if heading := HEADING.match(line):
            promise = int(heading[1] or 0)
        elif line.startswith("| ") and not line.startswith(("| how", "| ---")):
            how, file, what, test = (cell.strip("` ") for cell in line.strip("|").split(" | "))
            assert how
            found.append((promise, file, what, test))
    return found


def test_the_document_is_about_the_promises_of_the_readme() -> None:
    """Each promise is a section of the document, under the name that the README gives it."""
    promised = re.findall(r"^(\d)\. \*\*([^*.]+)\.?\*\*", README, re.MULTILINE)
    headings = re.findall(r"^## (\d)\. (.+)$", DOCUMENT, re.MULTILINE)
    assert len(promised) == 9
    assert [(number, name.removesuffix(" by configuration")) for number, name in promised] == headings


def test_each_promise_can_be_broken() -> None:
    """Every promise has a mutation, and what finds out that one was broken has, too."""
    assert {mutation.promise for mutation in MUTATIONS} == set(range(10))


def test_each_mutation_has_a_row() -> None:
    """The tables' rows are the mutations: promise, place, what is broken, and the test that notices."""
    assert sorted(rows()) == sorted((m.promise, m.file, m.what, m.test) for m in MUTATIONS)


@each
def test_a_mutation_can_still_be_applied(mutation: Mutation) -> None:
    """The code to break is there, once, and is code of another kind when it is broken."""
    code = (ROOT / mutation.file).read_text()
    broken = mutation.applied_to(code)
    assert broken is not None
    assert ast.dump(ast.parse(broken)) != ast.dump(ast.parse(code))


@each
def test_a_mutation_s_test_exists(mutation: Mutation) -> None:
    """The test that has to notice is one function of a file of tests."""
    file, _, name = mutation.test.partition("::")
    assert re.search(rf"^(async )?def {name}\(", (ROOT / file).read_text(), re.MULTILINE)
