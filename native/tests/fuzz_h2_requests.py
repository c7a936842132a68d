"""What must hold of a request or a WebSocket over HTTP/2 that an app sees, beside what its client said."""

from __future__ import annotations

import re
from typing import Any

from fuzz_apps import MADE, Call
from fuzz_h2_frames import Field
from fuzz_h2_judge import CONNECTION_FIELDS, WRONG
from fuzz_h2_reader import Answer, Conversation
from fuzz_h2_said import Asked
from fuzz_reference import Said as SocketSaid
from fuzz_requests import FIELDS, HOST, METHOD, TARGET, TOKEN, check_limits
from fuzz_responses import must
from fuzz_sockets import Socket

NUMBERED = re.compile(rb"/s([0-9]+)")
SOCKET_EXTENSIONS = {"websocket.http.response"}


class Tunnel(Socket):
    """A WebSocket that has a stream of HTTP/2 (RFC 8441)."""

    asked: Asked
    conversation: Conversation

    @property
    def over(self) -> bool:
        answer = self.conversation.answers.get(self.asked.stream)
        return self.asked.reset or super().over or (answer is not None and answer.over)

    @property
    def quiet(self) -> bool:
        answer = self.conversation.answers.get(self.asked.stream)
        blocked = answer is not None and is_blocked(self.conversation, answer)
        over = (
            self.asked.reset or (answer is not None and answer.over) or self.conversation.goaway is not None
        )
        return super().quiet and not blocked and not over

    @property
    def ended_by_eof(self) -> bool:
        """Whether END_STREAM, and nothing else, ended it."""
        wire, asked = self.wire, self.asked
        ended = asked.ended and not asked.reset and not wire.cut and not wire.lost
        stays = self.conversation.goaway is None and self.said_close is None
        return bool(self.told == (1006, "") and ended and stays)

    def streams(self) -> list[bytes]:
        return [bytes(self.asked.body)]

    def check_answer(self, answer: Answer) -> None:
        """What the client has of it, once it is accepted."""
        must(answer.status == 200, "not accepted", answer, self)
        names = {name for name, _ in answer.fields}
        wrong = {b"upgrade", b"connection", b"sec-websocket-accept", b"content-length", b"content-type"}
        must(not names & wrong, "fields of a WebSocket", answer)
        self.check_frames(bytes(answer.body), self.window_in(answer))

    def failed_with(self) -> set[int]:
        """With what it may be failed, whatever was agreed."""
        said = [SocketSaid(self.conversation.said.begun(self.asked)[0], self.rules(bits)) for bits in (0, 15)]
        return set().union(*(self.codes(one)[0] for one in said))

    def window_in(self, answer: Answer) -> int:
        extensions = [value.lower() for name, value in answer.fields if name == b"sec-websocket-extensions"]
        return self.window_of(extensions)

    def agreed(self) -> int:
        return self.window_in(self.conversation.answers[self.asked.stream])


def is_blocked(conversation: Conversation, answer: Answer) -> bool:
    """Whether the client's windows keep the rest of it back."""
    return conversation.room(answer) <= 0


def check_scope(scope: dict[str, Any], settings: dict[str, Any], *, tls: bool) -> None:
    path, headers = scope["raw_path"], scope["headers"]
    must(scope["http_version"] == "2", "version", scope)
    must(scope["scheme"] in (("https", "wss") if tls else ("http", "ws")), "scheme", scope)
    if scope["type"] == "websocket":
        must("method" not in scope and scope["scheme"].startswith("ws"), "scope", scope)
        must(all(TOKEN.fullmatch(name) for name in scope["subprotocols"]), "subprotocols", scope)
        must(set(scope["extensions"]) - {"shardserve.request_id"} == SOCKET_EXTENSIONS, "extensions", scope)
        versions = [value for name, value in headers if name == b"sec-websocket-version"]
        must(versions == [b"13"], "version", versions)
    method = scope.get("method", "GET")
    must(METHOD.fullmatch(method) and method != "CONNECT", "method", method)
    root = settings.get("root_path", "").encode()
    must(path.startswith(root + b"/") or (path == root + b"*" and method == "OPTIONS"), "path", path)
    whole = b"?" not in path and TARGET.fullmatch(path) and TARGET.fullmatch(scope["query_string"])
    must(whole, "target", scope)
    must(FIELDS.fullmatch(b"".join([b"%s:%s\n" % field for field in headers])), "fields", headers)
    check_names(headers)
    check_limits([field for field in headers if field[0] != b"cookie"], settings)


def check_names(headers: list[Field]) -> None:
    names = [name for name, _ in headers]
    must(names[:1] == [b"host"] and names.count(b"host") == 1, "host", headers)
    must(HOST.fullmatch(headers[0][1]), "host", headers)
    must(not CONNECTION_FIELDS & set(names), "a field of the connection", headers)
    must(names.count(b"cookie") <= 1 and names.count(b"content-length") <= 1, "twice", headers)
    lengths = [value for name, value in headers if name == b"content-length"]
    must(all(value.isdigit() for value in lengths), "length", lengths)
    must(all(value.lower() == b"trailers" for name, value in headers if name == b"te"), "te", headers)


def expected(asked: Asked) -> list[Field]:
    """The fields that an app is to see, without those that settings may drop."""
    block = asked.head
    regular = [field for field in block.fields if not field[0].startswith(b":")]
    hosts = block.of(b":authority") or block.of(b"host")
    cookies = block.of(b"cookie")
    rest = [(name, value) for name, value in regular if name not in (b"host", b"cookie") and b"_" not in name]
    return [
        *((b"host", host) for host in hosts[:1]),
        *rest,
        *([(b"cookie", b"; ".join(cookies))] if cookies else []),
    ]


def seen(call: Call) -> list[Field]:
    fields = [field for field in call.scope["headers"] if field[0] not in MADE and b"_" not in field[0]]
    cookies = [field for field in fields if field[0] == b"cookie"]
    return [field for field in fields if field[0] != b"cookie"] + cookies


def is_same(call: Call, asked: Asked, settings: dict[str, Any]) -> bool:
    """Whether the app sees this request."""
    if not asked.blocks or asked.judge_head() == WRONG:
        return False
    block, scope = asked.head, call.scope
    method = "CONNECT" if isinstance(call, Socket) else call.method
    if [method.encode()] != block.of(b":method"):
        return False
    target = scope["raw_path"].removeprefix(settings.get("root_path", "").encode())
    if scope["query_string"] or b"?" in block.of(b":path")[0]:
        target += b"?" + scope["query_string"]
    if [target] != [path.partition(b"#")[0] for path in block.of(b":path")]:
        return False
    wanted = [field for field in expected(asked) if field[0] not in MADE]
    return seen(call) == wanted


def check_body(call: Call, asked: Asked, talk: Conversation) -> None:
    """After the connection: what the app got of the body."""
    body = b"".join(call.body)
    must(talk.said.begun(asked)[0].startswith(body), "a body nobody sent", call, asked)
    if call.complete and asked.fault is None:
        must(asked.ended and len(body) == len(asked.body), "a part looks like the whole", call, asked)
        must(asked.judge() != WRONG, "a body that is not what it says", call, asked)


def check_answer(call: Call, answer: Answer) -> None:
    """``answer`` is the app's own: it is what the app said."""
    must(answer.status == call.status, "status", answer, call)
    expects = any(name == b"expect" for name, _ in call.scope["headers"])
    for status, fields in answer.hints:
        if status == 100:
            must(expects and [one for one, _ in answer.hints].count(100) == 1, "100 for nobody", call)
        else:
            links = [field for field in fields if field[0] == b"link"]
            hint = call.behaviour == "sends_trailers" and links == [(b"link", b"</a>"), (b"link", b"</b>")]
            must(status == 103 and hint, "103 for nobody", answer, call)
    trailers = [(b"a", b"1"), (b"b", b"2"), (b"c", b"3")]
    must(answer.trailers in (None, trailers), "trailers", answer, call)
    must(answer.trailers is None or call.behaviour == "sends_trailers", "trailers", answer, call)
    if call.method == "HEAD" or answer.status in (204, 304):
        return
    sent, body = bytes(call.sent), bytes(answer.body)
    must(sent.startswith(body), "body", body, sent)
    if not answer.ended:
        return
    if answer.length is None:
        ended = call.finished or answer.of(b"content-type") == b"text/event-stream"
        must(ended, "a part looks like the whole", call, answer)
    if call.finished:
        must(body == sent, "length of the body", answer, call)
        if call.behaviour == "sends_trailers":
            must(answer.trailers == trailers, "no trailers", answer, call)
    must(answer.length is None or len(sent) <= len(body), "more than promised", call)
