"""Removing one person's data, and knowing whom not to read again. The only place that deletes for good.

First it is written down that the account is forgotten: from then on nobody reads it, and what is interrupted
can be repeated. Then its data goes in bounded transactions, each only while the leases are held; what the
rest is found by goes last. What is left is a row of ``sync.forgotten``, which knows the account by hashes.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

import asyncpg
import msgspec

from sync.errors import LeaseLost
from sync.storage.failures import translated

NIGHTS_AT_ONCE: Final = 16
"""Nights that go in one transaction: with their raw signals some 130 MB."""

SESSIONS_AT_ONCE: Final = 50
"""Data sessions that are looked at in one transaction."""

ROWS_AT_ONCE: Final = 200_000
"""Datapoints that go in one statement."""

# Named in the statements below, and nothing else: a test holds them against the catalogue.
OF_ACCOUNT: Final = (
    "sync.stream_state",
    "sync.run_log",
    "sync.run_days",
    "sync.reject_log",
    "sync.difference_log",
    "sync.leases",
)
"""What is kept for an account by its name."""

OF_USER: Final = (
    "beddit.blob_records",
    "beddit.session_records",
    "beddit.sample_chunks",
    "beddit.track_arrays",
    "beddit.track_declarations",
    "beddit.blob_mentions",
    "beddit.blob_attempts",
)
"""What is kept of a Beddit user; first what the nights are found by, whose locks others take first, too."""

OF_SESSION: Final = (
    "bace.session_records",
    "bace.session_loads",
    "bace.session_checks",
    "bace.datapoint_rows",
    "bace.session_access",
)
"""What is kept of a BACE data session."""

UNREFERRED: Final = {
    "bace.dataset_records": """
        DELETE FROM bace.dataset_records t
        WHERE NOT EXISTS (
                SELECT FROM (SELECT DISTINCT unnest(datasets) AS id FROM bace.session_records) AS kept
                WHERE kept.id = t.id_container_data_latest)
          AND NOT EXISTS (SELECT FROM bace.session_records r WHERE r.id_group = t.id_group)
    """,
    "bace.device_records": """
        DELETE FROM bace.device_records t
        WHERE NOT EXISTS (SELECT FROM bace.dataset_records d WHERE d.source_device = t.id_physical_device)
          AND NOT EXISTS (SELECT FROM bace.session_records r WHERE r.id_group = t.id_group)
    """,
    "bace.group_records": """
        DELETE FROM bace.group_records t
        WHERE NOT EXISTS (SELECT FROM bace.session_records r WHERE r.id_group = t.id_group)
          AND NOT EXISTS (SELECT FROM bace.dataset_records d WHERE d.id_group = t.id_group)
          AND NOT EXISTS (SELECT FROM bace.device_records d WHERE d.id_group = t.id_group)
    """,
    "bace.person_records": """
        DELETE FROM bace.person_records t
        WHERE NOT EXISTS (SELECT FROM bace.session_records r WHERE r.id_person = t.id_person)
    """,
}
"""What BACE's sessions refer to goes when no session refers to it any more, in this order."""

_NIGHTS: Final = """
    SELECT session_id FROM (
        SELECT session_id FROM beddit.session_records WHERE user_id = $1
        UNION SELECT session_id FROM beddit.blob_records WHERE user_id = $1
        UNION SELECT session_id FROM beddit.blob_mentions WHERE user_id = $1
        UNION SELECT session_id FROM beddit.blob_attempts WHERE user_id = $1
    ) AS nights ORDER BY session_id LIMIT $2
"""
_NOBODY_ELSES: Final = """
    NOT EXISTS (
        SELECT FROM bace.session_access other
        WHERE other.id_data_session = a.id_data_session AND other.account <> ALL ($1)
          AND other.refused_at IS NULL)
"""
_SESSIONS: Final = f"""
    SELECT DISTINCT a.id_data_session FROM bace.session_access a
    WHERE a.account = ANY ($1) AND a.id_data_session > $2 AND {_NOBODY_ELSES}
    ORDER BY a.id_data_session LIMIT $3
"""  # noqa: S608 - constants
_STILL_OURS: Final = f"""
    SELECT DISTINCT a.id_data_session FROM bace.session_access a
    WHERE a.account = ANY ($1) AND a.id_data_session = ANY ($2) AND {_NOBODY_ELSES}
"""  # noqa: S608 - constants
_LOCK_SESSIONS: Final = """
    SELECT FROM bace.session_records WHERE id_data_session = ANY ($1) ORDER BY id_data_session FOR UPDATE
"""
# Which datasets there were is known from their rows alone where the source did not say.
_NOTE_DATASETS: Final = """
    UPDATE bace.session_records r SET datasets = seen.datasets
    FROM (
        SELECT id_data_session, array_agg(DISTINCT id_container_data_latest) AS datasets
        FROM bace.datapoint_rows WHERE id_data_session = ANY ($1) GROUP BY id_data_session
    ) AS seen
    WHERE r.id_data_session = seen.id_data_session AND r.datasets IS NULL
"""
_DELETE_OF_ACCOUNT: Final = {
    table: f"DELETE FROM {table} WHERE source = $1 AND account = ANY ($2)"  # noqa: S608 - constants
    for table in OF_ACCOUNT
}
_DELETE_OF_USER: Final = {
    table: f"DELETE FROM {table} WHERE user_id = $1 AND session_id = ANY ($2)"  # noqa: S608 - constants
    for table in OF_USER
}
_DELETE_OF_SESSIONS: Final = {
    table: f"DELETE FROM {table} WHERE id_data_session = ANY ($1)"  # noqa: S608 - constants
    for table in OF_SESSION
}
# Whichever account it was that they were met with.
_DELETE_ABOUT_SESSIONS: Final = {
    "sync.reject_log": "DELETE FROM sync.reject_log WHERE source = 'bace' AND record_key = ANY ($1)",
    "sync.difference_log": """
        DELETE FROM sync.difference_log WHERE source = 'bace' AND split_part(item_key, '/', 1) = ANY ($1)
    """,
}
# The last instant of the next so many datapoints; all that share it go together.
_SLICE: Final = """
    SELECT max(time) FROM (
        SELECT time FROM bace.datapoint_rows WHERE id_data_session = $1 ORDER BY time LIMIT $2
    ) AS next
"""
_HOLDINGS_OF_USER: Final = """
    SELECT (SELECT count(*) FROM beddit.session_records WHERE user_id = $1) AS "nights",
           (SELECT count(*) FROM beddit.blob_records WHERE user_id = $1) AS "raw signals",
           (SELECT coalesce(sum(sample_count), 0)::bigint FROM beddit.blob_records WHERE user_id = $1)
               AS "raw samples"
"""
_HOLDINGS_OF_BACE: Final = f"""
    WITH seen AS (SELECT DISTINCT a.id_data_session, {_NOBODY_ELSES} AS goes
                  FROM bace.session_access a WHERE a.account = ANY ($1))
    SELECT count(*) FILTER (WHERE goes) AS "data sessions",
           (SELECT coalesce(sum(l.loaded_count), 0)::bigint
            FROM bace.session_loads l JOIN seen USING (id_data_session) WHERE seen.goes) AS "datapoints",
           count(*) FILTER (WHERE NOT goes) AS "shared"
    FROM seen
"""  # noqa: S608 - constants
_HOLDINGS_OF_ACCOUNT: Final = """
    SELECT (SELECT count(*) FROM sync.stream_state WHERE source = $1 AND account = ANY ($2)) AS "streams",
           (SELECT coalesce(sum(runs), 0)::bigint FROM sync.runs WHERE source = $1 AND account = ANY ($2))
               AS "runs",
           (SELECT count(*) FROM sync.reject_log WHERE source = $1 AND account = ANY ($2)) AS "rejects"
"""
_NAMES: Final = """
    SELECT account FROM sync.stream_state WHERE source = $1
    UNION SELECT account FROM sync.run_log WHERE source = $1
    UNION SELECT account FROM sync.run_days WHERE source = $1
    UNION SELECT account FROM sync.reject_log WHERE source = $1
    UNION SELECT account FROM bace.session_access WHERE $1 = 'bace'
    ORDER BY account
"""
_HASHED: Final = "SELECT sha256({salt} || convert_to(identity, 'UTF8')) FROM unnest($2::text[]) AS identity"
_AGAIN: Final = f"""
    UPDATE sync.forgotten f SET finished_at = NULL,
        hashes = ARRAY(SELECT unnest(f.hashes) UNION {_HASHED.format(salt="f.salt")})
    WHERE f.forgotten_id = (
        SELECT max(sync.forgotten_as($1, identity)) FROM unnest($2::text[]) AS identity)
    RETURNING f.forgotten_id
"""  # noqa: S608 - constants
_FIRST: Final = f"""
    INSERT INTO sync.forgotten (source, salt, hashes)
    VALUES ($1, $3, ARRAY({_HASHED.format(salt="$3")})) RETURNING forgotten_id
"""  # noqa: S608 - constants
_FORGOTTEN: Final = """
    SELECT name, forgotten_id, forgotten_at
    FROM (
        SELECT known.name, max(sync.forgotten_as($1, known.identity)) AS forgotten_id
        FROM unnest($2::text[], $3::text[]) AS known (name, identity) GROUP BY known.name
    ) AS found JOIN sync.forgotten USING (forgotten_id)
"""


def by_name(account: str) -> str:
    """What an account is recognised by, whatever its source."""
    return f"account {account}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """Whose data goes.

    Attributes:
        source: The vendor.
        accounts: The names under which it was read.
        user_id: The vendor's number of the person, of Beddit.
        identities: What the person is recognised by from then on; see ``sync.forgotten``.
    """

    source: str
    accounts: Sequence[str]
    user_id: int | None = None
    identities: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Holdings:
    """What there is of a person.

    Attributes:
        counts: By what a person calls it.
        shared: Data sessions that other accounts see, too: they stay.
    """

    counts: Mapping[str, int]
    shared: int = 0


@dataclass(frozen=True, slots=True)
class Forgotten:
    """A row of ``sync.forgotten``."""

    number: int
    since: datetime

    @property
    def undo(self) -> str:
        """What a person has to say to PostgreSQL so that the account is read again."""
        return f"DELETE FROM sync.forgotten WHERE forgotten_id = {self.number}"  # noqa: S608 - an integer


class PostgresForgetting:
    """Removes persons from a warehouse.

    Args:
        pool: Connections.
        worker: Who we are in ``sync.workers``: nothing goes but under our leases.
    """

    def __init__(self, pool: asyncpg.Pool, worker: int | None = None) -> None:
        self._pool = pool
        self._worker = worker

    async def forgotten(self, source: str, known_as: Mapping[str, Sequence[str]]) -> Mapping[str, Forgotten]:
        """Which of some accounts were forgotten.

        Args:
            source: Their source.
            known_as: By the account's name, what it is recognised by.
        """
        pairs = [(name, identity) for name, identities in known_as.items() for identity in identities]
        with translated():
            rows = await self._pool.fetch(
                _FORGOTTEN, source, [name for name, _ in pairs], [identity for _, identity in pairs]
            )
        return {row["name"]: Forgotten(row["forgotten_id"], row["forgotten_at"]) for row in rows}

    async def names(self, source: str) -> Sequence[str]:
        """Every account of a source that the warehouse knows of."""
        with translated():
            return [row["account"] for row in await self._pool.fetch(_NAMES, source)]

    async def holdings(self, person: Person) -> Holdings:
        """What there is of a person, in one snapshot."""
        with translated():
            async with self._pool.acquire() as c, c.transaction(isolation="repeatable_read", readonly=True):
                accounts = list(person.accounts)
                counts: dict[str, int] = {}
                if person.user_id is not None:
                    counts |= await c.fetchrow(_HOLDINGS_OF_USER, person.user_id)
                if person.source == "bace":
                    counts |= await c.fetchrow(_HOLDINGS_OF_BACE, accounts)
                counts |= await c.fetchrow(_HOLDINGS_OF_ACCOUNT, person.source, accounts)
        return Holdings(counts, counts.pop("shared", 0))

    async def make_leases(self, person: Person) -> None:
        """Let the person's accounts be held once more; who was forgotten has no leases otherwise."""
        with translated():
            await self._pool.execute(
                """
                INSERT INTO sync.leases (source, account) SELECT $1, unnest($2::text[]) ON CONFLICT DO NOTHING
                """,
                person.source,
                list(person.accounts),
            )

    async def begin(self, person: Person) -> int:
        """Write down that nobody reads the person again; go on with what was begun before.

        Returns:
            The number of the row in ``sync.forgotten``.
        """
        identities = list(person.identities)
        with translated():
            async with self._pool.acquire() as connection, connection.transaction():
                number: int | None = await connection.fetchval(_AGAIN, person.source, identities)
                if number is None:
                    number = await connection.fetchval(_FIRST, person.source, identities, os.urandom(16))
        if number is None:
            raise AssertionError("an INSERT returns its row")
        return number

    async def remove(self, person: Person, number: int) -> AsyncGenerator[int, None]:
        """Remove all of it, under the leases of its accounts.

        Args:
            person: Whose data.
            number: What ``begin`` returned.

        Yields:
            How many rows went, after each transaction.

        Raises:
            LeaseLost: Another process took over an account; the same call goes on later.
            StorageUnavailable: PostgreSQL is away; likewise.
        """
        if person.user_id is not None:
            while gone := await self._remove_nights(person, number):
                yield gone
        if person.source == "bace":
            last: UUID | None = UUID(int=0)
            while last is not None:
                last, gone = await self._empty_sessions(person, number, last)
                yield gone
        yield await self._remove_rest(person, number)

    async def removed(self, number: int) -> Mapping[str, int]:
        """How many rows of which table went, in all attempts."""
        with translated():
            text = await self._pool.fetchval(
                "SELECT removed FROM sync.forgotten WHERE forgotten_id = $1", number
            )
        removed: Mapping[str, int] = msgspec.json.decode(text)
        return removed

    # -- one transaction each ------------------------------------------------------------------

    async def _remove_nights(self, person: Person, number: int) -> int:
        """The oldest nights of a user; how many rows went."""
        async with self._deleting(person, number) as (connection, gone):
            rows = await connection.fetch(_NIGHTS, person.user_id, NIGHTS_AT_ONCE)
            nights = [row["session_id"] for row in rows]
            for table, statement in _DELETE_OF_USER.items() if nights else ():
                gone[table] += await _delete(connection, statement, person.user_id, nights)
        return gone.total()

    async def _empty_sessions(self, person: Person, number: int, after: UUID) -> tuple[UUID | None, int]:
        """The datapoints of the next sessions that nobody else sees, and what says that they were loaded.

        Returns:
            The last of them, None where there are no more; and how many rows went.
        """
        async with self._deleting(person, number) as (connection, gone):
            accounts = list(person.accounts)
            rows = await connection.fetch(_SESSIONS, accounts, after, SESSIONS_AT_ONCE)
            found = [row["id_data_session"] for row in rows]
            ours = await _locked(connection, accounts, found)
            await connection.execute(_NOTE_DATASETS, ours)
            for table in ("bace.session_loads", "bace.session_checks"):
                gone[table] += await _delete(connection, _DELETE_OF_SESSIONS[table], ours)
        total = gone.total()
        for session in ours:
            while more := await self._remove_datapoints(person, number, session):
                total += more
        return (found[-1] if len(found) == SESSIONS_AT_ONCE else None), total

    async def _remove_datapoints(self, person: Person, number: int, session: UUID) -> int:
        """The oldest datapoints of a session, unless somebody else has come to see it; how many went."""
        async with self._deleting(person, number) as (connection, gone):
            until = await connection.fetchval(_SLICE, session, ROWS_AT_ONCE)
            if until is not None and await _locked(connection, list(person.accounts), [session]):
                gone["bace.datapoint_rows"] += await _delete(
                    connection,
                    "DELETE FROM bace.datapoint_rows WHERE id_data_session = $1 AND time <= $2",
                    session,
                    until,
                )
        return gone.total()

    async def _remove_rest(self, person: Person, number: int) -> int:
        """What the rest was found by: narrow rows, all at once, so that the end is the end."""
        async with self._deleting(person, number) as (connection, gone):
            accounts = list(person.accounts)
            if person.source == "bace":
                await _remove_sessions(connection, accounts, gone)
            for table, statement in _DELETE_OF_ACCOUNT.items():
                gone[table] += await _delete(connection, statement, person.source, accounts)
            await connection.execute(
                "UPDATE sync.forgotten SET finished_at = now() WHERE forgotten_id = $1", number
            )
        return gone.total()

    @asynccontextmanager
    async def _deleting(
        self, person: Person, number: int
    ) -> AsyncIterator[tuple[asyncpg.Connection, Counter[str]]]:
        """A transaction under the leases of a person's accounts; what is counted in it is written down."""
        gone: Counter[str] = Counter()
        with translated():
            async with self._pool.acquire() as connection, connection.transaction():
                held = await connection.fetch(
                    """
                    SELECT FROM sync.leases WHERE source = $1 AND account = ANY ($2) AND worker_id = $3
                    ORDER BY account FOR SHARE
                    """,
                    person.source,
                    list(person.accounts),
                    self._worker,
                )
                if len(held) < len(person.accounts):
                    raise LeaseLost(f"another process works on {', '.join(person.accounts)} now; repeat it")
                yield connection, gone
                await connection.execute(
                    """
                    UPDATE sync.forgotten SET removed = (
                        SELECT coalesce(jsonb_object_agg(name, count), '{}') FROM (
                            SELECT name, sum(count) AS count FROM (
                                SELECT key AS name, value::bigint AS count FROM jsonb_each_text(removed)
                                UNION ALL SELECT * FROM unnest($2::text[], $3::bigint[])
                            ) AS each GROUP BY name HAVING sum(count) > 0
                        ) AS summed)
                    WHERE forgotten_id = $1
                    """,
                    number,
                    list(gone),
                    list(gone.values()),
                )


async def _locked(connection: asyncpg.Connection, accounts: list[str], sessions: list[UUID]) -> list[UUID]:
    """Those of some sessions that still nobody else sees; nobody can come to see them meanwhile."""
    await connection.execute(_LOCK_SESSIONS, sessions)
    return [row["id_data_session"] for row in await connection.fetch(_STILL_OURS, accounts, sessions)]


async def _remove_sessions(connection: asyncpg.Connection, accounts: list[str], gone: Counter[str]) -> None:
    """The sessions that nobody else sees, what was rejected of them, and what only they referred to."""
    rows = await connection.fetch(_SESSIONS, accounts, UUID(int=0), None)
    ours = await _locked(connection, accounts, [row["id_data_session"] for row in rows])
    for table, statement in _DELETE_OF_SESSIONS.items():
        gone[table] += await _delete(connection, statement, ours)
    for table, statement in _DELETE_ABOUT_SESSIONS.items():
        gone[table] += await _delete(connection, statement, list(map(str, ours)))
    gone["bace.session_access"] += await _delete(
        connection, "DELETE FROM bace.session_access WHERE account = ANY ($1)", accounts
    )
    for table, statement in UNREFERRED.items():
        gone[table] += await _delete(connection, statement)


async def _delete(connection: asyncpg.Connection, statement: str, *args: object) -> int:
    """Delete; how many rows went."""
    status: str = await connection.execute(statement, *args)
    return int(status.rpartition(" ")[2])
