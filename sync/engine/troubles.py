"""What is wrong right now: said once when it begins and once when it ends, however often it is met.

Three kinds of subject: the warehouse; a source that answers nobody (``beddit``); one account of a source that
answers others (``beddit/alice``).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Protocol

import structlog

from sync.errors import LeaseLost, RetryableError, StorageUnavailable

log = structlog.get_logger(__name__)

WAREHOUSE: Final = "warehouse"


class Listener(Protocol):
    """Who else wants to know."""

    def outage(self, subject: str, on: bool) -> None:
        """A trouble has begun or ended."""


class _Nobody:
    def outage(self, subject: str, on: bool) -> None:
        pass


@dataclass(slots=True)
class _Contact:
    """How talking to a source goes.

    Attributes:
        succeeded_at: When an account's run last ended well.
        victims: Accounts that failed since the source's outage began, and have not succeeded since.
    """

    succeeded_at: float = float("-inf")
    victims: set[str] = field(default_factory=set)


class Troubles:
    """Turns a stream of failures and successes into beginnings and ends.

    Whether a vendor is away or only one account cannot reach it shows in the others: a failure is the
    source's when nobody has succeeded since the failed attempt began. An account that fails again after the
    source was found to be there is in trouble of its own.

    Args:
        listener: Told of beginnings and ends.
        clock: Seconds.
    """

    def __init__(self, listener: Listener | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._listener = listener or _Nobody()
        self.now = clock
        self._open: dict[str, tuple[float, str]] = {}
        self._contacts: dict[str, _Contact] = {}

    @property
    def open(self) -> frozenset[str]:
        """What is wrong right now."""
        return frozenset(self._open)

    def run_ended(
        self, source: str, account: str, error: Exception | None, message: str, begun_at: float
    ) -> None:
        """An account's run has ended.

        Args:
            source: Its source.
            account: The account.
            error: Why it failed; None: it did not.
            message: The error for a person, free of secrets.
            begun_at: When it began, by ``now``.
        """
        match error:
            case None:
                self._succeeded(source, account)
            case LeaseLost():
                pass  # not the account's trouble; whoever lost it says so
            case StorageUnavailable():
                self.warehouse_failed(message)
            case RetryableError() if self._is_everybodys(source, account, begun_at):
                self._contacts[source].victims.add(account)
                self._begin(source, message, error)
            case _:
                self._begin(f"{source}/{account}", message, error)

    def warehouse_failed(self, message: str) -> None:
        """The warehouse was asked and did not answer."""
        self._begin(WAREHOUSE, message)

    def warehouse_answered(self) -> None:
        """The warehouse is there."""
        self._end(WAREHOUSE)

    def _succeeded(self, source: str, account: str) -> None:
        contact = self._contacts.setdefault(source, _Contact())
        contact.succeeded_at = self.now()
        contact.victims.discard(account)
        self._end(source)
        self._end(f"{source}/{account}")

    def _is_everybodys(self, source: str, account: str, begun_at: float) -> bool:
        contact = self._contacts.setdefault(source, _Contact())
        if source in self._open:
            return True
        if f"{source}/{account}" in self._open or account in contact.victims:
            return False
        return contact.succeeded_at < begun_at

    def _begin(self, subject: str, message: str, error: Exception | None = None) -> None:
        kind = "unavailable" if error is None or isinstance(error, RetryableError) else type(error).__name__
        known = self._open.get(subject)
        if known is not None and known[1] == kind:
            return
        self._open[subject] = (self.now() if known is None else known[0], kind)
        log.error("outage.began", subject=subject, kind=kind, error=message)
        if known is None:
            self._listener.outage(subject, True)

    def _end(self, subject: str) -> None:
        if subject in self._open:
            since, _ = self._open.pop(subject)
            log.info("outage.ended", subject=subject, seconds=round(self.now() - since, 1))
            self._listener.outage(subject, False)
