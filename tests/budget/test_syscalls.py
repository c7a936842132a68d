"""System calls per keep-alive request, counted by strace."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FEW = 500
MANY = int(os.environ.get("SHARDSERVE_BUDGET_REQUESTS", "4000"))
READS = {"read", "recvfrom", "recv", "recvmsg", "readv"}
WRITES = {"write", "writev", "sendto", "sendmsg", "send"}
POLLS = {"epoll_wait", "epoll_pwait", "epoll_pwait2"}

pytestmark = [
    pytest.mark.skipif(shutil.which("strace") is None, reason="no strace"),
    pytest.mark.skipif("SHARDSERVE_SANITIZED" in os.environ, reason="not what is shipped"),
]


def count_calls(tmp_path: Path, request: bytes, requests: int) -> dict[str, int]:
    """The server's system calls over its whole life, in which it serves so many requests."""
    counts = tmp_path / f"strace-{requests}"
    command = ["strace", "-f", "-c", "-o", str(counts), sys.executable, "-m", "tests.budget.server"]
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
            sock.sendall(request)
            answer = b""
            while not answer.endswith(b"Hello, world!"):
                answer += sock.recv(4096)
    server.stdin.close()
    server.wait(20)
    server.stdout.close()
    server.stderr.close()
    rows = re.findall(r"^\s*[\d.]+\s+[\d.]+\s+\d+\s+(\d+)\s+(?:\d+\s+)?(\w+)$", counts.read_text(), re.M)
    return {name: int(number) for number, name in rows if name != "total"}


@pytest.mark.parametrize("path", ["/", "/later"])
def test_two_system_calls_a_request(tmp_path: Path, path: str) -> None:
    request = f"GET {path} HTTP/1.1\r\nHost: budget\r\n\r\n".encode()
    few = count_calls(tmp_path, request, FEW)
    many = count_calls(tmp_path, request, FEW + MANY)
    per_request = {name: (many[name] - few.get(name, 0)) / MANY for name in many}
    shown = {name: round(number, 3) for name, number in per_request.items() if abs(number) > 0.01}

    def total(names: set[str]) -> float:
        return sum(per_request.get(name, 0.0) for name in names)

    assert total(READS) == pytest.approx(1, abs=0.02), shown
    assert total(WRITES) == pytest.approx(1, abs=0.02), shown
    assert total(POLLS) < (1.1 if path == "/" else 2.1), shown
    rest = sum(number for name, number in per_request.items() if name not in READS | WRITES | POLLS)
    assert rest < 0.02, shown
