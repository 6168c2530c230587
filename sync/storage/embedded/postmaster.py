"""What ``postmaster.pid`` says of the server, and whether it is true."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlencode

from sync.storage.embedded.configuration import DATABASE, ROLE
from sync.storage.embedded.sockets import somebody_listens


@dataclass(frozen=True)
class Postmaster:
    """What a complete ``postmaster.pid`` says."""

    pid: int
    socket_folder: str
    port: str
    status: str

    @classmethod
    def read(cls, data: Path) -> Postmaster | None:
        """Return None unless the file is there and complete."""
        try:
            lines = _lines(data)
            return cls(pid=int(lines[0]), port=lines[3], socket_folder=lines[4], status=lines[7])
        except (IndexError, ValueError):
            return None

    @property
    def accepts(self) -> bool:
        """Whether the server accepts sessions. The file alone may be a dead server's."""
        return self.status == "ready" and somebody_listens(self.socket_folder, self.port)

    @property
    def dsn(self) -> str:
        """The server's address."""
        where = urlencode({"host": self.socket_folder, "port": self.port}, quote_via=quote, safe="/")
        return f"postgresql://{ROLE}@/{DATABASE}?{where}"


def recorded_pid(data: Path) -> int | None:
    """Return the process number, which the server writes before the rest."""
    try:
        return int(_lines(data)[0])
    except (IndexError, ValueError):
        return None


def is_postgres_in(pid: int, data: Path) -> bool:
    """Tell whether a process is PostgreSQL's in this data folder, and not one that got its number later."""
    process = Path("/proc") / str(pid)
    try:
        return (process / "cwd").samefile(data)
    except PermissionError:  # root without CAP_SYS_PTRACE; command lines are public
        return b"postgres" in (process / "cmdline").read_bytes()
    except OSError:
        if Path("/proc/self").exists():
            return False
    command = ["/bin/ps", "-p", str(pid), "-o", "command="]  # macOS has no /proc
    return b"postgres" in subprocess.run(command, stdout=subprocess.PIPE, check=False).stdout  # noqa: S603


def _lines(data: Path) -> list[str]:
    try:
        return [line.strip() for line in (data / "postmaster.pid").read_text().splitlines()]
    except FileNotFoundError:
        return []
