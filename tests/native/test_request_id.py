"""The request id: the client's if it is harmless, else made; in the scope, in the answer and in the log."""

from __future__ import annotations

import asyncio
import json
import os
import re
import string
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers.ws import handshake
from tests.native.drive import Driver, FakeTransport, get, reply, turns
from tests.native.isolated import survives
from tests.native.observe_drive import NO_LIMITS, Eyes, Op, request
from tests.native.ws_drive import engine

FIELD = b"X-Request-ID"
NAME = FIELD.lower()
MADE = re.compile(r"[0-9a-f]{32}")
ALLOWED = (string.ascii_letters + string.digits + "._~+/=:@-").encode()
OPS: list[Op] = [("request_id", None), ("status", None)]
EXTENSION = "shardserve.request_id"


class Seer:
    """An app that notes what it was told, and answers as its path says."""

    def __init__(self) -> None:
        self.ids: list[str] = []
        self.fields: list[list[bytes]] = []
        self.scopes: list[Any] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        extension = scope["extensions"].get(EXTENSION)
        if extension is not None:
            assert set(extension) == {"id"}
            self.ids.append(extension["id"])
        self.fields.append([value for name, value in scope["headers"] if name == NAME])
        path = scope["path"]
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close" if path == "/deny" else "websocket.accept"})
            return
        headers: Any = []
        if path == "/own":
            headers = [(b"x-REQUEST-id", b"mine")]
        elif path == "/two":
            headers = [(b"x-request-id", b"1"), (b"X-Request-Id", b"2")]
        elif path == "/boom":
            raise ValueError
        elif path == "/later":
            await asyncio.sleep(0)
        elif path == "/change":
            scope["headers"][:] = [(b"x-request-id", b"changed\r\nx: y")]
            scope["extensions"][EXTENSION]["id"] = "changed"
            scope["extensions"].clear()
        elif path == "/hint":
            await send({"type": "http.response.early_hint", "links": [b"</a>"]})
        await reply(send, b"ok", headers)


def ids_of(output: bytes) -> list[list[str]]:
    """The ids of each response head in ``output``."""
    heads = [part.partition(b"\r\n\r\n")[0] for part in output.split(b"HTTP/1.1 ")[1:]]
    return [
        [
            line.partition(b":")[2].strip().decode()
            for line in head.split(b"\r\n")
            if line.lower().startswith(NAME)
        ]
        for head in heads
    ]


async def exchange(*data: bytes, field: bytes = FIELD, **options: Any) -> dict[str, Any]:
    """One connection: what the app saw, what came out, what was logged."""
    seer = Seer()
    eyes = Eyes(seer, OPS, request_id_field=field, websocket=engine(), **{**NO_LIMITS, **options})
    output = await eyes.talk(*data)
    return {
        "ids": seer.ids,
        "fields": [[value.decode("latin-1") for value in values] for values in seer.fields],
        "sent": ids_of(output),
        "lines": eyes.rows(),
        "errors": [args[-1] for args in eyes.driver.errors],
        "unraisable": eyes.unraisable,
        "output": output.decode("latin-1"),
    }


def with_id(*values: bytes, path: bytes = b"/", version: bytes = b"1.1") -> bytes:
    return request(b"GET", path, *((FIELD, value) for value in values), version=version)


async def taken(value: str) -> Any:
    return await exchange(with_id(value.encode("latin-1")))


GOOD = ["a", "0", "abc-123", "A.B_C~D+E/F=G:H@I-J", "x" * 128, "7b0c2e7e-6a5a-4c2e-8f52-9d6d2b0e7c11", "="]
BAD = [
    "", "x" * 129, "x" * 8000, "a b", "a\tb", "a,b", "a;b", 'a"b', "a\\b", "a%0d%0ab", "a{b}", "é", "a\xffb",
    "<script>", "a'b", "a`b", "a|b", "a(b)", "a?b", "a#b", "a*b", "a!b", "a&b", "a$b", "a^b",
]  # fmt: skip


@pytest.mark.parametrize("value", GOOD)
def test_a_good_one_is_taken(value: str) -> None:
    found = survives(taken, value)
    assert found["ids"] == [value]
    assert found["fields"] == [[value]]
    assert found["sent"] == [[value]]
    assert found["lines"] == [[value, "200"]]


def assert_made(found: dict[str, Any]) -> str:
    """One id for the scope, the headers, the answer and the log, and it is made."""
    [made] = found["ids"]
    assert MADE.fullmatch(made), made
    assert found["fields"] == [[made]]
    assert found["sent"] == [[made]]
    assert [line[0] for line in found["lines"]] == [made]
    assert found["unraisable"] == []
    return str(made)


@pytest.mark.parametrize("value", BAD, ids=range(len(BAD)))
def test_a_bad_one_is_replaced(value: str) -> None:
    assert_made(survives(taken, value))


async def every_byte() -> dict[int, bool]:
    seer = Seer()
    eyes = Eyes(seer, request_id_field=FIELD, **NO_LIMITS)
    found = {}
    for code in (9, *range(0x20, 0x7F), *range(0x80, 0x100)):
        await eyes.talk(with_id(b"a" + bytes([code]) + b"b"))
        found[code] = seer.ids[-1] == "a" + chr(code) + "b"
    return found


def test_the_alphabet_of_a_good_one() -> None:
    found = survives(every_byte)
    assert {int(code) for code, good in found.items() if good} == set(ALLOWED)


async def several(values: list[str], name: str = FIELD.decode()) -> Any:
    fields = [(name.encode(), value.encode()) for value in values]
    return await exchange(request(b"GET", b"/", *fields))


def test_none_is_made() -> None:
    found = survives(several, [])
    [made] = found["ids"]
    assert MADE.fullmatch(made)
    assert found["sent"] == [[made]]
    assert found["lines"] == [[made, "200"]]
    assert found["fields"] in ([[]], [[made]])


@pytest.mark.parametrize(
    "values", [["a", "b"], ["a", "a"], ["", "b"], ["a b", "c"], ["a", "b c"], ["a"] * 50]
)
def test_several_are_one(values: list[str]) -> None:
    """Which one it is, is open; that scope, answer and log agree is not, nor that a bad one is never it."""
    found = survives(several, values)
    [one] = found["ids"]
    assert one in values or MADE.fullmatch(one)
    assert re.fullmatch(r"[A-Za-z0-9._~+/=:@-]{1,128}", one)
    assert found["sent"] == [[one]]
    assert found["lines"] == [[one, "200"]]
    for field in found["fields"][0]:
        assert re.fullmatch(r"[A-Za-z0-9._~+/=:@-]{1,128}", field), "a bad one is left in the scope"


@pytest.mark.parametrize("name", ["x-request-id", "X-REQUEST-ID", "x-ReQuEsT-iD"])
def test_the_name_in_any_case(name: str) -> None:
    assert survives(several, ["abc"], name)["ids"] == ["abc"]


@pytest.mark.parametrize("name", ["X-Request-I", "X-Request-IDs", "X_Request_ID", "X-Request-Id-"])
def test_another_name_is_not_it(name: str) -> None:
    [made] = survives(several, ["abc"], name)["ids"]
    assert MADE.fullmatch(made)


async def spelled(field: str) -> Any:
    return await exchange(get(), field=field.encode())


@pytest.mark.parametrize("field", ["X-Request-ID", "x-request-id", "X-REQUEST-ID"])
def test_the_setting_in_any_case(field: str) -> None:
    found = survives(spelled, field)
    assert found["sent"] == [found["ids"]]
    assert field.lower() in found["output"].lower()


# The answer


async def answered(path: str, version: str = "1.1") -> Any:
    return await exchange(with_id(b"abc", path=path.encode(), version=version.encode()))


def test_an_answer_that_has_one_gets_no_other() -> None:
    found = survives(answered, "/own")
    assert found["sent"] == [["mine"]]
    assert (found["ids"], found["lines"]) == (["abc"], [["abc", "200"]])


def test_an_answer_that_has_two_keeps_them() -> None:
    assert survives(answered, "/two")["sent"] == [["1", "2"]]


@pytest.mark.parametrize("path", ["/", "/later", "/boom"])
@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_the_answer_has_it(path: str, version: str) -> None:
    found = survives(answered, path, version)
    assert found["sent"] == [["abc"]]
    assert found["lines"] == [["abc", "500" if path == "/boom" else "200"]]
    assert found["errors"] == (["abc"] if path == "/boom" else [])


def test_a_hint_has_none_or_the_same() -> None:
    hint, final = survives(answered, "/hint")["sent"]
    assert hint in ([], ["abc"])
    assert final == ["abc"]


def test_what_the_app_does_to_its_scope_changes_nothing_outside() -> None:
    found = survives(answered, "/change")
    assert found["sent"] == [["abc"]]
    assert found["lines"] == [["abc", "200"]]
    assert "x: y" not in found["output"]


async def changed_for_the_next() -> Any:
    return await exchange(with_id(b"abc", path=b"/change") + get("/") + with_id(b"def"))


def test_and_nothing_in_the_next_request() -> None:
    found = survives(changed_for_the_next)
    assert found["ids"][0] == "abc"
    assert MADE.fullmatch(found["ids"][1])
    assert found["ids"][2] == "def"
    assert found["sent"] == [[one] for one in found["ids"]]


async def own_after_failure() -> Any:
    """The head that said it was rolled back."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(NAME, b"mine")]})
        raise ValueError

    eyes = Eyes(app, OPS, request_id_field=FIELD)
    return [ids_of(await eyes.talk(with_id(b"abc"))), eyes.rows()]


def test_a_500_in_place_of_a_head_that_had_its_own() -> None:
    assert survives(own_after_failure) == [[["abc"]], [["abc", "500"]]]


async def pipelined() -> Any:
    return await exchange(
        b"".join(with_id(b"r%d" % number, path=b"/later") for number in range(5)) + get() * 5
    )


def test_pipelined_requests_have_their_own() -> None:
    found = survives(pipelined)
    assert found["ids"][:5] == [f"r{number}" for number in range(5)]
    assert len(set(found["ids"])) == 10
    assert found["sent"] == [[one] for one in found["ids"]]
    assert [line[0] for line in found["lines"]] == found["ids"]


async def refused_one() -> Any:
    async def waits(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await receive()

    eyes = Eyes(waits, OPS, request_id_field=FIELD, limit_concurrency=1)
    connection, _ = eyes.connect()
    connection.data_received(get())
    await turns()
    output = await eyes.talk(with_id(b"abc"), with_id(b"a b"))
    connection.connection_lost(None)
    return [ids_of(output), eyes.rows()]


def test_an_overload_has_it() -> None:
    sent, lines = survives(refused_one)
    assert sent[0] == ["abc"]
    assert MADE.fullmatch(sent[1][0])
    assert [line[0] for line in lines[:2]] == ["abc", sent[1][0]]


REJECTED = {
    "no request": b"nonsense\r\n\r\n",
    "a head that breaks off": with_id(b"abc")[:-2] + b"A : b\r\n\r\n",
    "a body that breaks off": request(b"POST", b"/", (FIELD, b"abc"), (b"Transfer-Encoding", b"chunked"))
    + b"x\r\n",
    "a hostile one": with_id(b"a\rb"),
    "one with NUL": with_id(b"a\0b"),
}


async def rejected(name: str) -> Any:
    return await exchange(REJECTED[name])


@pytest.mark.parametrize("name", REJECTED)
def test_a_request_that_is_none(name: str) -> None:
    [sent] = survives(rejected, name)["sent"]
    assert sent in ([], ["abc"]) or MADE.fullmatch(sent[0])


@settings(max_examples=200, deadline=None, database=None)
@given(value=st.binary(max_size=40))
def check_split(value: bytes) -> None:
    async def one() -> None:
        seer = Seer()
        driver = Driver(seer, request_id_field=FIELD, **NO_LIMITS)
        connection, transport = driver.connect()
        connection.data_received(with_id(value))
        output = transport.read()
        head = output.partition(b"\r\n\r\n")[0]
        for [sent] in [one for one in ids_of(head) if one]:
            assert re.fullmatch(r"[A-Za-z0-9._~+/=:@-]{1,128}", sent)
        assert len(head.split(b"\r\n")) <= 7
        connection.connection_lost(None)
        transport.shut()

    asyncio.run(one())


def test_no_id_splits_a_response() -> None:
    survives(check_split, patience_s=120)


# WebSockets


async def shake(path: str, *values: str) -> Any:
    fields = [FIELD + b": " + value.encode() for value in values]
    return await exchange(handshake(path, *fields))


@pytest.mark.parametrize(("path", "status"), [("/", "101"), ("/deny", "403")])
def test_a_handshake_has_it(path: str, status: str) -> None:
    found = survives(shake, path, "abc")
    assert (found["ids"], found["sent"], found["lines"]) == (["abc"], [["abc"]], [["abc", status]])
    made = assert_made_for_a_handshake(survives(shake, path))
    assert made != assert_made_for_a_handshake(survives(shake, path, "a b"))


def assert_made_for_a_handshake(found: dict[str, Any]) -> str:
    [made] = found["ids"]
    assert MADE.fullmatch(made)
    assert found["sent"] == [[made]]
    assert found["lines"][0][0] == made
    return str(made)


async def refused_handshake() -> Any:
    return await exchange(
        handshake("/", FIELD + b": abc", version=b"7") + handshake("/", FIELD + b": def", key=b"short")
    )


def test_a_handshake_that_is_refused_has_it() -> None:
    found = survives(refused_handshake)
    assert [one for one in found["sent"] if one] in ([["abc"], ["def"]], [["abc"]])
    assert found["ids"] == []


async def accepts_with_its_own() -> Any:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept", "headers": [(b"X-Request-ID", b"mine")]})

    eyes = Eyes(app, OPS, request_id_field=FIELD, websocket=engine())
    return ids_of(await eyes.talk(handshake("/", FIELD + b": abc")))


def test_an_accept_that_has_its_own() -> None:
    assert survives(accepts_with_its_own) == [["mine"]]


# What is made


async def made(count: int) -> list[str]:
    seer = Seer()
    driver = Driver(seer, request_id_field=FIELD)
    connection, transport = driver.connect()
    for _ in range(count):
        connection.data_received(get() * 20)
        transport.read()
    return seer.ids


def test_no_two_are_alike() -> None:
    ids = survives(made, 250)
    assert len(ids) == len(set(ids)) == 5000
    assert all(MADE.fullmatch(one) for one in ids)


def test_their_bits_are_spread() -> None:
    """Not a counter behind a prefix: each of 128 bits is set half of the time, and neighbours differ."""
    ids = [int(one, 16) for one in survives(made, 250)]
    share = [sum(one >> bit & 1 for one in ids) / len(ids) for bit in range(128)]
    assert all(0.4 < one < 0.6 for one in share), share  # 14 standard deviations
    differing = [(one ^ other).bit_count() for one, other in pairwise(ids)]
    assert 60 < sum(differing) / len(differing) < 68


async def forked() -> list[list[str]]:
    """A template that has a factory, but has served nothing; and its children."""
    seer = Seer()
    driver = Driver(seer, request_id_field=FIELD)
    connection, transport = driver.connect()
    found = []
    for _ in range(3):
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            connection.data_received(get() * 40)
            os.write(writer, json.dumps(seer.ids).encode())
            os._exit(0)
        os.close(writer)
        with open(reader) as text:
            found.append(json.loads(text.read()))
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    connection.data_received(get() * 40)
    transport.read()
    return [*found, seer.ids]


def test_two_children_of_a_template_make_different_ones() -> None:
    found = survives(forked)
    assert [len(ids) for ids in found] == [40] * 4
    assert len({one for ids in found for one in ids}) == 160


# Off


async def off() -> Any:
    seer = Seer()
    eyes = Eyes(seer, OPS)
    output = await eyes.talk(with_id(b"abc"))
    return [seer.ids, ids_of(output), eyes.rows(), [one.decode() for one in seer.fields[0]]]


def test_without_the_setting_nothing_is_made_or_said() -> None:
    assert survives(off) == [[], [[]], [["-", "200"]], ["abc"]]


BAD_FIELDS: list[Any] = [
    b"",
    b"a b",
    b"a:b",
    b"a\r\nb",
    b"a\0b",
    "X-Request-ID",
    5,
    b"\xff",
    bytearray(b"x-id"),
]
FRAMING = [b"Content-Length", b"transfer-encoding", b"Connection", b"Host", b"upgrade"]


async def junk_field(number: int) -> str:
    try:
        Driver(reply, request_id_field=[*BAD_FIELDS, *FRAMING][number])
    except (TypeError, ValueError) as error:
        return type(error).__name__
    return "accepted"


@pytest.mark.parametrize("number", range(len(BAD_FIELDS) + len(FRAMING)))
def test_a_field_that_cannot_be_one(number: int) -> None:
    assert survives(junk_field, number) in ("TypeError", "ValueError")


async def shared_extension() -> bool:
    """The dict of one request is not that of another."""
    seen = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["extensions"][EXTENSION])
        await reply(send)

    driver = Driver(app, request_id_field=FIELD)
    connection, _ = driver.connect(FakeTransport())
    connection.data_received(get() * 2)
    seen[0]["id"] = "changed"
    return seen[0] is not seen[1] and seen[1]["id"] != "changed"


def test_each_request_has_a_dict_of_its_own() -> None:
    assert survives(shared_extension)
