"""Answers as values, how they are sent, and how a fault spoils them on the way."""

from __future__ import annotations

import asyncio
import json
import random
import socket
import struct
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field, replace
from email.utils import formatdate
from typing import Any, Final

from aiohttp import web
from multidict import MultiMapping

from sync.emulators.faults import Disorder, Fault

PIECE: Final = 64 * 1024
"""How many bytes are written at once."""

_NO_FAULT: Final = Fault()


@dataclass(frozen=True, slots=True)
class Request:
    """A request that the emulator saw.

    Attributes:
        host: Which of the service's hosts was asked.
        method: The method.
        path: The path, without its query.
        query: The query's parameters, decoded; ``getall`` gives every value of a repeated one.
        headers: The headers, names in lower case.
        body: The body, if it is kept.
        status: What was answered; None if nothing was answered, or not yet.
    """

    host: str
    method: str
    path: str
    query: MultiMapping[str]
    headers: Mapping[str, str]
    body: bytes = b""
    status: int | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer that was not sent yet.

    Attributes:
        status: The HTTP status.
        pieces: The body.
        content_type: What the body is.
        length: The body's length if it is announced; otherwise the body is sent in chunks.
        headers: Further headers.
        compress: Whether the body may be compressed on the way.
        hang_up: Close the connection instead.
    """

    status: int
    pieces: AsyncIterator[bytes]
    content_type: str = "application/json"
    length: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    compress: bool = False
    hang_up: bool = False


def whole(
    body: bytes,
    *,
    status: int = 200,
    content_type: str = "application/json",
    headers: Mapping[str, str] | None = None,
) -> Answer:
    """An answer whose body is at hand."""
    return Answer(status, in_pieces(body), content_type, len(body), headers or {})


def hang_up() -> Answer:
    """A connection that is closed without an answer."""
    return replace(whole(b""), hang_up=True)


async def in_pieces(body: bytes) -> AsyncIterator[bytes]:
    """A body in pieces that are small enough to be sent one by one."""
    for begin in range(0, len(body), PIECE):
        yield body[begin : begin + PIECE]


async def send(
    request: web.BaseRequest, answer: Answer, *, now: float, fault: Fault | None
) -> web.StreamResponse:
    """Send an answer, spoilt by a fault if there is one.

    Returns:
        The response, which aiohttp wants back even when the connection is gone.
    """
    fault = fault or _NO_FAULT
    response = web.StreamResponse(status=answer.status, headers=answer.headers)
    if answer.hang_up or fault.reset:
        _close(request, reset=fault.reset)
        return response
    if fault.disorder is not None:
        answer = await _disordered(answer, fault.disorder)
    response.content_type = fault.content_type or answer.content_type
    response.headers["Date"] = formatdate(now + fault.clock_skew, usegmt=True)
    has_body = request.method != "HEAD"  # an empty gzip stream is not empty
    if answer.compress and has_body and "gzip" in request.headers.get("Accept-Encoding", ""):
        response.enable_compression(web.ContentCoding.gzip)
    elif answer.length is not None:
        response.content_length = answer.length
    try:
        await response.prepare(request)
        if has_body:
            await _write(request, response, answer.pieces, fault)
    except ConnectionError:
        pass  # the client left, which is its right
    return response


async def _write(
    request: web.BaseRequest, response: web.StreamResponse, pieces: AsyncIterator[bytes], fault: Fault
) -> None:
    left = fault.cut_after
    async for piece in _dripped(pieces, fault):
        if left is not None and len(piece) > left:
            await response.write(piece[:left])
            _close(request)
            return
        await response.write(piece)
        left = None if left is None else left - len(piece)
        if fault.drip is not None:
            await asyncio.sleep(fault.drip)
    await response.write_eof()


async def _dripped(pieces: AsyncIterator[bytes], fault: Fault) -> AsyncIterator[bytes]:
    async for piece in pieces:
        size = len(piece) if fault.drip is None else max(1, fault.drip_bytes)
        for begin in range(0, len(piece), size):
            yield piece[begin : begin + size]


async def _disordered(answer: Answer, disorder: Disorder) -> Answer:
    """The same answer with its items disordered; one without items, or that is no JSON, stays as it is."""
    body = b"".join([piece async for piece in answer.pieces])
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        value = None
    items: Any = value.get("items") if isinstance(value, dict) else value
    if isinstance(items, list):
        if disorder is Disorder.DOUBLED:
            items[:] = [item for item in items for _ in range(2)]
        else:
            random.Random(len(items)).shuffle(items)  # noqa: S311 - disorder, not secrecy
        body = json.dumps(value).encode()
    return replace(answer, pieces=in_pieces(body), length=len(body))


def _close(request: web.BaseRequest, *, reset: bool = False) -> None:
    """Close the connection: after what was written, or at once and with a reset."""
    transport = request.transport
    if transport is None:
        return
    if not reset:
        transport.close()
        return
    connection = transport.get_extra_info("socket")
    if connection is not None:
        # A socket that lingers for no time says RST instead of FIN.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()
