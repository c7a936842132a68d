"""Plays inputs: once; or twice, to see that the answers do not depend on how the bytes were cut, or that apps
saw what was sent whatever else happened.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from fuzz_apps import Call
from fuzz_input import Play, Stage
from fuzz_responses import Reject, must
from fuzz_script import (
    BELOW,
    CONTROL_BYTES,
    PROFILE,
    PROFILES,
    STEPS,
    WHOLE,
    client_bytes,
    ends_early,
    is_checked,
    is_comparison,
    owns_stage,
)
from fuzz_sockets import Socket


class Theatre:
    """Plays inputs. ``trace(*words)`` hears of everything."""

    profiles = PROFILES

    def __init__(self, native: Any, world: Any, trace: Callable[..., None] | None = None) -> None:
        self.native, self.world = native, world
        self.trace = trace or (lambda *_: None)
        self.stages: dict[int, Stage] = {}
        self.unraisable: list[Any] = []
        sys.unraisablehook = self.note_unraisable

    def note_unraisable(self, unraisable: Any) -> None:
        # As text: nothing of it is kept alive.
        self.unraisable.append((repr(unraisable.object), repr(unraisable.exc_value)))

    def stage(self, control: bytes) -> Stage:
        number = control[PROFILE] % len(self.profiles)
        if owns_stage(control):
            return Stage(self.native, self.world, self.profiles[number], number)
        stage = self.stages.get(number)
        if stage is None or stage.left == 0:
            if stage is not None:
                stage.close()
            stage = self.stages[number] = Stage(self.native, self.world, self.profiles[number], number)
        stage.left -= 1
        return stage

    def __call__(self, data: bytes) -> None:
        control = data[:CONTROL_BYTES].ljust(CONTROL_BYTES, b"\0")
        raw = client_bytes(control, data[CONTROL_BYTES:])
        stage = self.stage(control)
        if is_comparison(control):
            self.compare(stage, control, raw)
        else:
            play = Play(stage, control, raw, self.trace)
            play.play()
            play.end()
            heads = heads_of(play)
            play.forget()
            if owns_stage(control):
                stage.close()
            if is_checked(control):
                self.check_heads(heads, control, raw)
        must(not self.unraisable, "unraisable", self.unraisable)

    def check_heads(self, heads: list[Any], control: bytes, raw: bytes) -> None:
        """Whatever happened to the connection, its apps saw no other requests, and in no other order."""
        self.trace("-- the same bytes, and nothing else")
        quiet = bytes([*control[:BELOW], 0, *control[BELOW + 1 :]])
        play = Play(self.stage(quiet), quiet, raw, self.trace)
        play.play_plain(WHOLE)
        wanted = heads_of(play)
        refused = any(isinstance(event, Reject) for event in play.wire.events)
        play.end()
        play.forget()
        # Of one whose body is refused, an app may have seen the head.
        places = iter(wanted)
        missing = [number for number, head in enumerate(heads) if head not in places]
        must(not missing or (refused and missing == [len(heads) - 1]), "requests nobody sent", heads, wanted)

    def compare(self, stage: Stage, control: bytes, raw: bytes) -> None:
        """Answers never depend on how the bytes were cut."""
        outcomes = []
        sockets = 0
        for lengths in (control[STEPS], WHOLE):
            self.trace("-- cut by", list(lengths))
            play = Play(stage, control, raw, self.trace)
            play.play_plain(lengths)
            outcomes.append(play.outcome())
            sockets += sum(isinstance(event, Socket) for event in play.wire.events)
            play.end()
            play.forget()
        if sockets and ends_early(control):
            return  # the end may have come before the handshake was answered: none was to be accepted then
        must(outcomes[0] == outcomes[1], "cut, and whole", *outcomes)


def heads_of(play: Play) -> list[Any]:
    """Of the requests that apps saw. Whether a WebSocket is accepted decides what follows it, so that is the
    last one; so is one in front of a refusal, where WebSockets are."""
    heads = []
    for event in play.wire.events:
        if isinstance(event, Call):
            heads.append(event.head())
        if isinstance(event, Socket) or (isinstance(event, Reject) and play.has_sockets):
            break
    return heads
