"""A worker's heart without a worker: ``stalling.py PAGE_FD HOW`` ticks once, and then does what HOW says.

For tests of what is found out about it from outside. It prints a line before it begins.
"""

from __future__ import annotations

import asyncio
import resource
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from shardserve.stats import Page, Stage
from shardserve.worker.heartbeat import Heartbeat, watch_for_dumps


def tick() -> None:
    """Nothing: the loop goes on turning."""


def wait_for_ever() -> None:
    time.sleep(1e6)


def compute_for_ever() -> None:
    while True:
        pass


def add_up_in_c() -> None:
    """One call into C that never gives up the GIL."""
    sum(range(10**15))


def hold_the_gil() -> None:
    threading.Thread(target=add_up_in_c, name="adder", daemon=True).start()


def wait_while_a_thread_computes() -> None:
    """The event loop waits without the GIL: the thread that burns the CPU does it no harm."""
    threading.Thread(target=compute_for_ever, daemon=True).start()
    wait_for_ever()


async def main(page: Page, how: str) -> None:
    loop = asyncio.get_running_loop()
    page["stage"] = Stage.SERVING
    Heartbeat(page).arm(loop, lambda page: None)
    print("ready", flush=True)
    globals()[how]()
    await asyncio.Event().wait()


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    fd, how = int(sys.argv[1]), sys.argv[2]
    watched = Page(fd)
    watch_for_dumps(watched)
    if how == "import":
        print("ready", flush=True)
        wait_for_ever()
    asyncio.run(main(watched, how))
