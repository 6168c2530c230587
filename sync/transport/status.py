"""The door for answers: what a status means to us, and what the vendor said about it.

Its sister ``failures`` is the door for the requests that got no answer. Behind these two, nobody knows a
status or an exception of aiohttp.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from sync.errors import (
    AnswerTooLarge,
    AuthenticationError,
    RateLimited,
    RequestRefused,
    RetryableError,
    SourceContractError,
    SourceUnavailable,
    SyncError,
)

ACCOUNT = "the account's settings"


class TokenRejected(AuthenticationError):
    """The vendor answered 401: credentials that can be renewed may help."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a status becomes, and what to do about it.

    Attributes:
        error: What is raised.
        advice: What to do; ``{setting}`` stands for where the configuration has the credentials.
    """

    error: type[SyncError]
    advice: str


CHECK_CREDENTIALS = Verdict(
    AuthenticationError,
    "the credentials are wrong, expired, or not allowed to see this; correct {setting}, then reload (SIGHUP)"
    " or start anew",
)
# The documents of BACE have 401 for both.
REJECTED = Verdict(
    TokenRejected,
    "either the token is wrong or has expired, or the account lacks the permission for this; correct"
    " {setting}, then reload (SIGHUP) or start anew, or ask the vendor what the account may see",
)
REFUSED = Verdict(RequestRefused, "the vendor does not serve this request; asking again does not help")
REFUSED_THERE = Verdict(
    RequestRefused, "the address has expired, or the host refuses it; a fresh one is asked for, now or later"
)
MOVED = Verdict(
    RequestRefused, "the vendor redirects, and redirects are not followed; check the base address"
)
TOO_SLOW = Verdict(AnswerTooLarge, "the vendor took too long; ask for less, or later")
WAIT = Verdict(SourceUnavailable, "the vendor is in trouble; it is tried again later")
SLOW_DOWN = Verdict(RateLimited, "the vendor wants fewer requests; it is tried again later")
UNKNOWN = Verdict(
    SourceContractError, "nobody documented this status; the vendor's interface may have changed"
)
PARTIAL = Verdict(SourceContractError, "this is a part of an answer, and the whole one was asked for")

STATUSES: Mapping[int, Verdict] = {
    206: PARTIAL,
    401: REJECTED,
    403: CHECK_CREDENTIALS,
    408: TOO_SLOW,
    429: SLOW_DOWN,
    502: TOO_SLOW,
    504: TOO_SLOW,
}
# For addresses that a vendor handed out: an object store answers 403 when a signed address has expired,
# and that says nothing about the account.
FOREIGN_STATUSES: Mapping[int, Verdict] = {
    **STATUSES,
    401: REFUSED_THERE,
    403: REFUSED_THERE,
    404: REFUSED_THERE,
}

# For requests that carry no token, as those for one do.
ANONYMOUS_STATUSES: Mapping[int, Verdict] = {**STATUSES, 401: CHECK_CREDENTIALS}

FAMILIES: Mapping[int, Verdict] = {3: MOVED, 4: REFUSED, 5: WAIT}


def verdict(status: int, statuses: Mapping[int, Verdict] = STATUSES) -> Verdict | None:
    """What a status means; None for 200, the only one that both vendors document for an answer."""
    if status in statuses:
        return statuses[status]
    return None if status == HTTPStatus.OK else FAMILIES.get(status // 100, UNKNOWN)


def refusal(
    found: Verdict,
    where: str,
    status: int,
    words: str,
    retry_after: float | None,
    *,
    setting: str = ACCOUNT,
) -> SyncError:
    """The error of a verdict, as a sentence: where, what happened, what to do."""
    said = f" ({words})" if words else ""
    advice = found.advice.replace("{setting}", setting)
    message = f"{where} was answered with {status}{_phrase(status)}{said}: {advice}."
    if issubclass(found.error, RetryableError):
        return found.error(message, retry_after=retry_after)
    if issubclass(found.error, RequestRefused):
        return found.error(message, status=status)
    return found.error(message)


def _phrase(status: int) -> str:
    return f" {HTTPStatus(status).phrase}" if status in set(HTTPStatus) else ""


# --- the vendor's own words ---------------------------------------------------------------------

WORDS_LIMIT = 200

# Beddit, BACE (Yii2), an OAuth2 server, and Yii2's list of validation errors.
SPELLINGS = (
    ("error", "description"),
    ("error", "error_description"),
    ("name", "message"),
    ("field", "message"),
)

ADDRESS_QUERY = re.compile(r"(https?://[^\s?]+)\?\S+", re.IGNORECASE)

HIDDEN = "***"


def vendor_words(body: bytes, secrets: Iterable[str]) -> str:
    """The identifier and description in an error's JSON body, free of secrets; empty when there are none."""
    try:
        words = _words(json.loads(body))
    except (ValueError, RecursionError):
        return ""
    # Redacted first and shortened after, lest half a secret stays at the end.
    return " ".join(redact(words, secrets).split())[:WORDS_LIMIT]


def redact(text: str, secrets: Iterable[str]) -> str:
    """Text without the secrets, and without the queries of addresses, which may be signed."""
    # The longest first: one secret may be a part of another.
    for secret in sorted(filter(None, secrets), key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    return ADDRESS_QUERY.sub(rf"\1?{HIDDEN}", text)


def _words(payload: Any) -> str:
    if isinstance(payload, list):
        payload = payload[0] if payload else None
    if not isinstance(payload, dict):
        return ""
    return max((_spelled(payload, *keys) for keys in SPELLINGS), key=len)


def _spelled(payload: dict[str, Any], *keys: str) -> str:
    return ": ".join(payload[key] for key in keys if isinstance(payload.get(key), str))
