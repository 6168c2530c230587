"""What ``nightshift rejects retry`` does: the records of open rejects, read again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

from rich.console import Console

from sync.app.accounts import configured_accounts
from sync.app.work import open_app
from sync.commands.rejects import Choice, find_rejects
from sync.config import Settings
from sync.model import RunOutcome, Task
from sync.observe.logging import Redactor
from sync.observe.tables import plain
from sync.ports import Observer
from sync.storage.triage import FiledReject


@dataclass(frozen=True, slots=True)
class Retried:
    """What became of rejects whose records were read again.

    Attributes:
        outcomes: The runs.
        mended: Those that are resolved now.
        open: Those that are not.
        passed_over: Those that could not be tried, and why.
    """

    outcomes: Sequence[RunOutcome]
    mended: Sequence[FiledReject]
    open: Sequence[FiledReject]
    passed_over: Sequence[tuple[FiledReject, str]]

    @property
    def is_well(self) -> bool:
        """Whether nothing is left."""
        return not (self.open or self.passed_over or any(outcome.error for outcome in self.outcomes))

    def plain(self) -> Iterable[Mapping[str, Any]]:
        """A line for each reject, as values that JSON has words for."""
        reasons: list[tuple[FiledReject, str, str | None]] = []
        reasons += [(reject, "not tried", why) for reject, why in self.passed_over]
        reasons += [(reject, "open", reject.reason) for reject in self.open]
        reasons += [(reject, "mended", None) for reject in self.mended]
        for reject, result, reason in reasons:
            named = {"source": reject.source, "account": reject.account, "item_key": reject.item_key}
            yield {**named, "result": result, "reason": reason}


async def retry_rejects(
    settings: Settings, choice: Choice, redactor: Redactor, observer: Observer
) -> Retried:
    """Read the records of open rejects again, now.

    Raises:
        ConfigurationError: One was named, and there is none of that name.
    """
    found = await find_rejects(settings, replace(choice, payloads=False))
    chosen = [reject for reject in found if reject.resolved_at is None]
    configured = configured_accounts(settings)
    passed_over = [
        (reject, f"account {reject.account} of {reject.source} is not configured (any more)")
        for reject in chosen
        if reject.account not in configured.get(reject.source, ())
    ]
    outcomes: list[RunOutcome] = []
    tried = [reject for reject in chosen if reject.account in configured.get(reject.source, ())]
    if not tried:
        return Retried(outcomes, (), (), passed_over)
    async with open_app(settings, redactor, observer, command="rejects retry") as app:
        for (source, account), group in groupby(tried, key=lambda reject: (reject.source, reject.account)):
            task = Task("retry", rejects=tuple(reject.reject for reject in group))
            outcomes += await app.run(task, source=source, account=account)
        still = await app.triage.rejects(source=choice.source, account=choice.account, payloads=False)
        left = {(r.source, r.account, r.item_key): r for r in still}
    keys = [(reject.source, reject.account, reject.item_key) for reject in tried]
    mended = [reject for key, reject in zip(keys, tried, strict=True) if key not in left]
    return Retried(outcomes, mended, [left[key] for key in keys if key in left], passed_over)


def show_retried(console: Console, retried: Retried, redactor: Redactor) -> None:
    """What came of each, and why some could not be tried."""
    for reject in retried.mended:
        console.print(f"[green]mended[/]     {plain(reject.item_key)}")
    for reject in retried.open:
        console.print(f"[yellow]still open[/] {plain(reject.item_key)}: {plain(reject.reason)}")
    for reject, why in retried.passed_over:
        console.print(f"[red]not tried[/]  {plain(reject.item_key)}: {plain(why)}")
    for outcome in retried.outcomes:
        if outcome.error is not None:
            message = redactor.redact(str(outcome.error) or type(outcome.error).__name__)
            console.print(f"[red]{outcome.source}/{outcome.account}[/] {plain(message)}")
    if not (retried.mended or retried.open or retried.passed_over):
        console.print("there is nothing to retry")
