"""Peak memory of `nightshift once`, beside the data that went through it.

Each case runs an emulated cloud in one process and `nightshift once` in another, with an embedded
PostgreSQL, and prints the peak resident size of the second. What counts is the last column: memory against
the data of the case. It should fall as the data grows.

    python bench/memory.py
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from sync.commands.emulated import write_config
from sync.emulators.bace import BaceCloud, Fleet, Kind
from sync.emulators.beddit import BedditCloud, Study

NIGHTS = {
    "one short night, no raw signal": Study(users=(1,), nights=1, hours=0.5, raw_signal=False),
    "one night, raw signal (9 MB)": Study(users=(1,), nights=1),
    "24-hour night, raw signal (26 MB)": Study(users=(1,), nights=1, hours=24),
    "300 nights, no raw signal": Study(users=(1,), nights=300, raw_signal=False),
    "20 nights, raw signal": Study(users=(1,), nights=20),
}
VITALS = Fleet(kinds=(Kind.VITALS,), gap=0)
SESSIONS = {
    "one data session of 100,000 samples": replace(VITALS, sessions=1, hours=(9.3, 9.3)),
    "one data session of 1,000,000 samples": replace(VITALS, sessions=1, hours=(93, 93)),
    "100 data sessions, 1,000,000 samples": replace(VITALS, sessions=100, hours=(0.93, 0.93)),
}
MIB = 2**20


def main() -> None:
    """Run every case and print the table."""
    print(f"{'case':<42}{'data MiB':>10}{'peak MiB':>10}{'peak/data':>11}")
    for name, study in NIGHTS.items():
        report(name, *asyncio.run(measure(study)))
    for name, fleet in SESSIONS.items():
        report(name, *asyncio.run(measure(Study(users=(1,), nights=0), fleet)))


def report(name: str, data: int, peak: int) -> None:
    """Print a line of the table."""
    print(f"{name:<42}{data / MIB:>10.1f}{peak / MIB:>10.1f}{peak / data:>11.2f}", flush=True)


async def measure(study: Study, fleet: Fleet | None = None) -> tuple[int, int]:
    """Bytes that came in, and the peak resident bytes of the process that took them."""
    with tempfile.TemporaryDirectory(prefix="nightshift-bench-") as name:
        folder = Path(name)
        folder.chmod(0o711)  # the database's account has to pass
        async with BedditCloud(study) as beddit, BaceCloud(fleet or ()) as bace:
            users = {} if fleet else {"sleeper": study.users[0]}
            config = write_config(folder, beddit, users, bace if fleet else None)
            process = await asyncio.create_subprocess_exec(
                sys.executable, __file__, "child", str(config), stdout=subprocess.PIPE, env=os.environ
            )
            output, _ = await process.communicate()
        result = json.loads(output.splitlines()[-1])
        return result["bytes"], result["peak"]


def child(config: str) -> None:
    """Run the command in this process and report its own peak; its database's is not counted."""
    from sync.cli import app  # noqa: PLC0415 - only the child needs it

    print_to = os.dup(1)
    read, write = os.pipe()
    os.dup2(write, 1)
    with suppress(SystemExit):
        app(["--config", config, "once", "--json"], standalone_mode=False)
    sys.stdout.flush()
    os.dup2(print_to, 1)
    os.close(write)
    received = sum(json.loads(line)["bytes"] for line in os.fdopen(read).read().splitlines())
    print(json.dumps({"bytes": received, "peak": peak_bytes()}))


def peak_bytes() -> int:
    """This process's own peak, where ``ru_maxrss`` would begin with its parent's."""
    (line,) = (x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    child(sys.argv[2]) if sys.argv[1:2] == ["child"] else main()
