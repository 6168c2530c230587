"""Which sessions have to be looked at: days of many sessions at once, beside what is stored of them.

A question for data needs no session (BACE docs, accessing data: rows are filtered by their own fields): one
for a hundred datasets over months says of each day how many samples there are, the least, the most and the
average. Days on which these are as stored are done with. The others only give rise to a suspicion: a dataset
may have samples outside of all sessions.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final
from uuid import UUID

from sync.errors import AnswerBroken, AnswerTooLarge, RequestRefused
from sync.sources.bace.comparison import read_pages
from sync.sources.bace.context import AccountContext
from sync.sources.bace.data import MOST_DATASETS
from sync.sources.bace.decode import Readings
from sync.sources.bace.knowledge import Known
from sync.sources.bace.proof import Bucket, Buckets, Rounding, buckets_of, unequal
from sync.sources.bace.query import Query, and_, gte, in_, lt
from sync.sources.bace.reading import is_about_parameters
from sync.sources.bace.spans import DAY, HOUR, SECOND, Span, floor, intersection, union
from sync.sources.bace.tables import STORED_BY_SESSION
from sync.sources.bace.verification.listing import Owned
from sync.sources.bace.walk import LARGEST_PAGE, interval, microseconds

SLACK: Final = HOUR
"""By how much the samples of a session may lie outside of it, because device clocks err."""

Suspects = Mapping[UUID, tuple[Span, ...]]
"""Days to look at, by session."""


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

        Args:
            window: Whole days.
        """
        if not self.works:
            return self._all(window)
        span = interval(window)
        rows = await self.context.warehouse.fetch(STORED_BY_SESSION, span.start, span.end, DAY)
        datasets = sorted({one for session in self.owned for one in session.datasets})
        found: dict[UUID, set[Span]] = {}
        for first in range(0, len(datasets), MOST_DATASETS):
            group = datasets[first : first + MOST_DATASETS]
            theirs = await self._buckets(window, group)
            if theirs is None:
                self.works = False
                return self._all(window)
            for place in self._unequal(theirs, [row for row in rows if _dataset(row) in group]):
                for key in self._sessions_with(place, rows):
                    found.setdefault(key, set()).add(Span(place[1], place[1] + DAY))
        for day in self._opaque:
            for key in self._all(day):
                found.setdefault(key, set()).add(day)
        self._opaque.clear()
        return {key: union(days) for key, days in found.items()}

    def _unequal(self, theirs: Buckets, rows: Sequence[Mapping[str, Any]]) -> set[tuple[UUID, int]]:
        """Days that are not as stored, whether or not the source has put the data of some sessions away."""
        error = self.rounding.error
        here = [row for row in rows if not row["put_away"]]
        return unequal(theirs, _sums(rows), error) & unequal(theirs, _sums(here), error)

    def _sessions_with(self, place: tuple[UUID, int], rows: Sequence[Mapping[str, Any]]) -> set[UUID]:
        """Sessions that a dataset's day is about."""
        dataset, start = place
        with_rows = {row["id_data_session"] for row in rows if (_dataset(row), row["start"]) == place}
        return {
            session.id
            for session in self.owned
            if session.id in with_rows
            or (dataset in session.datasets and intersection(_around(session), (Span(start, start + DAY),)))
        }

    def _all(self, window: Span) -> Suspects:
        return {
            session.id: days
            for session in self.owned
            if (days := intersection(_days(_around(session)), (window,)))
        }

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
        self.rounding.note(readings)
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


def _sums(rows: Iterable[Mapping[str, Any]]) -> Buckets:
    sums: dict[tuple[UUID, int], Bucket] = {}
    for row in rows:
        place = (_dataset(row), row["start"])
        one = Bucket(row["count"], row["least"], row["most"], row["total"])
        sums[place] = sums[place] + one if place in sums else one
    return sums


def _dataset(row: Mapping[str, Any]) -> UUID:
    dataset: UUID = row["id_container_data_latest"]
    return dataset


def _around(session: Owned) -> tuple[Span, ...]:
    """The time in which a session may have samples."""
    begin = microseconds(session.began) - SLACK
    end = (1 << 32) * SECOND if session.ended is None else microseconds(session.ended) + SLACK
    return (Span(begin, max(end, begin + SLACK)),)


def _days(spans: Iterable[Span]) -> tuple[Span, ...]:
    """The same time in whole days."""
    return union(Span(floor(one.start, DAY), floor(one.end, DAY) + DAY) for one in spans)
