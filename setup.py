"""Builds the native extension with HTTP/2 where nghttp2 is there. Everything else is in pyproject.toml.

Rules of this file: it only asks pkg-config. The one thing that is decided here is what to do without nghttp2:

    SHARDSERVE_HTTP2 not set    build without HTTP/2, and say so
    SHARDSERVE_HTTP2=1          fail
    SHARDSERVE_HTTP2=0          build without HTTP/2, also where nghttp2 is there

It is the variable of the setting ``http2``, whose other words for yes and no are understood, too.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from setuptools import setup
from setuptools.command.build_ext import build_ext

# The first version that can leave the priorities of RFC 7540 out (RFC 9218 §2.1).
OLDEST = "1.48"
# Options that distributions have ported back to versions that do not tell: function, macro.
PORTED_BACK = (
    ("nghttp2_option_set_stream_reset_rate_limit", "SHARDSERVE_NGHTTP2_RESET_LIMIT"),
    ("nghttp2_option_set_max_continuations", "SHARDSERVE_NGHTTP2_CONTINUATIONS"),
)
HOW_TO_GET_IT = (
    "Debian and Ubuntu have it in libnghttp2-dev (with pkg-config), Fedora in libnghttp2-devel, Alpine in "
    "nghttp2-dev"
)
_YES = {"1", "true", "yes", "on", "t", "y"}
_NO = {"0", "false", "no", "off", "f", "n"}


@dataclass(frozen=True)
class Flags:
    """What the compiler and the linker are told. Empty: without HTTP/2."""

    compile: tuple[str, ...] = ()
    link: tuple[str, ...] = ()


class NotFound(Exception):
    """There is no nghttp2 to build with. The text says what is missing."""


def wanted(environ: dict[str, str]) -> bool | None:
    """What SHARDSERVE_HTTP2 says; None: nothing. Raises ValueError for any other word."""
    word = environ.get("SHARDSERVE_HTTP2", "").strip().lower()
    if word and word not in _YES | _NO:
        raise ValueError(f"SHARDSERVE_HTTP2={word}: 1 builds with HTTP/2, 0 without")
    return word in _YES if word else None


def find(environ: dict[str, str]) -> Flags:
    """The flags for the nghttp2 that pkg-config knows. Raises NotFound."""
    name = environ.get("PKG_CONFIG") or "pkg-config"

    def ask(*arguments: str) -> str:
        command = [name, *arguments, "libnghttp2"]
        done = subprocess.run(command, capture_output=True, text=True, env=environ, check=False)
        if done.returncode:
            raise NotFound(done.stderr.strip() or f"pkg-config finds no libnghttp2 {OLDEST} or newer")
        return done.stdout.strip()

    try:
        version = ask("--modversion")
        ask(f"--atleast-version={OLDEST}")
        compile_flags, link_flags = shlex.split(ask("--cflags")), shlex.split(ask("--libs"))
        folders = [flag[2:] for flag in compile_flags if flag.startswith("-I")] + [
            ask("--variable=includedir")
        ]
    except OSError as error:
        raise NotFound(f"{name} cannot be run: {error.strerror}") from None
    header = _header(folders)
    if header is None:
        raise NotFound(f"nghttp2 {version} is there without its header nghttp2/nghttp2.h")
    macros = ["SHARDSERVE_NGHTTP2", *(macro for function, macro in PORTED_BACK if function in header)]
    return Flags((*compile_flags, *(f"-D{macro}=1" for macro in macros)), tuple(link_flags))


def _header(folders: list[str]) -> str | None:
    for folder in folders:
        path = Path(folder or "/usr/include", "nghttp2", "nghttp2.h")
        if path.is_file():
            return path.read_text(encoding="utf-8", errors="replace")
    return None


def flags(environ: dict[str, str]) -> Flags:
    """The flags to build with. Says on stderr if they are none. Raises SystemExit where that will not do."""
    try:
        want = wanted(environ)
    except ValueError as error:
        raise SystemExit(f"shardserve: {error}") from None
    if want is False:
        print("shardserve: building without HTTP/2, as SHARDSERVE_HTTP2 says", file=sys.stderr)
        return Flags()
    try:
        return find(environ)
    except NotFound as reason:
        if want:
            raise SystemExit(
                f"shardserve: SHARDSERVE_HTTP2 wants HTTP/2, and it needs nghttp2: {reason}. {HOW_TO_GET_IT}."
            ) from None
        print(f"shardserve: building without HTTP/2: {reason}. {HOW_TO_GET_IT}.", file=sys.stderr)
        return Flags()


def remembered(found: Flags, folder: Path) -> str:
    """A file that is written when the flags are others than last time. What depends on it is built again."""
    path, text = folder / "nghttp2.flags", f"{found}\n"
    if not path.is_file() or path.read_text() != text:
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return str(path)


class BuildExt(build_ext):
    """``build_ext``, told of nghttp2."""

    def build_extensions(self) -> None:
        found = flags(dict(os.environ))
        for one in self.extensions:
            one.extra_compile_args += found.compile
            one.extra_link_args += found.link
            one.depends += [remembered(found, Path("build"))]
        super().build_extensions()


if __name__ == "__main__":
    setup(cmdclass={"build_ext": BuildExt})
