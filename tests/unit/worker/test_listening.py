"""Accepting on sockets that belong to the master: nothing of them may change."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import uvloop

from shardserve.worker.listening import Listening, Mode
from tests.unit.worker.fake_factory import Caller, FakeFactory, tcp_listener, until


def backlog_of(listener: socket.socket) -> int:
    # For a listening socket the kernel puts the queue's limit where tcpi_sacked is (tcp_get_info).
    info = listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
    return struct.unpack_from("=I", info, 28)[0]


def queued_on(listener: socket.socket) -> int:
    # And the queue's length where tcpi_unacked is.
    info = listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
    return struct.unpack_from("=I", info, 24)[0]


def unix_listener(folder: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(folder / "sock"))
    sock.listen(2048)
    return sock


def descriptors() -> list[str]:
    return sorted(os.listdir("/proc/self/fd"))


Scenario = Callable[[Listening, socket.socket, FakeFactory], Awaitable[None]]


def with_one(scenario: Scenario, listener: socket.socket | None = None) -> None:
    """Run this with a Listening that accepts on one listener, for slot 0."""
    listener = listener or tcp_listener()

    async def run() -> None:
        factory = FakeFactory()
        listening = Listening(factory, backlog=2048)
        await listening.accept_on(listener.dup(), slot=0)
        await scenario(listening, listener, factory)
        listening.close_all()

    uvloop.run(run())
    listener.close()


def test_the_backlog_stays_the_masters():
    async def scenario(listening: Listening, listener: socket.socket, factory: FakeFactory) -> None:
        assert backlog_of(listener) == before
        for careful in (True, False):
            listening.pause()
            listening.resume(careful=careful)
            assert await (await Caller.to(listener)).hello() == b"zero"
        assert backlog_of(listener) == before

    listener = tcp_listener()
    before = backlog_of(listener)
    with_one(scenario, listener)


def test_slots_are_closed_one_by_one():
    async def scenario() -> None:
        first, second = tcp_listener(), tcp_listener()
        listening = Listening(FakeFactory(), backlog=100)
        await listening.accept_on(first.dup(), slot=0)
        await listening.accept_on(second.dup(), slot=7)
        assert listening.slots == [0, 7]
        assert listening.close(7)
        assert not listening.close(7)
        assert await (await Caller.to(first)).hello() == b"zero"
        listening.close_all()
        assert listening.slots == []

    uvloop.run(scenario())


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_a_socket_that_does_not_listen_is_closed_and_refused(kind):
    async def scenario() -> None:
        left, right = socket.socketpair(socket.AF_UNIX, kind)
        listening = Listening(FakeFactory(), backlog=100)
        with pytest.raises(OSError, match="not a listening socket"):
            await listening.accept_on(left, slot=0)
        assert left.fileno() == -1
        right.close()

    uvloop.run(scenario())


# The three ways


@pytest.mark.parametrize("family", ["tcp", "unix"])
def test_who_connects_in_a_pause_is_accepted_after_it(family: str, tmp_path: Path) -> None:
    async def scenario(listening: Listening, listener: socket.socket, factory: FakeFactory) -> None:
        for careful in (True, False, True, False):
            listening.pause()
            listening.pause()
            assert listening.mode is Mode.PAUSED
            callers = [await Caller.to(listener) for _ in range(3)]
            for caller in callers:
                caller.send(b"hello")
            await turns()
            assert factory.open == []
            listening.resume(careful=careful)
            listening.resume(careful=careful)
            assert [await caller.answer() for caller in callers] == [b"zero"] * 3
            for caller in callers:
                caller.writer.close()
            await until(lambda: not factory.open)

    with_one(scenario, unix_listener(tmp_path) if family == "unix" else None)


def test_a_way_can_be_left_before_it_has_begun() -> None:
    """A fast server opens a turn after it was asked for."""

    async def scenario(listening: Listening, listener: socket.socket, factory: FakeFactory) -> None:
        listening.pause()
        listening.resume()
        listening.pause()
        caller = await Caller.to(listener)
        await turns()
        assert factory.open == []
        listening.resume()
        listening.resume(careful=True)
        listening.resume()
        assert await caller.hello() == b"zero"
        listening.pause()
        listening.resume()
        listening.close(0)
        await turns()
        before = len(factory.open)
        await Caller.to(listener)
        await turns()
        assert len(factory.open) == before

    with_one(scenario)


@pytest.mark.parametrize("mode", list(Mode))
def test_a_closed_slot_leaves_its_queue_alone(mode: Mode) -> None:
    async def scenario(listening: Listening, listener: socket.socket, factory: FakeFactory) -> None:
        switch(listening, mode)
        await turns()
        assert listening.close(0)
        caller = await Caller.to(listener)
        await turns()
        assert factory.open == []
        assert queued_on(listener) == 1
        await listening.accept_on(listener.dup(), slot=0)
        listening.resume()
        assert await caller.hello() == b"zero"

    with_one(scenario)


@pytest.mark.parametrize("mode", list(Mode))
def test_a_socket_that_is_adopted_follows_the_mode(mode: Mode) -> None:
    async def scenario(listening: Listening, listener: socket.socket, factory: FakeFactory) -> None:
        switch(listening, mode)
        other = tcp_listener()
        caller = await Caller.to(other)
        await listening.accept_on(other.dup(), slot=7)
        if mode is Mode.PAUSED:
            await turns()
            assert factory.open == []
            listening.resume(careful=True)
        assert await caller.hello() == b"zero"
        assert await (await Caller.to(listener)).hello() == b"zero"
        other.close()

    with_one(scenario)


def test_no_descriptor_stays_behind() -> None:
    async def scenario(listening: Listening, listener: socket.socket, factory: FakeFactory) -> None:
        switch(listening, Mode.CAREFUL)  # once: the loop keeps what it makes for its first reader
        before = descriptors()
        for mode in [Mode.PAUSED, Mode.CAREFUL, Mode.FAST, Mode.PAUSED, Mode.FAST, Mode.CAREFUL] * 3:
            switch(listening, mode)
            await turns()
        assert descriptors() == before
        listening.close(0)
        await turns()
        assert len(descriptors()) == len(before) - 1

    with_one(scenario)


def test_failures_of_accept_are_told_but_for_those_of_one_connection() -> None:
    class Failing:
        """A listening socket whose accept() fails as often as there are numbers."""

        def __init__(self, sock: socket.socket, numbers: list[int]) -> None:
            self.sock, self.numbers = sock, numbers

        def accept(self) -> Any:
            if self.numbers:
                raise OSError(self.numbers.pop(0), "failed")
            return self.sock.accept()

        def __getattr__(self, name: str) -> Any:
            return getattr(self.sock, name)

    async def scenario(listening: Listening, listener: socket.socket, factory: FakeFactory) -> None:
        failures: list[int] = []
        accepted: list[int] = []
        listening.watch(
            on_accepted=accepted.append, on_failure=lambda error: failures.append(error.errno or 0)
        )
        listening.pause()
        found = listening._listeners[0][0]
        found.sock = Failing(  # type: ignore[assignment]
            found.sock, [errno.ECONNABORTED, errno.EMFILE, errno.EPERM, errno.ENFILE, errno.ENOBUFS]
        )
        listening.resume(careful=True)
        caller = await Caller.to(listener)
        assert await caller.hello() == b"zero"
        assert failures == [errno.EMFILE, errno.ENFILE, errno.ENOBUFS]
        assert accepted == [factory.open[0].transport.get_extra_info("socket").fileno()]

    with_one(scenario)


def test_no_descriptor_for_the_fast_way_keeps_the_careful_one(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(listening: Listening, listener: socket.socket, factory: FakeFactory) -> None:
        async def refuse(sock: socket.socket) -> Any:
            raise OSError(errno.EMFILE, "Too many open files")

        listening.resume(careful=True)
        monkeypatch.setattr(listening, "_serve", refuse)
        listening.resume()
        await until(lambda: listening.mode is Mode.CAREFUL)
        assert await (await Caller.to(listener)).hello() == b"zero"

    with_one(scenario)


def switch(listening: Listening, mode: Mode) -> None:
    if mode is Mode.PAUSED:
        listening.pause()
    else:
        listening.resume(careful=mode is Mode.CAREFUL)


async def turns() -> None:
    """More turns of the loop than accepting takes; each asks the kernel what is ready."""
    for _ in range(20):
        await asyncio.sleep(0)
