"""No exception of aiohttp gets past the door."""

import asyncio
import os
import socket
from collections.abc import Iterator

import aiohttp
import pytest

from sync.errors import AddressRefused, AnswerTooLarge, ConnectionEnded, SourceUnavailable, SyncError
from sync.transport.failures import FAILURES, failure, translated


def family(kind: type) -> Iterator[type]:
    """Walk a class and all that inherit from it."""
    yield kind
    for child in kind.__subclasses__():
        yield from family(child)


def test_every_exception_of_aiohttps_client_is_listed():
    """When aiohttp grows a new exception, this fails until somebody has decided what it means."""
    assert set(family(aiohttp.ClientError)) - set(FAILURES) == set()


@pytest.mark.parametrize("kind", FAILURES, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("in_body", [False, True])
def test_every_entry_makes_an_error(kind, in_body):
    """Each listed class becomes one of our errors, with a sentence, without its own message."""
    error = kind.__new__(kind, "https://h/x?signature=geheim")
    made = failure(error, "GET h/x", in_body=in_body)
    assert isinstance(made, SyncError)
    assert str(made).startswith("GET h/x: ")
    assert "geheim" not in str(made)


@pytest.mark.parametrize("kind", [k for k, v in FAILURES.items() if issubclass(v.error, SourceUnavailable)])
def test_trouble_inside_a_body_asks_for_less(kind):
    """Once an answer has begun, losing it means that a smaller one should be asked for."""
    assert isinstance(failure(kind.__new__(kind), "GET h/x", in_body=True), AnswerTooLarge)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (TimeoutError(), AnswerTooLarge),
        (aiohttp.SocketTimeoutError(), AnswerTooLarge),
        (aiohttp.ConnectionTimeoutError(), SourceUnavailable),
        (aiohttp.ServerDisconnectedError(), ConnectionEnded),
        (ConnectionResetError(), ConnectionEnded),
        (aiohttp.InvalidURL("x"), AddressRefused),
    ],
)
def test_errors_are_sorted_by_what_to_do(error, expected):
    """Slow means less, broken means later, unreadable means never."""
    assert type(failure(error, "GET h/x")) is expected


def test_the_operating_systems_words_are_kept():
    """The message has the reason of a failed connection, which is safe and helps."""
    error = aiohttp.ClientConnectorDNSError(None, socket.gaierror(-2, "Name or service not known"))
    assert "Name or service not known" in str(failure(error, "GET h/x"))
    assert os.strerror(104) in str(failure(ConnectionResetError(104, os.strerror(104)), "GET h/x"))


def test_no_traceback_shows_the_original():
    """The original, which may quote a signed address, is not printed with our error."""
    with pytest.raises(SourceUnavailable) as caught, translated("GET h/x"):
        raise aiohttp.ConnectionTimeoutError("Connection timeout to host https://h/x?signature=geheim")
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


@pytest.mark.parametrize("error", [ValueError("a defect"), asyncio.CancelledError(), KeyboardInterrupt()])
def test_everything_else_passes(error):
    """Defects and cancellation are not dressed up as a vendor's trouble."""
    with pytest.raises(type(error)) as caught, translated("GET h/x"):
        raise error
    assert caught.value is error
