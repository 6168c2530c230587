"""A network in front of PostgreSQL that does what networks do: it delays, cuts, swallows and resets.

::

    async with PostgresProxy(dsn) as proxy:
        async with open_pool(proxy.dsn) as pool:
            proxy.plan(Trouble.CUT, Moment(to_client=True, kind=b"C", containing=b"COMMIT"))

It knows where PostgreSQL's messages begin and end (PostgreSQL documentation, "Message Formats": a type byte,
then the length), so that a fault hits exactly the message that a test means.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from types import TracebackType
from typing import Self
from urllib.parse import parse_qs, quote, unquote, urlencode, urlsplit

LARGEST = 2**30


class Trouble(StrEnum):
    """What happens to a connection when a message passes.

    ``CUT``: half of the message arrives, then both ends are closed. ``RESET``: the message does not arrive,
    and the client's connection is reset. ``BLACKHOLE``: neither this message nor any later one of the
    connection arrives, in either direction, and nobody is told.
    """

    CUT = "cut"
    RESET = "reset"
    BLACKHOLE = "blackhole"


@dataclass(frozen=True, slots=True)
class Moment:
    """A message to wait for.

    Attributes:
        to_client: Whether PostgreSQL says it; None: whoever does.
        kind: Its type, such as ``b"C"`` (command complete) or ``b"d"`` (COPY data); empty: any.
        containing: A part of it.
        skip: So many such messages pass first.
    """

    to_client: bool | None = None
    kind: bytes = b""
    containing: bytes = b""
    skip: int = 0

    def fits(self, message: bytes, *, to_client: bool) -> bool:
        """Whether this is such a message."""
        return (
            self.to_client in (None, to_client)
            and message.startswith(self.kind)
            and self.containing in message
        )


COMMIT_ASKED = Moment(to_client=False, kind=b"Q", containing=b"COMMIT")
COMMIT_ANSWERED = Moment(to_client=True, kind=b"C", containing=b"COMMIT")
COPY_DATA = Moment(to_client=False, kind=b"d")
ANY = Moment()


@dataclass(slots=True)
class _Planned:
    trouble: Trouble
    moment: Moment
    left: int


@dataclass(slots=True, eq=False)
class _Link:
    """A client's connection and ours to PostgreSQL."""

    client: asyncio.StreamWriter
    server: asyncio.StreamWriter
    is_swallowed: bool = False
    open: bool = field(default=True)

    def end(self, *, reset: bool = False) -> None:
        """Close both, the client's with a reset if so wanted."""
        self.open = False
        if reset:
            _reset(self.client)
        self.client.close()
        self.server.close()


class PostgresProxy:
    """A TCP proxy on loopback in front of a PostgreSQL server, to be used as an async context manager.

    Attributes:
        delay_s: Seconds that each message is held back, in both directions.
        happened: How many planned troubles have happened.
        connections: How many connections were made through it.
    """

    def __init__(self, dsn: str) -> None:
        """Nothing listens before ``async with``; ``dsn`` names a server on a socket or a TCP port."""
        self._upstream = dsn
        self._links: set[_Link] = set()
        self._planned: list[_Planned] = []
        self._swallows = False
        self._server: asyncio.Server | None = None
        self._handlers: set[asyncio.Task[None]] = set()
        self.delay_s = 0.0
        self.happened = 0
        self.connections = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        self.end_all()
        if self._handlers:
            await asyncio.wait(self._handlers)

    @property
    def port(self) -> int:
        """Where it listens, on 127.0.0.1."""
        assert self._server is not None
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    @property
    def dsn(self) -> str:
        """The way to the same database through the proxy."""
        parts = urlsplit(self._upstream)
        query = {name: value[-1] for name, value in parse_qs(parts.query).items()}
        for name in ("host", "port", "sslmode"):
            query.pop(name, None)
        user = parts.netloc.rpartition("@")[0]
        there = f"{user}@127.0.0.1:{self.port}" if user else f"127.0.0.1:{self.port}"
        return (
            f"postgresql://{there}{parts.path}?{urlencode({**query, 'sslmode': 'disable'}, quote_via=quote)}"
        )

    # --- on command -------------------------------------------------------------------------------

    def plan(self, trouble: Trouble, moment: Moment = ANY) -> None:
        """Let something happen once, when the message passes."""
        self._planned.append(_Planned(trouble, moment, moment.skip))

    def forget(self) -> None:
        """Nothing that was planned happens any more."""
        self._planned.clear()

    def end_all(self, *, reset: bool = False) -> int:
        """End every connection at once: close it, or reset it; how many there were."""
        links = [link for link in self._links if link.open]
        for link in links:
            link.end(reset=reset)
        return len(links)

    def swallow(self, on: bool = True) -> None:
        """Let nothing through any more, on all connections and new ones; or end what was swallowed."""
        self._swallows = on
        for link in tuple(self._links):
            if on:
                link.is_swallowed = True
            elif link.is_swallowed:
                link.end(reset=True)

    # --- passing messages on ----------------------------------------------------------------------

    async def _accept(self, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._handlers.add(task)
        try:
            await self._serve(reader, client)
        finally:
            self._handlers.discard(task)

    async def _serve(self, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        try:
            upstream, server = await self._connect()
        except OSError:
            _reset(client)
            return
        link = _Link(client, server, is_swallowed=self._swallows)
        self._links.add(link)
        self.connections += 1
        try:
            await asyncio.wait(
                [
                    asyncio.create_task(self._pump(link, reader, server, to_client=False)),
                    asyncio.create_task(self._pump(link, upstream, client, to_client=True)),
                ]
            )
        finally:
            link.end()
            self._links.discard(link)

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        parts = urlsplit(self._upstream)
        query = parse_qs(parts.query)
        host = query.get("host", [unquote(parts.hostname or "127.0.0.1")])[-1]
        port = int(query.get("port", [parts.port or 5432])[-1])
        if host.startswith("/"):
            return await asyncio.open_unix_connection(f"{host}/.s.PGSQL.{port}", limit=LARGEST)
        return await asyncio.open_connection(host, port, limit=LARGEST)

    async def _pump(
        self, link: _Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, to_client: bool
    ) -> None:
        is_first = not to_client  # a client begins with a message that has no type
        with suppress(OSError, asyncio.IncompleteReadError):
            while link.open:
                message = await _read(reader, typed=not is_first)
                is_first = False
                if self.delay_s:
                    await asyncio.sleep(self.delay_s)
                if not link.is_swallowed:
                    await self._pass(link, message, writer, to_client=to_client)
        if not link.is_swallowed:
            link.end()

    async def _pass(
        self, link: _Link, message: bytes, writer: asyncio.StreamWriter, *, to_client: bool
    ) -> None:
        match self._trouble(message, to_client=to_client):
            case None:
                writer.write(message)
                await writer.drain()
            case Trouble.CUT:
                writer.write(message[: max(1, len(message) // 2)])
                await writer.drain()
                link.end()
            case Trouble.RESET:
                link.end(reset=True)
            case Trouble.BLACKHOLE:
                link.is_swallowed = True

    def _trouble(self, message: bytes, *, to_client: bool) -> Trouble | None:
        for planned in self._planned:
            if not planned.moment.fits(message, to_client=to_client):
                continue
            if planned.left:
                planned.left -= 1
                continue
            self._planned.remove(planned)
            self.happened += 1
            return planned.trouble
        return None


async def _read(reader: asyncio.StreamReader, *, typed: bool) -> bytes:
    """A whole message, with its type if it has one."""
    head = await reader.readexactly(5 if typed else 4)
    (length,) = struct.unpack("!I", head[-4:])
    return head + await reader.readexactly(length - 4)


def _reset(writer: asyncio.StreamWriter) -> None:
    connection = writer.get_extra_info("socket")
    with suppress(OSError):
        # A socket that lingers for no time says RST instead of FIN.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
