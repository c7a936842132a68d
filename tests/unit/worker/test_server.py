"""The running worker against a master that says every message at every time."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import signal
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import uvloop

from shardserve import control
from shardserve.asgi.lifespan import Lifespan
from shardserve.stats import Page, Stage
from shardserve.worker import server as module
from shardserve.worker.server import EXIT_DRAINED, EXIT_FAILED, Phase
from tests.unit.worker.fake_factory import WAIT_S, Caller, LifespanApp, Rig, tcp_listener, until

DRAIN = control.Drain(grace_s=0.0, deadline_s=WAIT_S)


@pytest.fixture(autouse=True)
def thawed():
    """The server freezes what is alive; this process goes on to other tests."""
    yield
    gc.unfreeze()


@pytest.fixture
def lines(caplog) -> Callable[[], str]:
    """Everything our loggers said, whatever another test configured."""
    logger = logging.getLogger("shardserve")
    kept = logger.propagate, logger.level
    logger.propagate = True
    caplog.set_level(logging.DEBUG, logger="shardserve")
    yield lambda: "\n".join(record.getMessage() for record in caplog.records)
    logger.propagate = kept[0]


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    uvloop.run(scenario())


# The ordinary life


def test_ready_serve_drain():
    async def scenario() -> None:
        rig = Rig()
        ready = await rig.ready()
        assert ready.pid == os.getpid()
        assert 0 <= ready.startup_ms < WAIT_S * 1000
        caller = await Caller.to(rig.listeners[0])
        assert await caller.hello() == b"slot0"
        rig.master.send(DRAIN)
        assert await rig.master.receive() == control.Drained(served=1, cut=0)
        assert await rig.code() == EXIT_DRAINED
        assert await caller.answer() == b""
        assert rig.factory.calls == ["startup", "drain 0", "empty", "shutdown", "close"]
        assert rig.server.phase is Phase.ENDED

    run(scenario)


def test_a_request_in_flight_is_finished():
    async def scenario() -> None:
        rig = Rig()
        await rig.ready()
        caller = await Caller.to(rig.listeners[0])
        caller.send(b"wait")
        await until(lambda: rig.factory.in_flight)
        rig.master.send(DRAIN)
        await until(lambda: rig.factory.on_empty)
        rig.factory.finish()
        assert await caller.answer() == b"slot0"
        assert await rig.master.receive() == control.Drained(served=1, cut=0)
        assert "abort" not in rig.factory.calls

    run(scenario)


def test_the_grace_is_for_idle_connections_and_never_longer_than_the_deadline():
    async def scenario() -> None:
        rig = Rig()
        await rig.ready()
        rig.master.send(control.Drain(grace_s=9.0, deadline_s=2.5))
        await rig.code()
        assert "drain 2500" in rig.factory.calls

    run(scenario)


def test_what_is_left_at_the_deadline_is_cut_and_counted(lines):
    async def scenario() -> None:
        rig = Rig()
        await rig.ready()
        caller = await Caller.to(rig.listeners[0])
        caller.send(b"wait")
        await until(lambda: rig.factory.in_flight)
        rig.master.send(control.Drain(grace_s=0.0, deadline_s=0.01))
        assert await rig.master.receive() == control.Drained(served=0, cut=1)
        assert await rig.code() == EXIT_DRAINED
        assert await caller.answer() == b""
        assert rig.factory.calls[1:] == ["drain 0", "abort", "empty", "shutdown", "close"]

    run(scenario)
    assert "Cut 1 requests that were not finished" in lines()


def test_connections_that_wait_to_be_accepted_wait_for_the_successor():
    async def scenario() -> None:
        old = Rig()
        await old.ready()
        old.master.send(DRAIN)
        await old.code()
        caller = await Caller.to(old.listeners[0])
        caller.send(b"hello")
        new = Rig(listeners=old.listeners, slot=1)
        await new.ready()
        assert await caller.answer() == b"slot1"
        new.master.send(control.Stop())
        await new.code()

    run(scenario)


def test_ticks_come_while_it_serves(monkeypatch):
    monkeypatch.setattr(module, "TICK_S", 0.001)

    async def scenario() -> None:
        rig = Rig()
        await rig.ready()
        await until(lambda: rig.factory.ticks > 3)
        rig.master.send(DRAIN)
        await rig.code()
        after = rig.factory.ticks
        await asyncio.sleep(0.01)
        assert rig.factory.ticks == after

    run(scenario)


def test_a_unix_socket_keeps_its_path(tmp_path):
    async def scenario() -> None:
        path = str(tmp_path / "app.sock")
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(path)
        listener.listen()
        rig = Rig(listeners=[listener])
        await rig.ready()
        assert await (await Caller.to(listener)).hello() == b"slot0"
        rig.master.send(DRAIN)
        await rig.code()
        assert os.path.exists(path)

    run(scenario)


# Reasons to drain, and to stop


def test_a_second_drain_is_ignored():
    async def scenario() -> None:
        rig = Rig()
        await rig.ready()
        caller = await Caller.to(rig.listeners[0])
        caller.send(b"wait")
        await until(lambda: rig.factory.in_flight)
        rig.master.send(DRAIN)
        await until(lambda: rig.factory.on_empty)
        rig.master.send(control.Drain(grace_s=0.0, deadline_s=0.0))
        os.kill(os.getpid(), signal.SIGTERM)
        for _ in range(10):
            await asyncio.sleep(0)
        assert rig.factory.in_flight == 1
        rig.factory.finish()
        assert await rig.master.receive() == control.Drained(served=1, cut=0)
        await rig.code()

    run(scenario)


def test_sigterm_drains_by_itself(lines):
    async def scenario() -> None:
        rig = Rig()
        await rig.ready()
        os.kill(os.getpid(), signal.SIGTERM)
        assert await rig.master.receive() == control.Leaving("SIGTERM")
        assert await rig.master.receive() == control.Drained(served=0, cut=0)
        assert await rig.code() == EXIT_DRAINED

    run(scenario)
    assert "SIGTERM" in lines()


def test_streams_are_told_after_their_time():
    async def scenario() -> None:
        rig = Rig()
        await rig.ready()
        caller = await Caller.to(rig.listeners[0])
        caller.send(b"wait")
        await until(lambda: rig.factory.in_flight)
        assert rig.factory.streams_ended == 0
        rig.master.send(control.Drain(grace_s=0.0, deadline_s=WAIT_S, streams_s=0.01))
        await until(lambda: rig.factory.streams_ended == 1)
        rig.factory.finish()
        assert await rig.code() == EXIT_DRAINED

    run(scenario)


def test_streams_are_told_nothing_before_their_time():
    async def scenario() -> None:
        rig = Rig()
        await rig.ready()
        caller = await Caller.to(rig.listeners[0])
        caller.send(b"wait")
        await until(lambda: rig.factory.in_flight)
        rig.master.send(control.Drain(grace_s=0.0, deadline_s=WAIT_S, streams_s=WAIT_S))
        await until(lambda: rig.factory.on_empty)
        rig.factory.finish()
        assert await rig.code() == EXIT_DRAINED
        assert rig.factory.streams_ended == 0

    run(scenario)


def test_the_app_can_see_a_drain_coming():
    async def scenario() -> None:
        rig = Rig()
        await rig.ready()
        event = rig.server._lifespan.state[module.SHUTDOWN_KEY]
        assert not event.is_set()
        rig.master.send(DRAIN)
        async with asyncio.timeout(WAIT_S):
            await event.wait()
        await rig.code()

    run(scenario)


def test_the_page_has_the_stage_and_the_last_figures():
    async def scenario() -> None:
        page = Page.create("test")
        rig = Rig(page=page)
        await rig.ready()
        assert page["stage"] == Stage.SERVING
        assert page["heartbeat_ns"] > 0
        caller = await Caller.to(rig.listeners[0])
        assert await caller.hello() == b"slot0"
        rig.master.send(DRAIN)
        await rig.code()
        assert page["stage"] == Stage.ENDED
        assert (page["served"], page["heartbeat_ns"]) == (1, 0)
        page.close()

    run(scenario)


def test_a_master_that_died_is_a_reason_to_drain(lines):
    async def scenario() -> None:
        rig = Rig()
        await rig.ready()
        caller = await Caller.to(rig.listeners[0])
        caller.send(b"wait")
        await until(lambda: rig.factory.in_flight)
        rig.master.close()
        await until(lambda: rig.factory.on_empty)
        rig.factory.finish()
        assert await caller.answer() == b"slot0"
        assert await rig.code() == EXIT_DRAINED
        assert "shutdown" in rig.factory.calls

    run(scenario)
    assert "The master is gone" in lines()


def test_a_master_that_dies_while_draining_changes_nothing(lines):
    async def scenario() -> None:
        rig = Rig()
        await rig.ready()
        caller = await Caller.to(rig.listeners[0])
        caller.send(b"wait")
        await until(lambda: rig.factory.in_flight)
        rig.master.send(DRAIN)
        rig.master.close()
        await until(lambda: rig.factory.on_empty)
        rig.factory.finish()
        assert await rig.code() == EXIT_DRAINED

    run(scenario)
    assert "The master is gone" not in lines()


@pytest.mark.parametrize("draining", [False, True])
def test_stop_cuts_at_once_and_says_nothing_more(draining):
    async def scenario() -> None:
        rig = Rig()
        await rig.ready()
        caller = await Caller.to(rig.listeners[0])
        caller.send(b"wait")
        await until(lambda: rig.factory.in_flight)
        if draining:
            rig.master.send(DRAIN)
            await until(lambda: rig.factory.on_empty)
        rig.master.send(control.Stop())
        assert await rig.code() == EXIT_DRAINED
        assert rig.server.stopped
        assert await rig.master.is_silent()
        assert await caller.answer() == b""
        assert "shutdown" not in rig.factory.calls

    run(scenario)


def test_stop_does_not_wait_for_the_lifespan():
    async def scenario() -> None:
        rig = Rig(shutdown="hang")
        await rig.ready()
        rig.master.send(DRAIN)
        await until(lambda: "shutdown hangs" in rig.factory.calls)
        rig.master.send(control.Stop())
        assert await rig.code() == EXIT_DRAINED
        assert await rig.master.is_silent()

    run(scenario)


def test_a_lifespan_shutdown_that_hangs_is_bounded(monkeypatch, lines):
    monkeypatch.setattr(module, "LIFESPAN_SHUTDOWN_MIN_S", 0.01)

    async def scenario() -> None:
        rig = Rig(shutdown="hang")
        await rig.ready()
        rig.master.send(control.Drain(grace_s=0.0, deadline_s=0.01))
        assert await rig.master.receive() == control.Drained(served=0, cut=0)
        assert await rig.code() == EXIT_DRAINED

    run(scenario)
    assert "shutdown did not finish" in lines()


# Starting


def test_a_refused_startup_is_told_with_the_apps_words():
    async def scenario() -> None:
        rig = Rig(startup="failed")
        message = await rig.master.receive()
        assert isinstance(message, control.Failed)
        assert message.stage == "lifespan"
        assert "because" in message.text
        assert await rig.code() == EXIT_FAILED

    run(scenario)


@pytest.mark.parametrize("how", ["drain", "sigterm", "stop", "death"])
def test_told_to_go_while_the_app_still_starts(how):
    async def scenario() -> None:
        rig = Rig(startup="hang")
        await until(lambda: "startup hangs" in rig.factory.calls)
        if how == "sigterm":
            os.kill(os.getpid(), signal.SIGTERM)
        elif how == "death":
            rig.master.close()
        else:
            rig.master.send(DRAIN if how == "drain" else control.Stop())
        if how != "death":
            assert await rig.master.receive() == control.Drained(served=0, cut=0)
        assert await rig.code() == EXIT_DRAINED

    run(scenario)


def test_a_factory_that_refuses_its_settings_is_a_failed_start():
    async def scenario() -> None:
        rig = Rig()

        def refuse(state: dict[str, Any], admission: Any) -> Any:
            raise ValueError("bad header")

        rig.server._make_factory = refuse
        assert await rig.master.receive() == control.Failed("start", "cannot serve: ValueError: bad header")
        assert await rig.code() == EXIT_FAILED
        assert rig.factory.calls == ["startup", "shutdown"]

    run(scenario)


def test_the_factory_gets_the_lifespan_state():
    async def scenario() -> None:
        rig = Rig()
        states: list[dict[str, Any]] = []
        make = rig.server._make_factory
        rig.server._make_factory = lambda state, admission: states.append(state) or make(state, admission)
        await rig.ready()
        assert states == [rig.server._lifespan.state]
        rig.master.send(control.Stop())
        await rig.code()

    run(scenario)


# Other slots' listeners


def test_adopt_and_release(lines):
    async def scenario() -> None:
        rig = Rig()
        await rig.ready()
        orphan = tcp_listener()
        caller = await Caller.to(orphan)
        rig.master.send(control.Adopt(slot=3, urls=["http://127.0.0.1"]), orphan)
        assert await caller.hello() == b"slot0"
        rig.master.send(control.Release(slot=3))
        await until(lambda: "Released the listeners of slot 3" in lines())
        later = await Caller.to(orphan)
        later.send(b"hello")
        successor = Rig(listeners=[orphan], slot=3)
        await successor.ready()
        assert await later.answer() == b"slot3"
        for one in (rig, successor):
            one.master.send(control.Stop())
            await one.code()

    run(scenario)


def test_adopted_before_ready_is_kept():
    async def scenario() -> None:
        rig = Rig()
        orphan = tcp_listener()
        rig.master.send(control.Adopt(slot=3, urls=["http://127.0.0.1"]), orphan)
        await rig.ready()
        assert await (await Caller.to(orphan)).hello() == b"slot0"
        rig.master.send(DRAIN)
        await rig.code()

    run(scenario)


def test_adopt_that_cannot_be_obeyed(lines):
    async def scenario() -> None:
        rig = Rig()
        await rig.ready()
        before = len(os.listdir("/proc/self/fd"))
        orphan = tcp_listener()
        rig.master.send(control.Adopt(slot=0, urls=["http://own"]), orphan)
        with open("/dev/null") as file:
            rig.master.send_raw(control.encode(control.Adopt(slot=3, urls=["http://none"])), file.fileno())
        rig.master.send(control.Adopt(slot=4, urls=["http://no-descriptor"]))
        await until(lambda: "Cannot adopt http://none of slot 3" in lines())
        orphan.close()
        assert "own slot 0" in lines()
        rig.master.send(DRAIN)
        assert await rig.code() == EXIT_DRAINED
        assert len(os.listdir("/proc/self/fd")) <= before

    run(scenario)


def test_adopt_while_draining_closes_the_descriptor():
    async def scenario() -> None:
        rig = Rig()
        await rig.ready()
        caller = await Caller.to(rig.listeners[0])
        caller.send(b"wait")
        await until(lambda: rig.factory.in_flight)
        rig.master.send(DRAIN)
        await until(lambda: rig.factory.on_empty)
        read_fd, write_fd = os.pipe()
        rig.master.send_raw(control.encode(control.Adopt(slot=3, urls=["x"])), write_fd)
        os.close(write_fd)
        assert await asyncio.to_thread(os.read, read_fd, 1) == b""  # nobody has the other end
        os.close(read_fd)
        rig.factory.finish()
        await rig.code()

    run(scenario)


# Messages that are none


@pytest.mark.parametrize(
    "data",
    [b"not json", b"[]", json.dumps({"type": "DANCE"}).encode(), json.dumps({"type": "DRAIN"}).encode()],
)
def test_garbage_is_logged_and_ignored(lines, data):
    async def scenario() -> None:
        rig = Rig()
        await rig.ready()
        read_fd, write_fd = os.pipe()
        rig.master.send_raw(data, write_fd)
        os.close(write_fd)
        assert await asyncio.to_thread(os.read, read_fd, 1) == b""
        os.close(read_fd)
        rig.master.send(DRAIN)
        assert await rig.code() == EXIT_DRAINED

    run(scenario)
    assert "Ignored a control message" in lines()


def test_a_message_for_the_other_side_is_logged_and_ignored(lines):
    async def scenario() -> None:
        rig = Rig()
        await rig.ready()
        rig.master.send(control.Ready(pid=1, startup_ms=1))
        rig.master.send(DRAIN)
        assert await rig.code() == EXIT_DRAINED

    run(scenario)
    assert "Ignored READY" in lines()


def test_the_lifespan_is_not_shut_down_when_it_never_came_up():
    async def scenario() -> None:
        rig = Rig()
        rig.server._lifespan = Lifespan(LifespanApp(rig.factory, startup="failed"), "on")
        await rig.code()
        assert rig.factory.calls == ["startup"]

    run(scenario)
