"""What is wrong is said when it begins and when it ends, about whoever is at fault, and no more often."""

# ruff: noqa: ARG005 - the doubles take what the protocols give
from __future__ import annotations

from collections import defaultdict

import pytest
import structlog.testing
from hypothesis import given
from hypothesis import strategies as st

from sync.engine.troubles import WAREHOUSE, Troubles
from sync.errors import (
    AuthenticationError,
    ConfigurationError,
    LeaseLost,
    RateLimited,
    SourceContractError,
    SourceUnavailable,
    StorageUnavailable,
)
from sync.model import RunOutcome, Tally, Traffic

AWAY = SourceUnavailable("no answer")
MANY = [f"a{n}" for n in range(50)]


def ended(source, account, error=None, *, requests=1):
    """Return how an account's run ended."""
    return RunOutcome(source, account, Tally(), Traffic(requests), error)


class Watched:
    """Troubles with a clock that is set by hand, and all that is told of them."""

    def __init__(self):
        self.time = 0.0
        self.told = []
        self.troubles = Troubles(self, lambda: self.time)

    def outage(self, subject, on):
        """Note what a listener is told."""
        self.told.append((subject, on))

    def run(self, account, error=None, *, source="beddit", takes=1.0):
        """Let an account's run begin after all others and end so many seconds later."""
        self.time += 0.125
        begun_at = self.troubles.now()
        self.time += takes
        self.troubles.run_ended(ended(source, account, error), str(error or ""), begun_at)

    def cycle(self, errors, accounts=MANY, *, source="beddit"):
        """Run all accounts side by side: all begin together and end one after the other."""
        begun_at = self.troubles.now()
        for account in accounts:
            self.time += 0.1
            error = errors(account)
            self.troubles.run_ended(ended(source, account, error), str(error or ""), begun_at)
        self.time += 900


@pytest.fixture
def watched():
    """Return troubles of which there are none."""
    return Watched()


def test_a_vendor_that_is_away_is_said_once(watched):
    """Fifty accounts over ten cycles: one beginning, and one end when it answers again."""
    watched.cycle(lambda account: None)
    for _ in range(10):
        watched.cycle(lambda account: AWAY)
    assert watched.told == [("beddit", True)]
    assert watched.troubles.open == {"beddit"}
    for _ in range(3):
        watched.cycle(lambda account: None)
    assert watched.told == [("beddit", True), ("beddit", False)]
    assert watched.troubles.open == frozenset()


def test_a_vendor_that_was_never_there(watched):
    """A first attempt that fails is the vendor's: nobody has shown that it is there."""
    watched.run("alice", AWAY)
    assert watched.told == [("beddit", True)]


def test_a_vendor_that_goes_away_in_the_middle_of_a_cycle(watched):
    """The accounts that begin after the last success find that it is away for all."""
    watched.run("alice")
    for account in MANY:
        watched.run(account, AWAY)
    assert watched.told == [("beddit", True)]


def test_one_account_among_healthy_ones_is_a_trouble_of_its_own(watched):
    """An account that times out in every cycle while the others succeed begins once and ends once."""
    for _ in range(10):
        watched.cycle(lambda account: AWAY if account == "a7" else None)
    assert watched.told == [("beddit/a7", True)]
    watched.cycle(lambda account: None)
    assert watched.told == [("beddit/a7", True), ("beddit/a7", False)]


def test_an_account_that_fails_faster_than_others_succeed_does_not_flap(watched):
    """Where it looked like the vendor at first, the next success tells otherwise, and that is said once."""
    for _ in range(10):
        watched.run("alice", AWAY)
        watched.run("bob")
    assert watched.told == [("beddit", True), ("beddit", False), ("beddit/alice", True)]
    watched.run("alice")
    assert watched.told[3:] == [("beddit/alice", False)]


def test_an_account_that_failed_only_with_the_vendor_has_no_trouble_left(watched):
    """After an outage that hit everybody, a success of each ends it: nothing is held against them."""
    watched.cycle(lambda account: AWAY)
    watched.cycle(lambda account: None)
    watched.run("a3", AWAY)
    assert watched.told == [("beddit", True), ("beddit", False), ("beddit", True)]


def test_refused_credentials_are_the_account_s(watched):
    """What waiting cannot mend is never taken for an outage of the vendor."""
    watched.run("alice", AuthenticationError("refused"))
    watched.run("alice", AuthenticationError("refused"))
    assert watched.told == [("beddit/alice", True)]


def test_a_defect_is_the_account_s(watched):
    """An error that nobody expected is said of the account where it came up."""
    watched.run("alice", ValueError("defect"))
    assert watched.told == [("beddit/alice", True)]


def test_sources_do_not_answer_for_each_other(watched):
    """One vendor's outage neither is another's nor ends with another's success."""
    watched.run("alice", AWAY)
    watched.run("lab", source="bace")
    assert watched.told == [("beddit", True)]
    watched.run("lab", RateLimited("later"), source="bace")
    watched.run("alice")
    assert watched.told == [("beddit", True), ("bace", True), ("beddit", False)]


def test_an_account_and_its_vendor_end_together(watched):
    """A success of an account that was refused before shows that the vendor is there as well."""
    watched.run("alice", AuthenticationError("refused"))
    watched.run("bob", AWAY)
    watched.run("alice")
    assert sorted(watched.told[2:]) == [("beddit", False), ("beddit/alice", False)]


def test_the_warehouse_is_one_subject_for_all(watched):
    """However many runs cannot store, it is the warehouse's outage, and ends when the warehouse answers."""
    for _ in range(10):
        watched.cycle(lambda account: StorageUnavailable("PostgreSQL: gone"))
        watched.troubles.warehouse_failed("PostgreSQL: gone", "keeper")
    assert watched.told == [(WAREHOUSE, True)]
    watched.troubles.warehouse_answered("keeper")
    watched.troubles.warehouse_answered("keeper")
    assert watched.told == [(WAREHOUSE, True), (WAREHOUSE, False)]


def test_a_run_that_could_not_store_once_is_nothing(watched):
    """A statement that PostgreSQL ended while it serves others is an account's trouble the second time."""
    gone = StorageUnavailable("statement timeout")
    watched.run("alice", gone)
    assert watched.told == []
    watched.run("alice", gone)
    assert watched.told == [("beddit/alice", True)]
    watched.run("alice")
    watched.run("alice", ConfigurationError("permission denied"))
    assert watched.told == [("beddit/alice", True), ("beddit/alice", False)]


def test_runs_under_way_when_a_vendor_goes_away_are_not_held_against_their_accounts(watched):
    """What began before the last success fails once beside the vendor's outage: one beginning, one end."""
    begun_at = watched.troubles.now()
    watched.run("alice")
    for account in ("bob", "carl"):
        watched.troubles.run_ended(ended("beddit", account, AWAY), "no answer", begun_at)
    watched.run("dora", AWAY)
    watched.cycle(lambda account: None, ["alice", "bob", "carl", "dora"])
    assert watched.told == [("beddit", True), ("beddit", False)]


def test_only_a_graver_error_is_told_on_top(watched):
    """An account whose errors take turns begins once more at most for each that asks more of a person."""
    with structlog.testing.capture_logs() as logs:
        for error in (ValueError("defect"), AuthenticationError("refused")) * 5:
            watched.run("alice", error)
    assert [entry["kind"] for entry in logs] == ["look", "act"]
    assert watched.told == [("beddit/alice", True)]


def test_accounts_that_are_configured_no_longer_have_no_troubles(watched):
    """What was open of them ends."""
    for account in ("alice", "bob", "carl"):
        watched.run(account, AuthenticationError("refused"))
    watched.troubles.only({"beddit": ["alice", "carl"], "bace": []})
    assert watched.troubles.open == {"beddit/alice", "beddit/carl"}
    assert watched.told[3:] == [("beddit/bob", False)]


def test_a_run_that_asked_nobody_proves_nothing(watched):
    """Where nothing was due, no request shows that the vendor or the account is well again."""
    watched.run("alice", AuthenticationError("refused"))
    watched.run("bob", AWAY)
    watched.troubles.run_ended(ended("beddit", "alice", requests=0), "", 0.0)
    assert watched.troubles.open == {"beddit/alice", "beddit"}


def test_the_warehouse_is_back_when_it_is_there_for_all(watched):
    """Where some are served and others are not, the outage lasts: one beginning and one end."""
    watched.troubles.warehouse_failed("too many connections", "beddit")
    for _ in range(5):
        watched.troubles.warehouse_answered("keeper")
        watched.troubles.warehouse_failed("too many connections", "beddit")
    assert watched.told == [(WAREHOUSE, True)]
    watched.troubles.warehouse_answered("beddit")
    assert watched.told[1:] == [(WAREHOUSE, False)]


def test_a_lost_lease_is_nobody_s_trouble(watched):
    """Whoever took over says how the account does; what was open stays as it was."""
    watched.run("alice", LeaseLost("taken"))
    assert watched.told == []
    watched.run("alice", AuthenticationError("refused"))
    watched.run("alice", LeaseLost("taken"))
    assert watched.troubles.open == {"beddit/alice"}


def test_what_is_logged(watched):
    """The beginning has the subject, its kind and the error; the end has how long it lasted."""
    with structlog.testing.capture_logs() as logs:
        watched.run("alice", AWAY)
        watched.run("bob", SourceUnavailable("again"), takes=60)
        watched.run("alice", takes=30.04)
    assert logs == [
        {
            "event": "outage.began",
            "log_level": "error",
            "subject": "beddit",
            "kind": "wait",
            "error": "no answer",
        },
        {"event": "outage.ended", "log_level": "info", "subject": "beddit", "seconds": 90.3},
    ]


def test_nobody_has_to_listen():
    """Without a listener troubles are known all the same."""
    troubles = Troubles()
    troubles.warehouse_failed("gone", "keeper")
    assert troubles.open == {WAREHOUSE}


ERRORS = st.sampled_from(
    [
        None,
        AWAY,
        RateLimited("later"),
        AuthenticationError("refused"),
        SourceContractError("odd"),
        StorageUnavailable("gone"),
        LeaseLost("taken"),
        ValueError("defect"),
    ]
)
RUNS = st.tuples(
    st.sampled_from(["beddit", "bace"]),
    st.sampled_from(["alice", "bob", "carl"]),
    ERRORS,
    st.floats(min_value=0, max_value=100),
)
STEPS = st.lists(RUNS | st.booleans(), max_size=60)


@given(STEPS)
def test_beginnings_and_ends_take_turns(steps):
    """Whatever happens: for each subject a beginning, an end, a beginning; what has begun is what is open.

    When everybody has succeeded and the warehouse has answered, nothing is wrong any more.
    """
    watched = Watched()
    for step in steps:
        match step:
            case (source, account, error, takes):
                watched.run(account, error, source=source, takes=takes)
            case True:
                watched.troubles.warehouse_answered("keeper")
            case False:
                watched.troubles.warehouse_failed("gone", "keeper")
    begun = defaultdict(list)
    for subject, on in watched.told:
        begun[subject].append(on)
    for turns in begun.values():
        assert turns == [n % 2 == 0 for n in range(len(turns))]
    assert watched.troubles.open == {subject for subject, turns in begun.items() if turns[-1]}

    watched.troubles.warehouse_answered("keeper")
    for source, account, *_ in (step for step in steps if isinstance(step, tuple)):
        watched.run(account, source=source)
    assert watched.troubles.open == frozenset()
