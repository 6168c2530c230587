"""Processes that can be stopped between any two of their steps, all in one event loop.

A step is what a task does between two awaits that really wait. A puppet's tasks, and those that they make,
count their steps together; at a step that was named they all stand still, as after SIGSTOP, while the
operating system (the loop) goes on receiving for them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Coroutine, Generator, Iterator
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from typing import Any

_puppet: ContextVar[Puppet | None] = ContextVar("puppet", default=None)


class Puppet:
    """One process. ``steps`` counts since its work was started."""

    def __init__(self) -> None:
        self.steps = 0
        self.task: asyncio.Task[Any] | None = None
        self._stop_at: int | None = None
        self._stopped = asyncio.Event()
        self._go = asyncio.Event()
        self._go.set()
        self._works: set[Coroutine[Any, Any, Any]] = set()

    @property
    def is_frozen(self) -> bool:
        """Whether it stands still in the middle of its work."""
        return not self._go.is_set()

    def start(self, work: Coroutine[Any, Any, Any], stop_at: int | None) -> None:
        """Begin some work, to be frozen at a step."""
        self.steps, self._stop_at = 0, stop_at
        self._stopped.clear()
        context = copy_context()
        context.run(_puppet.set, self)
        self.task = asyncio.get_running_loop().create_task(work, context=context)

    async def rest(self, within: float) -> bool:
        """Wait until the work is done (True) or frozen (False)."""
        assert self.task is not None
        stopped = asyncio.ensure_future(self._stopped.wait())
        done, _ = await asyncio.wait({self.task, stopped}, timeout=within, return_when="FIRST_COMPLETED")
        stopped.cancel()
        assert done, "a process hangs at " + "; ".join(_place(work) for work in self._works)
        if not self.task.done():
            return False
        self.thaw()  # it may end in the very step at which another of its tasks was to be frozen
        return True

    def thaw(self) -> None:
        """Go on."""
        self._stop_at = None
        self._stopped.clear()
        self._go.set()

    def passes(self) -> bool:
        """Count a step; whether it may be made."""
        self.steps += 1
        if self.steps == self._stop_at:
            self._go.clear()
            self._stopped.set()
        return self._go.is_set()

    @contextmanager
    def working(self, work: Coroutine[Any, Any, Any]) -> Iterator[None]:
        """Know what is under way, to tell where it hangs."""
        self._works.add(work)
        try:
            yield
        finally:
            self._works.discard(work)

    async def turn(self) -> None:
        """Wait until it may go on."""
        await self._go.wait()


def install(loop: asyncio.AbstractEventLoop) -> None:
    """Let all tasks of puppets in a loop be stepped."""

    def make(
        loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, Any], **options: Any
    ) -> asyncio.Task[Any]:
        context = options.get("context")
        puppet = _puppet.get() if context is None else context.get(_puppet)
        if puppet is None:
            return asyncio.Task(work, loop=loop, **options)
        task = asyncio.Task(_stepped(puppet, work), loop=loop, **options)
        task.add_done_callback(lambda _: work.close())  # one that is cancelled at once does not begin it
        return task

    loop.set_task_factory(make)  # type: ignore[arg-type] - typeshed's task factory takes no options


async def _stepped(puppet: Puppet, work: Coroutine[Any, Any, Any]) -> Any:
    with puppet.working(work):
        return await _Steps(puppet, work)


class _Steps(Awaitable[Any]):
    """A coroutine whose every step asks its puppet first."""

    def __init__(self, puppet: Puppet, work: Coroutine[Any, Any, Any]) -> None:
        self._puppet = puppet
        self._work = work

    def __await__(self) -> Generator[Any, Any, Any]:
        error: BaseException | None = None
        while True:
            allowed = self._puppet.passes()
            while not allowed:
                try:
                    yield from self._puppet.turn().__await__()
                    allowed = True
                except asyncio.CancelledError as cancelled:  # it is told when it goes on
                    error = cancelled
            try:
                waits_for = self._work.send(None) if error is None else self._work.throw(error)
            except StopIteration as end:
                return end.value
            error = None
            try:
                yield waits_for
            except BaseException as thrown:  # noqa: BLE001 - handed on to whom it concerns
                error = thrown


def _place(work: Any) -> str:
    """Where a coroutine waits, from its outermost call inwards."""
    found = []
    while work is not None:
        frame = next(
            (f for name in ("cr_frame", "gi_frame", "ag_frame") if (f := getattr(work, name, None))), None
        )
        found.append(f"{frame.f_code.co_name}:{frame.f_lineno}" if frame else repr(work)[:80])
        names = ("cr_await", "gi_yieldfrom", "ag_await")
        work = next((inner for name in names if (inner := getattr(work, name, None)) is not None), None)
    return " > ".join(found)
