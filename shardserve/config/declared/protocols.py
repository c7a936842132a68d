"""What is spoken: WebSocket, the fields of every response, and what Uvicorn lets one choose."""

from __future__ import annotations

from dataclasses import dataclass

from ..kinds import ChoiceOrImport
from ..setting import setting
from ..values import Header, Integer, Many, Seconds, Size, Switch


@dataclass(frozen=True, init=False, repr=False, eq=False)
class WebSocket:
    """WebSockets."""

    __slots__ = ()

    # fmt: off
    ws: str = setting(
        "auto", ChoiceOrImport(("auto", "none", "websockets", "websockets-sansio", "wsproto")), uvicorn=True,
        help="Serve WebSockets: auto does, none hands a handshake to the application as an ordinary GET.",
    )
    ws_max_size_bytes: int = setting(
        2**24, Size(), suffix="bytes", uvicorn=True,
        # Uvicorn's, Gunicorn's and Hypercorn's.
        help="Close a WebSocket with 1009 at a message larger than this, also once it is inflated; 0 is any "
        "size.",
    )
    ws_max_queue: int = setting(
        32, Integer(1, 2**31 - 1), uvicorn=True,
        # Uvicorn's. Nobody is refused by it: the client's next message waits in the socket.
        help="Stop reading a WebSocket while this many messages wait for the application.",
    )
    ws_max_fragments: int = setting(
        100_000, Integer(1, 2**31 - 1),
        # Room for 4 MiB in fragments of 64 bytes, the most that Autobahn's test suite sends. A fragment may
        # be empty, so the size of a message does not bound their number.
        help="Close a WebSocket with 1008 at a message in more fragments than this.",
    )
    ws_ping_interval_s: float = setting(
        20.0, Seconds(), unit="s", uvicorn=True,
        # Uvicorn's, and well below the 60 s after which nginx takes a silent connection for dead.
        help="Send a ping over each WebSocket this often; 0 never.",
    )
    ws_ping_timeout_s: float = setting(
        20.0, Seconds(), unit="s", uvicorn=True,
        # Uvicorn's: a phone that changes networks is silent for some seconds.
        help="Close a WebSocket with 1011 when nothing has come from its client for this long after a ping; "
        "0 never.",
    )
    ws_per_message_deflate: bool = setting(
        True, Switch(), uvicorn=True,
        # Uvicorn's. Without a context from message to message, so that an idle WebSocket holds no memory
        # for it.
        help="Compress messages (RFC 7692) where the client can.",
    )
    timeout_ws_idle_s: float = setting(
        0.0, Seconds(), unit="s",
        # A WebSocket that waits for an event is in use, and pings find those that are dead.
        help="Close a WebSocket with 1001 that has had no message, either way, for this long; 0 never.",
    )
    timeout_ws_close_s: float = setting(
        10.0, Seconds(), unit="s",
        # What websockets and Uvicorn wait.
        help="Cut a WebSocket whose client has not answered a close frame within this long; 0 never.",
    )
    # fmt: on


@dataclass(frozen=True, init=False, repr=False, eq=False)
class Responses:
    """What every response says."""

    __slots__ = ()

    # fmt: off
    server_header: bool = setting(
        True, Switch(), uvicorn=True,
        help="Send a Server header.",
    )
    date_header: bool = setting(
        True, Switch(), uvicorn=True,
        help="Send a Date header.",
    )
    headers: tuple[tuple[str, str], ...] = setting(
        (), Many(Header(), "\n"), flag_name="header", uvicorn=True,
        help='Add this header to every response: "Name: value". Repeatable.',
    )
    # fmt: on


@dataclass(frozen=True, init=False, repr=False, eq=False)
class Uvicorn:
    """Flags of Uvicorn's that choose between parts of it. ``uvicorn.py`` says what happens instead."""

    __slots__ = ()

    # fmt: off
    loop: str = setting(
        "auto", ChoiceOrImport(("auto", "none", "asyncio", "uvloop", "zuvloop")), uvicorn=True,
        help="Accepted; the event loop is uvloop.",
    )
    http: str = setting(
        "auto", ChoiceOrImport(("auto", "h11", "httptools", "zttp")), uvicorn=True,
        help="Accepted; the parser is our own.",
    )
    h11_max_incomplete_event_size: int | None = setting(
        None, Integer(0), uvicorn=True,
        help="Accepted; the size of a head is a limit of its own.",
    )
    # fmt: on
