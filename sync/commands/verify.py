"""``nightshift verify``: a verification of every account, and what is left to do after it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sync.app import open_app
from sync.config import Settings
from sync.model import VERIFICATION, RunOutcome, StreamKey, Task
from sync.observe.logging import Redactor
from sync.ports import Observer


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of a verification.

    Attributes:
        outcomes: One for each account.
        differences: Open ones of these accounts, whoever found them, and those that were mended now.
        unread: Accounts (source, account) of which nothing was read yet: there was nothing to compare.
    """

    outcomes: Sequence[RunOutcome]
    differences: Sequence[Mapping[str, Any]]
    unread: Collection[tuple[str, str]]

    def open(self, source: str, account: str) -> int:
        """How many differences an account has."""
        return sum(_is_of(row, source, account) and row["resolved_at"] is None for row in self.differences)

    def mended(self, source: str, account: str) -> int:
        """How many were mended."""
        return sum(
            _is_of(row, source, account) and row["resolved_at"] is not None for row in self.differences
        )

    def plain(self, outcome: RunOutcome, redact: Callable[[str], str]) -> dict[str, Any]:
        """An account's result as values that JSON has words for."""
        chosen = (outcome.source, outcome.account)
        is_open = self.open(*chosen)
        return {
            "source": outcome.source,
            "account": outcome.account,
            "result": self._result(outcome, is_open),
            "open": is_open,
            "mended": self.mended(*chosen),
            "requests": outcome.traffic.requests,
            "bytes": outcome.traffic.received_bytes,
            "error": redact(str(outcome.error)) if outcome.error else None,
        }

    def _result(self, outcome: RunOutcome, is_open: int) -> str:
        if outcome.error is not None:
            return "failed"
        if (outcome.source, outcome.account) in self.unread:
            return "nothing was read yet"
        return "differs" if is_open else "equal"

    @property
    def is_equal(self) -> bool:
        """Whether everything was compared, and nothing differs any more."""
        return not (
            self.unread
            or any(outcome.error for outcome in self.outcomes)
            or any(row["resolved_at"] is None for row in self.differences)
        )


async def verify(
    settings: Settings,
    task: Task,
    redactor: Redactor,
    observer: Observer,
    *,
    source: str | None,
    account: str | None,
) -> Verdict:
    """Verify the chosen accounts.

    Raises:
        ConfigurationError: No configured account fits the choice, or the database cannot be used.
        StorageUnavailable: It cannot be reached.
    """
    async with open_app(settings, redactor, observer, command=task.kind) as app:
        began_at = await app.warehouse.now()
        outcomes = await app.run(task, source=source, account=account)
        accounts = [(outcome.source, outcome.account) for outcome in outcomes]
        unread = {
            chosen
            for chosen, outcome in zip(accounts, outcomes, strict=True)
            if outcome.error is None
            and (await app.warehouse.stream(StreamKey(*chosen, VERIFICATION))).cursor is None
        }
        return Verdict(outcomes, await app.warehouse.differences(accounts, began_at), unread)


def _is_of(row: Mapping[str, Any], source: str, account: str) -> bool:
    return (row["source"], row["account"]) == (source, account)
