"""Nothing is left of many requests that are logged, counted and named."""

from __future__ import annotations

import pytest

from tests.leaks.observe_program import SCENARIOS
from tests.leaks.test_leaks import REQUESTS, left_of, measured


@measured
@pytest.mark.parametrize("scenario", list(SCENARIOS))
def test_nothing_is_left(scenario: str) -> None:
    left = left_of("observe_program", scenario, REQUESTS)
    assert left["untold"] == 0, left
    assert left["lines"] > 0, left
    # Each request has its line, but for those that were abandoned before their head.
    assert left["served"] - left["abandoned"] <= left["lines"] <= left["served"], left
