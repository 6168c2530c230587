"""The options that several commands have."""

from __future__ import annotations

from typing import Annotated, Final

import typer

FLAG: Final = ""
"""What stands in the help for the value of an option that takes none."""

TIMES: Final = ["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"]
"""How a time is typed."""

Json = Annotated[bool, typer.Option("--json", metavar=FLAG, help="Print JSON lines instead of tables.")]
SourceName = Annotated[
    str | None, typer.Option("--source", metavar="S", help="Only this source: beddit or bace.")
]
AccountName = Annotated[
    str | None,
    typer.Option("--account", metavar="A", help="Only this account, by its name in the configuration."),
]
