"""The Beddit cloud API v1, as its documents have it: one request, two kinds of question."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta

from sync.errors import AnswerTooLarge, SourceContractError, SourceUnavailable
from sync.model import Interval
from sync.sources.beddit.split import ArraySplitter
from sync.transport import HttpClient, Request, Response

_NOTHING_IS_SO_OLD = {"start_timestamp": "0", "end_timestamp": "1"}
_NO_LIMIT = 1 << 62  # bytes


@dataclass(frozen=True, slots=True)
class Answer:
    """The sessions of one answer, while they arrive.

    Attributes:
        server_time: The vendor's clock when it answered; None where it sent no Date.
    """

    server_time: datetime | None
    _whose: str
    _response: Response

    async def elements(self) -> AsyncIterator[bytes]:
        """Each session's JSON, as soon as it is complete.

        Raises:
            AnswerTooLarge: The answer was cut; the sessions before the cut are good.
            SourceContractError: It is not a JSON array.
        """
        splitter = ArraySplitter()
        try:
            async for chunk in self._response.chunks():
                for element in splitter.feed(chunk):
                    yield element
            splitter.close()
        except (AnswerTooLarge, SourceContractError) as error:
            raise type(error)(f"the list of {self._whose}'s sessions: {error}") from error


class BedditClient:
    """Asks for one user's sessions.

    "When querying you must either use the updated_after or both start_timestamp and end_timestamp"
    (beddit-session-resource). ``limit`` is not documented there, but has been seen to work.
    """

    def __init__(self, http: HttpClient, user_id: int) -> None:
        self._http = http
        self._whose = f"user {user_id}"
        self._path = f"/api/v1/user/{user_id}/session"

    @property
    def http(self) -> HttpClient:
        """The connection, for its traffic and its end."""
        return self._http

    def updated_after(self, stamp: float, limit: int | None = None) -> AbstractAsyncContextManager[Answer]:
        """Sessions that were put after a server time, in Unix seconds."""
        params = {"updated_after": f"{stamp:.6f}"}
        return self._ask(params if limit is None else params | {"limit": str(limit)})

    def started_in(self, window: Interval, overlap: timedelta) -> AbstractAsyncContextManager[Answer]:
        """Sessions that started in ``window``, and some around it.

        Whether the server's range is about starts, ends or overlap is unknown, and so is whether its bounds
        belong to it: the question is widened by the longest session at its end and a second at its start.
        """
        # As numbers: at the end of time there is no instant a second further.
        start, end = window.start.timestamp() - 1, window.end.timestamp() + overlap.total_seconds()
        return self._ask({"start_timestamp": f"{start:.6f}", "end_timestamp": f"{end:.6f}"})

    async def server_time(self, *, retry: bool = True) -> datetime | None:
        """The vendor's clock, by the cheapest documented question: a second of 1970."""
        async with self._answered(Request(self._path, params=_NOTHING_IS_SO_OLD, retry=retry)) as answer:
            async for _ in answer.elements():
                pass
            return answer.server_time

    @asynccontextmanager
    async def _ask(self, params: Mapping[str, str]) -> AsyncIterator[Answer]:
        # A question that takes the server too long is asked again in smaller parts, never as it was. How
        # long an answer may be is no question of memory here: it is taken session by session.
        request = Request(self._path, params=params, retry_timeouts=False, max_body_bytes=_NO_LIMIT)
        async with AsyncExitStack() as stack:
            try:
                answer = await stack.enter_async_context(self._answered(request))
            except AnswerTooLarge:
                raise
            except SourceUnavailable as error:
                await (
                    self.server_time()
                )  # it answers a small question: this one's size or content is too much
                raise AnswerTooLarge(str(error)) from error
            yield answer

    @asynccontextmanager
    async def _answered(self, request: Request) -> AsyncIterator[Answer]:
        async with self._http.open(request) as response:
            yield Answer(response.server_time, self._whose, response)
