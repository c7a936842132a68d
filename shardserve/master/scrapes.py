"""What each path of the metrics address answers.

    /metrics        the figures for Prometheus, in its text format or as OpenMetrics
    /               the status page, for people
    /status.json    what that page shows, with the last five minutes; ?since=N: only what came after point N

Rules of this file: it reads the supervisor and changes nothing, and whatever goes wrong is one 500 and a line
in the log. It is imported when there is a metrics address, with prometheus_client.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import logging
import re
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qs

from ..observe import metrics
from . import figures, report
from .metrics_server import Request, Scrape

if TYPE_CHECKING:
    from .supervisor import Supervisor

TEXT: Final = "text/plain; charset=utf-8"
# Compressing less than a packet's worth saves nothing.
GZIP_MIN_BYTES: Final = 1400

log = logging.getLogger("shardserve.master")


@dataclass(frozen=True, slots=True)
class Page:
    """An answer. ``fields``: besides its type."""

    content_type: str
    body: bytes
    status: int = 200
    fields: Mapping[str, str] = field(default_factory=dict)


def tell(supervisor: Supervisor, scrapes: Sequence[Scrape], now: float) -> None:
    """In every turn of the loop: go on with the history, and answer who asks."""
    if supervisor.history.due(now):
        supervisor.history.sample(report.server_status(supervisor, now), now)
    for scrape in scrapes:
        _answer(supervisor, scrape, now)


def _answer(supervisor: Supervisor, scrape: Scrape, now: float) -> None:
    request = scrape.request
    try:
        page = _page_for(supervisor, request, now)
    except Exception:
        log.exception("metrics: %s could not be put together", request.path)
        page = Page(TEXT, b"the figures could not be put together; the server's log says why\n", 500)
    body, coding = page.body, {}
    if len(body) >= GZIP_MIN_BYTES and _takes_gzip(request.fields.get("accept-encoding", "")):
        body, coding = gzip.compress(body, compresslevel=1, mtime=0), {"Content-Encoding": "gzip"}
    scrape.answer(page.status, body, {"Content-Type": page.content_type, **page.fields, **coding})


def _page_for(supervisor: Supervisor, request: Request, now: float) -> Page:
    make = _ROUTES.get(request.path)
    if make is None:
        return Page(TEXT, f"there are {', '.join(_ROUTES)}\n".encode(), 404)
    if request.method not in ("GET", "HEAD"):
        return Page(TEXT, b"this is only for reading\n", 405, {"Allow": "GET, HEAD"})
    return make(supervisor, request, now)


def _metrics(supervisor: Supervisor, request: Request, now: float) -> Page:
    snapshot = figures.snapshot(supervisor, now)
    return Page(*metrics.exposition(snapshot, request.fields.get("accept", "")))


def _status(supervisor: Supervisor, request: Request, now: float) -> Page:
    since = parse_qs(request.query).get("since", [""])[-1]
    number = int(since) if re.fullmatch(r"[0-9]{1,15}", since, re.ASCII) else None
    document = {
        **report.server_status(supervisor, now).to_json(),
        "history": supervisor.history.to_json(number),
    }
    return Page("application/json", json.dumps(document, separators=(",", ":")).encode())


def _status_page(supervisor: Supervisor, request: Request, now: float) -> Page:
    return _self_contained()


@cache
def _self_contained() -> Page:
    """The page, and a policy that lets it run its own script and style, talk to us, and do nothing else."""
    page = (resources.files("shardserve.observe") / "status_page.html").read_text(encoding="utf-8")
    return Page("text/html; charset=utf-8", page.encode(), fields={"Content-Security-Policy": policy(page)})


def policy(page: str) -> str:
    """A Content-Security-Policy (CSP Level 3 §2.4.2) for a page whose style and script are inline."""
    markup = re.sub(r"<!--.*?-->", "", page, flags=re.DOTALL)
    hashes = {
        tag: [f"'sha256-{_digest(text)}'" for text in re.findall(rf"<{tag}>(.*?)</{tag}>", markup, re.DOTALL)]
        for tag in ("script", "style")
    }
    return "; ".join(
        [
            "default-src 'none'",
            *(f"{tag}-src {' '.join(found)}" for tag, found in hashes.items() if found),
            "connect-src 'self'",
            "img-src data:",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        ]
    )


def _digest(text: str) -> str:
    return b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _takes_gzip(accept_encoding: str) -> bool:
    """RFC 9110 §12.5.3, as far as it is about gzip by its name."""
    for one in accept_encoding.lower().split(","):
        name, _, weight = one.partition(";")
        if name.strip() == "gzip":
            return re.fullmatch(r"\s*q=0(\.0*)?\s*", weight) is None
    return False


_ROUTES: Final[Mapping[str, Callable[[Supervisor, Request, float], Page]]] = {
    "/": _status_page,
    "/metrics": _metrics,
    "/status.json": _status,
}
