"""Nothing is left of many streams of HTTP/2 and their connections: no memory, no descriptor, no object."""

from __future__ import annotations

import pytest

from tests.helpers.nghttp2 import needs_nghttp2
from tests.leaks.h2_program import SCENARIOS
from tests.leaks.test_leaks import left_of, measured

pytestmark = needs_nghttp2


@measured
@pytest.mark.parametrize("scenario", list(SCENARIOS))
def test_nothing_is_left(scenario: str) -> None:
    left_of("h2_program", scenario)
