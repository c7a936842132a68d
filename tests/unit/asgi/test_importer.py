"""App strings: what is loaded, and the text for everything that can be wrong with one."""

from __future__ import annotations

import functools
import logging
import sys
from pathlib import Path

import pytest

from shardserve.asgi import importer
from shardserve.asgi.importer import Kind, classify, load_app
from shardserve.errors import AppImportError

APP = "async def app(scope, receive, send): pass\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch):
    """A folder for modules, forgotten afterwards: sys.path and sys.modules are global."""
    monkeypatch.setattr(sys, "path", sys.path[:])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def load(folder: Path, spec: str, *, factory: bool = False):
    return load_app(spec, app_dir=str(folder), factory=factory)


def refusal(folder: Path, spec: str, *, factory: bool = False) -> str:
    with pytest.raises(AppImportError) as caught:
        load(folder, spec, factory=factory)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    return str(caught.value)


# What is loaded


def test_module_and_attribute(folder):
    (folder / "site1.py").write_text(APP)
    assert load(folder, "site1:app").__name__ == "app"
    assert sys.path[0] == str(folder)


def test_nested_module_and_attribute(folder):
    (folder / "pkg2").mkdir()
    (folder / "pkg2" / "__init__.py").write_text("")
    (folder / "pkg2" / "main.py").write_text("class holder:\n    @staticmethod\n    " + APP)
    assert load(folder, "pkg2.main:holder.app").__name__ == "app"


def test_an_empty_app_dir_is_the_working_directory(folder, monkeypatch):
    (folder / "site3.py").write_text(APP)
    monkeypatch.chdir(folder)
    assert load_app("site3:app", app_dir="", factory=False).__name__ == "app"


def test_the_app_dir_wins_over_what_is_installed(folder):
    (folder / "colorsys.py").write_text(APP)
    sys.modules.pop("colorsys", None)
    assert load(folder, "colorsys:app").__module__ == "colorsys"


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("from starlette.applications import Starlette\napp = Starlette()", "starlette4"),
        ("from fastapi import FastAPI\napp = FastAPI()", "fastapi4"),
        (
            "from django.conf import settings\nsettings.configured or settings.configure(ROOT_URLCONF='x')\n"
            "from django.core.asgi import get_asgi_application\napp = get_asgi_application()",
            "django4",
        ),
    ],
)
def test_frameworks(folder, text, spec):
    (folder / f"{spec}.py").write_text(text)
    app = load(folder, f"{spec}:app")
    assert classify(app) is Kind.ASGI3


# The string


@pytest.mark.parametrize("spec", ["main", "main:", ":app", ""])
def test_a_string_without_both_halves_says_what_to_write(folder, spec):
    text = refusal(folder, spec)
    assert '"<module>:<attribute>"' in text
    assert '"main:app"' in text


@pytest.mark.parametrize(
    ("spec", "better"),
    [
        ("main.py", '"main:app"'),
        ("src/main.py", '"src.main:app"'),
        ("./src/main.py:api", '"src.main:api"'),
        ("src/main:api", '"src.main:api"'),
        ("main.py:api", '"main:api"'),
    ],
)
def test_a_path_is_translated(folder, spec, better):
    assert better in refusal(folder, spec)


# The module


def test_a_missing_module_names_the_folder_and_what_is_near(folder):
    (folder / "website.py").write_text(APP)
    text = refusal(folder, "websit:app")
    assert text.startswith(f'module "websit" of "websit:app" was not found in {folder}')
    assert 'near it: "website"' in text
    assert "Traceback" not in text


def test_a_missing_submodule_is_the_apps_own(folder):
    (folder / "pkg5").mkdir()
    (folder / "pkg5" / "__init__.py").write_text("")
    assert 'module "pkg5.nope" of' in refusal(folder, "pkg5.nope:app")


def test_a_module_that_is_no_package(folder):
    (folder / "flat6.py").write_text(APP)
    assert "'flat6' is not a package" in refusal(folder, "flat6.main:app")


@pytest.mark.parametrize("missing", ["not_installed_7", "inner7.more"])
def test_a_missing_dependency_shows_the_apps_traceback_once(folder, missing):
    (folder / "inner7.py").write_text("")
    (folder / "main7.py").write_text(f"def late():\n    import {missing}\nlate()\n" + APP)
    text = refusal(folder, "main7:app")
    assert text.startswith('module "main7" of "main7:app" failed while it was imported:')
    assert text.count("Traceback") == 1
    assert f"import {missing}" in text
    assert "importer.py" not in text
    assert "importlib" not in text
    sys.modules.pop("main7", None)


def test_a_module_that_imports_its_own_missing_namesake_shows_the_traceback(folder):
    (folder / "pkg8").mkdir()
    (folder / "pkg8" / "__init__.py").write_text("import pkg8.app\n")
    text = refusal(folder, "pkg8.app:app")
    assert "Traceback" in text
    assert "import pkg8.app" in text


@pytest.mark.parametrize(
    ("code", "last"),
    [
        ("1 / 0\n", "ZeroDivisionError: division by zero"),
        ("def app(:\n", "SyntaxError: invalid syntax"),
    ],
)
def test_a_module_that_fails(folder, code, last):
    (folder / "bad9.py").write_text(code)
    text = refusal(folder, "bad9:app")
    assert str(folder / "bad9.py") in text
    assert text.splitlines()[-1] == last


def test_a_module_that_exits(folder):
    (folder / "quit10.py").write_text("import sys\nsys.exit(7)\n")
    assert "called sys.exit(7) while it was imported" in refusal(folder, "quit10:app")


# The attribute


def test_a_missing_attribute_suggests_near_names(folder):
    (folder / "site11.py").write_text("application = None\n")
    text = refusal(folder, "site11:aplication")
    assert text.startswith('module "site11" has no attribute "aplication" (from "site11:aplication")')
    assert 'near it: "application"' in text


def test_a_missing_attribute_offers_the_apps_there_are(folder):
    (folder / "site12.py").write_text(APP.replace("app", "service") + "def other(): pass\nimport os\n")
    assert refusal(folder, "site12:x").endswith('; ASGI apps in this module: "site12:service"')


def test_a_missing_attribute_of_an_attribute(folder):
    (folder / "site13.py").write_text("class holder: pass\n")
    assert '"site13:holder" has no attribute "app"' in refusal(folder, "site13:holder.app")


def test_something_that_cannot_be_called(folder):
    (folder / "site14.py").write_text("app = 5\n" + APP.replace("app", "service"))
    text = refusal(folder, "site14:app")
    assert text.startswith('"site14:app" is an int, which cannot be called')
    assert text.endswith('"site14:service"')


# What a callable is


async def asgi3(scope, receive, send): ...


class Instance:
    async def __call__(self, scope, receive, send): ...


class AwaitableClass:
    def __init__(self, scope, receive, send): ...

    def __await__(self):
        yield


class Asgi2Class:
    def __init__(self, scope): ...

    async def __call__(self, receive, send): ...


class Wsgi:
    def __call__(self, environ, start_response): ...


class Defaults:
    def __init__(self, debug=False, routes=None, middleware=None): ...

    async def __call__(self, scope, receive, send): ...


def wrapper(*args, **kwargs):
    return asgi3(*args, **kwargs)


async def async_defaults(scope=None, receive=None, send=None): ...


def make(config=None, debug=False, name="x"): ...


class Unreadable:
    __signature__ = "none"

    def __call__(self): ...


@pytest.mark.parametrize(
    ("thing", "kind"),
    [
        (asgi3, Kind.ASGI3),
        (Instance(), Kind.ASGI3),
        (Instance().__call__, Kind.ASGI3),
        (AwaitableClass, Kind.ASGI3),
        (wrapper, Kind.ASGI3),
        (async_defaults, Kind.ASGI3),
        (functools.partial(asgi3), Kind.ASGI3),
        (functools.partial(lambda config, scope, receive, send: None, 1), Kind.ASGI3),
        (functools.wraps(asgi3)(wrapper), Kind.ASGI3),
        (lambda scope, receive, send: None, Kind.ASGI3),
        (Unreadable(), Kind.ASGI3),
        (lambda: None, Kind.FACTORY),
        (make, Kind.FACTORY),
        (Instance, Kind.FACTORY),
        (Defaults, Kind.FACTORY),
        (functools.partial(lambda config: None, 1), Kind.FACTORY),
        (lambda scope: None, Kind.ASGI2),
        (Asgi2Class, Kind.ASGI2),
        (Wsgi(), Kind.WSGI),
        (lambda a, b, c, d: None, Kind.UNKNOWN),
        (lambda *, needed: None, Kind.UNKNOWN),
    ],
)
def test_classify(thing, kind):
    assert classify(thing) is kind


# Factories

FACTORY = APP + "def create(config=None):\n    return app\n"


def test_a_factory(folder, caplog):
    (folder / "site15.py").write_text(FACTORY)
    assert load(folder, "site15:create", factory=True).__name__ == "app"
    assert not caplog.records


def test_a_factory_without_the_flag_works_with_a_warning(folder, caplog):
    (folder / "site16.py").write_text(FACTORY)
    with caplog.at_level(logging.WARNING, logger=importer.log.name):
        importer.log.propagate = True
        assert load(folder, "site16:create").__name__ == "app"
    assert ["--factory" in record.getMessage() for record in caplog.records] == [True]


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("def create(): return 5", "returned an int, not an ASGI app"),
        ("def create(): return None", "returned a NoneType, not an ASGI app"),
        ("async def create(): return 5", "is a coroutine function; write it with def"),
        ("def create(needed): return 5", "needs arguments; a factory is called without any"),
        ("async def create(scope, receive, send): pass", "is an ASGI app already"),
        ("def create(): return lambda: None", "that takes no arguments, not an ASGI app"),
        ("def create(): return lambda first, second: None", "takes two arguments, like a WSGI app"),
        ("import sys\ndef create(): sys.exit(4)", "called sys.exit(4)"),
    ],
)
def test_a_factory_that_is_wrong(folder, code, text):
    (folder / "site17.py").write_text(code)
    assert text in refusal(folder, "site17:create", factory=True)
    del sys.modules["site17"]


def test_a_factory_that_raises_shows_the_traceback_once(folder):
    (folder / "site18.py").write_text("def create():\n    raise TypeError('inside')\n")
    text = refusal(folder, "site18:create", factory=True)
    assert text.startswith('the factory "site18:create" failed:')
    assert text.count("Traceback") == 1
    assert text.endswith("TypeError: inside")
    assert "importer.py" not in text


# Other interfaces


@pytest.mark.parametrize("code", ["def app(scope): pass", "def app(environ, start_response): pass"])
def test_asgi_2_and_wsgi_are_loaded_too(folder, code):
    (folder / "site19.py").write_text(code)
    assert load(folder, "site19:app").__name__ == "app"
    del sys.modules["site19"]


def test_a_factory_of_a_wsgi_app(folder, caplog):
    (folder / "site20.py").write_text("def create(): return lambda environ, start_response: []")
    assert classify(load(folder, "site20:create", factory=True)) is Kind.WSGI
    del sys.modules["site20"]


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("def app(a, b): pass", "like a WSGI app, but they are not called environ and start_response"),
        ("def app(a, b): pass", "say so: --interface wsgi"),
        ("def app(a, b, c, d): pass", "cannot be called with the three arguments of ASGI"),
    ],
)
def test_what_is_no_app_is_refused_with_advice(folder, code, text):
    (folder / "site21.py").write_text(code)
    assert text in refusal(folder, "site21:app")
    del sys.modules["site21"]


@pytest.mark.parametrize("interface", ["asgi3", "asgi2", "wsgi"])
def test_an_interface_that_is_named_is_believed(folder, interface):
    (folder / "site22.py").write_text("def app(a, b, c, d): pass")
    found = load_app("site22:app", app_dir=str(folder), factory=False, interface=interface)
    assert found.__name__ == "app"
    del sys.modules["site22"]
