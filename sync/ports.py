"""What the rooms expect of each other: narrow protocols, implemented elsewhere.

A *source* plans *units* of work. A unit is a stream of *batches*. The *sink* commits one batch in one
transaction. What travels back to a source is read through ``Warehouse``: progress, hints, and which of its
own items are still due.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from datetime import datetime
from typing import Any, Protocol

from sync.model import Batch, Fault, Record, RunOutcome, StreamKey, StreamState, Tally, Task, Traffic


class Unit(Protocol):
    """One piece of work that can be run again at any time: an account's window, a session, a blob."""

    @property
    def stream(self) -> StreamKey:
        """The stream whose progress the unit moves."""

    @property
    def label(self) -> str:
        """What a person would call it, for logs and progress."""

    def batches(self) -> AsyncGenerator[Batch, None]:
        """Talk to the vendor; yield what shall be committed, in order."""


class Source(Protocol):
    """One vendor."""

    @property
    def name(self) -> str:
        """The vendor's short name, as in ``[beddit]``."""

    @property
    def accounts(self) -> Sequence[str]:
        """The configured accounts."""

    def plan(self, account: str, task: Task) -> AsyncGenerator[Sequence[Unit], None]:
        """Plan an account's work as groups of units.

        The units of one group do not depend on each other and may run side by side. The next group is
        planned only when the last one has been committed, from what the warehouse then says.
        """

    def traffic(self, account: str) -> Traffic:
        """What the account's requests have cost since the process began."""

    async def probe(self, account: str) -> datetime | None:
        """Prove an account's credentials, and each right that it needs, with one cheap request apiece.

        Returns:
            The vendor's clock; None where it does not say.

        Raises:
            SyncError: What is refused, or why nobody answered, and what to do.
        """

    async def aclose(self) -> None:
        """Close connections."""


class Sink(Protocol):
    """Where batches go."""

    async def commit(self, run: int, batch: Batch) -> Tally:
        """Store a batch and its progress in one transaction, all or nothing, and add to the run's tally.

        Raises ``LeaseLost`` where the run was ended by somebody else.
        """


class Warehouse(Protocol):
    """What a source may read back."""

    async def stream(self, key: StreamKey) -> StreamState:
        """A stream's progress; empty for a stream never seen."""

    async def knowledge(self, source: str) -> Mapping[str, Any]:
        """Hints learned about a vendor, by name."""

    async def fetch(self, query: str, *args: Any) -> Sequence[Mapping[str, Any]]:
        """Rows of a query over the source's own tables."""

    async def compare(
        self, records: Sequence[Record], *, columns: Sequence[str] | None = None
    ) -> Mapping[str, Fault]:
        """How the stored versions of records of one kind differ from these, by label; equal ones left out.

        With ``columns`` the records are known by these alone, and nothing else is looked at.
        """


class Ledger(Protocol):
    """The record of what was done, for people to read in SQL."""

    async def begin(self, source: str, account: str, task: Task) -> int:
        """Open a run's row; its number identifies the run. Raises ``LeaseLost``."""

    async def finish(self, run: int, outcome: RunOutcome, *, verdict: str, error: str | None) -> None:
        """Close a run's row: done, paused, failed or interrupted, with an error free of secrets."""

    async def failed(self, run: int, stream: StreamKey, error: str) -> None:
        """Note why a stream's last attempt failed; its progress stays where it was."""


class Worker(Protocol):
    """This process among those that share the warehouse."""

    async def beat(self) -> Sequence[object]:
        """Say that we live, and take over from those who do not: those whose accounts are free now.

        Raises ``LeaseLost`` where others have taken over from us.
        """


class Leases(Protocol):
    """Who works on which account: one process at a time."""

    async def due(
        self, source: str, accounts: Sequence[str], work: str, cycle: datetime, *, retry_failed: bool = False
    ) -> Sequence[str]:
        """Accounts that nobody works on, and that were not done in a cycle yet."""

    async def claim(
        self,
        source: str,
        accounts: Sequence[str],
        work: str,
        cycle: datetime | None = None,
        *,
        retry_failed: bool = False,
    ) -> AbstractSet[str]:
        """Take what is free and due of these; without a cycle, all that is free."""

    async def release(
        self,
        source: str,
        account: str,
        *,
        done: bool,
        failed: bool | None = None,
        retry: bool = False,
    ) -> None:
        """Give an account back; where the work is not done, it is due again at once, or soon (``retry``)."""

    async def holder(self, source: str, account: str) -> str | None:
        """Who works on an account, for a person to read."""


class Observer(Protocol):
    """Who is told how work goes: a progress display, a log, metrics."""

    def planned(self, source: str, account: str, units: Sequence[Unit]) -> None:
        """A group of units is about to run."""

    def committed(self, source: str, account: str, unit: Unit, batch: Batch, tally: Tally) -> None:
        """A batch is in the warehouse."""

    def finished(self, outcome: RunOutcome) -> None:
        """An account's run has ended."""
