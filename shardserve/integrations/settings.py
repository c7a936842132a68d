"""``shardserve.Config(app, **keywords)``: the settings of one embedded server, as a program holds them.

Rules of this file: every setting is an attribute by Uvicorn's name (``config.timeout_keep_alive``), with our
default, and may be changed until the server starts; ``settings()`` is where they are judged, and what a
worker gets of them. Where Uvicorn logs and exits (an app that cannot be loaded, an address in use), so does
this; a keyword or value that is wrong is a ConfigError.
"""

from __future__ import annotations

import asyncio
import dataclasses
import importlib
import logging
import os
import socket
import ssl
import sys
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

from ..asgi import interface
from ..asgi.importer import load_app, made
from ..asgi.lifespan import Lifespan
from ..config import envfile, http2
from ..config.addresses import FdBind, TcpBind, UnixBind
from ..config.load import from_keywords
from ..config.model import SETTINGS
from ..config.model import Config as Settings
from ..config.uvicorn import compatibility_warnings
from ..errors import AppImportError, ConfigError, StartupError
from ..master import banner
from ..net import tls
from ..net.listeners import Listeners
from ..observe import log_config, logs
from .keywords import API_ONLY, name_of, settings_among, signature, warn_once

log = logging.getLogger("shardserve.worker")

_DEFAULTS: Mapping[str, Any] = {one.name: one.default for one in SETTINGS if not one.argument}


class Config:
    """Uvicorn's Config: what is served, where and how. Raises ConfigError, naming every wrong keyword.

    ``app``: an ASGI or WSGI application, or its import string. Keywords are the settings of
    docs/reference/settings.md with underscores, and ``ssl_context_factory(config, default)``,
    ``callback_notify`` and ``timeout_notify``. ``log_config=None`` leaves logging as it is.
    """

    __signature__ = signature("host", "port", "uds", "fd")

    app: Any
    host: str
    port: int
    uds: str | None
    fd: int | None
    workers: int
    reload: bool
    lifespan: str
    limit_max_requests: int | None
    limit_max_requests_jitter: int
    ssl_context_factory: Callable[[Config, Callable[[], ssl.SSLContext]], ssl.SSLContext] | None
    callback_notify: Callable[[], Awaitable[None]] | None
    timeout_notify: float

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """Every other setting."""

    def __init__(
        self,
        app: Any,
        host: str = "127.0.0.1",
        port: int = 8000,
        uds: str | None = None,
        fd: int | None = None,
        **keywords: Any,
    ) -> None:
        given: dict[str, Any] = {"host": host, "port": port, "uds": uds, "fd": fd}
        given |= {name_of(word): value for word, value in keywords.items()}
        self._words = tuple(given)  # the unknown ones too, which settings() complains of
        self._leaves_logging = "log_config" in given and given["log_config"] is None
        vars(self).update({**_DEFAULTS, **API_ONLY, **given})
        self.app = app
        self.workers = given.get("workers") or int(os.environ.get("WEB_CONCURRENCY") or 1)
        if given.get("forwarded_allow_ips") is None:
            self.forwarded_allow_ips = os.environ.get("FORWARDED_ALLOW_IPS") or "127.0.0.1,::1"
        self.loaded = False
        self.loaded_app: Any = None
        self.ssl: ssl.SSLContext | None = None
        settings = self.settings()
        self.log_config = settings.log_config  # an open file can be read only once
        self.configure_logging()
        # The loop is not among them: here it is what Uvicorn's is.
        for text in compatibility_warnings(dataclasses.replace(settings, loop="auto")):
            warn_once(text)
        if (unused := http2.warning(settings, tls=self.is_ssl)) is not None:
            warn_once(unused)
        envfile.apply(settings.env_file, os.environ)

    # What is asked of it

    @property
    def is_ssl(self) -> bool:
        """Whether it serves HTTPS."""
        return bool(self.ssl_keyfile or self.ssl_certfile or self.ssl_context_factory)

    @property
    def should_reload(self) -> bool:
        return isinstance(self.app, str) and bool(self.reload)

    @property
    def use_subprocess(self) -> bool:
        return bool(self.reload) or self.workers > 1

    @property
    def asgi_version(self) -> str:
        return "2.0" if self.interface == "asgi2" else "3.0"

    def settings(self, *, ssl_too: bool = False) -> Settings:
        """The settings as they are now. Raises ConfigError for those that are wrong. ``ssl_too``: those of
        TLS, even if there is an ``ssl_context_factory``, whose business they are.
        """
        now = {word: vars(self)[word] for word in dict.fromkeys((*_DEFAULTS, *self._words))}
        changed = {
            word: value for word, value in now.items() if word not in _DEFAULTS or _changed(word, value)
        }
        if self.ssl_context_factory is not None and not ssl_too:
            changed = {word: value for word, value in changed.items() if not word.startswith("ssl_")}
        changed["workers"] = 1
        return from_keywords("", settings_among(changed), {})

    # What is done with it

    def load(self) -> None:
        """Import the app and adapt it to ASGI 3. Exits with 3, and the reason logged, if that fails."""
        settings = self.settings()
        self.ssl = self._ssl_context(settings)
        self.loaded_app = interface.adapt(
            self.load_app(),
            settings.interface,
            threads=settings.wsgi_threads,
            underscores=settings.underscore_headers == "allow",
        )
        self.loaded = True

    def _ssl_context(self, settings: Settings) -> ssl.SSLContext | None:
        """What ``ssl_context_factory`` makes; else the context of the certificate that the settings name."""

        def default() -> ssl.SSLContext:
            named = self.settings(ssl_too=True)
            if named.ssl_certfile is None:
                raise ConfigError("the default of ssl_context_factory needs ssl_certfile")
            return tls.Certificates(named).context_for(None)

        if self.ssl_context_factory is None:
            return default() if tls.is_on(settings) else None
        context = self.ssl_context_factory(self, default)
        if not isinstance(context, ssl.SSLContext):
            raise TypeError(
                f"ssl_context_factory returned {type(context).__name__} object, not an SSLContext"
            )
        return context

    @property
    def certificates(self) -> tls.Certificates | None:
        """What ``ssl_context_factory`` has made; None: as the settings say."""
        if self.ssl_context_factory is None or self.ssl is None:
            return None
        return tls.Given(self.ssl, http2=bool(self.http2))

    def load_app(self) -> Any:
        """The app, imported or called into being if need be."""
        try:
            how = {"factory": bool(self.factory), "interface": self.interface}
            if isinstance(self.app, str):
                return load_app(self.app, app_dir=self.app_dir or "", **how)
            return made(self.app, f"app, {type(self.app).__name__} object", **how)
        except AppImportError as error:
            log.critical("%s", error)
            sys.exit(error.exit_code)

    @property
    def lifespan_class(self) -> Callable[[Config], Lifespan]:
        """What makes the lifespan of a loaded config. A Server makes its own at ``startup()``."""
        return lambda config: Lifespan(config.loaded_app, config.lifespan)

    def configure_logging(self) -> None:
        """Set up our loggers as ``log_config`` and ``log_level`` have it. None leaves logging to the program:
        records go to its root logger, under Uvicorn's names.
        """
        settings = self.settings()
        if self._leaves_logging:
            settings = dataclasses.replace(settings, log_config=log_config.NONE)
        logs.configure(settings)

    def get_loop_factory(self) -> Callable[[], asyncio.AbstractEventLoop] | None:
        """What makes the loop of ``Server.run()``: uvloop's, asyncio's, or the one whose import string
        ``loop`` is. None is asyncio's choice.
        """
        if self.loop == "none":
            return None
        if self.loop == "asyncio":
            return asyncio.new_event_loop
        if ":" not in str(self.loop):
            import uvloop

            return uvloop.new_event_loop
        module, _, name = str(self.loop).partition(":")
        try:
            factory: Callable[[], asyncio.AbstractEventLoop] = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError) as error:
            log.critical("The event loop %s cannot be imported: %s", self.loop, error)
            sys.exit(AppImportError.exit_code)
        return factory

    def setup_event_loop(self) -> None:
        """Nothing: ``Server.run()`` asks ``get_loop_factory()``, and ``serve()`` uses the caller's loop."""

    def bind_socket(self) -> socket.socket:
        """A socket that listens on the address, for ``Server.serve(sockets=[...])``. Exits with 1, and the
        reason logged, if the address cannot be had.
        """
        settings = self.settings()
        bind = (
            UnixBind(settings.uds, settings.uds_permissions) if settings.uds is not None
            else FdBind(settings.fd) if settings.fd is not None
            else TcpBind(settings.host, settings.port)
        )  # fmt: skip
        try:
            listeners = Listeners([bind], slots=1, backlog=settings.backlog)
        except StartupError as error:
            log.critical("%s", error)
            sys.exit(error.exit_code)
        sock = next(one.sock for one in (*listeners.of_slot(0), *listeners.shared)).dup()
        log.info("%s", banner.lines(banner.spoken(listeners.urls, tls=self.is_ssl), 1, None)[0])
        listeners.close(unlink=False)
        sock.set_inheritable(True)
        return sock


def _changed(word: str, value: object) -> bool:
    """Whether a setting differs from its default. A list is equal to the tuple that we have."""
    return bool((tuple(value) if isinstance(value, list) else value) != _DEFAULTS[word])
