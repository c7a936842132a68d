"""Processes: started pinned, metered, stopped by pid; and the probe that admits them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from perf import cc, host, process
from perf.peer_env import ROOT
from perf.probe import ProbeError, ask
from perf.process import Meter, Process, StartError, cpu_clock_ns, free_port, stop_all
from perf.scenarios import BY_NAME

PLAIN = BY_NAME["plain"]
CORE = min(os.sched_getaffinity(0))
FOREVER = "import time; time.sleep(600)"
CHILD = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {FOREVER!r}]); "
STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); "


def start(tmp_path: Path, code: str) -> Process:
    argv = [sys.executable, "-c", code]
    return Process(argv, port=free_port(), core=CORE, log_path=tmp_path / "log")


@contextmanager
def answering(*pieces: bytes) -> Iterator[int]:
    """A server for one connection that sends ``pieces`` whatever it is asked, then closes."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            client, _ = listener.accept()
            with client:
                client.recv(65536)
                for piece in pieces:
                    client.sendall(piece)

        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1]
        thread.join(5)


def response(body: bytes = PLAIN.expect_body, status: str = "200 OK") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def test_probe_accepts_every_framing() -> None:
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nHello\r\n8\r\n, world!\r\n0\r\n\r\n"
    until_close = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + PLAIN.expect_body
    for pieces in ([response()], [chunked[:20], chunked[20:]], [until_close]):
        with answering(*pieces) as port:
            ask(port, PLAIN, count=1, timeout_s=5)


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        (response(status="500 Oops"), "status 500"),
        (response(b"Hello?"), "body b'Hello\\?'"),
        (b"SSH-2.0-x\r\n", "not HTTP"),
        (b"", "0 of 1 requests answered"),
    ],
)
def test_probe_says_what_is_wrong(answer: bytes, complaint: str) -> None:
    with answering(answer) as port, pytest.raises(ProbeError, match=complaint):
        ask(port, PLAIN, count=1, timeout_s=5)


def test_probe_counts_pipelined_answers() -> None:
    with answering(response() * 2) as port:
        ask(port, PLAIN, count=2, timeout_s=5)
    with answering(response()) as port, pytest.raises(ProbeError, match="1 of 2"):
        ask(port, PLAIN, count=2, timeout_s=5)


def test_a_server_that_ends_at_once_is_reported_with_its_last_words(tmp_path: Path) -> None:
    server = start(tmp_path, "print('first'); raise SystemExit('no such app')")
    with pytest.raises(StartError, match=r"ended while starting \(exit code 1\): no such app") as caught:
        server.wait_ready(PLAIN)
    assert "first" in caught.value.log
    stop_all([server])


def test_the_exception_is_shown_rather_than_the_goodbye(tmp_path: Path) -> None:
    server = start(tmp_path, "print('ImportError: no app'); print('INFO: stopped'); raise SystemExit(3)")
    with pytest.raises(StartError, match="ImportError: no app"):
        server.wait_ready(PLAIN)
    stop_all([server])


def test_a_server_that_never_answers_is_given_up(tmp_path: Path) -> None:
    server = start(tmp_path, FOREVER)
    with pytest.raises(StartError, match="no answer within"):
        server.wait_ready(PLAIN, deadline_s=0.2)
    stop_all([server])
    assert server.ended() == "signal SIGTERM"


def test_it_runs_on_its_core_from_the_start(tmp_path: Path) -> None:
    server = start(tmp_path, "import os; print(os.sched_getaffinity(0), flush=True)" + "; " + FOREVER)
    _wait_for_log(server, "}")
    stop_all([server])
    assert server.log_tail() == f"{{{CORE}}}"


def test_what_ignores_term_is_killed_with_its_children(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "STOP_DEADLINE_S", 0.2)
    server = start(tmp_path, CHILD + STUBBORN + FOREVER)
    _wait_for_log(server, "up")
    children = psutil.Process(server.pid).children()
    stop_all([server])
    assert server.ended() == "signal SIGKILL"
    assert len(children) == 1
    psutil.wait_procs(children, timeout=5)
    assert not any(one.is_running() and one.status() != psutil.STATUS_ZOMBIE for one in children)


def test_a_frozen_server_still_stops(tmp_path: Path) -> None:
    server = start(tmp_path, FOREVER)
    server.freeze()
    began = time.monotonic()
    stop_all([server])
    assert server.ended() == "signal SIGTERM"
    assert time.monotonic() - began < process.STOP_DEADLINE_S


def test_the_cpu_clock_counts_in_less_than_ticks() -> None:
    before = cpu_clock_ns(os.getpid())
    sum(range(20_000))
    assert 0 < cpu_clock_ns(os.getpid()) - before < 1e9
    with pytest.raises(OSError, match="No such process"):
        cpu_clock_ns(2**22 + 1)


def test_meter_leaves_out_processes_that_went() -> None:
    before = Meter({1: 100, 2: 500}, 0)
    assert Meter({1: 150, 3: 7}, 0).cpu_since(before) == 57


def test_meter_sees_the_whole_tree(tmp_path: Path) -> None:
    server = start(tmp_path, CHILD + "print('up', flush=True); " + FOREVER)
    _wait_for_log(server, "up")
    meter = server.meter()
    stop_all([server])
    assert len(meter.cpu_ns) == 2
    assert meter.rss_kib > 1000


@pytest.mark.parametrize("name", ["floor", "ws_floor", "ws_load", "rate_load"])
def test_the_c_programs_compile_without_a_warning(name: str, tmp_path: Path) -> None:
    source = ROOT / "perf" / f"{name}.c"
    command = [
        "cc",
        "-std=c11",
        "-O2",
        "-Wall",
        "-Wextra",
        "-Werror",
        str(source),
        "-o",
        str(tmp_path / name),
    ]
    subprocess.run(command, check=True)


def test_floor_answers_heads_cut_anywhere(tmp_path: Path) -> None:
    port = free_port()
    server = Process(
        [str(cc.build("floor", tmp_path)), str(port)], port=port, core=CORE, log_path=tmp_path / "log"
    )
    try:
        server.wait_ready(replace(PLAIN, pipeline=40))
        with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
            for byte in b"GET / HTTP/1.1\r\nHost: h\r\n\r\n":
                client.sendall(bytes([byte]))
            assert client.recv(65536).endswith(PLAIN.expect_body)
    finally:
        stop_all([server])


def test_host_facts_read_what_there_is() -> None:
    assert host.cpu_model("processor\t: 0\nmodel name\t: Some CPU\n") == "Some CPU"
    assert host.cpu_model("") != ""
    assert not host.share_a_core(10_000, 10_001)
    facts = host.facts()
    assert facts["memory_mib"] > 0
    assert facts["sysctl"]["net.ipv4.ip_local_port_range"].split()[0].isdigit()


def _wait_for_log(server: Process, text: str) -> None:
    give_up = time.monotonic() + 10
    while text not in server.log_tail():
        assert time.monotonic() < give_up, server.log_tail()
        time.sleep(0.01)
