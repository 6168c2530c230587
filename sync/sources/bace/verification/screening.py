"""Which sessions have to be looked at: days of many sessions at once, beside what is stored of them.

A question for data needs no session (BACE docs, accessing data: rows are filtered by their own fields): one
for a hundred datasets over months says of each day how many samples there are, the least, the most and the
average. Days on which these are as stored are done with. The others only give rise to a suspicion: a dataset
may have samples outside of all sessions.
"""

from __future__ import annotations

from asyncio import to_thread
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, TypeAlias
from uuid import UUID

from sync.errors import (
    AnswerBroken,
    AnswerTooLarge,
    RequestRefused,
    SourceContractError,
    SourceUnavailable,
)
from sync.sources.bace.comparison import ALL_TIME, read_pages
from sync.sources.bace.context import AccountContext
from sync.sources.bace.data import MOST_DATASETS
from sync.sources.bace.decode import Readings
from sync.sources.bace.knowledge import Known
from sync.sources.bace.proof import Bucket, Buckets, Rounding, buckets_of, rounded_by, unequal
from sync.sources.bace.query import Query, and_, gte, in_, lt
from sync.sources.bace.reading import is_about_parameters
from sync.sources.bace.spans import DAY, HOUR, SECOND, Span, floor, intersection, union
from sync.sources.bace.tables import STORED_BY_SESSION
from sync.sources.bace.verification.listing import Owned
from sync.sources.bace.verification.narrowing import Narrowing
from sync.sources.bace.walk import LARGEST_PAGE, Part, interval, microseconds
from sync.transport import TokenRejected

SLACK: Final = HOUR
"""By how much the samples of a session may lie outside of it, because device clocks err."""

Suspects = Mapping[UUID, tuple[Span, ...]]
"""Days to look at, by session."""

Place: TypeAlias = "tuple[UUID, int]"
"""A dataset, and where a day begins, in microseconds."""


@dataclass(slots=True)
class Screening:
    """Compares days.

    Attributes:
        context: The account.
        known: What is known of the server.
        rounding: How it rounds; learns.
        owned: The sessions that the account reads.
        works: Whether data of several sessions can be asked for at once; else all sessions are suspects.
    """

    context: AccountContext
    known: Known
    rounding: Rounding
    owned: Collection[Owned]
    works: bool = True
    _opaque: list[Span] = field(default_factory=list)

    async def suspects(self, window: Span) -> Suspects:
        """The sessions that have to be looked at.

        One of which no dataset is known always is: nobody can ask for what it has lost.

        Args:
            window: Whole days.
        """
        if not self.works:
            return _own_days(self.owned, window)
        span = interval(window)
        rows = await self.context.warehouse.fetch(STORED_BY_SESSION, span.start, span.end, DAY)
        days = await to_thread(_Days.of, rows, self.owned, window)
        datasets = sorted(days.datasets)
        found: defaultdict[UUID, set[Span]] = defaultdict(set)
        for first in range(0, len(datasets), MOST_DATASETS):
            group = datasets[first : first + MOST_DATASETS]
            theirs = await self._buckets(window, group)
            if theirs is None:
                self.works = False
                return _own_days(self.owned, window)
            await self._learn_rounding(days, theirs, group)
            for key, day in await to_thread(days.suspects, theirs, group, self.rounding.error):
                found[key].add(day)
        unnamed = [one for one in self.owned if not one.datasets]
        for suspects in (_own_days(unnamed, window), *(_own_days(self.owned, day) for day in self._opaque)):
            for key, spans in suspects.items():
                found[key].update(spans)
        self._opaque.clear()
        return {key: union(spans) for key, spans in found.items()}

    async def _learn_rounding(self, days: _Days, theirs: Buckets, group: Sequence[UUID]) -> None:
        """Look closely at days that rounding could explain: else every session is a suspect where it does."""
        while (doubt := await to_thread(days.doubtful, theirs, group, self.rounding.error)) is not None:
            (dataset, start), session = doubt
            known = self.rounding.error
            part = Part(session, datasets=(dataset,), elsewhere=frozenset(days.datasets - {dataset}))
            narrowing = Narrowing(self.context, self.known, self.rounding, part, (ALL_TIME,))
            try:
                await narrowing.look(Span(start, start + DAY))
            except (RequestRefused, SourceContractError, SourceUnavailable, TokenRejected):
                return  # that session's trouble, which comes up again when it is looked at
            if self.rounding.error == known:
                return

    async def _buckets(self, window: Span, datasets: Sequence[UUID]) -> Buckets | None:
        """The source's days; in smaller parts where they cannot be had at once. None: not in this way.

        Of a day that cannot be had even alone every session is a suspect.
        """
        try:
            readings = await self._asked(window, datasets)
        except (AnswerTooLarge, AnswerBroken):
            middle = floor((window.start + window.end) // 2, DAY)
            if middle == window.start:
                self._opaque.append(window)
                return {}
            found: dict[tuple[UUID, int], Bucket] = {}
            for part in (Span(window.start, middle), Span(middle, window.end)):
                half = await self._buckets(part, datasets)
                if half is None:
                    return None
                found |= half
            return found
        if readings is None:
            return None
        return buckets_of(readings, DAY)

    async def _asked(self, window: Span, datasets: Sequence[UUID]) -> Readings | None:
        query = Query(
            filter=and_(
                gte("timestamp_seconds", window.start // SECOND),
                lt("timestamp_seconds", window.end // SECOND),
                in_("id_container_data_latest", datasets),
            ),
            sort="timestamp_seconds",
            per_page=LARGEST_PAGE,
        )
        for question in (query, replace(query, sort=None)):
            try:
                return await read_pages(self.context, question, window.start, f"{len(datasets)} datasets")
            except RequestRefused as error:
                if not is_about_parameters(error):
                    raise
        return None


@dataclass(slots=True)
class _Days:
    """What is stored of datasets day by day, and which sessions that is about.

    Attributes:
        stored: Of all sessions, by dataset.
        served: Likewise, without what the source may have put away.
        holders: Which of the account's sessions have samples on a dataset's day.
        named: The days on which sessions may have samples of a dataset, for they name it.
    """

    stored: defaultdict[UUID, dict[Place, Bucket]] = field(default_factory=lambda: defaultdict(dict))
    served: defaultdict[UUID, dict[Place, Bucket]] = field(default_factory=lambda: defaultdict(dict))
    holders: defaultdict[Place, set[UUID]] = field(default_factory=lambda: defaultdict(set))
    named: defaultdict[UUID, list[tuple[UUID, Span]]] = field(default_factory=lambda: defaultdict(list))

    @classmethod
    def of(cls, rows: Iterable[Mapping[str, Any]], owned: Collection[Owned], window: Span) -> _Days:
        """From rows of ``STORED_BY_SESSION``, and the sessions that the account reads."""
        days, ids = cls(), {session.id for session in owned}
        for row in rows:
            place = (row["id_container_data_latest"], row["start"])
            one = Bucket(row["count"], row["least"], row["most"], row["total"])
            for sums in (days.stored, days.served)[: 1 if row["put_away"] else 2]:
                of_dataset = sums[place[0]]
                of_dataset[place] = of_dataset[place] + one if place in of_dataset else one
            if row["id_data_session"] in ids:
                days.holders[place].add(row["id_data_session"])
        for session in owned:
            for span in intersection(_own_time(session), (window,)):
                for dataset in session.datasets:
                    days.named[dataset].append((session.id, span))
        return days

    @property
    def datasets(self) -> set[UUID]:
        """Those that concern the account's sessions."""
        return {*self.named, *(dataset for dataset, _ in self.holders)}

    def suspects(self, theirs: Buckets, group: Iterable[UUID], rounding: float) -> list[tuple[UUID, Span]]:
        """Sessions, each with a day on which one of some datasets is not as stored.

        It has to be unequal whether or not the source has put the data of some sessions away.
        """
        stored, served = _sums(self.stored, group), _sums(self.served, group)
        return [
            (key, Span(place[1], place[1] + DAY))
            for place in unequal(theirs, stored, rounding) & unequal(theirs, served, rounding)
            for key in self._about(place)
        ]

    def doubtful(self, theirs: Buckets, group: Iterable[UUID], rounding: float) -> tuple[Place, UUID] | None:
        """A day that a coarser rounding than is known would make equal, and a session that it is about."""
        served = _sums(self.served, group)
        return next(
            (
                (place, key)
                for place in unequal(theirs, served, rounding)
                if place in theirs and place in served and rounded_by(theirs[place], served[place])
                for key in self._about(place)
            ),
            None,
        )

    def _about(self, place: Place) -> set[UUID]:
        dataset, start = place
        naming = {key for key, span in self.named.get(dataset, ()) if span.start <= start < span.end}
        return naming | self.holders.get(place, set())


def _sums(by_dataset: Mapping[UUID, Buckets], group: Iterable[UUID]) -> Buckets:
    return {place: one for dataset in group for place, one in by_dataset.get(dataset, {}).items()}


def _own_days(sessions: Iterable[Owned], window: Span) -> Suspects:
    return {one.id: days for one in sessions if (days := intersection(_own_time(one), (window,)))}


def _own_time(session: Owned) -> tuple[Span, ...]:
    """The days on which a session may have samples."""
    begin = microseconds(session.began) - SLACK
    end = (1 << 32) * SECOND if session.ended is None else microseconds(session.ended) + SLACK
    return (Span(floor(begin, DAY), floor(max(end, begin + SLACK), DAY) + DAY),)
