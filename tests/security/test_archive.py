"""A saved file that somebody made up harms nothing but itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sync.emulators.beddit import read_archive
from tests.integration.beddit.conftest import make_night

GOOD = make_night(1_700_000_000.25)

MADE_UP = {
    "deep": b"[" * 200_000,
    "deep-session": b'[{"start_timestamp": ' + b"[" * 100_000 + b"]" * 100_000 + b"}]",
    "huge-number": b'[{"id": ' + b"9" * 6_000 + b', "start_timestamp": 1}]',
    "binary": bytes(range(256)) * 50,
    "not-utf-8": b'[{"id": 5, "start_timestamp": 1, "hardware": "\xff\xfe"}]',
    "gzip": b"\x1f\x8b\x08\x00" + bytes(100),
}


@pytest.mark.parametrize("content", MADE_UP.values(), ids=MADE_UP)
def test_a_made_up_file_leaves_the_others_alone(tmp_path: Path, content: bytes) -> None:
    """Whatever a file holds, the next one is read."""
    (tmp_path / "a.json").write_bytes(content)
    (tmp_path / "b.json").write_text(json.dumps([GOOD]))
    archive = read_archive(tmp_path)
    assert GOOD["id"] in [saved.session_id for sessions in archive.sessions.values() for saved in sessions]


def test_a_file_that_is_no_session_is_not_quoted(tmp_path: Path) -> None:
    """The note about a file that was passed over, such as a key that lay there, holds nothing of it."""
    (tmp_path / "id_rsa").write_text("-----BEGIN PRIVATE KEY-----\ngeheim\n")
    (tmp_path / "other.json").write_text('{"password": "geheim"}')
    archive = read_archive(tmp_path)
    assert len(archive.passed_over) == 2
    assert all("geheim" not in note.reason for note in archive.passed_over)


async def test_names_are_no_paths(open_beddit: Any, tmp_path: Path) -> None:
    """A track that is called like a path is stored under that name, and no file is made anywhere."""
    pipeline = await open_beddit(None, tokens={1001: "token"})
    track = "../../../escaped"
    sampled = {track: {"samples_per_frame": 1, "data_type": "uint8"}}
    pipeline.cloud.put(1001, make_night(1_700_000_000.25, length=20.0, sampled_tracks=sampled))
    pipeline.cloud.set_blob(1001, 1_700_000_000, track, bytes(100))
    await pipeline.once()
    assert await pipeline.value("SELECT track FROM beddit.sampled_tracks") == track
    left = [path for path in tmp_path.rglob("*") if path.is_file()]  # noqa: ASYNC240 - nothing else runs
    assert left == []
