"""One invocation: where its configuration and its warehouse are, and how it talks."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, cast

from sync.cli.output import err
from sync.cli.running import MISCONFIGURED, fail

if TYPE_CHECKING:
    from sync.config import Settings
    from sync.observe.logging import Redactor


class _StandardError:
    """Standard error as it is at the moment of writing: a progress display may have put itself in between."""

    def __getattr__(self, name: str) -> Any:
        return getattr(sys.stderr, name)


@dataclass(slots=True)
class Invocation:
    """What was typed before the command."""

    path: Path | None = None

    def settings(self) -> Settings:
        """Read the configuration."""
        from sync import config

        return config.load(self.path, os.environ)

    def logging(self, settings: Settings, *, bars: bool = False, findings: bool = False) -> Redactor:
        """Set up the log. Beside bars only what needs attention is logged, beside findings only defects.

        Who asked for debugging gets everything.
        """
        from sync.observe import logging

        level = settings.log.level
        if level != "debug" and (findings or (bars and level == "info")):
            level = "error" if findings else "warning"
        stream = cast("TextIO", _StandardError())
        return logging.configure(level, settings.log.format, settings.secrets(), stream)


invocation = Invocation()


def existing_warehouse() -> Settings:
    """The configured warehouse; where there is none yet, the one that a demonstration left."""
    settings = invocation.settings()
    if not has_warehouse(settings):
        from sync.commands.demo import kept_config
        from sync.config import load
        from sync.observe.tables import plain

        kept = kept_config(settings)
        if kept is None:
            fail(
                MISCONFIGURED,
                f"there is no warehouse in {settings.state_dir} yet: `nightshift run` makes one, "
                "and so does `nightshift demo --keep`",
            )
        folder = plain(str(kept.parent))
        err.print(f"[dim]There is no warehouse of your own yet; this is the demo's ({folder}).[/]")
        return load(kept, {})
    return settings


def has_warehouse(settings: Settings) -> bool:
    """Whether there is a warehouse, or the address of one."""
    from sync.app.warehouse import embedded_in

    return settings.warehouse.dsn is not None or embedded_in(settings.state_dir).is_initialised()
