"""The emulated clouds in a process of their own, so that their work is not counted as anybody else's.

The process is told what to hold on its standard input, a line of JSON; it says where it listens on its
standard output. For each further line it tells what it has done so far. It ends with its input.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from typing import Any, Final

from bench.nights import USER, PreparedCloud, Series
from sync.emulators.bace import BaceCloud, Fleet, Kind
from sync.emulators.bace import Behaviour as BaceBehaviour
from sync.emulators.beddit import Behaviour, Limit, Request

_LINE: Final = 1 << 20
_PATIENCE: Final = 600.0
"""Seconds until everything is computed."""


@dataclass(frozen=True, slots=True)
class Served:
    """What a cloud has done so far: requests by the end of their path, and seconds of processor time."""

    requests: Mapping[str, int]
    cpu_s: float


@dataclass(frozen=True, slots=True)
class Clouds:
    """A running process of clouds.

    Attributes:
        address: The API's address.
        token: The Beddit user's token, where it is that cloud.
        account: The account's credentials, where it is BACE's.
    """

    address: str
    token: str
    account: Mapping[str, str]
    _process: asyncio.subprocess.Process

    async def served(self) -> Served:
        """What it has done so far."""
        return Served(**await _said(self._process, "report"))


@asynccontextmanager
async def beddit(
    series: Series | None, *, users: int = 1, ignores_limit: bool = False
) -> AsyncIterator[Clouds]:
    """A Beddit cloud: some nights of one user; or users, each with the same tiny night.

    Args:
        series: The nights.
        users: How many users there are without any.
        ignores_limit: Whether answers are as long as they are.
    """
    told = {
        "series": None if series is None else asdict(series),
        "users": users,
        "ignores_limit": ignores_limit,
    }
    async with _running({"beddit": told}) as clouds:
        yield clouds


@asynccontextmanager
async def bace(fleet: Fleet, *, latency_s: float = 0.0) -> AsyncIterator[Clouds]:
    """A BACE cloud that waits so long before each answer."""
    async with _running({"bace": {"fleet": asdict(fleet), "latency_s": latency_s}}) as clouds:
        yield clouds


@asynccontextmanager
async def _running(told: Mapping[str, Any]) -> AsyncIterator[Clouds]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bench.clouds"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=_LINE,
    )
    try:
        yield Clouds(**await _said(process, json.dumps(told)), _process=process)
    finally:
        if process.stdin is not None:
            process.stdin.close()
        try:
            await asyncio.wait_for(process.wait(), 30)
        except TimeoutError:
            process.kill()
            await process.wait()


async def _said(process: asyncio.subprocess.Process, line: str) -> Any:
    if process.stdin is None or process.stdout is None:
        raise AssertionError("the process has no pipes")
    process.stdin.write(line.encode() + b"\n")
    await process.stdin.drain()
    answer = await asyncio.wait_for(process.stdout.readline(), _PATIENCE)
    if not answer:
        raise SystemExit("the emulated cloud ended")
    return json.loads(answer)


# --- the process itself ---------------------------------------------------------------------------


async def _serve() -> None:
    told = json.loads(await asyncio.to_thread(sys.stdin.readline))
    cloud = _beddit(**told["beddit"]) if "beddit" in told else _bace(**told["bace"])
    async with cloud:
        _say({"address": cloud.base_url, **_credentials(cloud)})
        began = time.process_time()
        while await asyncio.to_thread(sys.stdin.readline):
            counts: dict[str, int] = {}
            for request in cloud.requests:
                kind = "blob" if request.host == "blob" else request.path.rpartition("/")[2]
                counts[kind] = counts.get(kind, 0) + 1
            _say({"requests": counts, "cpu_s": time.process_time() - began})


def _beddit(series: dict[str, Any] | None, users: int, *, ignores_limit: bool) -> PreparedCloud:
    cloud = PreparedCloud(behaviour=Behaviour(limit=Limit.IGNORED if ignores_limit else Limit.HONOURED))
    if series is not None:
        cloud.hold(Series(**series), now=time.time())
        return cloud
    for user in range(USER, USER + users):
        cloud.set_token(user, token_of(user))
        cloud.put(user, tiny_night(1_700_000_000.0 + user))
    return cloud


def token_of(user: int) -> str:
    """The token of one of many users."""
    return f"token-of-{user}"


def tiny_night(start: float) -> dict[str, Any]:
    """A night of next to nothing."""
    items = [[30.0, 50.0], [60.0, 51.0]]
    return {
        "id": int(start),
        "start_timestamp": start,
        "end_timestamp": start + 600,
        "timezone": "Europe/Helsinki",
        "frame_length": 0.2,
        "time_value_tracks": {"heart_rate": {"value_data_type": "float32", "items": items}},
    }


def _bace(fleet: dict[str, Any], latency_s: float) -> BaceCloud:
    async def wait(_: Request) -> None:
        await asyncio.sleep(latency_s)

    fleet |= {"kinds": tuple(Kind(kind) for kind in fleet["kinds"]), "hours": tuple(fleet["hours"])}
    return BaceCloud(Fleet(**fleet), behaviour=BaceBehaviour(), on_request=wait if latency_s else None)


def _credentials(cloud: PreparedCloud | BaceCloud) -> dict[str, Any]:
    if isinstance(cloud, PreparedCloud):
        return {"token": cloud.token(USER), "account": {}}
    account = cloud.account()
    names = ("client_id", "client_secret", "username", "password")
    return {"token": "", "account": {name: getattr(account, name) for name in names}}


def _say(answer: Mapping[str, Any]) -> None:
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    asyncio.run(_serve())
