"""Forgetting a person: nothing of them is left in any table, and nothing of anybody else is gone."""

from __future__ import annotations

import asyncio
import hashlib
from contextlib import aclosing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from alembic import command

from sync.engine.keeper import Permits
from sync.errors import AccountBusy, AccountForgotten, LeaseLost
from sync.model import Batch, Progress, Reject, StreamKey, Task, Update
from sync.sources.bace.tables import (
    ACCESS_KEY,
    CHECK_KEY,
    DATASETS,
    DEVICES,
    GROUPS,
    PERSONS,
    SESSION_ACCESS,
    SESSION_CHECKS,
)
from sync.sources.beddit.tables import BLOB_ATTEMPTS, BLOB_MENTIONS
from sync.storage import forgetting as module
from sync.storage.database import open_pool
from sync.storage.forgetting import (
    OF_ACCOUNT,
    OF_SESSION,
    OF_USER,
    UNREFERRED,
    Person,
    PostgresForgetting,
)
from sync.storage.forgotten import ALONE, by_name, pseudonyms_of, undo
from sync.storage.leases import PostgresLeases
from sync.storage.ledger import PostgresLedger
from sync.storage.migrate import migrate
from sync.storage.workers import PostgresWorker

IMPERSONAL = {
    "sync.alembic_version": "the schema's version",
    "sync.knowledge": "what was learned of vendors",
    "sync.workers": "processes",
    "sync.forgotten": "pseudonyms",
    "bace.datatype_records": "what codes mean",
}
ALICE = Person(
    source="beddit",
    accounts=("alice", "archive-1001"),
    user_id=1001,
    identities=("user 1001",),
    others=("bob", "nobody"),
)
LAB = Person(source="bace", accounts=("lab",), identities=("username lab@example.org",))
KNOWN_AS = {
    "beddit": {
        "alice": ("user 1001",),
        "archive-1001": ("user 1001",),
        "ann": ("user 1001",),
        "bob": ("user 1002",),
    }
}
LEASE = timedelta(seconds=60)
SOME_TIME = datetime(2024, 1, 1, tzinfo=UTC)


class Office:
    """A process that forgets, among others."""

    def __init__(self, store, pool, worker):
        self.store, self.pool, self.worker = store, pool, worker
        self.forgetting = PostgresForgetting(pool, worker.number)
        self.leases = PostgresLeases(pool, worker.number, KNOWN_AS)

    async def claim(self, person):
        """Hold a person's accounts."""
        await self.forgetting.make_leases(person)
        assert await self.leases.claim(person.source, person.accounts, "command") == set(person.accounts)

    async def forget(self, person, *, steps=None):
        """Forget a person, or only so many transactions' worth; how many there were."""
        await self.claim(person)
        number = await self.forgetting.begin(person)
        done = 0
        async with aclosing(self.forgetting.remove(person, number)) as removing:
            async for _ in removing:
                done += 1
                if done == steps:
                    break
        for account in person.accounts:
            await self.leases.release(person.source, account, done=True)
        return done

    async def removed(self):
        """What the only record says."""
        (number,) = await self.store.values("SELECT forgotten_id FROM sync.forgotten")
        return await self.forgetting.removed(number)


@pytest.fixture
async def office(store):
    """Open the office."""
    await store.pool.execute("UPDATE sync.run_log SET account = 'nobody'")
    worker = PostgresWorker(store.dsn, LEASE)
    await worker.enrol("forget", "1")
    async with open_pool(store.dsn, name=worker.name) as pool:
        yield Office(store, pool, worker)
    await worker.leave()


def reading(store, source, account):
    """Return a run's beginning."""
    return PostgresLedger(store.pool).begin(source, account, Task("once"))


async def fill_beddit(store, night, signal, account="alice", *, user=1001, nights=3):
    """Put some of everything that there can be of a Beddit account into the warehouse."""
    stream = StreamKey("beddit", account, "sessions")
    run = await reading(store, "beddit", account)
    for number in range(1, nights + 1):
        at = {"user_id": user, "session_id": number, "track": "normal", "updated": 1.0}
        tried = {**at, "attempts": 1, "status": "complete", "tried_at": SOME_TIME}
        records = [
            night(number, tracks={"heart_rate": [1, 2]}, declares=[("normal", "int16", 28)], user=user),
            signal(number, range(9), chunk=4, user=user),
        ]
        await store.commit(
            *records,
            stream=stream,
            rejects=[Reject(f"{user}/{number}", f"{user}/{number}/x", f"odd {user}")],
            updates=(
                Update(BLOB_MENTIONS, ("user_id", "session_id", "track"), at),
                Update(BLOB_ATTEMPTS, ("user_id", "session_id", "track"), tried),
            ),
            progress=Progress(cursor={"user": user}, checked=True),
        )
    await store.pool.execute("UPDATE sync.run_log SET outcome = 'done' WHERE run_id = $1", run)
    await fill_account(store, "beddit", account)
    await fill_differences(store, "beddit", account, f"{user}/1")


async def fill_account(store, source, account):
    """Put what is kept of any account beside what it read into the warehouse."""
    await store.pool.execute(
        "INSERT INTO sync.leases (source, account) VALUES ($1, $2) ON CONFLICT DO NOTHING", source, account
    )
    await store.pool.execute(
        """
        INSERT INTO sync.run_days VALUES ('2024-01-01', $1, $2, 'once', 'done', 5, now(), now(),
            0, 0, 0, 0, 0, 0, 0, 0) ON CONFLICT DO NOTHING
        """,
        source,
        account,
    )


async def fill_differences(store, source, account, *keys):
    """Let a verification have found something."""
    await store.pool.execute(
        """
        INSERT INTO sync.difference_log (source, account, item_key, kind, text, instant)
        SELECT $1, $2, unnest($3::text[]), 'changed', 'it differs', now() ON CONFLICT DO NOTHING
        """,
        source,
        account,
        list(keys),
    )


async def fill_bace(store, stretch, data_session, account="lab", *, sessions=(1, 2), seen_by=()):
    """Put data sessions of an account into the warehouse, with all that they refer to."""
    stream = StreamKey("bace", account, "sessions")
    run = await reading(store, "bace", account)
    for number in sessions:
        key, group, device, dataset, person = (UUID(int=number + n * 1000) for n in range(5))
        updates = [
            Update(SESSION_ACCESS, ACCESS_KEY, {"id_data_session": key, "account": name, "refused_at": None})
            for name in (account, *seen_by)
        ]
        updates += [
            Update(
                SESSION_CHECKS,
                CHECK_KEY,
                {
                    "id_data_session": key,
                    "digest": b"a",
                    "status": "complete",
                    "attempts": 1,
                    "checked_at": SOME_TIME,
                },
            ),
            Update(GROUPS, ("id_group",), {"id_group": group, "label": f"group {number}"}),
            Update(PERSONS, ("id_person",), {"id_person": person, "label": f"person {number}"}),
            Update(
                DEVICES,
                ("id_physical_device",),
                {"id_physical_device": device, "id_group": group, "label": f"device {number}"},
            ),
            Update(
                DATASETS,
                ("id_container_data_latest",),
                {
                    "id_container_data_latest": dataset,
                    "id_group": group,
                    "source_device": device,
                    "datatype": 1,
                },
            ),
        ]
        await store.commit(
            data_session(number, id_group=group, id_person=person),
            stream=stream,
            stretches=[
                stretch(
                    [(0, 100)],
                    [(n, number + 3000, float(n)) for n in range(10)],
                    session=number,
                    rejects=[(50, "bad")],
                )
            ],
            updates=tuple(updates),
            progress=Progress(cursor={"of": account}, checked=True),
        )
    await store.pool.execute("UPDATE sync.run_log SET outcome = 'done' WHERE run_id = $1", run)
    await fill_account(store, "bace", account)
    await fill_differences(store, "bace", account, *(f"{UUID(int=number)}/datapoints" for number in sessions))


async def rows_that_tell(store, *words):
    """Return the tables with rows in which one of the words stands."""
    told = await store.everything()
    return {name for name, rows in told.items() if any(word in row for row in rows for word in words)}


# --- which tables ---------------------------------------------------------------------------------


async def test_every_table_is_covered(store):
    """A table is either emptied of a person, or here is why it knows nothing of one."""
    tables = set(await store.everything())
    covered = {*OF_ACCOUNT, *OF_USER, *OF_SESSION, *UNREFERRED}
    assert tables - covered == IMPERSONAL.keys()
    assert covered <= tables


async def test_whatever_names_an_account_or_a_user_is_covered(store):
    """By the catalogue's columns: who adds such a table cannot forget to forget it."""
    rows = await store.fetch(
        """
        SELECT table_schema || '.' || table_name AS name, array_agg(column_name::text) AS columns
        FROM information_schema.columns JOIN information_schema.tables USING (table_schema, table_name)
        WHERE table_schema IN ('sync', 'beddit', 'bace') AND table_type = 'BASE TABLE' GROUP BY 1
        """
    )
    covered = {*OF_ACCOUNT, *OF_USER, *OF_SESSION}
    named = {row["name"] for row in rows if {"account", "user_id", "id_data_session"} & set(row["columns"])}
    assert named == covered


# --- a Beddit user --------------------------------------------------------------------------------


async def test_nothing_of_a_user_is_left(office, store, night, signal, monkeypatch):
    """All rows in all tables are gone, each table is accounted for, and the neighbour keeps every row."""
    monkeypatch.setattr(module, "NIGHTS_AT_ONCE", 2)
    await fill_beddit(store, night, signal, "bob", user=1002)
    before = await store.everything()
    await fill_beddit(store, night, signal)
    assert len(await rows_that_tell(store, "alice", "1001")) == len((*OF_USER, *OF_ACCOUNT))
    steps = await office.forget(ALICE)
    assert steps == 3, "two of nights and the rest"
    assert await rows_that_tell(store, "alice", "1001") == set()
    after = await store.everything()
    for table in ("sync.forgotten", "sync.workers", "sync.run_log"):
        del before[table], after[table]
    assert after == before
    removed = await office.removed()
    assert removed.keys() == {*OF_USER, *OF_ACCOUNT}
    assert removed["beddit.session_records"] == 3
    assert removed["beddit.sample_chunks"] == 9


async def test_what_is_kept_is_a_date_numbers_and_pseudonyms(office, store, night, signal):
    """The record names nobody, and recognises the user, whatever the account is called."""
    await fill_beddit(store, night, signal)
    await office.forget(ALICE)
    (row,) = await store.fetch("SELECT * FROM sync.forgotten")
    assert row["source"] == "beddit"
    assert row["forgotten_at"] <= row["finished_at"]
    assert len(row["hashes"]) == 1
    assert not any(word in str(row) for word in ("alice", "1001"))
    known = {
        "alice": ["user 2002"],
        "ann": ["account ann", "user 1001"],
        "bob": ["account bob", "user 1002"],
    }
    assert (await office.forgetting.forgotten("beddit", known)).keys() == {"ann"}
    assert await office.forgetting.forgotten("bace", known) == {}


async def test_whoever_tries_all_numbers_needs_long(office, store):
    """A pseudonym is scrypt, of 16 MB, of a salt of its own: no table of hashes has it."""
    await office.forget(ALICE)
    (row,) = await store.fetch("SELECT salt, hashes FROM sync.forgotten")
    inner = hashlib.sha256(row["salt"] + b"user 1001").digest()
    assert len(row["salt"]) == 16
    assert row["hashes"] == [hashlib.scrypt(inner, salt=row["salt"], n=2**14, r=8, p=1, dklen=32)]


async def test_who_was_forgotten_before_stays_forgotten(empty_database, monkeypatch):
    """The migration turns quick hashes into pseudonyms; each record keeps its salt, and is gone on with."""
    upgrade = command.upgrade
    with monkeypatch.context() as patch:
        patch.setattr(command, "upgrade", lambda config, _: upgrade(config, "0008"))
        await migrate(empty_database)
    async with open_pool(empty_database) as pool:
        for salt, users in ((b"a" * 16, (1, 1001)), (b"b" * 16, (2, 3))):
            hashes = [hashlib.sha256(salt + f"user {user}".encode()).digest() for user in users]
            await pool.execute(
                "INSERT INTO sync.forgotten (source, salt, hashes) VALUES ('beddit', $1, $2)", salt, hashes
            )
    await migrate(empty_database)
    async with open_pool(empty_database) as pool:
        forgetting = PostgresForgetting(pool)
        known = {str(user): [f"user {user}"] for user in (1, 2, 1001, 2002)}
        found = await forgetting.forgotten("beddit", known)
        assert {name: one.number for name, one in found.items()} == {"1": 1, "2": 2, "1001": 1}
        assert await forgetting.begin(ALICE) == 1
        assert await forgetting.begin(replace(ALICE, identities=("user 9",))) == 3


async def test_an_account_is_recognised_by_one_hash(office, store):
    """However many were forgotten: all records of a warehouse have the same salt."""
    await office.forget(ALICE)
    await office.forget(LAB)
    one, other = await store.values("SELECT salt FROM sync.forgotten")
    assert one == other


async def test_who_is_allowed_again_keeps_the_record(office, store, night, signal):
    """The dated row stays, and does not hold any more; forgotten again, there is another one."""
    await office.forget(ALICE)
    (number,) = await store.values("SELECT forgotten_id FROM sync.forgotten")
    await store.pool.execute(undo(number))
    assert await office.forgetting.forgotten("beddit", KNOWN_AS["beddit"]) == {}
    await fill_beddit(store, night, signal)
    await office.forget(ALICE)
    allowed = "SELECT allowed_at >= finished_at FROM sync.forgotten ORDER BY forgotten_id"
    assert await store.values(allowed) == [True, None]
    assert (await office.forgetting.forgotten("beddit", KNOWN_AS["beddit"])).keys() == {
        "alice",
        "ann",
        "archive-1001",
    }


async def test_the_forgotten_cannot_be_worked_on(office, store, night, signal):
    """Not even the name comes back: nobody who looks for work makes its lease anew."""
    await fill_beddit(store, night, signal)
    await office.forget(ALICE)
    now = SOME_TIME
    assert await office.leases.due("beddit", ["alice", "ann", "bob"], "once", now) == ["bob"]
    assert await office.leases.claim("beddit", ["alice", "bob"], "once", now) == {"bob"}
    assert await office.leases.claim("beddit", ["alice", "ann"], "command") == set()
    assert await store.values("SELECT account FROM sync.leases") == ["bob"]
    await store.pool.execute("UPDATE sync.forgotten SET allowed_at = now()")
    assert await office.leases.claim("beddit", ["alice"], "once", now) == set()
    assert await office.leases.due("beddit", ["alice"], "once", now) == ["alice"]


async def test_a_name_of_its_own_right_is_recognised(office, store):
    """Of a BACE account that was not configured any more the name is all that is known."""
    await office.forget(Person(source="bace", accounts=("old",), identities=(by_name("old"),)))
    known = {"old": (by_name("old"), "username a"), "new": (by_name("new"), "username b")}
    found = await office.forgetting.forgotten("bace", known)
    assert {name: one.identity for name, one in found.items()} == {"old": "account old"}


# --- others who read the same person --------------------------------------------------------------


async def joined(store, account):
    """Let another process hold an account; its ledger, and who it is."""
    other = PostgresWorker(store.dsn, LEASE)
    await other.enrol("run", "1")
    assert await PostgresLeases(store.pool, other.number).claim("beddit", [account], "once") == {account}
    return other, PostgresLedger(store.pool, other.number, KNOWN_AS)


async def test_who_reads_the_user_under_another_name_stores_nothing_more(office, store, night, signal):
    """Leases go by name; the run is ended all the same, and what it read last is not stored."""
    await fill_beddit(store, night, signal)
    other, ledger = await joined(store, "ann")
    run = await ledger.begin("beddit", "ann", Task("once"))
    await office.forget(ALICE)
    batch = Batch(StreamKey("beddit", "ann", "sessions"), records=(night(9, user=1001),), read=1)
    with pytest.raises(LeaseLost):
        await store.sink.commit(run, batch)
    assert await store.values("SELECT user_id FROM beddit.sessions") == []
    with pytest.raises(AccountForgotten, match="ann of beddit was forgotten"):
        await ledger.begin("beddit", "ann", Task("once"))
    await other.leave()


async def test_whose_account_is_known_to_be_another_s_reads_on(office, store, night):
    """Runs of configured accounts of other users are not disturbed."""
    other, ledger = await joined(store, "bob")
    run = await ledger.begin("beddit", "bob", Task("once"))
    await office.forget(ALICE)
    batch = Batch(StreamKey("beddit", "bob", "sessions"), records=(night(9, user=1002),), read=1)
    await store.sink.commit(run, batch)
    assert await store.values("SELECT user_id FROM beddit.sessions") == [1002]
    await other.leave()


async def test_a_run_that_begins_meanwhile_is_seen_or_sees(office, store, blocked):
    """Whoever begins a run while somebody is being forgotten waits, and is refused then."""
    other, ledger = await joined(store, "ann")
    async with office.pool.acquire() as connection:
        transaction = connection.transaction()
        await transaction.start()
        await connection.execute(ALONE)
        beginning = asyncio.create_task(ledger.begin("beddit", "ann", Task("once")))
        await blocked()
        await connection.execute(
            "INSERT INTO sync.forgotten (source, salt, hashes) VALUES ('beddit', $1, $2)",
            b"salt",
            await pseudonyms_of(b"salt", ["user 1001"]),
        )
        await transaction.commit()
    with pytest.raises(AccountForgotten):
        await beginning
    assert await store.values("SELECT FROM sync.run_log WHERE account = 'ann'") == []
    await other.leave()


async def test_what_an_old_name_met_of_the_user_goes(office, store, night, signal):
    """Rejects and differences name the user in their keys; what else the old name has is told by its name."""
    await fill_beddit(store, night, signal, "ann")
    await office.forget(ALICE)
    assert await rows_that_tell(store, "1001/", "odd 1001") == set()
    assert await office.forgetting.names("beddit") == ["ann", "nobody"]


async def test_a_user_whose_number_begins_alike_keeps_everything(office, store, night, signal):
    """User 10011 is not user 1001."""
    await fill_beddit(store, night, signal, "ann", user=10011)
    before = await store.everything()
    await office.forget(ALICE)
    after = await store.everything()
    for table in ("sync.reject_log", "sync.difference_log", "beddit.session_records"):
        assert after[table] == before[table]


# --- interruptions --------------------------------------------------------------------------------


async def test_what_was_interrupted_goes_on(office, store, night, signal, monkeypatch):
    """From the first transaction on the account is refused; repeated, it ends, and the sums are of both."""
    monkeypatch.setattr(module, "NIGHTS_AT_ONCE", 1)
    await fill_beddit(store, night, signal)
    assert await office.forget(ALICE, steps=1) == 1
    known = {"alice": ALICE.identities}
    assert await office.forgetting.forgotten("beddit", known)
    assert (await office.removed())["beddit.session_records"] == 1
    assert await store.values("SELECT finished_at FROM sync.forgotten") == [None]
    assert await office.forget(ALICE) == 3
    assert (await office.removed())["beddit.session_records"] == 3
    assert await rows_that_tell(store, "alice", "1001") == set()
    assert await store.values("SELECT finished_at IS NOT NULL FROM sync.forgotten") == [True]


async def test_forgetting_again_removes_what_came_again(office, store, night, signal):
    """Rows that an older nightshift brought back go like the first, and there is one record."""
    await fill_beddit(store, night, signal)
    await office.forget(ALICE)
    await fill_beddit(store, night, signal, nights=1)
    await office.forget(ALICE)
    assert await rows_that_tell(store, "alice", "1001") == set()
    assert (await office.removed())["beddit.session_records"] == 4


async def test_names_that_come_back_are_told_of(office, store):
    """Killed before anything else, a second try counts as interrupted: the names are here again."""
    await office.forget(ALICE)
    await office.forgetting.make_leases(ALICE)
    assert await store.values("SELECT finished_at FROM sync.forgotten") == [None]
    await office.forget(ALICE)
    assert await store.values("SELECT finished_at IS NOT NULL FROM sync.forgotten") == [True]
    assert await store.values("SELECT account FROM sync.leases") == []


async def test_it_waits_for_nobody_who_works_on_the_account(office, store, night, signal):
    """Another process' account is left alone: it is refused, and nothing is gone or written down."""
    await fill_beddit(store, night, signal)
    other = PostgresWorker(store.dsn, LEASE)
    await other.enrol("run", "1")
    assert await PostgresLeases(store.pool, other.number).claim("beddit", ["alice"], "once") == {"alice"}
    before = await store.everything()
    permits = Permits(office.leases, timedelta(seconds=0.2))
    with pytest.raises(AccountBusy, match="nightshift run"):
        async with permits.hold("beddit", "alice"):
            raise AssertionError("it was held")
    assert await store.everything() == before
    await other.leave()


async def test_a_lost_lease_ends_it(office, store, night, signal, monkeypatch):
    """Whoever was taken for dead removes nothing more; what was removed is written down."""
    monkeypatch.setattr(module, "NIGHTS_AT_ONCE", 1)
    await fill_beddit(store, night, signal)
    await office.claim(ALICE)
    number = await office.forgetting.begin(ALICE)
    async with aclosing(office.forgetting.remove(ALICE, number)) as removing:
        await anext(removing)
        await store.pool.execute("UPDATE sync.leases SET worker_id = NULL WHERE account = 'alice'")
        before = await store.everything()
        with pytest.raises(LeaseLost):
            await anext(removing)
    assert await store.everything() == before
    assert (await office.removed())["beddit.session_records"] == 1


# --- a BACE account -------------------------------------------------------------------------------


async def test_nothing_of_a_bace_account_is_left(office, store, stretch, data_session, monkeypatch):
    """Sessions, datapoints, and whom and what only they referred to."""
    monkeypatch.setattr(module, "ROWS_AT_ONCE", 4)
    monkeypatch.setattr(module, "SESSIONS_AT_ONCE", 1)
    await fill_bace(store, stretch, data_session, "other", sessions=(7, 8))
    before = await store.everything()
    await fill_bace(store, stretch, data_session)
    words = (
        "lab",
        str(UUID(int=1)),
        str(UUID(int=2)),
        str(UUID(int=3001)),
        "person 1",
        "device 2",
        "group 1",
    )
    assert await rows_that_tell(store, *words) == {*OF_SESSION, *OF_ACCOUNT, *UNREFERRED}
    await office.forget(LAB)
    assert await rows_that_tell(store, *words) == set()
    after = await store.everything()
    for table in ("sync.forgotten", "sync.workers", "sync.run_log"):
        del before[table], after[table]
    assert after == before
    removed = await office.removed()
    assert removed.keys() == {*OF_SESSION, *OF_ACCOUNT, *UNREFERRED}
    assert removed["bace.datapoint_rows"] == 20


async def test_what_others_see_stays(office, store, stretch, data_session):
    """A session that another account sees loses nothing but this account's access."""
    await fill_bace(store, stretch, data_session, sessions=(1,), seen_by=("other",))
    await fill_bace(store, stretch, data_session, sessions=(2,))
    before = await store.everything()
    assert (await office.forgetting.holdings(LAB)).shared == {"other": 1}
    await office.forget(LAB)
    assert await store.values("SELECT id_data_session FROM bace.session_records") == [UUID(int=1)]
    assert await store.values("SELECT account FROM bace.session_access") == ["other"]
    assert await store.values("SELECT label FROM bace.person_records") == ["person 1"]
    assert await store.values("SELECT count(*) FROM bace.datapoints WHERE datatype = 1") == [10]
    for table in ("bace.session_loads", "bace.session_checks", "bace.session_records"):
        assert [row for row in before[table] if row in (await store.everything())[table]] == [
            before[table][0]
        ]


async def test_what_others_keep_stays_proved(office, store, stretch, data_session):
    """Rejects that a shared session's proof counts go over to who still sees it, as they are."""
    await fill_bace(store, stretch, data_session, sessions=(1,), seen_by=("other", "denied"))
    await store.pool.execute(
        "UPDATE bace.session_access SET first_seen_at = 'epoch', refused_at = now() WHERE account = 'denied'"
    )
    counts = "SELECT rejected_count, status FROM bace.data_sessions"
    rejects = (
        "SELECT record_key, item_key, reason, payload, attempts, first_seen_at, items FROM sync.reject_log"
    )
    before = await store.fetch(counts), await store.fetch(rejects)
    assert before[0] == [{"rejected_count": 1, "status": "complete"}]
    await office.forget(LAB)
    assert (await store.fetch(counts), await store.fetch(rejects)) == before
    assert await store.values("SELECT account FROM sync.reject_log") == ["other"]


@pytest.mark.parametrize(
    ("state", "attempts"),
    [
        ("resolved_at = now()", 1),
        ("attempts = 7", 7),
        ("resolved_at = now(), settled = true, attempts = 7", 7),
    ],
)
async def test_what_others_were_refused_themselves(  # noqa: PLR0917 - fixtures
    office, store, stretch, data_session, state, attempts
):
    """A reject of their own stands; one that is over makes room. One item is counted once."""
    await fill_bace(store, stretch, data_session, sessions=(1,), seen_by=("other",))
    await store.pool.execute(
        """
        INSERT INTO sync.reject_log SELECT (t).* FROM (
            SELECT jsonb_populate_record(r, '{"account": "other"}') AS t FROM sync.reject_log r) AS copied
        """
    )
    await store.pool.execute(f"UPDATE sync.reject_log SET {state} WHERE account = 'other'")  # noqa: S608
    await office.forget(LAB)
    assert await store.values("SELECT rejected_count FROM bace.data_sessions") == [1]
    assert await store.values("SELECT attempts FROM sync.reject_log") == [attempts]


async def test_a_renamed_account_goes_with_its_old_name(office, store, stretch, data_session):
    """The old name shares everything with the new one; named together, nothing is left."""
    await fill_bace(store, stretch, data_session, seen_by=("old",))
    both = replace(LAB, accounts=("lab", "old"))
    assert (await office.forgetting.holdings(LAB)).shared == {"old": 2}
    assert (await office.forgetting.holdings(LAB)).counts["data sessions"] == 0
    holdings = await office.forgetting.holdings(both)
    assert (holdings.shared, holdings.counts["data sessions"], holdings.counts["persons"]) == ({}, 2, 2)
    await office.forget(both)
    assert await store.values("SELECT count(*) FROM bace.datapoint_rows") == [0]
    assert await rows_that_tell(store, "lab", "old") == set()


async def test_what_others_refer_to_unsaid_stays(office, store, stretch, data_session):
    """The datasets of another account's session whose list the source did not give, and their devices."""
    await fill_bace(store, stretch, data_session)
    await fill_bace(store, stretch, data_session, "ward", sessions=(7,))
    await store.pool.execute("UPDATE bace.session_records SET datasets = NULL")
    await store.pool.execute(
        "UPDATE bace.session_records SET id_group = NULL WHERE id_data_session = $1", UUID(int=7)
    )
    named = "SELECT count(datatype) + count(source_device) FROM bace.datapoints WHERE id_data_session = $1"
    assert await store.values(named, UUID(int=7)) == [20]
    await office.forget(LAB)
    assert await store.values(named, UUID(int=7)) == [20]
    assert await store.values("SELECT label FROM bace.device_records") == ["device 7"]
    assert await store.values("SELECT label FROM bace.group_records") == ["group 7"]


async def test_what_was_not_the_account_s_stays(office, store, stretch, data_session):
    """What no session refers to is nobody's garbage: others may have come to know it in their own ways."""
    await fill_bace(store, stretch, data_session)
    for table in UNREFERRED:
        await store.pool.execute(f"INSERT INTO {table} VALUES ($1)", UUID(int=99))  # noqa: S608
    await office.forget(LAB)
    for table in UNREFERRED:
        assert await store.values(f"SELECT count(*) FROM {table}") == [1], table  # noqa: S608


async def test_a_dataset_that_both_hold_stays(office, store, stretch, data_session):
    """Also where the other session's rows alone tell that it is theirs, too."""
    await fill_bace(store, stretch, data_session, sessions=(1,))
    await fill_bace(store, stretch, data_session, "ward", sessions=(7,))
    await store.store(stretch([(0, 100)], [(5, 3001, 1.0)], session=7), stream=StreamKey("bace", "ward", "s"))
    await office.forget(LAB)
    datasets = await store.values("SELECT id_container_data_latest FROM bace.dataset_records ORDER BY 1")
    assert datasets == [UUID(int=3001), UUID(int=3007)]
    assert await store.values("SELECT label FROM bace.device_records ORDER BY 1") == ["device 1", "device 7"]


async def test_a_device_that_another_one_hangs_on_stays(office, store, stretch, data_session):
    """A gateway goes with the last of its devices."""
    await fill_bace(store, stretch, data_session, sessions=(1,))
    await fill_bace(store, stretch, data_session, "ward", sessions=(7,))
    for number in (10, 11):
        await store.pool.execute("INSERT INTO bace.device_records VALUES ($1)", UUID(int=number))
    hang = "UPDATE bace.device_records SET id_parent = $1 WHERE id_physical_device = ANY ($2)"
    await store.pool.execute(hang, UUID(int=10), [UUID(int=2001)])
    await office.forget(LAB)
    devices = "SELECT id_physical_device FROM bace.device_records ORDER BY 1"
    assert await store.values(devices) == [UUID(int=11), UUID(int=2007)]
    await fill_bace(store, stretch, data_session, sessions=(1,))
    await store.pool.execute(hang, UUID(int=11), [UUID(int=2001), UUID(int=2007)])
    await office.forget(LAB)
    assert await store.values(devices) == [UUID(int=11), UUID(int=2007)]


async def test_who_was_denied_a_session_does_not_see_it(office, store, stretch, data_session):
    """A denial is no reason to keep it; whatever the other account met of the session goes with it."""
    await fill_bace(store, stretch, data_session, sessions=(1,), seen_by=("other",))
    await fill_differences(store, "bace", "other", str(UUID(int=1)), str(UUID(int=2)))
    await store.store(
        stretch([(0, 100)], session=1, rejects=[(60, "other")]), stream=StreamKey("bace", "other", "sessions")
    )
    await store.pool.execute("UPDATE bace.session_access SET refused_at = now() WHERE account = 'other'")
    await office.forget(LAB)
    assert await store.values("SELECT account FROM bace.session_access") == []
    assert await store.values("SELECT item_key FROM sync.difference_log") == [str(UUID(int=2))]
    assert await store.values("SELECT count(*) FROM sync.reject_log") == [0]
    assert await store.values("SELECT count(*) FROM bace.session_records") == [0]


async def test_who_comes_to_see_a_session_meanwhile_reads_it_anew(
    office, store, stretch, data_session, monkeypatch
):
    """What is half removed by then counts as not loaded: it is read again, not missed."""
    monkeypatch.setattr(module, "ROWS_AT_ONCE", 4)
    await fill_bace(store, stretch, data_session, sessions=(1,))
    before = office.forgetting._remove_datapoints
    calls = []

    async def remove(person, number, session):
        calls.append(session)
        if len(calls) == 2:
            row = {"id_data_session": session, "account": "other", "refused_at": None}
            await store.commit(
                stream=StreamKey("bace", "other", "sessions"),
                updates=(Update(SESSION_ACCESS, ACCESS_KEY, row),),
            )
        return await before(person, number, session)

    monkeypatch.setattr(PostgresForgetting, "_remove_datapoints", lambda _, *args: remove(*args))
    await office.forget(LAB)
    (row,) = await store.fetch("SELECT status, loaded_count, raw_coverage FROM bace.data_sessions")
    assert (row["status"], row["loaded_count"], list(row["raw_coverage"])) == ("loading", 0, [])
    assert 0 < (await store.values("SELECT count(*) FROM bace.datapoint_rows"))[0] < 10


async def test_datapoints_that_share_an_instant_go_together(
    office, store, stretch, data_session, monkeypatch
):
    """However many they are, it ends."""
    monkeypatch.setattr(module, "ROWS_AT_ONCE", 2)
    await fill_bace(store, stretch, data_session, sessions=(1,))
    await store.store(stretch([(0, 100)], [(5, n, 1.0) for n in range(10)]))
    await office.forget(LAB)
    assert await store.values("SELECT count(*) FROM bace.datapoint_rows") == [0]
