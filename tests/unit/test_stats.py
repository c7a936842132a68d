"""The page of figures: two processes see the same numbers and the same dumps."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from shardserve.stats import DUMP_SIGNAL, DUMPS_AT, FIGURES, PAGE_BYTES, Page, Stage

ROOT = Path(__file__).parents[2]
CHILD = """
import os, sys
from shardserve.stats import Page
page = Page(int(sys.argv[1]))
"""


@pytest.fixture
def page():
    page = Page.create("test")
    yield page
    page.close()


def in_a_child(page: Page, program: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", CHILD + program, str(page.fd)],
        cwd=ROOT, pass_fds=[page.fd], capture_output=True, text=True, timeout=30, check=True,
    )  # fmt: skip
    return done.stdout


def test_a_new_page_is_all_zeroes(page):
    assert {name: page[name] for name in FIGURES} == dict.fromkeys(FIGURES, 0)
    assert page["stage"] == Stage.BORN
    assert (page.dump_bytes(), page.take_dump()) == (0, "")


def test_the_figures_fit_one_page_and_have_one_place_each(page):
    assert len(FIGURES) * 8 <= PAGE_BYTES <= DUMPS_AT
    for value, name in enumerate(FIGURES, 1):
        page[name] = value
    assert [page[name] for name in FIGURES] == list(range(1, len(FIGURES) + 1))


def test_a_figure_is_an_unsigned_64_bit_number(page):
    page["served"] = 2**64 - 1
    assert page["served"] == 2**64 - 1
    with pytest.raises(ValueError):
        page["served"] = -1
    with pytest.raises(KeyError):
        page["nothing"] = 1


def test_what_a_child_writes_is_seen_here_and_the_other_way_round(page):
    page["stage"] = Stage.LIFESPAN
    assert in_a_child(page, "page['served'] = 7; print(page['stage'])") == "2\n"
    assert page["served"] == 7


def test_dumps_of_a_child_come_here_and_make_room_for_the_next_one(page):
    write = "os.write(page.fd, {!r})"
    in_a_child(page, write.format(b"first, \xff"))
    in_a_child(page, write.format(b"second"))
    assert page.dump_bytes() == len(b"first, \xffsecond")
    assert page.take_dump() == "first, \ufffdsecond"
    assert (page.dump_bytes(), page.take_dump()) == (0, "")
    in_a_child(page, write.format(b"third"))
    assert page.take_dump() == "third"
    assert {page[name] for name in FIGURES} == {0}


def test_it_is_inherited_only_when_it_is_passed_on(page):
    assert not os.get_inheritable(page.fd)


def test_what_is_no_page_is_refused():
    reader, writer = os.pipe()
    try:
        with pytest.raises(OSError):
            Page(reader)
    finally:
        os.close(reader)
        os.close(writer)
    fd = os.memfd_create("empty")
    try:
        with pytest.raises(ValueError):
            Page(fd)
    finally:
        os.close(fd)


def test_closing_twice_does_not_close_somebody_elses_descriptor():
    page = Page.create("test")
    fd = page.fd
    page.close()
    other = os.open("/dev/null", os.O_RDONLY)
    try:
        assert other == fd
        page.close()
        os.fstat(other)
    finally:
        os.close(other)


def test_the_dump_signal_is_a_real_time_signal():
    assert signal.SIGRTMIN < DUMP_SIGNAL < signal.SIGRTMAX
