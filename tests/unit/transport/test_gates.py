"""When a request may leave."""

import asyncio
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sync.transport.clock import Clock
from sync.transport.gates import HostGate, HostGates, Pause, reserve
from sync.transport.limits import Limits


@dataclass
class FakeTime:
    """Time that passes only by sleeping."""

    seconds: float = 100.0
    slept: list[float] = field(default_factory=list)

    async def sleep(self, seconds: float) -> None:
        """Let time pass."""
        self.slept.append(seconds)
        self.seconds += seconds
        await asyncio.sleep(0)

    @property
    def clock(self) -> Clock:
        """The clock that shows it."""
        return Clock(monotonic=lambda: self.seconds, sleep=self.sleep)


@given(
    arrivals=st.lists(st.floats(0, 10), min_size=1, max_size=60).map(sorted),
    rate=st.floats(0.5, 50),
    burst=st.integers(1, 10),
)
def test_no_stretch_of_time_sees_too_many(arrivals, rate, burst):
    """Any t seconds see at most burst + rate * t starts, and nobody starts before arriving."""
    due, starts = 0.0, []
    for now in arrivals:
        start, due = reserve(due, now, interval=1 / rate, burst=burst)
        assert start >= now
        starts.append(start)
    assert starts == sorted(starts)
    for i, first in enumerate(starts):
        for count, last in enumerate(starts[i:], start=1):
            assert count <= burst + (last - first) * rate + 1e-6


def test_a_burst_leaves_at_once_and_then_the_pace_begins():
    """After a quiet while the burst is free; each further request waits for its turn."""
    due, starts = 0.0, []
    for _ in range(5):
        start, due = reserve(due, 100.0, interval=0.5, burst=3)
        starts.append(start - 100.0)
    assert starts == [0.0, 0.0, 0.0, 0.5, 1.0]


async def test_a_gate_keeps_the_pace():
    """Requests through one gate are spaced by the configured rate."""
    time = FakeTime()
    gate = HostGate(Limits(requests_per_second=2, burst=1), time.clock)
    for _ in range(3):
        async with gate.turn(Pause(time.clock)):
            pass
    assert time.slept == [0.5, 0.5]


async def test_slots_are_held_until_the_answer_was_read():
    """No more requests are inside than there are slots, however many want to."""
    inside, most = 0, 0
    gate = HostGate(Limits(concurrency=2, requests_per_second=1000, burst=100), FakeTime().clock)

    async def one() -> None:
        nonlocal inside, most
        async with gate.turn(Pause(Clock())):
            inside += 1
            most = max(most, inside)
            await asyncio.sleep(0)
            inside -= 1

    await asyncio.gather(*(one() for _ in range(10)))
    assert most == 2


async def test_a_pause_holds_back_those_who_already_queue():
    """A pause that begins while a request waits for its slot is kept, and does not occupy the slot."""
    time = FakeTime()
    gate = HostGate(Limits(concurrency=1), time.clock)
    mine, other = Pause(time.clock), Pause(time.clock)
    order = []

    async def queue(name: str, pause: Pause) -> None:
        async with gate.turn(pause):
            order.append((name, time.seconds - 100.0))

    async with gate.turn(mine):
        waiting = [asyncio.create_task(queue("mine", mine)), asyncio.create_task(queue("other", other))]
        await asyncio.sleep(0)
        mine.extend(30)
    await asyncio.gather(*waiting)
    assert sorted(order) == [
        ("mine", 30.0),
        ("other", order[-1][1] if order[-1][0] == "other" else order[0][1]),
    ]
    assert all(moment >= 30.0 for name, moment in order if name == "mine")


async def test_a_pause_only_grows():
    """A shorter wish does not end a longer pause."""
    time = FakeTime()
    pause = Pause(time.clock)
    pause.extend(30)
    pause.extend(5)
    assert pause.remaining == 30.0
    await pause.over()
    assert pause.remaining == 0.0


async def test_cancelling_gives_the_slot_back():
    """A request that is cancelled while it waits for its pace leaves no slot occupied."""
    gate = HostGate(Limits(concurrency=1, requests_per_second=0.001, burst=1), Clock())
    async with gate.turn(Pause(Clock())):
        pass
    task = asyncio.create_task(gate.turn(Pause(Clock())).__aenter__())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not gate._slots.locked()


def test_accounts_of_one_host_share_its_gate():
    """One host and port has one gate, whoever asks and however the name is spelled."""
    gates = HostGates()
    gate = gates.gate("cloud.example", 443, Limits())
    assert gates.gate("CLOUD.example", 443, Limits()) is gate
    assert gates.gate("cloud.example", 8443, Limits()) is not gate


@pytest.mark.parametrize("setting", ["concurrency", "requests_per_second", "attempts", "read_timeout_s"])
def test_limits_must_allow_something(setting):
    """A limit of zero is a mistake and is named."""
    with pytest.raises(ValueError, match=setting):
        Limits(**{setting: 0})
