"""The facts behind ``nightshift status``."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime

from sync.model import Interval, Progress, Reject, RunOutcome, Tally, Task, Traffic, Update
from sync.sources.beddit.tables import BLOB_ATTEMPTS, BLOB_MENTIONS
from sync.storage.housekeeping import keep_house
from sync.storage.migrate import newest_version


async def test_an_empty_warehouse(store):
    """Nothing yet, and the status says so."""
    status = (await store.warehouse.status()).facts()
    assert status["schema_version"] == newest_version()
    assert (status["nights"], status["newest_night"]) == (0, None)
    assert (status["streams"], status["blobs"], status["rejects"]) == ([], {}, [])
    assert (status["missing_blobs"], status["workers"], status["leases"]) == ([], [], [])
    assert (status["data_sessions"], status["newest_data_session"], status["datapoints"]) == ({}, None, 0)
    assert status["open_data_sessions"] == status["incomplete_data_sessions"] == []


async def test_the_facts(store, night, signal):
    """Nights, streams with their gaps, blobs by status, open rejects by reason and last runs are all told."""
    first, second, third, fourth = (datetime(2024, 1, n, tzinfo=UTC) for n in (1, 2, 3, 4))
    declares = [("normal", "int16", 28), ("noise", "int8", 2)]
    named = {"user_id": 1001, "session_id": 2, "track": "normal"}
    await store.commit(
        night(1, declares=declares, night=date(2024, 1, 2)),
        night(2, declares=declares[:1], night=date(2024, 1, 3)),
        signal(1, [1]),
        updates=(Update(BLOB_MENTIONS, tuple(named), named | {"updated": 1.0}),),
        rejects=[Reject("1001/1", f"1001/1/x/{n}", "not a number") for n in range(3)]
        + [Reject("1001/7", "1001/7", "no start"), Reject("1001/8", "1001/8", "gone")],
        progress=Progress(covered=(Interval(first, second), Interval(third, fourth))),
    )
    await store.commit(night(8))
    await store.ledger.failed(store.run, store.stream, "the vendor is away")
    outcome = RunOutcome("beddit", "alice", Tally(), Traffic(3, 99))
    await store.ledger.finish(store.run, outcome, verdict="failed", error="the vendor is away")
    newest = await store.ledger.begin("beddit", "alice", Task("backfill"))

    status = (await store.warehouse.status()).facts()
    assert (status["nights"], status["newest_night"]) == (3, date(2024, 1, 3))
    assert status["blobs"] == {"absent": 1, "complete": 1, "pending": 1}
    (stream,) = status["streams"]
    assert (stream["covered_from"], stream["covered_to"]) == (first, fourth)
    assert stream["gaps"] == ["2024-01-02 00:00:00+00 to 2024-01-03 00:00:00+00"]
    assert (stream["last_error"], stream["lag"]) == ("the vendor is away", None)
    open_rejects = [(row["reason"], row["count"]) for row in status["rejects"]]
    assert open_rejects == [("not a number", 3), ("no start", 1)]
    (run,) = status["runs"]
    assert (run["task"], run["outcome"], run["finished_at"]) == ("backfill", "running", None)
    assert newest > store.run


async def test_the_plain_facts_are_json(store, night):
    """What ``--json`` prints can be read by any JSON parser, with lag in seconds."""
    await store.commit(night(1), progress=Progress(checked=True))
    plain = json.loads(json.dumps((await store.warehouse.status()).plain(), allow_nan=False))
    assert plain["nights"] == 1
    assert 0 <= plain["streams"][0]["lag"] < 300
    assert plain["newest_night"] == "1970-01-01"


async def test_what_keeps_raw_signals_away_is_told_by_reason(store, night):
    """Pending and unavailable ones with their reason, how many it keeps away, and when it is tried again."""
    again = datetime(2024, 5, 1, 12, tzinfo=UTC)
    keys = [{"user_id": 1001, "session_id": n, "track": "normal"} for n in (1, 2, 3)]
    mentions = [Update(BLOB_MENTIONS, tuple(key), key | {"updated": 1.0}) for key in keys]
    nights = [night(n, declares=[("normal", "int16", 28)]) for n in (1, 2, 3)]
    attempt = {"updated": 1.0, "attempts": 1, "status": "unavailable", "reason": "gone", "tried_at": again}
    attempt["session_digest"] = nights[0].row["digest"]
    attempts = [
        Update(BLOB_ATTEMPTS, tuple(key), key | attempt | {"next_attempt_at": again.replace(hour=12 + n)})
        for n, key in enumerate(keys[:2])
    ]
    await store.commit(*nights, updates=(*mentions, *attempts))
    status = (await store.warehouse.status()).facts()
    assert [tuple(row.values()) for row in status["missing_blobs"]] == [
        ("unavailable", "gone", 2, again),
        ("pending", None, 1, None),
    ]


async def test_who_works_on_what(store):
    """Each process with how long it was silent; one that is silent beyond its lease is gone."""
    await store.pool.execute("""
        INSERT INTO sync.workers (command, host, pid, version, lease, heartbeat_at)
        VALUES ('run', 'here', 12, '1.0', '60 s', now() - interval '5 s'),
               ('once', 'there', 13, '1.1', '60 s', now() - interval '5 min')
    """)
    await store.pool.execute("""
        INSERT INTO sync.leases (source, account, worker_id, work, claimed_at)
        SELECT 'beddit', 'alice', worker_id, 'fresh', now() - interval '2 min'
        FROM sync.workers WHERE pid = 12
        UNION ALL SELECT 'beddit', 'bob', NULL, NULL, NULL
    """)
    status = await store.warehouse.status()
    here, there = status.workers
    assert [(w["command"], w["host"], w["pid"], w["version"], w["gone"]) for w in (here, there)] == [
        ("run", "here", 12, "1.0", False),
        ("once", "there", 13, "1.1", True),
    ]
    (lease,) = status.leases
    assert (lease["account"], lease["worker_id"], lease["work"]) == ("alice", here["worker_id"], "fresh")
    plain = json.loads(json.dumps(status.plain(), allow_nan=False))
    assert 300 <= plain["workers"][1]["silent_for"] < 600
    assert 120 <= plain["leases"][0]["working_for"] < 600


async def test_daily_totals_are_nobodys_last_run(store):
    """The last run is the newest row of the account's own, however many old ones were added up."""
    await store.pool.execute("UPDATE sync.run_log SET outcome = 'done', started_at = now() - interval '99 d'")
    newest = await store.ledger.begin("beddit", "alice", Task("backfill"))
    assert (await keep_house(store.pool)).runs == 1
    (run,) = (await store.warehouse.status()).runs
    assert (run["task"], run["outcome"]) == ("backfill", "running")
    assert await store.values("SELECT max(run_id) FROM sync.runs") == [newest]
