"""``setup.py``: what it asks pkg-config, what it tells the compiler, and what it says without nghttp2.

pkg-config is a script of the test's, and nothing is compiled.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from setuptools import Distribution, Extension

ROOT = Path(__file__).resolve().parents[2]
RESET_LIMIT = "void nghttp2_option_set_stream_reset_rate_limit(void);\n"
CONTINUATIONS = "void nghttp2_option_set_max_continuations(void);\n"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("shardserve_setup", ROOT / "setup.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


class Nghttp2:
    """A folder with a header, and a pkg-config that knows it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.include = folder / "include dir"
        (self.include / "nghttp2").mkdir(parents=True)
        self.write()

    def write(self, *, version: str = "1.52.0", header: str | None = RESET_LIMIT + CONTINUATIONS) -> None:
        path = self.include / "nghttp2" / "nghttp2.h"
        path.unlink(missing_ok=True)
        if header is not None:
            path.write_text(header)
        atleast = [1, int(version.split(".")[1])] >= [1, 48]
        program = self.folder / "pkg-config"
        program.write_text(
            "#!/bin/sh\n"
            'case "$1 $2" in\n'
            f'"--modversion libnghttp2") echo {version} ;;\n'
            f'"--atleast-version=1.48 libnghttp2") exit {0 if atleast else 1} ;;\n'
            f'"--cflags libnghttp2") echo \'"-I{self.include}" -DSTATIC\' ;;\n'
            "\"--libs libnghttp2\") echo '-L/opt/lib -lnghttp2' ;;\n"
            f"\"--variable=includedir libnghttp2\") echo '{self.include}' ;;\n"
            '*) echo "$@" is not asked >&2; exit 2 ;;\n'
            "esac\n"
        )
        program.chmod(0o755)

    @property
    def environ(self) -> dict[str, str]:
        return {"PATH": os.environ["PATH"], "PKG_CONFIG": str(self.folder / "pkg-config")}


@pytest.fixture
def nghttp2(tmp_path: Path) -> Nghttp2:
    return Nghttp2(tmp_path)


NOWHERE = {"PATH": "/nowhere"}


# With it


@pytest.mark.parametrize(
    ("header", "macros"),
    [
        ("", []),
        (RESET_LIMIT, ["-DSHARDSERVE_NGHTTP2_RESET_LIMIT=1"]),
        (CONTINUATIONS, ["-DSHARDSERVE_NGHTTP2_CONTINUATIONS=1"]),
        (
            RESET_LIMIT + CONTINUATIONS,
            ["-DSHARDSERVE_NGHTTP2_RESET_LIMIT=1", "-DSHARDSERVE_NGHTTP2_CONTINUATIONS=1"],
        ),
    ],
)
def test_the_flags(script: Any, nghttp2: Nghttp2, header: str, macros: list[str]) -> None:
    nghttp2.write(header=header)
    found = script.flags(nghttp2.environ)
    assert found.compile == (f"-I{nghttp2.include}", "-DSTATIC", "-DSHARDSERVE_NGHTTP2=1", *macros)
    assert found.link == ("-L/opt/lib", "-lnghttp2")


@pytest.mark.parametrize("word", ["1", "true", "YES", " on "])
def test_wanted_and_found(script: Any, nghttp2: Nghttp2, word: str) -> None:
    assert script.flags(nghttp2.environ | {"SHARDSERVE_HTTP2": word}) == script.find(nghttp2.environ)


# Without it


@pytest.mark.parametrize(
    ("version", "header", "reason"),
    [
        ("1.47.0", "", "pkg-config finds no libnghttp2 1.48 or newer"),
        ("1.52.0", None, "nghttp2 1.52.0 is there without its header nghttp2/nghttp2.h"),
    ],
)
def test_one_that_will_not_do(
    script: Any,
    nghttp2: Nghttp2,
    capsys: pytest.CaptureFixture[str],
    version: str,
    header: str | None,
    reason: str,
) -> None:
    nghttp2.write(version=version, header=header)
    assert script.flags(nghttp2.environ) == script.Flags()
    said = capsys.readouterr().err
    assert said.startswith(
        f"shardserve: building without HTTP/2: {reason}. Debian and Ubuntu have it in libngh"
    )
    with pytest.raises(SystemExit) as raised:
        script.flags(nghttp2.environ | {"SHARDSERVE_HTTP2": "1"})
    assert f"SHARDSERVE_HTTP2 wants HTTP/2, and it needs nghttp2: {reason}. " in str(raised.value)
    assert "libnghttp2-dev" in str(raised.value)


def test_without_pkg_config(script: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert script.flags(NOWHERE) == script.Flags()
    assert "without HTTP/2: pkg-config cannot be run: No such file or directory. " in capsys.readouterr().err


@pytest.mark.parametrize("word", ["0", "false", "No", "off"])
def test_not_wanted(script: Any, nghttp2: Nghttp2, capsys: pytest.CaptureFixture[str], word: str) -> None:
    assert script.flags(nghttp2.environ | {"SHARDSERVE_HTTP2": word}) == script.Flags()
    assert capsys.readouterr().err == "shardserve: building without HTTP/2, as SHARDSERVE_HTTP2 says\n"


def test_a_word_that_is_neither(script: Any) -> None:
    with pytest.raises(SystemExit, match="SHARDSERVE_HTTP2=maybe: 1 builds with HTTP/2, 0 without"):
        script.flags(NOWHERE | {"SHARDSERVE_HTTP2": "maybe"})


# The build


def test_the_extension_gets_the_flags(
    script: Any, nghttp2: Nghttp2, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, value in nghttp2.environ.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("SHARDSERVE_HTTP2", raising=False)
    built: list[Extension] = []
    monkeypatch.setattr(script.build_ext, "build_extensions", lambda self: built.extend(self.extensions))
    command = script.BuildExt(Distribution())
    command.extensions = [Extension("a", ["a.c"], extra_compile_args=["-O3"], depends=["a.h"])]
    command.build_extensions()
    (one,) = built
    assert one.extra_compile_args[0] == "-O3"
    assert "-DSHARDSERVE_NGHTTP2=1" in one.extra_compile_args
    assert one.extra_link_args[-1] == "-lnghttp2"
    assert one.depends == ["a.h", "build/nghttp2.flags"]
    assert Path(one.depends[1]).is_file()


def test_other_flags_are_a_reason_to_build_again(script: Any, tmp_path: Path) -> None:
    """Otherwise an editable install would keep what it has after nghttp2 was installed."""

    def changed(*flags: str) -> bool:
        path = tmp_path / "build" / "nghttp2.flags"
        if path.exists():
            os.utime(path, (1, 1))
        return os.stat(script.remembered(script.Flags(flags), tmp_path / "build")).st_mtime > 1

    assert [changed(*flags) for flags in ([], [], ["-DA"], ["-DA"], [])] == [True, False, True, False, True]


@pytest.mark.parametrize("environ", [{}, {"SHARDSERVE_HTTP2": "0"}])
def test_the_fuzzers_and_sanitizers_are_built_alike(script: Any, environ: dict[str, str]) -> None:
    """They do not go through setup.py: native/tests/nghttp2.sh."""
    if shutil.which("pkg-config") is None or shutil.which("cc") is None:
        pytest.skip("no pkg-config or no C compiler")
    inherited = {name: value for name, value in os.environ.items() if name != "SHARDSERVE_HTTP2"} | environ
    found = script.flags(inherited)

    def shell(what: str) -> tuple[str, ...]:
        command = ["sh", str(ROOT / "native/tests/nghttp2.sh"), what]
        done = subprocess.run(command, env=inherited, capture_output=True, text=True, check=True)
        return tuple(done.stdout.split())

    assert (shell("cflags"), shell("libs")) == (found.compile, found.link)
