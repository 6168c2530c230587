"""``nightshift backfill --archive``: saved session files, through the same door as the cloud's answers.

The Beddit cloud is closed, so that a folder of saved files is all that many people have. An emulated cloud
serves it, and the ordinary pipeline reads that cloud: whatever holds for the one holds for the other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

from pydantic import SecretStr

from sync.app.work import open_app
from sync.commands.emulate import read_saved
from sync.config import Beddit, BedditAccount, Settings
from sync.emulators.beddit import Archive, BedditCloud, FileNote, SavedSession
from sync.errors import ConfigurationError
from sync.model import RunOutcome, Task
from sync.observe.logging import Redactor
from sync.ports import Observer
from sync.sources.beddit.cursor import as_time
from sync.sources.beddit.items import EARLIEST, LATEST


@dataclass(frozen=True, slots=True)
class Loaded:
    """What came of an archive: the runs, and the files that were passed over or are damaged."""

    outcomes: Sequence[RunOutcome]
    passed_over: Sequence[FileNote]
    damaged: Sequence[FileNote]


async def load_archive(
    settings: Settings, folder: Path, account: str | None, redactor: Redactor, observer: Observer
) -> Loaded:
    """Load all sessions below a folder into the configured warehouse.

    Args:
        settings: The configuration, for its warehouse; its accounts lend their user ids.
        folder: Where the files are.
        account: Whose sessions those are that no folder names a user for; None means user 1.
        redactor: For messages that are kept.
        observer: Who is told how it goes.

    Raises:
        ConfigurationError: There is no such folder or account, or no session in any file.
    """
    saved = await asyncio.to_thread(read_saved, folder, _default_user(settings, account))
    if not saved.sessions:
        raise ConfigurationError(_nothing_found(saved))
    saved = _askable(saved)
    span = _span(saved.sessions)
    async with (
        BedditCloud(archive=saved) as cloud,
        open_app(_serving(settings, cloud, saved.sessions), redactor, observer) as app,
    ):
        outcomes = await app.run(Task("archive", since=span[0], until=span[1]))
    return Loaded(outcomes, saved.passed_over, saved.damaged)


def _default_user(settings: Settings, account: str | None) -> int:
    if account is None:
        return 1
    if account not in settings.beddit.accounts:
        raise ConfigurationError(f"there is no account {account!r} under [beddit.accounts]")
    return settings.beddit.accounts[account].user_id


def _serving(settings: Settings, cloud: BedditCloud, users: Mapping[int, object]) -> Settings:
    """The configuration with the archive's cloud in place of the real one.

    Accounts get names of their own: what an archive holds says nothing about what the cloud holds, so that
    their progress must not be the real account's.
    """
    accounts = {
        f"archive-{user_id}": BedditAccount(user_id=user_id, token=SecretStr(cloud.token(user_id)))
        for user_id in users
    }
    beddit = settings.beddit.model_dump() | {
        "base_url": cloud.base_url,
        "allow_private_blob_hosts": True,
        "requests_per_second": 10_000,
        "accounts": accounts,
    }
    return settings.model_copy(update={"beddit": Beddit(**beddit)})


def _askable(saved: Archive) -> Archive:
    """The archive with no start that no question can name: sessions without one answer to every question."""
    return replace(
        saved,
        sessions={
            user_id: tuple(s if _is_time(s.start) else replace(s, start=None) for s in sessions)
            for user_id, sessions in saved.sessions.items()
        },
    )


def _is_time(start: float | None) -> bool:
    return start is not None and EARLIEST <= start < LATEST - 1


def _span(sessions: Mapping[int, Sequence[SavedSession]]) -> tuple[datetime, datetime]:
    """From the first start to the last."""
    starts = [s.start for of_user in sessions.values() for s in of_user if s.start is not None] or [0.0]
    return as_time(min(starts)), as_time(max(starts)) + timedelta(seconds=1)


def _nothing_found(saved: Archive) -> str:
    notes = "\n".join(f"  {note.path}: {note.reason}" for note in (*saved.passed_over, *saved.damaged))
    return f"no session was found below {saved.root}" + (f":\n{notes}" if notes else "")
