"""``nightshift verify``: a verification of every account, and what is left to do after it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sync.app.work import open_app
from sync.config import Settings
from sync.model import VERIFICATION, Extent, Pass, RunOutcome, StreamKey, Task
from sync.observe.logging import Redactor
from sync.ports import Observer


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of a verification.

    Attributes:
        outcomes: One for each account.
        differences: Open ones of these accounts, whoever found them, and those that were mended now.
        extents: What was compared, by account (source, account). One that is missing here has nothing that
            could be: nothing of it was read yet.
    """

    outcomes: Sequence[RunOutcome]
    differences: Sequence[Mapping[str, Any]]
    extents: Mapping[tuple[str, str], Extent]

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
        extent = self.extents.get(chosen, Extent())
        return {
            "what": "account",
            "source": outcome.source,
            "account": outcome.account,
            "result": self._result(outcome, is_open),
            "open": is_open,
            "mended": self.mended(*chosen),
            "sessions": extent.sessions,
            "from": extent.first and extent.first.isoformat(),
            "to": extent.last and extent.last.isoformat(),
            "read_since": extent.read_since and extent.read_since.isoformat(),
            "missing_upstream": extent.vanished,
            "requests": outcome.traffic.requests,
            "bytes": outcome.traffic.received_bytes,
            "error": redact(str(outcome.error)) if outcome.error else None,
        }

    def _result(self, outcome: RunOutcome, is_open: int) -> str:
        if outcome.error is not None:
            return "failed"
        if (outcome.source, outcome.account) not in self.extents:
            return "nothing was read yet"
        return "differs" if is_open else "equal"

    @property
    def is_equal(self) -> bool:
        """Whether everything was compared, and nothing differs any more."""
        return not (
            any(outcome.error for outcome in self.outcomes)
            or any((one.source, one.account) not in self.extents for one in self.outcomes)
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
        extents = {}
        for chosen, outcome in zip(accounts, outcomes, strict=True):
            state = await app.warehouse.stream(StreamKey(*chosen, VERIFICATION))
            if (done := Pass.load(state.cursor)) is not None:
                is_older = outcome.error is not None and done.ended and done.began_at < began_at
                extents[chosen] = Extent() if is_older else done.extent
        return Verdict(outcomes, await app.warehouse.differences(accounts, began_at), extents)


def _is_of(row: Mapping[str, Any], source: str, account: str) -> bool:
    return (row["source"], row["account"]) == (source, account)
