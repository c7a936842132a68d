"""The app that the fuzzing client talks to: an echo, and nothing else."""

from __future__ import annotations

from typing import Any


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        await lifespan(receive, send)
    elif scope["type"] == "websocket":
        await echo(receive, send)


async def echo(receive: Any, send: Any) -> None:
    """Every message goes back as it came, until the client is gone."""
    await receive()  # websocket.connect
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        text, data = message.get("text"), message.get("bytes")
        try:
            await send({"type": "websocket.send", **({"bytes": data} if text is None else {"text": text})})
        except OSError:  # ASGI: the client left between our two calls
            return


async def lifespan(receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await send({"type": "lifespan.shutdown.complete"})
