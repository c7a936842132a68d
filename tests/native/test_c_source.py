"""The house rules of native/ (native.h, docs/decisions): what a reader may rely on without reading the C."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sysconfig
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NATIVE = ROOT / "native"
SOURCES = sorted(NATIVE.glob("*.c"))
HEADERS = sorted(NATIVE.glob("*.h"))
LINES = 550

PURE = {"chars", "line", "date", "ws_frame", "ws_mask"}
"""Files that must not include Python.h: they are tested and fuzzed alone."""

MUTABLE = ("PyType_Spec", "PyMethodDef", "PyModuleDef", "PyModuleDef_Slot", "PyType_Slot", "PyMemberDef")
MUTABLE += ("PyGetSetDef",)
"""CPython's own tables, which its API takes without const."""


def names(paths: list[Path]) -> list[str]:
    return [path.name for path in paths]


def without_comments(text: str) -> str:
    """The code, with comments and string contents blanked, line for line."""

    def blank(match: re.Match[str]) -> str:
        return re.sub(r"[^\n]", " ", match.group())

    text = re.sub(r"/\*.*?\*/", blank, text, flags=re.S)
    text = re.sub(r"//[^\n]*", blank, text)
    return re.sub(r'"(?:\\.|[^"\\\n])*"', lambda match: '"' + " " * (len(match.group()) - 2) + '"', text)


@pytest.mark.parametrize("path", SOURCES + HEADERS, ids=lambda path: path.name)
def test_no_file_is_too_long(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= LINES


@pytest.mark.parametrize("path", SOURCES + HEADERS, ids=lambda path: path.name)
def test_a_file_says_what_it_is(path: Path) -> None:
    assert path.read_text().startswith("/* ")


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_a_source_has_its_header(path: Path) -> None:
    text = path.read_text()
    assert not re.findall(r'#\s*include\s*["<][^">]*\.c[">]', text)
    # one header that two files share says so
    shared = {"connection.h", "native.h", "task.h", "cycle.h", "websocket.h", "http2_stream.h"}
    if path.name == "module.c":
        return
    own = f'#include "{path.stem}.h"' in text
    assert own or any(
        f'#include "{name}"' in text and path.name in (NATIVE / name).read_text() for name in shared
    )


@pytest.mark.parametrize("path", SOURCES + HEADERS, ids=lambda path: path.name)
def test_pure_leaves_know_no_python(path: Path) -> None:
    if path.stem in PURE:
        assert not re.search(r"#\s*include.*(Python|native)\.h", path.read_text())


@pytest.mark.parametrize("path", SOURCES + HEADERS, ids=lambda path: path.name)
def test_no_macro_returns(path: Path) -> None:
    text = path.read_text()
    for macro in re.findall(r"^#\s*define\s+(?:[^\n]*\\\n)*[^\n]*", without_comments(text), flags=re.M):
        name = macro.split()[1].split("(")[0]
        if name == "X":
            continue  # an X macro expands where it stands, between its #define and #undef
        assert not re.search(r"\b(return|goto|break|continue)\b", macro), name


@pytest.mark.parametrize("path", HEADERS, ids=lambda path: path.name)
def test_every_function_of_a_header_has_a_comment(path: Path) -> None:
    text = path.read_text()
    lines = text.splitlines()
    code = without_comments(text).splitlines()
    depth = 0
    for number, line in enumerate(code):
        if depth == 0 and is_declaration(code, number):
            # Directly above: a comment, or another function that the same comment covers.
            above = number - 1
            while above >= 0 and (
                is_declaration(code, above) or re.match(r"^(static inline|#)\b.*", lines[above])
            ):
                above -= 1
            assert above >= 0, lines[number]
            assert lines[above].rstrip().endswith("*/"), f"{path.name}:{number + 1}: {lines[number]}"
        depth += line.count("{") - line.count("}")


def is_declaration(code: list[str], number: int) -> bool:
    """Whether a function is declared (or defined inline) in this line, or begins in it."""
    line = code[number]
    if line.startswith((" ", "\t", "#", "typedef", "}", "{", "extern", "struct")) or "(" not in line:
        return False
    return re.match(r"^[A-Za-z_][\w \*]*\b\w+\(", line) is not None


def globals_of(path: Path) -> list[str]:
    """Definitions of objects at file scope or with static storage, without their initialisers."""
    code = re.sub(r"^\s*#(?:[^\n]*\\\n)*[^\n]*", "", without_comments(path.read_text()), flags=re.M)
    found = []
    for match in re.finditer(
        r"^[ \t]*static\s+(?!inline\b)[^;{}()=]*?(?:\[[^\]]*\]\s*)*(?==|;)", code, flags=re.M
    ):
        found.append(match.group().strip())
    depth = 0
    for line in code.splitlines():
        if (
            depth == 0
            and re.match(r"^[A-Za-z_][\w \*]*(\[[^\]]*\])*\s*(=|;)", line)
            and not re.match(r"^(static|typedef|extern|struct \w+;|return|\})", line)
        ):
            found.append(line.strip())
        depth += line.count("{") - line.count("}")
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_no_mutable_globals(path: Path) -> None:
    for definition in globals_of(path):
        constant = re.search(r"\bconst\b(?!.*\*\s*\w+\s*(=|$))|\*\s*const\b", definition)
        table = any(re.search(rf"\b{name}\b", definition) for name in MUTABLE)
        assert constant or table, f"{path.name}: {definition}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_formats_are_ascii(path: Path) -> None:
    """PyErr_Format raises ValueError about a format that is not ASCII, instead of the error it was to be."""
    for number, line in enumerate(path.read_text().splitlines(), 1):
        for text in re.findall(r'"(?:\\.|[^"\\])*"', line.split("/*")[0]):
            assert text.isascii(), f"{path.name}:{number}: {text}"


def test_pyproject_lists_every_file() -> None:
    module = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["ext-modules"][0]
    assert sorted(module["sources"]) == [f"native/{name}" for name in names(SOURCES)]
    assert sorted(module["depends"]) == [f"native/{name}" for name in names(HEADERS)]


@pytest.mark.skipif(shutil.which("gcc") is None, reason="no gcc")
@pytest.mark.parametrize("debug", [[], ["-DSHARDSERVE_DEBUG"]], ids=["release", "debug"])
@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_it_compiles_without_a_warning(path: Path, debug: list[str]) -> None:
    if debug and path.stem in PURE:
        pytest.skip("knows no CHECK")
    flags = ["-std=c11", "-Wall", "-Wextra", "-Werror", "-Wno-unused-parameter"]
    flags += ["-Wno-missing-field-initializers", "-Wno-cast-function-type", "-fsyntax-only"]
    include = f"-I{sysconfig.get_path('include')}"
    environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    run = subprocess.run(
        ["gcc", *flags, *debug, include, str(path)], capture_output=True, text=True, env=environment
    )
    assert run.returncode == 0, run.stderr
