"""The house rules that can be checked: who may import whom, sizes, and documents that name what exists.

``FLOORS`` is the table of docs/architecture.md as data: a room imports only from floors below its own, and
from itself. Everything is read with ``ast``; nothing is imported.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "shardserve"
LONGEST_FILE = 500
LONGEST_FUNCTION = 60

# Room → floor. A room is a folder or a single module of shardserve/.
FLOORS = {
    "errors": 0, "types": 0, "_version": 0,
    "commands": 1, "config": 1, "control": 1, "stats": 1, "observe": 1,
    "asgi": 2, "http1": 2, "http2": 2, "ws": 2, "_native": 2,
    "net": 3,
    "worker": 4, "master": 4, "profiling": 4,
    "cli": 5, "demo": 5, "logging": 5, "middleware": 5, "integrations": 5,
    "__main__": 6, "__init__": 6,  # the two front doors, which only open another one
}  # fmt: skip
# What the master may import beyond floors 0 and 1, and what neither it nor anything it imports may.
MASTER_EXTRA = {"shardserve.net.listeners", "shardserve.net.tls"}
NEVER_IN_THE_MASTER = {"asyncio", "uvloop", "httptools", "websockets", "shardserve._native"}
# The demo is an app that anybody could have written. The names of ASGI's types are the one thing it shares.
DEMO_MAY = {"shardserve.types"}


# What there is


def modules() -> dict[str, Path]:
    """Every module of the package by its dotted name."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


def room_of(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def exists(module: str) -> bool:
    return module in MODULES or module == "shardserve._native"


@cache
def imports_of(module: str) -> dict[str, int]:
    """What a module imports, wherever in it, by dotted name: the line of the first time.

    ``from X import name`` is X.name if that is a module, else X.
    """
    path = MODULES[module]
    package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
    found: dict[str, int] = {}
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                found.setdefault(alias.name, node.lineno)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                deep = f"{source}.{alias.name}"
                found.setdefault(deep if exists(deep) else source, node.lineno)
    return found


def own_imports(module: str) -> Iterator[tuple[str, int]]:
    """Those of our own package."""
    for name, line in imports_of(module).items():
        if name.split(".")[0] == "shardserve":
            yield name, line


# Floors


def test_every_room_has_a_floor() -> None:
    rooms = {room_of(module) for module in MODULES}
    assert rooms <= set(FLOORS), f"not in the table of floors: {sorted(rooms - set(FLOORS))}"


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_from_floors_below(module: str) -> None:
    room = room_of(module)
    wrong = []
    for name, line in own_imports(module):
        assert exists(name), f"{MODULES[module]}:{line} imports {name}, which is not there"
        other = room_of(name)
        if other != room and FLOORS[other] >= FLOORS[room]:
            wrong.append(f"{MODULES[module].relative_to(ROOT)}:{line}: {room} imports {name}")
    assert wrong == []


@pytest.mark.parametrize("module", [one for one in MODULES if room_of(one) == "master"])
def test_the_master_imports_facts_and_its_listeners_only(module: str) -> None:
    wrong = [
        f"{MODULES[module].relative_to(ROOT)}:{line}: {name}"
        for name, line in own_imports(module)
        if room_of(name) != "master" and FLOORS[room_of(name)] > 1 and name not in MASTER_EXTRA
    ]
    assert wrong == []


def test_nothing_that_the_master_imports_is_an_event_loop() -> None:
    """With everything that its modules import in turn, and the packages on the way."""
    waiting = [one for one in MODULES if room_of(one) == "master"]
    seen: set[str] = set()
    wrong = []
    while waiting:
        module = waiting.pop()
        if module in seen or module not in MODULES:
            continue
        seen.add(module)
        for name, line in imports_of(module).items():
            if any(name == never or name.startswith(f"{never}.") for never in NEVER_IN_THE_MASTER):
                wrong.append(f"{MODULES[module].relative_to(ROOT)}:{line}: {name}")
            if room_of(module) != "__init__":  # the package's own names are imported when they are used
                parts = name.split(".")
                waiting += [".".join(parts[:depth]) for depth in range(1, len(parts) + 1)]
    assert wrong == []
    assert "shardserve.net.listeners" in seen  # the walk does walk


def test_worker_and_master_do_not_know_each_other() -> None:
    wrong = [
        f"{module} imports {name}"
        for module in MODULES
        for name, _ in own_imports(module)
        if {room_of(module), room_of(name)} == {"worker", "master"}
    ]
    assert wrong == []


def test_the_demo_is_an_ordinary_app() -> None:
    others = {
        name
        for name in imports_of("shardserve.demo")
        if name not in DEMO_MAY and name.split(".")[0] not in sys.stdlib_module_names
    }
    assert others == set()


# Sizes


@pytest.mark.parametrize("module", MODULES)
def test_a_module_says_what_it_is(module: str) -> None:
    path = MODULES[module]
    if path.stat().st_size:  # an empty __init__.py says enough
        assert ast.get_docstring(tree_of(path)), f"{path.relative_to(ROOT)} has no docstring"


def long_functions(over: int) -> list[str]:
    """``shardserve/x.py:3 name: 70 lines``, the longest first."""
    found = []
    for path in MODULES.values():
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > over:
                    found.append(
                        (lines, f"{path.relative_to(ROOT)}:{node.lineno} {node.name}: {lines} lines")
                    )
    return [text for _, text in sorted(found, reverse=True)]


def test_no_file_is_too_long() -> None:
    lengths = {path: len(path.read_text().splitlines()) for path in MODULES.values()}
    too_long = {str(path.relative_to(ROOT)): n for path, n in lengths.items() if n > LONGEST_FILE}
    assert too_long == {}


def test_no_function_is_too_long() -> None:
    assert long_functions(LONGEST_FUNCTION) == []


# Documents


def sources() -> list[str]:
    """Every file of the package, and of native/ but for its tests."""
    found = [path for path in PACKAGE.rglob("*") if path.suffix in (".py", ".pyi")]
    found += [path for path in (ROOT / "native").glob("*") if path.suffix in (".c", ".h")]
    return sorted(str(path.relative_to(ROOT)) for path in found)


def named_in(text: str) -> set[str]:
    """The words of a text that look like files: ``supervisor.py``, ``native/cycle.c``."""
    return set(re.findall(r"[\w./*-]*\w\.(?:pyi|py|c|h)\b", text))


def test_the_architecture_names_every_file() -> None:
    """By its whole path, so that a name that is in two rooms is not taken for both."""
    document = ROOT / "docs" / "architecture.md"
    assert document.exists(), "docs/architecture.md is not written yet"
    missing = sorted(set(sources()) - named_in(document.read_text()))
    assert missing == [], f"not in docs/architecture.md: {missing}"


def test_the_architecture_names_no_file_that_is_gone() -> None:
    document = ROOT / "docs" / "architecture.md"
    assert document.exists(), "docs/architecture.md is not written yet"
    paths = {name for name in named_in(document.read_text()) if name.startswith(("shardserve/", "native/"))}
    gone = sorted(path for path in paths if "*" not in path and not (ROOT / path).exists())
    assert gone == [], f"docs/architecture.md names files that are not there: {gone}"


PROMISE = re.compile(r"^- (?P<text>.+?) — (?P<tests>`.+`)\s*$")
TEST_NAME = re.compile(r"`(?P<path>[^`:]+\.py)::(?P<name>[^`\[]+)(?:\[[^`]*\])?`")


@cache
def named_tests(path: Path) -> set[str]:
    """``test_name``, and ``TestClass::test_name``."""
    found: set[str] = set()
    for node in tree_of(path).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.ClassDef):
            found |= {
                f"{node.name}::{one.name}"
                for one in node.body
                if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef)
            }
    return {name for name in found if name.rpartition("::")[2].startswith("test_")}


def complaints(text: str) -> list[str]:
    """What is wrong with the promises of a document: a line without a test, a test that is not there."""
    wrong = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.startswith("- "):
            continue
        promise = PROMISE.match(line)
        named = list(TEST_NAME.finditer(promise["tests"])) if promise else []
        if not named:
            wrong.append(f"line {number} names no test: {line}")
        for one in named:
            path = ROOT / one["path"]
            if not path.exists() or one["name"] not in named_tests(path):
                wrong.append(f"line {number}: there is no {one['path']}::{one['name']}")
    return wrong


def test_every_promise_has_a_test() -> None:
    document = ROOT / "docs" / "behaviour.md"
    assert document.exists(), "docs/behaviour.md is not written yet"
    text = document.read_text()
    assert complaints(text) == []
    assert any(map(PROMISE.match, text.splitlines())), "it promises nothing"


def test_a_promise_without_a_test_is_found() -> None:
    here = "tests/unit/test_house.py"
    good = f"- a promise — `{here}::test_a_promise_without_a_test_is_found`"
    assert complaints(good) == []
    assert complaints(good.replace("found`", "found[case-1]`")) == []
    assert complaints("- a promise") == ["line 1 names no test: - a promise"]
    wrong = f"text\n- a promise — `{here}::test_nothing`\n- another — `tests/nowhere.py::test_x`"
    assert complaints(wrong) == [
        f"line 2: there is no {here}::test_nothing",
        "line 3: there is no tests/nowhere.py::test_x",
    ]


if __name__ == "__main__":
    print(*long_functions(40), sep="\n")
