"""Apps that do something wrong, and the one right answer to most of it. See test_app_mistakes.py."""

from __future__ import annotations

from tests.helpers.asgi import ok
from tests.helpers.http1 import Server, get, until

START = {"type": "http.response.start", "status": 200, "headers": []}
BODY = {"type": "http.response.body", "body": b"x"}


def mistaken(*messages, turn=None):
    """An app that sends these messages; /ok is served right."""

    async def app(scope, receive, send):
        if scope["path"] == "/ok":
            await ok(scope, receive, send)
            return
        for i, message in enumerate(messages):
            if turn is not None and i == len(messages) - 1:
                await turn()
            await send(message)

    return app


def gets_500(server: Server, request: bytes = get("/wrong?x=1")) -> BaseException:
    """The client gets one whole 500 and may go on; what was logged."""
    with server.connect() as client:
        response = client.ask(request)
        assert (response.status, response.body) == (500, b"Internal Server Error")
        assert response.names.count(b"content-length") == 1
        assert response.one(b"content-type").startswith(b"text/plain")
        client.assert_open()
        address = client.sock.getsockname()
    report = server.take_error()
    assert (report.method, report.target, report.client) == ("GET", "/wrong?x=1", address)
    assert report.outcome == "500 sent"
    until(lambda: len(server.accesses) == 2)
    assert [access.status for access in server.accesses] == [500, 200]
    return report.error
