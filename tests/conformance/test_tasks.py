"""The task and the context that an app runs in: nobody may see that the task was not made for it."""

from __future__ import annotations

import asyncio
import contextvars
import weakref

import pytest

from tests.helpers.asgi import body, reply, start
from tests.helpers.http1 import get, until
from tests.helpers.pauses import at_once, one_turn, served

VAR: contextvars.ContextVar[str] = contextvars.ContextVar("VAR")


def test_the_current_task_is_one_and_the_same(serve, pause):
    async def handle():
        task = asyncio.current_task()
        assert isinstance(task, asyncio.Task)
        assert not task.done()
        assert task.get_loop() is asyncio.get_running_loop()
        assert task in asyncio.all_tasks()
        await pause()
        assert asyncio.current_task() is task
        await pause()
        return asyncio.current_task() is task

    assert served(serve, handle, 3)[1] == ["True"] * 3


def test_concurrent_requests_have_tasks_of_their_own(serve):
    tasks = []
    all_here = asyncio.Event()

    async def app(scope, receive, send):
        tasks.append(asyncio.current_task())
        if len(tasks) == 20:
            all_here.set()
        await all_here.wait()
        assert asyncio.current_task() in tasks
        await reply(send)

    server = serve(app)
    clients = [server.connect() for _ in range(20)]
    for client in clients:
        client.send(get())
    for client in clients:
        assert client.response().status == 200
    assert len({id(task) for task in tasks}) == 20


def test_no_task_is_current_outside(serve, pause):
    async def handle():
        await pause()
        return "x"

    server, _ = served(serve, handle, 2)
    assert server.call(lambda: asyncio.current_task(server.loop)) is None


def test_context_variables_are_inherited_and_isolated(serve, pause):
    base = contextvars.Context()
    base.run(VAR.set, "base")
    seen = []

    async def handle():
        seen.append(VAR.get())
        VAR.set("changed")
        await pause()
        seen.append(VAR.get())

    served(serve, handle, 3, context=base)
    assert seen == ["base", "changed"] * 3
    assert base[VAR] == "base"


def test_no_context_is_an_empty_one(serve, pause):
    seen = []

    async def handle():
        seen.append((VAR.get("none"), len(contextvars.copy_context())))
        VAR.set("mine")
        await pause()
        seen.append(VAR.get())

    served(serve, handle, 2, context=None)
    assert seen == [("none", 0), "mine"] * 2


def test_concurrent_contexts(serve):
    async def app(scope, receive, send):
        VAR.set(scope["path"])
        for _ in range(5):
            await asyncio.sleep(0.001)
            assert VAR.get() == scope["path"]
        assert await asyncio.create_task(inner()) == scope["path"]
        await reply(send, VAR.get().encode())

    async def inner():
        await asyncio.sleep(0)
        return VAR.get()

    server = serve(app)
    clients = [server.connect() for _ in range(10)]
    for i, client in enumerate(clients):
        client.send(get(b"/%d" % i))
    for i, client in enumerate(clients):
        assert client.response().body == b"/%d" % i


def test_a_variable_reset_by_its_token(serve, pause):
    """Token.reset works only in the very context that made the token."""

    async def handle():
        token = VAR.set("x")
        await pause()
        VAR.reset(token)
        return VAR.get("gone")

    assert served(serve, handle, 2)[1] == ["gone"] * 2


def test_done_callbacks_are_called(serve, pause):
    called = []

    async def handle():
        await pause()
        asyncio.current_task().add_done_callback(called.append)
        await pause()
        return "x"

    served(serve, handle, 3)
    until(lambda: len(called) == 3)
    assert all(task.done() and not task.cancelled() for task in called)
    assert len(set(called)) == 3


def test_a_kept_task_is_done_after_its_request(serve, pause):
    """Whoever kept current_task() sees it end, and never sees it run another request."""
    tasks = []

    async def handle():
        tasks.append(asyncio.current_task())
        await pause()
        return "x"

    served(serve, handle, 5)
    assert len({id(task) for task in tasks}) == 5
    until(lambda: all(task.done() for task in tasks))


def test_another_task_can_await_the_requests_task(serve, pause):
    ended = []

    async def watch(task):
        await task
        ended.append(task)

    watchers = set()

    async def handle():
        watchers.add(asyncio.create_task(watch(asyncio.current_task())))
        await pause()
        return "x"

    served(serve, handle, 3)
    until(lambda: len(ended) == 3)


def test_a_name_does_not_leak(serve, pause):
    async def handle():
        task = asyncio.current_task()
        name = task.get_name()
        task.set_name("mine")
        await pause()
        return name

    assert "mine" not in served(serve, handle, 5)[1]


@pytest.mark.parametrize("weak", [True, False])
def test_what_is_keyed_by_the_task_does_not_leak(serve, pause, weak):
    """As SQLAlchemy's async_scoped_session(scopefunc=current_task) and many caches do."""
    sessions = weakref.WeakKeyDictionary() if weak else {}

    async def handle():
        task = asyncio.current_task()
        fresh = task not in sessions
        sessions[task] = "mine"
        await pause()
        assert sessions[asyncio.current_task()] == "mine"
        return fresh

    assert served(serve, handle, 5)[1] == ["True"] * 5


def test_a_weak_reference_with_a_callback(serve, pause):
    """It is called when the request's task is gone: per-task resources are freed that way."""
    freed = []
    refs = []

    async def handle():
        refs.append(weakref.ref(asyncio.current_task(), freed.append))
        await pause()
        return "x"

    served(serve, handle, 3)
    until(lambda: len(freed) == 3)


def test_work_after_the_response(serve):
    """The response is there before; the next request on the connection is not kept waiting."""
    go = asyncio.Event()
    after = []

    async def app(scope, receive, send):
        await reply(send, scope["path"].encode())
        if scope["path"] == "/1":
            await go.wait()
            after.append(asyncio.current_task())

    server = serve(app)
    with server.connect() as client:
        assert client.ask(get("/1")).body == b"/1"
        for _ in range(3):
            assert client.ask(get("/2")).body == b"/2"
        assert server.factory.in_flight == 1
        server.call(go.set)
        until(lambda: after and server.factory.in_flight == 0)
        assert client.ask(get("/3")).body == b"/3"


def test_a_thousand_requests_reuse_tasks(serve, pause):
    """Neither tasks nor anything else grows; at the end nothing is left (the fixture looks)."""

    async def handle():
        await pause()
        return "x"

    async def app(scope, receive, send):
        await reply(send, str(await handle()).encode())

    server = serve(app)
    with server.connect() as client:
        for i in range(1000 if pause in (at_once, one_turn) else 200):
            client.send(get())
            assert b"200 OK" in client.receive()
            if i % 50 == 49:
                assert server.tasks() <= 4
    until(lambda: server.factory.in_flight == 0)


def test_many_at_once_then_few_tasks(serve):
    async def app(scope, receive, send):
        await asyncio.sleep(0.01)
        await start(send)
        await body(send)

    server = serve(app)
    clients = [server.connect() for _ in range(300)]
    for _ in range(2):
        for client in clients:
            client.send(get())
        for client in clients:
            assert client.response().status == 200
    until(lambda: server.tasks() <= 260)
