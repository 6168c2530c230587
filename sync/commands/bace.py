"""``nightshift bace download-csv``: the vendor's own CSV of a data session, with or without a database."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import BinaryIO
from uuid import UUID

from sync.app.accounts import choose
from sync.app.sources import USER_AGENT, bace_settings, limits
from sync.app.warehouse import refused_accounts
from sync.config import Settings
from sync.errors import (
    AuthenticationError,
    ConfigurationError,
    RequestRefused,
    SourceContractError,
    SyncError,
)
from sync.sources.bace.client import BaceClient, open_client
from sync.transport import HostGates

STANDARD_OUTPUT = Path("-")


@dataclass(frozen=True, slots=True)
class Downloaded:
    """What came of a download: whose permission served, and how many bytes were written where."""

    account: str
    path: Path
    size: int


async def download_csv(
    settings: Settings, session: UUID, *, account: str | None, output: Path | None, force: bool
) -> Downloaded:
    """Write a session's CSV to a file, which appears when it is whole, or to standard output.

    Args:
        settings: The configuration, for its BACE accounts.
        session: The data session's id.
        account: The account to ask with; None tries one after the other.
        output: Where to write; None is ``<session>.csv`` in the current folder, ``-`` standard output.
        force: Whether a file that is already there may be replaced.

    Raises:
        ConfigurationError: There is no such account, or the file cannot be written.
        SyncError: No account may see the session, or the download failed.
    """
    path = output or Path(f"{session}.csv")
    accounts = choose({"bace": tuple(settings.bace.accounts)}, None, account)["bace"]
    forgotten = (await refused_accounts(settings)).get("bace", {})
    bace, gates = bace_settings(settings), HostGates()
    refusals = [str(error) for name, error in forgotten.items() if name in accounts]
    with _target(path, force=force) as file:
        for name in accounts:
            if name in forgotten:
                continue
            client = open_client(bace, name, gates=gates, limits=limits(settings.bace), user_agent=USER_AGENT)
            try:
                return Downloaded(name, path, await _copy(client, session, file))
            except AuthenticationError as error:
                refusals.append(f"{name}: {error}")
            except RequestRefused as error:
                if error.status != HTTPStatus.NOT_FOUND:
                    raise
                refusals.append(f"{name} sees no such session")
            finally:
                await client.aclose()
        raise SyncError(f"session {session} cannot be downloaded:\n  " + "\n  ".join(refusals))


async def _copy(client: BaceClient, session: UUID, file: BinaryIO) -> int:
    size = 0
    async with client.download_csv(str(session)) as response:
        if any(kind in response.content_type for kind in ("html", "json")):
            raise SourceContractError(
                f"session {session} was answered with {response.content_type} instead of CSV;"
                " check bace.base_url, or try later"
            )
        async for chunk in response.chunks():
            size += file.write(chunk)
    return size


@contextmanager
def _target(path: Path, *, force: bool) -> Iterator[BinaryIO]:
    """Where the bytes go. A file gets its name when everything went well, and leaves nothing otherwise."""
    if path == STANDARD_OUTPUT:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    _check_free(path, force=force)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        _check_free(path, force=force)
        part.replace(path)
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be written: {error.strerror}") from error
    finally:
        part.unlink(missing_ok=True)


def _check_free(path: Path, *, force: bool) -> None:
    if path.exists() and not force:
        raise ConfigurationError(f"{path} is already there; --force replaces it, --output names another")
