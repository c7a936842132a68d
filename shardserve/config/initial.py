"""The text of a first shardserve.toml: what ``shardserve config init`` writes for a host.

Rules of this file: facts in, text out; nothing is asked and no file is read here (``cli/init.py`` does
both). Each setting has one comment above it that says what it does, or why it has this value here. A
setting whose default is as good stands there commented out, so that it is found. What most people change
comes first.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from .model import BY_ATTRIBUTE

COLUMNS = 100
# Descriptors of a worker that are no connections: listeners, pipes, logs, the application's own database.
KEPT_DESCRIPTORS = 256


@dataclass(frozen=True, slots=True)
class Host:
    """What is known of the machine. None is what could not be found out."""

    cores: int  # that this process may use
    cores_present: int
    quota: float | None  # of a cgroup, in cores
    workers: int
    somaxconn: int | None
    descriptors: int | None  # the most that a process may have; None is no limit
    container: bool


@dataclass(frozen=True, slots=True)
class Wishes:
    """What whoever runs the command said. None is no answer."""

    version: str
    app: str | None = None
    behind_proxy: bool | None = None
    certfile: str | None = None
    keyfile: str | None = None


@dataclass(frozen=True, slots=True)
class Line:
    """One setting. ``why`` is its comment; empty is what the setting says of itself."""

    attribute: str
    value: Any
    why: str = ""
    active: bool = True

    def __str__(self) -> str:
        one = BY_ATTRIBUTE[self.attribute]
        comment = textwrap.wrap(self.why or one.help, COLUMNS - 2, break_on_hyphens=False)
        # JSON's texts, numbers, lists and booleans are TOML's.
        setting = f"{one.key} = {json.dumps(self.value, ensure_ascii=False)}"
        return "\n".join([*(f"# {line}" for line in comment), setting if self.active else f"# {setting}"])


def text(host: Host, wishes: Wishes) -> str:
    """The whole file. It has no mistakes, whatever the facts are."""
    head = (
        f"# Written by shardserve {wishes.version} for this host: {describe_cores(host)}.\n"
        "# A line that begins with # is not in force. `shardserve config check` finds mistakes in here,\n"
        "# `shardserve config show` says what is in force and why, `shardserve --help` names every setting.\n"
        "# A flag and an environment variable (SHARDSERVE_PORT) win over this file. HUP reads it again."
    )
    sections = {
        "What most people change": _first(host, wishes),
        "Proxies in front": _proxies(wishes),
        "HTTPS": _tls(wishes),
        "This host": _host(host),
        "Requests": _requests(),
        "Workers": _workers(),
    }
    parts = [head]
    for title, lines in sections.items():
        parts += [f"# --- {title} ---", *map(str, lines)]
    return "\n\n".join(parts) + "\n"


def describe_cores(host: Host) -> str:
    """``2 usable cores of 8, a CPU quota of 1.5``."""
    usable = f"{host.cores} usable core{'' if host.cores == 1 else 's'}"
    of_all = f" of {host.cores_present}" if host.cores_present > host.cores else ""
    quota = "" if host.quota is None else f", a CPU quota of {host.quota:g}"
    return usable + of_all + quota


def backlog_of(host: Host) -> int:
    """The default, or what the kernel would cut it to."""
    default: int = BY_ATTRIBUTE["backlog"].default
    return default if host.somaxconn is None else max(1, min(default, host.somaxconn))


def _first(host: Host, wishes: Wishes) -> Iterator[Line]:
    yield Line("app", wishes.app or "main:app", active=wishes.app is not None)
    if host.container:
        why = 'Every IPv4 interface: a container is reached by its own address. "::" is IPv6 too.'
        yield Line("host", "0.0.0.0", why)
    elif wishes.behind_proxy is False:
        yield Line("host", "0.0.0.0", 'Every IPv4 interface: clients come here themselves. "::" is IPv6 too.')
    else:
        why = 'Only this machine, where the proxy is. "0.0.0.0" is every IPv4 interface, "::" IPv6 too.'
        yield Line("host", "127.0.0.1", why)
    yield Line("port", 8000)
    yield Line("workers", host.workers, f"One for each core that can be used: {_why_workers(host)}.")
    yield Line("log_level", "info", "critical, error, warning, info, debug or trace: this one and above.")
    yield Line("access_log", True)


def _why_workers(host: Host) -> str:
    if host.quota is not None and host.workers < host.cores:
        return f"the CPU quota is {host.quota:g}, and more workers than {host.workers} would only take turns"
    return f"{describe_cores(host)}. Without this line they are counted at each start"


def _proxies(wishes: Wishes) -> Iterator[Line]:
    known = wishes.behind_proxy is not None
    if wishes.behind_proxy is False:
        yield Line(
            "proxy_headers", False,
            "No proxy is in front: nobody is believed who says that a request came from somebody else.",
        )  # fmt: skip
    else:
        yield Line("proxy_headers", True, active=known)
    yield Line(
        "forwarded_allow_ips", "127.0.0.1,::1",
        "The proxies that are believed. For one on another machine add its address or network; a client "
        "that can send from there can pass for anybody.",
        active=bool(wishes.behind_proxy),
    )  # fmt: skip
    yield Line("proxy_protocol", "auto", active=False)
    yield Line(
        "uds", "/run/shardserve/app.sock",
        "A Unix socket instead of host and port, for a proxy on this machine; then forwarded-allow-ips "
        "needs unix.",
        active=False,
    )  # fmt: skip


def _tls(wishes: Wishes) -> Iterator[Line]:
    active = wishes.certfile is not None
    yield Line("ssl_certfile", wishes.certfile or "/etc/ssl/app/fullchain.pem", active=active)
    keyfile = wishes.keyfile or "/etc/ssl/app/privkey.pem"
    yield Line("ssl_keyfile", keyfile, active=wishes.keyfile is not None)
    yield Line("ssl_minimum_version", "TLSv1.2", active=active)


def _host(host: Host) -> Iterator[Line]:
    backlog = backlog_of(host)
    capped = host.somaxconn is not None and host.somaxconn < BY_ATTRIBUTE["backlog"].default
    why = "How many connections may wait to be accepted, for each worker"
    limit = "" if host.somaxconn is None else f"; the kernel allows {host.somaxconn} (net.core.somaxconn)"
    more = ", and sysctl net.core.somaxconn=2048 would let it be more" if capped else ""
    yield Line("backlog", backlog, f"{why}{limit}{more}.")
    if host.descriptors is None:
        yield Line("limit_connections", 10_000, active=False)
    else:
        yield Line(
            "limit_connections", max(1, host.descriptors - KEPT_DESCRIPTORS),
            f"Answer 503 to connections beyond this many, for each worker. A process here may have "
            f"{host.descriptors} open files; a worker that runs out of them accepts none until some close.",
            active=False,
        )  # fmt: skip
    yield Line("affinity", True)


def _requests() -> Iterator[Line]:
    yield Line("limit_request_body_bytes", "1GiB")
    yield Line("limit_concurrency", 100, active=False)
    yield Line(
        "timeout_keep_alive_s", 75,
        "Close a connection that has been idle this long (seconds): longer than the idle timeout of what is "
        "in front, so that it is never our side that closes first.",
    )  # fmt: skip
    yield Line(
        "timeout_graceful_shutdown_s", 30,
        "At shutdown and reload: how long requests in flight may take (seconds) before they are cut. In "
        "Kubernetes, less than terminationGracePeriodSeconds.",
    )  # fmt: skip


def _workers() -> Iterator[Line]:
    yield Line("limit_max_requests", 100_000, active=False)
    yield Line("worker_max_rss_mib", 1024, active=False)
    yield Line("preload", True, active=False)
    yield Line("log_format", "json", active=False)
