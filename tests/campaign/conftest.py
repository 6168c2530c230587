"""Databases for campaigns."""

from __future__ import annotations

from tests.integration.conftest import database, folder, server, session_folder, template, written

__all__ = ["database", "folder", "server", "session_folder", "template", "written"]
