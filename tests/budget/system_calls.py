"""System calls of a server program of this folder, counted by strace over its whole life.

Rules of this file: what one thing costs is the difference between a life with few of them and a life with
many, so start and end are in no count. How many, SHARDSERVE_BUDGET_REQUESTS says.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FEW = 512
MANY = int(os.environ.get("SHARDSERVE_BUDGET_REQUESTS", "4096")) // 16 * 16
PATIENCE_S = 30

READS = {"read", "recvfrom", "recv", "recvmsg", "readv"}
WRITES = {"write", "writev", "sendto", "sendmsg", "send"}
POLLS = {"epoll_wait", "epoll_pwait", "epoll_pwait2"}

has_strace = pytest.mark.skipif(shutil.which("strace") is None, reason="no strace")

Client = Callable[[socket.socket, int], None]
"""Uses a connection so many times."""


def calls_of_a_life(counted: Path, program: list[str], use: Client, times: int) -> dict[str, int]:
    """``program`` is a module's name and its arguments."""
    command = ["strace", "-f", "-c", "-o", str(counted), sys.executable, "-m", *program]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        assert server.stderr is not None
        port = server.stdout.readline().strip()
        if not port:
            pytest.skip(f"strace cannot trace here: {server.stderr.read()[-300:]}")
        with socket.create_connection(("127.0.0.1", int(port))) as sock:
            use(sock, times)
        server.stdin.close()
        server.wait(PATIENCE_S)
    rows = re.findall(r"^\s*[\d.]+\s+[\d.]+\s+\d+\s+(\d+)\s+(?:\d+\s+)?(\w+)$", counted.read_text(), re.M)
    return {name: int(number) for number, name in rows if name != "total"}


def calls_each(
    tmp_path: Path, program: list[str], use: Client, few: int = FEW, many: int = MANY
) -> dict[str, float]:
    """What each use costs."""
    fewer = calls_of_a_life(tmp_path / "few", program, use, few)
    more = calls_of_a_life(tmp_path / "many", program, use, few + many)
    return {name: (more[name] - fewer.get(name, 0)) / many for name in more}


def assert_one_read_and_one_write(each: dict[str, float], *, polls: float, others: float) -> None:
    """And fewer than so many polls, and others."""
    shown = {name: round(number, 3) for name, number in each.items() if abs(number) > 0.01}

    def total(names: set[str]) -> float:
        return sum(each.get(name, 0.0) for name in names)

    assert total(READS) == pytest.approx(1, abs=0.02), shown
    assert total(WRITES) == pytest.approx(1, abs=0.02), shown
    assert total(POLLS) < polls, shown
    assert total(set(each) - READS - WRITES - POLLS) < others, shown
