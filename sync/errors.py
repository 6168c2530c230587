"""What can go wrong, sorted by what to do next.

::

    SyncError
    ├── ConfigurationError         stop at start-up, exit code 2: the person changes something
    ├── AuthenticationError        stop this account and ask for a person; the others go on
    ├── AccountForgotten           a person's data was removed, and is not read again; the others go on
    ├── AccountBusy                another process works on this account: leave it to that one
    ├── LeaseLost                  another process took over this account: stop, store nothing more
    ├── RetryableError             wait and try again; may say how long
    │   ├── RateLimited            the vendor asked for a pause
    │   ├── SourceUnavailable      the vendor cannot be reached, or answered with a server error
    │   │   ├── AnswerTooLarge     the vendor took too long or cut its answer: ask for less
    │   │   └── ConnectionEnded    the vendor hung up without a word
    │   └── StorageUnavailable     PostgreSQL cannot be reached, or ended the connection
    ├── RequestRefused             the vendor refused this very request (400, 404, 410 ...)
    ├── AddressRefused             nightshift itself refuses to connect to that address
    └── SourceContractError        the vendor's answer has a shape that nobody documented
        └── AnswerBroken           it has the right shape up to a fault in its middle: its parts may be had

Everything else is a defect and is allowed to surface. A malformed *item* is no error at all: it is data,
and becomes a reject row (``sync.model.Reject``).

Messages are sentences for a person: what happened, where, and what to do. They never hold a token or a
signed address.
"""

from __future__ import annotations


class SyncError(Exception):
    """Base of every error that nightshift raises on purpose."""


class ConfigurationError(SyncError):
    """The configuration, the database or its schema does not allow work to start."""


class AuthenticationError(SyncError):
    """The vendor refused an account's credentials; retrying cannot help."""


class AccountForgotten(SyncError):
    """An account's data was removed by ``nightshift forget``: it is not read again."""


class AccountBusy(SyncError):
    """Another process works on an account; nothing was done here."""


class LeaseLost(SyncError):
    """This process was silent for too long, and another one took over: it may store nothing more."""


class RetryableError(SyncError):
    """The same request may succeed later.

    Attributes:
        retry_after: Seconds that the other side asked us to wait, already capped; None if it did not say.
    """

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class RateLimited(RetryableError):
    """The vendor answered 429: it wants fewer requests."""


class SourceUnavailable(RetryableError):
    """The vendor cannot be reached, or answered with a server error."""


class AnswerTooLarge(SourceUnavailable):
    """The vendor needed too long, or ended its answer half-way: a smaller request may succeed."""


class ConnectionEnded(SourceUnavailable):
    """The vendor took the request and hung up before it answered: trouble, or its way to time out."""


class StorageUnavailable(RetryableError):
    """PostgreSQL cannot be reached, or ended the connection."""


class RequestRefused(SyncError):
    """The vendor refused this request for what it asked.

    Attributes:
        status: The HTTP status.
    """

    def __init__(self, message: str, *, status: int) -> None:
        super().__init__(message)
        self.status = status


class AddressRefused(SyncError):
    """An address that a vendor handed out breaks the address policy; no connection was made."""


class SourceContractError(SyncError):
    """An answer does not have the documented shape; the stream stops, nothing is lost."""


class AnswerBroken(SourceContractError):
    """An answer is what it should be up to a fault: smaller questions may leave the fault out."""
