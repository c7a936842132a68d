"""Runs the real master with the fake worker: ``python master_driver.py SETTINGS.json``.

The settings are keywords of Config; HUP reads the file again. Further arguments are the worker's
command, when it is not to be the fake one.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from shardserve.config.model import Config
from shardserve.errors import ConfigError
from shardserve.master.serve import serve


def read() -> Config:
    try:
        return Config(**json.loads(Path(sys.argv[1]).read_text()))
    except (TypeError, ValueError) as error:
        raise ConfigError(str(error)) from error


if __name__ == "__main__":
    command = sys.argv[2:] or [sys.executable, str(Path(__file__).with_name("fake_worker.py"))]
    sys.exit(serve(read(), reload_config=read, worker_command=command))
