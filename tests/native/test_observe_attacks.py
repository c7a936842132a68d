"""Attacks on the access log: evil write() and schedule(), buffers that just fit, globs, shares, cycles."""

from __future__ import annotations

import asyncio
import gc
import random
import re
import sys
import weakref
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardserve import _native
from tests.helpers.ws import handshake
from tests.native.drive import Driver, FakeTransport, get, ok, post, reply, statuses, turns
from tests.native.isolated import survives, survives_exit
from tests.native.observe_drive import NO_LIMITS, Eyes, Log, Op, answers, request, separated
from tests.native.ws_drive import engine

TARGET: list[Op] = [("target", None)]
MUCH = settings(max_examples=300, deadline=None, database=None)


# The buffer


async def buffered(sizes: list[int], buffer_bytes: int) -> Any:
    """Lines of these lengths, their ends included."""
    log = Log(TARGET, buffer_bytes=buffer_bytes)
    eyes = Eyes(ok, log=log, **NO_LIMITS)
    connection, transport = eyes.connect()
    wanted = b""
    for number, size in enumerate(sizes):
        target = b"/" + b"%d" % (number % 10) * (size - 2)
        connection.data_received(request(b"GET", target))
        transport.read()
        wanted += target + b"\n"
    before = [len(data) for data in log.writes]
    log.lines()
    assert b"".join(log.writes) == wanted
    return {
        "before": before,
        "writes": [len(data) for data in log.writes],
        "schedules": log.schedules,
        "lines": log.native.lines,
        "unraisable": eyes.unraisable,
    }


LENGTHS = [
    ([30] * 10, 64),
    ([64], 64),
    ([63], 64),
    ([65], 64),
    ([32, 32], 64),
    ([32, 32, 32], 64),
    ([32, 33], 64),
    ([63, 2], 64),
    ([62, 2, 2], 64),
    ([2, 64, 2], 64),
    ([2, 65, 2], 64),
    ([200, 2, 200, 2], 64),
    ([2] * 200, 64),
    ([60_000, 60_000], 65536),
    ([65_536, 65_535, 65_537, 2], 65536),
    ([70_000, 2, 2, 70_000], 65536),
    ([3] * 5, 1),
    ([3] * 5, 2),
    ([3] * 5, 3),
]


@pytest.mark.parametrize(("sizes", "buffer_bytes"), LENGTHS)
def test_lines_that_fit_just_or_not(sizes: list[int], buffer_bytes: int) -> None:
    found = survives(buffered, sizes, buffer_bytes)
    assert found["lines"] == len(sizes)
    assert found["unraisable"] == []
    assert max(found["writes"]) < buffer_bytes + max(sizes)
    assert sum(found["before"]) > sum(sizes) - buffer_bytes, "more is held back than the buffer has"
    assert found["schedules"] <= len(found["writes"]), "one is enough for a batch"
    assert found["schedules"] or sizes[0] >= buffer_bytes


async def any_sizes() -> None:
    @MUCH
    @given(sizes=st.lists(st.integers(2, 300), min_size=1, max_size=30), buffer_bytes=st.integers(1, 400))
    def check(sizes: list[int], buffer_bytes: int) -> None:
        log = Log(TARGET, buffer_bytes=buffer_bytes)
        driver = Driver(ok, access=log.native)
        connection, transport = driver.connect()
        for size in sizes:
            connection.data_received(request(b"GET", b"/" + b"x" * (size - 2)))
        assert [len(line) + 1 for line in log.lines()] == sizes
        connection.connection_lost(None)
        transport.shut()

    check()


def test_lines_of_any_length() -> None:
    survives(any_sizes, patience_s=120)


async def huge_values() -> Any:
    """A target of 64 KiB, every byte of it four; and a field of 8 KiB."""
    log = Log(
        separated([*TARGET, ("request_field", b"x"), ("path", None), ("query", None)]), buffer_bytes=500
    )
    eyes = Eyes(ok, log=log, **NO_LIMITS)
    target = b"/" + b'"' * 32_000 + b"?" + b"\\" * 32_000
    await eyes.talk(get(), request(b"GET", target, (b"X", b"\x80" * 8000)), get())
    return [[len(value) for value in row] for row in eyes.rows()]


def test_values_larger_than_the_buffer() -> None:
    one = [1, 1, 1, 0]
    huge = [2 + 64_000 * 4, 8000 * 4, 1 + 32_000 * 4, 32_000 * 4]
    assert survives(huge_values) == [one, huge, one]


# write() and schedule()


async def writer_that(what: str, pipelined: bool) -> Any:
    """What write() does while it has the lines of others in its hands."""
    held: list[bytes] = []
    seen: list[str] = []
    depth = 0
    box: dict[str, Any] = {}

    def write(data: bytes) -> Any:
        nonlocal depth
        held.append(data)
        if depth > 1:
            return None
        depth += 1
        try:
            if what == "flushes":
                box["log"].flush()
            elif what == "serves":
                connection, transport = box["eyes"].connect()
                connection.data_received(get("/nested"))
                connection.connection_lost(None)
                transport.shut()
            elif what == "serves much":
                connection, transport = box["eyes"].connect()
                connection.data_received(get("/nested") * 30)
                connection.connection_lost(None)
                transport.shut()
            elif what == "serves and flushes":
                connection, transport = box["eyes"].connect()
                connection.data_received(get("/nested") * 30)
                box["log"].flush()
                transport.shut()
                connection.connection_lost(None)
            elif what == "drops the log":
                box["eyes"].log = box["log"] = None
                gc.collect()
            elif what == "loses the connection":
                box["connection"].connection_lost(None)
            elif what == "aborts":
                box["eyes"].factory.abort()
            elif what == "collects":
                gc.collect()
            elif what == "raises":
                raise OSError("evil write")
            elif what == "raises SystemExit":
                raise SystemExit(1)
            elif what == "returns junk":
                return 5
            return None
        finally:
            depth -= 1

    log = Log(TARGET, write=write, buffer_bytes=64)
    eyes = Eyes(ok, log=log)
    box.update(log=log.native, eyes=eyes)
    connection, transport = eyes.connect()
    box["connection"] = connection
    if pipelined:
        connection.data_received(b"".join(get(f"/number{number}") for number in range(40)))
    else:
        for number in range(40):
            connection.data_received(get(f"/number{number}"))
    await turns()
    if box["log"] is not None:
        box["log"].flush()
        seen.append(str(box["log"].lines))
    answered = len(statuses(transport.read()))
    connection.connection_lost(None)
    await turns()
    lines = b"".join(held).split(b"\n")[:-1]
    assert all(data.endswith(b"\n") for data in held if data)
    return {
        "mine": [line.decode() for line in lines if line != b"/nested"],
        "nested": lines.count(b"/nested"),
        "unraisable": len(eyes.unraisable),
        "answered": answered,
        "left": eyes.factory.in_flight,
    }


WRITERS = [
    "flushes",
    "serves",
    "serves much",
    "serves and flushes",
    "drops the log",
    "loses the connection",
    "aborts",
    "collects",
    "raises",
    "raises SystemExit",
    "returns junk",
]


@pytest.mark.parametrize("pipelined", [False, True])
@pytest.mark.parametrize("what", WRITERS)
def test_a_write_that(what: str, pipelined: bool) -> None:
    found = survives(writer_that, what, pipelined)
    assert found["left"] == 0
    ends = what in ("loses the connection", "aborts")
    if not ends:
        assert found["answered"] == 40
    mine = found["mine"]
    assert len(set(mine)) == len(mine), "a line twice"
    # Every line, each once; those of nested requests may stand between them.
    wanted = [f"/number{number}" for number in range(40)]
    if not ends and what != "drops the log":  # then nobody flushes the last ones
        assert sorted(mine) == sorted(wanted)
    if what not in ("serves", "serves much", "serves and flushes"):
        assert mine == wanted[: len(mine)], "out of order"
    assert (found["unraisable"] > 0) == what.startswith("raises")
    assert (found["nested"] > 0) == what.startswith("serves")


async def schedule_that(what: str) -> Any:
    calls = 0
    box: dict[str, Any] = {}

    def schedule() -> Any:
        nonlocal calls
        calls += 1
        if what == "raises":
            raise KeyError("evil schedule")
        if what == "flushes":
            box["log"].flush()
        if what == "serves" and calls < 5:
            connection, transport = box["eyes"].connect()
            connection.data_received(get("/nested") * 3)
            connection.connection_lost(None)
            transport.shut()
        if what == "drops the log":
            box["eyes"].log = box["log"] = None
        if what == "loses the connection":
            box["connection"].connection_lost(None)
        return object()

    log = Log(TARGET, schedule=schedule, buffer_bytes=64)
    eyes = Eyes(ok, log=log)
    writes = log.writes
    box.update(log=log.native, eyes=eyes)
    del log
    connection, transport = eyes.connect()
    box["connection"] = connection
    for number in range(20):
        connection.data_received(get(f"/number{number}"))
    if box["log"] is not None:
        box["log"].flush()
    lines = b"".join(writes).split(b"\n")[:-1]
    return {
        "mine": [line.decode() for line in lines if line != b"/nested"],
        "nested": lines.count(b"/nested"),
        "calls": calls,
        "unraisable": len(eyes.unraisable),
        "answered": len(statuses(transport.read())),
    }


@pytest.mark.parametrize("what", ["raises", "flushes", "serves", "drops the log", "loses the connection"])
def test_a_schedule_that(what: str) -> None:
    found = survives(schedule_that, what)
    wanted = [f"/number{number}" for number in range(20)]
    if what == "loses the connection":
        wanted = wanted[: len(found["mine"])]
        assert wanted
    if what == "drops the log":  # the factory has it still, but nobody flushes what is left in it
        assert found["mine"] == wanted[: len(found["mine"])]
    else:
        assert sorted(found["mine"]) == sorted(wanted)
    assert (found["unraisable"] > 0) == (what == "raises")
    assert found["nested"] == (12 if what == "serves" else 0)
    if what == "flushes":
        assert found["calls"] == 20


async def scheduled() -> list[int]:
    """Once for each time that the buffer is empty and a line comes."""
    log = Log(TARGET)
    eyes = Eyes(ok, log=log)
    connection, _ = eyes.connect()
    found = [log.schedules]
    for _ in range(3):
        connection.data_received(get() * 5)
        found.append(log.schedules)
        log.native.flush()
        log.native.flush()
        found.append(len(log.writes))
    return found


def test_schedule_is_called_once_a_batch() -> None:
    assert survives(scheduled) == [0, 1, 1, 2, 2, 3, 3]


async def dropped_with_lines() -> list[Any]:
    """Whoever drops the log before flush() loses its lines; write() is not called by the end of an object."""
    log = Log(TARGET)
    writes = log.writes
    eyes = Eyes(ok, log=log)
    connection, transport = eyes.connect()
    connection.data_received(get() * 3)
    connection.connection_lost(None)
    transport.shut()
    eyes.driver.factory.close()
    count = log.native.lines
    del log, eyes, connection, transport
    gc.collect()
    return [count, len(writes)]


def test_a_log_that_is_dropped() -> None:
    count, writes = survives(dropped_with_lines)
    assert count == 3
    assert writes in (0, 1)


async def flushed_after_the_factory() -> list[str]:
    log = Log(TARGET)
    eyes = Eyes(ok, log=log)
    connection, transport = eyes.connect()
    connection.data_received(get("/a"))
    connection.connection_lost(None)
    transport.shut()
    eyes.driver.factory.close()
    del eyes, connection
    gc.collect()
    return [line.decode() for line in log.lines()]


def test_a_log_outlives_its_factory() -> None:
    assert survives(flushed_after_the_factory) == ["/a"]


async def two_factories() -> Any:
    log = Log(TARGET, buffer_bytes=64)
    first, second = (Driver(ok, access=log.native) for _ in range(2))
    for number in range(10):
        for driver in (first, second):
            connection, transport = driver.connect()
            connection.data_received(get(f"/{number}"))
            connection.connection_lost(None)
            transport.shut()
    return [line.decode() for line in log.lines()]


def test_one_log_of_two_factories() -> None:
    assert survives(two_factories) == [f"/{number}" for number in range(10) for _ in range(2)]


# What is left out


def glob_model(pattern: bytes) -> re.Pattern[bytes]:
    parts = [
        b".*" if code == 0x2A else b"." if code == 0x3F else re.escape(bytes([code])) for code in pattern
    ]
    return re.compile(b"".join(parts), re.S)


async def globs() -> int:
    excluded = 0

    @MUCH
    @given(
        patterns=st.lists(st.text("ab*?[\\.$", max_size=6).map(lambda text: "/" + text), max_size=3),
        paths=st.lists(st.text("ab/[\\.*$", max_size=5), min_size=1, max_size=6),
    )
    def check(patterns: list[str], paths: list[str]) -> None:
        nonlocal excluded
        encoded = [pattern.encode() for pattern in patterns]
        log = Log(TARGET, exclude=encoded)
        driver = Driver(ok, access=log.native)
        connection, transport = driver.connect()
        wanted = []
        for path in paths:
            target = b"/" + path.encode() + b"?a*b"
            connection.data_received(request(b"GET", target))
            if not any(glob_model(one).fullmatch(target.partition(b"?")[0]) for one in encoded):
                wanted.append(target)
        excluded += len(paths) - len(wanted)
        assert [line.split(b"?")[1] for line in log.lines()] == [b"a*b"] * len(wanted)
        assert log.native.lines == len(wanted)
        connection.connection_lost(None)
        transport.shut()

    check()
    return excluded


def test_globs_agree_with_the_model() -> None:
    assert survives(globs, patience_s=120) > 20


GLOBS = [
    ("/health", "/health", True),
    ("/health", "/healthz", False),
    ("/health", "/health?x", True),
    ("/health*", "/health/a/b?x", True),
    ("*", "/", True),
    ("", "/", False),
    ("/?", "/a", True),
    ("/?", "/", False),
    ("/?", "/?a", False),
    ("*/x", "/a/b/x", True),
    ("/a*b*c", "/aXbXbXc", True),
    ("/a*b*c", "/aXbXbX", False),
    ("/**", "/", True),
    ("*.js", "/a.js", True),
    ("*.js", "/a.js/b", False),
    ("/%61", "/%61", True),
    ("/a", "/%61", False),
    ("/[ab]", "/a", False),
    ("/\\*", "/a", False),
    ("/ab", "/AB", False),
]


async def glob(pattern: str, target: str) -> bool:
    log = Log(TARGET, exclude=(pattern.encode(),))
    await Eyes(ok, log=log).talk(request(b"GET", target.encode()))
    return not log.lines()


@pytest.mark.parametrize(("pattern", "target", "excluded"), GLOBS)
def test_a_glob(pattern: str, target: str, excluded: bool) -> None:
    assert survives(glob, pattern, target) is excluded


async def pathological() -> list[int]:
    """Backtracking over each star would take longer than the universe has."""
    patterns = [
        b"*a" * 40 + b"b",
        b"*" * 2000 + b"b",
        b"*?" * 40 + b"b",
        b"*aa" * 30 + b"?b",
        b"/*a*a*a*a*a*c*a*b",
    ]
    log = Log(TARGET, exclude=patterns)
    eyes = Eyes(ok, log=log, **NO_LIMITS)
    for path in (b"a" * 60_000, b"a" * 60_000 + b"b", b"ab" * 30_000 + b"c"):
        await eyes.talk(request(b"GET", b"/" + path))
    return [len(line) for line in log.lines()]


def test_stars_do_not_multiply() -> None:
    assert survives(pathological) == [60_001, 60_002]


async def excluded_kinds() -> Any:
    log = Log([("target", None), ("literal", b" "), ("status", None)], exclude=[b"/x*"])
    eyes = Eyes(answers(503), log=log, websocket=engine())
    await eyes.talk(get("/x"), get("/y"), get("/y?/x"), request(b"GET", b"http://h/x?a"))
    await eyes.talk(handshake("/xs", version=b"1"), handshake("/ys", version=b"1"))
    return [line.decode() for line in log.lines()]


def test_what_is_excluded_is_so_whatever_its_status() -> None:
    lines = survives(excluded_kinds)
    assert "/x 503" not in lines
    assert [line for line in lines if line.startswith("/y ")] == ["/y 503"]
    assert not any(line.startswith("/xs") for line in lines)
    assert any(line.startswith("/ys 4") for line in lines)


# Shares


async def shared(sample: float, count: int, every: int) -> list[int]:
    """How many lines of so many requests; each ``every`` is a 500."""
    served = 0

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal served
        served += 1
        status = 500 if every and served % every == 0 else 200
        await send({"type": "http.response.start", "status": status})
        await send({"type": "http.response.body"})

    log = Log([("status", None)], sample=sample)
    eyes = Eyes(app, log=log)
    connection, transport = eyes.connect()
    for _ in range(count):
        connection.data_received(get())
        transport.read()
    lines = log.lines()
    return [lines.count(b"200"), lines.count(b"500")]


SHARES = [1.0, 0.999, 0.9, 0.75, 0.5, 1 / 3, 0.25, 0.1, 0.01, 0.001, 1e-9, 0.0]


@pytest.mark.parametrize("sample", SHARES)
def test_the_share_of_lines_is_exact(sample: float) -> None:
    fine, failed = survives(shared, sample, 4000, 0)
    assert abs(fine - sample * 4000) <= 4
    assert fine < 4000 or sample > 0.999
    assert failed == 0


@pytest.mark.parametrize("sample", [0.0, 0.1, 0.5, 0.9])
def test_a_5xx_always_has_its_line(sample: float) -> None:
    fine, failed = survives(shared, sample, 4000, 4)
    assert failed == 1000
    assert abs(fine - sample * 3000) <= 4


# Garbage


async def cycles() -> list[bool]:
    class Marked:
        pass

    found = []
    for lines in (0, 3):
        marked = Marked()
        log = _native.AccessLog(TARGET, TARGET, write=lambda data, marked=marked: None, schedule=lambda: None)
        marked.log = log  # type: ignore[attr-defined]
        driver = Driver(ok, access=log)
        connection, transport = driver.connect()
        connection.data_received(get() * lines if lines else b"")
        connection.connection_lost(None)
        transport.shut()
        driver.factory.close()
        marked.driver = driver  # type: ignore[attr-defined]
        gone = weakref.ref(marked)
        assert gc.is_tracked(log)
        del marked, log, driver, connection, transport
        for _ in range(4):
            gc.collect()
            await turns()
        found.append(gone() is None)
    return found


def test_a_cycle_through_the_log_is_collected() -> None:
    assert survives(cycles) == [True, True]


async def traversed() -> list[str]:
    def write(data: bytes) -> None: ...

    class Schedule:
        def __call__(self) -> None: ...

    log = _native.AccessLog(TARGET, TARGET, write=write, schedule=Schedule())
    return sorted({type(one).__name__ for one in gc.get_referents(log)})


def test_the_collector_sees_the_members() -> None:
    assert {"Schedule", "function", "type"} <= set(survives(traversed))


async def dying_callable() -> list[str]:
    """write() and schedule() go with the log, and look at it while they do."""
    seen: list[str] = []

    class Write:
        def __init__(self) -> None:
            self.box: list[Any] = []

        def __call__(self, data: bytes) -> None:
            seen.append("written")

        def __del__(self) -> None:
            for log in self.box:
                try:
                    log.flush()
                    seen.append(str(log.lines))
                except Exception as error:
                    seen.append(type(error).__name__)

    write = Write()
    log = _native.AccessLog(TARGET, TARGET, write=write, schedule=lambda: None)
    write.box.append(log)
    driver = Driver(ok, access=log)
    connection, transport = driver.connect()
    connection.data_received(get())
    connection.connection_lost(None)
    transport.shut()
    driver.factory.close()
    del write, log, driver, connection
    gc.collect()
    return seen


def test_a_write_that_dies_with_its_log() -> None:
    seen = survives(dying_callable)
    assert seen
    assert seen[-1] == "1" or seen[-1].endswith("Error")


async def left_at_exit() -> str:
    log = Log(TARGET)
    eyes = Eyes(ok, log=log, figures=True)
    connection, _ = eyes.connect()
    connection.data_received(get())
    sys.kept = [log, eyes, connection]  # type: ignore[attr-defined]
    return "alive"


def test_an_interpreter_that_ends_with_a_log() -> None:
    assert survives_exit(left_at_exit) == "alive"


# Storms


async def storm(seed: int) -> Any:
    """Many connections with everything on, ended at any moment; each answered request has its line."""
    dice = random.Random(seed)
    waiting: list[asyncio.Event] = []
    done = 0

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal done
        how = dice.randrange(6)
        if how == 0:
            raise ValueError
        if how == 1:
            gate = asyncio.Event()
            waiting.append(gate)
            await gate.wait()
        if how == 2:
            while (await receive()).get("more_body"):
                pass
        await reply(send, b"x" * dice.choice([0, 10, 3000]))
        done += 1

    log = Log([("method", None)], buffer_bytes=200)
    eyes = Eyes(app, log=log, figures=True, request_id_field=b"X-Request-ID", make_traceparent=True)
    live: list[tuple[Any, FakeTransport]] = []
    for _ in range(600):
        act = dice.randrange(7)
        if act <= 1 or not live:
            live.append(eyes.connect())
        elif act <= 4:
            connection, transport = dice.choice(live)
            data = dice.choice([get(), get() * 3, post(5, body=b"ab"), b"cde", post(3, body=b"abc")])
            connection.data_received(data)
            transport.read()
        elif act == 5:
            connection, transport = live.pop(dice.randrange(len(live)))
            connection.connection_lost(None)
            transport.shut()
        elif waiting:
            waiting.pop().set()
            await turns(2)
        if dice.random() < 0.05:
            eyes.factory.count_states()
            log.native.flush()
    for connection, transport in live:
        connection.connection_lost(None)
        transport.shut()
    for gate in waiting:
        gate.set()
    await turns()
    lines = log.lines()
    responses = sum(count for name, count in eyes.counts().items() if name.startswith("responses_"))
    return [len(lines) == log.native.lines, len(lines) <= responses, eyes.factory.in_flight, eyes.unraisable]


@pytest.mark.parametrize("seed", range(12))
def test_a_storm(seed: int) -> None:
    assert survives(storm, seed) == [True, True, 0, []]
