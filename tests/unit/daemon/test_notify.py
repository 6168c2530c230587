"""What the service manager hears, over a real socket; where there is none, nobody minds."""

from __future__ import annotations

import asyncio
import os
import socket
import time
import uuid

import pytest

from sync.daemon import notify
from sync.daemon.notify import Notifier

HANG_S = 30


class Manager:
    """A service manager's ear."""

    def __init__(self, address):
        self._end = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._end.settimeout(HANG_S)
        self._end.bind("\0" + address[1:] if address.startswith("@") else address)
        self.address = address

    def heard(self):
        """Return the lines of the next message."""
        return self._end.recv(4096).decode().split("\n")

    def close(self):
        """Hear nothing more."""
        self._end.close()


@pytest.fixture(params=["path", "abstract"])
def manager(request, tmp_path):
    """Return an ear at a path, and one without."""
    path = tmp_path / "notify"
    found = Manager(str(path) if request.param == "path" else f"@nightshift-{uuid.uuid4().hex}")
    yield found
    found.close()


@pytest.fixture
def notifier(manager):
    """Return a notifier that was told of the manager in the environment."""
    return Notifier.of({"NOTIFY_SOCKET": manager.address})


def test_ready(manager, notifier):
    """It is told when we are there, and what we do."""
    notifier.ready("3 accounts are being read")
    assert manager.heard() == ["READY=1", "STATUS=3 accounts are being read"]


def test_stopping(manager, notifier):
    """It is told that we are about to end."""
    notifier.stopping()
    assert manager.heard() == ["STOPPING=1", "STATUS=ending"]


def test_reloading(manager, notifier):
    """It is told that we reload, with the monotonic time of just now, in microseconds."""
    before = time.monotonic_ns() // 1000
    notifier.reloading()
    what, stamp = manager.heard()
    after = time.monotonic_ns() // 1000
    assert what == "RELOADING=1"
    name, _, value = stamp.partition("=")
    assert name == "MONOTONIC_USEC"
    assert before <= int(value) <= after


@pytest.fixture
def slept(monkeypatch):
    """Return the list of what is slept between two messages, which takes no time here."""
    lengths = []
    sleep = asyncio.sleep

    async def note(seconds):
        lengths.append(seconds)
        await sleep(0)

    monkeypatch.setattr(notify.asyncio, "sleep", note)
    return lengths


@pytest.mark.parametrize(
    ("environ", "every_s"),
    [
        ({}, 30),
        ({"WATCHDOG_USEC": "20000000"}, 10),
        ({"WATCHDOG_USEC": "20000000", "WATCHDOG_PID": str(os.getpid())}, 10),
        ({"WATCHDOG_USEC": "600000000"}, 30),
        ({"WATCHDOG_USEC": "20000000", "WATCHDOG_PID": str(os.getpid() + 1)}, 30),
        ({"WATCHDOG_USEC": "soon"}, 30),
        ({"WATCHDOG_USEC": ""}, 30),
    ],
    ids=["unwatched", "watched", "watched by pid", "seldom", "another process", "nonsense", "empty"],
)
async def test_the_watchdog(manager, slept, environ, every_s):
    """It hears of us twice as often as it wants to, with what we do at that moment."""
    notifier = Notifier.of({"NOTIFY_SOCKET": manager.address, **environ})
    told = iter(["one", "two", "three"])
    with pytest.raises(RuntimeError):  # there is nothing more to tell
        await notifier.watch(lambda: next(told), 30)
    assert [manager.heard() for _ in range(3)] == [
        ["WATCHDOG=1", "STATUS=one"],
        ["WATCHDOG=1", "STATUS=two"],
        ["WATCHDOG=1", "STATUS=three"],
    ]
    assert slept == [every_s] * 3


def test_where_there_is_no_manager_nothing_is_said(monkeypatch):
    """Without a socket in the environment none is opened."""

    def fail(*args):
        pytest.fail("a socket was opened")

    monkeypatch.setattr(notify.socket, "socket", fail)
    silent = Notifier.of({"WATCHDOG_USEC": "1000"})
    silent.ready("here")
    silent.reloading()
    silent.stopping()
    assert silent.address == ""


@pytest.mark.parametrize("address", ["/nowhere/notify", "@nightshift-nobody-listens", "/" + "x" * 200])
def test_a_manager_that_does_not_hear_is_no_error(address):
    """A socket that is gone, or that cannot be, stops nobody's work."""
    Notifier.of({"NOTIFY_SOCKET": address}).ready("here")


def test_a_manager_that_does_not_listen_holds_nobody_up(tmp_path):
    """A full queue of messages is no reason to wait."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as deaf:
        deaf.bind(str(tmp_path / "deaf"))
        notifier = Notifier.of({"NOTIFY_SOCKET": str(tmp_path / "deaf")})
        for _ in range(2000):
            notifier.ready("working")
