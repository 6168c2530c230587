"""What a vendor's address leads to is judged on the IP address that is about to be connected."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

from sync.errors import AddressRefused, SourceUnavailable
from tests.integration.test_transport import answer, blobs, get, vendor

PUBLIC, INSIDE = "93.184.216.34", "127.0.0.1"


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "10.0.0.1",
        "169.254.169.254",
        "[::1]",
        "[fe80::1]",
        "[fd00::1]",
        "[::ffff:10.0.0.1]",
        "[::ffff:a9fe:a9fe]",
        "[64:ff9b::7f00:1]",
        "[64:ff9b::a9fe:a9fe]",
        "[2002:7f00:1::]",
        "2130706433",
        "0x7f.1",
        "017700000001",
    ],
)
async def test_an_address_in_any_spelling_is_judged(host: str) -> None:
    """Numbers in every notation that a resolver understands lead to a refusal before any connection."""
    async with vendor(answer()) as v, blobs(allow_private=False) as c:
        with pytest.raises(AddressRefused) as caught:
            await get(c, f"https://{host}:{v.port}/night?Signature=geheim")
        assert v.connections == 0
    assert "geheim" not in str(caught.value)


async def test_a_name_that_changes_after_a_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that was public when somebody looked and leads inside when it is connected is refused."""
    answers = [PUBLIC, INSIDE]
    asked = []

    def resolve(host: str, *_: Any, **__: Any) -> list[Any]:
        asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (answers[min(len(asked), 2) - 1], 443))]

    monkeypatch.setattr("socket.getaddrinfo", resolve)
    assert socket.getaddrinfo("rebinding.example", 443)[0][4][0] == PUBLIC
    async with blobs(allow_private=False) as c:
        with pytest.raises(AddressRefused, match=r"rebinding\.example.*loopback"):
            await get(c, "https://rebinding.example/night")
    assert len(asked) == 2


@pytest.mark.parametrize("looks", [0, 1, 2])
async def test_no_look_before_the_connection_is_trusted(monkeypatch: pytest.MonkeyPatch, looks: int) -> None:
    """However often a name was public before it leads inside, nothing inside is ever connected."""
    asked, connected = [], []

    def resolve(*_: Any, **__: Any) -> list[Any]:
        asked.append(1)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (PUBLIC if len(asked) <= looks else INSIDE, 443))]

    async def connect(_: socket.socket, address: tuple[str, int]) -> None:
        connected.append(address[0])
        raise OSError("no network here")

    monkeypatch.setattr("socket.getaddrinfo", resolve)
    monkeypatch.setattr(asyncio.get_running_loop(), "sock_connect", connect)
    async with blobs(allow_private=False) as c:
        with pytest.raises((AddressRefused, SourceUnavailable)):
            await get(c, "https://rebinding.example/night")
    assert set(connected) <= {PUBLIC}
    assert asked


async def test_a_mixed_answer_never_leads_inside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a name with a public and a private address, the private one is never connected."""
    made = []

    def resolve(*_: Any, **__: Any) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (ip, 443)) for ip in (INSIDE, PUBLIC)]

    def make(*_: Any, **__: Any) -> socket.socket:
        made.append(1)
        raise OSError("no network here")

    async with blobs(allow_private=False) as c:
        monkeypatch.setattr("socket.getaddrinfo", resolve)
        monkeypatch.setattr("sync.transport.policy.socket.socket", make)
        with pytest.raises(AddressRefused):
            await get(c, "https://mixed.example/night")
    assert made == []
