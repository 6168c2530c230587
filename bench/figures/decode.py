"""Decoding alone, in this process, beside what Python offers: no database, no network."""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any, Final

import numpy as np

from bench.figures.write_path import due
from bench.nights import USER, Series
from bench.report import Line
from bench.warehouse import Bench
from sync.sources.beddit.blob import DueBlob, decode_blob
from sync.sources.beddit.decode import decode_session
from sync.sources.beddit.split import ArraySplitter
from sync.storage.copy import encode

NIGHTS: Final = 16
PIECE: Final = 64 << 10
"""Bytes of an answer that arrive at once."""
ROUNDS: Final = 5


async def measure(bench: Bench) -> Sequence[Line]:
    """JSON to arrays, blob to rows."""
    return await asyncio.to_thread(_measure, bench)


def _measure(bench: Bench) -> Sequence[Line]:
    series = Series(nights=NIGHTS, hours=bench.size.hours)
    nights = list(series)
    answer = b"[" + b", ".join(night.record(start, start + 1.0).text() for start, night in nights) + b"]"
    start, template = nights[0]
    spool = bench.folder / "decode.spool"
    spool.write_bytes(template.blobs["normal"])
    return [*_of_json(answer), *_of_blob(due(start, template), spool)]


def _of_json(answer: bytes) -> Sequence[Line]:
    size = len(answer) / 1e6
    split, ours, theirs = _fastest(
        partial(_split, answer), partial(_decoded, answer), partial(_plainly_decoded, answer)
    )
    return [
        Line(
            what="JSON to arrays",
            value=size / ours,
            unit="MB/s",
            ratio=theirs / ours,
            beside=f"json.loads and numpy.array, {size / theirs:.3g} MB/s",
            note="JSON to arrays is the whole of it: split while it streams, validate, digest, instants.",
        ),
        Line(
            what="  of that, splitting the stream",
            value=size / split,
            unit="MB/s",
            ratio=split / ours,
            beside="share of the time",
        ),
    ]


def _of_blob(one: DueBlob, spool: Path) -> Sequence[Line]:
    count = spool.stat().st_size // 2
    ours, theirs = _fastest(partial(_rows, one, spool), partial(_packed, spool), rounds=2)
    return [
        Line(
            what="blob to encoded rows",
            value=count / ours / 1e6,
            unit="M samples/s",
            ratio=theirs / ours,
            beside=f"struct.pack a sample, {count / theirs / 1e6:.3g} M samples/s",
        )
    ]


def _fastest(*works: Callable[[], object], rounds: int = ROUNDS) -> list[float]:
    """The fewest seconds of each, in alternating rounds."""
    best = [float("inf")] * len(works)
    for _ in range(rounds):
        for place, work in enumerate(works):
            began = perf_counter()
            work()
            best[place] = min(best[place], perf_counter() - began)
    return best


def _split(answer: bytes) -> list[bytes]:
    splitter = ArraySplitter()
    found: list[bytes] = []
    for at in range(0, len(answer), PIECE):
        found += splitter.feed(answer[at : at + PIECE])
    splitter.close()
    return found


def _decoded(answer: bytes) -> None:
    for element in _split(answer):
        decode_session(element, USER)


def _plainly_decoded(answer: bytes) -> list[Any]:
    return [
        np.array(track["items"])
        for session in json.loads(answer)
        for track in session["time_value_tracks"].values()
    ]


def _rows(one: DueBlob, spool: Path) -> None:
    for rows in decode_blob(one, spool, b"").details:
        for _ in encode([rows]):
            pass


def _packed(spool: Path) -> None:
    pack = struct.Struct(">ih").pack
    for start in range(0, len(samples := np.fromfile(spool, "<u2").astype(np.int32) - (1 << 15)), 1960):
        b"".join([pack(2, sample) for sample in samples[start : start + 1960].tolist()])
