"""Where everything lives in the embedded database's folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Layout:
    """The folder and its parts.

    Attributes:
        root: The folder itself.
    """

    root: Path

    @property
    def data(self) -> Path:
        """The cluster."""
        return self.root / "data"

    @property
    def unfinished(self) -> Path:
        """The cluster while it is made; it gets its name when it is complete."""
        return self.root / "data.new"

    @property
    def log(self) -> Path:
        """``start.log`` of the last start, and a log for each day of the week."""
        return self.root / "log"

    @property
    def socket(self) -> Path:
        """The folder of the server's only door, unless this path is too long for a socket."""
        return self.root / "socket"

    @property
    def binaries(self) -> Path:
        """A copy of the wheel, only where the server's account cannot reach the original."""
        return self.root / "binaries"

    @property
    def manage_lock(self) -> Path:
        """Held while somebody starts or stops the server."""
        return self.root / "manage.lock"

    @property
    def users_lock(self) -> Path:
        """Shared by all users of the server."""
        return self.root / "users.lock"

    @property
    def server_lock(self) -> Path:
        """Held by whatever works in the data folder."""
        return self.root / "server.lock"

    @property
    def is_initialised(self) -> bool:
        """Whether there is a complete cluster."""
        return (self.data / "PG_VERSION").is_file()
