"""System calls per keep-alive request, counted by strace."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.budget.asking import ask_and_wait
from tests.budget.counting import as_shipped
from tests.budget.system_calls import assert_one_read_and_one_write, calls_each, has_strace


@has_strace
@as_shipped
@pytest.mark.parametrize(("path", "polls"), [("/", 1.1), ("/later", 2.1)], ids=["/", "/later"])
def test_two_system_calls_a_request(tmp_path: Path, path: str, polls: float) -> None:
    request = f"GET {path} HTTP/1.1\r\nHost: budget\r\n\r\n".encode()
    each = calls_each(
        tmp_path, ["tests.budget.server"], lambda sock, times: ask_and_wait(sock, request, times)
    )
    assert_one_read_and_one_write(each, polls=polls, others=0.02)
