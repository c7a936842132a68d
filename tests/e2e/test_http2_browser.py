"""A browser's own HTTP/2, over TLS: headless Chromium."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.apps.h2_app import RESOURCES
from tests.helpers.certificates import Files
from tests.helpers.chromium import Chromium, Page, needs_chromium
from tests.helpers.master_process import until
from tests.helpers.nghttp2 import needs_nghttp2
from tests.helpers.server import ServerProcess

pytestmark = [needs_chromium, needs_nghttp2]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("notes")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, shared: Path, files: Files) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("h2")
    flags = ("--workers", "1", "--http2", *files.flags, "--timeout-drain-streams", "0.2")
    env = {"NOTES": str(shared)}
    with ServerProcess(folder / "server", "h2_app:app", *flags, env=env) as server:
        yield server


@pytest.fixture(scope="module")
def page(server: ServerProcess) -> Iterator[Page]:
    with Chromium() as browser:
        browser.ask("Security.setIgnoreCertificateErrors", ignore=True)
        yield browser.open(f"{server.urls[0]}/page")


def test_a_page_and_all_that_is_on_it_come_over_one_connection(page: Page, server: ServerProcess) -> None:
    loaded = page.run(
        """
        return [...performance.getEntriesByType("navigation"), ...performance.getEntriesByType("resource")]
          .filter(one => one.name.startsWith(location.origin))
          .map(one => [one.nextHopProtocol, one.responseStatus, one.name.slice(location.origin.length)]);"""
    )
    paths = ["/page", *(f"/dot.svg?{number}" for number in range(RESOURCES))]
    assert sorted(loaded) == sorted(["h2", 200, path] for path in paths)
    lines = server.saw_access(r"HTTP/2\" 200", times=1 + RESOURCES)
    assert len({line.split()[1] for line in lines}) == 1
    assert page.value("[...document.images].every(one => one.complete && one.naturalWidth === 9)")


def test_an_upload(page: Page) -> None:
    found = page.run(
        """
        const data = new Uint8Array(2000003).map((_, at) => at * 31 + (at >> 8));
        const told = await (await fetch("/", {method: "POST", body: data})).json();
        const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", data));
        const same = told.sha256 === [...digest].map(one => one.toString(16).padStart(2, "0")).join("");
        return [told.http_version, told.method, told.size, same];"""
    )
    assert found == ["2", "POST", 2_000_003, True]


def test_a_download(page: Page) -> None:
    assert (
        page.run(
            """
        const view = new DataView(await (await fetch("/large?5000000")).arrayBuffer());
        for (let number = 0; number < 1250000; number++)
          if (view.getUint32(4 * number) !== number) return number;
        return view.byteLength;"""
        )
        == 5_000_000
    )


def test_many_fetches_at_once(page: Page) -> None:
    """Far more than the six that a browser allows itself over HTTP/1.1; each waits for all of the others."""
    assert page.run(
        """
        const sizes = Array.from({length: 80}, (_, at) => 1000 + at);
        const read = async size => (await (await fetch("/large?" + size)).arrayBuffer()).byteLength;
        return (await Promise.all(sizes.map(read))).every((found, at) => found === sizes[at]);"""
    )


def test_an_event_source(page: Page, shared: Path) -> None:
    found = page.run(
        """
        const source = new EventSource("/events?source"), found = [];
        await new Promise((resolve, reject) => {
          source.onmessage = event => { found.push(event.data); if (found.length === 5) resolve(); };
          source.onerror = reject;
        });
        source.close();
        return found;"""
    )
    assert found == ["0", "1", "2", "3", "4"]
    until((shared / "gone-source").exists, "the app to hear that the page has left")


def test_a_fetch_that_is_aborted(page: Page, shared: Path) -> None:
    """Its stream ends; the app hears of it, and the connection goes on."""
    name = page.run(
        """
        const control = new AbortController();
        const answer = await fetch("/halves?aborted", {signal: control.signal});
        const part = await answer.body.getReader().read();
        control.abort();
        return new TextDecoder().decode(part.value);"""
    )
    assert name == "first half, "
    until((shared / "gone-aborted").exists, "the app to hear of it")
    assert page.run("return (await fetch('/status?204')).status") == 204
