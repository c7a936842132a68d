"""From ``module:attribute`` to an app, or to a text that says what to write instead.

Rules of this file: everything that can be wrong with an app string ends as one AppImportError
whose text is complete: it names the string, says whose mistake it is, and shows a traceback only
when the mistake is in the app's own code (and then without our frames). Nothing here runs the
event loop, serves, or decides an exit code; what is not ASGI 3 is adapted by ``interface.py``.

What an app is, is read off its call signature, because that is what the server relies on:

    binds (scope, receive, send)      an ASGI 3 app
    binds () and not the three        a factory
    binds (scope) and not the three   an ASGI 2 "double callable"
    binds (environ, start_response)   a WSGI app, if the arguments are named like these
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import logging
import os
import sys
from enum import Enum, auto
from pathlib import Path
from types import ModuleType
from typing import Any

from ..errors import AppImportError
from ..observe import tracebacks

log = logging.getLogger("shardserve.worker")


class Kind(Enum):
    """What a callable is, by the arguments it takes."""

    ASGI3 = auto()
    ASGI2 = auto()
    WSGI = auto()
    FACTORY = auto()
    UNKNOWN = auto()


def load_app(spec: str, *, app_dir: str, factory: bool, interface: str = "auto") -> Any:
    """The app that ``spec`` names. ``app_dir`` ("": the working directory) goes first on sys.path.

    ``factory``: ``spec`` names a function that makes the app. ``interface``: "auto", or what the app is,
    which is then believed. Raises AppImportError.
    """
    module_name, attributes = _split(spec)
    directory = os.path.abspath(app_dir or os.getcwd())
    if sys.path[:1] != [directory]:
        sys.path.insert(0, directory)
    module = _import_module(spec, module_name, directory)
    found = _attribute(spec, module, attributes)
    if not callable(found):
        raise AppImportError(
            f'"{spec}" is {_a(found)}, which cannot be called; an ASGI app is a callable{_offers(module)}'
        )
    return made(found, spec, factory=factory, interface=interface)


def made(found: Any, spec: str, *, factory: bool, interface: str = "auto") -> Any:
    """The app that ``found`` is, or makes. ``spec`` is what to call it. Raises AppImportError."""
    if not callable(found):
        raise AppImportError(f'"{spec}" is {_a(found)}, which cannot be called; an app is a callable')
    kind = classify(found)
    if factory:
        found = _made_by(spec, found, kind)
        kind = classify(found)
    elif kind is Kind.FACTORY:
        log.warning(
            '"%s" looks like an app factory: it is called to make the app. Say so with --factory.', spec
        )
        found = _made_by(spec, found, kind)
        kind = classify(found)
    if interface == "auto":
        _refuse_what_is_no_app(spec, found, kind, from_factory=factory)
    return found


# The string


def _split(spec: str) -> tuple[str, str]:
    module_name, colon, attributes = spec.partition(":")
    if not colon and module_name.endswith(".py"):
        raise AppImportError(
            f'"{spec}" is a file name; write the module and the app in it: '
            f'"{_as_module(module_name)}:app" (with --app-dir for another folder)'
        )
    if not module_name or not attributes:
        guess = _as_module(module_name) if module_name else "main"
        raise AppImportError(
            f'"{spec}" does not name an app; write "<module>:<attribute>", for example "{guess}:app"'
        )
    if module_name.endswith(".py") or "/" in module_name:
        raise AppImportError(
            f'"{spec}" has a path where a module name belongs; write "{_as_module(module_name)}:{attributes}"'
        )
    return module_name, attributes


def _as_module(path: str) -> str:
    parts = [part for part in path.removesuffix(".py").split("/") if part not in ("", ".", "..")]
    return ".".join(parts) or "main"


# The module


def _import_module(spec: str, name: str, directory: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if not tracebacks.raised_by_app(error) and _is_or_contains(error.name, name):
            raise AppImportError(_module_missing(spec, error, name, directory)) from None
        raise AppImportError(_import_failed(spec, name, error)) from None
    except SystemExit as error:
        raise AppImportError(
            f'module "{name}" of "{spec}" called sys.exit({error.code!r}) while it was imported:\n'
            f"{tracebacks.trimmed(error)}"
        ) from None
    except Exception as error:
        raise AppImportError(_import_failed(spec, name, error)) from None


def _is_or_contains(missing: str | None, name: str) -> bool:
    return missing is not None and (name == missing or name.startswith(missing + "."))


def _module_missing(spec: str, error: ModuleNotFoundError, name: str, directory: str) -> str:
    text = f'module "{error.name}" of "{spec}" was not found in {directory} or on sys.path'
    if "is not a package" in str(error):
        text = f'"{spec}": {error}'
    near = difflib.get_close_matches(name, _modules_in(directory), n=3)
    if near:
        text += "; near it: " + ", ".join(f'"{one}"' for one in near)
    return text + ". Give the folder it is in with --app-dir if it is another one"


def _modules_in(directory: str) -> list[str]:
    try:
        entries = sorted(Path(directory).iterdir())
    except OSError:
        return []
    names = [entry.stem for entry in entries if entry.suffix == ".py"]
    names += [entry.name for entry in entries if (entry / "__init__.py").is_file()]
    return [name for name in names if name.isidentifier()]


def _import_failed(spec: str, name: str, error: BaseException) -> str:
    return f'module "{name}" of "{spec}" failed while it was imported:\n{tracebacks.trimmed(error)}'


# The attribute


def _attribute(spec: str, module: ModuleType, path: str) -> Any:
    found: Any = module
    names = path.split(".")
    for depth, name in enumerate(names):
        try:
            found = getattr(found, name)
        except AttributeError:
            owner = (
                f'"{module.__name__}:{".".join(names[:depth])}"' if depth else f'module "{module.__name__}"'
            )
            near = difflib.get_close_matches(name, [one for one in dir(found) if one[:1] != "_"], n=3)
            hint = "; near it: " + ", ".join(f'"{one}"' for one in near) if near else _offers(module)
            raise AppImportError(f'{owner} has no attribute "{name}" (from "{spec}"){hint}') from None
    return found


def _offers(module: ModuleType) -> str:
    """What the module has that would do: instances and coroutine functions, not every import."""
    apps = [
        name
        for name, value in vars(module).items()
        if name[:1] != "_" and _is_own_app(module, value) and classify(value) is Kind.ASGI3
    ]
    if not apps:
        return ""
    return "; ASGI apps in this module: " + ", ".join(f'"{module.__name__}:{name}"' for name in apps[:3])


def _is_own_app(module: ModuleType, value: Any) -> bool:
    if inspect.isclass(value) or isinstance(value, ModuleType) or not callable(value):
        return False
    if inspect.isroutine(value):
        return getattr(value, "__module__", None) == module.__name__
    return True


# What it is


def classify(app: Any) -> Kind:
    """What ``app`` is, by the arguments it can be called with; or by what asgiref has marked it as."""
    if getattr(app, "_asgi_single_callable", False):
        return Kind.ASGI3
    if getattr(app, "_asgi_double_callable", False):
        return Kind.ASGI2
    try:
        signature = inspect.signature(app)
    except (TypeError, ValueError):
        # A callable without a readable signature (written in C): trust the user.
        return Kind.ASGI3
    if inspect.isclass(app) and not hasattr(app, "__await__"):
        # Calling a class makes an instance; only an awaitable one (Starlette's HTTPEndpoint) can
        # be the app itself. Any other class is a factory, an ASGI 2 app, or a WSGI app.
        return _by_arguments(signature, candidates=(Kind.FACTORY, Kind.ASGI2, Kind.WSGI))
    if _only_optional(signature) and not _is_coroutine_function(app):
        # def create_app(config=None, debug=False, name="x") takes three, and means none.
        return Kind.FACTORY
    return _by_arguments(signature, candidates=(Kind.ASGI3, Kind.FACTORY, Kind.ASGI2, Kind.WSGI))


_ARGUMENTS = {Kind.ASGI3: 3, Kind.FACTORY: 0, Kind.ASGI2: 1, Kind.WSGI: 2}


def _by_arguments(signature: inspect.Signature, *, candidates: tuple[Kind, ...]) -> Kind:
    for kind in candidates:
        if _binds(signature, _ARGUMENTS[kind]):
            return kind if kind is not Kind.WSGI or _names_wsgi(signature) else Kind.UNKNOWN
    return Kind.UNKNOWN


def _binds(signature: inspect.Signature, count: int) -> bool:
    try:
        signature.bind(*(None,) * count)
    except TypeError:
        return False
    return True


def _names_wsgi(signature: inspect.Signature) -> bool:
    """Two arguments may be anything; these are called ``env`` or ``start_resp`` at the shortest."""
    first, second, *_ = signature.parameters
    return "env" in first.lower() or "start" in second.lower()


def _only_optional(signature: inspect.Signature) -> bool:
    """No argument is needed and none is collected: ``*args`` may well be the three of ASGI."""
    parameters = signature.parameters.values()
    collects = any(one.kind is inspect.Parameter.VAR_POSITIONAL for one in parameters)
    optional = all(
        one.default is not inspect.Parameter.empty for one in parameters if one.kind != one.VAR_KEYWORD
    )
    return optional and not collects


def _is_coroutine_function(app: Any) -> bool:
    call = getattr(app, "__call__", None)  # noqa: B004 (the method itself is asked, not whether)
    return inspect.iscoroutinefunction(app) or inspect.iscoroutinefunction(call)


# The factory


def _made_by(spec: str, factory: Any, kind: Kind) -> Any:
    if kind is Kind.ASGI3 and not _takes_nothing(factory):
        raise AppImportError(f'"{spec}" is an ASGI app already, not a factory of one; leave --factory out')
    if not _takes_nothing(factory):
        raise AppImportError(f'the factory "{spec}" needs arguments; a factory is called without any')
    try:
        made = factory()
    except SystemExit as error:
        raise AppImportError(
            f'the factory "{spec}" called sys.exit({error.code!r}):\n{tracebacks.trimmed(error)}'
        ) from None
    except Exception as error:
        raise AppImportError(f'the factory "{spec}" failed:\n{tracebacks.trimmed(error)}') from None
    if inspect.iscoroutine(made):
        made.close()
        raise AppImportError(
            f'the factory "{spec}" is a coroutine function; write it with def, not async def'
        )
    if not callable(made):
        raise AppImportError(f'the factory "{spec}" returned {_a(made)}, not an ASGI app')
    return made


def _takes_nothing(factory: Any) -> bool:
    return _takes(factory, 0)


def _takes(app: Any, count: int) -> bool:
    """Whether it can be called with so many arguments; yes, if nobody can tell."""
    try:
        return _binds(inspect.signature(app), count)
    except TypeError:
        return False
    except ValueError:
        return True


def _refuse_what_is_no_app(spec: str, app: Any, kind: Kind, *, from_factory: bool) -> None:
    if kind in (Kind.ASGI3, Kind.ASGI2, Kind.WSGI):
        return
    what = f'what the factory "{spec}" returned' if from_factory else f'"{spec}"'
    if _takes(app, _ARGUMENTS[Kind.WSGI]):
        raise AppImportError(
            f"{what} takes two arguments, like a WSGI app, but they are not called environ and "
            "start_response; if it is one, say so: --interface wsgi"
        )
    if kind is Kind.FACTORY:
        raise AppImportError(
            f"{what} is {_a(app)} that takes no arguments, not an ASGI app (scope, receive, send)"
        )
    raise AppImportError(
        f"{what} is {_a(app)} that cannot be called with the three arguments of ASGI (scope, receive, send)"
    )


def _a(thing: Any) -> str:
    """``a list``, ``an int``: for error texts."""
    name = type(thing).__name__
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"
