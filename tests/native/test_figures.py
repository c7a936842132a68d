"""The figures that the native side writes into the worker's page, and the lines that go with them."""

from __future__ import annotations

import asyncio
import gc
import mmap
import os
import sys
from collections.abc import Callable
from typing import Any

import pytest

from shardserve import _native, stats
from shardserve.stats import NATIVE_HISTOGRAMS, SIZE_BOUNDS_BYTES, Page
from tests.helpers.ws import handshake, text
from tests.native.drive import Driver, get, ok, post, turns
from tests.native.isolated import survives, survives_exit
from tests.native.observe_cases import CASES, LARGE, OPS, WEBSOCKET, app, file_of
from tests.native.observe_drive import Eyes, Patient, answers, figure_options, request

SUM_OF = {"request_body_bytes": 3, "response_body_bytes": 4}
"""Of a line: where the value stands that the histogram sums up."""


# Every way that a request ends


async def told(name: str, with_log: bool = True, with_figures: bool = True) -> dict[str, Any]:
    case = CASES[name]
    eyes = Eyes(app, OPS if with_log else (), figures=with_figures, **case.settings)
    await case.play(eyes)
    await turns()
    found: dict[str, Any] = {"unraisable": eyes.unraisable, "left": eyes.factory.connections}
    if with_log:
        found["lines"] = eyes.rows()
    if eyes.page is not None:
        found["counts"], found["observed"] = eyes.counts(), eyes.observed()
        found["sums"] = {one.name: eyes.page[f"{one.name}_sum"] for one in NATIVE_HISTOGRAMS}
    return found


@pytest.mark.parametrize("name", CASES)
def test_the_lines_and_the_figures_of(name: str) -> None:
    case, found = CASES[name], survives(told, name)
    assert found["lines"] == [[str(value) for value in line] for line in case.lines]
    assert found["counts"] == case.counts
    assert found["unraisable"] == []
    assert found["left"] == 0
    # A WebSocket's 101 has no duration worth counting; everything else has one of each.
    finished = sum(line[2] != 101 for line in case.lines)
    for histogram, count in found["observed"].items():
        assert count in (finished, len(case.lines)), (histogram, found["observed"])
    for histogram, at in SUM_OF.items():
        assert found["sums"][histogram] == sum(line[at] for line in case.lines), histogram
    assert found["sums"]["first_byte_us"] <= found["sums"]["duration_us"]


@pytest.mark.parametrize("name", CASES)
def test_one_without_the_other_of(name: str) -> None:
    both = survives(told, name)
    alone = survives(told, name, True, False)
    assert alone["lines"] == both["lines"]
    alone = survives(told, name, False, True)
    assert (alone["counts"], alone["observed"]) == (both["counts"], both["observed"])


# Files that break off


class Stuck(Patient):
    """What does not fit into the socket waits, for ever."""

    def writelines(self, parts: Any) -> None:
        super().writelines(parts)
        assert self.connection is not None
        self.connection.pause_writing()


async def part_of_a_file(how: str) -> list[int]:
    """A file larger than what the client takes: what it got, what the line says, what the figures say."""
    file = file_of(LARGE)

    async def sends(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        waiter = send({"type": "http.response.zerocopysend", "file": file})
        if how == "fails":
            await asyncio.sleep(0)
            raise ValueError
        await waiter

    eyes = Eyes(sends, OPS, figures=True)
    connection, transport = eyes.connect(Stuck())
    connection.data_received(get())
    await turns()
    output = b""
    if how == "becomes shorter":
        output = transport.read()
        file.truncate(LARGE // 8)
        connection.resume_writing()
        await turns()
    elif how == "is aborted":
        eyes.factory.abort()
    await turns()
    output += transport.read()
    connection.connection_lost(None)
    await turns()
    assert eyes.page is not None
    sizes = [int(row[-1]) for row in eyes.rows()]
    total = eyes.page[f"{NATIVE_HISTOGRAMS[3].name}_sum"]
    return [len(output.partition(b"\r\n\r\n")[2]), *sizes, total]


@pytest.mark.parametrize("how", ["fails", "is left", "is aborted", "becomes shorter"])
def test_the_bytes_of_a_file_that(how: str) -> None:
    got, logged, counted = survives(part_of_a_file, how)
    assert got <= logged == counted
    assert logged < LARGE, "what the client will never get is not the size of its response"


# Histograms


async def sizes() -> list[list[Any]]:
    """Bodies of exactly each bound, one less and one more."""
    found = []
    for bound in SIZE_BOUNDS_BYTES:
        if bound > 1_000_000:
            break
        for size in (bound - 1, bound, bound + 1):
            eyes = Eyes(answers(body=b"x" * size), figures=True, limit_request_body=0)
            connection, transport = eyes.connect()
            connection.data_received(post(size, body=b"y" * size))
            await turns()
            assert eyes.page is not None
            taken, sent = (eyes.page.buckets(one).index(1) for one in NATIVE_HISTOGRAMS[2:])
            found.append([size, taken, sent])
            transport.read()
            connection.connection_lost(None)
            eyes.page.close()
            transport.shut()
    return found


def test_a_value_at_a_bound_is_in_its_bucket() -> None:
    for size, taken, sent in survives(sizes):
        wanted = NATIVE_HISTOGRAMS[2].bucket_of(size)
        assert (taken, sent) == (wanted, wanted), size


async def much() -> list[int]:
    """Sums of more than 32 bits."""
    eyes = Eyes(answers(body=bytes(100_000_000)), figures=True)
    for _ in range(50):
        connection, transport = eyes.connect()
        transport.writelines = lambda parts: None  # type: ignore[method-assign]
        connection.data_received(get())
        connection.connection_lost(None)
        transport.shut()
    assert eyes.page is not None
    histogram = NATIVE_HISTOGRAMS[3]
    bucket = histogram.bucket_of(100_000_000)
    return [eyes.page[f"{histogram.name}_sum"], eyes.page.buckets(histogram)[bucket]]


@pytest.mark.skipif("SHARDSERVE_SANITIZED" in os.environ, reason="the sanitizers keep freed memory")
def test_sums_have_more_than_32_bits() -> None:
    assert survives(much) == [5_000_000_000, 50]


async def slow_answers() -> list[int]:
    """An answer that takes 30 ms is in no bucket below that."""

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(0.03)
        await answers()(scope, receive, send)

    eyes = Eyes(slow, figures=True)
    connection, _ = eyes.connect()
    connection.data_received(get())
    assert eyes.page is not None
    while not eyes.page["responses_GET_2xx"]:
        await asyncio.sleep(0.005)
    duration, first, _, _ = NATIVE_HISTOGRAMS
    return [eyes.page[f"{one.name}_sum"] for one in (duration, first)] + [
        sum(count for count, bound in zip(eyes.page.buckets(one), one.bounds, strict=False) if bound < 25_000)
        for one in (duration, first)
    ]


def test_a_slow_answer_is_counted_as_one() -> None:
    duration, first, low_durations, low_firsts = survives(slow_answers)
    assert duration >= first >= 25_000
    assert (low_durations, low_firsts) == (0, 0)


# Names and room


def test_the_names_are_those_of_the_page() -> None:
    assert tuple(_native.figure_names)[: len(stats.NATIVE)] == stats.NATIVE


def view(count: int, kind: str = "Q") -> Any:
    size = memoryview(bytes(8)).cast(kind).itemsize if kind != "Q" else 8
    return memoryview(bytearray(size * count)).cast(kind)


ROOM = len(Page.create("room").native)
D, S = stats.DURATION_BOUNDS_US, stats.SIZE_BOUNDS_BYTES
WRONG: dict[str, Callable[[], tuple[Any, Any, Any]]] = {
    "one too few": lambda: (view(ROOM - 1), D, S),
    "one too many": lambda: (view(ROOM + 1), D, S),
    "none": lambda: (memoryview(b""), D, S),
    "read-only": lambda: (memoryview(bytes(8 * ROOM)).cast("Q"), D, S),
    "signed": lambda: (view(ROOM, "q"), D, S),
    "doubles": lambda: (view(ROOM, "d"), D, S),
    "bytes": lambda: (memoryview(bytearray(8 * ROOM)), D, S),
    "32 bits": lambda: (view(ROOM * 2, "I"), D, S),
    "every other one": lambda: (view(ROOM * 2)[::2], D, S),
    "backwards": lambda: (view(ROOM)[::-1], D, S),
    "two dimensions": lambda: (memoryview(bytearray(8 * ROOM)).cast("Q", (1, ROOM)), D, S),
    "not aligned": lambda: (memoryview(bytearray(8 * ROOM + 1))[1:].cast("Q"), D, S),
    "released": lambda: (released(), D, S),
    "no buffer": lambda: (5, D, S),
    "no bounds": lambda: (view(ROOM), (), ()),
    "one bound too few": lambda: (view(ROOM), D[1:], S),
    "one bound too many": lambda: (view(ROOM), D, (*S, S[-1] + 1)),
    "bounds that fall": lambda: (view(ROOM), D[::-1], S),
    "bounds that stay": lambda: (view(ROOM), (D[0], *D[:-1]), S),
    "bounds below zero": lambda: (view(ROOM), (-1, *D[1:]), S),
    "bounds of str": lambda: (view(ROOM), tuple(map(str, D)), S),
    "bounds of float": lambda: (view(ROOM), (0.5, *D[1:]), S),
    "bounds beyond 64 bits": lambda: (view(ROOM), (*D[:-1], 1 << 80), S),
    "bounds that are None": lambda: (view(ROOM), None, None),
    "endless bounds": lambda: (view(ROOM), tuple(range(1, 100_000)), S),
}


def released() -> memoryview:
    gone = view(ROOM)
    gone.release()
    return gone


async def wrong(name: str) -> str:
    figures, duration, size = WRONG[name]()
    try:
        driver = Driver(ok, figures=figures, duration_bounds_us=duration, size_bounds_bytes=size)
    except (TypeError, ValueError, BufferError, OverflowError) as error:
        return type(error).__name__ if str(error) else "nothing said"
    connection, _ = driver.connect()
    connection.data_received(get() + post(3, body=b"abc"))
    driver.factory.count_states()
    return "accepted"


@pytest.mark.parametrize("name", WRONG)
def test_figures_that_are(name: str) -> None:
    found = survives(wrong, name)
    if name == "not aligned":  # a store to it is not one store
        assert found in ("TypeError", "ValueError", "accepted")
    else:
        assert found in ("TypeError", "ValueError", "BufferError", "OverflowError")


async def none_at_all() -> list[int]:
    driver = Driver(ok, figures=None)
    connection, transport = driver.connect()
    connection.data_received(get())
    driver.factory.count_states()
    connection.connection_lost(None)
    return [len(transport.read()) > 0]


def test_no_figures() -> None:
    assert survives(none_at_all) == [True]


async def let_go() -> list[str]:
    """The page is the factory's while it lives, and nobody's afterwards."""
    area = mmap.mmap(-1, 8192)
    whole = memoryview(area).cast("Q")
    part = whole[:ROOM]
    driver = Driver(ok, **figure_options(part))
    connection, _ = driver.connect()
    connection.data_received(get())
    seen = []

    def note(act: Callable[[], None]) -> None:
        try:
            act()
            seen.append("done")
        except BufferError:
            seen.append("BufferError")

    note(part.release)
    whole.release()
    note(area.close)
    connection.data_received(get())  # it still writes
    connection.connection_lost(None)
    await turns()
    driver.factory.close()
    del driver, connection
    for _ in range(4):
        gc.collect()
        await turns()
    if seen[0] == "BufferError":
        part.release()
    note(area.close)
    return seen


def test_the_page_is_kept_mapped_and_let_go() -> None:
    first, second, last = survives(let_go)
    assert second == "BufferError"
    assert last == "done"
    assert first in ("done", "BufferError")


async def left_at_exit() -> str:
    page = Page.create("figures")
    driver = Driver(ok, **figure_options(page.native))
    connection, _ = driver.connect()
    connection.data_received(get())
    sys.kept = [page, driver, connection]  # type: ignore[attr-defined]
    return "alive"


def test_an_interpreter_that_ends_with_figures() -> None:
    assert survives_exit(left_at_exit) == "alive"


async def collected() -> list[int]:
    """The collector does not take the page away from a factory that goes in the same sweep."""
    found = []
    for _ in range(20):
        holder = bytearray(8 * ROOM)
        driver = Driver(ok, **figure_options(memoryview(holder).cast("Q")))
        connection, transport = driver.connect()
        connection.data_received(get())
        driver.itself = driver  # type: ignore[attr-defined]
        connection.connection_lost(None)
        transport.shut()
        del driver, connection, transport
        gc.collect()
        await turns()
        gc.collect()
        found.append(sum(memoryview(holder).cast("Q")[:2]))
    return found


def test_figures_that_are_garbage_with_their_factory() -> None:
    assert survives(collected) == [1] * 20


# What connections do now

STATES = ("idle", "reading", "active", "websocket", "closing")


def states(eyes: Eyes) -> dict[str, int]:
    eyes.factory.count_states()
    assert eyes.page is not None
    found = {name: eyes.page[f"connections_{name}"] for name in STATES}
    assert sum(found.values()) == eyes.factory.connections, found
    return {name: count for name, count in found.items() if count}


async def doing() -> dict[str, Any]:
    found: dict[str, Any] = {}
    eyes = Eyes(app, figures=True, **WEBSOCKET)
    found["none"] = states(eyes)
    early = get("/status/200").replace(b"GET", b"POST").replace(b"Host", b"Content-Length: 100\r\nHost")
    feeds = {
        "new": b"",
        "line": b"GET / HT",
        "head": b"GET / HTTP/1.1\r\nHo",
        "body": post(100, body=b"x" * 10),
        "waiting": get("/wait"),
        "begun": get("/begun"),
        "answered": get("/read"),
        "socket": handshake("/echo"),
        "refused": b"nonsense\r\n\r\n",
        "answered in its body": early + b"x" * 10,
    }
    open_now = []
    for name, data in feeds.items():
        connection, transport = eyes.connect()
        if data:
            connection.data_received(data)
        await turns()
        found[name] = states(eyes)
        open_now.append(connection)
        for one in open_now:
            one.connection_lost(None)
        open_now.clear()
        await turns()
        transport.shut()
    for data in feeds.values():
        connection, transport = eyes.connect()
        if data:
            connection.data_received(data)
        open_now.append(connection)
    await turns()
    found["all"] = states(eyes)
    for connection in open_now:
        connection.connection_lost(None)
    await turns()
    found["over"] = states(eyes)
    return found


def test_what_connections_do() -> None:
    found = survives(doing)
    idle, reading, active = {"idle": 1}, {"reading": 1}, {"active": 1}
    assert found["none"] == found["over"] == {}
    assert (found["new"], found["answered"]) == (idle, idle)
    assert (found["line"], found["head"]) == (reading, reading)
    assert found["body"] in (reading, active)  # its app waits for the rest
    assert (found["waiting"], found["begun"]) == (active, active)
    assert found["socket"] == {"websocket": 1}
    assert found["refused"] == {"closing": 1}
    assert found["answered in its body"] == reading  # of which the rest is dropped
    assert sum(found["all"].values()) == 10
    assert (found["all"]["websocket"], found["all"]["closing"]) == (1, 1)


async def states_stay() -> list[dict[str, int]]:
    """Between two counts nothing moves, and a count begins anew."""
    eyes = Eyes(app, figures=True)
    connection, _ = eyes.connect()
    before = states(eyes)
    connection.data_received(get("/wait"))
    assert eyes.page is not None
    still = {name: eyes.page[f"connections_{name}"] for name in STATES if eyes.page[f"connections_{name}"]}
    again = [states(eyes) for _ in range(3)]
    connection.connection_lost(None)
    return [before, still, *again]


def test_states_are_counted_anew() -> None:
    before, still, *again = survives(states_stay)
    assert before == still == {"idle": 1}
    assert again == [{"active": 1}] * 3


# Neighbours


async def neighbours() -> bool:
    """Nothing is written beside the part that was given."""
    area = bytearray(b"\xa5" * (8 * (ROOM + 2)))
    inner = memoryview(area)[8:-8].cast("Q")
    inner[:] = memoryview(bytes(8 * ROOM)).cast("Q")
    options = figure_options(inner)
    driver = Driver(app, **options, **WEBSOCKET)
    for path in ("/read", "/boom", "/status/999", "/status/599", "/begun", "/status/200"):
        for method in ("GET", "HEAD", "OPTIONS", "PATCH", "BREW", "DELETE", "PUT"):
            connection, transport = driver.connect()
            connection.data_received(get(path, method))
            await turns(3)
            driver.factory.count_states()
            connection.connection_lost(None)
            transport.shut()
    connection, transport = driver.connect()
    connection.data_received(handshake("/echo") + text("x") * 5)
    await turns()
    connection.connection_lost(None)
    return area[:8] == area[-8:] == b"\xa5" * 8


def test_nothing_is_written_beside_the_figures() -> None:
    assert survives(neighbours)


async def status_beyond(statuses: list[int]) -> list[dict[str, int]]:
    found = []
    for status in statuses:
        eyes = Eyes(answers(status), figures=True)
        await eyes.talk(request())
        found.append(eyes.counts())
    return found


def test_a_status_of_no_class() -> None:
    """HTTP allows three digits (RFC 9110 §15), and an app may use them."""
    plain, *odd = survives(status_beyond, [200, 600, 700, 999])
    assert plain == {"accepted": 1, "responses_GET_2xx": 1}
    for counts in odd:
        assert set(counts) <= {"accepted", "responses_GET_5xx"}, counts
