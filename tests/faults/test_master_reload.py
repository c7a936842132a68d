"""The real master with fake workers: HUP, TTIN and TTOU under load."""

from __future__ import annotations

import signal
import threading
from pathlib import Path

from tests.helpers.master_process import MasterProcess, until


class Load:
    """Clients that ask without a pause, each request on a new connection."""

    def __init__(self, master: MasterProcess, clients: int = 3) -> None:
        self._master = master
        self._port = master.port
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(clients)]
        self.failed: list[Exception] = []
        self.answered = 0

    def _ask(self) -> None:
        while not self._over.is_set():
            try:
                self._master.ask(port=self._port)
                self.answered += 1
            except Exception as error:
                self.failed.append(error)
            self._over.wait(0.005)  # the load is there for the overlap, not to compete for the cores

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()


def test_hup_replaces_every_worker_and_no_request_fails(tmp_path: Path) -> None:
    with MasterProcess(tmp_path, workers=2) as master:
        before = master.ready().pids()
        with Load(master) as load:
            master.send(signal.SIGHUP)
            master.saw(r"\breloaded")
            until(lambda: not before & master.pids(), "the old ones are gone")
        assert load.failed == []
        assert load.answered > 0
        assert len(master.pids()) == 2
        assert {answer["generation"] for answer in master.ask_each(2).values()} == {1}


def test_a_second_hup_starts_over_after_the_present_slot(tmp_path: Path) -> None:
    with MasterProcess(tmp_path, workers=2) as master:
        master.ready()
        master.configure(app="fake:slow-start")
        master.send(signal.SIGHUP)
        master.saw("reloading 2 workers")
        master.send(signal.SIGHUP)
        master.saw("reloading 2 workers", 2)
        master.saw(r"\breloaded")
        assert {answer["generation"] for answer in master.ask_each(2).values()} == {2}


def test_a_reload_that_fails_keeps_the_old_workers(tmp_path: Path) -> None:
    with MasterProcess(tmp_path, workers=2) as master:
        before = master.ready().pids()
        master.configure(app="fake:fail-import")
        with Load(master) as load:
            master.send(signal.SIGHUP)
            master.saw("not reloaded: worker 0, 1")
        assert load.failed == []
        assert "No module named 'nowhere'" in master.log()
        until(lambda: master.pids() == before, "the one that failed is gone")
        master.configure(app="fake:ok")
        master.send(signal.SIGHUP)
        master.saw(r"\breloaded")


def test_a_bad_configuration_changes_nothing(tmp_path: Path) -> None:
    with MasterProcess(tmp_path, workers=1) as master:
        before = master.ready().pids()
        master.configure(backlog="many")
        master.send(signal.SIGHUP)
        master.saw("the old configuration stays")
        assert master.pids() == before


def test_a_setting_that_needs_a_restart_is_named(tmp_path: Path) -> None:
    with MasterProcess(tmp_path, workers=1) as master:
        master.ready()
        master.configure(workers=2)
        master.send(signal.SIGHUP)
        master.saw("needs a restart: workers")
        master.saw(r"\breloaded")
        until(lambda: len(master.pids()) == 1)


def test_ttin_and_ttou_change_the_number_and_no_request_fails(tmp_path: Path) -> None:
    with MasterProcess(tmp_path, workers=1) as master:
        first = master.ready().pids()
        with Load(master) as load:
            master.send(signal.SIGTTIN)
            assert set(master.ask_each(2)) == {0, 1}
            master.send(signal.SIGTTOU)
            master.saw("worker 0 accepts for slot 1 meanwhile", 2)
            until(lambda: master.pids() == first, "worker 1 goes")
        assert load.failed == []
        # Its socket is still one of the kernel's choices, and worker 0 has it now.
        for _ in range(20):
            answer = master.ask()
            assert (answer["slot"], answer["adopted"]) == (0, [1])
        master.send(signal.SIGTTIN)
        assert set(master.ask_each(2)) == {0, 1}
        until(lambda: all(a["adopted"] == [] for a in master.ask_each(2).values()), "it is given back")


def test_there_is_always_one_worker(tmp_path: Path) -> None:
    with MasterProcess(tmp_path, workers=1) as master:
        before = master.ready().pids()
        master.send(signal.SIGTTOU)
        master.send(signal.SIGWINCH)
        master.saw("ignored SIGWINCH")
        assert master.pids() == before
        assert master.ask()["slot"] == 0
