"""Making the listening sockets. The master's; a worker gets its own ready-made, by inheritance.

Rules of this file: sockets are bound, set listening, and closed here, and nowhere accepted on. What
cannot be had is a ListenError that names the address and, where it can be found, who has it. No
processes, no settings object, no event loop.

One SO_REUSEPORT socket per TCP address × slot, so that the kernel shards the accepts, and every one
of them is *the master's*: a worker that dies leaves its accept queue in the master's copy, and its
successor serves it (docs/architecture.md, decision D1). Two rules follow.

- A listening socket is closed only when the server stops. Closing one resets every connection in
  its queue, so a slot without a worker has its listeners lent to a neighbour (``master/``).
- SO_REUSEPORT lets a second master of the same user bind the same port *silently*. So each fixed
  port is first bound without it: that, the kernel does refuse. (Two masters that start within the
  same millisecond can still both pass; nothing short of a lock file closes that gap.)

Unix sockets and inherited descriptors cannot be sharded: all slots share one.

IPv6 sockets are always IPV6_V6ONLY, whatever the sysctl says (nginx does the same): ``[::]`` is IPv6,
an empty host (``:8000``) is both families.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from ..config.addresses import Bind, FdBind, TcpBind, UnixBind, parse_bind
from ..config.model import Config
from ..errors import ListenError

SOMAXCONN = Path("/proc/sys/net/core/somaxconn")
_PORT_PICKS = 16  # tries to find one free port for all addresses of a name

# A family this machine lacks or an address it does not have: no reason to fail as long as the same
# name has another one (``localhost`` is ::1 too, on hosts where IPv6 is off).
_NOT_HERE = {errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.EPROTONOSUPPORT}


def wanted(config: Config) -> list[Bind]:
    """Where a config says to listen. The model sees to it that only one of these ways is used."""
    if config.bind:
        return [parse_bind(text, uds_mode=config.uds_permissions) for text in config.bind]
    if config.fd is not None:
        return [FdBind(config.fd)]
    if config.uds is not None:
        return [UnixBind(config.uds, config.uds_permissions)]
    return [TcpBind(config.host, config.port)]


@dataclass(slots=True)
class Listening:
    """One listening socket of the master's. ``url`` is for people."""

    sock: socket.socket
    url: str


_Found = tuple[socket.AddressFamily, tuple[Any, ...]]


@dataclass(frozen=True, slots=True)
class _Resolved:
    """One resolved address of a TcpBind; every slot gets a socket on it. The port is never 0 here."""

    family: socket.AddressFamily
    sockaddr: tuple[Any, ...]
    url: str


class Listeners:
    """Every listening socket of the server: some per slot, some shared by all slots."""

    def __init__(self, binds: Iterable[Bind], *, slots: int, backlog: int) -> None:
        """Bind and listen for slots 0 … slots-1. Raises ListenError; nothing stays open then."""
        self._backlog = backlog
        self._resolved: list[_Resolved] = []
        self._per_slot: dict[int, list[Listening]] = {}
        self._shared: list[Listening] = []
        self._unlink: list[tuple[str, int, int]] = []  # path, device, inode
        with ExitStack() as undo:
            undo.callback(self.close)
            with ExitStack() as claims:
                for bind in binds:
                    self._open(bind, claims)
                for slot in range(slots):
                    self.of_slot(slot)
            undo.pop_all()

    @property
    def urls(self) -> list[str]:
        """What the server listens on, for people, in the order asked for."""
        return [a.url for a in self._resolved] + [entry.url for entry in self._shared]

    @property
    def shared(self) -> list[Listening]:
        """Sockets that every worker accepts on."""
        return self._shared

    def of_slot(self, slot: int) -> list[Listening]:
        """The slot's own sockets, one per TCP address: made at the first call, the same ever after.

        Raises ListenError; nothing of the slot's stays open then.
        """
        if slot not in self._per_slot:
            with ExitStack() as undo:
                made: list[Listening] = []
                for address in self._resolved:
                    sock = undo.enter_context(_listen_tcp(address, self._backlog))
                    made.append(Listening(sock, address.url))
                undo.pop_all()
            self._per_slot[slot] = made
        return self._per_slot[slot]

    def made_for(self, slot: int) -> list[Listening]:
        """The slot's own sockets as far as there are any; makes none."""
        return self._per_slot.get(slot, [])

    def close(self) -> None:
        """Close all of them. Unix socket files go too, unless someone else has taken the path since."""
        for path, device, inode in self._unlink:
            with suppress(OSError):
                now = os.stat(path, follow_symlinks=False)
                if (now.st_dev, now.st_ino) == (device, inode):
                    os.unlink(path)
        for entry in [*self._shared, *(entry for made in self._per_slot.values() for entry in made)]:
            entry.sock.close()
        self._unlink.clear()
        self._shared.clear()
        self._per_slot.clear()

    def _open(self, bind: Bind, claims: ExitStack) -> None:
        if isinstance(bind, FdBind):
            self._shared.append(_take_fd(bind, self._backlog))
        elif isinstance(bind, UnixBind):
            self._shared.append(_listen_unix(bind, self._backlog))
            made = os.stat(bind.path, follow_symlinks=False)
            # Absolute, because the working directory may be another one when it is unlinked.
            self._unlink.append((os.path.abspath(bind.path), made.st_dev, made.st_ino))
        else:
            self._resolved += [one for one in _claim(bind, claims) if one not in self._resolved]


# TCP


def _claim(bind: TcpBind, claims: ExitStack) -> list[_Resolved]:
    """The addresses of one bind, each proven free by a bind without SO_REUSEPORT.

    ``claims`` keeps those sockets until the slots' own are bound, so that a port 0 that the kernel
    picked stays ours. (They never listen, so under SO_REUSEADDR the slots' sockets may join them.)
    """
    found = _resolve(bind)
    for _ in range(_PORT_PICKS if bind.port == 0 else 1):
        held = ExitStack()
        try:
            addresses = _bind_exclusively(bind, found, held)
        except BaseException:
            held.close()
            raise
        if addresses is not None:
            claims.push(held)
            return addresses
        held.close()
    raise ListenError(f"cannot listen on {bind}: found no port that is free on all its addresses")


def _bind_exclusively(bind: TcpBind, found: list[_Found], held: ExitStack) -> list[_Resolved] | None:
    """Bind all to one port. None: port 0, and the kernel's pick for the first is taken on another."""
    addresses: list[_Resolved] = []
    skipped: OSError | None = None
    port = bind.port
    for family, sockaddr in found:
        target = (sockaddr[0], port, *sockaddr[2:])
        try:
            sock = held.enter_context(_tcp_socket(family))
            sock.bind(target)
        except OSError as error:
            if error.errno in _NOT_HERE:
                skipped = error
                continue
            if error.errno == errno.EADDRINUSE and port != bind.port:
                return None
            raise _refusal(str(bind), error, owner=partial(_tcp_owner, target)) from error
        name = sock.getsockname()
        port = name[1]
        addresses.append(_Resolved(family, name, _url(name)))
    if not addresses:
        raise _refusal(str(bind), skipped) from skipped
    return addresses


def _resolve(bind: TcpBind) -> list[_Found]:
    """Every address of the host, in the resolver's order, without repeats."""
    try:
        found = socket.getaddrinfo(
            bind.host or None, bind.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ListenError(f"cannot listen on {bind}: {bind.host!r} does not resolve: {reason}") from error
    return list(dict.fromkeys((family, sockaddr) for family, _, _, _, sockaddr in found))


def _listen_tcp(address: _Resolved, backlog: int) -> socket.socket:
    with _named(address.url), ExitStack() as undo:
        sock = undo.enter_context(_tcp_socket(address.family))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(address.sockaddr)
        sock.listen(backlog)
        undo.pop_all()
        return sock


def _tcp_socket(family: socket.AddressFamily) -> socket.socket:
    """A fresh socket, so set up that connections in TIME_WAIT do not stand in the way of a restart."""
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    return sock


# Unix sockets


def _listen_unix(bind: UnixBind, backlog: int) -> Listening:
    _clear_stale(bind)
    with _named(str(bind)), ExitStack() as undo:
        sock = undo.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        # The file appears with bind: the umask keeps strangers out until chmod has set the exact mode.
        umask = os.umask(0o777 & ~bind.mode)
        try:
            sock.bind(bind.path)
        finally:
            os.umask(umask)
        undo.callback(os.unlink, bind.path)
        os.chmod(bind.path, bind.mode)
        sock.listen(backlog)
        undo.pop_all()
        return Listening(sock, str(bind))


def _clear_stale(bind: UnixBind) -> None:
    """Remove a socket file that nobody serves. Raises ListenError when somebody does, or it is no socket."""
    try:
        mode = os.stat(bind.path, follow_symlinks=False).st_mode
    except OSError:
        return  # not there, or bind will say why
    if not stat.S_ISSOCK(mode):
        raise ListenError(f"cannot listen on {bind}: the path exists and is not a socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(bind.path)
        except ConnectionRefusedError:
            with _named(str(bind)):
                os.unlink(bind.path)
            return
        except BlockingIOError:
            pass  # its queue is full, so it is alive
        except OSError as error:
            raise _refusal(str(bind), error) from error
    busy = OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
    raise _refusal(str(bind), busy, owner=partial(_unix_owner, bind.path))


# Inherited descriptors


def _take_fd(bind: FdBind, backlog: int) -> Listening:
    """Take the descriptor over. Its family and type are asked of the kernel, never assumed."""
    with _named(str(bind)):
        sock = socket.socket(fileno=bind.fd)
    with ExitStack() as undo:
        undo.callback(sock.detach)  # what we refuse stays its owner's
        if sock.type != socket.SOCK_STREAM:
            raise ListenError(f"cannot listen on {bind}: it is not a stream socket")
        if sock.family not in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX):
            raise ListenError(f"cannot listen on {bind}: its address family ({sock.family}) is not served")
        name = sock.getsockname()
        if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            if not (name if sock.family == socket.AF_UNIX else name[1]):
                raise ListenError(f"cannot listen on {bind}: the socket is not bound to an address")
            with _named(str(bind)):  # a connected socket fails here: EINVAL
                sock.listen(backlog)
        os.set_inheritable(bind.fd, False)
        undo.pop_all()
    return Listening(sock, f"unix:{_text(name)}" if sock.family == socket.AF_UNIX else _url(name))


# What goes wrong, in words


@contextmanager
def _named(address: str) -> Iterator[None]:
    """Turn an OSError into a ListenError that names the address."""
    try:
        yield
    except OSError as error:
        raise _refusal(address, error) from error


def _refusal(
    address: str, error: OSError | None, *, owner: Callable[[], str | None] | None = None
) -> ListenError:
    code = error.errno if error is not None else None
    reason = (error.strerror or str(error)) if error is not None else "it has no address"
    text = f"cannot listen on {address}: {reason}"
    if code == errno.EADDRINUSE:
        text = f"cannot listen on {address}: the address is in use"
        by = owner() if owner is not None else None
        text += f" by {by}" if by else " (by which process is not visible to this user)"
    elif code == errno.EACCES and not address.startswith("unix:"):
        text += "; ports below net.ipv4.ip_unprivileged_port_start need CAP_NET_BIND_SERVICE"
    elif code == errno.EADDRNOTAVAIL:
        text += "; no interface of this host has that address"
    elif code in (errno.EBADF, errno.ENOTSOCK):
        text += "; no open socket was inherited under that number"
    return ListenError(text)


def _tcp_owner(sockaddr: tuple[Any, ...]) -> str | None:
    """``pid 7 (nginx: master)`` of whoever listens on an address that overlaps this one."""
    anywhere = {"0.0.0.0", "::"}

    def overlaps(entry: Any) -> bool:
        if entry.status != psutil.CONN_LISTEN or entry.laddr.port != sockaddr[1]:
            return False
        return entry.laddr.ip == sockaddr[0] or bool(anywhere & {entry.laddr.ip, sockaddr[0]})

    return _owner("tcp", overlaps)


def _unix_owner(path: str) -> str | None:
    names = {path, os.path.abspath(path)}
    return _owner("unix", lambda entry: entry.laddr in names)


def _owner(kind: str, is_it: Callable[[Any], bool]) -> str | None:
    """The process with such a socket; of a master and its workers, the master. Best effort."""
    try:
        pids = (c.pid for c in psutil.net_connections(kind=kind) if c.pid is not None and is_it(c))
        pid = next(pids, None)
        if pid is None:
            return None
        owner = psutil.Process(pid)
        with suppress(psutil.Error):  # a parent of another user may not be looked into
            while (parent := owner.parent()) and any(map(is_it, parent.net_connections(kind=kind))):
                owner = parent
        command = " ".join(owner.cmdline()) or owner.name()
        return f"pid {owner.pid} ({command[:120]})"
    except (psutil.Error, OSError):
        return None


def backlog_warning(backlog: int, somaxconn: Path = SOMAXCONN) -> str | None:
    """What to say when the kernel silently caps the backlog; None when it does not."""
    try:
        limit = int(somaxconn.read_text())
    except (OSError, ValueError):
        return None
    if limit >= backlog:
        return None
    raise_it = f"sysctl net.core.somaxconn={backlog}"
    return f"backlog {backlog} is cut to {limit} by net.core.somaxconn; to raise it: {raise_it}"


def _url(sockaddr: tuple[Any, ...]) -> str:
    return f"http://{_join(sockaddr[0], sockaddr[1])}"


def _join(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _text(name: str | bytes) -> str:
    """A unix socket's name; the abstract ones start with a NUL, written @."""
    return (os.fsdecode(name)).replace("\0", "@")
