"""How a command runs, and how it ends: with an exit code, and with a sentence if it is not 0."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import typer
from rich.markup import escape

from sync.cli.output import err
from sync.errors import ConfigurationError, StorageUnavailable, SyncError

if TYPE_CHECKING:
    from sync.model import RunOutcome

T = TypeVar("T")

DONE, FAILED, MISCONFIGURED, INTERRUPTED = 0, 1, 2, 130

ENDINGS = {
    signal.SIGINT: ("interrupted", INTERRUPTED),
    signal.SIGTERM: ("terminated", 143),
    signal.SIGHUP: ("the terminal is gone", 129),
}
_PATIENCE_S = 10.0
"""How long ending in order may take before another signal ends at once."""

_GOES_ON = "what was committed stays, and the same command goes on from there"


def run(work: Coroutine[Any, Any, T], *, farewell: str = _GOES_ON) -> T:
    """Run to the end, or to a signal: the batch in hand is committed or rolled back, whole.

    A signal cancels the work, which then ends in order: its runs are closed and the embedded server stops.
    That takes a moment, in which further signals change nothing. Where it takes ``_PATIENCE_S`` (a database
    that does not answer), another one ends the process at once.
    """
    import asyncio

    received: list[signal.Signals] = []
    asked_at = 0.0

    async def until_signal() -> T:
        task = asyncio.ensure_future(work)

        def end(number: signal.Signals) -> None:
            nonlocal asked_at
            received.append(number)
            if len(received) == 1:
                asked_at = time.monotonic()
                task.cancel()
            elif time.monotonic() - asked_at < _PATIENCE_S:
                err.print("[dim]ending already: the batch in hand is finished, the database closed ...[/]")
            else:
                err.print("[dim]ended at once: what was not committed will be read again[/]")
                os._exit(128 + number)

        for number in ENDINGS:
            if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup wants it
                asyncio.get_running_loop().add_signal_handler(number, end, number)
        await asyncio.wait([task])
        return task.result()

    with explained():
        try:
            return asyncio.run(until_signal())
        except asyncio.CancelledError:
            if not received:
                raise
            name, code = ENDINGS[received[0]]
            fail(code, f"{name}: {farewell}")


@contextmanager
def explained() -> Iterator[None]:
    """Turn what can go wrong into a sentence and an exit code."""
    try:
        yield
    except (ConfigurationError, StorageUnavailable) as error:
        fail(MISCONFIGURED, str(error))
    except SyncError as error:
        fail(FAILED, str(error))
    except KeyboardInterrupt:
        fail(INTERRUPTED, "interrupted")


def fail(code: int, message: str) -> NoReturn:
    """End with an exit code and a sentence."""
    err.print("[bold red]nightshift:[/]", escape(message), soft_wrap=True)
    raise SystemExit(code)


def exit_by(outcomes: Sequence[RunOutcome]) -> NoReturn:
    """End as the runs did."""
    raise typer.Exit(FAILED if any(outcome.error for outcome in outcomes) else DONE)
