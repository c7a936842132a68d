"""Lines to syslog: what each message is, and that a syslog that is slow, gone or late costs nobody a wait."""

from __future__ import annotations

import asyncio
import os
import re
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shardserve.observe import syslog
from shardserve.observe.syslog import Syslog

PATIENCE_S = 20.0
NOON = 1_795_435_118.0  # 2026-11-23 11:58:38 UTC


class Unix:
    """A syslog on a Unix socket."""

    def __init__(self, path: Path, kind: int = socket.SOCK_DGRAM) -> None:
        self.sock = socket.socket(socket.AF_UNIX, kind)
        self.sock.bind(str(path))
        self.sock.setblocking(False)
        if kind == socket.SOCK_STREAM:
            self.sock.listen()

    def take(self) -> list[str]:
        """The messages that have come."""
        found = []
        while True:
            try:
                found.append(self.sock.recv(1 << 20).decode())
            except BlockingIOError:
                return found

    def close(self) -> None:
        self.sock.close()


@pytest.fixture
def unix(tmp_path: Path) -> Iterator[Unix]:
    server = Unix(tmp_path / "log")
    yield server
    server.close()


async def until(probe: Callable[[], bool]) -> None:
    async def look() -> None:
        while not probe():
            await asyncio.sleep(0.005)

    await asyncio.wait_for(look(), PATIENCE_S)


def lines_of(messages: list[str]) -> list[str]:
    return [message.partition("]: ")[2] for message in messages]


async def test_a_message_of_this_host(tmp_path: Path, unix: Unix, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC-1")
    syslog.time.tzset()
    try:
        log = Syslog(str(tmp_path / "log"), loop=asyncio.get_running_loop(), now=lambda: NOON)
        log.write(b"one line\nanother one\n")
    finally:
        monkeypatch.undo()
        syslog.time.tzset()
    start = f"<190>Nov 23 12:58:38 shardserve[{os.getpid()}]: "
    assert unix.take() == [start + "one line", start + "another one"]
    log.close()


async def test_a_day_has_two_places(tmp_path: Path, unix: Unix) -> None:
    """RFC 3164 §4.1.2: a space in the place of a zero."""
    log = Syslog(str(tmp_path / "log"), loop=asyncio.get_running_loop(), now=lambda: NOON - 18 * 86400)
    log.write(b"a line\n")
    [message] = unix.take()
    assert re.match(r"<190>Nov  5 \d\d:\d\d:38 ", message)
    log.close()


async def test_a_datagram_elsewhere_names_the_host() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(PATIENCE_S)
        log = Syslog(server.getsockname(), loop=asyncio.get_running_loop())
        log.write(b"one line\nanother one\n")
        found = [server.recv(65536).decode() for _ in range(2)]
        host = re.escape(socket.gethostname().partition(".")[0])
        for message in found:
            assert re.match(
                rf"<190>[A-Z][a-z]{{2}} [ \d]\d \d\d:\d\d:\d\d {host} shardserve\[\d+\]: ", message
            )
        assert lines_of(found) == ["one line", "another one"]
        log.close()
    assert log.lost == 0


async def test_a_name_is_looked_up_and_nothing_is_lost_meanwhile() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.setblocking(False)

        async def resolver(host: str, port: int, **how: object) -> list[tuple[object, ...]]:
            assert (host, port) == ("logs.example", 514)
            return [(socket.AF_INET, socket.SOCK_DGRAM, 17, "", server.getsockname())]

        loop = asyncio.get_running_loop()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(loop, "getaddrinfo", resolver)
            log = Syslog(("logs.example", 514), loop=loop)
            log.write(b"a line\n")
            found: list[str] = []

            def arrived() -> bool:
                try:
                    found.append(server.recv(65536).decode())
                except BlockingIOError:
                    pass
                return bool(found)

            await until(arrived)
        assert lines_of(found) == ["a line"]
        log.close()


async def test_a_stream_has_messages_that_end_with_nul(tmp_path: Path) -> None:
    server = Unix(tmp_path / "log", socket.SOCK_STREAM)
    log = Syslog(str(tmp_path / "log"), loop=asyncio.get_running_loop())
    log.write(b"one line\nanother one\n")
    client, _ = server.sock.accept()
    client.settimeout(PATIENCE_S)
    got = b""
    while got.count(b"\0") < 2:
        got += client.recv(65536)
    assert lines_of(got.decode().split("\0")[:-1]) == ["one line", "another one"]
    log.close()
    assert client.recv(1) == b""
    client.close()
    server.close()


async def test_a_burst_is_kept_until_there_is_room(tmp_path: Path, unix: Unix) -> None:
    """Unix sockets hold a few hundred datagrams at most, ten on older kernels."""
    log = Syslog(str(tmp_path / "log"), loop=asyncio.get_running_loop())
    total = 5000
    log.write(b"".join(b"%d\n" % number for number in range(total)))
    log.write(b"last\n")
    found: list[str] = []

    def all_arrived() -> bool:
        found.extend(unix.take())
        return len(found) > total

    first = unix.take()
    assert 0 < len(first) < total
    found += first
    await until(all_arrived)
    assert lines_of(found) == [*map(str, range(total)), "last"]
    assert log.lost == 0
    log.close()


async def test_more_than_the_backlog_is_lost_and_counted(
    tmp_path: Path, unix: Unix, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(syslog, "BACKLOG_BYTES", 10_000)
    log = Syslog(str(tmp_path / "log"), loop=asyncio.get_running_loop())
    total = 0
    while log.lost == 0:
        log.write(b"x" * 900 + b"\n")
        total += 1
        assert total < 100_000
    log.write(b"x" * 900 + b"\nshort\n")
    assert log.lost == 2
    found: list[str] = []

    def all_arrived() -> bool:
        found.extend(unix.take())
        return len(found) == total

    await until(all_arrived)  # all but the two that were lost, and "short"
    assert lines_of(found)[-1] == "short"
    log.close()


async def test_a_syslog_that_starts_later(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(syslog, "RETRY_S", 0.0)
    caplog.set_level("INFO")
    path = tmp_path / "log"
    log = Syslog(str(path), loop=asyncio.get_running_loop())
    log.write(b"early\n")
    log.flush()
    server = Unix(path)
    log.flush()
    assert lines_of(server.take()) == ["early"]
    assert [record.getMessage() for record in caplog.records] == [
        f"The access log does not reach syslog at {path}: No such file or directory. Trying again.",
        f"The access log reaches syslog at {path} again.",
    ]
    log.close()
    server.close()
    assert log.lost == 0


async def test_a_syslog_that_is_restarted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(syslog, "RETRY_S", 0.0)
    path = tmp_path / "log"
    server = Unix(path)
    log = Syslog(str(path), loop=asyncio.get_running_loop())
    log.write(b"one\n")
    assert lines_of(server.take()) == ["one"]
    server.close()
    path.unlink()
    log.write(b"two\n")
    server = Unix(path)
    log.write(b"three\n")
    assert lines_of(server.take()) == ["two", "three"]
    log.close()
    server.close()
    assert log.lost == 0


async def test_a_stream_that_breaks_off_gets_the_whole_line_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(syslog, "RETRY_S", 0.0)
    server = Unix(tmp_path / "log", socket.SOCK_STREAM)
    log = Syslog(str(tmp_path / "log"), loop=asyncio.get_running_loop())
    client, _ = server.sock.accept()
    lines = [b"%d " % number + b"x" * 5000 for number in range(150)]
    log.write(b"\n".join(lines) + b"\n")  # more than its buffer takes, and less than our backlog
    client.close()
    log.flush()

    clients: list[socket.socket] = []
    got = b""

    def all_arrived() -> bool:
        nonlocal got
        try:
            clients.append(server.sock.accept()[0])
            clients[-1].setblocking(False)
        except BlockingIOError:
            pass
        log.flush()
        for one in clients:
            try:
                got += one.recv(1 << 20)
            except BlockingIOError:
                pass
        return got.endswith(lines[-1] + b"\0")

    await until(all_arrived)
    arrived = [message.partition(b"]: ")[2] for message in got.split(b"\0")[:-1]]
    assert arrived == lines[len(lines) - len(arrived) :]  # whole ones, in order, up to the last
    assert log.lost == 0
    log.close()
    for one in clients:
        one.close()
    server.close()


async def test_a_port_where_nobody_listens(caplog: pytest.LogCaptureFixture) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        place = server.getsockname()
    log = Syslog(place, loop=asyncio.get_running_loop())
    for _ in range(20):
        log.write(b"a line\n")
    log.close()
    assert log.lost >= 10  # each but the last is answered by ICMP, in a kernel that has the time
    [record] = caplog.records
    assert record.getMessage().startswith(
        f"The access log does not reach syslog at 127.0.0.1, port {place[1]}"
    )


async def test_a_line_that_no_datagram_holds_is_lost_alone() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(PATIENCE_S)
        log = Syslog(server.getsockname(), loop=asyncio.get_running_loop())
        log.write(b"before\n" + b"x" * 70_000 + b"\nbehind\n")
        assert lines_of([server.recv(65536).decode() for _ in range(2)]) == ["before", "behind"]
        assert log.lost == 1
        log.close()


async def test_the_end_waits_for_a_syslog_that_reads(tmp_path: Path, unix: Unix) -> None:
    log = Syslog(str(tmp_path / "log"), loop=asyncio.get_running_loop())
    total = 3000
    log.write(b"a line\n" * total)
    found: list[str] = []

    def read() -> None:
        while len(found) < total:
            found.extend(unix.take())

    reading = asyncio.get_running_loop().run_in_executor(None, read)
    log.close()
    await asyncio.wait_for(reading, PATIENCE_S)
    assert log.lost == 0


async def test_the_end_does_not_wait_for_ever(
    tmp_path: Path, unix: Unix, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(syslog, "CLOSE_S", 0.05)
    log = Syslog(str(tmp_path / "log"), loop=asyncio.get_running_loop())
    total = 3000
    log.write(b"a line\n" * total)
    log.close()
    assert log.lost == total - len(unix.take())
    assert log.lost > 0
