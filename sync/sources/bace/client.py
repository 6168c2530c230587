"""The BACE IoT API v2, as its documents have it: sessions, their data, counts, and the CSV of one session."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from datetime import datetime
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec
import structlog

from sync.errors import AnswerBroken, RequestRefused, SourceContractError
from sync.model import Traffic
from sync.sources.bace.oauth import PasswordGrant, TokenStore, remove_files
from sync.sources.bace.query import Query, excludes, url_text
from sync.sources.bace.settings import BaceSettings
from sync.transport import UNMETERED, HostGates, HttpClient, Limits, Meter, Request, Response

log = structlog.get_logger(__name__)

_ROOT = "/api/v2"
_EVERYTHING = Query()
_ONE = Query(per_page=1)

# Decompressed; a page of the default 500 rows has some 150 kB.
_LONGEST_PAGE = 64 << 20
_NO_LIMIT = 1 << 62

# The vendor's framework repeats the address in each link of the answer's Link header, and servers commonly
# have 8 KiB for all headers.
_LONGEST_URL = 2_000


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a collection.

    Attributes:
        items: The items as decoded JSON; an element may be anything.
        total: Items of all pages, as the vendor counts them; None when it does not.
        page: The page's number, from 1: not always the one that was asked for.
        page_count: Pages in all.
        per_page: The size in force, clamped by the vendor.
        server_time: The vendor's clock when it answered.
        has_next: Whether the vendor says that there is another page.
    """

    items: tuple[Any, ...]
    total: int | None
    page: int | None
    page_count: int | None
    per_page: int | None
    server_time: datetime | None
    has_next: bool


class BaceClient:
    """Asks with one account's permissions. Every method raises as ``HttpClient.open`` and ``Response.read``.

    Besides, an answer that is not what the documents say is a ``SourceContractError``.
    """

    def __init__(self, http: HttpClient, sign_in: HttpClient | None = None) -> None:
        """Take over the connections.

        Args:
            http: To the host's root, with the account's credentials.
            sign_in: What those credentials are fetched with, for its traffic and its end.
        """
        self._http = http
        self._connections = (http,) if sign_in is None else (http, sign_in)
        self._takes_bodies = True
        self.last_server_time: datetime | None = None
        """The vendor's clock in the last page, if any came."""

    @property
    def traffic(self) -> Traffic:
        """What the account has cost so far, its tokens included."""
        each = [connection.traffic for connection in self._connections]
        return Traffic(sum(t.requests for t in each), sum(t.received_bytes for t in each))

    async def aclose(self) -> None:
        """End all connections."""
        for connection in self._connections:
            await connection.aclose()

    async def sessions(self, query: Query) -> Page:
        """A page of the data sessions that the account may see ("Data Sessions", list)."""
        return await self._page(f"{_ROOT}/data-session", query)

    async def session(self, id_data_session: str, query: Query = _EVERYTHING) -> Mapping[str, Any] | None:
        """One data session; None where there is none of that id, or the account may not see it."""
        path = _session_path(id_data_session)
        try:
            async with self._http.open(_request(path, query)) as response:
                record = await _decoded(response, path)
        except RequestRefused as error:
            if error.status == HTTPStatus.NOT_FOUND:
                return None
            raise
        if not isinstance(record, dict):
            raise SourceContractError(f"GET {path} was answered without a session; is this the BACE API?")
        return record

    async def data(self, query: Query) -> Page:
        """A page of measurements, in the resolution that the vendor chooses ("Data Sessions", data).

        A page with more items than it says there are in all may hold some of them twice, and nobody can tell
        these from measurements that are alike: it is asked for once more. A vendor that insists is believed.
        """
        path = f"{_ROOT}/data-downsampled"
        page = await self._page(path, query)
        if page.total is None or len(page.items) <= page.total:
            return page
        log.warning("page.surplus", path=path, items=len(page.items), total=page.total)
        return await self._page(path, query)

    async def count(self, resource: str, query: Query = _EVERYTHING, *, retry: bool = True) -> int:
        """How many items a collection (``"group"``, say) has, without any of them ("HEAD request")."""
        path = f"{_ROOT}/{resource}"
        request = replace(self._question(path, query, "HEAD"), retry=retry)
        async with self._http.open(request) as response:
            total = _header_count(response, "Total-Count")
        if total is None:
            raise SourceContractError(f"HEAD {path} was answered without a count; is this the BACE API?")
        return total

    async def server_time(self, *, retry: bool = True) -> datetime | None:
        """The vendor's clock, by the cheapest request that needs a token."""
        request = replace(_request(f"{_ROOT}/data-session", _ONE, "HEAD"), retry=retry)
        async with self._http.open(request) as response:
            return response.server_time

    def download_csv(self, id_data_session: str) -> AbstractAsyncContextManager[Response]:
        """A session's whole data as the vendor's CSV, however long ("Data Sessions", download)."""
        path = _session_path(id_data_session) + "/download-csv"
        return self._http.open(Request(path, max_body_bytes=_NO_LIMIT))

    async def _page(self, path: str, query: Query) -> Page:
        request = self._question(path, query)
        page = await self._answered(path, request)
        if request.json is None or query.filter is None:
            return page
        if not any(excludes(query.filter, item) for item in page.items):
            return page
        # "URL parameters will take precedence": perhaps any of them, not only a filter.
        log.warning("filter.body_ignored", path=path)
        self._takes_bodies = False
        return await self._answered(path, self._question(path, query))

    async def _answered(self, path: str, request: Request) -> Page:
        async with self._http.open(request) as response:
            payload = await _decoded(response, path)
            page = _page_of(payload, response, path)
        self.last_server_time = page.server_time or self.last_server_time
        return page

    def _question(self, path: str, query: Query, method: str = "GET") -> Request:
        """A query in the URL, whose meaning is beyond doubt; as a body only where it is too long for one."""
        request = _request(path, query, method)
        if len(request.url) <= _LONGEST_URL or query.filter is None or not self._takes_bodies:
            return request
        return replace(request, url=_address(path, query.options()), json=query.body())


def remove_token(settings: BaceSettings, name: str) -> Sequence[Path]:
    """Remove an account's stored token, of one that is configured no longer, too; the files that went."""
    return remove_files(settings.tokens, _token_name(name))


def _token_name(account: str) -> str:
    return f"bace-{account}"


def open_client(
    settings: BaceSettings,
    name: str,
    *,
    gates: HostGates,
    limits: Limits,
    user_agent: str,
    meter: Meter = UNMETERED,
) -> BaceClient:
    """A client that signs in as a configured account by its first request."""
    account = settings.accounts[name]

    def connection(credentials: PasswordGrant | None = None) -> HttpClient:
        return HttpClient(
            base_url=settings.base_url,
            credentials=credentials,
            setting=f"bace.accounts.{name}",
            limits=limits,
            user_agent=user_agent,
            gates=gates,
            ca_file=settings.ca_file,
            secrets=(account.client_secret, account.password),
            meter=meter,
        )

    sign_in = connection()
    store = TokenStore(settings.tokens, _token_name(name), settings.base_url, account)
    grant = PasswordGrant(sign_in, account, store, renew_before=settings.renew_before.total_seconds())
    return BaceClient(connection(grant), sign_in)


# --- questions ----------------------------------------------------------------------------------


def _session_path(id_data_session: str) -> str:
    return f"{_ROOT}/data-session/{quote(id_data_session, safe='')}"


def _request(path: str, query: Query, method: str = "GET") -> Request:
    # What takes the vendor too long is asked for in smaller parts, never again as it was.
    return Request(_address(path, query.params()), method=method, retry_timeouts=method == "HEAD")


def _address(path: str, params: Mapping[str, str]) -> str:
    return f"{path}?{url_text(params)}" if params else path


# --- answers ------------------------------------------------------------------------------------


async def _decoded(response: Response, path: str) -> Any:
    body = await response.read(_LONGEST_PAGE)
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        if "html" in response.content_type or body.lstrip()[:1] == b"<":
            raise SourceContractError(
                f"GET {path} was answered with a web page instead of JSON; check bace.base_url, or wait:"
                " the vendor may be at work on its servers."
            ) from None
        raise AnswerBroken(
            f"GET {path} was answered with broken JSON ({_complaint(error)}); smaller pages may be whole."
        ) from None


def _complaint(error: Exception) -> str:
    # The message of a UnicodeDecodeError would quote the answer.
    return str(error) if isinstance(error, msgspec.DecodeError) else type(error).__name__


def _page_of(payload: Any, response: Response, path: str) -> Page:
    match payload:
        case {"items": list(items)}:
            meta, links = _object(payload.get("_meta")), _object(payload.get("_links"))
        case _:
            raise SourceContractError(f"GET {path} was answered without items; is this the BACE API?")

    def count(key: str, header: str) -> int | None:
        said = _count(meta.get(key))
        return _header_count(response, header) if said is None else said

    return Page(
        items=tuple(items),
        total=count("totalCount", "Total-Count"),
        page=count("currentPage", "Current-Page"),
        page_count=count("pageCount", "Page-Count"),
        per_page=count("perPage", "Per-Page"),
        server_time=response.server_time,
        has_next=bool(links.get("next")),
    )


def _object(value: Any) -> Mapping[str, Any]:
    """An object; PHP writes an empty one as an empty array."""
    return value if isinstance(value, dict) else {}


def _header_count(response: Response, name: str) -> int | None:
    return _count(response.headers.get(f"X-Pagination-{name}"))


def _count(value: Any) -> int | None:
    match value:
        case bool():
            return None
        case int():
            return value if value >= 0 else None
        case str() if value.strip().isdecimal() and value.isascii() and len(value) < 20:
            return int(value)
        case _:
            return None
