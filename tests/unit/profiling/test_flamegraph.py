"""The SVG: well-formed whatever is in it, the same every time, and true to its stacks."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardserve.profiling.flamegraph import WIDTH, fitted, svg
from shardserve.profiling.flamegraph_style import SCRIPT, STYLE
from shardserve.profiling.frames import Frame, Layer
from shardserve.profiling.stacks import Stacks
from tests.helpers.chromium import Chromium, needs_chromium

NS = "{http://www.w3.org/2000/svg}"
HOSTILE = "</title><script>alert(1)</script>&amp;\"']]>\x00\x1b[31m\ud800\u202e\ufffe"


def stacks(*rows: tuple[str, int]) -> Stacks:
    found = Stacks()
    for text, samples in rows:
        frames = [Frame(name, f"{name}.py", Layer.APP, "your code", python=True) for name in text.split(";")]
        found.add(frames, samples)
    return found


THREE = stacks(("main;read;parse", 60), ("main;read;decode", 20), ("main;write", 20))


def boxes(document: str) -> dict[str, tuple[float, float, float]]:
    """Each frame's left edge, width (both in percent) and top, by its name."""
    found = {}
    for group in ElementTree.fromstring(document).iter(f"{NS}g"):
        if "data-name" in group.attrib:
            rect = group.find(f"{NS}rect")
            assert rect is not None
            x, width = (float(rect.attrib[name].rstrip("%")) for name in ("x", "width"))
            found[group.attrib["data-name"]] = (x, width, float(rect.attrib["y"]))
    return found


def test_widths_are_shares_and_children_are_below_their_parents() -> None:
    found = boxes(svg(THREE, title="t"))
    assert {name: (x, width) for name, (x, width, _) in found.items()} == {
        "all": (0, 100), "main": (0, 100), "read": (0, 80), "decode": (0, 20), "parse": (20, 60),
        "write": (80, 20),
    }  # fmt: skip
    assert found["all"][2] < found["main"][2] < found["read"][2] == found["write"][2] < found["parse"][2]


def test_the_order_of_the_samples_does_not_matter() -> None:
    again = stacks(("main;write", 20), ("main;read;decode", 20), ("main;read;parse", 60))
    assert svg(again, title="t") == svg(THREE, title="t")


def test_nothing_hostile_gets_out_of_its_text() -> None:
    hostile = Stacks()
    hostile.add([Frame(HOSTILE, HOSTILE, Layer.APP, HOSTILE, python=True)])
    document = svg(hostile, title=HOSTILE, subtitle=HOSTILE)
    root = ElementTree.fromstring(document.encode())
    assert len(list(root.iter(f"{NS}script"))) == 1
    _, frame = (one for one in root.iter(f"{NS}g") if "data-name" in one.attrib)
    assert frame.attrib["data-name"].startswith("</title><script>alert(1)</script>&amp;\"'")
    assert not re.search("[\x00\x1b\ud800\u202e\ufffe]", document)


@given(st.lists(st.tuples(st.text(max_size=8), st.integers(1, 9)), max_size=6))
def test_it_is_always_well_formed(rows: list[tuple[str, int]]) -> None:
    ElementTree.fromstring(svg(stacks(*rows), title="".join(name for name, _ in rows)).encode())


def test_it_asks_nothing_of_anybody() -> None:
    document = svg(THREE, title="t")
    assert set(re.findall(r"https?://[^\"' ]+", document)) == {
        "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xhtml"
    }  # fmt: skip
    assert not re.search(r"\b(href|src|import|fetch|XMLHttpRequest|innerHTML|eval)\b", SCRIPT + STYLE)
    assert not set("<&") & set(SCRIPT + STYLE)


def test_frames_too_narrow_to_hit_are_left_out() -> None:
    found = boxes(svg(stacks(("main;rare", 1), ("main;often", 9999)), title="t"))
    assert "often" in found
    assert "rare" not in found


def test_names_are_cut_to_fit() -> None:
    assert fitted("short", 100) == "short"
    assert fitted("a long name", 60).endswith("…")
    assert fitted("name", 10) == ""


@needs_chromium
def test_in_a_browser_it_fills_the_window_and_is_searched_and_zoomed(tmp_path: Path) -> None:
    path = tmp_path / "graph.svg"
    path.write_text(svg(THREE, title="t"))
    key = "dispatchEvent(new KeyboardEvent('keydown', {key: args[0], bubbles: true}));"
    key += "return at ? at.dataset.name : null;"
    click = "dispatchEvent(new MouseEvent('click', {bubbles: true}));"
    with Chromium() as browser:
        page = browser.open(path.as_uri())
        width = page.value("innerWidth")
        assert page.value("area.width.baseVal.value") == pytest.approx(width - 24, abs=20)
        assert width != WIDTH, "or this proves nothing"
        # The keys walk: the root, its child, the larger one of that one's, its neighbour, and back.
        walked = [
            page.run(key, name) for name in ("ArrowDown", "ArrowDown", "ArrowDown", "ArrowRight", "ArrowUp")
        ]
        assert walked == ["all", "main", "read", "write", "main"]
        assert "100.00 %" in page.value("details.textContent")
        assert [page.run(key, name) for name in ("ArrowDown", "Enter")] == ["read", "read"]
        assert page.value("shown().map(g => g.dataset.name)") == ["all", "main", "read", "decode", "parse"]
        assert (
            page.value("info.get(frames.find(g => g.dataset.name == 'parse')).rect.getAttribute('x')")
            == "25%"
        )
        page.run("input.value = 'PARSE|write'; input.dispatchEvent(new Event('input'));")
        assert page.value("details.textContent") == "2 frames found, in 80.0 % of the samples"
        assert page.run(key, "Escape") is None
        assert page.value("[shown().length, svg.querySelectorAll('.found').length]") == [6, 0]
        page.run(f"frames.find(g => g.dataset.name == 'write').{click}")
        assert page.value("shown().map(g => g.dataset.name)") == ["all", "main", "write"]
