"""The network in front of PostgreSQL disturbs exactly what it is told to, and nothing else."""

from __future__ import annotations

import asyncio
import time

import asyncpg
import pytest

from tests.faults.proxy import COMMIT_ANSWERED, COMMIT_ASKED, COPY_DATA, Moment, PostgresProxy, Trouble

LOST = (asyncpg.PostgresConnectionError, asyncpg.InterfaceError, OSError)


@pytest.fixture
async def connection(proxy: PostgresProxy):
    """A connection through the proxy."""
    connection = await asyncpg.connect(proxy.dsn)
    await connection.execute("CREATE TABLE t (x int)")
    yield connection
    connection.terminate()


async def rows(proxy: PostgresProxy) -> int:
    """How many rows there are, seen through a new connection."""
    connection = await asyncpg.connect(proxy.dsn)
    try:
        return await connection.fetchval("SELECT count(*) FROM t")
    finally:
        await connection.close()


async def insert(connection: asyncpg.Connection) -> None:
    """A row, in a transaction."""
    async with connection.transaction():
        await connection.execute("INSERT INTO t VALUES (1)")


async def test_it_passes_everything_on(connection, proxy):
    """Without a command, queries, COPY and transactions work as without a proxy."""
    await insert(connection)
    await connection.copy_records_to_table("t", records=[(n,) for n in range(50_000)])
    assert await rows(proxy) == 50_001


@pytest.mark.parametrize("trouble", [Trouble.CUT, Trouble.RESET])
async def test_a_commit_that_never_arrives(connection, proxy, trouble):
    """A COMMIT that is cut on its way is none."""
    proxy.plan(trouble, COMMIT_ASKED)
    with pytest.raises(LOST):
        await insert(connection)
    assert (await rows(proxy), proxy.happened) == (0, 1)


@pytest.mark.parametrize("trouble", [Trouble.CUT, Trouble.RESET])
async def test_a_commit_whose_answer_is_lost(connection, proxy, trouble):
    """A COMMIT whose answer is cut was one all the same."""
    proxy.plan(trouble, COMMIT_ANSWERED)
    with pytest.raises(LOST):
        await insert(connection)
    assert (await rows(proxy), proxy.happened) == (1, 1)


async def test_a_copy_is_cut_in_the_middle_of_a_message(connection, proxy):
    """Half a message of COPY is nothing."""
    proxy.plan(Trouble.CUT, COPY_DATA)
    with pytest.raises(LOST):
        await connection.copy_records_to_table("t", records=[(n,) for n in range(50_000)])
    assert (await rows(proxy), proxy.happened) == (0, 1)


async def test_messages_may_pass_first(connection, proxy):
    """A moment can be the third of its kind."""
    proxy.plan(Trouble.RESET, Moment(to_client=False, kind=b"Q", containing=b"SELECT 7", skip=2))
    await connection.execute("SELECT 7")
    await connection.execute("SELECT 7")
    with pytest.raises(LOST):
        await connection.execute("SELECT 7")


async def test_a_black_hole_says_nothing(connection, proxy):
    """What is swallowed is neither answered nor refused, until it ends; new connections work then."""
    proxy.swallow()
    query = asyncio.create_task(connection.execute("SELECT 1"))
    other = asyncio.create_task(asyncpg.connect(proxy.dsn, timeout=60))
    done, _ = await asyncio.wait([query, other], timeout=0.2)
    assert not done
    proxy.swallow(False)
    for task in (query, other):
        with pytest.raises(LOST):
            await task
    assert await rows(proxy) == 0


async def test_a_delay_holds_each_message_back(connection, proxy):
    """A query takes at least as long as its way there and back."""
    proxy.delay_s = 0.05
    begun = time.monotonic()
    await connection.execute("SELECT 1")
    assert time.monotonic() - begun >= 0.1


async def test_all_connections_end_at_once(connection, proxy):
    """A reset of everything ends every connection, and new ones work."""
    assert proxy.end_all(reset=True) == 1
    with pytest.raises(LOST):
        await connection.execute("SELECT 1")
    assert await rows(proxy) == 0
