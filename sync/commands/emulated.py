"""Configurations that point at an emulated cloud."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from sync.config import OTHER_VARIABLES, PREFIX, Settings, load
from sync.emulators.beddit import BedditCloud

CONFIG = "nightshift.toml"


def write_config(folder: Path, cloud: BedditCloud, accounts: Mapping[str, int]) -> Path:
    """Write a configuration for an emulated cloud, readable by its owner alone.

    Args:
        folder: Where the file goes; the embedded database of that configuration will live beside it.
        cloud: A running cloud.
        accounts: User ids by account name.
    """
    lines = [
        "# Written by nightshift for an emulated cloud; the tokens are worth nothing anywhere else.",
        f"state_dir = {_quoted(str(folder))}",
        "",
        "[beddit]",
        f"base_url = {_quoted(cloud.base_url)}",
        "allow_private_blob_hosts = true",
        "requests_per_second = 1000",
    ]
    for name, user_id in accounts.items():
        lines += ["", f"[beddit.accounts.{name}]", f"user_id = {user_id}"]
        lines.append(f"token = {_quoted(cloud.token(user_id))}")
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


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
