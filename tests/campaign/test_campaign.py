"""A short crash campaign, and proof that its parts do what they say."""

from __future__ import annotations

import random
import shutil
import signal
from typing import Any

import pytest

from tests.campaign.campaign import Report, open_season, run_season
from tests.campaign.oracle import DifferenceError

SEED = 20_251
KILLS = 14


@pytest.mark.timeout(300)
async def test_a_short_campaign(database, capsys):
    """Killed again and again, by day and at its awaits, nightshift loses nothing and doubles nothing."""
    report = Report(SEED)
    await run_season(database, 1, report, kills=KILLS)
    with capsys.disabled():
        print(f"\n{report.text()}")  # noqa: T201 - the figures are what people want to see
    assert report.kills >= KILLS
    assert report.failpoints.total() > 0
    assert report.samples > 0
    assert report.differences == 0


@pytest.fixture
async def season(database):
    """A season whose clouds hold something."""
    async with open_season(database, 1, Report(SEED)) as opened:
        rng = random.Random(SEED)  # noqa: S311
        for _ in range(20):
            opened.world.change(rng)
        yield opened
    shutil.rmtree(opened.folder)


@pytest.mark.timeout(300)
async def test_a_failpoint_does_what_it_says(season):
    """At the await that is named, the process is killed, fails, loses its connections, or is told to end."""
    await season.census()
    places = season.report.known_places
    commit = max((place for place in places if place.startswith("storage/sink")), key=places.__getitem__)
    ends = {"kill": {-signal.SIGKILL}, "raise": {1}, "drop": {0, 1}, "end": {128 + signal.SIGTERM}}
    for action, codes in ends.items():
        await season.empty()
        order = season.order(("once",), action, commit, 3)
        await season.launcher.start(order)
        assert await season.launcher.ended(order.name, 60) in codes
        assert season.launcher.hits == {order.name: commit}
        season.launcher.hits.clear()
        await season.oracle.judge()
    await season.finish()


CURSORS = {"user1001": "updated_after", "user1002": "updated_after", "lab": "changed_since"}
ONE = "WHERE ctid = (SELECT min(ctid) FROM {})"
TAMPERED = {
    "a lost session": f"DELETE FROM beddit.session_records {ONE.format('beddit.session_records')}",  # noqa: S608 - constants
    "a lost track": f"DELETE FROM beddit.track_arrays {ONE.format('beddit.track_arrays')}",  # noqa: S608
    "a doubled track": "INSERT INTO beddit.track_arrays SELECT * FROM beddit.track_arrays LIMIT 1",
    "half a raw signal": "UPDATE beddit.sample_chunks SET int2s = int2s[:100]",
    "a raw signal of other values": "UPDATE beddit.sample_chunks SET bias = bias + 1",
    "a lost datapoint": f"DELETE FROM bace.datapoint_rows {ONE.format('bace.datapoint_rows')}",  # noqa: S608
    "a doubled datapoint": "INSERT INTO bace.datapoint_rows SELECT * FROM bace.datapoint_rows LIMIT 1",
    "another value": "UPDATE bace.datapoint_rows SET value = value + 1e-9",
    "another label": "UPDATE bace.session_records SET label = label || '.'",
    "a ledger that does not add up": "UPDATE sync.run_log SET stored = stored + 1",
}


@pytest.mark.timeout(300)
async def test_the_oracle_notices(season):
    """The judge finds each kind of damage, and nothing where there is none."""
    await season.finish()
    for what, statement in TAMPERED.items():
        transaction = season.look.transaction(isolation="repeatable_read")
        await transaction.start()
        assert not (await season.look.execute(statement)).endswith(" 0"), what
        assert await is_damaged(season), what
        await transaction.rollback()
    assert not await is_damaged(season)


async def is_damaged(season):
    """Whether the oracle finds a difference."""
    try:
        await season.oracle.equal()
    except DifferenceError:
        return True
    return False


@pytest.mark.timeout(300)
async def test_the_oracle_notices_progress_that_is_ahead(season):
    """A cursor that has passed what is not stored is found, whoever's it is."""
    await season.finish()
    rng = random.Random(SEED)  # noqa: S311
    for account, name in CURSORS.items():
        while not is_waiting(season, account):
            season.world.change(rng)
        await season.oracle.judge()
        transaction = season.look.transaction(isolation="repeatable_read")
        await transaction.start()
        await season.look.execute(
            "UPDATE sync.stream_state SET cursor = jsonb_set(cursor, ARRAY[$2], to_jsonb($3::float8))"
            " WHERE account = $1 AND stream = 'sessions'",
            account,
            name,
            season.clock() + 10,
        )
        with pytest.raises(DifferenceError, match="ahead"):
            await season.oracle.judge()
        await transaction.rollback()


def is_waiting(season: Any, account: str) -> bool:
    """Whether the cloud holds something new of an account."""
    since = season.clock() - 5
    if account == "lab":
        return any(session.updated_at(season.clock()) > since for session in season.world.bace.sessions())
    user = int(account.removeprefix("user"))
    return any(
        versions[-1].session["updated"] > since
        for (of, _), versions in season.world.nights.items()
        if of == user
    )
