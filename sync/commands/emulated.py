"""What ``demo`` and ``emulate`` share: a fleet that lives now, and configurations for emulated clouds."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import chain
from pathlib import Path

from sync.config import OTHER_VARIABLES, PREFIX, Settings, load
from sync.emulators.bace import BaceCloud, DataSession, Fleet, Kind, identifier
from sync.emulators.beddit import BedditCloud

CONFIG = "nightshift.toml"
BACE_ACCOUNT = "lab"

_DAY = 86_400
_DEVICES = 12
"""Devices of the past sessions; each made one a day."""
_LIVELY = 480
"""Short sessions a day: one begins every three minutes."""
_SOON = 900
"""Seconds by which the first of them began before now."""

_OFTEN = 'schedule = "30s"  # sessions grow while one looks on'


def lively_fleet(sessions: int, *, seed: int, now: float) -> Iterator[DataSession]:
    """Data sessions that ended in the past days, and short ones that begin and end from now on, for a week.

    A session's id follows from its start: what another call puts elsewhere in time is another session.

    Args:
        sessions: How many of them are past.
        seed: Where all chance comes from.
        now: Unix seconds.
    """
    today = int(now) // _DAY
    past = Fleet(
        seed=seed,
        sessions=sessions,
        devices=_DEVICES,
        hours=(0.2, 3),
        first_start=(today - -(-sessions // _DEVICES)) * _DAY,
        archived=7,
    )
    present = Fleet(
        seed=seed + 1,
        sessions=7 * _LIVELY,
        devices=_LIVELY,
        kinds=(Kind.VITALS, Kind.MIXED),
        hours=(0.05, 0.2),
        first_start=int(now) - _SOON,
    )
    for session in chain(past, present):
        yield replace(session, id=identifier(session.id, session.start))


def write_config(
    folder: Path, beddit: BedditCloud, users: Mapping[str, int], bace: BaceCloud | None = None
) -> Path:
    """Write a configuration for emulated clouds, readable by its owner alone.

    Args:
        folder: Where the file goes; the embedded database of that configuration will live beside it.
        beddit: A running cloud.
        users: Its user ids by account name.
        bace: A running cloud; its one account sees everything.
    """
    lines = [
        "# Written by nightshift for emulated clouds; these secrets are worth nothing anywhere else.",
        f"state_dir = {_quoted(str(folder))}",
        "",
        *_beddit(beddit, users),
        *(() if bace is None else _bace(bace)),
    ]
    path = folder / CONFIG
    folder.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600)
    path.chmod(0o600)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def emulated_settings(path: Path) -> Settings:
    """Read such a configuration, without the environment, which is about the real one."""
    return load(path, {})


def command_using(written: Path) -> str:
    """How to call this program with a configuration that was written here, and nothing of the real one.

    The environment overrides any file: a variable with the real warehouse's address would send emulated
    nights there.
    """
    overriding = sorted(
        name for name in os.environ if name.startswith(PREFIX) and name not in OTHER_VARIABLES
    )
    without = "".join(f"-u {name} " for name in overriding)
    return (f"env {without}" if without else "") + this_program(written)


def this_program(config: Path | None = None) -> str:
    """How to call this very program, for commands that a person shall copy."""
    called = Path(sys.argv[0])
    found = shutil.which("nightshift")
    if called.name == "__main__.py":
        words = [sys.executable, "-m", "sync"]
    elif found is None or not called.is_file() or not called.samefile(found):
        words = [str(called)]
    else:
        words = ["nightshift"]
    return shlex.join(words if config is None else [*words, "--config", str(config)])


def _beddit(cloud: BedditCloud, users: Mapping[str, int]) -> Iterator[str]:
    yield "[beddit]"
    yield _OFTEN
    yield f"base_url = {_quoted(cloud.base_url)}"
    yield "allow_private_blob_hosts = true"
    yield "requests_per_second = 1000"
    for name, user_id in users.items():
        yield f"\n[beddit.accounts.{name}]"
        yield f"user_id = {user_id}"
        yield f"token = {_quoted(cloud.token(user_id))}"


def _bace(cloud: BaceCloud) -> Iterator[str]:
    account = cloud.account()
    yield "\n[bace]"
    yield _OFTEN
    yield f"base_url = {_quoted(cloud.base_url)}"
    yield "requests_per_second = 1000"
    yield f"\n[bace.accounts.{BACE_ACCOUNT}]"
    yield f"client_id = {_quoted(account.client_id)}"
    yield f"client_secret = {_quoted(account.client_secret)}"
    yield f"username = {_quoted(account.username)}"
    yield f"password = {_quoted(account.password)}"


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
