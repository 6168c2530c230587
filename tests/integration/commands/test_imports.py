"""What is imported: each command what it works with, and nothing else."""

from __future__ import annotations

import sys

import pytest

CALLED = """
import sys
from sync.cli import main
try:
    main()
finally:
    sys.stderr.write("\\n" + " ".join(sys.modules))
"""

NOWHERE = "postgresql://nobody@127.0.0.1:1/nowhere"
CLOUDS = {"aiohttp", "sync.emulators", "sync.sources", "sync.transport"}
DAEMON = {"sync.daemon", "apscheduler.schedulers", "prometheus_client"}
MIGRATIONS = {"alembic", "sqlalchemy"}
ALL = {"asyncpg", "numpy", "structlog", "sync.config"} | CLOUDS | DAEMON | MIGRATIONS


# By arguments: a module that shows how far the command came, and what nobody asked for.
COMMANDS = {
    "--version": ("sync.cli", ALL),
    "--help": ("sync.cli", ALL),
    "backfill --help": ("sync.cli", ALL),
    "once --nonsense": ("sync.cli", ALL),
    "--config wrong.toml check": ("sync.config", ALL - {"sync.config"}),
    "once": ("aiohttp", {"sync.emulators"} | DAEMON | MIGRATIONS),
    "status": ("asyncpg", CLOUDS | DAEMON | MIGRATIONS),
    "rejects list": ("asyncpg", CLOUDS | DAEMON | MIGRATIONS),
}


@pytest.mark.parametrize("arguments", COMMANDS)
async def test_a_command_imports_what_it_needs(nightshift, arguments):
    """Help and mistakes wait for nothing, reading not for the daemon's parts, looking not for the clouds'."""
    (nightshift.folder / "wrong.toml").write_text("[log]\nlevel = 'loud'\n")
    nightshift.environment |= {
        "NIGHTSHIFT_WAREHOUSE__DSN": NOWHERE,
        "NIGHTSHIFT_BEDDIT__ACCOUNTS__ANN__USER_ID": "1",
        "NIGHTSHIFT_BEDDIT__ACCOUNTS__ANN__TOKEN": "t",
    }
    nightshift.program = [sys.executable, "-c", CALLED]
    ended = await nightshift.run(*arguments.split())
    imported = set(ended.err.rsplit("\n", 1)[1].split())
    needed, not_needed = COMMANDS[arguments]
    assert needed in imported
    assert imported & not_needed == set()
