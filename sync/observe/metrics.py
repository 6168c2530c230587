"""What Prometheus is told. Every name is explained in docs/operations.md, "Metrics and alerts".

Counters are this process's own. What the warehouse says (``show``) is the same whichever process is asked,
and is not said at all while the warehouse is away.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import prometheus_client
from prometheus_client import (
    CONTENT_TYPE_PLAIN_0_0_4,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from sync.errors import AuthenticationError, LeaseLost
from sync.model import Batch, RunOutcome, Survey, Tally
from sync.ports import Sink, Unit

# Each counter would be followed by a gauge with the time when it began: twice the lines, for nobody.
prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]

FATES: Final = ("read", "stored", "unchanged", "superseded", "duplicate", "rejected")
RUN_OUTCOMES: Final = ("done", "paused", "refused", "lost", "failed")
JOB_OUTCOMES: Final = ("done", "failed", "missed")
DATA_SESSION_STATUSES: Final = ("open", "loading", "complete", "incomplete")
BLOB_STATUSES: Final = ("pending", "complete", "mismatch", "unavailable", "absent", "unsupported")

# Those that alerts are about: a series that appears only with its first event hides that one from rate().
EXPECTED_STATUSES: Final = (200, 401, 403, 404, 429, 500, 502, 503, 504)
EXPECTED_ERRORS: Final = ("AnswerTooLarge", "ConnectionEnded", "SourceUnavailable")
EXPECTED_RETRIES: Final = (*EXPECTED_ERRORS, "RateLimited")

# Vendors' servers give up after 60 s, nightshift after 90.
REQUEST_BUCKETS: Final = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 90)
BATCH_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)

QueueFigures: TypeAlias = Callable[[], tuple[int, int]]
"""Accounts that wait for a worker, and accounts that are being worked on."""

PoolFigures: TypeAlias = Callable[[], tuple[int, int, int]]
"""Connections that are open, those of them that are idle, and how many there may be."""

AccountKey: TypeAlias = tuple[str, str]
"""A source and one of its accounts."""


class Metrics:
    """This process's metrics; an ``Observer`` of the engine.

    Args:
        version: nightshift's own.
        sources: The vendors' short names: their counters begin at 0.
        jobs: The scheduler's jobs, likewise.
        clock: Unix seconds.
    """

    def __init__(
        self,
        version: str,
        sources: Iterable[str],
        *,
        jobs: Iterable[str] = (),
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._sources = tuple(sources)
        self._clock = clock
        self._registry = registry = CollectorRegistry()
        self._facts = _Facts(self._sources)
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        registry.register(self._facts)

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"nightshift_{name}", text, labels, registry=registry)

        self._items = counter(
            "items_total",
            "Items (sessions, their points, raw signals, their samples) by what became of them; read counts"
            " them all",
            "source",
            "fate",
        )
        self._runs = counter("runs_total", "Runs of one account, by how they ended", "source", "outcome")
        self._requests = counter(
            "requests_total",
            "Answers of a vendor by HTTP status, redirects and retries included",
            "source",
            "status",
        )
        self._failures = counter(
            "request_failures_total",
            "Requests that were not answered, by the kind of error",
            "source",
            "error",
        )
        self._retries = counter(
            "request_retries_total", "Requests that were sent again, by the reason", "source", "reason"
        )
        self._bytes = counter("received_bytes_total", "Bytes of vendors' answers, as on the wire", "source")
        self._jobs = counter("jobs_total", "Jobs of the scheduler, by how they ended", "name", "outcome")
        self._request_seconds = Histogram(
            "nightshift_request_duration_seconds",
            "Seconds until a vendor's answer began, or its request was given up",
            ("source",),
            registry=registry,
            buckets=REQUEST_BUCKETS,
        )
        self._batch_seconds = Histogram(
            "nightshift_batch_duration_seconds",
            "Seconds that storing one batch took, failed attempts and waiting for a connection included",
            ("source",),
            registry=registry,
            buckets=BATCH_BUCKETS,
        )
        Gauge(
            "nightshift_build_info", "1; which nightshift this is", ("version", "python"), registry=registry
        ).labels(version, platform.python_version()).set(1)
        self._begin_at_zero(jobs)

    def _begin_at_zero(self, jobs: Iterable[str]) -> None:
        """Let series exist before their first event: rate() does not see the step from nothing to 1."""
        known: Mapping[Counter, Sequence[object]] = {
            self._items: FATES,
            self._runs: RUN_OUTCOMES,
            self._requests: EXPECTED_STATUSES,
            self._failures: EXPECTED_ERRORS,
            self._retries: EXPECTED_RETRIES,
        }
        for source in self._sources:
            for metric, values in known.items():
                for value in values:
                    metric.labels(source, value)
            self._bytes.labels(source)
            self._request_seconds.labels(source)
            self._batch_seconds.labels(source)
        for name in jobs:
            for outcome in JOB_OUTCOMES:
                self._jobs.labels(name, outcome)

    # --- the engine's observer ----------------------------------------------------------------------

    def planned(self, source: str, account: str, units: Sequence[Unit]) -> None:
        """Nothing to count yet."""

    def committed(self, source: str, account: str, unit: Unit, batch: Batch, tally: Tally) -> None:  # noqa: ARG002
        """Count the batch's items by their fate."""
        for fate in FATES:
            self._items.labels(source, fate).inc(getattr(tally, fate))

    def finished(self, outcome: RunOutcome) -> None:
        """Count the run, and remember an account whose credentials were refused."""
        key = (outcome.source, outcome.account)
        self._runs.labels(outcome.source, _verdict(outcome)).inc()
        if isinstance(outcome.error, AuthenticationError):
            self._facts.refused.setdefault(key, self._clock())
        elif outcome.error is None:
            self._facts.refused.pop(key, None)

    # --- who tells what happens ---------------------------------------------------------------------

    def meter(self, source: str) -> SourceMeter:
        """Who is told of a source's requests."""
        return SourceMeter(
            source, self._requests, self._failures, self._retries, self._request_seconds, self._bytes
        )

    def timed(self, sink: Sink) -> Sink:
        """The same sink, with a watch on how long it takes."""
        return _TimedSink(sink, self._batch_seconds)

    def job(self, name: str, outcome: str) -> None:
        """A job of the scheduler is ``done``, ``failed``, or was ``missed``."""
        self._jobs.labels(name, outcome).inc()

    def outage(self, subject: str, on: bool) -> None:
        """An outage of ``warehouse``, ``beddit`` or ``beddit/alice`` begins or ends."""
        (self._facts.outages.add if on else self._facts.outages.discard)(subject)

    # --- what is asked when Prometheus asks ---------------------------------------------------------

    def accounts(self, accounts: Mapping[str, Sequence[str]]) -> None:
        """Tell of these accounts only, by source, from now on: the configured ones."""
        known = frozenset((source, name) for source, names in accounts.items() for name in names)
        self._facts.accounts = known
        self._facts.outages = {
            o for o in self._facts.outages if "/" not in o or tuple(o.split("/", 1)) in known
        }
        self._facts.refused = {key: at for key, at in self._facts.refused.items() if key in known}

    def fresh_within(self, source: str, seconds: float) -> None:
        """Say how old a source's last success may be, by its schedule."""
        self._facts.fresh_within[source] = seconds

    def queue(self, figures: QueueFigures) -> None:
        """Where to ask for the queue."""
        self._facts.queue = figures

    def pool(self, figures: PoolFigures) -> None:
        """Where to ask for connections."""
        self._facts.pool = figures

    def show(self, survey: Survey | None) -> None:
        """What the warehouse says now; None: it is away, and nothing is said in its place."""
        self._facts.survey = survey
        for stream in survey.streams if survey else ():
            refused_at = self._facts.refused.get((stream.key.source, stream.key.account))
            if refused_at and stream.last_success_at and stream.last_success_at.timestamp() > refused_at:
                # Another process has succeeded since, with credentials of its own or mended ones.
                del self._facts.refused[stream.key.source, stream.key.account]

    def content(self) -> tuple[bytes, str]:
        """All metrics in Prometheus' text format, and its media type."""
        return generate_latest(self._registry), CONTENT_TYPE_PLAIN_0_0_4


@dataclass(frozen=True, slots=True)
class SourceMeter:
    """Counts one source's requests; a ``transport.Meter``."""

    source: str
    requests: Counter
    failures: Counter
    retries: Counter
    seconds: Histogram
    bytes: Counter

    def answered(self, status: int, seconds: float) -> None:
        """An answer of that HTTP status began, so long after its request."""
        self.requests.labels(self.source, status).inc()
        self.seconds.labels(self.source).observe(seconds)

    def unanswered(self, error: str, seconds: float) -> None:
        """A request was given up after so long."""
        self.failures.labels(self.source, error).inc()
        self.seconds.labels(self.source).observe(seconds)

    def retried(self, reason: str) -> None:
        """A request will be sent again."""
        self.retries.labels(self.source, reason).inc()

    def received(self, count: int) -> None:
        """So many bytes of a body came."""
        self.bytes.labels(self.source).inc(count)


@dataclass(frozen=True, slots=True)
class _TimedSink:
    sink: Sink
    seconds: Histogram

    async def commit(self, run: int, batch: Batch) -> Tally:
        with self.seconds.labels(batch.stream.source).time():
            return await self.sink.commit(run, batch)


def _verdict(outcome: RunOutcome) -> str:
    match outcome.error:
        case None:
            return "paused" if outcome.paused else "done"
        case AuthenticationError():
            return "refused"
        case LeaseLost():
            return "lost"
    return "failed"


class _Facts(Collector):
    """What is true at the moment of a scrape."""

    def __init__(self, sources: Sequence[str]) -> None:
        self._sources = sources
        self.survey: Survey | None = None
        self.accounts: frozenset[AccountKey] | None = None
        self.refused: dict[AccountKey, float] = {}
        self.outages: set[str] = set()
        self.fresh_within: dict[str, float] = {}
        self.queue: QueueFigures | None = None
        self.pool: PoolFigures | None = None

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Everything, family by family."""
        yield from self._own()
        yield _gauge("warehouse_up", "1 while the warehouse answers, else 0", {(): self.survey is not None})
        if self.survey is not None:
            yield from self._streams(self.survey)
            yield from _totals(self.survey, self._sources)

    def _own(self) -> Iterator[GaugeMetricFamily]:
        yield _gauge(
            "outage_active",
            "1 while an outage lasts; kind is warehouse, source or account",
            {(_kind(subject), subject): subject in self.outages for subject in self._subjects()},
            "kind",
            "subject",
        )
        yield _gauge(
            "account_info",
            "1 for each configured account; refused is true when the vendor refused its credentials",
            {(*key, str(key in self.refused).lower()): 1 for key in sorted(self.accounts or ())},
            "source",
            "account",
            "refused",
        )
        yield _gauge(
            "fresh_within_seconds",
            "How long ago an account's last success may be before its source counts as late",
            {(source,): seconds for source, seconds in self.fresh_within.items()},
            "source",
        )
        if self.queue is not None:
            waiting, running = self.queue()
            text = "Accounts that wait for a worker of this process, and those that one works on"
            yield _gauge("queue_accounts", text, {("waiting",): waiting, ("running",): running}, "state")
        if self.pool is not None:
            size, idle, most = self.pool()
            text = "Open connections of this process to the warehouse"
            yield _gauge("pool_connections", text, {("busy",): size - idle, ("idle",): idle}, "state")
            yield _gauge("pool_connections_max", "How many there may be: warehouse.pool_size", {(): most})

    def _subjects(self) -> Sequence[str]:
        return sorted({"warehouse", *self._sources, *self.outages})

    def _streams(self, survey: Survey) -> Iterator[GaugeMetricFamily]:
        streams = [
            ((s.key.source, s.key.account, s.key.stream), s)
            for s in survey.streams
            if self.accounts is None or (s.key.source, s.key.account) in self.accounts
        ]

        def gauge(name: str, text: str, values: Mapping[tuple[str, ...], float]) -> GaugeMetricFamily:
            return _gauge(f"stream_{name}", text, values, "source", "account", "stream")

        yield gauge(
            "lag_seconds",
            "Seconds since a stream was last up to date; missing for one that never was",
            {key: s.lag for key, s in streams if s.lag is not None},
        )
        yield gauge(
            "last_success_timestamp_seconds",
            "When a stream was last up to date, in Unix seconds; missing for one that never was",
            {key: s.last_success_at.timestamp() for key, s in streams if s.last_success_at is not None},
        )
        yield gauge(
            "failing",
            "1 where a stream's last attempt failed; `nightshift status` says why",
            {key: s.last_error is not None for key, s in streams},
        )
        yield gauge(
            "coverage_gaps",
            "Stretches of time between what was read that were not read yet",
            {key: s.gaps for key, s in streams},
        )
        yield gauge(
            "coverage_gap_seconds", "How long these are together", {key: s.gap_seconds for key, s in streams}
        )


def _totals(survey: Survey, sources: Sequence[str]) -> Iterator[GaugeMetricFamily]:
    yield _gauge(
        "rejects_open",
        "Items that could not become rows, and have not come right since",
        _each(sources, survey.open_rejects),
        "source",
    )
    yield _gauge(
        "differences_open",
        "Where a verification found source and warehouse to differ, and none has found otherwise since",
        _each(sources, survey.open_differences),
        "source",
    )
    yield _gauge(
        "data_sessions",
        "BACE's data sessions by status",
        _each(DATA_SESSION_STATUSES, survey.data_sessions),
        "status",
    )
    yield _gauge(
        "blobs", "Beddit's raw signals by status", _each(BLOB_STATUSES, survey.sampled_tracks), "status"
    )
    yield _gauge(
        "workers", "nightshift processes that share the warehouse and are alive", {(): survey.workers}
    )
    yield _gauge("leases_held", "Accounts that one of them works on now", {(): survey.leases})


def _each(known: Iterable[str], counts: Mapping[str, int]) -> Mapping[tuple[str, ...], float]:
    """A number for each name, 0 for those that are not counted."""
    return {(name,): counts.get(name, 0) for name in dict.fromkeys((*known, *counts))}


def _kind(subject: str) -> str:
    return subject if subject == "warehouse" else "account" if "/" in subject else "source"


def _gauge(name: str, text: str, values: Mapping[tuple[str, ...], float], *labels: str) -> GaugeMetricFamily:
    family = GaugeMetricFamily(f"nightshift_{name}", text, labels=labels)
    for key, value in values.items():
        family.add_metric(key, value)
    return family
