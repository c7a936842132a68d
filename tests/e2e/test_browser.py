"""A browser's own WebSocket, in a page that we serve: headless Chromium."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.chromium import Chromium, Page, needs_chromium
from tests.helpers.master_process import until
from tests.helpers.server import APPS, Serve, ServerProcess

pytestmark = needs_chromium

# The demo, and every WebSocket of ws_app.py beside it.
BOTH = """
import ws_app
from shardserve import demo

async def app(scope, receive, send):
    is_demo = scope["type"] == "http" or scope.get("path") not in ws_app.ROUTES
    await (demo.app if is_demo and scope["type"] != "lifespan" else ws_app.app)(scope, receive, send)
"""

# What the bodies of Page.run have: a WebSocket of the page's own origin, and promises of what it says.
TOOLS = """
const open = (path, ...more) => new Promise((resolve, reject) => {
  const ws = new WebSocket("ws://" + location.host + path, ...more);
  const queue = [], waiting = [];
  ws.binaryType = "arraybuffer";
  ws.next = () => queue.length ? Promise.resolve(queue.shift()) : new Promise(take => waiting.push(take));
  ws.onmessage = event => waiting.length ? waiting.shift()(event.data) : queue.push(event.data);
  ws.ended = new Promise(take => ws.onclose = event =>
    take({code: event.code, reason: event.reason, clean: event.wasClean}));
  ws.ask = async data => { ws.send(data); return await ws.next(); };
  ws.onopen = () => resolve(ws);
  ws.onerror = () => ws.ended.then(end => reject(new Error("failed with " + end.code)));
});
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Chromium]:
    with Chromium() as browser:
        yield browser


def start(serve_or_class: type[ServerProcess] | Serve, folder: Path, *flags: str) -> ServerProcess:
    (folder / "both.py").write_text(BOTH)
    flags = (*flags, "--timeout-drain-streams", "0.2")  # the demo page keeps a WebSocket
    env = {"PYTHONPATH": str(APPS)}
    if serve_or_class is ServerProcess:
        return ServerProcess(folder / "server", "both:app", *flags, app_dir=folder, env=env)
    return serve_or_class("both:app", *flags, app_dir=folder, env=env)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with start(ServerProcess, tmp_path_factory.mktemp("browser"), "--workers", "2") as server:
        yield server


@pytest.fixture(scope="module")
def page(browser: Chromium, server: ServerProcess) -> Page:
    return browser.open(f"{server.url}/")


def test_the_page_is_the_demo(page: Page) -> None:
    assert page.value("document.title") == "shardserve"
    assert page.value("document.querySelector('h1').textContent") == "shardserve"


def test_the_demo_has_a_websocket(page: Page, server: ServerProcess) -> None:
    hello, text, data = page.run(
        TOOLS
        + """
        const ws = await open("/ws"), hello = JSON.parse(await ws.next());
        const text = JSON.parse(await ws.ask("ü→😀")), data = await ws.ask(new Uint8Array([0, 128, 255]));
        ws.close();
        return [hello, text, [...new Uint8Array(data)]];"""
    )
    assert hello["pid"] in server.pids()
    assert (text["echo"], text["pid"], data) == ("ü→😀", hello["pid"], [0, 128, 255])


def test_text_and_binary_are_echoed(page: Page) -> None:
    found = page.run(
        TOOLS
        + """
        const ws = await open("/echo"), found = [];
        for (const length of [0, 1, 125, 126, 1023, 1024, 65535, 65536, 1 << 20]) {
          const text = "ü→😀".repeat(length / 9) + "x".repeat(length % 9);
          const data = new Uint8Array(length).map((_, at) => at * 31 + (at >> 8));
          const back = new Uint8Array(await ws.ask(data));
          found.push([length, await ws.ask(text) === text,
            back.length === length && back.every((byte, at) => byte === data[at])]);
        }
        const blob = await ws.ask(new Blob(["of a ", "blob"]));
        found.push(new TextDecoder().decode(blob));
        ws.close(1000, "thanks");
        found.push(await ws.ended);
        return found;"""
    )
    lengths = [0, 1, 125, 126, 1023, 1024, 65_535, 65_536, 1 << 20]
    assert found[:-2] == [[length, True, True] for length in lengths]
    assert found[-2:] == ["of a blob", {"code": 1000, "reason": "thanks", "clean": True}]


def test_permessage_deflate_is_agreed(page: Page) -> None:
    extensions, text = page.run(
        TOOLS
        + """
        const ws = await open("/echo"), text = "again and again ".repeat(10000);
        const same = await ws.ask(text) === text && await ws.ask(text) === text;
        ws.close();
        return [ws.extensions, same];"""
    )
    assert text is True
    name, *parameters = [part.strip() for part in extensions.split(";")]
    assert name == "permessage-deflate"
    assert {"server_no_context_takeover", "client_no_context_takeover"} <= set(parameters)


def test_no_deflate_where_it_is_off(browser: Chromium, serve: Serve, tmp_path: Path) -> None:
    server = start(serve, tmp_path, "--workers", "1", "--no-ws-per-message-deflate")
    found = browser.open(f"{server.url}/").run(
        TOOLS + 'const ws = await open("/echo"); return [ws.extensions, await ws.ask("plain")];'
    )
    assert found == ["", "plain"]


def test_many_at_once_over_both_workers(page: Page, server: ServerProcess) -> None:
    pids = page.run(
        TOOLS
        + """
        const all = await Promise.all(Array.from({length: 40}, () => open("/who")));
        const pids = await Promise.all(all.map(ws => ws.ask("who?")));
        for (const ws of all) ws.close();
        await Promise.all(all.map(ws => ws.ended));
        return pids;"""
    )
    assert len(pids) == 40
    assert {int(pid) for pid in pids} == server.pids()


def test_a_stream_of_messages(page: Page) -> None:
    assert page.run(
        TOOLS
        + """
        const ws = await open("/push?500,20000");
        for (let number = 0; number < 500; number++) {
          const view = new DataView(await ws.next());
          if (view.byteLength !== 20000 || view.getUint32(0) !== number) return number;
        }
        return await ws.ended;"""
    ) == {"code": 1000, "reason": "all sent", "clean": True}


def test_the_page_sees_code_and_reason(page: Page) -> None:
    found = page.run(
        TOOLS
        + """
        const found = [];
        for (const wish of ["1000,", "1001,going", "4000,ü→😀", "1011,oh"]) {
          const ws = await open("/close?" + encodeURIComponent(wish));
          ws.send("now");
          found.push(await ws.ended);
        }
        return found;"""
    )
    ends = [(1000, ""), (1001, "going"), (4000, "ü→😀"), (1011, "oh")]
    assert found == [{"code": code, "reason": reason, "clean": True} for code, reason in ends]


def test_a_subprotocol(page: Page) -> None:
    found = page.run(
        TOOLS
        + """
        const ws = await open("/chat?two", ["one", "two"]);
        return [ws.protocol, await ws.next()];"""
    )
    assert found == ["two", '["one", "two"]']


def test_a_denial_is_an_error_for_the_page(browser: Chromium, serve: Serve, tmp_path: Path) -> None:
    """A page may not know more than that it failed."""
    server = start(serve, tmp_path, "--workers", "1")
    page = browser.open(f"{server.url}/")
    attempt = TOOLS + "return await open(args[0]).then(() => 'opened', error => error.message);"
    assert [page.run(attempt, path) for path in ("/reject", "/deny?401", "/echo")] == [
        "failed with 1006",
        "failed with 1006",
        "opened",
    ]
    server.stop()
    assert page.run(attempt, "/echo") == "failed with 1006"  # nobody listens any more


def test_the_page_comes_back_after_a_reload(browser: Chromium, serve: Serve, tmp_path: Path) -> None:
    """1012 tells the page that it may come back: it does, to the new worker."""
    server = start(serve, tmp_path, "--workers", "1")
    page = browser.open(f"{server.url}/")
    page.run(
        TOOLS
        + """
        window.seen = [];
        const stay = async () => {
          const ws = await open("/who");
          seen.push({pid: Number(await ws.ask("who?"))});
          const end = await ws.ended;
          seen.push(end);
          if (end.code === 1012) stay();
        };
        stay();"""
    )
    until(lambda: len(page.value("seen")) == 1, "the first connection")
    pids = [*server.pids()]
    for reloads in (1, 2):
        server.send(signal.SIGHUP)
        until(lambda reloads=reloads: len(page.value("seen")) == 1 + 2 * reloads, "the next connection")
        until(lambda old=pids[-1]: server.pids() and old not in server.pids(), "the old worker to go")
        pids += server.pids()
    seen = page.value("seen")
    assert [one["pid"] for one in seen[::2]] == pids
    assert [(one["code"], one["clean"]) for one in seen[1::2]] == [(1012, True)] * 2
    server.stop()
    until(lambda: len(page.value("seen")) == 6, "the end")
    assert page.value("seen[5].code") == 1012
