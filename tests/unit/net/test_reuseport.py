"""One address, one server: of several that start in the same instant, exactly one gets it."""

from __future__ import annotations

import errno
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from shardserve.config.addresses import TcpBind, UnixBind
from shardserve.errors import ListenError
from shardserve.net.listeners import Listeners

ROUNDS = 300
CONTENDERS = 2
HEAD_START_NS = 500_000  # for both to have read the line


# For each line, a bind and an instant: takes it at that instant, says how it went, gives it back on "go".
CONTENDER = """
import sys, time
import psutil
from shardserve.config.addresses import parse_bind
from shardserve.errors import ListenError
from shardserve.net.listeners import Listeners

psutil.net_connections = lambda **_: []  # who has it is another test's, and slow to find out
for line in sys.stdin:
    address, at_ns = line.rsplit(" ", 1)
    bind = parse_bind(address, uds_mode=0o600)
    while time.monotonic_ns() < int(at_ns):
        pass
    made = None
    try:
        made = Listeners([bind], slots=2, backlog=8)
        print("mine", flush=True)
    except ListenError as error:
        print(error, flush=True)
    sys.stdin.readline()
    if made is not None:
        made.close()
    print("gone", flush=True)
"""


class Contender:
    """A process that wants what another one wants."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", CONTENDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def say(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()

    def hear(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().rstrip()

    def end(self) -> None:
        self.process.communicate(timeout=20)


@pytest.fixture
def contenders() -> Iterator[list[Contender]]:
    made = [Contender() for _ in range(CONTENDERS)]
    yield made
    for contender in made:
        contender.end()


def free_port() -> int:
    with closing(Listeners([TcpBind("127.0.0.1", 0)], slots=1, backlog=1)) as made:
        port: int = made.of_slot(0)[0].sock.getsockname()[1]
        return port


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_of_two_that_start_together_one_is_refused(
    contenders: list[Contender], tmp_path: Path, kind: str
) -> None:
    bind = TcpBind("127.0.0.1", free_port()) if kind == "tcp" else UnixBind(str(tmp_path / "s"), 0o600)
    address = f"127.0.0.1:{bind.port}" if isinstance(bind, TcpBind) else f"unix:{bind.path}"
    for _ in range(ROUNDS):
        at_ns = time.monotonic_ns() + HEAD_START_NS
        for contender in contenders:
            contender.say(f"{address} {at_ns}")
        answers = [contender.hear() for contender in contenders]
        assert answers.count("mine") == 1, answers
        (refused,) = [answer for answer in answers if answer != "mine"]
        assert f"{bind}: the address is in use" in refused
        for contender in contenders:
            contender.say("go")
        assert [contender.hear() for contender in contenders] == ["gone"] * CONTENDERS


def test_one_that_passed_the_bind_too_is_refused_when_it_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    """The other one starts between our bind and our listen."""
    bind, plain = TcpBind("127.0.0.1", free_port()), socket.socket
    with ExitStack() as stack:

        class Overtaken(socket.socket):
            def listen(self, backlog: int = 1) -> None:
                if socket.socket is Overtaken:
                    monkeypatch.setattr(socket, "socket", plain)
                    stack.enter_context(closing(Listeners([bind], slots=2, backlog=1)))
                super().listen(backlog)

        monkeypatch.setattr(socket, "socket", Overtaken)
        with pytest.raises(ListenError, match=f"{bind}: the address is in use by pid"):
            Listeners([bind], slots=2, backlog=1)


def test_two_that_refuse_each_other_try_again(monkeypatch: pytest.MonkeyPatch) -> None:
    refusals = iter([True, True, False])

    class Tied(socket.socket):
        def listen(self, backlog: int = 1) -> None:
            if next(refusals):
                raise OSError(errno.EADDRINUSE, "Address already in use")
            super().listen(backlog)

    monkeypatch.setattr(socket, "socket", Tied)
    with closing(Listeners([TcpBind("127.0.0.1", 0)], slots=1, backlog=1)) as made:
        assert made.of_slot(0)[0].sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
