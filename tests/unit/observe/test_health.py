"""When nightshift is ready, what it says when it is not, and how gently it asks the warehouse."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest
import structlog.testing

from sync.errors import StorageUnavailable
from sync.model import StreamKey, StreamSurvey, Survey
from sync.observe.health import Look, Readiness, Surveyor, judge

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
HANG_S = 30


def ago(minutes: float) -> datetime:
    """Return the instant so many minutes before now."""
    return NOW - timedelta(minutes=minutes)


def stream(account: str, minutes: float | None = None, error: str | None = None, name: str = "sessions"):
    """Make a stream that was up to date so many minutes ago."""
    last = None if minutes is None else ago(minutes)
    return StreamSurvey(key=StreamKey("beddit", account, name), last_success_at=last, last_error=error)


def judged(*streams: StreamSurvey, accounts=("alice",), started: float = 600) -> Readiness:
    """Judge streams of accounts that have to be checked every 45 minutes."""
    return judge(
        Survey(streams=streams),
        None,
        {"beddit": accounts, "bace": ()},
        {"beddit": ago(45), "bace": ago(45)},
        started_at=ago(started),
        now=NOW,
    )


def test_all_is_well():
    """Every account has a success that will do, the one at the limit included."""
    streams = (stream("alice", 1), stream("bob", 45))
    assert judged(*streams, accounts=("alice", "bob")) == Readiness(True)


def test_the_warehouse_is_away():
    """Without the warehouse nothing is ready, and the reason is told."""
    found = judge(None, "PostgreSQL: no route", {"beddit": ["alice"]}, {}, started_at=NOW, now=NOW)
    assert found == Readiness(False, ("The warehouse is away: PostgreSQL: no route",))


def test_an_account_is_late():
    """It says who, for how long, and the last error."""
    found = judged(stream("alice", 180, "403 Forbidden"))
    assert found == Readiness(
        False, ("beddit/alice: no successful check for 3 h; the last error: 403 Forbidden",)
    )


def test_an_account_that_was_never_checked_counts_from_the_start():
    """A new account has as long as any other before it is late."""
    assert judged(started=44).ready
    assert judged(stream("alice", None), started=46) == Readiness(
        False, ("beddit/alice: never checked successfully, for 46 min",)
    )


def test_the_newest_stream_counts():
    """An account with several streams is as fresh as its freshest."""
    assert judged(stream("alice", 500), stream("alice", 1, name="other"), stream("alice")).ready


def test_other_accounts_do_not_matter():
    """What the warehouse knows of accounts that are not configured makes nobody late."""
    assert judged(stream("alice", 1), stream("mallory", 5000, "gone")).ready


def test_each_source_has_its_own_limit():
    """A source that is asked once a day is not late after an hour."""
    survey = Survey(streams=(stream("alice", 60),))
    for limit, ready in ((45, False), (1440, True)):
        found = judge(
            survey, None, {"beddit": ["alice"]}, {"beddit": ago(limit)}, started_at=ago(600), now=NOW
        )
        assert found.ready is ready


def test_the_list_stays_readable():
    """The latest twenty are named, the others counted."""
    names = [f"a{n:03}" for n in range(25)]
    found = judged(*(stream(name, 100 + n) for n, name in enumerate(names)), accounts=names)
    assert not found.ready
    assert [line.partition(":")[0] for line in found.problems] == [
        *(f"beddit/{name}" for name in reversed(names[5:])),
        "and 5 more",
    ]


# --- looking at the warehouse ---------------------------------------------------------------------


@dataclass
class Warehouse:
    """Counts who looks, and answers, fails or hangs as it is told."""

    now: float = 0.0
    looks: int = 0
    takes: float = 0.0
    error: Exception | None = None
    hangs: asyncio.Event | None = None
    is_stubborn: bool = False
    began: asyncio.Event = field(default_factory=asyncio.Event)
    let_go: asyncio.Event = field(default_factory=asyncio.Event)

    async def read(self) -> Survey:
        """Look once."""
        self.looks += 1
        self.began.set()
        self.now += self.takes
        try:
            if self.hangs:
                await self.hangs.wait()
        except asyncio.CancelledError:
            if self.is_stubborn:
                await self.let_go.wait()
            raise
        if self.error:
            raise self.error
        return Survey(workers=self.looks)

    def surveyor(self, patience_s: float = HANG_S) -> Surveyor:
        """Return a surveyor of it by its clock."""
        return Surveyor(self.read, max_age_s=3, patience_s=patience_s, clock=lambda: self.now)


async def test_it_does_not_look_too_often():
    """Who asks again soon is told the same; after a while it looks anew."""
    warehouse = Warehouse()
    surveyor = warehouse.surveyor()
    seen = []
    for warehouse.now in (0, 2.9, 3, 5.9, 6):
        seen.append((await surveyor.look()).survey.workers)
    assert seen == [1, 1, 2, 2, 3]


async def test_it_never_looks_twice_at_once():
    """All who ask meanwhile are told by the one look."""
    warehouse = Warehouse(hangs=asyncio.Event())
    surveyor = warehouse.surveyor()
    asking = [asyncio.create_task(surveyor.look()) for _ in range(5)]
    await warehouse.began.wait()
    asking[0].cancel()  # whoever goes away takes nothing from the others
    await asyncio.sleep(0)
    warehouse.hangs.set()
    told = await asyncio.gather(*asking[1:])
    assert told == [Look(Survey(workers=1))] * 4


async def test_looking_takes_a_tenth_of_the_time():
    """A look that took half a second is good for five; none is good for longer than ten."""
    for takes, good_for in ((0.5, 5), (3.0, 10)):
        warehouse = Warehouse(takes=takes)
        surveyor = warehouse.surveyor()
        await surveyor.look()
        began = warehouse.now
        for later, looks in ((good_for - 0.1, 1), (good_for, 2)):
            warehouse.now = began + later
            await surveyor.look()
            assert warehouse.looks == looks


async def test_an_outage_is_told_and_ends():
    """Why the warehouse is away is told; once it is back, that is told too."""
    warehouse = Warehouse(error=StorageUnavailable("PostgreSQL: gone"))
    surveyor = warehouse.surveyor()
    assert await surveyor.look() == Look(None, "PostgreSQL: gone")
    warehouse.error, warehouse.now = None, 3
    assert await surveyor.look() == Look(Survey(workers=2))


async def test_a_defect_is_told_without_its_words():
    """Something unforeseen is no outage of the page: it is logged, and the page says where to look."""
    surveyor = Warehouse(error=ValueError("a secret")).surveyor()
    with structlog.testing.capture_logs() as logs:
        found = await surveyor.look()
    assert found == Look(None, "looking at it failed (ValueError); the log has the details")
    assert [entry["event"] for entry in logs] == ["survey.defect"]


async def test_nobody_waits_for_a_warehouse_that_hangs():
    """A look that hangs is given up and ended; the next one may succeed."""
    warehouse = Warehouse(hangs=asyncio.Event())
    surveyor = warehouse.surveyor(patience_s=0.001)
    away = Look(None, "it did not answer within 0.001 s")
    assert await surveyor.look() == away
    await surveyor.aclose()
    warehouse.hangs = None
    assert await Surveyor(warehouse.read, patience_s=HANG_S).look() == Look(Survey(workers=2))


async def test_a_look_that_cannot_be_ended_stays_the_only_one():
    """While the driver hangs in cancelling, no further connection is taken; afterwards all is well again."""
    warehouse = Warehouse(hangs=asyncio.Event(), is_stubborn=True)
    surveyor = warehouse.surveyor(patience_s=0.001)
    for _ in range(3):
        assert (await surveyor.look()).survey is None
    assert warehouse.looks == 1
    warehouse.hangs = None
    warehouse.let_go.set()
    await surveyor.aclose()  # it ends now
    assert await surveyor.look() == Look(Survey(workers=2))


async def test_an_old_look_is_not_told_when_a_new_one_hangs():
    """After a time-out the warehouse is away for everybody who asked, whatever it said before."""
    warehouse = Warehouse()
    surveyor = warehouse.surveyor(patience_s=0.001)
    assert (await surveyor.look()).survey is not None
    warehouse.now, warehouse.hangs = 3, asyncio.Event()
    told = await asyncio.gather(*(surveyor.look() for _ in range(3)))
    assert [look.survey for look in told] == [None] * 3


async def test_closing_ends_a_look_under_way():
    """Nothing is left behind."""
    warehouse = Warehouse(hangs=asyncio.Event())
    surveyor = warehouse.surveyor()
    asking = asyncio.create_task(surveyor.look())
    await warehouse.began.wait()
    await surveyor.aclose()
    assert (await asking).survey is None


@pytest.mark.parametrize("asked", [False, True])
async def test_closing_an_idle_one_does_nothing(asked):
    """Whether or not it ever looked."""
    surveyor = Warehouse().surveyor()
    if asked:
        await surveyor.look()
    await surveyor.aclose()
