"""Files of downloads: private, gone afterwards, and swept up where a process was killed."""

from __future__ import annotations

import os
import time
from datetime import timedelta

import pytest

from sync.errors import ConfigurationError
from sync.sources.beddit.spool import spool_file, sweep


def age(path, seconds):
    """Make a file look as if it had not been written to for so long."""
    then = time.time() - seconds
    os.utime(path, (then, then))


def test_a_file_is_private_and_gone_afterwards(tmp_path):
    """Nobody else may read a raw signal, and nothing stays of it, even after a failure."""
    folder = tmp_path / "state" / "spool"

    def fail():
        with spool_file(folder) as path:
            assert (folder.stat().st_mode & 0o777, path.stat().st_mode & 0o777) == (0o700, 0o600)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert list(folder.iterdir()) == []


def test_only_old_downloads_are_swept(tmp_path):
    """What is being written to stays, and so does what is not ours; the count is of what went."""
    with spool_file(tmp_path) as young:
        old, foreign = tmp_path / "blob-old", tmp_path / "notes"
        old.touch()
        foreign.touch()
        age(old, 3700)
        age(foreign, 9_000_000)
        assert sweep(tmp_path, timedelta(hours=1)) == 1
        assert {path.name for path in tmp_path.iterdir()} == {young.name, "notes"}
    assert sweep(tmp_path / "nowhere") == 0


def test_a_download_sweeps_for_whom_was_killed(tmp_path):
    """Without a daemon, too, left-over files do not stay for ever."""
    old = tmp_path / "blob-old"
    old.touch()
    age(old, 90_000)
    with spool_file(tmp_path):
        assert not old.exists()


def test_a_folder_that_cannot_be_made_is_explained(tmp_path):
    """The message names the folder and the setting."""
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match="set state_dir"), spool_file(tmp_path / "file"):
        pass
