"""The static scenarios' app: Starlette's StaticFiles, for servers that serve no files themselves.

Rules of this file: as starlette_app.py's. Starlette's own defaults: an ETag, a Last-Modified, and
http.response.pathsend where the server offers it.
"""

from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles

from perf.static_file import make

app = Starlette(routes=[Mount("/static", app=StaticFiles(directory=make()))])
