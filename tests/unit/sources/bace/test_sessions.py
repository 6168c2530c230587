"""From one item of the list to a record, whatever JSON it is."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sync.model import Reject
from sync.sources.bace.sessions import FIELDS, RELATIONS, DecodedSession, decode_session

# A busy machine is no fault of the program's.
calm = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

ID = "86d70a1b-3c1e-4b39-9d6e-0d5d1f4c0a11"
GROUP = "4c1c81ca-7d60-4a5e-8a6f-5a1f2b3c4d5e"
DEVICE = "6b88b4df-1111-4222-8333-444455556666"
DATASET = "c1dafb46-0000-4000-8000-000000000001"

EXAMPLE: dict[str, Any] = {
    "id_data_session": ID,
    "id_group": GROUP,
    "id_person": None,
    "label": "BACE Go XXX 2022-03-30 14:04",
    "start": 1648641893,
    "end": 1648643067,
    "created_at": 1648641897,
    "created_by": None,
    "updated_at": 1648643384,
    "updated_by": None,
    "archived_at": None,
    "datapoint_count": 10,
    "isIngestionFinished": True,
    "isArchived": False,
    "_links": {"self": {"href": f"https://dashboard.bace-iot.com/api/v2/data-session/view?id={ID}"}},
}

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
anything = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3)
)


def decoded(**fields: Any) -> DecodedSession:
    """The documents' example with some fields changed; it has to be understood."""
    session = decode_session(EXAMPLE | fields)
    assert isinstance(session, DecodedSession)
    return session


def test_the_documents_example_is_read_field_for_field() -> None:
    """Every documented field has its column, instants are UTC, and there is nothing more to note."""
    session = decoded()
    row = dict(session.record.row)
    row.pop("digest")
    assert row == {
        "id_data_session": UUID(ID),
        "id_group": UUID(GROUP),
        "id_person": None,
        "label": "BACE Go XXX 2022-03-30 14:04",
        "started_at": datetime(2022, 3, 30, 12, 4, 53, tzinfo=UTC),
        "ended_at": datetime(2022, 3, 30, 12, 24, 27, tzinfo=UTC),
        "created_at": datetime(2022, 3, 30, 12, 4, 57, tzinfo=UTC),
        "created_by": None,
        "updated_at": datetime(2022, 3, 30, 12, 29, 44, tzinfo=UTC),
        "updated_by": None,
        "archived_at": None,
        "datapoint_count": 10,
        "is_ingestion_finished": True,
        "is_archived": False,
        "updated_at_seconds": 1648643384.0,
        "datasets": None,
        "extra": None,
    }
    assert row.keys() | {"digest"} == set(session.record.head.table.column_names)
    assert (session.start, session.updated, session.final) == (1648641893.0, 1648643384.0, True)
    assert (session.record.rejects, session.updates, session.datasets) == ((), (), None)


@given(st.dictionaries(st.sampled_from([*FIELDS, *RELATIONS, "_links", "more"]), anything), st.booleans())
@calm
def test_any_item_becomes_a_record_or_a_reject(fields: dict[str, Any], whole: bool) -> None:
    """No JSON value raises, and what comes out is fit for the warehouse."""
    session = decode_session(EXAMPLE | fields if whole else fields)
    rejects = (session,) if isinstance(session, Reject) else session.record.rejects
    texts = [json.dumps([reject.payload, reject.reason]) for reject in rejects]
    if isinstance(session, DecodedSession):
        texts += [value for value in session.record.row.values() if isinstance(value, str)]
        texts += [str(update.row) for update in session.updates]
        json.loads(session.record.row["extra"] or "null", parse_constant=pytest.fail)
    assert not any("\x00" in text or "\\u0000" in text.replace("\\\\", "") for text in texts)
    "".join(texts).encode()


@given(anything)
@calm
def test_what_is_no_session_is_a_reject(item: Any) -> None:
    """An item without a usable key is a reject that names the reason."""
    assert isinstance(decode_session(item), Reject)


def test_a_session_without_a_usable_start_is_a_reject_of_that_session() -> None:
    """It is resolved when the session is stored one day: its key is the session's."""
    for start in (None, "soon", True, 1e300, float("nan"), [1]):
        reject = decode_session(EXAMPLE | {"start": start})
        assert isinstance(reject, Reject)
        assert (reject.record_key, reject.item_key, reject.counts) == (ID, ID, True)


def test_an_item_that_is_nested_too_deeply_is_a_reject() -> None:
    """It costs neither its neighbours nor the process."""
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]
    assert isinstance(decode_session(EXAMPLE | {"more": deep}), Reject)
    assert isinstance(decode_session(deep), Reject)


@pytest.mark.parametrize(
    ("field", "given", "column", "expected"),
    [
        ("isIngestionFinished", 1, "is_ingestion_finished", True),
        ("isIngestionFinished", "0", "is_ingestion_finished", False),
        ("isArchived", "true", "is_archived", True),
        ("start", "1648641893", "started_at", datetime(2022, 3, 30, 12, 4, 53, tzinfo=UTC)),
        ("end", 1648643067.25, "ended_at", datetime(2022, 3, 30, 12, 24, 27, 250_000, tzinfo=UTC)),
        ("datapoint_count", "10", "datapoint_count", 10),
        ("datapoint_count", 10.0, "datapoint_count", 10),
        ("id_group", GROUP.upper(), "id_group", UUID(GROUP)),
        ("label", 7, "label", "7"),
    ],
)
def test_what_is_certain_is_read_however_it_is_spelled(
    field: str, given: Any, column: str, expected: Any
) -> None:
    """Numbers as text, booleans as numbers: where the meaning is certain it is taken, without a note."""
    session = decoded(**{field: given})
    assert session.record.row[column] == expected
    assert session.record.rejects == ()


@pytest.mark.parametrize(
    ("field", "given"),
    [
        ("end", "later"),
        ("end", True),
        ("updated_at", 1e20),
        ("id_group", "86d70a1b-..."),
        ("datapoint_count", -1),
        ("datapoint_count", 2.5),
        ("isIngestionFinished", "perhaps"),
        ("label", ["a"]),
    ],
)
def test_what_cannot_be_used_is_null_and_noted(field: str, given: Any) -> None:
    """The session is stored without that field, the note keeps what stood there, and the digest tells."""
    session = decoded(**{field: given})
    (note,) = session.record.rejects
    assert (note.record_key, note.item_key, note.counts) == (ID, f"{ID}/{field}", False)
    assert note.payload == given
    assert session.digest not in (decoded().digest, decoded(**{field: None}).digest)


def test_characters_that_cannot_be_stored_are_replaced_and_noted() -> None:
    """NUL and lone surrogates do not cost the session."""
    session = decoded(label="a\x00b\ud800", more="\x00")
    assert session.record.row["label"] == "a\ufffdb\ufffd"
    assert json.loads(session.record.row["extra"]) == {"more": "\ufffd"}
    assert len(session.record.rejects) == 1


@given(
    st.permutations(list(EXAMPLE)),
    st.dictionaries(st.text().filter(lambda name: name not in EXAMPLE), anything, max_size=3),
)
@calm
def test_the_digest_is_of_the_documented_fields_alone(order: list[str], more: dict[str, Any]) -> None:
    """However the item is ordered, and whatever comes with it, equal fields have an equal digest."""
    assert decoded(**more).digest == decoded().digest
    shuffled = decode_session({name: EXAMPLE[name] for name in order if name != "_links"} | more)
    assert isinstance(shuffled, DecodedSession)
    assert shuffled.digest == decoded().digest


@pytest.mark.parametrize("field", [field for field in FIELDS if field != "id_data_session"])
def test_every_documented_field_changes_the_digest(field: str) -> None:
    """A change to any of them is a change."""
    news: dict[str, Any] = {"label": "new", "isIngestionFinished": False, "isArchived": True}
    given = news.get(field, DATASET if field in ("id_group", "id_person") or "_by" in field else 1648650000)
    assert decoded(**{field: given}).digest != decoded().digest


def test_a_session_is_final_when_it_has_ended_and_all_is_taken_in() -> None:
    """One of the two alone does not make it final."""
    assert decoded().final
    assert not decoded(end=None).final
    assert not decoded(isIngestionFinished=False).final
    assert not decoded(isIngestionFinished=None).final


def test_unknown_fields_are_kept() -> None:
    """The vendor may grow without losing data here."""
    assert json.loads(decoded(mood={"a": [1, 2.5]}).record.row["extra"]) == {"mood": {"a": [1, 2.5]}}


# --- what expand brings along -------------------------------------------------------------------


def rows(session: DecodedSession) -> list[tuple[str, dict[str, Any]]]:
    """The session's updates, as table and row."""
    return [(update.table.name, dict(update.row)) for update in session.updates]


def test_an_expanded_group_becomes_a_row() -> None:
    """Documented fields have columns, others are kept in extra, links are not."""
    group = {
        "id": GROUP,
        "id_group": GROUP,
        "label": "Group 4C1C",
        "type": "5003",
        "type_label": "Loose Device",
        "created_at": 1617022239,
        "colour": "red",
        "_links": [],
    }
    session = decoded(group=group)
    ((table, row),) = rows(session)
    assert table == "bace.group_records"
    assert row == {
        "id_group": UUID(GROUP),
        "label": "Group 4C1C",
        "type": "5003",
        "type_label": "Loose Device",
        "subtype": None,
        "id_country": None,
        "created_at": datetime(2021, 3, 29, 12, 50, 39, tzinfo=UTC),
        "deleted_at": None,
        "extra": '{"colour":"red"}',
    }
    assert session.record.row["extra"] is None


@pytest.mark.parametrize(
    "shape",
    [
        [{"id_physical_device": DEVICE, "label": "D", "_links": []}],
        {"id_physical_device": DEVICE, "label": "D"},
        [{"id": DEVICE, "label": "D"}],
        {DEVICE: {"id_physical_device": DEVICE, "label": "D"}},
    ],
    ids=repr,
)
def test_devices_are_understood_in_any_plausible_shape(shape: Any) -> None:
    """One, a list, or an object by id."""
    ((table, row),) = rows(decoded(physicalDevices=shape))
    assert (table, row["id_physical_device"], row["label"]) == ("bace.device_records", UUID(DEVICE), "D")


def test_a_bare_id_never_replaces_a_row_that_says_more() -> None:
    """It carries the key alone, which the warehouse only inserts where there is nothing."""
    for fields in ({"group": GROUP}, {"fromDevice": DEVICE}, {"datatypes": [6000]}, {"person": GROUP}):
        session = decoded(**fields)
        (update,) = session.updates
        assert update.table.column_names == update.key == tuple(update.row)


@pytest.mark.parametrize(
    "shape", [[6000, "6001"], [{"datatype": 6000}, {"id": "6001", "label": "Rate"}]], ids=repr
)
def test_datatypes_are_codes_or_objects(shape: Any) -> None:
    """A code is an integer, whoever spells it as text."""
    assert [row["datatype"] for _, row in rows(decoded(datatypes=shape))] == [6000, 6001]


@pytest.mark.parametrize(
    ("shape", "count", "expected"),
    [
        (None, 10, None),
        ([DATASET, DATASET.upper()], 10, (UUID(DATASET),)),
        ([{"id_container_data_latest": DATASET, "datatype": 5205}], 10, (UUID(DATASET),)),
        ([DATASET, "more"], 10, None),
        ("all", 10, None),
        ([], 10, None),
        ([], 0, ()),
    ],
    ids=repr,
)
def test_datasets_are_known_only_where_all_of_them_are(
    shape: Any, count: int, expected: tuple[UUID, ...] | None
) -> None:
    """A list that is not understood to its end, or is empty beside datapoints, does not say what there is."""
    session = decoded(dataIds=shape, datapoint_count=count)
    assert session.datasets == expected
    assert session.record.row["datasets"] == (None if expected is None else list(expected))


def test_a_relation_of_unknown_shape_is_kept_in_extra() -> None:
    """It is no error, and not lost."""
    session = decoded(fromDevice="a device", group=[])
    assert json.loads(session.record.row["extra"]) == {"fromDevice": "a device"}
    assert (session.updates, session.record.rejects) == ((), ())
