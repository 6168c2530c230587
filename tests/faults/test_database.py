"""Whatever happens to PostgreSQL, a batch is stored or not, whole, and the next run goes on behind it."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from sync.emulators.beddit import Request
from sync.errors import StorageUnavailable
from sync.model import Task
from sync.storage.database import open_pool
from sync.storage.embedded import EmbeddedPostgres
from sync.storage.migrate import migrate
from sync.storage.progress import PostgresWarehouse
from tests.faults.proxy import COMMIT_ANSWERED, COMMIT_ASKED, COPY_DATA, Trouble
from tests.integration.bace.conftest import NOW
from tests.integration.beddit.conftest import _pipeline as beddit_pipeline

DAY = 86_400.0
ONCE = Task("once")
IN_MEMORY = {"fsync": "off"}
"""What a server may leave out that only has to survive its own end, and not the machine's."""

EVERYTHING = """
    TRUNCATE beddit.session_records, beddit.track_arrays, beddit.track_declarations, beddit.blob_mentions,
             beddit.blob_records, beddit.blob_attempts, beddit.sample_chunks, sync.stream_state, sync.run_log
"""


@pytest.fixture
async def pipeline(open_beddit: Any, night: Any, manual_clock: Any) -> Any:
    """Three nights of one user, weeks apart, one with raw signal; the second one is long."""
    opened = await open_beddit(None, tokens={1001: "token-of-1001"}, clock=manual_clock(NOW))
    opened.clock = opened.cloud._clock
    fill(opened.cloud, night)
    return opened


def fill(cloud: Any, night: Any) -> None:
    """Put three nights into a cloud."""
    for number, start in enumerate((NOW - DAY, NOW - 40 * DAY, NOW - 80 * DAY)):
        raw = {"normal": {"samples_per_frame": 1, "data_type": "uint16"}} if not number else {}
        cloud.put(1001, night(start, level=50.0 + number, sampled_tracks=raw), updated=start + 700)
    cloud.set_blob(1001, int(NOW - DAY), "normal", bytes(range(200)) * 30)


async def assert_rows(pipeline: Any) -> None:
    """The warehouse equals the cloud; only what was written of a run itself may have been lost."""
    await pipeline.pool.execute("UPDATE sync.run_log SET outcome = 'lost' WHERE outcome = 'running'")
    await pipeline.assert_truth()


@asynccontextmanager
async def through(pipeline: Any, dsn: str, **options: Any) -> AsyncIterator[Any]:
    """The same pipeline over other connections."""
    async with open_pool(dsn, **options) as pool:
        yield replace(pipeline, pool=pool, warehouse=PostgresWarehouse(pool))


@pytest.mark.parametrize(
    ("trouble", "moment"),
    [
        pytest.param(Trouble.CUT, COPY_DATA, id="cut-copy"),
        pytest.param(Trouble.CUT, COMMIT_ASKED, id="cut-commit"),
        pytest.param(Trouble.CUT, COMMIT_ANSWERED, id="cut-answer"),
        pytest.param(Trouble.RESET, COMMIT_ANSWERED, id="reset-answer"),
    ],
)
async def test_a_connection_breaks_in_any_batch(pipeline, proxy, trouble, moment):
    """Cut in a message of any batch, before, in or after its COMMIT: the next run completes the rows."""
    for number in count():
        await pipeline.pool.execute(EVERYTHING)
        before = proxy.happened
        proxy.plan(trouble, replace(moment, skip=number))
        async with through(pipeline, proxy.dsn) as disturbed:
            (outcome,) = await disturbed.run(ONCE)
        if proxy.happened == before:
            break
        assert isinstance(outcome.error, StorageUnavailable)
        await pipeline.once()
        await assert_rows(pipeline)
    proxy.forget()
    assert number > 5


async def test_a_slow_network(pipeline, proxy):
    """A network that holds every message back costs time, and nothing else."""
    proxy.delay_s = 0.003
    async with through(pipeline, proxy.dsn) as slow:
        await slow.once()
    await assert_rows(pipeline)


async def test_a_black_hole(pipeline, proxy):
    """A database that says nothing for a while stores nothing meanwhile, and nothing is said to be stored."""

    async def vanish(request: Request) -> None:
        pipeline.cloud.on_request = None
        proxy.swallow()

    async with through(pipeline, proxy.dsn) as lost:
        pipeline.cloud.on_request = vanish
        run = asyncio.create_task(lost.run(ONCE))
        done, _ = await asyncio.wait([run], timeout=0.3)
        assert not done
        proxy.swallow(False)
        (outcome,) = await run
    assert isinstance(outcome.error, StorageUnavailable)
    await pipeline.run(ONCE)
    await assert_rows(pipeline)


async def test_back_ends_are_terminated_at_any_request(pipeline, server, database):
    """An administrator who ends all connections costs a run at most, whenever that is."""
    admin = await asyncpg.connect(server)
    name = database.partition("?")[0].rpartition("/")[2]

    for number in count(1):
        await pipeline.pool.execute(EVERYTHING)
        left = number

        async def terminate(request: Request) -> None:
            nonlocal left
            left -= 1
            if left == 0:
                await admin.fetch(
                    "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
                    " WHERE datname = $1 AND application_name = 'nightshift'",
                    name,
                )

        pipeline.cloud.on_request = terminate
        (outcome,) = await pipeline.run(ONCE)
        if left > 0:
            break
        assert outcome.error is None or isinstance(outcome.error, StorageUnavailable)
        pipeline.cloud.on_request = None
        await pipeline.once()
        await assert_rows(pipeline)
    await admin.close()
    assert number > 5


async def test_a_statement_takes_too_long(pipeline, database):
    """A batch that PostgreSQL ends after statement_timeout is not stored, and comes with the next run."""
    blocker = await asyncpg.connect(database)
    transaction = blocker.transaction()
    await transaction.start()
    await blocker.execute("LOCK TABLE beddit.session_records IN EXCLUSIVE MODE")
    async with through(pipeline, database, statement_timeout_s=1) as hasty:
        (outcome,) = await hasty.run(ONCE)
    assert isinstance(outcome.error, StorageUnavailable)
    assert "statement timeout" in str(outcome.error)
    await transaction.rollback()
    await blocker.close()
    await pipeline.once()
    await assert_rows(pipeline)


# --- a server of the test's own -------------------------------------------------------------------


@asynccontextmanager
async def own_pipeline(place: Path, tmp_path: Path, night: Any, manual_clock: Any) -> AsyncIterator[Any]:
    """A pipeline into a server of its own, which may break; clouds included."""
    async with EmbeddedPostgres(place / "pg", settings=IN_MEMORY).running() as dsn:
        await migrate(dsn)
        async with beddit_pipeline(dsn, tmp_path, None, own_cloud(manual_clock)) as pipeline:
            pipeline.clock = pipeline.cloud._clock
            fill(pipeline.cloud, night)
            yield pipeline


@asynccontextmanager
async def recovered(place: Path, pipeline: Any) -> AsyncIterator[Any]:
    """The same pipeline once the server is well again; it is started where it has ended."""
    async with EmbeddedPostgres(place / "pg", settings=IN_MEMORY).running() as dsn, asyncio.timeout(60):
        while True:
            try:
                await (await asyncpg.connect(dsn)).close()
                break
            except (asyncpg.PostgresError, OSError):
                await asyncio.sleep(0.1)
        async with through(pipeline, dsn) as again:
            yield again


def own_cloud(manual_clock: Any) -> dict[str, Any]:
    """The options of a cloud with one user."""
    return {"tokens": {1001: "token-of-1001"}, "clock": manual_clock(NOW)}


async def test_the_server_crashes(folder, tmp_path, night, manual_clock):
    """A back-end that is killed takes the whole server with it: after its recovery the run goes on."""
    async with own_pipeline(folder, tmp_path, night, manual_clock) as pipeline:
        left = 3

        async def crash(request: Request) -> None:
            nonlocal left
            left -= 1
            if left == 0:
                rows = await pipeline.fetch("SELECT pg_backend_pid() AS pid")
                os.kill(rows[0]["pid"], signal.SIGKILL)

        pipeline.cloud.on_request = crash
        (outcome,) = await pipeline.run(ONCE)
        assert isinstance(outcome.error, StorageUnavailable)
        pipeline.cloud.on_request = None
        async with recovered(folder, pipeline) as again:
            await again.run(ONCE)
            await assert_rows(again)


@contextmanager
def small_disk(place: Path, megabytes: int) -> Iterator[Path]:
    """A file system in memory that is soon full; raises PermissionError where none may be mounted."""
    place.mkdir(mode=0o711)
    mount = shutil.which("mount")
    if os.geteuid() != 0 or mount is None:
        raise PermissionError("only root may mount")
    options = f"size={megabytes}m,mode=0711"
    made = subprocess.run(  # noqa: S603 - our own words
        [mount, "-t", "tmpfs", "-o", options, "tmpfs", str(place)],
        check=False,
        capture_output=True,
        text=True,
    )
    if made.returncode:
        raise PermissionError(made.stderr.strip())
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)  # noqa: S603, S607


async def test_the_disk_is_full(folder, tmp_path, night, manual_clock, not_tested):
    """A batch that finds no room is not stored; when there is room again, the next run stores it."""
    try:
        with small_disk(folder / "disk", 256) as disk:
            async with own_pipeline(disk, tmp_path, night, manual_clock) as pipeline:
                pipeline.cloud.set_blob(1001, int(NOW - DAY), "normal", os.urandom(6000) * 300)
                ballast = disk / "ballast"
                with ballast.open("wb") as file:
                    file.truncate(0)
                    os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(disk).free - 2**19)
                (outcome,) = await pipeline.run(ONCE)
                assert isinstance(outcome.error, StorageUnavailable)
                ballast.unlink()
                async with recovered(disk, pipeline) as again:
                    await again.run(ONCE)
                    await assert_rows(again)
    except PermissionError as error:
        not_tested("a full disk", str(error))


async def test_a_command_that_cannot_end_in_order_is_ended_by_another_signal(pipeline, proxy, nightshift):
    """Where the database says nothing, a second Ctrl-C after a while ends the process; nothing is lost."""
    asked = asyncio.Event()

    async def vanish(request: Request) -> None:
        pipeline.cloud.on_request = None
        proxy.swallow()
        asked.set()

    nightshift.configure(pipeline.cloud, 1001)
    pipeline.cloud.on_request = vanish
    process = await nightshift.start("once", NIGHTSHIFT_WAREHOUSE__DSN=proxy.dsn)
    await asyncio.wait_for(asked.wait(), 30)
    await asyncio.sleep(0.5)
    process.send(signal.SIGTERM)
    await asyncio.sleep(11)
    process.send(signal.SIGTERM)
    ended = await asyncio.wait_for(process.ended(), 5)
    assert ended.code == 128 + signal.SIGTERM
    assert "ended at once" in ended.err
    proxy.swallow(False)
    await pipeline.once()
    await assert_rows(pipeline)
