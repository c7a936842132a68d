"""The terminal that ``top`` draws on: keys, frames, and how it is left."""

from __future__ import annotations

import fcntl
import os
import select
import signal
import socket
import struct
import termios
import threading
from collections.abc import Iterator

import pytest

from shardserve.cli.top_terminal import ENTER, LEAVE, NEWS, QUIT, RESIZED, Keys, Screen
from tests.helpers.master_process import PATIENCE_S, until


@pytest.fixture
def pty() -> Iterator[tuple[int, int]]:
    """The test's end, and the program's."""
    ours, theirs = os.openpty()
    fcntl.ioctl(ours, termios.TIOCSWINSZ, struct.pack("4H", 20, 70, 0, 0))
    yield ours, theirs
    os.close(ours)
    os.close(theirs)


def written(ours: int, text: str) -> str:
    """Read until it ends with this."""
    found = ""
    while not found.endswith(text):
        assert select.select([ours], [], [], PATIENCE_S)[0], f"nothing more comes after {found[-200:]!r}"
        found += os.read(ours, 65536).decode()
    return found


# Keys


@pytest.mark.parametrize(
    ("data", "keys"),
    [
        (b"q", ["q"]), (b"sr1 ", ["s", "r", "1", " "]), (b"\x1b[A\x1b[B", ["up", "down"]),
        (b"\x1bOA", ["up"]),
        (b"\x1b[5~\x1b[6~", ["page up", "page down"]), (b"\x1b[H\x1b[F\x1b[1~\x1b[4~", ["home", "end"] * 2),
        (b"\x1b[1;5Cq", ["q"]), (b"\x1b[200~q", ["q"]), (b"\x1bq", ["q"]), (b"\x1b\x1b[A", ["up"]), (b"", []),
        (b"\xff", ["\xff"]),
    ],
)  # fmt: skip
def test_keys(data: bytes, keys: list[str]) -> None:
    assert Keys().feed(data) == keys
    one_by_one = Keys()
    assert [key for byte in data for key in one_by_one.feed(bytes((byte,)))] == keys


def test_an_escape_alone_waits_and_is_nothing() -> None:
    keys = Keys()
    assert keys.feed(b"\x1b") == []
    assert keys.feed(b"q") == ["q"]


# The screen


def test_the_terminal_is_ours_and_then_as_it_was(pty: tuple[int, int]) -> None:
    ours, theirs = pty
    before = termios.tcgetattr(theirs)
    handlers = [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM, signal.SIGWINCH)]
    with Screen(theirs, theirs) as screen:
        assert written(ours, ENTER) == ENTER
        flags = termios.tcgetattr(theirs)[3]
        assert not flags & (termios.ICANON | termios.ECHO)
        assert flags & termios.ISIG
        assert screen.size() == (70, 20)
    assert written(ours, LEAVE) == LEAVE
    assert termios.tcgetattr(theirs) == before
    assert [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM, signal.SIGWINCH)] == handlers
    assert signal.set_wakeup_fd(-1) == -1


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_error_leaves_the_terminal_as_it_was(pty: tuple[int, int], error: type[BaseException]) -> None:
    ours, theirs = pty
    before = termios.tcgetattr(theirs)
    with pytest.raises(error), Screen(theirs, theirs):
        raise error
    assert written(ours, LEAVE) == ENTER + LEAVE
    assert termios.tcgetattr(theirs) == before


def test_a_frame_is_one_write() -> None:
    """A socket that keeps writes apart stands for the terminal."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        with Screen(theirs.fileno(), None) as screen:
            assert screen.keyboard is None
            assert screen.size() == (80, 24)
            screen.draw([f"line {n} ▁" for n in range(100)], "utf-8")
            screen.draw(["é"], "ascii")
        assert ours.recv(65536).decode() == ENTER
        first = ours.recv(65536).decode()
        assert first == "\x1b[H" + "\r\n".join(f"line {n} ▁\x1b[K" for n in range(100)) + "\x1b[J"
        assert ours.recv(65536) == b"\x1b[H?\x1b[K\x1b[J"
        assert ours.recv(65536).decode() == LEAVE


def test_a_terminal_that_somebody_made_non_blocking(pty: tuple[int, int]) -> None:
    ours, theirs = pty
    os.set_blocking(theirs, False)
    lines = ["x" * 5000] * 40
    with Screen(theirs, None) as screen:
        drawing = threading.Thread(target=screen.draw, args=(lines, "ascii"))
        drawing.start()
        found = written(ours, "\x1b[J")
        drawing.join()
    assert found.count("x") == 200_000


def test_what_comes(pty: tuple[int, int]) -> None:
    ours, theirs = pty
    with Screen(theirs, theirs) as screen:
        written(ours, ENTER)
        os.write(ours, b"sq")
        assert list(screen.wait()) == ["s", "q"]
        screen.wake()
        assert list(screen.wait()) == [NEWS]
        for number, event in ((signal.SIGWINCH, RESIZED), (signal.SIGTERM, QUIT), (signal.SIGINT, QUIT)):
            os.kill(os.getpid(), number)
            assert list(screen.wait()) == [event]
        os.kill(os.getpid(), signal.SIGCONT)  # somebody had stopped it
        assert list(screen.wait()) == [RESIZED]
        assert written(ours, ENTER) == ENTER
    screen.wake()  # a thread may come late


def test_many_wakings_are_no_harm(pty: tuple[int, int]) -> None:
    """More than its pipe holds."""
    with Screen(pty[1], pty[1]) as screen:
        for _ in range(100_000):
            screen.wake()
        assert set(screen.wait()) == {NEWS}


def test_a_terminal_that_goes_away() -> None:
    ours, theirs = os.openpty()
    with Screen(theirs, theirs) as screen:
        os.close(ours)
        found: list[str] = []
        until(lambda: found.extend(screen.wait()) or QUIT in found)
        with pytest.raises(OSError):
            screen.draw(["x"], "ascii")
    os.close(theirs)
