"""What should not come and does: nothing else is lost, and a person can read what was wrong."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from sync.emulators.beddit import HTML_PAGE, MALFORMED_JSON, Fault
from sync.errors import AnswerTooLarge, RequestRefused, SourceContractError
from sync.model import Task

NOW = 1_711_000_000.5
DAY = 86_400.0
USER = 1001
TOKENS = {USER: "token-of-the-only-user"}
BAD = int(NOW - 2 * DAY)


async def opened(open_pipeline, manual_clock, night):
    """A pipeline for one user with two good nights, and room for a bad one between them."""
    pipeline = await open_pipeline(None, tokens=TOKENS, clock=manual_clock(NOW))
    for days in (1, 3):
        pipeline.cloud.put(USER, night(NOW - days * DAY), updated=NOW - days * DAY + 601)
    return pipeline


async def rejects_of(pipeline):
    """Open rejects by their item."""
    rows = await pipeline.fetch("SELECT * FROM sync.rejects WHERE resolved_at IS NULL ORDER BY item_key")
    return {row["item_key"]: (row["reason"], json.loads(row["payload"] or "null")) for row in rows}


# --- whole answers ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "error", "words"),
    [
        (HTML_PAGE, SourceContractError, "no JSON array"),
        (Fault(body=b'{"sessions": []}'), SourceContractError, "no JSON array"),
        (Fault(body=b"null"), SourceContractError, "no JSON array"),
        (Fault(body=b"[1, 2"), AnswerTooLarge, "cut"),
        (MALFORMED_JSON, AnswerTooLarge, "cut"),
        (Fault(body=b""), AnswerTooLarge, "cut"),
        (Fault(body=b"[] []"), SourceContractError, "goes on after its array"),
        (Fault(status=206, body=b"[]"), SourceContractError, "a part of an answer"),
        (Fault(status=418), RequestRefused, "418"),
    ],
    ids=["html", "object", "null", "cut", "cut-in-a-word", "empty", "two-arrays", "part", "teapot"],
)
async def test_an_answer_that_is_no_array(  # noqa: PLR0917 - three of them are the case
    open_pipeline, manual_clock, night, answer, error, words
):
    """The run fails with a sentence, moves nothing, and the next one reads everything."""
    pipeline = await opened(open_pipeline, manual_clock, night)
    pipeline.cloud.fail_next(answer, times=200)
    (outcome,) = await pipeline.run(Task("once"))
    assert isinstance(outcome.error, error)
    assert words in str(outcome.error)
    (stream,) = await pipeline.fetch("SELECT cursor, last_error FROM sync.streams")
    assert stream["cursor"] is None
    assert words in stream["last_error"]
    pipeline.cloud.faults.clear()
    await pipeline.once()
    await pipeline.assert_truth()
    assert await rejects_of(pipeline) == {}


@pytest.mark.parametrize("gzip", [True, False])
async def test_compressed_answers(open_pipeline, manual_clock, night, gzip):
    """Answers are asked for compressed, and read in either form."""
    pipeline = await opened(open_pipeline, manual_clock, night)
    pipeline.cloud.behaviour = replace(pipeline.cloud.behaviour, gzip=gzip)
    await pipeline.once()
    await pipeline.assert_truth()
    assert {r.headers["accept-encoding"] for r in pipeline.cloud.requests_to("api")} == {"gzip"}


# --- one bad session among good ones --------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        b"null",
        b'"a string"',
        b"[1, [2, 3]]",
        b"12",
        b"garbage",
        b'{"id": %d}' % BAD,
        b'{"id": %d, "start_timestamp": "yesterday"}' % BAD,
        b'{"id": %d, "start_timestamp": NaN}' % BAD,
        b'{"id": %d, "start_timestamp": 1e300}' % BAD,
        b'{"id": "x", "start_timestamp": %d}' % BAD,
        b'{"id": 1%s, "start_timestamp": %d}' % (b"0" * 30, BAD),
        b'{"id": %d, "start_timestamp": %d, "hardware": }' % (BAD, BAD),
        b'{"id" %d}' % BAD,
        b"{" * 3 + b"}" * 3,
        b'{"id": %d, "start_timestamp": 1%s}' % (BAD, b"0" * 5000),
        b"[" * 2000 + b"]" * 2000,
    ],
    ids=lambda text: text[:40].decode(),
)
async def test_a_session_that_cannot_be_understood(open_pipeline, manual_clock, night, text):
    """Its neighbours load; it is one reject with a reason and its payload, however often it comes."""
    pipeline = await opened(open_pipeline, manual_clock, night)
    good = pipeline.cloud.truth(USER)
    await pipeline.once()
    pipeline.cloud.put_raw(USER, text, updated=NOW)
    pipeline.cloud.put(USER, night(NOW - 4 * DAY), updated=NOW)
    (outcome,) = await pipeline.once()
    assert outcome.tally.rejected == 1
    good[int(NOW - 4 * DAY)] = pipeline.cloud.truth(USER)[int(NOW - 4 * DAY)]
    await pipeline.assert_truth({USER: good})
    ((key, (reason, payload)),) = (await rejects_of(pipeline)).items()
    assert key.startswith(f"{USER}/")
    assert reason.startswith("a session")
    shown = payload["shortened"] if isinstance(payload, dict) else payload
    assert text[:20].decode().replace('"', "") in shown.replace('"', "").replace("\\", "")
    await pipeline.backfill(reload=True)
    assert list(await rejects_of(pipeline)) == [key]
    await pipeline.assert_truth({USER: good})


async def test_a_session_that_came_right_resolves_its_reject(open_pipeline, manual_clock, night):
    """When a rejected session is put again without its fault, its reject is resolved."""
    pipeline = await opened(open_pipeline, manual_clock, night)
    pipeline.cloud.put_raw(USER, b'{"id": %d}' % BAD, updated=NOW - 2 * DAY)
    await pipeline.once()
    assert list(await rejects_of(pipeline)) == [f"{USER}/{BAD}"]
    pipeline.cloud._clock.now += 60
    pipeline.cloud.put(USER, night(float(BAD)))
    await pipeline.once()
    assert await rejects_of(pipeline) == {}
    assert await pipeline.value("SELECT count(*) FROM sync.rejects WHERE resolved_at IS NOT NULL") == 1
    await pipeline.assert_truth()


# --- one bad item among good ones -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("item", "reason"),
    [
        (b"null", "an item is null"),
        (b'"x"', "an item is a string"),
        (b"{}", "an item is an object"),
        (b"[]", "an item has 0 elements"),
        (b"[1]", "an item has 1 element"),
        (b"[1, 2, 3]", "an item has 3 elements"),
        (b'[1, "2"]', "not two finite numbers"),
        (b"[1, null]", "not two finite numbers"),
        (b"[1, true]", "not two finite numbers"),
        (b"[NaN, 1]", "not two finite numbers"),
        (b"[1, NaN]", "not two finite numbers"),
        (b"[1, -Infinity]", "not two finite numbers"),
        (b"[1, 1e999]", "not two finite numbers"),
        (b"[1, 1%s]" % (b"0" * 400), "not two finite numbers"),
        (b"[1, 1%s]" % (b"0" * 5000), "not two finite numbers"),
        (b"[-1e300, 1]", "out of range"),
        (b"[1e300, 1]", "out of range"),
    ],
    ids=lambda part: part[:20].decode() if isinstance(part, bytes) else "",
)
async def test_a_bad_item_among_good_ones(open_pipeline, manual_clock, night, item, reason):
    """It is a reject with its place; its neighbours keep their places; when it comes right it is resolved."""
    pipeline = await opened(open_pipeline, manual_clock, night)
    track = {"value_data_type": "float32", "items": [[0, 1.5], "HERE", [60, 2.5]]}
    session = night(float(BAD), time_value_tracks={"heart_rate": track})
    text = json.dumps({**session, "updated": NOW - 2 * DAY}).encode()
    pipeline.cloud.put_raw(USER, text.replace(b'"HERE"', item), updated=NOW - 2 * DAY)
    (outcome,) = await pipeline.once()
    rows = await pipeline.fetch(
        "SELECT index, offset_seconds, value FROM beddit.track_values WHERE session_id = $1 ORDER BY 1", BAD
    )
    assert [tuple(row.values()) for row in rows] == [(0, 0.0, 1.5), (2, 60.0, 2.5)]
    ((key, (why, _)),) = (await rejects_of(pipeline)).items()
    assert key == f"{USER}/{BAD}/heart_rate[1]"
    assert reason in why
    assert outcome.tally.rejected >= 1
    await pipeline.assert_ledger()
    pipeline.cloud._clock.now += 60
    pipeline.cloud.put(USER, night(float(BAD)))
    await pipeline.once()
    assert await rejects_of(pipeline) == {}
    await pipeline.assert_truth()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("time_value_tracks", [1]),
        ("time_value_tracks", {"heart_rate": 5}),
        ("time_value_tracks", {"heart_rate": {"items": "none"}}),
        ("sampled_tracks", "none"),
        ("sampled_tracks", {"normal": []}),
    ],
)
async def test_a_track_that_is_none(open_pipeline, manual_clock, night, field, value):
    """A track of the wrong shape is one reject; its session and all other tracks are there."""
    pipeline = await opened(open_pipeline, manual_clock, night)
    pipeline.cloud.put(USER, night(float(BAD), **{field: value}), updated=NOW - 2 * DAY)
    await pipeline.once()
    assert len(await rejects_of(pipeline)) == 1
    assert await pipeline.value("SELECT count(*) FROM beddit.sessions") == 3
    kept = await pipeline.value("SELECT count(*) FROM beddit.track_values WHERE session_id = $1", BAD)
    assert kept == (4 if field == "sampled_tracks" else 0)
    await pipeline.assert_ledger()


@pytest.mark.parametrize(
    ("fields", "stored"),
    [
        ({"hardware": "a\x00b"}, ("hardware", "a\ufffdb")),
        ({"software": "\ud800"}, ("software", "\ufffd")),
        ({"software": ["list"]}, ("software", None)),
        ({"timezone": "Mars/Olympus"}, ("timezone", "Mars/Olympus")),
        ({"timezone": "../../etc/passwd"}, ("timezone", "../../etc/passwd")),
        ({"timezone": ""}, ("timezone", "")),
        ({"timezone": "a\x00b"}, ("timezone", "a\ufffdb")),
        ({"frame_length": "x"}, ("frame_length", None)),
        ({"frame_length": 0}, ("frame_length", None)),
        ({"end_timestamp": "x"}, ("ended_at", None)),
    ],
    ids=str,
)
async def test_a_field_that_is_not_right(open_pipeline, manual_clock, night, fields, stored):
    """The session is stored with what could be kept, a note says what could not, and views go on working."""
    pipeline = await opened(open_pipeline, manual_clock, night)
    pipeline.cloud.put(USER, night(float(BAD), **fields), updated=NOW - 2 * DAY)
    (outcome,) = await pipeline.once()
    column, value = stored
    assert await pipeline.value(f"SELECT {column} FROM beddit.sessions WHERE session_id = $1", BAD) == value  # noqa: S608
    assert len(await rejects_of(pipeline)) >= 1
    assert outcome.tally.rejected == 0  # a note about an item that was stored
    assert await pipeline.value("SELECT count(*) FROM beddit.track_values") == 12
    utc = await pipeline.value(
        "SELECT night = (ended_at AT TIME ZONE 'UTC')::date FROM beddit.sessions LIMIT 1"
    )
    assert utc is not None
    await pipeline.assert_ledger()


async def test_unknown_fields_are_kept(open_pipeline, manual_clock, night):
    """What the documents do not name is in extra, NUL characters and all numbers included."""
    pipeline = await opened(open_pipeline, manual_clock, night)
    extra = {"mood": "a\x00b", "score": 10**25, "nested": {"deep": [1, None, 0.1]}}
    pipeline.cloud.put(USER, night(float(BAD), **extra), updated=NOW - 2 * DAY)
    await pipeline.once()
    kept = json.loads(await pipeline.value("SELECT extra FROM beddit.sessions WHERE session_id = $1", BAD))
    assert kept == {"mood": "a\ufffdb", "score": 10**25, "nested": {"deep": [1, None, 0.1]}}
    await pipeline.assert_truth()


async def test_broken_utf8_costs_no_night(open_pipeline, manual_clock, night):
    """Bytes that are no text are replaced; every point of the night is there."""
    pipeline = await opened(open_pipeline, manual_clock, night)
    session = night(float(BAD), hardware="HERE")
    text = json.dumps({**session, "updated": NOW - 2 * DAY}).encode().replace(b"HERE", b"\xff\xfe")
    pipeline.cloud.put_raw(USER, text)
    await pipeline.once()
    assert await pipeline.value("SELECT count(*) FROM beddit.track_values WHERE session_id = $1", BAD) == 4
    assert (
        await pipeline.value("SELECT hardware FROM beddit.sessions WHERE session_id = $1", BAD)
        == "\ufffd" * 2
    )
    await pipeline.assert_ledger()


@pytest.mark.parametrize("start", [-62_135_500_000.0, -1.0, 0.0, 253_402_300_000.0])
async def test_a_start_at_the_end_of_time(open_pipeline, manual_clock, night, start):
    """A clock that errs by millennia stops neither its night's other data nor other nights."""
    pipeline = await opened(open_pipeline, manual_clock, night)
    await pipeline.once()
    sampled = {"normal": {"samples_per_frame": 1, "data_type": "uint8"}}
    pipeline.cloud.put(USER, night(start, length=100.0, sampled_tracks=sampled), updated=NOW)
    pipeline.cloud.set_blob(USER, int(start), "normal", bytes(500))
    pipeline.cloud.fail_next(Fault(status=403), host="blob")  # so that its session has to be listed again
    await pipeline.once()
    await pipeline.assert_truth()
