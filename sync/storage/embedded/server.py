"""The embedded server as its users see it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path
from typing import TypeVar

from sync.storage.embedded.files import explained
from sync.storage.embedded.layout import Layout
from sync.storage.embedded.stay import Stay

T = TypeVar("T")


class EmbeddedPostgres:
    """A PostgreSQL server of our own in a folder of our own.

    Any number of objects, tasks and processes may use one folder at the same time.

    Args:
        folder: Where everything lives; made when missing. Nothing outside it is changed.
        settings: Server settings on top of ``SETTINGS``; they take effect when this object is the one that
            starts the server.
    """

    def __init__(self, folder: Path, *, settings: Mapping[str, str] | None = None) -> None:
        self.folder = folder.expanduser().resolve()
        self._layout = Layout(self.folder)
        self._settings = dict(settings or {})

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[str]:
        """Keep the server running; the value is a DSN for asyncpg and libpq.

        Raises:
            ConfigurationError: Somebody has to change something; the message says what.
            StorageUnavailable: The server did not start; the message ends with its log.
        """
        stay = self._stay()
        try:
            yield await _in_thread(stay.enter, on_cancel=stay.abort.set)
        finally:
            await _in_thread(stay.leave)

    @contextlib.contextmanager
    def running_sync(self) -> Iterator[str]:
        """Do as ``running``, for code without an event loop."""
        stay = self._stay()
        try:
            yield stay.enter()
        finally:
            stay.leave()

    def is_initialised(self) -> bool:
        """Tell whether the folder holds a database already."""
        with explained(self.folder):
            return self._layout.is_initialised

    def stop_if_unused(self) -> bool:
        """Stop a server that a killed process left behind.

        Returns:
            Whether nobody uses the server; it is not running then.
        """
        return not self.folder.is_dir() or self._stay().stop_if_unused()

    def _stay(self) -> Stay:
        return Stay(self._layout, self._settings)


async def _in_thread(work: Callable[[], T], *, on_cancel: Callable[[], object] = lambda: None) -> T:
    """Run blocking work in a thread, and when cancelled wait for its end all the same."""
    # Not asyncio.to_thread: asyncio.run would cancel its task, and forget the thread.
    future = asyncio.get_running_loop().run_in_executor(None, work)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        on_cancel()
        while not future.done():
            with contextlib.suppress(asyncio.CancelledError):  # another one, from an impatient person
                await asyncio.wait([future])
        future.exception()  # what went wrong while giving up interests nobody
        raise
