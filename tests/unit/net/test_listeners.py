"""The listening sockets: which are made, which are refused and in what words, what close leaves."""

from __future__ import annotations

import errno
import fcntl
import os
import select
import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path

import pytest

from shardserve.config.addresses import Bind, FdBind, TcpBind, UnixBind
from shardserve.config.model import Config
from shardserve.errors import ListenError
from shardserve.net import listeners, unix
from shardserve.net.listeners import Listeners

LOCAL = TcpBind("127.0.0.1", 0)


def open_all(*binds: Bind, slots: int = 1, backlog: int = 10) -> Listeners:
    return Listeners(binds, slots=slots, backlog=backlog)


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this host has no ::1")


def port_of(made: Listeners) -> int:
    return int(made.urls[0].rpartition(":")[2])


def listens(sock: socket.socket) -> bool:
    return bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield sock.getsockname()[1]


# What a config asks for


@pytest.mark.parametrize(
    ("settings", "binds"),
    [
        ({}, [TcpBind("127.0.0.1", 8000)]),
        ({"host": "::1", "port": 1}, [TcpBind("::1", 1)]),
        ({"uds": "/run/x", "uds_permissions": 0o600}, [UnixBind("/run/x", 0o600)]),
        ({"fd": 3}, [FdBind(3)]),
        (
            {"bind": (":80", "unix:/run/x", "fd://4"), "uds_permissions": 0o660},
            [TcpBind("", 80), UnixBind("/run/x", 0o660), FdBind(4)],
        ),
    ],
)
def test_what_a_config_asks_for(settings: dict[str, object], binds: list[Bind]) -> None:
    assert listeners.wanted(Config(app="m:app", **settings)) == binds  # type: ignore[arg-type]


# TCP


def test_each_slot_has_its_own_socket_on_the_same_port() -> None:
    with closing(open_all(LOCAL, slots=3)) as made:
        socks = [made.of_slot(slot)[0].sock for slot in range(3)]
        assert len({sock.fileno() for sock in socks}) == 3
        assert {sock.getsockname() for sock in socks} == {("127.0.0.1", port_of(made))}
        assert all(sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT) for sock in socks)
        assert all(listens(sock) for sock in socks)
        assert not any(sock.get_inheritable() for sock in socks)


def test_a_slot_keeps_its_sockets() -> None:
    with closing(open_all(LOCAL)) as made:
        (first,), (second,) = made.of_slot(0), made.of_slot(0)
        assert first.sock is second.sock
        assert made.slots_made == [0]


def test_a_slot_added_later_joins_on_the_same_port() -> None:
    with closing(open_all(LOCAL)) as made:
        (later,) = made.of_slot(1)
        assert later.sock.getsockname()[1] == port_of(made)
        assert listens(later.sock)
        assert made.slots_made == [0, 1]


def test_a_slot_that_cannot_have_its_sockets_has_none() -> None:
    with closing(open_all(LOCAL, TcpBind("127.0.0.1", 0))) as made:
        before = os.listdir("/proc/self/fd")
        made._groups[1] = replace(made._groups[1], sockaddr=("192.0.2.1", 1))
        with pytest.raises(ListenError):
            made.of_slot(1)
        assert made.made_for(1) == []
        assert os.listdir("/proc/self/fd") == before


def test_a_queue_outlives_every_holder_but_ours() -> None:
    with closing(open_all(LOCAL)) as made:
        sock = made.of_slot(0)[0].sock
        inherited = socket.socket(fileno=os.dup(sock.fileno()))
        with socket.create_connection(sock.getsockname(), timeout=5):
            inherited.close()
            sock.settimeout(5)
            accepted, _ = sock.accept()
            accepted.close()


def test_several_binds_keep_their_order() -> None:
    with closing(open_all(LOCAL, TcpBind("127.0.0.1", 0), slots=2)) as made:
        assert len(made.urls) == 2
        assert len(set(made.urls)) == 2
        assert [entry.url for entry in made.of_slot(1)] == made.urls


def test_the_same_address_twice_is_one() -> None:
    with closing(open_all(LOCAL)) as probe:
        port = port_of(probe)
    twice = TcpBind("127.0.0.1", port)
    with closing(open_all(twice, twice)) as made:
        assert made.urls == [f"http://127.0.0.1:{port}"]


@pytest.mark.parametrize("hosts", [("0.0.0.0", "127.0.0.1"), ("127.0.0.1", "0.0.0.0")])
def test_an_address_and_the_wildcard_over_it_are_both_listened_on(hosts: tuple[str, str]) -> None:
    with closing(open_all(TcpBind("0.0.0.0", 0))) as probe:
        port = port_of(probe)
    with closing(open_all(*(TcpBind(host, port) for host in hosts), slots=2)) as made:
        assert made.urls == [f"http://{host}:{port}" for host in hosts]
        assert all(listens(entry.sock) for slot in range(2) for entry in made.of_slot(slot))
        for host in hosts:
            with pytest.raises(ListenError, match="in use by pid"):
                open_all(TcpBind(host, port))


@needs_ipv6
def test_an_empty_host_is_both_families_on_one_port() -> None:
    with closing(open_all(TcpBind("", 0), slots=2)) as made:
        port = port_of(made)
        assert set(made.urls) == {f"http://0.0.0.0:{port}", f"http://[::]:{port}"}
        for slot in range(2):
            families = {entry.sock.family for entry in made.of_slot(slot)}
            assert families == {socket.AF_INET, socket.AF_INET6}


@needs_ipv6
def test_an_ipv6_wildcard_is_ipv6_only() -> None:
    with ExitStack() as stack:
        port = port_of(stack.enter_context(closing(open_all(TcpBind("0.0.0.0", 0)))))
        beside = stack.enter_context(closing(open_all(TcpBind("::", port))))
        assert beside.urls == [f"http://[::]:{port}"]
        sock = beside.of_slot(0)[0].sock
        assert sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY) == 1


def resolving_to(*found: tuple[socket.AddressFamily, str]) -> object:
    def getaddrinfo(host: str, port: int, **_: object) -> list[tuple[object, ...]]:
        return [
            (family, socket.SOCK_STREAM, 6, "", (ip, port) if family == socket.AF_INET else (ip, port, 0, 0))
            for family, ip in found
        ]

    return getaddrinfo


@needs_ipv6
def test_a_name_with_two_addresses_gets_one_port_on_both(monkeypatch: pytest.MonkeyPatch) -> None:
    both = resolving_to((socket.AF_INET6, "::1"), (socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1"))
    monkeypatch.setattr(socket, "getaddrinfo", both)
    with closing(open_all(TcpBind("localhost", 0), slots=2)) as made:
        port = port_of(made)
        assert made.urls == [f"http://[::1]:{port}", f"http://127.0.0.1:{port}"]


@needs_ipv6
def test_another_port_is_picked_when_the_first_is_taken_on_the_second_address(
    monkeypatch: pytest.MonkeyPatch, taken: int
) -> None:
    both = resolving_to((socket.AF_INET6, "::1"), (socket.AF_INET, "127.0.0.1"))
    monkeypatch.setattr(socket, "getaddrinfo", both)
    picks = iter([taken, 0])
    bind = socket.socket.bind

    class Picky(socket.socket):
        def bind(self, address: tuple[object, ...]) -> None:  # type: ignore[override]
            if self.family == socket.AF_INET6 and address[1] == 0:
                address = (address[0], next(picks), *address[2:])
            bind(self, address)

    monkeypatch.setattr(socket, "socket", Picky)
    with closing(open_all(TcpBind("localhost", 0))) as made:
        assert port_of(made) != taken
        assert len(made.urls) == 2


def test_an_address_that_is_not_here_is_skipped_if_the_name_has_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = resolving_to((socket.AF_INET, "192.0.2.77"), (socket.AF_INET, "127.0.0.1"))
    monkeypatch.setattr(socket, "getaddrinfo", found)
    with closing(open_all(TcpBind("somewhere", 0))) as made:
        assert made.urls == [f"http://127.0.0.1:{port_of(made)}"]


def test_connections_in_time_wait_do_not_stand_in_the_way() -> None:
    with closing(open_all(LOCAL)) as made:
        port = port_of(made)
        client = socket.create_connection(("127.0.0.1", port), timeout=5)
        server, _ = made.of_slot(0)[0].sock.accept()
        server.close()  # the side that closes first is the one that waits
        assert client.recv(1) == b""
        client.close()
    open_all(TcpBind("127.0.0.1", port)).close()


# TCP, refused


def test_a_port_in_use_is_refused_with_its_owner(taken: int) -> None:
    with pytest.raises(ListenError) as caught:
        open_all(TcpBind("127.0.0.1", taken))
    assert f"127.0.0.1:{taken}: the address is in use by pid {os.getpid()} (" in str(caught.value)
    assert caught.value.exit_code == 1


def test_a_wildcard_conflicts_with_one_address(taken: int) -> None:
    with pytest.raises(ListenError, match=f"in use by pid {os.getpid()}"):
        open_all(TcpBind("0.0.0.0", taken))


def test_our_own_sharded_sockets_are_refused_too() -> None:
    with closing(open_all(LOCAL, slots=2)) as made, pytest.raises(ListenError, match="in use by pid"):
        open_all(TcpBind("127.0.0.1", port_of(made)))


def test_an_owner_that_cannot_be_seen_is_said_so(taken: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("psutil.net_connections", lambda **_: [])
    with pytest.raises(ListenError, match="not visible to this user"):
        open_all(TcpBind("127.0.0.1", taken))


def test_nothing_stays_open_when_one_of_several_is_refused(taken: int, tmp_path: Path) -> None:
    before = os.listdir("/proc/self/fd")
    path = tmp_path / "s"
    with pytest.raises(ListenError):
        open_all(UnixBind(str(path), 0o600), LOCAL, TcpBind("127.0.0.1", taken), slots=2)
    assert os.listdir("/proc/self/fd") == before
    assert not path.exists()


@pytest.mark.parametrize(
    ("bind", "text"),
    [
        (TcpBind("192.0.2.1", 0), "192.0.2.1:0: .*no interface of this host has that address"),
        (TcpBind("256.256.256.256", 0), "'256.256.256.256' does not resolve"),
        (TcpBind("a" * 70 + ".example", 0), "does not resolve"),
        (FdBind(9999), "fd://9999: .*no open socket was inherited"),
        (UnixBind("/nonexistent/s", 0o600), "unix:/nonexistent/s: No such file or directory"),
    ],
)
def test_a_refusal_names_the_address(bind: Bind, text: str) -> None:
    with pytest.raises(ListenError, match=text):
        open_all(bind)


def test_a_privileged_port_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    class Refused(socket.socket):
        def bind(self, address: object) -> None:
            raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(socket, "socket", Refused)
    with pytest.raises(ListenError, match=r"127.0.0.1:80: Permission denied; .*CAP_NET_BIND_SERVICE"):
        open_all(TcpBind("127.0.0.1", 80))


# Unix sockets


def test_a_unix_socket_has_its_mode_and_is_shared(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with closing(open_all(UnixBind(str(path), 0o620), slots=3)) as made:
        assert path.stat().st_mode & 0o777 == 0o620
        assert made.of_slot(2) == []
        (entry,) = made.shared
        assert entry.url == f"unix:{path}"
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
    assert not path.exists()


def test_a_stale_socket_file_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    open_all(UnixBind(str(path), 0o600)).close()
    assert not path.exists()


def test_a_folder_that_somebody_else_has_locked_is_no_obstacle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unix, "_LOCK_TRIES", 2)
    folder = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_EX)
    path = tmp_path / "s"
    with closing(open_all(UnixBind(str(path), 0o600))):
        assert path.exists()
    os.close(folder)


def test_a_live_socket_file_is_refused_with_its_owner(tmp_path: Path) -> None:
    bind = UnixBind(str(tmp_path / "s"), 0o600)
    with closing(open_all(bind)), pytest.raises(ListenError, match=f"in use by pid {os.getpid()}"):
        open_all(bind)


def test_a_live_socket_with_a_full_queue_is_live(tmp_path: Path) -> None:
    bind = UnixBind(str(tmp_path / "s"), 0o600)
    with closing(open_all(bind, backlog=1)):
        clients = []
        for _ in range(5):
            client = socket.socket(socket.AF_UNIX)
            client.setblocking(False)
            client.connect_ex(bind.path)
            clients.append(client)
        with pytest.raises(ListenError, match="in use"):
            open_all(bind)
        for client in clients:
            client.close()


def test_a_file_that_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "s"
    path.write_text("precious")
    with pytest.raises(ListenError, match="exists and is not a socket"):
        open_all(UnixBind(str(path), 0o600))
    assert path.read_text() == "precious"


def test_a_path_that_someone_else_took_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "s"
    made = open_all(UnixBind(str(path), 0o600))
    path.unlink()
    with closing(open_all(UnixBind(str(path), 0o600))):
        made.close()
        assert path.exists()


# Inherited descriptors


def test_an_inherited_socket_is_taken_over_whatever_its_family(tmp_path: Path) -> None:
    tcp = socket.create_server(("127.0.0.1", 0))
    unix = socket.socket(socket.AF_UNIX)
    unix.bind(str(tmp_path / "s"))  # bound is enough: we listen
    port = tcp.getsockname()[1]
    tcp.set_inheritable(True)
    with closing(open_all(FdBind(tcp.detach()), FdBind(unix.detach()))) as made:
        assert made.urls == [f"http://127.0.0.1:{port}", f"unix:{tmp_path / 's'}"]
        assert [entry.sock.family for entry in made.shared] == [socket.AF_INET, socket.AF_UNIX]
        assert not any(entry.sock.get_inheritable() for entry in made.shared)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(tmp_path / "s"))
    assert (tmp_path / "s").exists()  # its file is its maker's


def test_what_cannot_be_listened_on_is_refused_and_stays_open(tmp_path: Path) -> None:
    datagram = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    unbound = socket.socket()
    ours, theirs = socket.socketpair()
    file = (tmp_path / "f").open("wb")
    for thing, text in [
        (datagram, "not a stream socket"),
        (unbound, "not bound to an address"),
        (ours, "not bound to an address"),
        (file, "no open socket was inherited"),
    ]:
        with pytest.raises(ListenError, match=text):
            open_all(FdBind(thing.fileno()))
        os.fstat(thing.fileno())
        thing.close()
    theirs.close()


def test_a_connected_socket_is_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = socket.create_connection(server.getsockname(), timeout=5)
        with pytest.raises(ListenError, match=f"fd://{client.fileno()}: Invalid argument"):
            open_all(FdBind(client.fileno()))
        client.close()


# The backlog


def connected(clients: list[socket.socket]) -> list[socket.socket]:
    """Those whose handshake is complete by now."""
    _, ready, _ = select.select([], clients, [], 0)
    return [one for one in ready if one.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0]


def test_the_backlog_bounds_what_waits_and_what_waits_is_served() -> None:
    with closing(open_all(LOCAL, backlog=8)) as made, ExitStack() as stack:
        sock = made.of_slot(0)[0].sock
        clients = []
        for _ in range(12):
            client = stack.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(sock.getsockname())
            clients.append(client)
        # Linux lets one more wait than it is told; on loopback a handshake that can be is done at once.
        first = connected(clients)
        assert 8 <= len(first) <= 10
        for _ in range(len(first) // 2):
            stack.enter_context(sock.accept()[0]).sendall(b"served")
        assert [one for one in first if select.select([one], [], [], 0)[0]] != []
        sock.settimeout(20)
        for _ in range(len(first) // 2, 12):  # the others knock again about a second later
            stack.enter_context(sock.accept()[0]).sendall(b"served")
        for client in clients:
            client.settimeout(20)
            assert client.recv(6) == b"served"


@pytest.mark.parametrize(
    ("limit", "warns"), [("128\n", True), ("2048\n", False), ("4096\n", False), ("?", False)]
)
def test_a_backlog_that_the_kernel_cuts_is_told(tmp_path: Path, limit: str, warns: bool) -> None:
    (tmp_path / "somaxconn").write_text(limit)
    text = listeners.backlog_warning(2048, tmp_path / "somaxconn")
    assert (text is not None) == warns
    if text is not None:
        assert "cut to 128" in text


def test_a_missing_somaxconn_is_no_warning(tmp_path: Path) -> None:
    assert listeners.backlog_warning(2048, tmp_path / "nowhere") is None
