"""What a line of the access log, the figures and the ids cost a request: frames, blocks, calls; no clocks.

Rules of this file: a buffer is handed on (``write``) and announced (``schedule``) once for many lines, so the
budgets are of a request whose line goes into a buffer that has others.
"""

from __future__ import annotations

import asyncio
import gc
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import shardserve
from shardserve.stats import Page
from tests.budget.observe_server import make_factory, observed
from tests.budget.test_counts import app, ask, connect, next_task_number, request
from tests.budget.test_syscalls import FEW, MANY, POLLS, READS, WRITES
from tests.native.drive import Driver, turns
from tests.native.isolated import survives

PACKAGE = str(Path(shardserve.__file__).parent)
ROOT = Path(__file__).resolve().parents[2]
BUFFER_BYTES = 8192
PATHS = pytest.mark.parametrize("path", ["/", "/later"])


async def frames(path: str) -> dict[str, float]:
    """Every Python frame but those of the app and of this file's own waiting."""
    count = 400
    events = {"ours": 0, "app": 0, "write": 0, "schedule": 0}

    def write(lines: bytes) -> None: ...

    def schedule() -> None: ...

    driver = Driver(
        app, **observed(Page.create("figures"), write=write, schedule=schedule, buffer_bytes=BUFFER_BYTES)
    )
    connection, transport = driver.connect()
    codes = {app.__code__: "app", write.__code__: "write", schedule.__code__: "schedule"}

    def profile(frame: Any, event: str, argument: Any) -> None:
        if event == "call":
            events["ours"] += frame.f_code.co_filename.startswith(PACKAGE)
            if frame.f_code in codes:
                events[codes[frame.f_code]] += 1

    data = request(path)
    for number in range(count + 20):
        if number == 20:
            sys.setprofile(profile)
        connection.data_received(data)
        if path != "/":
            await turns(4)
        transport.theirs.recv(4096)
    sys.setprofile(None)
    return {name: number / count for name, number in events.items()}


@PATHS
def test_no_python_frame_of_ours(path: str) -> None:
    found = survives(frames, path)
    assert found["ours"] == 0
    assert found["app"] == (1 if path == "/" else 2)
    assert 0 < found["write"] <= 0.05
    assert found["schedule"] <= found["write"] + 0.01


async def frames_on_uvloop(path: str) -> float:
    loop, ours = asyncio.get_running_loop(), 0
    server = await loop.create_server(make_factory(loop), "127.0.0.1", 0)
    sock = await connect(server.sockets[0].getsockname())
    await ask(sock, request(path), 20)

    def profile(frame: Any, event: str, argument: Any) -> None:
        nonlocal ours
        ours += event == "call" and frame.f_code.co_filename.startswith(PACKAGE)

    sys.setprofile(profile)
    await ask(sock, request(path), 200)
    sys.setprofile(None)
    sock.close()
    return ours / 200


@PATHS
def test_no_python_frame_of_ours_on_uvloop(path: str) -> None:
    assert survives(frames_on_uvloop, path, uvloop=True) == 0


async def tasks(path: str) -> int:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(make_factory(loop), "127.0.0.1", 0)
    sock = await connect(server.sockets[0].getsockname())
    await ask(sock, request(path), 20)
    before = next_task_number()
    await ask(sock, request(path), 500)
    made = next_task_number() - before - 1
    sock.close()
    return made


@PATHS
def test_no_task_is_made(path: str) -> None:
    assert survives(tasks, path, uvloop=True) == 0


async def blocks(path: str) -> int:
    driver = Driver(app, **observed(Page.create("figures"), buffer_bytes=BUFFER_BYTES))
    connection, transport = driver.connect()
    data = request(path)

    async def serve(count: int) -> None:
        for _ in range(count):
            connection.data_received(data)
            if path != "/":
                await turns(4)
            transport.theirs.recv(4096)

    await serve(100)
    gc.collect()
    gc.disable()
    await serve(200)  # the collector has emptied the interpreter's free lists
    found = []
    for _ in range(3):  # the interpreter allocates some for itself, once in a while
        before = sys.getallocatedblocks()
        await serve(1000)
        found.append(sys.getallocatedblocks() - before)
    return min(found)


@pytest.mark.skipif(os.environ.get("PYTHONMALLOC") == "malloc", reason="blocks are pymalloc's")
@PATHS
def test_no_block_outlives_its_request(path: str) -> None:
    assert abs(survives(blocks, path)) < 20  # of 1000 requests, without the collector


# System calls, counted by strace


def count_calls(tmp_path: Path, module: str, path: str, requests: int) -> dict[str, int]:
    """The server's system calls over its whole life, in which it serves so many requests."""
    counts = tmp_path / f"strace-{module}-{requests}"
    command = ["strace", "-f", "-c", "-o", str(counts), sys.executable, "-m", f"tests.budget.{module}"]
    server = subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert server.stdin is not None
    assert server.stdout is not None
    assert server.stderr is not None
    port = server.stdout.readline().strip()
    if not port:
        pytest.skip(f"strace cannot trace here: {server.stderr.read()[-300:]}")
    with socket.create_connection(("127.0.0.1", int(port))) as sock:
        for _ in range(requests):
            sock.sendall(request(path))
            answer = b""
            while not answer.endswith(b"Hello, world!"):
                answer += sock.recv(4096)
    server.stdin.close()
    server.wait(20)
    server.stdout.close()
    server.stderr.close()
    rows = re.findall(r"^\s*[\d.]+\s+[\d.]+\s+\d+\s+(\d+)\s+(?:\d+\s+)?(\w+)$", counts.read_text(), re.M)
    return {name: int(number) for number, name in rows if name != "total"}


def per_request(tmp_path: Path, module: str, path: str) -> dict[str, float]:
    few = count_calls(tmp_path, module, path, FEW)
    many = count_calls(tmp_path, module, path, FEW + MANY)
    return {name: (many[name] - few.get(name, 0)) / MANY for name in many}


@pytest.mark.skipif(shutil.which("strace") is None, reason="no strace")
@pytest.mark.skipif("SHARDSERVE_SANITIZED" in os.environ, reason="not what is shipped")
def test_the_system_calls_are_those_without(tmp_path: Path) -> None:
    found = per_request(tmp_path, "observe_server", "/")
    shown = {name: round(number, 3) for name, number in found.items() if abs(number) > 0.01}

    def total(names: set[str]) -> float:
        return sum(found.get(name, 0.0) for name in names)

    assert total(READS) == pytest.approx(1, abs=0.02), shown
    assert total(WRITES) == pytest.approx(1, abs=0.02), shown
    assert total(POLLS) < 1.1, shown
    rest = sum(number for name, number in found.items() if name not in READS | WRITES | POLLS)
    assert rest < 0.02, shown
