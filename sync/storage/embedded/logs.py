"""The server's logs: how long they stay, and what they say of a failure."""

from __future__ import annotations

import re
import time

from sync.errors import StorageUnavailable
from sync.storage.embedded.files import disk_full, tells_of_full_disk
from sync.storage.embedded.layout import Layout

_KEPT = 6 * 24 * 3600  # seconds; a week later, the file has the same name
_LARGEST = 64 * 2**20  # bytes
_LINES_SHOWN = 15
_START = "starting PostgreSQL"  # the first words of a server in its log
_HINT = re.compile(r"^.*\bHINT:  .*\n?(?:\t.*\n?)*", re.MULTILINE)


def remove_old_logs(layout: Layout) -> None:
    """Do before a start what the server does only while it runs: it appends to the files that it finds."""
    layout.log.joinpath("start.log").unlink(missing_ok=True)
    for path in layout.log.glob("server-*.log"):
        now = path.stat()
        if time.time() - now.st_mtime > _KEPT or now.st_size > _LARGEST:
            path.unlink()


def failure(layout: Layout, what: str) -> StorageUnavailable:
    """Describe a failure with the last lines of the newest log."""
    lines = [f"The embedded PostgreSQL in {layout.root} {what}"]
    logs = [(path.stat().st_mtime_ns, path.name != "start.log", path) for path in layout.log.glob("*.log")]
    text = ""
    if logs:
        newest = max(logs)[-1]
        text = newest.read_text(errors="replace")
        lines.append(f"{newest} ends with:")
    if tells_of_full_disk(what + text.rpartition(_START)[2]):
        lines.insert(0, disk_full(layout.root))
        text = _HINT.sub("", text)  # of corrupted data and backups, which would frighten for nothing
    return StorageUnavailable("\n".join((*lines, *text.splitlines()[-_LINES_SHOWN:])))
