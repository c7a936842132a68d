"""Listeners of slots where nobody serves: a neighbour accepts from them meanwhile.

Rules of this file: who lends to whom is found in ``slots.py`` (``lendings``, ``returns``); here it is told.
"""

from __future__ import annotations

import logging

from .. import control
from ..net import listeners as net
from . import slots
from .crew import Crew
from .slots import Slot

log = logging.getLogger("shardserve.master")


def lend(slots_by_number: dict[int, Slot], listeners: net.Listeners, crew: Crew, now: float) -> None:
    """See that every queue has someone who accepts from it.

    Also while a worker starts again: its imports may take long, and the kernel goes on dealing
    connections to its slot. Not during the first start, when all come up together: call it after that.
    """
    for slot, carrier in slots.returns(slots_by_number):
        crew.send(carrier, control.Release(slot.number), now)
    for slot, carrier in slots.lendings(slots_by_number):
        entries = listeners.made_for(slot.number)
        if entries:  # a unix socket is everybody's anyway
            log.info("worker %d accepts for slot %d meanwhile", carrier.slot, slot.number)
            message = control.Adopt(slot.number, [entry.url for entry in entries])
            crew.send(carrier, message, now, [entry.sock for entry in entries])
