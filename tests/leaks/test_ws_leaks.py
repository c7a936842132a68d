"""Nothing is left of many WebSockets and their messages: no memory, no file descriptor, no object."""

from __future__ import annotations

import pytest

from tests.leaks.test_leaks import left_of, measured
from tests.leaks.ws_program import SCENARIOS


@measured
@pytest.mark.parametrize("scenario", list(SCENARIOS))
def test_nothing_is_left(scenario: str) -> None:
    left_of("ws_program", scenario)
