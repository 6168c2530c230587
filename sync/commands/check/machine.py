"""The machine: folders, room on the disk, and who else may read the secrets."""

from __future__ import annotations

import shutil
import stat
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from string import Template
from typing import Any, Final

from sync.app.sources import spool_folder
from sync.commands.check.finding import Finding, note
from sync.config import PREFIX, Settings
from sync.observe.display import plural

GB: Final = 1e9


def check_machine(settings: Settings, config: Path | None, environ: Mapping[str, str]) -> Iterator[Finding]:
    """The state folder, room for downloads, and files that hold secrets."""
    folder = _state_folder(settings.state_dir)
    yield folder
    if folder.ok:
        yield _room(settings)
    yield _secrets(settings, config, environ)


def _state_folder(folder: Path) -> Finding:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".check"
        probe.touch()
        probe.unlink()
        mode = folder.stat().st_mode
    except OSError as error:
        return Finding(
            "state folder",
            False,
            f"{folder}: {error.strerror}. Set state_dir to a folder that can be written",
        )
    if mode & stat.S_IWOTH:
        return Finding("state folder", False, f"{folder} can be changed by everybody: chmod o-w {folder}")
    return Finding("state folder", True, str(folder))


def _room(settings: Settings) -> Finding:
    """Whether all downloads that may wait at the same time have room, however large they are."""
    try:
        free = shutil.disk_usage(settings.state_dir).free
    except OSError as error:
        return Finding("disk", False, f"{settings.state_dir}: {error.strerror}")
    text = f"{free / GB:,.1f} GB free for {settings.state_dir}"
    if not settings.beddit.accounts:
        return Finding("disk", True, text)
    most, engine = settings.beddit.blob_max_bytes, settings.engine
    downloads = engine.parallel_accounts * engine.parallel_units
    needed = f"{downloads} raw signals at once, of {most / GB:,.1f} GB at most"
    advice = f"make room there, or lower beddit.blob_max_bytes ({spool_folder(settings)})"
    if free < most:
        return Finding("disk", False, f"{text}, where one raw signal may need {most / GB:,.1f} GB: {advice}")
    if free < downloads * most:
        return note("disk", f"{text}, too little for {needed}: {advice}")
    return Finding("disk", True, f"{text}, enough for {needed}")


# --- who may read the secrets -------------------------------------------------------------------------


def _secrets(settings: Settings, config: Path | None, environ: Mapping[str, str]) -> Finding:
    secrets = settings.secrets()
    if settings.warehouse.dsn is not None:  # its password is a secret of its own
        secrets -= {settings.warehouse.dsn.get_secret_value()}
    files = [path for path in dict.fromkeys(_files(config, environ)) if _holds(path, secrets)]
    exposed = [str(path) for path in files if is_exposed(path)]
    if exposed:
        names = " ".join(exposed)
        return note("secrets", f"every user of this machine can read {', '.join(exposed)}: chmod o-r {names}")
    where = f"in {len(files)} {plural('file', len(files))} that not everybody can read"
    return Finding("secrets", True, where if files else "in no file")


def _files(config: Path | None, environ: Mapping[str, str]) -> Iterator[Path]:
    """The configuration, and the files that it and the environment name."""
    folder = Path.cwd() if config is None else config.absolute().parent
    named = [value for name, value in environ.items() if name.upper().startswith(PREFIX)]
    if config is not None:
        yield config.absolute()
        named += _texts(tomllib.loads(config.read_text("utf-8")))
    for text in named:
        try:
            path = folder / Path(Template(text).safe_substitute(environ)).expanduser()
            if path.is_file():
                yield path
        except (OSError, RuntimeError, ValueError):  # it is no path
            continue


def _texts(value: Any) -> Iterator[str]:
    match value:
        case str():
            yield value
        case dict():
            for part in value.values():
                yield from _texts(part)


def _holds(path: Path, secrets: frozenset[str]) -> bool:
    try:
        text = path.read_text("utf-8")
    except (OSError, ValueError):
        return False
    return any(secret in text for secret in secrets)


def is_exposed(path: Path) -> bool:
    """Whether every user of the machine can read a file: it may be read, and its folders be passed."""
    try:
        real = path.resolve()
        passable = all(parent.stat().st_mode & stat.S_IXOTH for parent in real.parents)
        return passable and bool(real.stat().st_mode & stat.S_IROTH)
    except OSError:
        return False
