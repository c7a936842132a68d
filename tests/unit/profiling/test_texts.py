"""What perf and py-spy print, as stacks."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from shardserve.profiling import perf_text, spy_text
from shardserve.profiling.frames import CUT, Layer

PERF = """\
python  \n\
\tffffffff821ea011 do_syscall_64 ([kernel.kallsyms])
\t          10aba4 __libc_send (inlined)
\t          10aba4 __libc_send (inlined)
\t           20124 writer_send (/x/shardserve/_native.cpython-313-x86_64-linux-gnu.so)
\t           1f05f first_step (inlined)
\t           1f05f task_run (/x/shardserve/_native.cpython-313-x86_64-linux-gnu.so)
\t              85 py::main:/x/site-packages/shardserve/worker/__main__.py (/tmp/jitted-12-1835.so)
\t          2bc5f0 py_trampoline_evaluator (/usr/lib/libpython3.13.so.1.0)
\t           27304 __libc_start_main_impl (inlined)
\t            1080 _start (/usr/bin/python3.13)

python
\t          114811 Py_INCREF (inlined)
\t          114811 _PyEval_EvalFrameDefault (/usr/lib/libpython3.12.so.1.0)
\t    7fa665ace395 py::Items.<lambda>:/srv/my (old) app/main.py (/tmp/perf-31703.map)
\tffffffffffffffff [unknown] ([unknown])

a (strange) name 12
\t    7fa665ace395 [unknown] ([unknown])
a remark of perf's
"""


def names(text: str) -> list[tuple[list[str], int]]:
    found = perf_text.stacks_of(text.splitlines(keepends=True), app_root="/srv/my (old) app")
    return [([one.text for one in stack], samples) for stack, samples in found.counts.items()]


def test_perf_script() -> None:
    native = "_native.cpython-313-x86_64-linux-gnu.so"
    assert names(PERF) == [
        (
            [
                "main (shardserve/worker/__main__.py)",
                f"task_run ({native})",
                f"first_step ({native})",
                f"writer_send ({native})",
                "do_syscall_64 (kernel)",
            ],
            1,
        ),
        ([CUT, "Items.<lambda> (main.py)"], 1),
        (["[unknown]"], 1),
    ]


SPY = (
    "0x7fc7 (/usr/lib/libc.so.6);<module> (/x/site-packages/shardserve/worker/__main__.py);"
    "run_forever (/project/uvloop/loop.c);Py_DECREF (/opt/include/python3.11/object.h);"
    "data_received (/x/shardserve/_native.cpython-311-x86_64-linux-gnu.so);"
    "app.<locals>.a;b (/srv/app/main.py);__libc_send (/usr/lib/libc.so.6) 15\n"
    'process 12:"python -m x" (12);thread (0x7F);wait (/srv/app/main.py:12);__poll (/usr/lib/libc.so.6) 4\n'
    "Error: not a stack\n"
)


def test_py_spy_raw() -> None:
    found = spy_text.stacks_of(SPY, app_root="/srv/app")
    first, second = found.counts
    assert [one.name for one in first] == [
        "<module>", "run_forever", "data_received", "app.<locals>.a;b", "send"
    ]  # fmt: skip
    assert [one.layer for one in first] == [
        Layer.OURS, Layer.LOOP, Layer.OURS, Layer.APP, Layer.KERNEL
    ]  # fmt: skip
    assert [one.text for one in second] == ["wait (main.py)", "poll (system call)"]
    assert found.counts[first] == 15
    assert found.only(waiting=True).samples == 4


@given(st.text(alphabet=" ;()py:\n\t01fx[]<>unkow", max_size=120))
def test_no_text_breaks_a_parser(text: str) -> None:
    assert perf_text.stacks_of(text.splitlines()).samples <= len(text)
    assert all(stack for stack in spy_text.stacks_of(text).counts)
