"""Hostile text in every text field of both clouds is stored as it is, and does nothing."""

from __future__ import annotations

from typing import Any

import pytest

from sync.emulators.bace import DataSession, Dataset, identifier
from tests.integration.bace.conftest import NOW

USER = 1001

HOSTILE = [
    "'; DROP TABLE beddit.session_records; --",
    "\"); DELETE FROM sync.run_log; SELECT ('",
    "$1); TRUNCATE bace.datapoint_rows; --",
    "\\'; SELECT pg_sleep(60); \\",
    "{}%s%(x)s{0}$$ $q$",
    "\\.\nCOPY sync.leases FROM STDIN;\n\\N\tNULL",
    "=cmd|' /C calc'!A0\x1b[2J\r\n\u202e\u0085",
    '{NULL,"a"}(,)[empty',
]


@pytest.mark.parametrize("text", HOSTILE)
async def test_every_text_of_a_night(open_beddit: Any, night: Any, text: str) -> None:
    """A night's texts, its tracks' names and its unknown fields arrive character for character."""
    pipeline = await open_beddit(None, tokens={USER: "token"})
    start = 1_700_000_000.25
    content = {"items": [[1.0, 2.0]], text: text}
    session = night(
        start,
        timezone="Europe/Helsinki",
        hardware=text,
        software=text,
        time_value_tracks={text: content},
        sampled_tracks={text: {"samples_per_frame": 1, "data_type": text}},
    ) | {text: {text: [text]}}
    pipeline.cloud.put(USER, session)
    await pipeline.once()
    (row,) = await pipeline.fetch(
        "SELECT hardware, software, extra::jsonb -> $1 AS extra FROM beddit.sessions", text
    )
    assert (row["hardware"], row["software"]) == (text, text)
    assert row["extra"] is not None
    assert await pipeline.value("SELECT track FROM beddit.track_values") == text
    assert await pipeline.value("SELECT data_type FROM beddit.sampled_tracks WHERE track = $1", text) == text
    await pipeline.assert_ledger()


@pytest.mark.parametrize("text", HOSTILE)
async def test_every_text_that_becomes_a_reject(open_beddit: Any, night: Any, text: str) -> None:
    """What is malformed keeps its text in the reject, and its neighbour is stored."""
    pipeline = await open_beddit(None, tokens={USER: "token"})
    start = 1_700_000_000.25
    tracks = {"ok": {"items": [[1.0, 2.0], [text, text]]}, text: text}
    pipeline.cloud.put(USER, night(start, timezone=text, error_code=text, time_value_tracks=tracks))
    await pipeline.once()
    assert await pipeline.value("SELECT count(*) FROM beddit.track_values") == 1
    payloads = await pipeline.fetch(
        "SELECT payload #>> '{}' AS text FROM sync.rejects WHERE resolved_at IS NULL"
    )
    assert text in [row["text"] for row in payloads]
    await pipeline.assert_ledger()


@pytest.mark.parametrize("text", HOSTILE)
async def test_every_text_of_a_data_session(open_bace: Any, text: str) -> None:
    """A data session's label arrives character for character, and its data with it."""
    dataset = Dataset.of(identifier("group", 1), identifier("device", 1), 5205)
    start = int(NOW) - 86_400
    points = [(dataset, start + 47 + 300 * n, 3.95) for n in range(3)]
    pipeline = await open_bace([DataSession.of(points, start=start, end=start + 1_000, label=text)])
    await pipeline.once()
    assert await pipeline.value("SELECT label FROM bace.data_sessions") == text
    await pipeline.assert_exact()


@pytest.mark.parametrize("text", HOSTILE)
async def test_the_name_of_an_account(open_beddit: Any, night: Any, text: str) -> None:
    """An account may be called anything: streams, runs and their search take its name as a value."""
    pipeline = await open_beddit(None, tokens={USER: "token"})
    pipeline.change(accounts={text: next(iter(pipeline.settings.accounts.values()))})
    pipeline.cloud.put(USER, night(1_700_000_000.25))
    await pipeline.once()
    assert await pipeline.value("SELECT account FROM sync.streams") == text
    assert await pipeline.value("SELECT account FROM sync.runs") == text
