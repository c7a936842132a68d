"""Seeds of fuzz_connection.py from the corpus of conversations: ``fuzz_seeds.py FOLDER``.

Each file of tests/conformance/corpus is played in three ways: as it is, cut and whole in comparison, and with
settings, steps and apps that its name deals out, so that every kind of each is among the seeds.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

from fuzz_script import APPS, BELOW, CONTROL_BYTES, ENDING, PROFILE, STEPS

CORPUS = Path(__file__).resolve().parents[2] / "tests" / "conformance" / "corpus"
LONGEST = 4096
COMPARE = 4


def conversations() -> dict[str, bytes]:
    """What the client sends in each file: line ends do not count there, and there are escapes."""
    found = {}
    for path in sorted(CORPUS.glob("*.http")):
        text = path.read_text("utf-8").partition("\n---\n")[2].replace("\n", "")
        found[path.stem] = text.encode("ascii").decode("unicode_escape").encode("latin-1")
    return found


def controls(dice: random.Random) -> dict[str, bytes]:
    compared = bytearray(CONTROL_BYTES)
    compared[PROFILE], compared[BELOW] = dice.randrange(8), COMPARE
    compared[STEPS] = dice.choice([b"\1\1\1\1\1\1\1\1", b"\1\2\3\4\5\6\7\1", dice.randbytes(8)])
    dealt = bytearray(CONTROL_BYTES)
    dealt[PROFILE], dealt[ENDING], dealt[BELOW] = dice.randrange(8), dice.randrange(6), dice.randrange(4)
    dealt[APPS] = dice.randbytes(6)
    dealt[STEPS] = dice.randbytes(8)
    return {"plain": bytes(CONTROL_BYTES), "cut": bytes(compared), "dealt": bytes(dealt)}


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name, raw in conversations().items():
        if len(raw) <= LONGEST:
            for way, control in controls(random.Random(name)).items():
                (folder / f"{name}.{way}").write_bytes(control + raw)


if __name__ == "__main__":
    main()
