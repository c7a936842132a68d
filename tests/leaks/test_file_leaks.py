"""Nothing is left of many files sent, broken off and refused: no memory, no file descriptor, no object."""

from __future__ import annotations

import pytest

from tests.leaks.file_program import SCENARIOS
from tests.leaks.test_leaks import left_of, measured


@measured
@pytest.mark.parametrize("scenario", list(SCENARIOS))
def test_nothing_is_left(scenario: str) -> None:
    assert left_of("file_program", scenario)["served"] > 0
