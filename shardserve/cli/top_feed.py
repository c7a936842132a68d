"""A thread that asks a server how it is, again and again, for as long as ``top`` runs.

Rules of this file: whoever shows the answers never waits for them, so a server that is suspended, or gone,
holds no key up. A server that has gone is looked for anew each time: after a restart or an upgrade it has
another pid, and with that another socket, unless that was named. No output.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from typing import Any

from ..commands import ServerStatus, Status
from ..errors import ControlError, ShardserveError
from .ctl_client import GLANCE_S, Connection, CtlError, connect, everyone
from .ctl_tables import printable_lines


@dataclass(frozen=True, slots=True)
class Seen:
    """The last status there was, and why there is no newer one."""

    status: ServerStatus
    problem: str = ""


def ask(connection: Connection) -> tuple[dict[str, Any], ServerStatus]:
    """The reply of a server, and what it says. Closes the connection. Raises CtlError."""
    try:
        reply = connection.ask(Status(), timeout_s=GLANCE_S)
        if reply["ok"] is not True:
            raise CtlError(printable_lines(str(reply["error"])))
        return reply, ServerStatus.from_json(reply)
    except ControlError as error:
        raise CtlError(f"the reply makes no sense: {error}; is the server another version?") from error
    finally:
        connection.close()


class Feed:
    """``tell`` is called in the thread whenever ``seen`` is another one."""

    def __init__(
        self,
        path: str,
        socket: str | None,
        pid: int | None,
        seen: Seen,
        interval_s: float,
        tell: Callable[[], None],
    ) -> None:
        """``path`` is where ``seen`` came from; ``socket`` and ``pid`` are what the user named."""
        self.seen = seen
        self._path, self._socket, self._pid = path, socket, pid
        self._interval_s = interval_s
        self._tell = tell
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="top", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Does not wait for the thread, which may be waiting for a server."""
        self._over.set()

    def _run(self) -> None:
        due_at = time.monotonic() + self._interval_s
        failing_since = 0.0
        while not self._over.wait(max(0.0, due_at - time.monotonic())):
            due_at = time.monotonic() + self._interval_s
            try:
                self.seen = Seen(self._newest())
                failing_since = 0.0
            except (CtlError, ShardserveError, OSError) as error:  # whatever it is: the thread goes on
                failing_since = failing_since or time.monotonic()
                self.seen = Seen(self.seen.status, _problem(error, time.monotonic() - failing_since))
            self._tell()

    def _newest(self) -> ServerStatus:
        """From where it was, or else from where it is now."""
        try:
            return ask(Connection(self._path, timeout_s=GLANCE_S))[1]
        except CtlError:
            self._path, status = self._elsewhere()
            return status

    def _elsewhere(self) -> tuple[str, ServerStatus]:
        """As it was found at first, or else whoever has one of its addresses now: a new master."""
        try:
            connection = connect(self._socket, self._pid)
            return connection.path, ask(connection)[1]
        except CtlError:
            found = self._heir() if self._socket is None else None
            if found is None:
                raise
            return found

    def _heir(self) -> tuple[str, ServerStatus] | None:
        with ExitStack() as stack:
            for connection in [stack.enter_context(closing(one)) for one in everyone()]:
                with suppress(CtlError):
                    _, status = ask(connection)
                    if set(status.urls) & set(self.seen.status.urls):
                        return connection.path, status
        return None


def _problem(error: Exception, seconds: float) -> str:
    """On one line. What follows the first one is for somebody who looks for a server."""
    first, _, _ = str(error).partition("\n")
    return f"no news for {int(seconds)} s, trying again: {first}"
