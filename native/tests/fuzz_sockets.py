"""A WebSocket as its app sees it, and what must hold of it.

Apps (fuzz_socket_apps.py) hear and say everything through a Socket. So it knows in which order they may
speak, what they heard, and what their client is to get; ``check_wire`` compares that with what the client
sent and got.
"""

from __future__ import annotations

import re
from typing import Any

from fuzz_apps import MADE, Call
from fuzz_reference import Heard, Rules, Said, read_output
from fuzz_responses import must

from shardserve.errors import ClientDisconnected, MessageError

OPENING, DENYING, OPEN, OVER = "opening", "denying", "open", "over"
NEXT = {
    (OPENING, "websocket.accept"): OPEN,
    (OPENING, "websocket.close"): OVER,
    (OPENING, "websocket.http.response.start"): DENYING,
    (DENYING, "websocket.http.response.body"): DENYING,
    (OPEN, "websocket.send"): OPEN,
    (OPEN, "websocket.close"): OVER,
}
HEAD = re.compile(
    rb"HTTP/1\.1 101 Switching Protocols\r\n((?:[!#-'*+\-.^-z|~A-Z0-9]+: ?[\x20-\x7e]*\r\n)+)\r\n"
)
ACCEPT = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="  # of the key in RFC 6455 §1.3
KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
WINDOW = re.compile(rb"client_max_window_bits=([0-9]+)")
SERVER_ENDS = {1001, 1006, 1011, 1012}
"""Codes that say nothing of what the client sent."""


class Socket(Call):
    """One WebSocket as its app sees it, and what the app said."""

    def __init__(self, world: Any, index: int, scope: dict[str, Any], receive: Any, send: Any) -> None:
        super().__init__(world, index, scope, receive, send)
        self.state = OPENING
        self.connected = False
        self.heard: list[str | bytes] = []
        self.said: list[str | bytes] = []
        self.told: tuple[int, str] | None = None  # websocket.disconnect
        self.said_close: tuple[int, str] | None = None
        self.refused = 0  # ClientDisconnected
        self.rejected: list[int] = []  # close codes that on_reject heard of

    def __repr__(self) -> str:
        return (
            f"<Socket {self.index} {self.behaviour}: {self.state}, heard {self.heard!r:.200}, {self.told}, "
            f"said {self.said!r:.200} {self.said_close}>"
        )

    def seen(self) -> tuple[Any, ...]:
        return (*self.head(), self.accepted, self.heard, self.told)

    # What apps do

    async def hear(self) -> Any:
        """One message."""
        return self.note(await self.receive())

    def note(self, message: dict[str, Any]) -> Any:
        kind = message["type"]
        if kind == "websocket.connect":
            must(not self.connected and len(message) == 1, "connect", message)
            self.connected = True
        elif kind == "websocket.receive":
            must(self.connected and self.told is None and len(message) == 3, "receive", message)
            text, data = message["text"], message["bytes"]
            must((text is None) != (data is None), "text and bytes", message)
            must(type(text) is str or type(data) is bytes, "types", message)
            self.heard.append(data if text is None else text)
        else:
            must(kind == "websocket.disconnect" and len(message) == 3, "message", message)
            told = message["code"], message["reason"]
            must(type(told[0]) is int and type(told[1]) is str, "disconnect", message)
            must(self.told in (None, told), "another end", self.told, told)
            self.told, self.gone = told, True
        return kind

    async def tell(self, kind: str, **rest: Any) -> bool:
        """False: it may not be said now. Raises ClientDisconnected."""
        following = NEXT.get((self.state, kind))
        try:
            waiter = self.send({"type": kind, **rest})
        except ClientDisconnected:
            self.refused += 1
            raise
        except MessageError:
            must(following is None, "not to be said", self, kind)
            return False
        must(following is not None, "said out of order", self, kind)
        self.change(kind, rest, str(following))
        await waiter
        return True

    def change(self, kind: str, rest: dict[str, Any], following: str) -> None:
        if kind == "websocket.accept":
            self.accepted = self.finished = True
        elif kind == "websocket.send":
            self.said.append(rest["text"] if rest.get("text") is not None else bytes(rest["bytes"]))
        elif kind == "websocket.http.response.start":
            self.status = rest["status"]
        elif kind == "websocket.http.response.body":
            self.sent += rest.get("body", b"")
            self.finished = not rest.get("more_body", False)
            following = OVER if self.finished else following
        elif self.state == OPENING:
            self.denied = self.finished = True
        else:
            self.said_close = rest.get("code", 1000), rest.get("reason", "")
        self.state = following

    async def accept(self, **rest: Any) -> None:
        await self.hear()
        await self.tell("websocket.accept", **rest)

    async def echo(self, message: str | bytes) -> None:
        await self.tell(
            "websocket.send", **({"text": message} if isinstance(message, str) else {"bytes": message})
        )

    async def start(self, status: int = 200, *headers: tuple[bytes, bytes]) -> None:
        fields = [(b"n", b"%d" % self.index), *headers]
        await self.tell("websocket.http.response.start", status=status, headers=fields)

    async def part(self, data: bytes, more: bool = False) -> None:
        await self.tell("websocket.http.response.body", body=data, more_body=more)

    async def close(self, code: int = 1000, reason: str = "") -> None:
        await self.tell("websocket.close", code=code, reason=reason)

    # What must hold

    @property
    def wire(self) -> Any:
        return self.world.wire_of(self.scope["client"])

    @property
    def over(self) -> bool:
        """Whether it was ended."""
        return bool(self.wire.lost)

    @property
    def quiet(self) -> bool:
        """Whether its client has had time to get all that was said."""
        wire = self.wire
        return not (wire.closing or wire.lost or wire.half_closed or wire.buffer) and wire.client_reads

    def streams(self) -> list[bytes]:
        """What the client sent behind the handshake: each way to find that in its bytes."""
        fed = bytes(self.wire.fed)
        found = []
        begin = 0
        while (end := fed.find(b"\r\n\r\n", begin) + 4) >= 4:
            head = fed[begin:end]
            fields = [value for name, value in self.scope["headers"] if name not in MADE]
            if b"GET " in head and all(value in head for value in fields):
                found.append(fed[end:])
            begin = end
        must(found, "a handshake nobody sent", self)
        return found

    def check_wire(self, output: bytes) -> None:
        """``output``: all that the client has from the 101 on."""
        end = output.find(b"\r\n\r\n") + 4
        if end < 4:
            must(output[:13] == b"HTTP/1.1 101 "[: len(output)], "no 101", output[:200])
            return
        self.check_frames(output[end:], self.check_head(output[:end]))

    def rules(self, bits: int) -> Rules:
        settings = self.world.stage.settings
        return Rules(settings.get("ws_max_size", 0), settings["websocket"]["max_fragments"], bits)

    def check_frames(self, output: bytes, bits: int) -> None:
        """``output``: behind the handshake; ``bits``: the client's window, 0 if nothing was agreed."""
        heard, rules = read_output(output, bits), self.rules(bits)
        problems = [self.problem(Said(stream, rules), heard) for stream in self.streams()]
        must(None in problems, *problems, self)
        self.check_said(heard)

    def check_head(self, head: bytes) -> int:
        """The client's window in bits, 0 if nothing was agreed."""
        match = HEAD.fullmatch(head)
        must(match, "no 101", head)
        lines = match[1].lower().split(b"\r\n")[:-1]  # type: ignore[index]
        names = [line.split(b":")[0] for line in lines]
        must(len(set(names) - {b"x"}) == len([name for name in names if name != b"x"]), "twice", head)
        must(b"upgrade: websocket" in lines and b"connection: upgrade" in lines, "no upgrade", head)
        must(not {b"content-length", b"transfer-encoding"} & set(names), "a body", head)
        keys = [value for name, value in self.scope["headers"] if name == b"sec-websocket-key"]
        must(len(keys) == 1, "keys", keys)
        must(keys[0] != KEY or b"sec-websocket-accept: " + ACCEPT.lower() in lines, "accept", head)
        return self.window_of([line for line in lines if line.startswith(b"sec-websocket-extensions:")])

    def window_of(self, extensions: list[bytes]) -> int:
        """``extensions``: what the response says."""
        if not extensions:
            return 0
        offered = b"".join(
            value for name, value in self.scope["headers"] if name == b"sec-websocket-extensions"
        )
        must(b"permessage-deflate" in offered.lower(), "nobody offered it", extensions)
        must(extensions[0].count(b"_no_context_takeover") == 2, "context takeover", extensions)
        window = WINDOW.search(extensions[0])
        return int(window[1]) if window else 15

    def problem(self, said: Said, heard: Heard) -> str | None:
        """What is wrong if the client said that; None: nothing."""
        if self.heard != said.messages[: len(self.heard)]:
            return f"heard what nobody said: {said!r}"
        if heard.pongs != said.pings[: len(heard.pongs)]:
            return f"pongs without pings: {heard.pongs!r:.200} {said!r}"
        failed, closed = self.codes(said)
        if self.told is not None and self.told[0] not in SERVER_ENDS and self.said_close is None:
            if self.told != closed and self.told[0] not in failed:
                return f"told {self.told}, but {said!r}"
            if said.ending != ("unsure",) and self.heard != said.messages:
                return f"not all was heard: {said!r}"
        if self.ended_by_eof and said.ending is None and self.heard != said.messages:
            return f"not all was heard before the end of the input: {said!r}"
        if heard.close is not None and not self.may_close(heard.close, failed, closed):
            return f"closed with {heard.close}, but {said!r}"
        if not set(self.rejected) <= failed | {1011}:
            return f"rejected {self.rejected}, but {said!r}"
        return None

    @property
    def ended_by_eof(self) -> bool:
        """Whether the end of the input, and nothing else, ended it."""
        wire = self.wire
        return self.told == (1006, "") and wire.ended and not wire.cut and self.said_close is None

    def codes(self, said: Said) -> tuple[set[int], tuple[int, str] | None]:
        """With what the connection may be failed; how the client closed it."""
        ending = said.ending
        if ending is None:
            return set(), None
        if ending[0] == "close":
            return set(), (ending[1], ending[2])
        return (ending[1] if ending[0] == "fail" else {1002, 1007, 1008, 1009}), None

    def may_close(self, close: tuple[int, str], failed: set[int], closed: tuple[int, str] | None) -> bool:
        code, settings = close[0], self.world.stage.settings
        if self.said_close is not None and close == self.said_close:
            return True
        if closed is not None and code == closed[0]:
            return True
        return (
            code in failed
            or (code == 1000 and self.done and not self.failed)
            or (code == 1011 and (self.failed or bool(settings.get("ws_ping_timeout_ms"))))
            or (code == 1001 and bool(settings.get("ws_idle_ms")))
            or (code == 1012 and self.world.owns_stage)
        )

    def check_said(self, heard: Heard) -> None:
        """What the client has is what the app said."""
        must(heard.messages == self.said[: len(heard.messages)], "nobody said this", heard, self)
        quiet = self.quiet
        if heard.close is not None or quiet:
            must(heard.whole or not quiet, "a part of a frame", self)
            must(heard.messages == self.said, "not all of it came", heard, self)

    def agreed(self) -> int:
        """The client's window in bits, 0 if nothing was agreed, of one that was answered."""
        head = bytes(self.wire.read_so_far())
        return self.check_head(head[(at := head.rfind(b"HTTP/1.1 101 ")) : head.find(b"\r\n\r\n", at) + 4])

    def check_all_heard(self) -> None:
        """Nothing happened to the connection, and its app heard on and on: so it heard everything."""
        rules = self.rules(self.agreed())
        known = [said for stream in self.streams() if (said := Said(stream, rules)).ending != ("unsure",)]
        must(
            not known or any(self.heard == said.messages for said in known), "not all was heard", self, known
        )
