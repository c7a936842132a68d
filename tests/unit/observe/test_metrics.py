"""The metrics as Prometheus reads them: names, units, sums, both formats; the documents that name them."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from shardserve import stats
from shardserve.observe.metrics import (
    CAUSES,
    DURATION_BOUNDS_S,
    FAMILIES,
    Distribution,
    Snapshot,
    WorkerFigures,
    exposition,
)

ROOT = Path(__file__).parents[3]
DOCUMENT = ROOT / "docs" / "metrics.md"
DASHBOARD = ROOT / "docs" / "grafana" / "shardserve.json"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8; escaping=underscores"
PLAIN = "text/plain; version=0.0.4; charset=utf-8"


def durations(**counts: int) -> Distribution:
    """``at_100=3``: three requests in the bucket that ends with 100 µs."""
    buckets = [0] * stats.DURATION.buckets
    for name, count in counts.items():
        buckets[stats.DURATION_BOUNDS_US.index(int(name.removeprefix("at_")))] = count
    return Distribution([bound / 1e6 for bound in stats.DURATION_BOUNDS_US], buckets, 1.5)


def sizes(*counts: int) -> Distribution:
    buckets = [*counts, *[0] * (stats.REQUEST_SIZE.buckets - len(counts))]
    return Distribution(stats.SIZE_BOUNDS_BYTES, buckets, 12345)


def pauses(*counts: int) -> Distribution:
    buckets = [*counts, *[0] * (stats.LOOP_LAG.buckets - len(counts))]
    return Distribution([bound / 1e6 for bound in stats.PAUSE_BOUNDS_US], buckets, 0.25)


WORKERS = [
    WorkerFigures(
        slot=0,
        up=True,
        started_at=1700000000.5,
        connections={"idle": 3, "active": 1},
        in_flight=1,
        loop_lag_s=0.0005,
        loop_lag_max_s=0.125,
        gc_pause_max_s=0.03,
        rss_bytes=50_000_000,
        cpu_s=12.5,
        restarts={"reload": 2, "exit 3": 1},
    ),
    WorkerFigures(slot=1, up=False, cpu_s=3.0),  # it waits to start again
    WorkerFigures(slot=2, here=False, cpu_s=7.0, restarts={"SIGKILL": 1}),  # gone for good
]
SNAPSHOT = Snapshot(
    version="1.2.3",
    python="3.11.7",
    started_at=1700000000.25,
    workers_wanted=2,
    workers_by_state={"ready": 1, "backoff": 1},
    workers=WORKERS,
    master_rss_bytes=20_000_000,
    master_cpu_s=1.25,
    reloads=2,
    reload_failures=1,
    last_reload_s=3.5,
    last_reload_at=1700000100.0,
    config_stale=True,
    responses={("GET", "2xx"): 10, ("other", "5xx"): 1},
    refusals={"bad_request": 4, "other": 0},
    counts={name: number for number, name in enumerate(stats.COUNTERS, 1)},
    duration_s=durations(at_70=1, at_100=2, at_150=4, at_250=8, at_100000000=16),
    first_byte_s=durations(),
    request_body_bytes=sizes(5),
    response_body_bytes=sizes(0, 7),
    loop_lag_s=pauses(9, 1),
    gc_pause_s=pauses(2),
)


def samples(text: bytes) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    found = {}
    for family in parse_text(text.decode()):
        for one in family.samples:
            key = one.name, frozenset(one.labels.items())
            assert key not in found, f"twice: {key}"
            found[key] = one.value
    return found


def value(name: str, snapshot: Snapshot = SNAPSHOT, **labels: str) -> float | None:
    return samples(exposition(snapshot)[1]).get((f"shardserve_{name}", frozenset(labels.items())))


def test_counters_and_gauges_have_their_numbers() -> None:
    assert value("build_info", version="1.2.3", python="3.11.7") == 1
    assert value("start_time_seconds") == 1700000000.25
    assert value("workers_wanted") == 2
    assert value("workers", state="backoff") == 1
    assert value("requests_total", method="GET", status="2xx") == 10
    assert value("requests_total", method="other", status="5xx") == 1
    assert value("refusals_total", reason="bad_request") == 4
    assert value("websocket_messages_total", direction="received") == SNAPSHOT.counts["ws_messages_received"]
    assert value("websocket_messages_total", direction="sent") == SNAPSHOT.counts["ws_messages_sent"]
    assert value("master_resident_memory_bytes") == 20_000_000
    assert value("master_cpu_seconds_total") == 1.25
    assert value("reloads_total", outcome="done") == 2
    assert value("reloads_total", outcome="failed") == 1
    assert value("last_reload_duration_seconds") == 3.5
    assert value("last_reload_success_timestamp_seconds") == 1700000100.0
    assert value("config_stale") == 1


@pytest.mark.parametrize("family", [one for one in FAMILIES if one.count], ids=lambda one: one.name)
def test_a_plain_count_is_that_figure_of_the_page(family: Any) -> None:
    assert family.count in stats.COUNTERS
    assert value(family.sample.removeprefix("shardserve_")) == SNAPSHOT.counts[family.count]


def test_a_worker_has_its_gauges() -> None:
    assert value("worker_up", worker="0") == 1
    assert value("worker_start_time_seconds", worker="0") == 1700000000.5
    assert value("connections", worker="0", state="idle") == 3
    assert value("requests_in_flight", worker="0") == 1
    assert value("worker_loop_lag_seconds", worker="0") == 0.0005
    assert value("worker_loop_lag_max_seconds", worker="0") == 0.125
    assert value("worker_gc_pause_max_seconds", worker="0") == 0.03
    assert value("worker_resident_memory_bytes", worker="0") == 50_000_000


def test_a_slot_without_a_worker_is_down_and_has_no_memory() -> None:
    assert value("worker_up", worker="1") == 0
    assert value("requests_in_flight", worker="1") == 0
    assert value("worker_start_time_seconds", worker="1") is None
    assert value("worker_resident_memory_bytes", worker="1") is None


def test_a_slot_that_is_not_wanted_keeps_what_it_has_counted_and_nothing_else() -> None:
    found = {name for name, labels in samples(exposition(SNAPSHOT)[1]) if ("worker", "2") in labels}
    assert found == {"shardserve_worker_cpu_seconds_total", "shardserve_worker_restarts_total"}
    assert value("worker_cpu_seconds_total", worker="2") == 7
    assert value("worker_restarts_total", worker="2", cause="SIGKILL") == 1


def test_restarts_begin_with_zero_so_that_the_first_one_is_an_increase() -> None:
    for cause in CAUSES:
        assert value("worker_restarts_total", worker="1", cause=cause) == 0
    assert value("worker_restarts_total", worker="0", cause="reload") == 2
    assert value("worker_restarts_total", worker="0", cause="exit 3") == 1  # one that nobody could foresee


def test_what_is_not_known_is_not_there() -> None:
    unknown = dataclasses.replace(SNAPSHOT, last_reload_s=None, last_reload_at=None, master_rss_bytes=None)
    for name in ("last_reload_duration_seconds", "last_reload_success_timestamp_seconds"):
        assert value(name, unknown) is None
    assert value("master_resident_memory_bytes", unknown) is None


# Histograms


def test_a_bucket_has_all_that_is_below_it() -> None:
    name = "request_duration_seconds"
    assert value(f"{name}_bucket", le="5e-05") == 0
    assert value(f"{name}_bucket", le="0.0001") == 3
    assert value(f"{name}_bucket", le="0.00025") == 3 + 4 + 8  # two fine ones
    assert value(f"{name}_bucket", le="50.0") == 15
    assert value(f"{name}_bucket", le="+Inf") == 31  # 100 s is not a bound of ours
    assert value(f"{name}_count") == 31
    assert value(f"{name}_sum") == 1.5
    assert value("request_body_bytes_bucket", le="100.0") == 5
    assert value("response_body_bytes_bucket", le="100.0") == 0
    assert value("response_body_bytes_bucket", le="1000.0") == 7
    assert value("loop_lag_seconds_bucket", le="0.0001") == 9
    assert value("loop_lag_seconds_count") == 10
    assert value("gc_pause_seconds_count") == 2


def test_every_bound_is_one_that_is_counted() -> None:
    """A value on a bound is in its bucket: exactly, not nearly the same number."""
    counted = {bound / 1e6 for bound in stats.DURATION_BOUNDS_US}
    assert set(DURATION_BOUNDS_S) <= counted
    assert (DURATION_BOUNDS_S[0], DURATION_BOUNDS_S[-1]) == (1e-05, 50.0)
    written = {f"{one:g}" for one in DURATION_BOUNDS_S}
    assert {"1e-05", "2.5e-05", "0.00025", "0.1", "2.5", "50"} <= written


def test_a_bound_that_is_not_counted_is_refused() -> None:
    with pytest.raises(ValueError, match=r"not among the bounds: \[0.3\]"):
        durations().coarse([0.1, 0.3])


def test_nothing_is_lost_in_fewer_buckets() -> None:
    fine = Distribution((1, 2, 3), (1, 2, 4, 8), 9.0)
    assert fine.coarse((2,)) == Distribution((2,), [3, 12], 9.0)
    assert fine.coarse(()) == Distribution((), [15], 9.0)


# The formats


def families(accept: str) -> Iterator[Any]:
    content_type, text = exposition(SNAPSHOT, accept)
    assert content_type == OPENMETRICS
    return iter(parse_openmetrics(text.decode()))


def test_openmetrics_is_what_its_own_parser_takes() -> None:
    found = {one.name: one for one in families("application/openmetrics-text; version=1.0.0")}
    assert list(found) == [one.name for one in FAMILIES]
    for family in FAMILIES:
        one = found[family.name]
        assert (one.type, one.unit, one.documentation) == (family.kind, family.unit, family.help)
        for sample in one.samples:
            if family.kind != "info":
                assert set(sample.labels) - {"le"} == set(family.labels)


def test_every_family_has_a_sample() -> None:
    assert [
        one.name for one in families("application/openmetrics-text; version=1.0.0") if not one.samples
    ] == []


def test_openmetrics_ends_with_its_mark_and_the_text_format_does_not() -> None:
    assert exposition(SNAPSHOT, "application/openmetrics-text")[1].endswith(b"\n# EOF\n")
    assert b"EOF" not in exposition(SNAPSHOT)[1]


# What Prometheus 3 sends, and older ones did; then what nobody should.
PROMETHEUS_3 = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
    "application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,"
    "text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        ("", PLAIN),
        ("*/*", PLAIN),
        ("text/html,application/xhtml+xml,*/*;q=0.8", PLAIN),
        ("text/plain;version=0.0.4", PLAIN),
        ("text/plain; version=1.0.0", "text/plain; version=1.0.0; charset=utf-8; escaping=underscores"),
        (PROMETHEUS_3, OPENMETRICS),
        ("application/openmetrics-text", "application/openmetrics-text; version=1.0.0; charset=utf-8"),
        ("APPLICATION/OPENMETRICS-TEXT; VERSION=1.0.0", OPENMETRICS),
        ("application/openmetrics-text;q=0, text/plain", PLAIN),
        ("application/openmetrics-text;version=9.9.9", PLAIN),
        ("application/openmetrics-text;version=1.0.0;escaping=values", OPENMETRICS),
        ("application/openmetrics-text;version=\x01\xff", PLAIN),
        ("text/plain;version=x.y", PLAIN),
        (",;=,;;q=,", PLAIN),
    ],
)
def test_the_format_is_negotiated(accept: str, content_type: str) -> None:
    assert exposition(SNAPSHOT, accept)[0] == content_type


def test_a_label_can_be_any_text() -> None:
    odd = dataclasses.replace(SNAPSHOT, refusals={'a"b\\c\nd é': 3})
    assert value("refusals_total", odd, reason='a"b\\c\nd é') == 3
    text = exposition(odd, "application/openmetrics-text; version=1.0.0")[1]
    [family] = [one for one in parse_openmetrics(text.decode()) if one.name == "shardserve_refusals"]
    assert family.samples[0].labels == {"reason": 'a"b\\c\nd é'}


def test_the_names_are_as_prometheus_wants_them() -> None:
    for family in FAMILIES:
        assert re.fullmatch(r"shardserve_[a-z]+(_[a-z]+)*", family.name)
        assert not family.name.endswith(("_total", "_info", "_count", "_sum", "_bucket", "_created"))
        assert family.help.endswith(".")
    assert len({one.name for one in FAMILIES}) == len(FAMILIES)


# What names them


def names() -> set[str]:
    """Every sample's name, as queries have it."""
    return {name for name, _ in samples(exposition(SNAPSHOT)[1])}


def named_in(text: str) -> set[str]:
    return set(re.findall(r"\bshardserve_[a-z0-9_]+", text))


def test_the_document_lists_every_metric_with_its_type_and_labels() -> None:
    listed = {}
    for line in DOCUMENT.read_text().splitlines():
        if found := re.match(r"\| `(shardserve_\w+)` \| (\w+) \| ([^|]*) \| (.+) \|$", line):
            listed[found[1]] = found[2], tuple(re.findall(r"`(\w+)`", found[3]))
    wanted = {one.sample: (one.kind, one.labels) for one in FAMILIES}
    wanted["shardserve_build_info"] = "info", ("version", "python")
    assert listed == wanted


def test_the_document_names_no_metric_that_is_not_there() -> None:
    histograms = {one.name for one in FAMILIES if one.kind == "histogram"}
    assert named_in(DOCUMENT.read_text()) - names() - histograms == set()


def rules() -> str:
    found = re.search(r"```yaml\n# shardserve.rules.yml\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    assert found
    return found[1]


def test_the_alerts_are_complete() -> None:
    [group] = yaml.safe_load(rules())["groups"]
    assert len(group["rules"]) >= 8
    for rule in group["rules"]:
        assert rule["alert"].startswith("Shardserve")
        assert rule["annotations"]["summary"].endswith(".")
        assert named_in(rule["expr"]) or rule["expr"].startswith("up{")


@pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool (package prometheus)")
def test_the_alerts_are_what_prometheus_takes(tmp_path: Path) -> None:
    file = tmp_path / "rules.yml"
    file.write_text(rules())
    done = subprocess.run(
        ["promtool", "check", "rules", str(file)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool (package prometheus)")
def test_prometheus_has_nothing_to_say_against_the_names() -> None:
    text = exposition(SNAPSHOT)[1]
    done = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def queries() -> list[str]:
    dashboard = json.loads(DASHBOARD.read_text())
    return [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])]


def test_the_dashboard_asks_for_metrics_that_are_there() -> None:
    assert len(queries()) > 20
    variables = json.dumps(json.loads(DASHBOARD.read_text())["templating"])
    asked = named_in("\n".join([*queries(), variables]))
    assert asked - names() == set()
    assert len(asked) > 20


def test_the_dashboard_can_be_imported_into_any_grafana() -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    assert dashboard["id"] is None
    assert [one["name"] for one in dashboard["__inputs"]] == ["DS_PROMETHEUS"]
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(ids) == len(set(ids))
    for panel in dashboard["panels"]:
        if panel["type"] != "row":
            assert panel["datasource"]["uid"] == "${DS_PROMETHEUS}", panel["title"]
    taken: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, f"{panel['title']} overlaps"
        assert at["x"] + at["w"] <= 24
        taken |= cells
