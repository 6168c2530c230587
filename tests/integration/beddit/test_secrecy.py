"""Tokens and signed addresses stay where they belong, in good times and in bad ones."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from sync.emulators.beddit import BlobForm, Fault
from sync.model import Task
from sync.observe.logging import configure

NOW = 1_711_000_000.5
DAY = 86_400.0
USER = 1001
TOKEN = "sEcReTtOkEn0123456789abcdefXYZ98"
OTHER = "aNoThErToKeN0123456789abcdefXYZ9"
SIGNATURE = "sIgNaTuReOfAnAdDrEsS"
BLOB = bytes(range(250)) * 24

COLUMNS = """
    SELECT table_schema AS schema, table_name AS name FROM information_schema.tables
    WHERE table_schema IN ('beddit', 'sync') AND table_type = 'BASE TABLE'
"""


@pytest.fixture
async def pipeline(open_pipeline, manual_clock, night, written):
    """A pipeline whose log and kept messages are redacted as in real life, with one good night."""
    opened = await open_pipeline(None, tokens={USER: TOKEN, 1002: OTHER}, clock=manual_clock(NOW))
    opened.redact = configure(level="debug", format="json", secrets=[TOKEN, OTHER], stream=written).redact
    put(opened, night)
    return opened


def put(pipeline, night, days=1, **fields):
    """One night with raw signal, whose address is signed by the emulated store."""
    start = NOW - days * DAY
    sampled = {"normal": {"samples_per_frame": 1, "data_type": "uint16"}}
    pipeline.cloud.put(USER, night(start, **{"sampled_tracks": sampled, **fields}))
    pipeline.cloud.set_blob(USER, int(start), "normal", BLOB)


async def assert_silent(pipeline, written, *more):
    """No secret is in any log line or in any column of any table; both hold something, though."""
    assert written.getvalue().count("\n") > 3
    for line in written.getvalue().splitlines():
        assert json.loads(line)["event"]
    dump = written.getvalue()
    for table in await pipeline.fetch(COLUMNS):
        rows = await pipeline.fetch(f"SELECT t::text FROM {table['schema']}.{table['name']} t")  # noqa: S608
        dump += "".join(row["t"] for row in rows)
    assert "user1001" in dump
    signatures = [SIGNATURE, "Signature=", "Expires="]
    for secret in (TOKEN, OTHER, *signatures, *more):
        assert secret not in dump


async def test_a_good_run_says_no_secret(pipeline, written):
    """First run, second run, backfill: nothing but names and numbers."""
    await pipeline.once()
    await pipeline.backfill(reload=True)
    assert await pipeline.value("SELECT status FROM beddit.sampled_tracks") == "complete"
    await assert_silent(pipeline, written)


async def test_a_refused_token_is_not_repeated(pipeline, written):
    """The error names the account, not the token, also when the server repeats it."""
    body = json.dumps({"error": "forbidden", "description": f"Your token UserToken {TOKEN} is bad"}).encode()
    pipeline.cloud.fail_next(Fault(status=403, body=body), times=2)
    outcomes = await pipeline.run(Task("once"))
    assert all(outcome.error is not None for outcome in outcomes)
    assert "***" in str(outcomes[0].error)
    assert TOKEN not in str(outcomes[0].error)
    await assert_silent(pipeline, written)


@pytest.mark.parametrize("status", [400, 404, 410, 418, 429, 500, 503])
async def test_an_error_body_that_repeats_secrets(pipeline, written, status):
    """Whatever the status: neither the token nor an address in the error's text is kept."""
    words = f"no {TOKEN} for https://h.example/x?Expires=1&Signature={SIGNATURE} today"
    body = json.dumps({"error": "x", "description": words}).encode()
    pipeline.cloud.fail_next(Fault(status=status, body=body), times=20)
    outcomes = await pipeline.run(Task("once"))
    assert all(outcome.error is not None for outcome in outcomes)
    await assert_silent(pipeline, written)


@pytest.mark.parametrize(
    "text",
    [
        '{"id": 5, "note": "%s"}',
        '{"id": 5, "sampled_tracks": {"normal": {"data_url": "%s"}}}',
        '["%s"]',
        '"%s"',
        '{"id": 5, "broken": "%s',
        '{"id": "%s", "start_timestamp": 1710900000}',
    ],
)
@pytest.mark.parametrize(
    "secret",
    [
        f"UserToken {TOKEN}",
        TOKEN,
        f"https://h.example/x?Expires=1&Signature={SIGNATURE}",
        f"https:\\/\\/h.example\\/x?Expires=1&Signature={SIGNATURE}",
        f"HTTPS://h.example/x?Expires=1&Signature={SIGNATURE}",
        f"https://h.example/x\\u003fExpires=1\\u0026Signature={SIGNATURE}",
    ],
    ids=["header", "token", "address", "escaped", "capitals", "unicode"],
)
async def test_a_malformed_session_that_repeats_secrets(pipeline, written, text, secret):
    """Its reject keeps the payload without them."""
    pipeline.cloud.put_raw(USER, (text % secret).encode(), updated=NOW)
    await pipeline.run(Task("once"))
    await assert_silent(pipeline, written)


@pytest.mark.parametrize(
    "fields",
    [
        {"extra_link": "https://h.example/x?Expires=1&Signature={s}"},
        {"sampled_tracks": {"normal": {"data_url": ["https://h.example/x?Expires=1&Signature={s}"]}}},
        {"sampled_tracks": {"normal": {"link": "https://h.example/x?Expires=1&Signature={s}"}}},
        {"sampled_tracks": ["https://h.example/x?Expires=1&Signature={s}"]},
        {"time_value_tracks": {"x": {"items": [["https://h.example/x?Expires=1&Signature={s}", 1]]}}},
        {"timezone": ["https://h.example/x?Expires=1&Signature={s}"]},
        {"timezone": "https://h.example/x?Expires=1&Signature={s}"},
        {"hardware": "https://h.example/x?Expires=1&Signature={s}"},
        {"error_code": "https://h.example/x?Expires=1&Signature={s}"},
    ],
    ids=lambda fields: str(fields)[:40],
)
async def test_a_signed_address_in_the_wrong_place(pipeline, written, night, fields):
    """An address anywhere in a session loses its signature before anything is stored."""
    signed = json.loads(json.dumps(fields).replace("{s}", SIGNATURE))
    pipeline.cloud.put(USER, night(NOW - 2 * DAY, **signed))
    await pipeline.once()
    assert await pipeline.value("SELECT count(*) FROM beddit.sessions") == 2
    await assert_silent(pipeline, written)


@pytest.mark.parametrize(
    "trouble",
    [
        Fault(status=403),
        Fault(status=404),
        Fault(status=500),
        Fault(status=302, location=f"https://u:p@h.example/?Signature={SIGNATURE}"),
        Fault(status=302, location=f"https://127.0.0.1:1/?Signature={SIGNATURE}"),
        Fault(status=302, location=f"file:///x?Signature={SIGNATURE}"),
        Fault(cut_after=100),
        Fault(reset=True),
        Fault(stall=60),
        Fault(body=SIGNATURE.encode(), content_type="text/html"),
    ],
    ids=lambda fault: str(fault.status or fault.location or "other"),
)
async def test_a_blob_that_cannot_be_had(pipeline, written, trouble):
    """A failing fetch says which host and why, never with which signature."""
    if trouble.stall:
        pipeline.limits = replace(pipeline.limits, read_timeout_s=1)
    pipeline.cloud.fail_next(trouble, times=50, host="blob")
    await pipeline.once()
    assert await pipeline.value("SELECT status FROM beddit.sampled_tracks") in ("pending", "unavailable")
    assert await pipeline.value("SELECT reason FROM beddit.sampled_tracks")
    await assert_silent(pipeline, written)


async def test_refused_addresses_are_named_without_their_query(pipeline, written):
    """Also the address policy keeps signatures to itself."""
    pipeline.change(allow_private_blob_hosts=False)
    pipeline.cloud.behaviour = replace(pipeline.cloud.behaviour, blob_form=BlobForm.HALF)
    await pipeline.once()
    assert await pipeline.value("SELECT status FROM beddit.sampled_tracks") == "unavailable"
    await assert_silent(pipeline, written)


async def test_a_defect_prints_no_secret(pipeline, written):
    """A traceback of our own shows no local variable and no address."""

    def broken(_pool):
        class Sink:
            async def commit(self, *_):
                raise ValueError(f"{TOKEN} https://h.example/x?Signature={SIGNATURE}")

        return Sink()

    pipeline.sink = broken
    await pipeline.run(Task("once"))
    assert "unit.defect" in written.getvalue()
    await assert_silent(pipeline, written)
