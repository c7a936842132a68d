"""``--balance``: which of the sockets on one address a new connection goes to.

Rules of this file: programs are built (pure) and attached (one setsockopt) here; the master decides
when. A program returns the *position* of a socket in its reuseport group, which is the order in which
the sockets began to listen; a position that is not there makes the kernel fall back on its hash.

    hash     nothing is attached: the kernel hashes both addresses and ports of the connection
    random   any socket, evenly
    cpu      the socket whose worker is pinned to the CPU that the connection arrived on. Worth it where
             the NIC spreads its flows over the CPUs (RSS); where it does not, one worker gets all

Classic BPF (socket(7), SO_ATTACH_REUSEPORT_CBPF): an accumulator A, forward jumps, and nothing to
clean up. It needs no privilege.
"""

from __future__ import annotations

import ctypes
import os
import socket
import struct
from collections.abc import Iterable, Sequence

# asm-generic/socket.h; Python's socket module does not have these.
SO_ATTACH_REUSEPORT_CBPF = 51
SO_DETACH_REUSEPORT_BPF = 68

# linux/filter.h, linux/bpf_common.h
BPF_MAXINSNS = 4096
LONGEST_JUMP = 255  # jt and jf are bytes
LD_ABS = 0x20  # A = 32 bits of the packet, or one of the ancillary facts:
SKF_AD_CPU = 0xFFFFF000 + 36
SKF_AD_RANDOM = 0xFFFFF000 + 56
MOD_K = 0x94  # A %= k
JEQ_K = 0x15  # skip jt instructions if A == k, else jf
RET_K = 0x06
RET_A = 0x16

Instruction = tuple[int, int, int, int]  # code, jt, jf, k


def program(balance: str, cores: Sequence[int | None]) -> list[Instruction]:
    """The program for a group of sockets; empty: none. ``cores``: by position, the core of the slot."""
    if balance == "hash" or len(cores) < 2:
        return []
    if balance == "random":
        return [*_modulo(SKF_AD_RANDOM, len(cores)), _op(RET_A)]
    return _by_cpu(cores)


def _by_cpu(cores: Sequence[int | None]) -> list[Instruction]:
    """The sockets of the CPU's own workers. CPUs that have none are spread over all sockets."""
    positions: dict[int, list[int]] = {}
    for position, core in enumerate(cores):
        if core is not None:
            positions.setdefault(core, []).append(position)
    # CPU modulo the number of sockets reaches every socket only where there are CPUs enough.
    fact = SKF_AD_CPU if len(cores) <= (os.cpu_count() or 1) else SKF_AD_RANDOM
    anywhere = [*_modulo(fact, len(cores)), _op(RET_A)]
    made: list[Instruction] = [_op(LD_ABS, SKF_AD_CPU)]
    for core, own in positions.items():
        choice = _any_of(own)
        if len(choice) > LONGEST_JUMP:
            return anywhere
        made += [_op(JEQ_K, core, jf=len(choice)), *choice]
    made += anywhere
    return made if len(made) <= BPF_MAXINSNS else anywhere


def _any_of(positions: Sequence[int]) -> list[Instruction]:
    """Return one of these. There are several when more workers than cores share a core."""
    if len(positions) == 1:
        return [_op(RET_K, positions[0])]
    made = _modulo(SKF_AD_RANDOM, len(positions))
    for index, position in enumerate(positions[:-1]):
        made += [_op(JEQ_K, index, jf=1), _op(RET_K, position)]
    return [*made, _op(RET_K, positions[-1])]


def _modulo(fact: int, count: int) -> list[Instruction]:
    return [_op(LD_ABS, fact), _op(MOD_K, count)]


def _op(code: int, k: int = 0, *, jf: int = 0) -> Instruction:
    return (code, 0, jf, k)


def attach(sock: socket.socket, instructions: Iterable[Instruction]) -> None:
    """Attach it to the group of this socket, in place of another one. Raises OSError."""
    code = b"".join(struct.pack("=HBBI", *one) for one in instructions)
    buffer = ctypes.create_string_buffer(code, len(code))
    fprog = struct.pack("@HP", len(code) // 8, ctypes.addressof(buffer))
    sock.setsockopt(socket.SOL_SOCKET, SO_ATTACH_REUSEPORT_CBPF, fprog)


def detach(sock: socket.socket) -> None:
    """Leave the group to the kernel's hash again. Raises OSError, ENOENT if nothing is attached."""
    sock.setsockopt(socket.SOL_SOCKET, SO_DETACH_REUSEPORT_BPF, 0)
