"""The daemon's pages: for this machine alone unless told otherwise, read-only, and nothing beside them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from ipaddress import ip_address
from typing import Any

import pytest

from sync.config import Settings
from sync.observe.health import Readiness
from sync.observe.web import serving


class Quiet:
    """Has nothing to tell."""

    def health(self) -> Mapping[str, Any]:
        """Alive."""
        return {}

    async def readiness(self) -> Readiness:
        """Ready."""
        return Readiness(True)

    async def metrics(self) -> tuple[bytes, str]:
        """None."""
        return b"", "text/plain"


@pytest.fixture
async def place() -> AsyncIterator[tuple[str, int]]:
    """Return where the pages are."""
    async with serving("127.0.0.1:0", Quiet()) as listened:
        yield listened


async def status(place: tuple[str, int], request: bytes) -> int:
    """Send a request as it is written; the status of its answer."""
    reader, writer = await asyncio.open_connection(*place)
    writer.write(request + b" HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
    answer = await asyncio.wait_for(reader.read(), 20)
    writer.close()
    return int(answer.split()[1])


def test_by_default_only_this_machine_is_served() -> None:
    """Without configuration the pages are on loopback."""
    host, _, _ = Settings().daemon.listen.rpartition(":")
    assert ip_address(host).is_loopback


@pytest.mark.parametrize(
    "path",
    [
        "/../../../../etc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/..%2f..%2fetc/passwd",
        "//etc/passwd",
        "/healthz/../../etc/passwd",
        "/metrics/",
        "/static/x",
        "/.env",
        "/nightshift.toml",
        "/healthz%00",
        "/\\..\\..\\etc\\passwd",
        "file:///etc/passwd",
    ],
)
async def test_no_path_leads_to_a_file(place: tuple[str, int], path: str) -> None:
    """Every other path, however it is spelled, is refused or not there."""
    assert await status(place, f"GET {path}".encode()) in {400, 404}


@pytest.mark.parametrize("page", ["/", "/healthz", "/readyz", "/metrics"])
@pytest.mark.parametrize(
    "method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "PROPFIND"]
)
async def test_nothing_can_be_changed(place: tuple[str, int], method: str, page: str) -> None:
    """Only GET and HEAD are answered."""
    assert await status(place, f"{method} {page}".encode()) in {400, 404, 405}
    assert await status(place, f"GET {page}".encode()) == 200
