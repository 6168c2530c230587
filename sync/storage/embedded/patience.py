"""Waiting for another process, but not for ever."""

from __future__ import annotations

import threading
import time

from sync.errors import StorageUnavailable

PATIENCE = 300.0  # seconds; crash recovery of a full max_wal_size on a slow disk takes minutes
PAUSE = 0.05  # seconds between two looks at something that another process changes


class Aborted(Exception):
    """The event loop's task was cancelled while its thread was waiting."""


class Patience:
    """Pauses between looks at something that another process changes, until patience ends.

    Args:
        what: What is waited for, to follow "while".
        abort: Ends the wait early.
    """

    def __init__(self, what: str, abort: threading.Event | None = None) -> None:
        self._what = what
        self._abort = abort
        self._end = time.monotonic() + PATIENCE

    def pause(self) -> None:
        """Sleep for a moment.

        Raises:
            Aborted: Nobody wants the result any more.
            StorageUnavailable: It took too long.
        """
        if self._abort is not None and self._abort.is_set():
            raise Aborted
        if time.monotonic() > self._end:
            raise StorageUnavailable(f"Waited {PATIENCE:.0f} s while {self._what}.")
        time.sleep(PAUSE)
