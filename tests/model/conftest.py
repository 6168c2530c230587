"""The databases of the integration tests, and a house for machines to live in."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator

import pytest
import structlog

from sync.sources.bace import gathering
from tests.integration.conftest import _execute, _new_name, _with_database, server, session_folder, template
from tests.model.house import House

__all__ = ["house", "server", "session_folder", "template"]


FEW_ROWS = 5
"""Of a BACE session, in one commit: sessions are small here, and shall take several."""


@pytest.fixture
def house(server: str, template: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[House]:
    """A silent house with a database of its own."""
    monkeypatch.setattr(gathering, "MOST_ROWS", FEW_ROWS)
    name = _new_name()
    asyncio.run(_execute(server, f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy"))
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    opened = House(_with_database(server, name))
    yield opened
    opened.close()
    structlog.configure(**before)
    asyncio.run(_execute(server, f"DROP DATABASE {name} WITH (FORCE)"))
