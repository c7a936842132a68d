"""What a rolling reload is, and how one begins.

Rules of this file: the configuration is read here, before anything is touched; when that fails there
is no reload. Which worker starts when is the supervisor's.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from ..config.model import Config, adopt
from ..errors import ConfigError

log = logging.getLogger("shardserve.master")

ReloadConfig = Callable[[], Config]


@dataclass(slots=True)
class Reload:
    """A rolling reload on its way. ``slot`` is the one whose new worker is starting."""

    config: Config
    generation: int
    queue: deque[int]
    slot: int | None = None


def begin(
    running: Config, reload_config: ReloadConfig | None, *, generation: int, slots: Iterable[int]
) -> Reload | None:
    """A reload of these slots, or None if the new configuration cannot be had (logged)."""
    config = running
    if reload_config is not None:
        try:
            config, waiting = adopt(running, reload_config())
        except ConfigError as error:
            log.error("not reloading, the old configuration stays: %s", error)
            return None
        except Exception:
            # The server outlives whatever its configuration's reader runs into.
            log.exception("not reloading: reading the configuration failed")
            return None
        if waiting:
            log.warning("changed, but needs a restart: %s", ", ".join(waiting))
    queue = deque(sorted(slots))
    log.info("reloading %d worker%s, one at a time", len(queue), "s" if len(queue) != 1 else "")
    return Reload(config, generation, queue)
