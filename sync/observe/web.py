"""What nightshift says of itself over HTTP: alive, ready, and its metrics. It only ever answers."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict
from http import HTTPStatus
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

from aiohttp import web

from sync.errors import SyncError
from sync.observe.health import Readiness

_INDEX: Final = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>nightshift</title>
<h1>nightshift</h1>
<ul>
<li><a href="/healthz">/healthz</a>: it is alive
<li><a href="/readyz">/readyz</a>: it works and is up to date, or what is wrong
<li><a href="/metrics">/metrics</a>: for Prometheus
</ul>
</html>
"""
_FRESH: Final = {"Cache-Control": "no-store"}
_GOODBYE_S: Final = 1.0
"""How long answers under way may take when serving ends."""


class PlaceTaken(SyncError):
    """Nothing can be served there now; that may pass, so that starting again helps."""


class Pages(Protocol):
    """What there is to say."""

    def health(self) -> Mapping[str, Any]:
        """Facts of a process that is alive: its version, its uptime in seconds."""

    async def readiness(self) -> Readiness:
        """Whether it works and is up to date."""

    async def metrics(self) -> tuple[bytes, str]:
        """The metrics and their media type."""


@asynccontextmanager
async def serving(listen: str, pages: Pages) -> AsyncIterator[tuple[str, int]]:
    """Serve the pages meanwhile; yields the host and the port that are really listened on.

    Args:
        listen: ``host:port``, as in ``daemon.listen``; port 0 is any free one.
        pages: What to say.

    Raises:
        PlaceTaken: The place is taken, or not this machine's, or not yet.
    """
    place = urlsplit(f"//{listen}")
    runner = web.AppRunner(_application(pages), access_log=None, shutdown_timeout=_GOODBYE_S)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, place.hostname, place.port).start()
        except OSError as error:
            raise PlaceTaken(
                f"nothing can be served on {listen} ({error.strerror or error}). If another nightshift runs"
                f" here, give this one a port of its own: daemon.listen, or off for none"
            ) from error
        host, port = runner.addresses[0][:2]
        yield host, port
    finally:
        await runner.cleanup()


def _application(pages: Pages) -> web.Application:
    async def index(_: web.Request) -> web.Response:
        return web.Response(text=_INDEX, content_type="text/html")

    async def healthz(_: web.Request) -> web.Response:
        return _json(pages.health())

    async def readyz(_: web.Request) -> web.Response:
        readiness = await pages.readiness()
        status = HTTPStatus.OK if readiness.ready else HTTPStatus.SERVICE_UNAVAILABLE
        return _json(asdict(readiness), status)

    async def metrics(_: web.Request) -> web.Response:
        body, media_type = await pages.metrics()
        return web.Response(body=body, headers={"Content-Type": media_type, **_FRESH})

    app = web.Application()
    app.add_routes(
        [  # HEAD comes with GET
            web.get("/", index),
            web.get("/healthz", healthz),
            web.get("/readyz", readyz),
            web.get("/metrics", metrics),
        ]
    )
    return app


def _json(content: Mapping[str, Any], status: HTTPStatus = HTTPStatus.OK) -> web.Response:
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    return web.Response(status=status, text=text, content_type="application/json", headers=_FRESH)
