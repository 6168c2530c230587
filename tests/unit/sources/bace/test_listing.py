"""Paging through data sessions, against every server that the documents leave room for."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sync.sources.bace.listing import (
    BY_CHANGE,
    BY_START,
    Answer,
    Ask,
    Done,
    GiveUp,
    Order,
    Paging,
    Seen,
)

# A busy machine is no fault of the program's.
calm = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

SIZE = 10


def own_place(key: Any) -> int:
    """Where a session stands in the order of the server's own."""
    return int(key) * 7_919 % 10_007


@dataclass
class Server:
    """A collection in Yii2's manner, as far as paging is concerned.

    Attributes:
        rows: Sessions by id, and their stamps.
        order: What it is asked to sort by.
        most: The largest page that it gives.
        sorts: ``sort`` is honoured, or ignored in favour of an order of its own.
        filters: The bound is honoured, or ignored.
        shuffles: Rows that share a stamp come in another order in every answer.
        sized: ``per-page`` is honoured up to ``most``; else every page has ``most``.
        meta: Whether answers tell page numbers, sizes and totals.
        excess: So much is added to totals.
        moves: What happens before each answer.
        asks: What was asked.
    """

    rows: dict[int, float | None]
    order: Order = BY_START
    most: int = SIZE
    sorts: bool = True
    filters: bool = True
    shuffles: bool = False
    sized: bool = True
    meta: bool = True
    excess: int = 0
    moves: Callable[[Server], None] = lambda _: None
    asks: list[Ask] = field(default_factory=list)

    def answer(self, ask: Ask) -> Answer:
        """One page."""
        self.moves(self)
        self.asks.append(ask)
        bound = None if ask.bound is None else self.order.place(ask.bound)
        found = [
            Seen(key, stamp)
            for key, stamp in self.rows.items()
            if bound is None or not self.filters or (stamp is not None and self.order.place(stamp) <= bound)
        ]
        if self.shuffles:
            random.Random(len(self.asks)).shuffle(found)  # noqa: S311
        else:
            found.sort(key=lambda row: own_place(row.id))
        if self.sorts and ask.sorts:
            found.sort(
                key=lambda row: float("inf") if row.stamp is None else -self.order.place(row.stamp)
            )  # NULL comes last, as in MySQL
        size = min(ask.per_page, self.most) if self.sized else self.most
        total = len(found) + self.excess
        pages = -(-total // size)
        page = max(1, min(ask.page, pages))
        part = found[(page - 1) * size : page * size]
        if not self.meta:
            return Answer(part)
        return Answer(part, page, pages, size, total, has_next=page < pages)


def read(server: Server, paging: Paging) -> Done | GiveUp:
    """Follow the paging to its end."""
    step: Ask | Done | GiveUp = paging.ask
    while isinstance(step, Ask):
        assert step == paging.ask
        assert step.page >= 1
        assert step.per_page >= 1
        assert len(server.asks) < 5_000, "it does not come to an end"
        step = paging.after(server.answer(step))
    return step


def distinct(count: int) -> dict[int, float | None]:
    """Sessions that started one after the other."""
    return {key: 1_000.0 + key for key in range(count)}


@pytest.mark.parametrize("count", [0, 1, SIZE - 1, SIZE, SIZE + 1, 95])
def test_a_listing_is_read_whole_in_hardly_more_requests_than_it_has_pages(count: int) -> None:
    """Where the server does as it is asked, every session is seen, and nothing is asked twice."""
    server = Server(distinct(count))
    paging = Paging(BY_START, SIZE)
    assert read(server, paging) == Done()
    assert paging.ids == server.rows.keys()
    assert len(server.asks) <= count // (SIZE - 1) + 1
    assert paging.fault is None


def test_the_size_of_pages_is_the_one_that_the_server_allows() -> None:
    """A clamped page size is read from the answer, not taken for the end of the listing."""
    server = Server(distinct(200), most=50)
    paging = Paging(BY_START, 500)
    assert read(server, paging) == Done()
    assert paging.ids == server.rows.keys()
    assert len(server.asks) == 5


@given(
    stamps=st.lists(st.integers(0, 12), max_size=80),
    size=st.integers(2, 12),
    order=st.sampled_from([BY_START, BY_CHANGE]),
    sized=st.booleans(),
    meta=st.booleans(),
)
@calm
def test_sessions_that_share_a_stamp_are_all_seen(
    stamps: list[int], size: int, order: Order, sized: bool, meta: bool
) -> None:
    """However many share one stamp, each is seen, even by a server that tells nothing about its pages."""
    server = Server({n: float(s) for n, s in enumerate(stamps)}, order, most=size, sized=sized, meta=meta)
    paging = Paging(order, SIZE)
    assert read(server, paging) == Done()
    assert paging.ids == server.rows.keys()


@given(
    stamps=st.sampled_from([1, 30]).flatmap(
        lambda most: st.lists(st.integers(0, most), min_size=1, max_size=90)
    ),
    events=st.lists(st.tuples(st.sampled_from(["appear", "vanish"]), st.integers(0, 30)), max_size=30),
    seed=st.integers(0, 99),
    traits=st.fixed_dictionaries(
        {"sorts": st.booleans(), "filters": st.booleans(), "shuffles": st.booleans(), "sized": st.booleans()}
    ),
)
@settings(calm, max_examples=400)
def test_what_existed_throughout_is_never_skipped(
    stamps: list[int], events: list[tuple[str, int]], seed: int, traits: dict[str, Any]
) -> None:
    """Sessions appear and vanish between pages, sort and filter are ignored: a pass that ends is whole.

    A pass that cannot prove that it is whole says so, and none goes on for ever.
    """
    chance = random.Random(seed)  # noqa: S311
    pending = list(events)

    def move(server: Server) -> None:
        for _ in range(min(len(pending), chance.randrange(3))):
            kind, stamp = pending.pop()
            if kind == "appear":
                server.rows[1_000 + len(pending)] = float(stamp)
            elif server.rows:
                del server.rows[chance.choice(sorted(server.rows))]

    server = Server({n: float(s) for n, s in enumerate(stamps)}, moves=move, **traits)
    before = set(server.rows)
    paging = Paging(BY_START, SIZE)
    end = read(server, paging)
    throughout = before & server.rows.keys()
    # By offsets and without overlap, one that vanishes and one that appears cannot be told from no change.
    provable = (traits["sorts"] and traits["filters"]) or not events or traits["sized"]
    if isinstance(end, Done) and provable and not (traits["shuffles"] and events):
        assert paging.ids >= throughout
    if traits["sorts"] and traits["filters"] and not traits["shuffles"] and len(set(stamps)) == len(stamps):
        assert end == Done()


@pytest.mark.parametrize(
    ("trait", "fault"),
    [({"sorts": False}, "not sorted"), ({"filters": False}, "outside of it")],
)
def test_a_server_that_ignores_what_it_is_asked_is_found_out_and_read_by_offsets(
    trait: dict[str, Any], fault: str
) -> None:
    """Where ``sort`` or the bound is ignored, pages that overlap are read until they add up to the total."""
    server = Server(distinct(95), **trait)
    paging = Paging(BY_START, SIZE)
    assert read(server, paging) == Done()
    assert paging.ids == server.rows.keys()
    assert fault in (paging.fault or "")
    assert not paging.is_ordered
    assert len(server.asks) <= 18


def test_pages_by_offset_notice_that_something_vanished_and_something_appeared() -> None:
    """A shift that leaves the total as it was is noticed by the overlap, and the pass repeated."""
    server = Server(distinct(60), sorts=False)

    def swap(server: Server) -> None:
        if len(server.asks) == 3:
            listed = sorted(server.rows, key=own_place)
            for key in listed[:8]:
                del server.rows[key]
            last = own_place(listed[-1])
            later = (key for key in range(1_000, 9_000) if own_place(key) > last)
            server.rows |= {next(later): 0.0 for _ in range(8)}

    server.moves = swap
    paging = Paging(BY_START, SIZE)
    assert read(server, paging) == Done()
    assert paging.ids >= server.rows.keys()


@pytest.mark.parametrize("refuses", ["sort", "filter"])
def test_a_refused_sort_or_bound_leads_to_offsets(refuses: str) -> None:
    """A 422 for ``sort`` or for the bound ends neither the pass nor in a loop."""
    server = Server(distinct(35))
    paging = Paging(BY_START, SIZE)
    step: Ask | Done | GiveUp = paging.ask
    while isinstance(step, Ask):
        assert len(server.asks) < 100
        if step.sorts if refuses == "sort" else step.bound is not None:
            server.asks.append(step)
            step = paging.refused("refused", smaller=False)
        else:
            step = paging.after(server.answer(step))
    assert step == Done()
    assert paging.ids == server.rows.keys()


def test_a_server_that_refuses_the_plain_listing_is_given_up() -> None:
    """A listing that is refused whatever is left out of the question ends with the refusal's words."""
    paging = Paging(BY_START, SIZE)
    assert isinstance(paging.refused("no sort", smaller=False), Ask)
    assert paging.refused("no listing", smaller=False) == GiveUp("no listing")


@pytest.mark.parametrize(("appear", "sized"), [(0, True), (6, True), (0, False)])
def test_ties_that_shift_between_pages_are_read_again(appear: int, sized: bool) -> None:
    """Sessions that share a start move up when others vanish: none of them slips through."""
    tied: dict[int, float | None] = dict.fromkeys(range(45), 1_050.0)
    server = Server(tied, sized=sized)

    def shift(server: Server) -> None:
        if len(server.asks) == 3:
            for key in sorted(server.rows, key=own_place)[:6]:
                del server.rows[key]
            server.rows |= dict.fromkeys(range(1_000, 1_000 + appear), 1_040.0)

    server.moves = shift
    paging = Paging(BY_START, SIZE)
    assert read(server, paging) == Done()
    assert paging.ids >= server.rows.keys()


def test_ties_in_another_order_each_time_are_read_until_all_were_seen() -> None:
    """More of them than a page holds, shuffled in every answer: counting them tells when all were seen."""
    server = Server({**distinct(40), **dict.fromkeys(range(100, 118), 1_020.5)}, shuffles=True)
    paging = Paging(BY_START, SIZE)
    assert read(server, paging) == Done()
    assert paging.ids == server.rows.keys()
    assert paging.fault is None


def test_changes_are_given_up_where_they_cannot_be_had_in_order() -> None:
    """A pass that may not use offsets ends at the first answer that is not what was asked for."""
    server = Server(distinct(95), BY_CHANGE, filters=False)
    paging = Paging(BY_CHANGE, SIZE, since=1_050.0, offsets=False)
    assert isinstance(read(server, paging), GiveUp)
    assert len(server.asks) == 1


def test_changes_are_read_from_their_bound_on() -> None:
    """Ascending, from the bound, and nothing older."""
    server = Server(distinct(95), BY_CHANGE)
    paging = Paging(BY_CHANGE, SIZE, since=1_050.0, offsets=False)
    assert read(server, paging) == Done()
    assert paging.ids == set(range(50, 95))


def test_a_page_that_cannot_be_had_is_asked_for_in_smaller_pieces() -> None:
    """An answer that is too large or broken is asked for again in halves, down to one session."""
    server = Server(distinct(35))
    paging = Paging(BY_START, SIZE)
    step: Ask | Done | GiveUp = paging.ask
    while isinstance(step, Ask):
        assert len(server.asks) < 100
        if step.per_page > 3:
            server.asks.append(step)
            step = paging.refused("too large", smaller=True)
        else:
            step = paging.after(server.answer(step))
    assert step == Done()
    assert paging.ids == server.rows.keys()
    assert Paging(BY_START, 1).refused("broken", smaller=True) == GiveUp("broken")


def test_sessions_without_a_start_are_found_by_their_absence_from_the_count() -> None:
    """No bound has a session without a start in its answer; the total tells that one is missing."""
    server = Server({**distinct(35), 90: None, 91: None})
    paging = Paging(BY_START, SIZE)
    assert read(server, paging) == Done()
    assert paging.ids == server.rows.keys()


def test_a_total_that_is_known_to_be_wrong_costs_nothing_more() -> None:
    """A server whose totals count too many is read by key alone where that is known of it."""
    server = Server(distinct(95), excess=7)
    assert read(server, known := Paging(BY_START, SIZE, excess=7)) == Done()
    assert known.ids == server.rows.keys()
    assert len(server.asks) <= 12


def test_a_total_that_counts_too_many_does_not_keep_a_pass_from_its_end() -> None:
    """Two passes by offset that agree are as good as a count."""
    server = Server(distinct(95), excess=7)
    paging = Paging(BY_START, SIZE)
    assert read(server, paging) == Done()
    assert paging.ids == server.rows.keys()


def test_disorder_among_more_ties_than_can_be_told_apart_is_admitted() -> None:
    """What cannot be proved is said, after all the rest has been read."""
    tied: dict[int, float | None] = dict.fromkeys(range(1_000, 1_400), 1_050.5)
    server = Server(distinct(95) | tied, shuffles=True)
    paging = Paging(BY_START, SIZE)
    end = read(server, paging)
    assert isinstance(end, Done) or "looks different each time" in end.reason
    assert paging.ids >= set(range(95))


def test_order_is_proved_by_what_cannot_be_chance() -> None:
    """A few rows in order prove nothing yet."""
    few, many = Paging(BY_START, 5), Paging(BY_START, 9)
    few.after(Server(distinct(95)).answer(few.ask))
    many.after(Server(distinct(95)).answer(many.ask))
    assert (few.is_ordered, many.is_ordered) == (False, True)
