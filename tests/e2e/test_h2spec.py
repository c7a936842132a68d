"""h2spec against a real server, where it is installed: over cleartext and over TLS.

Rules of this file: h2spec follows RFC 7540. What it takes for a failure and RFC 9113 does not, or what
nghttp2 lets pass, is in ``REASONS``, each with why; anything else fails. It is a Go program: ``h2spec`` on
the PATH, or where ``SHARDSERVE_H2SPEC`` says.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.helpers.certificates import Authority
from tests.helpers.nghttp2 import needs_nghttp2
from tests.helpers.server import Serve

H2SPEC = os.environ.get("SHARDSERVE_H2SPEC") or shutil.which("h2spec")

pytestmark = [
    pytest.mark.skipif(H2SPEC is None, reason="h2spec is not installed"),
    needs_nghttp2,
]

CLOSED = "RFC 9113 §5.1: an endpoint may drop what comes for any stream that is closed"
REASONS = {
    "Sends invalid connection preface": "without TLS, what is no preface is HTTP/1.1",
    "closed: Sends a DATA frame after sending RST_STREAM frame": CLOSED,
    "closed: Sends a HEADERS frame after sending RST_STREAM frame": CLOSED,
    "closed: Sends a DATA frame": CLOSED,
    "closed: Sends a HEADERS frame": CLOSED,
    "Sends stream identifier that is numerically smaller than previous": "such a stream counts as closed",
    "Sends PRIORITY frame that depend on itself": "RFC 9113 §5.3.1: these priorities are gone",
    "Sends a PRIORITY frame with 0x0 stream identifier": "nghttp2 reads no PRIORITY (RFC 9218 §2.1)",
    'Sends a DATA frame on the stream that is not in "open" or "half-closed (local)" state': CLOSED,
    "half closed (remote): Sends a DATA frame": CLOSED,
    "half closed (remote): Sends a HEADERS frame": CLOSED,
}
# Cases of which at least so many have to have run, or nothing has been shown.
CASES = 146


def verdicts(folder: Path, *flags: str) -> dict[str, bool]:
    """By case: whether it passed."""
    assert H2SPEC is not None
    report = folder / "report.xml"
    program = [H2SPEC, "--path", "/echo", "--timeout", "1", "--junit-report", str(report), *flags]
    subprocess.run(program, stdout=subprocess.DEVNULL, timeout=240, check=False)
    cases = ElementTree.parse(report).getroot().iter("testcase")
    return {
        f"{case.get('package')} {case.get('classname')}": case.find("error") is None
        and case.find("failure") is None
        for case in cases
    }


@pytest.mark.parametrize("wire", ["cleartext", "TLS"])
def test_no_case_fails_without_a_reason(serve: Serve, tmp_path: Path, wire: str) -> None:
    tls = Authority(tmp_path).issue("localhost").flags if wire == "TLS" else []
    how = ["--http2", *tls] if tls else ["--http2-cleartext"]
    server = serve("h2_app:app", "--workers", "1", *how)
    port = server.urls[0].rpartition(":")[2]
    found = verdicts(tmp_path, "--port", port, *(["--tls", "--insecure"] if tls else []))
    assert len(found) == CASES
    failed = [case for case, passed in found.items() if not passed and case.split(" ", 1)[1] not in REASONS]
    assert failed == []
