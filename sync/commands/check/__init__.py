"""``nightshift check``: every precondition of unattended work, tried, with a sentence on each."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator
from pathlib import Path

from sync.commands.check.accounts import check_accounts
from sync.commands.check.configuration import check_configuration
from sync.commands.check.database import check_database
from sync.commands.check.finding import Finding
from sync.commands.check.machine import check_machine
from sync.config import Settings

__all__ = ["Finding", "check"]


async def check(settings: Settings, config: Path | None) -> AsyncGenerator[Finding, None]:
    """Try everything, one thing after the other; a failure does not stop the rest."""
    async for finding in check_configuration(settings, config):
        yield finding
    for finding in check_machine(settings, config, os.environ):
        yield finding
    async for finding in check_database(settings):
        yield finding
    async for finding in check_accounts(settings):
        yield finding
