"""The crash campaign: the real program, ended again and again, must lose nothing and double nothing.

A campaign is a row of *seasons*. A season begins with two clouds that hold something and an empty warehouse,
and consists of *episodes*: the clouds change, some answers are spoilt, one or two processes of nightshift
work, and something ends them: SIGKILL at a random moment, a failpoint at one of their awaits, a freeze. What
survives is judged after every episode. At the end of a season everything is quiet, and nightshift has to
finish; then clouds and warehouse have to be equal.

All chance comes from the seed: which changes, which faults, which processes, where they end. When exactly a
process and a fault meet is up to the machine; hence a failure names its season, which can be repeated alone.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Final

import asyncpg

from sync.storage.workers import PostgresWorker
from tests.campaign.launch import CRASHED, ROOT, Order, TimeOfDay, line_of
from tests.campaign.oracle import DifferenceError, Oracle
from tests.campaign.world import USERS, World
from tests.faults.kit import ANSWERS
from tests.faults.proxy import ANY, COMMIT_ANSWERED, COMMIT_ASKED, COPY_DATA, PostgresProxy, Trouble

PER_SEASON: Final = 20
"""Kills after which a season comes to its end."""

ROUNDS: Final = (0, 3600, 7 * 3600, 86_400, 2 * 86_400, 8 * 86_400, 31 * 86_400)
"""Seconds by which time is put forward before each attempt to finish: what was put off becomes due."""

EMPTY_AGAIN: Final = """
    SELECT 'TRUNCATE ' || string_agg(format('%I.%I', schemaname, tablename), ', ') FROM pg_tables
    WHERE schemaname IN ('sync', 'beddit', 'bace') AND tablename NOT IN ('alembic_version', 'workers')
"""

AGE: Final = "UPDATE sync.workers SET heartbeat_at = '-infinity' WHERE worker_id <> $1 AND $2 = 0"
# Who was frozen while it changes its own row ages by time alone, which nobody here has.
AGE_ONE: Final = """
    UPDATE sync.workers SET heartbeat_at = '-infinity' WHERE worker_id IN (
        SELECT worker_id FROM sync.workers WHERE worker_id <> $1 AND pid = $2 FOR UPDATE SKIP LOCKED)
"""
TERMINATE: Final = """
    SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
    WHERE datname = current_database() AND application_name LIKE 'nightshift:%' AND application_name <> $1
"""

LONGEST_S: Final = 60.0
"""A process that does not end by itself within that time hangs."""

WAY_OF_DATA: Final = (
    "sources/",
    "transport/",
    "engine/runner",
    "storage/sink",
    "storage/series",
    "storage/transfer",
    "storage/rejects",
    "storage/ledger",
)
"""Where the awaits are between fetch and commit."""

ENDS: Final = (0, 1, 2, 128 + signal.SIGTERM, -signal.SIGTERM)
"""How a process may end; SIGTERM ends it at once as long as it has not begun to listen."""

FROZEN: Final = 0.1
"""The share of processes that are frozen for a while."""

COMMANDS: Final[Mapping[tuple[str, ...], int]] = {
    ("once",): 10,
    ("run",): 5,
    ("backfill",): 2,
    ("backfill", "--reload"): 2,
    ("once", "--source", "bace"): 1,
    ("once", "--source", "beddit"): 1,
}
DATABASE: Final[Mapping[str, int]] = {"": 6, "cut": 3, "end": 1, "reset": 1, "terminate": 2, "swallow": 1}
# A clock that is ahead makes a cursor that is, which is mended later: that has tests of its own.
SPOILT: Final = tuple(name for name in ANSWERS if name != "clock-ahead")


@dataclass(slots=True)
class Report:
    """What a campaign has been through."""

    seed: int
    listener: Callable[[str], None] = lambda _: None
    seasons: int = 0
    kills: int = 0
    frozen: int = 0
    processes: int = 0
    failpoints: Counter[str] = field(default_factory=Counter)
    places: Counter[str] = field(default_factory=Counter)
    known_places: Counter[str] = field(default_factory=Counter)
    cut_connections: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    changes: int = 0
    sessions: int = 0
    samples: int = 0
    checks: int = 0
    rounds: Counter[int] = field(default_factory=Counter)
    differences: int = 0

    def text(self) -> str:
        """For a person."""
        at_failpoints = ", ".join(f"{count} {name}" for name, count in sorted(self.failpoints.items()))
        return (
            f"seed {self.seed}, {self.seasons} seasons\n"
            f"kills survived        {self.kills:>12,}\n"
            f"processes frozen      {self.frozen:>12,}\n"
            f"restarts              {self.processes:>12,}\n"
            f"failpoints            {self.failpoints.total():>12,} at {len(self.places)} of the "
            f"{len(self.known_places)} awaits that were passed ({at_failpoints})\n"
            f"cut connections       {self.cut_connections:>12,}\n"
            f"vendors' faults       {self.faults.total():>12,} of {len(self.faults)} kinds\n"
            f"changes in the clouds {self.changes:>12,}\n"
            f"comparisons           {self.checks:>12,}\n"
            f"sessions compared     {self.sessions:>12,}\n"
            f"samples compared      {self.samples:>12,}\n"
            f"differences           {self.differences:>12,}"
        )


class Launcher:
    """Starts processes, and says how they end; see ``launch``."""

    def __init__(self, process: asyncio.subprocess.Process, report: Report) -> None:
        self._process, self._report = process, report
        self._begun: dict[str, asyncio.Future[int]] = {}
        self._ended: dict[str, asyncio.Future[int]] = {}
        self.hits: dict[str, str] = {}
        self._listener = asyncio.create_task(self._listen())

    @classmethod
    @asynccontextmanager
    async def open(
        cls, clock: Path, environment: Mapping[str, str], report: Report
    ) -> AsyncIterator[Launcher]:
        """Start the program that forks."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tests.campaign.launch",
            str(clock),
            cwd=ROOT,
            env=dict(environment),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        launcher = cls(process, report)
        try:
            yield launcher
        finally:
            assert process.stdin is not None
            process.stdin.close()
            await process.wait()
            await launcher._listener

    async def start(self, order: Order) -> int:
        """Start a process; its id."""
        loop = asyncio.get_running_loop()
        self._begun[order.name], self._ended[order.name] = loop.create_future(), loop.create_future()
        assert self._process.stdin is not None
        self._process.stdin.write(line_of(order))
        await self._process.stdin.drain()
        return await asyncio.wait_for(self._begun[order.name], LONGEST_S)

    async def ended(self, name: str, patience: float | None = None) -> int | None:
        """How a process ended: its exit code, or the negative number of a signal; None: it has not yet."""
        with suppress(TimeoutError):
            return await asyncio.wait_for(asyncio.shield(self._ended[name]), patience)
        return None

    async def _listen(self) -> None:
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            match json.loads(line):
                case {"name": name, "begun": pid}:
                    self._begun[name].set_result(pid)
                case {"name": name, "ended": code}:
                    self._ended[name].set_result(code)
                case {"name": name, "hit": place}:
                    self.hits[name] = place
        for future in (*self._begun.values(), *self._ended.values()):
            if not future.done():
                future.set_exception(RuntimeError("the launcher has ended"))
                future.exception()  # nobody need wait for it


@dataclass(slots=True)
class Season:
    """One warehouse from empty to equal.

    Attributes:
        number: Which one.
        kills: After how many kills it comes to its end.
        report: Where it is counted.
        folder: Its files.
        world: The clouds.
        clock: Their time.
        proxy: The network before the database.
        launcher: Starts processes.
        oracle: Judges.
        look: A connection to the database of our own.
        keeper: Takes over what killed processes held.
        journal: What happened, line by line.
    """

    number: int
    kills: int
    report: Report
    folder: Path
    world: World
    clock: TimeOfDay
    proxy: PostgresProxy
    launcher: Launcher
    oracle: Oracle
    look: asyncpg.Connection
    keeper: PostgresWorker
    journal: list[str] = field(default_factory=list)
    _looking: asyncio.Lock = field(default_factory=asyncio.Lock)
    _started: int = 0
    _survived: int = 0

    async def run(self) -> None:
        """Live through it.

        Raises:
            DifferenceError: The warehouse is not what it should be.
        """
        rng = random.Random(f"{self.report.seed}/{self.number}")  # noqa: S311 - chance, not secrecy
        for _ in range(rng.randint(10, 25)):
            self.world.change(rng)
        if not self.report.known_places:
            await self.census()
        episode = 0
        while self._survived < self.kills:
            episode += 1
            self._note(f"--- episode {episode}, {self._survived} of {self.kills} kills")
            await self._episode(random.Random(f"{self.report.seed}/{self.number}/{episode}"))  # noqa: S311
        await self.finish()
        self.report.changes += self.world.changes

    def _note(self, text: str) -> None:
        self.journal.append(text)
        self.report.listener(text)

    async def census(self) -> None:
        """Find out by which awaits the program comes: a daemon reads everything, and is told to end."""
        order = self.order(("run",))
        pid = await self.launcher.start(order)
        until = time.monotonic() + 2 * LONGEST_S
        while not await self.oracle.has_read_all():
            if time.monotonic() > until:
                raise DifferenceError(f"an undisturbed daemon does not finish: {await self.oracle.quiet()}")
            if (code := await self.launcher.ended(order.name, 0.1)) is not None:
                raise DifferenceError(f"an undisturbed daemon ended with {code}")
        os.kill(pid, signal.SIGTERM)
        self._learn(order, await self.launcher.ended(order.name, LONGEST_S))
        await self.empty()

    async def empty(self) -> None:
        """Begin with nothing."""
        await self.look.execute(await self.look.fetchval(EMPTY_AGAIN))

    # --- an episode -------------------------------------------------------------------------------

    async def _episode(self, rng: random.Random) -> None:
        self.clock.advance(rng.choice([0, 60, 1200, 3 * 3600, 26 * 3600]))
        for _ in range(rng.randint(0, 4)):
            self.world.change(rng)
        self._spoil(rng)
        crew = [self._chosen(rng) for _ in range(rng.choice([1, 1, 2]))]
        async with asyncio.TaskGroup() as group:
            mischief = group.create_task(self._mischief(rng))
            await asyncio.gather(*(self.live(order, random.Random(rng.random())) for order in crew))  # noqa: S311
            mischief.cancel()
        self.proxy.forget()
        self.proxy.delay_s = 0.0
        for cloud in (self.world.beddit, self.world.bace):
            cloud.faults.clear()
        await self._take_over()

    def _spoil(self, rng: random.Random) -> None:
        """Some answers will be spoilt."""
        if rng.random() < 0.1:
            self.world.bace.revoke_tokens(refresh=rng.random() < 0.5)
        for _ in range(rng.choice([0, 0, 1, 2, 4])):
            name = rng.choice(SPOILT)
            cloud = rng.choice([self.world.beddit, self.world.bace])
            cloud.fail_next(ANSWERS[name], host=None)
            self.report.faults[name] += 1
            self._note(f"{type(cloud).__name__} will answer: {name}")

    def _chosen(self, rng: random.Random) -> Order:
        """A process, and where it ends."""
        arguments = rng.choices(list(COMMANDS), list(COMMANDS.values()))[0]
        action = rng.choices(["", "kill", "raise", "drop", "end"], [3, 8, 2, 2, 1])[0]
        place = self._seldom_hit(rng) if action and rng.random() < 0.8 else ""
        most = self.report.known_places[place] if place else 400
        visit = 1 if rng.random() < 0.4 else rng.randint(1, most)  # a quiet run comes by it but once
        order = self.order(arguments, action, place, visit)
        self._note(f"{order.name}: {' '.join(arguments)} {action} at {place or 'any'} #{order.visit}")
        return order

    def _seldom_hit(self, rng: random.Random) -> str:
        """One of those awaits at which the least has happened so far, mostly on the way of the data."""
        known = [*self.report.known_places]
        if rng.random() < 0.8:
            known = [place for place in known if place.startswith(WAY_OF_DATA)]
        known.sort(key=lambda place: (self.report.places[place], place))
        return rng.choice(known[: max(1, len(known) // 3)])

    def order(self, arguments: tuple[str, ...], action: str = "", place: str = "", visit: int = 0) -> Order:
        """A process of this season, and what happens to it; see ``Order``."""
        self._started += 1
        files = self.folder / f"{self._started}"
        return Order(
            f"{self.number}.{self._started}",
            arguments,
            action,
            place,
            visit,
            self.proxy.port,
            f"{files}.log",
            f"{files}.json",
        )

    async def live(self, order: Order, rng: random.Random) -> None:
        """Start a process and see it end; what does not end by itself is killed in the middle of its work."""
        pid = await self.launcher.start(order)
        self.report.processes += 1
        freezes = rng.random() < FROZEN
        waits = order.action and "run" not in order.arguments and not freezes
        code = await self.launcher.ended(order.name, 3.0 if waits else rng.uniform(0.02, 1.5))
        if code is None and freezes:
            code = await self._freeze(order, pid)
        if code is None:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            code = await self.launcher.ended(order.name)
        self._learn(order, code)

    async def _freeze(self, order: Order, pid: int) -> int | None:
        """A process that stands still until others have taken over, and then goes on as if it had not."""
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
            self.report.frozen += 1
            self._note(f"{order.name} is frozen")
            await self._take_over(pid)
            os.kill(pid, signal.SIGCONT)
        return await self.launcher.ended(order.name, 0.3)

    def _learn(self, order: Order, code: int | None) -> None:
        hit = self.launcher.hits.get(order.name, "")
        self._note(f"{order.name} ended with {code} {hit and 'at ' + hit}")
        if code == -signal.SIGKILL:
            self.report.kills += 1
            self._survived += 1
        elif code not in ENDS and not (code == CRASHED and order.action == "raise"):
            raise DifferenceError(f"{order.name} ended with {code}")
        if hit:
            self.report.failpoints[order.action] += 1
            self.report.places[hit] += 1
        with suppress(OSError, ValueError):  # only who ends in order has written it
            for place, count in json.loads(Path(order.census).read_text()).items():
                self.report.known_places[place] = max(count, self.report.known_places[place])

    async def _mischief(self, rng: random.Random) -> None:
        """What happens meanwhile: to the clouds, and to the database's connections."""
        self.proxy.delay_s = rng.choice([0.0, 0.0, 0.0, 0.002])
        what = rng.choices(list(DATABASE), list(DATABASE.values()))[0]
        if what == "cut":
            moment = rng.choice([COMMIT_ASKED, COMMIT_ANSWERED, COPY_DATA, ANY])
            self.proxy.plan(
                rng.choice([Trouble.CUT, Trouble.RESET]),
                type(moment)(moment.to_client, moment.kind, moment.containing, skip=rng.randint(0, 30)),
            )
        self._note(f"database: {what}, delay {self.proxy.delay_s}")
        for _ in range(rng.randint(0, 3)):
            await asyncio.sleep(rng.uniform(0, 0.3))
            self.world.change(rng)
        await asyncio.sleep(rng.uniform(0, 0.5))
        match what:
            case "end" | "reset":
                self.report.cut_connections += self.proxy.end_all(reset=what == "reset")
            case "terminate":
                async with self._looking:
                    self.report.cut_connections += await self.look.fetchval(TERMINATE, self.keeper.name)
            case "swallow":
                self.proxy.swallow()
                try:
                    await asyncio.sleep(rng.uniform(0.1, 0.4))
                finally:
                    self.proxy.swallow(False)

    async def _take_over(self, pid: int | None = None) -> None:
        """Time passes until whoever is silent (or one process) counts as dead; another takes over from it."""
        async with self._looking:
            await self.look.execute(AGE if pid is None else AGE_ONE, self.keeper.number, pid or 0)
            await self.keeper.beat()
            await self.oracle.judge()

    # --- its end ----------------------------------------------------------------------------------

    async def finish(self) -> None:
        """Nothing disturbs any more: nightshift reads all that is left, and the sides are equal."""
        for rounds, seconds in enumerate(ROUNDS, 1):
            self.clock.advance(seconds)
            order = self.order(("once",))
            await self.launcher.start(order)
            self.report.processes += 1
            code = await self.launcher.ended(order.name, LONGEST_S)
            left = await self.oracle.quiet()
            self._note(f"round {rounds}: exit code {code}, left: {left[:5]}")
            await self.oracle.judge()
            if code == 0 and not left:
                break
        else:
            raise DifferenceError(f"it does not finish: exit code {code}, {len(left)} left: {left[:10]}")
        self.report.rounds[rounds] += 1
        await self.oracle.equal()
        if spool := [path.name for path in (self.folder / "state" / "spool").glob("*")]:
            self._note(f"left in the spool folder: {spool}")


async def run_season(database: str, number: int, report: Report, *, kills: int = PER_SEASON) -> None:
    """Live through one season with a database of its own.

    Args:
        database: An empty, migrated database.
        number: Which season.
        report: Counts.
        kills: After how many kills it comes to its end.

    Raises:
        DifferenceError: With everything that a person needs to repeat it.
    """
    async with open_season(database, number, report, kills=kills) as season:
        try:
            await season.run()
        except Exception as error:
            while isinstance(error, ExceptionGroup):
                error = error.exceptions[0]
            report.differences += 1
            tail = "\n".join(season.journal[-30:])
            raise DifferenceError(
                f"season {number} of seed {report.seed}: {error}\n{tail}\nfiles: {season.folder}\n"
                f"repeat: make campaign SEED={report.seed} SEASON={number}"
            ) from error
        finally:
            report.cut_connections += season.proxy.happened
            report.sessions += season.oracle.sessions
            report.samples += season.oracle.samples
            report.checks += season.oracle.checks
    report.seasons += 1
    shutil.rmtree(season.folder)


@asynccontextmanager
async def open_season(
    database: str, number: int, report: Report, *, kills: int = PER_SEASON
) -> AsyncIterator[Season]:
    """Clouds, a network, a launcher and a judge around a database; their files stay."""
    folder = Path(tempfile.mkdtemp(prefix="nightshift-campaign-"))
    async with AsyncExitStack() as stack:
        clock = TimeOfDay(folder / "clock")
        world = World.empty(clock, random.Random(f"{report.seed}/{number}/world"))  # noqa: S311
        await stack.enter_async_context(world.beddit)
        await stack.enter_async_context(world.bace)
        proxy = await stack.enter_async_context(PostgresProxy(database))
        config = write_config(folder, world, proxy)
        environment = {k: v for k, v in os.environ.items() if not k.startswith("NIGHTSHIFT_")}
        environment |= {"NIGHTSHIFT_CONFIG": str(config), "PYTHONPATH": str(ROOT), "TMPDIR": str(folder)}
        launcher = await stack.enter_async_context(Launcher.open(folder / "clock", environment, report))
        look = await asyncpg.connect(database)
        stack.push_async_callback(look.close)
        keeper = PostgresWorker(database, timedelta(hours=1))
        await keeper.enrol("campaign", "0")
        stack.push_async_callback(keeper.leave)
        oracle = Oracle(world, look)
        yield Season(number, kills, report, folder, world, clock, proxy, launcher, oracle, look, keeper)


def write_config(folder: Path, world: World, proxy: PostgresProxy) -> Path:
    """Write the configuration of a season's processes."""
    account = world.bace.account()
    lines = [
        f'state_dir = "{folder / "state"}"',
        f'warehouse = {{ dsn = "{proxy.dsn}", statement_timeout_s = 20 }}',
        'log = { level = "debug", format = "json" }',
        'daemon = { listen = "off", jitter_s = 0, grace_s = 20 }',
        "[beddit]",
        f'base_url = "{world.beddit.base_url}"',
        "allow_private_blob_hosts = true",
        "requests_per_second = 1000",
        "request_timeout_s = 20",
        'schedule = "1s"',
        'retry_schedule = "2s"',
        "batch_bytes = 4000",
    ]
    for user in USERS:
        lines += [f"[beddit.accounts.user{user}]", f"user_id = {user}"]
        lines += [f'token = "{world.beddit.token(user)}"']
    lines += [
        "[bace]",
        f'base_url = "{world.bace.base_url}"',
        "requests_per_second = 1000",
        "request_timeout_s = 20",
        'schedule = "1s"',
        'retry_schedule = "2s"',
        "[bace.accounts.lab]",
        f'client_id = "{account.client_id}"',
        f'client_secret = "{account.client_secret}"',
        f'username = "{account.username}"',
        f'password = "{account.password}"',
    ]
    path = folder / "nightshift.toml"
    path.touch(mode=0o600)
    path.write_text("\n".join(lines) + "\n")
    return path
