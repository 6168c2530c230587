"""How fast a streamed array is split into its elements, beside json.loads of the same bytes."""

from __future__ import annotations

import json
import random
from time import perf_counter

from sync.sources.beddit.split import ArraySplitter

CHUNK = 64 << 10


def night(rng: random.Random) -> bytes:
    """One session like the vendor's: about half a megabyte of time-value pairs."""
    pairs = [[round(rng.random() * 30_000, 3), round(rng.random() * 90, 4)] for _ in range(25_000)]
    return json.dumps({"session_id": 1, "time_value_tracks": {"heart_rate": {"items": pairs}}}).encode()


def documents() -> dict[str, bytes]:
    """What is split: nights, and two shapes that are harder for a splitter."""
    nights = [night(random.Random(seed)) for seed in range(4)] * 10  # noqa: S311
    integers = json.dumps([[1, 2]] * 50_000, separators=(",", ":")).encode()
    escapes = json.dumps({"text": 'a \\ and a "quote", ' * 20_000}).encode()
    return {
        "nights": b"[" + b",".join(nights) + b"]",
        "tiny pairs": b"[" + b",".join([integers] * 40) + b"]",
        "escaped text": b"[" + b",".join([escapes] * 40) + b"]",
        "tiny elements": json.dumps([{"a": number} for number in range(200_000)]).encode(),
    }


def split(answer: bytes) -> int:
    """Split a whole answer in chunks; return how many elements it has."""
    splitter = ArraySplitter()
    found = sum(len(splitter.feed(answer[at : at + CHUNK])) for at in range(0, len(answer), CHUNK))
    splitter.close()
    return found


def compare(what: str, answer: bytes) -> None:
    """Print one line: both speeds and their ratio."""
    begun = perf_counter()
    found = split(answer)
    ours = perf_counter() - begun
    begun = perf_counter()
    expected = len(json.loads(answer))
    theirs = perf_counter() - begun
    if found != expected:
        raise SystemExit(f"{what}: {found} elements instead of {expected}")
    size = len(answer) / 1e6
    print(
        f"{what} ({size:.0f} MB): {size / ours:.0f} MB/s, json.loads {size / theirs:.0f} MB/s,"
        f" ratio {theirs / ours:.1f}"
    )


if __name__ == "__main__":
    for name, document in documents().items():
        compare(name, document)
