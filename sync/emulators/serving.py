"""What every emulated cloud does alike: listen on loopback, log requests, let faults happen."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import replace
from types import TracebackType
from typing import Self

from aiohttp import web

from sync.emulators.answers import Answer, Request, send
from sync.emulators.faults import Fault, FaultPlan

Clock = Callable[[], float]
Listener = Callable[[Request], Awaitable[None]]


class Cloud:
    """A service of one or more hosts, to be used as an async context manager.

    A cloud says what is answered (``_answer``) and what a fault answers instead (``_scripted``).

    Attributes:
        faults: What will go wrong.
        on_request: Awaited before a request (of any host) is answered, after it was logged. Here a test
            changes the cloud between a client's requests.
    """

    def __init__(
        self, hosts: Mapping[str, tuple[str, int]], *, clock: Clock, on_request: Listener | None
    ) -> None:
        """Nothing listens before ``async with``.

        Args:
            hosts: Where each host listens; port 0 means any free one.
            clock: Tells the service Unix seconds.
            on_request: See above.
        """
        self.faults = FaultPlan()
        self.on_request = on_request
        self._clock = clock
        self._listen = hosts
        self._urls: dict[str, str] = {}
        self._log: dict[int, Request] = {}
        self._seen = 0
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            for host in self._listen:
                self._urls[host] = await self._serve(stack, host)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    @property
    def requests(self) -> tuple[Request, ...]:
        """Every request so far, in the order in which they arrived."""
        return tuple(self._log.values())

    def requests_to(self, host: str) -> tuple[Request, ...]:
        """The requests that one of the hosts got."""
        return tuple(request for request in self._log.values() if request.host == host)

    def forget_requests(self) -> None:
        """Start an empty log."""
        self._log.clear()

    def fail_next(self, fault: Fault, *, times: int = 1, host: str | None = "api", path: str = "") -> None:
        """Plan a fault for the next answers of a host (None: of all) whose path contains a text."""
        self.faults.add(fault, times=times, host=host, path=path)

    async def _answer(self, host: str, request: web.BaseRequest) -> Answer:
        """The true answer."""
        raise NotImplementedError

    def _scripted(self, host: str, fault: Fault) -> Answer:
        """The answer that a fault puts in the true one's place."""
        raise NotImplementedError

    async def _noted(self, host: str, request: web.BaseRequest) -> Request:
        """The request as the log keeps it."""
        return Request(
            host=host,
            method=request.method,
            path=request.path,
            query=request.query,
            headers={name.lower(): value for name, value in request.headers.items()},
        )

    def _date(self) -> float:
        """What the service says about the time."""
        return self._clock()

    async def _serve(self, stack: AsyncExitStack, host: str) -> str:
        async def handle(request: web.BaseRequest) -> web.StreamResponse:
            return await self._handle(host, request)

        server = web.Server(handle, handler_cancellation=True, access_log=None)
        runner = web.ServerRunner(server, shutdown_timeout=0.1)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        name, port = self._listen[host]
        await web.TCPSite(runner, name, port).start()
        return f"http://{name}:{runner.addresses[0][1]}"

    async def _handle(self, host: str, request: web.BaseRequest) -> web.StreamResponse:
        seen = await self._noted(host, request)
        position, self._seen = self._seen, self._seen + 1
        self._log[position] = seen
        if self.on_request:
            await self.on_request(seen)
        fault = self.faults.take(host, request.path)
        if fault and fault.stall:
            await asyncio.sleep(fault.stall)
        scripted = fault is not None and fault.replaces_answer
        answer = self._scripted(host, fault) if fault and scripted else await self._answer(host, request)
        silent = answer.hang_up or (fault is not None and fault.reset)
        if position in self._log and not silent:
            self._log[position] = replace(seen, status=answer.status)
        return await send(request, answer, now=self._date(), fault=fault)
