"""``gunicorn -k shardserve.ShardWorker``: gunicorn's processes, sockets, signals and hooks; our request path.

Rules of this file: what gunicorn decides stays gunicorn's: its settings become ours in ``keywords``, and its
hooks are called when its own workers call them. Serving is ``embedded.py``'s. Signals only leave notes, which
``on_tick`` reads ten times a second.

    TERM          finish what is in flight (graceful_timeout); also at HUP, TTOU and after max_requests
    INT, QUIT     worker_int, then cut everything
    USR1          open the log files again
    ABRT          the event loop did not turn for ``timeout``: log where it stands, worker_abort, exit with 1

The arbiter does not say whether a TERM is a reload or the end. What differs is whether anybody serves the
sockets after us: then an idle client may bring one more request before its connection is closed, and what is
queued is left to our successor. So we look whether the arbiter still has them (``_is_served_after_us``).
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import queue
import signal
import socket
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from types import FrameType
from typing import Any, ClassVar

import uvloop
from gunicorn.arbiter import Arbiter  # type: ignore[import-untyped]
from gunicorn.workers.base import Worker  # type: ignore[import-untyped]

from .. import control
from ..config.model import BY_ATTRIBUTE
from ..config.model import Config as Settings
from ..config.values import Integer, Size
from ..errors import ShardserveError
from ..observe import uncaught
from ..worker.bootstrap import close_loop, leave
from .embedded import Server
from .hosted import order
from .settings import Config

BEAT_S = 1.0
# The arbiter kills when graceful_timeout is over; until then what was cut is to be logged, and the app's
# lifespan shut down.
KILL_MARGIN_S = 2.0
# A reload of development is to be seen at once.
STREAMS_AT_RELOAD_S = 0.5
# gunicorn's 0 is any size; ours has an end. Below our smallest value, ours is taken.
LARGEST_BYTES, SMALLEST_BYTES = 2**24, 256

_UNDERSCORES = {"drop": "drop", "refuse": "reject", "dangerous": "allow"}
# Settings that change nothing here, and what to do instead.
_UNUSED = {
    "access_log_format": "the access log has Uvicorn's format",
    "pre_request": "no Python runs before a request; use a middleware",
    "post_request": "no Python runs after a request; use a middleware",
    "statsd_host": "requests are not counted for statsd; use a middleware",
    "secure_scheme_headers": "X-Forwarded-Proto and Forwarded say the scheme",
    "protocol": "clients speak HTTP",
}
# gunicorn's settings of HTTP/2 that are ours by another name, where they are not left at its defaults.
_HTTP2 = {
    "http2_max_concurrent_streams": "http2_max_concurrent_streams",
    "http2_initial_window_size": "http2_initial_stream_window_size_bytes",
    "http2_max_frame_size": "http2_max_frame_size_bytes",
    "http2_max_header_list_size": "http2_max_header_list_size_bytes",
}


class ShardWorker(Worker):  # type: ignore[misc]
    """One gunicorn worker process. Subclass it to set what gunicorn has no setting for."""

    CONFIG_KWARGS: ClassVar[dict[str, Any]] = {}
    """Keywords of ``shardserve.Config``, which come before what gunicorn says."""

    @classmethod
    def check_config(cls, cfg: Any, log: Any) -> None:
        """Called once, in the arbiter: says what of the configuration has no effect."""
        for name, instead in _UNUSED.items():
            if name in cfg.settings and not _is_default(cfg, name):
                log.warning("%s has no effect with %s: %s.", name, cls.__name__, instead)
        if cfg.proxy_protocol not in ("off", False) and not _is_default(cfg, "proxy_allow_ips"):
            log.warning("proxy_allow_ips has no effect with %s: forwarded_allow_ips says it.", cls.__name__)
        if getattr(cfg, "http2_cleartext", "off") in ("upgrade", "both"):
            log.warning("http2_cleartext: %s takes prior knowledge only, not Upgrade: h2c.", cls.__name__)

    def init_process(self) -> None:
        """In the fresh process. The loop is set first, for an app that asks for it at import."""
        uncaught.install()
        loops = {"asyncio": asyncio.new_event_loop}
        self._loop = loops.get(getattr(self.cfg, "asgi_loop", "auto"), uvloop.new_event_loop)()
        self._server: _Server | None = None
        asyncio.set_event_loop(self._loop)
        super().init_process()

    def run(self) -> None:
        """Serve until told to go; the end of the process."""
        if not self.alive:  # told so during the import
            leave(0)
        self._log_as_gunicorn()
        asyncio.set_event_loop(self._loop)  # again: an app that calls asyncio.run() at import unsets it
        self._loop.set_exception_handler(uncaught.report_loop_error)
        self._beat()
        try:
            self._server = server = _Server(Config(self.wsgi, **self.keywords()), self)
            self._loop.run_until_complete(server.serve(sockets=[_plain(one) for one in self.sockets]))
        except ShardserveError as error:
            self.log.critical("%s", error)
            leave(Arbiter.WORKER_BOOT_ERROR)
        except SystemExit:
            if self._server is None or self._server.started:
                raise
            leave(Arbiter.WORKER_BOOT_ERROR)
        if not server.force_exit:
            close_loop(self._loop)
        leave(1 if self.aborted else 0)

    def _beat(self) -> None:
        """While this is called the arbiter knows that the loop turns."""
        self.notify()
        self._loop.call_later(min(BEAT_S, (self.timeout or BEAT_S) / 2), self._beat)

    def _log_as_gunicorn(self) -> None:
        """Our records go where gunicorn's go, by the same handlers: USR1 opens their files again."""
        pairs = (("shardserve", "error_log"), ("shardserve.access", "access_log"))
        for name, theirs in pairs:
            source = getattr(self.log, theirs, None)
            if isinstance(source, logging.Logger):
                ours = logging.getLogger(name)
                ours.handlers, ours.propagate = source.handlers, False
                ours.setLevel(source.level)

    # Settings

    def keywords(self) -> dict[str, Any]:
        """gunicorn's settings as keywords of ``shardserve.Config``."""
        cfg = self.cfg
        found = {
            "log_config": None,
            # Of the levels only whether there is debugging matters: the handlers have their own.
            "log_level": "debug" if cfg.loglevel.lower() == "debug" else "info",
            "access_log": logging.getLogger("shardserve.access").hasHandlers(),
            "workers": 1,
            "backlog": cfg.backlog,
            "timeout_keep_alive": cfg.keepalive,
            "timeout_graceful_shutdown": max(cfg.graceful_timeout - KILL_MARGIN_S, cfg.graceful_timeout / 2),
            "limit_max_requests": None if self.max_requests == sys.maxsize else self.max_requests,
            "limit_request_line": _bytes(cfg.limit_request_line),
            "limit_request_field_size": _bytes(cfg.limit_request_field_size),
            "limit_request_fields": cfg.limit_request_fields,
            "limit_connections": None if _is_default(cfg, "worker_connections") else cfg.worker_connections,
            "wsgi_threads": cfg.threads,
            "forwarded_allow_ips": cfg.forwarded_allow_ips,
            # Before 24 it was a switch, for version 1.
            "proxy_protocol": {False: "off", True: "v1"}.get(cfg.proxy_protocol, cfg.proxy_protocol),
            **self._newer(),
            **self._http2(),
            **self._tls(),
        }
        return found | self.CONFIG_KWARGS

    def _newer(self) -> dict[str, Any]:
        """What gunicorn has not always had."""
        names = {
            "root_path": "root_path",
            "asgi_lifespan": "lifespan",
            "websocket_max_message_size": "ws_max_size",
        }
        found = {
            ours: getattr(self.cfg, theirs) for theirs, ours in names.items() if theirs in self.cfg.settings
        }
        if "header_map" in self.cfg.settings:
            found["underscore_headers"] = _UNDERSCORES[self.cfg.header_map]
        return found

    def _http2(self) -> dict[str, Any]:
        cfg = self.cfg
        if "h2" not in getattr(cfg, "http_protocols", ()):
            return {}
        cleartext = not cfg.is_ssl and getattr(cfg, "http2_cleartext", "off") in ("prior-knowledge", "both")
        found: dict[str, Any] = {"http2": True, "http2_cleartext": cleartext}
        for theirs, ours in _HTTP2.items():
            if theirs in cfg.settings and not _is_default(cfg, theirs):
                kind = BY_ATTRIBUTE[ours].kind
                assert isinstance(kind, Integer | Size)
                # gunicorn's 0 is no limit.
                wanted, most = getattr(cfg, theirs), kind.high or sys.maxsize
                found[ours] = max(kind.low, min(wanted or most, most))
        return found

    def _tls(self) -> dict[str, Any]:
        cfg = self.cfg
        found: dict[str, Any] = {}
        if cfg.is_ssl:
            found = {
                "ssl_certfile": cfg.certfile,
                "ssl_keyfile": cfg.keyfile,
                "ssl_ca_certs": cfg.ca_certs,
                "ssl_cert_reqs": int(cfg.cert_reqs),
                "ssl_ciphers": cfg.ciphers,
            }
            if "ssl_context" in cfg.settings and not _is_default(cfg, "ssl_context"):
                found["ssl_context_factory"] = lambda _, default: cfg.ssl_context(cfg, default)
        return found

    # Signals

    def init_signals(self) -> None:
        before = signal.getsignal(signal.SIGTERM)
        for number in self.SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        handlers: dict[int, Any] = {
            signal.SIGTERM: self.handle_exit,
            signal.SIGINT: self.handle_quit,
            signal.SIGQUIT: self.handle_quit,
            signal.SIGUSR1: self.handle_usr1,
            signal.SIGABRT: self.handle_abort,
            signal.SIGWINCH: self.handle_winch,
        }
        for number, handler in handlers.items():
            signal.signal(number, handler)
            signal.siginterrupt(number, False)
        for number in _unheard(before):
            if number in handlers:
                handlers[number](number, None)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.alive = False
        if self._server is not None:
            self._server.should_exit = True

    def handle_quit(self, sig: int, frame: FrameType | None) -> None:
        if self._server is None:
            super().handle_quit(sig, frame)
            return
        if not self._server.force_exit:
            self.cfg.worker_int(self)
        self.alive = False
        self._server.should_exit = self._server.force_exit = True

    def handle_abort(self, sig: int, frame: FrameType | None) -> None:
        """What is running is what blocks the loop. It may catch the SystemExit; then ``on_tick`` ends the
        process, or the arbiter kills it.
        """
        self.alive, self.aborted = False, True
        self.log.critical("The event loop does not turn. It stands here:\n%s", _below_us(frame))
        self.cfg.worker_abort(self)
        sys.exit(1)


class _Server(Server):
    """The embedded server, with gunicorn's worker in the place of signals."""

    def __init__(self, config: Config, worker: ShardWorker) -> None:
        super().__init__(config)
        self._worker = worker

    def install_signal_handlers(self) -> None:
        """They are the worker's."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            # As in a worker of ours: what was imported lives as long as the process.
            gc.collect()
            gc.freeze()

    async def on_tick(self, counter: int) -> bool:
        worker = self._worker
        if worker.aborted:
            self.force_exit = True
        if worker.ppid != os.getppid():
            logging.getLogger("shardserve.worker").info("Parent changed, shutting down: %s", worker)
            return True
        return await super().on_tick(counter) or not worker.alive

    def drain_order(self, settings: Settings) -> control.Drain:
        worker = self._worker
        if worker.reloader is not None:
            return control.Drain(
                grace_s=0.0, deadline_s=settings.timeout_graceful_shutdown_s, streams_s=STREAMS_AT_RELOAD_S
            )
        follow = not worker.cfg.reuse_port and _is_served_after_us(worker.ppid, worker.sockets)
        return order(settings, grace_s=settings.timeout_drain_idle_s if follow else 0.0)


def _unheard(handler: Any) -> list[int]:
    """Signals since the fork, until our handlers were there. The arbiter's ``handler`` put them in the copy
    of its queue that is in this process, where nobody reads: it would wait for us until graceful_timeout is
    over. What the arbiter had not read yet at the fork it tells every worker: hearing it twice is no harm.
    """
    found: Any = getattr(getattr(handler, "__self__", None), "SIG_QUEUE", [])
    if isinstance(found, list):  # gunicorn before 24
        return list(found)
    numbers = []
    with suppress(queue.Empty):
        while True:
            numbers.append(found.get_nowait())
    return numbers


def _is_served_after_us(arbiter: int, sockets: Sequence[Any]) -> bool:
    """Whether the arbiter has our sockets open: at a stop it closes them before it tells us. True if nobody
    can tell: the arbiter may be another user's.
    """
    if arbiter != os.getppid():
        return False
    wanted = {f"socket:[{os.fstat(_plain(one).fileno()).st_ino}]" for one in sockets}
    folder = f"/proc/{arbiter}/fd"
    try:
        descriptors = os.listdir(folder)
    except OSError:
        return True
    for fd in descriptors:
        with suppress(OSError):  # closed since
            if os.readlink(f"{folder}/{fd}") in wanted:
                return True
    return False


def _plain(sock: Any) -> socket.socket:
    """The socket in gunicorn's wrapper."""
    found: socket.socket = getattr(sock, "sock", sock)
    return found


def _bytes(size: int) -> int:
    return max(size, SMALLEST_BYTES) if size else LARGEST_BYTES


def _is_default(cfg: Any, name: str) -> bool:
    value = cfg.settings[name].get()
    if callable(value):  # a hook; the default ones are gunicorn's own
        return getattr(value, "__module__", None) == "gunicorn.config"
    return bool(value == type(cfg.settings[name])().get())


def _below_us(frame: FrameType | None) -> str:
    """The stack of what the loop runs, without how it came to that."""
    stack = traceback.extract_stack(frame)
    ours = max((depth for depth, one in enumerate(stack) if one.filename == __file__), default=-1)
    return "".join(traceback.format_list(stack[ours + 1 :] or stack)).rstrip()
