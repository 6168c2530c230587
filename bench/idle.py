"""What a cycle costs in which nothing is new: requests, processor time, memory and statements per account.

    python bench/idle.py [ACCOUNTS]

The real program, as `once` and as the daemon, against an emulated Beddit cloud without a limit on the rate.
Every figure comes from one run on one machine; the ratios to ten accounts are what can be compared.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import asyncpg

from sync.emulators.beddit import BedditCloud
from sync.storage.embedded import EmbeddedPostgres
from sync.storage.migrate import migrate

FEW = 10
CYCLES = 3
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Cost:
    """What some cycles cost, on average; memory is the most that was used."""

    requests: float
    cpu_s: float
    seconds: float
    peak_mib: float
    transactions: float


async def main(accounts: int) -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory(prefix="nightshift-bench-") as name:
        folder = Path(name)
        folder.chmod(0o711)
        async with EmbeddedPostgres(folder / "postgres").running() as dsn:
            few = await costs(folder / "few", dsn, FEW)
            many = await costs(folder / "many", dsn, accounts)
    print(f"a cycle without news, {accounts:,} accounts (and {FEW})")
    print(
        f"{'':<10}{'requests':>10}{'CPU s':>10}{'seconds':>10}{'peak MiB':>10}{'transactions':>14}"
        f"{'CPU ms each':>13}{'MiB each':>10}"
    )
    for what in many:
        one, other = few[what], many[what]
        more = accounts - FEW
        print(
            f"{what:<10}{other.requests:>10.0f}{other.cpu_s:>10.2f}{other.seconds:>10.2f}"
            f"{other.peak_mib:>10.0f}{other.transactions:>14.0f}"
            f"{(other.cpu_s - one.cpu_s) / more * 1000:>13.2f}"
            f"{(other.peak_mib - one.peak_mib) / more:>10.3f}"
        )
        print(
            f"{f'  with {FEW}':<10}{one.requests:>10.0f}{one.cpu_s:>10.2f}{one.seconds:>10.2f}"
            f"{one.peak_mib:>10.0f}{one.transactions:>14.0f}"
        )
    print("(each: what an account more costs; the emulated cloud shares the machine with the program)")


async def costs(folder: Path, dsn: str, accounts: int) -> dict[str, Cost]:
    """What `once` and a cycle of the daemon cost with so many accounts, each with one night that is known."""
    folder.mkdir()
    name = f"idle_{accounts}"
    server = await asyncpg.connect(dsn)
    await server.execute(f"CREATE DATABASE {name}")
    own = dsn.replace("/nightshift?", f"/{name}?")
    await migrate(own)
    users = range(1, accounts + 1)
    async with BedditCloud() as cloud:
        for user in users:
            cloud.set_token(user, cloud.token(user))
            cloud.put(user, night(1_700_000_000.0 + user))
        config = write(folder, own, cloud, users)
        await once(config)
        found = {
            "once": await measured_once(config, server, name, cloud),
            "daemon": await measured_daemon(config, server, name, cloud, accounts),
        }
    await server.close()
    return found


def night(start: float) -> dict[str, Any]:
    """A night of next to nothing."""
    items = [[30.0, 50.0], [60.0, 51.0]]
    return {
        "id": int(start),
        "start_timestamp": start,
        "end_timestamp": start + 600,
        "timezone": "Europe/Helsinki",
        "frame_length": 0.2,
        "time_value_tracks": {"heart_rate": {"value_data_type": "float32", "items": items}},
    }


def write(folder: Path, dsn: str, cloud: BedditCloud, users: range) -> Path:
    """Write the configuration."""
    lines = [
        f'state_dir = "{folder}/state"',
        "[warehouse]",
        f"dsn = {json.dumps(dsn)}",
        "[log]",
        'format = "json"',
        "[daemon]",
        'listen = "off"',
        "jitter_s = 0",
        "[beddit]",
        f'base_url = "{cloud.base_url}"',
        "requests_per_second = 100000",
        'schedule = "1m"',
        'retry_schedule = "1d"',
    ]
    for user in users:
        lines += [f"[beddit.accounts.user{user}]", f"user_id = {user}", f'token = "{cloud.token(user)}"']
    path = folder / "nightshift.toml"
    path.write_text("\n".join(lines) + "\n")
    return path


async def started(config: Path, command: str) -> asyncio.subprocess.Process:
    """Start the program."""
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "sync", "--config", str(config), command),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        limit=2**24,
    )


async def once(config: Path) -> None:
    """Read what is new; it has to succeed."""
    process = await started(config, "once")
    _, told = await process.communicate()
    if process.returncode:
        raise SystemExit(told.decode())


def used(pid: int) -> tuple[float, float]:
    """Seconds of processor time so far, and the most memory so far (MiB)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    status = Path(f"/proc/{pid}/status").read_text()
    peak = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return (int(fields[11]) + int(fields[12])) / TICKS, int(peak.split()[1]) / 1024


async def transactions(server: asyncpg.Connection, name: str) -> float:
    """Transactions of a database so far."""
    query = "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = $1"
    return float(await server.fetchval(query, name))


async def measured_once(config: Path, server: asyncpg.Connection, name: str, cloud: BedditCloud) -> Cost:
    """What `once` costs, start and end included."""
    asked, committed = len(cloud.requests), await transactions(server, name)
    began, before = perf_counter(), os.times()
    process = await started(config, "once")
    peak = 0.0
    reader = asyncio.create_task(process.communicate())
    while not reader.done():
        try:
            peak = max(peak, used(process.pid)[1])
        except (OSError, StopIteration):  # it has just ended
            break
        await asyncio.wait([reader], timeout=0.05)
    await reader
    after = os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    seconds = perf_counter() - began
    committed = await transactions(server, name) - committed
    return Cost(len(cloud.requests) - asked, cpu, seconds, peak, committed)


async def measured_daemon(
    config: Path, server: asyncpg.Connection, name: str, cloud: BedditCloud, accounts: int
) -> Cost:
    """What a cycle of the daemon costs, start and end left out."""
    config.write_text(config.read_text().replace('schedule = "1m"', f'schedule = "{10 + accounts // 50}s"'))
    process = await started(config, "run")
    try:
        await finished(process)
        asked, committed, (cpu, _) = len(cloud.requests), await transactions(server, name), used(process.pid)
        seconds = [await finished(process) for _ in range(CYCLES)]
        cpu_then, peak = used(process.pid)
        return Cost(
            (len(cloud.requests) - asked) / CYCLES,
            (cpu_then - cpu) / CYCLES,
            sum(seconds) / CYCLES,
            peak,
            (await transactions(server, name) - committed) / CYCLES,
        )
    finally:
        process.send_signal(signal.SIGTERM)
        await process.communicate()


async def finished(process: asyncio.subprocess.Process) -> float:
    """Wait for the end of a cycle; how long it took."""
    assert process.stderr is not None  # noqa: S101
    async for line in process.stderr:
        event = json.loads(line)
        if event["event"] == "cycle.finished" and event["task"] == "once":
            return float(event["seconds"])
    raise SystemExit("the daemon ended")


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000))
