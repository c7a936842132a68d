"""One frame of a stack, and the layer that it belongs to.

Rules of this file: pure, and told apart by where the code is: a file of Python, a shared object, or
the C source that debug information names. A name decides only what no path can: which functions of
the C library are a system call, and which of these wait.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from functools import cache
from pathlib import Path


class Layer(Enum):
    """Who runs. The order is that of the table and of the legend."""

    KERNEL = "kernel"
    LOOP = "loop"
    PARSER = "parser"
    OURS = "shardserve"
    APP = "app"
    INTERPRETER = "interpreter"
    UNKNOWN = "unknown"

    @property
    def what(self) -> str:
        """What is counted as this layer, for a reader."""
        return _WHAT[self]


_WHAT = {
    Layer.KERNEL: "Linux: sockets, TCP, scheduling",
    Layer.LOOP: "uvloop, libuv, asyncio; TLS: aiofastnet, OpenSSL",
    Layer.PARSER: "httptools, llhttp; websockets",
    Layer.OURS: "the server",
    Layer.APP: "your code and its packages",
    Layer.INTERPRETER: "CPython, its standard library, the C library",
    Layer.UNKNOWN: "code without a name",
}

YOUR_CODE = "your code"
CUT = "[cut short]"
"""The root of a stack whose beginning the profiler could not see."""


@dataclass(frozen=True, slots=True)
class Frame:
    """A function that was running, or had called the next one."""

    name: str
    file: str
    """As short as it stays clear: ``fastapi/routing.py``, ``libc.so.6``. May be empty."""
    layer: Layer
    package: str = ""
    """Of the app's frames: the installed package, or YOUR_CODE."""
    python: bool = False
    """Whether it is a function of Python; else it is native."""
    inlined: bool = False
    """Whether the compiler made it part of its caller."""
    waits: bool = False
    """Whether it is a system call in which a thread waits."""

    @property
    def text(self) -> str:
        """``app (fastapi/routing.py)``."""
        return f"{self.name} ({self.file})" if self.file else self.name


# Installed packages that are the server's, whoever imports them.
_PACKAGES = {
    "uvloop": Layer.LOOP, "aiofastnet": Layer.LOOP,
    "httptools": Layer.PARSER, "websockets": Layer.PARSER,
    "shardserve": Layer.OURS,
}  # fmt: skip
# C sources that debug information names, by a part of their path as it was when they were built.
_SOURCES = (
    (re.compile(r"/llhttp/|/httptools/|/http-parser/"), Layer.PARSER),
    (re.compile(r"/libuv[^/]*/|/uvloop/|/aiofastnet/"), Layer.LOOP),
    (re.compile(r"/openssl[^/]*/|/libssl|/libcrypto"), Layer.LOOP),
)
_LIBRARIES = (
    (re.compile(r"^lib(ssl|crypto)\b"), Layer.LOOP),
    (re.compile(r"^_ssl\."), Layer.LOOP),
    (re.compile(r"^libuv\b"), Layer.LOOP),
)
_OURS_ROOT = Path(__file__).resolve().parents[1]
_NATIVE_SOURCES = {str(_OURS_ROOT.parent / "native")}
_INSTALLED = re.compile(r"/(?:site|dist)-packages/(?P<rest>.+)$")
_STDLIB = re.compile(r"/lib(?:64)?/python3[^/]*/(?P<rest>.+)$|/python3\d*\.zip/(?P<zip>.+)$")
_ASYNCIO = re.compile(r"(^|/)asyncio/")
_SHARED_OBJECT = re.compile(r"\.so(\.[\d.]+)?$")
_C_SOURCE = re.compile(r"\.(c|h|cc|cpp|hpp|pyx|pxd|rs|S)$")
# Interpreters, their libraries, and what they were built from.
_CPYTHON = re.compile(
    r"(^|/)(python3?[\d.]*t?|libpython[^/]*)$|/(Python-3|cpython)[^/]*/|/python3[^/]*/[^/]*\.h$"
)

# Functions of the C library that are one system call, as the last frame of a stack that has no
# kernel's. In the former a thread may be off its CPU for as long as it likes.
_WAITING = """
epoll_wait epoll_pwait epoll_pwait2 poll ppoll select pselect nanosleep clock_nanosleep pause sigsuspend
sigtimedwait sigwaitinfo wait4 waitid waitpid pthread_cond_wait pthread_cond_timedwait pthread_join
pthread_cond_clockwait pthread_timedjoin_np sem_wait sem_timedwait sem_clockwait futex_wait
futex_abstimed_wait futex_abstimed_wait_cancelable futex_abstimed_wait_common new_sem_wait_slow
new_sem_wait_slow64 do_futex_wait lll_lock_wait pthread_mutex_lock flock sched_yield
"""
_WORKING = """
send sendto sendmsg sendmmsg sendfile recv recvfrom recvmsg recvmmsg read readv pread preadv write
writev pwrite pwritev accept accept4 connect shutdown close epoll_ctl epoll_create1 socket bind listen
getsockname getpeername getsockopt setsockopt ioctl fcntl open openat stat fstat fstatat lstat lseek
getdents mmap munmap mremap mprotect madvise brk sbrk fsync fdatasync unlink rename kill tgkill
getrandom syscall getrusage clone clone3 fork vfork execve pipe pipe2 dup dup2 dup3 splice eventfd
eventfd_write sched_setaffinity sched_getaffinity timerfd_settime statx access faccessat readlink
"""
_WAITS, _CALLS = frozenset(_WAITING.split()), frozenset(_WORKING.split())


def call_name(name: str) -> str:
    """A function of the C library by its plain name: ``__libc_send`` is send, ``lseek64`` lseek."""
    return re.sub(
        r"(_nocancel|@.*)$", "", re.sub(r"^_*(GI_)?_*(libc_|pthread_(?=poll))?", "", name)
    ).removesuffix("64")


def python_frame(name: str, path: str, *, app_root: str = "") -> Frame:
    """A function of Python. ``path`` is its code's ``co_filename``."""
    layer, package, file = _where(path, app_root)
    return Frame(name, file, layer, package, python=True)


def native_frame(name: str, where: str, *, inlined: bool = False, leaf: bool = False) -> Frame:
    """A native function. ``where`` is its shared object, or its C source. ``leaf``: it is the last frame of
    a stack in which the kernel cannot be seen.
    """
    if where.startswith(("[kernel", "[guest.kernel")) or re.search(r"\.ko(\.\w+)?$", where):
        return Frame(name, "kernel", Layer.KERNEL, inlined=inlined)
    if where.startswith("[") and not where.startswith(("[vdso", "[kernel")):
        if where in ("[unknown]", "[heap]", "[stack]", "[anon]"):
            return Frame(name, "", Layer.UNKNOWN, inlined=inlined)
        # A module of the kernel is printed as [name].
        return Frame(name, where.strip("[]"), Layer.KERNEL, inlined=inlined)
    name = plain_name(name)
    layer, package, file = _native_where(where)
    if leaf and layer is Layer.INTERPRETER and re.match(r"(libc|libpthread|ld-)", file):
        plain = call_name(name)
        if plain in _WAITS or plain in _CALLS:
            return Frame(plain, "system call", Layer.KERNEL, waits=plain in _WAITS)
    return Frame(name, file, layer, package, inlined=inlined)


@cache
def _where(path: str, app_root: str) -> tuple[Layer, str, str]:
    """Layer, package and short name of a file of Python."""
    if path.startswith("<frozen ") or path in ("", "<string>", "<attrs>"):
        return Layer.INTERPRETER, "", path
    if found := _INSTALLED.search(path):
        rest = found["rest"]
        package = _distribution(rest)
        return (_PACKAGES[package], "", rest) if package in _PACKAGES else (Layer.APP, package, rest)
    if Path(path).is_relative_to(_OURS_ROOT):
        # The demo is an app that anybody could have written.
        demo = Path(path).name == "demo.py"
        return (Layer.APP, YOUR_CODE, path_tail(path)) if demo else (Layer.OURS, "", _ours(path))
    if found := _STDLIB.search(path):
        rest = found["rest"] or found["zip"]
        return (Layer.LOOP if _ASYNCIO.search(rest) else Layer.INTERPRETER), "", rest
    if app_root and path.startswith(f"{app_root}/"):
        return Layer.APP, YOUR_CODE, path[len(app_root) + 1 :]
    return Layer.APP, YOUR_CODE, path_tail(path)


@cache
def _native_where(where: str) -> tuple[Layer, str, str]:
    """Layer, package and short name of a shared object or a C source."""
    short = where.rsplit("/", 1)[-1]
    if found := _INSTALLED.search(where):
        package = _distribution(found["rest"])
        return (_PACKAGES[package], "", short) if package in _PACKAGES else (Layer.APP, package, short)
    if where.startswith(f"{_OURS_ROOT}/") or any(where.startswith(f"{one}/") for one in _NATIVE_SOURCES):
        return Layer.OURS, "", short
    if short.startswith("_native."):
        return Layer.OURS, "", short
    for pattern, layer in _LIBRARIES:
        if pattern.search(short):
            return layer, "", short
    if _CPYTHON.search(where) or _STDLIB.search(where):
        return Layer.INTERPRETER, "", short
    if _C_SOURCE.search(short):
        for pattern, layer in _SOURCES:
            if pattern.search(where):
                return layer, "", short
        return Layer.INTERPRETER, "", short
    return Layer.INTERPRETER, "", short


def _distribution(rest: str) -> str:
    """``fastapi/routing.py`` is of fastapi, ``six.py`` of six, ``numpy.libs/x.so`` of numpy."""
    return rest.split("/", 1)[0].removesuffix(".py").split(".", 1)[0]


def _ours(path: str) -> str:
    return f"shardserve/{Path(path).relative_to(_OURS_ROOT)}"


def path_tail(path: str, parts: int = 2) -> str:
    """The last two parts of a path: enough to know a file by."""
    return "/".join(path.rsplit("/", parts)[-parts:])


_CYTHON = re.compile(r"^__pyx_(?:pw|pf|f|fuse_\d+|gb|tp_\w+?|specialmethod)_+(?P<rest>\d.*)$")


def plain_name(symbol: str) -> str:
    """What a person calls a native function: Cython's and Rust's decorations are taken off.

    >>> plain_name("__pyx_pw_6uvloop_4loop_4Loop_25run_forever")
    'Loop.run_forever'
    """
    found = _CYTHON.match(symbol)
    if found is None:
        return re.sub(
            r"::h[0-9a-f]{16}$", "", re.sub(r"\.(constprop|isra|part|cold|lto_priv)\.?\d*", "", symbol)
        )
    rest, parts = found["rest"], []
    while length := re.match(r"\d+", rest):
        rest = rest[length.end() :]
        size = int(length[0])
        if rest[size : size + 1] != "_":  # a number of its own, not a length: 25run_forever
            break
        parts.append(rest[:size])
        rest = rest[size + 1 :]
    classes = [part for part in parts if part[:1].isupper()]
    return ".".join([*classes[-1:], rest.lstrip("_") or "?"])
