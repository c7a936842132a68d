"""Real proxies in front of a server: nginx and HAProxy, each on a loopback port of its own.

The port is the kernel's: we bind it, and the proxy inherits the socket.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.helpers.master_process import PATIENCE_S

NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
HAPROXY = shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin")
needs_nginx = pytest.mark.skipif(NGINX is None, reason="nginx is not installed")
needs_haproxy = pytest.mark.skipif(HAPROXY is None, reason="HAProxy is not installed")

_NGINX_CONF = """
daemon off; worker_processes 1; {user}
pid {folder}/nginx.pid; error_log {folder}/error.log info;
events {{ worker_connections 256; }}
http {{
  access_log off; {temporary}
  {http}
  server {{ listen {address}; server_name shop.example; {server} }}
}}
"""
_HAPROXY_CONF = """
global
  log stderr format raw local0
defaults
  mode {mode}
  timeout connect 5s
  timeout client 30s
  timeout server 30s
  {defaults}
frontend front
  bind fd@{fd} {bind}
  default_backend back
backend back
  {backend}
"""


@contextmanager
def nginx(folder: Path, server: str, *, http: str = "") -> Iterator[int]:
    """nginx with these directives in ``server`` and ``http``; the port it listens on."""
    folder.mkdir()
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        config = folder / "nginx.conf"
        config.write_text(
            _NGINX_CONF.format(
                user="user root;" if os.geteuid() == 0 else "",
                temporary=" ".join(f"{kind}_temp_path {folder}/{kind};" for kind in kinds),
                folder=folder,
                address=f"127.0.0.1:{port}",
                http=http,
                server=server,
            )
        )
        assert NGINX is not None
        # How nginx hands its sockets to a new version of itself, which they do not block.
        listener.setblocking(False)
        env = {**os.environ, "NGINX": f"{listener.fileno()};"}
        command = [NGINX, "-p", str(folder), "-e", str(folder / "error.log"), "-c", str(config)]
        with _running(command, folder, env, listener):
            yield port


@contextmanager
def haproxy(
    folder: Path, backend: str, *, bind: str = "", mode: str = "tcp", defaults: str = ""
) -> Iterator[int]:
    """HAProxy with this ``backend``; the port it listens on."""
    folder.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        config = folder / "haproxy.cfg"
        text = _HAPROXY_CONF.format(
            fd=listener.fileno(), bind=bind, mode=mode, backend=backend, defaults=defaults
        )
        config.write_text(text)
        assert HAPROXY is not None
        with _running([HAPROXY, "-db", "-f", str(config)], folder, dict(os.environ), listener):
            yield port


@contextmanager
def _running(
    command: list[str], folder: Path, env: dict[str, str], listener: socket.socket
) -> Iterator[None]:
    with (folder / "output.log").open("wb") as log:
        process = subprocess.Popen(
            command, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=[listener.fileno()]
        )
    try:
        assert process.poll() is None
        yield
        assert process.poll() is None, "it ended by itself"
    except BaseException as error:
        error.add_note((folder / "output.log").read_text(errors="replace")[-3000:])
        if (folder / "error.log").exists():
            error.add_note((folder / "error.log").read_text(errors="replace")[-3000:])
        raise
    finally:
        process.terminate()
        try:
            process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
