"""The one way out: every request to a vendor leaves through ``HttpClient.open``."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Self

import aiohttp
import stamina
import structlog
from yarl import URL

from sync.errors import AnswerTooLarge, AuthenticationError, RequestRefused, RetryableError, SyncError
from sync.model import Traffic
from sync.transport.address import follow, host_of, join, parse, place
from sync.transport.clock import Clock
from sync.transport.credentials import Credentials
from sync.transport.gates import HostGates, Pause
from sync.transport.limits import Limits
from sync.transport.meter import UNMETERED, Meter
from sync.transport.policy import AddressPolicy
from sync.transport.request import Request
from sync.transport.response import Response
from sync.transport.retry_after import wanted_pause
from sync.transport.status import (
    ACCOUNT,
    ANONYMOUS_STATUSES,
    FOREIGN_STATUSES,
    STATUSES,
    TokenRejected,
    refusal,
    vendor_words,
    verdict,
)
from sync.transport.wire import Wire

log = structlog.get_logger(__name__)

REDIRECTS = frozenset({301, 302, 303, 307, 308})
MAX_REDIRECTS = 5

# More of an error's body is not read.
ERROR_BODY = 16 * 1024

# Fields of a form whose values a vendor might repeat in its error message.
SECRET_FIELDS = frozenset({"client_secret", "password", "refresh_token"})


class HttpClient:
    """Sends the requests of one account to one host, or, without a base address, to hosts a vendor named.

    With a base address, requests stay on its origin and carry the credentials, and redirects are errors.
    Without one, nothing is carried, every address is judged by the policy, and redirects are followed.
    Each client owns its connections; ``aclose``, or leaving its ``async with``, ends them.
    """

    def __init__(
        self,
        *,
        base_url: str | None,
        credentials: Credentials | None = None,
        setting: str = ACCOUNT,
        limits: Limits | None = None,
        user_agent: str = "nightshift",
        policy: AddressPolicy | None = None,
        gates: HostGates | None = None,
        ca_file: Path | None = None,
        secrets: Iterable[str] = (),
        clock: Clock | None = None,
        meter: Meter = UNMETERED,
    ) -> None:
        """Prepare a client; nothing is opened before its first request.

        Args:
            base_url: Where the requests go; a path in it comes before theirs.
            credentials: What the requests carry.
            setting: Where the configuration has them, for messages: ``beddit.accounts.alice.token``.
            limits: How gently the host is treated.
            user_agent: How we introduce ourselves.
            policy: Judges the addresses; needed without a base address.
            gates: The process's registry of hosts; None is a registry for this client alone.
            ca_file: Certificate authorities to trust beside the system's, as PEM.
            secrets: Values that never appear in a message, should the vendor repeat them.
            clock: Time.
            meter: Who is told of requests.

        Raises:
            AddressRefused: ``base_url`` is no http or https address.
            ConfigurationError: ``ca_file`` cannot be read.
        """
        if base_url is None and (policy is None or credentials is not None):
            raise ValueError("a client without a base address needs a policy, and carries no credentials")
        self._base = None if base_url is None else parse(base_url)
        self._credentials = credentials
        self._setting = setting
        self._statuses = STATUSES if credentials else ANONYMOUS_STATUSES if base_url else FOREIGN_STATUSES
        self._limits = limits or Limits()
        self._user_agent = user_agent
        self._policy = policy
        self._secrets = tuple(secrets)
        self._clock = clock or Clock()
        self._gates = gates or HostGates(self._clock)
        self._pause = Pause(self._clock)
        self._meter = meter
        self._wire = Wire(limits=self._limits, policy=policy, ca_file=ca_file, meter=meter)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """End all connections."""
        await self._wire.aclose()

    @property
    def traffic(self) -> Traffic:
        """Requests sent, every attempt and redirect counted, and bytes of bodies received."""
        return self._wire.traffic

    @asynccontextmanager
    async def open(self, request: Request) -> AsyncIterator[Response]:
        """Send a request, again if need be, and yield its answer while the body can be read.

        The slot at the host is held until the context ends: do not open a second request to the same host
        inside it.

        Raises:
            AddressRefused: The address is not one that this client may talk to; nothing was sent.
            AuthenticationError: The vendor refused the credentials, and fresh ones too where there are any.
            RequestRefused: The vendor refused this very request.
            RateLimited: It wants fewer requests, and the attempts are used up.
            AnswerTooLarge: It took too long.
            SourceUnavailable: It cannot be reached or is in trouble, and the attempts are used up.
            SourceContractError: It answered with a status that nobody documented.
        """
        url = self._address(request)
        async with AsyncExitStack() as stack:
            yield await self._until_answered(request, url, stack)

    def _address(self, request: Request) -> URL:
        url = join(self._base, request.url) if self._base is not None else parse(request.url)
        self._check(url)
        return url.extend_query(request.params) if request.params else url

    def _check(self, url: URL) -> None:
        if self._policy is not None:
            self._policy.check(url)

    # --- several attempts ---------------------------------------------------------------------------

    async def _until_answered(self, request: Request, url: URL, stack: AsyncExitStack) -> Response:
        """Keep the answer's context open on the stack, beyond the attempts that led to it."""

        def worth_another(error: Exception) -> bool:
            asks_for_less = isinstance(error, AnswerTooLarge) and not request.retry_timeouts
            return request.retry and isinstance(error, RetryableError) and not asks_for_less

        async for attempt in stamina.retry_context(
            on=worth_another,
            attempts=self._limits.attempts,
            timeout=None,
            wait_initial=self._limits.backoff_initial_s,
            wait_jitter=self._limits.backoff_initial_s,
            wait_max=self._limits.backoff_max_s,
        ):
            with attempt:
                try:
                    return await self._admitted(request, url, stack)
                except RetryableError as error:
                    # Stamina waits for the back-off only. The vendor's own wish is kept where the client's
                    # other requests see it too: each waits at the gate for what is left of it.
                    self._pause.extend(error.retry_after or 0.0)
                    if worth_another(error) and attempt.num < self._limits.attempts:
                        _report(url, error, attempt)
                        self._meter.retried(type(error).__name__)
                    raise
        raise AssertionError("an attempt neither answered nor raised")

    # --- one attempt --------------------------------------------------------------------------------

    async def _admitted(self, request: Request, url: URL, stack: AsyncExitStack) -> Response:
        """Send a request with the credentials there are, and once more if those can be renewed."""
        # The credentials come first: fetching them may need a slot of the same host.
        authorization = await self._authorization()
        try:
            return await stack.enter_async_context(self._attempt(request, url, authorization))
        except TokenRejected:
            if self._credentials is None or not await self._credentials.renewed(authorization):
                raise
        authorization = await self._authorization()
        return await stack.enter_async_context(self._attempt(request, url, authorization))

    @asynccontextmanager
    async def _attempt(self, request: Request, url: URL, authorization: str) -> AsyncIterator[Response]:
        """Yield the successful answer at the end of the redirects."""
        headers = self._headers(request, authorization)
        for _ in range(MAX_REDIRECTS + 1):
            async with self._exchange(request, url, headers) as raw:
                onward = self._onward(url, raw)
                if onward is None:
                    await self._judge(request, url, raw)
                    yield self._response(request, url, raw)
                    return
            url = onward
        raise RequestRefused(
            f"{place(request.method, url)}: more than {MAX_REDIRECTS} redirects led here, and no answer.",
            status=raw.status,
        )

    @asynccontextmanager
    async def _exchange(
        self, request: Request, url: URL, headers: Mapping[str, str]
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        gate = self._gates.gate(url.raw_host or "", url.port or 0, self._limits)
        async with gate.turn(self._pause), self._wire.exchange(request, url, headers) as raw:
            yield raw

    async def _authorization(self) -> str:
        """What the request carries; empty without credentials."""
        return "" if self._credentials is None else _sendable(await self._credentials.authorization())

    def _headers(self, request: Request, authorization: str) -> Mapping[str, str]:
        return {
            "User-Agent": self._user_agent,
            # A blob's length is compared with what was announced, so it comes as it is.
            "Accept-Encoding": "identity" if self._base is None else "gzip",
            **request.headers,
            **({"Authorization": authorization} if authorization else {}),
        }

    def _onward(self, url: URL, raw: aiohttp.ClientResponse) -> URL | None:
        """Where a redirect leads, if this client follows it."""
        location = raw.headers.get("Location")
        if self._base is not None or raw.status not in REDIRECTS or not location:
            return None
        target = follow(url, location)
        self._check(target)
        return target

    async def _judge(self, request: Request, url: URL, raw: aiohttp.ClientResponse) -> None:
        """Raise what an unsuccessful status stands for."""
        found = verdict(raw.status, self._statuses)
        if found is None:
            return
        pause = wanted_pause(raw.headers, now=self._clock.now(), cap=self._limits.retry_after_cap_s)
        words = await self._words(request, url, raw)
        raise refusal(found, place(request.method, url), raw.status, words, pause, setting=self._setting)

    async def _words(self, request: Request, url: URL, raw: aiohttp.ClientResponse) -> str:
        """What the vendor says about an error; hosts that are not the account's are not quoted."""
        if self._base is None:
            return ""
        try:
            body = await self._response(request, url, raw).read(ERROR_BODY)
        except SyncError:
            return ""
        return vendor_words(body, {*self._secrets, *_sent_secrets(request, raw)})

    def _response(self, request: Request, url: URL, raw: aiohttp.ClientResponse) -> Response:
        limit = self._limits.max_body_bytes if request.max_body_bytes is None else request.max_body_bytes
        return Response(raw, where=place(request.method, url), limit=limit, count=self._wire.count_bytes)


def _report(url: URL, error: RetryableError, attempt: stamina.Attempt) -> None:
    log.debug(  # how often that happens is a metric; a run that fails in the end says so
        "request.retried",
        host=host_of(url),
        path=url.raw_path,
        error=type(error).__name__,
        reason=str(error),
        attempt=attempt.num,
        wait=max(attempt.next_wait, error.retry_after or 0.0),
    )


def _sendable(authorization: str) -> str:
    # aiohttp would complain too, but with a UnicodeEncodeError that quotes the token.
    if not (authorization.isascii() and authorization.isprintable()):
        raise AuthenticationError(
            "The account's token has characters that no header can carry; check the setting or its file."
        )
    return authorization


def _sent_secrets(request: Request, raw: aiohttp.ClientResponse) -> Iterator[str]:
    """Everything secret in what this answer answers."""
    authorization = raw.request_info.headers.get("Authorization", "")
    yield authorization
    yield authorization.rpartition(" ")[2]
    yield from (value for name, value in (request.form or {}).items() if name in SECRET_FIELDS)
