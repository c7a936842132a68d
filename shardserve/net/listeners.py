"""The listening sockets of the server, all of them. The master's; a worker gets its own ready-made.

Rules of this file: sockets are opened, kept and closed here, and nowhere accepted on; how each kind is
made is in the files beside it. What cannot be had is a ListenError that names the address and, where
it can be found, who has it. No processes, no event loop.

One SO_REUSEPORT socket per TCP address × slot, so that the kernel shards the accepts, and every one
of them is *the master's*: a worker that dies leaves its accept queue in the master's copy, and its
successor serves it (docs/architecture.md, decision D1). So a listening socket is closed only when
the server stops: closing one resets every connection in its queue. A slot without a worker has its
listeners lent to a neighbour (``master/``).

An upgrade hands all of them to a new master (``handover``, ``inherited``), with the queues in them. A
new master changes nothing that both share before it is told that it is the master now (``settle``): if
it fails, the old one goes on as if nothing had been. So start no more slots than were handed over until
then; a socket of its own would take connections, and lose them with it.

Unix sockets and descriptors that we were given cannot be sharded: all slots share one.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import astuple, dataclass
from pathlib import Path

from ..config.addresses import Bind, FdBind, TcpBind, UnixBind, parse_bind
from ..config.model import Config
from ..errors import ListenError
from . import balance as balancing
from .activation import activated, handed_on
from .inherit import Inherited, Offer, take_fd
from .refusals import tcp_url, url_of
from .reuseport import Group, claim, resolve
from .unix import SocketFile, listen_unix

__all__ = [
    "Inherited", "Listeners", "Listening", "activated", "activation_warning", "backlog_warning", "wanted",
]  # fmt: skip

SOMAXCONN = Path("/proc/sys/net/core/somaxconn")

log = logging.getLogger("shardserve.master")


@dataclass(slots=True)
class Listening:
    """One listening socket of the master's. ``url`` is for people."""

    sock: socket.socket
    url: str


@dataclass(frozen=True, slots=True)
class _Shared:
    """One that every slot accepts on."""

    bind: Bind
    url: str
    sock: socket.socket
    file: SocketFile | None = None
    taken_over: bool = False


class Listeners:
    """Every listening socket of the server: some per slot, some shared by all slots."""

    def __init__(
        self,
        binds: Iterable[Bind],
        *,
        slots: int,
        backlog: int,
        inherited: Sequence[Inherited] = (),
        balance: str = "hash",
        core_of: Callable[[int], int | None] | None = None,
    ) -> None:
        """Bind and listen for slots 0 … slots-1. Raises ListenError; nothing stays open then.

        ``inherited``: an old master's sockets; those that are wanted still are taken over, the others
        closed. ``core_of``: the core that a slot's worker is pinned to, for ``balance`` cpu.
        """
        self._backlog = backlog
        self._balance = balance
        self._core_of = core_of or (lambda _slot: None)
        self._settled = False  # whether shared state of the sockets is ours to change
        self._detaches = False  # an old master may have left its program attached
        self._refused = False
        self._groups: list[Group] = []
        self._shared: list[_Shared] = []
        offer = Offer(inherited)
        with ExitStack() as undo:
            undo.callback(self.close)
            claimed: list[Group] = []
            for bind in binds:
                claimed += self._open(bind, offer)
            # Once all are known to be free, so that a refusal resets as few connections as can be.
            for group in sorted(claimed, key=lambda group: not group.is_wildcard):
                others = (other for other in self._groups if other is not group)
                group.start(backlog, covered=any(other.covers(group) for other in others))
            for slot in range(slots):
                self.of_slot(slot)
            if not inherited:
                self._settled = True
                self._steer()
            undo.pop_all()
        offer.close_rest()

    @property
    def urls(self) -> list[str]:
        """What the server listens on, for people, in the order asked for."""
        return [group.url for group in self._groups] + [one.url for one in self._shared]

    @property
    def shared(self) -> list[Listening]:
        """Sockets that every worker accepts on."""
        return [Listening(one.sock, one.url) for one in self._shared]

    @property
    def slots_made(self) -> list[int]:
        """The slots that have sockets of their own; an old master may have had more than are wanted now."""
        return sorted({slot for group in self._groups for slot in group.members})

    def of_slot(self, slot: int) -> list[Listening]:
        """The slot's own sockets, one per TCP address: made at the first call, the same ever after.

        Raises ListenError; nothing that was made for this call stays open then.
        """
        with ExitStack() as undo:
            missing = [group for group in self._groups if slot not in group.members]
            fresh = [undo.enter_context(group.joined(self._backlog)) for group in missing]
            undo.pop_all()
        for group, sock in zip(missing, fresh, strict=True):
            group.members[slot] = sock
        if fresh and self._settled:
            self._steer()
        return self.made_for(slot)

    def made_for(self, slot: int) -> list[Listening]:
        """The slot's own sockets as far as there are any; makes none."""
        return [Listening(group.members[slot], group.url) for group in self._groups if slot in group.members]

    def handover(self) -> list[tuple[Inherited, socket.socket]]:
        """Every socket with its description, for a process that inherits them under the same numbers."""
        entries = [
            (Inherited(group.bind, group.url, slot, sock.fileno()), sock)
            for group in self._groups
            for slot, sock in group.members.items()
        ]
        for one in self._shared:
            file = astuple(one.file) if one.file is not None else None
            entries.append((Inherited(str(one.bind), one.url, None, one.sock.fileno(), file), one.sock))
        return entries

    def settle(self) -> None:
        """Give what was taken over our backlog, file modes and balance: we are the master now.

        To be called once after a handover, when the new workers serve; without one it is done already.
        """
        self._settled = self._detaches = True
        for group in self._groups:
            for sock in group.members.values():
                sock.listen(self._backlog)
        for one in self._shared:
            if isinstance(one.bind, UnixBind) and one.file is not None:
                one.sock.listen(self._backlog)
                try:
                    one.file.set_mode(one.bind.mode)
                except OSError as error:
                    log.warning("%s keeps the mode that it has: %s", one.url, error)
        self._steer()

    def close(self, *, unlink: bool = True) -> None:
        """Close all of them. Unix socket files go too, unless someone else has taken the path since.

        ``unlink=False``: a new master has them now, with their files. What was taken over is the old
        master's file until ``settle``.
        """
        for one in self._shared:
            if unlink and one.file is not None and (self._settled or not one.taken_over):
                one.file.unlink()
            one.sock.close()
        for group in self._groups:
            group.close()
        self._shared.clear()
        self._groups.clear()

    def _open(self, bind: Bind, offer: Offer) -> list[Group]:
        """Open one bind, or take it over. What is new and does not listen yet is returned."""
        if str(bind) in offer.given:  # named twice
            return []
        handed = offer.pick(bind=str(bind))
        if isinstance(bind, TcpBind):
            return self._open_tcp(bind, handed, offer)
        for entry in handed:
            file = SocketFile(*entry.file) if entry.file is not None else None
            self._shared.append(_Shared(bind, entry.url, entry.take(), file, taken_over=True))
        if not handed and isinstance(bind, UnixBind):
            sock, file = listen_unix(bind, self._backlog)
            self._shared.append(_Shared(bind, str(bind), sock, file))
        elif not handed and isinstance(bind, FdBind):
            sock = take_fd(bind, self._backlog)
            self._shared.append(_Shared(bind, url_of(sock), sock))
        return []

    def _open_tcp(self, bind: TcpBind, handed: list[Inherited], offer: Offer) -> list[Group]:
        if handed:  # as they are, whatever the name resolves to by now; and port 0 is the port it was
            self._adopt(bind, handed)
            return []
        found = resolve(bind)
        for _, sockaddr in found:  # asked for under another name before, and so not free
            self._adopt(bind, offer.pick(url=tcp_url(sockaddr)))
        claimed = claim(bind, found, have=self.urls)
        self._groups += claimed
        return claimed

    def _adopt(self, bind: TcpBind, entries: list[Inherited]) -> None:
        groups = {group.url: group for group in self._groups}
        for entry in entries:
            sock = entry.take()
            if entry.url not in groups:
                groups[entry.url] = Group(str(bind), sock.family, sock.getsockname(), entry.url, {})
                self._groups.append(groups[entry.url])
            members = groups[entry.url].members
            if entry.slot is None or entry.slot in members:
                sock.close()
                raise ListenError(f"cannot listen on {bind}: handed over, but not for a slot of its own")
            members[entry.slot] = sock

    def _steer(self) -> None:
        """Attach the balance program to every group, made for the members that it has now."""
        for group in self._groups:
            instructions = balancing.program(self._balance, [self._core_of(slot) for slot in group.members])
            any_member = next(iter(group.members.values()))
            try:
                if instructions:
                    balancing.attach(any_member, instructions)
                elif self._detaches:
                    balancing.detach(any_member)
            except OSError as error:
                if error.errno != errno.ENOENT and not self._refused:
                    self._refused = True
                    log.warning(
                        "balance %s: the kernel refuses it (%s); new connections go where its own hash says",
                        self._balance,
                        error,
                    )


def wanted(
    config: Config,
    environ: Mapping[str, str] | None = None,
    pid: int | None = None,
    *,
    inherited: Sequence[Inherited] = (),
) -> list[Bind]:
    """Where to listen: what bind or fd says, else the sockets that systemd opened, else uds or host and port.

    ``environ`` and ``pid`` are this process's unless given. ``inherited``: what an old master hands
    over; sockets of systemd that are among them stay in use. Raises ListenError.
    """
    explicit = _explicit(config)
    if explicit:
        return explicit
    opened = activated(*_process(environ, pid)) or handed_on(inherited)
    if opened:
        return list(opened)
    if config.uds is not None:
        return [UnixBind(config.uds, config.uds_permissions)]
    return [TcpBind(config.host, config.port)]


def activation_warning(
    config: Config, environ: Mapping[str, str] | None = None, pid: int | None = None
) -> str | None:
    """What to say when systemd opened sockets that the config does not use; None if there are none."""
    explicit = _explicit(config)
    used = {bind.fd for bind in explicit if isinstance(bind, FdBind)}
    unused = [str(bind) for bind in activated(*_process(environ, pid)) if bind.fd not in used]
    if not explicit or not unused:
        return None
    by = "bind" if config.bind else "fd"
    return f"sockets from systemd are not used, since {by} is set; remove it to use them: {', '.join(unused)}"


def _explicit(config: Config) -> list[Bind]:
    if config.bind:
        return [parse_bind(text, uds_mode=config.uds_permissions) for text in config.bind]
    return [FdBind(config.fd)] if config.fd is not None else []


def _process(environ: Mapping[str, str] | None, pid: int | None) -> tuple[Mapping[str, str], int]:
    return os.environ if environ is None else environ, os.getpid() if pid is None else pid


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
