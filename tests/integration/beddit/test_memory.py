"""How much memory loading takes; and the one real night, where it is at hand."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from sync.commands.archive import load_archive
from sync.config import load
from sync.emulators.beddit import Study
from sync.observe.display import Counts
from sync.observe.logging import Redactor

ROOT = Path(__file__).parents[3]
MIB = 2**20

CHILD = """
import asyncio, json, resource, sys
from pathlib import Path

from sync.engine.runner import Engine
from sync.model import Task
from sync.observe.display import Counts
from sync.sources.beddit.settings import Account, BedditSettings
from sync.sources.beddit.source import BedditSource
from sync.storage.database import open_pool
from sync.storage.ledger import PostgresLedger
from sync.storage.progress import PostgresWarehouse
from sync.storage.sink import PostgresSink
from sync.transport import HostGates, Limits


def memory(name):
    # Linux counts a parent's memory into ru_maxrss; the kernel's mark of this program's own memory is here.
    status = Path("/proc/self/status")
    if status.exists():
        lines = status.read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(name))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


async def main(dsn, base_url, user, token, spool):
    settings = BedditSettings(
        base_url=base_url, accounts={user: Account(int(user), token)}, spool=Path(spool),
        allow_private_blob_hosts=True, batch_bytes=4 << 20,
    )
    async with open_pool(dsn) as pool:
        limits = Limits(requests_per_second=10_000, burst=10_000)
        source = BedditSource(settings, PostgresWarehouse(pool), HostGates(), limits)
        try:
            engine = Engine(PostgresSink(pool), PostgresLedger(pool), Counts())
            (outcome,) = await engine.run(source, Task("once"), [user])
        finally:
            await source.aclose()
    if outcome.error:
        raise outcome.error
    result = {"received": outcome.traffic.received_bytes, "read": outcome.tally.read}
    print(json.dumps(result | {"peak": memory("VmHWM")}))


asyncio.run(main(*sys.argv[1:]))
"""


async def load_in_another_process(pipeline, dsn):
    """Load everything in a process of its own; its peak memory, and what it received and read."""
    (user,) = pipeline.users
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", CHILD, dsn, pipeline.cloud.base_url, str(user), pipeline.cloud.token(user)),
        str(pipeline.settings.spool),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        cwd=ROOT,
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    return json.loads(output.splitlines()[-1])


async def test_memory_does_not_grow_with_a_night(open_pipeline, database, empty_spool):
    """Two days with 50 MB of raw signal take hardly more memory than a night of six hours."""
    small = await open_pipeline(Study(users=(1001,), nights=1, hours=6.0))
    before = await load_in_another_process(small, database)
    large = await open_pipeline(Study(users=(1002,), nights=1, hours=48.0))
    after = await load_in_another_process(large, database)
    data = after["received"] - before["received"]
    assert data > 40 * MIB
    assert after["peak"] - before["peak"] < data / 2
    assert empty_spool(large)


async def test_memory_does_not_grow_with_an_answer(open_pipeline, database):
    """An answer with many nights takes hardly more memory than its first few megabytes."""
    few = await open_pipeline(Study(users=(1001,), nights=8, hours=8.8, raw_signal=False))
    before = await load_in_another_process(few, database)
    many = await open_pipeline(Study(users=(1002,), nights=120, hours=8.8, raw_signal=False))
    after = await load_in_another_process(many, database)
    grown, data = after["peak"] - before["peak"], after["read"] - before["read"]
    assert data > 2_000_000  # points
    assert after["received"] - before["received"] > 40 * MIB
    assert grown < (after["received"] - before["received"]) / 4


@pytest.fixture
def empty_spool():
    """Tell whether a pipeline left nothing in its spool folder."""

    def look(pipeline):
        return list(pipeline.settings.spool.iterdir()) == []

    return look


# --- the real night -------------------------------------------------------------------------------------


@pytest.fixture
def real_night(not_tested) -> Path:
    """One person's real night, which is not part of this repository."""
    beside = ROOT.parent / "shared" / "fixtures" / "beddit-night" / "session.json"
    path = Path(os.environ.get("NIGHTSHIFT_REAL_NIGHT") or beside)
    if not path.is_file():
        not_tested("the real night", "set NIGHTSHIFT_REAL_NIGHT to its session.json")
    return path


async def test_the_real_night(real_night, database, tmp_path, open_pipeline):
    """All 12 tracks and 24,395 points of a real night: values bit for bit, instants to the microsecond."""
    folder = tmp_path / "archive"
    folder.mkdir()
    shutil.copy(real_night, folder / "session.json")
    config = tmp_path / "nightshift.toml"
    config.write_text(f'state_dir = "{tmp_path}"\n[warehouse]\ndsn = "{database}"\n')
    loaded = await load_archive(load(config, {}), folder, None, Redactor(), Counts())
    assert [outcome.error for outcome in loaded.outcomes] == [None]

    (session,) = json.loads(real_night.read_text())
    assert len(session["time_value_tracks"]) == 12
    pipeline = await open_pipeline(None, tokens={1: "token-of-the-sleeper"})
    await pipeline.assert_truth({1: {session["id"]: session}})
    (found,) = await pipeline.fetch(
        "SELECT count(*), count(DISTINCT track) AS tracks, min(offset_seconds) AS first "
        "FROM beddit.track_values"
    )
    assert (found["count"], found["tracks"]) == (24_395, 12)
    assert found["first"] == session["time_value_tracks"]["events"]["items"][0][0] < 0
    undocumented = await pipeline.fetch(
        "SELECT DISTINCT track FROM beddit.track_values WHERE track = ANY ($1) ORDER BY 1",
        ["activity_segment_length", "activity_segment_variation", "events", "high_activity_intervals"],
    )
    assert len(undocumented) == 4
    values = await pipeline.fetch(
        "SELECT value FROM beddit.track_values WHERE track = 'heartbeat' ORDER BY index"
    )
    expected = np.array(
        [value for _, value in session["time_value_tracks"]["heartbeat"]["items"]], np.float64
    )
    assert np.array([row["value"] for row in values]).tobytes() == expected.tobytes()
