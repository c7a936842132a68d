"""Starts the peers that have no command line for it.

Usage: ``python -m perf.launch SERVER APP PORT WORKERS [CERT KEY]``.

Rules of this file: it runs inside a peer's interpreter, so it imports the standard library and that
one peer, and it changes none of the peer's defaults but the address and the log level.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from typing import Any


def _freastal(app: Any, port: int, workers: int, *tls: str) -> None:
    cert, key = tls or (None, None)
    peer = importlib.import_module("freastal")
    peer.serve_asgi(app, host="127.0.0.1", port=port, workers=workers, certfile=cert, keyfile=key)


def _fastpysgi(app: Any, port: int, workers: int) -> None:
    peer = importlib.import_module("fastpysgi")
    peer.run(app, host="127.0.0.1", port=port, workers=workers, loglevel=peer.LL_CRIT_ERROR)


_PEERS: dict[str, Callable[..., None]] = {"freastal": _freastal, "fastpysgi": _fastpysgi}


def main(argv: list[str]) -> None:
    server, target, port, workers, *tls = argv
    module, _, attribute = target.partition(":")
    _PEERS[server](getattr(importlib.import_module(module), attribute), int(port), int(workers), *tls)


if __name__ == "__main__":
    main(sys.argv[1:])
