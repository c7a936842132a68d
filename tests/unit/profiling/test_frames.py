"""Which layer a frame belongs to."""

from __future__ import annotations

from pathlib import Path

import pytest

import shardserve
from shardserve.profiling.frames import YOUR_CODE, Layer, native_frame, plain_name, python_frame

SITE = "/srv/venv/lib/python3.12/site-packages"
OURS = Path(shardserve.__file__).parent


@pytest.mark.parametrize(
    ("path", "layer", "package", "file"),
    [
        (f"{SITE}/fastapi/routing.py", Layer.APP, "fastapi", "fastapi/routing.py"),
        (f"{SITE}/six.py", Layer.APP, "six", "six.py"),
        ("/usr/lib/python3/dist-packages/yaml/reader.py", Layer.APP, "yaml", "yaml/reader.py"),
        (f"{SITE}/uvloop/__init__.py", Layer.LOOP, "", "uvloop/__init__.py"),
        (f"{SITE}/websockets/frames.py", Layer.PARSER, "", "websockets/frames.py"),
        (f"{SITE}/shardserve/worker/server.py", Layer.OURS, "", "shardserve/worker/server.py"),
        (str(OURS / "worker" / "server.py"), Layer.OURS, "", "shardserve/worker/server.py"),
        (str(OURS / "demo.py"), Layer.APP, YOUR_CODE, "shardserve/demo.py"),
        ("/usr/lib/python3.12/json/encoder.py", Layer.INTERPRETER, "", "json/encoder.py"),
        ("/usr/lib/python3.12/asyncio/tasks.py", Layer.LOOP, "", "asyncio/tasks.py"),
        ("<frozen importlib._bootstrap>", Layer.INTERPRETER, "", "<frozen importlib._bootstrap>"),
        ("/srv/app/views/items.py", Layer.APP, YOUR_CODE, "views/items.py"),
        ("/elsewhere/lib/deep/module.py", Layer.APP, YOUR_CODE, "deep/module.py"),
    ],
)
def test_python(path: str, layer: Layer, package: str, file: str) -> None:
    frame = python_frame("f", path, app_root="/srv/app")
    assert (frame.layer, frame.package, frame.file, frame.python) == (layer, package, file, True)


@pytest.mark.parametrize(
    ("where", "layer", "package"),
    [
        ("[kernel.kallsyms]", Layer.KERNEL, ""),
        ("[nf_conntrack]", Layer.KERNEL, ""),
        ("/lib/modules/6.1/kernel/net/veth.ko.xz", Layer.KERNEL, ""),
        ("[vdso]", Layer.INTERPRETER, ""),
        ("[unknown]", Layer.UNKNOWN, ""),
        (f"{SITE}/uvloop/loop.cpython-312-x86_64-linux-gnu.so", Layer.LOOP, ""),
        ("/project/build/libuv-x86_64/src/unix/stream.c", Layer.LOOP, ""),
        ("/usr/lib/libssl.so.3", Layer.LOOP, ""),
        (f"{SITE}/httptools/parser/parser.cpython-312-x86_64-linux-gnu.so", Layer.PARSER, ""),
        ("/project/vendor/llhttp/src/llhttp.c", Layer.PARSER, ""),
        (str(OURS / "_native.cpython-312-x86_64-linux-gnu.so"), Layer.OURS, ""),
        (str(OURS.parent / "native" / "intake.c"), Layer.OURS, ""),
        (f"{SITE}/pydantic_core/_pydantic_core.cpython-312-x86_64-linux-gnu.so", Layer.APP, "pydantic_core"),
        (f"{SITE}/numpy.libs/libopenblas.so", Layer.APP, "numpy"),
        ("/usr/bin/python3.12", Layer.INTERPRETER, ""),
        ("/usr/lib/libpython3.12.so.1.0", Layer.INTERPRETER, ""),
        ("/usr/lib/python3.12/lib-dynload/_json.cpython-312-x86_64-linux-gnu.so", Layer.INTERPRETER, ""),
        ("/opt/cpython-3.12/include/python3.12/object.h", Layer.INTERPRETER, ""),
        ("/usr/lib/x86_64-linux-gnu/libc.so.6", Layer.INTERPRETER, ""),
    ],
)
def test_native(where: str, layer: Layer, package: str) -> None:
    frame = native_frame("f", where)
    assert (frame.layer, frame.package, frame.python) == (layer, package, False)


def test_without_the_kernel_a_system_call_is_the_c_library_s_function() -> None:
    libc = "/usr/lib/libc.so.6"
    assert native_frame("__libc_send", libc, leaf=True).layer is Layer.KERNEL
    assert not native_frame("__libc_send", libc, leaf=True).waits
    for name in (
        "epoll_wait",
        "__poll",
        "pthread_cond_timedwait@@GLIBC_2.3.2",
        "__futex_abstimed_wait_common",
    ):
        assert native_frame(name, libc, leaf=True).waits, name
    assert native_frame("memcpy", libc, leaf=True).layer is Layer.INTERPRETER
    assert native_frame("__libc_send", libc).layer is Layer.INTERPRETER, "it has called another function"
    assert native_frame("send", str(OURS / "_native.so"), leaf=True).layer is Layer.OURS


@pytest.mark.parametrize(
    ("symbol", "name"),
    [
        ("uv__io_poll", "uv__io_poll"),
        ("__pyx_pw_6uvloop_4loop_4Loop_25run_forever", "Loop.run_forever"),
        ("__pyx_f_6uvloop_4loop_run_in_context1", "run_in_context1"),
        ("uv__read.part.0", "uv__read"),
        ("serde::de::visit::h0123456789abcdef", "serde::de::visit"),
        ("__pyx_f_", "__pyx_f_"),
    ],
)
def test_names_of_native_functions(symbol: str, name: str) -> None:
    assert plain_name(symbol) == name
