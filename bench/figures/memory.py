"""The most memory that the program's process has at a time, its database's not counted."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Final

from bench.clouds import Clouds, bace, beddit
from bench.nights import Series
from bench.program import MIB, bace_config, beddit_config, nightshift
from bench.report import Goal, Line
from bench.size import Size
from bench.warehouse import Bench
from sync.emulators.bace import Fleet, Kind

LIMIT_MB: Final = 150
GOAL: Final = Goal(most=1.0)
VITALS_A_SECOND: Final = 2.0
"""Of each of three datatypes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """Something that comes in.

    Attributes:
        what: Its name.
        cloud: The cloud that holds it.
        command: The command that reads it.
        is_bace: Whose cloud it is.
    """

    what: str
    cloud: AbstractAsyncContextManager[Clouds]
    command: str = "once"
    is_bace: bool = False


async def measure(bench: Bench) -> Sequence[Line]:
    """Each case into a new database."""
    return [await _line(bench, number, case) for number, case in enumerate(_cases(bench.size))]


def _cases(size: Size) -> Sequence[Case]:
    answer = Series(nights=size.memory_answer, raw_signal=False)
    history = Series(nights=size.memory_nights, raw_signal=False)
    signals = Series(nights=size.memory_signals)
    session = Fleet(
        kinds=(Kind.VITALS,),
        sessions=1,
        devices=1,
        gap=0,
        rate=VITALS_A_SECOND,
        hours=(size.memory_hours, size.memory_hours),
    )
    samples = 3 * VITALS_A_SECOND * size.memory_hours * 3600 / 1e6
    return (
        Case(what="nothing to read", cloud=beddit(Series(nights=0))),
        Case(what="a night of 24 h with raw signal", cloud=beddit(Series(nights=1, hours=24))),
        Case(
            what=f"an answer of {answer.nights} nights, {0.5 * answer.nights:.0f} MB",
            cloud=beddit(answer, ignores_limit=True),
        ),
        Case(what=f"a data session of {samples:.2g} M samples", cloud=bace(session), is_bace=True),
        Case(what=f"a backfill of {history.nights} nights", cloud=beddit(history), command="backfill"),
        Case(
            what=f"a backfill of {signals.nights} nights with raw signal",
            cloud=beddit(signals),
            command="backfill",
        ),
    )


async def _line(bench: Bench, number: int, case: Case) -> Line:
    async with bench.database("memory") as dsn, case.cloud as cloud:
        config = bace_config if case.is_bace else beddit_config
        path = config(bench.own(f"memory-{number}"), dsn, cloud)
        spent, said = await nightshift(path, case.command)
    return Line(
        what=case.what,
        value=spent.peak / 1e6,
        unit="MB",
        ratio=spent.peak / 1e6 / LIMIT_MB,
        beside=f"{LIMIT_MB} MB; {_received(said) / MIB:.0f} MiB came in",
        goal=GOAL,
    )


def _received(said: Sequence[dict[str, Any]]) -> int:
    return sum(int(line.get("bytes", 0)) for line in said)
