"""From a bare process to a running worker, and from a finished one to its exit.

Rules of this file: one pass, in the order written: START → settings → logs → event loop → app →
server → exit. A step that fails tells the master which stage it was and why, and the process ends
with 3; the master is the one that prints it. What happens while the worker runs is ``server.py``'s.

The app is imported before the loop runs, with the loop already set, so that an app which asks for
the event loop at import gets the one that will serve it.

With --preload the first message is PRELOAD, and the process a template: settings → logs → app →
forks (``template.py``). Each of these goes through the same pass as after START, but for the app,
which it has. An app that asks for the event loop at import gets asyncio's error there, since there
can be no loop before a fork.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import os
import signal
import socket
import sys
import threading
import time
from dataclasses import dataclass, replace
from typing import Any, NoReturn, TextIO

import uvloop

from .. import _native, control
from ..asgi import static
from ..asgi.forwarded import ProxyHeaders
from ..asgi.importer import load_app
from ..asgi.interface import adapt, http_only
from ..asgi.lifespan import Lifespan
from ..asgi.trace import traced
from ..asgi.trust import Trust
from ..config import envfile, http2
from ..config.model import Config, from_json
from ..errors import AppImportError, ConfigError, ControlError
from ..net import tls
from ..observe import access_sink, logs, uncaught
from ..stats import Page
from ..types import ASGIApp
from . import template
from .access_log import access_log
from .admission import Admission
from .channel import Channel, close_all, shortened
from .figures import counted, native_figures
from .heartbeat import watch_for_dumps
from .limits import request_limits
from .opening import opening_for
from .orphan import end_after_the_master
from .server import EXIT_DRAINED, EXIT_FAILED, Logs, Plan, Server

# For tasks that the app left behind, as asyncio.run() cancels them.
LEFTOVER_TASKS_S = 1.0
# For threads and atexit handlers (2 s is what error trackers such as Sentry wait by default).
EXIT_S = 3.0
# From the deadline of a drain to the end of a worker that does not drain and has no master to kill it: more
# than the app's lifespan shutdown (5 s) and exit handlers (3 s) take.
ORPHAN_S = 10.0
# What asyncio says to an app that wants an event loop at import, and what we say to people then.
NO_LOOP = "no current event loop"
NO_LOOP_HINT = (
    "\nWith --preload there is no event loop at import, because none would survive the fork. Make what needs "
    "one in the lifespan startup."
)

log = logging.getLogger("shardserve.worker")


@dataclass(frozen=True, slots=True)
class Beginning:
    """What a worker begins with. The app and an outgrown page are there if a template forked it."""

    channel: Channel
    start: control.Start
    app: ASGIApp | None = None
    outgrown: Page | None = None


def run(control_fd: int) -> NoReturn:
    """The whole life of a worker process; or of a template, and from their fork on of its workers."""
    _leave_signals_to_the_master()
    beginning = _begin(Channel.from_fd(control_fd))
    channel, start, app = beginning.channel, beginning.start, beginning.app
    config, plan = _settle(channel, start)
    _watch_for_dumps(plan.page, beginning.outgrown)
    end_after_the_master(channel.fileno(), config.timeout_graceful_shutdown_s + ORPHAN_S)
    loop = uvloop.new_event_loop()
    asyncio.set_event_loop(loop)
    if app is None:
        _configure_logs(channel, config, slot=start.slot)
        app = _import(channel, config)
        asyncio.set_event_loop(loop)  # again: an app that calls asyncio.run() at import unsets it
    try:
        server = build(plan, config, app, channel=channel, loop=loop)
    except ConfigError as error:  # a directory of --static is not there, or HTTP/2
        _fail(channel, "start", str(error))
    code = loop.run_until_complete(server.run())
    if server.stopped:
        leave_at_once(code)
    close_loop(loop)
    leave(code)


# Before the app


def _leave_signals_to_the_master() -> None:
    """A Ctrl-C or a closed terminal signals the whole foreground group; the master alone answers it.

    A handler that does nothing, rather than SIG_IGN, because processes that the app starts would
    inherit the latter. SIGTERM keeps its default, which ends the process, until there is something
    to drain.
    """
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: None)


def _begin(channel: Channel) -> Beginning:
    """START as the first message, or, for a template, PRELOAD and a fork."""
    try:
        received = channel.receive()
    except ControlError as error:
        _fail(channel, "start", str(error))
    if received is None:
        leave(EXIT_DRAINED)  # the master died before it could say anything
    close_all(received.descriptors)
    message = received.message
    if isinstance(message, control.Drain | control.Stop):
        leave(EXIT_DRAINED)
    if isinstance(message, control.Preload):
        return _preload(channel, message)
    if not isinstance(message, control.Start):
        _fail(channel, "start", f"the first message was {message.type}, not START or PRELOAD")
    return Beginning(channel, message)


def _settle(channel: Channel, start: control.Start) -> tuple[Config, Plan]:
    started_at = time.monotonic()
    try:
        config = from_json(start.config)
        listeners = [_inherited(listener) for listener in start.listeners]
        page = _page(start.page_fd)
    except Exception as error:
        # Whatever is wrong with START (a master of another version, mostly): it is the answer.
        _fail(channel, "start", f"START cannot be obeyed: {error}")
    own_drain = control.Drain(
        grace_s=config.timeout_drain_idle_s,
        deadline_s=config.timeout_graceful_shutdown_s,
        streams_s=config.timeout_drain_streams_s,
    )
    plan = Plan(
        slot=start.slot,
        listeners=listeners,
        backlog=config.backlog,
        own_drain=own_drain,
        started_at=started_at,
        page=page,
    )
    return config, plan


def _inherited(listener: control.Listener) -> socket.socket:
    try:
        sock = socket.socket(fileno=listener.fd)
    except (OSError, TypeError) as error:
        raise OSError(f"listener {listener.url}: fd {listener.fd!r} was not inherited: {error}") from None
    # For processes that the app starts, which must not keep the address busy after we are gone.
    sock.set_inheritable(False)
    return sock


def _page(fd: int | None) -> Page | None:
    if fd is None:
        return None
    os.set_inheritable(fd, False)
    return Page(fd)


def _watch_for_dumps(page: Page | None, outgrown: Page | None) -> None:
    """Dumps go to this page from now on; ``outgrown`` is the template's, which still got them."""
    watch_for_dumps(page)
    if page is not None and outgrown is not None:
        outgrown.close()


def _configure_logs(channel: Channel, config: Config, *, slot: int | None = None) -> None:
    try:
        logs.configure(config, slot=slot)
    except ConfigError as error:  # of a log config that the master could load
        _fail(channel, "start", str(error))


def _import(channel: Channel, config: Config, *, preloading: bool = False) -> ASGIApp:
    uncaught.install()
    try:
        envfile.apply(config.env_file, os.environ)
        app = load_app(config.app, app_dir=config.app_dir, factory=config.factory, interface=config.interface)
    except (AppImportError, ConfigError) as error:
        text = str(error)
        _fail(channel, "import", text + (NO_LOOP_HINT if preloading and NO_LOOP in text else ""))
    logs.enable()
    return adapt(
        app,
        config.interface,
        threads=config.wsgi_threads,
        underscores=config.underscore_headers == "allow",
    )


def _fail(channel: Channel, stage: str, text: str) -> NoReturn:
    channel.send(control.Failed(stage=stage, text=shortened(text)))
    leave(EXIT_FAILED)


# The template


def _preload(channel: Channel, preload: control.Preload) -> Beginning:
    """The life of a template. This returns in the workers that it forks."""
    started_at, master = time.monotonic(), os.getppid()
    try:
        config = from_json(preload.config)
        page = _page(preload.page_fd)
    except Exception as error:
        _fail(channel, "start", f"PRELOAD cannot be obeyed: {error}")
    watch_for_dumps(page)
    _configure_logs(channel, config)
    asyncio.set_event_loop(None)  # or asyncio makes one for whoever asks (until Python 3.14)
    app = _import(channel, config, preloading=True)
    template.warn_of_threads()
    template.freeze()
    took_ms = round((time.monotonic() - started_at) * 1000)
    channel.send(control.Ready(pid=os.getpid(), startup_ms=took_ms))
    birth = template.serve(channel, master=master)
    if birth is None:
        # At once: exit handlers of the app would tidy up what its workers still use.
        leave_at_once(EXIT_DRAINED)
    logs.become(birth.start.slot)
    return Beginning(birth.channel, birth.start, app=app, outgrown=page)


# The app is there


def build(
    plan: Plan,
    config: Config,
    app: ASGIApp,
    *,
    channel: Channel,
    loop: asyncio.AbstractEventLoop,
    certificates: tls.Certificates | None = None,
) -> Server:
    """The server of ``app``. Call it where the app was imported: it captures the context variables.
    ``certificates``: in the place of those that ``config`` names. Raises ConfigError for a directory of
    ``--static`` that is not there, and for HTTP/2 in a build without it.
    """
    http2.require(config, _native.nghttp2_version)
    if http_only(app):
        config = replace(config, lifespan="off", ws="none")
    # Each request runs in a copy of what the app's import set; copying is O(1).
    context = None if config.reset_contextvars else contextvars.copy_context()
    app = traced(app) if logs.traces() else app
    access = access_log(config, loop)
    rejects = logs.RejectReporter()
    on_reject = counted(plan.page, rejects)
    given = {name.lower() for name, _ in config.headers}  # Uvicorn: --header Server:x is in the place of ours
    trust = Trust(config.forwarded_allow_ips)
    proxy = ProxyHeaders(trust, config.forwarded_fields.split(",")) if config.proxy_headers else None
    static_routes = static.routes(config)

    def make_factory(state: dict[str, Any], admission: Admission) -> _native.ProtocolFactory:
        return _native.ProtocolFactory(
            app,
            loop=loop,
            context=context,
            state=state,
            root_path=config.root_path,
            headers=[(name.encode("latin-1"), value.encode("latin-1")) for name, value in config.headers],
            server_header=config.server_header and "server" not in given,
            date_header=config.date_header and "date" not in given,
            on_app_error=logs.app_error_reporter(),
            on_reject=on_reject,
            access=access_sink.settled(access),
            max_fd=admission.max_fd,
            on_crowded=admission.on_crowded,
            proxy=proxy,
            static=static_routes,
            on_debug=logs.debug_info if logs.debugs() else None,
            tls_info=tls.info if certificates is not None or tls.is_on(config) else None,
            request_id_field=config.request_id_header.encode() if config.request_id_header else None,
            make_traceparent=config.traceparent == "make",
            **native_figures(plan.page),
            **request_limits(config),
        )

    return Server(
        plan,
        channel=channel,
        lifespan=Lifespan(app, config.lifespan),
        make_factory=make_factory,
        logs=Logs(access=access, rejects=rejects),
        make_opening=lambda factory: opening_for(config, factory, on_reject, certificates),
    )


# The end


def close_loop(loop: asyncio.AbstractEventLoop) -> None:
    """What asyncio.run() does at its end, but within a time limit."""
    leftover = asyncio.all_tasks(loop)
    for task in leftover:
        task.cancel()
    if leftover:
        loop.run_until_complete(asyncio.wait(leftover, timeout=LEFTOVER_TASKS_S))
    generators = loop.create_task(loop.shutdown_asyncgens())
    loop.run_until_complete(asyncio.wait({generators}, timeout=LEFTOVER_TASKS_S))


def leave(code: int) -> NoReturn:
    """End the process the ordinary way, so that atexit handlers run, but end it.

    The interpreter waits for every thread that is not a daemon, and the threads of executors are
    not: one call that never returns would keep a worker, its memory and its core for good, after
    it said DRAINED. So the ordinary way has ``EXIT_S`` seconds.
    """
    threading.Thread(target=_leave_anyway, args=(code,), name="shardserve-exit", daemon=True).start()
    _flush_streams()
    sys.exit(code)


def _leave_anyway(code: int) -> None:
    time.sleep(EXIT_S)
    busy = [
        one.name for one in threading.enumerate() if not one.daemon and one is not threading.main_thread()
    ]
    log.warning("Not waiting any longer for %s.", logs.printable(", ".join(busy)) or "exit handlers")
    leave_at_once(code)


def leave_at_once(code: int) -> NoReturn:
    """End the process now. ``os._exit`` flushes nothing, so what people should still read goes first."""
    _flush_streams()
    os._exit(code)


def _flush_streams() -> None:
    logs.flush()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):
            # Nobody reads it any more. Python would try again at its end, and make the exit code 120.
            _discard(stream)


def _discard(stream: TextIO) -> None:
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    except (OSError, ValueError, AttributeError):
        return
