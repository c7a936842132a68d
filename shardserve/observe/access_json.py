"""The access log as JSON: one object a line (RFC 8259), for whatever collects logs.

Rules of this file: those of ``access.py``, whose batches these lines leave in; one line, one f-string. What
does not change is written once, at construction. A target is the text that the text log shows, where any
byte but the harmless ones is ``\\xNN``, so the line is ASCII without a control character, and so is what a
reader gets out of it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

from .access import SAFE, AccessLog, Client, escaped
from .formatters import identity, json_text, timestamp
from .names import OUR_ACCESS

# Clients whose JSON form is kept; then all are forgotten. Each of them is a short string.
_MOST_HOSTS = 4096


class JsonAccessLog(AccessLog):
    """An ``AccessLog`` with other lines."""

    def __init__(
        self,
        *,
        schedule: Callable[[Callable[[], None]], Any],
        fd: int = 1,
        now: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(schedule=schedule, fd=fd)
        slot = "null" if identity.slot is None else identity.slot
        self._fixed = (
            f'","type":"access","level":"info","logger":"{OUR_ACCESS}","pid":{os.getpid()},"worker":{slot},'
            '"client":'
        )
        self._now = now
        self._millisecond = -1  # which _start begins with
        self._start = ""
        self._hosts: dict[str, str] = {}

    def __call__(self, client: Client, method: str, target: bytes, http_version: str, status: int) -> None:
        now = self._now()
        if (millisecond := int(now * 1000)) != self._millisecond:
            self._millisecond, self._start = millisecond, f'{{"ts":"{timestamp(now)}{self._fixed}'
        if target.translate(None, SAFE):
            text = escaped(target).replace("\\", "\\\\")
        else:
            text = target.decode("ascii")
        if client is None:
            peer = "null"
        else:
            host, port = client
            peer = f'"{self._hosts.get(host) or self._host(host)}:{port}"'
        self._add(
            f'{self._start}{peer},"method":"{method}","target":"{text}",'
            f'"http_version":"{http_version}","status":{status}}}\n'
        )

    def _host(self, host: str) -> str:
        """As it stands inside of quotes. A proxy may have named anything."""
        if len(self._hosts) >= _MOST_HOSTS:
            self._hosts.clear()
        self._hosts[host] = text = json_text(host)[1:-1]
        return text
