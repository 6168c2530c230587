"""``nightshift status`` as a person reads it, with two accounts and with a thousand."""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta

from rich.console import Console

from sync.observe.tables import show_status

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
EMPTY = {
    "nights": 0,
    "newest_night": None,
    "data_sessions": {},
    "newest_data_session": None,
    "datapoints": 0,
    "open_data_sessions": [],
    "incomplete_data_sessions": [],
    "streams": [],
    "blobs": {},
    "missing_blobs": [],
    "rejects": [],
    "differences": [],
    "runs": [],
    "workers": [],
    "leases": [],
}


def stream(account, *, source="beddit", lag=12.0, error=None, gaps=()):
    """Make a stream whose last success is so many minutes ago; None is never."""
    return {
        "source": source,
        "account": account,
        "stream": "sessions",
        "lag": None if lag is None else timedelta(minutes=lag),
        "last_error": error,
        "covered_from": NOW - timedelta(days=9),
        "covered_to": NOW,
        "gaps": list(gaps),
    }


def run(account, *, outcome="done", ago=12.0):
    """Make an account's last run, begun so many minutes ago."""
    return {
        "source": "beddit",
        "account": account,
        "task": "once",
        "started_at": NOW - timedelta(minutes=ago),
        "ago": timedelta(minutes=ago),
        "outcome": outcome,
        "stored": 1,
        "rejected": 0,
        "requests": 2,
    }


def worker(number, *, gone=False):
    """Make a process."""
    return {
        "worker_id": number,
        "command": "run",
        "host": "here",
        "pid": 10 + number,
        "version": "0.1.0",
        "started_at": NOW,
        "silent_for": timedelta(minutes=5) if gone else timedelta(seconds=3),
        "gone": gone,
    }


def lease(account, number=1):
    """Make a process's hold on an account."""
    return {
        "source": "beddit",
        "account": account,
        "worker_id": number,
        "work": "fresh",
        "working_for": timedelta(minutes=4),
    }


def shown(fresh_within=None, **facts):
    """What is printed of these facts, by line."""
    out = io.StringIO()
    show_status(Console(file=out, width=10_000), EMPTY | facts, fresh_within=fresh_within)
    return out.getvalue().splitlines()


def test_a_few_accounts_have_a_line_each():
    """Where there are few, healthy ones are named too."""
    lines = shown(streams=[stream("ann"), stream("ben", source="bace")], runs=[run("ann")])
    assert [line.split()[0] for line in lines if line.startswith(("beddit/", "bace/"))] == [
        "beddit/ann/sessions",
        "bace/ben/sessions",
        "beddit/ann",
    ]


def test_of_a_thousand_accounts_those_in_trouble_are_named():
    """The healthy ones are one line a source, with the oldest check; the others have one each."""
    healthy = [stream(f"a{n:03}", lag=n / 100, gaps=["x"] if n < 3 else ()) for n in range(997)]
    troubled = [
        stream("late", lag=60 * 49),
        stream("never", lag=None),
        stream("refused", error="the token is wrong"),
    ]
    runs = [run(f"a{n:03}", ago=3 + n) for n in range(996)]
    runs += [run("a997", outcome="running", ago=70), run("refused", outcome="failed")]
    lines = shown(streams=healthy + troubled, runs=runs)
    assert "beddit: 997 accounts fresh, oldest check 10 min ago, 3 with gaps" in lines
    assert "beddit: 996 done, 1 running; the newest began 3 min ago" in lines
    assert "beddit/refused/sessions the token is wrong" in lines
    named = {line.split()[0] for line in lines if line.startswith("beddit/")}
    assert named == {
        "beddit/late/sessions",
        "beddit/never/sessions",
        "beddit/refused/sessions",
        "beddit/refused",
    }
    assert len(lines) < 25


def test_what_is_fresh_can_be_said():
    """What is late is a matter of the source's schedule."""
    streams = [stream(f"a{n}", lag=40) for n in range(11)]
    assert "beddit: 11 accounts fresh, oldest check 40 min ago" in shown(streams=streams)
    strict = shown({"beddit": timedelta(minutes=30)}, streams=streams)
    assert sum(line.startswith("beddit/") for line in strict) == 11


def test_when_all_are_in_trouble_a_screen_is_still_enough():
    """Twenty are named, the number of the others and where to find them is told."""
    lines = shown(
        streams=[stream(f"a{n:03}", error="the vendor is away") for n in range(500)],
        runs=[run(f"a{n:03}", outcome="failed") for n in range(500)],
        rejects=[{"source": "beddit", "account": f"a{n}", "reason": "bad", "count": 2} for n in range(30)],
    )
    assert "  and 480 more (sync.streams)" in lines
    assert "  and 480 more (sync.runs)" in lines
    assert "rejects  60 open (details: sync.rejects)" in lines
    assert "  and 10 more (sync.rejects)" in lines
    assert len(lines) < 100


def test_open_differences_are_told_and_what_ends_them():
    """By account and kind, since when; where nothing differs nothing is said."""
    found = {"source": "bace", "account": "lab", "kind": "content", "count": 3, "found_at": NOW}
    lines = shown(differences=[found])
    assert "differences  3 open (details: sync.differences; `nightshift verify --repair`)" in lines
    assert any(line.split()[:4] == ["3", "bace/lab", "content,", "since"] for line in lines)
    assert not [line for line in shown() if "differences" in line]


def test_processes_and_what_they_have_in_hand():
    """Who works, on what and for how long; who is silent too long; and when nobody is there."""
    workers = [worker(1), worker(2, gone=True), worker(3)]
    lines = shown(workers=workers, leases=[lease(f"a{n}") for n in range(7)])
    assert (
        "  run on here (pid 11), 0.1.0, since 2026-11-21 12:00Z: works on beddit/a0 (fresh) for 4 min, "
        "beddit/a1 (fresh) for 4 min, beddit/a2 (fresh) for 4 min, beddit/a3 (fresh) for 4 min, "
        "beddit/a4 (fresh) for 4 min and 2 more"
    ) in lines
    assert any(line.endswith(": silent for 5 min; gone, will be taken over") for line in lines)
    assert any("(pid 13)" in line and line.endswith("nothing to do now") for line in lines)
    assert "processes  none is working here now" in shown()


def test_raw_signals_that_are_not_there_say_why():
    """With how many, and when they are tried again; a vendor's words cannot colour anything."""
    missing = [
        {"status": "unavailable", "reason": "[red]gone\x1b[0m", "count": 1200, "next_attempt_at": NOW},
        {"status": "pending", "reason": None, "count": 3, "next_attempt_at": None},
    ]
    lines = shown(blobs={"complete": 9, "pending": 3, "unavailable": 1200}, missing_blobs=missing)
    assert r"   1,200  unavailable: [red]gone\x1b[0m (again 2026-11-21 12:00Z or later)" in lines
    assert "       3  pending: not asked for yet" in lines
