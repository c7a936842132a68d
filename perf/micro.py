"""``python -m perf micro``: what the native side costs by itself, measured by pyperf.

Rules of this file: a benchmark is the way from bytes that were read to bytes that are written, through
a Connection over a transport that does nothing: no socket, no system call, no load. Its answer is
checked once before it is timed. pyperf runs it in processes of its own and keeps every value;
``python -m pyperf compare_to`` compares two such files. Run as a program (``python -m perf.micro``) it is
what pyperf's processes execute.
"""

from __future__ import annotations

import asyncio
import contextvars
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import uvloop

from perf import apps
from perf.scenarios import BROWSER_HEADERS
from shardserve.config.access_format import PRESETS, Process, compiled
from shardserve.config.model import Config
from shardserve.worker.limits import request_limits

# Imported where it is used: the lab's other commands need no built extension.
if TYPE_CHECKING:
    from shardserve._native import AccessLog, ProtocolFactory

MISSING = "pyperf is not installed; install it with: python -m pip install pyperf"
_PAYLOAD_1K = b"p" * 1024
_TWELVE_FIELDS = [(b"x-field-%d" % number, b"value-%d" % number) for number in range(10)] + apps.PLAIN_HEADERS
_MASK = bytes(4)  # of zeros: the payload is its own masked form, and is unmasked like any other


class Transport:
    """What a connection asks of a transport, done as cheaply as can be."""

    def __init__(self) -> None:
        self.written = bytearray()
        self.keep = True

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return {"peername": ("127.0.0.1", 50000), "sockname": ("127.0.0.1", 8000)}.get(name, default)

    def get_write_buffer_size(self) -> int:
        return 0

    def write(self, data: bytes) -> None:
        if self.keep:
            self.written += data

    def writelines(self, parts: Iterable[bytes]) -> None:
        if self.keep:
            self.written += b"".join(parts)

    def is_closing(self) -> bool:
        return False

    def can_write_eof(self) -> bool:
        return True

    def close(self) -> None: ...
    def abort(self) -> None: ...
    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Leaf:
    """One benchmark."""

    name: str
    what: str
    app: Callable[..., Any]
    data: bytes
    """What is read, each time."""
    begins: bytes
    """What the first answer begins with."""
    ends: bytes
    opening: bytes = b""
    """What is read once before."""
    access_format: str = ""
    """With an access log of this format."""


def request(method: str, *fields: tuple[str, str], body: bytes = b"") -> bytes:
    lines = [f"{method} / HTTP/1.1", "Host: 127.0.0.1:8000", *(f"{name}: {value}" for name, value in fields)]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


async def twelve_fields(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": _TWELVE_FIELDS})
    await send({"type": "http.response.body", "body": apps.PLAIN_BODY})


_HANDSHAKE = request(
    "GET",
    ("Connection", "Upgrade"),
    ("Upgrade", "websocket"),
    ("Sec-WebSocket-Version", "13"),
    ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
)


def _frame(payload: bytes) -> bytes:
    """A client's binary message (RFC 6455 §5.2)."""
    size = len(payload)
    head = bytes([0x80 | size]) if size < 126 else bytes([0x80 | 126]) + size.to_bytes(2, "big")
    return b"\x82" + head + _MASK + payload


_GET = request("GET")
_OK, _HELLO = b"HTTP/1.1 200 OK\r\n", b"\r\n\r\n" + apps.PLAIN_BODY
_PLAIN: dict[str, Any] = {"app": apps.plain, "data": _GET, "begins": _OK, "ends": _HELLO}
_ECHO: dict[str, Any] = {"app": apps.ws_echo, "ends": b"e", "opening": _HANDSHAKE}
LEAVES = (
    Leaf(name="plain", what="a GET, two fields back", **_PLAIN),
    Leaf(
        name="browser",
        what="a GET with a browser's headers",
        **(_PLAIN | {"data": request("GET", *BROWSER_HEADERS)}),
    ),
    Leaf(
        name="post-1k",
        what="a POST of 1 KiB, read by the app",
        app=apps.read_body,
        data=request("POST", body=_PAYLOAD_1K),
        begins=_OK,
        ends=b"1024",
    ),
    Leaf(name="head-12", what="plain, with twelve fields back", **(_PLAIN | {"app": twelve_fields})),
    Leaf(name="pipelined-16", what="sixteen GETs in one read", **(_PLAIN | {"data": _GET * 16})),
    *(
        Leaf(name=f"access-{preset}", what=f"plain, with a line as {preset}", access_format=preset, **_PLAIN)
        for preset in PRESETS
    ),
    Leaf(
        name="ws-echo-64", what="a message of 64 bytes", data=_frame(b"e" * 64), begins=b"\x82\x40", **_ECHO
    ),
    Leaf(
        name="ws-echo-16k",
        what="a message of 16 KiB",
        data=_frame(b"e" * 16384),
        begins=b"\x82\x7e\x40\x00",
        **_ECHO,
    ),
)
BY_NAME = {leaf.name: leaf for leaf in LEAVES}


class WrongAnswerError(Exception):
    """A benchmark does not do what it says."""


def seconds_for(loops: int, leaf: Leaf) -> float:
    """How long this many take. Raises WrongAnswerError."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_timed(loops, leaf))


async def _timed(loops: int, leaf: Leaf) -> float:
    transport = Transport()
    connection: Any = _factory(leaf)()
    connection.connection_made(transport)
    if leaf.opening:
        connection.data_received(leaf.opening)
        await asyncio.sleep(0)
        transport.written.clear()
    connection.data_received(leaf.data)
    answer = bytes(transport.written)
    if not answer.startswith(leaf.begins) or not answer.endswith(leaf.ends):
        raise WrongAnswerError(f"{leaf.name}: answered {answer[:200]!r}")
    transport.keep = False
    feed, data = connection.data_received, leaf.data
    began = time.perf_counter()
    for _ in range(loops):
        feed(data)
    took = time.perf_counter() - began
    connection.connection_lost(None)
    await asyncio.sleep(0)
    return took


def _factory(leaf: Leaf) -> ProtocolFactory:
    """A worker's, with the settings that users get."""
    from shardserve import _native

    def complain(*what: Any) -> None:
        raise WrongAnswerError(f"{leaf.name}: {what}")

    return _native.ProtocolFactory(
        leaf.app,
        loop=asyncio.get_running_loop(),
        context=contextvars.copy_context(),
        state=None,
        on_app_error=complain,
        on_reject=complain,
        access=_access(leaf.access_format) if leaf.access_format else None,
        **request_limits(Config("none:none")),
    )


def _access(text: str) -> AccessLog:
    """Lines are made and gathered, then dropped."""
    from shardserve import _native

    programs = compiled(text, Process(slot=0, pid=1))
    return _native.AccessLog(
        programs.program, programs.websocket_program, write=len, schedule=lambda: None, json=programs.json
    )


# The command


@click.command()
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--fast", is_flag=True, help="Fewer processes and values: seconds instead of a minute each.")
@click.option(
    "--json",
    "json_path",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write pyperf's JSON here, for 'python -m pyperf compare_to'.",
)
@click.option("--core", type=int, help="CPU to run on.  [default: the kernel's choice]")
def micro(names: tuple[str, ...], fast: bool, json_path: Path | None, core: int | None) -> None:
    """Time the native side without sockets and load: a request, a message, a log line."""
    if unknown := [name for name in names if name not in BY_NAME]:
        raise click.BadParameter(f"unknown: {', '.join(unknown)}; known: {', '.join(BY_NAME)}")
    if find_spec("pyperf") is None:
        raise click.ClickException(MISSING)
    if json_path is not None and json_path.exists():
        raise click.UsageError(f"{json_path} exists; pyperf does not overwrite")
    argv = [
        sys.executable,
        "-m",
        "perf.micro",
        "--inherit-environ",
        "PYTHONPATH",
        *(["--fast"] if fast else []),
    ]
    argv += ["--output", str(json_path)] if json_path is not None else []
    argv += ["--affinity", str(core)] if core is not None else []
    chosen = [leaf for leaf in LEAVES if not names or leaf.name in names]
    if _is_debug_build():
        click.echo("warning: shardserve._native is a debug build: nothing here is comparable", err=True)
    click.echo(f"{len(chosen)} benchmarks, one after the other; a dot is a process", err=True)
    sys.exit(_run([*argv, "--leaves", ",".join(leaf.name for leaf in chosen)]))


def _is_debug_build() -> bool:
    from shardserve import _native

    return _native.debug_build


def _run(argv: list[str]) -> int:
    """pyperf, in our terminal's foreground: a Ctrl-C reaches it too, and it ends its own processes."""
    with subprocess.Popen(argv) as program:
        try:
            return program.wait()
        except KeyboardInterrupt:
            program.wait()
            return 130


def main() -> None:
    """What pyperf's processes run."""
    import pyperf  # type: ignore[import-untyped, unused-ignore]

    def pass_on(command: list[str], arguments: Any) -> None:
        command.extend(("--leaves", arguments.leaves))

    runner = pyperf.Runner(program_args=("-m", "perf.micro"), add_cmdline_args=pass_on)
    runner.argparser.add_argument("--leaves", default=",".join(BY_NAME))
    for name in runner.parse_args().leaves.split(","):
        leaf = BY_NAME[name]
        runner.bench_time_func(
            name, seconds_for, leaf, metadata={"what": leaf.what, "native_debug": _is_debug_build()}
        )


if __name__ == "__main__":
    main()
