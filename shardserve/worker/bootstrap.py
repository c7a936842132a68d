"""From a bare process to a running worker, and from a finished one to its exit.

Rules of this file: one pass, in the order written: START → settings → logs → event loop → app →
server → exit. A step that fails tells the master which stage it was and why, and the worker ends
with 3; the master is the one that prints it. What happens while the worker runs is ``server.py``'s.

The app is imported before the loop runs, with the loop already set, so that an app which asks for
the event loop at import gets the one that will serve it.
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
from typing import Any, NoReturn, TextIO

import uvloop

from .. import _native, control
from ..asgi.importer import load_app
from ..asgi.lifespan import Lifespan
from ..config.model import Config, from_json
from ..errors import AppImportError, ControlError
from ..observe import logs
from ..observe.access import AccessLog
from ..types import ASGIApp
from .channel import Channel, close_all, shortened
from .server import EXIT_DRAINED, EXIT_FAILED, Logs, Plan, Server

# For tasks that the app left behind, as asyncio.run() cancels them.
LEFTOVER_TASKS_S = 1.0
# For threads and atexit handlers (2 s is what error trackers such as Sentry wait by default).
EXIT_S = 3.0

log = logging.getLogger("shardserve.worker")


def run(control_fd: int) -> NoReturn:
    """The whole life of a worker process."""
    _leave_signals_to_the_master()
    channel = Channel.from_fd(control_fd)
    start = _receive_start(channel)
    config, plan = _settle(channel, start)
    logs.configure(config, slot=start.slot)
    loop = uvloop.new_event_loop()
    app = _import(channel, config, loop)
    server = build(plan, config, app, channel=channel, loop=loop)
    code = loop.run_until_complete(server.run())
    if server.stopped:
        leave_at_once(code)
    _close_loop(loop)
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


def _receive_start(channel: Channel) -> control.Start:
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
    if not isinstance(message, control.Start):
        _fail(channel, "start", f"the first message was {message.type}, not START")
    return message


def _settle(channel: Channel, start: control.Start) -> tuple[Config, Plan]:
    started_at = time.monotonic()
    try:
        config = from_json(start.config)
        listeners = [_inherited(listener) for listener in start.listeners]
    except Exception as error:
        # Whatever is wrong with START (a master of another version, mostly): it is the answer.
        _fail(channel, "start", f"START cannot be obeyed: {error}")
    own_drain = control.Drain(
        grace_s=config.timeout_drain_idle_s, deadline_s=config.timeout_graceful_shutdown_s
    )
    plan = Plan(
        slot=start.slot,
        listeners=listeners,
        backlog=config.backlog,
        own_drain=own_drain,
        started_at=started_at,
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


def _import(channel: Channel, config: Config, loop: asyncio.AbstractEventLoop) -> ASGIApp:
    asyncio.set_event_loop(loop)
    try:
        app = load_app(config.app, app_dir=config.app_dir, factory=config.factory)
    except AppImportError as error:
        _fail(channel, "import", str(error))
    logs.enable()
    asyncio.set_event_loop(loop)  # again: an app that calls asyncio.run() at import unsets it
    return app


def _fail(channel: Channel, stage: str, text: str) -> NoReturn:
    channel.send(control.Failed(stage=stage, text=shortened(text)))
    leave(EXIT_FAILED)


# The app is there


def build(
    plan: Plan, config: Config, app: ASGIApp, *, channel: Channel, loop: asyncio.AbstractEventLoop
) -> Server:
    """The server of ``app``. Call it where the app was imported: it captures the context variables."""
    # Each request runs in a copy of what the app's import set; copying is O(1).
    context = None if config.reset_contextvars else contextvars.copy_context()
    access = _access_log(config, loop)
    rejects = logs.RejectReporter()

    def make_factory(state: dict[str, Any]) -> _native.ProtocolFactory:
        return _native.ProtocolFactory(
            app,
            loop=loop,
            context=context,
            state=state,
            root_path=config.root_path,
            headers=[(name.encode("latin-1"), value.encode("latin-1")) for name, value in config.headers],
            server_header=config.server_header,
            date_header=config.date_header,
            keep_alive_ms=round(config.timeout_keep_alive_s * 1000),
            on_app_error=logs.app_error_reporter(),
            on_reject=rejects,
            access=access,
        )

    return Server(
        plan,
        channel=channel,
        lifespan=Lifespan(app, config.lifespan),
        make_factory=make_factory,
        logs=Logs(access=access, rejects=rejects),
    )


def _access_log(config: Config, loop: asyncio.AbstractEventLoop) -> AccessLog | None:
    """Access lines are INFO, as in Uvicorn: --log-level warning silences them too."""
    if not config.access_log or logs.level_number(config.log_level) > logging.INFO:
        return None
    colours = logs.wants_colours(sys.stdout, config.use_colors)
    return AccessLog(schedule=loop.call_soon, colours=colours)


# The end


def _close_loop(loop: asyncio.AbstractEventLoop) -> None:
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
    log.warning("Not waiting any longer for %s.", ", ".join(busy) or "exit handlers")
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
