"""``shardserve.Server`` in a program's own process: on its loop, in its threads, beside its signals.

Everything that goes over the wire runs on uvloop's loop and on asyncio's own.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import logging
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvloop
from websockets.asyncio.client import connect

import shardserve
from shardserve.observe import names
from tests.helpers.certificates import Authority
from tests.helpers.master_process import PATIENCE_S, until

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}
Test = Coroutine[Any, Any, None]
BIG = 8 * 1024 * 1024


class App:
    """Remembers what happened to it."""

    def __init__(self) -> None:
        self.lifespan: list[str] = []
        self.arrived = asyncio.Event()
        self.go_on = asyncio.Event()
        self.cut = False

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            for _ in range(2):
                kind = (await receive())["type"]
                self.lifespan.append(kind)
                await send({"type": f"{kind}.complete"})
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.accept"})
            await send({"type": "websocket.send", "text": (await receive())["text"]})
        else:
            await self.answer(scope, receive, send)

    async def answer(self, scope: Any, receive: Any, send: Any) -> None:
        size, more = 0, True
        while more:
            message = await receive()
            size += len(message.get("body", b""))
            more = message.get("more_body", False)
        if scope["path"] == "/wait":
            self.arrived.set()
            try:
                await self.go_on.wait()
            except asyncio.CancelledError:
                self.cut = True
                raise
        told = {"path": scope["path"], "scheme": scope["scheme"], "size": size, "pid": os.getpid()}
        body = b"x" * BIG if scope["path"] == "/big" else json.dumps(told).encode()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body})


@pytest.fixture(autouse=True)
def _loggers() -> Iterator[None]:
    """A server sets up the loggers of its process, which here is the tests'."""
    loggers = [logging.getLogger(name) for name in (*names.OUR_LOGGERS, *names.THEIR_LOGGERS)]
    before = [(one, list(one.handlers), one.level, one.propagate) for one in loggers]
    yield
    names.watch(watching=False)
    for one, handlers, level, propagate in before:
        one.handlers[:], one.propagate = handlers, propagate
        one.setLevel(level)


@pytest.fixture(params=LOOPS)
def run(request: pytest.FixtureRequest) -> Callable[[Test], None]:
    """Runs a test on this kind of loop; what it leaves behind fails it."""

    async def checked(test: Test) -> None:
        await test
        left = [one for one in asyncio.all_tasks() if one is not asyncio.current_task()]
        # Spare tasks that requests borrowed are parked until their factory goes.
        assert [one for one in left if one.get_name().startswith("shardserve-")] == []

    def in_loop(test: Test) -> None:
        with asyncio.Runner(loop_factory=LOOPS[request.param]) as runner:
            runner.run(asyncio.wait_for(checked(test), 3 * PATIENCE_S))

    return in_loop


def config_of(app: Any, **keywords: Any) -> shardserve.Config:
    return shardserve.Config(app, **{"port": 0, "log_config": None, **keywords})


async def started(server: shardserve.Server, task: asyncio.Task[None]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not server.started:
            if task.done():
                task.result()
            await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def serving(app: Any, **keywords: Any) -> AsyncIterator[shardserve.Server]:
    """As tests and notebooks do it: ``serve()`` in a task, watched for ``started``, ended by should_exit."""
    server = shardserve.Server(config_of(app, **keywords))
    task = asyncio.create_task(server.serve())
    try:
        await started(server, task)
        yield server
    finally:
        server.should_exit = True
        await asyncio.wait_for(task, PATIENCE_S)


def port_of(server: shardserve.Server) -> int:
    return int(server.servers[0].sockets[0].getsockname()[1])


def client_of(server: shardserve.Server, scheme: str = "http", **how: Any) -> httpx.AsyncClient:
    url = f"{scheme}://localhost:{port_of(server)}"
    return httpx.AsyncClient(base_url=url, trust_env=False, timeout=PATIENCE_S, **how)


# The wire, on both loops


def test_requests_and_what_the_server_counts(run: Callable[[Test], None]) -> None:
    async def test() -> None:
        app = App()
        async with serving(app) as server:
            async with client_of(server) as client:
                told = (await client.post("/a", content=b"12345")).json()
                assert told == {"path": "/a", "scheme": "http", "size": 5, "pid": os.getpid()}
                assert (await client.get("/b")).status_code == 200
                assert server.server_state.total_requests == 2
                assert len(server.server_state.connections) == 1
                assert not server.server_state.tasks
            assert app.lifespan == ["lifespan.startup"]
        assert app.lifespan == ["lifespan.startup", "lifespan.shutdown"]

    run(test())


def test_large_bodies_both_ways(run: Callable[[Test], None]) -> None:
    """More than any buffer: reading and writing stop and go on."""

    async def test() -> None:
        async with serving(App()) as server, client_of(server) as client:
            assert (await client.post("/up", content=b"y" * BIG)).json()["size"] == BIG
            assert len((await client.get("/big")).content) == BIG

    run(test())


def test_a_client_that_reads_late_gets_all_of_it(run: Callable[[Test], None]) -> None:
    async def test() -> None:
        async with serving(App()) as server:
            reader, writer = await asyncio.open_connection("127.0.0.1", port_of(server), limit=1024)
            writer.write(b"GET /big HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 OK")
            await asyncio.sleep(0.2)  # the kernel's buffers are full, the rest waits in the server
            size = 0
            while piece := await reader.read(256 * 1024):
                size += len(piece)
            assert size == BIG
            writer.close()

    run(test())


def test_a_websocket(run: Callable[[Test], None]) -> None:
    async def test() -> None:
        async with (
            serving(App()) as server,
            connect(f"ws://127.0.0.1:{port_of(server)}/", proxy=None) as socket,
        ):
            await socket.send("hello")
            assert await socket.recv() == "hello"

    run(test())


def test_a_unix_socket_whose_file_goes_with_the_server(run: Callable[[Test], None], tmp_path: Path) -> None:
    path = tmp_path / "s"

    async def test() -> None:
        async with serving(App(), uds=str(path)):
            transport = httpx.AsyncHTTPTransport(uds=str(path))
            async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
                assert (await client.get("/u")).json()["path"] == "/u"
        assert not path.exists()

    run(test())


def test_tls(run: Callable[[Test], None], tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    files = authority.issue("localhost")

    async def test() -> None:
        how = {"ssl_certfile": files.cert, "ssl_keyfile": files.key}
        async with serving(App(), **how) as server:
            assert server.config.is_ssl
            trusting = authority.client_context()
            async with client_of(server, "https", verify=trusting) as client:
                assert (await client.get("/")).json()["scheme"] == "https"
                assert len((await client.get("/big")).content) == BIG

    run(test())


def test_tls_with_a_context_that_the_program_made(run: Callable[[Test], None], tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    files = authority.issue("localhost")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.cert, files.key)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    told: list[dict[str, Any]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        told.append(scope["extensions"]["tls"])
        await send({"type": "http.response.start", "status": 204})
        await send({"type": "http.response.body"})

    async def test() -> None:
        how = {"ssl_context_factory": lambda config, default: context, "lifespan": "off"}
        async with serving(app, **how) as server:
            trusting = authority.client_context()
            async with client_of(server, "https", verify=trusting) as client:
                assert (await client.get("/")).status_code == 204
            assert told[0]["tls_version"] == 0x0304

    run(test())


def test_a_wsgi_app(run: Callable[[Test], None]) -> None:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [("content-type", "text/plain")])
        return [environ["PATH_INFO"].encode()]

    async def test() -> None:
        async with serving(app) as server, client_of(server) as client:
            assert (await client.get("/wsgi")).text == "/wsgi"

    run(test())


# The end


def test_a_request_in_flight_is_finished(run: Callable[[Test], None]) -> None:
    async def test() -> None:
        app = App()
        async with serving(app) as server, client_of(server) as client:
            request = asyncio.create_task(client.get("/wait"))
            await app.arrived.wait()
            server.should_exit = True
            async with asyncio.timeout(PATIENCE_S):
                while server.servers[0].is_serving():
                    await asyncio.sleep(0.01)
            assert app.lifespan == ["lifespan.startup"]
            assert not request.done()
            app.go_on.set()
            assert (await request).json()["path"] == "/wait"

    run(test())


def test_force_exit_cuts_it(run: Callable[[Test], None]) -> None:
    async def test() -> None:
        app = App()
        async with serving(app) as server, client_of(server) as client:
            request = asyncio.create_task(client.get("/wait"))
            await app.arrived.wait()
            server.handle_exit(signal.SIGINT, None)
            assert server.should_exit
            assert not server.force_exit
            server.handle_exit(signal.SIGINT, None)
            assert server.force_exit
            with pytest.raises(httpx.TransportError):
                await request
        assert app.cut
        assert app.lifespan == ["lifespan.startup"]
        server._captured_signals.clear()

    # Signals that handle_exit() has seen are raised again, which is another test's business.
    before = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        run(test())
    finally:
        signal.signal(signal.SIGINT, before)


def test_the_deadline_cuts_it(run: Callable[[Test], None]) -> None:
    async def test() -> None:
        app = App()
        async with serving(app, timeout_graceful_shutdown=0.2) as server, client_of(server) as client:
            request = asyncio.create_task(client.get("/wait"))
            await app.arrived.wait()
            server.should_exit = True
            with pytest.raises(httpx.TransportError):
                await request
        assert app.cut
        assert app.lifespan == ["lifespan.startup", "lifespan.shutdown"]

    run(test())


def test_cancelling_serve_still_shuts_the_app_down(run: Callable[[Test], None]) -> None:
    async def test() -> None:
        app = App()
        server = shardserve.Server(config_of(app))
        task = asyncio.create_task(server.serve())
        await started(server, task)
        port = port_of(server)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert app.lifespan == ["lifespan.startup", "lifespan.shutdown"]
        with pytest.raises(OSError):
            await asyncio.open_connection("127.0.0.1", port)

    run(test())


def test_cancelling_serve_while_the_app_starts(run: Callable[[Test], None]) -> None:
    async def test() -> None:
        began, ended = asyncio.Event(), asyncio.Event()

        async def app(scope: Any, receive: Any, send: Any) -> None:
            began.set()
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()

        task = asyncio.create_task(shardserve.Server(config_of(app)).serve())
        await began.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert ended.is_set()

    run(test())


def test_should_exit_does_not_wait_for_an_app_that_starts(run: Callable[[Test], None]) -> None:
    async def test() -> None:
        began = asyncio.Event()

        async def app(scope: Any, receive: Any, send: Any) -> None:
            began.set()
            await asyncio.Event().wait()

        server = shardserve.Server(config_of(app))
        task = asyncio.create_task(server.serve())
        await began.wait()
        server.should_exit = True
        await asyncio.wait_for(task, PATIENCE_S)
        assert not server.started

    run(test())


def test_a_number_of_requests_ends_it(run: Callable[[Test], None]) -> None:
    async def test() -> None:
        server = shardserve.Server(config_of(App(), limit_max_requests=3))
        task = asyncio.create_task(server.serve())
        await started(server, task)
        async with client_of(server) as client:
            for _ in range(3):
                assert (await client.get("/")).status_code == 200
        await asyncio.wait_for(task, PATIENCE_S)

    run(test())


# It cannot start


async def startup_code(server: shardserve.Server) -> Any:
    """What ``serve()`` exits with. The exit must not leave the task, or it would end the loop."""
    try:
        await server.serve()
    except SystemExit as error:
        return error.code
    raise AssertionError("it started")


def test_an_app_that_refuses_exits_with_3(
    run: Callable[[Test], None], caplog: pytest.LogCaptureFixture
) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no database"})

    async def test() -> None:
        server = shardserve.Server(config_of(app))
        assert await asyncio.create_task(startup_code(server)) == 3
        assert not server.started
        assert server.servers == []

    run(test())
    assert "no database" in caplog.text


def test_an_address_in_use_exits_with_1(
    run: Callable[[Test], None], caplog: pytest.LogCaptureFixture
) -> None:
    async def test() -> None:
        with socket.create_server(("127.0.0.1", 0)) as other:
            port = other.getsockname()[1]
            app = App()
            code = await asyncio.create_task(startup_code(shardserve.Server(config_of(app, port=port))))
            assert code == 1
            assert app.lifespan == []
            assert str(port) in caplog.text

    run(test())


def test_a_setting_that_cannot_be_served_exits_with_2_and_leaves_nothing_open(
    run: Callable[[Test], None], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def test() -> None:
        before = set(os.listdir("/proc/self/fd"))
        missing = tmp_path / "not-there"
        server = shardserve.Server(config_of(App(), static=[("/files", str(missing))]))
        assert await asyncio.create_task(startup_code(server)) == 2
        assert str(missing) in caplog.text
        # The descriptor of the directory that is being listed has a number of its own.
        assert len(set(os.listdir("/proc/self/fd")) - before) <= 1

    run(test())


# Whose process it is


def test_what_is_the_programs_is_left_alone(run: Callable[[Test], None]) -> None:
    async def test() -> None:
        loop = asyncio.get_running_loop()
        frozen = gc.get_freeze_count()
        handlers = [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)]
        async with serving(App()) as server, client_of(server) as client:
            assert (await client.get("/")).status_code == 200
            assert loop.get_exception_handler() is None
            assert gc.get_freeze_count() == frozen
            assert signal.getsignal(signal.SIGTERM) == server.handle_exit
        assert [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)] == handlers

    run(test())


def test_a_server_may_leave_signals_alone(run: Callable[[Test], None]) -> None:
    class Quiet(shardserve.Server):
        def install_signal_handlers(self) -> None:
            pass

    async def test() -> None:
        before = signal.getsignal(signal.SIGTERM)
        server = Quiet(config_of(App()))
        task = asyncio.create_task(server.serve())
        await started(server, task)
        assert signal.getsignal(signal.SIGTERM) is before
        server.should_exit = True
        await asyncio.wait_for(task, PATIENCE_S)

    run(test())


def test_two_servers_on_one_loop(run: Callable[[Test], None]) -> None:
    async def test() -> None:
        async with serving(App(), root_path="/one") as one, serving(App()) as other:
            assert port_of(one) != port_of(other)
            for server in (one, other):
                async with client_of(server) as client:
                    assert (await client.get("/")).status_code == 200
            assert one.server_state.total_requests == other.server_state.total_requests == 1

    run(test())


def test_sockets_of_the_program(run: Callable[[Test], None]) -> None:
    """Bound, or listening already; they are closed at the end, as by Uvicorn."""

    async def test() -> None:
        bound = socket.socket()
        bound.bind(("127.0.0.1", 0))
        config = config_of(App())
        sockets = [bound, config.bind_socket()]
        ports = [one.getsockname()[1] for one in sockets]
        server = shardserve.Server(config)
        task = asyncio.create_task(server.serve(sockets=sockets))
        await started(server, task)
        assert [one.sockets[0].getsockname()[1] for one in server.servers] == ports
        for port in ports:
            async with httpx.AsyncClient(trust_env=False) as client:
                assert (await client.get(f"http://127.0.0.1:{port}/")).status_code == 200
        server.should_exit = True
        await asyncio.wait_for(task, PATIENCE_S)
        assert [one.fileno() for one in sockets] == [-1, -1]
        assert not server.servers[0].is_serving()

    run(test())


def test_a_closed_listener_accepts_no_more(run: Callable[[Test], None]) -> None:
    async def test() -> None:
        async with serving(App()) as server, client_of(server) as client:
            port = port_of(server)
            assert (await client.get("/")).status_code == 200
            server.servers[0].close()
            await server.servers[0].wait_closed()
            assert server.servers[0].sockets == ()

            async def refused() -> None:
                while True:
                    try:
                        _, writer = await asyncio.open_connection("127.0.0.1", port)
                    except OSError:
                        return
                    writer.close()

            await asyncio.wait_for(refused(), PATIENCE_S)
            assert (await client.get("/")).status_code == 200  # over the connection that it has

    run(test())


def test_its_steps_by_hand_and_once_more(run: Callable[[Test], None]) -> None:
    """As a test server restarts itself: shutdown(), then startup() of the same object."""

    async def test() -> None:
        app = App()
        config = config_of(app)
        config.load()
        server = shardserve.Server(config)
        server.lifespan = config.lifespan_class(config)
        for _ in range(2):
            await server.startup()
            async with client_of(server) as client:
                assert (await client.get("/")).status_code == 200
            await server.shutdown()
        assert app.lifespan == ["lifespan.startup", "lifespan.shutdown"] * 2

    run(test())


def test_the_callback_is_called(run: Callable[[Test], None]) -> None:
    async def test() -> None:
        called = asyncio.Event()

        async def notify() -> None:
            called.set()

        async with serving(App(), callback_notify=notify, timeout_notify=0):
            await asyncio.wait_for(called.wait(), PATIENCE_S)

    run(test())


@pytest.mark.parametrize("loop", LOOPS)
def test_in_a_thread(loop: str) -> None:
    """The fixture that half of all test suites have."""
    app = App()
    server = shardserve.Server(config_of(app, loop=loop))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        until(lambda: server.started, "the server")
        url = f"http://127.0.0.1:{port_of(server)}/t"
        assert httpx.get(url, trust_env=False).json()["path"] == "/t"
    finally:
        server.should_exit = True
        thread.join(PATIENCE_S)
    assert not thread.is_alive()
    assert app.lifespan == ["lifespan.startup", "lifespan.shutdown"]


async def test_in_a_test_of_pytest_asyncio() -> None:
    async with serving(App()) as server, client_of(server) as client:
        assert (await client.get("/")).status_code == 200


# Signals, in a process of its own

PROGRAM = """
import asyncio, sys
import {server} as server_package

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        await send({{"type": "lifespan.startup.complete"}})
        await receive()
        print("shut down", flush=True)
        await send({{"type": "lifespan.shutdown.complete"}})

async def main():
    server = server_package.Server(server_package.Config(app, port=0, log_level="warning"))
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    print("up", flush=True)
    try:
        await serving
    finally:
        print("behind serve()", flush=True)

asyncio.run(main())
print("behind run()", flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_and_then_does_what_it_would_have_done(number: signal.Signals) -> None:
    """Side by side with Uvicorn: what the program says, and how it ends."""
    ends = {}
    for server in ("uvicorn", "shardserve"):
        program = subprocess.Popen(
            [sys.executable, "-c", PROGRAM.format(server=server)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert program.stdout is not None
        try:
            assert program.stdout.readline() == "up\n"
            program.send_signal(number)
            said = program.stdout.read()
            ends[server] = (said, program.wait(PATIENCE_S))
        finally:
            program.kill()
            program.wait()
            program.stdout.close()
    assert ends["shardserve"] == ends["uvicorn"]
    assert ends["shardserve"][0].startswith("shut down\n")
    assert ends["shardserve"][1] == -number
