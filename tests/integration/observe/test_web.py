"""The pages over real sockets."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from sync.model import Survey
from sync.observe.health import Readiness, Surveyor
from sync.observe.metrics import Metrics
from sync.observe.web import PlaceTaken, serving

HANG_S = 30


class Daemon:
    """Has pages, and is as ready as it is told."""

    def __init__(self) -> None:
        self.state = Readiness(True)
        self.numbers = Metrics("1.2.3", ("beddit",))

    def health(self) -> dict[str, Any]:
        """Alive."""
        return {"version": "1.2.3", "uptime_seconds": 5}

    async def readiness(self) -> Readiness:
        """As told."""
        return self.state

    async def metrics(self) -> tuple[bytes, str]:
        """Real ones."""
        return self.numbers.content()


@pytest.fixture
def daemon() -> Daemon:
    """Return a daemon that is ready."""
    return Daemon()


@pytest.fixture
async def asked(daemon: Daemon) -> AsyncIterator[aiohttp.ClientSession]:
    """Return a session that asks the daemon."""
    async with (
        serving("127.0.0.1:0", daemon) as (host, port),
        aiohttp.ClientSession(f"http://{host}:{port}") as session,
    ):
        yield session


async def test_alive(asked):
    """A living process says so, with its facts, as JSON that nobody keeps."""
    async with asked.get("/healthz") as answer:
        assert (answer.status, answer.content_type) == (200, "application/json")
        assert answer.headers["Cache-Control"] == "no-store"
        assert await answer.json() == {"version": "1.2.3", "uptime_seconds": 5}


async def test_ready_or_not(asked, daemon):
    """200 while all is well, 503 with the problems while it is not, and 200 again."""
    well, ill = Readiness(True), Readiness(False, ("beddit/alice: für 3 h",))
    for daemon.state, status in ((well, 200), (ill, 503), (well, 200)):
        async with asked.get("/readyz") as answer:
            assert answer.status == status
            assert await answer.json() == {
                "ready": daemon.state.ready,
                "problems": list(daemon.state.problems),
            }


async def test_metrics(asked, daemon):
    """Prometheus gets its own text format."""
    daemon.numbers.show(Survey())
    async with asked.get("/metrics") as answer:
        assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        assert "\nnightshift_warehouse_up 1.0\n" in await answer.text()


async def test_the_front_page_names_the_others(asked):
    """Whoever finds the port finds the pages."""
    async with asked.get("/") as answer:
        text = await answer.text()
        assert answer.content_type == "text/html"
    for page in ("/healthz", "/readyz", "/metrics"):
        assert f'href="{page}"' in text
        async with asked.get(page) as answer:
            assert answer.status == 200


@pytest.mark.parametrize("page", ["/", "/healthz", "/readyz", "/metrics"])
async def test_it_only_answers(asked, page):
    """HEAD is GET without a body; nothing can be changed."""
    async with asked.head(page) as answer:
        assert (answer.status, await answer.read()) == (200, b"")
    for method in ("POST", "PUT", "DELETE", "PATCH"):
        async with asked.request(method, page) as answer:
            assert answer.status == 405


async def test_other_paths_are_not_there(asked):
    """Nothing else is served."""
    async with asked.get("/etc/passwd") as answer:
        assert answer.status == 404


async def test_a_port_that_is_taken(daemon):
    """It says which place, and which setting changes it."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        place = f"127.0.0.1:{other.getsockname()[1]}"
        with pytest.raises(PlaceTaken, match=rf"{place}.*in use.*daemon\.listen, or off"):
            async with serving(place, daemon):
                pass


@pytest.mark.parametrize("place", ["192.0.2.1:9750", "no-such-host.invalid:9750"])
async def test_a_place_that_is_not_here(daemon, place):
    """An address of another machine, or a name that nobody knows, is the configuration's fault."""
    with pytest.raises(PlaceTaken, match=r"nothing can be served on .*daemon\.listen"):
        async with serving(place, daemon):
            pass


async def test_ipv6(daemon, not_tested):
    """Brackets are understood."""
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError as error:
        not_tested("listening on IPv6", str(error))
    async with (
        serving("[::1]:0", daemon) as (host, port),
        aiohttp.ClientSession() as session,
        session.get(f"http://[{host}]:{port}/healthz") as answer,
    ):
        assert (host, answer.status) == ("::1", 200)


async def test_a_warehouse_that_hangs_does_not_hang_the_page(daemon):
    """``/readyz`` says no while the warehouse is silent, and ``/healthz`` answers meanwhile."""
    hanging = asyncio.Event()

    async def read() -> Survey:
        await hanging.wait()
        return Survey()

    surveyor = Surveyor(read, patience_s=0.2)

    async def readiness() -> Readiness:
        found = await surveyor.look()
        return Readiness(found.survey is not None, (found.error or "",))

    daemon.readiness = readiness
    async with (
        asyncio.timeout(HANG_S),
        serving("127.0.0.1:0", daemon) as (host, port),
        aiohttp.ClientSession(f"http://{host}:{port}") as session,
    ):
        ready = asyncio.create_task(_content(session, "/readyz"))
        status, _ = await _content(session, "/healthz")
        assert status == 200
        status, said = await ready
        assert status == 503
        assert json.loads(said)["problems"] == ["it did not answer within 0.2 s"]
        hanging.set()
        await surveyor.aclose()


async def _content(session: aiohttp.ClientSession, page: str) -> tuple[int, str]:
    async with session.get(page) as answer:
        return answer.status, await answer.text()
