"""What a line of the access log says: presets, and format strings with Gunicorn's atoms.

Rules of this file: text in, a program out; pure. A setting is checked with it, and a worker begins with what
it makes. A program is what ``_native.AccessLog`` runs for each response: (operation, argument) pairs
in the order they are written, operations named as its stub names them. What is true of a whole process
(its pid, its slot) becomes part of the literal text. There are two programs: Uvicorn's line for a WebSocket
handshake is another one.

    uvicorn    INFO:     127.0.0.1:50000 - "GET /path HTTP/1.1" 200 OK
    common     127.0.0.1 - - [23/Nov/2026:17:15:47 +0000] "GET /path HTTP/1.1" 200 12
    combined   the same, and "referer" "user agent"
    json       one object (RFC 8259)
    else       a format string: %(h)s, %({user-agent}i)s, %({request_id}x)s; %% is a percent sign

Each atom is one value or "-"; whatever a client sent is escaped by the native side, which also ends the
line: a value stays inside of its quotes, and on its line.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

Op = tuple[str, bytes | None]
Program = tuple[Op, ...]

PRESETS = ("uvicorn", "common", "combined", "json")
_COMMON = '%(h)s %(l)s %(u)s %(t)s "%(r)s" %(s)s %(b)s'
_FORMATS = {"common": _COMMON, "combined": _COMMON + ' "%(f)s" "%(a)s"'}

_PROTOCOL: Program = (("literal", b"HTTP/"), ("version", None))
_REQUEST_LINE: Program = (
    ("method", None), ("literal", b" "), ("target", None), ("literal", b" "), *_PROTOCOL,
)  # fmt: skip

# Gunicorn's (docs.gunicorn.org, "access_log_format"). There is also p, the pid, which is the process's.
ATOMS: Mapping[str, Program] = {
    "h": (("host", None),),
    "l": (("literal", b"-"),),
    "u": (("user", None),),
    "t": (("time_clf", None),),
    "r": _REQUEST_LINE,
    "m": (("method", None),),
    "U": (("path", None),),
    "q": (("query", None),),
    "H": _PROTOCOL,
    "s": (("status", None),),
    "B": (("response_bytes", None),),
    "b": (("response_bytes_clf", None),),
    "f": (("request_field", b"referer"),),
    "a": (("request_field", b"user-agent"),),
    "T": (("duration_s", None),),
    "D": (("duration_us", None),),
    "M": (("duration_ms", None),),
    "L": (("duration_decimal", None),),
}
# Ours: %({name}x)s. Besides these pid and worker.
EXTRAS: Mapping[str, Program] = {
    "client": (("client", None),),
    "client_port": (("port", None),),
    "time": (("time_iso", None),),
    "target": (("target", None),),
    "http_version": (("version", None),),
    "status_text": (("status_text", b""),),
    "duration_us": (("duration_us", None),),
    "first_byte_us": (("first_byte_us", None),),
    "request_bytes": (("request_bytes", None),),
    "response_bytes": (("response_bytes", None),),
    "request_id": (("request_id", None),),
    "trace_id": (("trace_id", None),),
    "tls_version": (("tls_version", None),),
}
# Of a WSGI environ, %({NAME}e)s, what a request has here; besides these HTTP_*, which are fields.
VARIABLES: Mapping[str, Program] = {
    "REMOTE_ADDR": (("host", None),),
    "REMOTE_PORT": (("port", None),),
    "REMOTE_USER": (("user", None),),
    "REQUEST_METHOD": (("method", None),),
    "REQUEST_URI": (("target", None),),
    "RAW_URI": (("target", None),),
    "PATH_INFO": (("path", None),),
    "QUERY_STRING": (("query", None),),
    "SERVER_PROTOCOL": _PROTOCOL,
    "CONTENT_TYPE": (("request_field", b"content-type"),),
    "CONTENT_LENGTH": (("request_field", b"content-length"),),
}
# %%, %(h)s, or %({name}i)s. A percent sign that begins none of them is a mistake.
_ATOM = re.compile(r"%(?:%|\((?:(?P<atom>\w+)|\{(?P<name>[^{}()]*)\}(?P<kind>\w))\)s)", re.ASCII)
# RFC 9110 §5.6.2: token = 1*tchar
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")


@dataclass(frozen=True, slots=True)
class Process:
    """What is the same in each line of one process. ``slot`` None: it is no worker of ours."""

    pid: int
    slot: int | None


@dataclass(frozen=True, slots=True)
class Compiled:
    """The programs of one format. ``json``: values are written as JSON."""

    program: Program
    websocket_program: Program
    json: bool = False


def check(text: str) -> str:
    """The format, a preset's name in lower case. Raises ValueError that says what is wrong, and where."""
    if text.strip().lower() in PRESETS:
        return text.strip().lower()
    if "%" not in text:
        raise ValueError(
            f'"{text}" is neither one of {", ".join(PRESETS)} nor a format string with atoms such as %(h)s'
        )
    parse(text, Process(pid=0, slot=None))
    return text


def compiled(text: str, process: Process, *, colours: bool = False) -> Compiled:
    """The programs of a format that ``check`` has found right. ``colours``: of the preset uvicorn only."""
    if text == "json":
        return Compiled(_json(process), _json(process, method=b'"WebSocket"'), json=True)
    if text == "uvicorn":
        return Compiled(_uvicorn(colours), _uvicorn_websocket(colours))
    program = parse(_FORMATS.get(text, text), process)
    return Compiled(program, program)


# Format strings


def parse(text: str, process: Process) -> Program:
    """A format string as the program of one line. Raises ValueError."""
    return _joined(_pieces(text, process))


def _pieces(text: str, process: Process) -> Iterator[Op]:
    at = 0
    while (percent := text.find("%", at)) >= 0:
        yield "literal", text[at:percent].encode()
        found = _ATOM.match(text, percent)
        if found is None:
            raise ValueError(_no_atom(text, percent))
        if found[0] == "%%":
            yield "literal", b"%"
        else:
            yield from _atom(found, process)
        at = found.end()
    yield "literal", text[at:].encode()


def _atom(found: re.Match[str], process: Process) -> Program:
    atom, name, kind = found["atom"], found["name"], found["kind"]
    where = f"{found[0]} at character {found.start() + 1}"
    if atom is not None:
        known = {**ATOMS, "p": (("literal", b"<%d>" % process.pid),)}
        if atom in known:
            return known[atom]
        others = "{field}i, {field}o, {variable}e and {name}x"
        raise ValueError(f"unknown atom {where}; there are {' '.join(known)}, {others}")
    if kind in ("i", "o"):
        if not _TOKEN.fullmatch(name):
            raise ValueError(f'"{name}" in {where} is not the name of a field (RFC 9110 §5.6.2)')
        return ((("request_field" if kind == "i" else "response_field"), name.lower().encode()),)
    if kind == "e":
        return _variable(name, where)
    if kind == "x":
        extras = {**EXTRAS, "pid": _number(process.pid), "worker": _number(process.slot)}
        if name in extras:
            return extras[name]
        raise ValueError(f"unknown name in {where}; there are {', '.join(sorted(extras))}")
    raise ValueError(
        f"unknown kind {kind} in {where}; there are i (a field of the request), o (of the response), "
        "e (a variable of WSGI) and x (ours)"
    )


def _variable(name: str, where: str) -> Program:
    if name in VARIABLES:
        return VARIABLES[name]
    field = name.removeprefix("HTTP_").replace("_", "-").lower()
    if name.startswith("HTTP_") and _TOKEN.fullmatch(field):
        return (("request_field", field.encode()),)
    raise ValueError(f"{where} cannot be had; there are {', '.join(VARIABLES)} and HTTP_*")


def _number(value: int | None) -> Program:
    return (("literal", b"-" if value is None else b"%d" % value),)


def _no_atom(text: str, at: int) -> str:
    """What to say of a percent sign that begins no atom."""
    where = f"at character {at + 1}"
    if re.match(r"%>?[A-Za-z]", text[at:]):
        letter = text[at:].removeprefix("%").removeprefix(">")[0]
        return f'"%{letter}" {where} is Apache\'s way to write an atom; here it is %({letter})s'
    end = text.find(")", at)
    if text.startswith("%(", at) and end >= 0:
        found = text[at : end + 1]
        return f'"{found}" {where} has no name, or no plain s behind it; write %(h)s or %({{name}}i)s'
    return f"the percent sign {where} begins no atom; write %% for a percent sign"


def _joined(pieces: Iterable[Op]) -> Program:
    """Neighbouring literals as one, without empty ones."""
    found: list[Op] = []
    for op, argument in pieces:
        if op == "literal" and found and found[-1][0] == "literal":
            found[-1] = ("literal", (found[-1][1] or b"") + (argument or b""))
        elif op != "literal" or argument:
            found.append((op, argument))
    return tuple(found)


# Uvicorn's lines


def _uvicorn(colours: bool) -> Program:
    bold, plain = (b"\x1b[1m", b"\x1b[0m") if colours else (b"", b"")
    return _joined(
        [
            ("literal", _level(colours)), ("client", None), ("literal", b' - "' + bold), *_REQUEST_LINE,
            ("literal", plain + b'" '), ("status_text", b"colours" if colours else b""),
        ]
    )  # fmt: skip


def _uvicorn_websocket(colours: bool) -> Program:
    """Neither bold nor coloured behind the level, as Uvicorn writes it, with another logger."""
    return (
        ("literal", _level(colours)), ("client", None), ("literal", b' - "WebSocket '), ("target", None),
        ("literal", b'" '), ("ws_outcome", None),
    )  # fmt: skip


def _level(colours: bool) -> bytes:
    return b"\x1b[32mINFO\x1b[0m:     " if colours else b"INFO:     "


# JSON


def _json(process: Process, *, method: bytes | None = None) -> Program:
    """The keys of docs/logging.md, in this order. ``method``: one that is always the same."""
    slot = "null" if process.slot is None else process.slot
    fixed = f'"type":"access","level":"info","logger":"shardserve.access","pid":{process.pid},"worker":{slot}'
    named: tuple[Op, ...] = ("method", None) if method is None else ("literal", method),  # fmt: skip
    return _joined(
        [
            ("literal", b'{"ts":'), ("time_iso", None),
            ("literal", b"," + fixed.encode() + b',"client":'), ("client", None),
            ("literal", b',"method":'), *named,
            ("literal", b',"target":'), ("target", None),
            ("literal", b',"http_version":'), ("version", None),
            ("literal", b',"status":'), ("status", None),
            ("literal", b',"response_bytes":'), ("response_bytes", None),
            ("literal", b',"duration_us":'), ("duration_us", None),
            ("literal", b',"first_byte_us":'), ("first_byte_us", None),
            ("literal", b',"request_id":'), ("request_id", None),
            ("literal", b',"trace_id":'), ("trace_id", None),
            ("literal", b',"tls_version":'), ("tls_version", None),
            ("literal", b"}"),
        ]
    )  # fmt: skip
