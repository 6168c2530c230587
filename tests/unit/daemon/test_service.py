"""What the daemon does when it is told something, and how it ends."""

# ruff: noqa: ARG005 - the doubles take what the protocols give
from __future__ import annotations

import asyncio
import os
import signal
from contextlib import asynccontextmanager
from types import SimpleNamespace

import pytest
import structlog.testing

from sync.config import Daemon, Settings
from sync.daemon import service as module
from sync.daemon.service import Service
from sync.errors import ConfigurationError
from sync.observe.logging import Redactor

HANG_S = 30


class Aborted(BaseException):
    """The process would have ended at once."""


class Parts:
    """Work that notes how it is begun and ended, and ends as it is told.

    Attributes:
        all: Every one that was made, in order.
    """

    all: list[Parts]
    last_words: Exception | None = None
    dies_of: Exception | None = None
    holds_on: asyncio.Event | None = None

    def __init__(self, settings, redactor, metrics, troubles, notifier, _, *, has_worked):
        self.settings, self.metrics, self.troubles, self.notifier = settings, metrics, troubles, notifier
        self.redactor = redactor
        self.has_worked = has_worked
        self.state = "made"
        self.all.append(self)

    async def run(self):
        """Work until cancelled."""
        self.state = "working"
        if self.dies_of:
            raise self.dies_of
        try:
            await asyncio.Event().wait()
        finally:
            self.state = "ending"
            while self.holds_on and not self.holds_on.is_set():
                try:
                    await self.holds_on.wait()
                except asyncio.CancelledError:
                    continue
            self.state = "ended"
            if self.last_words:
                raise self.last_words


class Scene:
    """A service in this very process, real signals, and a configuration that can be changed."""

    def __init__(self):
        self.settings = settings()
        self.logged = []
        self.aborts = []
        self.service = Service(self._load, self._configure, {}, self._abort)
        self.task = None

    def _load(self):
        if isinstance(self.settings, Exception):
            raise self.settings
        return self.settings

    def _configure(self, found):
        self.logged.append(found)
        return Redactor(())

    def _abort(self, code):
        self.aborts.append(code)
        raise Aborted

    async def until(self, is_so):
        """Wait until something is so."""
        async with asyncio.timeout(HANG_S):
            while not is_so():  # noqa: ASYNC110 - signals come by themselves
                await asyncio.sleep(0)

    async def tell(self, number):
        """Send this process a signal, when its work has begun."""
        await self.until(lambda: Parts.all and Parts.all[-1].state == "working")
        os.kill(os.getpid(), number)

    async def ended(self):
        """Wait for the end of the service."""
        async with asyncio.timeout(HANG_S):
            await self.task


def settings(**daemon):
    """Make a configuration."""
    return Settings.model_construct(daemon=Daemon(**{"grace_s": HANG_S, **daemon}))


@pytest.fixture(autouse=True)
def parts(monkeypatch):
    """Let the service work with these parts; return those that were made."""
    made = []
    for name, value in {"all": made, "last_words": None, "dies_of": None, "holds_on": None}.items():
        monkeypatch.setattr(Parts, name, value, raising=False)
    monkeypatch.setattr(module, "Parts", Parts)
    monkeypatch.setattr(module, "clouds", lambda settings: {"beddit": None})
    return made


@asynccontextmanager
async def serving():
    """Let a service run meanwhile; signals that nobody is to hear any more are heard by nobody."""
    loop = asyncio.get_running_loop()
    scene = Scene()
    scene.task = asyncio.create_task(scene.service.run())
    try:
        yield scene
    finally:
        if Parts.holds_on:
            Parts.holds_on.set()
        scene.task.cancel()
        await asyncio.wait([scene.task])
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.remove_signal_handler(number)


def events(logs):
    """Return what was logged, without the details."""
    return [entry["event"] for entry in logs]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_told_to_end_it_ends(parts, number):
    """The work is cancelled and awaited, and the service returns."""
    with structlog.testing.capture_logs() as logs:
        async with serving() as scene:
            await scene.tell(number)
            await scene.ended()
    assert [part.state for part in parts] == ["ended"]
    assert events(logs) == ["daemon.stopping", "daemon.stopped"]
    assert scene.aborts == []


async def test_a_second_signal_ends_it_at_once(parts, monkeypatch):
    """While the work is still ending the process aborts with 128 and the signal's number."""
    monkeypatch.setattr(Parts, "holds_on", asyncio.Event())
    async with serving() as scene:
        await scene.tell(signal.SIGTERM)
        await scene.until(lambda: parts[0].state == "ending")
        with pytest.raises(Aborted):  # as the event loop calls it
            scene.service._received(signal.SIGINT)
        assert scene.aborts == [128 + signal.SIGINT]
        parts[0].holds_on.set()
        await scene.ended()


async def test_the_grace_is_limited(parts, monkeypatch):
    """Work that does not end in time is cut off: the process aborts with 1, and says so."""
    monkeypatch.setattr(Parts, "holds_on", asyncio.Event())
    with structlog.testing.capture_logs() as logs:
        async with serving() as scene:
            scene.settings = settings(grace_s=0.01)
            await scene.tell(signal.SIGTERM)
            with pytest.raises(Aborted):
                await scene.ended()
            assert parts[0].state == "ending"
            parts[0].holds_on.set()
            await scene.until(lambda: parts[0].state == "ended")
    assert scene.aborts == [1]
    assert events(logs) == ["daemon.stopping", "daemon.cut_off"]


async def test_an_error_while_ending_is_told_and_ends_all_the_same(parts, monkeypatch):
    """Who was told to end ends well, with a warning about what went wrong on the way."""
    monkeypatch.setattr(Parts, "last_words", ConfigurationError("the disk is full"))
    with structlog.testing.capture_logs() as logs:
        async with serving() as scene:
            await scene.tell(signal.SIGTERM)
            await scene.ended()
    assert events(logs) == ["daemon.stopping", "daemon.ended_badly", "daemon.stopped"]


async def test_told_to_read_its_configuration_again_it_begins_anew(parts):
    """New parts work with the new configuration when the old ones have ended; counts and troubles go on."""
    with structlog.testing.capture_logs() as logs:
        async with serving() as scene:
            await scene.tell(signal.SIGHUP)
            before = scene.settings
            await scene.until(lambda: len(parts) == 2)
            scene.settings = settings(jitter_s=5)
            await scene.tell(signal.SIGHUP)
            await scene.until(lambda: len(parts) == 3)
            await scene.tell(signal.SIGTERM)
            await scene.ended()
    assert [part.state for part in parts] == ["ended"] * 3
    assert [part.settings for part in parts] == [before, before, scene.settings] == scene.logged
    assert len({id(part.metrics) for part in parts}) == len({id(part.troubles) for part in parts}) == 1
    assert events(logs) == ["daemon.reloading"] * 2 + ["daemon.stopping", "daemon.stopped"]


async def test_a_broken_configuration_changes_nothing(parts):
    """It goes on as before and says why; the next one that is whole is taken."""
    with structlog.testing.capture_logs() as logs:
        async with serving() as scene:
            await scene.until(lambda: parts)
            whole, scene.settings = scene.settings, ConfigurationError("line 3: no such key")
            for times in (1, 2):
                await scene.tell(signal.SIGHUP)
                await scene.until(lambda times=times: len(logs) == times)
            assert [part.state for part in parts] == ["working"]
            scene.settings = whole
            await scene.tell(signal.SIGHUP)
            await scene.until(lambda: len(parts) == 2)
            await scene.tell(signal.SIGTERM)
            await scene.ended()
    still = [entry for entry in logs if entry["event"] == "daemon.reload_refused"]
    assert [entry["error"] for entry in still] == ["line 3: no such key"] * 2
    assert events(logs)[2:] == ["daemon.reloading", "daemon.stopping", "daemon.stopped"]


async def test_a_configuration_that_does_not_start_is_taken_back(parts, monkeypatch):
    """Where the new one cannot begin (a port is taken, say) it goes on with the old one, and says why."""
    with structlog.testing.capture_logs() as logs:
        async with serving() as scene:
            await scene.until(lambda: parts)
            before, scene.settings = scene.settings, settings(jitter_s=5)
            await scene.until(lambda: parts[0].state == "working")
            monkeypatch.setattr(Parts, "dies_of", ConfigurationError("the port is taken"))
            await scene.tell(signal.SIGHUP)
            await scene.until(lambda: "daemon.reload_refused" in events(logs))
            monkeypatch.setattr(Parts, "dies_of", None)
            await scene.until(lambda: len(parts) == 3)
            await scene.tell(signal.SIGTERM)
            await scene.ended()
    assert [part.settings for part in parts] == [before, scene.settings, before]


async def test_told_to_end_while_it_begins_anew_it_ends(parts, monkeypatch):
    """A signal that comes while the old parts are ending is not lost."""
    monkeypatch.setattr(Parts, "holds_on", asyncio.Event())
    async with serving() as scene:
        await scene.tell(signal.SIGHUP)
        await scene.until(lambda: parts[0].state == "ending")
        os.kill(os.getpid(), signal.SIGTERM)
        await scene.until(lambda: scene.service._is_ending)
        parts[0].holds_on.set()
        await scene.ended()
    assert scene.aborts == []
    assert {part.state for part in parts} <= {"ended", "made"}


async def test_work_that_dies_ends_the_service(parts, monkeypatch):
    """Its error comes out as it is: the command line knows what to say."""
    monkeypatch.setattr(Parts, "dies_of", ConfigurationError("the schema is newer"))
    async with serving() as scene:
        with pytest.raises(ConfigurationError, match="the schema is newer"):
            await scene.ended()


async def test_a_configuration_that_is_broken_from_the_beginning(parts):
    """Nothing begins."""
    async with serving() as scene:
        scene.settings = ConfigurationError("line 3: no such key")
        with pytest.raises(ConfigurationError, match="line 3"):
            await scene.ended()
    assert parts == []


async def test_what_is_ignored_stays_ignored(parts):
    """A process that nohup started does not hear when its terminal hangs up."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        async with serving() as scene:
            await scene.tell(signal.SIGHUP)
            await scene.tell(signal.SIGTERM)
            await scene.ended()
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
    assert len(parts) == 1


async def test_a_terminal_that_goes_away_ends_it(parts, monkeypatch):
    """Who began in a terminal that has hung up was not asked to read anything again."""
    answers = {"is": True}
    monkeypatch.setattr(module.os, "isatty", lambda descriptor: answers["is"])
    async with serving() as scene:
        answers["is"] = False
        await scene.tell(signal.SIGHUP)
        await scene.ended()
    assert len(parts) == 1


async def test_the_service_manager_is_told(parts):
    """Before anything ends it hears that the daemon reads its configuration again, and that it stops."""
    heard = []
    manager = SimpleNamespace(
        reloading=lambda: heard.append(("reloading", parts[-1].state)),
        stopping=lambda: heard.append(("stopping", parts[-1].state)),
    )
    async with serving() as scene:
        scene.service._notifier = manager
        await scene.tell(signal.SIGHUP)
        await scene.until(lambda: len(parts) == 2)
        await scene.tell(signal.SIGTERM)
        await scene.ended()
    assert heard == [("reloading", "working"), ("stopping", "working")]
    assert [part.notifier for part in parts] == [manager] * 2
