"""Reading the raw samples of one session, or of one group of its datasets: plan, ask, store."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

import numpy as np

from sync.errors import AnswerBroken, RequestRefused, SourceContractError, SourceUnavailable
from sync.model import Batch, Interval, Reject, Rows, Stretch, Update
from sync.sources.bace.client import Page
from sync.sources.bace.context import AccountContext
from sync.sources.bace.decode import Readings, decode_data
from sync.sources.bace.gathering import gathered
from sync.sources.bace.knowledge import Known
from sync.sources.bace.lengths import FLOOR, Lengths
from sync.sources.bace.query import Filter, Query, and_, eq, gte, in_, lt
from sync.sources.bace.reading import is_about_parameters
from sync.sources.bace.resolution import Answer, Ask, Step, after, begin, next_ask, too_much
from sync.sources.bace.spans import SECOND, Span, difference, union
from sync.sources.bace.tables import DATAPOINTS, DATASETS, HOLLOW, SAMPLES

LARGEST_PAGE: Final = 5_000
"""Rows that are asked for on a page; the vendor may allow fewer, and says so."""

MOST_LOST: Final = 3
"""Seconds that cannot be had, each alone, beyond which a walk is given up."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_NO_COUNT: Final = 1


def interval(span: Span) -> Interval:
    """A span as the model has it."""
    return Interval(_EPOCH + timedelta(microseconds=span.start), _EPOCH + timedelta(microseconds=span.end))


def microseconds(moment: datetime) -> int:
    """Since 1970, exactly."""
    return (moment - _EPOCH) // timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Part:
    """A session, or one group of at most 100 of its datasets.

    Attributes:
        session: The session.
        number: From 0.
        datasets: The group; None: whatever the session has.
        covered: What of it was read.
        is_new: Its groups are others than before: what was covered does not count.
        elsewhere: The datasets of the other groups.
    """

    session: UUID
    number: int = 0
    datasets: tuple[UUID, ...] | None = None
    covered: tuple[Span, ...] = ()
    is_new: bool = False
    elsewhere: frozenset[UUID] = frozenset()

    def holds(self, dataset: UUID) -> bool:
        """Whether rows of a dataset are compared with it: with the first group also what no group names."""
        if self.number == 0 or self.datasets is None:
            return dataset not in self.elsewhere
        return dataset in self.datasets


def data_query(part: Part, ask: Ask, *, sorts: bool, per_page: int) -> Query:
    """The question for a stretch of a part, in the order of time where that can be asked for."""
    conditions: list[Filter] = [
        eq("id_data_session", part.session),
        gte("timestamp_seconds", _seconds(ask.span.start)),
        lt("timestamp_seconds", _seconds(ask.span.end)),
    ]
    if part.datasets is not None:
        conditions.append(in_("id_container_data_latest", part.datasets))
    return Query(
        filter=and_(*conditions),
        sort="timestamp_seconds" if sorts else None,
        page=None if ask.page == 1 else ask.page,
        per_page=per_page,
    )


@dataclass(slots=True)
class Walk:
    """Reads some time of a part, oldest first; a batch holds what was answered in about a second.

    Attributes:
        context: The account.
        known: What is known of the server; learns.
        part: What is read.
        wanted: Which time.
        expected: Samples that should come; None where nothing is known.
        series: How many datasets there are, about.
        newest: The newest sample stored so far, in microseconds; of a session that is not final.
        settle: None for a final session. Else coverage ends this long before its newest sample: later
            samples may still come, so what lies behind it is stored, and read again.
        doubted: Time that is taken out of the coverage before it is read.
        keeps: As of ``Stretch``.
    """

    context: AccountContext
    known: Known
    part: Part
    wanted: Sequence[Span]
    expected: int | None = None
    series: int = 1
    newest: int | None = None
    settle: int | None = None
    doubted: tuple[Span, ...] = ()
    keeps: bool = False
    _read: tuple[Span, ...] = ()
    _told: set[UUID] = field(default_factory=set)
    _unsure_from: int | None = None
    _lost: int = 0
    _loss: str = ""

    async def batches(self) -> AsyncGenerator[Batch, None]:
        """The samples, with what they prove.

        Raises:
            SourceContractError: Some could not be had; the others were read.
            RetryableError: The vendor cannot be reached.
        """
        async with aclosing(gathered(self._answers())) as batches:
            async for batch in batches:
                news = self.known.news()  # of this moment: the batch has waited for others
                yield replace(batch, learned=news)
                self.known.note_saved(news)

    async def _answers(self) -> AsyncGenerator[Batch, None]:
        """Each answer as a batch."""
        if self.part.is_new or self.doubted:
            yield self._batch((), (), self.doubted, reset=self.part.is_new)
        scan = begin(
            self.wanted,
            hollow=await self._hollow(),
            expected=self.expected,
            series=self.series,
            newest=self.newest,
            page_size=self.known.page_size,
            habit=self.known.habit,
        )
        held: list[Readings] = []
        try:
            while (ask := next_ask(scan, self._lengths, may_explore=self._may_explore())) is not None:
                self._note_exploring(ask)
                try:
                    page = await self._ask(ask)
                except (SourceUnavailable, AnswerBroken) as error:
                    await self.context.client.server_time()  # it was this question, not the vendor's health
                    shorter = too_much(scan, self.known.lengths, ask)
                    self._give_up(difference(scan.remaining, shorter.remaining), error)
                    scan = shorter
                    held.clear()
                    continue
                readings = decode_data(page.items, ask.span.start)
                step = after(scan, self.known.lengths, ask, self._answer(ask, page, readings))
                scan = step.scan
                self._learn(step, ask)
                held.append(readings)
                if step.accepted or step.doubted:
                    yield self._batch(held, step.accepted, step.doubted)
                if not step.hold:
                    held.clear()
        finally:
            self._stop_exploring()
        if self._unsure_from is not None:  # what was promised beyond the time wanted is nobody's concern
            self._unsure_from = None
            yield self._batch((), (), ())
        self.known.remember(scan.idle_share(max(FLOOR, self.known.lengths.raw.reached)))
        if self._lost:
            raise SourceContractError(self._loss)

    # -- asking --------------------------------------------------------------------------------

    @property
    def _lengths(self) -> Lengths:
        return self.known.current(self.context.clock())

    def _learn(self, step: Step, ask: Ask) -> None:
        proven = ask.span.length if step.proves else 0
        self.known.learn(step.lengths, self.context.clock(), proven=proven)
        # A server that ignores the order is found out when promised rows fail to come: until then, or until
        # the order has been proven, what rests on it is stored, and not yet said to be covered.
        promise = None if step.lengths.ordered else step.scan.promise
        self._unsure_from = None if promise is None else promise.span.start

    def _may_explore(self) -> bool:
        return self.known.explorer in (None, self)

    def _note_exploring(self, ask: Ask) -> None:
        longer = not self.known.lengths.is_raw(ask.span.length)
        if longer and not ask.hoped:
            self.known.explorer = self
        else:
            self._stop_exploring()

    def _stop_exploring(self) -> None:
        if self.known.explorer is self:
            self.known.explorer = None

    async def _ask(self, ask: Ask) -> Page:
        """A page; where the vendor refuses how it is asked, without what is not essential."""
        query = data_query(self.part, ask, sorts=self.known.sorts, per_page=LARGEST_PAGE)
        try:
            return await self.context.client.data(query)
        except RequestRefused as error:
            if not is_about_parameters(error) or query.sort is None:
                raise
        page = await self.context.client.data(replace(query, sort=None))
        self.known.sorts = False
        return page

    def _answer(self, ask: Ask, page: Page, readings: Readings) -> Answer:
        rows = len(page.items)
        if page.total is None and page.page_count is None and page.per_page is None:
            raise SourceContractError(
                f"an answer with data of session {self.part.session} does not say how many rows there are in"
                " all, so that nobody can tell whether it is whole; is this the BACE API?"
            )
        number = page.page or ask.page
        if number != ask.page:  # past the end the last page comes again
            raise SourceContractError(
                f"page {ask.page} of the data of session {self.part.session} was asked for, and page {number}"
                " came: there are fewer rows than was said"
            )
        self.known.page_size = page.per_page or self.known.page_size
        whole = not page.has_next and number >= (page.page_count or number)
        if page.total is not None:
            whole = whole and (number > 1 or page.total <= rows)
        return Answer(
            stamps=readings.stamps,
            counts=readings.counts,
            whole=whole,
            total=page.total,
            page_size=page.per_page,
            mixed=readings.is_mixed,
        )

    def _give_up(self, lost: Sequence[Span], error: Exception) -> None:
        """Note what cannot be had even alone; the rest of the session is read all the same."""
        if not lost:
            return
        if not self._lost:
            self._loss = f"the data from {interval(lost[0]).start} on could not be had: {error}"
        self._lost += len(lost)
        if self._lost == MOST_LOST:
            raise SourceContractError(self._loss)

    async def _hollow(self) -> tuple[Span, ...]:
        """Read time between what is wanted that holds nothing: a question may reach across it."""
        parts = union(self.wanted)
        if len(parts) <= 1:
            return ()
        between = difference((Span(parts[0].start, parts[-1].end),), parts)
        gaps = [interval(gap) for gap in between]
        rows = await self.context.warehouse.fetch(
            HOLLOW, self.part.session, [gap.start for gap in gaps], [gap.end for gap in gaps]
        )
        return tuple(between[row["number"] - 1] for row in rows)

    # -- storing -------------------------------------------------------------------------------

    def _batch(
        self,
        held: Sequence[Readings],
        accepted: Sequence[Span],
        doubted: Sequence[Span],
        *,
        reset: bool = False,
    ) -> Batch:
        """What was accepted, in a form that is proven once it is stored."""
        self._read = union((*difference(self._read, union(doubted)), *accepted))
        columns = [_within(readings, accepted) for readings in held]
        stamps = np.concatenate([c.stamps for c in columns]) if columns else np.empty(0, np.int64)
        if stamps.size:
            self.newest = max(self.newest or int(stamps.max()), int(stamps.max()))
        stretch = Stretch(
            series=DATAPOINTS,
            key=self.part.session,
            part=self.part.number,
            datasets=self.part.datasets,
            replaced=tuple(interval(span) for span in accepted),
            covered=tuple(interval(span) for span in self._settled()),
            uncovered=tuple(interval(span) for span in doubted),
            rows=_rows(self.part.session, columns),
            rejects=self._rejects(columns),
            reset=reset,
            keeps=self.keeps,
        )
        return Batch(
            self.context.stream,
            stretches=(stretch,),
            updates=tuple(self._dimensions(held)),
            read=len(stretch.rows) + len(stretch.rejects),
        )

    def _settled(self) -> tuple[Span, ...]:
        """What of the time read counts as read."""
        read = self._read if self._unsure_from is None else _before(self._read, self._unsure_from)
        if self.settle is None:
            return read
        if self.newest is None or not self._read:
            return ()
        return _before(read, self.newest - self.settle)

    def _rejects(self, columns: Sequence[_Columns]) -> tuple[Reject, ...]:
        session = str(self.part.session)
        rejects: dict[str, Reject] = {}
        for one in columns:
            for number, item in enumerate(one.readings.bad):
                if not one.takes[item.position]:
                    continue
                key = f"{session}/{item.key}"
                while key in rejects:
                    key = f"{session}/{item.key}#{number}"
                    number += 1  # noqa: PLW2901 - until nobody else has it
                rejects[key] = Reject(
                    record_key=session,
                    item_key=key,
                    reason=item.reason,
                    payload=item.payload,
                    instant=_EPOCH + timedelta(microseconds=int(one.readings.stamps[item.position])),
                    items=int(one.readings.counts[item.position]),
                )
        return tuple(rejects.values())

    def _dimensions(self, held: Sequence[Readings]) -> list[Update]:
        """The datasets that were not met before."""
        updates = []
        for dataset in (each for readings in held for each in readings.datasets):
            key = dataset.id_container_data_latest
            if key not in self._told:
                self._told.add(key)
                row = {
                    "id_container_data_latest": key,
                    "id_group": dataset.id_group,
                    "source_device": dataset.source_device,
                    "datatype": dataset.datatype,
                }
                updates.append(Update(DATASETS, ("id_container_data_latest",), row))
        return updates


def _before(spans: Sequence[Span], moment: int) -> tuple[Span, ...]:
    return tuple(Span(part.start, min(part.end, moment)) for part in spans if part.start < moment)


def _seconds(moment: int) -> int | float:
    """Microseconds as the API wants its instants: whole seconds wherever possible."""
    whole, rest = divmod(moment, SECOND)
    return whole if rest == 0 else moment / SECOND


@dataclass(frozen=True, slots=True)
class _Columns:
    """The readings of an answer, and which of them lie in what was accepted."""

    readings: Readings
    takes: np.ndarray[tuple[int], np.dtype[np.bool_]]
    good: np.ndarray[tuple[int], np.dtype[np.bool_]]

    @property
    def stamps(self) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        """Instants of the good ones."""
        return self.readings.stamps[self.good]

    @property
    def containers(self) -> np.ndarray[tuple[int], np.dtype[np.void]]:
        """Their datasets' ids."""
        ids = b"".join(dataset.id_container_data_latest.bytes for dataset in self.readings.datasets)
        return np.frombuffer(ids, "V16")[self.readings.which[self.good]]


def _within(readings: Readings, accepted: Sequence[Span]) -> _Columns:
    takes = np.zeros(len(readings.stamps), bool)
    for span in accepted:
        takes |= (readings.stamps >= span.start) & (readings.stamps < span.end)
    good = takes.copy()
    good[[item.position for item in readings.bad]] = False
    return _Columns(readings, takes, good)


def no_rows() -> Rows:
    """Nothing for the datapoints' table."""
    return Rows(SAMPLES, ((),) * len(SAMPLES.columns))


def _rows(session: UUID, columns: Sequence[_Columns]) -> Rows:
    if not columns:
        return no_rows()

    def joined(name: str) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        return np.concatenate([getattr(one.readings, name)[one.good] for one in columns])

    stamps = np.concatenate([one.stamps for one in columns])
    values, least, most, counts = joined("values"), joined("least"), joined("most"), joined("counts")
    raw = (counts == _NO_COUNT) & _same_bits(least, values) & _same_bits(most, values)
    sessions = np.full(len(stamps), np.void(session.bytes))
    containers = np.concatenate([one.containers for one in columns])
    samples = (stamps.astype("M8[us]"), sessions, containers, values)
    if raw.all():
        return Rows(SAMPLES, samples)
    return Rows(DATAPOINTS.table, (*samples, _unless(raw, least), _unless(raw, most), _unless(raw, counts)))


def _same_bits(
    one: np.ndarray[tuple[int], np.dtype[np.float64]], other: np.ndarray[tuple[int], np.dtype[np.float64]]
) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    return np.equal(one.view(np.int64), other.view(np.int64))


def _unless(
    raw: np.ndarray[tuple[int], np.dtype[np.bool_]], values: np.ndarray[tuple[int], np.dtype[np.float64]]
) -> list[float | None]:
    """NULL for raw rows: there is nothing to say beyond the value."""
    return [None if skip else value for skip, value in zip(raw.tolist(), values.tolist(), strict=True)]
