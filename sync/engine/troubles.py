"""What is wrong right now: said once when it begins and once when it ends, however often it is met.

Three kinds of subject: the warehouse; a source that answers nobody (``beddit``); one account of a source that
answers others (``beddit/alice``).
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final, Protocol

import structlog

from sync.errors import (
    AuthenticationError,
    ConfigurationError,
    LeaseLost,
    RetryableError,
    StorageUnavailable,
)
from sync.model import RunOutcome

log = structlog.get_logger(__name__)

WAREHOUSE: Final = "warehouse"


class Listener(Protocol):
    """Who else wants to know."""

    def outage(self, subject: str, on: bool) -> None:
        """A trouble has begun or ended."""


class _Nobody:
    def outage(self, subject: str, on: bool) -> None:
        pass


class _Kind(IntEnum):
    """How much a trouble asks of a person; only a graver one is told on top of another."""

    WAIT = 1
    LOOK = 2
    ACT = 3


@dataclass(slots=True)
class _Contact:
    """How talking to a source goes.

    Attributes:
        succeeded_at: When an account's run last ended well.
        stumbled: Accounts whose last run failed by what may pass, and may have been the source's fault.
    """

    succeeded_at: float = float("-inf")
    stumbled: set[str] = field(default_factory=set)


class Troubles:
    """Turns a stream of failures and successes into beginnings and ends.

    Whether a vendor is away or only one account cannot reach it shows in the others: a failure is the
    source's when nobody has succeeded since the failed attempt began. Else it is the account's own trouble if
    it fails a second time: once is nothing. Whether the warehouse is away is for those to say who ask it for
    nothing else; a run that PostgreSQL ended meanwhile counts as an account's failure.

    Args:
        listener: Told of beginnings and ends.
        clock: Seconds.
    """

    def __init__(self, listener: Listener | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._listener = listener or _Nobody()
        self.now = clock
        self._open: dict[str, tuple[float, _Kind]] = {}
        self._unserved: set[str] = set()
        self._contacts: defaultdict[str, _Contact] = defaultdict(_Contact)

    @property
    def open(self) -> frozenset[str]:
        """What is wrong right now."""
        return frozenset(self._open)

    def run_ended(self, outcome: RunOutcome, message: str, begun_at: float) -> None:
        """An account's run has ended.

        Args:
            outcome: How. One that asked the vendor nothing and met no error proves nothing.
            message: Its error for a person, free of secrets.
            begun_at: When it began, by ``now``.
        """
        source, account = outcome.source, outcome.account
        match outcome.error:
            case None:
                if outcome.traffic.requests:
                    self._succeeded(source, account)
            case LeaseLost():
                pass  # not the account's trouble; whoever lost it says so
            case StorageUnavailable() | ConfigurationError():
                if WAREHOUSE not in self._open:
                    self._stumbled(source, account, message)
            case RetryableError():
                self._unanswered(source, account, message, begun_at)
            case AuthenticationError():
                self._begin(f"{source}/{account}", message, _Kind.ACT)
            case _:
                self._begin(f"{source}/{account}", message, _Kind.LOOK)

    def warehouse_failed(self, message: str, who: str) -> None:
        """The warehouse was asked and did not answer, or refuses us.

        Args:
            message: What it said.
            who: Who asked: the outage lasts until each who was not answered has been.
        """
        self._unserved.add(who)
        self._begin(WAREHOUSE, message, _Kind.WAIT)

    def warehouse_answered(self, who: str) -> None:
        """The warehouse is there for somebody."""
        self._unserved.discard(who)
        if not self._unserved:
            self._end(WAREHOUSE)

    def only(self, accounts: Mapping[str, Collection[str]]) -> None:
        """From now on there are no other accounts than these, by source."""
        for subject in self.open:
            source, _, account = subject.partition("/")
            if account and account not in accounts.get(source, ()):
                self._contacts[source].stumbled.discard(account)
                self._end(subject)

    def _succeeded(self, source: str, account: str) -> None:
        contact = self._contacts[source]
        contact.succeeded_at = self.now()
        contact.stumbled.discard(account)
        self._end(source)
        self._end(f"{source}/{account}")

    def _unanswered(self, source: str, account: str, message: str, begun_at: float) -> None:
        contact = self._contacts[source]
        if source in self._open:
            contact.stumbled.add(account)
        elif contact.succeeded_at < begun_at and account not in contact.stumbled:
            contact.stumbled.add(account)
            self._begin(source, message, _Kind.WAIT)
        else:
            self._stumbled(source, account, message)

    def _stumbled(self, source: str, account: str, message: str) -> None:
        stumbled = self._contacts[source].stumbled
        if account in stumbled:
            self._begin(f"{source}/{account}", message, _Kind.WAIT)
        stumbled.add(account)

    def _begin(self, subject: str, message: str, kind: _Kind) -> None:
        since, known = self._open.get(subject, (self.now(), None))
        if known is not None and known >= kind:
            return
        self._open[subject] = since, kind
        log.error("outage.began", subject=subject, kind=kind.name.lower(), error=message)
        if known is None:
            self._listener.outage(subject, True)

    def _end(self, subject: str) -> None:
        if subject in self._open:
            since, _ = self._open.pop(subject)
            log.info("outage.ended", subject=subject, seconds=round(self.now() - since, 1))
            self._listener.outage(subject, False)
