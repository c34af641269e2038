"""SIGINT and SIGTERM: wherever they come, the program ends with one sentence and status 130."""

import os
import signal
import sys
from types import FrameType

SENTENCE = "interrupted; the same command goes on where it stopped"
STATUS = 130
_SHOW_CURSOR = "\x1b[?25h"

_received: list[int] = []


class Interrupted(BaseException):
    """The user or the machine wants an end; no KeyboardInterrupt, which Typer ends the program on
    without a word."""


def listen() -> None:
    """From here on the signals have an end that is known."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)


def is_due() -> bool:
    """Whether a signal came, be it that some library has swallowed what it raised."""
    return bool(_received)


def forget() -> None:
    """The signal was meant as the end of what has no other end."""
    _received.clear()


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Raise in what is being done; while modules are loaded, where an exception would become
    another or be lost, leave at once, as after a kill."""
    _received.append(number)
    if not _is_loading(frame):
        raise Interrupted
    shown = _SHOW_CURSOR if sys.stderr.isatty() else ""
    try:
        os.write(2, f"{shown}morphomil: {SENTENCE}\n".encode())
    finally:
        os._exit(STATUS)


def _is_loading(frame: FrameType | None) -> bool:
    """Whether an import is on the stack."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False
