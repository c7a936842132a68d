"""Uvicorn beside our server, with the same app and flags; and one raw request to either of them.

Rules of this file: what a server said is plain values (``Said``) without what differs from run to run: ports,
the time, and the name of the server.
"""

from __future__ import annotations

import http.client
import io
import json
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from tests.helpers.master_process import PATIENCE_S, until
from tests.helpers.server import ADDRESS_FLAGS, APPS, ServerProcess, clean_environment

Connect = Callable[[], socket.socket]


class Said(NamedTuple):
    """One response. ``headers``: sorted, lower-case names. ``whole``: it came to its end."""

    status: int
    reason: str
    headers: list[tuple[str, str]]
    body: bytes
    whole: bool = True


class Side:
    """A running server, and how one gets at it."""

    def __init__(self, connect: Connect) -> None:
        self.connect = connect

    def raw(self, request: bytes, *, half_close: bool = False) -> bytes:
        """Everything that comes back until the server closes the connection."""
        with self.connect() as sock:
            sock.sendall(request)
            if half_close:
                sock.shutdown(socket.SHUT_WR)
            found = b""
            try:
                while data := sock.recv(65536):
                    found += data
            except ConnectionResetError:
                pass
            return found

    def ask(self, request: bytes) -> Said:
        """One request that ends its connection."""
        return said(self.raw(request), head=request.startswith(b"HEAD "))

    def scope(self, request: bytes) -> dict[str, Any]:
        """What oracle_app was told, without what differs from run to run."""
        with self.connect() as sock:
            sock.sendall(request)
            ours = sock.getsockname()
            answer = http.client.HTTPResponse(sock)
            answer.begin()
            found: dict[str, Any] = json.loads(answer.read())
        if isinstance(ours, tuple) and found["client"] == ["tuple", *ours]:
            found["client"] = "the test"
        if isinstance(found["server"], list) and isinstance(found["server"][2], int):
            found["server"][2] = "port"
        return found


def said(data: bytes, *, head: bool = False) -> Said:
    """The first final response in ``data``."""
    while data.startswith(b"HTTP/1.1 1"):
        data = data.partition(b"\r\n\r\n")[2]
    answer = http.client.HTTPResponse(_Bytes(data), method="HEAD" if head else None)  # type: ignore[arg-type]
    answer.begin()
    whole = True
    try:
        body = answer.read()
    except http.client.IncompleteRead as error:
        body, whole = error.partial, False
    return Said(answer.status, answer.reason, sorted(map(_settled, answer.getheaders())), body, whole)


def _settled(field: tuple[str, str]) -> tuple[str, str]:
    name, value = field[0].lower(), field[1]
    if name == "date" and value.endswith(" GMT"):
        value = "now"
    if name == "server" and value in ("uvicorn", "shardserve"):
        value = "its name"
    return name, value


class _Bytes:
    """As much of a socket as HTTPResponse needs."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def makefile(self, mode: str) -> io.BytesIO:
        return io.BytesIO(self._data)


def tcp(port: int) -> Connect:
    return lambda: socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S)


def unix(path: Path) -> Connect:
    def connect() -> socket.socket:
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(PATIENCE_S)
        sock.connect(str(path))
        return sock

    return connect


def uvicorn_command(app: str, flags: Sequence[str], app_dir: Path | None = APPS) -> list[str]:
    found = [sys.executable, "-m", "uvicorn", app, *flags]
    if not ADDRESS_FLAGS & set(flags):
        found += ["--port", "0"]
    return found if app_dir is None else [*found, "--app-dir", str(app_dir)]


@contextmanager
def uvicorn(
    folder: Path, app: str, *flags: str, connect: Connect | None = None, pass_fds: Sequence[int] = ()
) -> Iterator[Side]:
    """A running Uvicorn. ``connect``: how to get at it, unless it is by TCP."""
    log = folder / "uvicorn.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            uvicorn_command(app, flags),
            stdout=out,
            stderr=out,
            cwd=folder,
            env=clean_environment(),
            pass_fds=pass_fds,
        )
    try:
        until(lambda: "Uvicorn running on" in log.read_text() or process.poll() is not None, "uvicorn")
        assert process.poll() is None, log.read_text()
        port = re.search(r"running on http://127\.0\.0\.1:(\d+)", log.read_text())
        assert connect or port, log.read_text()
        yield Side(connect or tcp(int(port[1])))  # type: ignore[index]
        process.terminate()
        process.wait(PATIENCE_S)
    finally:
        process.kill()
        process.wait()


@contextmanager
def ours(
    folder: Path, app: str, *flags: str, connect: Connect | None = None, pass_fds: Sequence[int] = ()
) -> Iterator[Side]:
    """The same of our server."""
    with ServerProcess(folder, app, "--workers", "1", *flags, quiet=False, pass_fds=pass_fds) as server:
        yield Side(connect or tcp(server.port))


def uvicorn_ended(folder: Path, app: str, *flags: str) -> int:
    """The exit code of one that ends by itself."""
    done = subprocess.run(
        uvicorn_command(app, flags),
        cwd=folder,
        env=clean_environment(),
        capture_output=True,
        timeout=PATIENCE_S,
        check=False,
    )
    return done.returncode


def uvicorn_stopped(folder: Path, app: str, number: signal.Signals) -> int:
    """The exit code after a signal."""
    log = folder / "stopped.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            uvicorn_command(app, ()), stdout=out, stderr=out, cwd=folder, env=clean_environment()
        )
    try:
        until(lambda: "Uvicorn running on" in log.read_text(), "uvicorn")
        process.send_signal(number)
        return process.wait(PATIENCE_S)
    finally:
        process.kill()
        process.wait()
