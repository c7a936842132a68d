"""Answers each message of a WebSocket once it is in the ledger: to compare with what the clients were told.

The ledger is a file that all workers append to: a line for each message, written before the answer is sent.
An answer is the pid and the message. A second file has a line for each end: its code.
"""

from __future__ import annotations

import os
from typing import Any

NOTES = os.environ["NOTES"]
HOW = os.O_WRONLY | os.O_APPEND | os.O_CREAT
LEDGER = os.open(f"{NOTES}/ledger", HOW, 0o600)
ENDS = os.open(f"{NOTES}/ends", HOW, 0o600)


async def app(scope: Any, receive: Any, send: Any) -> None:
    assert scope["type"] == "websocket"
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        text = message["text"]
        os.write(LEDGER, f"{text}\n".encode())
        try:
            await send({"type": "websocket.send", "text": f"{os.getpid()} {text}"})
        except OSError:
            continue  # the client is gone, or was told to; what it sent before that is processed all the same
    os.write(ENDS, f"{message['code']}\n".encode())
