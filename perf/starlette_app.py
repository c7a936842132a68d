"""The Starlette scenario's app: one route.

Rules of this file: apart from apps.py because an interpreter may lack the package; a plain module
attribute, because some servers look the app up with ``vars``.
"""

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route


async def home(request: Request) -> PlainTextResponse:
    return PlainTextResponse("Hello, world!")


app = Starlette(routes=[Route("/", home)])
