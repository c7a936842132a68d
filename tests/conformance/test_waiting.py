"""What asyncio apps wait with and are cancelled by: it all works on the task that an app is lent."""

from __future__ import annotations

import asyncio

import pytest

from tests.helpers.asgi import read_body, reply
from tests.helpers.http1 import get, until
from tests.helpers.pauses import served


def test_a_timeout_that_does_not_fire(serve, pause):
    async def handle():
        async with asyncio.timeout(10) as timeout:
            await pause()
        assert not timeout.expired()
        return await asyncio.wait_for(pause(), 10)

    assert served(serve, handle, 3)[1] == ["None"] * 3


@pytest.mark.parametrize("delay_s", [0, -1, 0.002])
def test_a_timeout_that_fires(serve, pause, delay_s):
    async def handle():
        await pause()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(delay_s):
                await asyncio.sleep(5)
        assert asyncio.current_task().cancelling() == 0
        await pause()
        return "on"

    assert served(serve, handle, 3)[1] == ["on"] * 3


def test_a_task_group(serve, pause):
    async def handle():
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(read(i)) for i in range(3)]
        return [task.result() for task in tasks]

    async def read(i):
        await pause()
        return i

    assert served(serve, handle, 3)[1] == ["[0, 1, 2]"] * 3


def test_a_task_group_with_a_failing_child(serve, pause):
    """The group cancels its parent, that is, our task; it must be whole afterwards."""

    async def fail():
        await pause()
        raise LookupError("mine")

    async def group_with(child):
        async with asyncio.TaskGroup() as group:
            group.create_task(child)
            await asyncio.sleep(5)

    async def handle():
        with pytest.raises(ExceptionGroup) as raised:
            await group_with(fail())
        assert isinstance(raised.value.exceptions[0], LookupError)
        assert asyncio.current_task().cancelling() == 0
        await pause()
        return "on"

    assert served(serve, handle, 3)[1] == ["on"] * 3


def test_an_app_that_cancels_itself(serve, pause):
    async def app(scope, receive, send):
        if scope["path"] == "/cancel":
            await pause()
            asyncio.current_task().cancel("mine")
            await asyncio.sleep(0)
            raise AssertionError("not cancelled")
        await reply(send)

    server = serve(app)
    with server.connect() as client:
        for _ in range(3):
            assert client.ask(get("/cancel")).status == 500
            assert client.ask(get("/")).status == 200
    for report in server.take_errors(3):
        assert isinstance(report.error, asyncio.CancelledError)


def test_an_app_that_cancels_itself_and_goes_on(serve, pause):
    async def handle():
        task = asyncio.current_task()
        await pause()
        task.cancel()
        try:
            await asyncio.sleep(1)
            raise AssertionError("not cancelled")
        except asyncio.CancelledError:
            task.uncancel()
        await pause()
        return task.cancelling()

    assert served(serve, handle, 3)[1] == ["0"] * 3


def test_an_app_that_cancels_itself_and_never_waits(serve, pause):
    """The cancellation is its own affair: the next request must not get it."""

    async def handle():
        await pause()
        asyncio.current_task().cancel()
        return "x"

    assert served(serve, handle, 3)[1] == ["x"] * 3


def test_cancelled_from_outside(serve):
    tasks = []

    async def app(scope, receive, send):
        tasks.append(asyncio.current_task())
        try:
            await asyncio.sleep(10)
        except asyncio.CancelledError:
            await reply(send, b"cancelled")

    server = serve(app)
    with server.connect() as client:
        for i in range(3):
            client.send(get())
            until(lambda i=i: len(tasks) == i + 1)
            server.call(tasks[i].cancel)
            assert client.response().body == b"cancelled"


@pytest.mark.parametrize("waiting", ["receive", "task", "event"])
def test_cancelled_in_its_first_wait_at_once(serve, waiting):
    """Before the loop has made another turn: its task has not seen what it waits for."""

    async def app(scope, receive, send):
        if scope["path"] == "/ok":
            await reply(send)
            return
        await read_body(receive)
        asyncio.get_running_loop().call_soon(asyncio.current_task().cancel)
        try:
            if waiting == "receive":
                await receive()
            elif waiting == "task":
                await asyncio.create_task(asyncio.sleep(10))
            else:
                await asyncio.Event().wait()
        except asyncio.CancelledError:
            await reply(send, b"cancelled")

    server = serve(app)
    with server.connect() as client:
        for _ in range(3):
            assert client.ask(get()).body == b"cancelled"
            client.assert_open()


def test_shield(serve, pause):
    finished = []

    async def inner():
        await asyncio.sleep(0.01)
        finished.append(1)

    async def handle():
        await pause()
        task = asyncio.ensure_future(inner())
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(task), 0.001)
        await task
        return "on"

    assert served(serve, handle, 2)[1] == ["on"] * 2
    assert finished == [1, 1]


def test_gather_and_wait(serve, pause):
    async def part(i):
        await pause()
        return i

    async def handle():
        done = await asyncio.gather(*[part(i) for i in range(3)])
        finished, _ = await asyncio.wait([asyncio.create_task(part(7))])
        return done, finished.pop().result()

    assert served(serve, handle, 2)[1] == ["([0, 1, 2], 7)"] * 2


def test_locks_queues_and_futures(serve):
    async def handle():
        lock, queue = asyncio.Lock(), asyncio.Queue()
        async with lock:
            loop = asyncio.get_running_loop()
            loop.call_soon(queue.put_nowait, 1)
            future = loop.create_future()
            loop.call_later(0.001, future.set_result, 2)
            return await queue.get(), await future

    assert served(serve, handle, 3)[1] == ["(1, 2)"] * 3


def test_an_async_generator_left_open(serve, pause):
    closed = []

    async def numbers():
        try:
            for i in range(10):
                await pause()
                yield i
        finally:
            closed.append(1)

    async def handle():
        async for number in numbers():
            return number
        raise AssertionError("no numbers")

    assert served(serve, handle, 3)[1] == ["0"] * 3
    until(lambda: len(closed) == 3)
