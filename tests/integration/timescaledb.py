"""A server with TimescaleDB: its image where Docker is (community), else Debian's packages (Apache)."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).parent
QUIET = {"timescaledb.telemetry_level": "off", "timescaledb.max_background_workers": "0"}
"""Nothing leaves the machine, and nothing happens that a test did not ask for."""


class ImpossibleError(Exception):
    """There is no such server here; says why, and what to do."""


@contextmanager
def timescaledb(settings: Mapping[str, str], folder: Path) -> Iterator[str]:
    """Run a server for as long as we live, and yield its DSN.

    Args:
        settings: PostgreSQL's.
        folder: Where it makes its own.

    Raises:
        ImpossibleError: It cannot be had.
    """
    options = [f"--{name}={value}" for name, value in {**QUIET, **settings}.items()]
    with _image(options) if _has_docker() else _packages(options, folder) as dsn:
        yield dsn


def _has_docker() -> bool:
    """Whether there is a Docker that runs, and testcontainers to talk to it."""
    return (
        importlib.util.find_spec("testcontainers") is not None
        and shutil.which("docker") is not None
        and subprocess.run(["docker", "info"], capture_output=True, check=False).returncode == 0  # noqa: S607
    )


@contextmanager
def _image(options: list[str]) -> Iterator[str]:
    from testcontainers.community.postgres import PostgresContainer  # noqa: PLC0415 - an extra

    (image,) = re.findall(r"&timescaledb (\S+)", (HERE.parents[1] / "compose.yaml").read_text())
    container = PostgresContainer(image, username="nightshift", dbname="nightshift", driver=None)
    with container.with_command(["postgres", *options]) as running:
        yield running.get_connection_url(driver=None)


@contextmanager
def _packages(options: list[str], folder: Path) -> Iterator[str]:
    # Its input is a pipe that ends with us, however we end, and it ends with its input; not with our Ctrl+C.
    with subprocess.Popen(  # noqa: S603
        [HERE / "timescaledb.sh", *options],
        env={**os.environ, "TMPDIR": str(folder)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        dsn = server.stdout.readline().strip()
        if not dsn:
            why = server.communicate()[1].strip() or "it ended without a word"
            raise ImpossibleError(f"{why}; or start Docker and pip install -e '.[docker]'")
        try:
            yield dsn
        finally:
            server.stdin.close()
