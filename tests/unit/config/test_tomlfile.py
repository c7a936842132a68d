"""Statements with their lines, where a line-by-line reader would go wrong."""

from __future__ import annotations

import tomllib

import pytest

from shardserve.config.tomlfile import Statement, parse


def lines_of(text: str) -> dict[str, int]:
    statements, complaints = parse(text)
    assert complaints == []
    return {statement.key: statement.line for statement in statements}


def test_lines_survive_everything_toml_allows() -> None:
    text = "\n".join(
        [
            "# port = 1",  # 1
            "",
            'bind = [  # "x = 1"',  # 3
            '  ":80",',
            "  # key = 2",
            "]",
            'app = """',  # 7
            "port = 3",
            "[table]",
            '"""',
            "'quoted' = 1",  # 11
            '  "port" = 8000 # why',  # 12
            "headers = [",  # 13
            "['a', 'b'],",
            "[ 'c', 'd' ]]",
            "last = '''",  # 16
            "x = ]'''",
        ]
    )
    assert lines_of(text) == {"bind": 3, "app": 7, "quoted": 11, "port": 12, "headers": 13, "last": 16}
    statements, _ = parse(text)
    assert {one.key: one.value for one in statements} == tomllib.loads(text)


def test_windows_line_ends() -> None:
    assert lines_of("a = 1\r\n\r\nb = [\r\n1]\r\nc = 2\r\n") == {"a": 1, "b": 3, "c": 5}


def test_empty() -> None:
    assert parse("") == ([], [])
    assert parse("# nothing\n\n") == ([], [])


def test_what_is_in_a_table_is_the_tables() -> None:
    statements, _ = parse("a = 1\n[server]\nport = 2\n[[more]]\nport = 3")
    assert statements == [Statement(1, "a", 1), Statement(2, "server", None), Statement(4, "more", None)]
    assert [one.is_table_header for one in statements] == [False, True, True]


def test_a_repeated_key_is_given_back_twice() -> None:
    statements, complaints = parse("a = 1\nb = 2\na = 3")
    assert [(one.line, one.key) for one in statements] == [(1, "a"), (2, "b"), (3, "a")]
    assert complaints == []


@pytest.mark.parametrize(
    ("text", "line", "complaint"),
    [
        ("a = 1\nb = \nc = 2", 2, "Invalid value (column 5)"),
        ("a = 1\nb 2", 2, "Expected '=' after a key"),
        ('a = """\nb', 2, "Unterminated string"),
        ("a = {x = 1, x = 2}", 1, "Duplicate inline table key"),
        ("[a]\nx = 1\nx = 2", 3, "Cannot overwrite a value"),
    ],
)
def test_what_tomllib_refuses(text: str, line: int, complaint: str) -> None:
    _, [(found_line, found)] = parse(text)
    assert found_line == line
    assert found.startswith(complaint)
