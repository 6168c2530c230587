"""Both vendors at once: one account of each in the hands of the same two processes, in one warehouse."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from hypothesis import strategies as st
from hypothesis.stateful import rule

from sync.model import Task
from sync.ports import Source
from sync.storage.progress import PostgresWarehouse
from tests.model.bace import BACE_BEHAVIOURS, BacePart
from tests.model.beddit import BedditPart
from tests.model.machine import DAY, PipelineMachine

NOW = 1_711_000_000.5


class JointMachine(PipelineMachine):
    """What one vendor's changes and accidents do to the other: nothing."""

    now = NOW
    tasks = (Task("once"), Task("once"), Task("retry"), Task("backfill", reload=True))

    async def open_clouds(self) -> None:
        """Two clouds."""
        self.beddit, self.bace = BedditPart(self, NOW), BacePart(self)
        self.bace.cloud.behaviour = BACE_BEHAVIOURS[0]
        self.accounts = {"beddit": ("user1001",), "bace": self.bace.accounts}
        await self.beddit.cloud.__aenter__()
        await self.bace.cloud.__aenter__()

    async def close_clouds(self) -> None:
        """End them."""
        await self.beddit.cloud.__aexit__(None, None, None)
        await self.bace.cloud.__aexit__(None, None, None)

    def sources(self, warehouse: PostgresWarehouse, folder: Path) -> Mapping[str, Source]:
        """Both."""
        return {
            "beddit": self.beddit.source(warehouse, folder),
            "bace": self.bace.source(warehouse, folder),
        }

    @rule(day=st.integers(0, 40), items=st.integers(0, 3), signal=st.booleans())
    def put(self, day: int, items: int, signal: bool) -> None:
        """A night is put."""
        self.step += 1
        self.beddit.put(NOW - day * DAY, length=20.0, items=items, signal=signal)

    @rule(age=st.sampled_from([600.0, 9 * DAY]), group=st.integers(1, 2), late=st.booleans())
    def session(self, age: float, group: int, late: bool) -> None:
        """A data session appears."""
        self.step += 1
        self.bace.begin(age=age, lasts=600.0, every=60, group=group, ends=True, uploaded_late=late)

    @rule(chosen=st.integers(0, 99), vanishes=st.booleans())
    def change(self, chosen: int, vanishes: bool) -> None:
        """Something of each is changed, or disappears."""
        self.step += 1
        if vanishes:
            self.beddit.vanish(chosen)
            self.bace.vanish(chosen)
        else:
            self.beddit.put_again(chosen, changed=True, silently=False)
            self.bace.change(chosen, shrinks=False, silently=False)

    @rule(seconds=st.sampled_from([1.0, 3600.0, 2 * DAY]))
    def time_passes(self, seconds: float) -> None:
        """Time passes."""
        self.step += 1
        self.clock.now += seconds

    async def check(self, since: int) -> None:
        """What holds of both."""
        await self.beddit.check()
        await self.bace.check(since)

    async def check_end(self) -> None:
        """A few quiet weeks bring everything."""
        for days in (1.1, 8.0, 1.1, 1.1):
            await self.quiet(Task("once"), after=days * DAY)
        await self.beddit.check_equal(silent_too=False)
        await self.bace.check_equal(silent_too=False)
