"""Sockets that systemd opened for us: LISTEN_PID, LISTEN_FDS, LISTEN_FDNAMES (sd_listen_fds(3)).

Rules of this file: the environment in, binds out. The variables are believed only if they were meant
for this very process; what is meant for us and makes no sense is a ListenError that names the variable.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ..config.addresses import FdBind
from ..errors import ListenError
from .inherit import Inherited

FIRST_FD = 3
_TEXT = re.compile(r"activated://(\d+)/(.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class ActivatedBind(FdBind):
    """``name`` is its FileDescriptorName=, by default the name of the socket unit; for people."""

    name: str = ""

    def __str__(self) -> str:
        return f"activated://{self.fd}/{self.name}"


def activated(environ: Mapping[str, str], pid: int) -> list[FdBind]:
    """The sockets passed to the process ``pid``; none if it was not started for a socket. Raises ListenError.

    No process that we start inherits them unasked.
    """
    if not environ.get("LISTEN_PID") or not environ.get("LISTEN_FDS"):
        return []
    if _number("LISTEN_PID", environ) != pid:
        return []  # meant for a parent of ours
    count = _number("LISTEN_FDS", environ)
    for fd in range(FIRST_FD, FIRST_FD + count):
        try:
            os.set_inheritable(fd, False)
        except OSError as error:
            raise ListenError(
                f"LISTEN_FDS promises {count} sockets, but descriptor {fd} is not open"
            ) from error
    names = [""] * count
    if environ.get("LISTEN_FDNAMES"):
        names = environ["LISTEN_FDNAMES"].split(":")
        if len(names) != count:
            raise ListenError(f"LISTEN_FDNAMES has {len(names)} names for {count} sockets (LISTEN_FDS)")
    return [ActivatedBind(fd, name) for fd, name in enumerate(names, FIRST_FD)]


def handed_on(inherited: Iterable[Inherited]) -> list[FdBind]:
    """Those that an old master got so, and hands over: the variables name its pid, not ours."""
    found = (_TEXT.fullmatch(entry.bind) for entry in inherited)
    return [ActivatedBind(int(match[1]), match[2]) for match in found if match]


def _number(variable: str, environ: Mapping[str, str]) -> int:
    text = environ[variable]
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise ListenError(f'{variable} is not a number: "{text}"')
    return int(text)
