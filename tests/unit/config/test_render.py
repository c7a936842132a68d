"""The generated page, and the table of ``config show``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from shardserve.config import render
from shardserve.config.load import Loader
from shardserve.config.model import SETTINGS


def test_the_reference_is_what_the_model_says() -> None:
    written = render.REFERENCE_PATH.read_text()
    assert written == render.reference(), "run: python -m shardserve.config.render"


def test_the_reference_has_every_name_of_every_setting() -> None:
    page = render.reference()
    for one in SETTINGS:
        for name in (one.key, one.flag, *one.env, one.help):
            assert name in page


def test_choices_do_not_end_their_table_cell() -> None:
    for line in render.reference().splitlines():
        if line.startswith("|"):
            assert line.replace("\\|", "").count("|") == 3, line


def test_python_m_rewrites_it(tmp_path: Path) -> None:
    target = tmp_path / "out.md"
    code = (
        "import pathlib, runpy\n"
        "real = pathlib.Path.write_text\n"
        f"pathlib.Path.write_text = lambda self, text: real(pathlib.Path({str(target)!r}), text)\n"
        "runpy.run_module('shardserve.config.render', run_name='__main__')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert target.read_text() == render.reference()


def test_show_has_value_unit_and_origin(tmp_path: Path) -> None:
    loader = Loader(
        {"headers": ("A: b",)}, environ={"SHARDSERVE_TIMEOUT_KEEP_ALIVE": "1.5"}, directory=tmp_path
    )
    lines = render.show(*loader.load()).splitlines()
    assert lines[0].split() == ["setting", "value", "from"]
    assert len(lines) == len(SETTINGS) + 1
    cells = {
        line.split("  ")[0]: [cell.strip() for cell in line.split("  ") if cell.strip()] for line in lines
    }
    assert cells["timeout-keep-alive"] == ["timeout-keep-alive", "1.5 s", "env SHARDSERVE_TIMEOUT_KEEP_ALIVE"]
    assert cells["headers"] == ["headers", "A: b", "flag --header"]
    assert cells["workers"] == ["workers", "one per usable core", "default"]
    assert cells["limit-request-line"] == ["limit-request-line", "8 KiB", "default"]
    assert cells["limit-connections"] == ["limit-connections", "no limit", "default"]
    assert cells["min-request-body-rate"] == ["min-request-body-rate", "240 bytes/s", "default"]
    assert cells["uds-permissions"] == ["uds-permissions", "666", "default"]


def rows_of(title: str) -> list[list[str]]:
    """The tables of one section of docs/operations.md as cells, without their heads."""
    text = (render.REFERENCE_PATH.parents[1] / "operations.md").read_text()
    section = text.split(f"## {title}\n")[1].split("\n## ")[0]
    rows = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("| `--")]
    assert len(rows) > 5
    return rows


@pytest.mark.parametrize(
    ("title", "group"), [("Limits and slow clients", "Limits"), ("WebSockets", "WebSocket")]
)
def test_operations_has_every_limit_and_its_default(title: str, group: str) -> None:
    """Not generated, because it says more than the reference; so it is compared."""
    rows = {row[0].split("`")[1]: row[1].strip(" |") for row in rows_of(title)}
    for one in SETTINGS:
        if one.group == group:
            assert one.flag in rows
        if one.flag in rows:
            default = "none" if one.default is None else f"{one.to_text(one.default)} {one.unit}".rstrip()
            assert rows.pop(one.flag) == default
    assert rows == {}


def test_operations_has_the_reasons_that_are_logged() -> None:
    native = Path(__file__).parents[3] / "native"
    code = "".join(path.read_text() for path in native.glob("*.c"))
    for row in rows_of("Limits and slow clients"):
        assert row[-1] == "nothing" or f'"{row[-1]}"' in code, row[-1]
