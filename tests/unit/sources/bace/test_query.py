"""Questions to BACE: what the vendor's documents write, and that both forms of a filter mean the same."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from datetime import UTC, datetime
from urllib.parse import parse_qsl, unquote_plus
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sync.sources.bace.query import (
    Condition,
    Junction,
    Query,
    and_,
    eq,
    excludes,
    gt,
    gte,
    in_,
    like,
    lt,
    lte,
    neq,
    or_,
    seconds,
    url_text,
)

SESSION = UUID("86d70a1b-0000-4000-8000-000000000000")

# --- as the documents have it ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("part", "written"),
    [
        (eq("label", "MyLabel"), "filter[label]=MyLabel"),
        (neq("label", "A1"), "filter[label][neq]=A1"),
        (like("label", "Label"), "filter[label][like]=Label"),
        (lt("timestamp_seconds", 1648038180), "filter[timestamp_seconds][lt]=1648038180"),
        (lte("timestamp_seconds", 1648038180), "filter[timestamp_seconds][lte]=1648038180"),
        (gt("timestamp_seconds", 1648038180), "filter[timestamp_seconds][gt]=1648038180"),
        (gte("timestamp_seconds", 1648038180), "filter[timestamp_seconds][gte]=1648038180"),
        (in_("label", ["A1", "A2"]), "filter[label][in][0]=A1&filter[label][in][1]=A2"),
        (
            or_(like("label", "b2"), like("label", "b1")),
            "filter[or][0][label][like]=b2&filter[or][1][label][like]=b1",
        ),
        (
            or_(like("label", "site"), eq("type", 5003)),
            "filter[or][0][label][like]=site&filter[or][1][type]=5003",
        ),
        (eq("id_data_session", SESSION), f"filter[id_data_session]={SESSION}"),
    ],
)
def test_each_operator_is_written_as_in_the_documents(part, written):
    """The examples of "Advanced Features" come out letter for letter."""
    assert url_text(Query(filter=part).params()) == written


def test_the_json_body_is_the_documents_own():
    """The example body of "Filter with JSON body" comes out the same."""
    query = Query(filter=or_(like("label", "site"), eq("type", 5003)))
    assert query.body() == {"filter": {"or": [{"label": {"like": "site"}}, {"type": 5003}]}}


def test_everything_beside_the_filter_stays_in_the_url():
    """Sort, pages, fields and nested relations have the documents' names, and none is there unasked."""
    query = Query(
        sort="-start",
        fields=("label", "group.label", "parent.group.label"),
        expand=("group", "parent", "parent.group"),
        page=2,
        per_page=20,
    )
    assert url_text(query.params()) == (
        "sort=-start&fields=label,group.label,parent.group.label&expand=group,parent,parent.group"
        "&page=2&per-page=20"
    )
    assert replace(query, filter=eq("a", 1)).options() == query.params()
    assert Query().params() == {}


def test_a_range_is_written_side_by_side():
    """Several conditions that all hold stand beside each other, the way a published client writes them."""
    query = Query(filter=and_(eq("datatype", 6002), and_(gte("t", 5), lt("t", 9.5))))
    assert query.body() == {"filter": {"datatype": 6002, "t": {"gte": 5, "lt": 9.5}}}


def test_what_cannot_stand_side_by_side_is_kept():
    """Two conditions of one name are never merged into one: the second goes below ``and``."""
    query = Query(filter=and_(like("label", "bace"), like("label", "acc/gyro"), eq("label", "x")))
    assert query.body() == {
        "filter": {"label": {"like": "bace", "eq": "x"}, "and": [{"label": {"like": "acc/gyro"}}]}
    }
    assert url_text(query.params()).endswith("&filter[and][0][label][like]=acc%2Fgyro")


# --- values ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "written"),
    [(5.0, "5"), (1648641939.995, "1648641939.995"), (1e-7, "0.0000001"), (1e22, "1" + "0" * 22), (-3, "-3")],
)
def test_numbers_are_plain_decimals(number, written):
    """Whole numbers have no fraction, and nothing is in scientific notation."""
    assert Query(filter=eq("v", number)).params() == {"filter[v]": written}


def test_an_instant_is_unix_seconds():
    """A whole second is an integer, a fraction keeps its microseconds."""
    assert repr(seconds(datetime(2022, 3, 30, 12, 4, 53, tzinfo=UTC))) == "1648641893"
    assert repr(seconds(datetime(2022, 3, 30, 12, 5, 39, 995001, tzinfo=UTC))) == "1648641939.995001"


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_refused(number):
    """A comparison with infinity would be sent as text that means something else."""
    with pytest.raises(ValueError, match="compared"):
        lt("v", number)


def test_a_boolean_is_refused():
    """Python would send True as a 1 here and as true there; no document says which is meant."""
    with pytest.raises(TypeError):
        eq("isArchived", True)


@pytest.mark.parametrize("empty", [lambda: in_("label", []), and_, or_])
def test_an_empty_list_is_refused(empty):
    """A list of nothing leaves no trace in a URL, and everything would come."""
    with pytest.raises(ValueError, match="let everything through"):
        empty()


@pytest.mark.parametrize("name", ["", "or", "and", "a]b", "a[b", "a b", "0a", "a&b", "a=b"])
def test_only_names_are_attributes(name):
    """A name that the grammar would take for something else is refused."""
    with pytest.raises(ValueError, match="no name"):
        eq(name, 1)


# --- both forms -----------------------------------------------------------------------------------

NAMES = st.sampled_from(["label", "type", "timestamp_seconds", "group.label", "x"])
NUMBERS = st.integers(-(10**12), 10**12) | st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.text(st.characters(codec="utf-8")) | NUMBERS
FILTERS = st.recursive(
    st.builds(
        lambda make, name, value: make(name, value),
        st.sampled_from([eq, neq, like, lt, lte, gt, gte]),
        NAMES,
        VALUES,
    )
    | st.builds(in_, NAMES, st.lists(VALUES, min_size=1, max_size=12)),
    lambda inner: st.builds(
        lambda make, parts: make(*parts),
        st.sampled_from([and_, or_]),
        st.lists(inner, min_size=1, max_size=4),
    ),
    max_leaves=12,
)


def php_array(text):
    """Read a query string as PHP does: names with brackets are nested arrays."""
    root = {}
    for name, value in parse_qsl(text, keep_blank_values=True, strict_parsing=bool(text)):
        first, rest = re.fullmatch(r"([^\[]+)((?:\[[^\]]*\])*)", name).groups()
        *path, last = [first, *re.findall(r"\[([^\]]*)\]", rest)]
        node = root
        for key in path:
            node = node.setdefault(key, {})
        assert last not in node, "one parameter overwrites another"
        node[last] = value
    return root


def as_php(node):
    """The same tree from JSON, with every number as the text that PHP would have got."""
    match node:
        case dict():
            return {key: as_php(inner) for key, inner in node.items()}
        case list():
            return {str(index): as_php(inner) for index, inner in enumerate(node)}
        case _:
            return node


def same(left, right):
    """Whether two trees are equal, numbers compared as numbers."""
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    return left == right if isinstance(right, str) else float(left) == right


@given(FILTERS)
def test_the_url_says_the_same_as_the_body(part):
    """Whatever the filter, an independent reader of the URL gets the tree of the JSON body."""
    query = Query(filter=part)
    body = json.loads(json.dumps(query.body()))
    assert same(php_array(url_text(query.params())), as_php(body))


def meaning(part):
    """A filter as nested tuples without regard to order, and ``and``s within ``and``s opened."""
    match part:
        case Condition(attribute, operator, value):
            return (attribute, operator, value if operator == "in" else (value,))
        case Junction("or", parts):
            return ("or", tuple(sorted(map(repr, map(meaning, parts)))))
        case Junction("and", parts):
            opened = [meaning(inner) for inner in parts]
            flat = [x for inner in opened for x in (inner[1] if inner[0] == "and" else [repr(inner)])]
            return ("and", tuple(sorted(flat)))


def read_back(tree):
    """A body's tree as a filter again, by the documented grammar."""
    parts = []
    for key, node in tree.items():
        if key in {"and", "or"}:
            parts.append(Junction(key, tuple(read_back(inner) for inner in node)))
        elif isinstance(node, dict):
            parts += [
                Condition(key, operator, tuple(value) if operator == "in" else value)
                for operator, value in node.items()
            ]
        else:
            parts.append(Condition(key, "eq", node))
    return parts[0] if len(parts) == 1 else Junction("and", tuple(parts))


@given(FILTERS)
def test_nothing_is_lost_on_the_way(part):
    """Read back by the documented grammar, the body asks for exactly what was built."""
    assert meaning(read_back(Query(filter=part).body()["filter"])) == meaning(part)


@given(st.text(st.characters(codec="utf-8"), min_size=1))
def test_any_text_arrives(text):
    """Spaces, ampersands, brackets and letters of any script survive the URL."""
    written = url_text(Query(filter=eq("label", text)).params())
    assert written.isascii()
    assert unquote_plus(written.partition("=")[2]) == text


# --- what an honoured filter lets through ---------------------------------------------------------


@pytest.mark.parametrize(
    ("part", "item", "excluded"),
    [
        (eq("a", 1), {"a": 1.0}, False),
        (eq("a", 1), {"a": 2}, True),
        (neq("a", "x"), {"a": "x"}, True),
        (like("a", "SITE"), {"a": "my site"}, False),
        (like("a", "site"), {"a": "sight"}, True),
        (lt("a", 5), {"a": 5}, True),
        (lte("a", 5), {"a": 5}, False),
        (gt("a", 5), {"a": 5}, True),
        (gte("a", 5), {"a": 4.9}, True),
        (in_("a", ["x", "y"]), {"a": "y"}, False),
        (in_("a", ["x", "y"]), {"a": "z"}, True),
        (and_(eq("a", 1), eq("b", 2)), {"a": 1, "b": 3}, True),
        (or_(eq("a", 1), eq("b", 2)), {"a": 1, "b": 3}, False),
        (or_(eq("a", 1), eq("b", 2)), {"a": 2, "b": 3}, True),
        # What cannot be judged is not.
        (eq("a", 1), {}, False),
        (eq("a", 1), {"a": None}, False),
        (eq("a", 1), {"a": True}, False),
        (lt("a", 1), {"a": "2"}, False),
        (eq("a", 1), [], False),
        (or_(eq("a", 1), eq("b", 2)), {"a": 2}, False),
    ],
)
def test_an_item_that_was_not_asked_for_is_recognised(part, item, excluded):
    """Items that contradict the filter are known by their fields, and only by what these say for certain."""
    assert excludes(part, item) is excluded
