"""Starts the real program, and ends it where the campaign wants it to end.

Run as a program, it imports nightshift once, and forks a process for every line of JSON that it reads: an
``Order``. Of each it says, in a line of JSON, that it has begun and how it ended. What is forked calls
``sync.cli.main`` as the console command does, with an event loop of its own kind:

* It counts the steps of nightshift's tasks. A step is what follows an ``await`` that had to wait; its place
  is the innermost line of ``sync`` that waits. At the step that the order names, something happens: the
  process is killed, the await raises, the connections to the database are dropped, or it is told to end.
* Its time passes ``HASTE`` times as fast: what it waits for by the clock of the loop (back-off, time-outs,
  heartbeats) comes that much sooner. The time of day is the campaign's, which can be put forward.

Nothing of that is in the product.
"""

from __future__ import annotations

import asyncio
import gc
import json
import mmap
import os
import resource
import selectors
import signal
import socket
import struct
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import AsyncGeneratorType, CoroutineType, FrameType
from typing import Any, Final, NoReturn

ROOT: Final = Path(__file__).parents[2]
PRODUCT: Final = f"{ROOT / 'sync'}{os.sep}"
HASTE: Final = 10.0
CRASHED: Final = 70
"""The exit code of a process that an exception ended which nobody caught."""

_REAL_TIME: Final = time.time


@dataclass(frozen=True, slots=True)
class Order:
    """A process to start.

    Attributes:
        name: What the campaign calls it.
        arguments: Of ``nightshift``.
        action: What happens at the failpoint: kill, raise, drop or end. Empty: nothing does.
        place: The line at which it happens, as ``storage/sink.py:58``; empty: anywhere.
        visit: At which of the steps there, counted from 1.
        port: The port of the database's connections, for ``drop``.
        log: Where its standard error goes.
        census: Where the places are written that it came by; empty: nowhere.
    """

    name: str
    arguments: tuple[str, ...]
    action: str = ""
    place: str = ""
    visit: int = 0
    port: int = 0
    log: str = os.devnull
    census: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)


# --- the time of day ------------------------------------------------------------------------------


class TimeOfDay:
    """Unix seconds that the campaign can put forward, also while processes run: a number in a shared file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        if not path.exists():
            path.write_bytes(struct.pack("d", 0.0))
        with path.open("r+b") as file:
            self._shared = mmap.mmap(file.fileno(), 8)

    def __call__(self) -> float:
        """Tell the time."""
        return _REAL_TIME() + self.offset

    @property
    def offset(self) -> float:
        """Seconds by which it is ahead of the real one."""
        ahead: float = struct.unpack("d", self._shared[:8])[0]
        return ahead

    def advance(self, seconds: float) -> None:
        """Put it forward."""
        self._shared[:8] = struct.pack("d", self.offset + seconds)


# --- an event loop that counts --------------------------------------------------------------------


class _HastySelector(selectors.DefaultSelector):  # type: ignore[misc, valid-type]
    """Waits for a fraction of the time."""

    def select(self, timeout: float | None = None) -> Any:
        """Wait for events."""
        return super().select(timeout if timeout is None else timeout / HASTE)


class CountingLoop(asyncio.SelectorEventLoop):
    """An event loop in a hurry, which asks before each step of a task.

    Args:
        before: Called with the task's place and with the step; says what to do instead, or None.
    """

    def __init__(self, before: Callable[[str], Callable[[Step], None] | None]) -> None:
        super().__init__(_HastySelector())
        self._before = before

    def time(self) -> float:
        """Seconds, of which there are more than elsewhere."""
        return time.monotonic() * HASTE

    def call_soon(self, callback: Any, *args: Any, context: Any = None) -> asyncio.Handle:
        """Have a callback called in the next round."""
        task = getattr(callback, "__self__", None)
        if isinstance(task, asyncio.Task):
            return super().call_soon(self._step, Step(task, callback, args), context=context)
        return super().call_soon(callback, *args, context=context)

    def _step(self, step: Step) -> None:
        place = step.place
        instead = self._before(place) if place else None
        (instead or Step.go_on)(step)


@dataclass(frozen=True, slots=True)
class Step:
    """A task is about to go on behind an ``await``."""

    task: asyncio.Task[Any]
    callback: Any
    args: tuple[Any, ...]

    @property
    def place(self) -> str:
        """The innermost line of the product that waits, as ``storage/sink.py:58``; empty where none does."""
        found = ""
        waiting: Any = self.task.get_coro()
        while waiting is not None:
            frame: FrameType | None = getattr(waiting, "cr_frame", None) or getattr(waiting, "ag_frame", None)
            if frame is not None and frame.f_code.co_filename.startswith(PRODUCT):
                found = f"{frame.f_code.co_filename.removeprefix(PRODUCT)}:{frame.f_lineno}"
            waiting = _awaited(waiting)
        return found

    def go_on(self) -> None:
        """As if nothing had been."""
        self.callback(*self.args)

    def fail(self) -> None:
        """The await raises."""
        if not self.args:  # a task's first step awaits nothing
            self.go_on()
            return
        broken: asyncio.Future[None] = self.task.get_loop().create_future()
        broken.set_exception(MemoryError("a failpoint of the campaign"))
        self.callback(broken)


def _awaited(waiting: Any) -> Any:
    """What a coroutine or an async generator waits for; None where that is no code."""
    for name in ("cr_await", "ag_await", "gi_yieldfrom"):
        if (inner := getattr(waiting, name, None)) is not None:
            return inner
    # ``async for`` and ``aclose`` wait for an object that does not say which generator it drives.
    if type(waiting).__name__ in {"async_generator_asend", "async_generator_athrow", "coroutine_wrapper"}:
        driven = (AsyncGeneratorType, CoroutineType)
        return next((one for one in gc.get_referents(waiting) if isinstance(one, driven)), None)
    return None


class Failpoint:
    """Counts steps, and acts at one of them."""

    def __init__(self, order: Order, say: Callable[[Mapping[str, Any]], None]) -> None:
        self._order, self._say = order, say
        self._left = order.visit
        self.visited: Counter[str] = Counter()

    def before(self, place: str) -> Callable[[Step], None] | None:
        """What to do instead of going on at a place."""
        self.visited[place] += 1
        if not self._order.action or self._order.place not in ("", place):
            return None
        self._left -= 1
        if self._left != 0:
            return None
        self._say({"name": self._order.name, "hit": place})
        return {"kill": _kill, "raise": Step.fail, "drop": self._drop, "end": _end}[self._order.action]

    def _drop(self, step: Step) -> None:
        """The connections to the database break, and the process finds out by itself."""
        for entry in Path("/proc/self/fd").iterdir():
            try:
                with socket.socket(fileno=os.dup(int(entry.name))) as one:
                    if one.family == socket.AF_INET and one.getpeername()[1] == self._order.port:
                        one.shutdown(socket.SHUT_RDWR)
            except OSError:  # no socket, or none that is connected
                continue
        step.go_on()


def _kill(_: Step) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _end(step: Step) -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    step.go_on()


# --- the program that forks -----------------------------------------------------------------------


def serve(clock: Path, orders: Any, answers: Any) -> None:
    """Fork a process for each order, until there are no more."""
    offset = TimeOfDay(clock)
    time.time = offset
    # So that what is forked has it, and with the campaign's time.
    import sync.app.work  # noqa: PLC0415
    import sync.cli  # noqa: PLC0415
    import sync.daemon  # noqa: F401, PLC0415

    def say(what: Mapping[str, Any]) -> None:
        answers.write(json.dumps(what) + "\n")
        answers.flush()

    running: dict[int, str] = {}

    def reap(*_: object) -> None:
        while running:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            say({"name": running.pop(pid), "ended": os.waitstatus_to_exitcode(status)})

    signal.set_wakeup_fd(-1)
    selector = selectors.DefaultSelector()
    selector.register(orders, selectors.EVENT_READ)
    while True:
        ready = selector.select(0.005 if running else None)
        reap()
        if not ready:
            continue
        line = orders.readline()
        if not line:
            break
        order = Order(**json.loads(line))
        pid = os.fork()
        if not pid:
            selector.close()
            orders.close()
            _become(order, say)
        running[pid] = order.name
        say({"name": order.name, "begun": pid})
    for pid in running:
        os.kill(pid, signal.SIGKILL)


def _become(order: Order, say: Callable[[Mapping[str, Any]], None]) -> NoReturn:
    """Be ``nightshift``, with the loop that counts."""
    import sync.cli  # noqa: PLC0415 - see ``serve``

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    failpoint = Failpoint(order, say)
    log = os.open(order.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    nothing = os.open(os.devnull, os.O_RDWR)
    for file, number in ((nothing, 0), (nothing, 1), (log, 2)):
        os.dup2(file, number)
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.argv = ["nightshift", *order.arguments]
    os.environ.update(order.environment)
    asyncio.events.new_event_loop = lambda: CountingLoop(failpoint.before)
    code = CRASHED
    try:
        sync.cli.main()
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:  # noqa: BLE001 - as the interpreter does
        sys.excepthook(*sys.exc_info())
    finally:
        if order.census:
            Path(order.census).write_text(json.dumps(failpoint.visited), encoding="utf-8")
        sys.stderr.flush()
        os._exit(code)


def line_of(order: Order) -> bytes:
    """An order as it is given."""
    return json.dumps(asdict(order)).encode() + b"\n"


if __name__ == "__main__":
    # Unbuffered: what is in a buffer would not wake the selector.
    serve(Path(sys.argv[1]), os.fdopen(0, "rb", buffering=0, closefd=False), os.fdopen(os.dup(1), "w"))
