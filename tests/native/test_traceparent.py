"""traceparent (W3C Trace Context level 1, §3.2): what is valid, what is made, what ``pass`` leaves."""

from __future__ import annotations

import asyncio
import os
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers.ws import handshake
from tests.native.drive import Driver, reply, turns
from tests.native.isolated import survives
from tests.native.observe_drive import NO_LIMITS, Eyes, Op, request
from tests.native.ws_drive import engine

TRACE, PARENT = b"0af7651916cd43dd8448eb211c80319c", b"b7ad6b7169203331"
VALID = b"00-" + TRACE + b"-" + PARENT + b"-01"
MADE = re.compile(rb"00-([0-9a-f]{32})-([0-9a-f]{16})-01")
VERSION_00 = re.compile(rb"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
LATER = re.compile(rb"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-.*)?", re.S)
OPS: list[Op] = [("trace_id", None)]


def is_valid(value: bytes) -> bool:
    """§3.2.2.1 to .5, and §3.2.4 for versions to come."""
    return bool((VERSION_00 if value.startswith(b"00") else LATER).fullmatch(value))


def part(version: bytes = b"00", trace: bytes = TRACE, parent: bytes = PARENT, flags: bytes = b"01") -> bytes:
    return b"-".join([version, trace, parent, flags])


CASES: dict[str, tuple[bytes, bool]] = {
    "the example of the standard": (VALID, True),
    "not sampled": (part(flags=b"00"), True),
    "flags nobody knows": (part(flags=b"ff"), True),
    "flags in capitals": (part(flags=b"0A"), False),
    "flags that are no digits": (part(flags=b"0x"), False),
    "flags too short": (part(flags=b"1"), False),
    "flags too long": (part(flags=b"001"), False),
    "no flags": (VALID[:-3], False),
    "a trace id in capitals": (part(trace=TRACE.upper()), False),
    "one capital": (part(trace=TRACE[:-1] + b"C"), False),
    "a trace id of zeros": (part(trace=b"0" * 32), False),
    "a trace id with one bit": (part(trace=b"0" * 31 + b"1"), True),
    "a trace id too short": (part(trace=TRACE[1:]), False),
    "a trace id too long": (part(trace=TRACE + b"0"), False),
    "a trace id that is no digits": (part(trace=b"g" * 32), False),
    "a trace id with a dash": (part(trace=TRACE[:15] + b"-" + TRACE[16:]), False),
    "a trace id with a high byte": (part(trace=TRACE[:15] + b"\xe1" + TRACE[16:]), False),
    "a parent in capitals": (part(parent=PARENT.upper()), False),
    "a parent of zeros": (part(parent=b"0" * 16), False),
    "a parent with one bit": (part(parent=b"0" * 15 + b"1"), True),
    "a parent too short": (part(parent=PARENT[1:]), False),
    "version ff": (part(b"ff"), False),
    "version ff with more": (part(b"ff") + b"-x", False),
    "version FF": (part(b"FF"), False),
    "version 0": (part(b"0"), False),
    "version 000": (part(b"000"), False),
    "version 01": (part(b"01"), True),
    "version cc": (part(b"cc"), True),
    "version CC": (part(b"CC"), False),
    "version fe": (part(b"fe"), True),
    "version 0g": (part(b"0g"), False),
    "version 00 with more": (VALID + b"-more", False),
    "version 00 with a dash": (VALID + b"-", False),
    "version 00 with a dot": (VALID + b".", False),
    "version 01 with more": (part(b"01") + b"-what-will-be", True),
    "version 01 with a dash": (part(b"01") + b"-", True),
    "version 01 with more but no dash": (part(b"01") + b"0", False),
    "version 01 with a dot": (part(b"01") + b".what", False),
    "version 01 with much more": (part(b"01") + b"-" + b"x" * 4000, True),
    "version 01 of zeros": (part(b"01", b"0" * 32), False),
    "spaces for dashes": (VALID.replace(b"-", b" "), False),
    "underscores for dashes": (VALID.replace(b"-", b"_"), False),
    "a space inside": (VALID[:-1] + b" 1", False),
    "quotes": (b'"' + VALID + b'"', False),
    "a comma": (VALID + b",", False),
    "two in one": (VALID + b", " + VALID, False),
    "a tab behind, which is not in the value": (VALID + b"\t", True),
    "spaces around, which are not in the value": (b"  " + VALID + b"  ", True),
    "nothing": (b"", False),
    "a dash": (b"-", False),
    "only dashes": (b"-" * 55, False),
    "one short": (VALID[:-1], False),
    "zeros": (b"0" * 55, False),
}


class Seer:
    """An app that notes the fields it was given."""

    def __init__(self) -> None:
        self.fields: list[list[tuple[bytes, bytes]]] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.fields.append([(name, value) for name, value in scope["headers"]])
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.accept"})
            return
        await reply(send)

    def traceparents(self) -> list[list[bytes]]:
        return [[value for name, value in fields if name == b"traceparent"] for fields in self.fields]


async def exchange(*data: bytes, make: bool, **options: Any) -> tuple[Seer, list[list[str]]]:
    seer = Seer()
    eyes = Eyes(seer, OPS, make_traceparent=make, **NO_LIMITS, **options)
    await eyes.talk(*data)
    assert eyes.unraisable == []
    return seer, eyes.rows()


def with_trace(*values: bytes, name: bytes = b"traceparent") -> bytes:
    return request(b"GET", b"/", (b"Before", b"1"), *((name, value) for value in values), (b"After", b"2"))


async def table(make: bool) -> dict[str, Any]:
    found = {}
    for name, (value, _) in CASES.items():
        seer, lines = await exchange(with_trace(value), make=make)
        [traceparents] = seer.traceparents()
        names = [field.decode() for field, _ in seer.fields[0]]
        found[name] = [[one.decode("latin-1") for one in traceparents], lines[0][0], names]
    return found


def test_pass_leaves_all_of_it_as_it_came() -> None:
    found = survives(table, False)
    for name, (value, valid) in CASES.items():
        assert found[name][0] == [value.strip(b" \t").decode("latin-1")], name
        assert found[name][1] == (value.strip()[3:35].decode() if valid else "-"), name
        assert found[name][2] == ["host", "before", "traceparent", "after"], name


def test_make_replaces_what_is_malformed() -> None:
    found = survives(table, True)
    for name, (value, valid) in CASES.items():
        values, logged, names = found[name]
        if valid:
            assert values == [value.strip(b" \t").decode()], name
        else:
            assert len(values) == 1, name
            assert MADE.fullmatch(values[0].encode()), (name, values)
        assert logged == values[0][3:35], name
        assert [one for one in names if one != "traceparent"] == ["host", "before", "after"], name


def test_the_model_agrees_with_the_table() -> None:
    for name, (value, valid) in CASES.items():
        assert is_valid(value.strip(b" \t")) is valid, name


async def missing(make: bool) -> Any:
    seer, lines = await exchange(with_trace(), make=make)
    return [[value.decode() for value in seer.traceparents()[0]], lines]


def test_a_missing_one() -> None:
    assert survives(missing, False) == [[], [["-"]]]
    [value], lines = survives(missing, True)
    found = MADE.fullmatch(value.encode())
    assert found
    assert lines == [[found[1].decode()]]


async def two(values: list[str], make: bool) -> Any:
    seer, lines = await exchange(with_trace(*[value.encode() for value in values]), make=make)
    return [[value.decode() for value in seer.traceparents()[0]], lines]


OTHER = part(trace=b"a" * 32).decode()
ONE = VALID.decode()
TWICE = [[ONE, OTHER], [ONE, ONE], ["x", ONE], [ONE, "x"], ["x", "y"]]


@pytest.mark.parametrize("values", TWICE)
def test_two_of_them_are_not_one(values: list[str]) -> None:
    """There is to be one (§3.2). ``pass`` leaves both; made, the app and the log have one, and the same."""
    passed, _ = survives(two, values, False)
    assert passed == values
    made, [[logged]] = survives(two, values, True)
    traces = {value[3:35] for value in made}
    assert all(is_valid(value.encode()) for value in made), "a malformed one is left"
    assert traces == {logged}, "the app cannot tell which of two is meant"


async def named(name: str) -> Any:
    seer, lines = await exchange(with_trace(VALID, name=name.encode()), make=True)
    return [[value.decode() for value in seer.traceparents()[0]], lines]


@pytest.mark.parametrize("name", ["Traceparent", "TRACEPARENT", "traceParent"])
def test_the_name_in_any_case(name: str) -> None:
    assert survives(named, name) == [[VALID.decode()], [[TRACE.decode()]]]


@pytest.mark.parametrize("name", ["trace-parent", "trace_parent", "traceparen", "traceparents"])
def test_another_name_is_not_it(name: str) -> None:
    [value], _ = survives(named, name)
    assert MADE.fullmatch(value.encode())


@settings(max_examples=300, deadline=None, database=None)
@given(
    value=st.one_of(
        st.binary(max_size=60).filter(lambda value: not {0x0A, 0x0D} & set(value)),  # these end the field
        st.from_regex(LATER, fullmatch=True).filter(lambda value: len(value) < 200),
        st.builds(
            lambda at, code: VALID[:at] + bytes([code]) + VALID[at + 1 :],
            st.integers(0, len(VALID) - 1),
            st.integers(0x20, 0xFF),
        ),
    ),
    make=st.booleans(),
)
def check_any(value: bytes, make: bool) -> None:
    async def one() -> None:
        seer, lines = await exchange(with_trace(value), make=make)
        if not seer.fields:
            return  # the parser did not take it
        [found] = seer.traceparents()
        value_seen = value.strip(b" \t")
        if is_valid(value_seen) or not make:
            assert found == [value_seen]
        else:
            assert len(found) == 1
            assert MADE.fullmatch(found[0])
        assert lines == [[found[0][3:35].decode() if is_valid(found[0]) else "-"]]

    asyncio.run(one())


def test_any_value() -> None:
    survives(check_any, patience_s=120)


async def many(count: int) -> list[list[str]]:
    seer = Seer()
    driver = Driver(seer, make_traceparent=True, **NO_LIMITS)
    connection, transport = driver.connect()
    for _ in range(count):
        connection.data_received(request() * 20)
        transport.read()
    return [value.decode().split("-")[1:3] for [value] in seer.traceparents()]


def test_no_two_made_are_alike_nor_zero() -> None:
    found = survives(many, 100)
    traces, parents = {one for one, _ in found}, {one for _, one in found}
    assert len(traces) == len(parents) == 2000
    assert "0" * 32 not in traces
    assert "0" * 16 not in parents
    assert not any(trace.startswith(parent) or trace.endswith(parent) for trace, parent in found)


async def forked() -> int:
    seer = Seer()
    driver = Driver(seer, make_traceparent=True)
    connection, _ = driver.connect()
    found = set()
    for _ in range(3):
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            connection.data_received(request())
            os.write(writer, seer.traceparents()[0][0])
            os._exit(0)
        os.close(writer)
        with open(reader, "rb") as made:
            found.add(made.read())
        os.waitpid(child, 0)
    assert all(MADE.fullmatch(one) for one in found)
    return len(found)


def test_two_children_of_a_template_make_different_ones() -> None:
    assert survives(forked) == 3


async def of_a_socket() -> Any:
    fields = [b"Traceparent: " + VALID]
    found = []
    for extra in (fields, [], [b"Traceparent: x"]):
        seer, lines = await exchange(handshake("/", *extra), make=True, websocket=engine())
        await turns()
        found.append([[value.decode() for value in seer.traceparents()[0]], lines[0][0]])
    return found


def test_a_handshake_has_one() -> None:
    taken, *made = survives(of_a_socket)
    assert taken == [[VALID.decode()], TRACE.decode()]
    for [value], logged in made:
        assert MADE.fullmatch(value.encode())
        assert value[3:35] == logged


async def beside() -> Any:
    """tracestate is the tracing vendors' (§3.3): it goes where its traceparent goes, as it came."""
    found = []
    for traceparent in (VALID, b"x"):
        data = request(b"GET", b"/", (b"tracestate", b"a=b"), (b"Traceparent", traceparent))
        seer, _ = await exchange(data, make=True)
        found.append([name.decode() for name, _ in seer.fields[0]])
    return found


def test_tracestate_is_left_with_a_valid_one() -> None:
    valid, malformed = survives(beside)
    assert valid == ["host", "tracestate", "traceparent"]
    assert malformed in (["host", "tracestate", "traceparent"], ["host", "traceparent"])
