"""docs/faults.md is about the faults that there are, and about tests that there are."""

from __future__ import annotations

import ast
import re
from collections import Counter
from pathlib import Path

import pytest

from tests.faults.kit import ALL

ROOT = Path(__file__).parents[2]
ROWS = [
    [cell.strip() for cell in line.strip("|").split(" | ")]
    for line in (ROOT / "docs" / "faults.md").read_text().splitlines()
    if line.startswith("| `")
]


def test_each_fault_has_a_row():
    """Every fault of the kit stands in one row, and no other one does."""
    named = Counter(name for row in ROWS for name in re.findall(r"`([a-z0-9-]+)`", row[0]))
    assert named == Counter(dict.fromkeys(ALL, 1))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0].replace("`", ""))
def test_each_row_names_a_test(row):
    """A row says how, what and where: its test exists."""
    _, how, what, where = row
    assert how
    assert what
    path, _, name = where.strip("` ").partition("::")
    functions = [node for node in ast.walk(ast.parse((ROOT / path).read_text())) if hasattr(node, "name")]
    assert name in {function.name for function in functions}
