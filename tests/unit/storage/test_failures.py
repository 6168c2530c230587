"""Every error that asyncpg knows is sorted on purpose: ask for help, try again, or surface as a defect."""

from __future__ import annotations

import ssl

import asyncpg
import pytest

from sync.errors import ConfigurationError, StorageUnavailable
from sync.storage.failures import translate, translated

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
    "InvalidCachedStatementError",
    "LockNotAvailableError",
    "OperatorInterventionError",
    "OutOfMemoryError",
    "OutdatedSchemaCacheError",
    "PostgresConnectionError",
    "PostgresIOError",
    "PostgresSystemError",
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
    "InternalClientError",
    "PostgresError",
    "ProtocolError",
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


@pytest.mark.parametrize(
    "error", [ConnectionResetError("reset"), TimeoutError(), OSError("no route"), ssl.SSLError("bad")]
)
def test_the_network_s_errors_are_tried_again(error):
    """What the operating system says of a connection becomes StorageUnavailable, with its cause."""
    with pytest.raises(StorageUnavailable, match=str(error) or "TimeoutError") as caught, translated():
        raise error
    assert caught.value.__cause__ is error


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
