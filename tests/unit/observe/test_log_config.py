"""Log configs in all their forms, and what of the flags is applied to them."""

from __future__ import annotations

import configparser
import io
import json
import logging
import logging.handlers
import sys
from pathlib import Path
from typing import Any

import pytest

from shardserve.config.model import Config
from shardserve.errors import ConfigError
from shardserve.logging import LOGGING_CONFIG, DefaultFormatter
from shardserve.observe import access_sink, log_config, logs, names

CLIENT = ("127.0.0.1", 5)
INI = """\
[loggers]
keys=root, access
[handlers]
keys=out
[formatters]
keys=plain
[logger_root]
level=INFO
handlers=out
[logger_access]
level=WARNING
handlers=
qualname=uvicorn.access
[handler_out]
class=StreamHandler
args=(sys.stdout,)
formatter=plain
[formatter_plain]
format=%(levelprefix)s %(name)s %(message)s
class=uvicorn.logging.DefaultFormatter
"""


class Settings:
    def __init__(self, source: Any, **changes: Any) -> None:
        self.log_config = source
        self.log_level: str | None = None
        self.access_log, self.use_colors, self.log_format, self.app_dir = True, None, "text", ""
        self.__dict__.update(changes)


class Kept(logging.Handler):
    """What arrives."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


def dict_config(**loggers: Any) -> dict[str, Any]:
    return {"version": 1, "loggers": {name.replace("_", "."): one for name, one in loggers.items()}}


def kept(name: str) -> list[logging.LogRecord]:
    """What this logger gets from now on."""
    handler = Kept()
    logging.getLogger(name).addHandler(handler)
    return handler.records


# Under which names


def test_a_config_that_names_uvicorns_loggers_gets_ours_under_their_names():
    logs.configure(Settings(dict_config(uvicorn={"level": "INFO", "propagate": False})))
    records = kept("uvicorn")
    for name in ("shardserve", "shardserve.master", "shardserve.worker", "shardserve.error"):
        logging.getLogger(name).warning("from %s", name)
        logging.getLogger(name).debug("too small")
    assert {one.name for one in records} == {"uvicorn.error"}
    assert [one.getMessage() for one in records][-1] == "from shardserve.error"
    assert len(records) == 4


def test_levels_are_inherited_there():
    logs.configure(Settings(dict_config(uvicorn={"level": "DEBUG"}, uvicorn_error={"level": "ERROR"})))
    records = kept("uvicorn")
    logging.getLogger("shardserve.worker").warning("too small for uvicorn.error")
    logging.getLogger("shardserve.worker").error("seen")
    assert [one.getMessage() for one in records] == ["seen"]


def test_a_disabled_logger_and_a_filter_have_their_effect():
    logs.configure(Settings(dict_config(uvicorn={"level": "INFO"})))
    records = kept("uvicorn")
    logger = logging.getLogger("uvicorn.error")
    logger.addFilter(lambda record: "secret" not in record.getMessage())
    logging.getLogger("shardserve.error").error("a secret")
    logger.disabled = True
    logging.getLogger("shardserve.error").error("a word")
    logger.disabled = False
    logging.getLogger("shardserve.error").error("the end")
    assert [one.getMessage() for one in records] == ["the end"]


def test_a_config_that_names_ours_gets_them_under_our_names():
    logs.configure(Settings(dict_config(shardserve={"level": "INFO"}, uvicorn={"level": "INFO"})))
    ours, theirs = kept("shardserve"), kept("uvicorn")
    logging.getLogger("shardserve.worker").info("x")
    assert [one.name for one in ours] == ["shardserve.worker"]
    assert theirs == []


def test_a_config_of_the_root_only_gets_our_names_too():
    logs.configure(Settings({"version": 1, "root": {"level": "INFO"}}))
    records = kept("")
    logging.getLogger("shardserve.worker").info("x")
    assert [one.name for one in records] == ["shardserve.worker"]


@pytest.mark.parametrize(
    "config",
    [
        {"version": 1, "filters": {"x": {"name": "uvicorn.access"}}, "root": {"level": "INFO"}},
        {
            "version": 1,
            "formatters": {"x": {"()": "uvicorn.logging.DefaultFormatter"}},
            "root": {"level": 20},
        },
    ],
)
def test_anything_of_uvicorns_is_a_sign_that_it_was_written_for_it(config):
    logs.configure(Settings(config))
    records = kept("")
    logging.getLogger("shardserve.worker").info("x")
    assert [one.name for one in records] == ["uvicorn.error"]


def test_what_is_forwarded_is_safe_for_any_formatter():
    logs.configure(Settings(dict_config(uvicorn={"level": "INFO"})))
    records = kept("uvicorn")
    try:
        raise ValueError("x\nINFO:     forged\x1b")
    except ValueError:
        logging.getLogger("shardserve.worker").exception("a %s", "\x1b[31m")
    [record] = records
    text = logging.Formatter("%(message)s").format(record)
    assert text.startswith("a \\x1b[31m\nTraceback (most recent call last):\n")
    assert text.endswith("\nValueError: x\n    INFO:     forged\\x1b")
    assert record.exc_info


def test_an_app_error_has_the_error_for_who_collects_them():
    logs.configure(Settings(dict_config(uvicorn={"level": "INFO"})))
    records = kept("uvicorn.error")
    error = LookupError("x")
    logs.app_error_reporter()(error, "GET", "/", CLIENT, "500 sent", None)
    assert records[0].exc_info
    assert records[0].exc_info[1] is error
    assert records[0].getMessage().startswith("Exception in ASGI application")


# The access log


def test_access_records_have_the_arguments_that_filters_look_at():
    logs.configure(Settings(dict_config(uvicorn_access={"level": "INFO"})))
    records = kept("uvicorn.access")
    assert not access_sink.wanted(Settings(None))
    access = access_sink.settled(None)
    assert access is not None
    access(CLIENT, "GET", b"/healthz?x=\x1b", "1.1", 200)
    access(None, "POST", b"/", "1.0", 500)
    assert [one.args for one in records] == [
        ("127.0.0.1:5", "GET", "/healthz?x=\\x1b", "1.1", 200),
        ("", "POST", "/", "1.0", 500),
    ]
    assert records[0].getMessage() == '127.0.0.1:5 - "GET /healthz?x=\\x1b HTTP/1.1" 200'
    assert records[0].name == "uvicorn.access"
    assert records[0].levelno == logging.INFO


def test_no_access_log_takes_the_handlers_away():
    logs.configure(Settings(dict_config(uvicorn_access={"level": "INFO"}), access_log=False))
    assert logging.getLogger("uvicorn.access").handlers == []
    assert not logging.getLogger("uvicorn.access").propagate
    assert access_sink.settled(None) is None


def test_with_our_names_it_is_shardserve_access():
    logs.configure(Settings(dict_config(shardserve={"level": "INFO"})))
    records = kept("shardserve")
    access = access_sink.settled(None)
    assert access is not None
    access(CLIENT, "GET", b"/", "1.1", 200)
    assert [one.name for one in records] == ["shardserve.access"]


# Flags


def test_the_log_level_is_applied_after_the_config():
    config = dict_config(uvicorn_error={"level": "ERROR"}, uvicorn_access={"level": "ERROR"})
    logs.configure(Settings(config, log_level="debug"))
    for name in ("uvicorn.error", "uvicorn.access", "uvicorn.asgi"):
        assert logging.getLogger(name).level == logging.DEBUG
    logs.configure(Settings(config))
    assert logging.getLogger("uvicorn.error").level == logging.ERROR
    assert logging.getLogger("uvicorn.asgi").level == logging.NOTSET


@pytest.mark.parametrize("wanted", [True, False])
def test_colours_reach_the_formatters_of_a_dict_and_leave_it_as_it_was(wanted):
    before = json.dumps(LOGGING_CONFIG)
    logs.configure(Settings(LOGGING_CONFIG, use_colors=wanted))
    [handler] = logging.getLogger("uvicorn").handlers
    assert isinstance(handler.formatter, DefaultFormatter)
    assert handler.formatter.use_colors is wanted
    assert json.dumps(LOGGING_CONFIG) == before


def test_a_dict_without_formatters_takes_the_flag_too():
    logs.configure(Settings(dict_config(uvicorn={"level": "INFO"}), use_colors=True))


# Forms


@pytest.mark.parametrize("form", ["path", "pathlike", "file", "text", "parser", "bytes"])
def test_every_form_of_an_ini_file(tmp_path: Path, form: str):
    path = tmp_path / "log.ini"
    path.write_text(INI)
    parser = configparser.ConfigParser()
    parser.read_string(INI)
    source = {
        "path": str(path),
        "pathlike": path,
        "file": io.StringIO(INI),
        "bytes": io.BytesIO(INI.encode()),
        "text": INI,
        "parser": parser,
    }[form]
    logs.configure(Settings(source))
    assert logging.getLogger("uvicorn.access").level == logging.WARNING
    [handler] = logging.root.handlers[-1:]
    assert isinstance(handler.formatter, DefaultFormatter)
    assert not logging.getLogger("asyncio").disabled
    assert names.is_forwarded()


def test_uvicorn_is_not_imported(monkeypatch):
    """Neither where it is not installed, nor into the master, which must not have an event loop."""
    for name in [one for one in sys.modules if one.split(".")[0] == "uvicorn"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "uvicorn", None)  # importing it fails
    text = json.dumps(LOGGING_CONFIG).replace("shardserve.logging", "uvicorn.logging")
    logs.configure(Settings(json.loads(text)))
    [handler] = logging.getLogger("uvicorn.access").handlers
    assert type(handler.formatter).__module__ == "shardserve.observe.formatters"
    logs.configure(Settings(INI))


def test_yaml_without_pyyaml_says_what_to_install(tmp_path: Path, monkeypatch):
    monkeypatch.setitem(sys.modules, "yaml", None)
    path = tmp_path / "log.yaml"
    path.write_text("version: 1\n")
    with pytest.raises(ConfigError, match="pip install PyYAML"):
        logs.configure(Settings(str(path)))


def test_classes_are_found_where_the_app_is(tmp_path: Path):
    (tmp_path / "own_handlers_of_a_test.py").write_text("from logging import NullHandler as Own\n")
    config = {
        "version": 1,
        "handlers": {"own": {"class": "own_handlers_of_a_test.Own"}},
        "loggers": {"shardserve": {"handlers": ["own"]}},
    }
    logs.configure(Settings(config, app_dir=str(tmp_path)))
    [handler] = logging.getLogger("shardserve").handlers
    assert isinstance(handler, logging.NullHandler)
    del sys.modules["own_handlers_of_a_test"]


def test_a_wrong_file_leaves_the_log_as_it_was(tmp_path: Path):
    out = io.StringIO()
    logs.configure(Settings(None), stream=out)
    with pytest.raises(ConfigError, match=r"nowhere\.json: No such file"):
        logs.configure(Settings(str(tmp_path / "nowhere.json")))
    logging.getLogger("shardserve").info("still here")
    assert out.getvalue() == "INFO:     still here\n"


def test_a_running_master_goes_on_with_a_config_that_has_become_wrong(capsys):
    logs.reconfigure(Settings({"version": 1, "handlers": {"x": {"class": "nowhere.Handler"}}}))
    said = capsys.readouterr().err
    assert said.startswith("ERROR:    log-config given by the program: Unable to configure handler 'x'")
    assert said.endswith("; the master logs on stderr instead\n")
    logging.getLogger("shardserve.master").info("goes on")
    assert capsys.readouterr().err == "INFO:     goes on\n"


# Nobody's


def test_none_leaves_logging_as_a_program_has_set_it_up():
    records = kept("uvicorn.access")
    server = kept("")
    logging.getLogger("uvicorn.error").setLevel(logging.INFO)
    logs.configure(Settings("none"))
    access = access_sink.settled(None)
    assert access is not None
    logging.getLogger("uvicorn.access").setLevel(logging.INFO)
    access(CLIENT, "GET", b"/", "1.1", 200)
    logging.getLogger("shardserve.worker").info("x")
    assert [one.name for one in records] == ["uvicorn.access"]
    assert [one.name for one in server] == ["uvicorn.access", "uvicorn.error"]


def test_none_leaves_handlers_of_shardserve_alone():
    records = kept("shardserve")
    logs.configure(Settings("none"))
    logging.getLogger("shardserve.worker").error("x")
    assert [one.name for one in records] == ["shardserve.worker"]


# Files that several processes rotate


def test_files_that_are_rotated_are_warned_of(tmp_path: Path):
    assert log_config.rotation_warning(3) is None
    path = tmp_path / "x.log"
    handler = logging.handlers.RotatingFileHandler(path, maxBytes=100)
    logging.getLogger("uvicorn.access").addHandler(handler)
    try:
        warning = log_config.rotation_warning(3)
    finally:
        handler.close()
    assert warning is not None
    assert warning.startswith(f"3 processes write to {path}, and each rotates it")


# Files that are renamed


@pytest.mark.parametrize("mode", ["a", "w"])
def test_renamed_files_of_handlers_are_opened_again(tmp_path: Path, mode: str):
    """The app's too, and none is truncated: another process may have written to it already."""
    path, old = tmp_path / "x.log", tmp_path / "x.log.1"
    handler = logging.FileHandler(path, mode)
    logger = logging.getLogger("logs.renamed")
    logger.addHandler(handler)
    try:
        logger.error("before")
        path.rename(old)
        path.write_text("somebody else's\n")
        log_config.reopen()
        logger.error("after")
    finally:
        logger.removeHandler(handler)
        handler.close()
    assert old.read_text() == "before\n"
    assert path.read_text() == "somebody else's\nafter\n"


def test_a_file_that_was_never_opened_is_not_made(tmp_path: Path):
    handler = logging.FileHandler(tmp_path / "lazy.log", delay=True)
    logger = logging.getLogger("logs.lazy")
    logger.addHandler(handler)
    try:
        log_config.reopen()
    finally:
        logger.removeHandler(handler)
        handler.close()
    assert not (tmp_path / "lazy.log").exists()


def test_a_file_that_cannot_be_opened_again_goes_on(tmp_path: Path, capsys):
    logs.configure(Settings(None))
    folder = tmp_path / "logs"
    folder.mkdir()
    handler = logging.FileHandler(folder / "x.log")
    logger = logging.getLogger("logs.moved")
    logger.addHandler(handler)
    try:
        folder.rename(tmp_path / "moved")
        log_config.reopen()
        logger.error("goes on")
    finally:
        logger.removeHandler(handler)
        handler.close()
    assert (tmp_path / "moved" / "x.log").read_text() == "goes on\n"
    assert f"Cannot open {folder / 'x.log'} again: [Errno 2] No such file" in capsys.readouterr().err


def test_settings_that_a_log_config_leaves_without_effect():
    config = Config("a:b", log_config={"version": 1}, access_log_sample=0.5, access_log_exclude=("/health",))
    said = log_config.access_warning(config)
    assert said is not None
    assert said.startswith("--access-log-exclude, --access-log-sample: without effect, because --log-config ")
    assert log_config.access_warning(Config("a:b", log_config={"version": 1})) is None
    assert log_config.access_warning(Config("a:b", access_log_sample=0.5)) is None
