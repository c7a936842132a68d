"""What a line of the access log, the figures and the ids cost a request: frames, blocks, calls; no clocks.

Rules of this file: a buffer is handed on (``write``) and announced (``schedule``) once for many lines, so the
budgets are of a request whose line goes into a buffer that has others.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from shardserve.stats import Page
from tests.budget.asking import ask, ask_and_wait, by_hand, request
from tests.budget.counting import (
    WARM_UP,
    as_shipped,
    blocks_left,
    connect_to,
    frames,
    frames_of_ours,
    has_blocks,
    tasks_made,
)
from tests.budget.observe_server import make_factory, observed
from tests.budget.server import app
from tests.budget.system_calls import assert_one_read_and_one_write, calls_each, has_strace
from tests.native.drive import Driver
from tests.native.isolated import survives

BUFFER_BYTES = 8192
PATHS = pytest.mark.parametrize("path", ["/", "/later"])


async def frames_without_a_socket(path: str) -> dict[str, float]:
    """Every Python frame but those of the app and of this file's own waiting."""
    count = 400

    def write(lines: bytes) -> None: ...

    def schedule() -> None: ...

    driver = Driver(
        app, **observed(Page.create("figures"), write=write, schedule=schedule, buffer_bytes=BUFFER_BYTES)
    )
    serve = by_hand(*driver.connect(), path)
    await serve(WARM_UP)
    with frames(app=app, write=write, schedule=schedule) as found:
        await serve(count)
    return {name: found[name] / count for name in ("ours", "app", "write", "schedule")}


@PATHS
def test_no_python_frame_of_ours(path: str) -> None:
    found = survives(frames_without_a_socket, path)
    assert found["ours"] == 0
    assert found["app"] == (1 if path == "/" else 2)
    assert 0 < found["write"] <= 0.05
    assert found["schedule"] <= found["write"] + 0.01


async def frames_on_uvloop(path: str) -> int:
    with await connect_to(make_factory) as sock:
        return await frames_of_ours(lambda count: ask(sock, request(path), count), 200)


@PATHS
def test_no_python_frame_of_ours_on_uvloop(path: str) -> None:
    assert survives(frames_on_uvloop, path, uvloop=True) == 0


async def tasks(path: str) -> int:
    with await connect_to(make_factory) as sock:
        return await tasks_made(lambda count: ask(sock, request(path), count), 500)


@PATHS
def test_no_task_is_made(path: str) -> None:
    assert survives(tasks, path, uvloop=True) == 0


async def blocks(path: str) -> int:
    driver = Driver(app, **observed(Page.create("figures"), buffer_bytes=BUFFER_BYTES))
    return await blocks_left(by_hand(*driver.connect(), path), 1000)


@has_blocks
@PATHS
def test_no_block_outlives_its_request(path: str) -> None:
    assert abs(survives(blocks, path)) < 20  # of 1000 requests


@has_strace
@as_shipped
def test_the_system_calls_are_those_without(tmp_path: Path) -> None:
    each = calls_each(
        tmp_path,
        ["tests.budget.observe_server"],
        lambda sock, times: ask_and_wait(sock, request("/"), times),
    )
    assert_one_read_and_one_write(each, polls=1.1, others=0.02)
