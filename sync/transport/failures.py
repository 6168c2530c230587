"""The door for requests without a (whole) answer: aiohttp's exceptions become ours.

The original is dropped on purpose: aiohttp writes whole addresses, signatures included, into some of its
messages, and a traceback would print them. What is safe and useful of it goes into our own message.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import aiohttp

from sync.errors import (
    AddressRefused,
    AnswerTooLarge,
    ConnectionEnded,
    SourceContractError,
    SourceUnavailable,
    SyncError,
)


@dataclass(frozen=True, slots=True)
class Failure:
    """What an exception becomes, and what to say about it."""

    error: type[SyncError]
    said: str


UNREACHABLE = Failure(SourceUnavailable, "the host cannot be reached; check the network, or wait")
UNKNOWN_HOST = Failure(SourceUnavailable, "the host's name cannot be resolved; check its spelling and DNS")
TLS = Failure(SourceUnavailable, "no trusted TLS connection; check the clock and the certificate authorities")
CONNECTING = Failure(SourceUnavailable, "the connection took too long; check the network, or wait")
BROKEN = Failure(ConnectionEnded, "the connection ended without a whole answer")
GARBLED = Failure(SourceUnavailable, "the answer is not valid HTTP")
TOO_SLOW = Failure(AnswerTooLarge, "the vendor took too long; ask for less, or later")
CUT = Failure(AnswerTooLarge, "the answer was cut off; ask for less, or later")
BAD_ADDRESS = Failure(AddressRefused, "the address is not a complete http or https address")
# aiohttp's WebSocket, proxy and redirect features are not in use; seeing these means that somebody else's
# software answered.
UNUSED = Failure(SourceContractError, "the answer belongs to a protocol that nightshift does not speak")

# Every exception class of aiohttp's client has a line of its own; a test compares. The most specific wins.
FAILURES: Mapping[type[BaseException], Failure] = {
    aiohttp.ClientError: BROKEN,
    aiohttp.ClientConnectionError: BROKEN,
    aiohttp.ClientConnectionResetError: BROKEN,
    aiohttp.ClientOSError: BROKEN,
    aiohttp.ClientConnectorError: UNREACHABLE,
    aiohttp.ClientConnectorDNSError: UNKNOWN_HOST,
    aiohttp.client_exceptions.UnixClientConnectorError: UNREACHABLE,
    aiohttp.ClientProxyConnectionError: UNREACHABLE,
    aiohttp.ClientSSLError: TLS,
    aiohttp.ClientConnectorSSLError: TLS,
    aiohttp.ClientConnectorCertificateError: TLS,
    aiohttp.ServerFingerprintMismatch: TLS,
    aiohttp.ServerConnectionError: BROKEN,
    aiohttp.ServerDisconnectedError: BROKEN,
    aiohttp.ServerTimeoutError: TOO_SLOW,
    aiohttp.ConnectionTimeoutError: CONNECTING,
    aiohttp.SocketTimeoutError: TOO_SLOW,
    aiohttp.ClientPayloadError: CUT,
    aiohttp.client_exceptions.UploadAbortedError: BROKEN,
    aiohttp.ClientResponseError: GARBLED,
    aiohttp.ContentTypeError: GARBLED,
    aiohttp.ClientHttpProxyError: UNUSED,
    aiohttp.WSServerHandshakeError: UNUSED,
    aiohttp.TooManyRedirects: UNUSED,
    aiohttp.RedirectClientError: UNUSED,
    aiohttp.InvalidURL: BAD_ADDRESS,
    aiohttp.InvalidUrlClientError: BAD_ADDRESS,
    aiohttp.InvalidUrlRedirectClientError: BAD_ADDRESS,
    aiohttp.NonHttpUrlClientError: BAD_ADDRESS,
    aiohttp.NonHttpUrlRedirectClientError: BAD_ADDRESS,
    TimeoutError: TOO_SLOW,
    OSError: BROKEN,
}

CAUGHT = (aiohttp.ClientError, OSError)  # TimeoutError is an OSError


@contextmanager
def translated(where: str, *, in_body: bool = False) -> Iterator[None]:
    """Turn what aiohttp and the operating system raise inside into our own errors."""
    try:
        yield
    except CAUGHT as error:
        raise failure(error, where, in_body=in_body) from None


def failure(error: BaseException, where: str, *, in_body: bool = False) -> SyncError:
    """Our error for one of theirs.

    Args:
        error: What was raised.
        where: Names the request.
        in_body: The answer had begun. Whatever went wrong then, a smaller answer had a better chance.
    """
    found = next(FAILURES[kind] for kind in type(error).__mro__ if kind in FAILURES)
    if in_body and issubclass(found.error, SourceUnavailable) and found is not TOO_SLOW:
        found = CUT
    return found.error(f"{where}: {found.said} ({_detail(error)}).")


def _detail(error: BaseException) -> str:
    """The operating system's words or the exception's class; its message may hold an address."""
    cause = getattr(error, "certificate_error", None) or getattr(error, "os_error", None) or error
    words = getattr(cause, "verify_message", None) or getattr(cause, "strerror", None)
    return words or type(error).__name__
