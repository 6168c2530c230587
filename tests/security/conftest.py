"""The pipelines, commands and daemons of the integration tests."""

from __future__ import annotations

from tests.integration.bace.conftest import open_pipeline as open_bace
from tests.integration.bace.conftest import session
from tests.integration.beddit.conftest import manual_clock, night
from tests.integration.beddit.conftest import open_pipeline as open_beddit
from tests.integration.commands.conftest import nightshift
from tests.integration.conftest import (
    database,
    empty_database,
    folder,
    server,
    session_folder,
    template,
    written,
)
from tests.integration.daemon.conftest import house

__all__ = [
    "database",
    "empty_database",
    "folder",
    "house",
    "manual_clock",
    "night",
    "nightshift",
    "open_bace",
    "open_beddit",
    "server",
    "session",
    "session_folder",
    "template",
    "written",
]
