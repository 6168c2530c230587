"""Whether an answer may have been cut to a number that nobody told."""

from __future__ import annotations

import pytest

from sync.errors import AnswerTooLarge
from sync.sources.beddit.lengths import ENOUGH, SMALL, Lengths, adds
from sync.sources.beddit.paging import Seen


def test_only_the_longest_answer_so_far_is_in_doubt():
    """A server that sent n sessions once sends fewer only where there are fewer."""
    lengths = Lengths()
    assert not lengths.doubts(SMALL - 1)
    assert lengths.doubts(30)
    assert not lengths.doubts(29)
    for _ in range(ENOUGH):
        assert lengths.doubts(30)
        lengths.settle(30, cut=False)
    assert not lengths.doubts(30)
    assert lengths.doubts(31)


def test_answers_of_a_known_cap_are_refused_and_no_others():
    """What is as long as the cap is too large; what is longer disproves it."""
    lengths = Lengths()
    assert lengths.doubts(30)
    lengths.settle(30, cut=True)
    lengths.check(29)
    with pytest.raises(AnswerTooLarge, match="30 sessions"):
        lengths.check(30)
    lengths.check(31)
    assert lengths.doubts(31)
    lengths.check(30)


def test_an_answer_as_long_as_the_cap_by_chance_does_not_hide_it():
    """That a part was whole, whatever its length, is forgotten when the whole was found to be cut."""
    lengths = Lengths(whole=5)
    lengths.settle(5, cut=True)
    assert not lengths.doubts(4)
    with pytest.raises(AnswerTooLarge):
        lengths.check(5)


def test_what_was_learned_survives_the_warehouse():
    """Hints that were stored are what the next run begins with."""
    lengths = Lengths(whole=31, cap=50)
    assert Lengths.load(lengths.learned) == lengths
    assert Lengths.load({}) == Lengths()


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        (Seen(1, 50.0), False),  # known
        (Seen(1, 70.0), False),  # known, and put again
        (Seen(3, 50.0), True),
        (Seen(3, None), True),
        (Seen(3, 100.0), False),  # put since
    ],
)
def test_what_proves_that_an_answer_was_cut(part: Seen, expected: bool):
    """A session that was there when the whole was asked for, and that the whole lacked."""
    assert adds([part], [Seen(1, 50.0), Seen(2, 60.0)], asked_at=99.0) is expected
