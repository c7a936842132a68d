"""What the server counts, as Prometheus metrics: every family declared once, and filled from one snapshot.

Rules of this file: pure. A Snapshot is plain numbers in base units (seconds, bytes), gathered elsewhere
(``master/figures.py``); ``FAMILIES`` says what there is, ``collect`` fills it, ``exposition`` writes it in
the format that the client asked for. docs/metrics.md has the same list for people, and a test compares
them. prometheus_client is imported here and nowhere else of the server, because it costs 6 MiB and 50 ms:
import this file when there is an address for metrics, not before.

Names are Prometheus' own conventions: base units, ``_total`` behind what only grows. Nothing that a client
sends becomes a label. What ends with its worker (connections, memory) has the label ``worker``, its slot;
what is counted is added up over all workers, those that are gone too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import Final

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

# Of the text format and of OpenMetrics, what the encoders write.
_VERSIONS: Final = {None, "0.0.4", "1.0.0"}
_FORMATS: Final = {"text/plain", "application/openmetrics-text"}


@dataclass(frozen=True, slots=True)
class Distribution:
    """How often a quantity was at most each of ``bounds``, or (the last count) more than all of them;
    not added up. ``total``: the sum of all values.
    """

    bounds: Sequence[float]
    counts: Sequence[int]
    total: float

    def coarse(self, bounds: Sequence[float]) -> Distribution:
        """The same in fewer buckets. Raises ValueError for a bound that this one does not have: what is
        not counted apart cannot be told apart.
        """
        if missing := sorted(set(bounds) - set(self.bounds)):
            raise ValueError(f"not among the bounds: {missing}")
        below = dict(zip(self.bounds, accumulate(self.counts), strict=False))
        steps = [0, *(below[bound] for bound in bounds), sum(self.counts)]
        return Distribution(bounds, [upper - lower for lower, upper in pairwise(steps)], self.total)

    def buckets(self) -> list[tuple[str, float]]:
        """As Prometheus has them: each with all that is below it."""
        names = [*(_number(bound) for bound in self.bounds), "+Inf"]
        return list(zip(names, map(float, accumulate(self.counts)), strict=True))


@dataclass(frozen=True, slots=True)
class WorkerFigures:
    """One slot, with all processes that it has now. Without ``here`` there are none and there should be none:
    only what it has counted is left of it.
    """

    slot: int
    here: bool = True
    up: bool | None = None  # whether a worker serves; None: none should
    started_at: float | None = None  # Unix time; of the process that serves
    connections: Mapping[str, int] = field(default_factory=dict)  # by state
    in_flight: int = 0
    loop_lag_s: float = 0.0
    loop_lag_max_s: float = 0.0
    gc_pause_max_s: float = 0.0
    rss_bytes: int | None = None
    cpu_s: float = 0.0  # of every process that it has had
    restarts: Mapping[str, int] = field(default_factory=dict)  # by cause


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The server at one moment. Counts are since the master's start."""

    version: str
    python: str
    started_at: float  # Unix time
    workers_wanted: int
    workers_by_state: Mapping[str, int]
    workers: Sequence[WorkerFigures]
    master_rss_bytes: int | None
    master_cpu_s: float
    reloads: int
    reload_failures: int
    last_reload_s: float | None  # how long it took
    last_reload_at: float | None  # Unix time of the last that succeeded
    config_stale: bool
    responses: Mapping[tuple[str, str], int]  # by method and class of status
    refusals: Mapping[str, int]  # by reason
    counts: Mapping[str, int]  # by the ``count`` of a family
    duration_s: Distribution
    first_byte_s: Distribution
    request_body_bytes: Distribution
    response_body_bytes: Distribution
    loop_lag_s: Distribution
    gc_pause_s: Distribution


@dataclass(frozen=True, slots=True)
class Family:
    """One metric. ``name`` is without ``_total`` and ``_info``; the unit is the name's own end."""

    name: str
    kind: str  # counter, gauge, histogram, info
    help: str
    labels: tuple[str, ...] = ()
    count: str = ""  # of Snapshot.counts: that is all there is to it

    @property
    def unit(self) -> str:
        return next((unit for unit in ("seconds", "bytes") if self.name.endswith(f"_{unit}")), "")

    @property
    def sample(self) -> str:
        """The name that queries use; a histogram's has _bucket, _sum and _count behind it."""
        return self.name + {"counter": "_total", "info": "_info"}.get(self.kind, "")


def _counter(name: str, text: str, *labels: str, count: str = "") -> Family:
    return Family(f"shardserve_{name}", "counter", text, labels, count)


def _gauge(name: str, text: str, *labels: str) -> Family:
    return Family(f"shardserve_{name}", "gauge", text, labels)


def _histogram(name: str, text: str) -> Family:
    return Family(f"shardserve_{name}", "histogram", text)


FAMILIES: Final = (
    Family("shardserve_build", "info", "The versions of shardserve and of Python."),
    _gauge("start_time_seconds", "When the master started, in Unix time."),
    _gauge("workers_wanted", "How many workers there should be."),
    _gauge("workers", "Worker processes, and slots that wait for one, by what they do.", "state"),
    # Requests
    _counter("requests", "Responses, by method and by class of status.", "method", "status"),
    _histogram("request_duration_seconds", "From a request's first line to its response's last byte."),
    _histogram("time_to_first_byte_seconds", "From a request's first line to its response's head."),
    _histogram("request_body_bytes", "Sizes of request bodies."),
    _histogram("response_body_bytes", "Sizes of response bodies."),
    _gauge("requests_in_flight", "Requests that the app has and has not finished.", "worker"),
    _counter(
        "requests_abandoned", "Requests whose client went before the response's end.", count="abandoned"
    ),
    _counter("app_errors", "Requests that the app failed.", count="app_errors"),
    _counter("refusals", "What was refused or cut, by the reason.", "reason"),
    # Connections
    _gauge("connections", "Open connections, by what they do.", "worker", "state"),
    _counter("connections_accepted", "Connections that were accepted.", count="accepted"),
    _counter("connection_reuses", "Requests that were not the first on their connection.", count="reused"),
    _counter("accept_pauses", "Pauses in accepting for want of descriptors.", count="accept_pauses"),
    _counter("websockets_accepted", "WebSockets that the app accepted.", count="websockets_accepted"),
    _counter("websocket_messages", "WebSocket messages, by direction.", "direction"),
    # Workers
    _histogram("loop_lag_seconds", "How late event loops turned, sampled four times a second."),
    _histogram("gc_pause_seconds", "How long runs of the garbage collector took."),
    _gauge("worker_loop_lag_seconds", "How late the event loop turned the last time.", "worker"),
    _gauge("worker_loop_lag_max_seconds", "How late it turned at worst since its start.", "worker"),
    _gauge("worker_gc_pause_max_seconds", "The longest run of its garbage collector.", "worker"),
    _gauge("worker_up", "Whether a worker serves in this slot.", "worker"),
    _gauge("worker_start_time_seconds", "When the serving worker started, in Unix time.", "worker"),
    _gauge("worker_resident_memory_bytes", "Resident memory, shared pages included.", "worker"),
    _counter("worker_cpu_seconds", "CPU time of all processes that the slot has had.", "worker"),
    _counter("worker_restarts", "Processes that were replaced or did not start.", "worker", "cause"),
    # The server
    _gauge("master_resident_memory_bytes", "Resident memory of the master."),
    _counter("master_cpu_seconds", "CPU time of the master."),
    _counter("reloads", "Rolling reloads, by how they came out.", "outcome"),
    _gauge("last_reload_duration_seconds", "How long the last reload took."),
    _gauge("last_reload_success_timestamp_seconds", "The end of the last reload that succeeded, Unix time."),
    _gauge("config_stale", "Whether what runs is not what is configured."),
    _counter(
        "access_lines_lost", "Lines of the access log that were not written.", count="access_lines_lost"
    ),
)


# Three bounds a decade are enough for histogram_quantile, and few enough for a time series each.
DURATION_BOUNDS_S: Final = tuple(
    step * 10.0**power / 1e6 for power in range(1, 8) for step in (1, 2.5, 5)
)  # 10 µs to 50 s
# A cause that comes up for the first time with the value 1 is no increase to rate() and increase().
CAUSES: Final = ("reload", "start", "hung", "slow start", "unresponsive", "SIGKILL", "SIGSEGV", "SIGABRT")


def collect(snapshot: Snapshot) -> Iterator[Metric]:
    """Every family of FAMILIES, filled, in that order."""
    values = _values(snapshot)
    for family in FAMILIES:
        key = family.name.removeprefix("shardserve_")
        found = [((), snapshot.counts[family.count])] if family.count else values[key]
        yield _metric(family, found)


Value = float | Distribution | Mapping[str, str]
Values = Sequence[tuple[tuple[str, ...], Value]]


def _metric(family: Family, values: Values) -> Metric:
    """``values``: those of the labels, and the value."""
    about = family.name, family.help
    made: CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily | InfoMetricFamily
    if family.kind == "counter":
        made = CounterMetricFamily(*about, labels=family.labels, unit=family.unit)
    elif family.kind == "gauge":
        made = GaugeMetricFamily(*about, labels=family.labels, unit=family.unit)
    elif family.kind == "histogram":
        made = HistogramMetricFamily(*about, labels=family.labels, unit=family.unit)
    else:
        made = InfoMetricFamily(*about, labels=family.labels)
    for labels, value in values:
        if isinstance(made, HistogramMetricFamily):
            assert isinstance(value, Distribution)
            made.add_metric(labels, value.buckets(), value.total)
        elif isinstance(made, InfoMetricFamily):
            assert isinstance(value, dict)
            made.add_metric(labels, value)
        else:
            assert isinstance(value, int | float)
            made.add_metric(labels, value)
    return made


def _values(snapshot: Snapshot) -> dict[str, Values]:
    """Of every family that is not one count."""
    counts = snapshot.counts
    return {
        "build": [((), {"version": snapshot.version, "python": snapshot.python})],
        "start_time_seconds": [((), snapshot.started_at)],
        "workers_wanted": [((), snapshot.workers_wanted)],
        "workers": [((state,), count) for state, count in snapshot.workers_by_state.items()],
        "requests": [(labels, count) for labels, count in snapshot.responses.items()],
        "request_duration_seconds": [((), snapshot.duration_s.coarse(DURATION_BOUNDS_S))],
        "time_to_first_byte_seconds": [((), snapshot.first_byte_s.coarse(DURATION_BOUNDS_S))],
        "request_body_bytes": [((), snapshot.request_body_bytes)],
        "response_body_bytes": [((), snapshot.response_body_bytes)],
        "refusals": [((reason,), count) for reason, count in snapshot.refusals.items()],
        "websocket_messages": [
            ((direction,), counts[f"ws_messages_{direction}"]) for direction in ("received", "sent")
        ],
        "loop_lag_seconds": [((), snapshot.loop_lag_s)],
        "gc_pause_seconds": [((), snapshot.gc_pause_s)],
        "master_resident_memory_bytes": _known(snapshot.master_rss_bytes),
        "master_cpu_seconds": [((), snapshot.master_cpu_s)],
        "reloads": [(("done",), snapshot.reloads), (("failed",), snapshot.reload_failures)],
        "last_reload_duration_seconds": _known(snapshot.last_reload_s),
        "last_reload_success_timestamp_seconds": _known(snapshot.last_reload_at),
        "config_stale": [((), int(snapshot.config_stale))],
        **_values_of_workers(snapshot.workers),
    }


def _values_of_workers(workers: Sequence[WorkerFigures]) -> dict[str, Values]:
    here = [one for one in workers if one.here]

    def gauge(value: Callable[[WorkerFigures], float | None]) -> Values:
        return [((str(one.slot),), found) for one in here for found in (value(one),) if found is not None]

    return {
        "requests_in_flight": gauge(lambda one: one.in_flight),
        "connections": [
            ((str(one.slot), state), count) for one in here for state, count in one.connections.items()
        ],
        "worker_loop_lag_seconds": gauge(lambda one: one.loop_lag_s),
        "worker_loop_lag_max_seconds": gauge(lambda one: one.loop_lag_max_s),
        "worker_gc_pause_max_seconds": gauge(lambda one: one.gc_pause_max_s),
        "worker_up": gauge(lambda one: None if one.up is None else float(one.up)),
        "worker_start_time_seconds": gauge(lambda one: one.started_at),
        "worker_resident_memory_bytes": gauge(lambda one: one.rss_bytes),
        "worker_cpu_seconds": [((str(one.slot),), one.cpu_s) for one in workers],
        "worker_restarts": [
            ((str(one.slot), cause), one.restarts.get(cause, 0))
            for one in workers
            for cause in (*CAUSES, *sorted(set(one.restarts) - set(CAUSES)))
        ],
    }


def _known(value: float | None) -> Values:
    return [] if value is None else [((), value)]


# As text


def _number(value: float) -> str:
    text: str = floatToGoString(value)  # type: ignore[no-untyped-call]
    return text


class _Collected(Collector):
    """What prometheus_client's encoders want to be given."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def collect(self) -> Iterator[Metric]:
        return collect(self._snapshot)


def exposition(snapshot: Snapshot, accept: str = "") -> tuple[str, bytes]:
    """The content type and the text, in the format that this Accept field asks for: the text format of
    Prometheus, or OpenMetrics.
    """
    encode, content_type = choose_encoder(_understood(accept))
    return content_type, encode(_Collected(snapshot))


def _understood(accept: str) -> str:
    """Of an Accept field, the formats and versions that are agreed.

    prometheus_client repeats any version and any escaping in its answer. All our names are plain, so there
    is nothing to escape.
    """
    found = []
    for one in accept.split(","):
        name, *parameters = (part.strip().lower() for part in one.split(";"))
        given = dict(part.split("=", 1) for part in parameters if "=" in part)
        version = given.get("version")
        unwanted = re.fullmatch(r"0(\.0*)?", given.get("q", "1")) is not None
        if name in _FORMATS and version in _VERSIONS and not unwanted:
            found.append(name if version is None else f"{name}; version={version}")
    return ", ".join(found)
