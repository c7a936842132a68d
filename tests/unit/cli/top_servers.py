"""Servers as ``top`` hears of them."""

from __future__ import annotations

import dataclasses
from typing import Any

from shardserve.commands import ServerStatus, WorkerStatus

EVIL = "\x1b]0;x\x07\nrm\r\u202e"


def worker(slot: int, **figures: Any) -> WorkerStatus:
    """One that serves."""
    return dataclasses.replace(
        WorkerStatus(
            slot, "ready", core=slot % 64, pid=4000 + slot, generation=1, uptime_s=99.0, connections=1200,
            connections_idle=1100, websockets=2, in_flight=7, served=123_456, errors_5xx=1, rps=1520.4,
            p50_ms=0.42, p99_ms=8.5, loop_lag_ms=0.25, loop_lag_max_ms=80.0, cpu_percent=71.0,
            rss_bytes=47_395_635,
        ),
        **figures,
    )  # fmt: skip


def backoff(slot: int) -> WorkerStatus:
    """A slot that has no process."""
    return WorkerStatus(slot, "backoff", restarts={"crash": 3}, note="starts again in 3.2 s")


def server(*workers: WorkerStatus, **figures: Any) -> ServerStatus:
    return dataclasses.replace(
        ServerStatus(
            "1.2.3", 3999, "main:app", "serving", 7500.0, ["http://127.0.0.1:8000"], 1, len(workers), 2, 0,
            1_234_567, errors_5xx=4, rps=3040.8, p50_ms=0.42, p99_ms=12.0, workers_list=list(workers),
        ),
        **figures,
    )  # fmt: skip
