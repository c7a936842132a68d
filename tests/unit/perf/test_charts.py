"""The charts: every sample is in them, they are well-formed whatever a file holds, and always the same."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner

from perf import charts, charts_axes, charts_rows, cli, report_data, results, svg
from perf.charts import Chart
from perf.results import Report
from tests.helpers.perf_reports import report, sample, scenario

SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = "<script>alert(1)</script>&\"'\x00\x1b|`"


def made(shown: Report) -> dict[str, Chart]:
    return {chart.name: chart for chart in charts.charts(shown)}


def parsed(chart: Chart) -> ElementTree.Element:
    return ElementTree.fromstring(chart.svg.render())


def dots(picture: ElementTree.Element, look: str = "") -> int:
    """How many samples are drawn."""
    paths = [path for path in picture.iter(f"{SVG}path") if path.get("class", "").startswith("dots")]
    chosen = [path for path in paths if look in path.get("class", "").split() or not look]
    return sum(path.get("d", "").count("h0") for path in chosen)


def texts(picture: ElementTree.Element) -> list[str]:
    return ["".join(text.itertext()) for text in picture.iter(f"{SVG}text")]


def test_every_sample_of_every_figure_is_a_dot() -> None:
    shown = report(scenario("plain", {"shardserve": [10.0, 11.0, 12.5], "uvicorn": [40.0, 41.0]}))
    picture = parsed(made(shown)["plain"])
    # CPU, requests per second, p50, p99, p99.9 and memory of five samples.
    assert dots(picture) == 6 * 5
    assert dots(picture, "s0") == 6 * 3, "ours have our colour"


def test_the_spread_is_in_figures_too() -> None:
    picture = parsed(
        made(report(scenario("plain", {"shardserve": [10.0, 11.0, 12.5], "uvicorn": [22.0] * 3})))["plain"]
    )
    assert "10.0–12.5" in texts(picture)
    assert "2.0×" in texts(picture), "uvicorn's cost over ours, the middle of the rounds"


def test_a_picture_says_what_it_shows_to_who_does_not_see_it() -> None:
    picture = parsed(made(report(scenario("plain", {"shardserve": [10.0, 11.0, 12.5]})))["plain"])
    title, description = picture.find(f"{SVG}title"), picture.find(f"{SVG}desc")
    assert title is not None
    assert description is not None
    assert picture.get("role") == "img"
    assert (picture.get("aria-labelledby") or "").split() == [title.get("id"), description.get("id")]
    assert "shardserve 11.0 (10.0 to 12.5)" in (description.text or "")


def test_hostile_names_cannot_break_out_of_a_picture(tmp_path: Path) -> None:
    shown = report(
        scenario("plain", {"shardserve": [10.0], HOSTILE: [12.0]}),
        scenario(f"../../{HOSTILE}", {"shardserve": [10.0]}),
    )
    paths = charts.write(charts.charts(shown), tmp_path / "out")
    assert len(paths) == 4
    for path in paths:
        assert path.parent == tmp_path / "out"
        picture = ElementTree.parse(path).getroot()
        assert not list(picture.iter(f"{SVG}script"))
        assert re.fullmatch(r"[A-Za-z0-9.-]+\.svg", path.name)
    assert any(
        "<script>alert" in text for text in texts(ElementTree.parse(tmp_path / "out/plain.svg").getroot())
    )


def test_scenarios_whose_names_differ_only_in_what_a_file_name_cannot_hold_get_two_files() -> None:
    shown = report(*(scenario(name, {"shardserve": [10.0]}) for name in ("a b", "a/b", "A b")))
    assert {"a-b", "a-b-2", "A-b-3"} <= made(shown).keys()


def test_the_same_file_makes_the_same_bytes(tmp_path: Path) -> None:
    shown = report(scenario("plain", {"uvicorn": [40.0, 41.0, 44.0], "shardserve": [10.0, 11.0, 12.5]}))
    results.save(shown, tmp_path / "r.json")
    for folder in ("first", "second"):
        done = CliRunner().invoke(
            cli.main, ["charts", str(tmp_path / "r.json"), "--out", str(tmp_path / folder)]
        )
        assert done.exit_code == 0, done.output
    names = sorted(path.name for path in (tmp_path / "first").iterdir())
    assert names == ["overview-cpu.svg", "overview-ratios.svg", "plain.svg"]
    for name in names:
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()


def test_scenarios_that_count_the_same_thing_share_their_scales() -> None:
    shown = report(
        scenario("plain", {"shardserve": [10.0]}),
        scenario("json", {"shardserve": [90.0]}),
        scenario("ws-echo-64", {"shardserve": [1.5]}),
    )
    scales = charts.scales_of(shown.scenarios)
    assert scales["plain"] == scales["json"]
    assert scales["plain"].cpu.low <= 10.0 < 90.0 <= scales["plain"].cpu.high
    assert scales["ws-echo-64"].cpu != scales["plain"].cpu, "messages are not requests"
    assert scales["ws-echo-64"].rss == scales["plain"].rss
    # And they are what is drawn by: equal costs lie at equal places.
    (plain,), (json,) = (_ticks(parsed(made(shown)[name]), "10", "50", "100") for name in ("plain", "json"))
    assert plain == json


def _ticks(picture: ElementTree.Element, *labels: str) -> list[tuple[str | None, ...]]:
    """Where these labels of an axis stand, in the first row of panels."""
    found = [
        text
        for text in picture.iter(f"{SVG}text")
        if text.text in labels and text.get("text-anchor") == "middle"
    ]
    assert found
    return [tuple(text.get("x") for text in found)]


def test_what_was_not_measured_has_no_panel_and_no_dot() -> None:
    bare = {"p50_us": None, "p99_us": None, "p999_us": None, "rss_kib": 0}
    shown = report(scenario("pipelined-16", {"shardserve": [10.0, 10.5]}))
    shown.scenarios[0].samples["shardserve"] = [sample(n, 10.0 + n, **bare) for n in range(2)]
    picture = parsed(made(shown)["pipelined-16"])
    assert dots(picture) == 2 * 2, "CPU time and requests per second"
    assert not any(text.startswith(("latency:", "RSS,")) for text in texts(picture))


def test_a_round_without_an_answer_or_without_cpu_time_is_left_out() -> None:
    shown = report(scenario("plain", {"shardserve": [10.0, 11.0]}))
    shown.scenarios[0].samples["shardserve"] += [sample(2, 10.0, requests=0), sample(3, 0.0)]
    found = report_data.values(shown.scenarios[0], "shardserve", report_data.CPU)
    assert list(found) == [0, 1]
    assert parsed(made(shown)["plain"]) is not None


def test_one_round_no_baseline_and_nobody_of_ours_can_be_drawn() -> None:
    assert parsed(made(report(scenario("plain", {"shardserve": [10.0]})))["plain"]) is not None
    others = made(report(scenario("plain", {"granian": [20.0]})))
    assert others.keys() == {"plain"}, "an overview against us needs us"
    assert "–" in texts(parsed(others["plain"])), "no ratio without the baseline"


def test_a_server_without_a_sample_takes_no_row() -> None:
    shown = report(scenario("plain", {"shardserve": [10.0], "uvicorn": []}))
    assert "uvicorn" not in texts(parsed(made(shown)["plain"]))


def many() -> Report:
    names = [
        *("floor", "shardserve", "shardserve@0123456789", "uvicorn", "uvicorn-accesslog", "granian"),
        *(
            "hypercorn",
            "gunicorn",
            "freastal",
            "fastpysgi",
            "h2corn",
            "a-server-whose-name-is-longer-than-any",
        ),
    ]
    servers = {name: [5.0 * 1.4**place * (1 + n / 20) for n in range(5)] for place, name in enumerate(names)}
    scenarios = [scenario(name, servers) for name in ("plain", "connection-per-request")]
    workers = [scenario(f"plain×{n}", servers, workers=n) for n in (1, 2, 4)]
    rates = [scenario(f"plain@{rate}", servers, rate_per_s=float(rate)) for rate in (1000, 9000)]
    return report(*scenarios, *workers, *rates)


@pytest.mark.parametrize("name", ["overview-cpu", "overview-ratios", "plain", "scaling-plain", "rates-plain"])
def test_no_text_runs_into_another_with_twelve_servers(name: str) -> None:
    """By the widths that the writer reckons with, which are those of wide fonts."""
    picture = parsed(made(many())[name])
    boxes = [_box(text) for text in picture.iter(f"{SVG}text")]
    width, height = float(picture.get("width") or 0), float(picture.get("height") or 0)
    for box in boxes:
        assert box[0] >= 0 and box[2] <= width + 0.1 and box[3] <= height, box  # noqa: PT018 - one box
    for at, one in enumerate(boxes):
        for other in boxes[at + 1 :]:
            apart = one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]
            assert apart, f"{one[4]!r} and {other[4]!r}"


def _box(text: ElementTree.Element) -> tuple[float, float, float, float, str]:
    """Left, top, right, bottom, and what it says."""
    said, size = text[-1].tail if len(text) else text.text, float(text.get("font-size") or 0)
    wide = svg.text_width(said or "", size)
    x, y = float(text.get("x") or 0), float(text.get("y") or 0)
    left = x - {"end": wide, "middle": wide / 2}.get(text.get("text-anchor") or "", 0.0)
    return left, y - 0.75 * size, left + wide, y + 0.2 * size, said or ""


def test_a_scaling_chart_has_the_ideal_and_every_sample() -> None:
    workers = [
        scenario(f"plain×{n}", {"shardserve": [10.0] * 3, "uvicorn": [40.0] * 3}, workers=n) for n in (1, 2)
    ]
    for sampled in workers[1].samples.values():
        sampled[:] = [sample(n, 10.0, requests=15_000) for n in range(3)]
    chart = made(report(*workers))["scaling-plain"]
    picture = parsed(chart)
    assert dots(picture) == 3 * 2 * 2 * 3, "three panels, two servers, two numbers of workers, three rounds"
    assert sum("dash" in (path.get("class") or "").split() for path in picture.iter(f"{SVG}path")) == 2
    assert "shardserve with 2 workers 1.50 times, 75% of the ideal" in chart.svg.description


def test_sharing_cores_with_the_load_is_said_in_the_picture() -> None:
    workers = [scenario(f"plain×{n}", {"shardserve": [10.0]}, workers=n) for n in (1, 2)]
    assert not any("WARNING" in text for text in texts(parsed(made(report(*workers))["scaling-plain"])))
    shared = made(report(*workers, overlap=True))["scaling-plain"]
    assert any("WARNING" in text for text in texts(parsed(shared)))


def test_rates_that_were_not_kept_up_with_have_hollow_marks() -> None:
    rates = [
        scenario(f"plain@{rate}", {"uvicorn": [40.0] * 3}, rate_per_s=float(rate))
        for rate in (10_000, 20_000)
    ]
    picture = parsed(made(report(*rates))["rates-plain"])
    hollow = [one for one in picture.iter(f"{SVG}path") if "hollow" in (one.get("class") or "").split()]
    assert len(hollow) == 3, "20,000 were asked for and 10,000 answered: in each of three panels"
    assert dots(picture) == 3 * 2 * 3


def test_a_single_rate_is_drawn_like_a_scenario() -> None:
    chart = made(report(scenario("plain@2000", {"shardserve": [10.0, 11.0]}, rate_per_s=2000.0)))[
        "plain-at-2000"
    ]
    assert chart.about == "plain@2000"


def test_files_of_one_tree_and_machine_are_one_run() -> None:
    bench = report(scenario("plain", {"shardserve": [10.0]}))
    rate = report(scenario("plain@2000", {"shardserve": [11.0]}, rate_per_s=2000.0), seconds=5.0)
    (run,) = report_data.runs([(Path("a.json"), bench), (Path("b.json"), rate)])
    assert [one.name for one in run.report.scenarios] == ["plain", "plain@2000"]
    other = report(scenario("plain", {"shardserve": [10.0]}))
    other.host["commit"] = "fedcba9876543210"
    assert len(report_data.runs([(Path("a.json"), bench), (Path("c.json"), other)])) == 2
    longer = report(scenario("plain", {"shardserve": [10.0]}), seconds=9.0)
    assert len(report_data.runs([(Path("a.json"), bench), (Path("d.json"), longer)])) == 2


def test_rounds_of_two_files_are_not_taken_for_one_another() -> None:
    one = report(scenario("plain", {"shardserve": [10.0, 20.0], "uvicorn": [40.0, 80.0]}))
    two = report(scenario("plain", {"shardserve": [5.0], "uvicorn": [40.0]}))
    (result,) = report_data.merge([one, two]).scenarios
    assert report_data.ratios(result, "uvicorn", "shardserve") == [4.0, 4.0, 8.0]
    assert len(one.scenarios[0].samples["shardserve"]) == 2, "the files' own reports are as they were"


def test_no_picture_asks_for_anything_from_elsewhere() -> None:
    for chart in made(many()).values():
        text = chart.svg.render().replace('xmlns="http://www.w3.org/2000/svg"', "")
        assert not re.search(r"https?:|href|@import|url\(|<image|<foreignObject", text)


def test_axes_of_amounts_begin_at_zero_and_those_of_ratios_are_logarithmic() -> None:
    assert charts_axes.from_zero(82).low == 0
    assert charts_axes.from_zero(82).high >= 82
    scale = charts_axes.factors([11.0, 90.0])
    assert (scale.low, scale.high) == (10.0, 100.0)
    assert scale.at(20) - scale.at(10) == pytest.approx(scale.at(40) - scale.at(20))
    assert [round(tick) for tick in scale.ticks()] == [10, 20, 50, 100]


@pytest.mark.parametrize("values", [[], [0.0], [5.0], [1.0, 1e9], [2e-7]])
def test_axes_hold_whatever_there_is(values: list[float]) -> None:
    for scale in (charts_axes.factors(values), charts_axes.from_zero(max(values, default=0))):
        assert scale.low < scale.high
        assert all(0 <= scale.at(value) <= 1 for value in values)
        assert 1 <= len(scale.ticks()) <= 12


def test_a_text_is_cut_to_its_room() -> None:
    assert svg.fit("shardserve", 12, 400) == "shardserve"
    cut = svg.fit("shardserve@0123456789abcdef0123456789", 12, 100)
    assert cut.endswith("…")
    assert svg.text_width(cut, 12) <= 100


def test_nothing_measured_is_told_and_not_drawn(tmp_path: Path) -> None:
    results.save(report(scenario("plain", {})), tmp_path / "r.json")
    done = CliRunner().invoke(cli.main, ["charts", str(tmp_path / "r.json")])
    assert done.exit_code == 2
    assert "nothing was measured" in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["r.json"]


def test_rows_are_cheapest_first() -> None:
    chart = made(report(scenario("plain", {"uvicorn": [40.0], "shardserve": [10.0], "granian": [20.0]})))[
        "plain"
    ]
    names = [text for text in texts(parsed(chart)) if text in ("uvicorn", "shardserve", "granian")]
    assert names == ["shardserve", "granian", "uvicorn"] * 2
    assert chart.svg.width == charts_rows.WIDTH
