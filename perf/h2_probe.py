"""The correctness probe's HTTP/2: a few requests at once on one connection, read with the h2 package.

Rules of this file: it asks and reads, probe.py judges; what the h2 package calls a protocol error is a wrong
answer. The package is imported when it is needed, and a machine without it lacks the HTTP/2 scenarios only.
"""

from __future__ import annotations

import importlib.util
import socket
from typing import TYPE_CHECKING

from perf.scenarios import Scenario

if TYPE_CHECKING:
    from h2.connection import H2Connection

_READ_SIZE = 65536
PACKAGE = "h2"


class Http2Error(Exception):
    """The server does not speak HTTP/2 as it should. str() is one line."""


def lacking() -> str | None:
    """Why there can be no probe, as one line that says what to install; None if there can."""
    if importlib.util.find_spec(PACKAGE) is not None:
        return None
    return f"package {PACKAGE} is not installed in the interpreter running perf; run `pip install {PACKAGE}`"


def ask(client: socket.socket, scenario: Scenario, authority: str, count: int) -> list[tuple[int, bytes]]:
    """Status and body of those of ``count`` requests that were answered before the socket's timeout."""
    import h2.connection
    import h2.exceptions

    session = _Session(h2.connection.H2Connection())
    try:
        session.send(scenario, authority, count)
        while len(session.done) < count:
            client.sendall(session.connection.data_to_send())
            try:
                data = client.recv(_READ_SIZE)
            except TimeoutError:
                break
            if not data:
                break
            if data.startswith(b"HTTP/1."):  # a frame of four megabytes, if it were a frame
                raise Http2Error("the answer is in HTTP/1")
            session.feed(data)
    except h2.exceptions.ProtocolError as error:
        raise Http2Error(f"{type(error).__name__}: {error}") from None
    return [(session.status[stream], session.body[stream]) for stream in sorted(session.done)]


class _Session:
    """One connection: what was asked, and what has come of it."""

    def __init__(self, connection: H2Connection) -> None:
        self.connection = connection
        self.status: dict[int, int] = {}
        self.body: dict[int, bytes] = {}
        self.done: set[int] = set()

    def send(self, scenario: Scenario, authority: str, count: int) -> None:
        """The preface and all requests."""
        self.connection.initiate_connection()
        fields = [(":method", scenario.method), (":scheme", "https" if scenario.tls else "http")]
        fields += [(":authority", authority), (":path", scenario.path)]
        fields += [(name.lower(), value) for name, value in scenario.headers]
        for _ in range(count):
            stream = self.connection.get_next_available_stream_id()
            self.connection.send_headers(stream, fields, end_stream=not scenario.body)
            if scenario.body:
                self.connection.send_data(stream, scenario.body, end_stream=True)

    def feed(self, data: bytes) -> None:
        """Take in what came. Raises Http2Error where the server gives up a stream or the connection."""
        from h2 import events

        for event in self.connection.receive_data(data):
            match event:
                case events.ResponseReceived(stream_id=int(stream), headers=list(headers)):
                    self.status[stream] = next(int(value) for name, value in headers if name == b":status")
                    self.body[stream] = b""
                case events.DataReceived(stream_id=int(stream), data=bytes(piece)):
                    self.body[stream] += piece
                    self.connection.acknowledge_received_data(event.flow_controlled_length or 0, stream)
                case events.StreamEnded(stream_id=int(stream)):
                    self.done.add(stream)
                case events.StreamReset(stream_id=stream, error_code=code):
                    raise Http2Error(f"stream {stream} reset with error code {code}")
                case events.ConnectionTerminated(error_code=code) if code:
                    raise Http2Error(f"GOAWAY with error code {code}")
