"""A WSGI app behind the adapter: bodies that come, slow clients, clients that go, and threads."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import io
import threading

import pytest

from shardserve.asgi.wsgi import Wsgi
from tests.helpers.master_process import PATIENCE_S
from tests.helpers.wsgi import (
    BODY_OVER,
    GONE,
    PLAIN,
    Blocks,
    Client,
    answering,
    call,
    parts_of,
    scope_of,
    until_true,
)

# The body


async def test_a_body_that_is_there_and_one_that_comes_in_parts():
    def app(environ, start_response):
        start_response("200 OK", PLAIN)
        return [environ["wsgi.input"].read()]

    assert (await call(app, Client(parts_of(b"whole")))).body == b"whole"
    assert (await call(app, Client(parts_of(b"in ", b"", b"three ", b"parts")))).body == b"in three parts"
    assert (await call(app, Client([BODY_OVER]))).body == b""


async def test_every_way_to_read():
    parts = [b"line 1\nli", b"ne 2\n", b"line 3\nrest"]

    def app(environ, start_response):
        body = environ["wsgi.input"]
        found = [
            body.read(3),
            body.readline(),
            body.readline(2),
            *body.readlines(),
            body.read(),
            body.readline(),
        ]
        start_response("200 OK", PLAIN)
        return [b"|".join(found)]

    expected = b"lin|e 1\n|li|ne 2\n|line 3\n|rest||"
    assert (await call(app, Client(parts_of(*parts)))).body == expected
    assert (await call(app, Client(parts_of(b"".join(parts))))).body == expected


async def test_nothing_is_read_ahead():
    """One part before the thread, then one for each that it has used up: the rest waits at the client."""
    go = threading.Semaphore(0)

    def app(environ, start_response):
        while environ["wsgi.input"].read1(65536):
            assert go.acquire(timeout=PATIENCE_S)
        start_response("200 OK", PLAIN)
        return []

    client = Client(parts_of(*[b"x" * 1000] * 5))
    running = asyncio.ensure_future(call(app, client))
    for number in range(1, 6):
        await until_true(lambda n=number: client.asked == n, f"part {number}")
        await asyncio.sleep(0.02)
        assert client.asked == number
        go.release()
    await running


async def test_a_client_that_waits_for_100_is_asked_only_when_the_app_reads():
    def refusing(environ, start_response):
        start_response("413 Too Large", PLAIN)
        return [b"no"]

    def reading(environ, start_response):
        start_response("200 OK", PLAIN)
        return [environ["wsgi.input"].read()]

    expect = [(b"expect", b"100-continue"), (b"content-length", b"4")]
    client = await call(refusing, Client(parts_of(b"body")), headers=expect)
    assert (client.status, client.asked) == (413, 0)
    assert (await call(reading, Client(parts_of(b"body")), headers=expect)).body == b"body"


async def test_a_client_that_leaves_in_its_upload_is_an_error_for_the_reader_only():
    seen = []

    def app(environ, start_response):
        try:
            environ["wsgi.input"].read()
        except OSError as error:
            seen.append(error)
            raise
        raise AssertionError("read() came back")

    client = await call(app, Client([{"type": "http.request", "body": b"a", "more_body": True}, GONE]))
    assert "went away before its whole body had come" in str(seen[0])
    assert client.got == []


async def test_a_client_that_is_gone_before_it_began_costs_no_thread():
    client = await call(lambda environ, start_response: pytest.fail("called"), Client([GONE]))
    assert client.got == []


async def test_the_body_cannot_be_read_after_the_end():
    kept = []

    def app(environ, start_response):
        kept.append(environ["wsgi.input"])
        start_response("200 OK", PLAIN)
        return [b"done"]

    await call(app, Client([{"type": "http.request", "body": b"", "more_body": True}]))
    with pytest.raises(OSError, match="the request is over"):
        kept[0].read()


# Back-pressure, and clients that go


async def test_a_slow_client_holds_the_app_up():
    made = []

    def app(environ, start_response):
        start_response("200 OK", PLAIN)
        for number in range(100):
            made.append(number)
            yield b"x" * 10_000

    client = Client()
    client.reads.clear()
    running = asyncio.ensure_future(call(app, client))
    await until_true(lambda: len(made) >= 7, "the app to come up against the limit")
    await asyncio.sleep(0.05)
    assert len(made) < 10  # 64 KiB of a million bytes
    client.reads.set()
    await running
    assert len(client.body) == 1_000_000


async def test_a_client_that_leaves_ends_the_iteration_and_closes_it():
    blocks = Blocks(iter(lambda: b"x" * 1000, None))  # without an end
    client = Client()
    running = asyncio.ensure_future(call(answering(blocks), client))
    await until_true(lambda: len(client.got) > 10, "some blocks")
    client.leave()
    await asyncio.wait_for(running, PATIENCE_S)  # no error of the app
    assert blocks.closed == 1


async def test_that_a_client_left_is_seen_while_the_app_makes_its_next_block():
    """And so is what the server says at a shutdown, by the same message: an endless stream ends."""
    asked, go = threading.Event(), threading.Event()

    def app(environ, start_response):
        start_response("200 OK", PLAIN)
        try:
            yield b"first"
            asked.set()
            assert go.wait(PATIENCE_S)
            yield b"in vain"
            raise AssertionError("it was taken")
        finally:
            ended.append(True)

    ended = []
    client = Client()
    running = asyncio.ensure_future(call(app, client))
    await until_true(asked.is_set, "the app to be busy")
    await until_true(lambda: client.asked == 2, "receive() to wait")
    client.waiting.append(GONE)  # told by the server; send() would work
    client.gone.set()
    await asyncio.sleep(0.02)
    go.set()
    await running
    assert ended == [True]
    assert client.body == b"first"


async def test_a_request_that_is_cut_lets_go_at_once_and_its_thread_at_its_next_block():
    begun, go, ended = threading.Event(), threading.Event(), threading.Event()

    def app(environ, start_response):
        start_response("200 OK", PLAIN)
        try:
            yield b"first"
            begun.set()
            assert go.wait(PATIENCE_S)
            yield b"second"
        finally:
            ended.set()

    client = Client()
    running = asyncio.ensure_future(call(app, client))
    await until_true(begun.is_set, "the app to be busy")
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert not ended.is_set()
    go.set()
    await until_true(ended.is_set, "the thread to let go")


# Threads


async def test_so_many_threads_and_no_more_and_requests_in_order():
    order, running_now, most = [], [], []
    go = threading.Semaphore(0)

    def app(environ, start_response):
        order.append(environ["PATH_INFO"])
        running_now.append(1)
        most.append(len(running_now))
        assert go.acquire(timeout=PATIENCE_S)
        running_now.pop()
        start_response("200 OK", PLAIN)
        return [threading.current_thread().name.encode()]

    wsgi = Wsgi(app, threads=3)
    clients = [Client() for _ in range(9)]
    tasks = [
        asyncio.ensure_future(wsgi(scope_of(f"/{number}"), client.receive, client.send))
        for number, client in enumerate(clients)
    ]
    await until_true(lambda: len(order) == 3, "three of them")
    await asyncio.sleep(0.05)
    assert len(order) == 3
    for _ in clients:
        go.release()
    await asyncio.gather(*tasks)
    assert [int(path[1:]) for path in order[3:]] == list(range(3, 9))
    assert max(most) == 3
    assert {client.body for client in clients} == {b"shardserve-wsgi-%d" % one for one in (1, 2, 3)}


async def test_a_thread_is_made_only_when_none_is_free():
    wsgi = Wsgi(answering([b"ok"]), threads=5)
    for _ in range(20):
        client = Client()
        await asyncio.wait_for(wsgi(scope_of(), client.receive, client.send), PATIENCE_S)
        await until_true(lambda: wsgi.threads.busy == 0, "the thread to be free")
    assert wsgi.threads.count == 1


async def test_a_request_that_is_cut_while_it_waits_for_a_thread_never_begins():
    go, called = threading.Event(), []

    def app(environ, start_response):
        called.append(environ["PATH_INFO"])
        assert go.wait(PATIENCE_S)
        start_response("200 OK", PLAIN)
        return []

    wsgi, clients = Wsgi(app, threads=1), [Client(), Client(), Client()]
    first, second, third = (
        asyncio.ensure_future(wsgi(scope_of(f"/{number}"), client.receive, client.send))
        for number, client in enumerate(clients)
    )
    await until_true(lambda: called == ["/0"], "the first")
    await asyncio.sleep(0)
    second.cancel()
    await asyncio.sleep(0)
    go.set()
    await asyncio.gather(first, third)
    assert called == ["/0", "/2"]


async def test_no_more_threads_can_be_had(monkeypatch):
    def refuse(self):
        raise RuntimeError("can't start new thread")

    wsgi, client = Wsgi(answering([b"ok"]), threads=5), Client()
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            await wsgi(scope_of(), client.receive, client.send)
    client = Client()
    await asyncio.wait_for(wsgi(scope_of(), client.receive, client.send), PATIENCE_S)  # now there is one
    assert client.body == b"ok"


async def test_a_system_that_has_no_more_threads_makes_do_with_those_there_are(monkeypatch):
    go = threading.Event()

    def app(environ, start_response):
        assert go.wait(PATIENCE_S)
        start_response("200 OK", PLAIN)
        return [b"ok"]

    def refuse(self):
        raise RuntimeError("can't start new thread")

    wsgi, clients = Wsgi(app, threads=5), [Client(), Client()]
    first = asyncio.ensure_future(wsgi(scope_of(), clients[0].receive, clients[0].send))
    await until_true(lambda: wsgi.threads.count == 1, "a thread")
    monkeypatch.setattr(threading.Thread, "start", refuse)
    second = asyncio.ensure_future(wsgi(scope_of(), clients[1].receive, clients[1].send))
    await asyncio.sleep(0.02)
    go.set()
    await asyncio.gather(first, second)
    assert [client.body for client in clients] == [b"ok", b"ok"]


number = contextvars.ContextVar("number", default=0)


async def test_context_variables_come_along_and_stay_with_their_request():
    seen = []

    def app(environ, start_response):
        seen.append(number.get())
        number.set(99)
        start_response("200 OK", PLAIN)
        yield b""
        seen.append(number.get())

    number.set(7)
    await call(app)
    await call(app)
    assert seen == [7, 99, 7, 99]
    assert number.get() == 7


async def test_errors_go_to_stderr(capsys):
    def app(environ, start_response):
        print("a word of the app", file=environ["wsgi.errors"])
        start_response("200 OK", PLAIN)
        return []

    await call(app)
    assert "a word of the app" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["lifespan", "websocket"])
async def test_it_is_for_http_only(kind):
    client = Client()
    with pytest.raises(NotImplementedError, match=kind):
        await Wsgi(answering([]), threads=1)({"type": kind}, client.receive, client.send)


async def test_a_body_is_a_file_for_those_who_look():
    def app(environ, start_response):
        body = environ["wsgi.input"]
        assert body.readable()
        assert not body.closed
        assert isinstance(body, io.BufferedIOBase)
        start_response("200 OK", PLAIN)
        return [str(len(list(body))).encode()]

    assert (await call(app, Client(parts_of(b"a\nb", b"\nc")))).body == b"3"


async def test_threads_end_with_their_app():
    """A server inside another program may end long before that does."""
    before = set(threading.enumerate())
    wsgi, clients = Wsgi(answering([b"ok"]), threads=3), [Client(), Client(), Client()]
    await asyncio.gather(*(wsgi(scope_of("/"), one.receive, one.send) for one in clients))
    mine = set(threading.enumerate()) - before
    assert mine
    del wsgi
    gc.collect()
    await until_true(lambda: not mine & set(threading.enumerate()), "the threads to end")
