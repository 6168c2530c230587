"""What commands print: results on standard output, what is told on standard error."""

from __future__ import annotations

import os
import sys

import typer
from rich.console import Console

# Far wider than any terminal: nothing is ever cut or shortened, a terminal wraps long lines by itself.
out = Console(soft_wrap=True, highlight=False, width=10_000)
err = Console(stderr=True, highlight=False)


def print_json(value: object) -> None:
    """Print a value as a JSON line."""
    import msgspec

    typer.echo(msgspec.json.encode(value).decode())


def show_nothing_more() -> None:
    """Whoever read our output has seen enough."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
