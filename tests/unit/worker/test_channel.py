"""The worker's end of the pipe: boundaries, death, descriptors."""

from __future__ import annotations

import json
import os
import socket

import pytest

from shardserve import control
from shardserve.errors import ControlError
from shardserve.worker.channel import MAX_DESCRIPTORS, Channel, shortened
from tests.unit.worker.fake_factory import Master


@pytest.fixture
def master():
    one = Master()
    yield one
    one.sock.close()
    one.worker_end.close()


@pytest.fixture
def channel(master) -> Channel:
    one = Channel(master.worker_end)
    one.set_blocking(False)
    return one


def test_messages_keep_their_boundaries(master, channel):
    master.send(control.Stop())
    master.send(control.Drain(grace_s=1.0, deadline_s=2.0))
    assert channel.receive().message == control.Stop()
    assert channel.receive().message == control.Drain(grace_s=1.0, deadline_s=2.0)
    with pytest.raises(BlockingIOError):
        channel.receive()


def test_death_of_the_other_side(master, channel):
    master.send(control.Stop())
    master.close()
    assert channel.receive().message == control.Stop()
    assert channel.receive() is None
    assert channel.send(control.Drained(served=0, cut=0)) is False


def test_death_with_our_message_unread(master, channel):
    assert channel.send(control.Ready(pid=1, startup_ms=1))
    master.close()
    assert channel.receive() is None


def test_descriptors_come_along_and_are_not_inherited(master, channel):
    with socket.socket() as one:
        master.send(control.Adopt(slot=1, urls=["x"]), one)
    received = channel.receive()
    (fd,) = received.descriptors
    assert not os.get_inheritable(fd)
    os.close(fd)


def test_descriptors_beside_garbage_are_closed(master, channel):
    read_fd, write_fd = os.pipe()
    master.send_raw(b"garbage", write_fd, write_fd)
    os.close(write_fd)
    with pytest.raises(ControlError):
        channel.receive()
    assert os.read(read_fd, 1) == b""
    os.close(read_fd)


def test_more_descriptors_than_expected_are_an_error_not_a_leak(master, channel):
    before = len(os.listdir("/proc/self/fd"))
    master.send_raw(control.encode(control.Stop()), *[0] * (MAX_DESCRIPTORS + 8))
    with pytest.raises(ControlError, match="cut by the kernel"):
        channel.receive()
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_full_pipe_does_not_block(channel):
    message = control.Failed("import", "x" * 10_000)
    for _ in range(1000):
        if not channel.send(message):
            return
    pytest.fail("the pipe never filled")


def test_the_pipe_is_not_inherited(channel):
    assert not os.get_inheritable(channel.fileno())


def test_what_is_not_a_socket(tmp_path):
    with open(tmp_path / "file", "w") as file, pytest.raises(OSError):
        Channel.from_fd(os.dup(file.fileno()))


def test_shortened_texts_fit_a_datagram_whatever_is_in_them():
    assert shortened("short") == "short"
    long = "first" + "\U0001f600" * 100_000 + "last"
    text = shortened(long)
    assert text.startswith("first")
    assert text.endswith("last")
    assert "characters left out" in text
    message = control.Failed("import", shortened("\x00" * 100_000))
    assert json.loads(control.encode(message))["stage"] == "import"
    control.encode(control.Failed("import", text))
