"""Freed memory, which glibc keeps for each thread that had it."""

import ctypes
from contextlib import suppress
from time import monotonic

LEAST_SECONDS = 1.0
_given_back = -LEAST_SECONDS


def give_back_memory() -> None:
    """To the system, what threads have freed; nothing where there is another C library.

    Only where the last time is a second ago, as what is given back has to be asked for again.
    """
    global _given_back
    now = monotonic()
    if now - _given_back >= LEAST_SECONDS:
        _given_back = now
        with suppress(AttributeError, OSError, TypeError):
            ctypes.CDLL(None).malloc_trim(0)
