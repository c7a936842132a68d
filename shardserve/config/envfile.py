"""``env_file``: variables for the application, out of a file in the format of python-dotenv.

Rules of this file: what Uvicorn does with such a file. A variable that is set already stays as it is. Of
our own settings only those that Uvicorn reads from ``os.environ`` itself, after it has loaded the file, can
come from there (``WEB_CONCURRENCY``, ``FORWARDED_ALLOW_IPS``): neither SHARDSERVE_* nor UVICORN_* can.

Each worker applies the file before it imports the application, so a reload finds what is in it by then. The
master reads it, to refuse a file that is not there, and keeps its own environment clean.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from io import StringIO

from ..errors import ConfigError


def read(path: str) -> dict[str, str]:
    """The variables of the file, ``${NAME}`` in them replaced. Raises ValueError with the reason."""
    try:
        from dotenv.main import DotEnv
    except ImportError:
        raise ValueError(
            "an env file needs python-dotenv, which is not installed: pip install python-dotenv"
        ) from None
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 at byte {error.start}") from None
    # override=False: ${NAME} is the variable that is set, if there is one, before the line of the file.
    found = DotEnv(None, stream=StringIO(text), override=False).dict()
    return {name: value for name, value in found.items() if value is not None}


def apply(path: str | None, environ: MutableMapping[str, str]) -> None:
    """Set the variables of the file that are not set yet. Raises ConfigError with the reason."""
    if path is None:
        return
    try:
        variables = read(path)
    except ValueError as error:
        raise ConfigError(f"env_file: {error}") from None
    for name, value in variables.items():
        environ.setdefault(name, value)
