"""Configurations that point at an emulated cloud."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from sync.config import Settings, load
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
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def emulated_settings(path: Path) -> Settings:
    """Read such a configuration, without the environment, which is about the real one."""
    return load(path, {})


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
