"""What every refusal has in common: a whole answer in plain text, the end of the connection, one report."""

from __future__ import annotations

import contextlib

from tests.helpers.http1 import Client, Reject, Response, Server


def send_all(client: Client, pieces: list[bytes]) -> None:
    """All that the server takes: once it has refused a request it may close before the rest is sent."""
    with contextlib.suppress(OSError):
        client.send_each(pieces)


def is_refusal(response: Response, status: int) -> None:
    """A whole answer in plain text, and the last one."""
    assert response.status == status
    assert response.one(b"connection") == b"close"
    assert (response.one(b"content-type") or b"").startswith(b"text/plain")
    assert response.one(b"content-length") == b"%d" % len(response.body)
    assert response.one(b"date")
    assert response.body
    assert response.informational == []


def rejected(server: Server, client: Client, status: int, before: int = 0) -> None:
    """Behind ``before`` good answers comes this refusal; the connection ends; there is one report."""
    for _ in range(before):
        assert client.response().status == 200
    response = client.response()
    is_refusal(response, status)
    client.assert_closed()
    address = client.sock.getsockname()
    client.close()
    assert server.take_rejects() == [Reject(status, response.body.decode(), address)]


def cut_off(server: Server) -> None:
    """One report of a connection that was closed without an answer, for which it was too late."""
    (reject,) = server.take_rejects()
    assert reject.status == 0
    assert reject.reason
    assert reject.client is not None
