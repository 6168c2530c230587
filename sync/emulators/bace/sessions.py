"""A data session, which lives on the service's clock: it appears, grows, ends, is ingested and archived."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Final

from sync.emulators.bace.samples import Dataset, Point, Samples, identifier

CREATION_LAG: Final = 4
"""Seconds from a session's start to its record (BACE docs, Data Sessions, example)."""
INGESTION_LAG: Final = 317
"""Seconds from a session's end to the last change of its record (the same example)."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DataSession:
    """All that will ever be true of a data session; instants are Unix seconds on the service's clock.

    Attributes:
        id: UUID.
        group: UUID of the group.
        label: What people read.
        start: The device was switched on.
        end: The device is switched off; None: never.
        created_at: The record appears.
        ingested_at: Ingestion is finished; None: never.
        archived_at: Archiving is finished; None: never.
        samples: What is measured, or how to compute it (for which no memory is kept for long).
        datasets: The datasets of the samples; has to be given for samples that are computed.
        total: How many samples there are by ``ingested_at``, if that can be told without computing them.
        person: UUID of the person.
        device: UUID of the device that opened the session.
        changed_at: Further instants at which the record changes.
        created_by: UUID of the user who created it.
        updated_by: UUID of the user who changed it last.
    """

    id: str
    group: str
    label: str
    start: int
    end: int | None
    created_at: int
    ingested_at: int | None
    samples: Samples | Callable[[], Samples]
    archived_at: int | None = None
    datasets: tuple[Dataset, ...] = ()
    total: Callable[[], int] | None = None
    person: str | None = None
    device: str | None = None
    changed_at: tuple[float, ...] = ()
    created_by: str | None = None
    updated_by: str | None = None

    def __post_init__(self) -> None:
        if isinstance(self.samples, Samples):
            object.__setattr__(self, "datasets", self.samples.datasets)

    @classmethod
    def of(
        cls,
        points: Iterable[Point] | Samples,
        *,
        id: str | None = None,  # noqa: A002 - the name of the field
        start: int | None = None,
        end: int | None = None,
        ends: bool = True,
        group: str | None = None,
        label: str | None = None,
        created_at: int | None = None,
        ingested_at: int | None = None,
        archived_at: int | None = None,
        person: str | None = None,
    ) -> DataSession:
        """A session with given samples; whatever is not said follows from them and the documents' example.

        Args:
            points: (dataset, Unix seconds, value), or samples.
            id: Else it follows from label, start and group.
            start: Else the whole second of the first sample.
            end: Else a second after the last sample.
            ends: Whether it ends at all; otherwise neither end nor ingestion ever come.
            group: Else that of the first dataset.
            label: Else the documents' form of label.
            created_at: Else 4 s after the start.
            ingested_at: Else 317 s after the end.
            archived_at: Else never.
            person: Else nobody.
        """
        samples = points if isinstance(points, Samples) else Samples.of(points)
        if start is None:
            start = int(samples.time_ms.min()) // 1000
        if end is None and ends:
            end = int(samples.time_ms.max(initial=start * 1000)) // 1000 + 1
        if group is None:
            group = samples.datasets[0].id_group if samples.datasets else identifier("group", 0)
        label = label or f"BACE Go {start}"
        if ingested_at is None and end is not None:
            ingested_at = end + INGESTION_LAG
        return cls(
            id=id or identifier("session", label, start, group),
            group=group,
            label=label,
            start=start,
            end=end,
            created_at=start + CREATION_LAG if created_at is None else created_at,
            ingested_at=ingested_at,
            archived_at=archived_at,
            samples=samples,
            person=person,
            device=samples.datasets[0].source_device if samples.datasets else None,
        )

    def exists(self, now: float) -> bool:
        """Whether the service has a record of it."""
        return self.start <= now and self.created_at <= now

    def end_at(self, now: float) -> int | None:
        """The end, once it was reached."""
        return self.end if self.end is not None and self.end <= now else None

    def is_ingested(self, now: float) -> bool:
        """Whether ingestion is finished."""
        return self.ingested_at is not None and self.ingested_at <= now

    def archived_by(self, now: float) -> int | None:
        """The instant of archiving, once it was reached."""
        return self.archived_at if self.archived_at is not None and self.archived_at <= now else None

    def updated_at(self, now: float) -> int:
        """The newest change of the record."""
        changes = (self.end, self.ingested_at, self.archived_at, *self.changed_at)
        past = (change for change in changes if change is not None and change <= now)
        return int(max([self.created_at, *past]))

    def computed(self) -> Samples:
        """All samples that there will ever be."""
        return self.samples if isinstance(self.samples, Samples) else self.samples()

    def with_more(self, late: Samples, *, changed_at: float | None) -> DataSession:
        """The session with further samples, and the change of its record that they make."""
        known = dict.fromkeys(self.datasets) | dict.fromkeys(late.datasets)
        held = self.samples
        changes = () if changed_at is None else (changed_at,)
        return replace(
            self,
            samples=held.and_also(late) if isinstance(held, Samples) else lambda: held().and_also(late),
            datasets=tuple(known),
            total=None,
            changed_at=(*self.changed_at, *changes),
        )
