"""Seeds of fuzz_connection.py: ``fuzz_seeds.py FOLDER``.

Each file of the corpus of conversations (tests/conformance/corpus) is played in three ways: as it is, cut and
whole in comparison, and with settings, steps and apps that its name deals out, so that every kind of each is
among the seeds. So is each of WEBSOCKETS, once for every app that takes one.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

from fuzz_frames import FIRST_HANDSHAKE, HANDSHAKES
from fuzz_script import APPS, BELOW, CONTROL_BYTES, ENDING, LENGTHS, PROFILE, PROFILES, STEPS
from fuzz_socket_apps import SOCKETS

CORPUS = Path(__file__).resolve().parents[2] / "tests" / "conformance" / "corpus"
LONGEST = 4096
COMPARE, EARLY = 4, 32
# Steps: reads before the loop turns, the end of the input, one app goes on.
A_HANDSHAKE, END = 0x20 | LENGTHS.index(160), 0xE0
TWO_HUNDRED, READ_SOME, WAKE_ONE = 0x20 | LENGTHS.index(200), (0x27, 0x28, 0x2A), 0xC0
LAGS = [app.__name__ for app in SOCKETS].index("lags")
SOCKET_PROFILES = [number for number, profile in enumerate(PROFILES) if "websocket" in profile]
HTTP_PROFILES = [number for number, profile in enumerate(PROFILES) if "websocket" not in profile]
SOCKET_DEALS = 8
REQUEST = b"GET /a HTTP/1.1\r\nHost: h\r\n\r\n"
OPEN, OPEN_DEFLATE = b"\xff\xf0", b"\xff\xf1"
WEBSOCKETS = {
    "messages": OPEN + b"\xff\x81\x05hello!!!\xff\x82\x06abcdefghijklmnop\xff\x81\x00\xff\x88\x52\x00b",
    "lengths": OPEN + b"\xff\x82\x0ab\xff\x82\x0bc\xff\x82\x0cd\xff\x82\x0ee\xff\x82\x0ff",
    "text": OPEN + b"\xff\x81\x46................\xff\x01\x47.................\xff\x80\x03\x9f\x98\x80",
    "fragments": OPEN + b"\xff\x01\x03abc\xff\x89\x02hi\xff\x00\x03def\xff\x80\x03ghi\xff\x82\x02ok",
    "too_many_fragments": OPEN + b"\xff\x02\x61a\xff\x00\x61b\xff\x80\x61c",
    "pings": OPEN + b"\xff\x89\x02hi\xff\x8a\x02ho\xff\x89\x0ax\xff\x89\x62xy\xff\x89\x0bx",
    "compressed": OPEN_DEFLATE
    + b"\xff\xc1\x36hello hello hell\xff\x41\x34hello\xff\x80\x04\0\0\xff\xff\0\xff\xc2\x3cx",
    "bomb": OPEN_DEFLATE + b"\xff\xc2\x71x\xff\x82\x01x",
    "nothing_agreed": OPEN + b"\xff\xc1\x34hello",
    "unmasked": OPEN + b"\xff\x81\x03abc\xff\x81\x83abc",
    "not_minimal": OPEN + b"\xff\x81\x93abc\xff\x81\xa3abc\xff\x88\x52\x00b",
    "longer_than_it_is": OPEN + b"\xff\x81\xb3abc\xff\x82\x03xyz",
    "huge": OPEN + b"\xff\x82\x03abc\xff\x82\xc0\xff\x82\xc3abc",
    "wrong_codes": OPEN + b"\xff\x81\x01a\xff\x88\x52\x03b",
    "close_at_once": OPEN + b"\xff\x88\x00\xff\x81\x01a",
    "behind_a_request": REQUEST + OPEN + b"\xff\x81\x04hello\xff\x88\x52\x06z" + REQUEST,
    "denied_and_on": OPEN + REQUEST + OPEN + b"\xff\x82\x02ok",
    "many": OPEN + b"".join(b"\xff\x82\x01" + bytes([number]) for number in range(48)),
    "flood": OPEN + b"\xff\x82\x64abcde\xff\x81\x60\xff\x82\x64fghij",
}
WEBSOCKETS |= {
    f"handshake_{number}": bytes([0xFF, FIRST_HANDSHAKE + number]) + b"\xff\x81\x02hi" + REQUEST
    for number in range(len(HANDSHAKES))
}


def conversations() -> dict[str, bytes]:
    """What the client sends in each file: line ends do not count there, and there are escapes."""
    found = {}
    for path in sorted(CORPUS.glob("*.http")):
        text = path.read_text("utf-8").partition("\n---\n")[2].replace("\n", "")
        found[path.stem] = text.encode("ascii").decode("unicode_escape").encode("latin-1")
    return found


def controls(dice: random.Random, profiles: list[int]) -> dict[str, bytes]:
    compared = bytearray(CONTROL_BYTES)
    compared[PROFILE], compared[BELOW] = dice.choice(profiles), COMPARE
    compared[STEPS] = dice.choice([b"\1\1\1\1\1\1\1\1", b"\1\2\3\4\5\6\7\1", dice.randbytes(8)])
    dealt = bytearray(CONTROL_BYTES)
    dealt[PROFILE], dealt[ENDING], dealt[BELOW] = dice.choice(profiles), dice.randrange(6), dice.randrange(4)
    dealt[APPS] = dice.randbytes(6)
    dealt[STEPS] = dice.randbytes(8)
    plain = bytearray(CONTROL_BYTES)
    plain[PROFILE] = profiles[0]
    early = bytearray(compared)
    early[BELOW] |= EARLY
    made = {"plain": plain, "cut": compared, "dealt": dealt, "early": early}
    return {way: bytes(control) for way, control in made.items()}


def slow(dice: random.Random) -> bytes:
    """A WebSocket whose app lags: reads of a frame or so, and now and then one message is heard."""
    control = bytearray(CONTROL_BYTES)
    control[PROFILE], control[ENDING] = dice.choice(SOCKET_PROFILES), dice.randrange(2)
    control[APPS] = bytes([LAGS]) * 6
    control[STEPS] = bytes([TWO_HUNDRED, *dice.choices([WAKE_ONE, *READ_SOME], k=7)])
    return bytes(control)


def hasty(dice: random.Random) -> bytes:
    """The client shakes hands, says something and ends its input, all before the loop has turned."""
    control = bytearray(CONTROL_BYTES)
    control[PROFILE], control[ENDING] = dice.choice(SOCKET_PROFILES), dice.randrange(6)
    control[APPS] = bytes([dice.choice([0, dice.randrange(len(SOCKETS))])]) * 6
    control[STEPS] = bytes([dice.choice([A_HANDSHAKE, TWO_HUNDRED]), END] * 4)
    return bytes(control)


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name, raw in conversations().items():
        if len(raw) <= LONGEST:
            for way, control in controls(random.Random(name), HTTP_PROFILES).items():
                (folder / f"{name}.{way}").write_bytes(control + raw)
    for name, raw in WEBSOCKETS.items():
        for deal in range(SOCKET_DEALS):
            dice = random.Random(f"{name} {deal}")
            ways = {**controls(dice, SOCKET_PROFILES), "slow": slow(dice), "hasty": hasty(dice)}
            for way, control in ways.items():
                (folder / f"ws_{name}.{way}{deal}").write_bytes(control + raw)


if __name__ == "__main__":
    main()
