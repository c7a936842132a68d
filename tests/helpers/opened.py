"""The native request path behind an ``Opening``, in this process: TLS and PROXY headers."""

from __future__ import annotations

import socket
import ssl
from types import SimpleNamespace
from typing import Any

from shardserve._native import ProtocolFactory
from shardserve.config.model import Config
from shardserve.net import tls
from shardserve.worker.limits import request_limits
from shardserve.worker.listening import Listening
from shardserve.worker.opening import MAX_OPENING, Opening
from tests.helpers.certificates import Files
from tests.helpers.http1 import Access, App, AppError, Client, Reject, Server


def tls_settings(files: Files | None = None, **given: Any) -> Any:
    """What ``net/tls.py`` reads of a Config."""
    defaults = {
        "ssl_certfile": str(files.cert) if files else None,
        "ssl_keyfile": str(files.key) if files else None,
        "ssl_keyfile_password": None,
        "ssl_minimum_version": "TLSv1.2",
        "ssl_cert_reqs": 0,
        "ssl_ca_certs": None,
        "ssl_ciphers": None,
        "ssl_sni": (),
        "http2": False,
    }
    return SimpleNamespace(**{**defaults, **given})


class OpenedServer(Server):
    """A Server whose connections are opened first. ``settings``: the factory's."""

    def __init__(
        self,
        app: App,
        *,
        certificates: tls.Certificates | None = None,
        proxied_by: str = "off",
        timeout_s: float = 10.0,
        most: int = MAX_OPENING,
        **settings: Any,
    ) -> None:
        self._how: dict[str, Any] = {"proxied_by": proxied_by, "timeout_s": timeout_s, "most": most}
        self._certificates = certificates
        self.opening: Opening
        self.listening: Listening
        super().__init__(app, **settings)

    async def _start(self, app: App) -> Any:
        def on_reject(*args: Any) -> None:
            self.rejects.append(Reject(*args))

        self.factory = ProtocolFactory(
            app,
            loop=self.loop,
            context=self._context,
            on_app_error=lambda *args: self.errors.append(AppError(*args)),
            on_reject=on_reject,
            access=lambda *args: self.accesses.append(Access(*args)),
            tls_info=tls.info,
            **{"state": None, **request_limits(Config("none:none")), **self._settings},
        )
        self.opening = Opening(
            self.factory, certificates=self._certificates, on_reject=on_reject, **self._how
        )
        self._sock.listen(128)
        self.listening = Listening(self.factory, backlog=128, opening=self.opening)
        await self.listening.accept_on(self._sock, slot=0)
        self._tick()
        return SimpleNamespace(close=self._close)

    def _tick(self) -> None:
        """As a worker does, but more often."""
        if not self.loop.is_closed():
            self.factory.tick()
            self.loop.call_later(0.1, self._tick)

    def _close(self) -> None:
        self.listening.close_all()
        self.opening.abort()

    def connect_tls(
        self, context: ssl.SSLContext, name: str | None = "localhost", *, before: bytes = b"", **how: Any
    ) -> Client:
        """A client that has shaken hands; ``before`` is sent first, plain."""
        client = self.connect(**how)
        if before:
            client.sock.sendall(before)
        client.sock = context.wrap_socket(client.sock, server_hostname=name, suppress_ragged_eofs=False)
        return client


class Handshake:
    """A client's side of a handshake, byte by byte."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, name: str = "localhost") -> None:
        self._sock = sock
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=name)
        self._step()

    def _step(self) -> bool:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        return True

    @property
    def owed(self) -> bytes:
        """What is to be sent now. It is taken."""
        return self._outgoing.read()

    def finish(self) -> None:
        """To the end of the handshake, once ``owed`` has been sent."""
        while not self._step():
            self._receive()
        self._sock.sendall(self.owed)

    def ask(self, request: bytes) -> bytes:
        """A request, and everything up to the end of the connection."""
        self._tls.write(request)
        self._sock.sendall(self.owed)
        said = b""
        while True:
            try:
                data = self._tls.read(65536)
            except ssl.SSLWantReadError:
                self._receive()
                continue
            except ssl.SSLZeroReturnError:
                return said
            if not data:
                return said
            said += data

    def _receive(self) -> None:
        data = self._sock.recv(65536)
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()
