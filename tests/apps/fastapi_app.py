"""A FastAPI app that uses what people use of FastAPI."""

from __future__ import annotations

import asyncio
import contextvars
import os
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Header, HTTPException, Query
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field

NOTES = Path(os.environ.get("NOTES", "."))

who: contextvars.ContextVar[str] = contextvars.ContextVar("who", default="nobody")


class Item(BaseModel):
    name: str
    price: float = Field(gt=0)
    tags: list[str] = []


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, Any]]:
    yield {"database": "connected"}


class Who:
    """A plain ASGI middleware that keeps the caller's name in a context variable."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            who.set(dict(scope["headers"]).get(b"x-who", b"nobody").decode())
        await self.app(scope, receive, send)


app = FastAPI(lifespan=lifespan, title="e2e")
app.add_middleware(Who)


@app.get("/items/{item_id}")
async def read_item(item_id: int, q: Annotated[str | None, Query(max_length=5)] = None) -> dict[str, Any]:
    return {"item_id": item_id, "q": q}


@app.post("/items", status_code=201)
async def create_item(item: Item) -> Item:
    return item


@app.get("/blocking")
def blocking(delay: float = 0.0) -> dict[str, Any]:
    time.sleep(delay)
    return {"main": threading.current_thread() is threading.main_thread()}


def noted(name: str) -> Iterator[str]:
    (NOTES / f"opened-{name}").touch()
    try:
        yield f"resource {name}"
    finally:
        (NOTES / f"closed-{name}").touch()


@app.get("/dependency/{name}")
def dependency(resource: Annotated[str, Depends(noted)], fail: bool = False) -> dict[str, str]:
    if fail:
        raise HTTPException(409, "in conflict")
    return {"resource": resource}


@app.get("/stream")
async def stream(count: int = 10) -> StreamingResponse:
    async def parts() -> AsyncIterator[str]:
        for number in range(count):
            yield f'{{"n": {number}}}\n'
            await asyncio.sleep(0)

    return StreamingResponse(parts(), media_type="application/x-ndjson")


@app.get("/who/async")
async def who_async(x_who: Annotated[str, Header()]) -> dict[str, str]:
    before = who.get()
    await asyncio.sleep(0.05)
    return {"before": before, "after": who.get(), "header": x_who}


@app.get("/who/sync")
def who_sync(x_who: Annotated[str, Header()]) -> dict[str, str]:
    before = who.get()
    time.sleep(0.05)
    return {"before": before, "after": who.get(), "header": x_who}


@app.get("/fail")
async def fail() -> None:
    raise LookupError("the failure of the app")
