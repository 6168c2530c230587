"""The views and functions that users rely on: their columns, their values, and what they cost."""

from __future__ import annotations

import json
import math
import random
from datetime import UTC, datetime, timedelta
from fractions import Fraction

import pytest

from sync.model import Update
from sync.sources.beddit.tables import BLOB_ATTEMPTS, BLOB_MENTIONS

# DESIGN.md section 6, by hand, and the summaries of nights.
CONTRACT = {
    "beddit.sessions": (
        "user_id bigint, session_id bigint, started_at timestamptz, ended_at timestamptz, timezone text, "
        "night date, hardware text, software text, frame_length float8, error_code int, updated float8, "
        "extra jsonb, loaded_at timestamptz, missing_upstream_at timestamptz"
    ),
    "beddit.track_values": (
        "user_id bigint, session_id bigint, track text, index int, offset_seconds float8, time timestamptz, "
        "value float8"
    ),
    "beddit.sampled_tracks": (
        "user_id bigint, session_id bigint, track text, data_type text, samples_per_frame int, "
        "frame_length float8, sample_rate float8, sample_count bigint, expected_count bigint, status text, "
        "reason text, attempts int, next_attempt_at timestamptz, sha256 text"
    ),
    "beddit.samples": (
        "user_id bigint, session_id bigint, track text, index bigint, time timestamptz, value float8"
    ),
    "beddit.night_summaries": (
        "user_id bigint, session_id bigint, night date, started_at timestamptz, ended_at timestamptz, "
        "timezone text, time_in_bed_seconds float8, heart_rate_mean float8, heart_rate_min float8, "
        "heart_rate_max float8, heart_rate_count int, respiration_rate_mean float8, "
        "respiration_cycle_count int, respiration_cycle_seconds float8, actigram_mean float8, "
        "actigram_min float8, actigram_max float8, actigram_sum float8, actigram_count int, "
        "snoring_event_count int, snoring_seconds float8, snoring_longest_seconds float8, "
        "missing_upstream_at timestamptz"
    ),
    "sync.streams": (
        "source text, account text, stream text, cursor jsonb, coverage tstzmultirange, "
        "last_success_at timestamptz, last_error text, lag interval"
    ),
    "sync.rejects": (
        "source text, account text, item_key text, reason text, payload jsonb, attempts int, "
        "first_seen_at timestamptz, last_seen_at timestamptz, resolved_at timestamptz"
    ),
}
COUNTS = ("read", "stored", "unchanged", "superseded", "duplicate", "rejected", "requests", "bytes")
SHORT = {
    "timestamp with time zone": "timestamptz",
    "double precision": "float8",
    "integer": "int",
}
START = 1_700_000_000
BETWEEN = "SELECT * FROM beddit.samples_between($1, $2, $3, $4, $5) ORDER BY index"


async def columns(store, relation):
    """A relation's columns and types, as text."""
    rows = await store.pool.fetch(
        "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute "
        "WHERE attrelid = $1::text::regclass AND attnum > 0 ORDER BY attnum",
        relation,
    )
    return ", ".join(f"{name} {SHORT.get(kind, kind)}" for name, kind in rows)


def at(seconds):
    """Return an instant that many seconds after START."""
    return datetime.fromtimestamp(START, UTC) + timedelta(seconds=seconds)


# --- the contract ----------------------------------------------------------------------------------


@pytest.mark.parametrize("view", CONTRACT)
async def test_the_columns_of_a_view(store, view):
    """Names, order and types are what users were promised."""
    assert await columns(store, view) == CONTRACT[view]


async def test_the_columns_of_runs(store):
    """A run says what, when, how it ended, what became of its items and what it cost."""
    found = dict(part.split(" ", 1) for part in (await columns(store, "sync.runs")).split(", "))
    assert {name: found[name] for name in COUNTS} == dict.fromkeys(COUNTS, "bigint")
    assert found.keys() >= {"source", "account", "task", "started_at", "finished_at", "outcome", "error"}


async def test_samples_between_has_the_columns_of_samples(store):
    """The function can take the view's place in any query."""
    result, arguments = (
        await store.pool.fetch(
            "SELECT pg_get_function_result(oid), pg_get_function_identity_arguments(oid) FROM pg_proc "
            "WHERE oid = 'beddit.samples_between'::regproc"
        )
    )[0]
    for long, short in SHORT.items():
        result = result.replace(long, short)
    assert result.replace('"', "") == f"TABLE({CONTRACT['beddit.samples']})"
    assert [part.split(" ", 1)[1] for part in arguments.split(", ")] == [
        *("bigint", "bigint", "text"),
        *("timestamp with time zone",) * 2,
    ]


async def test_every_view_says_what_it_is(store):
    """Each view and function carries a comment, and that of samples warns that it unpacks whole tracks."""
    for view in (*CONTRACT, "sync.runs"):
        (comment,) = await store.values("SELECT obj_description($1::text::regclass)", view)
        assert comment, view
    (comment,) = await store.values("SELECT obj_description('beddit.samples'::regclass)")
    assert "whole tracks" in comment
    assert "samples_between" in comment


# --- samples ---------------------------------------------------------------------------------------


@pytest.fixture
async def tone(store, night, signal):
    """Store a night with 100 samples at 140 Hz in chunks of 8; sample n is worth n."""
    await store.commit(night(START, declares=[("normal", "int16", 28)]), signal(START, range(100), chunk=8))
    return (1001, START, "normal")


async def test_samples_between_is_half_open(store, tone):
    """The lower bound belongs to it, the upper does not; what it gives are the view's rows."""
    low, high = at(14 / 140), at(28 / 140)
    rows = await store.fetch(BETWEEN, *tone, low, high)
    assert [row["value"] for row in rows] == [float(n) for n in range(14, 28)]
    expected = 'SELECT * FROM beddit.samples WHERE "time" >= $1 AND "time" < $2 ORDER BY index'
    assert rows == await store.fetch(expected, low, high)
    microsecond = timedelta(microseconds=1)
    shifted = await store.fetch(BETWEEN, *tone, low + microsecond, high + microsecond)
    assert [row["index"] for row in shifted] == list(range(15, 29))


@pytest.mark.parametrize("width", [0.0, 0.001, 0.05, 0.3])
async def test_samples_between_at_any_place(store, tone, width):
    """Wherever a stretch begins and ends in or beside the signal, exactly its samples come."""
    instants = [at(0) + timedelta(microseconds=round(Fraction(n * 10**6, 140))) for n in range(100)]
    for step in range(-3, 40):
        low = at(step * 0.02)
        high = low + timedelta(seconds=width)
        rows = await store.fetch(BETWEEN, *tone, low, high)
        assert [row["index"] for row in rows] == [n for n, t in enumerate(instants) if low <= t < high]


async def test_samples_between_infinite_bounds(store, tone):
    """Infinity is a bound like any other, on either side."""
    query = BETWEEN.replace("$4", "$4::text::timestamptz").replace("$5", "$5::text::timestamptz")
    middle = str(at(0.5))
    for low, high, expected in (
        ("-infinity", "infinity", range(100)),
        ("-infinity", middle, range(70)),
        (middle, "infinity", range(70, 100)),
        ("infinity", "infinity", range(0)),
        ("-infinity", "-infinity", range(0)),
        ("infinity", "-infinity", range(0)),
        ("0001-01-01", "9999-12-31", range(100)),
    ):
        rows = await store.fetch(query, *tone, low, high)
        assert [row["index"] for row in rows] == list(expected), (low, high)


async def test_samples_between_of_nothing(store, tone):
    """An unknown user, session or track gives no row, and so do bounds in the wrong order."""
    user, session, track = tone
    for unknown in ((2, session, track), (user, 5, track), (user, session, "noise")):
        assert await store.fetch(BETWEEN, *unknown, at(-9), at(9)) == []
    assert await store.fetch(BETWEEN, *tone, at(0.5), at(0.2)) == []


async def test_a_signal_without_frame_length_has_no_times(store, night, signal):
    """Where nobody says how long a frame is the samples are there, and their times and rate are NULL."""
    await store.commit(
        night(START, declares=[("normal", "int16", 28)], frame_count=1),
        signal(START, range(5), frame_length=None),
    )
    rows = await store.pool.fetch('SELECT value, "time" FROM beddit.samples ORDER BY index')
    assert [tuple(row) for row in rows] == [(float(n), None) for n in range(5)]
    assert await store.fetch(BETWEEN, 1001, START, "normal", at(-9), at(9)) == []
    (track,) = await store.fetch("SELECT status, sample_rate, sample_count FROM beddit.sampled_tracks")
    assert track == {"status": "complete", "sample_rate": None, "sample_count": 5}


async def test_ten_seconds_read_few_chunks(store, night, signal):
    """The function is inlined and reads the chunks of its stretch by the index, of thousands there are."""
    for number in range(40):
        start = START + number * 100_000
        await store.commit(
            night(start, declares=[("normal", "int16", 28)]), signal(start, range(20_000), chunk=100)
        )
    await store.pool.execute("VACUUM ANALYZE beddit.sample_chunks")
    await store.pool.execute("ANALYZE")
    (total,) = await store.values("SELECT count(*) FROM beddit.sample_chunks")
    assert total == 40 * 200
    start = START + 20 * 100_000
    (text,) = await store.values(
        "EXPLAIN (ANALYZE, FORMAT json, COSTS off, TIMING off) "
        + BETWEEN.replace("$1", "1001")
        .replace("$2", str(start))
        .replace("$3", "'normal'")
        .replace("$4", f"to_timestamp({start + 100})")
        .replace("$5", f"to_timestamp({start + 110})")
    )
    nodes = list(walk(json.loads(text)[0]["Plan"]))
    assert "samples_between" not in {node.get("Function Name") for node in nodes}
    names = ("sample_chunks", "_hyper_")  # the table, or a chunk of it
    (scan,) = [node for node in nodes if node.get("Relation Name", "").startswith(names)]
    assert "Index" in scan["Node Type"] or "Bitmap" in scan["Node Type"]
    # Ten seconds are 14 chunks of 100; the bound is widened by 4,097 samples, 41 chunks, at its lower end.
    read = scan["Actual Rows"] + scan.get("Rows Removed by Filter", 0)
    assert 14 <= read * scan["Actual Loops"] <= 60


def walk(node):
    """Yield a plan's nodes."""
    yield node
    for child in node.get("Plans", ()):
        yield from walk(child)


# --- the state of raw signals ----------------------------------------------------------------------

LATER = datetime(2100, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("address", "attempt", "blob", "expected"),
    [
        (True, None, None, ("pending", None, 0)),
        (False, None, None, ("absent", None, 0)),
        (None, None, "complete", ("complete", None, 0)),
        (True, "pending", None, ("pending", "why", 3)),
        (True, "unavailable", None, ("unavailable", "why", 3)),
        (False, "unavailable", None, ("absent", "why", 3)),
        (True, "complete", "complete", ("complete", None, 3)),
        (True, "unavailable", "complete", ("unavailable", "why", 3)),
        (True, None, "complete", ("pending", None, 0)),
        (False, None, "complete", ("complete", None, 0)),
        (True, "mismatch", "mismatch", ("mismatch", "too short", 3)),
        (True, "unsupported", "unsupported", ("unsupported", "too short", 3)),
    ],
)
async def test_the_status_of_a_raw_signal(store, night, signal, *, address, attempt, blob, expected):
    """Declaration, attempts and blob together say one status; what was stored once stays."""
    declares = [] if address is None else [("normal", "int16", 28)]
    records = [night(START, declares=declares, frame_count=5, frame_length=0.2)]
    if blob:
        reason = None if blob == "complete" else "too short"
        records.append(signal(START, range(7), status=blob, reason=reason))
    key = {"user_id": 1001, "session_id": START, "track": "normal"}
    updates = [Update(BLOB_MENTIONS, tuple(key), key | {"updated": 1.0})] if address else []
    if attempt:
        failed = attempt in ("pending", "unavailable")
        row = key | {
            "updated": 1.0,
            "session_digest": records[0].row["digest"],
            "attempts": 3,
            "status": attempt,
            "reason": "why" if failed else None,
            "tried_at": at(0),
            "next_attempt_at": LATER if failed else None,
        }
        updates.append(Update(BLOB_ATTEMPTS, tuple(key), row))
    await store.commit(*records, updates=tuple(updates))
    (track,) = await store.fetch("SELECT * FROM beddit.sampled_tracks")
    assert (track["status"], track["reason"], track["attempts"]) == expected
    assert track["expected_count"] == 140
    assert track["sample_rate"] == pytest.approx(140)
    assert track["sample_count"] == (7 if blob else None)
    assert (track["sha256"] is None) == (blob is None)
    assert (track["next_attempt_at"] is None) == (attempt not in ("pending", "unavailable"))


# --- instants --------------------------------------------------------------------------------------


async def test_instants_equal_python_s(store):
    """``sync.instant`` is one float8 product, rounded half to even, for any seconds and for ties."""
    dice = random.Random(20240101)  # noqa: S311 - values, not secrets
    seconds = [0.0, -0.0, -1.5, 1431835725.123456, 4102444800.000001, -62135596800.0]
    seconds += [dice.uniform(-1e9, 4e9) for _ in range(5000)]
    seconds += [start + dice.randrange(4_000_000) * 0.2 / 28 for start in seconds[:2000]]
    ties = [n * 2.0**-7 for n in range(-2001, 2001, 2)]  # n * 7812.5 microseconds: all of them ties
    assert all(value * 1e6 % 1 == 0.5 for value in ties)
    seconds += ties
    found = await store.values(
        "SELECT (extract(epoch FROM sync.instant(s)) * 1000000)::bigint "
        "FROM unnest($1::float8[]) WITH ORDINALITY AS t (s, n) ORDER BY n",
        seconds,
    )
    assert found == [half_even(value * 1e6) for value in seconds]


def half_even(value):
    """Return the nearest integer, of two equally near ones the even one, from first principles."""
    below = math.floor(value)
    rest = Fraction(value) - below
    if rest == Fraction(1, 2):
        return below + below % 2
    return below + (rest > Fraction(1, 2))
