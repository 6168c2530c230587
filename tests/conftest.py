"""What every test may ask for, and the summary that says which servers and parts were really tested."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import pytest

SERVERS = pytest.StashKey[set[str]]()


@pytest.fixture(scope="session")
def not_tested() -> Callable[[str, str], NoReturn]:
    """End a test that cannot run here: ``not_tested("TimescaleDB", "the server does not have it")``."""

    def skip(what: str, why: str) -> NoReturn:
        pytest.skip(f"{what}: {why}")

    return skip


@pytest.fixture(scope="session")
def tested_server(pytestconfig: pytest.Config) -> Callable[[str], None]:
    """Note a server that tests ran against, for the summary."""
    return pytestconfig.stash[SERVERS].add


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let the caller choose the server."""
    parser.addoption(
        "--server",
        metavar="embedded|timescaledb|DSN",
        default=os.environ.get("NIGHTSHIFT_TEST_DSN", "embedded"),
        help="what the tests run on: the embedded PostgreSQL, one with TimescaleDB, or a server that runs "
        "already (default: $NIGHTSHIFT_TEST_DSN, else embedded)",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Start an empty list of servers."""
    config.stash[SERVERS] = set()


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Look for no garbage while tests are collected: there is none, and it takes a third of that time."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Send an xdist worker's list to the controller."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["servers"] = sorted(session.config.stash[SERVERS])


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take over the list of a worker that ends; a crashed one has none."""
    node.config.stash[SERVERS].update(getattr(node, "workeroutput", {}).get("servers", ()))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say which servers were tested, and every part that was not, with the reason."""
    terminalreporter.section("what was tested")
    for server in sorted(config.stash[SERVERS]) or ["no database server"]:
        terminalreporter.line(f"tested on: {server}")
    for reason in sorted({_reason(report) for report in terminalreporter.stats.get("skipped", [])}):
        terminalreporter.line(f"not tested: {reason}")


def _reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    """Return why something was skipped; pytest keeps it as (file, line, "Skipped: reason")."""
    text = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    return text.removeprefix("Skipped: ")
