"""The door between asyncpg's errors and ours: what PostgreSQL says, sorted by what to do next."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
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


def translate(error: BaseException) -> SyncError | None:
    """Our error for one of PostgreSQL's; None for a defect, which should surface as it is."""
    for refusal, advice in _ASK_FOR_HELP.items():
        if isinstance(error, refusal):
            return ConfigurationError(f"PostgreSQL refuses: {_first_line(error)}; {advice}")
    if isinstance(error, _TRY_AGAIN):
        return StorageUnavailable(f"PostgreSQL: {_first_line(error)}")
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


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
