"""The Dockerfile's promises that need no image; `make image-test` builds one and tries the others."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
DOCKERFILE = re.sub(r"\\\n", "", (ROOT / "Dockerfile").read_text())
HEALTHY, AILING = b"200 OK", b"503 Service Unavailable"


def health_check() -> list[str]:
    """The command that the image's health check is, with this Python."""
    found = re.search(r"^HEALTHCHECK .*?CMD (\[.*\])$", DOCKERFILE, re.MULTILINE)
    assert found
    python, *arguments = json.loads(found[1])
    assert python == "python3"
    return [sys.executable, *arguments]


async def ask(listen: str) -> int:
    """Run the health check of a daemon that listens there; return its exit code."""
    nowhere = {"http_proxy": "http://127.0.0.1:1", "NIGHTSHIFT_DAEMON__LISTEN": listen}
    process = await asyncio.create_subprocess_exec(
        *health_check(), env=os.environ | nowhere, stderr=asyncio.subprocess.DEVNULL
    )
    return await process.wait()


@asynccontextmanager
async def answering(status: bytes, host: str = "127.0.0.1") -> AsyncIterator[int]:
    """Answer every request for /healthz with a status, and others with 404; the value is the port."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.readuntil(b"\r\n\r\n")
        said = status if request.startswith(b"GET /healthz ") else b"404 Not Found"
        writer.write(b"HTTP/1.1 " + said + b"\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, host, 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


@pytest.mark.parametrize(("status", "code"), [(HEALTHY, 0), (AILING, 1)])
async def test_the_health_check_says_what_healthz_says(status, code):
    """It asks this machine, on the port of NIGHTSHIFT_DAEMON__LISTEN, and no proxy."""
    async with answering(status) as port:
        assert await ask(f"0.0.0.0:{port}") == code


async def test_the_health_check_asks_where_the_daemon_listens():
    """An address of its own is asked there, and nowhere else."""
    async with answering(HEALTHY, "127.0.0.2") as port:
        assert await ask(f"127.0.0.2:{port}") == 0
        assert await ask(f"127.0.0.1:{port}") == 1


async def test_a_daemon_that_listens_nowhere_is_healthy_while_it_runs():
    """There is nobody to ask, and no reason to restart it."""
    assert await ask("off") == 0


async def test_the_health_check_fails_where_nobody_listens():
    """A daemon that is not there is not healthy."""
    async with answering(HEALTHY) as port:
        pass
    assert await ask(f"0.0.0.0:{port}") == 1


def test_the_image_is_built_from_what_the_context_holds():
    """Each exception of .dockerignore is there, and the lock is never installed without its hashes."""
    admitted = re.findall(r"^!(.+)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE)
    assert {"sync", "migrations", "requirements.lock"} <= set(admitted)
    assert [path for path in admitted if not (ROOT / path).exists()] == []
    assert "pip wheel --no-cache-dir --require-hashes" in DOCKERFILE
    assert "--no-index --find-links /wheels" in DOCKERFILE
