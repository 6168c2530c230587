"""``nightshift emulate``: clouds of one's own, to try things on."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from pathlib import Path
from time import time
from typing import Any, get_args, get_type_hints

from rich.console import Console

from sync.commands.emulated import command_using, lively_fleet, write_config
from sync.emulators.bace import BaceCloud
from sync.emulators.bace import Behaviour as BaceBehaviour
from sync.emulators.beddit import Archive, BedditCloud, Behaviour, Study, read_archive
from sync.errors import ConfigurationError
from sync.observe.tables import plain


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """Where the clouds listen; 0 is any free port."""

    beddit: int = 0
    beddit_blobs: int = 0
    bace: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Switches:
    """How the clouds are."""

    beddit: Behaviour = field(default_factory=Behaviour)
    bace: BaceBehaviour = field(default_factory=BaceBehaviour)


async def emulate(
    folder: Path,
    console: Console,
    *,
    archive: Path | None,
    study: Study,
    sessions: int,
    ports: Ports,
    behave: Sequence[str],
) -> None:
    """Serve until cancelled.

    Args:
        folder: Where the configuration for these clouds is written.
        console: Where to say how it can be used.
        archive: Saved Beddit sessions to serve, and no BACE cloud; None serves the study, and a fleet.
        study: The synthetic nights.
        sessions: How many data sessions the fleet made in the past days; more begin and end meanwhile.
        ports: Where to listen.
        behave: Switches of the clouds, as ``cloud.name=value``.

    Raises:
        ConfigurationError: A switch does not exist, a folder cannot be read, or a port is taken.
    """
    switches = parse_switches(behave)
    saved = read_saved(archive) if archive else None
    beddit = BedditCloud(
        None if saved else study,
        archive=saved,
        behaviour=switches.beddit,
        port=ports.beddit,
        blob_port=ports.beddit_blobs,
    )
    fleet = lively_fleet(sessions, seed=study.seed, now=time())
    bace = None if saved else BaceCloud(fleet, behaviour=switches.bace, port=ports.bace)
    try:
        async with AsyncExitStack() as stack:
            for cloud in filter(None, (beddit, bace)):
                await stack.enter_async_context(cloud)
            written = write_config(folder, beddit, _accounts(study, saved), bace)
            _say(console, beddit, bace, written, saved)
            await asyncio.get_running_loop().create_future()  # until a signal
    except OSError as error:
        raise ConfigurationError(f"the emulated cloud cannot listen: {error.strerror or error}") from error


def read_saved(folder: Path, default_user: int = 1) -> Archive:
    """A folder of saved sessions.

    Raises:
        ConfigurationError: There is no such folder.
    """
    try:
        return read_archive(folder, default_user=default_user)
    except NotADirectoryError as error:
        raise ConfigurationError(str(error)) from error


def parse_switches(words: Sequence[str]) -> Switches:
    """The clouds' behaviour from ``cloud.name=value`` words.

    Raises:
        ConfigurationError: There is no such switch, or it has no such value.
    """
    switches = Switches()
    for word in words:
        switch, _, value = word.partition("=")
        cloud, _, name = switch.partition(".")
        behaviour: Any = getattr(switches, cloud, None)
        kinds = get_type_hints(type(behaviour)) if behaviour else {}
        if name not in kinds:
            raise ConfigurationError(f"there is no switch {switch!r}. There is:\n{list_switches()}")
        parsed = _parsed(switch, value, getattr(behaviour, name), kinds[name])
        switches = replace(switches, **{cloud: replace(behaviour, **{name: parsed})})
    return switches


def list_switches() -> str:
    """Every switch with its default, a line each."""
    return "\n".join(
        f"  {cloud.name}.{name}={_shown(getattr(behaviour, name), kind)}"
        for cloud in fields(Switches)
        for behaviour in (getattr(Switches(), cloud.name),)
        for name, kind in get_type_hints(type(behaviour)).items()
    )


def _parsed(switch: str, value: str, default: Any, kind: Any) -> Any:
    choices = _choices(default, kind)
    try:
        if isinstance(default, bool):
            return {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}[
                value.lower()
            ]
        if choices:
            return choices(value)
        if isinstance(default, frozenset):
            return frozenset(filter(None, value.split(",")))
        if "str" in str(kind):
            return value or None
        return int(value) if "int" in str(kind) else float(value)
    except (KeyError, ValueError):
        listed = f" It is one of {', '.join(choices)}." if choices else ""
        raise ConfigurationError(f"{switch} cannot be {value!r}.{listed}") from None


def _choices(default: Any, kind: Any) -> type[StrEnum] | None:
    """The values of a switch that has only some, though its default may be none of them."""
    kinds = (type(default), *get_args(kind))
    return next((each for each in kinds if isinstance(each, type) and issubclass(each, StrEnum)), None)


def _shown(default: Any, kind: Any) -> str:
    """A default as it would be typed, with all choices if there are only some."""
    choices = _choices(default, kind)
    typed = (
        ",".join(sorted(default)) if isinstance(default, frozenset) else "" if default is None else default
    )
    return f"{typed} ({', '.join(choices)})" if choices else str(typed).lower()


def _accounts(study: Study, saved: Archive | None) -> dict[str, int]:
    return {f"user{user_id}": user_id for user_id in (saved.sessions if saved else study.users)}


def _say(
    console: Console, beddit: BedditCloud, bace: BaceCloud | None, config: Path, saved: Archive | None
) -> None:
    command = plain(command_using(config))
    console.print(f"Beddit is emulated at [bold]{beddit.base_url}[/] (blobs: {beddit.blob_url}).")
    if bace is not None:
        console.print(f"BACE is emulated at [bold]{bace.base_url}[/]; data sessions begin and end there.")
    for note in (*saved.passed_over, *saved.damaged) if saved else ():
        console.print(f"[yellow]passed over[/] {plain(str(note.path))}: {plain(note.reason)}")
    console.print(
        "In another terminal (`run` goes on, `once` ends):\n"
        f"  {command} check\n  {command} run\n  {command} once\n  {command} status\nCtrl-C ends it."
    )
