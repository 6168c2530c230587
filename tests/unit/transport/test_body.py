"""Bodies are decompressed in bounded pieces, and never silently short."""

import gzip

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sync.errors import AnswerTooLarge, SourceContractError
from sync.transport.body import PIECE, Gunzip, decoder


def decode(wire: list[bytes], encoding: str = "gzip") -> list[bytes]:
    """Decode a whole body."""
    body = decoder(encoding, "GET h/x")
    pieces = [piece for data in wire for piece in body.feed(data)]
    body.end()
    return pieces


@given(st.lists(st.binary(max_size=2000), min_size=1, max_size=4), st.integers(1, 100))
def test_any_split_gives_the_same_body(members, step):
    """However the wire cuts one or several gzip members, what was compressed comes out."""
    wire = b"".join(gzip.compress(member) for member in members)
    cuts = [wire[i : i + step] for i in range(0, len(wire), step)]
    assert b"".join(decode(cuts)) == b"".join(members)


@given(st.binary(min_size=1, max_size=500), st.data())
def test_a_missing_end_is_noticed(content, data):
    """A gzip stream that stops anywhere before its end asks for less instead of passing for whole."""
    wire = gzip.compress(content)
    with pytest.raises(AnswerTooLarge):
        decode([wire[: data.draw(st.integers(1, len(wire) - 1))]])


def test_a_bomb_comes_in_small_pieces():
    """Ten megabytes out of ten kilobytes never exist at once."""
    pieces = decode([gzip.compress(bytes(10_000_000))])
    assert max(map(len, pieces)) <= PIECE
    assert sum(map(len, pieces)) == 10_000_000


def test_decompression_is_lazy():
    """A reader that stops at its limit does not pay for the rest of a bomb."""
    body = Gunzip("GET h/x")
    first = next(body.feed(gzip.compress(bytes(10_000_000))))
    assert len(first) <= PIECE


@pytest.mark.parametrize(
    "wire", [b"no gzip at all", gzip.compress(b"x" * 100)[:20] + b"\xff" * 50], ids=["foreign", "damaged"]
)
def test_bad_gzip_is_the_vendors_mistake(wire):
    """Bytes that are not gzip, or are damaged, are a broken contract."""
    with pytest.raises(SourceContractError):
        decode([wire])


def test_an_empty_body_has_no_encoding():
    """An answer without a body may say gzip all the same."""
    assert decode([]) == []


@pytest.mark.parametrize("encoding", ["", "identity", " Identity "])
def test_plain_bodies_pass(encoding):
    """Without an encoding the bytes are handed on."""
    assert decode([b"a", b"b"], encoding) == [b"a", b"b"]


@pytest.mark.parametrize("encoding", ["br", "deflate", "zstd", "gzip, gzip"])
def test_nobody_asked_for_other_encodings(encoding):
    """An encoding that was not requested is a broken contract."""
    with pytest.raises(SourceContractError):
        decoder(encoding, "GET h/x")
