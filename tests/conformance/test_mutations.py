"""Requests with faults in them, read by us, by httptools alone and by h11 (tests/helpers/oracles.py).

Whatever we take, they take, for the same requests; whatever we alone refuse, a rule of ours refuses; and
neither depends on how the bytes are cut. ``SHARDSERVE_MUTATIONS`` is how many inputs (4000),
``SHARDSERVE_MUTATIONS_SEED`` which ones. The number of a failure makes its input again:
``the_input(seed, number)``.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Iterator

import pytest

from tests.helpers import mutate
from tests.helpers.oracles import Ours, Reading, judge

SANITIZED = "SHARDSERVE_SANITIZED" in os.environ
COUNT = int(os.environ.get("SHARDSERVE_MUTATIONS", "600" if SANITIZED else "4000"))
SEED = os.environ.get("SHARDSERVE_MUTATIONS_SEED", "1")
SHOWN = 5
OTHERS = [mutate.pipeline(random.Random(f"others {number}")) for number in range(100)]


@pytest.fixture
def ours() -> Iterator[Ours]:
    server = Ours()
    yield server
    server.close()


def the_input(seed: str, number: int) -> bytes:
    dice = random.Random(f"{seed} {number}")
    return mutate.mutate(dice, mutate.pipeline(dice), OTHERS)


def uncut(reading: Reading) -> tuple[object, ...]:
    """What must not depend on the cuts. Of two faults, which one is told may, and whether an app had begun
    on a request whose body was refused."""
    refused = reading.status != 0
    return reading.seen, refused, reading.closes, None if refused else reading.begun


def test_whatever_we_take_they_take_for_the_same(ours: Ours) -> None:
    """And what we alone refuse, a rule refuses."""
    failures: list[str] = []
    tally: Counter[str] = Counter()
    for number in range(COUNT):
        raw = the_input(SEED, number)
        dice = random.Random(number)
        reading = ours.read([raw])
        verdict = judge(raw, reading)
        problems = list(verdict.problems)
        ways = {"bytes": [raw[at : at + 1] for at in range(len(raw))], "pieces": mutate.pieces(dice, raw)}
        for way, pieces in ways.items():
            other = ours.read(pieces, turning=way == "pieces")
            if uncut(other) != uncut(reading):
                problems.append(f"cut into {way}: {other}, whole: {reading}")
        tally["served"] += len(reading.seen)
        tally["refused"] += reading.status != 0
        tally[f"alone {verdict.alone}"] += 1
        if problems:
            failures.append(f"seed {SEED!r}, input {number}: {raw!r}\n  " + "\n  ".join(problems))
            if len(failures) == SHOWN:
                break
    assert not failures, "\n".join(failures)
    # The inputs are neither all right nor all garbage, and each rule of ours has been met.
    assert tally["served"] > COUNT // 2, tally
    assert tally["refused"] > COUNT // 4, tally
    assert {"alone 400", "alone 417"} <= tally.keys(), tally


def test_requests_without_faults_are_served_by_all(ours: Ours) -> None:
    for number in range(COUNT // 10):
        dice = random.Random(f"{SEED} right {number}")
        raw = mutate.pipeline(dice)
        reading = ours.read(mutate.pieces(dice, raw))
        assert (reading.status, reading.begun) == (0, None), (raw, reading)
        assert not judge(raw, reading).problems, raw
