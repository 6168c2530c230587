"""Old runs become daily totals: nothing that was counted is lost, and nothing is counted twice."""

from __future__ import annotations

import asyncio
import random
from datetime import UTC, date, datetime, timedelta

import pytest

from sync.storage import housekeeping
from sync.storage.housekeeping import Housekeeping, keep_house

NOW = datetime(2026, 6, 15, 3, 30, tzinfo=UTC)
COUNTS = ("read", "stored", "unchanged", "superseded", "duplicate", "rejected", "requests", "bytes")
TOTALS = f"""
    SELECT (started_at AT TIME ZONE 'UTC')::date AS day, source, account, task, outcome,
           sum(runs)::bigint AS runs, {", ".join(f"sum({name})::bigint AS {name}" for name in COUNTS)},
           min(started_at) AS began, max(finished_at) AS ended
    FROM sync.runs GROUP BY 1, 2, 3, 4, 5 ORDER BY 1, 2, 3, 4, 5
"""  # noqa: S608


def make_run(age: timedelta, *, outcome: str = "done", error: str | None = None, **counts: int) -> tuple:
    """Make one run's row: so long ago, with such counts."""
    began = NOW - age
    ended = None if outcome == "running" else began + timedelta(minutes=1)
    named = (counts.get(name, 0) for name in COUNTS)
    return ("beddit", counts.get("account", "ann"), "once", began, ended, outcome, error, *named)


async def write(store, runs):
    """Write runs as they are, and nothing else."""
    await store.pool.execute("DELETE FROM sync.run_log")
    columns = ("source", "account", "task", "started_at", "finished_at", "outcome", "error", *COUNTS)
    await store.pool.copy_records_to_table("run_log", schema_name="sync", records=runs, columns=columns)


def some_runs(seed: int, number: int = 3_000) -> list[tuple]:
    """Make runs of a hundred days, most of them quiet."""
    chance = random.Random(seed)  # noqa: S311
    outcomes = ("done", "failed", "interrupted", "lost", "paused", "running")
    runs = []
    for _ in range(number):
        outcome = chance.choices(outcomes, (90, 4, 2, 1, 2, 1))[0]
        counts = {name: chance.choice((0, 0, 0, 1, 10**12)) for name in COUNTS}
        if chance.random() < 0.7:
            counts |= {"stored": 0, "rejected": 0}
        account = f"a{chance.randrange(5)}"
        age = timedelta(seconds=chance.randrange(100 * 86_400))
        runs.append(make_run(age, outcome=outcome, account=account, **counts))
    return runs


@pytest.mark.parametrize("seed", range(3))
async def test_every_sum_stays_what_it_was(store, monkeypatch, seed):
    """By day, account, task and outcome, sync.runs adds up to the same; a second pass finds nothing."""
    monkeypatch.setattr(housekeeping, "AT_ONCE", 20)
    await write(store, some_runs(seed))
    before = await store.fetch(TOTALS)
    for later in (-40, 0, 40, 200):  # days: the rest of a day comes after its quiet runs
        rows = await store.pool.fetchval("SELECT count(*) FROM sync.run_log")
        kept = await keep_house(store.pool, now=NOW + timedelta(days=later))
        assert rows - await store.pool.fetchval("SELECT count(*) FROM sync.run_log") == kept.runs
        assert await store.fetch(TOTALS) == before
        assert await keep_house(store.pool, now=NOW + timedelta(days=later)) == Housekeeping()
    assert await store.values("SELECT DISTINCT outcome FROM sync.run_log") == ["running"]


async def test_many_processes_at_once_count_nothing_twice(store, monkeypatch):
    """One of them keeps house, the others find that somebody does; no lock is left behind."""
    monkeypatch.setattr(housekeeping, "AT_ONCE", 20)
    await write(store, some_runs(7))
    before = await store.fetch(TOTALS)
    rows = await store.pool.fetchval("SELECT count(*) FROM sync.run_log")
    kept = await asyncio.gather(*(keep_house(store.pool, now=NOW) for _ in range(4)))
    kept.append(await keep_house(store.pool, now=NOW))
    assert sum(one.runs for one in kept) == rows - await store.pool.fetchval(
        "SELECT count(*) FROM sync.run_log"
    )
    assert await store.fetch(TOTALS) == before
    held = """
        SELECT l.pid FROM pg_locks l JOIN pg_database d ON d.oid = l.database
        WHERE l.locktype = 'advisory' AND d.datname = current_database()
    """
    assert await store.values(held) == []


async def test_what_goes_and_what_stays(store):
    """After 90 days all that has ended goes; after 7 days what found nothing new and did not fail."""
    week, quarter = timedelta(days=8), timedelta(days=91)
    stay = [
        make_run(timedelta(days=6)),
        make_run(timedelta(days=7)),  # of a day that is not wholly older
        make_run(week, stored=1, read=1),
        make_run(week, rejected=1, read=1),
        make_run(week, outcome="failed", error="the vendor is away"),
        make_run(week, error="not all could be read"),
        make_run(week, outcome="interrupted"),
        make_run(timedelta(days=90), stored=1),
        make_run(quarter, outcome="running"),
    ]
    go = [
        make_run(week, requests=2, unchanged=5, read=5),
        make_run(quarter, stored=1, read=1),
        make_run(quarter, outcome="failed", error="the vendor is away"),
    ]
    await write(store, stay + go)
    assert await keep_house(store.pool, now=NOW) == Housekeeping(runs=3, days=2)
    left = await store.values("SELECT started_at FROM sync.run_log ORDER BY started_at")
    assert left == sorted(run[3] for run in stay)
    quiet = await store.fetch("SELECT * FROM sync.run_days WHERE unchanged > 0")
    (began,) = (run[3] for run in go[:1])
    assert [(row["day"], row["runs"], row["requests"], row["started_at"]) for row in quiet] == [
        (date(2026, 6, 7), 1, 2, began)
    ]


async def test_the_databases_clock_counts(store):
    """Without a time of its own, housekeeping goes by the database: a run of just now stays."""
    assert await keep_house(store.pool) == Housekeeping()
    await store.pool.execute(
        "UPDATE sync.run_log SET outcome = 'done', started_at = now() - interval '100 days'"
    )
    assert await keep_house(store.pool) == Housekeeping(runs=1, days=1)


async def test_a_run_that_somebody_holds_is_left_for_the_next_time(store, other):
    """Housekeeping waits for nobody's row."""
    await write(store, [make_run(timedelta(days=100)), make_run(timedelta(days=100), read=1)])
    async with other.transaction():
        await other.fetch("SELECT FROM sync.run_log WHERE read = 1 FOR UPDATE")
        assert await asyncio.wait_for(keep_house(store.pool, now=NOW), 30) == Housekeeping(runs=1, days=1)
    assert await keep_house(store.pool, now=NOW) == Housekeeping(runs=1, days=1)
