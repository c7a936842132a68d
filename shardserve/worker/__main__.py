"""``python -m shardserve.worker CONTROL_FD``: how the master starts a worker. Not for people.

Everything is in ``bootstrap.py``; only the argument is read here.
"""

from __future__ import annotations

import sys

from .bootstrap import run


def main() -> None:
    if len(sys.argv) != 2 or not sys.argv[1].isdecimal():
        sys.exit(
            "usage: python -m shardserve.worker CONTROL_FD (started by the master; see shardserve --help)"
        )
    run(int(sys.argv[1]))


if __name__ == "__main__":
    main()
