"""Several batches as one: a commit costs about as much for a page of rows as for twenty."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Final

from sync.ahead import ReadAhead
from sync.model import Batch

MOST_ROWS: Final = 20_000
"""So many rows are committed without waiting for more."""

LONGEST_S: Final = 1.0
"""Seconds that an answer waits for others."""


async def gathered(
    batches: AsyncGenerator[Batch, None], clock: Callable[[], float] = time.monotonic
) -> AsyncGenerator[Batch, None]:
    """The batches of a stream in their order, as few as their limits allow.

    The next answer is asked for while the last ones are stored. What came before an error is given out, and
    then the error is raised.
    """
    held: list[Batch] = []
    until = 0.0
    async with aclosing(ReadAhead(batches)) as ahead:
        while True:
            if held and (_is_enough(held) or clock() >= until or not await ahead.comes(until - clock())):
                whole, held = together(held), []
                yield whole
            try:
                batch = await ahead.next()
            except Exception:
                if held:
                    yield together(held)
                raise
            if batch is None:
                break
            until = until if held else clock() + LONGEST_S
            held.append(batch)
    if held:
        yield together(held)


def _is_enough(held: Sequence[Batch]) -> bool:
    return sum(batch.read for batch in held) >= MOST_ROWS


def together(batches: Sequence[Batch]) -> Batch:
    """Stretches and updates of batches that follow each other, as one batch; they may have nothing else."""
    if any(replace(batch, stretches=(), updates=(), read=0) != Batch(batch.stream) for batch in batches):
        raise AssertionError("only stretches and updates can be gathered")
    return Batch(
        batches[0].stream,
        stretches=tuple(stretch for batch in batches for stretch in batch.stretches),
        updates=tuple(update for batch in batches for update in batch.updates),
        read=sum(batch.read for batch in batches),
    )
