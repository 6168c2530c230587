"""Databases behind a network that can be disturbed, and the two pipelines into them."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.faults.proxy import PostgresProxy
from tests.integration.bace.conftest import open_pipeline as open_bace
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

__all__ = [
    "database",
    "empty_database",
    "folder",
    "manual_clock",
    "night",
    "nightshift",
    "open_bace",
    "open_beddit",
    "server",
    "session_folder",
    "template",
    "written",
]


@pytest.fixture
async def proxy(database: str) -> AsyncIterator[PostgresProxy]:
    """Return a network in front of a migrated database that belongs to this test alone."""
    async with PostgresProxy(database) as between:
        yield between
