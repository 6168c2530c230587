"""What nightshift keeps in files is for its owner alone, whatever the umask of who started it."""

from __future__ import annotations

import asyncio
import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sync.emulators.beddit import BedditCloud
from sync.sources.beddit.spool import spool_file

UMASKS = [0o000, 0o022, 0o077]


@pytest.fixture(params=UMASKS, ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    """Set the umask of this process meanwhile."""
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def open_to_others(folder: Path) -> list[str]:
    """What another account may read in a folder or change in it; a folder that it cannot enter is closed."""
    found = []
    for path in folder.iterdir():
        mode = stat.S_IMODE(path.lstat().st_mode)
        if path.is_dir() and not path.is_symlink():
            found += [f"{path} {mode:o}"] if mode & 0o022 else []
            found += open_to_others(path) if mode & 0o011 else []
        elif not path.is_symlink() and mode & 0o077:
            found.append(f"{path} {mode:o}")
    return found


async def test_tokens(open_bace: Any, session: Any, umask: int) -> None:
    """BACE's tokens and the lock beside them."""
    pipeline = await open_bace([session(1_699_000_000)])
    await pipeline.once()
    folder = pipeline.settings.tokens
    assert any(path.is_file() for path in folder.rglob("*"))
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert open_to_others(folder) == []


def test_raw_signals_on_their_way(tmp_path: Path, umask: int) -> None:
    """A raw signal that is being downloaded."""
    with spool_file(tmp_path / "spool") as path:
        path.write_bytes(b"samples")
        assert open_to_others(tmp_path) == []
        assert open_to_others(tmp_path / "spool") == []
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


PROGRAM = "import os; os.umask(0); from sync.__main__ import main; main()"


async def test_a_whole_state_folder(nightshift: Any, night: Any) -> None:
    """Everything that a first command makes: embedded database, sockets, locks, spool; with a umask of 0."""
    async with BedditCloud(tokens={1001: "token"}) as cloud:
        cloud.put(1001, night(1_700_000_000.25))
        variables = {
            "NIGHTSHIFT_BEDDIT__BASE_URL": cloud.base_url,
            "NIGHTSHIFT_BEDDIT__ACCOUNTS__ALICE__USER_ID": "1001",
            "NIGHTSHIFT_BEDDIT__ACCOUNTS__ALICE__TOKEN": "token",
            "NIGHTSHIFT_BEDDIT__HISTORY_START": "2023-11-01",
        }
        handle = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", PROGRAM, "once"),
            cwd=nightshift.folder,
            env=nightshift.environment | variables,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        out, _ = await asyncio.wait_for(handle.communicate(), 60)
    assert handle.returncode == 0, out.decode()
    state = nightshift.folder / "state"
    assert (state / "postgres" / "data").is_dir()
    assert open_to_others(state) == []
