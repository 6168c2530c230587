"""What the service holds: sessions for ever, their samples only while somebody asks for them."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from sync.emulators.bace.levels import Level, raw
from sync.emulators.bace.samples import Samples
from sync.emulators.bace.sessions import DataSession

KEPT_SAMPLES: Final = 4_000_000
"""So many computed samples are kept, and always those of the session that was asked for last."""


@dataclass(slots=True)
class Table:
    """A session's samples in order, and the buckets that were asked for.

    Attributes:
        session: The session.
        samples: All samples that there will ever be.
        settled_ms: The instant from which the service has them all.
    """

    session: DataSession
    samples: Samples
    settled_ms: int
    _levels: dict[tuple[int, bool, bool], Level] = field(default_factory=dict)

    def at(self, now_ms: int) -> Samples:
        """The samples that the service has."""
        if now_ms >= self.settled_ms:
            return self.samples
        return self.samples.where(self.samples.arrived(now_ms))

    def level(self, now_ms: int, width: int, *, whole_seconds: bool, join: bool) -> Level:
        """The rows of a resolution: buckets of ``width`` milliseconds, or samples if that is 0."""
        key = width, whole_seconds, join
        if key in self._levels and now_ms >= self.settled_ms:
            return self._levels[key]
        level = raw(self.at(now_ms), whole_seconds=whole_seconds)
        if width or join:
            level = level.in_buckets(width or 1)
        if now_ms >= self.settled_ms:
            self._levels[key] = level
        return level


def table(session: DataSession) -> Table:
    """A session's table, computed."""
    samples = session.computed().ordered()
    return Table(session, samples, samples.settled_ms())


class Holdings:
    """Sessions by id.

    The default order of the service is not documented; here it is one that nobody can mistake for a
    chronological one, and always the same.
    """

    def __init__(self, sessions: Iterable[DataSession] = ()) -> None:
        self._sessions: dict[str, DataSession] = {}
        self._order: list[str] | None = None
        self._by_dataset: dict[str, list[DataSession]] | None = None
        self._tables: OrderedDict[str, Table] = OrderedDict()
        self._totals: dict[str, tuple[DataSession, int]] = {}
        for session in sessions:
            self._sessions[session.id] = session

    def __iter__(self) -> Iterator[DataSession]:
        """All sessions in the service's own order."""
        if self._order is None:
            self._order = sorted(self._sessions, key=_disorder)
        return (self._sessions[session_id] for session_id in self._order)

    def __contains__(self, session_id: str) -> bool:
        return session_id in self._sessions

    def get(self, session_id: str) -> DataSession | None:
        """A session, if it is held."""
        return self._sessions.get(session_id)

    def put(self, session: DataSession) -> None:
        """Add or replace a session."""
        self._sessions[session.id] = session
        self._order = self._by_dataset = None

    def remove(self, session_id: str) -> None:
        """Forget a session.

        Raises:
            KeyError: There is no such session.
        """
        del self._sessions[session_id]
        self._tables.pop(session_id, None)
        self._order = self._by_dataset = None

    def with_dataset(self, id_container_data_latest: str) -> list[DataSession]:
        """The sessions that have samples of a dataset."""
        if self._by_dataset is None:
            self._by_dataset = {}
            for session in self._sessions.values():
                for dataset in session.datasets:
                    self._by_dataset.setdefault(dataset.id_container_data_latest, []).append(session)
        return self._by_dataset.get(id_container_data_latest, [])

    def kept(self, session: DataSession) -> Table | None:
        """A session's table, if it need not be computed."""
        found = self._tables.get(session.id)
        if found is None or found.session is not session:
            return None
        self._tables.move_to_end(session.id)
        return found

    def keep(self, computed: Table) -> Table:
        """Keep a table, and as many others as there is room for."""
        self._tables[computed.session.id] = computed
        self._tables.move_to_end(computed.session.id)
        kept = sum(len(one.samples) for one in self._tables.values())
        while kept > KEPT_SAMPLES and len(self._tables) > 1:
            _, dropped = self._tables.popitem(last=False)
            kept -= len(dropped.samples)
        return computed

    def table(self, session: DataSession) -> Table:
        """A session's table."""
        return self.kept(session) or self.keep(table(session))

    def count(self, session: DataSession, now: float, *, frozen: bool) -> int:
        """How many samples of a session have arrived (if ``frozen``: by the end of ingestion)."""
        ingested = session.is_ingested(now)
        if session.total is not None and ingested:
            known = self._totals.get(session.id)
            if known is None or known[0] is not session:
                known = self._totals[session.id] = session, session.total()
            return known[1]
        at = session.ingested_at if frozen and ingested and session.ingested_at is not None else now
        held = self.table(session)
        now_ms = int(at * 1000)
        if now_ms >= held.settled_ms:
            return len(held.samples)
        return int(held.samples.arrived(now_ms).sum())


def _disorder(session_id: str) -> bytes:
    return hashlib.blake2b(session_id.encode(), digest_size=8).digest()
