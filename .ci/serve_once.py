"""The installed command, as a user has it: one request over HTTP/1.1 and one over HTTP/2, if it was built so.

Usage: serve_once.py with|without|whatever, which says whether HTTP/2 must have been built. Nothing but the
standard library and shardserve is there, so the HTTP/2 is written by hand.
"""

import json
import re
import socket
import subprocess
import sys
import sysconfig
import urllib.request

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS = b"\0\0\0\x04\0\0\0\0\0"
# GET / over http from :authority "a" (RFC 7541 Appendix A: indexes 2, 4, 6, 1), END_HEADERS and END_STREAM.
FIELDS = b"\x82\x84\x86\x41\x01a"
HEADERS = len(FIELDS).to_bytes(3, "big") + b"\x01\x05" + (1).to_bytes(4, "big") + FIELDS


def serving(command, *more):
    """The process once it is ready, and its port; None and what it said if it ended."""
    server = subprocess.Popen(
        [*command, "--port", "0", "--workers", "1", "--no-use-colors", "--control-socket", "off", *more],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    said = ""
    for line in server.stdout:
        said += line
        if "ready:" in line:
            return server, int(re.search(r"http://127\.0\.0\.1:(\d+)", said)[1])
    assert server.wait(20) != 0, said
    return None, said


def stop(server):
    server.terminate()
    assert server.wait(20) == 0, server.returncode


def over_http1(port, pid):
    body = json.load(urllib.request.urlopen(f"http://127.0.0.1:{port}/whoami", timeout=10))
    assert body["pid"] != pid, body


def over_http2(port):
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client, client.makefile("rb") as file:
        client.sendall(PREFACE + SETTINGS + HEADERS)
        while True:
            head = file.read(9)
            assert len(head) == 9, "the connection ended before the response"
            payload = file.read(int.from_bytes(head[:3], "big"))
            if head[3] == 1:  # HEADERS
                assert payload[:1] == b"\x88", payload  # index 8 is :status 200
                return


def main(built):
    command = [f"{sysconfig.get_path('scripts')}/shardserve", "shardserve.demo:app"]
    server, port = serving(command)
    assert server is not None, port
    try:
        over_http1(port, server.pid)
    finally:
        stop(server)
    server, port = serving(command, "--http2-cleartext")
    if server is None:
        assert built != "with", port
        assert "libnghttp2-dev" in port, port
        return "HTTP/2 was not built, and --http2-cleartext says so"
    try:
        assert built != "without", "HTTP/2 was built"
        over_http1(port, server.pid)
        over_http2(port)
    finally:
        stop(server)
    return "HTTP/1.1 and HTTP/2"


print("installed command: served and stopped;", main(*sys.argv[1:]))
