"""``nightshift emulate``: a cloud of one's own, to try things on."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import fields, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, get_type_hints

from rich.console import Console

from sync.commands.emulated import command_using, write_config
from sync.emulators.beddit import Archive, BedditCloud, Behaviour, Study, read_archive
from sync.errors import ConfigurationError
from sync.observe.tables import plain


async def emulate(
    folder: Path,
    console: Console,
    *,
    archive: Path | None,
    study: Study,
    ports: tuple[int, int],
    behave: Sequence[str],
) -> None:
    """Serve until cancelled.

    Args:
        folder: Where the configuration for this cloud is written.
        console: Where to say how it can be used.
        archive: Saved sessions to serve; None serves the study.
        study: The synthetic nights.
        ports: The API's and the blob host's.
        behave: Switches of the cloud, as ``name=value``.

    Raises:
        ConfigurationError: A switch does not exist, a folder cannot be read, or a port is taken.
    """
    behaviour = parse_behaviour(behave)
    saved = read_saved(archive) if archive else None
    cloud = BedditCloud(
        None if saved else study, archive=saved, behaviour=behaviour, port=ports[0], blob_port=ports[1]
    )
    try:
        async with cloud:
            _say(console, cloud, write_config(folder, cloud, _accounts(study, saved)), saved)
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


def parse_behaviour(switches: Sequence[str]) -> Behaviour:
    """A cloud's behaviour from ``name=value`` words.

    Raises:
        ConfigurationError: There is no such switch, or it has no such value.
    """
    behaviour = Behaviour()
    for switch in switches:
        name, _, value = switch.partition("=")
        kinds = get_type_hints(Behaviour)
        if name not in kinds:
            raise ConfigurationError(f"there is no switch {name!r}. There is:\n{list_switches()}")
        behaviour = replace(behaviour, **{name: _parsed(name, value, getattr(behaviour, name), kinds[name])})
    return behaviour


def list_switches() -> str:
    """Every switch with its default, a line each."""
    return "\n".join(
        f"  {field.name}={_shown(getattr(Behaviour(), field.name))}" for field in fields(Behaviour)
    )


def _parsed(name: str, value: str, default: Any, kind: Any) -> Any:
    try:
        if isinstance(default, bool):
            return {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}[
                value.lower()
            ]
        if isinstance(default, StrEnum):
            return type(default)(value)
        return int(value) if "int" in str(kind) else float(value)
    except (KeyError, ValueError):
        choices = f" It is one of {', '.join(type(default))}." if isinstance(default, StrEnum) else ""
        raise ConfigurationError(f"{name} cannot be {value!r}.{choices}") from None


def _shown(value: object) -> str:
    return f"{value} ({', '.join(type(value))})" if isinstance(value, StrEnum) else str(value).lower()


def _accounts(study: Study, saved: Archive | None) -> dict[str, int]:
    return {f"user{user_id}": user_id for user_id in (saved.sessions if saved else study.users)}


def _say(console: Console, cloud: BedditCloud, config: Path, saved: Archive | None) -> None:
    command = plain(command_using(config))
    console.print(
        f"The emulated Beddit cloud is at [bold]{cloud.base_url}[/], its blobs at {cloud.blob_url}."
    )
    for note in (*saved.passed_over, *saved.damaged) if saved else ():
        console.print(f"[yellow]passed over[/] {plain(str(note.path))}: {plain(note.reason)}")
    console.print(f"In another terminal:\n  {command} check\n  {command} once\nCtrl-C ends it.")
