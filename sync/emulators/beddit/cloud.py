"""The Beddit cloud on loopback: the API on one port, the object store of the raw signal on another.

Written from the vendor's documents (Beddit API docs: 1-General, 2-Authentication, 3-3 session resource).
What they leave open is a switch in ``Behaviour``.
"""

from __future__ import annotations

import asyncio
import base64
import gzip
import hashlib
import hmac
import json
import math
import random
import re
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final
from urllib.parse import quote

from aiohttp import web

from sync.emulators.answers import Answer, hang_up, in_pieces, whole
from sync.emulators.beddit.archive import Archive
from sync.emulators.beddit.behaviour import Behaviour, BlobForm, Limit, Order, Overload
from sync.emulators.beddit.record import Record, SampledTracks, identifier, number, rendered
from sync.emulators.beddit.refusals import json_answer, refusal, scripted, store_refusal
from sync.emulators.beddit.study import SAMPLED_TRACKS, Study
from sync.emulators.faults import Fault
from sync.emulators.serving import Clock, Cloud, Listener

BlobKey = tuple[int, int, str]
BlobSource = Callable[[], bytes]

_SESSIONS: Final = re.compile(r"/api/v1/user/([0-9]+)/session")
_FLOAT: Final = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_OBJECT: Final = re.compile(r"/sleepdata/([0-9]+)/(-?[0-9]+)/([^/]+)")
_NON_FINITE: Final = (math.nan, math.inf, -math.inf)


class _RefusedError(Exception):
    """A request that the API refuses."""

    def __init__(self, status: int, description: str) -> None:
        super().__init__(description)
        self.answer = refusal(status, description)


@dataclass(frozen=True, slots=True)
class _Grant:
    """What a token allows."""

    user_id: int
    expires_at: float = math.inf


class BedditCloud(Cloud):
    """An emulated Beddit cloud, to be used as an async context manager.

    It holds sessions in memory or by reference and can be changed while it runs, from the same event loop.

    Attributes:
        behaviour: How the service is; may be replaced at any time.
    """

    def __init__(
        self,
        study: Study | None = None,
        *,
        archive: Archive | None = None,
        behaviour: Behaviour | None = None,
        clock: Clock = time.time,
        tokens: Mapping[int, str] | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        blob_port: int = 0,
        on_request: Listener | None = None,
    ) -> None:
        """Fill the cloud; it is reachable inside ``async with``.

        Args:
            study: Synthetic nights to hold.
            archive: Saved sessions to hold.
            behaviour: How the service is.
            clock: Tells the service Unix seconds.
            tokens: Tokens of users; all other users of the study and the archive get one from ``token()``.
            host: Where both servers listen.
            port: The API's port; 0 means any free one.
            blob_port: The object store's port; 0 means any free one.
            on_request: Awaited before a request is answered.
        """
        super().__init__({"api": (host, port), "blob": (host, blob_port)}, clock=clock, on_request=on_request)
        self.behaviour = behaviour or Behaviour()
        self._secret = hashlib.sha256(f"{host}:{port}:{study}".encode()).digest()
        self._records: dict[int, dict[object, Record]] = {}
        self._blobs: dict[BlobKey, BlobSource | None] = {}
        self._grants: dict[str, _Grant] = {}
        self._passwords: dict[tuple[str, str], int] = {}
        self._hold_study(study)
        self._hold_archive(archive)
        for user_id in self._records:
            self.set_token(user_id, self.token(user_id))
        for user_id, token in (tokens or {}).items():
            self.set_token(user_id, token)

    @property
    def base_url(self) -> str:
        """Where the API is: ``http://host:port``."""
        return self._urls["api"]

    @property
    def blob_url(self) -> str:
        """Where the object store is: ``http://host:port``."""
        return self._urls["blob"]

    # --- what the cloud holds ---------------------------------------------------------------------

    def put(self, user_id: int, session: Mapping[str, Any], *, updated: float | None = None) -> float:
        """Put a session, as the app does when a night ends: the server stamps it; the same id replaces.

        A sampled track that comes with a ``data_url`` keeps it; another one gets a signed address in every
        answer if its samples are known.

        Returns:
            The stamp: ``updated`` if it is given, else the service's clock.
        """
        stamp = round(self._clock(), 6) if updated is None else updated
        stamped = {**session, "updated": stamp}
        around, sampled = rendered(stamped)
        self._hold(
            Record(
                user_id=user_id,
                session_id=identifier(stamped.get("id")),
                start=number(stamped.get("start_timestamp")),
                end=number(stamped.get("end_timestamp")),
                updated=stamp,
                sampled=sampled,
                load=lambda: around,
            )
        )
        return stamp

    def put_raw(self, user_id: int, text: bytes, *, updated: float | None = None) -> float:
        """Put a session's text as it is, well-formed or not; it goes into answers byte for byte.

        Queries see what can be read of it. Without a usable start it is in every range. Its stamp is
        ``updated``, else the text's own, else the service's clock.
        """
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            value = None
        members = value if isinstance(value, dict) else {}
        stamp = number(members.get("updated")) if updated is None else updated
        stamp = round(self._clock(), 6) if stamp is None else stamp
        self._hold(
            Record(
                user_id=user_id,
                session_id=identifier(members.get("id")),
                start=number(members.get("start_timestamp")),
                end=number(members.get("end_timestamp")),
                updated=stamp,
                sampled=None,
                load=lambda: (text, b""),
            )
        )
        return stamp

    def remove(self, user_id: int, session_id: int) -> None:
        """A session disappears, without a trace (there are no tombstones).

        Raises:
            KeyError: There is no such session.
        """
        del self._records[user_id][session_id]

    def records(self, user_id: int) -> tuple[Record, ...]:
        """What the cloud knows about a user's sessions without computing their tracks."""
        return tuple(self._records.get(user_id, {}).values())

    def truth(self, user_id: int) -> dict[int, dict[str, Any]]:
        """A user's sessions by id, as they are held: no switch changes them, no address is added.

        Texts that are no session objects (``put_raw``) are not among them.
        """
        found = {}
        for record in self.records(user_id):
            try:
                value = json.loads(record.text())
            except (ValueError, RecursionError):
                continue
            if isinstance(value, dict) and record.session_id is not None:
                found[record.session_id] = value
        return found

    def set_blob(self, user_id: int, session_id: int, track: str, data: bytes) -> None:
        """Give a sampled track its samples."""
        self._blobs[user_id, session_id, track] = lambda: data

    def remove_blob(self, user_id: int, session_id: int, track: str) -> None:
        """A track's samples are gone: its address is still given and answers 404."""
        self._blobs[user_id, session_id, track] = None

    def blob(self, user_id: int, session_id: int, track: str) -> bytes | None:
        """A track's true samples; None if there are none."""
        source = self._blobs.get((user_id, session_id, track))
        return source() if source else None

    # --- who may read -----------------------------------------------------------------------------

    def token(self, user_id: int) -> str:
        """A user's token: the one in use, else the one that this user would get."""
        valid = [token for token, grant in self._grants.items() if grant.user_id == user_id]
        return valid[-1] if valid else hashlib.sha256(b"token of %d" % user_id).hexdigest()[:32]

    def set_token(self, user_id: int, token: str, *, expires_at: float | None = None) -> None:
        """Make this a user's only token, until an instant of the service's clock or for ever."""
        self.revoke(user_id)
        self._grants[token] = _Grant(user_id, math.inf if expires_at is None else expires_at)

    def revoke(self, user_id: int) -> None:
        """None of a user's tokens is good any more."""
        self._grants = {token: grant for token, grant in self._grants.items() if grant.user_id != user_id}

    def set_password(self, user_id: int, username: str, password: str) -> None:
        """Let a user log in for a new token."""
        self._passwords[username, password] = user_id

    def signed_url(self, user_id: int, session_id: int, track: str, *, expires: int | None = None) -> str:
        """An address for a track's samples, valid for ``url_lifetime`` or until ``expires``."""
        path = f"/sleepdata/{user_id}/{session_id}/{quote(track, safe='')}"
        until = int(self._clock() + self.behaviour.url_lifetime) if expires is None else expires
        signature = quote(self._signature(path, str(until)), safe="")
        return f"{self.blob_url}{path}?Expires={until}&Signature={signature}"

    # --- filling ----------------------------------------------------------------------------------

    def _hold(self, record: Record) -> None:
        key: object = object() if record.session_id is None else record.session_id
        self._records.setdefault(record.user_id, {})[key] = record

    def _hold_study(self, study: Study | None) -> None:
        if study is None:
            return
        for user_id in study.users:
            self._records.setdefault(user_id, {})
            for night in study.nights_of(user_id):
                self._hold(night.record())
                for track in SAMPLED_TRACKS if night.raw_signal else ():
                    self._blobs[user_id, night.session_id, track] = partial(night.blob, track)

    def _hold_archive(self, archive: Archive | None) -> None:
        for user_id, sessions in archive.sessions.items() if archive else ():
            self._records.setdefault(user_id, {})
            for saved in sessions:
                self._hold(saved.record())
                for track, path in saved.blobs.items():
                    if saved.session_id is not None:
                        self._blobs[user_id, saved.session_id, track] = path.read_bytes

    # --- serving ----------------------------------------------------------------------------------

    async def _answer(self, host: str, request: web.BaseRequest) -> Answer:
        return await (self._api(request) if host == "api" else self._blob_host(request))

    def _scripted(self, host: str, fault: Fault) -> Answer:
        return scripted(host, fault)

    # --- the API ----------------------------------------------------------------------------------

    async def _api(self, request: web.BaseRequest) -> Answer:
        if self.behaviour.withdrawn:
            return refusal(410, "This version of the API is no longer supported.")
        try:
            match request.method, request.path:
                case "POST", "/api/v1/auth/authorize":
                    return self._authorize(await request.post())
                case "GET", "/api/v1/auth/token_info":
                    return json_answer({"user": self._caller(request), "token_type": "user"})
                case "GET", path if sessions := _SESSIONS.fullmatch(path):
                    return await self._sessions(request, int(sessions[1]))
        except _RefusedError as refused:
            return refused.answer
        return refusal(404, f"There is no {request.path}.")

    def _caller(self, request: web.BaseRequest) -> int:
        """The user whose token came along; there is no 401 (Beddit API docs, 1-General)."""
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        grant = self._grants.get(token) if scheme == "UserToken" else None
        if grant is None or grant.expires_at <= self._clock():
            raise _RefusedError(403, "The access token is missing, wrong or expired.")
        return grant.user_id

    def _authorize(self, form: Mapping[str, Any]) -> Answer:
        """The password grant (Beddit API docs, 2-Authentication)."""
        if form.get("grant_type") != "password":
            raise _RefusedError(400, "grant_type has to be password.")
        user_id = self._passwords.get((str(form.get("username")), str(form.get("password"))))
        if user_id is None:
            return refusal(400, "Wrong username or password.", error="invalid_credentials")
        token = hashlib.sha256(b"%d of %d" % (len(self._grants), user_id) + self._secret).hexdigest()[:32]
        self._grants[token] = _Grant(user_id)
        return json_answer({"user": user_id, "access_token": token, "token_type": "user"})

    async def _sessions(self, request: web.BaseRequest, user_id: int) -> Answer:
        if self._caller(request) != user_id and not self.behaviour.group_access:
            raise _RefusedError(403, "This token belongs to another user.")
        found = self._limited(self._selected(user_id, request.query), request.query)
        too_much = self.behaviour.overload_above
        if too_much is not None and len(found) > too_much:
            return await self._give_up()
        return Answer(200, self._array(found), compress=self.behaviour.gzip)

    async def _give_up(self) -> Answer:
        await asyncio.sleep(self.behaviour.overload_seconds)
        if self.behaviour.overload is Overload.CUT:
            return hang_up()
        page = b"<html><body><h1>The server took too long.</h1></body></html>\n"
        return whole(page, status=int(self.behaviour.overload), content_type="text/html")

    def _selected(self, user_id: int, query: Mapping[str, str]) -> list[Record]:
        """The sessions that a query asks for, in order (Beddit API docs, 3-3, query parameters)."""
        updated_after, first, last = (
            _instant(query, name) for name in ("updated_after", "start_timestamp", "end_timestamp")
        )
        held = self.records(user_id)
        if updated_after is not None and first is None and last is None:
            accepts = self.behaviour.accepts_update
            return self._ordered(self.behaviour.order, (r for r in held if accepts(r.updated, updated_after)))
        if updated_after is None and first is not None and last is not None:
            return self._ordered(
                self.behaviour.range_order, (r for r in held if self._in_range(r, first, last))
            )
        if not (query.keys() & {"updated_after", "start_timestamp", "end_timestamp"}) and (
            not self.behaviour.parameters_required
        ):
            return self._ordered(self.behaviour.range_order, held)
        raise _RefusedError(400, "Use either updated_after, or both start_timestamp and end_timestamp.")

    def _in_range(self, record: Record, first: float, last: float) -> bool:
        if record.start is None:
            return True
        end = record.start if record.end is None else record.end
        return self.behaviour.accepts_range(record.start, end, first, last)

    def _ordered(self, order: Order, records: Iterable[Record]) -> list[Record]:
        by_start = sorted(records, key=lambda record: record.start or 0.0)
        match order:
            case Order.START:
                return by_start
            case Order.UPDATED:
                return sorted(by_start, key=lambda record: record.updated)
            case Order.SHUFFLED:
                random.Random(self._seen).shuffle(by_start)  # noqa: S311 - disorder, not secrecy
                return by_start

    def _limited(self, records: list[Record], query: Mapping[str, str]) -> list[Record]:
        """The beginning of an answer, as ``limit`` (undocumented for sessions) and the switches want it."""
        behaviour = self.behaviour
        ceiling = behaviour.answer_ceiling
        if (text := query.get("limit")) is not None and behaviour.limit is not Limit.IGNORED:
            if behaviour.limit is Limit.REFUSED:
                raise _RefusedError(400, "There is no parameter limit.")
            if not (text.isascii() and text.isdecimal() and int(text) >= 1):
                raise _RefusedError(400, "limit has to be a positive integer.")
            ceiling = min(c for c in (int(text), behaviour.limit_ceiling, ceiling) if c is not None)
        return records[:ceiling]

    async def _array(self, records: list[Record]) -> AsyncIterator[bytes]:
        """A bare JSON array, one session after the other: the service has no envelope."""
        behaviour = self.behaviour
        yield b"["
        for position, record in enumerate(records):
            text = await asyncio.to_thread(self._served, record, behaviour)
            async for piece in in_pieces((b", " if position else b"") + text):
                yield piece
        yield b"]"

    def _served(self, record: Record, behaviour: Behaviour) -> bytes:
        """A session's text as it goes into an answer."""
        text = record.text_with(self._with_addresses(record, behaviour))
        if behaviour.absolute_times:
            text = _rewritten(text, _absolute)
        if behaviour.non_finite:
            text = _rewritten(text, lambda _, items: _non_finite(items))
        return text

    def _with_addresses(self, record: Record, behaviour: Behaviour) -> SampledTracks | None:
        if record.sampled is None or record.session_id is None or not behaviour.data_urls:
            return record.sampled
        sampled = dict(record.sampled)
        for track, description in record.sampled.items():
            known = (record.user_id, record.session_id, track) in self._blobs
            if known and isinstance(description, Mapping) and "data_url" not in description:
                address = self.signed_url(record.user_id, record.session_id, track)
                sampled[track] = {**description, "data_url": address}
        return sampled

    # --- the object store -------------------------------------------------------------------------

    def _signature(self, path: str, expires: str) -> str:
        digest = hmac.new(self._secret, f"{path}\n{expires}".encode(), hashlib.sha256).digest()
        return base64.b64encode(digest).decode()

    async def _blob_host(self, request: web.BaseRequest) -> Answer:
        """A signed, expiring address, as object stores have them."""
        query = request.query
        expires, signature = query.get("Expires", ""), query.get("Signature", "")
        if "Authorization" in request.headers and self.behaviour.one_authorization:
            return store_refusal(400, "InvalidArgument", "Only one auth mechanism allowed")
        right = self._signature(request.rel_url.raw_path, expires)
        if not hmac.compare_digest(signature.encode(), right.encode()):
            return store_refusal(403, "SignatureDoesNotMatch", "The signature does not match.")
        if self._clock() >= float(expires):
            return store_refusal(403, "AccessDenied", "Request has expired")
        place = _OBJECT.fullmatch(request.path)
        source = self._blobs.get((int(place[1]), int(place[2]), place[3])) if place else None
        if source is None:
            return store_refusal(404, "NoSuchKey", "The specified key does not exist.")
        if request.method not in ("GET", "HEAD"):
            return store_refusal(405, "MethodNotAllowed", "The specified method is not allowed.")
        data = await asyncio.to_thread(lambda: _in_form(source(), self.behaviour.blob_form))
        labelled = {"Content-Encoding": "gzip"} if self.behaviour.blob_form is BlobForm.GZIP else {}
        return whole(data, content_type="binary/octet-stream", headers=labelled)


def _instant(query: Mapping[str, str], name: str) -> float | None:
    """A parameter in Unix seconds, in any way to write a float."""
    text = query.get(name)
    if text is None:
        return None
    if not _FLOAT.fullmatch(text) or not math.isfinite(float(text)):
        raise _RefusedError(400, f"{name} is not a number.")
    return float(text)


def _in_form(data: bytes, form: BlobForm) -> bytes:
    match form:
        case BlobForm.WHOLE:
            return data
        case BlobForm.HALF:
            return data[: len(data) // 4 * 2]
        case BlobForm.DOUBLED:
            return data + data
        case BlobForm.ODD:
            return data[:-1]
        case BlobForm.EMPTY:
            return b""
        case BlobForm.GZIP | BlobForm.GZIP_UNLABELLED:
            return gzip.compress(data, compresslevel=1, mtime=0)


def _rewritten(text: bytes, change: Callable[[dict[str, Any], list[Any]], list[Any]]) -> bytes:
    """A session's text with the items of each track changed; a text that has none stays as it is."""
    try:
        session = json.loads(text)
        for track in session["time_value_tracks"].values():
            track["items"] = change(session, track["items"])
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return text
    return json.dumps(session).encode()


def _absolute(session: dict[str, Any], items: list[Any]) -> list[Any]:
    start = session["start_timestamp"]
    return [[start + offset, value] for offset, value in items]


def _non_finite(items: list[Any]) -> list[Any]:
    """Every hundredth value, from the second on, is none (so that short tracks stay whole)."""
    return [
        [offset, _NON_FINITE[position // 100 % 3] if position % 100 == 1 else value]
        for position, (offset, value) in enumerate(items)
    ]
