"""What is learned of the server outlives the program, and nothing wrong does."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sync.sources.bace.knowledge import NAME, Known
from sync.sources.bace.lengths import BUCKETS, Lengths, Threshold
from sync.sources.bace.spans import DAY, HOUR, MINUTE, SECOND

# A busy machine is no fault of the program's.
calm = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

NOW = 1_648_641_600.0
PROOF_LASTS = 86_400.0
SAVE_EVERY = 3_600.0


@st.composite
def thresholds(draw: st.DrawFn, least: int = 0) -> Threshold:
    """A threshold that does not contradict itself."""
    reached = draw(st.integers(least, 60 * DAY))
    beyond = draw(st.none() | st.integers(1, 60 * DAY))
    return Threshold(reached, None if beyond is None else reached + beyond)


proven = st.builds(
    Lengths,
    raw=thresholds(least=1),
    minutes=thresholds(),
    hours=thresholds(),
    ordered=st.none() | st.booleans(),
)
pages = st.none() | st.integers(1, 50_000)

SERVER = Lengths(Threshold(HOUR, 2 * HOUR), Threshold(DAY), Threshold(0, 40 * DAY), ordered=True)
STORED = {
    "raw": [HOUR, 2 * HOUR],
    "minutes": [DAY, None],
    "hours": [0, 40 * DAY],
    "ordered": True,
    "page": 500,
    "at": NOW,
}


def told(known: Known) -> Any:
    """What the warehouse has after it was told the news; None if there were none."""
    news = known.news()
    known.note_saved(news)
    return json.loads(json.dumps(news[NAME])) if news else None


@calm
@given(proven, pages, st.floats(0, PROOF_LASTS - 1))
def test_what_was_learned_comes_back_as_it_was(lengths: Lengths, page: int | None, later: float):
    """Through the warehouse's JSON, within a day."""
    known = Known(lengths=lengths, page_size=page, proven_at=NOW)
    again = Known.load(told(known), NOW + later)
    assert (again.lengths, again.page_size) == (lengths, page)


def test_what_was_not_saved_stays_news():
    """A commit that fails loses nothing of what its batch was to say, a withdrawn proof included."""
    known = Known(lengths=SERVER, page_size=500, proven_at=NOW)
    assert known.news() == known.news() != {}
    known.note_saved(known.news())
    assert not known.news()
    known.learn(Lengths(), NOW)
    assert known.news() == known.news() != {}


def test_the_stored_form_stays_what_it_is():
    """An older version's knowledge is of use to a newer one."""
    assert told(Known(lengths=SERVER, page_size=500, proven_at=NOW)) == STORED
    assert Known.load(STORED, NOW).lengths == SERVER


@calm
@given(proven, pages, st.one_of(st.floats(PROOF_LASTS, 1e9), st.floats(-1e9, -1)))
def test_proof_that_is_not_of_the_last_day_is_a_hint(lengths: Lengths, page: int | None, later: float):
    """Thresholds may have changed since: nothing counts as proven, and the old length is tried first."""
    again = Known.load(told(Known(lengths=lengths, page_size=page, proven_at=NOW)), NOW + later)
    assert again.lengths == Lengths(hint=lengths.raw.reached)
    assert again.lengths.worth_trying() == lengths.raw.reached
    assert again.page_size == page


def test_proof_lasts_for_less_than_a_day():
    """To the second."""
    assert Known.load(STORED, NOW + PROOF_LASTS - 1).lengths == SERVER
    assert Known.load(STORED, NOW + PROOF_LASTS).lengths == Lengths(hint=HOUR)


def test_nothing_is_known_of_a_server_at_first():
    """No length is proven, and the order of rows is asked for until that is refused."""
    known = Known.load(None, NOW)
    assert (known.lengths, known.page_size, known.sorts, known.habit) == (Lengths(), None, True, 0)


# --- what is malformed -----------------------------------------------------------------------------


@calm
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from([*STORED]) | st.text(max_size=5), inner, max_size=6)
        ),
    )
)
def test_anything_else_is_as_good_as_nothing(stored: Any):
    """What is not knowledge at all is no reason to stop."""
    assert Known.load(stored, NOW) == Known()


@pytest.mark.parametrize(
    "wrong",
    [
        {"raw": [True, None]},
        {"raw": [-1, None]},
        {"raw": [-5 * HOUR, None]},
        {"raw": [HOUR, HOUR]},
        {"raw": [HOUR, MINUTE]},
        {"raw": [HOUR]},
        {"raw": [HOUR, None, None]},
        {"raw": [float(HOUR), None]},
        {"raw": [10**30, None]},
        {"raw": None},
        {"minutes": [DAY, HOUR]},
        {"minutes": ["1", None]},
        {"hours": [None, None]},
        {"hours": {}},
        {"ordered": 1},
        {"page": 0},
        {"page": -500},
        {"page": True},
        {"page": 10**30},
        {"page": "500"},
        {"at": None},
        {"at": "now"},
        {"at": True},
        {"at": 10**400},
    ],
)
@pytest.mark.parametrize("later", [0.0, 2 * PROOF_LASTS])
def test_one_wrong_field_spoils_all(wrong: dict[str, Any], later: float):
    """Half of what was known may contradict the other half; learning it again is cheap."""
    assert Known.load({**STORED, **wrong}, NOW + later) == Known()


@pytest.mark.parametrize("field", [*STORED])
def test_a_field_that_is_missing_spoils_all(field: str):
    """A cut record is no record."""
    assert Known.load({name: value for name, value in STORED.items() if name != field}, NOW) == Known()


@calm
@given(
    st.fixed_dictionaries(
        {
            name: st.lists(
                st.sampled_from([0, 1, SECOND, HOUR, DAY, -1, 1 << 53, 1 << 54, None]), min_size=2, max_size=2
            )
            for name in ("raw", "minutes", "hours")
        }
    ),
    st.floats(-1e6, 1e6),
)
def test_whatever_is_loaded_can_be_worked_with(ends: dict[str, Any], later: float):
    """Lengths to try and to ask for are lengths."""
    lengths = Known.load({**STORED, **ends}, NOW + later).lengths
    assert lengths.worth_trying() > 0
    for width in BUCKETS:
        shortest, longest = lengths.length_for(width)
        assert 0 < shortest <= (longest or shortest)


# --- news ------------------------------------------------------------------------------------------


@calm
@given(proven, pages, st.floats(0, SAVE_EVERY - 1))
def test_nothing_new_is_no_news(lengths: Lengths, page: int | None, later: float):
    """Neither right after it was told, nor after it was loaded."""
    known = Known(lengths=lengths, page_size=page, proven_at=NOW)
    stored = told(known)
    assert told(known) is None
    assert told(Known.load(stored, NOW + later)) is None


def test_nothing_is_told_before_anything_is_proven():
    """A guess is of no use to anybody else; nor does it wipe out a hint that the warehouse has."""
    assert told(Known(page_size=500)) is None
    stale = Known.load(STORED, NOW + 2 * PROOF_LASTS)
    assert told(stale) is None
    stale.lengths = stale.lengths.learn(3 * HOUR, MINUTE, places=9, shared=True)
    stale.page_size = 100
    assert told(stale) is None


@pytest.mark.parametrize(
    "change",
    [
        {"lengths": Lengths(Threshold(HOUR + 1, 2 * HOUR), SERVER.minutes, SERVER.hours, ordered=True)},
        {"lengths": Lengths(SERVER.raw, SERVER.minutes, SERVER.hours, ordered=False)},
        {"page_size": 499},
    ],
)
def test_whatever_changed_is_told_at_once_and_once(change: dict[str, Any]):
    """With all that is known, and when."""
    known = Known.load(STORED, NOW)
    for name, value in change.items():
        setattr(known, name, value)
    stored = told(known)
    assert stored["at"] == NOW
    again = Known.load(stored, NOW + 1)
    assert (again.lengths, again.page_size) == (known.lengths, known.page_size)
    assert told(known) is None


def test_a_proof_that_is_renewed_is_told_every_hour():
    """Else it would be a hint for the program that starts next."""
    known = Known.load(STORED, NOW)
    known.learn(SERVER, NOW + SAVE_EVERY - 1, proven=HOUR)
    assert told(known) is None
    known.learn(SERVER, NOW + SAVE_EVERY, proven=HOUR)
    assert told(known) == {**STORED, "at": NOW + SAVE_EVERY}
    assert told(known) is None


def test_only_an_answer_of_about_the_longest_length_renews_its_proof():
    """Short sessions say nothing about what is served at an hour."""
    known = Known.load(STORED, NOW)
    known.learn(SERVER, NOW + PROOF_LASTS - 1, proven=HOUR // 2)
    assert known.current(NOW + PROOF_LASTS) == Lengths(hint=HOUR)


def test_a_proof_grows_old_in_memory_too():
    """A program that runs for years has to prove its lengths again, day after day."""
    known = Known.load(STORED, NOW)
    assert known.current(NOW + PROOF_LASTS - 1) == SERVER
    assert known.current(NOW + PROOF_LASTS) == Lengths(hint=HOUR)


def test_an_old_hint_that_proves_right_is_told():
    """It is proof again, for another day."""
    later = NOW + 2 * PROOF_LASTS
    known = Known.load(STORED, later)
    known.learn(known.lengths.learn(HOUR, 0, places=9, shared=False), later, proven=HOUR)
    assert Known.load(told(known), later).lengths.raw == Threshold(HOUR)


def test_proof_that_turned_out_wrong_is_taken_back():
    """A program that starts next must not take buckets for samples at a length that failed."""
    known = Known.load(STORED, NOW)
    known.lengths = known.lengths.exposed(HOUR)
    again = Known.load(told(known), NOW + 2)
    assert again.lengths.raw == Threshold(missed=HOUR)
    assert told(known) is None


# --- the habit -------------------------------------------------------------------------------------


@calm
@given(st.lists(st.floats(0, 1), max_size=20))
def test_the_habit_is_a_share_that_follows_what_sessions_do(shares: list[float]):
    """It stays a part of the time, and moves towards each session's."""
    known = Known()
    assert known.habit == 0
    for share in shares:
        before = known.habit
        known.remember(share)
        assert min(before, share) - 1e-12 <= known.habit <= max(before, share) + 1e-12
    for _ in range(60):
        known.remember(0.5)
    assert known.habit == pytest.approx(0.5, abs=1e-3)
