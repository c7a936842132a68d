"""Starlette and anyio on top: the ways real apps use tasks, threads, cancel scopes and background work."""

from __future__ import annotations

import asyncio
import threading

import anyio
import anyio.to_thread
import pytest
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from tests.helpers.asgi import reply
from tests.helpers.http1 import chunked, get, post, until


def starlette(routes, middleware=()):
    return Starlette(
        routes=[Route(path, endpoint, methods=["GET", "POST"]) for path, endpoint in routes.items()],
        middleware=list(middleware),
    )


def test_threads(serve):
    async def app(scope, receive, send):
        name = await anyio.to_thread.run_sync(lambda: threading.current_thread().name)
        await reply(send, name.encode())

    with serve(app).connect() as client:
        for _ in range(20):
            assert b"orker" in client.ask(get()).body


def test_thread_endpoints(serve):
    def endpoint(request: Request) -> Response:
        return PlainTextResponse(request.url.path)

    server = serve(starlette({"/{name}": endpoint}))
    clients = [server.connect() for _ in range(20)]
    for i, client in enumerate(clients):
        client.send(get(b"/%d" % i), get(b"/next"))
    for i, client in enumerate(clients):
        assert client.response().body == b"/%d" % i
        assert client.response().body == b"/next"


@pytest.mark.parametrize("suspend", [False, True])
def test_cancel_scopes(serve, suspend):
    async def app(scope, receive, send):
        if suspend:
            await asyncio.sleep(0)
        with pytest.raises(TimeoutError):
            with anyio.fail_after(0.002):
                await anyio.sleep(5)
        with anyio.move_on_after(0) as moved:
            await anyio.sleep(5)
        assert moved.cancelled_caught
        with anyio.CancelScope() as outer:
            outer.cancel()
            await anyio.sleep(5)
        with anyio.fail_after(5):
            if suspend:
                await anyio.sleep(0)
        await reply(send)

    with serve(app).connect() as client:
        for _ in range(5):
            assert client.ask(get()).status == 200


def test_anyio_task_groups(serve):
    async def app(scope, receive, send):
        seen = []

        async def work(i):
            await anyio.sleep(0)
            seen.append(i)

        async with anyio.create_task_group() as group:
            for i in range(3):
                group.start_soon(work, i)
        with pytest.raises(ExceptionGroup):
            await failing_group()
        await reply(send, str(sorted(seen)).encode())

    async def failing_group():
        async with anyio.create_task_group() as group:
            group.start_soon(fail)
            await anyio.sleep(5)

    async def fail():
        raise LookupError("mine")

    with serve(app).connect() as client:
        for _ in range(3):
            assert client.ask(get()).body == b"[0, 1, 2]"


class Stamp(BaseHTTPMiddleware):
    async def dispatch(self, request, call_next):
        response = await call_next(request)
        response.headers["x-stamp"] = request.url.path
        return response


async def json_echo(request: Request) -> Response:
    return JSONResponse({"got": (await request.body()).decode(), "path": request.url.path})


@pytest.mark.parametrize("layers", [1, 3])
def test_base_http_middleware(serve, layers):
    app = starlette({"/{name}": json_echo}, [Middleware(Stamp)] * layers)
    with serve(app).connect() as client:
        for make in (post, chunked):
            response = client.ask(make(b"hello", target=b"/a"))
            assert response.status == 200
            assert response.one(b"x-stamp") == b"/a" if layers == 1 else response.all(b"x-stamp")
            assert response.body == b'{"got":"hello","path":"/a"}'
        client.send(get("/1"), get("/2"), get("/3"))
        assert [r.status for r in client.responses(3)] == [200] * 3


@pytest.mark.parametrize("middleware", [[], [Middleware(Stamp)]], ids=["plain", "BaseHTTPMiddleware"])
@pytest.mark.parametrize("streaming", [False, True])
def test_background_tasks(serve, middleware, streaming):
    """The response arrives before they end, and the connection serves others meanwhile."""
    go = asyncio.Event()
    ended = []

    async def background():
        await go.wait()
        ended.append(1)

    async def endpoint(request: Request) -> Response:
        task = BackgroundTask(background)
        if streaming:
            return StreamingResponse(pieces(), background=task)
        return PlainTextResponse("done", background=task)

    async def pieces():
        yield b"do"
        await asyncio.sleep(0)
        yield b"ne"

    server = serve(starlette({"/bg": endpoint, "/{name}": json_echo}, middleware))
    with server.connect() as client:
        assert client.ask(get("/bg")).body == b"done"
        for _ in range(3):
            assert client.ask(get("/next")).status == 200
        assert ended == []
        server.call(go.set)
        until(lambda: ended)


def test_a_background_task_in_a_thread_that_fails(serve):
    def background():
        raise LookupError("mine")

    async def endpoint(request: Request) -> Response:
        return PlainTextResponse("done", background=BackgroundTask(background))

    server = serve(starlette({"/": endpoint}))
    with server.connect() as client:
        assert client.ask(get()).body == b"done"
        report = server.take_error()
        assert isinstance(report.error, LookupError)
        assert report.outcome == "response already sent"
        assert client.ask(get()).body == b"done"
    server.take_error()


@pytest.mark.parametrize("middleware", [[], [Middleware(Stamp)]], ids=["plain", "BaseHTTPMiddleware"])
def test_a_streaming_response_stops_when_the_client_goes(serve, middleware):
    ended = []

    async def pieces():
        try:
            while True:
                yield b"x" * 1000
                await asyncio.sleep(0.001)
        finally:
            ended.append(1)

    async def endpoint(request: Request) -> Response:
        return StreamingResponse(pieces())

    server = serve(starlette({"/": endpoint}, middleware))
    client = server.connect()
    client.send(get())
    client.read_until(b"xxx")
    client.reset()
    until(lambda: server.factory.in_flight == 0)
    server.errors.clear()  # the traceback holds the generator
    until(lambda: ended)


def test_request_stream_and_disconnect(serve):
    seen = []

    async def endpoint(request: Request) -> Response:
        total = 0
        async for piece in request.stream():
            total += len(piece)
        seen.append(await request.is_disconnected())
        return PlainTextResponse(str(total))

    server = serve(starlette({"/": endpoint}))
    with server.connect() as client:
        for _ in range(3):
            assert client.ask(post(b"x" * 300_000)).body == b"300000"
            assert client.ask(chunked(b"x" * 1000, b"y" * 1000)).body == b"2000"
    assert seen == [False] * 6


def test_errors_of_the_framework(serve):
    async def fails(request: Request) -> Response:
        raise LookupError("mine")

    async def refuses(request: Request) -> Response:
        raise HTTPException(418, "no coffee")

    server = serve(starlette({"/fails": fails, "/refuses": refuses}, [Middleware(Stamp)]))
    with server.connect() as client:
        assert client.ask(get("/refuses")).status == 418
        response = client.ask(get("/fails"))
        assert (response.status, response.body) == (500, b"Internal Server Error")
        assert client.ask(get("/nowhere")).status == 404
        assert client.ask(get("/refuses", method=b"HEAD"), "HEAD").status == 418
    report = server.take_error()  # Starlette answers, then raises on
    assert isinstance(report.error, LookupError)
    assert report.outcome == "response already sent"


def test_gzip_and_root_path(serve):
    async def endpoint(request: Request) -> Response:
        return PlainTextResponse(str(request.url_for("inner")) * 100)

    routes = [Route("/inner", endpoint, name="inner")]
    app = Starlette(routes=routes, middleware=[Middleware(GZipMiddleware)])
    server = serve(app, root_path="/api")
    with server.connect() as client:
        for _ in range(2):
            response = client.ask(get("/inner", b"Accept-Encoding: gzip"))
            assert response.status == 200
            assert response.one(b"content-encoding") == b"gzip"
            assert response.one(b"content-length") == b"%d" % len(response.body)


@pytest.mark.parametrize("middleware", [[], [Middleware(GZipMiddleware)]])
def test_an_event_stream_that_asks_for_its_client_is_ended(serve, middleware):
    """request.is_disconnected(), asked between two events."""

    async def endpoint(request: Request) -> Response:
        async def events():
            while not await request.is_disconnected():
                yield "data: tick\n\n"
                await asyncio.sleep(0.001)
            yield "data: bye\n\n"

        return StreamingResponse(events(), media_type="text/event-stream")

    server = serve(starlette({"/": endpoint}, middleware))
    with server.connect() as client:
        client.send(get())
        client.buffered = client.read_until(b"tick")
        assert server.call(server.factory.end_streams) <= 1
        assert client.response().body.endswith(b"data: tick\n\ndata: bye\n\n")
        assert client.ask(get()).body == b"data: tick\n\ndata: bye\n\n"


def test_a_view_is_not_cancelled_by_the_end_of_the_streams(serve):
    """BaseHTTPMiddleware listens for a disconnect while the view runs, and cancels it when one comes."""
    go = asyncio.Event()

    async def endpoint(request: Request) -> Response:
        await go.wait()
        return JSONResponse({"body": (await request.body()).decode()})

    class Passing(BaseHTTPMiddleware):
        async def dispatch(self, request, call_next):
            return await call_next(request)

    server = serve(starlette({"/": endpoint}, [Middleware(Passing)]))
    with server.connect() as client:
        client.send(post(b"kept"))
        until(lambda: server.factory.in_flight == 1)
        assert server.call(server.factory.end_streams) == 0
        server.call(go.set)
        assert client.response().body == b'{"body":"kept"}'
        assert client.ask(post(b"next")).body == b'{"body":"next"}'
