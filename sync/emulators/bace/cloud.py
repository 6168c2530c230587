"""The BACE cloud on loopback: API and token endpoint on one port.

Written from the vendor's documents (BACE docs: Data Sessions, Advanced Features, Authentication, Accessing
Data, HTTP status codes) and the manners of the framework behind it. What they leave open is a switch in
``Behaviour``.
"""

from __future__ import annotations

import csv
import io
import json
import random
import re
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, TypeVar
from urllib.parse import parse_qsl, urlencode

from aiohttp import web

from sync.emulators.answers import Answer, Request, whole
from sync.emulators.bace.accounts import Account, Authority
from sync.emulators.bace.behaviour import Behaviour, Sorting
from sync.emulators.bace.data import KINDS, SORTABLE, Downsampled, TooManyDatasetsError
from sync.emulators.bace.fleet import Fleet
from sync.emulators.bace.holdings import Holdings
from sync.emulators.bace.query import (
    ANYTHING,
    Condition,
    FilterError,
    Kind,
    Tree,
    holds,
    parse_filter,
    php_query,
)
from sync.emulators.bace.resources import (
    DEVICE_EXPAND,
    DEVICE_KINDS,
    GROUP_EXPAND,
    GROUP_KINDS,
    SESSION_EXPAND,
    SESSION_KINDS,
    SESSION_LABELS,
    Resources,
)
from sync.emulators.bace.samples import Samples
from sync.emulators.bace.sessions import DataSession
from sync.emulators.bace.yii import (
    Page,
    Record,
    RefusedError,
    collection,
    http_error,
    invalid,
    json_answer,
    names_in,
    ordering,
    sort_key,
)
from sync.emulators.faults import Fault
from sync.emulators.serving import Clock, Cloud, Listener

T = TypeVar("T")

_ROOT: Final = "/api/v2"
_TOKENS: Final = "/oauth2/token"
_SLASHES: Final = re.compile(r"/{2,}")
_CSV_ROWS: Final = 5000
_CREDENTIALS: Final = "Your request was made with invalid credentials."
_CHALLENGE: Final = {"WWW-Authenticate": 'Bearer realm="api"'}
_SORTABLE_SESSION: Final = frozenset(SESSION_KINDS) - {"isIngestionFinished", "isArchived"}


@dataclass(frozen=True, slots=True)
class _Call:
    """A request by somebody who may make it."""

    account: Account
    path: str
    query: Tree
    filter: Any
    base: str


class BaceCloud(Cloud):
    """An emulated BACE cloud, to be used as an async context manager.

    It can be changed while it runs, from the same event loop.

    Attributes:
        behaviour: How the service is; may be replaced at any time.
    """

    def __init__(
        self,
        sessions: Fleet | Iterable[DataSession] = (),
        *,
        behaviour: Behaviour | None = None,
        clock: Clock = time.time,
        host: str = "127.0.0.1",
        port: int = 0,
        on_request: Listener | None = None,
    ) -> None:
        """Fill the cloud; it is reachable inside ``async with``.

        Args:
            sessions: What it holds at first.
            behaviour: How the service is.
            clock: Tells the service Unix seconds.
            host: Where it listens.
            port: 0 means any free one.
            on_request: Awaited before a request is answered.
        """
        super().__init__({"api": (host, port)}, clock=clock, on_request=on_request)
        self.behaviour = behaviour or Behaviour()
        self._holdings = Holdings(sessions)
        self._data = Downsampled(self._holdings)
        self._authority = Authority(f"{host}:{port}".encode())
        self._groups: dict[str, frozenset[str] | None] = {}
        self._default = self.add_account(Account())

    @property
    def base_url(self) -> str:
        """The host's root: ``http://host:port``."""
        return self._urls["api"]

    # --- who may read -----------------------------------------------------------------------------

    def account(self) -> Account:
        """The account that sees everything."""
        return self._default

    def add_account(self, account: Account, *, groups: Iterable[str] | None = None) -> Account:
        """Let an account log in and see the sessions of some groups (None: of all)."""
        self._authority.accounts[account.username] = account
        self._groups[account.username] = None if groups is None else frozenset(groups)
        return account

    def token(self, account: Account | None = None) -> str:
        """A new access token."""
        issued = self._authority.issue(account or self._default, self.behaviour, self._clock())
        return str(issued["access_token"])

    def revoke_tokens(self, *, access: bool = True, refresh: bool = True) -> None:
        """None of the tokens of some kinds is good any more."""
        if access:
            self._authority.revoke_access()
        if refresh:
            self._authority.revoke_refresh()

    def grants(self, kind: str | None = None) -> tuple[Request, ...]:
        """The requests for tokens so far, or those with one grant type."""
        asked = [request for request in self.requests if request.path.endswith(_TOKENS)]
        forms = [dict(parse_qsl(request.body.decode())) for request in asked]
        return tuple(
            request
            for request, form in zip(asked, forms, strict=True)
            if kind in (None, form.get("grant_type"))
        )

    # --- what the cloud holds ---------------------------------------------------------------------

    def sessions(self) -> list[DataSession]:
        """Every session, those that do not exist yet too."""
        return list(self._holdings)

    def session(self, session_id: str) -> DataSession:
        """A session.

        Raises:
            KeyError: There is no such session.
        """
        found = self._holdings.get(session_id)
        if found is None:
            raise KeyError(session_id)
        return found

    def put(self, session: DataSession) -> None:
        """Add a session or replace the one with its id."""
        self._holdings.put(session)

    def remove(self, session_id: str) -> None:
        """A session disappears, without a trace (there are no tombstones).

        Raises:
            KeyError: There is no such session.
        """
        self._holdings.remove(session_id)

    def add_samples(
        self, session_id: str, samples: Samples, *, arrive_at: float | None = None, silently: bool = False
    ) -> None:
        """Further samples of a session arrive, and change its record unless that is to happen silently.

        Args:
            session_id: The session.
            samples: The samples.
            arrive_at: When they arrive; else when they say themselves, else now.
            silently: Whether ``updated_at`` stays.

        Raises:
            KeyError: There is no such session.
        """
        if arrive_at is not None or samples.arrives_ms is None:
            samples = samples.arriving(int((self._clock() if arrive_at is None else arrive_at) * 1000))
        changes = not silently and self.behaviour.late_data_bumps
        changed_at = samples.settled_ms() / 1000 if changes else None
        self._holdings.put(self.session(session_id).with_more(samples, changed_at=changed_at))

    def samples(self, session_id: str) -> Samples:
        """A session's samples that have arrived, by dataset and time: the truth, whatever the switches say.

        Raises:
            KeyError: There is no such session.
        """
        return self._holdings.table(self.session(session_id)).at(int(self._clock() * 1000))

    # --- serving ----------------------------------------------------------------------------------

    def _date(self) -> float:
        return self._clock() + self.behaviour.clock_skew

    async def _noted(self, host: str, request: web.BaseRequest) -> Request:
        seen = await super()._noted(host, request)
        if _SLASHES.sub("/", request.path) == _TOKENS:
            form = {name: value for name, value in (await _form(request)).items() if isinstance(value, str)}
            return replace(seen, body=urlencode(form).encode())
        return replace(seen, body=await request.read())

    def _scripted(self, host: str, fault: Fault) -> Answer:  # noqa: ARG002 - there is only one host
        status = fault.status or (200 if fault.location is None else 302)
        if fault.body is not None:
            answer = whole(fault.body, status=status)
        elif status < 400:
            answer = json_answer({}, status=status)
        else:
            answer = self._error(status, "This answer was scripted.")
        return replace(answer, headers={**answer.headers, **fault.headers()})

    async def _answer(self, host: str, request: web.BaseRequest) -> Answer:  # noqa: ARG002 - as above
        path = _SLASHES.sub("/", request.path)
        try:
            if path == _TOKENS:
                form = await _form(request)
                return self._authority.grant(request.method, form, self.behaviour, self._clock())
            answer = await self._api(request, path)
        except RefusedError as refused:
            return refused.answer
        return replace(answer, compress=self.behaviour.gzip)

    def _error(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> Answer:
        return http_error(status, message, with_type=self.behaviour.error_type, headers=headers)

    async def _api(self, request: web.BaseRequest, path: str) -> Answer:
        resource, *rest = path.removeprefix(_ROOT).strip("/").split("/")
        routes = {
            "data-session": self._data_session,
            "data-downsampled": self._data_downsampled,
            "group": self._group,
            "physical-device": self._physical_device,
            "user": self._user,
        }
        if not path.startswith(_ROOT + "/") or resource not in routes:
            raise RefusedError(self._error(404, "Page not found."))
        account = self._caller(request, resource)
        if request.method not in ("GET", "HEAD"):
            message = "Method Not Allowed. This URL can only handle the following request methods: GET, HEAD."
            raise RefusedError(self._error(405, message, {"Allow": "GET, HEAD"}))
        query = php_query(request.rel_url.query.items())
        base = self.behaviour.links_base or f"http://{request.host}"
        call = _Call(account, f"{_ROOT}/{resource}", query, await self._filter(request, query), base)
        return await routes[resource](call, rest)

    def _caller(self, request: web.BaseRequest, resource: str) -> Account:
        """The account whose token came along; no permission is a 401 too (BACE docs, Authentication)."""
        account = self._authority.caller(request.headers.get("Authorization", ""), self._clock())
        if account is None:
            raise RefusedError(self._error(401, _CREDENTIALS, _CHALLENGE))
        if resource in self.behaviour.forbidden | account.forbidden:
            message = self.behaviour.permission_text or _CREDENTIALS
            raise RefusedError(self._error(401, message, _CHALLENGE))
        return account

    async def _filter(self, request: web.BaseRequest, query: Tree) -> Any:
        """The filter: from the URL, else from a JSON body; never from both (BACE docs, Filter)."""
        if "filter" in query:
            return query["filter"]
        body = await request.read()
        if not body or request.content_type != "application/json":
            return {}
        try:
            value = json.loads(body)
        except ValueError:
            raise RefusedError(self._error(400, "Invalid JSON data in request body: Syntax error.")) from None
        return value.get("filter", {}) if isinstance(value, dict) else {}

    def _resources(self, call: _Call) -> Resources:
        return Resources(self._holdings, self._sight(call.account), self.behaviour, self._clock(), call.base)

    def _sight(self, account: Account) -> Callable[[DataSession], bool]:
        groups = self._groups[account.username]
        return lambda session: groups is None or session.group in groups

    # --- data sessions ----------------------------------------------------------------------------

    async def _data_session(self, call: _Call, rest: list[str]) -> Answer:
        resources = self._resources(call)
        match rest:
            case [] | ["index"]:
                return self._sessions(call, resources)
            case ["view"]:
                return self._one(call, self._found(resources, call.query.get("id")))
            case [session_id]:
                return self._one(call, self._found(resources, session_id))
            case [session_id, "download-csv"]:
                self._found(resources, session_id)
                return self._csv(self.session(session_id))
        raise RefusedError(self._error(404, "Page not found."))

    def _found(self, resources: Resources, session_id: object) -> Record:
        session = resources.session(str(session_id))
        if session is None:
            raise RefusedError(self._missing(session_id))
        return resources.session_record(session)

    def _missing(self, record_id: object) -> Answer:
        return self._error(404, f"Record with id {record_id} could not be found or is inaccessible.")

    def _one(self, call: _Call, record: Record) -> Answer:
        return json_answer(
            record.shown(names_in(call.query.get("fields")), names_in(call.query.get("expand")))
        )

    def _sessions(self, call: _Call, resources: Resources) -> Answer:
        sort = self._sort(call, _SORTABLE_SESSION, self.behaviour.session_sort)
        condition = self._condition(call, SESSION_KINDS)
        found = [
            session
            for session in resources.sessions()
            if condition is ANYTHING or holds(condition, lambda name: resources.value(session, name))  # noqa: B023 - called at once
        ]
        if self.behaviour.ties_shuffled:
            random.Random(self._seen).shuffle(found)  # noqa: S311 - disorder, not secrecy
        found = _sorted(found, sort, resources.value)
        return self._collection(
            call,
            found,
            lambda part: [resources.session_record(session) for session in part],
            {"expand": SESSION_EXPAND, "labels": SESSION_LABELS},
        )

    def _csv(self, session: DataSession) -> Answer:
        """A session's samples in the order of time. The documents do not say which columns there are."""
        samples = self.samples(session.id)
        name = re.sub(r"[^A-Za-z0-9]+", "_", session.label)
        return Answer(
            200,
            _csv_pieces(samples),
            content_type="text/csv; charset=UTF-8",
            headers={"Content-Disposition": f'attachment; filename="{name}.csv"'},
        )

    # --- data -------------------------------------------------------------------------------------

    async def _data_downsampled(self, call: _Call, rest: list[str]) -> Answer:
        if rest not in ([], ["index"]):
            raise RefusedError(self._error(404, "Page not found."))
        behaviour = self.behaviour
        try:
            rows = await self._data.rows(
                self._condition(call, KINDS),
                may_see=self._sight(call.account),
                sort=self._sort(call, SORTABLE, behaviour.data_sort),
                behaviour=behaviour,
                now=self._clock(),
            )
        except TooManyDatasetsError:
            message = f"Data of more than {behaviour.datasets_to} datasets cannot be requested at once."
            raise RefusedError(self._error(400, message)) from None
        page = Page.of(
            call.query,
            total=max(0, len(rows) + behaviour.total_error),
            default=behaviour.data_pages,
            most=behaviour.data_pages_to,
            ignored=behaviour.per_page_ignored,
        )
        items = rows.shown(page.rows, behaviour)
        if fields := names_in(call.query.get("fields")):
            items = [{name: row[name] for name in row if name in fields} for row in items]
        return collection(items, page, address=call.base + call.path, query=call.query)

    # --- neighbours -------------------------------------------------------------------------------

    async def _group(self, call: _Call, rest: list[str]) -> Answer:
        return self._records(call, rest, self._resources(call).groups(), GROUP_KINDS, GROUP_EXPAND)

    async def _physical_device(self, call: _Call, rest: list[str]) -> Answer:
        return self._records(call, rest, self._resources(call).devices(), DEVICE_KINDS, DEVICE_EXPAND)

    async def _user(self, call: _Call, rest: list[str]) -> Answer:
        if rest != ["self"]:
            raise RefusedError(self._error(404, "Page not found."))
        return json_answer({"user": {"id_user": call.account.id_user}})

    def _records(
        self,
        call: _Call,
        rest: list[str],
        records: Mapping[str, Record],
        kinds: Mapping[str, Kind],
        expand: Sequence[str],
    ) -> Answer:
        """A small collection, or one record of it."""
        if rest in ([], ["index"]):
            condition = self._condition(call, kinds)
            found = [record for record in records.values() if holds(condition, record.fields.__getitem__)]
            found = _sorted(
                found, self._sort(call, kinds, Sorting.HONOURED), lambda record, name: record.fields[name]
            )
            return self._collection(call, found, list, {"expand": expand})
        if len(rest) > 1:
            raise RefusedError(self._error(404, "Page not found."))
        record_id = call.query.get("id") if rest == ["view"] else rest[0]
        record = records.get(str(record_id))
        return self._missing(record_id) if record is None else self._one(call, record)

    # --- what all collections do ------------------------------------------------------------------

    def _condition(self, call: _Call, kinds: Mapping[str, Kind]) -> Condition:
        known = {name: kind for name, kind in kinds.items() if name not in self.behaviour.refused_attributes}
        if not call.filter:
            return ANYTHING
        try:
            return parse_filter(call.filter, known, ignore_unknown=self.behaviour.unknown_filters_ignored)
        except FilterError as error:
            raise RefusedError(invalid("filter", str(error))) from None

    def _sort(self, call: _Call, sortable: Iterable[str], sorting: Sorting) -> tuple[str, bool] | None:
        known = set(sortable) - self.behaviour.refused_attributes
        found = sort_key(call.query.get("sort"), known)
        names = names_in(call.query.get("sort"))
        unknown = self.behaviour.unknown_sort_refused and any(n.removeprefix("-") not in known for n in names)
        if unknown or (found and sorting is Sorting.REFUSED):
            raise RefusedError(invalid("sort", f'Sorting by "{names[0]}" is not supported.'))
        return found if sorting is Sorting.HONOURED else None

    def _collection(
        self,
        call: _Call,
        found: list[T],
        records: Callable[[list[T]], list[Record]],
        more: Mapping[str, Any],
    ) -> Answer:
        behaviour = self.behaviour
        page = Page.of(
            call.query,
            total=max(0, len(found) + behaviour.total_error),
            default=behaviour.session_pages,
            most=behaviour.session_pages_to,
            ignored=behaviour.per_page_ignored,
        )
        fields, expand = names_in(call.query.get("fields")), names_in(call.query.get("expand"))
        items = [record.shown(fields, expand) for record in records(found[page.rows])]
        return collection(items, page, address=call.base + call.path, query=call.query, more=more)


def _sorted(records: list[T], sort: tuple[str, bool] | None, value: Callable[[T, str], Any]) -> list[T]:
    if sort is None:
        return records
    attribute, descending = sort
    return sorted(records, key=lambda record: ordering(value(record, attribute)), reverse=descending)


async def _form(request: web.BaseRequest) -> Mapping[str, Any]:
    """The fields of a form, urlencoded or multipart."""
    try:
        return await request.post()
    except ValueError:
        return {}


async def _csv_pieces(samples: Samples) -> AsyncIterator[bytes]:
    order = samples.time_ms.argsort(kind="stable")
    yield b"timestamp_seconds,id_container_data_latest,id_group,source_device,datatype,value\r\n"
    for begin in range(0, len(order), _CSV_ROWS):
        part = order[begin : begin + _CSV_ROWS]
        text = io.StringIO()
        writer = csv.writer(text)
        for position, stamp, value in zip(
            samples.dataset[part].tolist(),
            samples.time_ms[part].tolist(),
            samples.value[part].tolist(),
            strict=True,
        ):
            dataset = samples.datasets[position]
            writer.writerow(
                (
                    f"{stamp / 1000:.3f}",
                    dataset.id_container_data_latest,
                    dataset.id_group,
                    dataset.source_device,
                    dataset.datatype,
                    f"{value:.15g}",
                )
            )
        yield text.getvalue().encode()
