"""The door between asyncpg's errors and ours: what PostgreSQL says, sorted by what to do next."""

from __future__ import annotations

import errno
import os
import re
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import asyncpg

from sync.errors import ConfigurationError, StorageUnavailable, SyncError

_ASK_FOR_HELP: Mapping[type[BaseException], str] = {
    asyncpg.InvalidAuthorizationSpecificationError: "check the user and the password in warehouse.dsn",
    asyncpg.InvalidCatalogNameError: "create the database, or correct warehouse.dsn",
    asyncpg.InsufficientPrivilegeError: "grant the role what it lacks; `nightshift check` lists it",
    asyncpg.ClientConfigurationError: "correct warehouse.dsn",
}
"""What only a person can mend, and how."""

_TRY_AGAIN: tuple[type[BaseException], ...] = (
    asyncpg.PostgresConnectionError,
    asyncpg.InternalClientError,  # what it stumbles over when a connection is ended under its feet
    asyncpg.InterfaceError,  # "connection is closed", "another operation is in progress" after a cut
    asyncpg.InsufficientResourcesError,  # too many connections, disk full, out of memory
    asyncpg.OperatorInterventionError,  # terminated, shutting down, starting up, statement_timeout
    asyncpg.TransactionRollbackError,  # deadlock, serialisation failure
    asyncpg.LockNotAvailableError,
    asyncpg.IdleInTransactionSessionTimeoutError,  # ends the connection
    asyncpg.ReadOnlySQLTransactionError,  # a standby, perhaps on its way to be the primary
    asyncpg.TargetServerAttributeNotMatched,
    asyncpg.PostgresSystemError,  # I/O errors of the server's disk
    asyncpg.InvalidCachedStatementError,  # the schema changed under an open connection
    asyncpg.OutdatedSchemaCacheError,
    ConnectionError,
    TimeoutError,
    OSError,
)

_MAKE_ROOM: Mapping[type[BaseException], str] = {
    asyncpg.TooManyConnectionsError: "raise max_connections, or lower warehouse.pool_size",
    asyncpg.DiskFullError: "make room on PostgreSQL's disk",
    asyncpg.ReadOnlySQLTransactionError: "if that lasts, name the primary in warehouse.dsn",
}
"""What can be waited for, and sooner mended by a person."""

_NO_WAY = frozenset({errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EHOSTDOWN, errno.ETIMEDOUT})

# asyncio puts the address into the text, and where it tried several, their errors too.
_PLACE = re.compile(r"\('([^']+)', (\d+)")
_NUMBER = re.compile(r"\[Errno (\d+)\]")


def translate(error: BaseException) -> SyncError | None:
    """Our error for one of PostgreSQL's; None for a defect, which should surface as it is."""
    for refusal, advice in _ASK_FOR_HELP.items():
        if isinstance(error, refusal):
            return ConfigurationError(f"PostgreSQL refuses: {_first_line(error)}; {advice}")
    if isinstance(error, _TRY_AGAIN):
        return StorageUnavailable(_unavailable(error))
    return None


@contextmanager
def translated() -> Iterator[None]:
    """Raise our errors in place of asyncpg's, with the original as the cause."""
    try:
        yield
    except (
        asyncpg.PostgresError,
        asyncpg.InterfaceError,
        asyncpg.InternalClientError,
        OSError,
    ) as error:
        ours = translate(error)
        if ours is None:
            raise
        raise ours from error


def _unavailable(error: BaseException) -> str:
    """What happened, where, and what to do; of warehouse.dsn only where that is what was tried."""
    if isinstance(error, socket.gaierror):
        return f"PostgreSQL's host is not known ({error.strerror}): check the host in warehouse.dsn"
    places = [f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in _places(error)]
    server = f"PostgreSQL at {' and '.join(places)}" if places else "PostgreSQL"
    numbers = _numbers(error)
    if numbers == {errno.ECONNREFUSED}:
        advice = "start it, or correct host and port in warehouse.dsn" if places else "see that it is running"
        return f"{server} refuses the connection: {advice}"
    if numbers and numbers <= _NO_WAY:
        why = os.strerror(min(numbers))
        return f"{server} cannot be reached ({why}): check warehouse.dsn, and the network between"
    if numbers == {errno.ENOENT}:
        return f"{server} has no socket there: see that it is running"
    if isinstance(error, TimeoutError):
        return f"{server} does not answer in time: see that it is running, and that the network is well"
    advices = (advice for kind, advice in _MAKE_ROOM.items() if isinstance(error, kind))
    return "; ".join((f"{server}: {_first_line(error)}", *advices))


def _places(error: BaseException) -> Sequence[tuple[str, str]]:
    return _PLACE.findall(str(error)) if isinstance(error, OSError) else ()


def _numbers(error: BaseException) -> frozenset[int]:
    """The operating system's numbers for what happened."""
    if not isinstance(error, OSError):
        return frozenset()
    return frozenset({error.errno} if error.errno else map(int, _NUMBER.findall(str(error))))


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
