"""``--metrics``: a real server, counted while it serves, loses workers, reloads and is upgraded."""

from __future__ import annotations

import re
import signal
import socket
import struct
from collections.abc import Callable
from pathlib import Path

import httpx
import psutil
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from websockets.sync.client import connect as ws_connect

from tests.helpers.master_process import PATIENCE_S, until
from tests.helpers.server import Ended, Serve, ServerProcess, client_of

OPENMETRICS = {"Accept": "application/openmetrics-text; version=1.0.0"}
ON_LOOPBACK = ("--metrics", "127.0.0.1:0")
# A connection for each request.
fresh = httpx.Client(
    trust_env=False, timeout=PATIENCE_S, limits=httpx.Limits(max_keepalive_connections=0), verify=False
)


class Figures:
    """One scrape: every sample by its name and labels."""

    def __init__(self, text: str) -> None:
        self.values: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}
        self.counters: set[tuple[str, frozenset[tuple[str, str]]]] = set()
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                key = sample.name, frozenset(sample.labels.items())
                self.values[key] = sample.value
                if family.type == "counter" or (family.type == "histogram" and sample.name != family.name):
                    self.counters.add(key)

    def __call__(self, name: str, **labels: str) -> float:
        return self.values[f"shardserve_{name}", frozenset(labels.items())]

    def total(self, name: str, **labels: str) -> float:
        """Of all samples of this name that have these labels, among others."""
        wanted = set(labels.items())
        return sum(
            value
            for (one, found), value in self.values.items()
            if one == f"shardserve_{name}" and wanted <= found
        )

    def gone_back(self, before: Figures) -> list[tuple[str, frozenset[tuple[str, str]]]]:
        """What only grows and has not."""
        return [key for key in before.counters if self.values.get(key, -1) < before.values[key]]


def metrics_url(server: ServerProcess, since: int = 0) -> str:
    found = re.findall(r"metrics: (http://\S+)", server.saw(r"metrics: http://", since=since)[since:])
    return str(found[-1])


def scrape(server: ServerProcess, url: str = "") -> Figures:
    answer = fresh.get(url or metrics_url(server), headers=OPENMETRICS)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    return Figures(answer.text)


def shown(server: ServerProcess, what: Callable[[Figures], bool], url: str = "") -> Figures:
    """Scrape until it shows this."""

    def probe() -> Figures | None:
        figures = scrape(server, url)
        return figures if what(figures) else None

    return until(probe, "figures") or scrape(server, url)


# Counting


def test_the_totals_are_exact(serve: Serve) -> None:
    """As soon as a response is there, over all workers: nothing of it is sampled."""
    server = serve("counted:app", "--workers", "2", *ON_LOOPBACK)
    for _ in range(20):  # a connection each, so that both workers have some
        assert fresh.get(f"{server.url}/?204").status_code == 204
    with client_of(server) as client:
        for number in range(10):
            assert client.get("/?404").status_code == 404
            assert client.post("/?201", content=b"x" * number * 100).status_code == 201
        assert client.delete("/?302").status_code == 302
        assert client.request("PROPFIND", "/?200").status_code == 200
        assert client.head("/?503").status_code == 503
    figures = scrape(server)
    assert figures("requests_total", method="GET", status="2xx") == 20
    assert figures("requests_total", method="GET", status="4xx") == 10
    assert figures("requests_total", method="POST", status="2xx") == 10
    assert figures("requests_total", method="DELETE", status="3xx") == 1
    assert figures("requests_total", method="other", status="2xx") == 1
    assert figures("requests_total", method="HEAD", status="5xx") == 1
    assert figures.total("requests_total") == 43
    for histogram in ("request_duration_seconds", "time_to_first_byte_seconds", "response_body_bytes"):
        assert figures(f"{histogram}_count") == 43
    for body in ("request_body_bytes", "response_body_bytes"):
        assert figures(f"{body}_sum") == 4500
        assert figures(f"{body}_bucket", le="100.0") == 43 - 8  # nine bodies, of 100 bytes to 900
        assert figures(f"{body}_bucket", le="1000.0") == 43
    assert 0 < figures("time_to_first_byte_seconds_sum") <= figures("request_duration_seconds_sum")
    assert figures("connections_accepted_total") == 21
    assert figures("connection_reuses_total") == 22
    assert figures("app_errors_total") == 0


def test_failures_and_refusals_have_their_reasons(serve: Serve) -> None:
    server = serve("hello:app", "--workers", "1", *ON_LOOPBACK, quiet=False)
    assert fresh.get(f"{server.url}/error").status_code == 500
    for data in (b"nonsense\r\n\r\n", b"GET / HTTP/3.0\r\nHost: a\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_S) as sock:
            sock.sendall(data)
            while sock.recv(1000):
                pass
    figures = scrape(server)
    assert figures("app_errors_total") == 1
    assert figures("requests_total", method="GET", status="5xx") == 1
    assert figures.total("refusals_total") == 2
    assert figures("refusals_total", reason="bad_request") >= 1


def test_connections_by_what_they_do(serve: Serve, notes: Path) -> None:
    server = serve("probe:app", "--workers", "2", *ON_LOOPBACK)
    address = ("127.0.0.1", server.port)
    with (
        socket.create_connection(address) as idle,
        socket.create_connection(address) as reading,
        socket.create_connection(address) as active,
    ):
        idle.sendall(b"GET /status?200 HTTP/1.1\r\nHost: a\r\n\r\n")
        assert idle.recv(1000).startswith(b"HTTP/1.1 200")
        reading.sendall(b"GET /status?200 HTTP/1.1\r\nHost")
        active.sendall(b"GET /wait HTTP/1.1\r\nHost: a\r\n\r\n")
        figures = shown(
            server,
            lambda now: (
                [now.total("connections", state=one) for one in ("idle", "reading", "active")] == [1, 1, 1]
                and now.total("requests_in_flight") == 1
            ),
        )
        assert figures.total("connections") == 3
        assert figures("requests_abandoned_total") == 0
        active.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        active.close()  # with a reset: whoever only sends no more is still answered
        gone = shown(server, lambda now: now.total("connections") == 2)
        assert gone("requests_abandoned_total") == 1
        assert gone("requests_total", method="GET", status="2xx") == 1
        (notes / "go").touch()
    shown(server, lambda now: now.total("connections") == 0)


def test_websockets_are_counted(serve: Serve) -> None:
    server = serve("ws_app:app", "--workers", "1", *ON_LOOPBACK)
    with ws_connect(f"ws://127.0.0.1:{server.port}/echo", proxy=None) as sock:
        for number in range(5):
            sock.send("x" * number)
            sock.recv(timeout=PATIENCE_S)
        figures = shown(server, lambda now: now.total("connections", state="websocket") == 1)
        assert figures("websockets_accepted_total") == 1
        assert figures("websocket_messages_total", direction="received") == 5
        assert figures("websocket_messages_total", direction="sent") == 5
        assert figures("requests_total", method="GET", status="1xx") == 1


def test_a_worker_has_its_figures(serve: Serve) -> None:
    server = serve("probe:app", "--workers", "2", *ON_LOOPBACK)
    figures = shown(server, lambda now: now("loop_lag_seconds_count") >= 4)
    assert figures("workers", state="ready") == figures("workers_wanted") == 2
    for worker, process in enumerate(server.workers()):
        assert figures("worker_up", worker=str(worker)) == 1
        assert figures("worker_cpu_seconds_total", worker=str(worker)) > 0
        assert 10e6 < figures("worker_resident_memory_bytes", worker=str(worker)) < 500e6
        started = figures("worker_start_time_seconds", worker=str(worker))
        assert abs(started - process.create_time()) < PATIENCE_S
    assert figures("start_time_seconds") <= figures("worker_start_time_seconds", worker="0")
    assert abs(figures("start_time_seconds") - psutil.Process(server.pid).create_time()) < PATIENCE_S
    assert figures("loop_lag_seconds_bucket", le="+Inf") == figures("loop_lag_seconds_count")
    assert figures("config_stale") == 0


# Surviving


def test_what_a_killed_worker_counted_is_kept(serve: Serve) -> None:
    server = serve("probe:app", "--workers", "2", *ON_LOOPBACK, quiet=False)
    for _ in range(20):
        fresh.get(f"{server.url}/status?200")
    before = scrape(server)
    assert before("requests_total", method="GET", status="2xx") == 20
    for victim in server.workers():
        victim.kill()
        restarts = before.total("worker_restarts_total", cause="SIGKILL") + 1
        figures = shown(
            server,
            lambda now, restarts=restarts: (  # type: ignore[misc]
                now.total("worker_restarts_total", cause="SIGKILL") == restarts
                and now("workers", state="ready") == 2
            ),
        )
        assert figures.gone_back(before) == []
        assert figures("requests_total", method="GET", status="2xx") == 20
        before = figures
    for _ in range(5):
        fresh.get(f"{server.url}/status?200")
    after = scrape(server)
    assert after.gone_back(before) == []
    assert after("requests_total", method="GET", status="2xx") == 25
    assert after("request_duration_seconds_count") == 25


def test_a_template_takes_nothing_along(serve: Serve) -> None:
    """--preload: a forked worker that is gone is counted once."""
    server = serve("probe:app", "--workers", "2", "--preload", *ON_LOOPBACK, quiet=False)
    for _ in range(10):
        fresh.get(f"{server.url}/status?200")
    before = scrape(server)
    server.send(signal.SIGHUP)
    after = shown(server, lambda now: now("reloads_total", outcome="done") == 1)
    assert after.gone_back(before) == []
    settled = shown(server, lambda now: now("workers", state="draining") == 0)
    assert settled("requests_total", method="GET", status="2xx") == 10


def test_a_reload_keeps_the_address_and_the_totals(serve: Serve) -> None:
    server = serve("probe:app", "--workers", "2", *ON_LOOPBACK)
    for _ in range(10):
        fresh.get(f"{server.url}/status?200")
    before = scrape(server)
    assert ("shardserve_last_reload_duration_seconds", frozenset()) not in before.values
    url = metrics_url(server)
    server.send(signal.SIGHUP)
    after = shown(server, lambda now: now("reloads_total", outcome="done") == 1, url)
    assert after.gone_back(before) == []
    assert after("requests_total", method="GET", status="2xx") == 10
    assert after.total("worker_restarts_total", cause="reload") == 2
    assert after("last_reload_duration_seconds") > 0
    assert after("last_reload_success_timestamp_seconds") >= after("start_time_seconds")
    assert after("worker_start_time_seconds", worker="0") > before("worker_start_time_seconds", worker="0")
    assert server.log().count("metrics: http") == 1


def test_a_new_master_takes_the_address_over(serve: Serve) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = serve("probe:app", "--workers", "1", "--metrics", str(port))
    url = f"http://127.0.0.1:{port}/metrics"
    fresh.get(f"{server.url}/status?200")
    before = scrape(server, url)
    assert before("requests_total", method="GET", status="2xx") == 1
    since = len(server.log())
    server.upgraded()
    assert metrics_url(server, since) == url
    after = scrape(server, url)
    assert after("start_time_seconds") > before("start_time_seconds")  # so Prometheus knows of the reset
    assert after("requests_total", method="GET", status="2xx") == 0
    assert "no metrics" not in server.log()


# The address


def test_a_unix_socket(serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "m.sock"
    server = serve("probe:app", "--workers", "1", "--metrics", f"unix:{path}")
    server.saw(rf"metrics: unix:{path}$")
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), base_url="http://metrics") as client:
        assert "shardserve_workers_wanted 1.0" in client.get("/metrics").text
    server.stop()
    assert not path.exists()


def test_an_address_that_is_taken_is_named_before_anything_starts(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        ended = Ended(tmp_path, "probe:app", "--metrics", f"127.0.0.1:{port}")
    assert ended.code == 1
    assert f"metrics: cannot listen on 127.0.0.1:{port}: the address is in use" in ended.text
    assert (ended.tracebacks, ended.left) == (0, [])
    assert "Waiting for application startup" not in ended.text


def test_without_the_setting_there_is_no_address(serve: Serve) -> None:
    server = serve("probe:app", "--workers", "1")
    own = {
        one.laddr.port for one in psutil.Process(server.pid).net_connections("tcp") if one.status == "LISTEN"
    }
    assert own == {server.port}
    assert "metrics" not in server.log()


def test_under_a_reloading_developer(serve: Serve) -> None:
    server = serve("probe:app", "--reload", *ON_LOOPBACK)
    assert scrape(server)("workers_wanted") == 1


# Who asks


def test_the_figures_are_for_reading_only(serve: Serve) -> None:
    url = metrics_url(serve("probe:app", "--workers", "1", *ON_LOOPBACK))
    with httpx.Client(trust_env=False, timeout=PATIENCE_S) as client:
        assert client.post(url, content=b"x" * 100_000).status_code == 405
        assert client.get(f"{url}/more").status_code == 404
        head = client.head(url)
        assert (head.status_code, head.content) == (200, b"")
        status = client.get(url.replace("/metrics", "/status.json")).json()
        assert (status["phase"], status["workers"]) == ("serving", 1)
        assert status["history"]["interval_s"] == 1.0


def test_slow_clients_do_not_hold_the_master_up(serve: Serve) -> None:
    """A hundred of them; and a worker that dies meanwhile is replaced."""
    server = serve("probe:app", "--workers", "1", *ON_LOOPBACK, quiet=False)
    url = metrics_url(server)
    port = int(url.split(":")[2].split("/")[0])
    slow = [socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) for _ in range(100)]
    try:
        for sock in slow:
            sock.sendall(b"GET /metrics HTTP/1.1\r\nHost: a\r\nX-Slow: ")
        server.workers()[0].kill()
        figures = shown(server, lambda now: now.total("worker_restarts_total", cause="SIGKILL") == 1)
        assert figures("workers_wanted") == 1
        shown(server, lambda now: now("worker_up", worker="0") == 1)
    finally:
        for sock in slow:
            sock.close()


def test_every_request_is_in_the_next_scrape(serve: Serve) -> None:
    server = serve("probe:app", "--workers", "2", *ON_LOOPBACK)
    url = metrics_url(server)
    with client_of(server) as client:
        before = scrape(server, url)
        for number in range(1, 31):
            client.get("/status?200")
            now = scrape(server, url)
            assert now.gone_back(before) == []
            assert now("requests_total", method="GET", status="2xx") == number
            before = now
