"""Folding, simplifying, and the shares of the layers."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from shardserve.profiling.frames import Frame, Layer
from shardserve.profiling.stacks import Share, Stacks, responsible, shares, simplified, tree


def py(name: str, layer: Layer = Layer.APP, package: str = "") -> Frame:
    return Frame(name, f"{name}.py", layer, package, python=True)


def c(name: str, layer: Layer = Layer.INTERPRETER, *, inlined: bool = False, waits: bool = False) -> Frame:
    return Frame(name, "x.so", layer, inlined=inlined, waits=waits)


FRAMES = st.builds(
    Frame,
    st.text(max_size=6),
    st.text(max_size=4),
    st.sampled_from(Layer),
    st.sampled_from(["", "fastapi"]),
    st.booleans(),
    st.booleans(),
)
STACKS = st.lists(st.tuples(st.lists(FRAMES, max_size=6), st.integers(1, 50)), max_size=12)


def stacks_of(*rows: tuple[list[Frame], int]) -> Stacks:
    found = Stacks()
    for frames, samples in rows:
        found.add(frames, samples)
    return found


def test_the_interpreter_between_two_functions_is_left_out() -> None:
    stack = (
        c("_start"),
        py("main", Layer.OURS),
        c("eval"),
        c("vectorcall"),
        py("app"),
        c("_PyEval_EvalFrameDefault"),
    )
    assert [one.name for one in simplified(stack)] == ["main", "app"]


def test_what_a_function_had_the_interpreter_do_stays() -> None:
    stack = (py("app"), c("_PyEval_EvalFrameDefault"), c("PyObject_Vectorcall"), c("dict_get"))
    assert [one.name for one in simplified(stack)] == ["app", "PyObject_Vectorcall", "dict_get"]


def test_the_way_from_the_entry_is_left_out() -> None:
    run = py("_run_code", Layer.INTERPRETER)
    assert [one.name for one in simplified((c("_start"), run, py("main", Layer.OURS)))] == ["main"]
    assert [one.name for one in simplified((c("_start"), run, c("gc_collect")))] == ["gc_collect"]


def test_recursion_of_python_stays_and_a_wrapper_of_cython_does_not() -> None:
    stack = (py("walk"), py("walk"), c("Loop.run", Layer.LOOP), c("Loop.run", Layer.LOOP))
    assert [one.name for one in simplified(stack)] == ["walk", "walk", "Loop.run"]


def test_folded_lines_are_sorted_and_nothing_breaks_them() -> None:
    stacks = stacks_of(([py("b")], 2), ([py("a"), py("x;y\nz 7")], 1))
    assert stacks.folded() == "a (a.py);x:y?z 7 (x:y?z 7.py) 1\nb (b.py) 2\n"


@given(STACKS)
def test_the_folded_file_has_every_sample(rows: list[tuple[list[Frame], int]]) -> None:
    stacks = stacks_of(*rows)
    lines = stacks.folded().splitlines()
    assert sum(int(line.rpartition(" ")[2]) for line in lines) == stacks.samples
    assert stacks_of(*reversed(rows)).folded() == stacks.folded()


@given(STACKS)
def test_both_columns_add_up(rows: list[tuple[list[Frame], int]]) -> None:
    found = shares(stacks_of(*rows))
    assert sum(one.here for one in found.layers.values()) == found.samples
    assert sum(one.on_behalf for one in found.layers.values()) == found.samples
    app = found.layers[Layer.APP]
    assert sum(one.here for one in found.packages.values()) == app.here
    assert sum(one.on_behalf for one in found.packages.values()) == app.on_behalf


def test_on_whose_behalf() -> None:
    app, send = py("app", package="fastapi"), c("tcp_sendmsg", Layer.KERNEL)
    ours = c("writer_send", Layer.OURS)
    assert responsible((app, ours, send)) == ours
    assert responsible((ours, app, c("dict_get"))) == app
    assert responsible((send,)) == send
    found = shares(stacks_of(([app, ours, send], 3), ([ours, app, c("dict_get")], 1)))
    assert found.layers[Layer.KERNEL] == Share(3, 0)
    assert found.layers[Layer.OURS] == Share(0, 3)
    assert found.layers[Layer.INTERPRETER] == Share(1, 0)
    assert found.packages == {"fastapi": Share(0, 1)}


def test_those_that_wait_are_told_apart() -> None:
    waits = [py("app"), c("poll", Layer.KERNEL, waits=True)]
    stacks = stacks_of((waits, 5), ([py("app")], 2))
    assert stacks.only(waiting=True).samples == 5
    assert stacks.only(waiting=False).samples == 2


def test_the_tree_adds_up() -> None:
    root = tree(stacks_of(([py("a"), py("b")], 2), ([py("a"), py("c")], 3), ([py("d")], 1)), "all")
    assert root.samples == 6
    assert [(one.frame.name, one.samples) for one in root.ordered()] == [("a", 5), ("d", 1)]
    (a, _) = root.ordered()
    assert [(one.frame.name, one.samples) for one in a.ordered()] == [("b", 2), ("c", 3)]
