"""The status page in headless Chromium: of a real server under load, and of one that a test makes up."""

from __future__ import annotations

import json
import re
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from shardserve.master.history import History
from tests.helpers.chromium import Chromium, Page, needs_chromium
from tests.helpers.load import KeptAlive, Load
from tests.helpers.master_process import until
from tests.helpers.server import Serve, ServerProcess
from tests.helpers.status_stub import StatusStub

pytestmark = needs_chromium

HOSTILE = "<img src=/x onerror=alert(1)>\"'&amp;</script><script>alert(2)</script>\u202e\u0000"
# Before the page's own script: what it asks for, and what it was told last.
LISTEN = """
window.asked = [];
const ask = window.fetch;
window.fetch = async (...what) => {
  window.asked.push(String(what[0]));
  const answer = await ask(...what);
  answer.clone().json().then(told => { window.told = told; }, () => {});
  return answer;
};
"""
# What a person reads, next to what the server has said.
READ = """(() => {
  const text = path => [...document.querySelectorAll(path)].map(one => one.textContent);
  const facts = Object.fromEntries([...document.querySelectorAll("#facts div")].map(one => [...one.children].map(part => part.textContent)));
  return {told: window.told, app: text("#app")[0], phase: text("#phase")[0], facts, tiles: text(".tile .value"),
    rows: [...document.querySelectorAll("#rows tr")].map(row => [...row.children].map(cell => cell.textContent)),
    now: text(".panel .now"), notices: text("#notices li")};
})()"""  # noqa: E501
# How many pixels of a chart are about of a colour of the style sheet: a line may lie between two rows.
PIXELS = """
const [panel, name] = args, canvas = document.querySelector(`[data-panel=${panel}] canvas`);
const hex = getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const wanted = [1, 3, 5].map(at => parseInt(hex.slice(at, at + 2), 16));
const {data} = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
let found = 0;
for (let at = 0; at < data.length; at += 4)
  if (data[at + 3] > 200 && wanted.every((value, part) => Math.abs(value - data[at + part]) < 50)) found++;
return found;
"""
COLOURS = """
const picture = await createImageBitmap(await (await fetch("data:image/png;base64," + args[0])).blob());
const canvas = new OffscreenCanvas(picture.width, picture.height), pen = canvas.getContext("2d");
pen.drawImage(picture, 0, 0);
const {data} = pen.getImageData(0, 0, picture.width, picture.height);
return [picture.width, picture.height, new Set(new Uint32Array(data.buffer)).size];
"""
PANELS = ["rps", "p99_ms", "lag_ms", "cpu_percent", "rss_bytes", "in_flight", "connections"]
SIZES = {"k": 1e3, "M": 1e6, "G": 1e9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


@pytest.fixture(scope="module")
def browser() -> Iterator[Chromium]:
    with Chromium() as browser:
        yield browser


opened: list[Page] = []


@pytest.fixture(autouse=True)
def _close_pages() -> Iterator[None]:
    """Those that the test has opened: each would go on asking, and drawing."""
    before = len(opened)
    yield
    while len(opened) > before:
        opened.pop().close()


def look(browser: Chromium, url: str, *, width: int = 1280, height: int = 900, **media: str) -> Page:
    """The page of this address, with everything that it does from its first byte on on record."""
    page = browser.open("about:blank")
    opened.append(page)
    for domain in ("Page", "Runtime", "Log", "Network"):
        page.ask(f"{domain}.enable")
    page.ask("Page.addScriptToEvaluateOnNewDocument", source=LISTEN)
    visible(page, True)  # although others are opened over it
    features = [{"name": name.replace("_", "-"), "value": value} for name, value in media.items()]
    page.ask("Emulation.setEmulatedMedia", features=features)
    resize(page, width, height)
    page.ask("Page.navigate", url=url)
    until(lambda: page.value("document.querySelectorAll('#rows tr').length"), "the first figures")
    return page


def visible(page: Page, wanted: bool) -> None:
    """Whether it is shown; if not, that is because another one is in front of it."""
    page.ask("Emulation.setFocusEmulationEnabled", enabled=wanted)


def resize(page: Page, width: int, height: int = 900) -> None:
    how = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    page.ask("Emulation.setDeviceMetricsOverride", **how)


def complaints(page: Page) -> list[str]:
    """What the console would show in red, violations of the policy among it."""
    entries = [one["entry"] for one in page.events("Log.entryAdded")]
    thrown = [one["exceptionDetails"]["text"] for one in page.events("Runtime.exceptionThrown")]
    said = [one["type"] for one in page.events("Runtime.consoleAPICalled")]
    return [one["text"] for one in entries if one["level"] in ("error", "warning")] + thrown + said


def number(text: str) -> tuple[float, float]:
    """``12.3k/s`` as 12300, and that it can be wrong by 50."""
    found = re.match(r"([\d,]+(?:\.(\d+))?) ?([A-Za-z]*)", text)
    assert found, text
    size = SIZES.get(found[3], 1)
    return float(found[1].replace(",", "")) * size, 0.501 * size / 10 ** len(found[2] or "")


def alike(text: str, value: float | None) -> bool:
    if value is None:
        return text == "–"
    shown, error = number(text)
    return abs(shown - value) <= error


def metrics_url(server: ServerProcess) -> str:
    found = re.search(r"metrics: (http://\S+?)/metrics", server.log())
    assert found, server.log()
    return f"{found[1]}/"


# A real server under load


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    flags = ("--workers", "2", "--metrics", "127.0.0.1:0", "--no-access-log")
    with ServerProcess(tmp_path_factory.mktemp("status"), "faulty:app", *flags) as server:
        yield server


@pytest.fixture(scope="module")
def load(server: ServerProcess) -> Iterator[Load]:
    clients = [KeptAlive(server.port) for _ in range(8)]  # enough for both workers to have one
    with Load(*clients, pause_s=0.01) as load:
        yield load
    assert load.failed == []


@pytest.fixture(scope="module")
def page(browser: Chromium, server: ServerProcess, load: Load) -> Page:
    load.goes_on()
    return look(browser, metrics_url(server))


def test_the_page_shows_what_the_server_says(page: Page, server: ServerProcess) -> None:
    def shown() -> dict[str, Any]:
        """One moment of the load, without what has been asked for and not been shown yet."""
        seen = page.value(READ)
        told = seen["told"]
        at_work = all(one["p99_ms"] and one["rps"] for one in told["workers_list"])
        return seen if at_work and alike(seen["tiles"][0], told["rps"]) else {}

    seen = until(shown, "figures of requests")
    told = seen["told"]
    assert (seen["app"], seen["phase"]) == ("faulty:app", "serving")
    assert seen["facts"]["pid"] == str(server.pid)
    assert seen["facts"]["workers"] == "2 of 2 ready"
    assert seen["facts"]["listens on"] == server.url
    workers = told["workers_list"]
    totals = [told["rps"], told["p50_ms"], told["p99_ms"]]
    totals += [sum(one[name] for one in workers) for name in ("in_flight", "connections")]
    assert [text for text, value in zip(seen["tiles"], totals, strict=False) if not alike(text, value)] == []
    assert seen["tiles"][5] == "0"
    assert {int(row[3]) for row in seen["rows"]} == server.pids()
    for row, worker in zip(seen["rows"], workers, strict=True):
        assert row[:3] == [str(worker["slot"]), "ready", str(worker["core"])]
        names = ["rps", "p50_ms", "p99_ms", "in_flight", "connections", "loop_lag_ms", "loop_lag_max_ms"]
        names += ["cpu_percent", "rss_bytes", "served", "errors_5xx"]
        wrong = [
            (name, text) for name, text in zip(names, row[5:], strict=False) if not alike(text, worker[name])
        ]
        assert wrong == []


def test_after_the_load_page_and_server_agree(browser: Chromium, server: ServerProcess, page: Page) -> None:
    """Not only with what the page was told, but with the answer to somebody else."""
    before = urllib.request.urlopen(f"{metrics_url(server)}status.json").read()
    least = [one["served"] for one in json.loads(before)["workers_list"]]

    def caught_up() -> bool:
        served = [number(row[14]) for row in page.value(READ)["rows"]]
        return all(shown + error >= had for (shown, error), had in zip(served, least, strict=True))

    until(caught_up, "as many requests on the page")


@pytest.mark.parametrize("slot", [0, 1])
def test_every_chart_has_a_line_of_each_worker(page: Page, slot: int) -> None:
    """Where two have the same figures one line is over the other: the highlighted one."""
    chip = f"document.querySelectorAll('.chip')[{slot}].click()"
    page.value(chip)
    for panel in PANELS:
        until(lambda panel=panel: page.run(PIXELS, panel, f"--c{slot}") > 5, f"a line for {panel}")
    page.value(chip)


def test_the_page_asks_nobody_else_and_has_nothing_to_complain_of(
    browser: Chromium, server: ServerProcess
) -> None:
    page = look(browser, metrics_url(server))
    until(lambda: page.value("asked.length") > 3, "a few questions")
    urls = {one["request"]["url"] for one in page.events("Network.requestWillBeSent")}
    ours = metrics_url(server)
    assert {url.partition("?")[0] for url in urls if not url.startswith("data:")} == {
        ours,
        f"{ours}status.json",
    }
    assert complaints(page) == []


def test_its_policy_is_in_force(browser: Chromium, server: ServerProcess) -> None:
    page = look(browser, metrics_url(server))
    assert page.run(
        """
        const found = new Set(), other = location.origin.replace("127.0.0.1", "127.0.0.2");
        addEventListener("securitypolicyviolation", event => found.add(event.effectiveDirective));
        const image = new Image();
        const [script, style] = ["script", "style"].map(one => document.createElement(one));
        image.src = other + "/x.png";
        script.textContent = "window.intruder = true";
        style.textContent = "body { display: none }";
        document.body.append(image, script, style);
        await fetch(other).catch(() => {});
        while (found.size < 4) await new Promise(go => setTimeout(go, 20));
        return [[...found].sort(), window.intruder === undefined, getComputedStyle(document.body).display];"""
    ) == [["connect-src", "img-src", "script-src-elem", "style-src-elem"], True, "block"]


def test_a_new_page_has_the_past_at_once_and_then_asks_for_what_is_new(
    browser: Chromium, server: ServerProcess, page: Page
) -> None:
    until(lambda: page.value("told.history.last") >= 4, "a few seconds")
    other = look(browser, metrics_url(server))
    until(lambda: other.value("asked.length") > 3, "a few questions")
    first, *later = other.value("asked")
    assert first == "status.json"
    since = [int(one.removeprefix("status.json?since=")) for one in later]
    assert since == sorted(since)
    assert since[0] >= 4
    assert 0 <= other.value("told.history.total.rps.length") < since[0]
    press(other, "rss_bytes", "Home")
    ago = re.fullmatch(r"(?:(\d+) min ?)?(?:(\d+) s )?ago: worker 0 .*, worker 1 .*", other.value(SAID))
    assert ago, other.value(SAID)
    assert int(ago[1] or 0) * 60 + int(ago[2] or 0) >= 4


SAID = "document.getElementById('said').textContent"


def press(page: Page, panel: str, *keys: str) -> None:
    """Keys, into this chart."""
    page.value(f"document.querySelector('[data-panel={panel}]').focus()")
    for key in keys:
        page.ask("Input.dispatchKeyEvent", type="keyDown", key=key, code=key)
        page.ask("Input.dispatchKeyEvent", type="keyUp", key=key, code=key)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_screenshot_is_a_picture(browser: Chromium, server: ServerProcess, scheme: str) -> None:
    page = look(browser, metrics_url(server), prefers_color_scheme=scheme)
    data = page.ask("Page.captureScreenshot", format="png")["data"]
    width, height, colours = browser.open("about:blank").run(COLOURS, data)
    assert (width, height) == (1280, 900)
    assert colours > 100  # smooth text and lines; a page without its script has a few grays
    background = page.value("getComputedStyle(document.documentElement).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", background)[:3])) < 128 * 3) == (scheme == "dark")


def test_the_page_comes_back_with_the_server(browser: Chromium, serve: Serve) -> None:
    flags = ("--workers", "1", "--metrics")
    first = serve("faulty:app", *flags, "127.0.0.1:0")
    page = look(browser, metrics_url(first))
    until(lambda: page.value("told.history.last") >= 2, "a few seconds")
    first.stop()
    until(lambda: page.value("!document.getElementById('gone').classList.contains('hidden')"), "the bad news")
    text = page.value("document.getElementById('gone').textContent")
    assert re.search(r"No answer since \d\d:\d\d:\d\d.*trying", text), text
    assert page.value(READ)["phase"] == "no answer"
    assert page.value(READ)["facts"]["pid"] == str(first.pid)  # what was last known stays
    port = metrics_url(first).rstrip("/").rpartition(":")[2]
    second = serve("faulty:app", *flags, f"127.0.0.1:{port}")
    until(lambda: page.value(READ)["facts"]["pid"] == str(second.pid), "the new server's figures")
    until(lambda: page.value(READ)["phase"] == "serving", "all of its workers")
    assert page.value("document.getElementById('gone').classList.contains('hidden')")


# Servers that are made up


def test_no_name_becomes_markup(browser: Chromium) -> None:
    hostile = {"note": HOSTILE, "state": HOSTILE, "restarts": {HOSTILE: 2}}
    of_server = {"app": HOSTILE, "urls": [HOSTILE], "version": HOSTILE, "config_problems": [HOSTILE]}
    with StatusStub(worker=hostile, **of_server) as stub:
        page = look(browser, stub.url)
        seen = page.value(READ)
        assert (seen["app"], seen["facts"]["shardserve"], seen["facts"]["listens on"]) == (HOSTILE,) * 3
        assert [row[1] for row in seen["rows"]] == [HOSTILE] * 2
        assert [row[-2:] for row in seen["rows"]] == [[f"2 × {HOSTILE}", HOSTILE]] * 2
        assert seen["notices"][0].endswith(HOSTILE)
        assert page.value("document.querySelectorAll('img').length") == 0
        assert page.value("document.querySelectorAll('script').length") == 1
        assert complaints(page) == []
        assert set(stub.asked) >= {"/", "/status.json"}
        assert not [one for one in stub.asked if one.startswith("/x")]


@pytest.mark.parametrize("width", [360, 1000, 1600])
@pytest.mark.parametrize("slots", [2, 128])
def test_no_width_needs_sideways_scrolling(browser: Chromium, slots: int, width: int) -> None:
    problem = "it is called /" + "very_long_folder" * 20
    with StatusStub(slots, 70, app="package." * 30 + "main:app", config_problems=[problem]) as stub:
        page = look(browser, stub.url, width=width)
        scrolled, shown = page.value(
            "(({scrollWidth, clientWidth}) => [scrollWidth, clientWidth])(document.documentElement)"
        )
        assert scrolled == shown <= width
        parts = "header *, #facts *, #notices *, .tile *, .panel canvas"
        spilled = f"""[...document.querySelectorAll("{parts}")].map(one => [one.outerHTML.slice(0, 80),
            one.getBoundingClientRect().right]).filter(one => one[1] > innerWidth)"""
        assert page.value(spilled) == []


def test_128_workers_are_a_band_and_a_strip(browser: Chromium) -> None:
    with StatusStub(128, 260) as stub:  # now worker 3 has trouble
        page = look(browser, stub.url)
        assert page.value("document.querySelectorAll('#rows tr').length") == 128
        assert page.value("document.querySelectorAll('#legend option').length") == 129
        assert page.value("document.querySelectorAll('#legend button').length") == 0
        # Sorted by the loop's lag, the worst is on top; and again is the other way round.
        button = "[...document.querySelectorAll('thead button')].find(one => one.textContent === 'Loop lag')"
        page.value(f"{button}.click()")
        assert page.value(READ)["rows"][0][0] == "3"
        assert page.value(f"{button}.parentNode.ariaSort") == "descending"
        page.value(f"{button}.click()")
        assert page.value(READ)["rows"][-1][0] == "3"
        press(page, "lag_ms", "End")
        tip = page.value("document.querySelector('[data-panel=lag_ms] .tip').textContent")
        assert "highest: worker 3" in tip
        # The trouble of one in 128 can be seen in the strip: it is not averaged away.
        strip = """const canvas = document.querySelector("[data-panel=lag_ms] canvas");
            const {data} = canvas.getContext("2d").getImageData(canvas.width - 16, 162, 1, 180);
            const rows = Array.from({length: 180}, (_, y) => data[4 * y]);
            const calm = Math.max(...rows.filter(Boolean));
            return rows.filter(red => red && red < calm - 40).length;"""
        assert 1 <= page.run(strip) <= 6
        assert complaints(page) == []


def test_where_workers_outnumber_pixels_they_share_rows(browser: Chromium) -> None:
    with StatusStub(400, 5, worker={"loop_lag_ms": 0.01}) as stub:
        page = look(browser, stub.url)
        assert "a row for 3 workers, the highest of them" in page.value("document.body.textContent")
        assert page.value("document.querySelector('[data-panel=rps] canvas').height") < 500
        assert complaints(page) == []


def test_one_worker_is_highlighted_everywhere(browser: Chromium) -> None:
    picked = "[...document.querySelectorAll('#rows tr.picked th')].map(one => one.textContent)"
    pressed = "[...document.querySelectorAll('.chip[aria-pressed=true]')].map(one => one.dataset.slot)"
    with StatusStub(4) as stub:
        page = look(browser, stub.url)
        whole = page.run(PIXELS, "rps", "--c1")
        page.value("document.querySelectorAll('.chip')[2].click()")
        assert (page.value(picked), page.value(pressed)) == (["2"], ["2"])
        assert page.run(PIXELS, "rps", "--c1") < whole / 5
        page.value("document.querySelectorAll('#rows button')[2].click()")  # the same one again
        assert (page.value(picked), page.value(pressed)) == ([], [])
        assert page.run(PIXELS, "rps", "--c1") == whole
        press(page, "rps", "ArrowDown", "ArrowDown")
        assert page.value(picked) == ["1"]
        assert re.fullmatch(r"now: worker 1 [\d,.]+k?/s", page.value(SAID))
        press(page, "rps", "Escape")
        assert page.value(picked) == []


def test_what_is_not_known_is_not_made_up(browser: Chromium) -> None:
    nothing = dict.fromkeys(
        ("p50_ms", "p99_ms", "cpu_percent", "rss_bytes", "rps", "pid", "uptime_s", "core")
    )
    with StatusStub(2, worker=nothing, p50_ms=None, p99_ms=None) as stub:
        page = look(browser, stub.url)
        seen = page.value(READ)
        assert seen["tiles"][1:3] == ["–", "–"]
        assert [[row[at] for at in (2, 3, 4, 5, 6, 7, 12, 13)] for row in seen["rows"]] == [["–"] * 8] * 2
        assert [seen["now"][at] for at in (0, 1, 3, 4)] == ["–"] * 4
        assert page.run(PIXELS, "p99_ms", "--c0") == 0
        assert page.run(PIXELS, "connections", "--c0") > 5


def test_trouble_is_told_in_words(browser: Chromium) -> None:
    backoff = {"state": "backoff", "note": "starts again in 2.1 s"}
    with StatusStub(1, worker=backoff, workers=3, config_problems=["--workers is -1"]) as stub:
        page = look(browser, stub.url)
        assert page.value(READ)["notices"] == [
            "It does not run what is configured: --workers is -1",
            "Worker 0 ended and is not back yet: starts again in 2.1 s.",
            "2 workers of 3 not ready yet.",
        ]
        assert page.value(READ)["facts"]["workers"] == "0 of 3 ready"


@pytest.mark.parametrize("broken", [(503, b""), (200, b"<html>"), (200, b"[]"), (200, b"null")])
def test_an_answer_without_figures_is_no_answer(browser: Chromium, broken: tuple[int, bytes]) -> None:
    with StatusStub() as stub:
        page = look(browser, stub.url)
        stub.broken = broken
        gone = "!document.getElementById('gone').classList.contains('hidden')"
        until(lambda: page.value(gone), "the bad news")
        stub.broken = None
        page.value("document.getElementById('retry').click()")
        until(lambda: not page.value(gone), "the good news")
        assert page.value(READ)["phase"] == "serving"
        assert page.events("Runtime.exceptionThrown") == []


def test_another_masters_past_is_not_taken_for_this_ones(browser: Chromium) -> None:
    """After an upgrade, or a restart that nobody saw, the numbers of the points are others."""
    with StatusStub(2, 30) as stub:
        page = look(browser, stub.url)
        until(lambda: page.value("asked.length") > 1, "a second question")
        stub.history = History()
        for _ in range(60):
            stub.tick()
        stub.more["pid"] = 5151
        until(lambda: page.value(READ)["facts"]["pid"] == "5151", "the new master")
        assert page.value("told.history.total.rps.length") == 60  # the last question was for everything
        press(page, "rps", "Home")
        assert page.value(SAID).startswith("59 s ago: ")


def test_nobody_is_asked_while_nobody_looks(browser: Chromium) -> None:
    """Hidden and paused: while another page asks several times, these ask nothing."""
    with StatusStub() as stub:
        hidden, paused, other = (look(browser, stub.url) for _ in range(3))
        visible(hidden, False)
        until(lambda: hidden.value("document.hidden"), "the first one to be behind the others")
        paused.value("document.getElementById('pause').click()")
        before = [one.value("asked.length") for one in (hidden, paused)]
        seen = other.value("asked.length")
        until(lambda: other.value("asked.length") >= seen + 3, "three questions")
        assert [one.value("asked.length") for one in (hidden, paused)] == before
        assert paused.value(READ)["phase"].startswith("paused at ")
        visible(hidden, True)
        paused.value("document.getElementById('pause').click()")
        for one, had in zip((hidden, paused), before, strict=True):
            until(lambda one=one, had=had: one.value("asked.length") > had + 1, "two questions more")
        assert paused.value(READ)["phase"] == "serving"


def test_without_javascript_it_says_where_else_to_look(browser: Chromium) -> None:
    with StatusStub() as stub:
        page = browser.open("about:blank")
        page.ask("Emulation.setScriptExecutionDisabled", value=True)
        page.ask("Page.navigate", url=stub.url)
        text = "document.body?.innerText ?? ''"
        until(lambda: "JavaScript" in page.value(text), "the words for it")
        assert "/metrics" in page.value(text)
        assert "shardserve ctl status" in page.value(text)
        assert "Pause" not in page.value(text)


def test_motion_is_for_those_who_want_it(browser: Chromium) -> None:
    with StatusStub() as stub:
        moves = "getComputedStyle(document.querySelector('main')).transitionDuration"
        assert look(browser, stub.url, prefers_reduced_motion="reduce").value(moves) == "0s"
        assert look(browser, stub.url, prefers_reduced_motion="no-preference").value(moves) == "0.3s"


def test_everything_can_be_reached_and_has_a_name(browser: Chromium) -> None:
    with StatusStub() as stub:
        page = look(browser, stub.url)
        unnamed = """[...document.querySelectorAll("button, a, select, [tabindex='0']")].filter(one =>
            !one.textContent.trim() && !one.ariaLabel).map(one => one.outerHTML.slice(0, 80))"""
        assert page.value(unnamed) == []
        reached = []
        for _ in range(60):
            page.ask("Input.dispatchKeyEvent", type="keyDown", key="Tab", code="Tab", windowsVirtualKeyCode=9)
            reached.append(page.value("document.activeElement.dataset.panel ?? document.activeElement.id"))
        assert [one for one in reached if one in PANELS][: len(PANELS)] == PANELS
        assert "pause" in reached
