"""What Prometheus is told, and what it is not told."""

from __future__ import annotations

import platform
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
from prometheus_client.parser import text_string_to_metric_families

from sync.errors import AuthenticationError, LeaseLost, SourceUnavailable, StorageUnavailable
from sync.model import Batch, RunOutcome, StreamKey, StreamSurvey, Survey, Tally, Traffic
from sync.observe.metrics import Metrics
from sync.transport import Meter

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
ALICE = StreamKey("beddit", "alice", "sessions")
BOB = StreamKey("beddit", "bob", "sessions")


ORDER = ("kind", "subject", "name", "source", "account", "stream")


def read(metrics: Metrics) -> dict[str, dict[tuple[str, ...], float]]:
    """Return what a scrape says: by name, the value of each series by its labels' values."""
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for family in text_string_to_metric_families(metrics.content()[0].decode()):
        for sample in family.samples:
            found.setdefault(sample.name, {})[_values(sample.labels)] = sample.value
    return found


def _values(labels: dict[str, str]) -> tuple[str, ...]:
    """Return labels' values, those that say whose it is first."""
    first = [labels[name] for name in ORDER if name in labels]
    return (*first, *(value for name, value in labels.items() if name not in ORDER))


@pytest.fixture
def metrics() -> Metrics:
    """Return fresh metrics of two sources, at noon."""
    return Metrics("1.2.3", ("beddit", "bace"), jobs=("beddit",), clock=NOON.timestamp)


def ended(error: Exception | None = None, *, paused: bool = False) -> RunOutcome:
    """Make an end of a run of Alice's."""
    return RunOutcome("beddit", "alice", Tally(), Traffic(), error, paused)


def test_counters_begin_at_zero(metrics):
    """Before anything happens there is a 0 for everything whose name is known, and nothing but zeros."""
    said = read(metrics)
    counters = {name: values for name, values in said.items() if name.startswith("nightshift_")}
    totals = {name: values for name, values in counters.items() if name.endswith("_total")}
    assert len(totals) == 7
    assert all(value == 0 for values in totals.values() for value in values.values())
    assert ("bace", "stored") in totals["nightshift_items_total"]
    assert ("beddit", "failed") in totals["nightshift_runs_total"]
    assert {("beddit", "200"), ("bace", "503")} <= totals["nightshift_requests_total"].keys()
    assert totals["nightshift_jobs_total"].keys() == {("beddit", o) for o in ("done", "failed", "missed")}
    assert said["nightshift_request_duration_seconds_count"] == {("bace",): 0, ("beddit",): 0}


def test_it_says_what_is_running(metrics):
    """The version is told, and so are the process's own figures."""
    said = read(metrics)
    assert [key[0] for key in said["nightshift_build_info"] if key[1] == "1.2.3"] == [
        platform.python_version()
    ]
    assert said["process_resident_memory_bytes"][()] > 0
    assert not any(name.endswith("_created") for name in said)


def test_two_of_them_share_nothing(metrics):
    """Each has its own registry."""
    metrics.job("beddit", "done")
    other = Metrics("1.2.3", ("beddit",), jobs=("beddit",))
    assert read(other)["nightshift_jobs_total"]["beddit", "done"] == 0


def test_items_are_counted_by_fate(metrics):
    """Every fate of a batch's items is added, and a second batch on top."""
    tally = Tally(read=21, stored=1, unchanged=2, superseded=3, duplicate=5, rejected=10)
    for _ in range(2):
        metrics.committed("beddit", "alice", SimpleNamespace(), Batch(ALICE), tally)
    items = read(metrics)["nightshift_items_total"]
    fates = {fate: value for (source, fate), value in items.items() if source == "beddit"}
    assert fates == {
        "read": 42,
        "stored": 2,
        "unchanged": 4,
        "superseded": 6,
        "duplicate": 10,
        "rejected": 20,
    }
    assert items["bace", "read"] == 0


@pytest.mark.parametrize(
    ("outcome", "name"),
    [
        (ended(), "done"),
        (ended(paused=True), "paused"),
        (ended(AuthenticationError("no")), "refused"),
        (ended(LeaseLost("gone")), "lost"),
        (ended(SourceUnavailable("away")), "failed"),
        (ended(ValueError("a defect")), "failed"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_runs_are_counted_by_how_they_ended(metrics, outcome, name):
    """Each end has its name."""
    metrics.finished(outcome)
    runs = read(metrics)["nightshift_runs_total"]
    assert {key for key, value in runs.items() if value} == {("beddit", name)}


def test_requests_are_counted_by_status_and_error(metrics):
    """A source's meter counts answers, failures, retries, bytes and seconds of that source alone."""
    meter: Meter = metrics.meter("bace")
    meter.answered(200, 0.07)
    meter.answered(418, 40.0)
    meter.unanswered("AnswerTooLarge", 90.0)
    meter.retried("RateLimited")
    meter.received(500)
    meter.received(12)
    said = read(metrics)
    assert said["nightshift_requests_total"]["bace", "200"] == 1
    assert said["nightshift_requests_total"]["bace", "418"] == 1
    assert said["nightshift_request_failures_total"]["bace", "AnswerTooLarge"] == 1
    assert said["nightshift_request_retries_total"]["bace", "RateLimited"] == 1
    assert said["nightshift_received_bytes_total"] == {("bace",): 512, ("beddit",): 0}
    seconds = said["nightshift_request_duration_seconds_bucket"]
    assert [seconds["bace", limit] for limit in ("0.05", "0.1", "60.0", "90.0", "+Inf")] == [0, 1, 2, 3, 3]
    assert seconds["beddit", "+Inf"] == 0


class Sink:
    """Stores nothing, or fails."""

    def __init__(self, error: Exception | None = None) -> None:
        self._error = error

    async def commit(self, run: int, batch: Batch) -> Tally:  # noqa: ARG002
        """Answer with the run's number, to see that it came through."""
        if self._error:
            raise self._error
        return Tally(read=run)


async def test_batches_are_timed(metrics):
    """A timed sink is the sink, with each commit counted, failed ones too."""
    assert await metrics.timed(Sink()).commit(7, Batch(ALICE)) == Tally(read=7)
    with pytest.raises(StorageUnavailable):
        await metrics.timed(Sink(StorageUnavailable("away"))).commit(7, Batch(ALICE))
    assert read(metrics)["nightshift_batch_duration_seconds_count"] == {("beddit",): 2, ("bace",): 0}


def test_outages_are_told_while_they_last(metrics):
    """The warehouse and every source have a 0; an account has a line only while it is in trouble."""
    quiet = {("warehouse", "warehouse"): 0, ("source", "bace"): 0, ("source", "beddit"): 0}
    assert read(metrics)["nightshift_outage_active"] == quiet
    for subject in ("warehouse", "beddit", "beddit/alice"):
        metrics.outage(subject, True)
        metrics.outage(subject, True)
    loud = {**quiet, ("warehouse", "warehouse"): 1, ("source", "beddit"): 1, ("account", "beddit/alice"): 1}
    assert read(metrics)["nightshift_outage_active"] == loud
    for subject in ("warehouse", "beddit", "beddit/alice"):
        metrics.outage(subject, False)
    assert read(metrics)["nightshift_outage_active"] == quiet


def test_figures_are_asked_for_when_they_are_wanted(metrics):
    """Queue and pool are what they are at the moment of the scrape."""
    queue, pool = [3, 1], [4, 1, 5]
    assert not {"nightshift_queue_accounts", "nightshift_pool_connections"} & read(metrics).keys()
    metrics.queue(lambda: tuple(queue))
    metrics.pool(lambda: tuple(pool))
    assert read(metrics)["nightshift_queue_accounts"] == {("waiting",): 3, ("running",): 1}
    assert read(metrics)["nightshift_pool_connections"] == {("busy",): 3, ("idle",): 1}
    assert read(metrics)["nightshift_pool_connections_max"] == {(): 5}
    queue[:], pool[:] = [0, 0], [1, 1, 5]
    assert read(metrics)["nightshift_queue_accounts"] == {("waiting",): 0, ("running",): 0}
    assert read(metrics)["nightshift_pool_connections"] == {("busy",): 0, ("idle",): 1}


def test_what_the_warehouse_says_is_told(metrics):
    """Streams with what is known of them, and totals with a 0 for what is not there."""
    alice = StreamSurvey(key=ALICE, last_success_at=NOON, lag=60.0, gaps=2, gap_seconds=90.0)
    metrics.show(
        Survey(
            streams=(alice, StreamSurvey(key=BOB, last_error="refused")),
            data_sessions={"complete": 9, "strange": 1},
            sampled_tracks={"pending": 4},
            open_rejects={"beddit": 7},
            open_differences={"bace": 2},
            workers=2,
            leases=3,
        )
    )
    said = read(metrics)
    of_alice, of_bob = ("beddit", "alice", "sessions"), ("beddit", "bob", "sessions")
    assert said["nightshift_warehouse_up"] == {(): 1}
    assert said["nightshift_stream_lag_seconds"] == {of_alice: 60}
    assert said["nightshift_stream_last_success_timestamp_seconds"] == {of_alice: NOON.timestamp()}
    assert said["nightshift_stream_failing"] == {of_alice: 0, of_bob: 1}
    assert said["nightshift_stream_coverage_gaps"] == {of_alice: 2, of_bob: 0}
    assert said["nightshift_stream_coverage_gap_seconds"] == {of_alice: 90, of_bob: 0}
    sessions = {("open",): 0, ("loading",): 0, ("complete",): 9, ("incomplete",): 0, ("strange",): 1}
    assert said["nightshift_data_sessions"] == sessions
    assert said["nightshift_blobs"]["pending",] == 4
    assert said["nightshift_blobs"]["unavailable",] == 0
    assert said["nightshift_rejects_open"] == {("beddit",): 7, ("bace",): 0}
    assert said["nightshift_differences_open"] == {("beddit",): 0, ("bace",): 2}
    assert (said["nightshift_workers"], said["nightshift_leases_held"]) == ({(): 2}, {(): 3})


def test_nothing_old_is_told_while_the_warehouse_is_away(metrics):
    """The warehouse's figures disappear with it and come back with it; the process's own stay."""
    present = read_names(metrics, Survey(streams=(StreamSurvey(key=ALICE),)))
    away = read_names(metrics, None)
    assert read(metrics)["nightshift_warehouse_up"] == {(): 0}
    assert "nightshift_runs_total" in away
    assert present - away == {
        *(f"nightshift_stream_{name}" for name in ("failing", "coverage_gaps", "coverage_gap_seconds")),
        "nightshift_rejects_open",
        "nightshift_differences_open",
        "nightshift_data_sessions",
        "nightshift_blobs",
        "nightshift_workers",
        "nightshift_leases_held",
    }
    assert read_names(metrics, Survey(streams=(StreamSurvey(key=ALICE),))) == present


def read_names(metrics: Metrics, survey: Survey | None) -> set[str]:
    """Show a survey; return the names that are told then."""
    metrics.show(survey)
    return set(read(metrics))


def test_only_configured_accounts_are_told(metrics):
    """A stream of an account that was taken out of the configuration would be late for ever."""
    metrics.show(Survey(streams=(StreamSurvey(key=ALICE), StreamSurvey(key=BOB))))
    metrics.outage("beddit/bob", True)
    metrics.accounts({"beddit": ["alice"], "bace": []})
    said = read(metrics)
    assert said["nightshift_stream_failing"].keys() == {("beddit", "alice", "sessions")}
    assert said["nightshift_account_info"] == {("beddit", "alice", "false"): 1}
    assert ("account", "beddit/bob") not in said["nightshift_outage_active"]


def test_an_account_that_is_refused_is_told_until_it_works(metrics):
    """Credentials refused stay refused until a run succeeds; other failures say nothing about them."""
    metrics.accounts({"beddit": ["alice"]})
    metrics.finished(ended(AuthenticationError("no")))
    metrics.finished(ended(SourceUnavailable("away")))
    assert read(metrics)["nightshift_account_info"] == {("beddit", "alice", "true"): 1}
    metrics.finished(ended())
    assert read(metrics)["nightshift_account_info"] == {("beddit", "alice", "false"): 1}


@pytest.mark.parametrize(("minutes", "refused"), [(-1, "true"), (1, "false")])
def test_another_process_may_have_mended_it(metrics, minutes, refused):
    """A success after the refusal, whoever had it, ends it; one before it does not."""
    metrics.accounts({"beddit": ["alice"]})
    metrics.finished(ended(AuthenticationError("no")))
    success = NOON + timedelta(minutes=minutes)
    metrics.show(Survey(streams=(StreamSurvey(key=ALICE, last_success_at=success, lag=1.0),)))
    assert read(metrics)["nightshift_account_info"] == {("beddit", "alice", refused): 1}


def test_what_is_fresh_is_told(metrics):
    """The schedule's promise is exported for alerts, and can change."""
    metrics.fresh_within("beddit", 2700)
    metrics.fresh_within("beddit", 900)
    assert read(metrics)["nightshift_fresh_within_seconds"] == {("beddit",): 900}
