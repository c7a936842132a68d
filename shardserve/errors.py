"""Every exception shardserve raises, as one tree.

Rules of this file: an exception says whose fault it is by its branch, and it carries the answer it
leads to (an exit code, an HTTP status). Nothing here formats logs, and nothing here imports the
rest of the package.

    ShardserveError
    ├── StartupError              the server cannot start; ``exit_code`` is the master's
    │   ├── ConfigError           a setting, the config file or a flag (2)
    │   ├── ListenError           an address cannot be bound (1)
    │   ├── AppImportError        the app cannot be imported (3)
    │   └── LifespanError         the app's lifespan startup failed (3)
    ├── ControlError              a control message that does not parse
    ├── ProxyProtocolError        no PROXY header where there must be one, or a malformed one; a ValueError
    └── ApplicationError          the ASGI app broke the contract; also a RuntimeError
        ├── MessageError          a message of the wrong type, shape or order
        ├── HeaderError           a status or header that cannot go on the wire
        └── BodyLengthError       more or fewer body bytes than its Content-Length
    ClientDisconnected            send() after the client went; an OSError (ASGI HTTP spec 2.4)
"""

from __future__ import annotations


class ShardserveError(Exception):
    """Base of the errors shardserve itself raises."""


class StartupError(ShardserveError):
    """The server cannot start. ``exit_code`` is what the process ends with."""

    exit_code = 1


class ConfigError(StartupError):
    """A setting is wrong. The text names the setting, where it was set and what to write instead."""

    exit_code = 2


class ListenError(StartupError):
    """A listening socket cannot be had. The text names the address and, where known, its owner."""

    exit_code = 1


class AppImportError(StartupError):
    """The app string does not lead to an app. The text names the module and the attribute."""

    exit_code = 3


class LifespanError(StartupError):
    """The app's lifespan startup failed or was refused by the app."""

    exit_code = 3


class ControlError(ShardserveError):
    """A datagram on the control pipe is not a message of control.py."""


class ProxyProtocolError(ShardserveError, ValueError):
    """A connection that must begin with a PROXY header does not. Nothing of it can be believed."""


class ApplicationError(ShardserveError, RuntimeError):
    """The ASGI application broke the contract. Raised into the application, then logged."""


class MessageError(ApplicationError):
    """A message of the wrong type, with a missing or mistyped key, or out of order."""


class HeaderError(ApplicationError):
    """A status, header name or header value that must not go on the wire (RFC 9110 §5)."""


class BodyLengthError(ApplicationError):
    """The body has more or fewer bytes than the Content-Length the app promised."""


class ClientDisconnected(OSError):
    """``send()`` was called after the client went away (ASGI HTTP spec 2.4, "Disconnect")."""
