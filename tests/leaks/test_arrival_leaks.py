"""Nothing is left of many connections with TLS, behind proxies, and gone in the middle."""

from __future__ import annotations

import pytest

from tests.leaks.arrival_program import SCENARIOS
from tests.leaks.test_leaks import REQUESTS, left_of, measured


@measured
@pytest.mark.parametrize("scenario", list(SCENARIOS))
def test_nothing_is_left(scenario: str) -> None:
    left = left_of("arrival_program", scenario, REQUESTS // 5)
    assert left["open"] == left["in_flight"] == 0, left
