"""No configured secret is in anything that nightshift says, keeps or shows, whatever a vendor repeats."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator, Mapping
from typing import Any, get_args

from pydantic import BaseModel, SecretStr

from sync.config import Settings
from sync.emulators.bace import BaceCloud, DataSession, Dataset, identifier
from sync.emulators.bace import Fault as BaceFault
from sync.emulators.beddit import BedditCloud, Fault, Request
from tests.integration import forks
from tests.integration.daemon.conftest import IMPATIENT, until

TOKEN = "beddit-token-0123456789abcdef"
CLIENT_SECRET = "bace-client-secret-0123456789"
PASSWORD = "bace-password-0123456789"
DSN_PASSWORD = "dsn-password-0123456789"

TABLES = """
    SELECT format('%I.%I', table_schema, table_name) AS name FROM information_schema.tables
    WHERE table_schema IN ('beddit', 'bace', 'sync') AND table_type = 'BASE TABLE'
"""


def kinds_in(annotation: Any) -> Iterator[Any]:
    """A type and all that it is made of."""
    yield annotation
    for inner in get_args(annotation):
        yield from kinds_in(inner)


def secret_fields(model: type[BaseModel], path: str = "") -> Iterator[str]:
    """Where a configuration can hold a secret."""
    for name, field in model.model_fields.items():
        place = f"{path}.{name}" if path else name
        kinds = list(kinds_in(field.annotation))
        if SecretStr in kinds:
            yield place
        for kind in kinds:
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                yield from secret_fields(kind, place)


def settings_with(secrets: Mapping[str, str]) -> Settings:
    """A configuration with every secret that there is."""
    return Settings.model_validate(
        {
            "warehouse": {"dsn": f"postgresql://user:{secrets['dsn']}@localhost/x"},
            "beddit": {"accounts": {"alice": {"user_id": 1, "token": secrets["token"]}}},
            "bace": {
                "accounts": {
                    "lab": {
                        "client_id": "lab",
                        "client_secret": secrets["client_secret"],
                        "username": "lab@example.org",
                        "password": secrets["password"],
                    }
                }
            },
        }
    )


def test_every_secret_of_the_configuration_is_known_to_redaction() -> None:
    """The fields that hold secrets are those below, and the value of each is taken out of all texts."""
    assert sorted(secret_fields(Settings)) == [
        "bace.accounts.client_secret",
        "bace.accounts.password",
        "beddit.accounts.token",
        "warehouse.dsn",
    ]
    values = {
        "dsn": DSN_PASSWORD,
        "token": TOKEN,
        "client_secret": CLIENT_SECRET,
        "password": PASSWORD,
    }
    known = settings_with(values).secrets()
    assert set(values.values()) <= known


def dataset() -> Dataset:
    """A dataset."""
    return Dataset.of(identifier("group", 1), identifier("device", 1), 5205)


def error(words: str) -> bytes:
    """The body of an error, as either vendor writes it."""
    return json.dumps({"error": "x", "name": "x", "description": words, "message": words}).encode()


async def test_a_daemon_that_is_told_its_secrets(house: Any) -> None:
    """Errors and rejects that quote them reach log, database, /readyz, /metrics and commands without them."""
    signed = "https://h.example/x?Signature=sIgNaTuRe"
    async with BedditCloud(tokens={1001: TOKEN, 1002: "another-token"}) as beddit, BaceCloud() as bace:
        account = bace.account()
        secrets = [TOKEN, account.client_secret, account.password, "sIgNaTuRe"]
        said_by_beddit = error(f"UserToken {TOKEN} {account.password} {signed}")
        said_by_bace = error(f"Bearer {account.client_secret} {account.password} {TOKEN} {signed}")
        bace.put(DataSession.of([(dataset(), 1_699_999_000.5, 1.0)]))
        beddit.put_raw(1002, json.dumps({"id": 5, "note": said_by_beddit.decode()}).encode())

        async def spoil(request: Request) -> None:
            if "/1001/" in request.path:
                beddit.faults.add(Fault(status=400, body=said_by_beddit), path="/1001/")

        async def refuse(request: Request) -> None:
            if "downsampled" in request.path:
                bace.faults.add(BaceFault(status=400, body=said_by_bace), path="downsampled")

        beddit.on_request, bace.on_request = spoil, refuse
        daemon = await house.start(house.write(beddit, (1001, 1002), bace, stale_cycles=1), program=IMPATIENT)

        async def is_told() -> bool:
            return "beddit/user1001" in (await daemon.get("/readyz"))[1]

        await until(is_told, "an account that is late")
        tried = "SELECT count(DISTINCT account) = 3 FROM sync.runs WHERE outcome <> 'running'"
        await until(lambda: house.value(tried), tried)
        pages = [(await daemon.get(page))[1] for page in ("/", "/healthz", "/readyz", "/metrics")]
        config = house.folder / "nightshift.toml"
        shown = [
            await _output(config, *arguments)
            for arguments in (("status",), ("status", "--json"), ("config",))
        ]
        assert "user1001" in shown[1]
        await daemon.stop()
        kept = ""
        for row in await house.fetch(TABLES):
            rows = await house.fetch(f"SELECT t::text FROM {row['name']} t")  # noqa: S608
            kept += "".join(one["t"] for one in rows)
        assert "***" in kept
        told = {
            "log": "".join(daemon.lines),
            "pages": "".join(pages),
            "commands": "".join(shown),
            "tables": kept,
        }
        found = {
            place: text[text.index(s) - 300 :][:400]
            for place, text in told.items()
            for s in secrets
            if s in text
        }
        assert found == {}


async def _output(config: Any, *arguments: str) -> str:
    handle = await forks.start(
        *("--config", str(config), *arguments),
        cwd=config.parent,
        env={k: v for k, v in os.environ.items() if not k.startswith("NIGHTSHIFT_")},
        stdin=asyncio.subprocess.DEVNULL,
    )
    return b"".join(await asyncio.wait_for(handle.communicate(), 60)).decode()
