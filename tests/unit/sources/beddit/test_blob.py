"""A downloaded blob to rows: every sample, exactly, whatever its length."""

from __future__ import annotations

import hashlib
import struct
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sync.model import Record
from sync.sources.beddit.blob import DueBlob, decode_blob
from sync.storage.copy import encode

# A busy machine is no fault of the program's.
calm = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

DUE = DueBlob(
    user_id=1001,
    session_id=1431835725,
    track="normal",
    data_type="uint16",
    samples_per_frame=28,
    frame_length=0.2,
    frame_count=10,
    start_timestamp=1431835725.618702,
    ended_at=None,
    updated=1371482503.646541,
    session_digest=bytes(32),
    attempts=0,
)
CODES = {
    "uint8": "B",
    "int8": "b",
    "uint16": "H",
    "int16": "h",
    "uint32": "I",
    "int32": "i",
    "float32": "f",
    "float64": "d",
}
ARRAYS = {
    "uint8": "int2s",
    "int8": "int2s",
    "uint16": "int2s",
    "int16": "int2s",
    "uint32": "int4s",
    "int32": "int4s",
    "float32": "float4s",
    "float64": "float8s",
}
CHUNK = {"int2s": 1_960, "int4s": 980, "float4s": 980, "float8s": 490}
EXTREMES = {
    "uint8": [0, 1, 127, 128, 255],
    "int8": [-128, -1, 0, 127],
    "uint16": [0, 1, 32_767, 32_768, 65_535],
    "int16": [-32_768, -1, 0, 32_767],
    "uint32": [0, 1, 2_147_483_647, 2_147_483_648, 4_294_967_295],
    "int32": [-2_147_483_648, -1, 0, 2_147_483_647],
    "float32": [0.0, -0.0, 2.0**-149, -3.4028234663852886e38, 1.5],
    "float64": [0.0, -0.0, 5e-324, -1.7976931348623157e308, 0.1],
}


def pack(data_type: str, samples: list[Any]) -> bytes:
    """The vendor's bytes: little-endian, nothing between the samples."""
    return struct.pack(f"<{len(samples)}{CODES[data_type]}", *samples)


def decode(blob: bytes, **due: Any) -> tuple[Record, list[dict[str, Any]]]:
    """The record of a blob, and its chunks, read while the file is there."""
    with tempfile.TemporaryDirectory() as folder:
        spool = Path(folder) / "blob"
        spool.write_bytes(blob)
        record = decode_blob(replace(DUE, **due), spool, hashlib.sha256(blob).digest())
        chunks = [
            dict(zip(rows.table.column_names, values, strict=True))
            for rows in record.details
            for values in zip(*rows.values, strict=True)
        ]
        for rows in record.details:
            b"".join(encode([rows]))  # the elements fit the column's type
        return record, chunks


def joined(data_type: str, chunks: list[dict[str, Any]]) -> list[Any]:
    """What SQL makes of the chunks: each stored element plus its chunk's bias, in order of the index."""
    column = ARRAYS[data_type]
    found: list[Any] = []
    for chunk in chunks:
        assert chunk["first_index"] == len(found)
        filled = {name for name in CHUNK if chunk[name] is not None}
        assert filled == {column}
        assert (chunk["user_id"], chunk["session_id"], chunk["track"]) == (1001, 1431835725, "normal")
        bias = chunk["bias"]
        assert bias == 0 or data_type in ("uint16", "uint32")
        found += [element + bias if bias else element for element in chunk[column].tolist()]
    return found


@pytest.mark.parametrize("data_type", CODES)
def test_extreme_values_of_every_type_survive(data_type: str):
    """Every documented and every likely type is stored exactly, up to both ends of its range."""
    samples = EXTREMES[data_type]
    record, chunks = decode(pack(data_type, samples), data_type=data_type)
    assert pack(data_type, joined(data_type, chunks)) == pack(data_type, samples)
    assert record.row["sample_count"] == len(samples)
    assert record.row["nonfinite_count"] == 0
    assert record.size == 1 + len(samples)


@calm
@given(st.sampled_from(list(CODES)), st.integers(-2, 2), st.integers(0, 3), st.integers(0, 2**32))
def test_chunks_put_together_are_the_blob(data_type: str, around: int, whole: int, seed: int):
    """At any length, chunk boundaries included: no sample is lost, doubled or moved."""
    length = max(0, whole * CHUNK[ARRAYS[data_type]] + around)
    width = struct.calcsize(CODES[data_type])
    blob = np.random.default_rng(seed).bytes(length * width)
    expected = list(struct.unpack(f"<{length}{CODES[data_type]}", blob))
    record, chunks = decode(blob, data_type=data_type)
    found = joined(data_type, chunks)
    assert len(found) == length
    assert np.array_equal(np.array(found, "f8"), np.array(expected, "f8"), equal_nan=True)
    assert record.row["sample_count"] == length
    lengths = [len(chunk[ARRAYS[data_type]]) for chunk in chunks]
    assert all(size == CHUNK[ARRAYS[data_type]] for size in lengths[:-1])
    assert 0 not in lengths


@pytest.mark.parametrize("data_type", ["float32", "float64"])
def test_samples_that_are_no_numbers_stay_where_they_are_and_are_counted(data_type: str):
    """A sample's place is its time: leaving one out would move all that follow."""
    samples = [1.0, float("nan"), 2.0, float("inf"), float("-inf"), 3.0]
    record, chunks = decode(pack(data_type, samples), data_type=data_type)
    assert [str(value) for value in joined(data_type, chunks)] == ["1.0", "nan", "2.0", "inf", "-inf", "3.0"]
    assert record.row["nonfinite_count"] == 3


def test_a_blob_of_the_right_length_is_complete():
    """Frames times samples per frame, as the session declares them."""
    blob = pack("uint16", list(range(280)))
    record, _ = decode(blob)
    row = {name: value for name, value in record.row.items() if name != "digest"}
    assert row == {
        "user_id": 1001,
        "session_id": 1431835725,
        "track": "normal",
        "updated": 1371482503.646541,
        "sha256": hashlib.sha256(blob).digest(),
        "data_type": "uint16",
        "samples_per_frame": 28,
        "frame_length": 0.2,
        "byte_count": 560,
        "tail": None,
        "sample_count": 280,
        "expected_count": 280,
        "nonfinite_count": 0,
        "status": "complete",
        "reason": None,
    }
    assert record.key == (1001, 1431835725, "normal")


@pytest.mark.parametrize(("count", "named"), [(560, "560"), (140, "140"), (279, "279"), (281, "281")])
def test_a_blob_of_another_length_is_stored_as_it_is_and_says_so(count: int, named: str):
    """Half of the samples, twice of them, one more or one less: both counts are told."""
    record, chunks = decode(pack("uint16", [7] * count))
    assert joined("uint16", chunks) == [7] * count
    assert (record.row["status"], record.row["sample_count"], record.row["expected_count"]) == (
        "mismatch",
        count,
        280,
    )
    assert named in record.row["reason"]
    assert "280" in record.row["reason"]


@pytest.mark.parametrize(
    ("data_type", "extra"), [("uint16", 1), ("float32", 1), ("float32", 3), ("float64", 7)]
)
def test_a_sample_that_was_cut_is_no_sample(data_type: str, extra: int):
    """Whole samples are stored, what is left of the last one is told."""
    blob = pack(data_type, [5] * 280) + b"\1" * extra
    record, chunks = decode(blob, data_type=data_type)
    assert joined(data_type, chunks) == [5] * 280
    assert record.row["status"] == "mismatch"
    assert record.row["byte_count"] == len(blob)
    assert record.row["sample_count"] == 280


@pytest.mark.parametrize("blob", [b"", b"\1"])
def test_a_blob_without_a_sample_is_a_mismatch_without_chunks(blob: bytes):
    """An empty download is told from a night without signal by what the session calls for."""
    record, chunks = decode(blob)
    assert chunks == []
    assert record.details == ()
    assert (record.row["status"], record.row["sample_count"], record.size) == ("mismatch", 0, 1)


@pytest.mark.parametrize(
    "unknown",
    [{"frame_count": None}, {"samples_per_frame": None}, {"frame_count": None, "samples_per_frame": None}],
)
def test_without_an_expected_length_whole_samples_are_complete(unknown: dict[str, None]):
    """What the session does not declare cannot be held against the blob."""
    record, chunks = decode(pack("uint16", [1, 2, 3]), **unknown)
    assert joined("uint16", chunks) == [1, 2, 3]
    assert (record.row["status"], record.row["expected_count"], record.row["reason"]) == (
        "complete",
        None,
        None,
    )
    odd, _ = decode(b"\1\2\3", **unknown)
    assert odd.row["status"] == "mismatch"


@pytest.mark.parametrize("data_type", ["int24", "", "UINT16", "float16", None])
def test_an_unknown_type_keeps_length_and_hash(data_type: str | None):
    """Bytes that nobody can read are not guessed at."""
    blob = b"\1\2\3\4\5"
    record, chunks = decode(blob, data_type=data_type)
    assert chunks == []
    assert (record.row["status"], record.row["byte_count"]) == ("unsupported", 5)
    assert record.row["sha256"] == hashlib.sha256(blob).digest()
    assert record.row["sample_count"] is None
    assert record.row["data_type"] == data_type
    assert record.size == 1


@calm
@given(st.binary(max_size=64), st.sampled_from([*CODES, "int24", None]))
def test_any_bytes_are_a_record(blob: bytes, data_type: str | None):
    """No content of a blob is an error, and each sample is accounted for."""
    record, chunks = decode(blob, data_type=data_type)
    stored = 0 if data_type not in CODES else len(joined(data_type, chunks))
    assert record.size == 1 + stored
    assert record.row["byte_count"] == len(blob)


def test_the_version_of_a_blob_is_told_by_its_bytes_and_its_type():
    """The same bytes read as another type are other samples; the same bytes again are nothing new."""
    one, again, typed, other = (
        decode(blob, data_type=data_type)[0].row["digest"]
        for blob, data_type in [
            (b"1234", "int16"),
            (b"1234", "int16"),
            (b"1234", "uint16"),
            (b"1235", "int16"),
        ]
    )
    assert one == again
    assert len({one, typed, other}) == 3


def test_samples_of_a_session_without_a_frame_are_a_mismatch():
    """A session that ended as it began calls for none, which is not the same as not knowing."""
    record, _ = decode(b"\1\2", frame_count=0)
    assert (record.row["status"], record.row["expected_count"]) == ("mismatch", 0)
    assert decode(b"", frame_count=0)[0].row["status"] == "complete"
