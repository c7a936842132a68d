"""Which file a path means: what is refused, what is out of reach, and what is never waited for."""

from __future__ import annotations

import errno
import logging
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardserve.asgi import static_files
from shardserve.asgi.static_files import Folder, Refused, kind_of, relative
from shardserve.errors import ConfigError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder, and a secret beside it."""
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "secret").write_text("secret")
    root = tmp_path / "root"
    (root / "sub").mkdir(parents=True)
    (root / "a.txt").write_text("a")
    (root / "sub" / "b.txt").write_text("b")
    return root


@pytest.fixture(autouse=True)
def _no_descriptor_stays() -> Iterator[None]:
    before = os.listdir("/proc/self/fd")
    yield
    assert os.listdir("/proc/self/fd") == before


def read(folder: Folder, path: bytes) -> bytes:
    file = folder.open(path)
    try:
        return b"folder" if file.is_folder else os.read(file.fileno(), 1000)
    finally:
        file.close()


def refused(folder: Folder, path: bytes) -> int:
    with pytest.raises(Refused) as caught:
        read(folder, path)
    return caught.value.status


# Paths


@pytest.mark.parametrize(
    ("raw", "path"),
    [
        (b"/", b"/"),
        (b"/a.txt", b"/a.txt"),
        (b"/a%20b", b"/a b"),
        (b"/%61", b"/a"),
        (b"/sub/", b"/sub/"),
        (b"/a..b", b"/a..b"),
        (b"/a.", b"/a."),
        (b"/100%", b"/100%"),
        (b"/%zz", b"/%zz"),
        (b"/%2561", b"/%61"),  # decoded once
        (b"/%C3%A4", "/ä".encode()),
        (b"/\xff", b"/\xff"),
        (b"/.well-known/acme/x", b"/.well-known/acme/x"),
        (b"/.well-known/", b"/.well-known/"),
        (b"/%2ewell-known/x", b"/.well-known/x"),
    ],
)
def test_paths(raw: bytes, path: bytes) -> None:
    assert relative(raw) == path


@pytest.mark.parametrize(
    "raw",
    [
        b"/..", b"/../", b"/../secret", b"/sub/../../secret", b"/sub/..", b"/.", b"/./a.txt", b"//",
        b"//a.txt", b"/sub//b.txt", b"/%2e%2e/secret", b"/.%2e/secret", b"/%2E./secret", b"/..%2fsecret",
        b"/sub%2fb.txt", b"/sub%2Fb.txt", b"/..%5csecret", b"/..\\secret", b"/a\\b", b"/a%5Cb", b"/a%00.txt",
        b"/%00", b"/a%0ab", b"/a%7f", b"/.env", b"/.git/config", b"/sub/.htpasswd", b"/sub/%2ehidden",
        b"/...", b"/.well-known", b"/.well-known/.git", b"/.well-known/../secret", b"/sub/.well-known/x",
        b"/.well-known//x",
    ],
)  # fmt: skip
def test_paths_that_mean_nothing(raw: bytes) -> None:
    assert relative(raw) is None


@given(st.binary(max_size=40), st.sampled_from([b"", b"/.well-known/"]))
def test_no_path_leads_up(raw: bytes, start: bytes) -> None:
    path = relative(b"/" + start.removeprefix(b"/") + raw)
    if path is not None:
        assert path.startswith(b"/")
        assert b".." not in path.split(b"/")
        assert b"\0" not in path
        assert os.path.normpath(path).rstrip(b"/") == path.rstrip(b"/")


@given(st.lists(st.sampled_from([b"..", b"%2e", b"%2E", b".", b"/", b"%2f", b"\\", b"sub", b"%00", b"a"])))
def test_no_mixture_leads_up(pieces: list[bytes]) -> None:
    path = relative(b"/" + b"".join(pieces))
    assert path is None or not any(part.startswith(b".") for part in path.split(b"/"))


# Opening


def test_what_is_there(root: Path) -> None:
    folder = Folder(str(root))
    assert read(folder, b"/a.txt") == b"a"
    assert read(folder, b"/sub/b.txt") == b"b"
    assert read(folder, b"/sub") == b"folder"


def test_what_is_not(root: Path) -> None:
    folder = Folder(str(root))
    for path in (b"/none", b"/none/b", b"/a.txt/b", b"/" + b"x" * 300, b"/x" * 5000):
        assert refused(folder, path) == 404


def test_names_that_are_not_utf_8(root: Path) -> None:
    (Path(os.fsdecode(os.fsencode(root) + b"/\xff\xfe"))).write_text("odd")
    assert read(Folder(str(root)), b"/\xff\xfe") == b"odd"


def test_a_relative_folder(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is what it was when the server started, whatever the app makes its working directory."""
    monkeypatch.chdir(root.parent)
    folder = Folder("root/")
    monkeypatch.chdir("/")
    assert read(folder, b"/a.txt") == b"a"


def test_the_root_of_the_file_system(root: Path) -> None:
    assert read(Folder("/"), os.fsencode(root / "a.txt")) == b"a"


def test_no_folder(root: Path) -> None:
    for path in (root / "none", root / "a.txt"):
        with pytest.raises(ConfigError, match=f'"{path}" is not a directory'):
            Folder(str(path))


# Links


def test_links_inside_the_folder_work(root: Path) -> None:
    (root / "link").symlink_to("sub/b.txt")
    (root / "absolute").symlink_to(root / "a.txt")
    (root / "folder").symlink_to("sub")
    (root / "round").symlink_to("../root/a.txt")
    folder = Folder(str(root))
    assert read(folder, b"/link") == b"b"
    assert read(folder, b"/absolute") == b"a"
    assert read(folder, b"/folder/b.txt") == b"b"
    assert read(folder, b"/round") == b"a"


def test_links_out_of_it_are_not_there(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    (root / "file").symlink_to("../secret")
    (root / "folder").symlink_to("../elsewhere")
    (root / "sub" / "absolute").symlink_to(root.parent / "secret")
    (root / "process").symlink_to("/proc/self/environ")
    (root / "loop").symlink_to("loop")
    (root / "gone").symlink_to("nowhere")
    folder = Folder(str(root))
    with caplog.at_level(logging.WARNING):
        for path in (
            b"/file",
            b"/folder/secret",
            b"/folder",
            b"/sub/absolute",
            b"/process",
            b"/loop",
            b"/gone",
        ):
            assert refused(folder, path) == 404
    assert len(caplog.records) == 1  # told once
    assert "root/file" in caplog.text
    assert "is a link out of its directory" in caplog.text


def test_a_folder_beside_with_the_same_beginning(root: Path) -> None:
    other = root.with_name("root-old")
    other.mkdir()
    (other / "secret").write_text("secret")
    (root / "link").symlink_to("../root-old/secret")
    assert refused(Folder(str(root)), b"/link") == 404


def test_the_folder_itself_may_be_a_link_that_changes(tmp_path: Path, root: Path) -> None:
    """As a deployment does it. The old release is outside from then on."""
    current = tmp_path / "current"
    current.symlink_to("root")
    folder = Folder(str(current))
    assert read(folder, b"/a.txt") == b"a"
    new = tmp_path / "new"
    new.mkdir()
    (new / "a.txt").write_text("new")
    (new / "old").symlink_to(root / "a.txt")
    (tmp_path / "next").symlink_to("new")
    (tmp_path / "next").rename(current)
    assert read(folder, b"/a.txt") == b"new"
    assert refused(folder, b"/old") == 404


def test_the_folder_may_be_made_anew(root: Path) -> None:
    folder = Folder(str(root))
    root.rename(root.with_name("old"))
    assert refused(folder, b"/a.txt") == 404
    root.mkdir()
    (root / "a.txt").write_text("new")
    assert read(folder, b"/a.txt") == b"new"


def test_what_is_exchanged_meanwhile_is_never_served(root: Path) -> None:
    """A folder is now itself and now a link out, as fast as can be."""
    (root / "real").mkdir()
    (root / "real" / "secret").write_text("public")
    (root / "out").symlink_to("../elsewhere")
    (root / "now").symlink_to("real")
    over = threading.Event()

    def exchange() -> None:
        while not over.is_set():
            for target in ("../elsewhere", "real"):
                (root / "next").symlink_to(target)
                (root / "next").rename(root / "now")

    thread = threading.Thread(target=exchange)
    thread.start()
    folder = Folder(str(root))
    seen = {b"public": 0, b"refused": 0}
    try:
        while min(seen.values()) < 200:
            try:
                seen[read(folder, b"/now/secret")] += 1  # a KeyError here is the failure
            except Refused as error:
                seen[b"refused"] += error.status == 404
    finally:
        over.set()
        thread.join()


# What is no file


def test_special_files_are_never_waited_for(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(root / "fifo")
    (root / "null").symlink_to("/dev/null")
    (root / "tty").symlink_to("/dev/tty")
    folder = Folder(str(root))
    with socket.socket(socket.AF_UNIX) as sock:
        monkeypatch.chdir(root)  # the path of a socket is short
        sock.bind("socket")
        for path in (b"/fifo", b"/null", b"/tty", b"/socket"):
            assert refused(folder, path) == 404


def test_a_fifo_with_a_writer_is_no_file_either(root: Path) -> None:
    os.mkfifo(root / "fifo")
    both = os.open(root / "fifo", os.O_RDWR)
    os.write(both, b"x")
    assert refused(Folder(str(root)), b"/fifo") == 404
    os.close(both)


# When it cannot be opened


@pytest.mark.parametrize(
    ("number", "status"),
    [
        (errno.EACCES, 403), (errno.EPERM, 403), (errno.EMFILE, 503), (errno.ENFILE, 503),
        (errno.ENOMEM, 503), (errno.ENOENT, 404), (errno.ENOTDIR, 404), (errno.ELOOP, 404),
        (errno.ENXIO, 404),
    ],
)  # fmt: skip
def test_why_it_cannot_be_opened(
    root: Path, monkeypatch: pytest.MonkeyPatch, number: int, status: int
) -> None:
    folder = Folder(str(root))

    def fail(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patched:
        patched.setattr(static_files.os, "open", fail)
        with pytest.raises(Refused) as caught:
            folder.open(b"/a.txt")
    assert caught.value.status == status


def test_a_disk_that_fails_is_no_missing_file(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Folder(str(root))

    def fail(*_: object) -> int:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(static_files.os, "open", fail)
        with pytest.raises(OSError, match="Input/output error"):
            folder.open(b"/a.txt")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read anything")
def test_no_permission(root: Path) -> None:
    (root / "a.txt").chmod(0)
    (root / "sub").chmod(0)
    folder = Folder(str(root))
    assert refused(folder, b"/a.txt") == 403
    assert refused(folder, b"/sub/b.txt") == 403
    (root / "sub").chmod(0o700)


# What it is


@pytest.mark.parametrize(
    ("name", "content_type", "compressible"),
    [
        (b"/a.html", b"text/html; charset=utf-8", True),
        (b"/A.HTML", b"text/html; charset=utf-8", True),
        (b"/a.css", b"text/css; charset=utf-8", True),
        (b"/a.js", b"text/javascript; charset=utf-8", True),
        (b"/a.mjs", b"text/javascript; charset=utf-8", True),
        (b"/a.txt", b"text/plain; charset=utf-8", True),
        (b"/a.json", b"application/json", True),
        (b"/a.js.map", b"application/json", True),
        (b"/a.svg", b"image/svg+xml", True),
        (b"/a.xml", b"application/xml", True),
        (b"/a.webmanifest", b"application/manifest+json", True),
        (b"/a.wasm", b"application/wasm", True),
        (b"/a.png", b"image/png", False),
        (b"/a.woff2", b"font/woff2", False),
        (b"/a.pdf", b"application/pdf", False),
        (b"/a.zip", b"application/zip", False),
        (b"/a.css.gz", b"application/gzip", False),
        (b"/a.tar.gz", b"application/gzip", False),
        (b"/a.css.br", b"application/octet-stream", False),
        (b"/a", b"application/octet-stream", False),
        (b"/a.b/c", b"application/octet-stream", False),
        (b"/a.unheard-of", b"application/octet-stream", False),
        (b"/a.x:y,z", b"application/octet-stream", False),
        (b"/a.\xff", b"application/octet-stream", False),
    ],
)
def test_kinds(name: bytes, content_type: bytes, compressible: bool) -> None:
    assert kind_of(name) == (content_type, compressible)
