"""How far a verification is, in words that a warehouse keeps."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from sync.model import Pass, Task

T0, T1 = datetime(2024, 1, 1, tzinfo=UTC), datetime(2024, 2, 1, 12, 30, 15, 123456, tzinfo=UTC)


@pytest.mark.parametrize(
    "verification",
    [Pass(began_at=T1), Pass(began_at=T1, since=T0, until=T1, repair=True, listed=True, ended=True)],
)
def test_a_pass_is_kept_exactly(verification: Pass) -> None:
    """Through JSON and back, a pass is the same."""
    assert Pass.load(json.loads(json.dumps(verification.dump()))) == verification
    assert Pass.load(None) is None


def test_only_the_same_task_goes_on_with_a_pass() -> None:
    """Other bounds, a repair after none, or a pass that has ended: a new one begins."""
    verification = Pass(began_at=T1, since=T0)
    assert verification.does(Task("verify", since=T0))
    assert not verification.does(Task("verify"))
    assert not verification.does(Task("verify", since=T0, until=T1))
    assert not verification.does(Task("verify", since=T0, repair=True))
    assert not replace(verification, ended=True).does(Task("verify", since=T0))


def test_bounds_are_half_open() -> None:
    """A session that began at the first moment is looked at, one of the last is not."""
    verification = Pass(began_at=T1, since=T0, until=T1)
    assert verification.looks_at(T0)
    assert not verification.looks_at(T1)
    assert Pass(began_at=T1).looks_at(datetime(1, 1, 2, tzinfo=UTC))
