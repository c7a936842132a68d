"""Names for the shapes ASGI passes around, for type checkers only.

Shapes are the ASGI specification's (https://asgi.readthedocs.io/en/latest/specs/www.html); nothing
here has behaviour, and nothing here may import the rest of the package.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]
