"""The tasks of a WebSocket app: its own, those it makes, and who of them gets which message."""

from __future__ import annotations

import asyncio
import contextvars
import gc

import pytest

from shardserve.errors import ClientDisconnected, MessageError
from tests.helpers.asgi import reply
from tests.helpers.http1 import PATIENCE_S, until
from tests.helpers.pauses import at_once
from tests.helpers.ws import Opened, WsClient, accept, binary, close, data_of, handshake, text

VAR: contextvars.ContextVar[str] = contextvars.ContextVar("VAR")
SEND = {"type": "websocket.send", "text": "x"}


def spoken(serve, handle, messages: int = 3, **settings):
    """A WebSocket whose app awaits ``handle()`` for each message and sends its text; what came."""

    async def app(scope, receive, send):
        await accept(receive, send)
        while (await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": str(await handle())})

    with serve(app, **settings).connect() as client:
        ws = WsClient(client)
        ws.open()
        said = []
        for _ in range(messages):
            ws.send(text("?"))
            said.append(ws.read_text())
        ws.finish()
    return said


class TestTheAppsOwn:
    def test_the_current_task_is_one_and_the_same(self, serve, pause):
        tasks = set()

        async def handle():
            task = asyncio.current_task()
            assert isinstance(task, asyncio.Task)
            assert not task.done()
            assert task in asyncio.all_tasks()
            await pause()
            assert asyncio.current_task() is task
            tasks.add(task)
            return len(tasks)

        assert spoken(serve, handle, 5) == ["1"] * 5
        until(lambda: all(task.done() for task in tasks))

    def test_each_has_its_own(self, serve, led):
        server = serve(led)
        opened = [Opened(server, led, number=number).accepted() for number in range(20)]
        assert len({id(one.app.task) for one in opened}) == 20
        for one in opened:
            assert one.app.do(current_task) is one.app.task

    def test_context_variables_are_inherited_and_kept(self, serve, pause):
        base = contextvars.Context()
        base.run(VAR.set, "base")

        async def handle():
            before = VAR.get()
            VAR.set(before + "+")
            await pause()
            return before

        assert spoken(serve, handle, 3, context=base) == ["base", "base+", "base++"]
        assert base[VAR] == "base"

    def test_contexts_are_isolated(self, serve, led):
        server = serve(led)
        opened = [Opened(server, led, number=number).accepted() for number in range(5)]

        def sets(value):
            async def step(receive, send):
                VAR.set(value)

            return step

        async def gets(receive, send):
            return VAR.get(), await asyncio.create_task(inner())

        async def inner():
            return VAR.get()

        for number, one in enumerate(opened):
            one.app.do(sets(str(number)))
        assert [one.app.do(gets) for one in opened] == [(str(number), str(number)) for number in range(5)]

    def test_a_token_resets(self, serve, pause):
        """Which works only in the very context that made it."""
        tokens = []

        async def handle():
            if tokens:
                VAR.reset(tokens.pop())
            tokens.append(VAR.set("x"))
            await pause()
            return VAR.get()

        assert spoken(serve, handle, 4) == ["x"] * 4

    def test_a_timeout_around_it_all(self, serve, pause):
        """asyncio.timeout() cancels the task that it was entered in, and gets its own cancellation back."""

        async def handle():
            try:
                async with asyncio.timeout(0.001):
                    await asyncio.Event().wait()
            except TimeoutError:
                await pause()
                return "timeout"

        assert spoken(serve, handle, 3) == ["timeout"] * 3

    def test_a_task_group(self, serve, led):
        opened = Opened(serve(led), led).accepted()

        async def step(receive, send):
            async def hear():
                for _ in range(10):
                    heard.append((await receive())["text"])

            async def say():
                for number in range(10):
                    await send({"type": "websocket.send", "text": str(number)})
                    await asyncio.sleep(0)

            heard: list[str] = []
            async with asyncio.TaskGroup() as group:
                group.create_task(hear())
                group.create_task(say())
            return heard

        stepping = opened.app.begin(step)
        opened.ws.send(*[text(str(number)) for number in range(10)])
        assert stepping.result(PATIENCE_S) == [str(number) for number in range(10)]
        assert [opened.ws.read_text() for _ in range(10)] == [str(number) for number in range(10)]

    def test_nothing_grows_with_the_messages(self, serve):
        async def handle():
            await at_once()
            return "x"

        assert spoken(serve, handle, 1000) == ["x"] * 1000

    def test_cancelled_from_outside(self, serve, led):
        """An app's own supervisor: the app may clean up, and its close goes out."""
        server = serve(led)
        opened = Opened(server, led).accepted()
        begun = []

        async def step(receive, send):
            begun.append(True)
            try:
                await receive()
            except asyncio.CancelledError:
                await send({"type": "websocket.close", "code": 4000, "reason": "cancelled"})
                return "cancelled"

        stepping = opened.app.begin(step)
        until(lambda: begun)
        server.call(opened.app.task.cancel)
        assert stepping.result(PATIENCE_S) == "cancelled"
        assert opened.ws.read_close() == (4000, "cancelled")


async def current_task(receive, send):
    return asyncio.current_task()


def test_another_task_accepts_and_closes(serve, led):
    """Whoever has send() may use it."""
    opened = Opened(serve(led), led)
    opened.app.connect()

    async def step(receive, send):
        await asyncio.create_task(say(send, {"type": "websocket.accept"}))
        await asyncio.gather(*[say(send, SEND) for _ in range(3)])
        await asyncio.create_task(say(send, {"type": "websocket.close", "code": 4000}))

    async def say(send, message):
        await send(message)

    opened.app.do(step)
    opened.ws.opened()
    assert [opened.ws.read_text() for _ in range(3)] == ["x"] * 3
    assert opened.ws.read_close() == (4000, "")


class TestReceive:
    def test_in_one_task_while_another_one_sends(self, serve, led):
        opened = Opened(serve(led), led).accepted()

        async def step(receive, send):
            waiting = asyncio.create_task(receive())
            await asyncio.sleep(0)
            await send({"type": "websocket.send", "text": "first"})
            return await waiting

        stepping = opened.app.begin(step)
        assert opened.ws.read_text() == "first"
        opened.ws.send(text("second"))
        assert data_of(stepping.result(PATIENCE_S)) == "second"

    def test_two_at_once_get_one_each(self, serve, led):
        opened = Opened(serve(led), led).accepted()

        async def step(receive, send):
            waiting = [asyncio.create_task(receive()) for _ in range(2)]
            await asyncio.sleep(0)
            await send(SEND)
            return await asyncio.gather(*waiting)

        stepping = opened.app.begin(step)
        assert opened.ws.read_text() == "x"
        opened.ws.send(text("a"))
        opened.ws.send(binary(b"b"))
        assert [data_of(message) for message in stepping.result(PATIENCE_S)] == ["a", b"b"]

    def test_many_at_once_all_hear_the_end(self, serve, led):
        opened = Opened(serve(led), led).accepted()

        async def step(receive, send):
            waiting = [asyncio.create_task(receive()) for _ in range(10)]
            await asyncio.sleep(0)
            await send(SEND)
            return await asyncio.gather(*waiting)

        stepping = opened.app.begin(step)
        assert opened.ws.read_text() == "x"
        opened.ws.send(text("a"), close(4000))
        messages = stepping.result(PATIENCE_S)
        assert [message["type"] for message in messages].count("websocket.receive") == 1
        assert [message["code"] for message in messages if "code" in message] == [4000] * 9

    @pytest.mark.parametrize("timeout_s", [0.0001, 0.001])
    def test_one_that_times_out_loses_nothing(self, serve, led, timeout_s):
        """asyncio.wait_for() cancels it at every moment there is, also as a message comes."""
        opened = Opened(serve(led), led).accepted()
        sent = [str(number) for number in range(300)]

        async def step(receive, send):
            heard = []
            while len(heard) < len(sent):
                try:
                    heard.append((await asyncio.wait_for(receive(), timeout_s))["text"])
                except TimeoutError:
                    await asyncio.sleep(0)
            return heard

        stepping = opened.app.begin(step)
        for one in sent:
            opened.ws.send_each([text(one)])
        assert stepping.result(10) == sent

    def test_one_that_is_cancelled_leaves_its_message_to_the_next(self, serve, led):
        opened = Opened(serve(led), led).accepted()

        async def step(receive, send):
            waiting = [asyncio.create_task(receive()) for _ in range(3)]
            await asyncio.sleep(0)
            waiting[0].cancel()
            waiting[2].cancel()
            await asyncio.sleep(0)
            await send(SEND)
            message = await waiting[1]
            assert waiting[0].cancelled()
            assert waiting[2].cancelled()
            return message

        stepping = opened.app.begin(step)
        assert opened.ws.read_text() == "x"
        opened.ws.send(text("mine"))
        assert data_of(stepping.result(PATIENCE_S)) == "mine"

    def test_awaited_later_than_called(self, serve, led):
        """receive() is a plain call; what matters is when it is awaited."""
        opened = Opened(serve(led), led).accepted()
        opened.ws.send(text("a"), text("b"))

        async def step(receive, send):
            first = receive()
            second = receive()
            return [await first, await second]

        assert [data_of(message) for message in opened.app.do(step)] == ["a", "b"]

    def test_one_that_is_never_awaited(self, serve, led):
        opened = Opened(serve(led), led).accepted()
        opened.ws.send(text("a"))

        async def step(receive, send):
            receive()
            gc.collect()
            return await receive()

        assert data_of(opened.app.do(step)) == "a"


class TestAfterTheEnd:
    def test_a_task_that_goes_on_hears_it(self, serve, led):
        """The app returned: who still waits for a message gets a disconnect, and does not wait for ever."""
        opened = Opened(serve(led), led).accepted()
        heard = []

        async def step(receive, send):
            async def listen():
                heard.append(await receive())

            heard.append(asyncio.create_task(listen()))
            await asyncio.sleep(0)

        opened.app.do(step)
        opened.app.leave()
        assert opened.ws.read_close() == (1000, "")
        opened.ws.send(close(1000))
        opened.ws.assert_closed()
        until(lambda: len(heard) == 2)
        assert heard[1]["type"] == "websocket.disconnect"

    def test_what_another_task_sends_does_not_go_out(self, serve, led):
        server = serve(led)
        opened = Opened(server, led).accepted()

        async def step(receive, send):
            return receive, send

        receive, send = opened.app.do(step)
        opened.app.leave()
        assert opened.ws.read_close() == (1000, "")

        async def use():
            for message in (SEND, {"type": "websocket.close"}, {"type": "websocket.accept"}):
                with pytest.raises((MessageError, ClientDisconnected)):
                    await send(message)
            return await receive()

        assert server.run(use())["type"] == "websocket.disconnect"
        opened.ws.send(close(1000))
        opened.ws.assert_closed()
        until(lambda: server.factory.connections == 0)
        server.run(use())

    def test_an_accept_after_the_500(self, serve, turn):
        """An app that returned without an answer was answered for: what comes later changes nothing."""
        kept = []

        async def app(scope, receive, send):
            if scope["path"] != "/ok":
                kept.append(send)
                await turn()
                return
            await reply(send)

        server = serve(app)
        with server.connect() as client:
            client.send(handshake())
            assert client.response().status == 500

            async def use():
                for message in ({"type": "websocket.accept"}, SEND, {"type": "websocket.close"}):
                    with pytest.raises((RuntimeError, ClientDisconnected)):
                        await kept[0](message)

            server.run(use())
            client.assert_open()
        server.take_error()

    def test_what_the_app_kept_is_dead_but_harmless(self, serve):
        """scope, receive, send and their awaitables outlive the WebSocket and a collection."""
        kept = []

        async def app(scope, receive, send):
            kept.append((receive(), send))
            await accept(receive, send)
            kept.append((receive, receive(), send(SEND), send))

        server = serve(app)
        for _ in range(20):
            client = server.connect()
            WsClient(client).open()
            client.reset()
        until(lambda: server.factory.in_flight == 0)
        until(lambda: server.factory.connections == 0)
        gc.collect()

        async def use():
            for one in kept:
                for thing in one:
                    try:
                        await (thing(SEND) if thing is one[-1] else thing() if callable(thing) else thing)
                    except (RuntimeError, OSError):
                        continue

        server.run(use())
        kept.clear()
        server.run(asyncio.sleep(0))
        gc.collect()
        server.errors.clear()

    def test_the_app_goes_on_after_the_client_went(self, serve, led):
        """What it does then is its own affair, and is waited for."""
        server = serve(led)
        opened = Opened(server, led).accepted()
        opened.ws.finish()
        until(lambda: server.factory.connections == 0)
        assert server.factory.in_flight == 1
        assert opened.app.do(current_task) is opened.app.task
        opened.app.leave()
        until(lambda: server.factory.in_flight == 0)
        assert server.factory.served == 1
