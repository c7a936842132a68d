"""Accepting on sockets that belong to the master: nothing of them may change."""

from __future__ import annotations

import socket
import struct

import pytest
import uvloop

from shardserve.worker.listening import Listening
from tests.unit.worker.fake_factory import Caller, FakeFactory, tcp_listener


def backlog_of(listener: socket.socket) -> int:
    # For a listening socket the kernel puts the queue's limit where tcpi_sacked is (tcp_get_info).
    info = listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
    return struct.unpack_from("=I", info, 28)[0]


def test_the_backlog_stays_the_masters():
    async def scenario() -> None:
        listener = tcp_listener()
        before = backlog_of(listener)
        listening = Listening(FakeFactory(), backlog=2048)
        await listening.accept_on(listener.dup(), slot=0)
        assert backlog_of(listener) == before
        listening.close_all()

    uvloop.run(scenario())


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
