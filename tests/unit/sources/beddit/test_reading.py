"""Answers are read while what came before is being stored."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sync.errors import AnswerTooLarge
from sync.sources.beddit.addresses import AddressBook
from sync.sources.beddit.reading import AccountContext, Reading
from sync.sources.beddit.settings import BedditSettings

NIGHTS = [json.dumps({"id": start, "start_timestamp": start}).encode() for start in range(1000, 1004)]


class Answer:
    """An answer of nights, one after the other, that remembers how many were taken, and may break off."""

    server_time = None

    def __init__(self, nights: int) -> None:
        self.nights = nights
        self.taken = 0

    async def elements(self) -> AsyncIterator[bytes]:
        """The nights, then the fault."""
        for night in NIGHTS[: self.nights]:
            self.taken += 1
            yield night
            await asyncio.sleep(0)
        if self.nights < len(NIGHTS):
            raise AnswerTooLarge("cut")


@asynccontextmanager
async def asked(answer: Answer) -> AsyncIterator[Any]:
    """A question that has this answer."""
    yield answer


def reading() -> Reading:
    """A reading that makes a batch of each night."""
    settings = BedditSettings("", {}, Path(), batch_bytes=1)
    client: Any = SimpleNamespace()
    return Reading(AccountContext("beddit", "one", 7, client, settings, AddressBook(), clock=lambda: 5.0))


async def test_the_next_batch_is_made_while_the_last_one_is_stored():
    """Whoever holds a batch does not keep the next one from arriving; only one is made ahead."""
    answer, numbers = Answer(4), []
    async with reading().of(asked(answer)) as batches:
        async for batch in batches:
            for _ in range(10):
                await asyncio.sleep(0)
            numbers += [record.row["session_id"] for record in batch.records]
            assert answer.taken == min(len(numbers) + 1, 4)
    assert numbers == [1000, 1001, 1002, 1003]


async def read_all(answer: Answer, numbers: list[int]) -> None:
    """Note the nights of all batches."""
    async with reading().of(asked(answer)) as batches:
        async for batch in batches:
            numbers += [record.row["session_id"] for record in batch.records]


async def test_a_fault_comes_behind_all_that_came_before_it():
    """Batches in front of a cut are given before the cut is told."""
    numbers: list[int] = []
    with pytest.raises(AnswerTooLarge):
        await read_all(Answer(3), numbers)
    assert numbers == [1000, 1001, 1002]


async def test_whoever_stops_early_leaves_nothing_running():
    """A batch that could not be stored ends the reading, the batch ahead included."""
    answer = Answer(3)
    async with reading().of(asked(answer)) as batches:
        await anext(batches)
    assert len(asyncio.all_tasks()) == 1
    taken = answer.taken
    await asyncio.sleep(0)
    assert answer.taken == taken
