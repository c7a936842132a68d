"""The Django scenario's app: one URL, an async view, no middleware.

Rules of this file: as starlette_app.py's. Without middleware, because a project's list is its own choice and
would only add to the framework's share. Django's handler refuses lifespan, and not every server takes a
refusal for a no: it is answered here, in front of it.
"""

from __future__ import annotations

from typing import Any

import django  # type: ignore[import-untyped, unused-ignore]
from django.conf import settings  # type: ignore[import-untyped, unused-ignore]
from django.core.handlers.asgi import ASGIHandler  # type: ignore[import-untyped, unused-ignore]
from django.http import HttpRequest, HttpResponse  # type: ignore[import-untyped, unused-ignore]
from django.urls import path  # type: ignore[import-untyped, unused-ignore]

from perf.apps import answer_lifespan

settings.configure(
    ALLOWED_HOSTS=["*"],
    DEBUG=False,
    LOGGING_CONFIG=None,
    MIDDLEWARE=[],
    ROOT_URLCONF=__name__,
    SECRET_KEY="perf",
    USE_I18N=False,
)
django.setup(set_prefix=False)


async def home(request: HttpRequest) -> HttpResponse:
    return HttpResponse(b"Hello, world!", content_type="text/plain")


urlpatterns = [path("", home)]
_handler = ASGIHandler()


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        await answer_lifespan(receive, send)
    else:
        await _handler(scope, receive, send)
