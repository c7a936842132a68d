"""The bench from end to end on the floor, and its command line."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from subprocess import PIPE

import psutil
import pytest
from click.testing import CliRunner

from perf import cc, cli, scale, tables
from perf.bench import Bench
from perf.interrupts import Interrupts
from perf.peer_env import ROOT, Interpreters
from perf.peers import BY_NAME as SERVERS
from perf.results import IDLE_LIMIT
from perf.rounds import Settings, obstacle
from perf.scenarios import BY_NAME as SCENARIOS

CPUS = sorted(os.sched_getaffinity(0))
FLOOR = SERVERS["floor"]
SHORT = Settings(server_cores=(CPUS[0],), load_cores=(CPUS[-1],), rounds=1, seconds=0.2, connections=4)

needs_wrk = pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed")


@needs_wrk
def test_two_servers_two_scenarios_end_to_end(tmp_path: Path) -> None:
    other = replace(FLOOR, name="other", what="the floor again")
    broken = replace(FLOOR, name="broken", argv=("false", "{port}"))
    absent = SERVERS["granian"]
    bench = Bench(
        [FLOOR, other, broken, absent],
        [SCENARIOS["plain"], SCENARIOS["pipelined-16"], SCENARIOS["post-1k"]],
        SHORT,
        interpreters=Interpreters.find(tmp_path / "no-peers"),
    )
    report = bench.run()
    assert not report.interrupted
    plain, pipelined, post = report.scenarios
    for result in (plain, pipelined):
        assert result.samples.keys() == {"floor", "other"}
        assert all(0.1 < rows[0].cpu_us < 1000 for rows in result.samples.values())
        assert result.skipped["broken"].startswith("ended while starting (exit code 1)")
        assert "package granian is not installed" in result.skipped["granian"]
    assert (plain.samples["floor"][0].p99_us or 0) > 0
    assert post.samples == {}, "the floor cannot answer a POST"
    text = tables.render(report, baseline="other")
    assert "× other" in text
    assert not psutil.Process().children(recursive=True)


def _without(monkeypatch: pytest.MonkeyPatch, *programs: str) -> None:
    """A machine that lacks these programs."""
    real = shutil.which
    monkeypatch.setattr(shutil, "which", lambda name: None if name in programs else real(name))


def test_a_scenario_whose_tool_is_missing_is_skipped_and_the_package_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _without(monkeypatch, "wrk", "openssl")
    scenarios = [SCENARIOS[name] for name in ("plain", "tls", "ws-echo-64")]
    report = Bench([SERVERS["ws-floor"], FLOOR], scenarios, SHORT).run()
    plain, tls, echo = report.scenarios
    assert plain.reason == tls.reason == "wrk is not on PATH; install the Debian package wrk"
    assert not plain.samples
    assert echo.reason is None
    assert len(echo.samples["ws-floor"]) == 1
    assert "skipped: wrk is not on PATH" in tables.render(report)


@pytest.mark.parametrize(
    ("programs", "scenario", "rate", "package"),
    [
        (("wrk",), "plain", None, "wrk"),
        (("cc",), "ws-echo-64", None, "gcc"),
        (("cc",), "plain", 10.0, "gcc"),
        (("openssl",), "tls", None, "openssl"),
        (("h2load",), "h2-plain", None, "nghttp2-client"),
        (("openssl",), "h2-tls", None, "openssl"),
    ],
)
def test_what_a_scenario_needs_and_lacks(
    monkeypatch: pytest.MonkeyPatch,
    programs: tuple[str, ...],
    scenario: str,
    rate: float | None,
    package: str,
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: f"/bin/{name}")
    settings = replace(SHORT, rate_per_s=rate)
    assert obstacle(SCENARIOS[scenario], settings) is None
    _without(monkeypatch, *programs)
    why = obstacle(SCENARIOS[scenario], settings)
    assert why == f"{programs[0]} is not on PATH; install the Debian package {package}"


def test_a_compiler_that_does_not_compile_is_a_reason_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str, folder: Path) -> Path:
        raise cc.CompileError(f"{name}.c does not compile", "fatal error: stdio.h: No such file or directory")

    monkeypatch.setattr(cc, "build", fail)
    (result,) = Bench([SERVERS["ws-floor"]], [SCENARIOS["ws-echo-64"]], SHORT).run().scenarios
    assert result.reason == "ws_load.c does not compile"
    assert not result.samples


def test_with_nothing_left_to_run_the_command_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    _without(monkeypatch, "wrk")
    done = CliRunner().invoke(cli.main, ["bench", "--servers", "floor", "--scenarios", "plain,browser"])
    assert done.exit_code == 1
    said = "Error: nothing can be run: wrk is not on PATH; install the Debian package wrk"
    assert done.stderr.strip().splitlines()[-1] == said


@needs_wrk
def test_idle_connections_are_open_while_it_is_measured() -> None:
    few = replace(SHORT, idle_connections=30)
    greedy = replace(FLOOR, name="greedy", argv=(sys.executable, "-c", GREEDY, "{port}"))
    (result,) = Bench([FLOOR, greedy], [SCENARIOS["many-idle"]], few).run().scenarios
    assert result.samples["floor"][0].errors == {}
    assert result.samples["greedy"][0].errors["idle closed"] == 30
    assert not psutil.Process().children(recursive=True)


# Closes every connection with one request so far as soon as another has its third.
GREEDY = """
import asyncio, sys
RESPONSE = b"HTTP/1.1 200 OK\\r\\nContent-Length: 13\\r\\n\\r\\nHello, world!"
idle = []
async def serve(reader, writer):
    count = 0
    try:
        while await reader.readuntil(b"\\r\\n\\r\\n"):
            count += 1
            writer.write(RESPONSE)
            if count == 1:
                idle.append(writer)
            elif count == 2:
                idle.remove(writer)
            if count > 2:
                while idle:
                    idle.pop().close()
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()
async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", int(sys.argv[1]))
    await server.serve_forever()
asyncio.run(main())
"""


@pytest.mark.skipif(shutil.which("cc") is None, reason="cc is not installed")
def test_a_fixed_rate_is_kept_and_named() -> None:
    at_rate = replace(SHORT, rate_per_s=500.0)
    report = Bench([FLOOR], [SCENARIOS["plain"], SCENARIOS["pipelined-16"]], at_rate).run()
    plain, pipelined = report.scenarios
    (sample,) = plain.samples["floor"]
    assert (plain.name, plain.rate_per_s, plain.scenario) == ("plain@500", 500.0, "plain")
    assert sample.requests == 100, "500 a second for 0.2 s, however long answering took"
    assert sample.late_us is not None
    assert pipelined.reason == "a fixed rate has one request in flight on each connection"
    text = tables.render(report)
    assert "500 requests/s on a fixed schedule" in text
    assert "the generator's own lateness" in text


@needs_wrk
@pytest.mark.skipif(len(CPUS) < 2, reason="two workers want two cores")
def test_workers_are_added_and_what_has_one_process_is_told() -> None:
    plan = scale.plan(CPUS[:2], [1, 2], overlap=True)
    facts = {"workers_tried": plan.workers, "server_cores": plan.cores, "overlap": plan.overlap}
    settings = plan.settings(SHORT)
    report = Bench([SERVERS["shardserve"], FLOOR], [SCENARIOS["plain"]], settings, scaling=facts).run()
    one, two = report.scenarios
    assert (one.name, two.name, two.workers) == ("plain×1", "plain×2", 2)
    assert one.samples.keys() == {"shardserve", "floor"}
    assert two.samples.keys() == {"shardserve"}
    assert two.skipped == {"floor": "it has one process only"}
    assert two.samples["shardserve"][0].rss_kib > one.samples["shardserve"][0].rss_kib
    text = scale.render(report)
    assert "skipped floor: it has one process only" in text
    assert scale.OVERLAP_WARNING in text


SPINNER = """
import selectors, socket, sys
RESPONSE = b"HTTP/1.1 200 OK\\r\\nContent-Length: 13\\r\\n\\r\\nHello, world!"
def accept(listener):
    client = listener.accept()[0]
    look.register(client, selectors.EVENT_READ, answer)
def answer(client):
    try:
        if client.recv(65536):
            return client.sendall(RESPONSE)
    except OSError:
        pass
    look.unregister(client)
    client.close()
look = selectors.DefaultSelector()
look.register(socket.create_server(("127.0.0.1", int(sys.argv[1]))), selectors.EVENT_READ, accept)
while True:
    for key, _ in look.select(0):
        key.data(key.fileobj)
"""


@needs_wrk
def test_a_server_that_spins_when_idle_is_stopped_between_its_turns() -> None:
    spinner = replace(FLOOR, name="spinner", argv=(sys.executable, "-c", SPINNER, "{port}"))
    settings = replace(SHORT, rounds=2, seconds=0.6)
    (result,) = Bench([spinner, FLOOR], [SCENARIOS["plain"]], settings).run().scenarios
    # On a busy machine a spinner gets only a share of its core, so no more is asked than what tells.
    assert result.idle["spinner"] > IDLE_LIMIT >= result.idle["floor"]
    assert {name: len(rows) for name, rows in result.samples.items()} == {"spinner": 2, "floor": 2}
    assert not psutil.Process().children(recursive=True)


LIAR = """
import asyncio, sys
from websockets.asyncio.server import serve
async def echo(websocket):
    async for message in websocket:
        await websocket.send(message if message == 4 * b"0123456789abcdef" else message[:-1] + b"!")
async def main():
    async with serve(echo, "127.0.0.1", int(sys.argv[1])) as server:
        await server.serve_forever()
asyncio.run(main())
"""


def test_websockets_are_measured_and_a_wrong_echo_ends_a_servers_part() -> None:
    floor = SERVERS["ws-floor"]
    liar = replace(floor, name="liar", argv=(sys.executable, "-c", LIAR, "{port}"))
    bench = Bench([floor, liar, FLOOR], [SCENARIOS["ws-echo-64"], SCENARIOS["ws-echo-16k-deep-16"]], SHORT)
    report = bench.run()
    assert "ws_load" in report.host
    assert "wrk" not in report.host, "not needed, so not looked for"
    small, large = report.scenarios
    for result in (small, large):
        (sample,) = result.samples["ws-floor"]
        assert result.samples.keys() == {"ws-floor"}
        assert 0.1 < sample.cpu_us < 1000
        assert (sample.p99_us or 0) >= (sample.p50_us or 0) > 0
    assert "wrong echo: byte 65 of frame 0" in small.skipped["liar"], "right for the probe, wrong under load"
    assert "answers wrongly: echo" in large.skipped["liar"]
    assert not psutil.Process().children(recursive=True)


@needs_wrk
def test_the_command_prints_tables_and_writes_raw_samples(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    options = ["--servers", "floor", "--scenarios", "plain", "--rounds", "2", "--seconds", "0.2"]
    done = CliRunner().invoke(cli.main, ["bench", *options, "--connections", "4", "--json", str(path)])
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines()[-1].startswith("× uvicorn")
    assert "about" in done.stderr
    stored = json.loads(path.read_text())
    assert [one["round"] for one in stored["scenarios"][0]["samples"]["floor"]] == [0, 1]
    assert {"cpu", "kernel", "python", "commit", "sysctl"} <= stored["host"].keys()
    sample = stored["scenarios"][0]["samples"]["floor"][0]
    assert (
        0 < sample["p50_us"] <= sample["p90_us"] <= sample["p99_us"] <= sample["p999_us"] <= sample["max_us"]
    )
    assert str(ROOT) not in path.read_text(), "result files are published"
    compared = CliRunner().invoke(cli.main, ["compare", str(path), str(path)])
    assert compared.exit_code == 0, compared.output
    assert "1.000" in compared.stdout


@needs_wrk
def test_ctrl_c_stops_everything_and_prints_what_there_is() -> None:
    command = [sys.executable, "-m", "perf", "bench", "--servers", "floor", "--scenarios", "plain"]
    bench = subprocess.Popen([*command, "--rounds", "50"], cwd=ROOT, stdout=PIPE, stderr=PIPE, text=True)
    children: list[psutil.Process] = []
    give_up = time.monotonic() + 20
    while not any(_name(child) == "wrk" for child in children):
        assert time.monotonic() < give_up
        children = psutil.Process(bench.pid).children(recursive=True)
        time.sleep(0.02)
    bench.send_signal(signal.SIGINT)
    output, _ = bench.communicate(timeout=20)
    assert bench.returncode == 130
    assert "Interrupted" in output
    assert not any(child.is_running() for child in children)


def _name(process: psutil.Process) -> str:
    try:
        return str(process.name())
    except psutil.Error:
        return ""


def test_an_interrupt_waits_for_a_deferred_block_to_end() -> None:
    reached = False
    with Interrupts() as interrupts:
        with pytest.raises(KeyboardInterrupt), interrupts.deferred():  # noqa: PT012 - the block goes on
            signal.raise_signal(signal.SIGINT)
            reached = True
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
    assert reached


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["bench", "--servers", "floor,nonesuch"], "unknown: nonesuch; known: floor"),
        (["bench", "--scenarios", ","], "nothing named"),
        (["bench", "--scenario", "ws-ecko"], "unknown: ws-ecko; known: plain"),
        (["bench", "--server-core", "9999"], "CPU 9999 is not among the allowed"),
        (["bench", "--servers", "floor", "--json", "no/such/folder/r.json"], "no such folder"),
        (["bench", "--servers", "floor", "--revision", "no-such-rev"], "git knows no revision 'no-such-rev'"),
        (["bench", "--rate", "0"], "0 is not in the range"),
        (["scale", "--workers", "1,x"], "not numbers of workers: 1,x"),
        (["scale", "--workers", "0"], "not numbers of workers: 0"),
        (["scale", "--workers", "5000", "--overlap"], "5000 workers want as many cores"),
        (["compare", "none.json", "none.json"], "none.json: No such file"),
    ],
)
def test_wrong_flags_are_told_in_one_line(arguments: list[str], complaint: str) -> None:
    done = CliRunner().invoke(cli.main, arguments)
    assert done.exit_code == 2
    # click folds long messages; compare without the folding.
    assert complaint in " ".join(done.stderr.replace("│", "").split())


def test_peers_list_names_every_server() -> None:
    done = CliRunner().invoke(cli.main, ["peers", "list"])
    assert done.exit_code == 0
    assert all(name in done.stdout for name in SERVERS)
