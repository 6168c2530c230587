"""Batches that follow each other quickly are one, in their order, and none of them is lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest

from sync.errors import SourceUnavailable
from sync.model import Batch, Progress, StreamKey, Stretch, Update
from sync.sources.bace import gathering
from sync.sources.bace.gathering import LONGEST_S, MOST_ROWS, gathered, together
from sync.sources.bace.tables import DATAPOINTS, DATASETS
from sync.sources.bace.walk import no_rows

STREAM = StreamKey("bace", "lab", "sessions")


class Clock:
    """A clock that goes only when it is told to."""

    now = 0.0

    def __call__(self) -> float:
        """What it shows."""
        return self.now


def batch(number: int, read: int = 1) -> Batch:
    """A batch that can be told from others."""
    stretch = Stretch(DATAPOINTS, UUID(int=number), 0, None, (), no_rows())
    update = Update(DATASETS, ("id_container_data_latest",), {"datatype": number})
    return Batch(STREAM, stretches=(stretch,), updates=(update,), read=read)


def numbers(one: Batch) -> list[int]:
    """Which batches became this one, by their stretches."""
    assert [update.row["datatype"] for update in one.updates] == [s.key.int for s in one.stretches]
    return [stretch.key.int for stretch in one.stretches]


async def given(
    batches: Iterable[Batch], clock: Clock, seconds: float = 0.0, error: Exception | None = None
) -> AsyncGenerator[Batch, None]:
    """Batches, each after some time; then an error."""
    for one in batches:
        clock.now += seconds
        yield one
    if error is not None:
        raise error


async def test_what_comes_quickly_is_one_batch():
    """All that the batches hold, in their order."""
    clock = Clock()
    (whole,) = [one async for one in gathered(given([batch(n) for n in range(5)], clock), clock)]
    assert numbers(whole) == [0, 1, 2, 3, 4]
    assert (whole.stream, whole.read) == (STREAM, 5)


async def test_a_batch_does_not_grow_beyond_its_rows():
    """However quickly they come: memory is bounded."""
    clock, half = Clock(), MOST_ROWS // 2
    source = given([batch(n, half) for n in range(5)], clock)
    assert [numbers(one) async for one in gathered(source, clock)] == [[0, 1], [2, 3], [4]]


async def test_what_was_read_does_not_wait_for_long():
    """A second after the first of it came it is given out, however little it is."""
    clock = Clock()
    source = given([batch(n) for n in range(5)], clock, LONGEST_S / 2)
    assert [numbers(one) async for one in gathered(source, clock)] == [[0, 1, 2], [3, 4]]


async def test_what_came_before_an_error_is_given_out_before_it():
    """An answer that was paid for is not asked for again."""
    clock = Clock()
    batches = gathered(given([batch(0), batch(1)], clock, error=SourceUnavailable("away")), clock)
    assert numbers(await anext(batches)) == [0, 1]
    with pytest.raises(SourceUnavailable, match="away"):
        await anext(batches)


async def test_nothing_is_asked_for_any_more_when_nobody_listens():
    """Who stops half-way ends the reading behind it, too."""
    clock = Clock()
    source = given([batch(n, MOST_ROWS) for n in range(3)], clock)
    async with aclosing(gathered(source, clock)) as batches:
        assert numbers(await anext(batches)) == [0]
    assert [one async for one in source] == []


async def test_what_was_read_does_not_wait_for_a_vendor_that_is_slow(monkeypatch: pytest.MonkeyPatch):
    """What an answer held is given out although the next one does not come."""
    monkeypatch.setattr(gathering, "LONGEST_S", 0.01)
    never = asyncio.Event()

    async def one_and_no_more() -> AsyncGenerator[Batch, None]:
        yield batch(0)
        await never.wait()

    async with aclosing(gathered(one_and_no_more())) as batches:
        assert numbers(await anext(batches)) == [0]


async def test_the_next_answer_comes_while_the_last_one_is_stored():
    """Whoever holds a batch does not keep the source from being asked."""
    asked = []

    async def source() -> AsyncGenerator[Batch, None]:
        for number in range(3):
            asked.append(number)
            yield batch(number, MOST_ROWS)

    async with aclosing(gathered(source())) as batches:
        assert numbers(await anext(batches)) == [0]
        await asyncio.sleep(0)
        assert asked == [0, 1]


@pytest.mark.parametrize("more", [{"learned": {"x": 1}}, {"progress": Progress(checked=True)}])
def test_nothing_is_gathered_that_would_be_lost(more: dict[str, Any]):
    """A batch that holds what cannot be added up is a defect, and no silent loss."""
    with pytest.raises(AssertionError, match="only stretches"):
        together([batch(0), replace(batch(1), **more)])
