"""System calls per file response, counted by strace; and that nobody but files pays for --static."""

from __future__ import annotations

import os
import re
import socket
from pathlib import Path

import pytest

from tests.budget.counting import as_shipped
from tests.budget.system_calls import MANY, POLLS, READS, WRITES, calls_each, has_strace

FEW = 200
SIZES = {"small.css": 2_000, "medium.bin": 60_000}

pytestmark = [has_strace, as_shipped]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    for name, size in SIZES.items():
        (folder / name).write_bytes(b"f" * size)
        os.utime(folder / name, (1e9, 1e9))
    return folder


def read_answer(sock: socket.socket) -> None:
    head, _, data = b"", b"", b""
    while b"\r\n\r\n" not in head:
        head += sock.recv(65536)
    head, _, data = head.partition(b"\r\n\r\n")
    found = re.search(rb"content-length: (\d+)", head)
    left = (int(found[1]) if found else 0) - len(data)
    while left > 0:
        left -= len(sock.recv(65536))


def per_request(folder: Path, tmp_path: Path, path: str, *fields: str) -> dict[str, float]:
    """How many of each call that there is at least one of in fifty requests."""
    request = "\r\n".join([f"GET {path} HTTP/1.1", "Host: budget", *fields, "", ""]).encode()

    def ask(sock: socket.socket, times: int) -> None:
        for _ in range(times):
            sock.sendall(request)
            read_answer(sock)

    each = calls_each(tmp_path, ["tests.budget.file_server", str(folder)], ask, FEW, MANY // 4)
    return {name: number for name, number in each.items() if name not in POLLS and abs(number) > 0.02}


def rounded(calls: dict[str, float]) -> dict[str, int]:
    """Whole numbers, or it is no budget."""
    assert all(abs(number - round(number)) < 0.05 for number in calls.values()), calls
    return {name: round(number) for name, number in calls.items()}


OPENING = {"openat": 1, "fstat": 1, "readlink": 1, "close": 1}
SOCKET = {"recvfrom", "read", "sendto", "write", "writev", "sendmsg"}


# What older C libraries make of fstat().
ALIASES = {"newfstatat": "fstat"}


def without_socket(calls: dict[str, int]) -> dict[str, int]:
    return {ALIASES.get(name, name): number for name, number in calls.items() if name not in SOCKET}


def test_a_small_static_file(folder: Path, tmp_path: Path) -> None:
    """Opened, looked at, read and closed; head and body leave together."""
    calls = rounded(per_request(folder, tmp_path, "/static/small.css"))
    assert without_socket(calls) == {**OPENING, "pread64": 1}
    assert sum(calls.get(name, 0) for name in READS) == 1
    assert sum(calls.get(name, 0) for name in WRITES) == 1


def test_variants_cost_a_look_each_and_only_who_takes_them(folder: Path, tmp_path: Path) -> None:
    calls = rounded(per_request(folder, tmp_path, "/static/small.css", "Accept-Encoding: gzip, br"))
    looks = sum(number for name, number in calls.items() if name in ("access", "faccessat", "faccessat2"))
    assert looks == 2
    calls = rounded(per_request(folder, tmp_path, "/static/medium.bin", "Accept-Encoding: gzip, br"))
    assert not {"access", "faccessat", "faccessat2"} & set(calls)


def test_a_file_that_is_not_there(folder: Path, tmp_path: Path) -> None:
    assert without_socket(rounded(per_request(folder, tmp_path, "/static/none"))) == {"openat": 1}


def test_a_file_that_the_client_has(folder: Path, tmp_path: Path) -> None:
    """Nothing is read."""
    calls = rounded(per_request(folder, tmp_path, "/static/small.css", "If-None-Match: *"))
    assert without_socket(calls) == OPENING


def test_a_longer_static_file_is_not_read(folder: Path, tmp_path: Path) -> None:
    calls = per_request(folder, tmp_path, "/static/medium.bin")
    assert not {"pread64", "mmap"} & set(calls), calls
    assert calls["sendfile"] >= 0.95
    assert calls["openat"] == pytest.approx(1, abs=0.02)
    assert calls["close"] == pytest.approx(2, abs=0.02)  # ours, and the native side's


def test_a_path_is_opened_once(folder: Path, tmp_path: Path) -> None:
    calls = rounded(per_request(folder, tmp_path, "/path/small.css"))
    assert without_socket(calls) == {"openat": 1, "fstat": 1, "pread64": 1, "close": 1}


def test_an_open_file_is_sent_by_the_kernel(folder: Path, tmp_path: Path) -> None:
    calls = per_request(folder, tmp_path, "/file/medium.bin")
    assert not {"openat", "pread64", "mmap"} & set(calls), calls
    assert calls["sendfile"] >= 0.95
