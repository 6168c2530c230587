"""Every error that asyncpg knows is sorted on purpose: ask for help, try again, or surface as a defect."""

from __future__ import annotations

import errno
import socket
import ssl

import asyncpg
import pytest

from sync.errors import ConfigurationError, StorageUnavailable
from sync.storage.failures import translate, translated
from sync.storage.migrate import schema_version

HELP = {
    "ClientConfigurationError",
    "InsufficientPrivilegeError",
    "InvalidAuthorizationSpecificationError",
    "InvalidCatalogNameError",
    "InvalidPasswordError",
}

AGAIN = {
    "AdminShutdownError",
    "CannotConnectNowError",
    "ClientCannotConnectError",
    "ConfigurationLimitExceededError",
    "ConnectionDoesNotExistError",
    "ConnectionFailureError",
    "ConnectionRejectionError",
    "CrashShutdownError",
    "DatabaseDroppedError",
    "DeadlockDetectedError",
    "DiskFullError",
    "DuplicateFileError",
    "FileNameTooLongError",
    "IdleInTransactionSessionTimeoutError",
    "IdleSessionTimeoutError",
    "InsufficientResourcesError",
    "InterfaceError",
    "InternalClientError",
    "InvalidCachedStatementError",
    "LockNotAvailableError",
    "OperatorInterventionError",
    "OutOfMemoryError",
    "OutdatedSchemaCacheError",
    "PostgresConnectionError",
    "PostgresIOError",
    "PostgresSystemError",
    "ProtocolError",
    "ProtocolViolationError",
    "QueryCanceledError",
    "ReadOnlySQLTransactionError",
    "SerializationError",
    "StatementCompletionUnknownError",
    "TargetServerAttributeNotMatched",
    "TooManyConnectionsError",
    "TransactionIntegrityConstraintViolationError",
    "TransactionResolutionUnknownError",
    "TransactionRollbackError",
    "UndefinedFileError",
    "UnsupportedClientFeatureError",
    "UnsupportedServerFeatureError",
}

# SQLSTATE classes in which PostgreSQL tells of a mistake in a statement, a value or a schema of ours.
DEFECT_CLASSES = {
    "03": "statement not yet complete",
    "09": "triggered action",
    "0A": "feature not supported",
    "0B": "invalid transaction initiation",
    "0F": "locator",
    "0L": "invalid grantor",
    "0P": "invalid role specification",
    "0Z": "diagnostics",
    "10": "XQuery",
    "20": "case not found",
    "21": "cardinality violation",
    "22": "data",
    "23": "integrity constraint",
    "24": "invalid cursor state",
    "25": "invalid transaction state",
    "26": "invalid statement name",
    "27": "triggered data change",
    "2B": "dependent objects",
    "2D": "invalid transaction termination",
    "2F": "SQL routine",
    "34": "invalid cursor name",
    "38": "external routine",
    "39": "external routine invocation",
    "3B": "savepoint",
    "3F": "invalid schema name",
    "42": "syntax or access rule",
    "44": "check option",
    "54": "program limit",
    "55": "object not in prerequisite state",
    "72": "snapshot too old",
    "F0": "configuration file",
    "HV": "foreign data",
    "P0": "PL/pgSQL",
    "XX": "internal error",
}

DEFECTS_WITHOUT_STATE = {
    "FatalPostgresError",
    "PostgresError",
    "UnknownPostgresError",
}


def public_errors():
    """Return every exception class that asyncpg offers by name."""
    found = {name: getattr(asyncpg.exceptions, name) for name in asyncpg.exceptions.__all__}
    return {
        name: kind
        for name, kind in found.items()
        if isinstance(kind, type) and issubclass(kind, Exception) and not issubclass(kind, Warning)
    }


@pytest.mark.parametrize(("name", "kind"), sorted(public_errors().items()))
def test_every_error_of_asyncpg_is_sorted(name, kind):
    """Each class asks for help, is tried again, or is in the list of what surfaces; none is forgotten."""
    ours = type(translate(kind("what it says")))
    if name in HELP:
        assert ours is ConfigurationError
    elif name in AGAIN:
        assert ours is StorageUnavailable
    else:
        assert ours is type(None)
        state = getattr(kind, "sqlstate", None)
        assert name in DEFECTS_WITHOUT_STATE if state is None else state[:2] in DEFECT_CLASSES


def test_the_lists_name_only_what_exists():
    """No list holds a name that asyncpg does not have."""
    assert set(public_errors()) >= HELP | AGAIN | DEFECTS_WITHOUT_STATE


@pytest.mark.parametrize("error", [ConnectionResetError("reset"), OSError("no route"), ssl.SSLError("bad")])
def test_the_network_s_errors_are_tried_again(error):
    """What the operating system says of a connection becomes StorageUnavailable, with its cause."""
    with pytest.raises(StorageUnavailable, match=str(error)) as caught, translated():
        raise error
    assert caught.value.__cause__ is error


REFUSED = "[Errno 111] Connect call failed"


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            ConnectionRefusedError(errno.ECONNREFUSED, "Connect call failed ('127.0.0.1', 5999)"),
            (
                "PostgreSQL at 127.0.0.1:5999 refuses the connection: start it, or correct host and port in "
                "warehouse.dsn"
            ),
        ),
        (
            OSError(f"Multiple exceptions: {REFUSED} ('::1', 5999, 0, 0), {REFUSED} ('127.0.0.1', 5999)"),
            (
                "PostgreSQL at [::1]:5999 and 127.0.0.1:5999 refuses the connection: start it, or correct "
                "host and port in warehouse.dsn"
            ),
        ),
        (
            ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"),
            "PostgreSQL refuses the connection: see that it is running",
        ),
        (
            OSError(errno.EHOSTUNREACH, "Connect call failed ('10.0.0.9', 5432)"),
            (
                "PostgreSQL at 10.0.0.9:5432 cannot be reached (No route to host): check warehouse.dsn, and "
                "the network between"
            ),
        ),
        (
            socket.gaierror(socket.EAI_NONAME, "Name or service not known"),
            "PostgreSQL's host is not known (Name or service not known): check the host in warehouse.dsn",
        ),
        (
            FileNotFoundError(errno.ENOENT, "No such file"),
            "PostgreSQL has no socket there: see that it is running",
        ),
        (
            TimeoutError(),
            "PostgreSQL does not answer in time: see that it is running, and that the network is well",
        ),
        (
            asyncpg.TooManyConnectionsError("sorry"),
            "PostgreSQL: sorry; raise max_connections, or lower warehouse.pool_size",
        ),
        (asyncpg.DiskFullError("no space"), "PostgreSQL: no space; make room on PostgreSQL's disk"),
    ],
)
def test_who_cannot_reach_it_is_told_what_to_do(error, message):
    """What happened, where, and what to do; of warehouse.dsn only where an address was tried."""
    assert str(translate(error)) == message


async def test_a_refused_connection_is_explained_without_the_password():
    """What really happens where nobody listens is understood: the address is named, nothing else of it."""
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        port = nobody.getsockname()[1]
        with pytest.raises(StorageUnavailable, match=f"127.0.0.1:{port} refuses the connection") as caught:
            await schema_version(f"postgresql://somebody:hunter2secret@127.0.0.1:{port}/db")
    assert "hunter2secret" not in str(caught.value)


@pytest.mark.parametrize("error", [ValueError("x"), asyncpg.UniqueViolationError("x"), KeyError("x")])
def test_a_defect_surfaces_as_it_is(error):
    """What nobody can wait out or configure away is raised unchanged."""
    with pytest.raises(type(error)) as caught, translated():
        raise error
    assert caught.value is error


@pytest.mark.parametrize("name", sorted(HELP | AGAIN))
def test_what_is_sorted_is_also_caught(name):
    """The door translates whatever it has a word for, whichever family the class comes from."""
    with pytest.raises((ConfigurationError, StorageUnavailable)), translated():
        raise public_errors()[name]("what it says")


def test_only_the_first_line_is_told():
    """A message's details, which may hold values, stay in the cause."""
    error = translate(asyncpg.DeadlockDetectedError("deadlock detected\nDETAIL: secret"))
    assert str(error) == "PostgreSQL: deadlock detected"
