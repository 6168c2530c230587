"""Tokens, passwords and client secrets stay where they belong, in good times and in bad ones."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest

from sync.emulators.bace import Behaviour, Fault, Fleet, Kind, Refresh, Request
from sync.observe.logging import configure
from tests.integration.bace.conftest import NOW, Pipeline

DAY = 86_400

TABLES = """
    SELECT table_schema AS schema, table_name AS name FROM information_schema.tables
    WHERE table_schema IN ('bace', 'sync') AND table_type = 'BASE TABLE'
"""


@pytest.fixture
async def pipeline(open_pipeline: Any, written: io.StringIO) -> Pipeline:
    """Three sessions, and a log that is redacted as in real life."""
    fleet = Fleet(seed=6, sessions=3, kinds=(Kind.BATTERY,), first_start=int(NOW) - 4 * DAY)
    opened: Pipeline = await open_pipeline(fleet, behaviour=Behaviour(access_lifetime=600))
    account = opened.cloud.account()
    secrets = [account.client_secret, account.password]
    opened.redact = configure(level="debug", format="json", secrets=secrets, stream=written).redact
    return opened


def secrets_of(pipeline: Pipeline) -> set[str]:
    """The account's own, and every token that the cloud has seen."""
    account = pipeline.cloud.account()
    sent = {
        request.headers.get("authorization", "").rpartition(" ")[2] for request in pipeline.cloud.requests
    }
    kept = [json.loads(path.read_text())["token"] for path in pipeline.settings.tokens.rglob("*.json")]
    named = {value for one in kept for key, value in one.items() if key in ("access", "refresh")}
    return {account.client_secret, account.password, *sent, *named} - {""}


async def assert_silent(pipeline: Pipeline, written: io.StringIO) -> None:
    """No secret is in any log line or in any column of any table; both hold something, though."""
    secrets = secrets_of(pipeline)
    assert len(secrets) >= 4
    dump = written.getvalue()
    assert all(json.loads(line)["event"] for line in dump.splitlines())
    assert dump.count("\n") > 3
    for table in await pipeline.fetch(TABLES):
        rows = await pipeline.fetch(f"SELECT t::text FROM {table['schema']}.{table['name']} t")  # noqa: S608
        dump += "".join(row["t"] for row in rows)
    assert "lab" in dump
    assert [secret for secret in secrets if secret in dump] == []


@pytest.mark.parametrize("refresh", Refresh)
async def test_a_good_run_says_no_secret(pipeline, written, refresh):
    """First run, expiry, second run: nothing but names and numbers."""
    pipeline.change(refresh=refresh)
    await pipeline.once()
    pipeline.clock.now += DAY
    await pipeline.once()
    await pipeline.assert_exact()
    await assert_silent(pipeline, written)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 418, 422, 429, 500, 503])
async def test_an_error_that_repeats_secrets(pipeline, written, status):
    """Whatever the status: neither token nor secret in the error's text is kept."""
    account = pipeline.cloud.account()

    async def repeat(request: Request) -> None:
        if "downsampled" in request.path:
            words = f"{request.headers['authorization']} {account.password} {account.client_secret} are bad"
            body = json.dumps({"name": "x", "message": words}).encode()
            pipeline.cloud.faults.add(Fault(status=status, body=body), path="downsampled")

    pipeline.cloud.on_request = repeat
    (outcome,) = await pipeline.run()
    assert outcome.error is not None
    await assert_silent(pipeline, written)


async def test_a_reject_that_repeats_secrets(pipeline, written):
    """A bad item keeps its payload without them."""

    async def repeat(request: Request) -> None:
        if "downsampled" in request.path:
            account = pipeline.cloud.account()
            bad = {
                "id_container_data_latest": account.password,
                "timestamp_seconds": float(request.query["filter[timestamp_seconds][gte]"]),
                "avg_val": request.headers["authorization"],
                account.client_secret: [account.password],
            }
            meta = {"totalCount": 1, "pageCount": 1, "currentPage": 1, "perPage": 500}
            body = json.dumps({"items": [bad], "_meta": meta, "_links": {}}).encode()
            pipeline.cloud.faults.add(Fault(status=200, body=body), path="downsampled")

    pipeline.cloud.on_request = repeat
    await pipeline.run()
    assert await pipeline.value("SELECT count(*) FROM sync.reject_log") > 0
    await assert_silent(pipeline, written)
