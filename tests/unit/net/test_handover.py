"""An old master's sockets in a new one: the same addresses, the same queues, nothing closed on the way."""

from __future__ import annotations

import json
import logging
import os
import selectors
import socket
import subprocess
import sys
from collections import Counter
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from shardserve.config.addresses import Bind, FdBind, TcpBind, UnixBind
from shardserve.errors import ListenError
from shardserve.net.inherit import Inherited, Offer
from shardserve.net.listeners import Listeners

LOCAL = TcpBind("127.0.0.1", 0)
WAIT_S = 20.0

NEW_MASTER = """
import json, sys
from shardserve.config.addresses import TcpBind
from shardserve.net.listeners import Inherited, Listeners
inherited = [Inherited.from_plain(entry) for entry in json.loads(sys.argv[1])]
made = Listeners([TcpBind("127.0.0.1", 0)], slots=2, backlog=16, inherited=inherited)
sys.stdin.readline()  # the old master is gone
for slot in made.slots_made:
    for entry in made.of_slot(slot):
        entry.sock.setblocking(False)
        while True:
            try:
                client, _ = entry.sock.accept()
            except BlockingIOError:
                break
            client.sendall(b"new")
            client.close()
print(made.urls[0], flush=True)
"""


def opened(*binds: Bind, slots: int = 2, backlog: int = 16, **more: Any) -> Listeners:
    return Listeners(binds, slots=slots, backlog=backlog, **more)


def handed(old: Listeners) -> list[Inherited]:
    """As if in another process: descriptors of its own, the descriptions through JSON."""
    plain = [{**entry.to_plain(), "fd": os.dup(sock.fileno())} for entry, sock in old.handover()]
    return [Inherited.from_plain(one) for one in json.loads(json.dumps(plain))]


def inode(sock: socket.socket) -> int:
    """The same for every descriptor of one socket."""
    return os.fstat(sock.fileno()).st_ino


def inodes(made: Listeners) -> dict[int | None, list[int]]:
    found: dict[int | None, list[int]] = {
        slot: [inode(entry.sock) for entry in made.made_for(slot)] for slot in made.slots_made
    }
    return {**found, None: [inode(entry.sock) for entry in made.shared]}


def port_of(made: Listeners) -> int:
    return int(made.urls[0].rpartition(":")[2])


def connect(made: Listeners, count: int, stack: ExitStack) -> list[socket.socket]:
    address = ("127.0.0.1", port_of(made))
    return [stack.enter_context(socket.create_connection(address, timeout=WAIT_S)) for _ in range(count)]


# A new process


def test_a_new_process_serves_what_waits_in_the_queues() -> None:
    with ExitStack() as stack:
        old = stack.enter_context(closing(opened(LOCAL)))
        clients = connect(old, 20, stack)
        entries = old.handover()
        new = subprocess.Popen(
            [sys.executable, "-c", NEW_MASTER, json.dumps([entry.to_plain() for entry, _ in entries])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=[sock.fileno() for _, sock in entries],
        )
        url = old.urls[0]
        old.close(unlink=False)
        out, _ = new.communicate(b"\n", timeout=WAIT_S)
        assert new.returncode == 0
        assert out.decode().strip() == url
        assert [client.recv(3) for client in clients] == [b"new"] * 20


# What is taken over


def test_each_slot_gets_the_socket_it_had_and_the_port_stays() -> None:
    binds = (LOCAL, TcpBind("127.0.0.2", 0))
    with (
        closing(opened(*binds, slots=3)) as old,
        closing(opened(*binds, slots=3, inherited=handed(old))) as new,
    ):
        assert new.urls == old.urls
        assert inodes(new) == inodes(old)
        assert not any(entry.sock.get_inheritable() for entry in new.of_slot(2))


def test_the_same_bind_twice_is_as_many_sockets_as_before() -> None:
    bind = TcpBind("127.0.0.1", 0)  # twice, it is two ports
    with closing(opened(bind, bind)) as old, closing(opened(bind, bind, inherited=handed(old))) as new:
        assert new.urls == old.urls
        assert inodes(new) == inodes(old)


def test_a_fixed_port_is_taken_over_and_not_probed() -> None:
    with closing(opened(LOCAL)) as probe:
        bind = TcpBind("127.0.0.1", port_of(probe))
    with closing(opened(bind)) as old:
        with pytest.raises(ListenError, match="in use"):
            opened(bind)
        with closing(opened(bind, inherited=handed(old))) as new:
            assert inodes(new) == inodes(old)


def test_an_address_under_a_new_name_is_taken_over() -> None:
    with closing(opened(LOCAL)) as old:
        bind = TcpBind("127.0.0.1", port_of(old))
        with closing(opened(bind, inherited=handed(old))) as new:
            assert inodes(new) == inodes(old)
            assert {entry.bind for entry, _ in new.handover()} == {str(bind)}


def test_more_slots_join_on_the_same_port() -> None:
    with (
        closing(opened(LOCAL, slots=1)) as old,
        closing(opened(LOCAL, slots=2, inherited=handed(old))) as new,
    ):
        assert new.slots_made == [0, 1]
        assert new.of_slot(1)[0].sock.getsockname()[1] == port_of(old)
        assert inodes(new)[0] == inodes(old)[0]


def test_fewer_slots_keep_all_sockets() -> None:
    with (
        closing(opened(LOCAL, slots=3)) as old,
        closing(opened(LOCAL, slots=1, inherited=handed(old))) as new,
    ):
        assert new.slots_made == [0, 1, 2]
        assert inodes(new) == inodes(old)


def test_it_can_be_handed_on_again() -> None:
    with ExitStack() as stack:
        old = stack.enter_context(closing(opened(LOCAL)))
        new = stack.enter_context(closing(opened(LOCAL, inherited=handed(old))))
        newest = stack.enter_context(closing(opened(LOCAL, inherited=handed(new))))
        expected = inodes(old)
        old.close()
        new.close()
        assert inodes(newest) == expected
        connect(newest, 1, stack)


def test_what_is_wanted_newly_is_opened(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with closing(opened(LOCAL)) as old:
        binds = (LOCAL, TcpBind("127.0.0.2", 0), UnixBind(str(path), 0o600))
        with closing(opened(*binds, inherited=handed(old))) as new:
            assert len(new.urls) == 3
            assert len(new.of_slot(1)) == 2
            assert path.exists()
        assert not path.exists()


def test_what_is_wanted_newly_but_taken_is_refused_and_the_old_goes_on() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other, closing(opened(LOCAL)) as old, ExitStack() as stack:
        before = inodes(old)
        with pytest.raises(ListenError, match="in use"):
            opened(LOCAL, TcpBind(*other.getsockname()), inherited=handed(old))
        assert inodes(old) == before
        connect(old, 4, stack)


def test_what_is_not_wanted_any_more_is_closed(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with closing(opened(LOCAL)) as old:
        entries = handed(old)
        with closing(opened(TcpBind("127.0.0.2", 0), inherited=entries)) as new:
            assert len(new.urls) == 1
            for entry in entries:
                with pytest.raises(OSError):
                    os.fstat(entry.fd)
    assert f"http://127.0.0.1:{entries[0].url.rpartition(':')[2]} is not listened on any more" in caplog.text


# Shared sockets


def test_a_unix_socket_and_its_file_pass_to_the_new_owner(tmp_path: Path) -> None:
    path = tmp_path / "s"
    bind = UnixBind(str(path), 0o600)
    old = opened(bind)
    with closing(opened(bind, inherited=handed(old))) as new:
        assert inodes(new) == inodes(old)
        new.settle()
        old.close(unlink=False)
        old.close()  # once more, as at the end of every master
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
    assert not path.exists()


def test_a_new_master_that_fails_leaves_the_file(tmp_path: Path) -> None:
    bind = UnixBind(str(tmp_path / "s"), 0o600)
    with closing(opened(bind)) as old, socket.create_server(("127.0.0.1", 0)) as other:
        with pytest.raises(ListenError, match="in use"):
            opened(bind, TcpBind(*other.getsockname()), inherited=handed(old))
        opened(bind, inherited=handed(old)).close()  # it came as far as its workers
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(bind.path)


def test_a_file_that_someone_else_made_since_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "s"
    bind = UnixBind(str(path), 0o600)
    with closing(opened(bind)) as old:
        new = opened(bind, inherited=handed(old))
        new.settle()
        path.unlink()
        with closing(opened(bind)):
            new.close()
            assert path.exists()


def test_the_file_mode_is_the_new_one_once_settled(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with (
        closing(opened(UnixBind(str(path), 0o600))) as old,
        closing(opened(UnixBind(str(path), 0o660), inherited=handed(old))) as new,
    ):
        assert path.stat().st_mode & 0o777 == 0o600
        new.settle()
        assert path.stat().st_mode & 0o777 == 0o660
        path.unlink()
        new.settle()  # nothing to set the mode of, nothing to fail


def test_a_descriptor_is_taken_over_by_its_old_number() -> None:
    given = socket.create_server(("127.0.0.1", 0))
    with closing(opened(FdBind(given.detach()))) as old:
        bind = FdBind(old.shared[0].sock.fileno())
        entries = handed(old)
        assert entries[0].fd != bind.fd
        with closing(opened(bind, inherited=entries)) as new:
            assert [entry.sock.fileno() for entry in new.shared] == [entries[0].fd]
            assert new.urls == old.urls


# What cannot be taken over


def altered(old: Listeners, **changes: Any) -> list[Inherited]:
    first, *others = handed(old)
    if "fd" in changes:
        os.close(first.fd)
    return [Inherited.from_plain({**first.to_plain(), **changes}), *others]


def test_what_is_not_the_socket_described_is_refused(tmp_path: Path) -> None:
    with (
        closing(opened(LOCAL)) as old,
        socket.socket() as silent,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagram,
        socket.create_server(("127.0.0.1", 0)) as other,
        (tmp_path / "f").open("wb") as file,
    ):
        silent.bind(("127.0.0.1", 0))
        for fd, text in [
            (9999, "no open socket was inherited"),
            (file.fileno(), "no open socket was inherited"),
            (silent.fileno(), "not a listening stream socket"),
            (datagram.fileno(), "not a listening stream socket"),
            (other.fileno(), f"it is http://127.0.0.1:{other.getsockname()[1]}, not {old.urls[0]}"),
        ]:
            with pytest.raises(ListenError, match=f"127.0.0.1:0, handed over as descriptor {fd}: .*{text}"):
                opened(LOCAL, inherited=(entries := altered(old, fd=fd)))
            Offer(entries).close_rest()
            if fd != 9999:
                os.fstat(fd)  # its owner's still


@pytest.mark.parametrize("slot", [None, 1])
def test_two_sockets_of_one_slot_or_of_none_are_refused(slot: int | None) -> None:
    with closing(opened(LOCAL)) as old:
        entries = altered(old, slot=slot)
        with pytest.raises(ListenError, match="not for a slot of its own"):
            opened(LOCAL, inherited=entries)
        Offer(entries).close_rest()


GOOD = {"bind": "127.0.0.1:0", "url": "http://127.0.0.1:1", "slot": 0, "fd": 5, "file": None}


@pytest.mark.parametrize(
    "data",
    [
        None,
        [],
        {},
        {**GOOD, "fd": "5"},
        {**GOOD, "slot": "0"},
        {**GOOD, "bind": None},
        {**GOOD, "file": ["/x", 1]},
    ],
)
def test_a_description_that_is_none_is_refused(data: object) -> None:
    assert Inherited.from_plain(GOOD) == Inherited("127.0.0.1:0", "http://127.0.0.1:1", 0, 5)
    with pytest.raises(ListenError, match="not described as one"):
        Inherited.from_plain(data)


# What both share is changed by the one that is the master


def spread(made: Listeners, count: int) -> Counter[int]:
    """Connect and accept; how many connections each slot's socket had."""
    found: Counter[int] = Counter()
    with ExitStack() as stack, selectors.DefaultSelector() as selector:
        connect(made, count, stack)
        for slot in made.slots_made:
            sock = made.made_for(slot)[0].sock
            sock.setblocking(False)
            selector.register(sock, selectors.EVENT_READ, slot)
        while found.total() < count:
            ready = selector.select(WAIT_S)
            assert ready, f"{found.total()} of {count} connections arrived"
            for key, _ in ready:
                key.fileobj.accept()[0].close()  # type: ignore[union-attr]
                found[key.data] += 1
    return found


def all_to(slot: int) -> dict[str, Any]:
    """A balance that can be told from any other: every core is this slot's."""
    only = min(os.sched_getaffinity(0))
    return {"balance": "cpu", "core_of": lambda one: only if one == slot else 10_000}


def test_balance_follows_the_order_of_the_old_master() -> None:
    core = min(os.sched_getaffinity(0))
    before = os.sched_getaffinity(0)
    with ExitStack() as stack:
        old = stack.enter_context(closing(opened(LOCAL, slots=2, backlog=64, **all_to(0))))
        old.of_slot(3)
        old.of_slot(2)  # the fourth to listen
        new = stack.enter_context(
            closing(opened(LOCAL, slots=2, backlog=64, inherited=handed(old), **all_to(2)))
        )
        stack.callback(os.sched_setaffinity, 0, before)
        os.sched_setaffinity(0, {core})
        assert spread(new, 20) == {0: 20}  # the old master's still
        new.settle()
        assert spread(new, 20) == {2: 20}


def test_hash_takes_the_old_program_away() -> None:
    with (
        closing(opened(LOCAL, backlog=64, balance="random")) as old,
        closing(opened(LOCAL, backlog=64, inherited=handed(old))) as new,
    ):
        sock = new.of_slot(0)[0].sock
        new.settle()
        with pytest.raises(FileNotFoundError):  # the kernel's word for: nothing is attached
            sock.setsockopt(socket.SOL_SOCKET, 68, 0)


def listen_limit(sock: socket.socket) -> int:
    """tcp_info of a listener: tcpi_sacked is its backlog (tcp_get_info in the kernel)."""
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 64)
    return int.from_bytes(info[28:32], sys.byteorder)


def test_the_backlog_is_the_new_one_once_settled() -> None:
    with (
        closing(opened(LOCAL, backlog=8)) as old,
        closing(opened(LOCAL, backlog=32, inherited=handed(old))) as new,
    ):
        socks = [new.of_slot(slot)[0].sock for slot in range(2)]
        assert [listen_limit(sock) for sock in socks] == [8, 8]
        new.settle()
        assert [listen_limit(sock) for sock in socks] == [32, 32]
