"""The lifespan conversation: every mode against every way an app can behave."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import pytest

from shardserve.asgi.lifespan import MESSAGE_TYPES, TRANSITIONS, Lifespan, Phase
from shardserve.errors import LifespanError, MessageError

LOG = logging.getLogger("test.lifespan")


@pytest.fixture(autouse=True)
def everything_is_logged(caplog):
    caplog.set_level(logging.DEBUG, logger=LOG.name)


def lifespan(app: Callable[..., Any], mode: str = "auto") -> Lifespan:
    return Lifespan(app, mode, log=LOG)


def said(caplog, level: int = logging.INFO) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == level]


class App:
    """A well-behaved app that can be told to misbehave at one point. Notes what happens."""

    def __init__(self, **behaviour: Any) -> None:
        self.behaviour = behaviour
        self.notes: list[Any] = []
        self.scope: dict[str, Any] = {}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.scope = scope
        self.notes.append(asyncio.current_task())
        assert (await receive())["type"] == "lifespan.startup"
        await self._do("startup", send)
        assert (await receive())["type"] == "lifespan.shutdown"
        self.notes.append(asyncio.current_task())
        await self._do("shutdown", send)
        await self._do("after", send)

    async def _do(self, when: str, send: Any) -> None:
        todo = self.behaviour.get(when)
        if isinstance(todo, BaseException):
            raise todo
        if isinstance(todo, dict):
            await send(todo)
            if todo["type"].endswith("failed") and self.behaviour.get("raises_too"):
                raise RuntimeError("as Starlette does")
        elif todo == "hang":
            await asyncio.Event().wait()
        elif when != "after":
            await send({"type": f"lifespan.{when}.complete"})


async def silent(scope: Any, receive: Any, send: Any) -> None:
    """Returns without a word."""


async def http_only(scope: Any, receive: Any, send: Any) -> None:
    assert scope["type"] == "http"


async def answers_everything_as_http(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})


# The good conversation


async def test_startup_and_shutdown_in_one_task(caplog):
    app = App()
    one = lifespan(app)
    state = await one.startup()
    assert one.phase is Phase.RUNNING
    await one.shutdown()
    assert one.phase is Phase.STOPPED
    first, second = app.notes
    assert first is second
    assert first.done()
    assert app.scope == {
        "type": "lifespan",
        "asgi": {"version": "3.0", "spec_version": "2.0"},
        "state": state,
    }
    assert app.scope["state"] is state
    assert said(caplog) == [
        "Waiting for application startup.",
        "Application startup complete.",
        "Waiting for application shutdown.",
        "Application shutdown complete.",
    ]


async def test_the_state_is_what_the_app_put_there():
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        scope["state"]["pool"] = "open"
        await send({"type": "lifespan.startup.complete"})
        await receive()

    one = lifespan(app)
    assert await one.startup() == {"pool": "open"}
    await one.shutdown()


@pytest.mark.parametrize("framework", ["starlette", "fastapi"])
async def test_frameworks(framework):
    import contextlib

    events: list[str] = []

    @contextlib.asynccontextmanager
    async def manager(app: Any):
        events.append("up")
        yield {"key": "value"}
        events.append("down")

    module = pytest.importorskip(framework)
    if framework == "fastapi":
        app = module.FastAPI(lifespan=manager)
    else:
        from starlette.applications import Starlette

        app = Starlette(lifespan=manager)
    one = lifespan(app, "on")
    assert await one.startup() == {"key": "value"}
    await one.shutdown()
    assert events == ["up", "down"]


# Off


async def test_off_never_calls_the_app():
    app = App()
    one = lifespan(app, "off")
    assert await one.startup() == {}
    await one.shutdown()
    assert app.notes == []


# No lifespan in the app


@pytest.mark.parametrize("app", [http_only, answers_everything_as_http, App(startup=ValueError("no"))])
async def test_auto_takes_an_exception_for_unsupported(caplog, app):
    one = lifespan(app)
    assert await one.startup() == {}
    await one.shutdown()
    assert "ASGI 'lifespan' protocol appears unsupported." in said(caplog)
    assert said(caplog, logging.ERROR) == []
    assert "Traceback" in "".join(said(caplog, logging.DEBUG))


@pytest.mark.parametrize("app", [http_only, answers_everything_as_http])
async def test_on_insists(app):
    one = lifespan(app, "on")
    with pytest.raises(LifespanError, match="--lifespan on") as caught:
        await one.startup()
    assert str(caught.value).count("Traceback") == 1
    assert "lifespan.py" not in str(caught.value).replace("test_lifespan.py", "")
    await one.shutdown()


@pytest.mark.parametrize("mode", ["auto", "on"])
async def test_an_app_that_returns_early_is_served(caplog, mode):
    one = lifespan(silent, mode)
    assert await one.startup() == {}
    await one.shutdown()
    assert said(caplog)[-1] == "Application startup complete (the app left its lifespan early)."
    assert said(caplog, logging.ERROR) == []


async def test_state_put_there_before_the_exception_stays():
    async def app(scope: Any, receive: Any, send: Any) -> None:
        scope["state"]["half"] = True
        raise ValueError

    assert await lifespan(app).startup() == {"half": True}


async def test_a_sys_exit_in_the_app_does_not_end_the_event_loop():
    with pytest.raises(LifespanError, match="SystemExit"):
        await lifespan(App(startup=SystemExit(3)), "on").startup()


# Refused startup


@pytest.mark.parametrize("mode", ["auto", "on"])
@pytest.mark.parametrize("raises_too", [False, True])
async def test_startup_failed_stops_the_start_in_every_mode(caplog, mode, raises_too):
    app = App(startup={"type": "lifespan.startup.failed", "message": "no database"}, raises_too=raises_too)
    one = lifespan(app, mode)
    with pytest.raises(LifespanError, match="no database"):
        await one.startup()
    await one.shutdown()
    assert said(caplog, logging.ERROR) == []


async def test_startup_failed_without_a_reason():
    with pytest.raises(LifespanError, match="gave no reason"):
        await lifespan(App(startup={"type": "lifespan.startup.failed"})).startup()


# Trouble later


async def test_shutdown_failed_is_logged(caplog):
    one = lifespan(App(shutdown={"type": "lifespan.shutdown.failed", "message": "stuck"}, raises_too=True))
    await one.startup()
    await one.shutdown()
    assert said(caplog, logging.ERROR) == ["Application shutdown failed: stuck"]


@pytest.mark.parametrize(("when", "text"), [("shutdown", "at shutdown"), ("after", "after shutdown")])
async def test_an_exception_at_shutdown_is_logged(caplog, when, text):
    one = lifespan(App(**{when: KeyError("x")}))
    await one.startup()
    await one.shutdown()
    errors = said(caplog, logging.ERROR)
    assert len(errors) == 1
    assert errors[0].startswith(f"The app's lifespan failed {text}:\nTraceback")


async def test_an_exception_while_serving_is_logged_and_there_is_nothing_to_shut_down(caplog):
    fail = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "lifespan.startup.complete"})
        await fail.wait()
        raise KeyError("x")

    one = lifespan(app)
    await one.startup()
    fail.set()
    async with asyncio.timeout(10):
        while not said(caplog, logging.ERROR):
            await asyncio.sleep(0)
        await one.shutdown()
    assert "while serving" in said(caplog, logging.ERROR)[0]
    assert "Waiting for application shutdown." not in said(caplog)


async def test_shutdown_is_bounded_and_leaves_no_task(caplog):
    app = App(shutdown="hang")
    one = lifespan(app)
    await one.startup()
    async with asyncio.timeout(10):
        await one.shutdown(timeout_s=0.01)
    assert app.notes[0].done()
    assert "did not finish" in said(caplog, logging.ERROR)[0]


async def test_an_app_that_lingers_after_shutdown_complete_is_ended(monkeypatch):
    monkeypatch.setattr("shardserve.asgi.lifespan.LAST_WORDS_S", 0.01)
    app = App(after="hang")
    one = lifespan(app)
    await one.startup()
    async with asyncio.timeout(10):
        await one.shutdown()
    assert app.notes[0].done()


async def test_a_startup_that_is_given_up_leaves_no_task():
    app = App(startup="hang")
    one = lifespan(app)
    starting = asyncio.create_task(one.startup())
    async with asyncio.timeout(10):
        while not app.notes:
            await asyncio.sleep(0)
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
    assert app.notes[0].done()


# Order


def test_the_table_knows_every_phase_and_message():
    assert set(TRANSITIONS) == set(Phase)
    assert len(MESSAGE_TYPES) == 4
    assert all(name.startswith("lifespan.") for name in MESSAGE_TYPES)


@pytest.mark.parametrize("phase", list(Phase))
@pytest.mark.parametrize("kind", [*sorted(MESSAGE_TYPES), "http.response.start", None, 5])
async def test_every_message_in_every_phase(phase, kind):
    one = lifespan(silent)
    one.phase = phase
    following = TRANSITIONS[phase].get(kind)
    if following is None:
        with pytest.raises(MessageError, match=phase.name):
            await one._send({"type": kind})
        assert one.phase is phase
    else:
        await one._send({"type": kind})
        assert one.phase is following


@pytest.mark.parametrize("mode", ["auto", "on"])
async def test_the_wrong_order_stops_the_start_and_says_what_was_expected(mode):
    one = lifespan(App(startup={"type": "lifespan.shutdown.complete"}), mode)
    with pytest.raises(LifespanError, match=r"STARTING; it may send lifespan\.startup\.complete or"):
        await one.startup()


async def test_shutdown_complete_twice_is_logged(caplog):
    one = lifespan(App(after={"type": "lifespan.shutdown.complete"}))
    await one.startup()
    await one.shutdown()
    assert "while STOPPED; it may send nothing now" in said(caplog, logging.ERROR)[0]
