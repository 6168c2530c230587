"""Reading changes in pages, against every server that the documents leave room for."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from sync.sources.beddit.paging import Ask, Done, GiveUp, Paging, Seen, proven_order

# A busy machine is no fault of the program's.
calm = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

OVERLAP = 1.0
CURSOR = 1_000.0


@dataclass(frozen=True)
class Server:
    """What the real one may be like: undocumented order, bound and ``limit``.

    Attributes:
        rows: All sessions that it holds.
        order: How answers are sorted.
        inclusive: Whether a session put exactly at the bound belongs to the answer.
        limit: Whether ``limit`` is honoured, ignored, or cut to ``most``.
        keeps: Which sessions of a larger answer are in a limited one.
        most: See ``limit``.
        breaks_at: Sessions in an answer that takes it too long.
    """

    rows: tuple[Seen, ...]
    order: Literal["updated", "start", "shuffled"] = "updated"
    inclusive: bool = False
    limit: Literal["honoured", "ignored", "clamped"] = "honoured"
    keeps: Literal["oldest", "newest"] = "oldest"
    most: int = 20
    breaks_at: int = 10_000

    def answer(self, bound: float, limit: int) -> list[Seen] | None:
        """The sessions that it would send; None when it runs out of time."""
        found = [row for row in self.rows if row.updated is None or self._is_after(row.updated, bound)]
        found.sort(key=self._place)
        allowed = {"honoured": limit, "ignored": len(found), "clamped": min(limit, self.most)}[self.limit]
        if self.keeps == "newest":
            found = found[max(0, len(found) - allowed) :]
        found = found[:allowed]
        return None if len(found) >= self.breaks_at else found

    def _is_after(self, updated: float, bound: float) -> bool:
        return updated >= bound if self.inclusive else updated > bound

    def _place(self, row: Seen) -> tuple[float, int]:
        match self.order:
            case "updated":
                return (-1.0 if row.updated is None else row.updated), row.session_id
            case "start":
                return float(row.session_id), 0
        return random.Random(row.session_id * 7_919 + 1).random(), 0  # noqa: S311


def read(server: Server, *, is_sorted: bool, most: int) -> tuple[set[Seen], Done | GiveUp, int]:
    """Follow the paging to its end: what was seen, how it ended, and how many questions it took."""
    paging = Paging.begin(CURSOR, OVERLAP, sorted_by_updated=is_sorted)
    step: Ask | Done | GiveUp = paging.ask
    seen: set[Seen] = set()
    questions = 0
    while isinstance(step, Ask):
        assert step == paging.ask
        assert step.limit >= 1
        questions += 1
        assert questions <= most, "it does not come to an end"
        answer = server.answer(step.updated_after, step.limit)
        if answer is None:
            paging, step = paging.refused("the server took too long", smaller=True)
        else:
            seen |= set(answer)
            paging, step = paging.after(answer)
    return seen, step, questions


def put(*stamps: float, shuffled: int | None = None) -> tuple[Seen, ...]:
    """Sessions put at these times; ids in the same order, or in another one."""
    ids = list(range(100, 100 + len(stamps)))
    if shuffled is not None:
        random.Random(shuffled).shuffle(ids)  # noqa: S311
    return tuple(Seen(session_id, stamp) for session_id, stamp in zip(ids, stamps, strict=True))


@st.composite
def histories(draw: st.DrawFn) -> tuple[Seen, ...]:
    """Sessions put one by one or many at a time, close together or far apart, in or out of order."""
    steps = draw(st.lists(st.sampled_from([0.0, 0.0, 0.3, 1.0, 50.0]), max_size=40))
    burst = draw(st.sampled_from([0, 0, 5, 9, 30, 70]))
    at = draw(st.integers(0, len(steps)))
    steps[at:at] = [0.0] * burst
    stamps, stamp = [], CURSOR - 3
    for step in steps:
        stamp += step
        stamps.append(stamp)
    return put(*stamps, shuffled=draw(st.one_of(st.none(), st.integers(0, 99))))


SERVERS = st.builds(
    Server,
    rows=histories(),
    order=st.sampled_from(["updated", "updated", "start", "shuffled"]),
    inclusive=st.booleans(),
    limit=st.sampled_from(["honoured", "honoured", "ignored", "clamped"]),
    keeps=st.sampled_from(["oldest", "newest"]),
    most=st.integers(1, 40),
    breaks_at=st.sampled_from([10_000, 10_000, 1, 2, 3, 5, 8, 9, 12, 33, 40, 64, 65]),
)
MANY = put(*(CURSOR + 10 * n for n in range(60)), shuffled=1)


@settings(calm, max_examples=700)
@example(server=Server(MANY, keeps="newest", breaks_at=40), is_known=True)
@example(server=Server(MANY, keeps="newest", breaks_at=6), is_known=True)
@example(server=Server(MANY, keeps="newest", limit="clamped", most=5), is_known=True)
@example(server=Server(MANY, keeps="newest", limit="clamped", most=8), is_known=True)
@example(server=Server(MANY, keeps="newest", limit="clamped", most=1), is_known=True)
@example(
    server=Server(put(CURSOR + 1, *[CURSOR + 20] * 30, CURSOR + 50), limit="clamped", most=10), is_known=True
)
@given(server=SERVERS, is_known=st.booleans())
def test_done_means_that_every_change_was_seen(server: Server, is_known: bool):
    """Whatever the server is like: a pass says Done only if nothing newer than the cursor is missing."""
    hint = is_known and server.order == "updated"
    seen, end, _ = read(server, is_sorted=hint, most=500)
    if isinstance(end, Done):
        wanted = {row for row in server.rows if row.updated is not None and row.updated > CURSOR}
        assert wanted <= seen


@settings(calm, max_examples=300)
@example(server=Server(put(*[CURSOR + 5] * 60, CURSOR + 9), breaks_at=40), is_known=True)
@given(server=SERVERS, is_known=st.booleans())
def test_a_pass_ends(server: Server, is_known: bool):
    """Each question brings something new, is larger, or is smaller for good: there is no loop."""
    read(server, is_sorted=is_known, most=len(server.rows) + 40)


@pytest.mark.parametrize("inclusive", [False, True])
@pytest.mark.parametrize(
    ("limit", "most"), [("honoured", 0), ("clamped", 8), ("clamped", 13), ("ignored", 0)]
)
@pytest.mark.parametrize("count", [0, 2, 7, 8, 9, 63, 64, 65, 128, 500])
def test_a_server_that_sorts_by_updated_is_read_to_the_end(
    count: int, limit: Literal["honoured", "clamped", "ignored"], most: int, inclusive: bool
):
    """Where pages can be trusted they are: the dear walk over all history is for the other servers."""
    rows = put(*(CURSOR + 10 + 30 * n for n in range(count)), shuffled=3)
    server = Server(rows, inclusive=inclusive, limit=limit, most=most)
    seen, end, questions = read(server, is_sorted=True, most=500)
    assert end == Done()
    assert seen == set(rows)
    page = {"honoured": 64, "clamped": most, "ignored": 500}[limit]
    assert questions <= 6 + count / (page - 1) * 1.5


@pytest.mark.parametrize("breaks_at", [9, 10, 33, 64, 65, 100])
def test_a_slow_server_that_sorts_by_updated_is_read_in_smaller_pages(breaks_at: int):
    """A page that takes too long is asked for again with fewer sessions, down to what was had before."""
    rows = put(*(CURSOR + 10 + 30 * n for n in range(150)), shuffled=3)
    seen, end, _ = read(Server(rows, breaks_at=breaks_at), is_sorted=True, most=500)
    assert end == Done()
    assert seen == set(rows)


@pytest.mark.parametrize("tied", [9, 30, 64, 65, 130, 1_000])
def test_sessions_that_share_one_moment_are_all_read(tied: int):
    """A bulk put gives many sessions one stamp: pages grow until the bound can move."""
    stamps = [CURSOR + 10] * 3 + [CURSOR + 20] * tied + [CURSOR + 30 + 5 * n for n in range(20)]
    rows = put(*stamps, shuffled=3)
    seen, end, _ = read(Server(rows), is_sorted=True, most=100)
    assert end == Done()
    assert seen == set(rows)


def test_more_ties_than_any_page_holds_are_given_up():
    """What cannot be had in one page is for the windows."""
    rows = put(*[CURSOR + 10] * 5_000, CURSOR + 20)
    _, end, _ = read(Server(rows), is_sorted=True, most=100)
    assert isinstance(end, GiveUp)


def test_a_long_answer_proves_its_order_by_itself():
    """Nothing need be known beforehand where one page shows that it is sorted by ``updated``."""
    rows = put(*(CURSOR + 10 + 30 * n for n in range(100)), shuffled=3)
    seen, end, _ = read(Server(rows), is_sorted=False, most=100)
    assert end == Done()
    assert seen == set(rows)


def unsorted_rows() -> tuple[Seen, ...]:
    """Nights that were put in another order than they were slept in."""
    return put(*(CURSOR + 10 + 30 * n for n in range(100)), shuffled=3)


@pytest.mark.parametrize(
    "server",
    [
        Server(unsorted_rows(), order="start"),
        Server(unsorted_rows(), order="shuffled"),
        Server(unsorted_rows(), keeps="newest"),
        Server((*put(*(CURSOR + 10 * n for n in range(1, 60)), shuffled=3), Seen(9, None))),
    ],
    ids=["sorted by start", "not sorted", "keeps the newest", "a session without a stamp"],
)
@pytest.mark.parametrize("is_known", [False, True])
def test_pages_that_prove_nothing_are_given_up(server: Server, is_known: bool):
    """Windows over all history are slower, and right."""
    _, end, questions = read(server, is_sorted=is_known and server.order == "updated", most=100)
    assert isinstance(end, GiveUp)
    assert questions <= 5


def test_nights_put_in_the_order_in_which_they_were_slept_prove_no_order():
    """When both orders are the same, nobody can tell which one the server keeps."""
    rows = put(*(CURSOR + 10 + 30 * n for n in range(100)))
    _, end, _ = read(Server(rows), is_sorted=False, most=100)
    assert isinstance(end, GiveUp)


def test_a_refusal_that_fewer_sessions_would_not_change_ends_the_paging():
    """A server that rejects ``limit`` is not asked again with another one."""
    _, step = Paging.begin(CURSOR, OVERLAP, sorted_by_updated=True).refused("400", smaller=False)
    assert step == GiveUp("400")


def test_a_full_page_of_known_sessions_is_not_the_end():
    """After a refusal pages are smaller than they were: only one that is not full has nothing behind it."""
    rows = put(*[CURSOR + 20] * 4)
    ask = Ask(CURSOR + 19, 4)
    paging = Paging(ask, OVERLAP, sorted_by_updated=True, known=frozenset(rows), largest=40, compared=True)
    assert paging.after(rows)[1] == Ask(CURSOR + 19, 8)
    assert paging.after(rows[:3])[1] == Done()


def test_the_first_question_is_small_and_at_the_cursor():
    """It is only there to be compared with the next one."""
    assert Paging.begin(CURSOR, OVERLAP, sorted_by_updated=True).ask == Ask(CURSOR, 8)


# --- what an answer says about the server's order ---------------------------------------------------

ROWS = [Seen(n, float(100 + (n * 5) % 8)) for n in range(8)]  # 5 and 8 have no common factor: 8 stamps


@pytest.mark.parametrize(
    ("rows", "proved"),
    [
        (sorted(ROWS, key=lambda row: row.updated or 0), "updated"),
        (ROWS, "start"),
        (list(reversed(ROWS)), None),
        (sorted(ROWS, key=lambda row: row.updated or 0)[:7], None),
        ([Seen(n, float(n)) for n in range(50)], None),
        ([Seen(50 - n, 5.0) for n in range(50)], "updated"),
        ([*ROWS, Seen(99, None)], "start"),
        ([], None),
    ],
)
def test_an_order_is_proved_by_enough_rows_that_have_only_one(rows: Sequence[Seen], proved: str | None):
    """Eight rows in one order and not in the other are no chance."""
    assert proven_order(rows) == proved


@calm
@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), max_size=30))
def test_a_proved_order_is_the_order_of_the_answer(pairs: list[tuple[int, int]]):
    """Never the other way round, and never without a witness against the other order."""
    rows = [Seen(a, float(b)) for a, b in pairs]
    keys: dict[str, Callable[[Seen], float]] = {
        "updated": lambda row: row.updated or 0.0,
        "start": lambda row: row.session_id,
    }
    order = proven_order(rows)
    if order is not None:
        values = [keys[order](row) for row in rows]
        others = [keys["start" if order == "updated" else "updated"](row) for row in rows]
        assert values == sorted(values)
        assert others != sorted(others)
