"""A Django project in one module: settings, views, URLs and the ASGI app."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Iterator

import django
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.http import HttpRequest, HttpResponse, JsonResponse, StreamingHttpResponse
from django.urls import path
from django.views.decorators.csrf import csrf_exempt

settings.configure(
    ALLOWED_HOSTS=["*"],
    DEBUG=False,
    MIDDLEWARE=[
        "django.middleware.security.SecurityMiddleware",
        "django.middleware.common.CommonMiddleware",
        "django.middleware.csrf.CsrfViewMiddleware",
    ],
    ROOT_URLCONF=__name__,
    SECRET_KEY="not a secret",
    USE_TZ=True,
)
django.setup()


def hello(request: HttpRequest, name: str = "world") -> HttpResponse:
    return HttpResponse(f"hello {name}", content_type="text/plain")


async def slow(request: HttpRequest) -> HttpResponse:
    await asyncio.sleep(0.01)
    return JsonResponse({"async": True, "query": request.GET.dict()})


@csrf_exempt
def upload(request: HttpRequest) -> HttpResponse:
    """A form with a file: Django has its own multipart parser."""
    sent = request.FILES["file"]
    digest = hashlib.sha256(sent.read()).hexdigest()
    return JsonResponse({"fields": request.POST.dict(), "name": sent.name, "sha256": digest})


def protected(request: HttpRequest) -> HttpResponse:
    return HttpResponse("only with a token")


async def stream_async(request: HttpRequest) -> StreamingHttpResponse:
    async def parts() -> AsyncIterator[str]:
        for number in range(20):
            yield f"{number}\n"
            await asyncio.sleep(0)

    return StreamingHttpResponse(parts(), content_type="text/plain")


def stream_sync(request: HttpRequest) -> StreamingHttpResponse:
    def parts() -> Iterator[str]:
        for number in range(20):
            yield f"{number}\n"

    return StreamingHttpResponse(parts(), content_type="text/plain")


def meta(request: HttpRequest) -> HttpResponse:
    names = (
        "REMOTE_ADDR", "REMOTE_HOST", "REMOTE_PORT", "SERVER_NAME", "SERVER_PORT", "SCRIPT_NAME", "PATH_INFO",
        "QUERY_STRING", "REQUEST_METHOD", "CONTENT_TYPE", "HTTP_HOST", "HTTP_X_TWICE",
    )  # fmt: skip
    found = {name: str(request.META.get(name)) for name in names}
    return JsonResponse(found | {"absolute": request.build_absolute_uri()})


def fail(request: HttpRequest) -> HttpResponse:
    raise LookupError("the failure of the app")


urlpatterns = [
    path("", hello),
    path("hello/<str:name>/", hello),
    path("slow", slow),
    path("upload", upload),
    path("protected", protected),
    path("stream/async", stream_async),
    path("stream/sync", stream_sync),
    path("meta", meta),
    path("fail", fail),
]

app = get_asgi_application()
