"""A FastAPI app with what people do with its WebSockets: dependencies, validation, exceptions, rooms."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any

from fastapi import (
    Cookie,
    Depends,
    FastAPI,
    Header,
    Query,
    WebSocket,
    WebSocketDisconnect,
    WebSocketException,
)
from pydantic import BaseModel

NOTES = Path(os.environ.get("NOTES", "."))

app = FastAPI(title="ws")


def note(name: str, **facts: Any) -> None:
    """Leave a file that is there as a whole or not at all."""
    path = NOTES / name
    path.with_suffix(".new").write_text(json.dumps(facts))
    os.replace(path.with_suffix(".new"), path)


async def user(
    token: Annotated[str | None, Query()] = None,
    session: Annotated[str | None, Cookie()] = None,
    x_user: Annotated[str | None, Header()] = None,
) -> str:
    """Who it is, from the query, a cookie or a header; nobody else gets in."""
    found = token or session or x_user
    if found is None:
        raise WebSocketException(1008, "who are you?")
    return found


async def resource(name: str) -> AsyncIterator[str]:
    (NOTES / f"opened-{name}").touch()
    try:
        yield f"resource {name}"
    finally:
        (NOTES / f"closed-{name}").touch()


class Order(BaseModel):
    item: str
    count: int


@app.websocket("/who")
async def who(socket: WebSocket, name: Annotated[str, Depends(user)]) -> None:
    await socket.accept()
    await socket.send_json({"name": name})
    await socket.close()


@app.websocket("/resource/{name}")
async def with_resource(socket: WebSocket, found: Annotated[str, Depends(resource)], name: str) -> None:
    await socket.accept()
    try:
        async for text in socket.iter_text():
            await socket.send_text(f"{found}: {text}")
    finally:
        note(f"left-{name}", closed=(NOTES / f"closed-{name}").exists())


@app.websocket("/orders/{table}")
async def orders(socket: WebSocket, table: int, limit: Annotated[int, Query(le=10)] = 3) -> None:
    await socket.accept()
    try:
        while True:
            order = Order.model_validate(await socket.receive_json())
            if order.count > limit:
                raise WebSocketException(4004, "too many")
            await socket.send_json({"table": table, **order.model_dump()})
    except WebSocketDisconnect as gone:
        note(f"table-{table}", code=gone.code, reason=gone.reason)


@app.get("/who")
async def who_http() -> dict[str, str]:
    return {"over": "http"}
