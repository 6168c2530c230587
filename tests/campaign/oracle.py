"""Judges a warehouse by the clouds that it was read from: at any moment, and in the end.

At any moment, also right after a process was killed:

* what is stored is some version that there was, whole: no half of one, no mixture, nothing twice;
* what cursor and coverage claim to have been read is there;
* every batch is accounted for.

In the end, when everything was quiet and read, warehouse and clouds are equal, to the bit and microsecond.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import asyncpg
import numpy as np

from sync.emulators.bace import DataSession
from tests.campaign.world import USERS, Version, World
from tests.integration.bace.conftest import DATAPOINTS
from tests.integration.bace.conftest import SESSIONS as DATA_SESSIONS
from tests.integration.beddit.conftest import SAMPLES, SESSIONS, TRACKS, micros

Row = Mapping[str, Any]

STATE = """
    SELECT source, account, cursor, coverage FROM sync.stream_state WHERE stream = 'sessions'
"""
BLOBS = """
    SELECT b.session_id, b.track, b.updated, encode(b.sha256, 'hex') AS sha256, b.sample_count,
           sum(cardinality(c.int2s)) AS stored, count(DISTINCT c.first_index) = count(c.first_index) AS once
    FROM beddit.blob_records b LEFT JOIN beddit.sample_chunks c USING (user_id, session_id, track)
    WHERE user_id = $1 GROUP BY 1, 2, 3, 4, 5
"""
LOADS = """
    SELECT id_data_session::text AS id, status, status_reason, datapoint_count, loaded_count, rejected_count,
           raw_coverage, extract(epoch FROM updated_at)::float8 AS updated
    FROM bace.data_sessions
"""
LEDGER = """
    SELECT * FROM sync.runs WHERE read <> stored + unchanged + superseded + duplicate + rejected
"""
QUIET = """
    SELECT 'run ' || run_id || ' still runs' FROM sync.run_log WHERE outcome = 'running'
    UNION ALL SELECT 'account ' || account || ' is held' FROM sync.leases WHERE worker_id IS NOT NULL
    UNION ALL SELECT 'reject ' || item_key || ': ' || reason FROM sync.reject_log WHERE resolved_at IS NULL
    UNION ALL SELECT 'blob ' || session_id || ' is ' || status || ': ' || coalesce(reason, '')
              FROM beddit.sampled_tracks WHERE status <> 'complete'
    UNION ALL SELECT 'session ' || id_data_session || ' is ' || status || ': ' || coalesce(status_reason, '')
              FROM bace.data_sessions WHERE status <> 'complete'
    UNION ALL SELECT 'session ' || id_data_session || ' is marked as missing'
              FROM bace.data_sessions WHERE missing_upstream_at IS NOT NULL
"""


class DifferenceError(AssertionError):
    """The warehouse is not what it should be."""


@dataclass(slots=True)
class Oracle:
    """Compares one world with one warehouse.

    Attributes:
        world: The truth.
        connection: A look at the warehouse.
        sessions: How many sessions were compared, over all comparisons.
        samples: How many points, samples and datapoints were.
        checks: How many comparisons there were.
    """

    world: World
    connection: asyncpg.Connection
    sessions: int = 0
    samples: int = 0
    checks: int = 0
    _known_since: dict[str, float] = field(default_factory=dict)

    async def judge(self) -> None:
        """What is there is right, and what is claimed is there.

        Raises:
            DifferenceError: It is not; says what.
        """
        now = self.world.clock()
        async with self.connection.transaction(isolation="repeatable_read", readonly=True):
            state = {(row["source"], row["account"]): row for row in await self.connection.fetch(STATE)}
            _same("the ledger", [dict(row) for row in await self.connection.fetch(LEDGER)], [])
            for user in USERS:
                await self._judge_nights(user, state.get(("beddit", f"user{user}")), now)
            await self._judge_data(state.get(("bace", "lab")))
        self.checks += 1

    async def has_read_all(self) -> bool:
        """Whether every account was read to its end, and nothing is left to do."""
        read = await self.connection.fetchval(
            "SELECT count(*) FROM sync.stream_state WHERE last_success_at IS NOT NULL"
        )
        return bool(read == len(USERS) + 1) and not [one for one in await self.quiet() if "blob" in one]

    async def quiet(self) -> list[str]:
        """What is not at its end yet."""
        return [row[0] for row in await self.connection.fetch(QUIET)]

    async def equal(self) -> None:
        """Warehouse and clouds are equal.

        Raises:
            DifferenceError: They are not; says where.
        """
        await self.judge()
        for user in USERS:
            truth = self.world.beddit.truth(user)
            rows = await self._rows(SESSIONS, user)
            _same(f"nights of {user}", {r["session_id"]: r["updated"] for r in rows}, _stamps(truth))
            stored = {
                (r["session_id"], r["track"]): np.array(r["values"]) for r in await self._rows(SAMPLES, user)
            }
            _same(f"raw signals of {user}", sorted(stored), sorted(self._signals(user)))
            for key, blob in self._signals(user).items():
                expected = np.frombuffer(blob, "<u2").astype(np.float64)
                if not np.array_equal(stored[key], expected):
                    raise DifferenceError(f"samples of {user}/{key}")
                self.samples += len(expected)
        await self._equal_data()

    # --- Beddit -----------------------------------------------------------------------------------

    async def _judge_nights(self, user: int, state: Row | None, now: float) -> None:
        rows = {row["session_id"]: row for row in await self._rows(SESSIONS, user)}
        tracks = {(row["session_id"], row["track"]): row for row in await self._rows(TRACKS, user)}
        expected_tracks: dict[tuple[int, str], Row] = {}
        for session_id, row in rows.items():
            version = self._version(user, session_id, row["updated"])
            _same(f"night {user}/{session_id}", row, _session_row(session_id, version.session))
            expected_tracks |= _track_rows(session_id, version.session)
        _same(f"tracks of {user}", tracks, expected_tracks)
        self.sessions += len(rows)
        self.samples += sum(len(row["values"]) for row in tracks.values())
        for blob in await self._rows(BLOBS, user):
            version = self._version(user, blob["session_id"], blob["updated"])
            content = version.blob or b""
            expected = hashlib.sha256(content).hexdigest(), len(content) // 2, len(content) // 2, True
            # A blob may already be the one of the version that follows, which is about to be listed.
            found = blob["sha256"], blob["sample_count"], blob["stored"], blob["once"]
            if found != expected and blob["sha256"] not in self._later_blobs(user, blob["session_id"]):
                raise DifferenceError(f"raw signal of {user}/{blob['session_id']}: {found} is not {expected}")
        if state is not None and state["cursor"] is not None:
            self._judge_claims(user, state, {key: row["updated"] for key, row in rows.items()}, now)

    def _judge_claims(self, user: int, state: Row, stored: Mapping[int, float], now: float) -> None:
        """Cursor and coverage are not ahead of the rows."""
        cursor = json.loads(state["cursor"])
        since = self._known_since.setdefault(f"user{user}", now)
        covered = [(part.lower.timestamp(), part.upper.timestamp()) for part in state["coverage"]]
        for (of, session_id), versions in self.world.nights.items():
            start = versions[0].session["start_timestamp"]
            stamps = [version.session["updated"] for version in versions]
            claimed = [stamp for stamp in stamps if stamp <= cursor["updated_after"]]
            is_claimed = stamps[0] > since or any(low <= start < high for low, high in covered)
            if of == user and claimed and is_claimed and stored.get(session_id, -1.0) < claimed[-1]:
                raise DifferenceError(
                    f"the cursor of {user} ({cursor['updated_after']}) is ahead of night {session_id}, put "
                    f"at {claimed[-1]}, of which there is {stored.get(session_id)}"
                )

    def _version(self, user: int, session_id: int, updated: float) -> Version:
        for version in self.world.nights.get((user, session_id), ()):
            if version.session["updated"] == updated:
                return version
        raise DifferenceError(f"there never was a night {user}/{session_id} of {updated}")

    def _later_blobs(self, user: int, session_id: int) -> set[str]:
        versions = self.world.nights[user, session_id]
        return {hashlib.sha256(version.blob).hexdigest() for version in versions if version.blob}

    def _signals(self, user: int) -> dict[tuple[int, str], bytes]:
        return {
            (session_id, "normal"): versions[-1].blob
            for (of, session_id), versions in self.world.nights.items()
            if of == user and versions[-1].blob
        }

    # --- BACE -------------------------------------------------------------------------------------

    async def _judge_data(self, state: Row | None) -> None:
        loads = {row["id"]: row for row in await self._rows(LOADS)}
        stored = await self._points()
        true: dict[str, Counter[Any]] = {}
        for session in self.world.bace.sessions():
            if session.id in loads:
                true[session.id] = self._true_points(session)
        for session_id, points in stored.items():
            surplus = points - true.get(session_id, Counter())
            if surplus:
                raise DifferenceError(f"datapoints of {session_id} that are not, or twice: {_some(surplus)}")
        for session_id, load in loads.items():
            points = stored.get(session_id, Counter())
            _same(f"loaded_count of {session_id}", load["loaded_count"], points.total())
            missing = true[session_id] - points
            ahead = [point for point in missing if self._is_claimed(session_id, point, load["raw_coverage"])]
            if ahead:
                raise DifferenceError(f"coverage of {session_id} is ahead of {ahead[:3]} ({len(ahead)})")
            if load["status"] == "complete" and load["datapoint_count"] == true[session_id].total():
                _same(f"datapoints of {session_id}, which is complete", points, true[session_id])
        self.sessions += len(loads)
        self.samples += sum(points.total() for points in stored.values())
        cursor = None if state is None or state["cursor"] is None else json.loads(state["cursor"])
        if cursor is not None and cursor["listed_at"] is not None:
            for session in self.world.bace.sessions():
                due = _changed_before(session, cursor["changed_since"])
                if due is not None and (loads.get(session.id) or {"updated": -1})["updated"] < due:
                    raise DifferenceError(
                        f"the cursor {cursor} is ahead of session {session.id}, changed {due}"
                    )

    def _is_claimed(self, session_id: str, point: Any, coverage: Any) -> bool:
        dataset, ms, _ = point
        if (session_id, dataset, ms) in self.world.late:
            return False
        return any(part.lower.timestamp() <= ms / 1000 < part.upper.timestamp() for part in coverage)

    async def _equal_data(self) -> None:
        now = self.world.clock()
        sessions = [session for session in self.world.bace.sessions() if session.exists(now)]
        _same(
            "data sessions",
            await self._rows(DATA_SESSIONS),
            [_data_session(session, now) for session in sorted(sessions, key=lambda session: session.id)],
        )
        expected = {session.id: self._true_points(session) for session in sessions}
        _same("datapoints", await self._points(), {key: points for key, points in expected.items() if points})

    async def _points(self) -> dict[str, Counter[Any]]:
        found: dict[str, Counter[Any]] = {}
        for row in await self.connection.fetch(DATAPOINTS):
            points = found.setdefault(row["session"], Counter())
            points[row["dataset"], row["ms"], row["value"]] += row["count"]
        return found

    def _true_points(self, session: DataSession) -> Counter[Any]:
        held = self.world.bace.samples(session.id)
        names = [dataset.id_container_data_latest for dataset in held.datasets]
        rows = zip(held.dataset.tolist(), held.time_ms.tolist(), held.value.tolist(), strict=True)
        return Counter((names[dataset], ms, value) for dataset, ms, value in rows)

    async def _rows(self, query: str, *args: Any) -> list[Row]:
        return [dict(row) for row in await self.connection.fetch(query, *args)]


def _stamps(truth: Mapping[int, Any]) -> dict[int, float]:
    return {session_id: session["updated"] for session_id, session in truth.items()}


def _session_row(session_id: int, session: Mapping[str, Any]) -> Row:
    plain = ("timezone", "hardware", "software", "frame_length", "error_code", "updated")
    return {
        "session_id": session_id,
        "start": micros(session["start_timestamp"]),
        "end": micros(session["end_timestamp"]),
        **{name: session.get(name) for name in plain},
    }


def _track_rows(session_id: int, session: Mapping[str, Any]) -> dict[tuple[int, str], Row]:
    start = session["start_timestamp"]
    return {
        (session_id, track): {
            "session_id": session_id,
            "track": track,
            "indexes": list(range(len(content["items"]))),
            "offsets": [float(time) for time, _ in content["items"]],
            "values": [float(value) for _, value in content["items"]],
            "instants": [micros(start + time) for time, _ in content["items"]],
        }
        for track, content in session["time_value_tracks"].items()
    }


def _data_session(session: DataSession, now: float) -> Row:
    return {
        "id_data_session": session.id,
        "id_group": session.group,
        "id_person": session.person,
        "label": session.label,
        "start": session.start,
        "end": session.end_at(now),
        "created_at": session.created_at,
        "updated_at": session.updated_at(now),
        "archived_at": session.archived_by(now),
        "is_ingestion_finished": session.is_ingested(now),
        "is_archived": session.archived_by(now) is not None,
    }


def _changed_before(session: DataSession, instant: float) -> int | None:
    """The last change of a session's record in a second before an instant; None: it was not there yet."""
    return session.updated_at(instant - 1) if session.exists(instant - 1) else None


def _same(what: str, found: Any, expected: Any) -> None:
    if found == expected:
        return
    if isinstance(found, Mapping) and isinstance(expected, Mapping):
        wrong = [key for key in {*found, *expected} if found.get(key) != expected.get(key)]
        key = wrong[0]
        first = f"{_short(found.get(key))} is not {_short(expected.get(key))}"
        raise DifferenceError(f"{what}: {len(wrong)} differ, e.g. {key}: {first}")
    raise DifferenceError(f"{what}: {_short(found)} is not {_short(expected)}")


def _some(points: Counter[Any]) -> str:
    return f"{points.total()}, e.g. {points.most_common(3)}"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) < 400 else f"{text[:400]} ..."
