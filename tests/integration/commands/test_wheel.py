"""The wheel, installed where there is no checkout."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

ROOT = Path(__file__).parents[3]


def _install(folder: Path) -> Path:
    """Build the wheel and install it into a new environment that borrows the dependencies of this one."""
    build = [sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", str(folder), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)  # noqa: S603
    (wheel,) = folder.glob("*.whl")
    venv.create(folder / "venv", symlinks=True)
    python = folder / "venv" / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-index"]
    subprocess.run([*pip, "--no-deps", str(wheel)], check=True, capture_output=True)  # noqa: S603
    # A path in a .pth file brings the packages there, but not that folder's own .pth files: no checkout.
    (site,) = (folder / "venv").glob("lib/python3*/site-packages")
    (site / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


async def test_the_wheel_works_outside_a_checkout(nightshift, folder):
    """Migrations and the example configuration travel in it: migrate, config --example and demo work."""
    python = _install(folder)
    del nightshift.environment["PYTHONPATH"]
    nightshift.program = [str(python), "-c", "import sync; print(sync.__path__[0])"]
    assert Path((await nightshift.succeed()).out.strip()).is_relative_to(folder)
    nightshift.program = [str(python.with_name("nightshift"))]
    example = await nightshift.succeed("config", "--example")
    assert example.out.rstrip("\n") == (ROOT / "config" / "nightshift.example.toml").read_text().rstrip("\n")
    assert "was empty" in (await nightshift.succeed("migrate")).out
    (said,) = (await nightshift.succeed("demo", "--nights", "1", "--json")).lines
    assert (said["nights"], said["rejects"]) == (2, 0)
