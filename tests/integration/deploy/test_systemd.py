"""config/systemd/nightshift.service: systemd accepts it, and it fits the program."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from sync import config
from sync.cli.running import MISCONFIGURED
from sync.config import Daemon

ROOT = Path(__file__).parents[3]
UNIT = ROOT / "config" / "systemd" / "nightshift.service"
OPERATIONS = (ROOT / "docs" / "operations.md").read_text()
EXPOSURE = 12  # tenths; what is left is the network, the socket and the file system that a service shares


def values(key: str) -> list[str]:
    """What the unit says of a key, line by line."""
    return re.findall(rf"^{key}=(.*)$", UNIT.read_text(), re.MULTILINE)


def seconds(key: str) -> float:
    """A time span of the unit."""
    (text,) = values(key)
    number, unit = re.fullmatch(r"(\d+)(min|)", text).groups()
    return int(number) * {"min": 60, "": 1}[unit]


def analyze(not_tested, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run systemd-analyze."""
    program = shutil.which("systemd-analyze")
    if program is None:
        not_tested("the systemd unit", "systemd-analyze is not here")
    return subprocess.run([program, *arguments], capture_output=True, text=True, check=False)  # noqa: S603


@pytest.fixture
def installed(folder: Path) -> Path:
    """Return the unit as it would be on a machine where nightshift is installed."""
    unit = folder / UNIT.name
    program = folder / "nightshift"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    unit.write_text(UNIT.read_text().replace("/opt/nightshift/bin/nightshift", str(program)))
    return unit


def test_systemd_accepts_the_unit(installed, not_tested):
    """systemd-analyze verify has nothing to say."""
    done = analyze(not_tested, "verify", str(installed))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_service_is_exposed_as_little_as_its_work_allows(installed, not_tested):
    """systemd-analyze security judges it no worse than on the day it was written."""
    done = analyze(not_tested, "security", "--offline=true", f"--threshold={EXPOSURE}", str(installed))
    assert done.returncode == 0, done.stdout


def test_the_unit_fits_the_program():
    """It waits longer than the daemon's grace, reloads by SIGHUP, and leaves a wrong configuration alone."""
    assert values("Type") == ["notify"]
    assert seconds("TimeoutStopSec") >= 3 * Daemon().grace_s
    assert seconds("WatchdogSec") >= 60
    assert values("ExecReload") == ["/bin/kill -HUP $MAINPID"]
    assert values("KillMode") == ["mixed"]
    assert values("Restart") == ["on-failure"]
    assert values("RestartPreventExitStatus") == [str(MISCONFIGURED)]


def test_credentials_reach_the_configuration(folder, not_tested):
    """The documented nightshift.toml and LoadCredential= lines belong together, and are accepted."""
    section = OPERATIONS.split("## With systemd", 1)[1].split("\n## ", 1)[0]
    (text,) = re.findall(r"```toml\n(.*?)```", section, re.DOTALL)
    credentials = dict(re.findall(r"^LoadCredential=([^:\s]+):(\S+)$", section, re.MULTILINE))
    assert set(credentials) == set(re.findall(r"\$\{CREDENTIALS_DIRECTORY\}/([^\"]+)", text))
    file = folder / "nightshift.toml"
    file.write_text(text)
    for name in credentials:
        (folder / name).write_text("postgresql://somebody@host/database\n" if name == "dsn" else "secret\n")
    settings = config.load(file, {"CREDENTIALS_DIRECTORY": str(folder)})
    assert settings.warehouse.dsn is not None
    assert settings.beddit.accounts
