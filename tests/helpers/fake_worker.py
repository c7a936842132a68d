"""A worker without the native code: speaks control.py, answers every request with who it is.

Started by the master as ``python fake_worker.py CONTROL_FD``. What it does is scripted by the config's
``app``: behaviours after the colon, joined by commas, each for one slot only if ``@SLOT`` follows.

    fake:ok                      nothing special
    fake:fail-import             FAILED at stage import, exit 3
    fake:die-at-start            exit 7 without a word
    fake:slow-start              READY after half a second
    fake:hang-start              never READY
    fake:crash-after-ready@1     slot 1 says READY and exits with 9
    fake:ignore-drain            goes on after DRAIN; STOP is obeyed

GET /stall answers, and accepts nothing from then on. GET /slow takes a second.
"""

from __future__ import annotations

import json
import os
import selectors
import socket
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from shardserve import control

SLOW_S = 1.0
INHERITED = sorted(int(fd) for fd in os.listdir("/proc/self/fd") if Path(f"/proc/self/fd/{fd}").exists())


class FakeWorker:
    def __init__(self, channel: socket.socket) -> None:
        self.channel = channel
        start = control.decode(channel.recv(control.MAX_DATAGRAM_BYTES))
        assert isinstance(start, control.Start)
        self.start = start
        self.behaviours = set()
        for word in start.config["app"].partition(":")[2].split(","):
            behaviour, _, slot = word.partition("@")
            if slot in ("", str(start.slot)):
                self.behaviours.add(behaviour)
        self.about = {
            "pid": os.getpid(),
            "slot": start.slot,
            "generation": start.generation,
            "cores": sorted(os.sched_getaffinity(0)),
            "session": os.getsid(0),
            "unexpected_fds": sorted(
                set(INHERITED)
                - {0, 1, 2, channel.fileno(), start.page_fd}
                - {entry.fd for entry in start.listeners}
            ),
        }
        self.selector = selectors.DefaultSelector()
        self.listeners: dict[int, list[socket.socket]] = {}
        self.threads: list[threading.Thread] = []
        self.stalled = False
        self.served = 0

    def run(self) -> None:
        self.begin()
        self.channel.setblocking(False)
        self.selector.register(self.channel, selectors.EVENT_READ)
        for entry in self.start.listeners:
            self.listen(self.start.slot, socket.socket(fileno=entry.fd))
        self.send(control.Ready(os.getpid(), 1))
        if "crash-after-ready" in self.behaviours:
            os._exit(9)
        while True:
            for key, _ in self.selector.select():
                while self.stalled:
                    time.sleep(1)
                if key.fileobj is self.channel:
                    self.hear()
                elif key.fileobj.fileno() != -1:  # a RELEASE in the same round may have closed it
                    self.accept(key.fileobj)

    def begin(self) -> None:
        if "fail-import" in self.behaviours:
            self.send(control.Failed("import", "No module named 'nowhere'"))
            sys.exit(3)
        if "die-at-start" in self.behaviours:
            sys.exit(7)
        if "slow-start" in self.behaviours:
            time.sleep(0.5)
        while "hang-start" in self.behaviours:
            time.sleep(1)

    def send(self, message: control.Message) -> None:
        self.channel.send(control.encode(message))

    def listen(self, slot: int, sock: socket.socket) -> None:
        sock.setblocking(False)
        if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            sock.listen(100)
        self.selector.register(sock, selectors.EVENT_READ)
        self.listeners.setdefault(slot, []).append(sock)

    def hear(self) -> None:
        try:
            data, fds, _, _ = socket.recv_fds(self.channel, control.MAX_DATAGRAM_BYTES, 16)
        except ConnectionError:
            os._exit(0)
        if not data:
            os._exit(0)  # the master is gone
        match control.decode(data):
            case control.Stop():
                os._exit(0)
            case control.Drain(deadline_s=deadline_s):
                if "ignore-drain" not in self.behaviours:
                    self.drain(deadline_s)
            case control.Adopt(slot, urls):
                assert len(urls) == len(fds)
                for fd in fds:
                    self.listen(slot, socket.socket(fileno=fd))
            case control.Release(slot):
                for sock in self.listeners.pop(slot, []):
                    self.selector.unregister(sock)
                    sock.close()

    def drain(self, deadline_s: float) -> None:
        for sock in [sock for made in self.listeners.values() for sock in made]:
            while self.accept(sock):
                pass
            sock.close()
        deadline = time.monotonic() + deadline_s
        for thread in self.threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        self.send(control.Drained(self.served, sum(thread.is_alive() for thread in self.threads)))
        os._exit(0)

    def accept(self, sock: socket.socket) -> bool:
        try:
            connection, _ = sock.accept()
        except BlockingIOError:
            return False
        thread = threading.Thread(target=self.answer, args=(connection,), daemon=True)
        self.threads = [*(t for t in self.threads if t.is_alive()), thread]
        thread.start()
        return True

    def answer(self, connection: socket.socket) -> None:
        with connection:
            connection.settimeout(30)
            request = b""
            while b"\r\n\r\n" not in request:
                chunk = connection.recv(4096)
                if not chunk:
                    return
                request += chunk
            if request.startswith(b"GET /stall "):
                self.stalled = True
            if request.startswith(b"GET /slow "):
                time.sleep(SLOW_S)
            body = json.dumps(
                {**self.about, "adopted": sorted(set(self.listeners) - {self.start.slot})}
            ).encode()
            head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode()
            self.served += 1
            connection.sendall(head + body)


if __name__ == "__main__":
    FakeWorker(socket.socket(fileno=int(sys.argv[1]))).run()
