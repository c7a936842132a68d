"""What becomes of a request: tables of thousands of small ones, without a server.

Rules of this file: each request has another one behind it, so that it shows where the server thinks that it
ends; each is cut at one place, too, and nothing may depend on it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from tests.helpers.asgi import read_body, reply
from tests.native.drive import Driver, get, statuses, turns

BEHIND = "/behind"
# As often as the loop turns for one request. What waits for nothing is done long before.
TURNS = 6

# What became of a request: both were answered; only it was; or the status that refused it.
KEPT = "kept"
CLOSED = "closed"
Outcome = str | int


class Verdict(NamedTuple):
    outcome: Outcome
    scope: dict[str, Any] | None
    body: bytes


class Court:
    """Judges requests, each on a connection of its own. Inside ``with`` only."""

    def __init__(self, **settings: Any) -> None:
        self._driver = Driver(self._app, **settings)
        self._seen: list[tuple[dict[str, Any], bytes]] = []

    def __enter__(self) -> Court:
        return self

    def __exit__(self, *_: object) -> None:
        self._driver.factory.close()

    async def _app(self, scope: Any, receive: Any, send: Any) -> None:
        self._seen.append((scope, await read_body(receive)))
        await reply(send)

    async def judge(self, raw: bytes, at: int = 0) -> Verdict:
        """``raw``, cut in front of offset ``at`` and behind it."""
        found = [await self._hear([raw + get(BEHIND)])]
        if at:
            rest = raw[at + 1 :] + get(BEHIND)
            found.append(await self._hear([raw[:at], raw[at:] + get(BEHIND)]))
            found.append(await self._hear([raw[: at + 1], rest]))
            found.append(await self._hear([raw[:at], raw[at : at + 1], rest]))
        outcomes = [(one.outcome, one.body) for one in found]
        assert outcomes == outcomes[:1] * len(outcomes), (raw, outcomes)
        return found[0]

    async def _hear(self, pieces: list[bytes]) -> Verdict:
        self._seen = []
        connection, transport = self._driver.connect()
        for piece in pieces:
            connection.data_received(piece)
            await turns(TURNS)
        answers = statuses(transport.read())
        closed = "write_eof" in transport.calls or transport.is_closing()
        connection.connection_lost(None)
        transport.shut()
        paths = [scope["path"] for scope, _ in self._seen]
        refused = [status for status in answers if status >= 400]
        if refused:
            assert (answers, closed, paths) == (refused[:1], True, []), pieces
            assert [one[0] for one in self._driver.rejects] == refused, pieces
            self._driver.rejects.clear()
            return Verdict(refused[0], None, b"")
        assert (answers, paths[1:]) == (([200], []) if closed else ([200, 200], [BEHIND])), pieces
        assert self._driver.rejects == [], pieces
        return Verdict(CLOSED if closed else KEPT, *self._seen[0])


async def differing(make: Callable[[bytes], bytes], *expected: tuple[bytes, Outcome]) -> dict[str, Any]:
    """The byte values for which it is not as expected: ``make`` puts one into a request.

    ``expected`` are (values, what becomes of the request); all other values are a 400.
    """
    wanted: dict[int, Outcome] = dict.fromkeys(range(256), 400)
    for values, outcome in expected:
        wanted.update(dict.fromkeys(values, outcome))
    found = {}
    with Court() as court:
        for value, outcome in wanted.items():
            verdict = await court.judge(make(bytes([value])), place(make, value))
            if verdict.outcome != outcome:
                found[repr(bytes([value]))] = f"{verdict.outcome}, not {outcome}"
    return found


def place(make: Callable[[bytes], bytes], value: int) -> int:
    """The offset that differs when the byte does."""
    one, other = make(bytes([value])), make(b"\x00" if value else b"\x01")
    return next(at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)


def field_of(scope: dict[str, Any], name: bytes) -> list[bytes]:
    """The values of the fields with this name."""
    return [value for one, value in scope["headers"] if one == name]


def request(*fields: bytes, line: bytes = b"GET /x HTTP/1.1", body: bytes = b"") -> bytes:
    """A request of whole field lines; Host is among them."""
    return b"\r\n".join([line, *fields, b"", b""]) + body


def without(chars: bytes, *others: Iterable[int]) -> bytes:
    """``chars`` but for those of ``others``."""
    return bytes(sorted(set(chars) - {one for other in others for one in other}))
