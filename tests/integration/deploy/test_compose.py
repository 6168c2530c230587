"""compose.yaml: Compose reads it as it is meant, with any password, and keeps what it shares to itself."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from sync import config
from sync.config import Daemon

ROOT = Path(__file__).parents[3]
ODD = r"""100% "of" $HOME #1 \n @/:?&= é"""
EXAMPLE = (ROOT / ".env.example").read_text()
JOBS = {"roles", "migrate"}
OWN = {  # whose password a service may know
    "warehouse": {"POSTGRES"},
    "roles": {"POSTGRES", "WORKER", "READER"},
    "migrate": {"POSTGRES"},
    "nightshift": {"WORKER"},
    "prometheus": set(),
    "grafana": {"GRAFANA"},
}


def password(role: str) -> str:
    """The password that .env gives a role."""
    return f"{role} {ODD}"


def environment_file() -> str:
    """The example, filled in, with its accounts."""
    filled = re.sub(
        r"^(\w+)_PASSWORD=''$",
        lambda line: f"{line[1]}_PASSWORD='{password(line[1])}'",
        EXAMPLE,
        flags=re.MULTILINE,
    )
    return re.sub(r"^#(NIGHTSHIFT_\w+=)", r"\1", filled, flags=re.MULTILINE)


def read(folder: Path, not_tested: Any) -> dict[str, Any]:
    """Have Compose read the file; return what it understood."""
    plugin = ["docker", "compose"]
    if shutil.which("docker") and _run([*plugin, "version"], folder).returncode == 0:
        return json.loads(_said([*plugin, "config", "--format", "json"], folder))
    program = shutil.which("docker-compose")
    if program is None:
        not_tested("compose.yaml", "neither docker compose nor docker-compose is here")
    python = Path(program).read_text().splitlines()[0].removeprefix("#!").strip()
    to_json = "import json, sys, yaml; json.dump(yaml.safe_load(sys.stdin), sys.stdout)"
    said = _said([program, "config"], folder)
    return json.loads(_said([python, "-c", to_json], folder, said))


def _said(command: list[str], folder: Path, given: str = "") -> str:
    done = _run(command, folder, given)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _run(command: list[str], folder: Path, given: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=folder, input=given, capture_output=True, text=True, check=False)  # noqa: S603


@pytest.fixture(scope="module")
def services(session_folder, not_tested) -> dict[str, Any]:
    """Return the services, as Compose understands them."""
    folder = session_folder / "compose"
    folder.mkdir()
    shutil.copy(ROOT / "compose.yaml", folder)
    (folder / ".env").write_text(environment_file())
    return read(folder, not_tested)["services"]


def variables(service: dict[str, Any]) -> dict[str, str]:
    """A service's environment; Compose writes a dollar sign twice."""
    return {name: str(value).replace("$$", "$") for name, value in (service.get("environment") or {}).items()}


def test_only_this_machine_reaches_a_port(services):
    """Whatever is published is published on the loopback address."""
    ports = [port for service in services.values() for port in service.get("ports", ())]
    assert len(ports) == 4
    for port in ports:
        assert (port if isinstance(port, str) else port["host_ip"]).startswith("127.0.0.1")


def test_no_service_may_do_more_than_it_has_to(services):
    """All have a read-only file system, no capabilities but those that an entrypoint needs, and gain none."""
    assert services.keys() == OWN.keys()
    for name, service in services.items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert not service.get("cap_add") or name == "warehouse", name
        assert not service.get("privileged"), name


def test_each_service_has_its_own_password_exactly_as_it_was_written(services):
    """Any character passes unharmed, and nobody gets a password that belongs to somebody else."""
    for name, service in services.items():
        given = [value for value in variables(service).values() if value.endswith(ODD)]
        assert sorted(given) == sorted(password(role) for role in OWN[name]), name


def test_nightshift_accepts_what_it_is_given(services):
    """The environment of both nightshift services is a valid configuration, with the accounts of .env."""
    for name, role in (("nightshift", "nightshift_worker"), ("migrate", "nightshift")):
        settings = config.load(None, variables(services[name]))
        assert settings.warehouse.dsn is not None
        assert settings.warehouse.dsn.get_secret_value() == f"postgresql://{role}@warehouse/nightshift"
        assert (list(settings.beddit.accounts), list(settings.bace.accounts)) == (["alice"], ["lab"])


def test_services_start_in_their_order_and_again_by_themselves(services):
    """Roles before tables before the daemon; the jobs run once, all others come back after a failure."""
    waits = {
        name: {other: how["condition"] for other, how in service.get("depends_on", {}).items()}
        for name, service in services.items()
    }
    assert waits["roles"] == {"warehouse": "service_healthy"}
    assert waits["migrate"] == {"roles": "service_completed_successfully"}
    assert waits["nightshift"]["migrate"] == "service_completed_successfully"
    for name, service in services.items():
        assert service["restart"] == ("no" if name in JOBS else "unless-stopped"), name


def test_the_daemon_has_time_to_end(services):
    """It is killed later than it would end by itself, and its first process reaps and hands on signals."""
    minutes, whole = re.fullmatch(r"(?:(\d+)m)?(\d+)s", services["nightshift"]["stop_grace_period"]).groups()
    assert int(minutes or 0) * 60 + int(whole) >= 2 * Daemon().grace_s
    assert services["nightshift"]["init"] is True


def test_images_are_pinned_and_mounted_files_are_there():
    """No image moves by itself, and what is mounted from the checkout exists."""
    text = (ROOT / "compose.yaml").read_text()
    images = re.findall(r"docker\.io/\S+", text)
    assert len(images) == 3
    assert [image for image in images if not re.search(r":v?\d+\.\d+\.\d+(-pg\d+)?$", image)] == []
    mounted = re.findall(r"- \./(config/[^:]+):", text)
    assert mounted
    assert [path for path in mounted if not (ROOT / path).exists()] == []
