"""Why some cases of Autobahn's suite are other than OK on shardserve. The whole list; it is to stay short.

A verdict that is not in it fails `make autobahn`. A reason covers exactly the verdicts that it names: a
NON-STRICT that is explained cannot become a FAILED unseen.
"""

from __future__ import annotations

from tests.autobahn.results import Reason

TEXT_OF_A_WHOLE_FRAME = (
    "Text that cannot be UTF-8 any more, in a frame that has not come whole: it is closed with 1007 when the"
    " frame is there. Between the frames of a message it is noticed at once (6.4.1 and 6.4.2). What waits is"
    " bounded by --ws-max-size, and nothing of it reaches the app."
)


def _non_strict(text: str, *cases: str, sometimes: bool = False) -> tuple[Reason, ...]:
    return tuple(Reason(case, "NON-STRICT", "OK", text, sometimes) for case in cases)


REASONS: tuple[Reason, ...] = (*_non_strict(TEXT_OF_A_WHOLE_FRAME, "6.4.3", "6.4.4"),)
