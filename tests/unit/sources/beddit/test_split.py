"""The splitter against json.loads, at every cut."""

import json
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sync.errors import AnswerTooLarge, SourceContractError
from sync.sources.beddit.split import ArraySplitter

TRICKY = st.text(st.sampled_from('\\"[]{},: \n\u00e4\u20ac\U0001f634') | st.characters())
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TRICKY,
    lambda inner: st.lists(inner) | st.dictionaries(TRICKY, inner),
    max_leaves=20,
)
LAYOUTS = st.sampled_from([{}, {"indent": 2}, {"separators": (",", ":")}, {"ensure_ascii": False}])


def encoded(value, **layout):
    """JSON as bytes; lone surrogates, which UTF-8 has no bytes for, become three bytes each."""
    return json.dumps(value, **layout).encode(errors="surrogatepass")


def chunked(answer, cuts):
    """The answer's chunks between the cuts."""
    edges = [0, *sorted(cut % (len(answer) + 1) for cut in cuts), len(answer)]
    return [answer[start:end] for start, end in pairwise(edges)]


def split(chunks, **options):
    """All elements of a whole answer."""
    splitter = ArraySplitter(**options)
    elements = [element for chunk in chunks for element in splitter.feed(chunk)]
    splitter.close()
    return elements


def bytewise(answer):
    """An answer in chunks of one byte."""
    return [answer[at : at + 1] for at in range(len(answer))]


def until_fault(chunks):
    """The elements that come before a fault, and the fault."""
    splitter = ArraySplitter(cap=40)
    elements = []
    try:
        for chunk in chunks:
            elements += splitter.feed(chunk)
        splitter.close()
    except (SourceContractError, AnswerTooLarge) as fault:
        return elements, fault
    return elements, None


# --- what is right ---


@given(st.lists(JSON), st.lists(st.integers(0)), LAYOUTS)
@example([], [], {})
@example(['\\"', "\\\\", '\\\\"]'], range(40), {})
def test_elements_are_those_that_json_finds(values, cuts, layout):
    """Whatever the array holds and however it is cut, its elements are split exactly."""
    answer = encoded(values, **layout)
    elements = split(chunked(answer, cuts))
    assert [encoded(json.loads(element.decode(errors="surrogatepass"))) for element in elements] == [
        encoded(value) for value in json.loads(answer.decode(errors="surrogatepass"))
    ]


@given(st.lists(JSON), st.lists(st.integers(0)))
def test_elements_keep_their_bytes(values, cuts):
    """An element is what the vendor sent, byte for byte, without blanks around it."""
    answer = b" [ " + b" ,\n".join(encoded(value) for value in values) + b"\t]\r\n"
    assert split(chunked(answer, cuts)) == [encoded(value) for value in values]


@pytest.mark.parametrize(
    "element",
    [
        b'"\\""',
        b'"\\\\"',
        b'"\\\\\\""',
        b'"],[\\"{,"',
        b'{"a\\\\": "]", "[": ["}", "\\"]"]}',
        b'"\\u0022]"',
        '"\u20ac\U0001f634"'.encode(),
        b'"' + b"\\" * 1000 + b'"',
        b"NaN",
        b"[-Infinity, Infinity]",
        b"garbage [in, {brackets}] goes (on",
        b"1 {2} 3",
        b'"one" "two"',
        b"{not json at all]",
        b"\xff\xfe",
    ],
)
def test_tricky_elements_at_every_cut(element):
    """Quotes, escapes, brackets and garbage are split the same wherever a chunk ends."""
    answer = b"[" + b",".join([element, element, b"7"]) + b"]"
    expected = [element, element, b"7"]
    assert split(bytewise(answer)) == expected
    for cut in range(len(answer)):
        assert split([answer[:cut], answer[cut:]]) == expected


@pytest.mark.parametrize("chunks", [[b"[{}]"], [b"\xef\xbb\xbf[{}]"], bytewise(b"\xef\xbb\xbf \n[{}]")])
def test_a_byte_order_mark_is_tolerated(chunks):
    """A mark in front of the array does not matter, even in pieces."""
    assert split(chunks) == [b"{}"]


@pytest.mark.parametrize("answer", [b"[]", b" [ \n ] ", b"\xef\xbb\xbf[]"])
def test_an_empty_array_has_no_elements(answer):
    """No sessions are a complete answer."""
    assert split([answer]) == split(bytewise(answer)) == []


def test_an_element_is_given_as_soon_as_it_is_complete():
    """A session does not wait for the next one's bytes, nor a number for more than its comma."""
    splitter = ArraySplitter()
    assert splitter.feed(b'[{"a": 1') == []
    assert splitter.feed(b"}") == [b'{"a": 1}']
    assert splitter.feed(b", 1") == []
    assert splitter.feed(b"2 ,") == [b"12"]
    assert splitter.count == 2


def test_a_large_chunk_is_split_like_small_ones():
    """A whole answer may come at once."""
    sessions = [b'{"text": "' + b'\\"]' * 30_000 + b'"}'] * 10
    assert split([b"[" + b",".join(sessions) + b"]"]) == sessions


# --- what is wrong ---


@pytest.mark.parametrize("answer", [b'[{"a": "\\"]"}, "x", [1, 2], 34, null]', b"[[]]", b"[]", b'[",\\\\"]'])
def test_a_cut_answer_gives_only_complete_elements(answer):
    """Wherever the answer is cut, what came is right and closing raises."""
    whole = split([answer])
    for cut in range(len(answer)):
        for chunks in ([answer[:cut]], bytewise(answer[:cut])):
            elements, fault = until_fault(chunks)
            assert elements == whole[: len(elements)]
            assert isinstance(fault, AnswerTooLarge)
            assert str(fault) == f"the answer was cut after {len(elements)} complete sessions"


@pytest.mark.parametrize("answer", [b"", b"  \n", b"\xef\xbb\xbf"])
def test_an_empty_body_was_cut(answer):
    """An answer without any JSON is no empty array."""
    assert isinstance(until_fault([answer])[1], AnswerTooLarge)


FAULTS = [
    (b"[1,,2]", 1, "a comma too many after session 1"),
    (b"[,1]", 0, "a comma too many after session 0"),
    (b"[{}, ]", 1, "a comma too many after session 1"),
    (b"[{},,{}]", 1, "a comma too many after session 1"),
    (b"[{} {}]", 1, "lacks a comma after session 1"),
    (b"[1, [2]x, 3]", 2, "lacks a comma after session 2"),
    (b"[{}5]", 1, "lacks a comma after session 1"),
    (b"[1, 2}", 1, "ends with a brace"),
    (b"[1][2]", 1, "goes on after its array"),
    (b"[1]\\", 1, "goes on after its array"),
    (b"[1]\n null", 1, "goes on after its array"),
    (b'[1, "' + b"x" * 40 + b'"]', 1, "session 2 of the answer exceeds 40 bytes"),
    (b"[1, " + b"x" * 41, 1, "session 2 of the answer exceeds 40 bytes"),
    (b"[{}" + b"y" * 50, 1, "session 2 of the answer exceeds 40 bytes"),
]


@pytest.mark.parametrize(("answer", "complete", "sentence"), FAULTS)
def test_a_fault_keeps_what_came_before(answer, complete, sentence):
    """The elements before a fault are given, then it is raised, however the answer was cut."""
    for chunks in ([answer], bytewise(answer), *([answer[:cut], answer[cut:]] for cut in range(len(answer)))):
        elements, fault = until_fault(chunks)
        assert len(elements) == complete
        assert isinstance(fault, SourceContractError)
        assert sentence in str(fault)


def test_a_fault_is_final():
    """After a fault every further call raises it again."""
    splitter = ArraySplitter()
    assert splitter.feed(b"[1,,") == [b"1"]
    for call in (lambda: splitter.feed(b"2]"), splitter.close):
        with pytest.raises(SourceContractError, match="a comma too many"):
            call()


@pytest.mark.parametrize(
    ("answer", "shown"),
    [
        (b"\n<!DOCTYPE html>\n<html>" + b"x" * 100, "<!DOCTYPE html> <html>" + "x" * 38),
        (b'{"error": "no"}', '{"error": "no"}'),
        (b"null", "null"),
        ("\u00e4\x1b[31m".encode(), "\u00e4 [31m"),
        (b"\x1f\x8b\x08", "\ufffd"),
        (("\u20ac" * 100).encode(), "'" + "\u20ac" * 60 + "'"),
    ],
)
def test_what_is_no_array_is_shown(answer, shown):
    """The message shows the answer's first printable characters."""
    with pytest.raises(SourceContractError, match="no JSON array") as caught:
        ArraySplitter().feed(answer)
    assert shown in str(caught.value)


def test_a_mark_is_tolerated_only_in_front():
    """A byte order mark behind blanks is no array, however the answer was cut."""
    for chunks in ([b" \xef\xbb\xbf[]"], bytewise(b" \xef\xbb\xbf[]")):
        assert isinstance(until_fault(chunks)[1], SourceContractError)


def test_the_largest_element_is_exactly_the_cap():
    """An element of the cap's size passes, one byte more does not."""
    for chunks in ([b"[12345, [6], 78901]"], bytewise(b"[12345, [6], 78901]")):
        assert split(chunks, cap=5) == [b"12345", b"[6]", b"78901"]
    with pytest.raises(SourceContractError, match="session 1 of the answer exceeds 4 bytes"):
        split([b"[12345]"], cap=4)


def test_blanks_are_not_kept():
    """Endless blanks, before the array or an element, are no element over the cap."""
    gap = [b" " * 1000] * 10
    chunks = [*gap, b"[", *gap, b"1,", *gap, b"{}", *gap, b"]", *gap]
    assert split(chunks, cap=5) == [b"1", b"{}"]
