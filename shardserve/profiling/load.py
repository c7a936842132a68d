"""The load on the profiled server: wrk where it is installed, else ``load_child.py``.

Rules of this file: what is asked is the same with both. The load runs on other cores than the
server, where there are any: what is measured must not be its own load.
"""

from __future__ import annotations

import http.client
import json
import re
import signal
import ssl
import sys
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from .programs import ProfileError, Program
from .tools import find

_ANSWER_S = 30.0
_FOREVER_S = 24 * 3600


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is asked of the server."""

    paths: tuple[str, ...] = ("/",)
    """Request targets, in turn."""
    method: str = "GET"
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    connections: int = 32

    def described(self) -> str:
        """``GET /a, /b on 32 connections``."""
        return f"{self.method} {', '.join(self.paths)} on {self.connections} connections"


@dataclass(frozen=True)
class Answered:
    """How the load went."""

    requests: int
    failed: int
    """Answered with a status of 400 or more."""
    broken: int
    """Connections that failed."""


def ask_once(url: str, plan: Plan) -> dict[str, int]:
    """The status of each path, asked once. Raises ProfileError if there is no answer."""
    found = {}
    where = urlsplit(url)
    for path in plan.paths:
        connection = _connection(where)
        try:
            connection.request(plan.method, path, plan.body or None, dict(plan.headers))
            answer = connection.getresponse()
            answer.read()
            found[path] = answer.status
        except (OSError, http.client.HTTPException, UnicodeEncodeError) as error:
            why = str(error) or type(error).__name__
            raise ProfileError(f"{plan.method} {path} was not answered: {why}") from None
        finally:
            connection.close()
    return found


def _connection(where: SplitResult) -> http.client.HTTPConnection:
    host, port = where.hostname or "127.0.0.1", where.port
    if where.scheme != "https":
        return http.client.HTTPConnection(host, port, timeout=_ANSWER_S)
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return http.client.HTTPSConnection(host, port, timeout=_ANSWER_S, context=context)


class Load:
    """Begins at once, and goes on until ``stop``."""

    def __init__(self, url: str, plan: Plan, folder: Path, *, cores: Collection[int]) -> None:
        self._output = folder / "load.out"
        wrk = find("wrk")
        self.tool = "wrk" if wrk is not None else "shardserve's own load"
        if wrk is not None:
            script = folder / "load.lua"
            script.write_text(lua(plan))
            argv = [wrk, "-t1", f"-c{plan.connections}", f"-d{_FOREVER_S}s", "-s", str(script), url]
            self._end = signal.SIGINT
        else:
            argv = [sys.executable, "-m", "shardserve.profiling.load_child", json.dumps(wish(url, plan))]
            self._end = signal.SIGTERM
        self._program = Program(argv, folder / "load.log", output=self._output, cores=cores)

    def check(self) -> None:
        """Raise ProfileError if it has given up."""
        if self._program.returncode is not None:
            raise ProfileError(f"the load ({self.tool}) ended too early:\n{self._program.said()}")

    def stop(self) -> Answered | None:
        """What was answered; None if it cannot say."""
        self._program.stop(self._end)
        text = ""
        with suppress(OSError):
            text = self._output.read_text(errors="replace")
        return parsed(text)


def parsed(text: str) -> Answered | None:
    """What either tool has printed."""
    if text.startswith("{"):
        said = json.loads(text)
        statuses = {int(status): count for status, count in said["statuses"].items()}
        failed = sum(count for status, count in statuses.items() if status >= 400)
        return Answered(sum(statuses.values()), failed, sum(said["errors"].values()))
    requests = re.search(r"^\s*(\d+) requests in ", text, re.MULTILINE)
    if requests is None:
        return None
    failed_ = re.search(r"Non-2xx or 3xx responses: (\d+)", text)
    broken = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", text)
    return Answered(
        int(requests[1]), int(failed_[1]) if failed_ else 0, sum(map(int, broken.groups())) if broken else 0
    )


def request_text(plan: Plan, path: str, host: str) -> str:
    """One request as it goes on the wire, as latin-1."""
    lines = [f"{plan.method} {path} HTTP/1.1"]
    if not any(name.lower() == "host" for name, _ in plan.headers):
        lines.append(f"Host: {host}")
    lines += [f"{name}: {value}" for name, value in plan.headers]
    if plan.body or plan.method in ("POST", "PUT", "PATCH"):
        lines.append(f"Content-Length: {len(plan.body)}")
    return "\r\n".join(lines) + "\r\n\r\n" + plan.body.decode("latin-1")


def wish(url: str, plan: Plan) -> dict[str, object]:
    """What ``load_child.py`` is told."""
    where = urlsplit(url)
    requests = [request_text(plan, path, where.netloc) for path in plan.paths]
    return {
        "host": where.hostname, "port": where.port, "tls": where.scheme == "https",
        "connections": plan.connections, "requests": requests,
    }  # fmt: skip


def lua(plan: Plan) -> str:
    """What wrk is told. It adds Host and Content-Length itself."""
    lines = [f"local requests = {{}}\nwrk.method = {_lua(plan.method)}"]
    lines += [f"wrk.headers[{_lua(name)}] = {_lua(value)}" for name, value in plan.headers]
    if plan.body:
        lines.append(f"wrk.body = {_lua(plan.body.decode('latin-1'))}")
    lines.append("init = function(args)")
    lines += [f"  requests[#requests + 1] = wrk.format(nil, {_lua(path)})" for path in plan.paths]
    lines.append("end\nlocal turn = 0")
    lines.append("request = function() turn = turn % #requests + 1; return requests[turn] end")
    return "\n".join(lines) + "\n"


def _lua(value: str) -> str:
    """A literal of Lua: everything but letters and digits as a number of three digits, so that nothing is
    misread.
    """
    plain = (
        chr(byte) if chr(byte).isalnum() and byte < 128 else f"\\{byte:03d}"
        for byte in value.encode("latin-1")
    )
    return f'"{"".join(plain)}"'
