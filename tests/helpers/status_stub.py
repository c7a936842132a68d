"""Figures that a test makes up, behind the real status page: many workers, hostile names, a server that lies.

Rules of this file: a small HTTP server on loopback with the page and its policy as the metrics address has
them, and ``/status.json`` out of the master's own ``History``. What the real server can show is tested with
that one.
"""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from shardserve.commands import ServerStatus, WorkerStatus
from shardserve.master.history import History
from shardserve.master.scrapes import policy

PAGE = Path(__file__).parents[2] / "shardserve" / "observe" / "status_page.html"


def made_up(slot: int, second: int, **more: Any) -> WorkerStatus:
    """A worker of a busy server at this second: waves, each slot at another height; slot 3 is troubled."""
    wave = math.sin(second / 23 + slot) + 0.35 * math.sin(second / 5 + slot * 2.3)
    trouble = slot == 3 and second % 300 > 200
    rps = max(0.0, 5200 + 180 * math.sin(slot * 1.7) + 420 * wave - (3000 if trouble else 0))
    figures: dict[str, Any] = {
        "state": "ready", "core": slot * 2, "pid": 40_000 + slot, "generation": 1, "uptime_s": 9e3 + second,
        "rps": rps, "p50_ms": 0.4 + 0.05 * wave, "p99_ms": 1.6 + 0.4 * wave + (9.0 if trouble else 0),
        "in_flight": max(0, round(4 + 3 * wave)), "connections": round(120 + 20 * wave),
        "connections_idle": 100, "websockets": 3,
        "loop_lag_ms": max(0.0, 0.2 + 0.1 * wave + (4 if trouble else 0)), "loop_lag_max_ms": 12.5,
        "cpu_percent": min(100.0, 60 + 12 * wave + (30 if trouble else 0)),
        "rss_bytes": int(2**20 * (70 + slot % 7 + second / 100)), "served": int(5000 * second),
        "restarts": {"crash": 1, "reload": 2} if slot == 3 else {},
    }  # fmt: skip
    return WorkerStatus(slot, **(figures | more))


def server_of(crew: Sequence[WorkerStatus], second: int, **more: Any) -> ServerStatus:
    figures: dict[str, Any] = {
        "version": "0.7.0", "pid": 4242, "app": "shop.main:app", "phase": "serving", "uptime_s": 9e3 + second,
        "urls": ["http://0.0.0.0:8000"], "generation": 1, "workers": len(crew), "reloads": 1,
        "requests": 1_000_000 + 5000 * len(crew) * second, "errors_5xx": max(0, second // 40 - 3),
        "rps": sum(one.rps or 0 for one in crew), "p50_ms": 0.41, "p99_ms": 2.2 + math.sin(second / 17),
        "workers_list": list(crew),
    }  # fmt: skip
    return ServerStatus(**(figures | more))


class StatusStub:
    """``with StatusStub(slots=128, seconds=300) as stub: browser.open(stub.url)``."""

    def __init__(self, slots: int = 2, seconds: int = 300, **more: Any) -> None:
        """``more``: of the ServerStatus; ``worker``: of each WorkerStatus."""
        self._slots, self._second = slots, 0
        self._of_worker = more.pop("worker", {})
        self.more = more  # figures of the server, which a test may change
        self.history = History()
        self.asked: list[str] = []  # every target, in the order of the requests
        self.broken: tuple[int, bytes] | None = None  # what /status.json answers instead
        self._page = PAGE.read_text()
        for _ in range(seconds):
            self.tick()
        stub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                stub.asked.append(self.path)
                stub.answer(self)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="stub")

    def tick(self) -> None:
        """Another second."""
        self._second += 1
        self.history.sample(self.status(), float(self._second))

    def status(self) -> ServerStatus:
        workers = [made_up(slot, self._second, **self._of_worker) for slot in range(self._slots)]
        return server_of(workers, self._second, **self.more)

    def answer(self, client: BaseHTTPRequestHandler) -> None:
        url, code, kind = urlsplit(client.path), 200, "application/json"
        if url.path == "/":
            body, kind = self._page.encode(), "text/html; charset=utf-8"
        elif url.path == "/status.json" and self.broken is None:
            since = parse_qs(url.query).get("since")
            history = self.history.to_json(int(since[0]) if since else None)
            body = json.dumps({**self.status().to_json(), "history": history}).encode()
        else:
            code, body = self.broken or (404, b"")
        client.send_response(code)
        client.send_header("content-type", kind)
        client.send_header("content-length", str(len(body)))
        client.send_header("content-security-policy", policy(self._page))
        client.end_headers()
        client.wfile.write(body)

    def __enter__(self) -> StatusStub:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
