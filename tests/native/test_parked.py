"""The spare tasks: what an app can do to the task and the coroutine object that it runs in."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import weakref
from typing import Any

import pytest

from tests.native.drive import Driver, get, reply, statuses, turns
from tests.native.isolated import survives


async def coroutine_by_hand(suspend: bool, what: str, catch: bool) -> Any:
    """An app steps, throws into or closes the very coroutine that is running it."""
    seen: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] != "/evil":
            await asyncio.sleep(0)
            await reply(send)
            return
        if suspend:
            await asyncio.sleep(0)
        coroutine = asyncio.current_task().get_coro()
        actions = {
            "send": lambda: coroutine.send(None),
            "next": lambda: next(coroutine),
            "throw": lambda: coroutine.throw(KeyError("x")),
            "throw class": lambda: coroutine.throw(KeyError),
            "throw nothing": lambda: coroutine.throw(),
            "throw int": lambda: coroutine.throw(42),
            "close": lambda: coroutine.close(),
        }
        try:
            actions[what]()
            seen.append("accepted")
        except (Exception, StopIteration) as error:
            seen.append(type(error).__name__)
            if not catch:
                raise
        await reply(send)

    driver = Driver(app)
    connection, transport = driver.connect()
    for path in ("/", "/evil", "/", "/"):
        connection.data_received(get(path))
        await turns()
    got = statuses(transport.read())
    return {
        "statuses": got,
        "seen": seen,
        "in_flight": driver.factory.in_flight,
        "served": driver.factory.served,
    }


@pytest.mark.parametrize("catch", [True, False])
@pytest.mark.parametrize(
    "what", ["send", "next", "throw", "throw class", "throw nothing", "throw int", "close"]
)
@pytest.mark.parametrize("suspend", [False, True])
def test_an_app_that_steps_itself(suspend: bool, what: str, catch: bool) -> None:
    try:
        result = survives(coroutine_by_hand, suspend, what, catch)
    except AssertionError as error:
        if what == "throw int" and "RESULT" in str(error) and "Fatal" not in str(error):
            pytest.xfail("throw(42) is a SystemError: unkind, not unsafe")
        raise
    assert result["statuses"] == [200, 200 if catch else 500, 200, 200]
    assert result["seen"] != ["accepted"]
    assert (result["in_flight"], result["served"]) == (0, 4)


async def other_by_hand(what: str) -> Any:
    """Another task does it while the app waits."""
    seen: list[str] = []
    gate = asyncio.Event()
    tasks: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        tasks.append(asyncio.current_task())
        try:
            await gate.wait()
        except KeyError:
            pass
        await reply(send)

    driver = Driver(app)
    connection, transport = driver.connect()
    connection.data_received(get())
    await turns()
    coroutine = tasks.pop().get_coro()
    try:
        if what == "send":
            coroutine.send(None)
        elif what == "throw":
            coroutine.throw(KeyError())
        else:
            coroutine.close()
    except BaseException as error:
        seen.append(type(error).__name__)
    await turns()
    gate.set()
    await turns()
    gate.clear()
    del coroutine
    connection, second = driver.connect()
    connection.data_received(get())
    gate.set()
    await turns()
    return [statuses(transport.read()), statuses(second.read()), driver.factory.in_flight]


@pytest.mark.parametrize("what", ["send", "throw", "close"])
def test_another_task_steps_the_app(what: str) -> None:
    first, second, in_flight = survives(other_by_hand, what)
    assert second == [200]
    if what == "close":  # then asyncio's own tasks wait for ever, too
        assert (first, in_flight) in (([], 1), ([500], 0))
    else:
        assert (first, in_flight) == ([200], 0)


async def idle_by_hand(what: str) -> Any:
    """Someone finds the idle task in all_tasks()."""
    driver = Driver(answer_later)
    connection, transport = driver.connect()
    connection.data_received(get())
    await turns()
    idle = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in idle:
        repr(task)
        task.get_stack()
        coroutine = task.get_coro()
        [
            getattr(coroutine, name)
            for name in ("cr_frame", "cr_code", "cr_await", "cr_running", "cr_suspended")
        ]
        try:
            if what == "send":
                coroutine.send(None)
            elif what == "throw":
                coroutine.throw(KeyError())
            elif what == "close":
                coroutine.close()
            elif what == "cancel":
                task.cancel()
            elif what == "resolve":
                task._fut_waiter.set_result(None)
            elif what == "calibrate":
                pass
        except (RuntimeError, KeyError, StopIteration):
            pass
    if what != "cancel":
        await turns()
    del idle, task, coroutine
    for _ in range(2):
        connection.data_received(get())
        await turns()
    return [statuses(transport.read()), driver.factory.in_flight, driver.outcomes()]


async def answer_later(scope: Any, receive: Any, send: Any) -> None:
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    await reply(send)


@pytest.mark.parametrize("what", ["send", "throw", "close", "cancel", "resolve", "calibrate"])
def test_the_idle_task_in_other_hands(what: str) -> None:
    assert survives(idle_by_hand, what) == [[200, 200, 200], 0, []]


async def cancel_then_uncancel() -> Any:
    """An app cancels its task, takes it back, and answers: the next request must not be cancelled for it."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/evil":
            task = asyncio.current_task()
            task.cancel()
            task.uncancel()
        else:
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        await reply(send)

    driver = Driver(app)
    connection, transport = driver.connect()
    connection.data_received(get())
    await turns()
    connection.data_received(get("/evil"))
    second, second_transport = driver.connect()
    second.data_received(get())
    await turns()
    return [statuses(transport.read()), statuses(second_transport.read()), driver.outcomes()]


def test_a_cancellation_never_reaches_another_request() -> None:
    assert survives(cancel_then_uncancel) == [[200, 200], [200], []]


async def marks_on_the_task(mark: str, suspend: bool) -> Any:
    """What one request leaves on its task, the next must not find."""
    seen: list[bool] = []
    kept: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if suspend:
            await asyncio.sleep(0)
        task: Any = asyncio.current_task()
        if mark == "attribute":
            seen.append(hasattr(task, "secret"))
            task.secret = scope["path"]
        elif mark == "name":
            seen.append(task.get_name() == "mine")
            task.set_name("mine")
        elif mark == "weak key":
            seen.append(task in weak)
            weak[task] = 1
        elif mark == "key":
            seen.append(task in kept)
            kept.append(task)
        elif mark == "callback":
            seen.append(bool(task._callbacks))
            task.add_done_callback(lambda task: None)
        elif mark == "context" and hasattr(task, "get_context"):
            seen.append(var in task.get_context())
            var.set(1)
            task.get_context().run(var.set, 2)
        await reply(send)

    weak: Any = weakref.WeakKeyDictionary()
    var: contextvars.ContextVar[int] = contextvars.ContextVar("var")
    driver = Driver(app)
    connection, transport = driver.connect()
    for _ in range(4):
        connection.data_received(get())
        await turns()
    return [len(statuses(transport.read())), any(seen)]


@pytest.mark.parametrize("suspend", [False, True])
@pytest.mark.parametrize("mark", ["attribute", "name", "weak key", "key", "callback", "context"])
def test_nothing_of_a_request_stays_on_the_task(mark: str, suspend: bool) -> None:
    assert survives(marks_on_the_task, mark, suspend) == [4, False]


async def context_retention() -> int:
    """A spare task made while an app's context is current must not keep that context."""

    class Session:
        pass

    var: contextvars.ContextVar[Any] = contextvars.ContextVar("var")
    sessions: list[Any] = []
    hold = asyncio.Event()
    gate = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/session":
            session = Session()
            sessions.append(weakref.ref(session))
            var.set(session)
            del session
            await hold.wait()
        elif scope["path"] == "/wait":
            await gate.wait()
        await reply(send)

    driver = Driver(app)
    connection, _ = driver.connect()
    connection.data_received(get("/session") + get("/next"))
    await turns()
    hold.set()
    others = []
    for _ in range(4):  # they take every spare there is, whenever the queue moves on
        await asyncio.sleep(0)
        other, transport = driver.connect()
        other.data_received(get("/wait"))
        others.append((other, transport))
    await turns()
    gate.set()
    await turns()
    gc.collect()
    return sum(ref() is not None for ref in sessions)


def test_a_spare_task_keeps_no_context_of_a_request() -> None:
    assert survives(context_retention) == 0


async def reuse(loop_turns: int) -> int:
    """How many tasks 50 suspending requests had, one after the other."""
    ids: set[int] = set()
    kept: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        for _ in range(loop_turns):
            await asyncio.sleep(0)
        if loop_turns == 0:
            future = asyncio.get_running_loop().create_future()
            asyncio.get_running_loop().call_soon(future.set_result, None)
            await future
        ids.add(id(asyncio.current_task()))
        kept.append(asyncio.current_task().get_name())
        await reply(send)

    driver = Driver(app)
    connection, transport = driver.connect()
    for _ in range(50):
        connection.data_received(get())
        await turns()
    assert len(statuses(transport.read())) == 50
    return len(set(kept))


@pytest.mark.parametrize("loop_turns", [0, 1, 3])
@pytest.mark.parametrize("uvloop", [False, True])
def test_the_same_task_serves_suspending_requests(uvloop: bool, loop_turns: int) -> None:
    assert survives(reuse, loop_turns, uvloop=uvloop) <= 2


async def cancels_itself(suspend: bool, then: str) -> Any:
    seen: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/evil":
            if suspend:
                await asyncio.sleep(0)
            asyncio.current_task().cancel()
            if then != "return":
                try:
                    await asyncio.Event().wait() if then == "future" else await asyncio.sleep(0)
                except asyncio.CancelledError:
                    seen.append("cancelled")
        else:
            await asyncio.sleep(0)
        await reply(send)

    driver = Driver(app)
    connection, transport = driver.connect()
    for path in ("/", "/evil", "/", "/"):
        connection.data_received(get(path))
        await turns()
    return [statuses(transport.read()), driver.factory.in_flight, seen]


@pytest.mark.parametrize("then", ["return", "future", "turn"])
@pytest.mark.parametrize("suspend", [False, True])
def test_an_app_that_cancels_its_own_task(suspend: bool, then: str) -> None:
    seen = [] if then == "return" else ["cancelled"]
    assert survives(cancels_itself, suspend, then) == [[200, 200, 200, 200], 0, seen]


async def error_report_that_steps(suspend: bool) -> Any:
    """on_app_error takes the coroutine of the task that is just ending, and steps it."""
    seen: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        tasks.append(asyncio.current_task())
        if suspend:
            await asyncio.sleep(0)
        if scope["path"] == "/evil":
            raise ValueError("x")
        await reply(send)

    def report(*args: Any) -> None:
        coroutine = tasks[-1].get_coro()
        for step in (lambda: coroutine.send(None), lambda: coroutine.throw(KeyError()), coroutine.close):
            try:
                step()
                seen.append("accepted")
            except BaseException as error:
                seen.append(type(error).__name__)

    tasks: list[Any] = []
    driver = Driver(app, on_app_error=report)
    connection, transport = driver.connect()
    for path in ("/", "/evil", "/", "/"):
        connection.data_received(get(path))
        await turns()
        tasks.clear()
    return [statuses(transport.read()), driver.factory.in_flight]


@pytest.mark.parametrize("suspend", [False, True])
def test_an_error_report_that_steps_the_app(suspend: bool) -> None:
    assert survives(error_report_that_steps, suspend) == [[200, 500, 200, 200], 0]
