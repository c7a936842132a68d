"""One input for HTTP/2 (fuzz_h2_script.py), played on a connection, and what must hold of it.

While it is played a Conversation (fuzz_h2_reader.py) judges each frame. What is asked here is whether
requests, apps and responses belong together, and, where nothing is kept back, whether all has been answered.
"""

from __future__ import annotations

import bisect
from collections import Counter
from typing import Any

from fuzz_apps import Call
from fuzz_h2_client import PREAMBLES, Client
from fuzz_h2_frames import END_HEADERS, END_STREAM, HEADERS, NO_ERROR, REFUSED_STREAM, Table, frame, indexed
from fuzz_h2_judge import RIGHT, WRONG
from fuzz_h2_reader import Answer, Conversation
from fuzz_h2_requests import NUMBERED, Tunnel, check_answer, check_body, check_scope, is_blocked, is_same
from fuzz_h2_said import Asked
from fuzz_h2_script import CONNECTION_WINDOW_BYTES, announced, has_tls, is_polite
from fuzz_input import Play, Stage
from fuzz_responses import Broken, Reject, must
from fuzz_script import ends_early
from fuzz_wire import Wire

MOST_EXCHANGES = 200


class Tls:
    """As much of an ssl.SSLObject as a connection asks for."""

    def selected_alpn_protocol(self) -> str:
        return "h2"

    def version(self) -> str:
        return "TLSv1.3"


class Http2Play(Play):
    """One connection from its first byte to its end."""

    def __init__(self, stage: Stage, control: bytes, client: Client, trace: Any) -> None:
        self.breaks, self.ends = client.breaks, sorted(client.breaks)
        self.polite = is_polite(control)
        self.has_tls = has_tls(control, stage.settings)
        self.passed_ms = stage.loop.world.now_ms()
        super().__init__(stage, control, bytes(client.said), trace)

    @property
    def talk(self) -> Conversation:
        return self.conversation_of(self.wire)

    def conversation_of(self, wire: Wire) -> Conversation:
        assert isinstance(wire.listener, Conversation)
        return wire.listener

    def prepare(self, wire: Wire) -> None:
        wire.on_socket = wire.on_socket and not self.has_tls
        wire.ssl_object = Tls() if self.has_tls else None
        wire.listener = Conversation(announced(self.stage.settings), cleartext=not self.has_tls)

    def speaks(self, wire: Wire) -> bool:
        """Whether HTTP/2 is spoken, so far as anybody knows."""
        return self.has_tls or bool(self.conversation_of(wire).said.speaks)

    # What the factory tells

    def call_of(self, scope: Any, receive: Any, send: Any) -> Call:
        wire = self.wire_of(scope["client"])
        if not self.speaks(wire):
            return super().call_of(scope, receive, send)
        try:
            return self.http2_call_of(wire, scope, receive, send)
        except Broken as broken:
            wire.broken = broken  # else it is taken for the app's
            raise

    def http2_call_of(self, wire: Wire, scope: Any, receive: Any, send: Any) -> Call:
        check_scope(scope, self.stage.settings, tls=self.has_tls)
        talk = self.conversation_of(wire)
        kind = Tunnel if scope["type"] == "websocket" else Call
        call = kind(self, self.calls, scope, receive, send)
        asked = self.request_of(call, talk)
        taken: Any = vars(call)
        taken["asked"], taken["conversation"] = asked, talk
        if asked is not None:
            self.check_turn(call, asked, wire)
        return call

    def request_of(self, call: Call, talk: Conversation) -> Asked | None:
        """What the client asked, as which this may be seen. None: nobody knows what it said."""
        number = NUMBERED.search(call.scope["raw_path"])
        first = talk.said.asked.get(int(number[1])) if number is not None else None
        taken = {asked_of(one) for one in self.calls_of(talk)}
        for asked in [*([first] if first is not None else []), *talk.said.asked.values()]:
            if asked not in taken and is_same(call, asked, self.stage.settings):
                return asked
        must(not talk.said.decodes, "a request nobody made", call, call.scope["headers"], talk.said.asked)
        return None

    def calls_of(self, talk: Conversation) -> list[Call]:
        wires = [wire for wire in self.wires if wire.listener is talk]
        return [event for wire in wires for event in wire.events if isinstance(event, Call)]

    def check_turn(self, call: Call, asked: Asked, wire: Wire) -> None:
        talk = self.conversation_of(wire)
        must(not asked.gone, "a request that its client has given up", call, asked)
        must(not talk.last_streams or asked.stream <= talk.last_streams[-1], "beyond GOAWAY", call, asked)
        must(talk.goaway in (None, NO_ERROR), "behind the end", call, asked)
        before = [asked_of(one) for one in self.calls_of(talk)]
        last = max((one.head.number for one in before if one is not None), default=0)
        must(asked.head.number > last, "out of order", call, asked)

    def note_reject(self, reject: Reject, client: Any) -> None:
        if 0 <= reject.status < 1000 or not self.speaks(self.wire_of(client)):
            super().note_reject(reject, client)
            return
        self.trace("reject", reject)
        if reject.status == -1:  # one stream was reset
            must(reject.reason and reject.reason.isprintable(), "rejected because", reject)
            return
        sockets = [one for one in self.wire_of(client).events if isinstance(one, Tunnel) and one.accepted]
        must(sockets, "no WebSocket", reject)
        must(reject.reason and reject.reason.isprintable(), "rejected because", reject)
        must(reject.reason != "the WebSocket engine failed", "engine", reject)
        # Which one is not said. It may be one whose 200 is still to come, so no more is sure.
        codes = {1011}.union(*(socket.failed_with() for socket in sockets))
        must(reject.status in codes, "rejected with", reject, sockets)

    # Steps

    def feed(self, piece: bytes) -> None:
        if self.at - len(piece) in self.breaks:
            piece = self.replies() + piece
        super().feed(piece)
        self.heard(self.wire)

    def feed_next(self) -> None:
        """Called by an app. The connection reads it when that has returned."""
        self.talk.behind = True
        super().feed_next()

    def step_feed(self, kind: int, argument: int) -> None:
        """A kind of its own are reads that end where a frame does."""
        if kind == 3 and self.wire.hears:
            number = bisect.bisect_right(self.ends, self.at + argument * 9)
            self.feed(self.next_piece(self.ends[number] - self.at if number < len(self.ends) else 0))
            self.loop.rest()
        else:
            super().step_feed(kind, argument)

    def heard(self, wire: Wire) -> None:
        if wire.broken is not None:
            raise wire.broken
        talk = self.conversation_of(wire)
        if talk.behind and wire.depth == 0 and not self.loop.ready:
            talk.behind = False
        if not talk.behind:
            talk.seen()
        for event in wire.events:
            if isinstance(event, Call):
                self.check_windows(event, talk)

    def replies(self) -> bytes:
        return self.talk.replies() if self.polite and self.speaks(self.wire) else b""

    def settle(self) -> None:
        for _ in range(MOST_EXCHANGES):  # a frame with a wrong length may swallow them all
            super().settle()
            if self.at not in self.breaks or not self.wire.hears or self.wire.depth:
                return
            replies = self.replies()
            if not replies:
                return
            self.wire.feed(replies)
            self.heard(self.wire)

    def step_neighbour(self) -> None:
        if not self.has_tls:
            super().step_neighbour()
        elif len(self.wires) < 3:
            wire = self.connect()
            fields = [(b":method", b"GET"), (b":scheme", b"https"), (b":authority", b"n"), (b":path", b"/n")]
            block = b"".join(indexed(Table(), *field) for field in fields)
            if wire.hears:
                wire.feed(PREAMBLES[0] + frame(HEADERS, END_HEADERS | END_STREAM, 1, block))

    # What must hold

    def check(self) -> None:
        others = [wire for wire in self.wires if not self.speaks(wire)]
        wires, self.wires = self.wires, others
        try:
            super().check()
        finally:
            self.wires = wires
        for wire in wires:
            wire.read_so_far()
            self.heard(wire)
            if self.speaks(wire):
                self.check_wire(wire)

    def check_wire(self, wire: Wire) -> None:
        talk = self.conversation_of(wire)
        calls = [event for event in wire.events if isinstance(event, Call)]
        rejects = Counter(event.status for event in wire.events if isinstance(event, Reject))
        for answer in talk.answers.values():
            if answer.status:
                self.check_answer(answer, talk, calls, rejects)
        for call in calls:
            asked = asked_of(call)
            self.check_windows(call, talk)
            beyond = talk.last_streams and asked is not None and asked.stream > talk.last_streams[-1]
            must(not beyond, "an app ran for a stream that GOAWAY gives back", call, talk.last_streams)
        ended = wire.closing or wire.lost or wire.half_closed
        must(talk.goaway in (None, NO_ERROR) or ended or wire.buffer, "said GOAWAY and stays", talk.debug)
        if wire.closing and not wire.cut and not wire.lost:
            must(talk.whole, "a frame cut off")
        if not ended and wire.client_reads and not wire.buffer and not wire.depth:
            self.check_rest(wire, calls)

    def check_answer(
        self, answer: Answer, talk: Conversation, calls: list[Call], rejects: Counter[int]
    ) -> None:
        """Somebody said this: the app of that stream, or the server in its place."""
        asked = talk.said.asked[answer.stream]
        must(
            asked.fault is not None or asked.judge_head() != WRONG,
            "an answer to what is no request",
            answer,
            asked,
        )
        own = next((call for call in calls if asked_of(call) is asked), None)
        number = answer.of(b"n")
        if number is not None:
            call = next((call for call in calls if number == b"%d" % call.index), None)
            must(call is not None, "a number of nobody", answer)
            assert call is not None
            must(
                asked_of(call) in (asked, None) and own in (call, None),
                "on the stream of another",
                answer,
                call,
            )
            check_answer(call, answer)
        elif isinstance(own, Tunnel) and own.accepted:
            own.check_answer(answer)
        elif answer.status == 500 and own is not None and own.failed:
            pass
        elif answer.status == 403 and own is not None and own.denied:
            must(not answer.body, "a body nobody said", answer)
        else:
            rejects[answer.status] -= 1
            must(rejects[answer.status] >= 0, "nobody said this", answer, asked, own)

    def check_windows(self, call: Call, talk: Conversation) -> None:
        """What the app has not taken keeps the window closed."""
        asked = asked_of(call)
        if asked is None or isinstance(call, Tunnel) or call.done or call.finished or call.gone:
            return
        answer = talk.answers.get(asked.stream)
        events = self.wire_of(call.scope["client"]).events
        if (
            asked.reset
            or asked.fault is not None
            or (answer is not None and answer.over)
            or any(isinstance(one, Reject) for one in events)
        ):
            return  # nobody will take it
        body, flow_bytes = talk.said.begun(asked)
        taken = sum(map(len, call.body)) + flow_bytes - len(body)
        must(
            asked.given_bytes <= taken, "a window opened although nobody read", asked, asked.given_bytes, call
        )

    def check_rest(self, wire: Wire, calls: list[Call]) -> None:
        """The client has everything that was said, and nobody is about to say anything."""
        talk = self.conversation_of(wire)
        said = talk.said
        if self.loop.ready or self.suspended or said.fault is not None or not said.speaks or said.leaves:
            return
        must(talk.whole, "a frame cut off")
        must(
            talk.goaway in (None, NO_ERROR),
            "an error of nobody",
            talk.goaway,
            talk.debug,
            said.asked,
        )
        must(said.frames == 0 or talk.frames, "no SETTINGS")
        must(not said.pending and not said.pings, "not acknowledged", said.pending, said.pings)
        by_stream = {one.stream: call for call in calls if (one := asked_of(call)) is not None}
        for asked in said.asked.values():
            answer = talk.answers.get(asked.stream)
            call = by_stream.get(asked.stream)
            beyond = talk.last_streams and asked.stream > talk.last_streams[-1]
            if asked.reset or beyond or (answer is not None and answer.over):
                continue
            verdict = asked.judge()
            must(verdict != WRONG, "a stream that lives", asked, call)
            if verdict == RIGHT and call is None:
                must(answer is not None, "a request nobody answered", asked)
            closing = isinstance(call, Tunnel) and call.accepted and not asked.ended
            if (call is None or call.done) and not closing:  # a WebSocket waits for the client's close frame
                must(answer is not None and is_blocked(talk, answer), "no end", asked, call, answer)
        self.check_given_back(talk, by_stream)

    def check_given_back(self, talk: Conversation, calls: dict[int, Call]) -> None:
        """When every app is done the connection's window is open again, but for what is not worth a frame."""
        if any(not call.done for call in calls.values()):
            return
        window_bytes = self.stage.settings.get(
            "http2_initial_connection_window_size", CONNECTION_WINDOW_BYTES
        )
        given = talk.said.given_bytes - (window_bytes - 65_535)
        must(
            talk.said.flow_bytes - given <= window_bytes // 2 + 1,
            "a window that stays closed",
            talk.said.flow_bytes,
            given,
        )

    def check_body(self, call: Call) -> None:
        if not self.speaks(self.wire_of(call.scope["client"])):
            super().check_body(call)
            return
        asked = asked_of(call)
        if asked is not None and not isinstance(call, Tunnel):
            check_body(call, asked, self.conversation_of(self.wire_of(call.scope["client"])))
            length = sum(map(len, call.body))
            must(
                length <= (self.stage.settings.get("limit_request_body") or length),
                "limit_request_body",
                call,
            )

    def outcome(self) -> Any:
        """What must not depend on how the bytes were cut, of a client that made no mistake."""
        if not self.speaks(self.wire):
            return super().outcome()
        talk = self.talk
        said = talk.said
        unsure = (
            ends_early(self.control)
            or said.fault is not None
            or said.leaves
            or talk.goaway is not None
            or "limit_concurrency" in self.stage.settings
        )
        if unsure or any(answer.reset == REFUSED_STREAM for answer in talk.answers.values()):
            return None
        streams, heads = {}, {}
        calls = {asked_of(call): call for call in self.calls_of(talk)}
        for asked in said.asked.values():
            answer = talk.answers.get(asked.stream)
            right = asked.goes_on_right and asked.judge() != WRONG and not asked.reset
            if not right or answer is None or not answer.ended:
                continue
            # Without the index in front of it (digest()): what is reset meanwhile may have no app.
            streams[asked.stream] = answer.status, bytes(answer.body.partition(b" ")[2])
            if (
                answer.status < 400 and asked in calls
            ):  # of one that is refused, an app may have seen the head
                heads[asked.stream] = calls[asked].seen()
        return streams, heads


def asked_of(call: Call) -> Asked | None:
    found = vars(call).get("asked")
    assert found is None or isinstance(found, Asked)
    return found
