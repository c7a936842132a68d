"""Pages: the words are computed from the figures, and nothing of a file can become markup."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from itertools import groupby
from pathlib import Path

import pytest
from click.testing import CliRunner

from perf import cli, report_markdown, report_words, results
from perf.peer_env import ROOT
from perf.report_data import P99, RSS
from perf.report_findings import Finding, Verdict, findings, losses
from perf.report_words import Section, Strong
from perf.results import Report
from tests.helpers.perf_reports import report, sample, scenario

HOSTILE = "<img src=x onerror=alert(1)>&\"'|`[x](http://evil.test)"
VOID = {"meta", "img", "br", "link", "input", "hr"}


def finding(shown: Report, name: str = "plain") -> Finding:
    return next(one for one in findings(shown, "uvicorn") if one.result.name == name)


def summary(*reports: Report) -> dict[str, Section]:
    return {section.title: section for section in report_words.sections(reports, "uvicorn")}


def said(section: Section) -> list[str]:
    return [
        "".join(piece.text if isinstance(piece, Strong) else piece for piece in item)
        for item in section.items
    ]


@pytest.mark.parametrize(
    ("servers", "verdict"),
    [
        ({"shardserve": [10.0] * 5, "granian": [20.0] * 5}, Verdict.WIN),
        ({"shardserve": [20.0] * 5, "granian": [10.0] * 5}, Verdict.LOSE),
        ({"shardserve": [10.0] * 5, "granian": [20.0] * 5, "h2corn": [9.0] * 5}, Verdict.LOSE),
        (
            {"shardserve": [10.0, 12.0, 9.0, 14.0, 10.0], "granian": [10.5, 10.0, 13.0, 9.0, 12.0]},
            Verdict.LEVEL,
        ),
        ({"shardserve": [10.0] * 5, "granian": [10.2] * 5}, Verdict.LEVEL),
        ({"shardserve": [10.0] * 2, "granian": [20.0] * 2}, Verdict.FEW),
        ({"shardserve": [10.0] * 5}, Verdict.ALONE),
        # What runs no app, does more work or is ourselves is nobody to win or lose against.
        (
            {
                "shardserve": [10.0] * 5,
                "floor": [1.0] * 5,
                "picows": [1.0] * 5,
                "shardserve@main": [5.0] * 5,
                "uvicorn-accesslog": [90.0] * 5,
            },
            Verdict.ALONE,
        ),
    ],
)
def test_verdicts_follow_from_the_figures(servers: dict[str, list[float]], verdict: Verdict) -> None:
    assert finding(report(scenario("plain", servers))).verdict is verdict


def with_framework(cost: float) -> Report:
    return report(
        scenario("plain", {"shardserve": [10.0] * 3, "uvicorn": [40.0] * 3}),
        scenario("post-1k", {"shardserve": [1.0] * 3}),
        scenario("fastapi", {"shardserve": [cost] * 3, "uvicorn": [cost + 30] * 3}),
    )


def test_the_framework_is_the_cost_where_it_takes_most_of_it() -> None:
    found = finding(with_framework(100.0), "fastapi")
    assert found.verdict is Verdict.FRAMEWORK
    assert found.framework_share == pytest.approx(0.9)
    assert found.without is not None
    assert found.without.name == "plain", "a GET like it, and not the cheapest there is"
    (line,) = said(summary(with_framework(100.0))["Where the framework is the cost"])
    assert line == "fastapi: 100 µs/req, 90% of it beyond plain; uvicorn 1.30× (1.30–1.30, win)."
    assert finding(with_framework(15.0), "fastapi").verdict is Verdict.WIN


def test_a_scenario_that_some_answer_without_the_framework_is_no_framework_s() -> None:
    shown = with_framework(100.0)
    shown.scenarios.append(
        scenario(
            "static", {"shardserve": [30.0] * 3, "uvicorn": [300.0] * 3}, served_by={"uvicorn": "the app"}
        )
    )
    assert finding(shown, "static").verdict is Verdict.WIN


def test_the_summary_says_what_was_won_and_lost_in_numbers() -> None:
    shown = report(
        scenario("plain", {"shardserve": [10.0] * 3, "uvicorn": [40.0] * 3, "granian": [20.0] * 3}),
        scenario("tls", {"shardserve": [24.0] * 3, "uvicorn": [60.0] * 3, "freastal": [12.0] * 3}),
    )
    found = summary(shown)
    (won,) = said(found["Where shardserve wins"])
    assert won == "plain: 10.0 µs/req; granian 2.0× (2.00–2.00), uvicorn 4.0×."
    lost = said(found["Where shardserve loses"])
    assert lost[0] == "tls: 24.0 µs/req; freastal 0.50× (0.50–0.50), uvicorn 2.5×."
    assert said(found["Where the framework is the cost"]) == []
    assert report_words.headline([shown], "uvicorn") == (
        "In CPU time per request, shardserve is cheaper than every rival in 1, level with the cheapest in 0,"
        " dearer than a rival in 1 of 2 scenarios."
    )


def test_the_same_page_with_the_figures_exchanged_says_the_opposite() -> None:
    won = report(scenario("plain", {"shardserve": [10.0] * 3, "granian": [20.0] * 3}))
    lost = report(scenario("plain", {"shardserve": [20.0] * 3, "granian": [10.0] * 3}))
    for shown, here, there in ((won, "wins", "loses"), (lost, "loses", "wins")):
        found = summary(shown)
        assert len(found[f"Where shardserve {here}"].items) == 1
        assert found[f"Where shardserve {there}"].items == []


def test_latency_and_memory_are_lost_where_they_surely_are() -> None:
    shown = report(scenario("plain", {"shardserve": [10.0] * 4, "granian": [20.0] * 4, "h2corn": [20.0] * 4}))
    samples = shown.scenarios[0].samples
    samples["shardserve"] = [sample(n, 10.0, p99_us=3000.0, rss_kib=48 * 1024) for n in range(4)]
    samples["granian"] = [sample(n, 20.0, p99_us=2900.0, rss_kib=24 * 1024) for n in range(4)]
    samples["h2corn"] = [sample(n, 20.0, p99_us=4000.0, rss_kib=60 * 1024) for n in range(4)]
    assert losses(shown, P99) == [], "less than a tenth more"
    (memory,) = losses(shown, RSS)
    assert (memory.duel.server, memory.ours, memory.theirs) == ("granian", 48, 24)
    (line,) = said(summary(shown)["Where shardserve loses"])
    assert line == "Memory: more than the best rival in 1 of 1: plain 48 MiB (granian 24 MiB)."


def test_a_run_without_us_claims_nothing() -> None:
    shown = report(scenario("plain", {"uvicorn": [40.0] * 3}))
    assert report_words.headline([shown], "uvicorn") == "shardserve was not measured in these runs."
    assert all(section.items == [] for section in report_words.sections([shown], "uvicorn"))


# Tables


def test_a_table_has_the_spread_and_leaves_out_what_nobody_has() -> None:
    shown = scenario("plain", {"shardserve": [10.0, 11.0, 12.5], "uvicorn": [40.0, 44.0, 50.0]})
    table = report_words.figures(shown, "uvicorn")
    assert [row[0] for row in table.rows] == ["shardserve", "uvicorn"]
    ours = dict(zip(table.heads[:3], table.rows[0], strict=False))
    assert ours == {"server": "shardserve", "CPU µs/req": "11.0", "least–most": "10.0–12.5"}
    assert "errors" not in table.heads
    for rows in shown.samples.values():
        rows[:] = [sample(n, 10.0, p999_us=None, errors={"timeout": 2}) for n in range(3)]
    table = report_words.figures(shown, "uvicorn")
    assert "p99.9" not in table.heads
    assert [row[list(table.heads).index("errors")] for row in table.rows] == ["6 timeout"] * 2


def test_who_has_fewer_rounds_is_said() -> None:
    table = report_words.figures(scenario("plain", {"shardserve": [10.0] * 3, "uvicorn": [40.0]}), "uvicorn")
    rounds = list(table.heads).index("rounds")
    assert [row[rounds] for row in table.rows] == ["", "1"]


def test_growth_is_speed_up_and_efficiency() -> None:
    one, two = (scenario(f"plain×{n}", {"shardserve": [10.0]}, workers=n) for n in (1, 2))
    two.samples["shardserve"] = [sample(0, 10.0, requests=15_000)]
    table = report_words.growth({1: one, 2: two})
    assert list(table.rows[0]) == ["shardserve", "10 k", "1.00", "100%", "15 k", "1.50", "75%"]


def test_skipped_servers_are_told_with_the_reason_once() -> None:
    shown = report(
        scenario("plain", {"shardserve": [10.0]}, skipped={"granian": "is not installed", "daphne": "died"}),
        scenario("json", {"shardserve": [10.0]}, skipped={"granian": "is not installed"}),
        scenario(
            "tls", {}, skipped={"granian": "is not installed"}, reason="wrk is missing: apt install wrk"
        ),
    )
    assert [list(row) for row in report_words.skipped(shown).rows] == [
        ["granian", "is not installed", "all"],
        ["daphne", "died", "plain"],
        ["everybody", "wrk is missing: apt install wrk", "tls"],
    ]


# The HTML page


class Outline(HTMLParser):
    """The elements of a page, and whether they are closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def page(tmp_path: Path, *reports: Report, arguments: tuple[str, ...] = ()) -> str:
    paths = []
    for number, one in enumerate(reports):
        paths.append(tmp_path / f"run{number}.json")
        results.save(one, paths[-1])
    out = tmp_path / "page.html"
    done = CliRunner().invoke(cli.main, ["report", *map(str, paths), "--out", str(out), *arguments])
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines() == [str(out)]
    return out.read_text()


def outline(text: str) -> Outline:
    found = Outline()
    found.feed(text)
    found.close()
    assert found.open == []
    return found


def everything(hostile: str) -> Report:
    """A report with every part that a page can have, and one name in all places where a file has names."""
    shown = report(
        scenario("plain", {"shardserve": [10.0] * 3, "uvicorn": [40.0] * 3, hostile: [12.0] * 3}),
        scenario(hostile, {"shardserve": [10.0] * 3}, skipped={hostile: hostile}, idle={hostile: 0.9}),
        *(scenario(f"plain×{n}", {"shardserve": [10.0], hostile: [9.0]}, workers=n) for n in (1, 2)),
        *(
            scenario(f"plain@{n}", {"shardserve": [10.0], hostile: [9.0]}, rate_per_s=float(n))
            for n in (100, 200)
        ),
        overlap=True,
    )
    shown.host |= {"cpu": hostile, "commit": hostile, hostile: hostile}
    shown.servers[hostile] = {"version": hostile, "packages": {hostile: hostile}, "command": [hostile]}
    return shown


def test_a_page_needs_nothing_but_itself_and_forbids_the_rest(tmp_path: Path) -> None:
    text = page(tmp_path, everything("granian"))
    found = outline(text)
    addressed = [
        value for _, attrs in found.elements for key, value in attrs.items() if key in ("src", "href")
    ]
    assert addressed
    assert all((value or "").startswith("#") for value in addressed)
    assert not re.search(r"@import|url\(|<link|<script", text)
    policies = [
        attrs.get("content") for tag, attrs in found.elements if tag == "meta" and "http-equiv" in attrs
    ]
    assert policies == ["default-src 'none'; style-src 'unsafe-inline'"]


def test_links_lead_somewhere_and_no_id_is_there_twice(tmp_path: Path) -> None:
    found = outline(page(tmp_path, everything("granian"), everything("h2corn")))
    ids = [attrs["id"] for _, attrs in found.elements if "id" in attrs]
    assert len(ids) == len(set(ids))
    targets = {(attrs["href"] or "")[1:] for tag, attrs in found.elements if tag == "a"}
    labels = {label for _, attrs in found.elements for label in (attrs.get("aria-labelledby") or "").split()}
    assert targets | labels <= set(ids)


def test_hostile_names_stay_text_in_a_page(tmp_path: Path) -> None:
    text = page(tmp_path, everything(HOSTILE), arguments=("--data",))
    found = outline(text)
    tags = {tag for tag, _ in found.elements}
    assert "img" not in tags
    assert not any(key.startswith("on") for _, attrs in found.elements for key in attrs)
    assert HOSTILE in found.text
    scripts = [attrs for tag, attrs in found.elements if tag == "script"]
    assert [attrs["type"] for attrs in scripts] == ["application/json"]


def test_the_raw_samples_in_a_page_are_the_report(tmp_path: Path) -> None:
    shown = everything("</script><b>")
    text = page(tmp_path, shown, arguments=("--data",))
    (embedded,) = re.findall(r'<script type="application/json" id="data-0">(.*?)</script>', text, re.DOTALL)
    path = tmp_path / "again.json"
    path.write_text(embedded)
    assert results.load(path).scenarios == shown.scenarios
    assert json.loads(embedded)["host"]["kernel"] == "6.18"
    assert "<script" not in page(tmp_path, shown)


def test_a_page_has_its_parts_and_its_warnings(tmp_path: Path) -> None:
    shown = everything("granian")
    shown.interrupted = True
    text = outline(page(tmp_path, shown)).text
    for part in (
        "Over workers",
        "At fixed rates",
        "Skipped, and why",
        "net.core.somaxconn",
        "uvloop 0.22",
        "4096",
    ):
        assert part in text
    assert "This run was interrupted" in text
    assert "the load shares the servers' cores" in text


def test_the_same_files_make_the_same_page(tmp_path: Path) -> None:
    assert page(tmp_path, everything("granian")) == page(tmp_path, everything("granian"))
    assert str(tmp_path) not in page(tmp_path, everything("granian")), "a page does not tell where files lay"


# The Markdown page


def markdown(tmp_path: Path, shown: Report, name: str = "2026-11.md") -> str:
    results.save(shown, tmp_path / "run.json")
    out = tmp_path / name
    done = CliRunner().invoke(
        cli.main, ["report", str(tmp_path / "run.json"), "--markdown", "--out", str(out)]
    )
    assert done.exit_code == 0, done.output
    assert all(Path(line).is_file() for line in done.stdout.splitlines())
    return out.read_text()


@pytest.mark.parametrize(("name", "folder"), [("2026-11.md", "2026-11"), ("README.md", "charts")])
def test_a_markdown_page_shows_each_of_its_charts(tmp_path: Path, name: str, folder: str) -> None:
    text = markdown(tmp_path, everything("granian"), name)
    shown = re.findall(r"!\[.+?\]\((.+?)\)", text)
    assert set(shown) == {f"{folder}/{path.name}" for path in (tmp_path / folder).iterdir()}
    assert len(shown) == len(set(shown)) == 6


def test_markdown_says_what_the_other_page_says(tmp_path: Path) -> None:
    text = markdown(tmp_path, everything("granian"))
    assert "## Where shardserve wins" in text
    assert "- **plain**: 10.0 µs/req; granian 1.20× (1.20–1.20), uvicorn 4.0×." in text
    assert "[run.json](<run.json>)" in text


def test_hostile_names_stay_text_in_markdown(tmp_path: Path) -> None:
    text = markdown(tmp_path, everything(f"# {HOSTILE}\n\n# heading"))
    unescaped = re.sub(r"\\.", "", text)
    assert "<img" not in unescaped
    assert "http://" not in unescaped
    headings = [line for line in text.splitlines() if line.startswith("# ")]
    assert headings == ["# shardserve: what a request costs"]
    bars = [line.count("|") for line in unescaped.splitlines() if line.startswith("|") or not line]
    tables = [list(rows) for some, rows in groupby(bars, bool) if some]
    assert tables
    assert all(len(set(rows)) == 1 for rows in tables), "as many cells in a row as heads"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("- a", "\\- a"),
        ("1. a", "1\\. a"),
        ("==", "\\=="),
        ("1.02–3.00 (4)", "1.02–3.00 (4)"),
        ("a|b*c_d", "a\\|b\\*c\\_d"),
        ("www.a", "www&#46;a"),
        ("two\nlines", "two lines"),
    ],
)
def test_markdown_is_escaped_where_it_would_mean_something(text: str, shown: str) -> None:
    assert report_markdown.escape(text) == shown


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["report", "none.json"], "none.json: No such file"),
        (["report"], "Missing argument"),
        (["report", "{}", "--markdown", "--data"], "--data is for the HTML page"),
        (["report", "{}", "--out", "{}/no/such/folder.html"], "Not a directory"),
        (["charts", "{}", "--out", "{}"], "is a file"),
    ],
)
def test_wrong_flags_are_told_in_one_line(tmp_path: Path, arguments: list[str], complaint: str) -> None:
    path = tmp_path / "r.json"
    results.save(report(scenario("plain", {"shardserve": [10.0]})), path)
    done = CliRunner().invoke(cli.main, [argument.format(path) for argument in arguments])
    assert done.exit_code == 2, done.output
    assert complaint in " ".join(done.stderr.replace("│", "").split())


def test_the_runs_that_are_committed_make_a_page(tmp_path: Path) -> None:
    """Whatever schema they have: they are read for as long as they are kept."""
    files = sorted((ROOT / "perf" / "results").glob("baseline-*.json"))
    assert files
    out = tmp_path / "page.html"
    done = CliRunner().invoke(cli.main, ["report", *map(str, files), "--out", str(out)])
    assert done.exit_code == 0, done.output
    text = outline(out.read_text()).text
    for file in files:
        for result in results.load(file).scenarios:
            assert result.name in text


def test_files_without_a_sample_make_no_page(tmp_path: Path) -> None:
    results.save(report(scenario("plain", {})), tmp_path / "r.json")
    done = CliRunner().invoke(
        cli.main, ["report", str(tmp_path / "r.json"), "--out", str(tmp_path / "p.html")]
    )
    assert done.exit_code == 2
    assert not (tmp_path / "p.html").exists()
