"""How far a verification is, in words that a warehouse keeps."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from sync.model import Extent, Interval, Pass, Task

T0, T1 = datetime(2024, 1, 1, tzinfo=UTC), datetime(2024, 2, 1, 12, 30, 15, 123456, tzinfo=UTC)


@pytest.mark.parametrize(
    "verification",
    [
        Pass(began_at=T1),
        Pass(began_at=T1, since=T0, until=T1, repair=True, listed=True, ended=True),
        Pass(
            began_at=T1,
            left_out=(Interval(T0, T1),),
            failures=2,
            extent=Extent(sessions=3, first=T0, last=T1, read_since=T0, vanished=1),
        ),
    ],
)
def test_a_pass_is_kept_exactly(verification: Pass) -> None:
    """Through JSON and back, a pass is the same."""
    assert Pass.load(json.loads(json.dumps(verification.dump()))) == verification
    assert Pass.load(None) is None


def test_only_the_same_task_goes_on_with_a_pass() -> None:
    """Other bounds, a repair after none, or a pass that has ended: a new one begins."""
    verification = Pass(began_at=T1, since=T0)
    assert verification.does(Task("verify", since=T0), T1)
    assert not verification.does(Task("verify"), T1)
    assert not verification.does(Task("verify", since=T0, until=T1), T1)
    assert not verification.does(Task("verify", since=T0, repair=True), T1)
    assert not replace(verification, ended=True).does(Task("verify", since=T0), T1)


def test_a_pass_is_gone_on_with_for_a_week() -> None:
    """What was looked at longer ago is looked at again."""
    verification, task, week = Pass(began_at=T1), Task("verify"), timedelta(days=7)
    assert verification.does(task, T1 + week - timedelta(seconds=1))
    assert not verification.does(task, T1 + week)


def test_a_pass_of_an_earlier_version_is_read() -> None:
    """What a pass did not yet say of itself is empty."""
    stored = {"began_at": T1.isoformat(), "since": None, "until": None, "repair": False}
    assert Pass.load(stored) == Pass(began_at=T1)


def test_sessions_are_counted_and_told_from_when_to_when() -> None:
    """Window by window, in any order; windows without sessions change nothing."""
    middle = T0 + timedelta(days=1)
    extent = Extent().with_sessions([middle, T1]).with_sessions([]).with_sessions([T0])
    assert extent == Extent(sessions=3, first=T0, last=T1)


def test_what_is_left_out_adds_up() -> None:
    """Stretches that touch are one."""
    middle = T0 + timedelta(days=1)
    verification = Pass(began_at=T1).without([Interval(middle, T1)]).without([Interval(T0, middle)])
    assert verification.left_out == (Interval(T0, T1),)


def test_bounds_are_half_open() -> None:
    """A session that began at the first moment is looked at, one of the last is not."""
    verification = Pass(began_at=T1, since=T0, until=T1)
    assert verification.looks_at(T0)
    assert not verification.looks_at(T1)
    assert Pass(began_at=T1).looks_at(datetime(1, 1, 2, tzinfo=UTC))
