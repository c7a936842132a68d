"""A small Litestar app of what its documentation begins with."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from litestar import (
    Litestar,
    MediaType,
    Request,
    Response,
    WebSocket,
    delete,
    get,
    post,
    websocket,
    websocket_listener,
)
from litestar.background_tasks import BackgroundTask
from litestar.config.compression import CompressionConfig
from litestar.config.cors import CORSConfig
from litestar.datastructures import State, UploadFile
from litestar.di import Provide
from litestar.enums import RequestEncodingType
from litestar.exceptions import HTTPException
from litestar.params import Body
from litestar.response import File, Redirect, ServerSentEvent, Stream


@asynccontextmanager
async def lifespan(app: Litestar) -> AsyncGenerator[None, None]:
    app.state.greeting = "from the lifespan"
    app.state.log = []
    yield


@dataclass
class Item:
    name: str
    price: float = 1.5


async def number() -> int:
    return 7


@get("/", media_type=MediaType.TEXT)
async def hello() -> str:
    return "hello world"


@get("/items/{item_id:int}")
async def item(item_id: int, a: str | None = None, injected: int = 0) -> dict[str, Any]:
    return {"id": item_id, "a": a, "injected": injected}


@post("/items")
async def make(data: Item) -> Item:
    return data


@delete("/items/{item_id:int}")
async def remove(item_id: int) -> None: ...


@post("/form")
async def form(
    data: Annotated[dict[str, Any], Body(media_type=RequestEncodingType.MULTI_PART)],
) -> dict[str, Any]:
    found = {}
    for name, value in data.items():
        found[name] = len(await value.read()) if isinstance(value, UploadFile) else value
    return found


@get("/stream", media_type=MediaType.TEXT)
async def stream() -> Stream:
    async def parts() -> AsyncIterator[str]:
        for one in range(10):
            yield f"{one}\n"
            await asyncio.sleep(0)

    return Stream(parts())


@get("/events", sync_to_thread=False)
def events() -> ServerSentEvent:
    async def ticks() -> AsyncIterator[str]:
        for one in range(3):
            yield str(one)

    return ServerSentEvent(ticks(), event_type="tick")


@get("/file", sync_to_thread=False)
def file() -> File:
    return File(path=Path(os.environ["NOTES"]) / "data.bin", filename="data.bin")


@get("/long", media_type=MediaType.TEXT)
async def long() -> str:
    return "the same words again and again\n" * 100


@get("/redirect")
async def redirect() -> Redirect:
    return Redirect("/items/7")


@get("/background")
async def background(state: State) -> Response[str]:
    async def later() -> None:
        state.log.append("later")

    return Response("answered", background=BackgroundTask(later), media_type=MediaType.TEXT)


@get("/state")
async def in_state(state: State) -> list[Any]:
    return [state.greeting, state.log]


@get("/blocking", sync_to_thread=True, media_type=MediaType.TEXT)
def blocking() -> str:
    return "from a thread"


@get("/teapot")
async def teapot() -> None:
    raise HTTPException(status_code=418, detail="short and stout", headers={"x-pot": "1"})


@get("/fails")
async def fails() -> None:
    raise LookupError("the failure of the app")


@get("/where")
async def where(request: Request[Any, Any, Any]) -> dict[str, Any]:
    return {"url": str(request.url), "base": str(request.base_url), "cookies": request.cookies}


@websocket_listener("/ws/echo")
async def echo(data: str) -> str:
    return f"echo: {data}"


@websocket("/ws/close")
async def close(socket: WebSocket[Any, Any, Any]) -> None:
    await socket.accept()
    await socket.send_json({"a": 1})
    await socket.close(code=4001, reason="as you wish")


def create() -> Litestar:
    handlers: list[Any] = [hello, item, make, remove, form, stream, events, file, long, redirect]
    handlers += [background, in_state, blocking, teapot, fails, where, echo, close]
    return Litestar(
        handlers,
        lifespan=[lifespan],
        dependencies={"injected": Provide(number)},
        compression_config=CompressionConfig(backend="gzip", minimum_size=500),
        cors_config=CORSConfig(allow_origins=["https://example.org"]),
        openapi_config=None,
    )
