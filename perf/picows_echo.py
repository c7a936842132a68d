"""picows' echo server: ``python -m perf.picows_echo HOST PORT``.

Rules of this file: it runs in the peers' interpreter, so it imports the standard library, uvloop and
picows. picows has no ASGI: its users write callbacks, and there is neither a task nor an event dict
per message. It is in the table for distance, as a floor is, and takes part in the WebSocket scenarios only.
"""

from __future__ import annotations

import sys
from typing import Any

import picows  # type: ignore[import-not-found, unused-ignore]
import uvloop


class Echo(picows.WSListener):  # type: ignore[misc, unused-ignore]
    """Sends back what comes, as the payload's view: nothing is copied on the way."""

    def on_ws_frame(self, transport: Any, frame: Any) -> None:
        if frame.msg_type == picows.WSMsgType.CLOSE:
            transport.send_close(frame.get_close_code(), frame.get_close_message())
            transport.disconnect()
        else:
            transport.send(frame.msg_type, frame.get_payload_as_memoryview())


async def main(host: str, port: int) -> None:
    server = await picows.ws_create_server(lambda request: Echo(), host, port)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], int(sys.argv[2])))
