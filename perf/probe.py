"""Does this server give the right answer? One connection, a few requests, every answer compared.

Rules of this file: no server is timed before it has passed here, and what is right is the scenario's
word. Responses are read with httptools, so that every framing (length, chunks, end of connection)
counts as right. Failing to connect is an OSError (try again); a wrong answer is a ProbeError (do not).
"""

from __future__ import annotations

import socket

import httptools

from perf.scenarios import Scenario, request_bytes

_READ_SIZE = 65536
_SHOWN = 40


class ProbeError(Exception):
    """The server answered, wrongly. The text says what came instead."""


class _Responses:
    """httptools' callbacks: the status and body of each response as they complete."""

    def __init__(self) -> None:
        self.done: list[tuple[int, bytes]] = []
        self._body = b""
        self._parser = httptools.HttpResponseParser(self)

    def feed(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_begin(self) -> None:
        self._body = b""

    def on_body(self, data: bytes) -> None:
        self._body += data

    def on_message_complete(self) -> None:
        self.done.append((self._parser.get_status_code(), self._body))

    def end_of_connection(self) -> None:
        """A response framed by neither length nor chunks ends here (RFC 9112 §6.3 rule 8)."""
        if self._body and (not self.done or self.done[-1][1] is not self._body):
            self.on_message_complete()


def ask(port: int, scenario: Scenario, *, count: int, timeout_s: float) -> None:
    """Send ``count`` of the scenario's requests at once; return if all answers are right."""
    with socket.create_connection(("127.0.0.1", port), timeout=timeout_s) as client:
        client.sendall(request_bytes(scenario, f"127.0.0.1:{port}") * count)
        responses = _read(client, count)
    if len(responses) < count:
        raise ProbeError(f"{len(responses)} of {count} requests answered")
    for status, body in responses:
        if status != 200:
            raise ProbeError(f"status {status}, not 200")
        if body != scenario.expect_body:
            raise ProbeError(f"body {_show(body)}, not {_show(scenario.expect_body)}")


def _read(client: socket.socket, count: int) -> list[tuple[int, bytes]]:
    responses = _Responses()
    while len(responses.done) < count:
        try:
            data = client.recv(_READ_SIZE)
        except TimeoutError:
            break
        if not data:
            responses.end_of_connection()
            break
        try:
            responses.feed(data)
        except httptools.HttpParserError as error:
            raise ProbeError(f"not HTTP: {error}") from None
    return responses.done


def _show(body: bytes) -> str:
    text = repr(body[:_SHOWN])
    return text if len(body) <= _SHOWN else f"{text}… ({len(body)} bytes)"
