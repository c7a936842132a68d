"""The Django project of ``django_app.py``, as the WSGI app that most of them are."""

from __future__ import annotations

import os
from pathlib import Path

import django_app  # type: ignore[import-not-found]  # beside this one, under --app-dir; it configures Django
from django.core.wsgi import get_wsgi_application
from django.http import FileResponse, HttpRequest
from django.urls import path

NOTES = Path(os.environ.get("NOTES", "."))


def file(request: HttpRequest, name: str) -> FileResponse:
    return FileResponse((NOTES / name).open("rb"))


django_app.urlpatterns.append(path("file/<str:name>", file))

app = get_wsgi_application()
