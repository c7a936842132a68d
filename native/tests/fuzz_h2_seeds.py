"""Seeds of fuzz_h2.py: ``fuzz_h2_seeds.py FOLDER``.

Each of CONVERSATIONS is played as it is, cut and whole in comparison, and with settings, steps and apps that
its name deals out, with a polite client and with one that is not.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

from fuzz_apps import BEHAVIOURS
from fuzz_h2_client import FIELDS, OPERATIONS, PREAMBLES, REQUESTS, WEBSOCKETS
from fuzz_h2_script import CONTROL_BYTES, PREAMBLE, PROFILES
from fuzz_script import APPS, BELOW, ENDING, PROFILE, STEPS

COMPARE, EARLY, POLITE, TLS = 4, 32, 16, 64
DEALS = 6
SOCKET_PROFILES = [number for number, profile in enumerate(PROFILES) if "websocket" in profile]
NUMBERS = {
    operation.__name__.removeprefix("op_"): number for number, operation in reversed([*enumerate(OPERATIONS)])
}


def op(name: str, variant: int = 0, *more: int) -> bytes:
    return bytes([variant << 5 | NUMBERS[name], *more])


def again(times: int, *operation: bytes) -> bytes:
    return op("again", 0, times) + b"".join(operation)


GET, POST = op("request", 0, 0), op("request", 0, 1)
OPEN = op("websocket")


def message(first: int, form: int, payload: bytes) -> bytes:
    return op("message", 0, 0, first, form) + payload


CONVERSATIONS = {
    "nothing": b"",
    "one": GET,
    "three": GET * 3,
    "many": again(6, GET),
    "bodies": op("exchange", 1, 2) + op("exchange", 5, 6) + op("exchange", 2, 9) + op("exchange", 0, 15),
    "a_body_in_parts": POST + op("data", 0, 0x20) * 4 + op("data", 1, 0),
    "a_body_that_lies": op("exchange", 7, 2),
    "padding": POST + op("data", 2, 0x40, 200) + op("data", 3, 0x20, 1),
    "more_than_the_window": POST + op("data", 0, 0xF0) * 5,
    "windows": op("window", 1, 0x40) + GET + op("window", 0, 0) + op("window", 2, 0x10),
    "windows_byte_by_byte": GET + again(8, op("window", 0, 0)),
    "resets": (GET + op("reset", 1, 0)) * 3 + POST + op("reset", 0, 0),
    "rapid_reset": again(7, op("rapid_reset", 0, 0)),
    "settings": op("settings") + op("settings", 3, 0x44, 0x05) + GET + op("settings", 2, 0x04) + GET,
    "tables": GET
    + op("settings", 2, 0x01)
    + GET
    + op("settings", 2, 0x31)
    + GET
    + op("table_size", 1, 0)
    + GET,
    "pings": op("ping") + op("ping", 1) + op("ping", 6) + b"abc",
    "ping_flood": again(10, op("ping")),
    "settings_flood": again(10, op("settings", 1)),
    "priority_flood": GET + again(10, op("priority", 0, 0)),
    "empty_data": POST + op("nothing", 0, 0x80),
    "empty_continuations": op("open_block", 1) + op("nothing", 2, 0x30),
    "continuations": op("request", 4, 4)
    + op("request", 3, 14)
    + op("open_block", 1)
    + op("continuation", 1, 0),
    "a_block_broken_off": op("open_block", 1) + op("ping") + GET,
    "goaway": GET + op("goaway", 0, 9) + GET,
    "priorities": GET + op("priority_update", 1, 0) + op("priority", 0, 0) + op("request", 0, 8),
    "unknown": op("unknown", 7, 0) + GET + op("unknown", 3, 4),
    "push": op("push", 1, 9),
    "hpack": op("hpack", 7, *b"\x82\x87\x84\x41\x01h\xff\xff") + GET,
    "bomb": op("bomb", 3, 6) + GET,
    "slow_fields": op("slow_fields", 1, 8) + GET,
    "trailers": POST + op("data", 0, 0x20) + op("trailers") + POST + op("trailers", 4, 0x70),
    "mutated": GET + op("mutated", 0, 0) + GET + op("mutated", 3, 8) + GET,
    "idle": op("data", 0, 0x2B) + op("reset", 0, 11) + op("window", 0, 11),
    "behind_the_end": GET + op("data", 0, 0x20) + op("trailers"),
    "a_large_response": op("window", 3, 0x50) + GET * 2,
    "websocket": OPEN + message(0x81, 5, b"hello!!!") + message(0x82, 2, b"ab") + message(0x88, 0x52, b"\0b"),
    "websocket_and_others": GET
    + OPEN
    + message(0x81, 3, b"abc")
    + POST
    + message(0x82, 11, b"x")
    + op("data", 1, 0),
    "websocket_deflate": op("websocket", 2) + message(0xC1, 0x34, b"hello") + message(0xC2, 0x3C, b"x"),
    "websocket_wrong": OPEN + message(0x83, 1, b"a") + OPEN + message(0x81, 0x83, b"abc"),
    "websocket_ends": OPEN + op("data", 1, 0) + OPEN + op("reset", 1, 0),
    "websocket_flood": OPEN + again(6, message(0x82, 0x64, b"abcde")),
    "websocket_bomb": op("websocket", 2) + message(0xC2, 0x71, b"x") + message(0x82, 1, b"x"),
}
CONVERSATIONS |= {f"request_{number}": op("request", 1, number) + GET for number in range(len(REQUESTS))}
CONVERSATIONS |= {
    f"websocket_{number}": op("websocket", 1, number) + message(0x81, 2, b"hi") + GET
    for number in range(len(WEBSOCKETS))
}
CONVERSATIONS |= {
    f"field_{number}": op("fields", 5, 0x10, number, 4)
    + op("fields", 4, 0x10, number, 0)
    + op("data", 1, 0x20)
    for number in range(len(FIELDS))
}
LARGE = POST + op("data", 0, 0xC0) + op("data", 0, 0xB0) + GET
NARROW = next(
    number for number, profile in enumerate(PROFILES) if "http2_initial_stream_window_size" in profile
)
APP_CONVERSATION = GET + op("exchange", 0, 8) + POST + op("data", 0, 0x30) + op("data", 1, 0x30)


def control(dice: random.Random, name: str, deal: int) -> bytes:
    made = bytearray(CONTROL_BYTES)
    profiles = SOCKET_PROFILES if name.startswith("websocket") else range(len(PROFILES))
    made[PROFILE] = dice.choice(list(profiles)) if deal else next(iter(profiles))
    if deal == 0:
        made[BELOW] = POLITE
    elif deal == 1:
        made[BELOW] = COMPARE | POLITE
        made[STEPS] = dice.choice([b"\1" * 8, b"\1\2\3\4\5\6\7\1", dice.randbytes(8)])
    else:
        made[ENDING] = dice.randrange(6)
        made[BELOW] = dice.randrange(4) | dice.choice([0, POLITE, POLITE | TLS])
        made[APPS], made[STEPS] = dice.randbytes(6), dice.randbytes(8)
    return bytes(made)


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name, raw in CONVERSATIONS.items():
        few = name.startswith("field_")
        for deal in range(2 if few else DEALS):
            made = control(random.Random(f"{name} {deal}"), name, deal)
            (folder / f"{name}.{deal}").write_bytes(made + raw)
    for number in range(len(PREAMBLES)):
        made = bytearray(control(random.Random(number), "", 0))
        made[PREAMBLE], made[BELOW] = number, number % 2 * TLS | POLITE
        (folder / f"preamble_{number}").write_bytes(bytes(made) + GET * 2)
    for number, behaviour in enumerate(BEHAVIOURS):
        for deal in (0, 2, 3):
            made = bytearray(control(random.Random(f"{number} {deal}"), "", deal))
            made[APPS] = bytes([number]) * 6
            (folder / f"app_{behaviour.__name__}.{deal}").write_bytes(bytes(made) + APP_CONVERSATION)
        made = bytearray(control(random.Random(number), "", 0))
        made[PROFILE], made[APPS], made[STEPS] = NARROW, bytes([number]) * 6, bytes([0x60]) * 8
        (folder / f"large_{behaviour.__name__}").write_bytes(bytes(made) + LARGE)
        (folder / f"large_reset_{behaviour.__name__}").write_bytes(bytes(made) + LARGE + op("reset", 1, 1))


if __name__ == "__main__":
    main()
