"""The whole Connection under libFuzzer and the sanitizers, or one input of it, told step by step.

    fuzz_connection.py LIBRARY COMMAND [libFuzzer's arguments]
    fuzz_connection.py LIBRARY COMMAND --reproduce INPUT

LIBRARY holds the extension and fuzz_world.c, COMMAND is what runs this file with both (Makefile). An input
that breaks a property (fuzz_input.py, fuzz_requests.py, fuzz_responses.py, fuzz_sockets.py), a CHECK or a
sanitizer's rule aborts, and libFuzzer keeps it.
"""

from __future__ import annotations

import asyncio
import gc
import importlib.machinery
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1])]


def load(name: str, library: str) -> ModuleType:
    """One of the two modules in ``library``, under its own name."""
    loader = importlib.machinery.ExtensionFileLoader(name, library)
    spec = importlib.util.spec_from_file_location(name, library, loader=loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    loader.exec_module(module)
    return module


def tell(*words: object) -> None:
    print("  ", *words, flush=True)


def prepared() -> tuple[ModuleType, ModuleType, list[str]]:
    """The extension, the world, and the command with its arguments."""
    library, *arguments = sys.argv[1:]
    import shardserve

    native = shardserve._native = load("shardserve._native", library)  # type: ignore[attr-defined]
    world = load("fuzz_world", library)
    assert native.debug_build
    return native, world, arguments


def run(kind: Any, control_bytes: int, native: ModuleType, world: ModuleType, arguments: list[str]) -> None:
    """``kind``: a Theatre; ``control_bytes``: of an input's header."""
    if arguments[1:2] == ["--reproduce"]:
        data = Path(arguments[2]).read_bytes()
        print("control", data[:control_bytes].hex(" "), "raw", data[control_bytes:])
        kind(native, world, tell)(data)
        print("holds")
    else:
        theatre = kind(native, world)
        theatre(b"")
        gc.freeze()
        gc.set_threshold(5000, 20, 100)
        world.run(arguments, theatre)
    asyncio._set_running_loop(None)


def main() -> None:
    native, world, arguments = prepared()
    from fuzz_script import CONTROL_BYTES
    from fuzz_theatre import Theatre

    run(Theatre, CONTROL_BYTES, native, world, arguments)


if __name__ == "__main__":
    main()
