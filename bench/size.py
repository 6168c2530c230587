"""How much is measured."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """A size of everything.

    Attributes:
        name: What it is called on the command line.
        hours: Length of a night.
        nights: Nights that are read end to end.
        script_nights: Of them, nights that the straightforward script loads sample by sample,
        dlt_nights: and that dlt loads so; rates are compared, for whole ones would take hours.
        dlt_track_nights: Nights whose time-value tracks alone dlt loads.
        rounds: Alternating rounds of the write path.
        sessions: BACE data sessions of each account.
        memory_nights: Nights of the longest backfill.
        memory_signals: Nights of the longest one with raw signal.
        memory_answer: Nights of the largest answer.
        memory_hours: Hours of a BACE session at about 6 samples a second.
        stored_nights: Nights of the warehouse that queries are tried on.
        scaling_nights: Sizes of a growing warehouse.
        scaling_accounts: Numbers of accounts of a cycle.
    """

    name: str
    hours: float
    nights: int
    script_nights: int
    dlt_nights: int
    dlt_track_nights: int
    rounds: int
    sessions: int
    memory_nights: int
    memory_signals: int
    memory_answer: int
    memory_hours: float
    stored_nights: int
    scaling_nights: tuple[int, ...]
    scaling_accounts: tuple[int, ...]


FULL = Size(
    name="full",
    hours=8.8,
    nights=200,
    script_nights=3,
    dlt_nights=1,
    dlt_track_nights=40,
    rounds=20,
    sessions=100,
    memory_nights=2_000,
    memory_signals=100,
    memory_answer=300,
    memory_hours=95.0,
    stored_nights=1_000,
    scaling_nights=(100, 1_000, 10_000),
    scaling_accounts=(10, 100, 1_000, 10_000),
)
QUICK = Size(
    name="quick",
    hours=1.0,
    nights=10,
    script_nights=2,
    dlt_nights=1,
    dlt_track_nights=10,
    rounds=2,
    sessions=8,
    memory_nights=60,
    memory_signals=8,
    memory_answer=40,
    memory_hours=3.0,
    stored_nights=30,
    scaling_nights=(20, 200),
    scaling_accounts=(10, 50, 100),
)
