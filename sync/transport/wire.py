"""The one place that holds an aiohttp session: a request goes out once, a bare answer comes in."""

from __future__ import annotations

import ssl
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import lru_cache
from pathlib import Path

import aiohttp
from yarl import URL

from sync.errors import ConfigurationError, SyncError
from sync.model import Traffic
from sync.transport.address import place
from sync.transport.failures import translated
from sync.transport.limits import Limits
from sync.transport.meter import Meter
from sync.transport.policy import AddressPolicy, SocketRefused
from sync.transport.request import Request

# BACE's framework repeats a request's whole address up to five times in one header of its answer (Link).
LONGEST_HEADER = 64 * 1024


class Wire:
    """Owns the connections, opened by the first request. No cookies, proxies, ``.netrc`` or redirects."""

    def __init__(
        self, *, limits: Limits, policy: AddressPolicy | None, ca_file: Path | None, meter: Meter
    ) -> None:
        self._limits = limits
        self._policy = policy
        self._meter = meter
        self._tls = _tls_context(ca_file)
        self._session: aiohttp.ClientSession | None = None
        self._requests = 0
        self._received_bytes = 0

    @property
    def traffic(self) -> Traffic:
        """Requests sent and bytes of bodies received so far."""
        return Traffic(self._requests, self._received_bytes)

    def count_bytes(self, received: int) -> None:
        """Remember that so many bytes of a body have come."""
        self._received_bytes += received
        self._meter.received(received)

    async def aclose(self) -> None:
        """End all connections; a request after this opens new ones."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    @asynccontextmanager
    async def exchange(
        self, request: Request, url: URL, headers: Mapping[str, str]
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send a request once, and yield the answer while its body can be read."""
        raw = await self._send(request, url, headers)
        try:
            yield raw
        finally:
            # A connection whose answer was read to the end is used again; any other is closed by this.
            raw.release()

    async def _send(self, request: Request, url: URL, headers: Mapping[str, str]) -> aiohttp.ClientResponse:
        began = time.monotonic()
        try:
            with translated(place(request.method, url)):
                answer = await self._opened().request(
                    request.method,
                    url,
                    headers=headers,
                    data=request.form,
                    json=request.json,
                    allow_redirects=False,
                )
        except SocketRefused as refused:
            raise refused.explained(url) from None
        except SyncError as error:
            self._meter.unanswered(type(error).__name__, time.monotonic() - began)
            raise
        self._meter.answered(answer.status, time.monotonic() - began)
        return answer

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=self._connector(),
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=self._timeouts(),
                trust_env=False,
                auto_decompress=False,  # see body.py
                middlewares=(self._once,),
                max_field_size=LONGEST_HEADER,
            )
        return self._session

    def _connector(self) -> aiohttp.TCPConnector:
        if self._policy is None:
            return aiohttp.TCPConnector(limit=0, ssl=self._tls)
        return aiohttp.TCPConnector(
            limit=0,
            ssl=self._tls,
            socket_factory=self._policy.open_socket,
            # The race of "happy eyeballs" would swallow the refusal; without it, it surfaces.
            happy_eyeballs_delay=None,
        )

    def _timeouts(self) -> aiohttp.ClientTimeout:
        return aiohttp.ClientTimeout(
            total=self._limits.total_timeout_s,
            connect=self._limits.connect_timeout_s,
            sock_read=self._limits.read_timeout_s,
        )

    async def _once(
        self, request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        """Count a request, and translate its failure right here.

        aiohttp repeats a request whose connection broke, behind our back and unlimited, when it sees its
        own exception. It does not recognise ours.
        """
        self._requests += 1
        with translated(place(request.method, request.url)):
            return await handler(request)


@lru_cache  # reading the authorities takes some 20 ms, and there is a client for every account
def _tls_context(ca_file: Path | None) -> ssl.SSLContext:
    context = ssl.create_default_context()
    try:
        if ca_file is not None:
            context.load_verify_locations(ca_file)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise ConfigurationError(
            f"The certificate authorities in {ca_file} cannot be read ({error}); give a PEM file."
        ) from error
    return context
