"""Plays inputs for HTTP/2: once; or twice, to see that answers do not depend on how the bytes were cut."""

from __future__ import annotations

from fuzz_h2_client import Client
from fuzz_h2_input import Http2Play
from fuzz_h2_script import CONTROL_BYTES, PREAMBLE, PROFILES
from fuzz_responses import must
from fuzz_script import STEPS, WHOLE, is_comparison, owns_stage
from fuzz_theatre import Theatre


class Http2Theatre(Theatre):
    """Plays inputs. ``trace(*words)`` hears of everything."""

    profiles = PROFILES

    def __call__(self, data: bytes) -> None:
        control = data[:CONTROL_BYTES].ljust(CONTROL_BYTES, b"\0")
        client = Client(data[CONTROL_BYTES:], control[PREAMBLE])
        if is_comparison(control):
            self.compare_cuts(control, client)
        else:
            stage = self.stage(control)
            play = Http2Play(stage, control, client, self.trace)
            play.play()
            play.check()
            play.end()
            play.forget()
            if owns_stage(control):
                stage.close()
        must(not self.unraisable, "unraisable", self.unraisable)

    def compare_cuts(self, control: bytes, client: Client) -> None:
        outcomes = []
        for lengths in (control[STEPS], WHOLE):
            self.trace("-- cut by", list(lengths))
            play = Http2Play(self.stage(control), control, client, self.trace)
            play.play_plain(lengths)
            play.check()
            outcomes.append(play.outcome())
            play.end()
            play.forget()
        must(None in outcomes or outcomes[0] == outcomes[1], "cut, and whole", *outcomes)
