"""Access to BACE: OAuth2's password grant, and its single-use refresh tokens, as "Authentication" has them.

A token is kept in a file of the account's, so that a restart does not ask for another one. Because a
refresh token works once, refreshes are made one after the other, within the process by a lock and among
processes by a locked file. Whatever goes wrong with a token or its file costs a password grant, no more.
A stored token is used only with the credentials that it was got with: it would hide for weeks that a new
password is wrong.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import math
import os
import stat
import tempfile
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import asdict, astuple, dataclass, field, replace
from hashlib import scrypt, sha256
from hmac import compare_digest
from pathlib import Path
from typing import Any, Self

import structlog

from sync.errors import (
    AnswerTooLarge,
    AuthenticationError,
    ConfigurationError,
    RateLimited,
    RequestRefused,
    RetryableError,
    SourceContractError,
    SourceUnavailable,
    SyncError,
)
from sync.sources.bace.settings import Account
from sync.transport import Clock, HttpClient, Request

log = structlog.get_logger(__name__)

ENDPOINT = "/oauth2/token"

# An answer with a token has some hundred bytes.
_LONGEST_ANSWER = 64 * 1024
# Where an answer does not say: the vendor's tokens live a day, so that this is no risk.
_ASSUMED_LIFETIME_S = 3600.0
# Some 50 ms and 16 MiB for each guess at a password, should the file get into other hands.
_SALT_BYTES, _WORK, _BLOCKS = 16, 2**14, 8
# How often 401 may lead to a fresh token: where it is about permission, it comes again however fresh.
_RENEWALS, _RENEWALS_WITHIN_S = 3, 600.0
# How long a renewal that failed before it was urgent is left alone.
_AGAIN_AFTER_S = 10.0
# How long a refused password is not offered: the vendor may have been wrong, and nobody may look for weeks.
_OFFER_AGAIN_S = 6 * 3600.0
# Another process holds the lock for one request at most; one that stands still must not stop this one.
_LOCK_PATIENCE_S, _LOCK_INTERVAL_S = 120.0, 0.1


@dataclass(frozen=True, slots=True)
class Token:
    """What the vendor gave.

    Attributes:
        access: For every request's header.
        refresh: For one exchange into the next token; None when there is none.
        obtained_at: When it was asked for, by this machine's clock in Unix seconds.
        lifetime: Seconds from then on.
    """

    access: str = field(repr=False)
    refresh: str | None = field(repr=False)
    obtained_at: float
    lifetime: float

    def remaining(self, now: float) -> float:
        """Seconds that it has left; zero where the clock was set back, as it may be any age then."""
        age = now - self.obtained_at
        return self.lifetime - age if age >= 0 else 0.0

    @classmethod
    def read(cls, plain: Any) -> Self | None:
        """A token from a file's content; None if it is none."""
        match plain:
            case {"access": str(a), "refresh": str() | None as r, "obtained_at": o, "lifetime": n} if (
                _is_word(a) and _is_number(o) and _is_number(n)
            ):
                return cls(a, r, o, n)
            case _:
                return None


class TokenStore:
    """One account's token in a file that nobody else can read, together with its file lock.

    No failure here is an error: without its file, a token is asked for again by the next process.
    """

    def __init__(self, folder: Path, name: str, base_url: str, account: Account) -> None:
        """Name the file; nothing is read or made yet.

        Args:
            folder: Where the files of all accounts are.
            name: What its files are called.
            base_url: Where the token is from. A token belongs to host, client and user: after a change of
                any of them it is not used.
            account: Whose it is. After a change of a secret it is not used either.
        """
        self._account = account
        self._path = folder / f"{name}.json"
        self._lock = folder / f"{name}.lock"
        whose = json.dumps([base_url, account.client_id, account.username])
        self._owner = sha256(whose.encode()).hexdigest()

    def load(self) -> Token | None:
        """The stored token, if there is one that can be trusted; in a thread, as it computes for a while."""
        try:
            content = _read_private(self._path)
        except FileNotFoundError:
            return None
        except OSError as error:
            self._warn("token.ignored", _reason(error))
            return None
        plain = _json(content)
        token = Token.read(plain.get("token")) if isinstance(plain, dict) else None
        if token is None:
            self._warn("token.ignored", "it holds no token")
        elif plain.get("owner") != self._owner:
            self._warn("token.ignored", "it belongs to another host, client or user")
            return None
        elif not self._got_with_same(plain.get("got_with")):
            self._warn("token.ignored", "it was got with another password or client_secret, or tells none")
            return None
        return token

    def save(self, token: Token) -> None:
        """Replace the stored token, whole or not at all; in a thread, as ``load``."""
        got_with = self._fingerprint(os.urandom(_SALT_BYTES)).hex()
        content = json.dumps({"owner": self._owner, "got_with": got_with, "token": asdict(token)})
        try:
            _make_private(self._path.parent)
            _write_private(self._path, content.encode())
        except OSError as error:
            self._warn("token.not_saved", _reason(error))

    @asynccontextmanager
    async def alone(self, clock: Clock) -> AsyncIterator[None]:
        """Keep other processes from using the token's refresh meanwhile, as far as the disk can do that."""
        with ExitStack() as stack:
            try:
                _make_private(self._path.parent)
                handle = os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
                stack.callback(os.close, handle)  # which unlocks it
                await self._locked(handle, clock)
            except OSError as error:
                self._warn("token.not_locked", _reason(error))
            yield

    async def _locked(self, handle: int, clock: Clock) -> None:
        """Wait for the lock; not by a thread, which could not be cancelled."""
        patience = clock.monotonic() + _LOCK_PATIENCE_S
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if clock.monotonic() >= patience:
                    raise
                await clock.sleep(_LOCK_INTERVAL_S)
            else:
                return

    def _got_with_same(self, fingerprint: Any) -> bool:
        """Whether a file's fingerprint is one of the credentials there are; files of old have none."""
        try:
            stored = bytes.fromhex(fingerprint)
        except (TypeError, ValueError):
            return False
        return compare_digest(stored, self._fingerprint(stored[:_SALT_BYTES]))

    def _fingerprint(self, salt: bytes) -> bytes:
        """The salt, and what it makes of all credentials."""
        credentials = json.dumps(astuple(self._account)).encode()
        return salt + scrypt(credentials, salt=salt, n=_WORK, r=_BLOCKS, p=1)

    def _warn(self, event: str, reason: str) -> None:
        log.warning(event, file=str(self._path), reason=reason)


def remove_files(folder: Path, name: str) -> Sequence[Path]:
    """Remove what a ``TokenStore`` of that name left; the files that went.

    Raises:
        ConfigurationError: A file cannot be removed.
    """
    gone = []
    for path in (folder / f"{name}.json", folder / f"{name}.lock", *folder.glob(f".{name}.json.*")):
        try:
            path.unlink()
        except FileNotFoundError:
            continue
        except OSError as error:
            raise ConfigurationError(f"{path} cannot be removed ({_reason(error)}): do it by hand") from error
        gone.append(path)
    return gone


class PasswordGrant:
    """The credentials of one account, fetched when they are needed and renewed before they expire.

    However many requests wait for a token, one exchange serves them all, and its failure fails them all.
    A refused password is offered again only hours later: the account is locked for less.
    """

    def __init__(
        self,
        http: HttpClient,
        secrets: Account,
        store: TokenStore,
        *,
        renew_before: float = 60.0,
        clock: Clock | None = None,
    ) -> None:
        """Prepare; nothing is asked or read yet.

        Args:
            http: To the host's root, without credentials.
            secrets: What proves who we are.
            store: Keeps the token.
            renew_before: Seconds before its end from which on a token is renewed.
            clock: Time.
        """
        self._http = http
        self._account = secrets
        self._store = store
        self._renew_before = renew_before
        self._clock = clock or Clock()
        self._lock = asyncio.Lock()
        self._token: Token | None = None
        # Both monotonic: a change of the wall clock does not move them.
        self._renew_at = self._ends_at = -math.inf
        self._rejected = ""
        self._rounds = 0
        self._failure: SyncError | None = None
        self._refused: AuthenticationError | None = None
        self._offer_again_at = -math.inf
        self._renewals: deque[float] = deque(maxlen=_RENEWALS)

    async def authorization(self) -> str:
        """The header's value with a token that is good for a while.

        Raises:
            AuthenticationError: The vendor refused the password, now or before.
            RetryableError: No token can be had at the moment.
            SourceContractError: The vendor answered with something that is no token.
        """
        if not self._is_good():
            await self._once_for_all()
        return self._header()

    async def renewed(self, rejected: str) -> bool:
        """Whether there is another token than this one, which was answered with 401, or it was given anew.

        Raises:
            AuthenticationError: As ``authorization``, and so on.
        """
        if rejected == self._header():
            if rejected != self._rejected and not self._may_renew():
                return False
            self._rejected = rejected
            await self._once_for_all()
        return True

    def _may_renew(self) -> bool:
        now = self._clock.monotonic()
        if len(self._renewals) == _RENEWALS and now - self._renewals[0] < _RENEWALS_WITHIN_S:
            return False
        self._renewals.append(now)
        return True

    # --- which token --------------------------------------------------------------------------------

    def _header(self) -> str:
        return f"Bearer {self._token.access}" if self._token else ""

    def _is_good(self) -> bool:
        return self._clock.monotonic() < self._renew_at and self._header() != self._rejected

    def _still_serves(self) -> bool:
        """Whether the token has not ended yet, though it should be renewed."""
        return self._clock.monotonic() < self._ends_at and self._header() != self._rejected

    async def _once_for_all(self) -> None:
        """Get a good token, or find out that somebody did, or failed to, while this one waited."""
        rounds = self._rounds
        async with self._lock:
            if self._rounds != rounds:
                if self._failure is not None:
                    raise self._failure
                return
            # A round that is cancelled does not count: the next in line makes it.
            try:
                await self._obtain()
            except SyncError as error:
                self._rounds, self._failure = rounds + 1, error
                raise
            self._rounds, self._failure = rounds + 1, None

    async def _obtain(self) -> None:
        async with self._store.alone(self._clock):
            await self._adopt_stored()  # another process may have been here, or an earlier life of this one
            if self._is_good():
                return
            began = self._clock.monotonic()
            try:
                token = await self._fresh()
            except (RetryableError, SourceContractError) as error:
                if not self._still_serves():
                    raise
                self._renew_at = min(self._clock.monotonic() + _AGAIN_AFTER_S, self._ends_at)
                log.warning("token.not_renewed", reason=str(error))
                return
            await asyncio.to_thread(self._store.save, token)
            self._rejected = ""  # whatever it is: it has been given anew
            self._adopt(token, began + token.lifetime)

    async def _adopt_stored(self) -> None:
        stored = await asyncio.to_thread(self._store.load)
        mine = self._token
        if stored is None or (
            mine and (stored.access == mine.access or stored.obtained_at < mine.obtained_at)
        ):
            return
        remaining = stored.remaining(self._clock.now().timestamp())
        self._adopt(stored, self._clock.monotonic() + remaining)

    def _adopt(self, token: Token, ends_at: float) -> None:
        self._token, self._ends_at = token, ends_at
        # Where tokens live shorter than the margin, each is good for half of its life.
        self._renew_at = ends_at - min(self._renew_before, token.lifetime / 2)

    # --- asking for one -----------------------------------------------------------------------------

    async def _fresh(self) -> Token:
        if self._token is not None and self._token.refresh is not None:
            try:
                return await self._ask({"grant_type": "refresh_token", "refresh_token": self._token.refresh})
            except (AuthenticationError, RequestRefused) as error:
                log.info("token.refresh_refused", reason=str(error))
                self._token = replace(self._token, refresh=None)
            except RateLimited:
                raise
            except (RetryableError, SourceContractError) as error:
                if self._still_serves():
                    raise
                # A vendor that has forgotten a refresh token may say so with any error.
                log.info("token.refresh_failed", reason=str(error))
        return await self._by_password()

    async def _by_password(self) -> Token:
        if self._refused is not None and self._clock.monotonic() < self._offer_again_at:
            raise AuthenticationError(*self._refused.args)
        try:
            return await self._ask(
                {
                    "grant_type": "password",
                    "username": self._account.username,
                    "password": self._account.password,
                }
            )
        except (AuthenticationError, RequestRefused) as error:
            self._offer_again_at = self._clock.monotonic() + _OFFER_AGAIN_S
            self._refused = AuthenticationError(
                f"The vendor gives no token: {error} Check the account's client_id, client_secret, username"
                " and password, and base_url, then start anew; by itself it is asked again in 6 hours."
            )
            raise self._refused from error

    async def _ask(self, form: Mapping[str, str]) -> Token:
        secrets = {"client_id": self._account.client_id, "client_secret": self._account.client_secret}
        # A refresh token works once: an exchange is never repeated behind anybody's back.
        request = Request(ENDPOINT, method="POST", form={**secrets, **form}, retry=False)
        asked_at = self._clock.now().timestamp()
        try:
            async with self._http.open(request) as response:
                body = await response.read(_LONGEST_ANSWER)
        except AnswerTooLarge as error:  # of a token there is no less to ask for
            raise SourceUnavailable(str(error), retry_after=error.retry_after) from error
        return _token_in(body, asked_at, form.get("refresh_token"))


def _token_in(body: bytes, asked_at: float, used: str | None) -> Token:
    """The token of an answer; without a new refresh token in it, the one that was used stays."""
    match plain := _json(body):
        case {"access_token": str(access)} if _is_word(access):
            refresh, lifetime = plain.get("refresh_token"), _seconds(plain.get("expires_in"))
        case _:
            raise SourceContractError(
                f"POST {ENDPOINT} was answered without an access_token; check that base_url is the vendor's."
            )
    return Token(access, refresh if isinstance(refresh, str) and refresh else used, asked_at, lifetime)


def _seconds(value: Any) -> float:
    with suppress(TypeError, ValueError, OverflowError):
        if (seconds := float(value)) > 0 and math.isfinite(seconds):
            return seconds
    return _ASSUMED_LIFETIME_S


def _json(text: bytes) -> Any:
    """Decoded JSON; None for what is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_word(text: str) -> bool:
    return text.isascii() and text.isprintable() and bool(text) and " " not in text


def _reason(error: OSError) -> str:
    return error.strerror or type(error).__name__


# --- files that are nobody else's ---------------------------------------------------------------


def _read_private(path: Path) -> bytes:
    """A small file's content.

    Raises:
        OSError: It cannot be read, or somebody else may read or have written it.
    """
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
        facts = os.fstat(file.fileno())
        if not stat.S_ISREG(facts.st_mode):
            raise OSError(0, "it is no file")
        if facts.st_uid != os.geteuid():
            raise OSError(0, "it belongs to another user of this machine")
        if facts.st_mode & 0o077:
            raise OSError(0, "other users of this machine may read it")
        return file.read(_LONGEST_ANSWER)


def _write_private(path: Path, content: bytes) -> None:
    """Write beside the file, and put it in place when it is safely on the disk."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # 0600 from the beginning
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _make_private(folder: Path) -> None:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.stat().st_mode & 0o077:
        folder.chmod(0o700)
