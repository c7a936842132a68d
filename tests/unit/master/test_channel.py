"""The master's end of a control pipe: never blocks, loses nothing it can still send."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from shardserve import control
from shardserve.master.channel import Channel


@pytest.fixture
def pair() -> Iterator[tuple[Channel, socket.socket]]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    theirs.settimeout(5)
    channel = Channel(ours, "worker 0")
    yield channel, theirs
    channel.close()
    theirs.close()


def fill(channel: Channel, now: float) -> int:
    """Send until one message is left over; how many went."""
    sent = 0
    while not channel.wants_to_send:
        channel.send(control.Failed("x", "y" * 8000), now)
        sent += 1
    return sent - 1


def test_messages_both_ways(pair: tuple[Channel, socket.socket]) -> None:
    channel, theirs = pair
    channel.send(control.Drain(1.0, 2.0), 0.0)
    assert control.decode(theirs.recv(65536)) == control.Drain(1.0, 2.0)
    assert channel.receive() == []
    for message in (control.Ready(1, 2), control.Drained(3, 4)):
        theirs.send(control.encode(message))
    assert channel.receive() == [control.Ready(1, 2), control.Drained(3, 4)]
    assert channel.open


def test_what_is_no_message_is_logged_and_ignored(
    pair: tuple[Channel, socket.socket], caplog: pytest.LogCaptureFixture
) -> None:
    channel, theirs = pair
    theirs.send(b"?")
    theirs.send(control.encode(control.Ready(1, 2)))
    assert channel.receive() == [control.Ready(1, 2)]
    assert "worker 0: ignored: control datagram is not JSON" in caplog.text


def test_the_last_words_come_before_the_end(pair: tuple[Channel, socket.socket]) -> None:
    channel, theirs = pair
    theirs.send(control.encode(control.Failed("import", "why")))
    theirs.close()
    assert channel.receive() == [control.Failed("import", "why")]
    assert not channel.open
    channel.send(control.Stop(), 0.0)  # nobody there: not an error
    assert not channel.wants_to_send


def test_a_death_with_unread_messages_is_an_end_too(pair: tuple[Channel, socket.socket]) -> None:
    channel, theirs = pair
    channel.send(control.Stop(), 0.0)
    theirs.close()  # ECONNRESET for us
    channel.send(control.Stop(), 0.0)
    assert channel.receive() == []
    assert not channel.open


def test_a_full_pipe_is_an_event_not_a_block(
    pair: tuple[Channel, socket.socket], caplog: pytest.LogCaptureFixture
) -> None:
    channel, theirs = pair
    went = fill(channel, now=7.0)
    channel.send(control.Release(1), 8.0)
    assert channel.stuck_since == 7.0
    assert caplog.text.count("unresponsive") == 1
    for _ in range(went):
        theirs.recv(65536)
    channel.flush(9.0)
    assert channel.stuck_since is None
    assert not channel.wants_to_send
    assert isinstance(control.decode(theirs.recv(65536)), control.Failed)
    assert control.decode(theirs.recv(65536)) == control.Release(1)


def test_the_last_message_replaces_what_is_unsent(pair: tuple[Channel, socket.socket]) -> None:
    channel, theirs = pair
    went = fill(channel, now=1.0)
    channel.send(control.Stop(), 2.0, last=True)
    for _ in range(went):
        theirs.recv(65536)
    channel.flush(3.0)
    assert control.decode(theirs.recv(65536)) == control.Stop()


def test_descriptors_travel_beside_a_message(pair: tuple[Channel, socket.socket]) -> None:
    channel, theirs = pair
    with socket.create_server(("127.0.0.1", 0)) as listener:
        channel.send(control.Adopt(1, ["u"]), 0.0, [listener])
        name = listener.getsockname()
    data, fds, _, _ = socket.recv_fds(theirs, 65536, 4)
    assert control.decode(data) == control.Adopt(1, ["u"])
    with socket.socket(fileno=fds[0]) as received:
        assert received.getsockname() == name


def test_a_listener_closed_meanwhile_is_left_out(pair: tuple[Channel, socket.socket]) -> None:
    channel, theirs = pair
    went = fill(channel, now=1.0)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        channel.send(control.Adopt(1, ["u"]), 2.0, [listener])
    for _ in range(went):
        theirs.recv(65536)
    channel.flush(3.0)
    assert not channel.wants_to_send
