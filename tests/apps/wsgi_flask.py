"""A Flask app that uses what people use of Flask; and a factory of it."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flask import (
    Flask,
    Response,
    abort,
    g,
    jsonify,
    redirect,
    request,
    send_file,
    session,
    stream_with_context,
)
from flask import url_for as url

NOTES = Path(os.environ.get("NOTES", "."))

app = Flask(__name__)
app.secret_key = "not a secret"


def create_app() -> Flask:
    return app


@app.get("/")
def hello() -> str:
    return "hello world"


@app.get("/items/<int:number>")
def item(number: int) -> Any:
    return jsonify(id=number, query=list(request.args.items(multi=True)), path=request.path)


@app.post("/json")
def echo_json() -> Any:
    return jsonify(got=request.get_json()), 201


@app.post("/form")
def form() -> Any:
    sent = request.files.get("file")
    digest = hashlib.sha256(sent.read()).hexdigest() if sent else None
    return jsonify(fields=list(request.form.items(multi=True)), name=sent and sent.filename, sha256=digest)


@app.route("/upload", methods=["POST", "PUT"])
def upload() -> Any:
    """What came, without keeping it."""
    digest, size = hashlib.sha256(), 0
    while part := request.stream.read(65536):
        digest.update(part)
        size += len(part)
    return jsonify(sha256=digest.hexdigest(), size=size)


@app.get("/stream")
def stream() -> Response:
    @stream_with_context
    def parts() -> Iterator[str]:
        for number in range(100):
            yield f"{request.args.get('name', 'line')} {number}\n"

    return Response(parts(), mimetype="text/plain")


@app.get("/events")
def events() -> Response:
    """Server-sent events, without an end."""

    def ticks() -> Iterator[str]:
        try:
            number = 0
            while True:
                yield f"data: {number}\n\n"
                number += 1
                time.sleep(0.02)
        finally:
            (NOTES / "ended").touch()

    return Response(ticks(), mimetype="text/event-stream")


@app.get("/file/<name>")
def file(name: str) -> Response:
    return send_file(NOTES / name, as_attachment=True, download_name="download.bin", conditional=True)


@app.get("/visits")
def visits() -> str:
    session["visits"] = session.get("visits", 0) + 1
    return str(session["visits"])


@app.get("/redirect")
def away() -> Any:
    return redirect(url("item", number=7))


@app.get("/where")
def where() -> Any:
    names = ("script_root", "path", "url", "remote_addr", "scheme", "host")
    return jsonify({name: getattr(request, name) for name in names})


@app.get("/environ")
def environ() -> Any:
    return jsonify({name: value for name, value in request.environ.items() if isinstance(value, str)})


@app.get("/teapot")
def teapot() -> None:
    abort(418)


@app.get("/nothing")
def nothing() -> Any:
    return "", 204


@app.get("/fail")
def fail() -> None:
    raise LookupError("the failure of the app")


@app.get("/fail-late")
def fail_late() -> Response:
    def parts() -> Iterator[bytes]:
        yield b"the beginning"
        raise LookupError("the failure in the middle")

    return Response(parts())


@app.get("/slow/<name>")
def slow(name: str) -> str:
    """Until the file ``go`` is there."""
    (NOTES / f"began-{name}").touch()
    while not (NOTES / "go").exists():
        time.sleep(0.01)
    (NOTES / f"done-{name}").touch()
    return "done"


@app.before_request
def remember() -> None:
    g.path = request.path


@app.after_request
def stamp(response: Response) -> Response:
    response.headers["X-Stamp"] = g.path
    return response
