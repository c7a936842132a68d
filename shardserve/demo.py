"""The app that ``shardserve shardserve.demo:app`` serves: what the server does, seen from a browser.

Rules of this file: plain ASGI 3 and the standard library, so that it runs wherever the server does;
one page without external assets. Nothing of the server's insides is used: this is an application,
and its tracebacks are shown like any application's. Whatever a client sent goes back as JSON or
as opaque bytes, never as HTML.
"""

from __future__ import annotations

import asyncio
import json
import os
import platform
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from .types import Message, Receive, Scope, Send

Headers = list[tuple[bytes, bytes]]
Handler = Callable[[Scope, Receive, Send, "Tally"], Awaitable[None]]

STREAM_PARTS = 10
STREAM_PAUSE_S = 0.2
EVENT_PAUSE_S = 1.0


@dataclass(slots=True)
class Tally:
    """What one worker counts. Made at its startup, shared by its requests through the state."""

    started: float = field(default_factory=time.monotonic)
    requests: int = 0
    websockets: int = 0  # open now


# For servers that run without lifespan.
_without_lifespan = Tally()


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """The ASGI entry: lifespan, a WebSocket, or a request to a route."""
    if scope["type"] == "lifespan":
        await _lifespan(scope, receive, send)
    elif scope["type"] == "websocket":
        await _websocket(scope, receive, send)
    elif scope["type"] == "http":
        await _route(scope, receive, send)
    else:
        raise ValueError(f"the demo does not know the scope type {scope['type']!r}")


async def _lifespan(scope: Scope, receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        if message["type"] == "lifespan.startup":
            scope.setdefault("state", {})["tally"] = Tally()
            await send({"type": "lifespan.startup.complete"})
        else:
            await send({"type": "lifespan.shutdown.complete"})
            return


async def _route(scope: Scope, receive: Receive, send: Send) -> None:
    tally = _tally(scope)
    tally.requests += 1
    path = _path(scope)
    routes = ROUTES.get(path)
    if routes is None:
        await _send_json(scope, send, {"error": "not found", "path": path}, status=404)
        return
    method = "GET" if scope["method"] == "HEAD" else scope["method"]
    handler = routes.get(method)
    if handler is None:
        allowed = ", ".join(sorted({*routes, "HEAD"} if "GET" in routes else routes))
        problem = {"error": "method not allowed", "method": scope["method"], "allowed": allowed}
        await _send_json(scope, send, problem, status=405, headers=[(b"allow", allowed.encode())])
        return
    await handler(scope, receive, send, tally)


def _tally(scope: Scope) -> Tally:
    tally: Tally = scope.get("state", {}).get("tally", _without_lifespan)
    return tally


def _path(scope: Scope) -> str:
    """The path below the mount point: ASGI's ``path`` includes ``root_path``."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "").rstrip("/")
    if root and (path == root or path.startswith(root + "/")):
        path = path[len(root) :]
    return path or "/"


# The routes, in the order of the page


async def _page(scope: Scope, receive: Receive, send: Send, tally: Tally) -> None:
    await _send_body(scope, send, PAGE, headers=[*HTML_HEADERS])


async def _whoami(scope: Scope, receive: Receive, send: Send, tally: Tally) -> None:
    # ?new asks for a new connection next time: the kernel picks a worker per connection, so a page
    # on one keep-alive connection would only ever meet one.
    fresh = scope.get("query_string", b"") == b"new"
    await _send_json(scope, send, whoami(tally), headers=[(b"connection", b"close")] if fresh else [])


def whoami(tally: Tally) -> dict[str, Any]:
    """Who answers: the process, the core it is pinned to (or None) and what it counted."""
    cores = sorted(os.sched_getaffinity(0))
    return {
        "pid": os.getpid(),
        "core": cores[0] if len(cores) == 1 else None,
        "cores": cores,
        "python": platform.python_version(),
        "uptime_s": round(time.monotonic() - tally.started, 3),
        "requests": tally.requests,
        "websockets": tally.websockets,
    }


async def _json(scope: Scope, receive: Receive, send: Send, tally: Tally) -> None:
    await _send_json(scope, send, {"message": "Hello, World!"})


async def _echo(scope: Scope, receive: Receive, send: Send, tally: Tally) -> None:
    """Each part of the body goes back as it comes; none is kept."""
    headers = [*OPAQUE_HEADERS]
    headers += [(name, value) for name, value in scope["headers"] if name == b"content-length"]
    message = await receive()  # first: a client that waits for 100-continue gets it here
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    while message["type"] == "http.request":
        more = message.get("more_body", False)
        await send({"type": "http.response.body", "body": message.get("body", b""), "more_body": more})
        if not more:
            return
        message = await receive()
    # The client went in the middle: there is nobody to end the response for.


async def _stream(scope: Scope, receive: Receive, send: Send, tally: Tally) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [*TEXT_HEADERS]})
    for part in range(1, STREAM_PARTS + 1) if scope["method"] == "GET" else ():
        line = f"part {part} of {STREAM_PARTS} from pid {os.getpid()}\n".encode()
        await send({"type": "http.response.body", "body": line, "more_body": True})
        await asyncio.sleep(STREAM_PAUSE_S)
    await send({"type": "http.response.body", "body": b""})


async def _events(scope: Scope, receive: Receive, send: Send, tally: Tally) -> None:
    """Server-sent events (HTML Living Standard §9.2), one a tick, until the client goes."""
    headers = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-store")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    if scope["method"] == "HEAD":
        await send({"type": "http.response.body", "body": b""})
        return
    gone = asyncio.ensure_future(_client_gone(receive))
    try:
        while not gone.done():
            tick = {**whoami(tally), "time": time.strftime("%H:%M:%S")}
            event = f"data: {json.dumps(tick)}\n\n".encode()
            await send({"type": "http.response.body", "body": event, "more_body": True})
            await asyncio.wait({gone}, timeout=EVENT_PAUSE_S)
    except OSError:
        return  # send() after the client went (ASGI HTTP spec 2.4)
    finally:
        gone.cancel()


async def _client_gone(receive: Receive) -> None:
    message: Message = {"type": "http.request"}
    while message["type"] != "http.disconnect":
        message = await receive()


async def _ws(scope: Scope, receive: Receive, send: Send, tally: Tally) -> None:
    """A GET that is no handshake, or a server that serves no WebSocket (--ws none)."""
    # RFC 9110 §15.5.22: "The server MUST send an Upgrade header field in a 426 response";
    # §7.8: its sender "MUST also send an Upgrade connection option".
    headers = [*HTML_HEADERS, (b"upgrade", b"websocket"), (b"connection", b"upgrade")]
    await _send_body(scope, send, WS_PAGE, status=426, headers=headers)


async def _health(scope: Scope, receive: Receive, send: Send, tally: Tally) -> None:
    await _send_json(scope, send, {"status": "ok"})


ROUTES: dict[str, dict[str, Handler]] = {
    "/": {"GET": _page},
    "/whoami": {"GET": _whoami},
    "/json": {"GET": _json},
    "/echo": {"POST": _echo, "PUT": _echo},
    "/stream": {"GET": _stream},
    "/events": {"GET": _events},
    "/ws": {"GET": _ws},
    "/health": {"GET": _health},
}

# The WebSocket


async def _websocket(scope: Scope, receive: Receive, send: Send) -> None:
    """First who is there, then every message back: a text in JSON, with its number; bytes as they came."""
    await receive()  # websocket.connect
    if _path(scope) != "/ws":
        await _deny(scope, send)
        return
    tally, number = _tally(scope), 0
    await send({"type": "websocket.accept"})
    tally.websockets += 1
    try:
        await _send_text(send, whoami(tally))
        while (message := await receive())["type"] == "websocket.receive":
            number += 1
            if message.get("bytes") is not None:
                await send({"type": "websocket.send", "bytes": message["bytes"]})
            else:
                await _send_text(send, {"echo": message["text"], "message": number, "pid": os.getpid()})
    except OSError:
        return  # send() after the client went (ASGI WebSocket spec 2.4)
    finally:
        tally.websockets -= 1


async def _deny(scope: Scope, send: Send) -> None:
    """There is no WebSocket here: a 404 where the server can send one, else its 403."""
    if "websocket.http.response" not in scope.get("extensions", {}):
        await send({"type": "websocket.close"})
        return
    body = json.dumps({"error": "not found", "path": _path(scope)}, indent=2).encode() + b"\n"
    headers = [*JSON_HEADERS, (b"content-length", str(len(body)).encode())]
    await send({"type": "websocket.http.response.start", "status": 404, "headers": headers})
    await send({"type": "websocket.http.response.body", "body": body})


async def _send_text(send: Send, value: Any) -> None:
    await send({"type": "websocket.send", "text": json.dumps(value)})


# Answers


async def _send_json(
    scope: Scope, send: Send, value: Any, *, status: int = 200, headers: Headers | None = None
) -> None:
    body = json.dumps(value, indent=2).encode() + b"\n"
    await _send_body(scope, send, body, status=status, headers=[*JSON_HEADERS, *(headers or [])])


async def _send_body(scope: Scope, send: Send, body: bytes, *, headers: Headers, status: int = 200) -> None:
    """A whole answer. To HEAD: the same head, no body (RFC 9110 §9.3.2)."""
    headers.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})


_ALWAYS: Headers = [(b"cache-control", b"no-store"), (b"x-content-type-options", b"nosniff")]
JSON_HEADERS: Headers = [(b"content-type", b"application/json"), *_ALWAYS]
TEXT_HEADERS: Headers = [(b"content-type", b"text/plain; charset=utf-8"), *_ALWAYS]
OPAQUE_HEADERS: Headers = [(b"content-type", b"application/octet-stream"), *_ALWAYS]
HTML_HEADERS: Headers = [
    (b"content-type", b"text/html; charset=utf-8"),
    (
        b"content-security-policy",
        b"default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; "
        b"img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    *_ALWAYS,
]

# The pages. Addresses are relative, so that they work below a root path; text that came over the
# network is put in with textContent only.

_STYLE = """
:root { color-scheme: light dark; --bg: #f7f7f5; --card: #fff; --ink: #1c1d21; --soft: #63666f;
  --line: #e3e3df; --accent: #d9481c; --track: #eeeeea; }
@media (prefers-color-scheme: dark) { :root { --bg: #131417; --card: #1b1d21; --ink: #ececef;
  --soft: #9a9da6; --line: #2c2f35; --accent: #ff7a4d; --track: #25282d; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--bg); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main { max-width: 50rem; margin: 0 auto; padding: 3.5rem 1.25rem 4rem; }
h1 { font-size: 2.4rem; line-height: 1.1; letter-spacing: -.03em; margin: 0 0 .5rem; }
h1 b { color: var(--accent); font-weight: inherit; }
h2 { font-size: 1.05rem; margin: 0; }
p { margin: .25rem 0 0; } p.lead { color: var(--soft); font-size: 1.1rem; max-width: 38rem; }
section { background: var(--card); border: 1px solid var(--line); border-radius: 14px;
  padding: 1.25rem 1.4rem; margin-top: 1.5rem; }
.row { display: flex; gap: 1rem; align-items: center; justify-content: space-between; flex-wrap: wrap; }
.foot { margin-top: 1.5rem; }
.soft { color: var(--soft); font-size: .9rem; }
.bar { display: grid; grid-template-columns: 9.5rem 1fr 3.5rem; gap: .8rem; align-items: center;
  margin-top: .7rem; font-variant-numeric: tabular-nums; font-size: .92rem; }
.bar i { display: block; height: .85rem; border-radius: 99px; background: var(--track); overflow: hidden; }
.bar i span { display: block; height: 100%; border-radius: 99px; background: var(--accent);
  transition: width .3s ease-out; }
.bar em { font-style: normal; text-align: right; color: var(--soft); }
button { font: inherit; font-size: .92rem; color: var(--ink); background: var(--track);
  border: 1px solid var(--line); border-radius: 9px; padding: .35rem .9rem; cursor: pointer; }
button:hover { border-color: var(--accent); }
input { font: inherit; font-size: .92rem; color: var(--ink); background: var(--bg); flex: 1; min-width: 0;
  border: 1px solid var(--line); border-radius: 9px; padding: .35rem .8rem; }
.say { display: flex; gap: .6rem; margin-top: .9rem; }
button:focus-visible, input:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
ul { list-style: none; padding: 0; margin: .6rem 0 0; }
li { display: grid; grid-template-columns: 7.5rem 1fr auto; gap: .8rem; align-items: center;
  padding: .5rem 0; border-top: 1px solid var(--line); }
code, pre { font: .88rem/1.5 ui-monospace, "SF Mono", Menlo, Consolas, monospace; }
code { color: var(--accent); }
pre { margin: .9rem 0 0; padding: .8rem 1rem; border-radius: 10px; background: var(--track);
  max-height: 15rem; overflow: auto; white-space: pre-wrap; overflow-wrap: anywhere; }
pre:empty { display: none; }
a { color: var(--accent); }
@media (max-width: 34rem) { .bar { grid-template-columns: 7rem 1fr 2.5rem; }
  li { grid-template-columns: 6rem 1fr auto; } }
"""

_SCRIPT = """
const $ = id => document.getElementById(id), workers = new Map();
let running = true, total = 0, lost = 0;
async function ask() {
  try { const reply = await fetch("whoami?new", {cache: "no-store"});
    const me = await reply.json();
    const known = workers.get(me.pid) || {hits: 0};
    workers.set(me.pid, {hits: known.hits + 1, core: me.core}); total++;
  } catch { lost++; }
}
function draw() {
  const most = Math.max(1, ...[...workers.values()].map(one => one.hits));
  const order = (a, b) => (a[1].core ?? 1e9) - (b[1].core ?? 1e9) || a[0] - b[0];
  $("bars").replaceChildren(...[...workers].sort(order).map(([pid, one]) => {
    const row = document.createElement("div"), name = document.createElement("span"),
      track = document.createElement("i"), fill = document.createElement("span"),
      count = document.createElement("em");
    row.className = "bar";
    name.textContent = "pid " + pid + (one.core === null ? "" : " \\u00b7 core " + one.core);
    fill.style.width = 100 * one.hits / most + "%"; count.textContent = one.hits;
    track.append(fill); row.append(name, track, count); return row;
  }));
  $("sum").textContent = total + " connections, " + workers.size +
    (workers.size === 1 ? " worker" : " workers") + (lost ? ", " + lost + " lost" : "");
}
async function beat() {
  if (running && !document.hidden) { await Promise.all([ask(), ask(), ask(), ask()]); draw(); }
  setTimeout(beat, 350);
}
$("pause").onclick = () => { running = !running; $("pause").textContent = running ? "Pause" : "Go on"; };
let stop = () => {};
function show(text) { $("out").textContent = text; }
async function read(path, options) {
  stop(); const end = new AbortController(); stop = () => end.abort();
  try { const reply = await fetch(path, {...options, signal: end.signal, cache: "no-store"});
    show("HTTP " + reply.status + "\\n"); const text = new TextDecoder(), body = reply.body.getReader();
    for (let part; !(part = await body.read()).done;)
      $("out").append(text.decode(part.value, {stream: true}));
  } catch (error) { if (!end.signal.aborted) show(String(error)); }
}
function events() {
  stop(); show(""); const source = new EventSource("events"); stop = () => source.close();
  source.onmessage = event => { const me = JSON.parse(event.data);
    $("out").textContent += me.time + "  pid " + me.pid + "  core " + (me.core ?? "any") + "\\n";
    $("out").scrollTop = $("out").scrollHeight; };
}
const tries = { json: () => read("json"), stream: () => read("stream"), events,
  echo: () => read("echo", {method: "POST", body: "Sent at " + new Date().toISOString() + "\\n"}) };
for (const name in tries) $("try-" + name).onclick = tries[name];
beat();
// The WebSocket. A worker that is replaced closes it with 1012: the next one is there already.
let socket, sent = 0, wait = 250;
const url = new URL("ws", location.href).href.replace(/^http/, "ws");
function note(text) {
  $("talk").append(new Date().toLocaleTimeString() + "  " + text + "\\n");
  while ($("talk").childNodes.length > 200) $("talk").firstChild.remove();
  $("talk").scrollTop = $("talk").scrollHeight;
}
function connect() {
  socket = new WebSocket(url);
  socket.onmessage = event => { const said = JSON.parse(event.data);
    if ("websockets" in said) { wait = 250; note("connected to pid " + said.pid +
      (said.core === null ? "" : ", core " + said.core)); ping(); }
    else if (said.echo !== "") note("pid " + said.pid + " says: " + said.echo);
    else $("state").textContent = "open \\u00b7 pid " + said.pid + " \\u00b7 message " + said.message +
      " \\u00b7 there and back in " + (performance.now() - sent).toFixed(1) + " ms"; };
  socket.onclose = event => {
    const restart = event.code === 1012, how = "closed with " + event.code + (restart ? " (restart)" : "");
    $("state").textContent = how; note(how + ", connecting again");
    setTimeout(connect, restart ? wait * Math.random() : wait); wait = Math.min(10000, 2 * wait); };
}
function ping() { if (socket.readyState === WebSocket.OPEN) { sent = performance.now(); socket.send(""); } }
function say() { if (socket.readyState === WebSocket.OPEN && $("words").value) {
  socket.send($("words").value); $("words").value = ""; } }
$("say").onclick = say;
$("words").onkeydown = event => { if (event.key === "Enter") say(); };
setInterval(() => document.hidden || ping(), 1000);
connect();
"""

_TRIES = "".join(
    f'<li><code>{path}</code><span class="soft">{what}</span><button id="try-{path[1:]}">Try</button></li>'
    for path, what in (
        ("/json", "a small JSON answer"),
        ("/echo", "POST: the body comes back as it arrives"),
        ("/stream", "ten parts, one every 0.2 seconds"),
        ("/events", "server-sent events: who is there, once a second"),
    )
)


def _document(title: str, body: str) -> bytes:
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{title}</title>'
    head += '<link rel="icon" href="data:,">'  # or the browser asks for /favicon.ico
    return (
        f'<!doctype html><html lang="en"><head>{head}<style>{_STYLE}</style></head>{body}</html>\n'.encode()
    )


PAGE = _document(
    "shardserve",
    '<body><main><h1>shard<b>serve</b></h1><p class="lead">One worker per core, each with its own '
    "listening socket. Every request below opens a new connection, and the kernel picks the worker.</p>"
    '<section><div class="row"><h2>Who answers</h2><button id="pause">Pause</button></div>'
    '<div id="bars"></div><p class="soft" id="sum" aria-live="off">Asking…</p></section>'
    '<section><div class="row"><h2>WebSocket</h2><code>/ws</code></div>'
    '<p class="soft" id="state" aria-live="off">Connecting…</p>'
    '<div class="say"><input id="words" aria-label="A message" placeholder="Say something" maxlength="2000">'
    '<button id="say">Send</button></div><pre id="talk" aria-live="polite"></pre></section>'
    f'<section><h2>Try it</h2><ul>{_TRIES}</ul><pre id="out" aria-live="polite"></pre></section>'
    '<p class="soft foot">Also: <a href="whoami">/whoami</a>, <a href="health">/health</a>.</p>'
    f"</main><script>{_SCRIPT}</script></body>",
)

WS_PAGE = _document(
    "shardserve: WebSocket",
    '<body><main><h1>shard<b>serve</b></h1><p class="lead">This address is for WebSockets, and this request '
    "was not the handshake of one, or the server serves none (<code>--ws none</code>). The demo page talks "
    'to it.</p><p><a href="./">To the demo</a></p></main></body>',
)
