"""The program as its users run it: a process of its own, with a configuration file."""

from __future__ import annotations

import asyncio
import compileall
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, Final

import sync
from bench.clouds import Clouds, token_of
from bench.nights import USER

MIB: Final = 2**20
_TICKS: Final = os.sysconf("SC_CLK_TCK")
_LOOK_EVERY: Final = 0.02
_PATIENCE: Final = 3_600.0
_OURS: Final = "NIGHTSHIFT_"


@dataclass(frozen=True, slots=True)
class Spent:
    """What a process took: seconds, of them processor time, and the most memory at a time (bytes)."""

    seconds: float
    cpu_s: float
    peak: int


def compile_program() -> None:
    """Compile the program, as it is where it was installed: from a checkout each start might do so anew."""
    compileall.compile_dir(Path(sync.__file__).parent, quiet=1)


async def nightshift(config: Path, *words: str) -> tuple[Spent, list[dict[str, Any]]]:
    """Run a command with ``--json``; what it took, and what it said.

    Raises:
        SystemExit: It failed.
    """
    command = (sys.executable, "-m", "sync", "--config", str(config), *words, "--json")
    spent, output = await run(*command)
    return spent, [json.loads(line) for line in output.splitlines()]


async def run(*command: str, environment: Mapping[str, str] | None = None) -> tuple[Spent, str]:
    """Run a program to its end; what it took, and its standard output.

    Raises:
        SystemExit: It failed.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}
    began = perf_counter()
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=kept | dict(environment or {}),
    )
    try:
        reader = asyncio.create_task(process.communicate())
        cpu, peak = 0.0, 0
        while not reader.done():
            cpu, peak = _used(process.pid) or (cpu, peak)
            await asyncio.wait([reader], timeout=_LOOK_EVERY)
            if perf_counter() - began > _PATIENCE:
                raise SystemExit(f"{' '.join(command)} did not end within {_PATIENCE:.0f} s")
        output, told = await reader
    finally:
        if process.returncode is None:
            process.kill()
    seconds = perf_counter() - began
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{told.decode()[-4000:]}{output.decode()[-2000:]}")
    return Spent(seconds, cpu, peak), output.decode()


def _used(pid: int) -> tuple[float, int] | None:
    """Processor time so far, and the peak of its own memory; None when it has just ended.

    Not ``ru_maxrss``, which begins with the peak of the parent.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return None
    for line in status.splitlines():
        if line.startswith("VmHWM"):
            return (int(fields[11]) + int(fields[12])) / _TICKS, int(line.split()[1]) * 1024
    return None


def beddit_config(folder: Path, dsn: str, cloud: Clouds, *, users: int = 0) -> Path:
    """A configuration for an emulated Beddit cloud: its one user, or many."""
    tokens = {USER + n: token_of(USER + n) for n in range(users)} or {USER: cloud.token}
    lines = [
        "[beddit]",
        f"base_url = {json.dumps(cloud.address)}",
        "allow_private_blob_hosts = true",
        "requests_per_second = 100000",
    ]
    for user, token in tokens.items():
        lines += [f"[beddit.accounts.user{user}]", f"user_id = {user}", f"token = {json.dumps(token)}"]
    return _written(folder, dsn, lines)


def bace_config(folder: Path, dsn: str, cloud: Clouds) -> Path:
    """A configuration for an emulated BACE cloud."""
    lines = [
        "[bace]",
        f"base_url = {json.dumps(cloud.address)}",
        "requests_per_second = 100000",
        "[bace.accounts.lab]",
        *(f"{name} = {json.dumps(value)}" for name, value in cloud.account.items()),
    ]
    return _written(folder, dsn, lines)


def _written(folder: Path, dsn: str, lines: Sequence[str]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    head = [
        f"state_dir = {json.dumps(str(folder / 'state'))}",
        "[warehouse]",
        f"dsn = {json.dumps(dsn)}",
        "[log]",
        'level = "error"',
    ]
    path = folder / "nightshift.toml"
    path.write_text("\n".join([*head, *lines]) + "\n")
    return path
