"""How fast rows are encoded for binary COPY, beside a plain struct.pack loop in the same run."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from time import perf_counter

import numpy as np

from sync.model import PgType, Rows, Table
from sync.storage.copy import encode

NARROW = Table(
    "bench.narrow",
    (("id", PgType.INT8), ("kind", PgType.INT2), ("time", PgType.TIMESTAMPTZ), ("value", PgType.FLOAT8)),
)
CHUNKS = Table("bench.chunks", (("id", PgType.INT8), ("chunk", PgType.INT4), ("samples", PgType.INT2_ARRAY)))
ROWS, SAMPLES, PER_CHUNK = 1_000_000, 4_000_000, 4_096


def narrow() -> Rows:
    """A million rows as time-value tracks have them."""
    index = np.arange(ROWS)
    return Rows(NARROW, (index, np.ones(ROWS, np.int16), index.astype("M8[us]"), index / 7))


def chunks() -> Rows:
    """Four million samples in chunks."""
    samples = np.split(np.arange(SAMPLES, dtype=np.int16), range(PER_CHUNK, SAMPLES, PER_CHUNK))
    return Rows(CHUNKS, (np.ones(len(samples), np.int64), np.arange(len(samples)), samples))


def packed_rows(rows: Rows) -> Iterable[bytes]:
    """Encode narrow rows one by one."""
    pack = struct.Struct(">hiqihiqid").pack
    identifiers, kinds, times, values = (
        np.asarray(column).tolist()
        for column in (
            rows.values[0],
            rows.values[1],
            np.asarray(rows.values[2]).astype(np.int64),
            rows.values[3],
        )
    )
    for identifier, kind, time, value in zip(identifiers, kinds, times, values, strict=True):
        yield pack(4, 8, identifier, 2, kind, 8, time - 946_684_800_000_000, 8, value)


def packed_chunks(rows: Rows) -> Iterable[bytes]:
    """Encode chunks one sample after another."""
    pack = struct.Struct(">ih").pack
    for identifier, chunk, samples in zip(*rows.values, strict=True):
        items = b"".join([pack(2, sample) for sample in samples.tolist()])
        head = struct.pack(">hiqii", 3, 8, identifier, 4, chunk)
        yield head + struct.pack(">iiiiii", 20 + len(items), 1, 0, 21, len(samples), 1) + items


def seconds(work: Callable[[], Iterable[bytes]], times: int) -> float:
    """The fastest of several runs."""
    fastest = float("inf")
    for _ in range(times):
        begun = perf_counter()
        for _piece in work():
            pass
        fastest = min(fastest, perf_counter() - begun)
    return fastest


def compare(what: str, rows: Rows, count: int, plain: Callable[[Rows], Iterable[bytes]]) -> None:
    """Print one line: both speeds and their ratio."""
    if b"".join(encode([rows]))[19:-2] != b"".join(plain(rows)):
        raise SystemExit(f"{what}: the two encodings differ")
    ours, theirs = seconds(lambda: encode([rows]), 5), seconds(lambda: plain(rows), 1)
    print(
        f"{what}: {count / ours / 1e6:.1f} M/s, struct.pack {count / theirs / 1e6:.2f} M/s,"
        f" ratio {theirs / ours:.1f}"
    )


if __name__ == "__main__":
    compare("narrow rows", narrow(), ROWS, packed_rows)
    compare("int2[] samples", chunks(), SAMPLES, packed_chunks)
