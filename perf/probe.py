"""Does this server give the right answer? One connection, a few requests, every answer compared.

Rules of this file: no server is timed before it has passed here, and what is right is the scenario's
word. Responses are read with httptools, WebSockets with the websockets package and HTTP/2 with h2
(h2_probe.py), so that everything that the protocol allows (length, chunks, fragments, frames) counts as
right. Failing to connect is an OSError (try again); a wrong answer is a ProbeError (do not).
"""

from __future__ import annotations

import socket
import ssl

import httptools
from websockets.client import ClientProtocol
from websockets.frames import DATA_OPCODES, Frame, Opcode
from websockets.protocol import State
from websockets.uri import parse_uri

from perf import h2_probe
from perf.scenarios import Scenario, Tool, request_bytes

_READ_SIZE = 65536
_SHOWN = 40
_HANDSHAKE_KEY = "dGhlIHNhbXBsZSBub25jZQ=="
"""RFC 6455 §1.3's sample, the one key whose answer ws_floor.c knows by heart."""


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
    if scenario.tool is Tool.WS_LOAD:
        _ask_websocket(port, scenario, count, timeout_s)
    else:
        _ask_http(port, scenario, count, timeout_s)


def _ask_http(port: int, scenario: Scenario, count: int, timeout_s: float) -> None:
    authority = f"127.0.0.1:{port}"
    with _connect(port, scenario, timeout_s) as client:
        if scenario.tool is Tool.H2LOAD:
            responses = _ask_http2(client, scenario, authority, count)
        else:
            client.sendall(request_bytes(scenario, authority) * count)
            responses = _read(client, count)
    if len(responses) < count:
        raise ProbeError(f"{len(responses)} of {count} requests answered")
    for status, body in responses:
        if status != 200:
            raise ProbeError(f"status {status}, not 200")
        if body != scenario.expect_body:
            raise ProbeError(f"body {_show(body)}, not {_show(scenario.expect_body)}")


def _ask_http2(
    client: socket.socket, scenario: Scenario, authority: str, count: int
) -> list[tuple[int, bytes]]:
    if isinstance(client, ssl.SSLSocket) and client.selected_alpn_protocol() != "h2":
        raise ProbeError("does not speak HTTP/2: ALPN chose no h2")
    try:
        return h2_probe.ask(client, scenario, authority, count)
    except h2_probe.Http2Error as error:
        raise ProbeError(f"not HTTP/2: {error}") from None


def _connect(port: int, scenario: Scenario, timeout_s: float) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", port), timeout=timeout_s)
    if not scenario.tls:
        return client
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if scenario.tool is Tool.H2LOAD:
        context.set_alpn_protocols(["h2"])
    try:
        return context.wrap_socket(client)
    except OSError:
        client.close()
        raise


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


def _ask_websocket(port: int, scenario: Scenario, count: int, timeout_s: float) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=timeout_s) as client:
        session = _Session(client, f"ws://127.0.0.1:{port}{scenario.path}")
        session.open()
        echoes = session.exchange([scenario.body] * count)
        session.close()
    for echo in echoes:
        if echo != scenario.expect_body:
            raise ProbeError(f"echo {_show(echo)}, not {_show(scenario.expect_body)}")


class _Session:
    """One WebSocket, no extension offered, from handshake to close."""

    def __init__(self, client: socket.socket, address: str) -> None:
        self._client = client
        self._protocol = ClientProtocol(parse_uri(address), max_size=None)
        self._protocol.key = _HANDSHAKE_KEY
        self._frames: list[Frame] = []

    def open(self) -> None:
        self._protocol.send_request(self._protocol.connect())
        self._flush()
        while self._protocol.state is State.CONNECTING and self._receive():
            pass
        if self._protocol.state is not State.OPEN:
            raise ProbeError(f"handshake: {self._protocol.handshake_exc or 'no answer'}")

    def exchange(self, messages: list[bytes]) -> list[bytes]:
        """Send all of them, then read as many binary ones."""
        echoes: list[bytes] = []
        try:
            self._exchange(messages, echoes)
        except OSError as error:  # it was open: this is an answer, and a wrong one
            raise ProbeError(f"{len(echoes)} of {len(messages)} messages echoed: {error}") from None
        return echoes

    def _exchange(self, messages: list[bytes], echoes: list[bytes]) -> None:
        for message in messages:
            self._protocol.send_binary(message)
        self._flush()
        while len(echoes) < len(messages):
            echo = self._message()
            if echo is None:
                why = self._protocol.close_exc if self._protocol.state is State.CLOSED else "no more came"
                raise ProbeError(f"{len(echoes)} of {len(messages)} messages echoed: {why}")
            echoes.append(echo)

    def close(self) -> None:
        """Say goodbye; what the server makes of it is not asked here."""
        self._protocol.send_close(1000)
        self._flush()

    def _message(self) -> bytes | None:
        """The next message, its fragments joined; None if none comes."""
        body = b""
        while True:
            while self._frames:
                frame = self._frames.pop(0)
                if frame.opcode is Opcode.TEXT:
                    raise ProbeError("a text message echoes a binary one")
                if frame.opcode in DATA_OPCODES:
                    body += frame.data
                    if frame.fin:
                        return body
            if not self._receive():
                return None

    def _receive(self) -> bool:
        """Read once; False when nothing more comes."""
        try:
            data = self._client.recv(_READ_SIZE)
        except TimeoutError:
            return False
        if data:
            self._protocol.receive_data(data)
        else:
            self._protocol.receive_eof()
        self._frames += [event for event in self._protocol.events_received() if isinstance(event, Frame)]
        self._flush()
        return bool(data)

    def _flush(self) -> None:
        for data in filter(None, self._protocol.data_to_send()):
            self._client.sendall(data)


def _show(body: bytes) -> str:
    text = repr(body[:_SHOWN])
    return text if len(body) <= _SHOWN else f"{text}… ({len(body)} bytes)"
