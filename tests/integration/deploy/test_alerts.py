"""Metrics, alerts, dashboard and their documentation speak of the same things, and promtool accepts them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from sync.model import Batch, RunOutcome, StreamKey, StreamSurvey, Survey, Tally, Traffic
from sync.observe.health import Readiness
from sync.observe.metrics import Metrics
from sync.observe.web import serving

ROOT = Path(__file__).parents[3]
RULES = ROOT / "config/prometheus/alerts.yml"
RULE_TESTS = ROOT / "config/prometheus/alerts.test.yml"
PROMETHEUS = ROOT / "config/prometheus/prometheus.yml"
DASHBOARD = ROOT / "config/grafana/dashboards/nightshift.json"
OPERATIONS = (ROOT / "docs/operations.md").read_text("utf-8")

ALERTS = dict(re.findall(r"- alert: (\w+)\n(.*?)(?=- alert: |\Z)", RULES.read_text("utf-8"), re.DOTALL))
NAME = re.compile(r"\b(?:nightshift|process|python)_\w+")


class Said:
    """Pages with metrics of everything that can happen."""

    def __init__(self) -> None:
        self.all = metrics = Metrics("1.0", ("beddit", "bace"), jobs=("beddit",))
        stream = StreamSurvey(
            key=StreamKey("beddit", "alice", "sessions"), last_success_at=datetime.now(UTC), lag=1.0
        )
        metrics.accounts({"beddit": ["alice"]})
        metrics.fresh_within("beddit", 2700)
        metrics.queue(lambda: (3, 1))
        metrics.pool(lambda: (4, 1, 5))
        metrics.show(Survey(streams=(stream,), workers=1, leases=1))
        metrics.outage("beddit/alice", True)
        metrics.job("beddit", "missed")
        metrics.meter("beddit").answered(200, 0.2)
        metrics.meter("beddit").unanswered("SourceUnavailable", 90.0)
        metrics.meter("beddit").retried("RateLimited")
        metrics.meter("beddit").received(1000)
        unit: Any = None
        metrics.committed("beddit", "alice", unit, Batch(stream.key), Tally(read=2, stored=2))
        metrics.finished(RunOutcome("beddit", "alice", Tally(), Traffic()))

    def health(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    async def readiness(self) -> Readiness:
        """Ready."""
        return Readiness(True)

    async def metrics(self) -> tuple[bytes, str]:
        """All of them."""
        return self.all.content()


@pytest.fixture
async def scrape() -> str:
    """Return what a scrape of a process that has seen everything brings."""
    async with (
        serving("127.0.0.1:0", Said()) as (host, port),
        aiohttp.ClientSession() as session,
        session.get(f"http://{host}:{port}/metrics") as answer,
    ):
        return await answer.text()


@pytest.fixture
def promtool(not_tested: Callable[[str, str], Any], tmp_path: Path) -> Callable[..., str]:
    """Return promtool, which fails the test where it finds fault."""
    program = shutil.which("promtool")
    if program is None:
        not_tested("alerts with promtool", "it is not installed (Debian's package prometheus)")

    def run(*words: str | Path, given: str = "") -> str:
        done = subprocess.run(  # noqa: S603 - our own files
            [program, *words], input=given, capture_output=True, text=True, cwd=tmp_path, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    return run


def families(scraped: str) -> set[str]:
    """Return the names of metrics, as a TYPE line has them."""
    return set(re.findall(r"^# TYPE (\S+) ", scraped, re.MULTILINE))


def series(scraped: str) -> set[str]:
    """Return the names of series, a histogram's parts included."""
    return set(re.findall(r"^([a-zA-Z_]\w*)[{ ]", scraped, re.MULTILINE))


def expressions(rule: str) -> str:
    """Return the expression of a rule."""
    found = re.search(r"expr: (.*?)\n +(?:for|labels):", rule, re.DOTALL)
    assert found, rule
    return found[1]


def panels() -> Iterator[dict[str, Any]]:
    """Yield the dashboard's panels that show something."""
    for panel in json.loads(DASHBOARD.read_text("utf-8"))["panels"]:
        if panel["type"] != "row":
            yield panel


def test_promtool_accepts_the_configuration(promtool):
    """Prometheus' own configuration and the rules it names are valid."""
    assert f"{len(ALERTS)} rules found" in promtool("check", "config", PROMETHEUS)


def test_each_alert_is_silent_and_speaks_as_it_should(promtool):
    """The rules do over time what their tests say."""
    assert "SUCCESS" in promtool("test", "rules", RULE_TESTS)


async def test_promtool_accepts_the_metrics(promtool, scrape):
    """Names, units and help texts follow Prometheus' conventions."""
    assert promtool("check", "metrics", given=scrape) == ""


def test_promtool_understands_the_dashboard(promtool, tmp_path):
    """Each question of a panel is valid PromQL."""
    asked = [target["expr"] for panel in panels() for target in panel["targets"]]
    filled = [expr.replace("$__rate_interval", "1m").replace("$source", ".*") for expr in asked]
    rules = [{"record": f"panel:{number}", "expr": expr} for number, expr in enumerate(filled)]
    path = tmp_path / "panels.yml"
    path.write_text(json.dumps({"groups": [{"name": "panels", "rules": rules}]}))  # JSON is YAML
    assert f"{len(asked)} rules found" in promtool("check", "rules", path)


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_has_what_a_person_needs(alert):
    """It is tested both ways and documented; it says what happened and which command or setting helps."""
    checks = re.findall(
        rf'expr: ALERTS\{{alertname="{alert}".*?\n +eval_time: \w+\n +exp_samples:(?: (\[\]))?',
        RULE_TESTS.read_text("utf-8"),
    )
    assert set(checks) == {"", "[]"}, "tested firing and silent"
    rule = ALERTS[alert]
    assert re.search(r"severity: (critical|warning)", rule)
    assert "summary: " in rule
    assert "description: >-" in rule
    assert f"| `{alert}` |" in OPERATIONS


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_names_only_labels_that_it_has(alert):
    """No text of an alert has a hole where a label was expected."""
    used = set(re.findall(r"\$labels\.(\w+)", ALERTS[alert]))
    fired = re.findall(
        rf'labels: (?:>-\s+)?ALERTS(\{{[^}}]*alertname="{alert}"[^}}]*\}})', RULE_TESTS.read_text("utf-8")
    )
    assert fired
    # Where nobody can be asked there is no instance; its text has other words for that.
    optional = {"instance"} if alert == "NightshiftDown" else set()
    for labels in fired:
        assert used - optional <= set(re.findall(r"(\w+)=", labels))


async def test_alerts_ask_for_what_there_is(scrape):
    """Each name in a rule is in a real scrape."""
    for alert, rule in ALERTS.items():
        assert set(NAME.findall(expressions(rule))) <= series(scrape), alert


async def test_the_rules_tests_are_about_what_there_is(scrape):
    """Each series that the rules' tests make up is in a real scrape."""
    made_up = set(re.findall(r"- series: (nightshift_\w+)", RULE_TESTS.read_text("utf-8")))
    assert made_up
    assert made_up <= series(scrape)


async def test_panels_ask_for_what_there_is(scrape):
    """Each name in a panel is in a real scrape."""
    for panel in panels():
        for target in panel["targets"]:
            assert set(NAME.findall(target["expr"])) <= series(scrape), panel["title"]


def test_panels_say_what_they_show():
    """Each has a title, an explanation, a unit, and no two share a place."""
    taken: set[tuple[int, int]] = set()
    numbers = [panel["id"] for panel in json.loads(DASHBOARD.read_text("utf-8"))["panels"]]
    assert len(set(numbers)) == len(numbers)
    for panel in panels():
        assert panel["title"]
        assert panel["description"]
        assert panel["fieldConfig"]["defaults"]["unit"]
        at = panel["gridPos"]
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells


async def test_documents_and_metrics_agree(scrape):
    """Every metric of ours is explained in docs/operations.md, and nothing else is."""
    ours = {name for name in families(scrape) if name.startswith("nightshift_")}
    assert set(re.findall(r"^\| `(nightshift_\w+)` \|", OPERATIONS, re.MULTILINE)) == ours


async def test_labels_are_documented(scrape):
    """The labels of each metric are those in docs/operations.md."""
    said = dict(re.findall(r"^\| `(nightshift_\w+)` \| ([^|]*?) ?\|", OPERATIONS, re.MULTILINE))
    for name, wanted in said.items():
        found = re.search(rf"^{name}(?:_bucket)?(?:{{(.*?)}})? ", scrape, re.MULTILINE)
        assert found, name
        labels = set(re.findall(r'(\w+)="', found[1] or "")) - {"le"}
        assert labels == {label for label in wanted.split(", ") if label}, name
