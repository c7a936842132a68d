"""Which socket a connection goes to: the programs, read by a small interpreter; then the kernel's word."""

from __future__ import annotations

import logging
import os
import selectors
import socket
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing

import pytest

from shardserve.config.addresses import TcpBind
from shardserve.net import balance
from shardserve.net.balance import BPF_MAXINSNS, SKF_AD_CPU, SKF_AD_RANDOM, Instruction
from shardserve.net.listeners import Listeners

LOCAL = TcpBind("127.0.0.1", 0)
WAIT_S = 20.0


def run(program: Sequence[Instruction], *, cpu: int = 0, random: int = 0) -> int:
    """What the kernel would make of it."""
    a = at = 0
    while True:
        code, jt, jf, k = program[at]
        at += 1
        match code:
            case balance.LD_ABS:
                a = {SKF_AD_CPU: cpu, SKF_AD_RANDOM: random}[k]
            case balance.MOD_K:
                a %= k
            case balance.JEQ_K:
                at += jt if a == k else jf
            case balance.RET_K:
                return k
            case balance.RET_A:
                return a


# The programs


def test_nothing_is_attached_for_hash_or_one_socket() -> None:
    assert balance.program("hash", [0, 1]) == []
    assert balance.program("random", [0]) == []
    assert balance.program("cpu", [0]) == []


def test_random_is_any_position() -> None:
    made = balance.program("random", [None] * 3)
    assert [run(made, random=n) for n in range(6)] == [0, 1, 2, 0, 1, 2]


def test_cpu_is_the_position_of_the_slot_on_that_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    made = balance.program("cpu", [6, 0, 3])
    assert [run(made, cpu=core) for core in (6, 0, 3)] == [0, 1, 2]
    assert [run(made, cpu=core) for core in (1, 2, 7)] == [1, 2, 1]  # nobody's: modulo 3


def test_slots_that_are_not_pinned_get_the_cpu_s_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    made = balance.program("cpu", [None] * 4)
    assert [run(made, cpu=core) for core in range(4)] == [0, 1, 2, 3]


def test_slots_that_share_a_core_share_its_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    made = balance.program("cpu", [0, 1, 0, 1, 0])
    assert {run(made, cpu=0, random=n) for n in range(9)} == {0, 2, 4}
    assert {run(made, cpu=1, random=n) for n in range(9)} == {1, 3}
    # With fewer cores than sockets, a core of nobody's could not reach them all by its number.
    assert {run(made, cpu=7, random=n) for n in range(9)} == {0, 1, 2, 3, 4}


@pytest.mark.parametrize(
    ("cores", "cpus"),
    [(list(range(3000)), 3000), ([0] * 1024, 1), ([*range(1024)], 1024), ([0] * 127 + [1], 2)],
)
def test_every_program_fits_and_reaches_every_socket(
    monkeypatch: pytest.MonkeyPatch, cores: list[int | None], cpus: int
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: cpus)
    made = balance.program("cpu", cores)
    assert len(made) <= BPF_MAXINSNS
    assert all(max(jt, jf) <= 255 for _, jt, jf, _ in made)
    reached = {
        run(made, cpu=cpu, random=n) for cpu in range(cpus) for n in range(len(cores) if cpus < 3 else 1)
    }
    assert reached == set(range(len(cores)))


def test_the_largest_number_of_workers_gets_an_exact_program() -> None:
    made = balance.program("cpu", list(reversed(range(1024))))
    assert [run(made, cpu=cpu) for cpu in range(1024)] == list(reversed(range(1024)))


# The kernel


def connect(listeners: Listeners, count: int, stack: ExitStack) -> None:
    address = listeners.of_slot(0)[0].sock.getsockname()
    for _ in range(count):
        stack.enter_context(socket.create_connection(address, timeout=WAIT_S))


def waiting(listeners: Listeners, total: int) -> Counter[int]:
    """Accept ``total`` connections; how many of them each slot's socket had."""
    found: Counter[int] = Counter()
    with selectors.DefaultSelector() as selector:
        for slot in listeners.slots_made:
            sock = listeners.of_slot(slot)[0].sock
            sock.setblocking(False)
            selector.register(sock, selectors.EVENT_READ, slot)
        while found.total() < total:
            ready = selector.select(WAIT_S)
            assert ready, f"{found.total()} of {total} connections arrived"
            for key, _ in ready:
                key.fileobj.accept()[0].close()  # type: ignore[union-attr]
                found[key.data] += 1
    return found


def on_core(core: int, work: Callable[[], None]) -> None:
    """Do it in a thread that runs on this core alone."""
    errors: list[BaseException] = []

    def pinned() -> None:
        try:
            os.sched_setaffinity(0, {core})
            work()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=pinned)
    thread.start()
    thread.join()
    assert errors == []


def test_random_spreads_over_all_sockets() -> None:
    with closing(Listeners([LOCAL], slots=2, backlog=512, balance="random")) as made, ExitStack() as stack:
        connect(made, 200, stack)
        found = waiting(made, 200)
        # Less than 1 in 10^20 for a fair coin.
        assert min(found[0], found[1]) > 30
        made.of_slot(2)
        connect(made, 200, stack)
        found = waiting(made, 200)
        assert min(found[0], found[1], found[2]) > 10


def test_cpu_steers_to_the_slot_on_the_client_s_core() -> None:
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        pytest.skip("one core only")
    # The last slot on the first core, so that a slot's number and its core's are not the same.
    order = list(reversed(cores))
    with (
        closing(
            Listeners(
                [LOCAL, TcpBind("127.0.0.1", 0)],
                slots=len(order) - 1,
                backlog=512,
                balance="cpu",
                core_of=lambda slot: order[slot],
            )
        ) as made,
        ExitStack() as stack,
    ):
        made.of_slot(len(order) - 1)  # made later: the program is made anew
        for slot, core in enumerate(order):
            on_core(core, lambda: connect(made, 40, stack))
            assert waiting(made, 40) == {slot: 40}


def test_a_kernel_that_refuses_is_told_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Refusing(socket.socket):
        def setsockopt(self, *args: object) -> None:  # type: ignore[override]
            if args[1] == balance.SO_ATTACH_REUSEPORT_CBPF:
                raise OSError(92, "Protocol not available")
            super().setsockopt(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "socket", Refusing)
    caplog.set_level(logging.WARNING)
    with closing(Listeners([LOCAL], slots=2, backlog=8, balance="random")) as made:
        made.of_slot(2)
        (record,) = caplog.records
        assert "balance random: the kernel refuses it" in record.getMessage()
        assert len(made.slots_made) == 3
