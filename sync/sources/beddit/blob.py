"""A sample blob, spooled to a file, to rows. Pure but for reading that file.

A blob is the plain concatenation of a track's samples, little-endian (the sensor's own byte order; the
cloud's documents do not say). Its length should be frames x samples per frame; where it is not, it is
stored as it is and says so: time is never stretched to fit.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sync.model import ColumnValues, PgType, Record, Rows
from sync.sources.beddit.addresses import Version
from sync.sources.beddit.tables import BLOBS, SAMPLE_CHUNKS

CHUNK_BYTES = 3_920
"""Bytes of a chunk's array: two chunks with their headers fill one PostgreSQL page."""

_SLICE = 1 << 20


@dataclass(frozen=True, slots=True)
class Storage:
    """How samples of one type are stored: unsigned ones shifted into the signed type of their width."""

    sample: np.dtype[Any]
    column: PgType
    bias: int = 0

    @property
    def chunk_length(self) -> int:
        """Samples in a chunk."""
        return CHUNK_BYTES // self._element.itemsize

    @property
    def _element(self) -> np.dtype[Any]:
        return np.dtype(_ELEMENTS[self.column])

    def pack(self, samples: NDArray[Any]) -> NDArray[Any]:
        """Samples as the column's elements: ``stored = sample - bias``, exactly."""
        if self.bias:  # half of what there is: taking it away and turning the highest bit over are the same
            turned: NDArray[Any] = samples ^ samples.dtype.type(self.bias)
            return turned.view(self._element)
        return samples.astype(self._element)


_ELEMENTS = {
    PgType.INT2_ARRAY: "i2",
    PgType.INT4_ARRAY: "i4",
    PgType.FLOAT4_ARRAY: "f4",
    PgType.FLOAT8_ARRAY: "f8",
}

STORAGE = {
    "uint8": Storage(np.dtype("u1"), PgType.INT2_ARRAY),
    "int8": Storage(np.dtype("i1"), PgType.INT2_ARRAY),
    "uint16": Storage(np.dtype("<u2"), PgType.INT2_ARRAY, bias=1 << 15),
    "int16": Storage(np.dtype("<i2"), PgType.INT2_ARRAY),
    "uint32": Storage(np.dtype("<u4"), PgType.INT4_ARRAY, bias=1 << 31),
    "int32": Storage(np.dtype("<i4"), PgType.INT4_ARRAY),
    "float32": Storage(np.dtype("<f4"), PgType.FLOAT4_ARRAY),
    "float64": Storage(np.dtype("<f8"), PgType.FLOAT8_ARRAY),
}


@dataclass(frozen=True, slots=True)
class DueBlob:
    """A raw signal whose bytes are wanted, as its session declares it."""

    user_id: int
    session_id: int
    track: str
    data_type: str | None
    samples_per_frame: int | None
    frame_length: float | None
    frame_count: int | None
    start_timestamp: float
    ended_at: datetime | None
    updated: float | None
    session_digest: bytes
    attempts: int
    has_complete: bool = False
    stored_count: int = 0

    @property
    def key(self) -> tuple[int, str]:
        """Session and track."""
        return self.session_id, self.track

    @property
    def version(self) -> Version:
        """The version of the session that declares it so."""
        return Version(self.updated, self.session_digest)

    @property
    def expected_count(self) -> int | None:
        """Samples that the session's length calls for; None where that cannot be told."""
        if self.frame_count is None or self.samples_per_frame is None:
            return None
        return self.frame_count * self.samples_per_frame


def decode_blob(due: DueBlob, spool: Path, sha256: bytes) -> Record:
    """The record of a completely downloaded blob. Reads the spool file again while it is stored.

    Args:
        due: What was asked for.
        spool: The blob's bytes; the file must stay until the record is committed.
        sha256: The digest of the bytes.
    """
    size = spool.stat().st_size
    storage = STORAGE.get(due.data_type or "")
    if storage is None:
        reason = f"unknown sample type {due.data_type!r}: length and hash are kept"
        return _record(due, sha256, size, "unsupported", reason)
    samples = _Spooled.of(spool, storage)
    return _record(
        due,
        sha256,
        size,
        *_judge_length(due, size, storage),
        sample_count=samples.count,
        nonfinite_count=samples.count_nonfinite(),
        tail=_tail(spool, samples.count * storage.sample.itemsize),
        details=tuple(_chunks(due, storage, samples)),
    )


def _record(
    due: DueBlob,
    sha256: bytes,
    size: int,
    status: str,
    reason: str | None,
    *,
    sample_count: int | None = None,
    nonfinite_count: int | None = None,
    tail: bytes = b"",
    details: tuple[Rows, ...] = (),
) -> Record:
    row = {
        "user_id": due.user_id,
        "session_id": due.session_id,
        "track": due.track,
        "updated": due.updated,
        "digest": _digest(due, sha256),
        "sha256": sha256,
        "data_type": due.data_type,
        "samples_per_frame": due.samples_per_frame,
        "frame_length": due.frame_length,
        "byte_count": size,
        "tail": tail or None,
        "sample_count": sample_count,
        "expected_count": due.expected_count,
        "nonfinite_count": nonfinite_count,
        "status": status,
        "reason": reason,
    }
    return Record(BLOBS, row, details, size=1 + (sample_count or 0))


def _judge_length(due: DueBlob, size: int, storage: Storage) -> tuple[str, str | None]:
    width = storage.sample.itemsize
    if size % width:
        return "mismatch", f"{size:,} bytes are not a whole number of {width}-byte samples"
    expected = due.expected_count
    if expected is not None and size // width != expected:
        return "mismatch", f"{size // width:,} samples where the session's length calls for {expected:,}"
    return "complete", None


def _digest(due: DueBlob, sha256: bytes) -> bytes:
    """Of the bytes and of how they are read: as another type, they are other samples."""
    reading = (due.data_type, due.samples_per_frame, due.frame_length, due.expected_count)
    return hashlib.sha256(sha256 + repr(reading).encode()).digest()


def _tail(spool: Path, offset: int) -> bytes:
    """What follows the last whole sample."""
    with spool.open("rb") as file:
        file.seek(offset)
        return file.read()


@dataclass(frozen=True, slots=True)
class _Spooled:
    """The samples in a file. They are read when asked for: mapped, their pages would count as our memory."""

    spool: Path
    type: np.dtype[Any]
    count: int

    @classmethod
    def of(cls, spool: Path, storage: Storage) -> _Spooled:
        return cls(spool, storage.sample, spool.stat().st_size // storage.sample.itemsize)

    def read(self, start: int, stop: int) -> NDArray[Any]:
        return np.fromfile(self.spool, self.type, stop - start, offset=start * self.type.itemsize)

    def count_nonfinite(self) -> int:
        if self.type.kind != "f":
            return 0
        cuts = ((start, min(start + _SLICE, self.count)) for start in range(0, self.count, _SLICE))
        return sum(int((~np.isfinite(self.read(*cut))).sum()) for cut in cuts)


def _chunks(due: DueBlob, storage: Storage, samples: _Spooled) -> Iterator[Rows]:
    """The chunks that are full, and the last one if it is not."""
    full, rest = divmod(samples.count, storage.chunk_length)
    if full:
        yield _rows(due, storage, 0, _Chunks(storage, samples, range(full)))
    if rest:
        yield _rows(due, storage, full, [storage.pack(samples.read(samples.count - rest, samples.count))])


def _rows(due: DueBlob, storage: Storage, first: int, arrays: Sequence[NDArray[Any]]) -> Rows:
    count = len(arrays)
    columns: dict[str, ColumnValues] = {
        "session_id": np.full(count, due.session_id),
        "user_id": np.full(count, due.user_id),
        "track": [due.track] * count,
        "first_index": np.arange(first, first + count, dtype=np.int64) * storage.chunk_length,
        "bias": np.full(count, storage.bias),
    }
    nothing = [None] * count
    packed = [
        arrays if type_ is storage.column else nothing
        for name, type_ in SAMPLE_CHUNKS.columns
        if name not in columns
    ]
    return Rows(SAMPLE_CHUNKS, (*columns.values(), *packed))


@dataclass(frozen=True, slots=True)
class _Chunks(Sequence[NDArray[Any]]):
    """Full chunks that are packed when asked for, so that a blob is never in memory whole.

    Some of them together are a two-dimensional array.
    """

    storage: Storage
    samples: _Spooled
    places: range

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: Any) -> Any:
        chosen, length = self.places[index], self.storage.chunk_length
        places = chosen if isinstance(chosen, range) else range(chosen, chosen + 1)
        cut = self.samples.read(places.start * length, places.stop * length)
        packed = self.storage.pack(cut).reshape(len(places), length)
        return packed if isinstance(chosen, range) else packed[0]
