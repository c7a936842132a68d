"""Stacks folded: each different one once, with how often it was seen; and the shares of the layers.

Rules of this file: pure. A stack begins with its root, the function that called all others. What is
left out for a reader's sake is only what says nothing: the interpreter's own frames between two
functions, and the way from a process's entry to its first interesting frame.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from .frames import CUT, Frame, Layer

Stack = tuple[Frame, ...]

# Executing the bytecode of a function is that function, not a function of the interpreter.
_EVALUATION = ("_PyEval_", "py_trampoline_evaluator", "_Py_trampoline", "_TAIL_CALL_")


@dataclass
class Stacks:
    """What was seen: samples by stack."""

    counts: Counter[Stack] = field(default_factory=Counter)

    @property
    def samples(self) -> int:
        return self.counts.total()

    def add(self, stack: Iterable[Frame], samples: int = 1) -> None:
        """Count a stack as a profiler saw it. One of no frame at all is not counted."""
        if readable := simplified(tuple(stack)):
            self.counts[readable] += samples

    def update(self, other: Stacks) -> None:
        self.counts.update(other.counts)

    def only(self, *, waiting: bool) -> Stacks:
        """The stacks that wait in a system call, or all others."""
        return Stacks(Counter({one: n for one, n in self.counts.items() if one[-1].waits is waiting}))

    @property
    def cut(self) -> int:
        """Samples of stacks whose beginning is missing."""
        return sum(n for stack, n in self.counts.items() if stack[0].name == CUT)

    @property
    def with_python(self) -> int:
        """Samples of stacks in which a function of Python is named."""
        return sum(n for stack, n in self.counts.items() if any(one.python for one in stack))

    def folded(self) -> str:
        """One line for each stack, the way tools for flame graphs read it: ``root;…;leaf 12``, sorted."""
        lines = Counter[str]()
        for stack, samples in self.counts.items():
            lines[";".join(_folded_name(one) for one in stack)] += samples
        return "".join(f"{line} {samples}\n" for line, samples in sorted(lines.items()))


def _folded_name(frame: Frame) -> str:
    """Semicolons part frames and newlines part stacks: neither may be in a name."""
    clean = (":" if char == ";" else char if char.isprintable() else "?" for char in frame.text)
    return "".join(clean).strip() or "?"


def simplified(stack: Stack) -> Stack:
    """A stack without what says nothing. See the rules above."""
    stack = tuple(one for one in stack if not (one.inlined and one.layer is Layer.INTERPRETER))
    inner = len(stack)
    while inner and _is_glue(stack[inner - 1]):
        inner -= 1
    kept = [one for one in stack[:inner] if not _is_glue(one)]
    kept += _without_evaluation(stack[inner:]) if kept and kept[-1].python else stack[inner:]
    start = 0
    while start < len(kept) and kept[start].layer is Layer.INTERPRETER:
        start += 1
    kept = kept[start:] if start < len(kept) else kept[-1:]
    return tuple(one for before, one in zip([None, *kept], kept, strict=False) if not _again(before, one))


def _is_glue(frame: Frame) -> bool:
    return frame.layer is Layer.INTERPRETER and not frame.python


def _without_evaluation(glue: Sequence[Frame]) -> list[Frame]:
    start = 0
    while start < len(glue) and glue[start].name.startswith(_EVALUATION):
        start += 1
    return list(glue[start:])


def _again(before: Frame | None, frame: Frame) -> bool:
    """Cython makes two functions of one, a wrapper and a body."""
    return before == frame and frame.layer in (Layer.LOOP, Layer.PARSER) and not frame.python


# Shares


@dataclass(frozen=True, slots=True)
class Share:
    """Samples of one layer, or of one package of the app."""

    here: int
    """Its own code was running."""
    on_behalf: int
    """It, or the kernel or the interpreter that it had called, was running."""


@dataclass(frozen=True)
class Shares:
    """Samples by layer, and the app's by package. Both columns add up to ``samples``."""

    samples: int
    layers: dict[Layer, Share]
    packages: dict[str, Share]
    """The packages of Layer.APP, the most expensive first."""


def shares(stacks: Stacks) -> Shares:
    """Who was running, and on whose behalf: the innermost frame that is neither the kernel's nor the
    interpreter's has called for it.
    """
    here: Counter[tuple[Layer, str]] = Counter()
    behalf: Counter[tuple[Layer, str]] = Counter()
    for stack, samples in stacks.counts.items():
        leaf = stack[-1]
        here[leaf.layer, leaf.package] += samples
        owner = responsible(stack)
        behalf[owner.layer, owner.package] += samples
    layers = {layer: Share(_sum(here, layer), _sum(behalf, layer)) for layer in Layer}
    names = {package for layer, package in [*here, *behalf] if layer is Layer.APP}
    packages = {name: Share(here[Layer.APP, name], behalf[Layer.APP, name]) for name in names}
    ordered = sorted(packages.items(), key=lambda item: (-item[1].on_behalf, -item[1].here, item[0]))
    return Shares(stacks.samples, layers, dict(ordered))


def responsible(stack: Stack) -> Frame:
    """The innermost frame that did not merely serve another one; the leaf if there is none."""
    others = (one for one in reversed(stack) if one.layer not in (Layer.KERNEL, Layer.INTERPRETER))
    return next((one for one in others if one.layer is not Layer.UNKNOWN), stack[-1])


def _sum(counts: Counter[tuple[Layer, str]], layer: Layer) -> int:
    return sum(samples for (one, _), samples in counts.items() if one is layer)


# The tree


@dataclass(slots=True)
class Node:
    """A frame as it was called from one chain of callers."""

    frame: Frame
    samples: int = 0
    children: dict[Frame, Node] = field(default_factory=dict)

    def ordered(self) -> Iterator[Node]:
        """By name, so that two graphs can be laid side by side."""
        return iter(sorted(self.children.values(), key=lambda one: (one.frame.text, one.frame.layer.value)))


def tree(stacks: Stacks, name: str) -> Node:
    """All stacks as one tree, under a root of this name."""
    root = Node(Frame(name, "", Layer.UNKNOWN))
    for stack, samples in stacks.counts.items():
        root.samples += samples
        node = root
        for frame in stack:
            child = node.children.get(frame)
            if child is None:
                child = node.children[frame] = Node(frame)
            child.samples += samples
            node = child
    return root
