"""Removing one person's data, and knowing whom not to read again. The only place that deletes for good.

First it is written down that the account is forgotten: from then on nobody reads it, and what is interrupted
can be repeated. Then its data goes in bounded transactions, each only while the leases are held; what the
rest is found by goes last. What is left is a row of ``sync.forgotten``; see ``forgotten``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

import asyncpg
import msgspec

from sync.errors import LeaseLost
from sync.storage.failures import translated
from sync.storage.forgotten import ALONE, Forgotten, find_forgotten, new_salt, pseudonyms_of

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
        WHERE t.id_container_data_latest = ANY ($1)
          AND NOT EXISTS (
                SELECT FROM (SELECT DISTINCT unnest(datasets) AS id FROM bace.session_records) AS kept
                WHERE kept.id = t.id_container_data_latest)
          AND NOT EXISTS (SELECT FROM bace.session_records r WHERE r.id_group = t.id_group)
          AND t.id_container_data_latest NOT IN (
                SELECT DISTINCT d.id_container_data_latest
                FROM bace.session_records r JOIN bace.datapoint_rows d USING (id_data_session)
                WHERE r.datasets IS NULL)
    """,
    "bace.device_records": """
        WITH RECURSIVE kept AS (
            SELECT t.id_physical_device, t.id_parent FROM bace.device_records t
            WHERE t.id_physical_device <> ALL ($1)
               OR EXISTS (SELECT FROM bace.dataset_records d WHERE d.source_device = t.id_physical_device)
               OR EXISTS (SELECT FROM bace.session_records r WHERE r.id_group = t.id_group)
            UNION SELECT parent.id_physical_device, parent.id_parent
            FROM bace.device_records parent JOIN kept ON parent.id_physical_device = kept.id_parent
        )
        DELETE FROM bace.device_records t
        WHERE t.id_physical_device = ANY ($1)
          AND NOT EXISTS (SELECT FROM kept WHERE kept.id_physical_device = t.id_physical_device)
    """,
    "bace.group_records": """
        DELETE FROM bace.group_records t
        WHERE t.id_group = ANY ($1)
          AND NOT EXISTS (SELECT FROM bace.session_records r WHERE r.id_group = t.id_group)
          AND NOT EXISTS (SELECT FROM bace.dataset_records d WHERE d.id_group = t.id_group)
          AND NOT EXISTS (SELECT FROM bace.device_records d WHERE d.id_group = t.id_group)
    """,
    "bace.person_records": """
        DELETE FROM bace.person_records t
        WHERE t.id_person = ANY ($1)
          AND NOT EXISTS (SELECT FROM bace.session_records r WHERE r.id_person = t.id_person)
    """,
}
"""Of what the removed sessions referred to, what no other session refers to, in this order."""

_REFERRED: Final = """
    WITH RECURSIVE ours AS (
        SELECT id_group, id_person, datasets FROM bace.session_records WHERE id_data_session = ANY ($1)
    ), sets AS (
        SELECT id_container_data_latest AS id, source_device, id_group FROM bace.dataset_records
        WHERE id_container_data_latest IN (SELECT unnest(datasets) FROM ours)
           OR id_group IN (SELECT id_group FROM ours)
    ), devices AS (
        SELECT id_physical_device AS id, id_parent, id_group FROM bace.device_records
        WHERE id_physical_device IN (SELECT source_device FROM sets)
           OR id_group IN (SELECT id_group FROM ours)
        UNION SELECT parent.id_physical_device, parent.id_parent, parent.id_group
        FROM bace.device_records parent JOIN devices ON parent.id_physical_device = devices.id_parent
    )
    SELECT ARRAY(SELECT id FROM sets) AS "bace.dataset_records",
           ARRAY(SELECT id FROM devices) AS "bace.device_records",
           ARRAY(SELECT id_group FROM ours UNION SELECT id_group FROM sets
                 UNION SELECT id_group FROM devices) AS "bace.group_records",
           ARRAY(SELECT id_person FROM ours) AS "bace.person_records"
"""
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
    UPDATE bace.session_records r SET datasets = (
        SELECT array_agg(DISTINCT d.id_container_data_latest)
        FROM bace.datapoint_rows d WHERE d.id_data_session = r.id_data_session)
    WHERE r.id_data_session = ANY ($1) AND r.datasets IS NULL
"""
# Of a session that stays the rejects stay that its proof counts, with whoever has seen it for longest.
_HAND_OVER: Final = """
    INSERT INTO sync.reject_log AS theirs
        (source, account, record_key, item_key, reason, payload, attempts, first_seen_at, last_seen_at,
         resolved_at, part, instant, items, settled, note)
    SELECT DISTINCT ON (ours.item_key)
           ours.source, heir.account, ours.record_key, ours.item_key, ours.reason, ours.payload,
           ours.attempts, ours.first_seen_at, ours.last_seen_at, ours.resolved_at, ours.part, ours.instant,
           ours.items, ours.settled, ours.note
    FROM sync.reject_log ours
    JOIN (
        SELECT DISTINCT ON (id_data_session) id_data_session::text AS record_key, account
        FROM bace.session_access WHERE account <> ALL ($1) AND refused_at IS NULL
        ORDER BY id_data_session, first_seen_at, account
    ) AS heir USING (record_key)
    WHERE ours.source = 'bace' AND ours.account = ANY ($1) AND ours.instant IS NOT NULL
      AND (ours.resolved_at IS NULL OR ours.settled)
    ORDER BY ours.item_key, ours.settled
    ON CONFLICT (source, account, item_key) DO UPDATE
    SET record_key = excluded.record_key, reason = excluded.reason, payload = excluded.payload,
        attempts = excluded.attempts, first_seen_at = excluded.first_seen_at,
        last_seen_at = excluded.last_seen_at, resolved_at = excluded.resolved_at, part = excluded.part,
        instant = excluded.instant, items = excluded.items, settled = excluded.settled, note = excluded.note
    WHERE theirs.resolved_at IS NOT NULL AND NOT theirs.settled
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
_DELETE_ABOUT_USER: Final = {
    "sync.reject_log": """
        DELETE FROM sync.reject_log
        WHERE source = 'beddit' AND $1::text IN (split_part(record_key, '/', 1), split_part(item_key, '/', 1))
    """,
    "sync.difference_log": """
        DELETE FROM sync.difference_log WHERE source = 'beddit' AND split_part(item_key, '/', 1) = $1::text
    """,
}
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
    WITH seen AS (SELECT DISTINCT a.id_data_session
                  FROM bace.session_access a WHERE a.account = ANY ($1) AND {_NOBODY_ELSES})
    SELECT count(*) AS "data sessions",
           (SELECT coalesce(sum(l.loaded_count), 0)::bigint
            FROM bace.session_loads l JOIN seen USING (id_data_session)) AS "datapoints",
           (SELECT count(DISTINCT r.id_person)
            FROM bace.session_records r JOIN seen USING (id_data_session)) AS "persons"
    FROM seen
"""  # noqa: S608 - constants
_SHARED: Final = """
    SELECT other.account, count(*) AS sessions
    FROM (SELECT DISTINCT id_data_session FROM bace.session_access WHERE account = ANY ($1)) AS ours
    JOIN bace.session_access other USING (id_data_session)
    WHERE other.account <> ALL ($1) AND other.refused_at IS NULL
    GROUP BY other.account ORDER BY other.account
"""
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
    UNION SELECT account FROM sync.difference_log WHERE source = $1
    UNION SELECT account FROM sync.leases WHERE source = $1
    UNION SELECT account FROM bace.session_access WHERE $1 = 'bace'
    ORDER BY account
"""
_END_RUNS: Final = """
    UPDATE sync.run_log SET outcome = 'lost', finished_at = now(),
        error = 'it may have been about somebody who was forgotten'
    WHERE source = $1 AND outcome = 'running' AND account <> ALL ($2)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """Whose data goes.

    Attributes:
        source: The vendor.
        accounts: The names under which it was read.
        user_id: The vendor's number of the person, of Beddit.
        identities: What the person is recognised by from then on; see ``sync.forgotten``.
        others: Accounts that are known to be somebody else's.
    """

    source: str
    accounts: Sequence[str]
    user_id: int | None = None
    identities: Sequence[str] = ()
    others: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Holdings:
    """What there is of a person.

    Attributes:
        counts: By what a person calls it.
        shared: By account, how many of the data sessions another one sees, too: they stay.
    """

    counts: Mapping[str, int]
    shared: Mapping[str, int] = field(default_factory=dict)


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
        """Which of some accounts were forgotten, and not allowed again since.

        Args:
            source: Their source.
            known_as: By the account's name, what it is recognised by.
        """
        with translated():
            return await find_forgotten(self._pool, source, known_as)

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
                shared: dict[str, int] = {}
                if person.user_id is not None:
                    counts |= await c.fetchrow(_HOLDINGS_OF_USER, person.user_id)
                if person.source == "bace":
                    counts |= await c.fetchrow(_HOLDINGS_OF_BACE, accounts)
                    shared |= await c.fetch(_SHARED, accounts)
                counts |= await c.fetchrow(_HOLDINGS_OF_ACCOUNT, person.source, accounts)
        return Holdings(counts, shared)

    async def make_leases(self, person: Person) -> None:
        """Let the person's accounts be held once more; who was forgotten has no leases otherwise.

        A record that there is counts as interrupted from then on: names are here again.
        """
        async with self._alone() as connection:
            if (found := await self._found(connection, person)) is not None:
                await connection.execute(
                    "UPDATE sync.forgotten SET finished_at = NULL WHERE forgotten_id = $1", found.number
                )
            await connection.execute(
                """
                INSERT INTO sync.leases (source, account) SELECT $1, unnest($2::text[]) ON CONFLICT DO NOTHING
                """,
                person.source,
                list(person.accounts),
            )

    async def begin(self, person: Person) -> int:
        """Write down that nobody reads the person again; go on with what was begun before.

        Runs that may be about the person under another name are ended: they can store nothing more.

        Returns:
            The number of the row in ``sync.forgotten``.
        """
        async with self._alone() as connection:
            found = await self._found(connection, person)
            number = await self._first(connection, person) if found is None else found.number
            if found is not None:
                await self._again(connection, person, number)
            await connection.execute(_END_RUNS, person.source, list(person.others))
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

    # -- the record ----------------------------------------------------------------------------

    @asynccontextmanager
    async def _alone(self) -> AsyncIterator[asyncpg.Connection]:
        """A transaction during which nobody begins to work, or to forget."""
        with translated():
            async with self._pool.acquire() as connection, connection.transaction():
                await connection.execute(ALONE)
                yield connection

    async def _found(self, connection: asyncpg.Connection, person: Person) -> Forgotten | None:
        found = await find_forgotten(connection, person.source, {"": person.identities})
        return found.get("")

    async def _first(self, connection: asyncpg.Connection, person: Person) -> int:
        salt = await new_salt(connection)
        number: int = await connection.fetchval(
            "INSERT INTO sync.forgotten (source, salt, hashes) VALUES ($1, $2, $3) RETURNING forgotten_id",
            person.source,
            salt,
            await pseudonyms_of(salt, person.identities),
        )
        return number

    async def _again(self, connection: asyncpg.Connection, person: Person, number: int) -> None:
        """Go on with a record; the person may be known by more than before."""
        salt = await connection.fetchval("SELECT salt FROM sync.forgotten WHERE forgotten_id = $1", number)
        await connection.execute(
            """
            UPDATE sync.forgotten SET finished_at = NULL,
                hashes = ARRAY(SELECT unnest(hashes) UNION SELECT unnest($2::bytea[]))
            WHERE forgotten_id = $1
            """,
            number,
            await pseudonyms_of(salt, person.identities),
        )

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
            for table, statement in _DELETE_ABOUT_USER.items() if person.user_id is not None else ():
                gone[table] += await _delete(connection, statement, str(person.user_id))
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
    referred = await connection.fetchrow(_REFERRED, ours)
    for table, statement in _DELETE_OF_SESSIONS.items():
        gone[table] += await _delete(connection, statement, ours)
    for table, statement in _DELETE_ABOUT_SESSIONS.items():
        gone[table] += await _delete(connection, statement, list(map(str, ours)))
    await connection.execute(_HAND_OVER, accounts)
    gone["bace.session_access"] += await _delete(
        connection, "DELETE FROM bace.session_access WHERE account = ANY ($1)", accounts
    )
    for table, statement in UNREFERRED.items():
        gone[table] += await _delete(connection, statement, referred[table])


async def _delete(connection: asyncpg.Connection, statement: str, *args: object) -> int:
    """Delete; how many rows went."""
    status: str = await connection.execute(statement, *args)
    return int(status.rpartition(" ")[2])
