"""What the documents say can be typed: flags exist, commands parse, files load, links lead somewhere.

Rules of this file: everything is found in the documents, so that a new one is checked as it is written. What
is another program's is listed in ``OTHERS``, and no longer than a document names it.
"""

from __future__ import annotations

import configparser
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import pytest

from shardserve.cli import main
from shardserve.cli.options import loader_of
from shardserve.config.load import Loader

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

FLAG = re.compile(r"(?<![\w-])--[a-z][a-z0-9]*(?:-[a-z0-9]+)*(?![\w-])")
FENCE = re.compile(r"^(?P<indent> *)```(?P<language>\w*)\n(?P<text>.*?)^(?P=indent)```$", re.M | re.S)

GRANIAN = """
--access-log-fmt --backpressure --blocking-threads --blocking-threads-idle-timeout --env-files
--http1-buffer-size --http1-header-read-timeout --http1-keep-alive --http1-pipeline-flush
--http2-adaptive-window --http2-keep-alive-interval --http2-keep-alive-timeout --http2-max-headers-size
--http2-max-send-buffer-size --log --metrics --metrics-address --metrics-port --metrics-scrape-interval
--no-http1-keep-alive --no-log --no-ws --pid-file --process-name --reload-ignore-dirs
--reload-ignore-paths --reload-ignore-patterns --reload-ignore-worker-failure --reload-paths
--reload-tick --respawn-failed-workers --respawn-interval --rss-sample-interval --rss-samples
--runtime-blocking-threads --runtime-mode --runtime-threads --ssl-ca --ssl-certificate
--ssl-client-verify --ssl-crl --ssl-protocol-min --static-path-dir-to-file --static-path-expires
--static-path-mount --static-path-route --task-impl --url-path-prefix --working-dir --workers-kill-timeout
--workers-lifetime --workers-max-rss
"""
GUNICORN_TOO = {"from-gunicorn.md"}
# Of which program, in which documents.
OTHERS: dict[str, set[str]] = {
    "from-granian.md": set(GRANIAN.split()),
    "docker.md": {  # docker's, apt-get's, pip's, useradd's
        "--cpus", "--cpuset-cpus", "--init", "--memory", "--no-cache-dir", "--no-create-home",
        "--no-install-recommends", "--read-only", "--signal", "--stop-timeout", "--system", "--tmpfs",
        "--uid", "--start-period", "--interval", "--timeout", "--from",
    },
    "http2.md": {"--force-reinstall", "--no-cache-dir", "--http2-prior-knowledge"},  # pip's, curl's
    "systemd.md": {"--kill-whom", "--kill-who", "--signal"},  # systemctl's
    "development.md": {"--listen"},  # debugpy's
    "autobahn.md": {"--write-docs"},  # tests/autobahn's
    "profiling.md": {"--cap-add", "--fast", "--scenario"},  # docker's, perf/'s
    "perf-lab.md": {  # those of perf/
        "--after", "--before", "--connections", "--data", "--depth", "--fast", "--idle-connections",
        "--limit", "--load-core", "--markdown", "--out", "--overlap", "--pair", "--rate", "--relative-to",
        "--revision", "--rounds", "--scenario", "--scenarios", "--seconds", "--server-core", "--servers",
        "--size", "--text",
    },
}  # fmt: skip


def text_of(document: Path) -> str:
    return document.read_text()


# Flags


def subcommands(command: click.Command) -> dict[str, click.Command]:
    """Ours are imported when they are asked for."""
    if not isinstance(command, click.Group):
        return {}
    context = click.Context(command)
    found = {name: command.get_command(context, name) for name in command.list_commands(context)}
    return {name: one for name, one in found.items() if one is not None}


def our_flags() -> set[str]:
    """Of the command and all its subcommands."""
    found = {"--help"}
    waiting: list[click.Command] = [main]
    while waiting:
        command = waiting.pop()
        waiting += subcommands(command).values()
        for param in command.params:
            found |= {flag for flag in (*param.opts, *param.secondary_opts) if flag.startswith("--")}
    return found


def gunicorns_flags() -> set[str]:
    """Asked of Gunicorn itself."""
    config = pytest.importorskip("gunicorn.config")
    return {flag for one in config.KNOWN_SETTINGS for flag in one.cli or ()}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_flag_exists(document: Path) -> None:
    named = set(FLAG.findall(text_of(document)))
    unknown = named - our_flags() - OTHERS.get(document.name, set())
    if unknown and document.name in GUNICORN_TOO:
        unknown -= gunicorns_flags()
    assert unknown == set(), f"{document.name} names {sorted(unknown)}"


@pytest.mark.parametrize("name", OTHERS)
def test_no_more_is_listed_as_anothers_than_a_document_names(name: str) -> None:
    assert OTHERS[name] <= set(FLAG.findall((ROOT / "docs" / name).read_text()))


def test_the_way_from_uvicorn_has_every_flag_of_uvicorns() -> None:
    """One row each, in the first column."""
    uvicorn = pytest.importorskip("uvicorn.main")
    rows = re.findall(r"^\| `(--[\w-]+)` \|", (ROOT / "docs" / "from-uvicorn.md").read_text(), re.MULTILINE)
    theirs = [param.opts[0] for param in uvicorn.main.params if param.opts[0].startswith("--")]
    assert rows == [*dict.fromkeys(rows)]
    assert set(rows) == set(theirs)


def test_a_flag_is_found_wherever_it_stands() -> None:
    text = "`--port 0`, (--no-access-log) x--y, ---, --Wrong, ${--z}; --ws-max-size."
    assert FLAG.findall(text) == ["--port", "--no-access-log", "--z", "--ws-max-size"]


# Snippets


@dataclass(frozen=True)
class Snippet:
    document: str
    number: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.document}-{self.number}-{self.language}"


def snippets(*languages: str) -> list[Snippet]:
    """Those in these languages, without the indentation of a list."""
    found = []
    for document in DOCUMENTS:
        for number, match in enumerate(FENCE.finditer(text_of(document)), 1):
            if match["language"] in languages:
                indent = len(match["indent"])
                text = "\n".join(line[indent:] for line in match["text"].splitlines()) + "\n"
                found.append(Snippet(document.name, number, match["language"], text))
    return found


@pytest.mark.parametrize("snippet", snippets("toml"), ids=str)
def test_a_settings_file_loads(snippet: Snippet, tmp_path: Path) -> None:
    path = tmp_path / "shardserve.toml"
    path.write_text(snippet.text)
    assert Loader({}, file=str(path), environ={}).read().mistakes == ()


def log_configs() -> list[Snippet]:
    found = [one for one in snippets("json", "yaml") if re.search(r'^ *"?version"?: 1\b', one.text, re.M)]
    return found + [one for one in snippets("ini") if "[loggers]" in one.text]


@pytest.mark.parametrize("snippet", log_configs(), ids=str)
def test_a_log_config_loads(snippet: Snippet, tmp_path: Path) -> None:
    """In a process of its own, since it changes the loggers of the whole process."""
    if snippet.language == "yaml":
        pytest.importorskip("yaml")
    path = tmp_path / f"log.{snippet.language}"
    path.write_text(snippet.text)
    program = (
        "import sys; from shardserve.config.load import from_keywords; from shardserve.observe import logs; "
        "logs.configure(from_keywords('x:y', {'log_config': sys.argv[1]}, {}))"
    )
    command = [sys.executable, "-c", program, str(path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_there_is_a_log_config_in_each_form() -> None:
    assert {one.language for one in log_configs()} == {"json", "yaml", "ini"}


@pytest.mark.parametrize("snippet", [one for one in snippets("json") if one not in log_configs()], ids=str)
def test_json_is_json(snippet: Snippet) -> None:
    for line in snippet.text.splitlines():
        json.loads(line)


@pytest.mark.parametrize("snippet", snippets("yaml"), ids=str)
def test_yaml_is_yaml(snippet: Snippet) -> None:
    yaml = pytest.importorskip("yaml")
    assert all(isinstance(one, dict) for one in yaml.safe_load_all(snippet.text))


@pytest.mark.parametrize("snippet", snippets("ini"), ids=str)
def test_a_unit_file_is_one(snippet: Snippet) -> None:
    """Some are parts of a section. A directive may be given twice."""
    parser = configparser.RawConfigParser(strict=False, allow_no_value=False, comment_prefixes=("#", ";"))
    has_section = re.search(r"^\[", snippet.text, re.MULTILINE)
    parser.read_string(snippet.text if has_section else f"[Service]\n{snippet.text}")


# Commands


def commands() -> Iterator[tuple[str, list[str]]]:
    """Each ``shardserve …`` in a shell block, a unit, a Dockerfile and a manifest: its arguments."""
    for one in snippets("sh", "console", "ini", "dockerfile"):
        for line in one.text.replace("\\\n", " ").splitlines():
            if found := re.match(r'(?:\$ |ExecStart=|CMD )?((?:\[")?(?:/\S*/)?shardserve\b.*)', line.strip()):
                text = found[1].partition("  #")[0].partition(" | ")[0]
                words = json.loads(text) if text.startswith("[") else shlex.split(text)
                yield str(one), words[1:]
    for one in snippets("yaml"):
        for found in re.finditer(r"(?:args|command): (\[.*\])", one.text):
            words = json.loads(found[1])
            if words[0] == "shardserve":
                yield str(one), words[1:]

    for document in DOCUMENTS:
        for words in re.findall(r"`(?:\S*/)?shardserve ([^`|\\]+)", FENCE.sub("", text_of(document))):
            if words.split()[0] in subcommands(main):
                yield f"{document.name}-inline", words.split()


def is_served(words: list[str]) -> bool:
    return bool(words) and words[0] not in subcommands(main) and not words[0].startswith("-")


@pytest.mark.parametrize(
    ("where", "words"), [one for one in commands() if is_served(one[1])], ids=lambda one: str(one)[:70]
)
def test_a_command_that_serves_parses(where: str, words: list[str], monkeypatch: Any, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)  # no shardserve.toml, and no variables of whoever runs this
    for name in ("PORT", "WEB_CONCURRENCY", "FORWARDED_ALLOW_IPS"):
        monkeypatch.delenv(name, raising=False)
    with subcommands(main)["run"].make_context("shardserve", list(words)) as context:
        assert loader_of(context).read().mistakes == ()


@pytest.mark.parametrize(
    ("where", "words"), [one for one in commands() if not is_served(one[1])], ids=lambda one: str(one)[:70]
)
def test_any_other_command_exists(where: str, words: list[str]) -> None:
    command: click.Command = main
    rest = [word for word in words if word.isalpha()]
    while rest and (known := subcommands(command)):
        assert rest[0] in known
        command = known[rest.pop(0)]


def test_commands_are_found() -> None:
    where = {found.partition("-")[0] for found, _ in commands()}
    assert {"README.md", "docker.md", "kubernetes.md", "systemd.md"} <= where


# Links


def anchors(document: Path) -> set[str]:
    """As GitHub makes them of headings."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", text_of(document)), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", one.lower()).replace(" ", "-") for one in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_leads_somewhere(document: Path) -> None:
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", FENCE.sub("", text_of(document))):
        path, _, anchor = target.partition("#")
        if "://" in path:
            continue
        there = (document.parent / path).resolve() if path else document
        if not there.exists() or (anchor and there.suffix == ".md" and anchor not in anchors(there)):
            broken.append(target)
    assert broken == []
